//! The end of a scheduling round: everything it decided, in one transaction.
//!
//! The round was decided on a snapshot. Here the rows are locked and looked at once more, in the
//! order of the decisions: what no longer holds is left out as *stale* and waits for the next
//! round, the rest is written. The writing statements carry the guards again, so that no mistake
//! before them can oversubscribe an agent or an account.

use std::collections::{BTreeMap, HashMap, HashSet};

use quarterdeck_model::{AccessKey, AgentId, AgentStatus, KernelId, SessionId, Timestamp};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::events::{self, NewEvent};
use crate::history::{self, Entry};
use crate::occupancy::Scope;
use crate::sql::{Dialect, Sql, Stmt, Tx};
use crate::{revisions, set};

/// What a round decided. Amounts are in the order of `slots`.
#[derive(Clone, Debug)]
pub struct Commit {
    /// When.
    pub at: Timestamp,
    /// Names of the slots.
    pub slots: Vec<String>,
    /// Sessions to reserve agents for, in the order of the decisions.
    pub placed: Vec<Placed>,
    /// What to note at sessions that stay pending.
    pub records: Vec<Record>,
    /// Sessions that end before they ran.
    pub cancelled: Vec<Cancelled>,
    /// The accounts of the placed sessions.
    pub accounts: Vec<Account>,
    /// Key pairs whose concurrency counters are to be counted anew.
    pub recount: Vec<AccessKey>,
}

/// Agents for a session.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Position among the decisions: the order of the events.
    pub order: u32,
    /// The session.
    pub id: SessionId,
    /// Its owner.
    pub access_key: AccessKey,
    /// Its project.
    pub project: String,
    /// Its domain.
    pub domain: String,
    /// Exempt from quotas and counted apart.
    pub is_private: bool,
    /// Its kernels, the main one first.
    pub kernels: Vec<PlacedKernel>,
}

/// An agent for a kernel.
#[derive(Clone, Debug)]
pub struct PlacedKernel {
    /// The kernel.
    pub id: KernelId,
    /// Its agent.
    pub agent: AgentId,
    /// What it takes there.
    pub held: Vec<i64>,
}

/// Notes at a session that stays pending.
#[derive(Clone, Debug)]
pub struct Record {
    /// The session.
    pub id: SessionId,
    /// Why it waits.
    pub status_info: String,
    /// Its new status data.
    pub status_data: Json,
    /// Notes at its kernels.
    pub kernels: Vec<KernelRecord>,
}

/// Notes at a kernel.
#[derive(Clone, Debug)]
pub struct KernelRecord {
    /// The kernel.
    pub id: KernelId,
    /// `None`: as it was.
    pub status_info: Option<String>,
    /// Its new status data.
    pub status_data: Json,
}

/// A session that ends before it ran.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// Position among the decisions: the order of the events.
    pub order: u32,
    /// The session.
    pub id: SessionId,
    /// Its main kernel, for the event.
    pub main_kernel: Option<KernelId>,
    /// Why.
    pub reason: &'static str,
    /// Its new status data; `None`: as it was.
    pub status_data: Option<Json>,
}

/// What somebody may hold, as the round understood it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub scope: Scope,
    /// The access key, project id or domain name.
    pub holder: String,
    /// What `limit` was made of: a change since then makes the account's sessions stale.
    pub fingerprint: String,
    /// Per slot; `i64::MAX`: no limit.
    pub limit: Vec<i64>,
    /// Sessions and private sessions at most (owners only); `i64::MAX`: no limit.
    pub sessions: (i64, i64),
}

/// Why a decision could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The session is no longer pending.
    Session,
    /// An agent has less room than it had, or is gone.
    Agent,
    /// The owner, project or domain holds more, or may hold less, than it did.
    Account,
}

/// What became of a round.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Sessions with agents now.
    pub placed: Vec<SessionId>,
    /// Sessions that were noted at.
    pub recorded: Vec<SessionId>,
    /// Sessions that ended.
    pub cancelled: Vec<SessionId>,
    /// Decisions that no longer held.
    pub stale: Vec<(SessionId, StaleReason)>,
}

impl super::OwnerRow {
    /// Equal texts mean equal limits.
    pub fn fingerprint(&self) -> String {
        format!(
            "{}\n{}\n{}\n{}",
            self.total_resource_slots,
            self.default_for_unspecified,
            self.max_concurrent_sessions,
            self.max_concurrent_sftp_sessions
        )
    }
}

