//! The steps in the life of a revision: append-only but for the one that is under way, and bounded.

use std::collections::HashMap;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{LifeStep, StepStatus};

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// How many steps of a revision's admission are kept, and how many of its later life: attempts and bindings come and
/// go, and none of them drives the others out.
pub const KEPT: u32 = 50;

/// The longest reason that is kept, in bytes.
const REASON_BYTES: usize = 4096;

/// One step of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRow {
    /// Orders the steps; 0 before insertion.
    pub id: i64,
    /// The revision.
    pub digest: String,
    /// Which step.
    pub step: LifeStep,
    /// How it went.
    pub status: StepStatus,
    /// The host that took it.
    pub host: String,
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in microseconds; none while it runs.
    pub duration_us: Option<i64>,
    /// On whose behalf (an e-mail address, or `host`).
    pub actor: String,
    /// Why it failed, or what else there is to say.
    pub reason: Option<String>,
}

/// Appends a step and drops what is too old; the step's number, for [`end_step`].
///
/// # Errors
/// [`crate::Error::Sqlx`], a foreign-key violation when there is no such revision.
pub async fn record_step<S: Sql>(sql: &mut S, step: &StepRow) -> Result<i64> {
    let stmt = Stmt::new(
        "INSERT INTO plugin_steps (digest, step, status, host, at, duration_us, actor, reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
    )
    .bind(&step.digest)
    .bind(step.step.as_str())
    .bind(step.status.as_str())
    .bind(&step.host)
    .bind(step.at.micros())
    .bind(step.duration_us)
    .bind(&step.actor)
    .bind(step.reason.as_deref().map(cut));
    let id = sql.fetch_one(stmt).await?.get("id")?;
    let admission = step.step.is_admission();
    let group = LifeStep::ALL.iter().filter(|s| s.is_admission() == admission);
    sql.execute(
        Stmt::among(
            "DELETE FROM plugin_steps WHERE step IN {list} AND digest = $2 AND id <= (SELECT id FROM plugin_steps \
             WHERE step IN {list} AND digest = $2 ORDER BY id DESC LIMIT 1 OFFSET CAST($3 AS BIGINT))",
            group,
        )
        .bind(&step.digest)
        .bind(KEPT),
    )
    .await?;
    Ok(id)
}

/// Ends the step that [`record_step`] wrote as running; false when it has ended already.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn end_step<S: Sql>(
    sql: &mut S,
    id: i64,
    status: StepStatus,
    duration_us: i64,
    reason: Option<&str>,
) -> Result<bool> {
    let stmt =
        Stmt::new("UPDATE plugin_steps SET status = $2, duration_us = $3, reason = $4 WHERE id = $1 AND status = $5")
            .bind(id)
            .bind(status.as_str())
            .bind(duration_us)
            .bind(reason.map(cut))
            .bind(StepStatus::Running.as_str());
    Ok(sql.execute(stmt).await? > 0)
}

/// Fails whatever step of a revision is under way: nobody takes it any more.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn break_off<S: Sql>(sql: &mut S, digest: &str, reason: &str) -> Result<bool> {
    let stmt = Stmt::new("UPDATE plugin_steps SET status = $2, reason = $3 WHERE digest = $1 AND status = $4")
        .bind(digest)
        .bind(StepStatus::Failed.as_str())
        .bind(cut(reason))
        .bind(StepStatus::Running.as_str());
    Ok(sql.execute(stmt).await? > 0)
}

/// The steps of a revision, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_revision<S: Sql>(sql: &mut S, digest: &str) -> Result<Vec<StepRow>> {
    let stmt = Stmt::new("SELECT * FROM plugin_steps WHERE digest = $1 ORDER BY id").bind(digest);
    sql.fetch_all(stmt).await?.iter().map(step_row).collect()
}

/// The newest step of each revision, by digest.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn latest<S: Sql>(sql: &mut S) -> Result<HashMap<String, StepRow>> {
    let stmt = Stmt::new(
        "SELECT * FROM plugin_steps WHERE id IN (SELECT MAX(id) FROM plugin_steps GROUP BY digest) ORDER BY id",
    );
    sql.fetch_all(stmt).await?.iter().map(|row| step_row(row).map(|step| (step.digest.clone(), step))).collect()
}

fn step_row(row: &Row) -> Result<StepRow> {
    Ok(StepRow {
        id: row.get("id")?,
        digest: row.get("digest")?,
        step: row.parse("step")?,
        status: row.parse("status")?,
        host: row.get("host")?,
        at: Timestamp(row.get("at")?),
        duration_us: row.get("duration_us")?,
        actor: row.get("actor")?,
        reason: row.get("reason")?,
    })
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
