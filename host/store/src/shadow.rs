//! What policies in shadow mode would have decided: sums for each binding, and a bounded ring of differences.

use quarterdeck_model::Timestamp;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// A round, tick or event that a shadow binding was shown, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// The round's id in the ring, if it is on record; none for ticks and events.
    pub round: Option<i64>,
    /// When the live policy decided, in microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// `ok`, or how the candidate failed.
    pub outcome: String,
    /// Sessions that both placed on the same agents (found idle; denied).
    pub same: i64,
    /// Sessions that both placed, on other agents (both decided, in other words).
    pub elsewhere: i64,
    /// Sessions that only the live policy placed (found idle; denied).
    pub only_live: i64,
    /// Sessions that only the candidate placed (found idle; denied).
    pub only_candidate: i64,
    /// How long the sessions that the live policy placed had waited, summed, in milliseconds.
    pub live_waited_ms: i64,
    /// The same of the candidate's.
    pub candidate_waited_ms: i64,
    /// How long the live policy took, in microseconds.
    pub live_us: i64,
    /// How long the candidate took, in microseconds.
    pub candidate_us: i64,
    /// How much of the free room is in pieces too small, from 0 to 1, as the live policy leaves it.
    pub live_fragmentation: f64,
    /// The same as the candidate would leave it.
    pub candidate_fragmentation: f64,
    /// Compressed JSON: who fares how.
    pub details: Option<Vec<u8>>,
}

impl Run {
    /// Whether the candidate came to an end.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            round: row.get("round")?,
            at: row.get("at")?,
            outcome: row.get("outcome")?,
            details: row.get("details")?,
            ..Self::sums(row)?
        })
    }

    /// What is added up.
    fn sums(row: &Row) -> Result<Self> {
        Ok(Self {
            same: row.get("same")?,
            elsewhere: row.get("elsewhere")?,
            only_live: row.get("only_live")?,
            only_candidate: row.get("only_candidate")?,
            live_waited_ms: row.get("live_waited_ms")?,
            candidate_waited_ms: row.get("candidate_waited_ms")?,
            live_us: row.get("live_us")?,
            candidate_us: row.get("candidate_us")?,
            live_fragmentation: row.get("live_fragmentation")?,
            candidate_fragmentation: row.get("candidate_fragmentation")?,
            ..Self::default()
        })
    }
}

/// What a shadow binding saw. As an addition: what comes to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// The binding's id.
    pub binding: String,
    /// When it was made, in microseconds since 1970-01-01 UTC.
    pub since: i64,
    /// When it last saw something.
    pub last_at: Option<i64>,
    /// Rounds, ticks or events that it was shown.
    pub seen: i64,
    /// Others that came while it was busy.
    pub skipped: i64,
    /// Of those seen: that it failed in.
    pub failed: i64,
    /// Of those seen: without any difference.
    pub alike: i64,
    /// Failures in a row until now; an addition sets it.
    pub failed_in_a_row: i64,
    /// Sums of what stands in [`Run`], failed ones excepted.
    pub sums: Run,
    /// When and why it was put to rest; an addition sets it.
    pub rested: Option<(Timestamp, String)>,
}

impl Totals {
    /// Adds a run.
    pub fn count(&mut self, run: &Run, alike: bool) {
        self.seen += 1;
        self.last_at = self.last_at.max(Some(run.at));
        if !run.is_ok() {
            self.failed += 1;
            self.failed_in_a_row += 1;
            return;
        }
        self.failed_in_a_row = 0;
        self.alike += i64::from(alike);
        let sums = &mut self.sums;
        sums.same += run.same;
        sums.elsewhere += run.elsewhere;
        sums.only_live += run.only_live;
        sums.only_candidate += run.only_candidate;
        sums.live_waited_ms = sums.live_waited_ms.saturating_add(run.live_waited_ms);
        sums.candidate_waited_ms = sums.candidate_waited_ms.saturating_add(run.candidate_waited_ms);
        sums.live_us = sums.live_us.saturating_add(run.live_us);
        sums.candidate_us = sums.candidate_us.saturating_add(run.candidate_us);
        sums.live_fragmentation += run.live_fragmentation;
        sums.candidate_fragmentation += run.candidate_fragmentation;
    }

    fn from_row(row: &Row) -> Result<Self> {
        let rested_at: Option<i64> = row.get("rested_at")?;
        let rested_reason: Option<String> = row.get("rested_reason")?;
        Ok(Self {
            binding: row.get("binding")?,
            since: row.get("since")?,
            last_at: row.get("last_at")?,
            seen: row.get("seen")?,
            skipped: row.get("skipped")?,
            failed: row.get("failed")?,
            alike: row.get("alike")?,
            failed_in_a_row: row.get("failed_in_a_row")?,
            sums: Run::sums(row)?,
            rested: rested_at.zip(rested_reason).map(|(at, reason)| (Timestamp(at), reason)),
        })
    }
}

/// A difference or failure that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Orders the runs.
    pub id: i64,
    /// What it was.
    pub run: Run,
}

/// Begins the sums of a new binding.
///
/// # Errors
/// Database errors.
pub async fn begin<S: Sql>(sql: &mut S, binding: &str, since: Timestamp) -> Result<()> {
    let stmt = Stmt::new("INSERT INTO shadow_totals (binding, since) VALUES ($1, $2)");
    sql.execute(stmt.bind(binding).bind(since.0)).await?;
    Ok(())
}

