//! Rounds: [`Cluster`] is a snapshot in the making.

use std::collections::BTreeMap;

use super::amounts;
use super::books::Books;
use super::host::{Journal, journal};
use crate::scheduler::{
    Accounts, Agents, ClusterMode, Column, ColumnData, Explanation, Kernels, Lack, Outcome, Proposal, Round, Scheduler,
    SessionKind, Sessions, Slot, SlotKind, Snapshot,
};

/// How many proposals are asked for at a time, as the server does by default.
const CHUNK: usize = 64;

/// An agent.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    capacity: String,
    architecture: String,
    schedulable: bool,
    columns: Vec<(String, Cell)>,
}

impl Node {
    /// An x86_64 agent that takes sessions, with amounts such as `cpu=8 mem=32g`.
    pub fn new(name: &str, capacity: &str) -> Self {
        Node {
            name: name.to_owned(),
            capacity: capacity.to_owned(),
            architecture: "x86_64".to_owned(),
            schedulable: true,
            columns: Vec::new(),
        }
    }

    /// Its architecture.
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Takes no sessions.
    pub fn closed(mut self) -> Self {
        self.schedulable = false;
        self
    }

    /// Its value in an optional column of `agents`.
    pub fn column(mut self, name: &str, value: impl Into<Cell>) -> Self {
        self.columns.push((name.to_owned(), value.into()));
        self
    }
}

/// A session, pending or running.
#[derive(Debug, Clone)]
pub struct Job {
    name: String,
    /// Per kernel what it asks for, and where it is pinned or runs.
    kernels: Vec<(String, Option<String>)>,
    mode: ClusterMode,
    architecture: String,
    owner: String,
    project: String,
    domain: String,
    kind: SessionKind,
    private: bool,
    priority: i32,
    retries: u32,
    waiting_ms: u64,
    columns: Vec<(String, Cell)>,
}

impl Job {
    /// An interactive session with one kernel that asks for amounts such as `cpu=1 mem=512m`.
    pub fn new(name: &str, requested: &str) -> Self {
        Job {
            name: name.to_owned(),
            kernels: vec![(requested.to_owned(), None)],
            mode: ClusterMode::SingleNode,
            architecture: "x86_64".to_owned(),
            owner: "somebody".to_owned(),
            project: "default".to_owned(),
            domain: "default".to_owned(),
            kind: SessionKind::Interactive,
            private: false,
            priority: 0,
            retries: 0,
            waiting_ms: 0,
            columns: Vec::new(),
        }
    }

    /// One more kernel.
    pub fn kernel(mut self, requested: &str) -> Self {
        self.kernels.push((requested.to_owned(), None));
        self
    }

    /// Each kernel on an agent of its own choosing.
    pub fn multi_node(mut self) -> Self {
        self.mode = ClusterMode::MultiNode;
        self
    }

    /// Pins all its kernels to an agent.
    pub fn pinned(mut self, agent: &str) -> Self {
        self.kernels.iter_mut().for_each(|kernel| kernel.1 = Some(agent.to_owned()));
        self
    }

    /// The architecture of its images.
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// The access key that owns it.
    pub fn owner(mut self, name: &str) -> Self {
        name.clone_into(&mut self.owner);
        self
    }

    /// Its project.
    pub fn project(mut self, name: &str) -> Self {
        name.clone_into(&mut self.project);
        self
    }

    /// Its domain.
    pub fn domain(mut self, name: &str) -> Self {
        name.clone_into(&mut self.domain);
        self
    }

    /// What it is for.
    pub fn kind(mut self, kind: SessionKind) -> Self {
        self.kind = kind;
        self
    }

    /// A session of the system.
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Larger is more important.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// How often scheduling it has failed.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Seconds since it was enqueued.
    pub fn waiting_s(mut self, seconds: u64) -> Self {
        self.waiting_ms = seconds * 1000;
        self
    }

    /// Its value in an optional column of its table.
    pub fn column(mut self, name: &str, value: impl Into<Cell>) -> Self {
        self.columns.push((name.to_owned(), value.into()));
        self
    }
}

/// A value in an optional column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Of a column of integers.
    Integer(u64),
    /// Of a column of decimals.
    Decimal(f64),
    /// Of a column of texts.
    Text(String),
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Cell::Integer(value)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Cell::Decimal(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Cell::Text(value.to_owned())
    }
}

