//! Scheduling rounds: a bounded ring of summaries per scaling group, and the recordings of some of them.

use quarterdeck_model::Timestamp;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt, Value};

/// A round to be noted.
#[derive(Clone, Debug)]
pub struct NewRound {
    /// The scaling group.
    pub scaling_group: String,
    /// When it began.
    pub at: Timestamp,
    /// The scheduler's name.
    pub plugin: String,
    /// The scheduler's version; empty when none served.
    pub version: String,
    /// The scheduler's revision; empty when none served.
    pub digest: String,
    /// `ok`, or why the fallback took over or nothing was scheduled at all.
    pub outcome: String,
    /// Sessions that were to be placed.
    pub pending: i64,
    /// Sessions placed.
    pub placed: i64,
    /// Sessions that found no room.
    pub deferred: i64,
    /// Proposals turned down.
    pub refused: i64,
    /// Decisions that no longer held when they were to be written.
    pub stale: i64,
    /// How long it took until it was to be written.
    pub duration_us: i64,
}

/// A round of the ring.
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
    /// The scheduler's version; empty when none served.
    pub version: String,
    /// The scheduler's revision; empty when none served.
    pub digest: String,
    /// `ok`, or why the fallback took over or nothing was scheduled at all.
    pub outcome: String,
    /// Sessions that were to be placed.
    pub pending: i64,
    /// Sessions placed.
    pub placed: i64,
    /// Sessions that found no room.
    pub deferred: i64,
    /// Proposals turned down.
    pub refused: i64,
    /// Decisions that no longer held when they were to be written.
    pub stale: i64,
    /// How long it took.
    pub duration_us: i64,
    /// Bytes of its recording, as stored; `None` when there is none.
    pub bytes: Option<i64>,
}

impl RoundRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            scaling_group: row.get("scaling_group")?,
            at: Timestamp(row.get("at")?),
            plugin: row.get("plugin")?,
            version: row.get("version")?,
            digest: row.get("digest")?,
            outcome: row.get("outcome")?,
            pending: row.get("pending")?,
            placed: row.get("placed")?,
            deferred: row.get("deferred")?,
            refused: row.get("refused")?,
            stale: row.get("stale")?,
            duration_us: row.get("duration_us")?,
            bytes: row.get("bytes")?,
        })
    }
}

/// A recording to be kept.
#[derive(Clone, Debug)]
pub struct NewRecording {
    /// The round's id.
    pub round: i64,
    /// As stored.
    pub bytes: Vec<u8>,
}

/// Which rounds are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this scaling group.
    pub scaling_group: Option<String>,
    /// By the scheduler of this name.
    pub plugin: Option<String>,
    /// With this outcome: the whole text, the word before its colon, or `failed` for all but `ok`.
    pub outcome: Option<String>,
    /// Begun then or later.
    pub since: Option<Timestamp>,
    /// With smaller ids.
    pub before: Option<i64>,
    /// With a recording.
    pub recorded: bool,
}

const COLUMNS: &str =
    "SELECT r.id, r.scaling_group, r.at, r.plugin, r.version, r.digest, r.outcome, r.pending, r.placed,
    r.deferred, r.refused, r.stale, r.duration_us, c.size AS bytes
    FROM rounds r LEFT JOIN round_recordings c ON c.round_id = r.id";

/// Notes a round and drops all but the newest `keep` of its group, with their recordings. Its id.
///
/// # Errors
/// Database errors.
pub async fn append<S: Sql>(sql: &mut S, round: &NewRound, keep: i64) -> Result<i64> {
    let stmt = Stmt::new(
        "INSERT INTO rounds (scaling_group, at, plugin, version, digest, outcome, pending, placed, deferred, refused,
                             stale, duration_us)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
    )
    .bind(&round.scaling_group)
    .bind(round.at.0)
    .bind(&round.plugin)
    .bind(&round.version)
    .bind(&round.digest)
    .bind(&round.outcome)
    .bind(round.pending)
    .bind(round.placed)
    .bind(round.deferred)
    .bind(round.refused)
    .bind(round.stale)
    .bind(round.duration_us);
    let id = sql.fetch_one(stmt).await?.get("id")?;
    sql.execute(
        Stmt::new(
            "DELETE FROM rounds WHERE scaling_group = $1 AND id <=
             (SELECT id FROM rounds WHERE scaling_group = $1 ORDER BY id DESC LIMIT 1 OFFSET CAST($2 AS BIGINT))",
        )
        .bind(&round.scaling_group)
        .bind(keep.max(1)),
    )
    .await?;
    Ok(id)
}

