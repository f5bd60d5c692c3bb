//! The loop that has agents create the kernels of placed sessions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::dotfile::Dotfile;
use quarterdeck_model::slots::{SlotKind, SlotTypes};
use quarterdeck_model::vfolder::{FolderMount, FolderPermission};
use quarterdeck_model::{
    AccessKey, AgentId, AgentStatus, KernelStatus, SessionId, SessionStatus, SessionType, Timestamp,
};
use quarterdeck_rpc::{CallError, pb};
use quarterdeck_store::agents::{self as agent_rows, AgentRow};
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use quarterdeck_store::work::Work;
use quarterdeck_store::{dotfiles, kernels, sessions};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::metrics::ByOutcome;
use crate::registries::{self, Login};
use crate::{AgentOperation, Control, agents, clusters};

/// Sessions looked at in one pass.
const PASS: i64 = 1000;
/// After agents accepted to create kernels, when they are asked again (which does no harm: they leave alone what exists).
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The loop's memory.
#[derive(Debug)]
pub(crate) struct Starter {
    control: Control,
    under_way: Arc<Mutex<HashSet<SessionId>>>,
    memory: Arc<Memory>,
}

/// What the loop remembers of single sessions, and since when.
#[derive(Debug, Default)]
struct Memory {
    /// The start hook let them pass.
    admitted: Mutex<HashMap<SessionId, Timestamp>>,
    /// Some agent may know them.
    told: Mutex<HashMap<SessionId, Timestamp>>,
    /// An agent of theirs can't be reached.
    cut_off: Mutex<HashMap<SessionId, Timestamp>>,
}

/// The runtime of agents that fetch images from registries.
const FETCHES: &str = "docker";
/// The rule by which they do.
const AUTO_PULL: &str = "config/docker/image/auto_pull";

/// What is common to the sessions of one pass.
#[derive(Debug)]
struct Facts {
    agents: HashMap<AgentId, Arc<AgentRow>>,
    ssh_keypairs: HashMap<AccessKey, (String, String)>,
    dotfiles: HashMap<SessionId, Vec<Dotfile>>,
    /// (canonical name, architecture) → (digest, local)
    images: HashMap<(String, String), (String, bool)>,
    /// Registry → what engines show to it; empty when no agent among these has an engine.
    logins: HashMap<String, Login>,
    slot_types: Arc<SlotTypes>,
}

