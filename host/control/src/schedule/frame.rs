//! What a round is decided on, as the host sees it: rows turned into indices and amounts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use quarterdeck_model::slots::{SlotKind, SlotMap, SlotTypes};
use quarterdeck_model::{AccessKey, AgentId, AgentStatus, ClusterMode, DefaultForUnspecified, Timestamp};
use quarterdeck_store::occupancy::Scope;
use quarterdeck_store::schedule::{AgentRow, Extras, HolderRow, KernelRow, OwnerRow, Queue, SessionRow};
use serde_json::Value as Json;

/// Amounts in contract units, one per slot of [`Frame::slots`].
pub(crate) type Amounts = Arc<[u64]>;

/// One consistent view of a scaling group. Rows refer to each other by index.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The scaling group's name.
    pub group: String,
    /// The time of the view.
    pub now: Timestamp,
    /// Every slot that occurs: the known ones first, in the order of their table.
    pub slots: Vec<(String, SlotKind)>,
    /// The known slots.
    pub types: Arc<SlotTypes>,
    /// Names of architectures.
    pub architectures: Vec<String>,
    /// Sessions to place, oldest first.
    pub pending: Vec<Session>,
    /// Sessions that hold resources of the group, oldest first.
    pub running: Vec<Session>,
    /// Agents, by id.
    pub agents: Vec<Agent>,
    /// Owners, by access key.
    pub owners: Vec<Account>,
    /// Projects, by id.
    pub projects: Vec<Account>,
    /// Domains, by name.
    pub domains: Vec<Account>,
    /// Pending sessions whose request makes no sense, and why.
    pub broken: Vec<(SessionRow, String)>,
    /// What only some policies ask to be shown.
    pub extras: Extras,
}

/// A session of a [`Frame`].
#[derive(Debug)]
pub(crate) struct Session {
    /// Its row; the kernels' rows stand in [`Session::kernels`].
    pub row: SessionRow,
    pub owner: usize,
    pub project: usize,
    pub domain: usize,
    /// Scheduling attempts that failed so far.
    pub retries: u32,
    /// The sum of its kernels' requests.
    pub requested: Amounts,
    pub kernels: Vec<Kernel>,
}

/// A kernel of a [`Session`].
#[derive(Debug)]
pub(crate) struct Kernel {
    pub row: KernelRow,
    pub architecture: u32,
    pub requested: Amounts,
    pub held: Amounts,
    /// Where it is pinned while pending, or runs.
    pub agent: Place,
}

/// The agent that a kernel is tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// None.
    Free,
    /// That row of [`Frame::agents`].
    At(u32),
    /// One that doesn't exist.
    Missing(AgentId),
}

/// An agent of a [`Frame`].
#[derive(Debug)]
pub(crate) struct Agent {
    pub id: AgentId,
    pub alive: bool,
    /// Takes sessions that are not pinned to it.
    pub schedulable: bool,
    pub architecture: u32,
    pub containers: u32,
    pub capacity: Vec<u64>,
    pub occupied: Vec<u64>,
}

/// An owner, project or domain of a [`Frame`].
#[derive(Debug)]
pub(crate) struct Account {
    pub scope: Scope,
    /// The access key, project id or domain name.
    pub holder: String,
    /// Equal texts mean equal limits.
    pub fingerprint: String,
    /// The most it may hold, for messages.
    pub limit_map: SlotMap,
    /// The same in contract units (`u64::MAX`: no limit); an error when the limit makes no sense.
    pub limit: Result<Vec<u64>, String>,
    pub occupied: Vec<u64>,
    /// The counters of concurrent sessions: ordinary, private.
    pub sessions: (u64, u64),
    /// The most of those (`u64::MAX`: no limit).
    pub session_limit: (u64, u64),
    /// The counters differ from the sessions.
    pub miscounted: bool,
}