impl super::HolderRow {
    /// Equal texts mean equal limits.
    pub fn fingerprint(&self) -> String {
        self.total_resource_slots.clone()
    }
}

/// Writes a round. Give it a fresh transaction; on an error that
/// [is transient](Error::is_transient), try the whole again.
///
/// # Errors
/// Database errors; [`Error::Conflict`] when rows changed in a way that the locks should prevent.
pub async fn commit(tx: &mut Tx, round: &Commit) -> Result<Committed> {
    let pending = lock_pending(tx, round).await?;
    let mut out = Committed::default();
    let placed = validate(tx, round, &pending, &mut out).await?;
    let records: Vec<&Record> = round.records.iter().filter(|r| pending.contains(&r.id)).collect();
    let cancelled: Vec<&Cancelled> = round.cancelled.iter().filter(|c| pending.contains(&c.id)).collect();

    place(tx, round, &placed).await?;
    record(tx, &records).await?;
    cancel(tx, round.at, &cancelled).await?;
    recount(tx, &round.recount).await?;
    tell(tx, round.at, &placed, &cancelled).await?;
    if !placed.is_empty() || !cancelled.is_empty() {
        revisions::bump(tx, revisions::SESSIONS).await?;
    }
    out.placed = placed.iter().map(|p| p.id).collect();
    out.recorded = records.iter().map(|r| r.id).collect();
    out.cancelled = cancelled.iter().map(|c| c.id).collect();
    Ok(out)
}

/// Locks the sessions concerned; those that are still pending.
async fn lock_pending(tx: &mut Tx, round: &Commit) -> Result<HashSet<SessionId>> {
    let ids = round.placed.iter().map(|p| p.id).chain(round.records.iter().map(|r| r.id));
    let ids: Vec<SessionId> = ids.chain(round.cancelled.iter().map(|c| c.id)).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let stmt = Stmt::among("SELECT id FROM sessions WHERE id IN {list} AND status = 'PENDING'", ids)
        .on_postgres("ORDER BY id COLLATE \"C\" FOR UPDATE");
    tx.fetch_all(stmt).await?.iter().map(|row| row.parse("id")).collect()
}

type Holder = (&'static str, String);

/// What the rows say now about agents and accounts, with the decisions that passed so far.
#[derive(Default)]
struct Current {
    alive: HashSet<AgentId>,
    /// (agent, slot) → room.
    room: HashMap<(AgentId, usize), i64>,
    /// Accounts whose limits are as the round knew them.
    unchanged: HashSet<Holder>,
    held: HashMap<(Holder, usize), i64>,
    /// Access key → sessions, private sessions.
    sessions: HashMap<String, (i64, i64)>,
}

/// The accounts that a session counts for.
fn holders(p: &Placed) -> [Holder; 3] {
    [
        (Scope::Keypair.as_str(), p.access_key.0.clone()),
        (Scope::Project.as_str(), p.project.clone()),
        (Scope::Domain.as_str(), p.domain.clone()),
    ]
}

impl Placed {
    fn total(&self, slot: usize) -> i64 {
        self.kernels.iter().fold(0, |sum, k| sum.saturating_add(k.held[slot]))
    }
}

/// The placements that hold against the rows as they are now, in order.
async fn validate<'r>(
    tx: &mut Tx,
    round: &'r Commit,
    pending: &HashSet<SessionId>,
    out: &mut Committed,
) -> Result<Vec<&'r Placed>> {
    if round.placed.is_empty() {
        return Ok(Vec::new());
    }
    let accounts: HashMap<Holder, &Account> =
        round.accounts.iter().map(|a| ((a.scope.as_str(), a.holder.clone()), a)).collect();
    let mut now = current(tx, round, &accounts).await?;
    let mut passed = Vec::with_capacity(round.placed.len());
    for session in &round.placed {
        match now.take(session, pending, &accounts) {
            Ok(()) => passed.push(session),
            Err(reason) => out.stale.push((session.id, reason)),
        }
    }
    Ok(passed)
}

