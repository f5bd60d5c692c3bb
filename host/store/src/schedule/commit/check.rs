//! What decisions are worth on the rows as they are now, which stay locked until the round is written.

use std::collections::{BTreeMap, HashMap, HashSet};

use quarterdeck_model::{AgentId, AgentStatus, SessionId};
use serde_json::{Value as Json, json};

use super::{Account, Commit, Committed, Holder, Placed, StaleReason, holders};
use crate::error::Result;
use crate::occupancy::Scope;
use crate::set;
use crate::sql::{Sql, Stmt, Tx};

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

/// The placements that hold against the rows as they are now, in order.
pub(super) async fn validate<'r>(
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
        let owner = crate::schedule::OwnerRow {
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
            let holder = crate::schedule::HolderRow {
                holder: row.get("holder")?,
                total_resource_slots: row.get("total_resource_slots")?,
            };
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
