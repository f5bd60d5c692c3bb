//! What must hold after every step (`DESIGN.md` §9), read from the tables by somebody who isn't the host.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use quarterdeck_model::lifecycle::{kernel_can, session_can};
use quarterdeck_model::{KernelStatus, SessionId, SessionStatus};
use quarterdeck_store::{Options, Row, Sql, Stmt, Store};
use tokio::runtime::Runtime;

use super::agent::SimAgent;
use super::host;

/// What holders may hold, as the world set it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of the project: thousandths of processors.
    pub(super) project_cpu: i64,
    /// Of the key pair.
    pub(super) sessions: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) status: SessionStatus,
    pub(super) info: Option<String>,
    access_key: String,
    project: String,
    domain: String,
    is_private: bool,
    single_node: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) id: String,
    pub(super) session: SessionId,
    pub(super) status: KernelStatus,
    pub(super) agent: Option<String>,
    held: BTreeMap<String, i64>,
}

/// Everything that the laws are about.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) kernels: Vec<Kernel>,
    /// (agent, slot) → (capacity, occupied)
    slots: BTreeMap<(String, String), (i64, i64)>,
    /// (scope, holder, slot) → amount
    occupancy: BTreeMap<(String, String, String), i64>,
    /// Key pair → sessions, private ones.
    concurrency: BTreeMap<String, (i64, i64)>,
}

/// Somebody who looks at the tables and remembers what was.
pub(super) struct Observer {
    runtime: Runtime,
    pub(super) store: Store,
    statuses: HashMap<String, String>,
    newest: i64,
    /// Of the state that was looked at last.
    version: i64,
    before: Picture,
    /// Sessions that have run.
    ran: HashSet<SessionId>,
}

type Law = Result<(), String>;

fn breach(what: impl Into<String>) -> Law {
    Err(what.into())
}

impl Observer {
    pub(super) fn new(url: &str) -> Self {
        let runtime = host::runtime();
        let options = Options { connections: 1, ..Options::default() };
        let store = runtime.block_on(Store::open(url, &options)).unwrap();
        Self {
            runtime,
            store,
            statuses: HashMap::new(),
            newest: 0,
            version: 0,
            before: Picture::default(),
            ran: HashSet::new(),
        }
    }

    pub(super) fn execute(&self, stmt: Stmt) {
        self.runtime.block_on(self.store.reader().execute(stmt)).unwrap();
    }

    fn all(&self, stmt: Stmt) -> Vec<Row> {
        self.runtime.block_on(self.store.reader().fetch_all(stmt)).unwrap()
    }

