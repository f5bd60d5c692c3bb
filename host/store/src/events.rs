//! The bounded log of events, for streams and callbacks.

use quarterdeck_model::{AccessKey, KernelId, ProjectId, SessionId, Timestamp, UserId};

use crate::callbacks;
use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// An event to be logged.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// Its name, e.g. `session_started`.
    pub name: &'static str,
    /// The session it is about.
    pub session: Option<SessionId>,
    /// The kernel it is about; for events of a session its main kernel.
    pub kernel: Option<KernelId>,
    /// Why it happened.
    pub reason: String,
    /// An exit code, when one is known.
    pub exit_code: Option<i64>,
    /// When.
    pub at: Timestamp,
    /// Whom the session wants told of its events.
    pub callback_url: Option<String>,
}

/// A logged event of a session, with what decides who may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEvent {
    /// Orders events.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Its name.
    pub name: String,
    /// Why it happened.
    pub reason: String,
    /// An exit code, when one is known.
    pub exit_code: Option<i64>,
    /// The session.
    pub session: SessionId,
    /// Its name now.
    pub session_name: String,
    /// The key pair that owns it.
    pub access_key: AccessKey,
    /// The user that owns it.
    pub user: UserId,
    /// Its project.
    pub project: ProjectId,
    /// Its domain.
    pub domain: String,
    /// Whom to call back, if its creator asked for that.
    pub callback_url: Option<String>,
    /// The kernel; for events of a session its main kernel.
    pub kernel: Option<KernelId>,
    /// The kernel's role in its cluster.
    pub cluster_role: Option<String>,
    /// The kernel's index in its cluster.
    pub cluster_idx: Option<i64>,
}

impl SessionEvent {
    fn from_row(row: &Row) -> Result<Self> {
        let detail: serde_json::Value = row.json("detail")?;
        Ok(Self {
            id: row.get("id")?,
            at: Timestamp(row.get("at")?),
            name: row.get("name")?,
            reason: row.get("reason")?,
            exit_code: detail.get("exit_code").and_then(serde_json::Value::as_i64),
            session: row.parse("session_id")?,
            session_name: row.get("session_name")?,
            access_key: row.parse("access_key")?,
            user: row.parse("user_id")?,
            project: row.parse("project_id")?,
            domain: row.get("domain_name")?,
            callback_url: row.get("callback_url")?,
            kernel: row.parse_opt("kernel_id")?,
            cluster_role: row.get("cluster_role")?,
            cluster_idx: row.get("cluster_idx")?,
        })
    }
}

/// Appends events, in order, and notes whom to call back.
pub async fn append<S: Sql>(sql: &mut S, events: &[NewEvent]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = events
        .iter()
        .map(|e| {
            let detail = e.exit_code.map_or_else(|| "{}".to_owned(), |code| format!("{{\"exit_code\":{code}}}"));
            serde_json::json!({"t": e.at.0, "n": e.name, "s": e.session, "k": e.kernel, "r": set::clean(&e.reason), "d": detail})
        })
        .collect();
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO events (at, name, session_id, kernel_id, reason, detail) SELECT x.t, x.n, x.s, x.k, x.r, x.d FROM {}",
            set::rows(
                sql.dialect(),
                "$1",
                &[("t", "bigint"), ("n", "text"), ("s", "text"), ("k", "text"), ("r", "text"), ("d", "text")]
            )
        ))
        .bind(serde_json::Value::Array(rows)),
    )
    .await?;
    callbacks::append(sql, events).await
}

/// The id of the newest event, 0 when there is none.
pub async fn newest<S: Sql>(sql: &mut S) -> Result<i64> {
    sql.fetch_one(Stmt::new("SELECT COALESCE(MAX(id), 0) AS id FROM events")).await?.get("id")
}

/// The ids of the events after `id`.
pub async fn ids_after<S: Sql>(sql: &mut S, id: i64) -> Result<Vec<i64>> {
    let rows = sql.fetch_all(Stmt::new("SELECT id FROM events WHERE id > $1").bind(id)).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// Events of sessions after `id`, oldest first.
pub async fn after<S: Sql>(sql: &mut S, id: i64, limit: i64) -> Result<Vec<SessionEvent>> {
    let rows = sql
        .fetch_all(
            Stmt::new(
                "SELECT e.id, e.at, e.name, e.reason, e.detail, e.session_id, e.kernel_id, s.name AS session_name, s.access_key, \
                 s.user_id, s.project_id, s.domain_name, s.callback_url, k.cluster_role, k.cluster_idx \
                 FROM events e JOIN sessions s ON s.id = e.session_id LEFT JOIN kernels k ON k.id = e.kernel_id \
                 WHERE e.id > $1 ORDER BY e.id LIMIT CAST($2 AS BIGINT)",
            )
            .bind(id)
            .bind(limit),
        )
        .await?;
    rows.iter().map(SessionEvent::from_row).collect()
}

/// Drops all but the newest `keep` events (about: ids may have gaps).
pub async fn trim<S: Sql>(sql: &mut S, keep: i64) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM events WHERE id <= (SELECT COALESCE(MAX(id), 0) FROM events) - $1").bind(keep))
        .await
}