impl Frame {
    /// Builds the view of `group` at `now`. `queue` must not contain sessions that are to be cancelled.
    pub(crate) fn build(group: &str, now: Timestamp, types: Arc<SlotTypes>, queue: Queue) -> Self {
        let slots = all_slots(&types, &queue);
        let mut reader = Reader {
            index: slots.iter().enumerate().map(|(i, s)| (s.0.clone(), i)).collect(),
            slots,
            requests: HashMap::new(),
            holdings: HashMap::new(),
        };
        let mut names = Names::default();
        for name in queue
            .agents
            .iter()
            .map(|a| &a.architecture)
            .chain(queue.sessions.iter().flat_map(|s| &s.kernels).map(|k| &k.architecture))
        {
            names.index(name);
        }
        let agents: Vec<Agent> = queue.agents.iter().map(|a| agent(a, group, now, &reader, &mut names)).collect();
        let agent_index: HashMap<AgentId, u32> =
            agents.iter().enumerate().map(|(i, a)| (a.id.clone(), i as u32)).collect();

        let mut owners: Vec<Account> = queue.owners.iter().map(|o| owner(o, &types, &reader)).collect();
        let mut projects: Vec<Account> =
            queue.projects.iter().map(|p| holder(Scope::Project, p, &types, &reader)).collect();
        let mut domains: Vec<Account> =
            queue.domains.iter().map(|d| holder(Scope::Domain, d, &types, &reader)).collect();
        account_usage(&queue, &reader, &mut owners, &mut projects, &mut domains);
        let index = |accounts: &[Account]| -> HashMap<String, usize> {
            accounts.iter().enumerate().map(|(i, a)| (a.holder.clone(), i)).collect()
        };
        let (owner_index, project_index, domain_index) = (index(&owners), index(&projects), index(&domains));

        let (mut pending, mut running, mut broken) = (Vec::new(), Vec::new(), Vec::new());
        for mut row in queue.sessions {
            let accounts = (
                owner_index.get(row.access_key.as_str()),
                project_index.get(&row.project_id.to_string()),
                domain_index.get(&row.domain_name),
            );
            let (Some(&owner), Some(&project), Some(&domain)) = accounts else {
                // Foreign keys forbid it; a session without accounts could not be judged.
                broken.push((row, "its owner, project or domain is missing".to_owned()));
                continue;
            };
            let is_pending = row.status == quarterdeck_model::SessionStatus::Pending;
            match kernels(&mut row, is_pending, &mut reader, &mut names, &agent_index) {
                Ok(kernels) => {
                    let requested = sum(kernels.iter().map(|k| &k.requested), reader.slots.len());
                    let session = Session {
                        retries: retries(row.status_data.as_ref()),
                        row,
                        owner,
                        project,
                        domain,
                        requested,
                        kernels,
                    };
                    if is_pending { pending.push(session) } else { running.push(session) }
                }
                Err(problem) if is_pending => broken.push((row, problem)),
                Err(problem) => tracing::warn!(session = %row.id, problem, "a running session's amounts make no sense"),
            }
        }
        Self {
            group: group.to_owned(),
            now,
            slots: reader.slots,
            types,
            architectures: names.names,
            pending,
            running,
            agents,
            owners,
            projects,
            domains,
            broken,
            extras: Extras::default(),
        }
    }

    /// The same view with what only some policies ask to be shown.
    pub(crate) fn with_extras(self, extras: Extras) -> Self {
        Self { extras, ..self }
    }

    /// Milliseconds that a session has waited.
    pub(crate) fn waiting_ms(&self, session: &Session) -> u64 {
        u64::try_from(self.now.millis() - session.row.created_at.millis()).unwrap_or(0)
    }
}

/// Attempts noted in a session's status data.
pub(crate) fn retries(status_data: Option<&Json>) -> u32 {
    let retries = status_data.and_then(|d| d.get("scheduler")?.get("retries")?.as_u64());
    u32::try_from(retries.unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The known slots, then others that agents offer or sessions ask for, by name.
fn all_slots(types: &SlotTypes, queue: &Queue) -> Vec<(String, SlotKind)> {
    let mut slots: Vec<(String, SlotKind)> = types.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
    let mut others: BTreeMap<String, SlotKind> = BTreeMap::new();
    let mut add = |name: &str| {
        if !types.contains_key(name) && !others.contains_key(name) {
            others.insert(name.to_owned(), SlotKind::guess(name));
        }
    };
    for (name, _, _) in queue.agents.iter().flat_map(|a| &a.slots) {
        add(name);
    }
    let mut seen: HashSet<&str> = HashSet::new();
    for kernel in queue.sessions.iter().flat_map(|s| &s.kernels) {
        for text in [&kernel.requested_slots, &kernel.held] {
            if seen.insert(text)
                && let Ok(Json::Object(map)) = serde_json::from_str(text)
            {
                map.keys().for_each(|name| add(name));
            }
        }
    }
    slots.extend(others);
    slots
}

/// Names with indices.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    index: HashMap<String, u32>,
}

impl Names {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(&i) = self.index.get(name) {
            return i;
        }
        let i = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), i);
        i
    }
}