/// A snapshot in the making. Agents are put in the order of their names, sessions oldest first, as the contract says.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    pending: Vec<Job>,
    running: Vec<Job>,
    kinds: BTreeMap<String, SlotKind>,
    limits: BTreeMap<(Table, String), Limit>,
    columns: Vec<(Table, String, Cell, String)>,
    now_ms: u64,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Owners,
    Projects,
    Domains,
}

#[derive(Debug, Clone, Default)]
struct Limit {
    amounts: Option<String>,
    sessions: Option<u32>,
}

impl Cluster {
    /// Nothing yet.
    pub fn new() -> Self {
        Cluster { now_ms: 1_700_000_000_000, ..Cluster::default() }
    }

    /// Adds an agent.
    pub fn node(mut self, node: Node) -> Self {
        self.nodes.push(node);
        self
    }

    /// Adds an x86_64 agent that takes sessions.
    pub fn agent(self, name: &str, capacity: &str) -> Self {
        self.node(Node::new(name, capacity))
    }

    /// Adds a pending session.
    pub fn job(mut self, job: Job) -> Self {
        self.pending.push(job);
        self
    }

    /// Adds a pending session of one kernel.
    pub fn pending(self, name: &str, requested: &str) -> Self {
        self.job(Job::new(name, requested))
    }

    /// Adds a session that runs on an agent and holds what it asked for.
    pub fn running(mut self, job: Job, agent: &str) -> Self {
        self.running.push(job.pinned(agent));
        self
    }

    /// What a slot is counted in. Without it `mem` and `*.mem` are bytes, `*.device` devices, and others counts.
    pub fn slot(mut self, name: &str, kind: SlotKind) -> Self {
        self.kinds.insert(name.to_owned(), kind);
        self
    }

    /// The most that an owner may hold.
    pub fn owner_limit(mut self, owner: &str, amounts: &str) -> Self {
        self.limits.entry((Table::Owners, owner.to_owned())).or_default().amounts = Some(amounts.to_owned());
        self
    }

    /// The most sessions that an owner may have at the same time.
    pub fn owner_sessions(mut self, owner: &str, sessions: u32) -> Self {
        self.limits.entry((Table::Owners, owner.to_owned())).or_default().sessions = Some(sessions);
        self
    }

    /// The most that a project may hold.
    pub fn project_limit(mut self, project: &str, amounts: &str) -> Self {
        self.limits.entry((Table::Projects, project.to_owned())).or_default().amounts = Some(amounts.to_owned());
        self
    }

    /// The most that a domain may hold.
    pub fn domain_limit(mut self, domain: &str, amounts: &str) -> Self {
        self.limits.entry((Table::Domains, domain.to_owned())).or_default().amounts = Some(amounts.to_owned());
        self
    }

    /// An owner's value in an optional column of `owners`.
    pub fn owner_column(mut self, owner: &str, column: &str, value: impl Into<Cell>) -> Self {
        self.columns.push((Table::Owners, owner.to_owned(), value.into(), column.to_owned()));
        self
    }

    /// A project's value in an optional column of `projects`.
    pub fn project_column(mut self, project: &str, column: &str, value: impl Into<Cell>) -> Self {
        self.columns.push((Table::Projects, project.to_owned(), value.into(), column.to_owned()));
        self
    }

    /// The time of the snapshot, in milliseconds since 1970-01-01 UTC.
    pub fn at_ms(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }

    /// The seed of the round.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The snapshot as a policy sees it.
    ///
    /// # Panics
    /// When an amount can't be read or a session runs on an agent that isn't there: the test is at fault.
    pub fn snapshot(&self) -> Snapshot {
        Building::new(self).finish()
    }

    /// Plays a round.
    ///
    /// # Errors
    /// What the policy reports, or how it broke the contract.
    pub fn run<P: Scheduler>(&self, config: &str) -> Result<Course, String> {
        let (_, course) = self.play::<P>(config, None)?;
        Ok(course)
    }

    /// Plays a round until the session's turn has come and asks why it is pending, or where it would go.
    ///
    /// # Errors
    /// As [`Cluster::run`].
    ///
    /// # Panics
    /// When there is no such pending session.
    pub fn explain<P: Scheduler>(&self, config: &str, job: &str, limit: usize) -> Result<Explanation, String> {
        let row = self.jobs().iter().position(|name| *name == job).unwrap_or_else(|| panic!("no session `{job}`"));
        let (policy, _) = self.play::<P>(config, Some(row))?;
        let explanation = policy.explain(row, limit);
        if explanation.candidates.len() > limit {
            return Err(format!("{} candidates where {limit} were asked for", explanation.candidates.len()));
        }
        Ok(explanation)
    }

