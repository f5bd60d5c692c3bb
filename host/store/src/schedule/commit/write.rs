//! The statements that write a round: a constant number, each with its guard.

use std::collections::{BTreeMap, HashMap};

use quarterdeck_model::{AccessKey, AgentId, KernelId, SessionId, Timestamp};
use serde_json::{Value as Json, json};

use super::{Account, Cancelled, Commit, Holder, Placed, Record, STILL_PENDING, holders};
use crate::error::{Error, Result};
use crate::events::{self, NewEvent};
use crate::history::{self, Entry};
use crate::occupancy::Scope;
use crate::set;
use crate::sql::{Dialect, Sql, Stmt, Tx};

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

pub(super) async fn place(tx: &mut Tx, round: &Commit, placed: &[&Placed]) -> Result<()> {
    if placed.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET status = 'SCHEDULED', status_info = 'scheduled', status_data = '{{}}', status_changed = $2,
                status_history = {} WHERE id {} AND {STILL_PENDING}",
        history_sql(dialect, "SCHEDULED", "$3"),
        set::among(dialect, "$1")
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

pub(super) async fn record(tx: &mut Tx, records: &[&Record]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let columns = [("i", "text"), ("r", "text"), ("d", "text")];
    let sessions =
        records.iter().map(|r| json!({"i": r.id, "r": r.status_info, "d": r.status_data.to_string()})).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET status_info = x.r, status_data = x.d FROM {} WHERE sessions.id = x.i AND {STILL_PENDING}",
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

pub(super) async fn cancel(tx: &mut Tx, at: Timestamp, cancelled: &[&Cancelled]) -> Result<()> {
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
         FROM {} WHERE sessions.id = x.i AND {STILL_PENDING}",
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

/// History and events.
pub(super) async fn tell(
    tx: &mut Tx,
    at: Timestamp,
    placed: &[&Placed],
    cancelled: &[&Cancelled],
    callback_urls: &HashMap<SessionId, String>,
) -> Result<()> {
    if placed.is_empty() && cancelled.is_empty() {
        return Ok(());
    }
    let mut entries = Vec::new();
    let mut log: Vec<(u32, NewEvent)> = Vec::new();
    let event = |name, session: SessionId, kernel, reason: &str| NewEvent {
        name,
        session: Some(session),
        kernel,
        reason: reason.to_owned(),
        exit_code: None,
        at,
        callback_url: callback_urls.get(&session).cloned(),
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
