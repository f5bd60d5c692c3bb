//! The one place that changes the status of sessions and kernels.
//!
//! A [`Work`] locks sessions with their kernels, takes changes in memory, checked against the
//! transition table of `model`, and writes all of them at once: rows, history, books and events, in a
//! constant number of statements however many sessions it carries.
//!
//! Sessions are locked before anything is read, in the order of their ids. So two transactions that
//! each end one kernel of a session can't both overlook the other's.

mod write;

use std::collections::HashMap;

use indexmap::IndexMap;
use quarterdeck_model::{
    AccessKey, AgentId, KernelId, KernelStatus, ProjectId, SessionId, SessionResult, SessionStatus, SessionType,
    Timestamp, UserId, lifecycle,
};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::occupancy::{Deltas, Scope, Units};
use crate::sql::{Dialect, Sql, Stmt};
use crate::{events, history, set};

/// A session as it stands in a [`Work`].
#[derive(Clone, Debug)]
pub struct SessionState {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: String,
    /// Where it stands, with the changes made so far.
    pub status: SessionStatus,
    /// What it is for.
    pub kind: SessionType,
    /// The key pair that owns it.
    pub access_key: AccessKey,
    /// The user that owns it.
    pub user: UserId,
    /// Its project.
    pub project: ProjectId,
    /// Its domain.
    pub domain: String,
    /// Its scaling group.
    pub scaling_group: String,
    /// Counted apart.
    pub is_private: bool,
    /// Its kernels, main kernel first.
    pub kernels: Vec<KernelId>,
    /// When it entered its status.
    pub status_changed: Timestamp,
    /// How a batch session ended.
    pub result: SessionResult,
    /// Whom to tell of its events.
    pub callback_url: Option<String>,
    before: SessionStatus,
    history: Map<String, Value>,
    patch: SessionPatch,
}

#[derive(Clone, Debug, Default)]
struct SessionPatch {
    dirty: bool,
    info: Option<String>,
    data: Option<Value>,
    result: Option<SessionResult>,
    exit_code: Option<i64>,
    retry_at: Option<Timestamp>,
}

/// A kernel as it stands in a [`Work`].
#[derive(Clone, Debug)]
pub struct KernelState {
    /// Its id.
    pub id: KernelId,
    /// Its session.
    pub session: SessionId,
    /// `main` or `sub`.
    pub role: String,
    /// Its index in the cluster.
    pub idx: i64,
    /// Where it stands, with the changes made so far.
    pub status: KernelStatus,
    /// Where it was placed.
    pub agent: Option<AgentId>,
    /// What it holds.
    pub held: Units,
    /// When it entered its status.
    pub status_changed: Timestamp,
    /// Why it has its status.
    pub info: Option<String>,
    /// Its `status_data`.
    pub data: Option<Value>,
    before: KernelStatus,
    patch: KernelPatch,
}

#[derive(Clone, Debug, Default)]
struct KernelPatch {
    dirty: bool,
    info: Option<String>,
    agent_addr: Option<String>,
    unplaced: bool,
    exit_code: Option<i64>,
    last_stat: Option<String>,
    log: Option<String>,
    result: Option<SessionResult>,
    started: Option<Started>,
}

/// What an agent tells about a kernel that has started.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// The container's id, or what the runtime has in its place.
    pub container_id: String,
    /// Where its ports are reached.
    pub kernel_host: Option<String>,
    /// JSON list of service ports.
    pub service_ports: Value,
    /// JSON object: which interpreter really runs.
    pub runtime_info: Option<Value>,
    /// JSON object: device → list of devices.
    pub attached_devices: Value,
    /// What it really got, in contract units and as shown; `None` = what was requested.
    pub allocated: Option<(Units, Value)>,
}

/// What happens to a kernel when it ends.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Its exit code, when known.
    pub exit_code: Option<i64>,
    /// Its last statistics, a JSON text.
    pub last_stat: Option<String>,
    /// Its output.
    pub log: Option<String>,
}

/// A status that a session entered in a [`Work`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The session.
    pub session: SessionId,
    /// Where it stood.
    pub from: SessionStatus,
    /// Where it stands.
    pub to: SessionStatus,
}

/// Changes of statuses that are written together.
#[derive(Debug)]
pub struct Work {
    now: Timestamp,
    sessions: IndexMap<SessionId, SessionState>,
    kernels: HashMap<KernelId, KernelState>,
    history: Vec<history::Entry>,
    events: Vec<events::NewEvent>,
    deltas: Deltas,
    changes: Vec<Change>,
}

