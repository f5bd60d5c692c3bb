//! What idle checks look at, and what they last reported.

use quarterdeck_model::{KernelId, SessionId, SessionType, Timestamp};
use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// A running session to be judged.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The session.
    pub session_id: SessionId,
    /// What it is for.
    pub session_type: SessionType,
    /// A session of the system.
    pub is_private: bool,
    /// Its domain.
    pub domain_name: String,
    /// When its main kernel was enqueued.
    pub created_at: Timestamp,
    /// When its main kernel started to run.
    pub started_at: Option<Timestamp>,
    /// When its user was created.
    pub user_created_at: Timestamp,
    /// Seconds; negative: not set, 0: for ever.
    pub idle_timeout: i64,
    /// Seconds; 0 or less: for ever.
    pub max_session_lifetime: i64,
    /// What its main kernel holds: JSON object of contract units.
    pub held: String,
    /// Connections to its services that are open.
    pub connections: i64,
    /// Its last access: `None` = nothing is known, `Some(None)` = in use.
    pub last_access: Option<Option<Timestamp>>,
}

/// The sessions whose main kernel runs, without those that serve models; oldest first.
///
/// # Errors
/// Database errors.
pub async fn candidates<S: Sql>(sql: &mut S) -> Result<Vec<Candidate>> {
    let stmt = Stmt::new(
        "SELECT s.id, s.session_type, s.is_private, s.domain_name, k.created_at, k.started_at, k.held,
                u.created_at AS user_created_at, p.idle_timeout, p.max_session_lifetime,
                a.session_id IS NOT NULL AS accessed, a.last_access,
                (SELECT COUNT(*) FROM app_connections c WHERE c.session_id = s.id) AS connections
         FROM kernels k JOIN sessions s ON s.id = k.session_id JOIN users u ON u.id = s.user_id
         JOIN keypairs y ON y.access_key = s.access_key JOIN keypair_resource_policies p ON p.name = y.resource_policy
         LEFT JOIN session_access a ON a.session_id = s.id
         WHERE k.status = 'RUNNING' AND k.cluster_role = 'main' AND s.session_type <> 'INFERENCE'
           AND s.status NOT IN ('TERMINATED', 'CANCELLED')",
    );
    let mut rows = sql
        .fetch_all(stmt)
        .await?
        .iter()
        .map(|row| {
            let last_access: Option<i64> = row.get("last_access")?;
            Ok(Candidate {
                session_id: row.parse("id")?,
                session_type: row.parse("session_type")?,
                is_private: row.get("is_private")?,
                domain_name: row.get("domain_name")?,
                created_at: Timestamp(row.get("created_at")?),
                started_at: row.get::<Option<i64>>("started_at")?.map(Timestamp),
                user_created_at: Timestamp(row.get("user_created_at")?),
                idle_timeout: row.get("idle_timeout")?,
                max_session_lifetime: row.get("max_session_lifetime")?,
                held: row.get("held")?,
                connections: row.get("connections")?,
                last_access: row.get::<bool>("accessed")?.then_some(last_access.map(Timestamp)),
            })
        })
        .collect::<Result<Vec<Candidate>>>()?;
    rows.sort_by_key(|c| (c.created_at, c.session_id));
    Ok(rows)
}

/// A kernel that runs in a session to be judged.
#[derive(Clone, Debug)]
pub struct RunningKernel {
    /// Its session.
    pub session_id: SessionId,
    /// The kernel.
    pub kernel_id: KernelId,
    /// What it holds: JSON object of contract units.
    pub held: String,
}

/// The running kernels of the sessions that [`candidates`] finds.
///
/// # Errors
/// Database errors.
pub async fn running_kernels<S: Sql>(sql: &mut S) -> Result<Vec<RunningKernel>> {
    let stmt = Stmt::new(
        "SELECT k.id, k.session_id, k.held FROM kernels k JOIN sessions s ON s.id = k.session_id
         WHERE k.status = 'RUNNING' AND s.session_type <> 'INFERENCE' AND s.status NOT IN ('TERMINATED', 'CANCELLED')
         ORDER BY k.session_id, k.cluster_idx, k.id",
    );
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            Ok(RunningKernel {
                session_id: row.parse("session_id")?,
                kernel_id: row.parse("id")?,
                held: row.get("held")?,
            })
        })
        .collect()
}