impl Current {
    /// Books the session, or says why that can't be.
    fn take(
        &mut self,
        session: &Placed,
        pending: &HashSet<SessionId>,
        accounts: &HashMap<Holder, &Account>,
    ) -> std::result::Result<(), StaleReason> {
        if !pending.contains(&session.id) {
            return Err(StaleReason::Session);
        }
        let mut wanted: BTreeMap<(AgentId, usize), i64> = BTreeMap::new();
        for kernel in &session.kernels {
            if !self.alive.contains(&kernel.agent) {
                return Err(StaleReason::Agent);
            }
            for (slot, amount) in kernel.held.iter().enumerate().filter(|(_, amount)| **amount > 0) {
                let cell = wanted.entry((kernel.agent.clone(), slot)).or_default();
                *cell = cell.saturating_add(*amount);
            }
        }
        if wanted.iter().any(|(key, amount)| self.room.get(key).is_none_or(|room| room < amount)) {
            return Err(StaleReason::Agent);
        }
        let holders = holders(session);
        let slots = session.kernels.first().map_or(0, |k| k.held.len());
        if !session.is_private {
            for holder in &holders {
                let Some(account) = accounts.get(holder).filter(|_| self.unchanged.contains(holder)) else {
                    return Err(StaleReason::Account);
                };
                for slot in 0..slots {
                    let held = self.held.get(&(holder.clone(), slot)).copied().unwrap_or(0);
                    if held.saturating_add(session.total(slot)) > account.limit[slot] && account.limit[slot] != i64::MAX
                    {
                        return Err(StaleReason::Account);
                    }
                }
            }
        }
        let owner = accounts.get(&holders[0]).filter(|_| self.unchanged.contains(&holders[0]));
        let limit = owner.ok_or(StaleReason::Account)?.sessions;
        let counted = self.sessions.entry(session.access_key.0.clone()).or_default();
        let (count, limit) = if session.is_private { (&mut counted.1, limit.1) } else { (&mut counted.0, limit.0) };
        if *count >= limit {
            return Err(StaleReason::Account);
        }
        *count += 1;
        for (key, amount) in wanted {
            if let Some(room) = self.room.get_mut(&key) {
                *room -= amount;
            }
        }
        if !session.is_private {
            for holder in holders {
                for slot in 0..slots {
                    let cell = self.held.entry((holder.clone(), slot)).or_default();
                    *cell = cell.saturating_add(session.total(slot));
                }
            }
        }
        Ok(())
    }
}

/// Locks and reads the rows that placements depend on: agents, then accounts, as every writer does.
async fn current(tx: &mut Tx, round: &Commit, accounts: &HashMap<Holder, &Account>) -> Result<Current> {
    let mut now = Current::default();
    let agents: HashSet<&AgentId> = round.placed.iter().flat_map(|p| p.kernels.iter().map(|k| &k.agent)).collect();
    let slot_index: HashMap<&str, usize> = round.slots.iter().enumerate().map(|(i, s)| (s.as_str(), i)).collect();

    let stmt = Stmt::among("SELECT id, status FROM agents WHERE id IN {list}", agents.iter());
    for row in tx.fetch_all(stmt).await? {
        if row.parse::<AgentStatus>("status")? == AgentStatus::Alive {
            now.alive.insert(row.parse("id")?);
        }
    }
    let stmt =
        Stmt::among("SELECT agent_id, slot, capacity, occupied FROM agent_slots WHERE agent_id IN {list}", agents)
            .on_postgres("ORDER BY agent_id COLLATE \"C\", slot COLLATE \"C\" FOR UPDATE");
    for row in tx.fetch_all(stmt).await? {
        let slot: String = row.get("slot")?;
        if let Some(&slot) = slot_index.get(slot.as_str()) {
            let (capacity, occupied): (i64, i64) = (row.get("capacity")?, row.get("occupied")?);
            now.room.insert((row.parse("agent_id")?, slot), capacity.saturating_sub(occupied));
        }
    }

    for (holder, fingerprint) in fingerprints(tx, round).await? {
        if accounts.get(&holder).is_some_and(|a| a.fingerprint == fingerprint) {
            now.unchanged.insert(holder);
        }
    }
    lock_accounts(tx, round, &slot_index, &mut now).await?;
    Ok(now)
}