impl Starter {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, under_way: Arc::default(), memory: Arc::default() }
    }

    /// This host begins to lead: it doesn't know what was sent before, so everything is due, and may have been sent.
    pub(crate) async fn begin(&self) -> Result<()> {
        let statuses = [SessionStatus::Scheduled, SessionStatus::Preparing, SessionStatus::Pulling];
        let (mut reader, now) = (self.control.store().reader(), self.control.clock().now());
        sessions::hasten_all(&mut reader, &statuses).await?;
        let sent = sessions::due(&mut reader, &statuses[1..], now, i64::MAX, &[]).await?;
        self.memory.told.lock().extend(sent.into_iter().map(|(id, _)| (id, now)));
        Ok(())
    }

    /// One pass: newly placed sessions become `PREPARING`, and agents are told of everything that is due.
    pub(crate) async fn pass(&self) -> Result<()> {
        loop {
            let (prepared, full) = self.prepare().await?;
            // Nobody else looks at these for a while, so they are told of at once.
            self.tell(prepared, true).await?;
            if !full {
                break;
            }
        }
        let now = self.control.clock().now();
        loop {
            // Calls may take longer than the time after which they are due again.
            let under_way: Vec<_> = self.under_way.lock().iter().copied().collect();
            let statuses = [SessionStatus::Preparing, SessionStatus::Pulling];
            let mut reader = self.control.store().reader();
            let due = sessions::due(&mut reader, &statuses, now, PASS, &under_way).await?;
            let full = due.len() as i64 == PASS;
            if due.is_empty() || !self.tell(due, false).await? || !full {
                return Ok(());
            }
        }
    }

    /// Moves placed sessions to `PREPARING`, many at once, as told of: they are due again only after [`ASK_AGAIN`]. A host
    /// that leads anew doesn't count on that. Returns them, and whether there may be more.
    async fn prepare(&self) -> Result<(Vec<(SessionId, SessionStatus)>, bool)> {
        let control = &self.control;
        let now = control.clock().now();
        let due = sessions::due(&mut control.store().reader(), &[SessionStatus::Scheduled], now, PASS, &[]).await?;
        if due.is_empty() {
            return Ok((Vec::new(), false));
        }
        let full = due.len() as i64 == PASS;
        let changes = crate::retry(|| async {
            let mut tx = control.store().begin().await?;
            let mut work = Work::open(&mut tx, due.iter().map(|(id, _)| *id), now).await?;
            for (id, _) in &due {
                let kernels: Vec<_> = work.kernels_of(*id).iter().map(|k| k.id).collect();
                if work.set_session(*id, SessionStatus::Preparing, Some(""), Some(json!({}))) {
                    work.retry_at(*id, later(now));
                    work.session_event("session_preparing", *id, "unknown", None);
                    for kernel in kernels {
                        work.set_kernel(kernel, KernelStatus::Preparing, Some(""), Some(json!({})));
                    }
                }
            }
            let changes = work.flush(&mut tx).await?;
            tx.commit().await?;
            Ok(changes)
        })
        .await?;
        control.announce(&changes);
        Ok((changes.into_iter().map(|change| (change.session, change.to)).collect(), full))
    }

    /// Has the agents of these sessions told, unless that is under way already. `leased`: nobody else looks at them now.
    /// Returns whether there was any.
    async fn tell(&self, due: Vec<(SessionId, SessionStatus)>, leased: bool) -> Result<bool> {
        let (due, busy): (Vec<_>, Vec<_>) = {
            let mut under_way = self.under_way.lock();
            due.into_iter().partition(|(id, _)| under_way.insert(*id))
        };
        if leased && !busy.is_empty() {
            // What is under way is about an earlier place of theirs.
            self.hasten(&busy).await;
        }
        if due.is_empty() {
            return Ok(false);
        }
        if let Err(error) = self.send(&due, leased).await {
            {
                let mut under_way = self.under_way.lock();
                for (id, _) in &due {
                    under_way.remove(id);
                }
            }
            self.hasten(&due).await;
            return Err(error);
        }
        Ok(true)
    }

    /// Takes leases back. Where that doesn't succeed they run out.
    async fn hasten(&self, leased: &[(SessionId, SessionStatus)]) {
        let ids: Vec<_> = leased.iter().map(|(id, _)| *id).collect();
        if let Err(error) = sessions::hasten(&mut self.control.store().reader(), &ids).await {
            tracing::debug!(%error, "sessions wait until they are due again");
        }
    }

    async fn send(&self, due: &[(SessionId, SessionStatus)], leased: bool) -> Result<()> {
        let control = &self.control;
        let ids: Vec<_> = due.iter().map(|(id, _)| *id).collect();
        let mut reader = control.store().reader();
        if !leased {
            let later = later(control.clock().now());
            let leases: Vec<_> = due.iter().map(|(id, status)| (*id, *status, later)).collect();
            sessions::postpone(&mut reader, &leases, false).await?;
        }
        let rows = sessions::get_many(&mut reader, &ids).await?;
        let mut by_session: HashMap<SessionId, Vec<KernelRow>> = HashMap::new();
        for kernel in kernels::of_sessions(&mut reader, &ids).await? {
            by_session.entry(kernel.session_id).or_default().push(kernel);
        }
        let facts = Arc::new(gather(control, &rows, &by_session).await?);
        let mut unknown: HashSet<SessionId> = ids.into_iter().collect();
        for row in rows {
            unknown.remove(&row.id);
            let kernels = by_session.remove(&row.id).unwrap_or_default();
            let (control, facts) = (control.clone(), Arc::clone(&facts));
            let (under_way, memory) = (Arc::clone(&self.under_way), Arc::clone(&self.memory));
            tokio::spawn(async move {
                let id = row.id;
                if let Err(error) = start(&control, &facts, &memory, row, kernels).await {
                    // The lease runs out and the session is looked at again.
                    tracing::warn!(session = %id, %error, "a session can't be started now");
                }
                under_way.lock().remove(&id);
            });
        }
        let mut under_way = self.under_way.lock();
        for id in unknown {
            under_way.remove(&id);
        }
        Ok(())
    }

    /// Forgets what is of no use any more: sessions that start are looked at more often than that.
    pub(crate) fn tidy(&self) {
        let horizon = self.control.clock().now().plus_millis(-3_600_000);
        self.memory.admitted.lock().retain(|_, at| *at > horizon);
        self.memory.told.lock().retain(|_, at| *at > horizon);
        self.memory.cut_off.lock().retain(|_, at| *at > horizon);
    }
}