    /// Names of the agents in the order of their rows.
    pub fn agents(&self) -> Vec<&str> {
        self.sorted_nodes().into_iter().map(|node| node.name.as_str()).collect()
    }

    /// Names of the pending sessions in the order of their rows.
    pub fn jobs(&self) -> Vec<&str> {
        oldest_first(&self.pending).into_iter().map(|job| job.name.as_str()).collect()
    }

    fn sorted_nodes(&self) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    fn play<P: Scheduler>(&self, config: &str, until: Option<usize>) -> Result<(P, Course), String> {
        let snapshot = self.snapshot();
        let (agents, jobs) = (self.agents(), self.jobs());
        let mut books = Books::new(snapshot.clone());
        let mut policy = P::open(super::config::<P>(config)?, Round::new(snapshot))?;
        let mut decided = Vec::new();
        loop {
            let proposals = policy.propose(CHUNK);
            if proposals.is_empty() {
                break;
            }
            if proposals.len() > CHUNK {
                return Err(format!("{} proposals where at most {CHUNK} were asked for", proposals.len()));
            }
            let outcomes = proposals.iter().map(|proposal| books.judge(proposal)).collect::<Result<Vec<_>, _>>()?;
            policy.settle(&outcomes);
            let mut reached = false;
            for (proposal, outcome) in proposals.into_iter().zip(outcomes) {
                let (row, decision) = match proposal {
                    Proposal::Place(placement) => (
                        placement.session,
                        Decision::Place(placement.agents.iter().map(|row| agents[*row as usize].to_owned()).collect()),
                    ),
                    Proposal::Defer(deferral) => (deferral.session, Decision::Defer(deferral.lack, deferral.detail)),
                };
                reached |= until == Some(row as usize);
                decided.push(Decided { job: jobs[row as usize].to_owned(), decision, outcome });
            }
            if reached {
                break;
            }
        }
        Ok((policy, Course { decided, journal: journal() }))
    }
}

/// What a policy wanted done with a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Placed on these agents, one per kernel.
    Place(Vec<String>),
    /// Not now, and why.
    Defer(Lack, String),
}

/// A session's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The session.
    pub job: String,
    /// What the policy proposed.
    pub decision: Decision,
    /// What the books said.
    pub outcome: Outcome,
}

/// How a round went.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// Sessions in the order of their turns; those without a turn were left untouched.
    pub decided: Vec<Decided>,
    /// What the policy logged and counted.
    pub journal: Journal,
}

impl Course {
    /// Names of the sessions in the order of their turns.
    pub fn order(&self) -> Vec<&str> {
        self.decided.iter().map(|decided| decided.job.as_str()).collect()
    }

    /// The agents that a session was placed on, one per kernel, if the books took it.
    pub fn agents_of(&self, job: &str) -> Option<Vec<&str>> {
        match self.turn_of(job)? {
            Decided { decision: Decision::Place(agents), outcome: Outcome::Accepted, .. } => {
                Some(agents.iter().map(String::as_str).collect())
            }
            _ => None,
        }
    }

    /// The agent of a session's main kernel, if the books took it.
    pub fn agent_of(&self, job: &str) -> Option<&str> {
        self.agents_of(job).and_then(|agents| agents.first().copied())
    }

    /// Why a session was put off, if it was.
    pub fn lack_of(&self, job: &str) -> Option<Lack> {
        match self.turn_of(job)?.decision {
            Decision::Defer(lack, _) => Some(lack),
            Decision::Place(_) => None,
        }
    }

    /// A session's turn, if it had one.
    pub fn turn_of(&self, job: &str) -> Option<&Decided> {
        self.decided.iter().find(|decided| decided.job == job)
    }
}

fn oldest_first(jobs: &[Job]) -> Vec<&Job> {
    let mut jobs: Vec<&Job> = jobs.iter().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.waiting_ms));
    jobs
}

/// Texts turned into columns.
struct Building<'c> {
    cluster: &'c Cluster,
    nodes: Vec<&'c Node>,
    slots: Vec<Slot>,
    architectures: Vec<String>,
    owners: Vec<String>,
    projects: Vec<String>,
    domains: Vec<String>,
    kernels: Kernels,
}