    pub(super) fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        let text = |row: &Row, name: &str| row.get::<String>(name).unwrap();
        let int = |row: &Row, name: &str| row.get::<i64>(name).unwrap();
        for row in self.all(Stmt::new(
            "SELECT id, status, status_info, access_key, project_id, domain_name, is_private, cluster_mode FROM sessions",
        )) {
            let id = row.parse("id").unwrap();
            let session = Session {
                id,
                status: row.parse("status").unwrap(),
                info: row.get("status_info").unwrap(),
                access_key: text(&row, "access_key"),
                project: text(&row, "project_id"),
                domain: text(&row, "domain_name"),
                is_private: row.get("is_private").unwrap(),
                single_node: text(&row, "cluster_mode") == "single-node",
            };
            picture.sessions.insert(id, session);
        }
        for row in self.all(Stmt::new("SELECT id, session_id, status, agent_id, held FROM kernels")) {
            picture.kernels.push(Kernel {
                id: text(&row, "id"),
                session: row.parse("session_id").unwrap(),
                status: row.parse("status").unwrap(),
                agent: row.get("agent_id").unwrap(),
                held: row.json("held").unwrap(),
            });
        }
        for row in self.all(Stmt::new("SELECT agent_id, slot, capacity, occupied FROM agent_slots")) {
            let cell = (text(&row, "agent_id"), text(&row, "slot"));
            picture.slots.insert(cell, (int(&row, "capacity"), int(&row, "occupied")));
        }
        for row in self.all(Stmt::new("SELECT scope, holder, slot, amount FROM occupancy WHERE amount <> 0")) {
            let cell = (text(&row, "scope"), text(&row, "holder"), text(&row, "slot"));
            picture.occupancy.insert(cell, int(&row, "amount"));
        }
        for row in self.all(Stmt::new(
            "SELECT access_key, sessions, private_sessions FROM concurrency WHERE sessions <> 0 OR private_sessions <> 0",
        )) {
            let counts = (int(&row, "sessions"), int(&row, "private_sessions"));
            picture.concurrency.insert(text(&row, "access_key"), counts);
        }
        picture
    }

    /// Checks all laws. `excused` are the sessions to which something happened that may end them.
    pub(super) fn check(&mut self, agents: &[SimAgent], limits: Limits, excused: &HashSet<SessionId>) -> Law {
        on_one_agent(agents)?;
        let stmt = Stmt::new("SELECT data_version FROM pragma_data_version");
        let version = self.all(stmt)[0].get("data_version").unwrap();
        if std::mem::replace(&mut self.version, version) == version {
            return Ok(());
        }
        let now = self.picture();
        books(&now)?;
        capacity(&self.before, &now)?;
        quotas(&self.before, &now, limits)?;
        together(&now)?;
        self.transitions()?;
        for session in now.sessions.values() {
            use SessionStatus as S;
            match session.status {
                S::Running | S::RunningDegraded => drop(self.ran.insert(session.id)),
                S::Terminating | S::Terminated | S::Cancelled | S::Error
                    if self.ran.contains(&session.id) && !excused.contains(&session.id) =>
                {
                    return breach(format!("{session:?} ran, and ended for no reason"));
                }
                _ => {}
            }
        }
        self.before = now;
        Ok(())
    }

    /// No status follows another that the tables don't let it follow.
    fn transitions(&mut self) -> Law {
        let stmt = Stmt::new("SELECT id, session_id, kernel_id, status FROM history WHERE id > $1 ORDER BY id");
        for row in self.all(stmt.bind(self.newest)) {
            self.newest = row.get("id").unwrap();
            let kernel: Option<String> = row.get("kernel_id").unwrap();
            let to: String = row.get("status").unwrap();
            let is_kernel = kernel.is_some();
            let key = kernel.unwrap_or_else(|| row.get("session_id").unwrap());
            let from = self.statuses.insert(key.clone(), to.clone());
            let allowed = match (&from, is_kernel) {
                (None, _) => to == "PENDING",
                (Some(from), true) => {
                    let (from, to): (KernelStatus, KernelStatus) = (from.parse().unwrap(), to.parse().unwrap());
                    kernel_can(from, to)
                }
                (Some(from), false) => {
                    let (from, to): (SessionStatus, SessionStatus) = (from.parse().unwrap(), to.parse().unwrap());
                    session_can(from, to)
                }
            };
            if !allowed {
                return breach(format!("{key} went from {from:?} to {to}"));
            }
        }
        Ok(())
    }
}

