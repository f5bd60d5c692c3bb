//! The sessions of a group that hold its resources. They may be many, and each round looks at all of them: as one text a
//! table they come several times faster than as rows.

use std::collections::HashMap;

use quarterdeck_model::{AccessKey, AgentId, SessionId, Timestamp};
use serde::de::DeserializeOwned;

use super::{KernelRow, OPEN, SessionRow};
use crate::error::{Error, Result};
use crate::sql::{Sql, Stmt};

/// Id, type, priority, expected time, mode, privacy, domain, project, owner, status, time of the request.
type SessionCells = (String, String, i64, Option<i64>, String, i64, String, String, String, String, i64);
/// Session, id, architecture, status, request, holdings, agent; what kernels are sorted by: role, rank, index.
type KernelCells = (String, String, String, String, String, String, Option<String>, i64, i64, i64);

/// What kernels are sorted by within their session, and the kernel.
type Placed = ((i64, i64, i64), KernelRow);

/// Those sessions with their kernels, in no particular order.
pub(super) async fn read<S: Sql>(sql: &mut S, group: &str) -> Result<Vec<SessionRow>> {
    let cells = "s.id, s.session_type, s.priority, s.expected_ms, s.cluster_mode, \
                 CASE WHEN s.is_private THEN 1 ELSE 0 END, s.domain_name, s.project_id, s.access_key, s.status, s.created_at";
    let sessions: Vec<SessionCells> = list(sql, cells, "sessions s", group).await?;
    let cells = "k.session_id, k.id, k.architecture, k.status, k.requested_slots, k.held, k.agent_id, \
                 CASE WHEN k.cluster_role = 'main' THEN 0 ELSE 1 END, k.local_rank, k.cluster_idx";
    let kernels: Vec<KernelCells> = list(sql, cells, "sessions s JOIN kernels k ON k.session_id = s.id", group).await?;

    let mut by_session: HashMap<String, Vec<Placed>> = HashMap::with_capacity(sessions.len());
    for (session, id, architecture, status, requested_slots, held, agent, role, rank, index) in kernels {
        let kernel = KernelRow {
            id: parse("id", &id)?,
            image: String::new(),
            architecture,
            status: parse("status", &status)?,
            requested_slots,
            held,
            designated_agent: None,
            agent_id: agent.map(AgentId),
            status_data: None,
        };
        by_session.entry(session).or_default().push(((role, rank, index), kernel));
    }
    let session = |cells: SessionCells| -> Result<SessionRow> {
        let (id, kind, priority, expected_ms, mode, private, domain_name, project, access_key, status, created) = cells;
        let mut kernels = by_session.remove(&id).unwrap_or_default();
        kernels.sort_by_key(|(place, kernel)| (*place, kernel.id));
        let id: SessionId = parse("id", &id)?;
        Ok(SessionRow {
            id,
            creation_id: String::new(),
            name: String::new(),
            session_type: parse("session_type", &kind)?,
            priority,
            expected_ms,
            cluster_mode: parse("cluster_mode", &mode)?,
            is_private: private != 0,
            domain_name,
            project_id: parse("project_id", &project)?,
            access_key: AccessKey(access_key),
            status: parse("status", &status)?,
            created_at: Timestamp(created),
            starts_at: None,
            status_data: None,
            kernels: kernels.into_iter().map(|(_, kernel)| kernel).collect(),
            dependencies: Vec::new(),
        })
    };
    sessions.into_iter().map(session).collect()
}

/// When their main kernels started.
pub(super) async fn started<S: Sql>(sql: &mut S, group: &str) -> Result<HashMap<SessionId, Timestamp>> {
    let main =
        "sessions s JOIN kernels k ON k.session_id = s.id AND k.cluster_role = 'main' AND k.started_at IS NOT NULL";
    let cells: Vec<(SessionId, i64)> = list(sql, "k.session_id, k.started_at", main, group).await?;
    Ok(cells.into_iter().map(|(id, at)| (id, Timestamp(at))).collect())
}

/// Cells of the rows that belong to those sessions.
async fn list<S: Sql, T: DeserializeOwned>(sql: &mut S, cells: &str, from: &str, group: &str) -> Result<Vec<T>> {
    let open = OPEN.replace("scaling_group", "s.scaling_group").replace("status", "s.status");
    let rest = format!("FROM {from} WHERE {open} AND s.status <> 'PENDING'");
    let stmt = Stmt::assembled_dialect(
        format!("SELECT json_group_array(json_array({cells})) AS list {rest}"),
        format!("SELECT CAST(COALESCE(json_agg(json_build_array({cells})), '[]') AS text) AS list {rest}"),
    );
    sql.fetch_one(stmt.bind(group)).await?.json("list")
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(column: &str, text: &str) -> Result<T> {
    text.parse().map_err(|e: T::Err| Error::Corrupt { column: column.to_owned(), reason: e.to_string() })
}
