//! Every status change of a session or kernel, in the order of their transactions.

use quarterdeck_model::{KernelId, SessionId, Timestamp};

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// A status that something entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub session: SessionId,
    /// The kernel; `None` for the session itself.
    pub kernel: Option<KernelId>,
    /// The status.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Appends entries.
pub async fn append<S: Sql>(sql: &mut S, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|e| serde_json::json!({"s": e.session, "k": e.kernel, "t": e.status, "r": e.reason, "a": e.at.0}))
        .collect();
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO history (session_id, kernel_id, status, reason, at) SELECT x.s, x.k, x.t, x.r, x.a FROM {}",
            set::rows(
                sql.dialect(),
                "$1",
                &[("s", "text"), ("k", "text"), ("t", "text"), ("r", "text"), ("a", "bigint")]
            )
        ))
        .bind(serde_json::Value::Array(rows)),
    )
    .await?;
    Ok(())
}

/// The history of one session and its kernels, oldest first.
pub async fn of_session<S: Sql>(sql: &mut S, session: SessionId) -> Result<Vec<Entry>> {
    let rows = sql
        .fetch_all(
            Stmt::new(
                "SELECT session_id, kernel_id, status, reason, at FROM history WHERE session_id = $1 ORDER BY id",
            )
            .bind(session.to_string()),
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Entry {
                session: row.parse("session_id")?,
                kernel: row.parse_opt("kernel_id")?,
                status: row.get("status")?,
                reason: row.get("reason")?,
                at: Timestamp(row.get("at")?),
            })
        })
        .collect()
}