/// Adds to the sums of a binding, and keeps these runs, of which the newest `keep` stay. False when the binding is gone.
/// Needs a transaction.
///
/// # Errors
/// Database errors.
pub async fn add<S: Sql>(sql: &mut S, more: &Totals, runs: &[Run], keep: i64) -> Result<bool> {
    // Held until the end, so that the binding doesn't go in between.
    let stmt = Stmt::new("SELECT id FROM plugin_bindings WHERE id = $1").on_postgres("FOR KEY SHARE");
    if sql.fetch_optional(stmt.bind(&more.binding)).await?.is_none() {
        return Ok(false);
    }
    let sums = &more.sums;
    let (rested_at, rested_reason) = more.rested.clone().map(|(at, reason)| (at.0, reason)).unzip();
    let stmt = Stmt::new(
        "UPDATE shadow_totals SET last_at = COALESCE($2, last_at), seen = seen + $3, skipped = skipped + $4,
            failed = failed + $5, alike = alike + $6, failed_in_a_row = $7, same = same + $8,
            elsewhere = elsewhere + $9, only_live = only_live + $10, only_candidate = only_candidate + $11,
            live_waited_ms = live_waited_ms + $12, candidate_waited_ms = candidate_waited_ms + $13,
            live_us = live_us + $14, candidate_us = candidate_us + $15,
            live_fragmentation = live_fragmentation + $16, candidate_fragmentation = candidate_fragmentation + $17,
            rested_at = COALESCE($18, rested_at), rested_reason = COALESCE($19, rested_reason)
         WHERE binding = $1",
    );
    sql.execute(
        stmt.bind(&more.binding)
            .bind(more.last_at)
            .bind(more.seen)
            .bind(more.skipped)
            .bind(more.failed)
            .bind(more.alike)
            .bind(more.failed_in_a_row)
            .bind(sums.same)
            .bind(sums.elsewhere)
            .bind(sums.only_live)
            .bind(sums.only_candidate)
            .bind(sums.live_waited_ms)
            .bind(sums.candidate_waited_ms)
            .bind(sums.live_us)
            .bind(sums.candidate_us)
            .bind(sums.live_fragmentation)
            .bind(sums.candidate_fragmentation)
            .bind(rested_at)
            .bind(rested_reason),
    )
    .await?;
    for run in runs {
        insert(sql, &more.binding, run).await?;
    }
    if !runs.is_empty() {
        let stmt = Stmt::new(
            "DELETE FROM shadow_runs WHERE binding = $1 AND id <=
             (SELECT id FROM shadow_runs WHERE binding = $1 ORDER BY id DESC LIMIT 1 OFFSET CAST($2 AS BIGINT))",
        );
        sql.execute(stmt.bind(&more.binding).bind(keep.max(1))).await?;
    }
    Ok(true)
}

async fn insert<S: Sql>(sql: &mut S, binding: &str, run: &Run) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO shadow_runs (binding, round, at, outcome, same, elsewhere, only_live, only_candidate,
            live_waited_ms, candidate_waited_ms, live_us, candidate_us, live_fragmentation, candidate_fragmentation,
            details) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    );
    sql.execute(
        stmt.bind(binding)
            .bind(run.round)
            .bind(run.at)
            .bind(&run.outcome)
            .bind(run.same)
            .bind(run.elsewhere)
            .bind(run.only_live)
            .bind(run.only_candidate)
            .bind(run.live_waited_ms)
            .bind(run.candidate_waited_ms)
            .bind(run.live_us)
            .bind(run.candidate_us)
            .bind(run.live_fragmentation)
            .bind(run.candidate_fragmentation)
            .bind(run.details.clone()),
    )
    .await?;
    Ok(())
}

/// What each shadow binding saw, by binding.
///
/// # Errors
/// Database errors.
pub async fn all<S: Sql>(sql: &mut S) -> Result<Vec<Totals>> {
    let rows = sql.fetch_all(Stmt::new("SELECT * FROM shadow_totals ORDER BY since, binding")).await?;
    rows.iter().map(Totals::from_row).collect()
}

/// What a shadow binding saw; `None` when there is no such binding.
///
/// # Errors
/// Database errors.
pub async fn totals<S: Sql>(sql: &mut S, binding: &str) -> Result<Option<Totals>> {
    let stmt = Stmt::new("SELECT * FROM shadow_totals WHERE binding = $1").bind(binding);
    sql.fetch_optional(stmt).await?.as_ref().map(Totals::from_row).transpose()
}

/// Runs that were kept of a binding, newest first, older than `before` (an id).
///
/// # Errors
/// Database errors.
pub async fn runs<S: Sql>(sql: &mut S, binding: &str, before: Option<i64>, limit: i64) -> Result<Vec<RunRow>> {
    let stmt =
        Stmt::new("SELECT * FROM shadow_runs WHERE binding = $1 AND id < $2 ORDER BY id DESC LIMIT CAST($3 AS BIGINT)");
    let rows = sql.fetch_all(stmt.bind(binding).bind(before.unwrap_or(i64::MAX)).bind(limit)).await?;
    rows.iter().map(|row| Ok(RunRow { id: row.get("id")?, run: Run::from_row(row)? })).collect()
}