/// What a checker reports about a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The session.
    pub session_id: SessionId,
    /// The checker.
    pub checker: String,
    /// Seconds; -1: expired; `None`: nothing to tell but the extra.
    pub remaining: Option<f64>,
    /// More, for people.
    pub extra: Option<Json>,
    /// When.
    pub at: Timestamp,
}

/// Replaces the reports of these sessions and checkers. Sessions that are gone are passed over.
///
/// # Errors
/// Database errors.
pub async fn write_reports<S: Sql>(sql: &mut S, reports: &[Report]) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let rows: Vec<Json> = reports
        .iter()
        .map(|r| {
            json!({"s": r.session_id, "c": r.checker, "r": r.remaining, "x": r.extra.as_ref().map(Json::to_string), "a": r.at.0})
        })
        .collect();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO idle_reports (session_id, checker, remaining, extra, at)
         SELECT x.s, x.c, x.r, x.x, x.a FROM {} WHERE EXISTS (SELECT 1 FROM sessions WHERE sessions.id = x.s)
         ON CONFLICT (session_id, checker) DO UPDATE SET remaining = excluded.remaining,
            extra = excluded.extra, at = excluded.at",
        set::rows(
            sql.dialect(),
            "$1",
            &[("s", "text"), ("c", "text"), ("r", "double precision"), ("x", "text"), ("a", "bigint")]
        )
    ));
    let text = Json::Array(rows).to_string();
    sql.execute(stmt.bind(set::clean_json(&text).into_owned())).await?;
    Ok(())
}

/// The reports of these sessions since `since`.
///
/// # Errors
/// Database errors.
pub async fn reports<S: Sql>(sql: &mut S, sessions: &[SessionId], since: Timestamp) -> Result<Vec<Report>> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::among(
        "SELECT session_id, checker, remaining, extra, at FROM idle_reports WHERE session_id IN {list} AND at > $2",
        sessions,
    );
    let rows = sql.fetch_all(stmt.bind(since.0)).await?;
    rows.iter()
        .map(|row| {
            Ok(Report {
                session_id: row.parse("session_id")?,
                checker: row.get("checker")?,
                remaining: row.get("remaining")?,
                extra: row.json_opt("extra")?,
                at: Timestamp(row.get("at")?),
            })
        })
        .collect()
}

/// Sets when these sessions were last used (also where nothing was known).
///
/// # Errors
/// Database errors.
pub async fn set_access<S: Sql>(sql: &mut S, sessions: &[SessionId], at: Timestamp) -> Result<()> {
    if sessions.is_empty() {
        return Ok(());
    }
    let stmt = Stmt::among(
        "INSERT INTO session_access (session_id, last_access) SELECT id, $2 FROM sessions WHERE id IN {list}
         ON CONFLICT (session_id) DO UPDATE SET last_access = excluded.last_access",
        sessions,
    );
    sql.execute(stmt.bind(at.0)).await?;
    Ok(())
}

/// Marks these sessions as in use, where something is known about them at all: a session that never
/// told of its start has no timeout either.
///
/// # Errors
/// Database errors.
pub async fn set_busy<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<()> {
    if sessions.is_empty() {
        return Ok(());
    }
    let stmt = Stmt::among("UPDATE session_access SET last_access = NULL WHERE session_id IN {list}", sessions);
    sql.execute(stmt).await?;
    Ok(())
}

/// The last access of a session: `None` = nothing is known, `Some(None)` = in use.
///
/// # Errors
/// Database errors.
pub async fn access<S: Sql>(sql: &mut S, session: SessionId) -> Result<Option<Option<Timestamp>>> {
    let stmt = Stmt::new("SELECT last_access FROM session_access WHERE session_id = $1").bind(session.to_string());
    let row = sql.fetch_optional(stmt).await?;
    row.map(|row| Ok(row.get::<Option<i64>>("last_access")?.map(Timestamp))).transpose()
}
