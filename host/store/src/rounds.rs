//! Recorded scheduling rounds: a bounded ring per scaling group.

use quarterdeck_model::Timestamp;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// A round to be recorded.
#[derive(Clone, Debug)]
pub struct NewRound {
    /// The scaling group.
    pub scaling_group: String,
    /// When it began.
    pub at: Timestamp,
    /// The scheduler's name.
    pub plugin: String,
    /// The scheduler's revision; empty when none served.
    pub digest: String,
    /// `ok`, or why the fallback took over or nothing was scheduled at all.
    pub outcome: String,
    /// Sessions placed.
    pub placed: i64,
    /// Sessions that found no room.
    pub deferred: i64,
    /// Proposals turned down.
    pub refused: i64,
    /// How long it took.
    pub duration_us: i64,
    /// Snapshot, proposals and verdicts, compressed.
    pub recording: Option<Vec<u8>>,
}

/// A recorded round, without the recording.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRow {
    /// Orders rounds.
    pub id: i64,
    /// The scaling group.
    pub scaling_group: String,
    /// When it began.
    pub at: Timestamp,
    /// The scheduler's name.
    pub plugin: String,
    /// The scheduler's revision; empty when none served.
    pub digest: String,
    /// `ok`, or why the fallback took over or nothing was scheduled at all.
    pub outcome: String,
    /// Sessions placed.
    pub placed: i64,
    /// Sessions that found no room.
    pub deferred: i64,
    /// Proposals turned down.
    pub refused: i64,
    /// How long it took.
    pub duration_us: i64,
    /// Whether there is a recording.
    pub recorded: bool,
}

impl RoundRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            scaling_group: row.get("scaling_group")?,
            at: Timestamp(row.get("at")?),
            plugin: row.get("plugin")?,
            digest: row.get("digest")?,
            outcome: row.get("outcome")?,
            placed: row.get("placed")?,
            deferred: row.get("deferred")?,
            refused: row.get("refused")?,
            duration_us: row.get("duration_us")?,
            recorded: row.get("recorded")?,
        })
    }
}

/// Records a round and drops all but the newest `keep` of its group.
///
/// # Errors
/// Database errors.
pub async fn append<S: Sql>(sql: &mut S, round: &NewRound, keep: i64) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO rounds (scaling_group, at, plugin, digest, outcome, placed, deferred, refused, duration_us, recording)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&round.scaling_group)
        .bind(round.at.0)
        .bind(&round.plugin)
        .bind(&round.digest)
        .bind(&round.outcome)
        .bind(round.placed)
        .bind(round.deferred)
        .bind(round.refused)
        .bind(round.duration_us)
        .bind(round.recording.clone()),
    )
    .await?;
    sql.execute(
        Stmt::new(
            "DELETE FROM rounds WHERE scaling_group = $1 AND id <=
             (SELECT id FROM rounds WHERE scaling_group = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
        )
        .bind(&round.scaling_group)
        .bind(keep.max(1)),
    )
    .await?;
    Ok(())
}

/// The newest rounds of a group, newest first.
///
/// # Errors
/// Database errors.
pub async fn newest<S: Sql>(sql: &mut S, scaling_group: &str, limit: i64) -> Result<Vec<RoundRow>> {
    let stmt = Stmt::new(
        "SELECT id, scaling_group, at, plugin, digest, outcome, placed, deferred, refused, duration_us,
                recording IS NOT NULL AS recorded
         FROM rounds WHERE scaling_group = $1 ORDER BY id DESC LIMIT $2",
    );
    sql.fetch_all(stmt.bind(scaling_group).bind(limit)).await?.iter().map(RoundRow::from_row).collect()
}

/// The recording of a round; `None` when there is no such round or it was not recorded.
///
/// # Errors
/// Database errors.
pub async fn recording<S: Sql>(sql: &mut S, id: i64) -> Result<Option<Vec<u8>>> {
    let row = sql.fetch_optional(Stmt::new("SELECT recording FROM rounds WHERE id = $1").bind(id)).await?;
    row.map_or(Ok(None), |row| row.get("recording"))
}