/// What the limits of the accounts are made of now.
async fn fingerprints(tx: &mut Tx, round: &Commit) -> Result<Vec<(Holder, String)>> {
    let names = |scope: Scope| {
        let names: HashSet<&str> =
            round.accounts.iter().filter(|a| a.scope == scope).map(|a| a.holder.as_str()).collect();
        names
    };
    let mut out = Vec::new();
    let stmt = Stmt::among(
        "SELECT k.access_key, p.total_resource_slots, p.default_for_unspecified, p.max_concurrent_sessions,
                p.max_concurrent_sftp_sessions
         FROM keypairs k JOIN keypair_resource_policies p ON p.name = k.resource_policy WHERE k.access_key IN {list}",
        names(Scope::Keypair),
    );
    for row in tx.fetch_all(stmt).await? {
        let owner = super::OwnerRow {
            access_key: row.parse("access_key")?,
            total_resource_slots: row.get("total_resource_slots")?,
            default_for_unspecified: row.get("default_for_unspecified")?,
            max_concurrent_sessions: row.get("max_concurrent_sessions")?,
            max_concurrent_sftp_sessions: row.get("max_concurrent_sftp_sessions")?,
            counted: (0, 0),
        };
        out.push(((Scope::Keypair.as_str(), owner.access_key.0.clone()), owner.fingerprint()));
    }
    for (scope, text) in [
        (Scope::Project, "SELECT id AS holder, total_resource_slots FROM projects WHERE id IN {list}"),
        (Scope::Domain, "SELECT name AS holder, total_resource_slots FROM domains WHERE name IN {list}"),
    ] {
        for row in tx.fetch_all(Stmt::among(text, names(scope))).await? {
            let holder =
                super::HolderRow { holder: row.get("holder")?, total_resource_slots: row.get("total_resource_slots")? };
            out.push(((scope.as_str(), holder.holder.clone()), holder.fingerprint()));
        }
    }
    Ok(out)
}

/// Creates, locks and reads the counters of the accounts.
async fn lock_accounts(
    tx: &mut Tx,
    round: &Commit,
    slot_index: &HashMap<&str, usize>,
    now: &mut Current,
) -> Result<()> {
    let mut cells: BTreeMap<(Holder, &str), ()> = BTreeMap::new();
    for session in round.placed.iter().filter(|p| !p.is_private) {
        for (slot, name) in round.slots.iter().enumerate().filter(|(slot, _)| session.total(*slot) > 0) {
            debug_assert_eq!(slot_index.get(name.as_str()), Some(&slot));
            for holder in holders(session) {
                cells.insert((holder, name.as_str()), ());
            }
        }
    }
    let cells: Vec<Json> =
        cells.into_keys().map(|((scope, holder), slot)| json!({"k": scope, "h": holder, "s": slot})).collect();
    if !cells.is_empty() {
        // The empty update locks rows that exist, too.
        let stmt = Stmt::assembled(format!(
            "INSERT INTO occupancy (scope, holder, slot, amount) SELECT x.k, x.h, x.s, 0 FROM {} WHERE true
             ON CONFLICT (scope, holder, slot) DO UPDATE SET amount = occupancy.amount
             RETURNING scope, holder, slot, amount",
            set::rows(tx.dialect(), "$1", &[("k", "text"), ("h", "text"), ("s", "text")])
        ));
        for row in tx.fetch_all(stmt.bind(Json::Array(cells))).await? {
            let (scope, slot): (String, String) = (row.get("scope")?, row.get("slot")?);
            let scope = [Scope::Keypair, Scope::Project, Scope::Domain].into_iter().find(|s| s.as_str() == scope);
            if let (Some(scope), Some(&slot)) = (scope, slot_index.get(slot.as_str())) {
                now.held.insert(((scope.as_str(), row.get("holder")?), slot), row.get("amount")?);
            }
        }
    }
    let keys: BTreeMap<&str, ()> = round.placed.iter().map(|p| (p.access_key.as_str(), ())).collect();
    let keys: Vec<Json> = keys.into_keys().map(|k| json!({"k": k})).collect();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO concurrency (access_key, sessions, private_sessions) SELECT x.k, 0, 0 FROM {} WHERE true
         ON CONFLICT (access_key) DO UPDATE SET sessions = concurrency.sessions
         RETURNING access_key, sessions, private_sessions",
        set::rows(tx.dialect(), "$1", &[("k", "text")])
    ));
    for row in tx.fetch_all(stmt.bind(Json::Array(keys))).await? {
        now.sessions.insert(row.get("access_key")?, (row.get("sessions")?, row.get("private_sessions")?));
    }
    Ok(())
}