/// Counters equal what the rows add up to.
fn books(now: &Picture) -> Law {
    let mut agents: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut holders: BTreeMap<(String, String, String), i64> = BTreeMap::new();
    for kernel in &now.kernels {
        let session = &now.sessions[&kernel.session];
        for (slot, amount) in &kernel.held {
            if let (true, Some(agent)) = (kernel.status.occupies_agent(), &kernel.agent) {
                *agents.entry((agent.clone(), slot.clone())).or_default() += amount;
            }
            if kernel.status.occupies_user() && !session.is_private {
                for (scope, holder) in
                    [("keypair", &session.access_key), ("project", &session.project), ("domain", &session.domain)]
                {
                    *holders.entry((scope.to_owned(), holder.clone(), slot.clone())).or_default() += amount;
                }
            }
        }
    }
    let mut sessions: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for session in now.sessions.values().filter(|s| s.status.occupies_user()) {
        let counts = sessions.entry(session.access_key.clone()).or_default();
        if session.is_private { counts.1 += 1 } else { counts.0 += 1 }
    }
    let counted: BTreeMap<_, _> =
        now.slots.iter().filter(|(_, (_, n))| *n != 0).map(|(cell, (_, n))| (cell.clone(), *n)).collect();
    agents.retain(|_, n| *n != 0);
    holders.retain(|_, n| *n != 0);
    if counted != agents {
        return breach(format!("agents' books say {counted:?}, their kernels add up to {agents:?}"));
    }
    if now.occupancy != holders {
        return breach(format!("holders' books say {:?}, their kernels add up to {holders:?}", now.occupancy));
    }
    if now.concurrency != sessions {
        return breach(format!("key pairs' books say {:?}, they have {sessions:?}", now.concurrency));
    }
    Ok(())
}

/// No reservation makes an agent hold more than it has.
fn capacity(before: &Picture, now: &Picture) -> Law {
    for (cell, (capacity, occupied)) in &now.slots {
        let was = before.slots.get(cell).map_or(0, |(_, occupied)| *occupied);
        if occupied > capacity && *occupied > was {
            return breach(format!("{cell:?} came to hold {occupied} of {capacity}"));
        }
    }
    Ok(())
}

/// No reservation makes anybody hold more than is allowed.
fn quotas(before: &Picture, now: &Picture, limits: Limits) -> Law {
    for (cell, amount) in now.occupancy.iter().filter(|((scope, _, slot), _)| scope == "project" && slot == "cpu") {
        let was = before.occupancy.get(cell).copied().unwrap_or(0);
        if *amount > limits.project_cpu && *amount > was {
            return breach(format!("{cell:?} came to hold {amount} of {}", limits.project_cpu));
        }
    }
    for (key, (sessions, _)) in &now.concurrency {
        let was = before.concurrency.get(key).map_or(0, |(sessions, _)| *sessions);
        if *sessions > limits.sessions && *sessions > was {
            return breach(format!("{key} came to have {sessions} sessions of {}", limits.sessions));
        }
    }
    Ok(())
}

/// A session's kernels move together.
fn together(now: &Picture) -> Law {
    let mut by_session: BTreeMap<SessionId, Vec<&Kernel>> = BTreeMap::new();
    for kernel in &now.kernels {
        by_session.entry(kernel.session).or_default().push(kernel);
    }
    for session in now.sessions.values() {
        let Some(kernels) = by_session.get(&session.id) else {
            return breach(format!("{session:?} has no kernels"));
        };
        let all = |holds: &dyn Fn(&Kernel) -> bool| kernels.iter().all(|k| holds(k));
        let fine = match session.status {
            SessionStatus::Pending => all(&|k| k.status == KernelStatus::Pending && k.agent.is_none()),
            SessionStatus::Scheduled => all(&|k| k.status == KernelStatus::Scheduled && k.agent.is_some()),
            status if status.is_dead() => all(&|k| k.status.is_dead()),
            _ => all(&|k| k.agent.is_some()),
        };
        if !fine {
            return breach(format!("{session:?} and its kernels don't go together: {kernels:?}"));
        }
        let agents: BTreeSet<_> = kernels.iter().filter_map(|k| k.agent.as_ref()).collect();
        if session.single_node && agents.len() > 1 {
            return breach(format!("{session:?} shares no agent: {agents:?}"));
        }
    }
    Ok(())
}

/// No kernel was ever on two agents.
fn on_one_agent(agents: &[SimAgent]) -> Law {
    let mut seen: HashMap<String, String> = HashMap::new();
    for agent in agents {
        let state = agent.state();
        for kernel in &state.ever {
            if let Some(other) = seen.insert(kernel.clone(), state.id.clone()) {
                return breach(format!("kernel {kernel} was created on {other} and on {}", state.id));
            }
        }
    }
    Ok(())
}