impl Work {
    /// Locks these sessions (missing ones are left out) and reads them with their kernels.
    pub async fn open<S: Sql>(sql: &mut S, ids: impl IntoIterator<Item = SessionId>, now: Timestamp) -> Result<Self> {
        let mut work = Self {
            now,
            sessions: IndexMap::new(),
            kernels: HashMap::new(),
            history: Vec::new(),
            events: Vec::new(),
            deltas: Deltas::default(),
            changes: Vec::new(),
        };
        let ids = set::array(ids.into_iter().collect::<std::collections::BTreeSet<_>>());
        let dialect = sql.dialect();
        let lock = if dialect == Dialect::Postgres { "FOR NO KEY UPDATE" } else { "" };
        let rows = sql
            .fetch_all(
                Stmt::assembled(format!(
                    "SELECT id, name, status, session_type, access_key, user_id, project_id, domain_name, scaling_group, is_private, \
                     status_changed, status_history, result, callback_url FROM sessions WHERE id {} ORDER BY id {lock}",
                    set::among(dialect, "$1")
                ))
                .bind(ids),
            )
            .await?;
        for row in &rows {
            let id: SessionId = row.parse("id")?;
            let status: SessionStatus = row.parse("status")?;
            work.sessions.insert(
                id,
                SessionState {
                    id,
                    name: row.get("name")?,
                    status,
                    kind: row.parse("session_type")?,
                    access_key: row.parse("access_key")?,
                    user: row.parse("user_id")?,
                    project: row.parse("project_id")?,
                    domain: row.get("domain_name")?,
                    scaling_group: row.get("scaling_group")?,
                    is_private: row.get("is_private")?,
                    kernels: Vec::new(),
                    status_changed: Timestamp(row.get("status_changed")?),
                    result: row.parse("result")?,
                    callback_url: row.get("callback_url")?,
                    before: status,
                    history: row.json("status_history")?,
                    patch: SessionPatch::default(),
                },
            );
        }
        let rows = sql
            .fetch_all(
                Stmt::assembled(format!(
                    "SELECT id, session_id, cluster_role, cluster_idx, status, agent_id, held, status_changed, status_info, status_data \
                     FROM kernels WHERE session_id {} ORDER BY session_id, CASE cluster_role WHEN 'main' THEN 0 ELSE 1 END, cluster_idx",
                    set::among(dialect, "$1")
                ))
                .bind(set::array(work.sessions.keys())),
            )
            .await?;
        for row in &rows {
            let id: KernelId = row.parse("id")?;
            let session: SessionId = row.parse("session_id")?;
            let status: KernelStatus = row.parse("status")?;
            work.kernels.insert(
                id,
                KernelState {
                    id,
                    session,
                    role: row.get("cluster_role")?,
                    idx: row.get("cluster_idx")?,
                    status,
                    agent: row.parse_opt("agent_id")?,
                    held: row.json("held")?,
                    status_changed: Timestamp(row.get("status_changed")?),
                    info: row.get("status_info")?,
                    data: row.json_opt("status_data")?,
                    before: status,
                    patch: KernelPatch::default(),
                },
            );
            if let Some(owner) = work.sessions.get_mut(&session) {
                owner.kernels.push(id);
            }
        }
        Ok(work)
    }

    /// The instant of all changes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A session of this work.
    pub fn session(&self, id: SessionId) -> Option<&SessionState> {
        self.sessions.get(&id)
    }

