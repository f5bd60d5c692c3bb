//! The use cases of Quarterdeck: what may be done, by whom, in which order, and the loops that do it.
//!
//! No SQL (that is `store`) and no HTTP (that is `api`). Use cases are free functions that take a
//! [`Control`]; what hosts keep in memory hangs below it. The database is the truth: every loop looks
//! at rows, [`Signals`] only wake it, and each pass may be cut off anywhere.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use quarterdeck_model::Clock;
use quarterdeck_store::Store;
use quarterdeck_store::work::Change;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod agents;
pub mod audit;
pub mod background_tasks;
mod callbacks;
mod calls;
mod clusters;
pub mod config;
pub mod connections;
pub mod drops;
pub mod dry_run;
pub mod enqueue;
mod error;
pub mod explain;
mod gather;
mod guesses;
pub mod health;
mod hex;
pub mod hooks;
pub mod identity;
pub mod idle;
mod known;
pub mod leadership;
pub mod listeners;
pub mod liveness;
mod loops;
pub mod maintenance;
pub mod metrics;
mod news;
mod orders;
mod outgoing;
pub mod password;
pub mod plugins;
pub mod policies;
mod principal;
mod quiet;
pub mod registries;
pub mod retention;
pub mod rounds;
pub mod schedule;
pub mod scope;
pub mod secrets;
pub mod session_events;
pub mod sessions;
pub mod shadow;
pub mod signals;
pub mod signatures;
mod start;
pub mod terminate;
pub mod usage;
pub mod usage_records;
pub mod usage_reports;
pub mod validate;
pub mod watcher;

pub mod auth;
pub mod check;
pub mod domains;
pub mod dotfiles;
pub mod error_logs;
pub mod images;
pub mod import;
pub mod keypairs;
pub mod manager;
pub mod presets;
pub mod projects;
pub mod resource_policies;
pub mod scaling_groups;
pub mod seed;
pub mod services;
pub mod setup;
pub mod templates;
pub mod users;
pub mod vfolders;

#[cfg(test)]
mod simulation;

pub use error::{AgentOperation, Error, Result, SessionMatch};
pub use metrics::Metrics;
pub use principal::Principal;
// For those who show rows: `api` reads lists through here and writes through the use cases only.
pub use quarterdeck_store as store;
// Likewise for those who serve files.
pub use quarterdeck_storage as storage;
pub use signals::Signals;