/// When sessions that were told of are due again.
fn later(now: Timestamp) -> Timestamp {
    now.plus_micros(i64::try_from(ASK_AGAIN.as_micros()).unwrap_or(i64::MAX))
}

async fn gather(control: &Control, rows: &[SessionRow], kernels: &HashMap<SessionId, Vec<KernelRow>>) -> Result<Facts> {
    let mut reader = control.store().reader();
    let mut agents: Vec<AgentId> = kernels.values().flatten().filter_map(|k| k.agent_id.clone()).collect();
    agents.sort();
    agents.dedup();
    let mut images: Vec<String> = kernels.values().flatten().map(|k| k.image.clone()).collect();
    images.sort();
    images.dedup();
    let mut keys: Vec<AccessKey> = rows.iter().map(|s| s.access_key.clone()).collect();
    keys.sort();
    keys.dedup();
    let agents = agent_rows::get_many(&mut reader, &agents).await?;
    let logins = match agents.iter().any(|row| row.runtime == FETCHES) {
        true => registries::logins(control).await,
        false => HashMap::new(),
    };
    let rule = control.config_tree().value(AUTO_PULL);
    Ok(Facts {
        logins,
        slot_types: control.config_tree().slot_types(),
        agents: agents.into_iter().map(|row| (row.id.clone(), Arc::new(row))).collect(),
        ssh_keypairs: sessions::ssh_keypairs(&mut reader, &keys)
            .await?
            .into_iter()
            .map(|(key, public, private)| (key, (public, private)))
            .collect(),
        dotfiles: dotfiles::of_sessions(&mut reader, &rows.iter().map(|s| s.id).collect::<Vec<_>>()).await?,
        images: agent_rows::image_facts(&mut reader, &images)
            .await?
            .into_iter()
            .map(|(name, architecture, digest, local)| ((name, architecture), fetched(rule.as_deref(), digest, local)))
            .collect(),
    })
}

/// The digest that an image has to have on a node, and whether it is only looked for there: what agents are told, by when
/// images are to be fetched (`config/docker/image/auto_pull`).
fn fetched(rule: Option<&str>, digest: String, is_local: bool) -> (String, bool) {
    match rule {
        // Whatever has the name will do.
        Some("tag") => (String::new(), is_local),
        Some("none") => (digest, true),
        // `digest`, the default: an image that has changed is fetched anew.
        _ => (digest, is_local),
    }
}