/// Runs a statement that must change exactly `rows` rows.
async fn exactly(tx: &mut Tx, stmt: Stmt, rows: usize, what: &'static str) -> Result<()> {
    let changed = tx.execute(stmt).await?;
    if changed == rows as u64 { Ok(()) } else { Err(Error::Conflict(what)) }
}

/// The expression that notes a status with the time of parameter `param` in `status_history`.
fn history_sql(dialect: Dialect, status: &str, param: &str) -> String {
    match dialect {
        Dialect::Sqlite => format!("json_set(status_history, '$.{status}', {param})"),
        Dialect::Postgres => {
            format!(
                "CAST(CAST(status_history AS jsonb) || jsonb_build_object('{status}', CAST({param} AS text)) AS text)"
            )
        }
    }
}

async fn place(tx: &mut Tx, round: &Commit, placed: &[&Placed]) -> Result<()> {
    if placed.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET status = 'SCHEDULED', status_info = 'scheduled', status_data = '{{}}', status_changed = $2,
                status_history = {} WHERE id IN {} AND status = 'PENDING'",
        history_sql(dialect, "SCHEDULED", "$3"),
        set::texts(dialect, "$1")
    ));
    let stmt = stmt.bind(set::array(placed.iter().map(|p| p.id))).bind(round.at.0).bind(round.at.iso());
    exactly(tx, stmt, placed.len(), "sessions").await?;

    let mut kernels = Vec::new();
    let mut agents: BTreeMap<(&AgentId, &str), i64> = BTreeMap::new();
    let mut held: BTreeMap<(Holder, &str), i64> = BTreeMap::new();
    let mut sessions: BTreeMap<&AccessKey, (i64, i64)> = BTreeMap::new();
    for session in placed {
        for kernel in &session.kernels {
            let mut map = serde_json::Map::new();
            for (slot, amount) in round.slots.iter().zip(&kernel.held).filter(|(_, amount)| **amount != 0) {
                map.insert(slot.clone(), json!(amount));
                *agents.entry((&kernel.agent, slot)).or_default() += amount;
            }
            // As text: both databases keep it as it is.
            kernels.push(json!({"i": kernel.id, "a": kernel.agent, "h": Json::Object(map).to_string()}));
        }
        let counts = sessions.entry(&session.access_key).or_default();
        if session.is_private {
            counts.1 += 1;
            continue;
        }
        counts.0 += 1;
        for (slot, name) in round.slots.iter().enumerate().filter(|(slot, _)| session.total(*slot) > 0) {
            for holder in holders(session) {
                *held.entry((holder, name)).or_default() += session.total(slot);
            }
        }
    }

    let rows = kernels.len();
    let stmt = Stmt::assembled(format!(
        "UPDATE kernels SET status = 'SCHEDULED', status_info = 'scheduled', status_data = '{{}}', status_changed = $2,
                agent_id = x.a, agent_addr = (SELECT addr FROM agents WHERE agents.id = x.a),
                occupied_slots = requested_slots, held = x.h
         FROM {} WHERE kernels.id = x.i AND kernels.status = 'PENDING'",
        set::rows(dialect, "$1", &[("i", "text"), ("a", "text"), ("h", "text")])
    ));
    exactly(tx, stmt.bind(Json::Array(kernels)).bind(round.at.0), rows, "kernels").await?;

    let cells: Vec<Json> = agents.iter().map(|((a, s), d)| json!({"a": a, "s": s, "d": d})).collect();
    let rows = cells.len();
    let stmt = Stmt::assembled(format!(
        "UPDATE agent_slots SET occupied = occupied + x.d FROM {}
         WHERE agent_slots.agent_id = x.a AND agent_slots.slot = x.s AND occupied + x.d <= capacity",
        set::rows(dialect, "$1", &[("a", "text"), ("s", "text"), ("d", "bigint")])
    ));
    exactly(tx, stmt.bind(Json::Array(cells)), rows, "agent capacity").await?;

    let limits: HashMap<Holder, &Account> =
        round.accounts.iter().map(|a| ((a.scope.as_str(), a.holder.clone()), a)).collect();
    let slot_index: HashMap<&str, usize> = round.slots.iter().enumerate().map(|(i, s)| (s.as_str(), i)).collect();
    let cells: Vec<Json> = held
        .into_iter()
        .map(|((holder, slot), delta)| {
            let limit = limits.get(&holder).map_or(i64::MAX, |a| a.limit[slot_index[slot]]);
            json!({"k": holder.0, "h": holder.1, "s": slot, "d": delta, "m": limit})
        })
        .collect();
    let rows = cells.len();
    let stmt = Stmt::assembled(format!(
        "UPDATE occupancy SET amount = amount + x.d FROM {}
         WHERE occupancy.scope = x.k AND occupancy.holder = x.h AND occupancy.slot = x.s AND amount + x.d <= x.m",
        set::rows(dialect, "$1", &[("k", "text"), ("h", "text"), ("s", "text"), ("d", "bigint"), ("m", "bigint")])
    ));
    exactly(tx, stmt.bind(Json::Array(cells)), rows, "quota").await?;

    let cells: Vec<Json> = sessions
        .iter()
        .map(|(key, (n, p))| {
            let limit =
                limits.get(&(Scope::Keypair.as_str(), key.0.clone())).map_or((i64::MAX, i64::MAX), |a| a.sessions);
            // Where nothing is added nothing is checked: limits may have been lowered below the count.
            let at_most = |add: i64, limit: i64| if add == 0 { i64::MAX } else { limit };
            json!({"k": key, "n": n, "p": p, "nm": at_most(*n, limit.0), "pm": at_most(*p, limit.1)})
        })
        .collect();
    let rows = cells.len();
    let stmt = Stmt::assembled(format!(
        "UPDATE concurrency SET sessions = sessions + x.n, private_sessions = private_sessions + x.p FROM {}
         WHERE concurrency.access_key = x.k AND sessions + x.n <= x.nm AND private_sessions + x.p <= x.pm",
        set::rows(
            dialect,
            "$1",
            &[("k", "text"), ("n", "bigint"), ("p", "bigint"), ("nm", "bigint"), ("pm", "bigint")]
        )
    ));
    exactly(tx, stmt.bind(Json::Array(cells)), rows, "concurrency").await
}