/// How this host behaves. Everything has a default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this host in locks and logs.
    pub node_id: String,
    /// The site's time zone, as hooks learn it.
    pub utc_offset_s: i32,
    /// The region given to agents that name none.
    pub region: String,
    /// Where clients reach this host, as told to agents and other hosts.
    pub service_addr: Option<String>,
    /// An agent that is silent for so long is `LOST`.
    pub heartbeat_timeout_ms: i64,
    /// How often the kernels that an agent has are compared with the rows, when nothing looks wrong.
    pub reconcile_interval: Duration,
    /// How long a kernel may be missing on its agent before it counts as gone: its last report may be on its way.
    pub missing_patience: Duration,
    /// How often agents are told to send heartbeats, as long as they aren't many.
    pub heartbeat_interval_ms: u32,
    /// The safety net of the schedule loop: a round at least this often.
    pub schedule_interval: Duration,
    /// The safety net of the other loops.
    pub tick_interval: Duration,
    /// How often running sessions are judged for idleness.
    pub idle_interval: Duration,
    /// How often the other hosts are shown how the agents of this one do.
    pub share_interval: Duration,
    /// Hide agents from users who aren't administrators.
    pub hide_agents: bool,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Keep recordings of scheduling rounds for replay; without, only their summaries.
    pub record_rounds: bool,
    /// How many rounds are kept for each scaling group, unless `config/rounds/keep` says otherwise.
    pub round_ring: usize,
    /// Calls to agents that may be under way at once, to start or to end kernels.
    pub agent_calls: usize,
    /// How often a start is tried on an agent that is alive but doesn't take it.
    pub start_attempts: i64,
    /// How long a session whose start is under way waits for an agent that was lost.
    pub lost_start_grace: Duration,
    /// How long an agent that can't be reached gets nothing new to start.
    pub unreachable_cooldown: Duration,
    /// How long the call that ends a session waits for its end.
    pub destroy_wait: Duration,
    /// Events kept in the log.
    pub event_ring: i64,
    /// The directory whose components come in by themselves.
    pub plugin_dir: Option<PathBuf>,
    /// The image of sessions that import images.
    pub importer_image: String,
    /// What the server's own file says about signatures of components.
    pub signatures: signatures::SignatureSettings,
    /// The server's own storage for folders.
    pub storage: Option<vfolders::StorageSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_id: uuid::Uuid::new_v4().simple().to_string(),
            utc_offset_s: 0,
            region: "local".to_owned(),
            service_addr: None,
            heartbeat_timeout_ms: 40_000,
            reconcile_interval: Duration::from_secs(10),
            missing_patience: Duration::from_secs(6),
            heartbeat_interval_ms: 3_000,
            schedule_interval: Duration::from_secs(2),
            tick_interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(15),
            share_interval: Duration::from_secs(5),
            hide_agents: false,
            trusted_proxies: vec![
                IpNet::from(IpAddr::from([127, 0, 0, 1])),
                IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
            ],
            record_rounds: true,
            round_ring: 200,
            agent_calls: 128,
            start_attempts: 5,
            lost_start_grace: Duration::from_secs(60),
            unreachable_cooldown: Duration::from_secs(30),
            destroy_wait: Duration::from_secs(60),
            event_ring: 100_000,
            plugin_dir: None,
            importer_image: "lablup/importer:manylinux2010".to_owned(),
            signatures: signatures::SignatureSettings::default(),
            storage: None,
        }
    }
}

/// Questions to schedulers that may wait for their turn.
const QUESTIONS: usize = 16;

/// The host's mind: hands out the store, the caches and the signals. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    store: Store,
    clock: Clock,
    settings: Settings,
    signals: Signals,
    metrics: Arc<Metrics>,
    runtime: quarterdeck_plugin::Runtime,
    policies: policies::Policies,
    identity: identity::IdentityCache,
    guesses: guesses::Guesses,
    sought: sessions::Sought,
    asked_about: sessions::AskedAbout,
    listed_presets: presets::Listed,
    config: Arc<config::ConfigCache>,
    live: agents::Live,
    others: news::Others,
    rpc: quarterdeck_rpc::AgentClient,
    calls: calls::Calls,
    orders: orders::Orders,
    listeners: listeners::Listeners,
    key_stock: clusters::KeyStock,
    intake: agents::intake::Intake,
    arrivals: enqueue::Arrivals,
    leadership: leadership::Leadership,
    schedule: schedule::State,
    recorder: schedule::Recorder,
    replays: rounds::Replays,
    idle: idle::State,
    questions: quiet::Quiet,
    shadows: shadow::Shadows,
    storages: vfolders::storages::Storages,
    dot_folders: vfolders::DotFolders,
    tasks: background_tasks::Tasks,
    usage: usage_records::State,
    proxies: scaling_groups::Proxies,
    connections: connections::Connections,
    closing: CancellationToken,
    probes: services::Probes,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("node", &self.inner.settings.node_id).finish_non_exhaustive()
    }
}

impl Control {
    /// Builds the mind of a host on an open, migrated database: registers the built-in plugins, fills the caches, and
    /// starts the tasks that write what agents and clients hand in. [`Control::spawn_loops`] starts the loops.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read; [`Error::Internal`] when a built-in plugin doesn't load.
    pub async fn new(store: Store, plugins: quarterdeck_plugin::Runtime, settings: Settings) -> Result<Self> {
        Self::with_clock(store, plugins, settings, Clock::System).await
    }

    /// The mind of a command at the server's console: does use cases on a database, with or without a server that runs
    /// on it. It runs no policy: built-in plugins are left to servers.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read.
    pub async fn console(store: Store, plugins: quarterdeck_plugin::Runtime) -> Result<Self> {
        let settings = Settings { node_id: "console".to_owned(), ..Settings::default() };
        Self::build(store, plugins, settings, Clock::System, false).await
    }