/// Tells the session's agents; failures are counted, and end the start when there were too many.
async fn start(
    control: &Control,
    facts: &Facts,
    memory: &Memory,
    session: SessionRow,
    kernels: Vec<KernelRow>,
) -> Result<()> {
    let id = session.id;
    if control.policies().has_hooks("PRE_START_SESSION") && !memory.admitted.lock().contains_key(&id) {
        match crate::sessions::hooks::before_start(control, &session, &kernels).await {
            Ok(()) => {
                memory.admitted.lock().insert(id, control.clock().now());
            }
            Err(Error::RejectedByHook { plugin, reason }) => {
                let data = crate::hooks::rejection_data(&plugin, &reason);
                return control.intake().start_failed(id, data).await;
            }
            Err(error) => return Err(error),
        }
    }
    let trust = if kernels.len() > 1 { Some(clusters::keys(control, &session).await?) } else { None };
    let mut groups: BTreeMap<AgentId, Vec<&KernelRow>> = BTreeMap::new();
    for kernel in &kernels {
        match (&kernel.agent_id, kernel.status) {
            (Some(agent), KernelStatus::Preparing | KernelStatus::Pulling) => {
                groups.entry(agent.clone()).or_default().push(kernel);
            }
            // Runs already, or is over.
            (Some(_), _) => {}
            (None, _) => {
                let data = json!({"error": {"src": "other", "name": "MissingAgentAllocation", "repr": "missing-agent-allocation"}});
                return control.intake().start_failed(id, data).await;
            }
        }
    }
    let mut failure: Option<(AgentId, Error)> = None;
    let mut absent: Option<(AgentId, String, bool)> = None;
    let calls = groups.into_iter().map(|(agent, group)| {
        let (session, kernels, trust) = (&session, &kernels, trust.as_ref());
        async move {
            let Some(row) = facts.agents.get(&agent).filter(|row| row.status == AgentStatus::Alive) else {
                return (agent, Told::Lost);
            };
            let request = create_request(facts, session, kernels, &group, trust);
            let told = call(control, row, request).await;
            (agent, told)
        }
    });
    let now = control.clock().now();
    for (agent, told) in futures::future::join_all(calls).await {
        if !matches!(told, Told::Lost | Told::Unreachable(_)) {
            memory.told.lock().insert(id, now);
        }
        match told {
            Told::Lost => {
                let reason = format!("The agent {agent} is lost.");
                absent = Some((agent, reason, false));
            }
            Told::Unreachable(reason) => absent = Some((agent, reason, true)),
            Told::Refused(error) => failure = Some((agent, error)),
            Told::Unanswered(error) => {
                // The next sessions needn't wait for it, too.
                control.intake().unreachable(id, Some(agent.clone()), error.to_string(), false).await?;
                failure = Some((agent, error));
            }
            Told::Accepted => {}
        }
    }
    if let Some((agent, error)) = failure {
        return failed(control, &session, &agent, &error).await;
    }
    let Some((agent, reason, lives)) = absent else {
        memory.cut_off.lock().remove(&id);
        return Ok(());
    };
    let untold = !memory.told.lock().contains_key(&id);
    let unreachable = lives.then(|| agent.clone());
    if control.intake().unreachable(id, unreachable, reason.clone(), untold).await? {
        tracing::warn!(session = %id, %agent, reason, "a session goes back into the queue");
        return Ok(());
    }
    let since = lives.then(|| *memory.cut_off.lock().entry(id).or_insert(now));
    wait_for(control, &session, &agent, since).await
}

/// How telling an agent to create kernels went.
enum Told {
    Accepted,
    /// It has heard of it, and doesn't.
    Refused(Error),
    /// Whether it has heard of it is unknown.
    Unanswered(Error),
    /// It hasn't heard of it: there is no connection, for this reason.
    Unreachable(String),
    /// It isn't there to be told.
    Lost,
}

async fn call(control: &Control, agent: &Arc<AgentRow>, request: pb::CreateKernelsRequest) -> Told {
    let result = control.orders().place(control, agent, request).await;
    let outcome = if result.is_ok() { "ok" } else { "failed" };
    control.metrics().starts.get_or_create(&ByOutcome { outcome: outcome.to_owned() }).inc();
    let Err(error) = result else { return Told::Accepted };
    let repr = agents::call_error(AgentOperation::Create, &error);
    match error {
        CallError::NoConnection(cause) => {
            Told::Unreachable(format!("The agent {} can't be reached ({cause}).", agent.id))
        }
        CallError::Unreachable(_) | CallError::Timeout => Told::Unanswered(repr),
        _ => Told::Refused(repr),
    }
}

/// An agent that is alive didn't take the start.
async fn failed(control: &Control, session: &SessionRow, agent: &AgentId, error: &Error) -> Result<()> {
    let attempts = session.attempts + 1;
    tracing::warn!(session = %session.id, %agent, attempts, %error, "an agent doesn't take a start");
    if attempts >= control.settings().start_attempts {
        let data =
            json!({"error": {"src": "agent", "agent_id": agent, "name": "AgentError", "repr": error.to_string()}});
        return control.intake().start_failed(session.id, data).await;
    }
    let wait = 500 * (1_i64 << attempts.clamp(0, 6));
    let at = control.clock().now().plus_millis(wait);
    sessions::postpone(&mut control.store().reader(), &[(session.id, session.status, at)], true).await?;
    Ok(())
}

