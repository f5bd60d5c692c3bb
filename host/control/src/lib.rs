//! The use cases of Quarterdeck: what may be done, by whom, in which order, and the loops that do it.
//!
//! No SQL (that is `store`) and no HTTP (that is `api`). Use cases are free functions that take a
//! [`Control`]; what hosts keep in memory hangs below it. The database is the truth: every loop looks
//! at rows, [`Signals`] only wake it, and each pass may be cut off anywhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use quarterdeck_model::Clock;
use quarterdeck_store::Store;

// One line a module. Owners: uncomment yours when the file exists.
mod error;
pub mod metrics;
mod principal;
pub mod signals;

// ENGINE
// pub mod agents;
// pub mod enqueue;
// pub mod leadership;
// pub mod liveness;
// pub mod loops;
// pub mod retention;
// pub mod sessions;
// pub mod start;
// pub mod terminate;

// SCHED
// pub mod idle;
// pub mod schedule;

// IDENTITY
// pub mod auth;
// pub mod config;
// pub mod domains;
// pub mod identity;
// pub mod images;
// pub mod keypairs;
// pub mod manager;
// pub mod password;
// pub mod presets;
// pub mod projects;
// pub mod resource_policies;
// pub mod scaling_groups;
// pub mod scope;
// pub mod seed;
// pub mod users;

// PLUGADMIN / lead
// pub mod hooks;
// pub mod plugins;
// pub mod policies;

pub use error::{AgentOperation, Error, Result, SessionMatch};
pub use metrics::Metrics;
pub use principal::Principal;
pub use signals::Signals;

/// How this host behaves. Everything has a default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this host in locks and logs.
    pub node_id: String,
    /// The region given to agents that name none.
    pub region: String,
    /// Where clients reach this host, as told to agents and other hosts.
    pub service_addr: Option<String>,
    /// An agent that is silent for so long is `LOST`.
    pub heartbeat_timeout_ms: i64,
    /// How often agents are told to send heartbeats.
    pub heartbeat_interval_ms: u32,
    /// The safety net of the schedule loop: a round at least this often.
    pub schedule_interval: Duration,
    /// The safety net of the other loops.
    pub tick_interval: Duration,
    /// How often running sessions are judged for idleness.
    pub idle_interval: Duration,
    /// Hide agents from users who aren't administrators.
    pub hide_agents: bool,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Keep scheduling rounds for replay.
    pub record_rounds: bool,
    /// How many rounds are kept for each scaling group.
    pub round_ring: usize,
    /// Calls to agents that may be under way at once, to start or to end kernels.
    pub agent_calls: usize,
    /// How often a start is tried on an agent that is alive but doesn't take it.
    pub start_attempts: i64,
    /// How long a session whose start is under way waits for an agent that was lost.
    pub lost_start_grace: Duration,
    /// How long the call that ends a session waits for its end.
    pub destroy_wait: Duration,
    /// Events kept in the log.
    pub event_ring: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_id: uuid::Uuid::new_v4().simple().to_string(),
            region: "local".to_owned(),
            service_addr: None,
            heartbeat_timeout_ms: 40_000,
            heartbeat_interval_ms: 3_000,
            schedule_interval: Duration::from_secs(2),
            tick_interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(15),
            hide_agents: false,
            trusted_proxies: vec![IpNet::from(IpAddr::from([127, 0, 0, 1])), IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST))],
            record_rounds: true,
            round_ring: 200,
            agent_calls: 128,
            start_attempts: 5,
            lost_start_grace: Duration::from_secs(60),
            destroy_wait: Duration::from_secs(60),
            event_ring: 100_000,
        }
    }
}

/// The host's mind: hands out the store, the caches and the signals. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    clock: Clock,
    settings: Settings,
    signals: Signals,
    metrics: Metrics,
}

impl Control {
    /// Builds the mind of a host on an open, migrated database.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read.
    pub async fn new(store: Store, settings: Settings) -> Result<Self> {
        Self::with_clock(store, settings, Clock::System).await
    }

    /// As [`Control::new`], with a clock that a test moves.
    ///
    /// # Errors
    /// As [`Control::new`].
    pub async fn with_clock(store: Store, settings: Settings, clock: Clock) -> Result<Self> {
        let inner = Inner { store, clock, settings, signals: Signals::default(), metrics: Metrics::default() };
        Ok(Self { inner: Arc::new(inner) })
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
}