    /// As [`Control::new`], with a clock that a test moves.
    ///
    /// # Errors
    /// As [`Control::new`].
    pub async fn with_clock(
        store: Store,
        plugins: quarterdeck_plugin::Runtime,
        settings: Settings,
        clock: Clock,
    ) -> Result<Self> {
        Self::build(store, plugins, settings, clock, true).await
    }

    async fn build(
        store: Store,
        plugins: quarterdeck_plugin::Runtime,
        settings: Settings,
        clock: Clock,
        builtins: bool,
    ) -> Result<Self> {
        let metrics = Arc::new(Metrics::default());
        metrics.show_counters_of(plugins.clone());
        let config = Arc::new(config::ConfigCache::open(store.clone()).await?);
        let policies = policies::Policies::open(
            store.clone(),
            plugins.clone(),
            Arc::clone(&config),
            Arc::clone(&metrics),
            settings.node_id.clone(),
            builtins,
        )
        .await?;
        let (intake, reports) = agents::intake::Intake::new();
        let (arrivals, sessions) = enqueue::Arrivals::new();
        let (recorder, recordings) = schedule::Recorder::new();
        let inner = Arc::new(Inner {
            identity: identity::IdentityCache::new(store.clone()),
            guesses: guesses::Guesses::default(),
            sought: sessions::Sought::default(),
            asked_about: sessions::AskedAbout::default(),
            listed_presets: presets::Listed::default(),
            calls: calls::Calls::new(settings.agent_calls),
            orders: orders::Orders::default(),
            listeners: listeners::Listeners::default(),
            key_stock: clusters::KeyStock::default(),
            leadership: leadership::Leadership::new(&store),
            rpc: quarterdeck_rpc::AgentClient::new(),
            live: agents::Live::default(),
            others: news::Others::default(),
            signals: Signals::default(),
            schedule: schedule::State::default(),
            recorder,
            replays: rounds::Replays::default(),
            idle: idle::State::default(),
            questions: quiet::Quiet::new("questions", QUESTIONS),
            shadows: shadow::Shadows::default(),
            storages: vfolders::storages::Storages::new(settings.storage.clone(), Arc::clone(&config)),
            dot_folders: vfolders::DotFolders::default(),
            tasks: background_tasks::Tasks::default(),
            usage: usage_records::State::default(),
            proxies: scaling_groups::Proxies::default(),
            connections: connections::Connections::default(),
            closing: CancellationToken::new(),
            probes: services::Probes::default(),
            runtime: plugins,
            store,
            clock,
            settings,
            metrics,
            policies,
            config,
            intake,
            arrivals,
        });
        tokio::spawn(agents::intake::run(Arc::downgrade(&inner), reports));
        tokio::spawn(enqueue::run(Arc::downgrade(&inner), sessions));
        tokio::spawn(schedule::recorder::run(Arc::downgrade(&inner), recordings));
        Ok(Self { inner })
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where "now" comes from.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// How this host behaves.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// What wakes the loops.
    pub fn signals(&self) -> &Signals {
        &self.inner.signals
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What runs plugins.
    pub fn runtime(&self) -> &quarterdeck_plugin::Runtime {
        &self.inner.runtime
    }

    /// Which plugin serves whom.
    pub fn policies(&self) -> &policies::Policies {
        &self.inner.policies
    }

    /// Credentials in memory.
    pub fn identity(&self) -> &identity::IdentityCache {
        &self.inner.identity
    }

    /// Wrong passwords of the last minutes.
    pub(crate) fn guesses(&self) -> &guesses::Guesses {
        &self.inner.guesses
    }

    /// The site's configuration in memory.
    pub fn config_tree(&self) -> &config::ConfigCache {
        &self.inner.config
    }

    /// What this host heard of its own agents; [`agents::statistics`] knows those of other hosts, too.
    pub fn live(&self) -> &agents::Live {
        &self.inner.live
    }

    /// What this host remembers of its scheduling passes.
    pub fn schedule_state(&self) -> &schedule::State {
        &self.inner.schedule
    }

    /// What writes the recordings of rounds.
    pub fn recorder(&self) -> &schedule::Recorder {
        &self.inner.recorder
    }

    pub(crate) fn replays(&self) -> &rounds::Replays {
        &self.inner.replays
    }

    /// What this host remembers of its idle checks.
    pub fn idle_state(&self) -> &idle::State {
        &self.inner.idle
    }

    /// Which loops this host leads.
    pub fn leadership(&self) -> &leadership::Leadership {
        &self.inner.leadership
    }

    /// Where schedulers are asked about single sessions.
    pub(crate) fn questions(&self) -> &quiet::Quiet {
        &self.inner.questions
    }

    /// Where policies watch that don't decide.
    pub(crate) fn shadows(&self) -> &shadow::Shadows {
        &self.inner.shadows
    }

    /// The other hosts of this database.
    pub(crate) fn others(&self) -> &news::Others {
        &self.inner.others
    }

    /// Who has folders that sessions get by themselves.
    pub(crate) fn dot_folders(&self) -> &vfolders::DotFolders {
        &self.inner.dot_folders
    }

    /// Where folders' files are.
    pub(crate) fn storages(&self) -> &vfolders::storages::Storages {
        &self.inner.storages
    }

    /// The server's own storage for folders, if it has one.
    pub fn embedded_storage(&self) -> Option<&quarterdeck_storage::Embedded> {
        self.storages().embedded()
    }

    /// What goes on after its request was answered.
    pub(crate) fn tasks(&self) -> &background_tasks::Tasks {
        &self.inner.tasks
    }

    pub(crate) fn usage_state(&self) -> &usage_records::State {
        &self.inner.usage
    }

    pub(crate) fn proxies(&self) -> &scaling_groups::Proxies {
        &self.inner.proxies
    }

    /// Who listens to events.
    pub fn listeners(&self) -> &listeners::Listeners {
        &self.inner.listeners
    }

    /// Cancelled when this host stops: what would go on for ever ends then.
    pub fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// What is known of the health of model services.
    pub(crate) fn probes(&self) -> &services::Probes {
        &self.inner.probes
    }

    pub(crate) fn rpc(&self) -> &quarterdeck_rpc::AgentClient {
        &self.inner.rpc
    }

    pub(crate) fn key_stock(&self) -> &clusters::KeyStock {
        &self.inner.key_stock
    }

    pub(crate) fn calls(&self) -> &calls::Calls {
        &self.inner.calls
    }

    pub(crate) fn orders(&self) -> &orders::Orders {
        &self.inner.orders
    }

    pub(crate) fn connections(&self) -> &connections::Connections {
        &self.inner.connections
    }

    pub(crate) fn intake(&self) -> &agents::intake::Intake {
        &self.inner.intake
    }

    pub(crate) fn arrivals(&self) -> &enqueue::Arrivals {
        &self.inner.arrivals
    }

    /// Starts the loops; they end after `shutdown`, when what they have under way is done.
    pub fn spawn_loops(&self, shutdown: CancellationToken) -> TaskTracker {
        loops::spawn(self, shutdown)
    }

    /// Tells whom it may concern that sessions changed their status. After the commit.
    pub(crate) fn announce(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let signals = self.signals();
        signals.changed(changes.iter().map(|change| change.session));
        signals.events.notify_one();
        signals.services.notify_one();
        // What stopped occupying makes room; so does what others waited for.
        if changes.iter().any(|c| c.from.occupies_user() && !c.to.occupies_user() || c.to.is_dead()) {
            signals.schedule.notify_one();
        }
    }
}

/// Runs a transaction again while the database says that this may help.
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(mut work: impl FnMut() -> F) -> Result<T> {
    let mut wait = Duration::from_millis(5);
    for _ in 0..6 {
        match work().await {
            Err(Error::Store(error)) if error.is_transient() => {
                tracing::debug!(%error, "a transaction is tried again");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            result => return result,
        }
    }
    work().await
}