/// Turns slot maps into amounts; equal texts once.
struct Reader {
    slots: Vec<(String, SlotKind)>,
    index: HashMap<String, usize>,
    requests: HashMap<String, Result<Amounts, String>>,
    holdings: HashMap<String, Result<Amounts, String>>,
}

impl Reader {
    /// A JSON slot map of decimal texts.
    fn requested(&mut self, text: &str) -> Result<Amounts, String> {
        if let Some(known) = self.requests.get(text) {
            return known.clone();
        }
        let amounts = serde_json::from_str::<Json>(text)
            .map_err(|e| e.to_string())
            .and_then(|json| SlotMap::from_json(&json).map_err(|e| e.to_string()))
            .and_then(|map| self.units(&map))
            .map(Amounts::from);
        self.requests.insert(text.to_owned(), amounts.clone());
        amounts
    }

    fn units(&self, map: &SlotMap) -> Result<Vec<u64>, String> {
        quarterdeck_model::slots::units(map, &self.slots).map_err(|e| e.to_string())
    }

    /// A JSON object of contract units.
    fn held(&mut self, text: &str) -> Result<Amounts, String> {
        if let Some(known) = self.holdings.get(text) {
            return known.clone();
        }
        let amounts = serde_json::from_str::<HashMap<String, i64>>(text).map_err(|e| e.to_string()).map(|map| {
            let mut amounts = vec![0; self.slots.len()];
            for (name, amount) in map {
                if let Some(&i) = self.index.get(&name) {
                    amounts[i] = from_stored(amount);
                }
            }
            Amounts::from(amounts)
        });
        self.holdings.insert(text.to_owned(), amounts.clone());
        amounts
    }
}

/// A stored amount; the largest stands for "without end".
fn from_stored(amount: i64) -> u64 {
    if amount == i64::MAX { u64::MAX } else { u64::try_from(amount).unwrap_or(0) }
}

/// An amount to be stored.
pub(crate) fn to_stored(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn sum<'a>(rows: impl Iterator<Item = &'a Amounts>, slots: usize) -> Amounts {
    let mut total = vec![0_u64; slots];
    for row in rows {
        for (cell, amount) in total.iter_mut().zip(row.iter()) {
            *cell = cell.saturating_add(*amount);
        }
    }
    total.into()
}

fn agent(row: &AgentRow, group: &str, now: Timestamp, reader: &Reader, names: &mut Names) -> Agent {
    let alive = row.status == AgentStatus::Alive;
    let mut agent = Agent {
        id: row.id.clone(),
        alive,
        schedulable: alive
            && row.schedulable
            && row.scaling_group == group
            && row.cooldown_until.is_none_or(|until| until <= now),
        architecture: names.index(&row.architecture),
        containers: u32::try_from(row.containers).unwrap_or(u32::MAX),
        capacity: vec![0; reader.slots.len()],
        occupied: vec![0; reader.slots.len()],
    };
    for (slot, capacity, occupied) in &row.slots {
        if let Some(&i) = reader.index.get(slot) {
            // Nothing can be placed on an agent that doesn't live: it offers nothing.
            agent.capacity[i] = if alive { from_stored(*capacity) } else { 0 };
            agent.occupied[i] = from_stored(*occupied);
        }
    }
    agent
}

fn limit_map(text: &str, default: DefaultForUnspecified, types: &SlotTypes) -> Result<SlotMap, String> {
    let json: Json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    SlotMap::from_policy(&json, default, types).map_err(|e| e.to_string())
}

fn account(
    scope: Scope,
    holder: &str,
    fingerprint: String,
    map: Result<SlotMap, String>,
    types: &SlotTypes,
    reader: &Reader,
) -> Account {
    let limit = map.as_ref().map_err(Clone::clone).and_then(|map| {
        let mut limit = reader.units(map)?;
        // The table of known slots is what limits speak about.
        for (i, (name, _)) in reader.slots.iter().enumerate() {
            if !types.contains_key(name) {
                limit[i] = u64::MAX;
            }
        }
        Ok(limit)
    });
    Account {
        scope,
        holder: holder.to_owned(),
        fingerprint,
        limit_map: map.unwrap_or_default(),
        limit,
        occupied: vec![0; reader.slots.len()],
        sessions: (0, 0),
        session_limit: (u64::MAX, u64::MAX),
        miscounted: false,
    }
}