impl<'c> Building<'c> {
    fn new(cluster: &'c Cluster) -> Self {
        let mut building = Building {
            cluster,
            nodes: cluster.sorted_nodes(),
            slots: Vec::new(),
            architectures: Vec::new(),
            owners: Vec::new(),
            projects: Vec::new(),
            domains: Vec::new(),
            kernels: Kernels {
                count: 0,
                architecture: Vec::new(),
                requested: Vec::new(),
                held: Vec::new(),
                agent: Vec::new(),
                more: Vec::new(),
            },
        };
        let jobs = || cluster.pending.iter().chain(&cluster.running);
        let texts = (building.nodes.iter().map(|node| &node.capacity))
            .chain(jobs().flat_map(|job| job.kernels.iter().map(|(text, _)| text)))
            .chain(cluster.limits.values().filter_map(|limit| limit.amounts.as_ref()));
        let names: Vec<String> =
            texts.flat_map(|text| amounts::parse(text, |name| building.kind(name))).map(|(name, _)| name).collect();
        for name in names {
            if !building.slots.iter().any(|slot| slot.name == name) {
                let kind = building.kind(&name);
                building.slots.push(Slot { name, kind });
            }
        }
        let sorted = |names: &mut dyn Iterator<Item = &String>| -> Vec<String> {
            let names: std::collections::BTreeSet<&String> = names.collect();
            names.into_iter().cloned().collect()
        };
        building.architectures = sorted(
            &mut building.nodes.iter().map(|node| &node.architecture).chain(jobs().map(|job| &job.architecture)),
        );
        building.owners = sorted(&mut jobs().map(|job| &job.owner));
        building.projects = sorted(&mut jobs().map(|job| &job.project));
        building.domains = sorted(&mut jobs().map(|job| &job.domain));
        building
    }

    fn kind(&self, name: &str) -> SlotKind {
        self.cluster.kinds.get(name).copied().unwrap_or_else(|| amounts::usual_kind(name))
    }

    fn amounts(&self, text: &str, absent: u64) -> Vec<u64> {
        let named: BTreeMap<String, u64> = amounts::parse(text, |name| self.kind(name)).into_iter().collect();
        self.slots.iter().map(|slot| named.get(&slot.name).copied().unwrap_or(absent)).collect()
    }

    fn architecture(&self, name: &str) -> u32 {
        row(&self.architectures, name)
    }

    fn finish(mut self) -> Snapshot {
        let cluster = self.cluster;
        let pending = self.sessions(&oldest_first(&cluster.pending), false);
        let running = self.sessions(&oldest_first(&cluster.running), true);
        let agents = self.agents(&running);
        let accounts = |table, names: &[String], rows: &[u32]| self.accounts(table, names, rows, &running);
        let (owners, projects, domains) = (
            accounts(Table::Owners, &self.owners, &running.owner),
            accounts(Table::Projects, &self.projects, &running.project),
            accounts(Table::Domains, &self.domains, &running.domain),
        );
        Snapshot {
            round: 1,
            now_ms: cluster.now_ms,
            seed: cluster.seed,
            slots: self.slots,
            architectures: self.architectures,
            pending,
            running,
            kernels: self.kernels,
            agents,
            owners,
            projects,
            domains,
        }
    }

    fn sessions(&mut self, jobs: &[&Job], hold: bool) -> Sessions {
        let width = self.slots.len();
        let mut table = Sessions {
            count: jobs.len() as u32,
            owner: jobs.iter().map(|job| row(&self.owners, &job.owner)).collect(),
            project: jobs.iter().map(|job| row(&self.projects, &job.project)).collect(),
            domain: jobs.iter().map(|job| row(&self.domains, &job.domain)).collect(),
            kind: jobs.iter().map(|job| job.kind).collect(),
            mode: jobs.iter().map(|job| job.mode).collect(),
            private: jobs.iter().map(|job| job.private).collect(),
            priority: jobs.iter().map(|job| job.priority).collect(),
            retries: jobs.iter().map(|job| job.retries).collect(),
            waiting_ms: jobs.iter().map(|job| job.waiting_ms).collect(),
            requested: Vec::new(),
            held: Vec::new(),
            first_kernel: vec![self.kernels.count],
            more: columns(
                jobs.len(),
                jobs.iter()
                    .enumerate()
                    .flat_map(|(row, job)| job.columns.iter().map(move |(name, cell)| (row, name.as_str(), cell))),
            ),
        };
        for job in jobs {
            let mut sum = vec![0_u64; width];
            for (text, agent) in &job.kernels {
                let requested = self.amounts(text, 0);
                sum.iter_mut().zip(&requested).for_each(|(sum, amount)| *sum = sum.saturating_add(*amount));
                let held = if hold { requested.clone() } else { vec![0; width] };
                let agent = agent.as_ref().map(|name| {
                    let found = self.nodes.iter().position(|node| node.name == *name);
                    found.unwrap_or_else(|| panic!("`{}` is tied to `{name}`, which isn't there", job.name)) as u32
                });
                self.kernels.count += 1;
                self.kernels.architecture.push(row(&self.architectures, &job.architecture));
                self.kernels.requested.extend(requested);
                self.kernels.held.extend(held);
                self.kernels.agent.push(agent);
            }
            table.held.extend(if hold { sum.clone() } else { vec![0; width] });
            table.requested.extend(sum);
            table.first_kernel.push(self.kernels.count);
        }
        table
    }