/// A JSON parameter whose texts may come from people or policies.
fn cleaned(rows: Vec<Json>) -> String {
    set::clean_json(&Json::Array(rows).to_string()).into_owned()
}

async fn record(tx: &mut Tx, records: &[&Record]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let columns = [("i", "text"), ("r", "text"), ("d", "text")];
    let sessions =
        records.iter().map(|r| json!({"i": r.id, "r": r.status_info, "d": r.status_data.to_string()})).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET status_info = x.r, status_data = x.d FROM {} WHERE sessions.id = x.i AND sessions.status = 'PENDING'",
        set::rows(tx.dialect(), "$1", &columns)
    ));
    tx.execute(stmt.bind(cleaned(sessions))).await?;
    let kernels: Vec<Json> = records
        .iter()
        .flat_map(|r| &r.kernels)
        .map(|k| json!({"i": k.id, "r": k.status_info, "d": k.status_data.to_string()}))
        .collect();
    if kernels.is_empty() {
        return Ok(());
    }
    let stmt = Stmt::assembled(format!(
        "UPDATE kernels SET status_info = COALESCE(x.r, kernels.status_info), status_data = x.d FROM {}
         WHERE kernels.id = x.i AND kernels.status = 'PENDING'",
        set::rows(tx.dialect(), "$1", &columns)
    ));
    tx.execute(stmt.bind(cleaned(kernels))).await?;
    Ok(())
}

