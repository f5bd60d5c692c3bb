//! Writing a [`Work`](super::Work): one statement for all sessions, one for all kernels.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;
use quarterdeck_model::{KernelId, SessionId, Timestamp};
use serde_json::{Value, json};

use super::{KernelState, SessionState};
use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

pub(super) async fn sessions<S: Sql>(
    sql: &mut S,
    sessions: &IndexMap<SessionId, SessionState>,
    now: Timestamp,
) -> Result<()> {
    let rows: Vec<_> = sessions
        .values()
        .filter(|s| s.patch.dirty)
        .map(|s| {
            let moved = s.status != s.before;
            json!({
                "id": s.id,
                "was": s.before,
                "status": s.status,
                "info": s.patch.info.as_deref().map(set::clean),
                "data": s.patch.data.as_ref().map(|d| set::clean_json(&d.to_string()).into_owned()),
                "history": Value::Object(s.history.clone()).to_string(),
                "changed": s.status_changed.0,
                "ended": (moved && s.status.is_dead()).then_some(now.0),
                "result": s.patch.result,
                "exit_code": s.patch.exit_code,
                "moved": moved,
                "retry_at": s.patch.retry_at.map(|t| t.0),
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let source = set::rows(
        sql.dialect(),
        "$1",
        &[
            ("id", "text"),
            ("was", "text"),
            ("status", "text"),
            ("info", "text"),
            ("data", "text"),
            ("history", "text"),
            ("changed", "bigint"),
            ("ended", "bigint"),
            ("result", "text"),
            ("exit_code", "bigint"),
            ("moved", "boolean"),
            ("retry_at", "bigint"),
        ],
    );
    sql.execute(
        Stmt::assembled(format!(
            "UPDATE sessions SET status = x.status, status_info = COALESCE(x.info, sessions.status_info), \
             status_data = COALESCE(x.data, sessions.status_data), status_history = x.history, status_changed = x.changed, \
             terminated_at = COALESCE(x.ended, sessions.terminated_at), result = COALESCE(x.result, sessions.result), \
             exit_code = COALESCE(x.exit_code, sessions.exit_code), \
             attempts = CASE WHEN x.moved THEN 0 ELSE sessions.attempts END, \
             retry_at = CASE WHEN x.moved THEN x.retry_at ELSE COALESCE(x.retry_at, sessions.retry_at) END \
             FROM {source} WHERE sessions.id = x.id AND sessions.status = x.was"
        ))
        .bind(Value::Array(rows)),
    )
    .await?;
    Ok(())
}

pub(super) async fn kernels<S: Sql>(
    sql: &mut S,
    kernels: &HashMap<KernelId, KernelState>,
    now: Timestamp,
) -> Result<()> {
    let mut dirty: Vec<_> = kernels.values().filter(|k| k.patch.dirty).collect();
    if dirty.is_empty() {
        return Ok(());
    }
    dirty.sort_by_key(|k| k.id);
    let mut rows = Vec::with_capacity(dirty.len());
    for k in &dirty {
        let moved = k.status != k.before;
        let mut row = BTreeMap::from([
            ("id", json!(k.id)),
            ("was", json!(k.before)),
            ("status", json!(k.status)),
            ("info", json!(k.patch.info.as_deref().map(set::clean))),
            ("data", json!(k.data.as_ref().map(|d| set::clean_json(&d.to_string()).into_owned()))),
            ("changed", json!(k.status_changed.0)),
            ("ended", json!((moved && k.status.is_dead()).then_some(now.0))),
            ("agent_id", json!(k.agent)),
            ("agent_addr", json!(k.patch.agent_addr)),
            ("unplaced", json!(k.patch.unplaced)),
            ("exit_code", json!(k.patch.exit_code)),
            ("last_stat", json!(k.patch.last_stat.as_deref().map(set::clean_json))),
            ("result", json!(k.patch.result)),
        ]);
        if let Some(started) = &k.patch.started {
            let text = |v: &Value| json!(set::clean_json(&v.to_string()));
            row.insert("started", json!(now.0));
            row.insert("container_id", json!(set::clean(&started.container_id)));
            row.insert("kernel_host", json!(started.kernel_host));
            row.insert("service_ports", text(&started.service_ports));
            row.insert("runtime_info", started.runtime_info.as_ref().map_or(Value::Null, text));
            row.insert("attached_devices", text(&started.attached_devices));
            if let Some((held, shown)) = &started.allocated {
                row.insert("held", json!(json!(held).to_string()));
                row.insert("occupied_slots", text(shown));
            }
        }
        rows.push(
            serde_json::to_value(row)
                .map_err(|e| crate::Error::Corrupt { column: "kernels".into(), reason: e.to_string() })?,
        );
    }
    const COLUMNS: &[(&str, &str)] = &[
        ("id", "text"),
        ("was", "text"),
        ("status", "text"),
        ("info", "text"),
        ("data", "text"),
        ("changed", "bigint"),
        ("ended", "bigint"),
        ("agent_id", "text"),
        ("agent_addr", "text"),
        ("unplaced", "boolean"),
        ("exit_code", "bigint"),
        ("last_stat", "text"),
        ("result", "text"),
        ("started", "bigint"),
        ("container_id", "text"),
        ("kernel_host", "text"),
        ("service_ports", "text"),
        ("runtime_info", "text"),
        ("attached_devices", "text"),
        ("held", "text"),
        ("occupied_slots", "text"),
    ];
    sql.execute(
        Stmt::assembled(format!(
            "UPDATE kernels SET status = x.status, status_info = COALESCE(x.info, kernels.status_info), \
             status_data = COALESCE(x.data, kernels.status_data), status_changed = x.changed, \
             terminated_at = COALESCE(x.ended, kernels.terminated_at), \
             agent_id = CASE WHEN x.unplaced THEN NULL ELSE COALESCE(x.agent_id, kernels.agent_id) END, \
             agent_addr = CASE WHEN x.unplaced THEN NULL ELSE COALESCE(x.agent_addr, kernels.agent_addr) END, exit_code = COALESCE(x.exit_code, kernels.exit_code), \
             last_stat = COALESCE(x.last_stat, kernels.last_stat), result = COALESCE(x.result, kernels.result), \
             started_at = COALESCE(x.started, kernels.started_at), container_id = COALESCE(x.container_id, kernels.container_id), \
             kernel_host = COALESCE(x.kernel_host, kernels.kernel_host), \
             service_ports = COALESCE(x.service_ports, kernels.service_ports), \
             runtime_info = COALESCE(x.runtime_info, kernels.runtime_info), \
             attached_devices = COALESCE(x.attached_devices, kernels.attached_devices), \
             held = COALESCE(x.held, kernels.held), occupied_slots = COALESCE(x.occupied_slots, kernels.occupied_slots) \
             FROM {} WHERE kernels.id = x.id AND kernels.status = x.was",
            set::rows(sql.dialect(), "$1", COLUMNS)
        ))
        .bind(Value::Array(rows)),
    )
    .await?;
    // Output is large and rare among kernels: it goes by itself.
    for k in dirty {
        if let Some(log) = &k.patch.log {
            sql.execute(
                Stmt::new("UPDATE kernels SET container_log = $1 WHERE id = $2")
                    .bind(set::clean(log).into_owned())
                    .bind(k.id.to_string()),
            )
            .await?;
        }
    }
    Ok(())
}