    /// All sessions of this work, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionState> {
        self.sessions.values()
    }

    /// A kernel of this work.
    pub fn kernel(&self, id: KernelId) -> Option<&KernelState> {
        self.kernels.get(&id)
    }

    /// The kernels of a session, main kernel first.
    pub fn kernels_of(&self, session: SessionId) -> Vec<&KernelState> {
        let Some(session) = self.sessions.get(&session) else { return Vec::new() };
        session.kernels.iter().filter_map(|id| self.kernels.get(id)).collect()
    }

    /// Whether the session has been `RUNNING`.
    pub fn has_run(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.history.contains_key(SessionStatus::Running.as_str()))
    }

    /// The session's main kernel.
    pub fn main_kernel(&self, session: SessionId) -> Option<&KernelState> {
        self.kernels_of(session).into_iter().find(|k| k.role == "main")
    }

    /// Says where a kernel was placed. Only before it leaves `PENDING`: from then on its agent's books count it.
    /// Returns whether that was so.
    pub fn place(&mut self, kernel: KernelId, agent: &AgentId, addr: &str) -> bool {
        let Some(state) = self.kernels.get_mut(&kernel) else { return false };
        if state.status != KernelStatus::Pending {
            return false;
        }
        state.agent = Some(agent.clone());
        state.patch.agent_addr = Some(addr.to_owned());
        state.patch.dirty = true;
        true
    }

    /// Puts a session back into the queue that no agent knows: all of it is `PREPARING`, and it has never run. Its kernels
    /// lose their agents. Returns whether that was so.
    pub fn requeue(&mut self, id: SessionId, info: &str, data: &Value) -> bool {
        let is_untold = self.sessions.get(&id).is_some_and(|s| s.status == SessionStatus::Preparing)
            && !self.has_run(id)
            && self.kernels_of(id).iter().all(|k| k.status == KernelStatus::Preparing);
        if !is_untold || !self.set_session(id, SessionStatus::Pending, Some(info), Some(data.clone())) {
            return false;
        }
        let kernels: Vec<_> = self.kernels_of(id).iter().map(|k| k.id).collect();
        for kernel in kernels {
            self.set_kernel(kernel, KernelStatus::Pending, Some(info), Some(data.clone()));
            if let Some(state) = self.kernels.get_mut(&kernel) {
                state.agent = None;
                state.patch.agent_addr = None;
                state.patch.unplaced = true;
            }
        }
        true
    }

    /// Moves a kernel to another status, if the transition table allows it. `info` and `data` of `None` stay as they are.
    /// Returns whether it moved.
    pub fn set_kernel(&mut self, kernel: KernelId, to: KernelStatus, info: Option<&str>, data: Option<Value>) -> bool {
        let Some(state) = self.kernels.get_mut(&kernel) else { return false };
        let from = state.status;
        if !lifecycle::kernel_can(from, to) {
            return false;
        }
        let Some(session) = self.sessions.get(&state.session) else { return false };
        if let Some(agent) = &state.agent {
            match (from.occupies_agent(), to.occupies_agent()) {
                (false, true) => self.deltas.agent(agent, &state.held, 1),
                (true, false) => self.deltas.agent(agent, &state.held, -1),
                _ => {}
            }
        }
        match (from.occupies_user(), to.occupies_user()) {
            (false, true) => count(&mut self.deltas, session, &state.held, 1),
            (true, false) => count(&mut self.deltas, session, &state.held, -1),
            _ => {}
        }
        state.status = to;
        state.status_changed = self.now;
        state.patch.dirty = true;
        if let Some(info) = info {
            state.info = Some(info.to_owned());
            state.patch.info = Some(info.to_owned());
        }
        if data.is_some() {
            state.data = data;
        }
        self.history.push(history::Entry {
            session: state.session,
            kernel: Some(kernel),
            status: to.to_string(),
            reason: info.filter(|i| !i.is_empty()).map(str::to_owned),
            at: self.now,
        });
        true
    }

    /// Notes what the agent tells about a kernel that has just become `RUNNING`; the books follow what it really got.
    pub fn started(&mut self, kernel: KernelId, mut started: Started) {
        let Some(state) = self.kernels.get_mut(&kernel) else { return };
        let Some(session) = self.sessions.get(&state.session) else { return };
        if let Some((held, _)) = &mut started.allocated {
            held.retain(|_, amount| *amount != 0);
            if state.status.occupies_agent()
                && let Some(agent) = &state.agent
            {
                self.deltas.agent(agent, &state.held, -1);
                self.deltas.agent(agent, held, 1);
            }
            if state.status.occupies_user() {
                count(&mut self.deltas, session, &state.held, -1);
                count(&mut self.deltas, session, held, 1);
            }
            state.held.clone_from(held);
        }
        state.patch.started = Some(started);
        state.patch.dirty = true;
    }

    /// Ends a kernel as `TERMINATED`, if it isn't dead yet, with its exit code, statistics and output.
    /// Also where the table knows no direct way, as a forced end of what never ran.
    pub fn end_kernel(&mut self, kernel: KernelId, reason: &str, ended: Ended) -> bool {
        let Some(state) = self.kernels.get(&kernel) else { return false };
        if state.status.is_dead() {
            return false;
        }
        let mut data = match state.data.clone() {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        data.insert("kernel".to_owned(), json!({ "exit_code": ended.exit_code }));
        if !lifecycle::kernel_can(state.status, KernelStatus::Terminated) {
            // What an agent says has ended has ended, wherever it stood on our side.
            self.set_kernel(kernel, KernelStatus::Terminating, Some(reason), None);
        }
        if !self.set_kernel(kernel, KernelStatus::Terminated, Some(reason), Some(Value::Object(data))) {
            return false;
        }
        if let Some(state) = self.kernels.get_mut(&kernel) {
            state.patch.exit_code = ended.exit_code;
            state.patch.last_stat = ended.last_stat;
            state.patch.log = ended.log.filter(|log| !log.is_empty());
        }
        true
    }

    /// Moves a session to another status, if the transition table allows it. `info` and `data` of `None` stay as they are.
    /// Returns whether it moved.
    pub fn set_session(&mut self, id: SessionId, to: SessionStatus, info: Option<&str>, data: Option<Value>) -> bool {
        let Some(state) = self.sessions.get_mut(&id) else { return false };
        let from = state.status;
        if !lifecycle::session_can(from, to) {
            return false;
        }
        match (from.occupies_user(), to.occupies_user()) {
            (false, true) => self.deltas.sessions(&state.access_key, state.is_private, 1),
            (true, false) => self.deltas.sessions(&state.access_key, state.is_private, -1),
            _ => {}
        }
        state.status = to;
        state.status_changed = self.now;
        state.history.insert(to.to_string(), Value::String(self.now.iso()));
        state.patch.dirty = true;
        // Finished batch sessions are found by their turn, whichever way they come to run.
        state.patch.retry_at = (state.result != SessionResult::Undefined).then_some(self.now);
        if let Some(info) = info {
            state.patch.info = Some(info.to_owned());
        }
        if data.is_some() {
            state.patch.data = data;
        }
        self.history.push(history::Entry {
            session: id,
            kernel: None,
            status: to.to_string(),
            reason: info.filter(|i| !i.is_empty()).map(str::to_owned),
            at: self.now,
        });
        self.changes.push(Change { session: id, from, to });
        true
    }

    /// When the loop that serves the session's status looks at it again; a change of status resets it to "now".
    pub fn retry_at(&mut self, id: SessionId, at: Timestamp) {
        if let Some(state) = self.sessions.get_mut(&id) {
            state.patch.retry_at = Some(at);
            state.patch.dirty = true;
        }
    }

    /// Notes how the command of a batch session ended. The first result stays.
    pub fn set_result(&mut self, id: SessionId, result: SessionResult, exit_code: i64) -> bool {
        let Some(state) = self.sessions.get_mut(&id) else { return false };
        if state.result != SessionResult::Undefined {
            return false;
        }
        state.result = result;
        state.patch.result = Some(result);
        state.patch.exit_code = Some(exit_code);
        state.patch.dirty = true;
        if let Some(kernel) = state.kernels.first().and_then(|id| self.kernels.get_mut(id)) {
            kernel.patch.result = Some(result);
            kernel.patch.dirty = true;
        }
        true
    }

    /// Derives the session's status from its kernels' and moves it there if it may. Returns the new status.
    pub fn derive(&mut self, id: SessionId, reason: Option<&str>) -> Option<SessionStatus> {
        let current = self.sessions.get(&id)?.status;
        let parts: Vec<_> = self.kernels_of(id).iter().map(|k| (k.role.as_str(), k.status)).collect();
        let to = lifecycle::derive(&parts)?;
        (to != current && self.set_session(id, to, reason, None)).then_some(to)
    }

    /// Logs an event of a session (its main kernel is named with it).
    pub fn session_event(&mut self, name: &'static str, session: SessionId, reason: &str, exit_code: Option<i64>) {
        let kernel = self.main_kernel(session).map(|k| k.id);
        let callback_url = self.sessions.get(&session).and_then(|s| s.callback_url.clone());
        let at = self.now;
        self.events.push(events::NewEvent {
            name,
            session: Some(session),
            kernel,
            reason: reason.to_owned(),
            exit_code,
            at,
            callback_url,
        });
    }

    /// Logs an event of a kernel.
    pub fn kernel_event(&mut self, name: &'static str, kernel: KernelId, reason: &str, exit_code: Option<i64>) {
        let session = self.kernels.get(&kernel).map(|k| k.session);
        let at = self.now;
        self.events.push(events::NewEvent {
            name,
            session,
            kernel: Some(kernel),
            reason: reason.to_owned(),
            exit_code,
            at,
            callback_url: None,
        });
    }

    /// The sessions' moves so far, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.events.is_empty()
            && !self.sessions.values().any(|s| s.patch.dirty)
            && !self.kernels.values().any(|k| k.patch.dirty)
    }

    /// Writes everything. The transaction is the caller's to commit.
    pub async fn flush<S: Sql>(self, sql: &mut S) -> Result<Vec<Change>> {
        write::sessions(sql, &self.sessions, self.now).await?;
        write::kernels(sql, &self.kernels, self.now).await?;
        history::append(sql, &self.history).await?;
        self.deltas.write(sql).await?;
        events::append(sql, &self.events).await?;
        Ok(self.changes)
    }
}

fn count(deltas: &mut Deltas, session: &SessionState, held: &Units, sign: i64) {
    if session.is_private {
        return;
    }
    deltas.holder(Scope::Keypair, session.access_key.as_str(), held, sign);
    deltas.holder(Scope::Project, &session.project.to_string(), held, sign);
    deltas.holder(Scope::Domain, &session.domain, held, sign);
}