async fn cancel(tx: &mut Tx, at: Timestamp, cancelled: &[&Cancelled]) -> Result<()> {
    if cancelled.is_empty() {
        return Ok(());
    }
    let rows = |with_data: bool| {
        let row = |c: &&Cancelled| {
            let data = c.status_data.as_ref().filter(|_| with_data).map(Json::to_string);
            json!({"i": c.id, "r": c.reason, "d": data})
        };
        cleaned(cancelled.iter().map(row).collect())
    };
    let columns = [("i", "text"), ("r", "text"), ("d", "text")];
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET status = 'CANCELLED', status_info = x.r, status_data = COALESCE(x.d, sessions.status_data),
                status_changed = $2, terminated_at = $2, status_history = {}
         FROM {} WHERE sessions.id = x.i AND sessions.status = 'PENDING'",
        history_sql(tx.dialect(), "CANCELLED", "$3"),
        set::rows(tx.dialect(), "$1", &columns)
    ));
    exactly(tx, stmt.bind(rows(true)).bind(at.0).bind(at.iso()), cancelled.len(), "sessions").await?;
    let stmt = Stmt::assembled(format!(
        "UPDATE kernels SET status = 'CANCELLED', status_info = x.r, terminated_at = $2
         FROM {} WHERE kernels.session_id = x.i AND kernels.status = 'PENDING'",
        set::rows(tx.dialect(), "$1", &columns)
    ));
    tx.execute(stmt.bind(rows(false)).bind(at.0)).await?;
    Ok(())
}

/// Sets the concurrency counters of these key pairs to what the sessions say.
async fn recount(tx: &mut Tx, keys: &[AccessKey]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let count = |private: &str| {
        format!(
            "(SELECT COUNT(*) FROM sessions s WHERE s.access_key = concurrency.access_key AND {private} s.is_private
              AND s.status NOT IN ('TERMINATED', 'CANCELLED') AND s.status NOT IN ('PENDING', 'TERMINATING'))"
        )
    };
    let text = format!(
        "UPDATE concurrency SET sessions = {}, private_sessions = {} WHERE access_key IN {{list}}",
        count("NOT"),
        count("")
    );
    let keys: Vec<Json> = keys.iter().map(|k| json!({"k": k})).collect();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO concurrency (access_key, sessions, private_sessions) SELECT x.k, 0, 0 FROM {} WHERE true
         ON CONFLICT (access_key) DO NOTHING",
        set::rows(tx.dialect(), "$1", &[("k", "text")])
    ));
    tx.execute(stmt.bind(Json::Array(keys.clone()))).await?;
    let names = keys.iter().filter_map(|k| k["k"].as_str());
    tx.execute(Stmt::among(&text, names)).await?;
    Ok(())
}

/// History and events.
async fn tell(tx: &mut Tx, at: Timestamp, placed: &[&Placed], cancelled: &[&Cancelled]) -> Result<()> {
    if placed.is_empty() && cancelled.is_empty() {
        return Ok(());
    }
    let mut entries = Vec::new();
    let mut log: Vec<(u32, NewEvent)> = Vec::new();
    let event = |name, session, kernel, reason: &str| NewEvent {
        name,
        session: Some(session),
        kernel,
        reason: reason.to_owned(),
        exit_code: None,
        at,
    };
    for c in cancelled {
        entries.push(entry(c.id, None, "CANCELLED", c.reason, at));
        log.push((c.order, event("session_cancelled", c.id, c.main_kernel, c.reason)));
    }
    if !cancelled.is_empty() {
        let stmt = Stmt::among(
            "SELECT id, session_id FROM kernels WHERE session_id IN {list} ORDER BY session_id, cluster_idx",
            cancelled.iter().map(|c| c.id),
        );
        let reasons: HashMap<SessionId, &str> = cancelled.iter().map(|c| (c.id, c.reason)).collect();
        for row in tx.fetch_all(stmt).await? {
            let session = row.parse("session_id")?;
            entries.push(entry(session, Some(row.parse("id")?), "CANCELLED", reasons[&session], at));
        }
    }
    for p in placed {
        entries.push(entry(p.id, None, "SCHEDULED", "scheduled", at));
        entries.extend(p.kernels.iter().map(|k| entry(p.id, Some(k.id), "SCHEDULED", "scheduled", at)));
        log.push((p.order, event("session_scheduled", p.id, p.kernels.first().map(|k| k.id), "unknown")));
    }
    history::append(tx, &entries).await?;
    log.sort_by_key(|(order, _)| *order);
    events::append(tx, &log.into_iter().map(|(_, e)| e).collect::<Vec<_>>()).await
}

fn entry(session: SessionId, kernel: Option<KernelId>, status: &str, reason: &str, at: Timestamp) -> Entry {
    Entry { session, kernel, status: status.to_owned(), reason: Some(reason.to_owned()), at }
}