/// The agent is lost, or alive but cut off since then: it may come back soon, or never.
async fn wait_for(control: &Control, session: &SessionRow, agent: &AgentId, cut_off: Option<Timestamp>) -> Result<()> {
    let now = control.clock().now();
    let grace = i64::try_from(control.settings().lost_start_grace.as_millis()).unwrap_or(i64::MAX);
    let lost_at = agent_rows::get(&mut control.store().reader(), agent).await?.and_then(|row| row.lost_at);
    // It may have been lost before the session was placed there.
    let since = lost_at.map_or(session.status_changed, |at| at.max(session.status_changed));
    let since = cut_off.unwrap_or(since);
    if since.plus_millis(grace) < now {
        let data =
            json!({"error": {"src": "agent", "agent_id": agent, "name": "AgentLost", "repr": "the agent was lost"}});
        return control.intake().start_failed(session.id, data).await;
    }
    sessions::postpone(&mut control.store().reader(), &[(session.id, session.status, now.plus_millis(2_000))], false)
        .await?;
    Ok(())
}

fn create_request(
    facts: &Facts,
    session: &SessionRow,
    all: &[KernelRow],
    group: &[&KernelRow],
    trust: Option<&(String, String)>,
) -> pb::CreateKernelsRequest {
    pb::CreateKernelsRequest {
        session_id: session.id.to_string(),
        session_name: session.name.clone(),
        session_type: session.session_type.to_string(),
        cluster_mode: session.cluster_mode.to_string(),
        cluster_size: u32::try_from(session.cluster_size).unwrap_or(u32::MAX),
        access_key: session.access_key.to_string(),
        kernels: group.iter().map(|kernel| spec(facts, session, all, kernel, trust)).collect(),
    }
}

/// The session's folders as agents see them. A list that can't be read comes from a release to come; nothing is mounted
/// that isn't understood.
fn mounts(session: &SessionRow) -> Vec<pb::Mount> {
    let folders: Vec<FolderMount> = serde_json::from_value(session.vfolder_mounts.clone()).unwrap_or_default();
    let mount = |folder: FolderMount| pb::Mount {
        read_only: folder.mount_perm == FolderPermission::ReadOnly,
        name: folder.name,
        source: folder.host_path,
        target: folder.kernel_path,
    };
    folders.into_iter().map(mount).collect()
}

fn spec(
    facts: &Facts,
    session: &SessionRow,
    all: &[KernelRow],
    kernel: &KernelRow,
    trust: Option<&(String, String)>,
) -> pb::KernelSpec {
    let addr_of = |id: &AgentId| facts.agents.get(id).map(|row| row.addr.clone());
    let addresses = clusters::addresses(all, kernel.agent_id.as_ref(), addr_of);
    let (digest, is_local) =
        facts.images.get(&(kernel.image.clone(), kernel.architecture.clone())).cloned().unwrap_or_default();
    let labels = kernel.image_labels.as_object().into_iter().flatten();
    let is_main = kernel.cluster_role == "main";
    let is_batch = session.session_type == SessionType::Batch;
    let runs_command = is_batch || session.session_type == SessionType::Inference;
    let ssh = facts.ssh_keypairs.get(&session.access_key);
    let agent = kernel.agent_id.as_ref().and_then(|id| facts.agents.get(id));
    let fetches = !is_local && agent.is_some_and(|row| row.runtime == FETCHES);
    let login = facts.logins.get(&kernel.registry).filter(|_| fetches);
    let internal = json!({
        "dotfiles": facts.dotfiles.get(&session.id).map_or(&[][..], Vec::as_slice),
        "ssh_keypair": ssh.map(|(public, private)| json!({"public_key": public, "private_key": private})),
        "cluster": trust.map(|pair| clusters::info(session, all, &addresses, pair)),
        "registry": login.map(Login::document),
        "builds_images": session.builds_images,
    });
    pb::KernelSpec {
        kernel_id: kernel.id.to_string(),
        cluster_role: kernel.cluster_role.clone(),
        cluster_idx: u32::try_from(kernel.cluster_idx).unwrap_or_default(),
        local_rank: u32::try_from(kernel.local_rank).unwrap_or_default(),
        cluster_hostname: kernel.cluster_hostname.clone(),
        image: Some(pb::Image {
            canonical: kernel.image.clone(),
            architecture: kernel.architecture.clone(),
            registry: kernel.registry.clone(),
            digest,
            labels: labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            is_local,
        }),
        slots: slots(facts, kernel),
        resource_opts: kernel.resource_opts.to_string(),
        environ: environment(session, all, kernel, &addresses).into_iter().collect(),
        mounts: mounts(session),
        bootstrap_script: kernel.bootstrap_script.clone().unwrap_or_default(),
        startup_command: session.startup_command.clone().filter(|_| runs_command && is_main).unwrap_or_default(),
        preopen_ports: if is_main { ports(&kernel.preopen_ports) } else { Vec::new() },
        internal_data: internal.to_string(),
        timeout_ms: session
            .timeout_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .filter(|_| is_batch && is_main)
            .unwrap_or_default(),
    }
}