fn owner(row: &OwnerRow, types: &SlotTypes, reader: &Reader) -> Account {
    let map = row
        .default_for_unspecified
        .parse::<DefaultForUnspecified>()
        .map_err(|e| e.to_string())
        .and_then(|default| limit_map(&row.total_resource_slots, default, types));
    let mut account = account(Scope::Keypair, row.access_key.as_str(), row.fingerprint(), map, types, reader);
    let limit = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0).unwrap_or(u64::MAX);
    account.session_limit = (limit(row.max_concurrent_sessions), limit(row.max_concurrent_sftp_sessions));
    account.sessions = (from_stored(row.counted.0), from_stored(row.counted.1));
    account
}

fn holder(scope: Scope, row: &HolderRow, types: &SlotTypes, reader: &Reader) -> Account {
    let map = limit_map(&row.total_resource_slots, DefaultForUnspecified::Unlimited, types);
    account(scope, &row.holder, row.fingerprint(), map, types, reader)
}

/// Fills in what the accounts hold, and compares the owners' counters with their sessions.
fn account_usage(
    queue: &Queue,
    reader: &Reader,
    owners: &mut [Account],
    projects: &mut [Account],
    domains: &mut [Account],
) {
    let mut counted: HashMap<AccessKey, (u64, u64)> = HashMap::new();
    let mut counts: HashMap<(Scope, &str), (u64, u64)> = HashMap::new();
    for row in &queue.usage {
        let n = from_stored(row.sessions);
        let cells = [
            counted.entry(row.access_key.clone()).or_default(),
            counts.entry((Scope::Project, &row.project_id)).or_default(),
        ];
        for cell in cells {
            if row.is_private { cell.1 += n } else { cell.0 += n }
        }
        let cell = counts.entry((Scope::Domain, &row.domain_name)).or_default();
        if row.is_private { cell.1 += n } else { cell.0 += n }
    }
    for account in owners.iter_mut() {
        let truth = counted.get(&AccessKey(account.holder.clone())).copied().unwrap_or_default();
        account.miscounted = truth != account.sessions;
    }
    for account in projects.iter_mut().chain(domains.iter_mut()) {
        account.sessions = counts.get(&(account.scope, account.holder.as_str())).copied().unwrap_or_default();
    }
    let mut held: HashMap<(&str, &str), Vec<(usize, u64)>> = HashMap::new();
    for row in &queue.occupancy {
        if let Some(&slot) = reader.index.get(&row.slot) {
            held.entry((&row.scope, &row.holder)).or_default().push((slot, from_stored(row.amount)));
        }
    }
    for account in owners.iter_mut().chain(projects).chain(domains) {
        for (slot, amount) in held.get(&(account.scope.as_str(), account.holder.as_str())).into_iter().flatten() {
            account.occupied[*slot] = *amount;
        }
    }
}

fn kernels(
    row: &mut SessionRow,
    is_pending: bool,
    reader: &mut Reader,
    names: &mut Names,
    agents: &HashMap<AgentId, u32>,
) -> Result<Vec<Kernel>, String> {
    let rows = std::mem::take(&mut row.kernels);
    if rows.is_empty() {
        return Err("it has no kernel".to_owned());
    }
    // One agent for all: the first pin counts for each kernel.
    let shared = (is_pending && row.cluster_mode == ClusterMode::SingleNode)
        .then(|| rows.iter().find_map(|k| k.designated_agent.clone()));
    rows.into_iter()
        .map(|kernel| {
            let tied = match &shared {
                Some(pin) => pin.clone(),
                None if is_pending => kernel.designated_agent.clone(),
                None => kernel.agent_id.clone(),
            };
            let agent = tied.map_or(Place::Free, |id| agents.get(&id).map_or(Place::Missing(id), |i| Place::At(*i)));
            let requested = reader.requested(&kernel.requested_slots)?;
            if is_pending && requested.contains(&u64::MAX) {
                return Err("it asks for an infinite amount".to_owned());
            }
            let held = if is_pending { vec![0; reader.slots.len()].into() } else { reader.held(&kernel.held)? };
            Ok(Kernel { architecture: names.index(&kernel.architecture), requested, held, agent, row: kernel })
        })
        .collect()
}
