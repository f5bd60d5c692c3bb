//! Background tasks: who works on them, how far they are, and what became of them.

use quarterdeck_model::{TaskId, TaskStatus, Timestamp, UserId};
use serde_json::json;

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Its id.
    pub id: TaskId,
    /// What it does.
    pub kind: String,
    /// Who asked for it.
    pub owner: Option<UserId>,
    /// The run of the host that works on it.
    pub host: String,
    /// Where it stands.
    pub status: TaskStatus,
    /// How much is done.
    pub current: i64,
    /// Of how much; it may grow on the way.
    pub total: i64,
    /// The newest message; at the end the outcome.
    pub message: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was heard of last.
    pub updated_at: Timestamp,
}

/// One step of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Orders the steps of all tasks; 0 before it is written.
    pub id: i64,
    /// How much is done.
    pub current: i64,
    /// Of how much.
    pub total: i64,
    /// What was done.
    pub message: Option<String>,
}

fn row(row: &Row) -> Result<TaskRow> {
    Ok(TaskRow {
        id: row.parse("id")?,
        kind: row.get("kind")?,
        owner: row.parse_opt("owner")?,
        host: row.get("host")?,
        status: row.parse("status")?,
        current: row.get("current")?,
        total: row.get("total")?,
        message: row.get("message")?,
        started_at: Timestamp(row.get("started_at")?),
        updated_at: Timestamp(row.get("updated_at")?),
    })
}

/// Adds a task.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn insert<S: Sql>(sql: &mut S, task: &TaskRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO background_tasks (id, kind, owner, host, alive_at, status, current, total, message, started_at, \
             updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(task.id.to_string())
        .bind(&task.kind)
        .bind(task.owner.map(|owner| owner.to_string()))
        .bind(&task.host)
        .bind(task.started_at.micros())
        .bind(task.status.as_str())
        .bind(task.current)
        .bind(task.total)
        .bind(task.message.as_deref())
        .bind(task.started_at.micros())
        .bind(task.updated_at.micros()),
    )
    .await?;
    Ok(())
}

/// A task.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, id: TaskId) -> Result<Option<TaskRow>> {
    let stmt = Stmt::new("SELECT * FROM background_tasks WHERE id = $1").bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Appends steps, in order, to a task that is under way; whether it is.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn progress<S: Sql>(sql: &mut S, id: TaskId, steps: &[Update], now: Timestamp) -> Result<bool> {
    let Some(last) = steps.last() else { return Ok(true) };
    let stmt = Stmt::new(
        "UPDATE background_tasks SET current = $1, total = $2, message = $3, updated_at = $4, alive_at = $4 \
         WHERE id = $5 AND status = 'started'",
    );
    let message = last.message.as_deref().map(set::clean);
    let stmt = stmt.bind(last.current).bind(last.total).bind(message.as_deref()).bind(now.micros());
    if sql.execute(stmt.bind(id.to_string())).await? == 0 {
        return Ok(false);
    }
    let rows: Vec<_> = steps
        .iter()
        .map(|s| json!({"c": s.current, "t": s.total, "m": s.message.as_deref().map(set::clean)}))
        .collect();
    let source = set::rows(sql.dialect(), "$2", &[("c", "bigint"), ("t", "bigint"), ("m", "text")]);
    let stmt = Stmt::assembled(format!(
        "INSERT INTO background_task_updates (task_id, current, total, message) SELECT $1, x.c, x.t, x.m FROM {source}"
    ));
    sql.execute(stmt.bind(id.to_string()).bind(serde_json::Value::Array(rows))).await?;
    Ok(true)
}

/// Drops all but the newest `keep` steps of a task.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn trim<S: Sql>(sql: &mut S, id: TaskId, keep: i64) -> Result<u64> {
    let stmt = Stmt::new(
        "DELETE FROM background_task_updates WHERE task_id = $1 AND id <= (SELECT id FROM background_task_updates \
         WHERE task_id = $1 ORDER BY id DESC LIMIT 1 OFFSET CAST($2 AS BIGINT))",
    );
    sql.execute(stmt.bind(id.to_string()).bind(keep)).await
}

/// A task's steps after one of them, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn updates_after<S: Sql>(sql: &mut S, id: TaskId, after: i64, limit: i64) -> Result<Vec<Update>> {
    let stmt = Stmt::new(
        "SELECT id, current, total, message FROM background_task_updates WHERE task_id = $1 AND id > $2 \
         ORDER BY id LIMIT CAST($3 AS BIGINT)",
    );
    let rows = sql.fetch_all(stmt.bind(id.to_string()).bind(after).bind(limit)).await?;
    rows.iter()
        .map(|row| {
            Ok(Update {
                id: row.get("id")?,
                current: row.get("current")?,
                total: row.get("total")?,
                message: row.get("message")?,
            })
        })
        .collect()
}

/// Ends a task that is under way; whether it was.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn finish<S: Sql>(
    sql: &mut S,
    id: TaskId,
    status: TaskStatus,
    message: &str,
    now: Timestamp,
) -> Result<bool> {
    let stmt = Stmt::new(
        "UPDATE background_tasks SET status = $1, message = $2, updated_at = $3 WHERE id = $4 AND status = 'started'",
    );
    let stmt = stmt.bind(status.as_str()).bind(set::clean(message).as_ref()).bind(now.micros());
    Ok(sql.execute(stmt.bind(id.to_string())).await? > 0)
}

/// Says that these tasks are still worked on.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn keep_alive<S: Sql>(sql: &mut S, ids: &[TaskId], now: Timestamp) -> Result<u64> {
    let among = set::among(sql.dialect(), "$2");
    let stmt =
        Stmt::assembled(format!("UPDATE background_tasks SET alive_at = $1 WHERE status = 'started' AND id {among}"));
    sql.execute(stmt.bind(now.micros()).bind(set::array(ids))).await
}

/// Ends as failed what no host has worked on since then; how many those were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn fail_lost<S: Sql>(sql: &mut S, since: Timestamp, message: &str, now: Timestamp) -> Result<u64> {
    let stmt = Stmt::new(
        "UPDATE background_tasks SET status = 'failed', message = $1, updated_at = $2 \
         WHERE status = 'started' AND alive_at < $3",
    );
    sql.execute(stmt.bind(message).bind(now.micros()).bind(since.micros())).await
}

/// Forgets tasks that ended before then.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn drop_before<S: Sql>(sql: &mut S, horizon: Timestamp) -> Result<u64> {
    let stmt = Stmt::new("DELETE FROM background_tasks WHERE status <> 'started' AND updated_at < $1");
    sql.execute(stmt.bind(horizon.micros())).await
}