/// Keeps the recording of a round, unless the ring has dropped that round already; then drops the group's oldest
/// recordings until all of them together have at most `max_bytes`. The summaries stay.
///
/// # Errors
/// Database errors.
pub async fn keep_recording<S: Sql>(sql: &mut S, recording: &NewRecording, max_bytes: i64) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO round_recordings (round_id, scaling_group, size, recording)
             SELECT id, scaling_group, $2, $3 FROM rounds WHERE id = $1
             ON CONFLICT (round_id) DO NOTHING",
        )
        .bind(recording.round)
        .bind(i64::try_from(recording.bytes.len()).unwrap_or(i64::MAX))
        .bind(Some(recording.bytes.clone())),
    )
    .await?;
    sql.execute(
        Stmt::new(
            "DELETE FROM round_recordings WHERE round_id IN (
                 SELECT round_id FROM (
                     SELECT round_id, SUM(size) OVER (ORDER BY round_id DESC) AS total FROM round_recordings
                     WHERE scaling_group = (SELECT scaling_group FROM rounds WHERE id = $1)
                 ) sums WHERE total > $2)",
        )
        .bind(recording.round)
        .bind(max_bytes),
    )
    .await?;
    Ok(())
}

/// Rounds, newest first.
///
/// # Errors
/// Database errors.
pub async fn list<S: Sql>(sql: &mut S, filter: &Filter, limit: i64) -> Result<Vec<RoundRow>> {
    let mut conditions = vec!["1 = 1".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace("{}", &format!("${}", values.len())));
    };
    if let Some(group) = &filter.scaling_group {
        add("r.scaling_group = {}", group.into());
    }
    if let Some(plugin) = &filter.plugin {
        add("r.plugin = {}", plugin.into());
    }
    match filter.outcome.as_deref() {
        None => {}
        Some("failed") => add("r.outcome <> {}", "ok".into()),
        Some(outcome) => {
            add("(r.outcome = {} OR SUBSTR(r.outcome, 1, LENGTH({}) + 1) = {} || ':')", outcome.into());
        }
    }
    if let Some(since) = filter.since {
        add("r.at >= {}", since.0.into());
    }
    if let Some(before) = filter.before {
        add("r.id < {}", before.into());
    }
    if filter.recorded {
        conditions.push("c.size IS NOT NULL".to_owned());
    }
    values.push(limit.into());
    let text = format!(
        "{COLUMNS} WHERE {} ORDER BY r.id DESC LIMIT CAST(${} AS BIGINT)",
        conditions.join(" AND "),
        values.len()
    );
    sql.fetch_all(Stmt::assembled(text).bind_all(values)).await?.iter().map(RoundRow::from_row).collect()
}

/// One round.
///
/// # Errors
/// Database errors.
pub async fn get<S: Sql>(sql: &mut S, id: i64) -> Result<Option<RoundRow>> {
    let stmt = Stmt::assembled(format!("{COLUMNS} WHERE r.id = $1")).bind(id);
    sql.fetch_optional(stmt).await?.as_ref().map(RoundRow::from_row).transpose()
}

/// The recording of a round; `None` when there is no such round or it has none.
///
/// # Errors
/// Database errors.
pub async fn recording<S: Sql>(sql: &mut S, id: i64) -> Result<Option<Vec<u8>>> {
    let stmt = Stmt::new("SELECT recording FROM round_recordings WHERE round_id = $1").bind(id);
    sql.fetch_optional(stmt).await?.map_or(Ok(None), |row| row.get("recording"))
}