/// What the kernel asked for, in the units of the books.
fn slots(facts: &Facts, kernel: &KernelRow) -> Vec<pb::Slot> {
    let slot = |(name, amount): (&String, &i64)| {
        let kind = facts.slot_types.get(name).copied().unwrap_or(SlotKind::Count);
        Some(pb::Slot { name: name.clone(), kind: kind.to_string(), amount: u64::try_from(*amount).ok()? })
    };
    kernel.held.iter().filter_map(slot).collect()
}

fn ports(list: &Value) -> Vec<u32> {
    list.as_array().into_iter().flatten().filter_map(|p| u32::try_from(p.as_u64()?).ok()).collect()
}

/// The variables of a kernel: its owner's, overridden by what the system says.
fn environment(
    session: &SessionRow,
    all: &[KernelRow],
    kernel: &KernelRow,
    addresses: &[(&str, String)],
) -> BTreeMap<String, String> {
    let own = kernel.environ.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut environ: BTreeMap<String, String> =
        own.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let replicas: Vec<_> = clusters::replicas(all).into_iter().map(|(role, n)| format!("{role}:{n}")).collect();
    if all.len() > 1 {
        let list: Vec<_> = addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
        environ.insert("QUARTERDECK_CLUSTER_ADDRESSES".to_owned(), list.join(","));
    }
    let hosts: Vec<_> = all.iter().map(|k| k.cluster_hostname.as_str()).collect();
    let preopen: Vec<_> = ports(&kernel.preopen_ports).iter().map(ToString::to_string).collect();
    let service_ports = kernel.image_labels.get("ai.backend.service-ports").and_then(Value::as_str).unwrap_or("None");
    for (name, value) in [
        ("BACKENDAI_SESSION_ID", session.id.to_string()),
        ("BACKENDAI_SESSION_NAME", session.name.clone()),
        ("BACKENDAI_CLUSTER_SIZE", session.cluster_size.to_string()),
        ("BACKENDAI_CLUSTER_REPLICAS", replicas.join(",")),
        ("BACKENDAI_CLUSTER_HOSTS", hosts.join(",")),
        ("BACKENDAI_ACCESS_KEY", session.access_key.to_string()),
        ("BACKENDAI_PREOPEN_PORTS", preopen.join(",")),
        ("BACKENDAI_KERNEL_ID", kernel.id.to_string()),
        ("BACKENDAI_KERNEL_IMAGE", kernel.image.clone()),
        ("BACKENDAI_CLUSTER_ROLE", kernel.cluster_role.clone()),
        ("BACKENDAI_CLUSTER_IDX", kernel.cluster_idx.to_string()),
        ("BACKENDAI_CLUSTER_LOCAL_RANK", kernel.local_rank.to_string()),
        ("BACKENDAI_CLUSTER_HOST", kernel.cluster_hostname.clone()),
        ("BACKENDAI_SERVICE_PORTS", service_ports.to_owned()),
    ] {
        environ.insert(name.to_owned(), value);
    }
    environ
}