    fn agents(&self, running: &Sessions) -> Agents {
        let (nodes, width) = (&self.nodes, self.slots.len());
        let mut occupied = vec![0_u64; nodes.len() * width];
        let mut containers = vec![0; nodes.len()];
        let rows =
            running.first_kernel.first().copied().unwrap_or(0)..running.first_kernel.last().copied().unwrap_or(0);
        for kernel in rows.map(|row| row as usize) {
            let Some(agent) = self.kernels.agent[kernel].map(|agent| agent as usize) else { continue };
            containers[agent] += 1;
            let held = &self.kernels.held[kernel * width..][..width];
            for (sum, amount) in occupied[agent * width..][..width].iter_mut().zip(held) {
                *sum = sum.saturating_add(*amount);
            }
        }
        Agents {
            count: nodes.len() as u32,
            architecture: nodes.iter().map(|node| self.architecture(&node.architecture)).collect(),
            schedulable: nodes.iter().map(|node| node.schedulable).collect(),
            capacity: nodes.iter().flat_map(|node| self.amounts(&node.capacity, 0)).collect(),
            occupied,
            containers,
            more: columns(
                nodes.len(),
                nodes
                    .iter()
                    .enumerate()
                    .flat_map(|(row, node)| node.columns.iter().map(move |(name, cell)| (row, name.as_str(), cell))),
            ),
        }
    }

    fn accounts(&self, table: Table, names: &[String], rows: &[u32], running: &Sessions) -> Accounts {
        let width = self.slots.len();
        let mut occupied = vec![0_u64; names.len() * width];
        let (mut sessions, mut private) = (vec![0; names.len()], vec![0; names.len()]);
        for (session, account) in rows.iter().map(|account| *account as usize).enumerate() {
            if running.private[session] {
                private[account] += 1;
                continue;
            }
            sessions[account] += 1;
            let held = &running.held[session * width..][..width];
            for (sum, amount) in occupied[account * width..][..width].iter_mut().zip(held) {
                *sum = sum.saturating_add(*amount);
            }
        }
        let limit = |name: &String| self.cluster.limits.get(&(table, name.clone())).cloned().unwrap_or_default();
        let cells = self.cluster.columns.iter().filter(|(of, name, ..)| *of == table && names.contains(name));
        Accounts {
            count: names.len() as u32,
            occupied,
            limit: names
                .iter()
                .flat_map(|name| self.amounts(&limit(name).amounts.unwrap_or_default(), u64::MAX))
                .collect(),
            sessions,
            session_limit: names.iter().map(|name| limit(name).sessions.unwrap_or(u32::MAX)).collect(),
            private_sessions: private,
            private_session_limit: vec![u32::MAX; names.len()],
            more: columns(
                names.len(),
                cells.map(|(_, name, cell, column)| (row(names, name) as usize, column.as_str(), cell)),
            ),
        }
    }
}

fn row(names: &[String], name: &str) -> u32 {
    names.iter().position(|known| known == name).map_or(u32::MAX, |row| row as u32)
}

/// Optional columns from single cells; rows without one get nothing of it.
fn columns<'a>(rows: usize, cells: impl Iterator<Item = (usize, &'a str, &'a Cell)>) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (row, name, cell) in cells {
        let index = columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
            let data = match cell {
                Cell::Integer(_) => ColumnData::Integers(vec![0; rows]),
                Cell::Decimal(_) => ColumnData::Decimals(vec![0.0; rows]),
                Cell::Text(_) => ColumnData::Texts(vec![String::new(); rows]),
            };
            columns.push(Column { name: name.to_owned(), data });
            columns.len() - 1
        });
        match (&mut columns[index].data, cell) {
            (ColumnData::Integers(values), Cell::Integer(value)) => values[row] = *value,
            (ColumnData::Decimals(values), Cell::Decimal(value)) => values[row] = *value,
            (ColumnData::Texts(values), Cell::Text(value)) => values[row].clone_from(value),
            _ => panic!("the values of the column `{name}` are of different types"),
        }
    }
    columns
}
