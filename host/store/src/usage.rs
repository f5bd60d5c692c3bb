//! The history of what key pairs and projects have held: decayed sums that schedulers go by.
//!
//! The sums are brought up to date from the books now and then ([`accrue`]), for those who hold something, in one
//! statement. What is held in between two updates counts as if it had been held since the last one.

use std::collections::HashMap;

use quarterdeck_model::Timestamp;

use crate::error::Result;
use crate::sql::{Dialect, Sql, Stmt};

/// After so many half-lives the sums are scaled down, long before they could outgrow their type.
const MOST_HALF_LIVES: f64 = 64.0;

/// What is less than this is forgotten when sums are scaled down: a thousandth of a core for a second, or a byte.
const FORGOTTEN: f64 = 1.0;

/// Up to when the sums go, and how they are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ClockRow {
    at: Timestamp,
    landmark: Timestamp,
    half_life_ms: i64,
}

impl ClockRow {
    /// Half-lives from the landmark until then.
    fn age(&self, then: Timestamp) -> f64 {
        (then.0 - self.landmark.0) as f64 / 1000.0 / self.half_life_ms as f64
    }

    /// The integral of the weight over a span of time, in seconds.
    fn weight(&self, from: Timestamp, to: Timestamp) -> f64 {
        self.mean_life_s() * (self.age(to).exp2() - self.age(from).exp2())
    }

    /// The integral of all weights before now, as seen from now, in seconds.
    fn mean_life_s(&self) -> f64 {
        self.half_life_ms as f64 / 1000.0 / std::f64::consts::LN_2
    }
}

async fn clock<S: Sql>(sql: &mut S, lock: bool) -> Result<Option<ClockRow>> {
    let lock = if lock && sql.dialect() == Dialect::Postgres { " FOR UPDATE" } else { "" };
    let stmt = Stmt::assembled(format!("SELECT at, landmark, half_life_ms FROM usage_clock WHERE id = 1{lock}"));
    let row = sql.fetch_optional(stmt).await?;
    row.map(|row| {
        Ok(ClockRow {
            at: Timestamp(row.get("at")?),
            landmark: Timestamp(row.get("landmark")?),
            half_life_ms: row.get::<i64>("half_life_ms")?.max(1),
        })
    })
    .transpose()
}

/// Adds what is held now for the time since the last call (at most `longest_ms`: what happened in a longer pause is not
/// known), with `half_life_ms` from here on.
///
/// # Errors
/// Database errors.
pub async fn accrue<S: Sql>(sql: &mut S, now: Timestamp, half_life_ms: i64, longest_ms: i64) -> Result<()> {
    let Some(row) = clock(sql, true).await? else {
        let stmt = Stmt::new(
            "INSERT INTO usage_clock (id, at, landmark, half_life_ms) VALUES (1, $1, $1, $2) ON CONFLICT (id) DO NOTHING",
        );
        sql.execute(stmt.bind(now.0).bind(half_life_ms)).await?;
        return Ok(());
    };
    if now <= row.at {
        return Ok(());
    }
    let from = row.at.max(now.plus_millis(-longest_ms));
    let stmt = Stmt::new(
        "INSERT INTO usage_history (scope, holder, slot, amount)
         SELECT scope, holder, slot, amount * CAST($1 AS DOUBLE PRECISION) FROM occupancy
         WHERE amount > 0 AND scope IN ('keypair', 'project')
         ON CONFLICT (scope, holder, slot) DO UPDATE SET amount = usage_history.amount + excluded.amount",
    );
    sql.execute(stmt.bind(row.weight(from, now))).await?;
    let mut next = ClockRow { at: now, ..row };
    if row.half_life_ms != half_life_ms || row.age(now) > MOST_HALF_LIVES {
        let stmt = Stmt::new("UPDATE usage_history SET amount = amount * CAST($1 AS DOUBLE PRECISION)");
        sql.execute(stmt.bind((-row.age(now)).exp2())).await?;
        let stmt = Stmt::new("DELETE FROM usage_history WHERE amount < CAST($1 AS DOUBLE PRECISION)");
        sql.execute(stmt.bind(FORGOTTEN)).await?;
        next = ClockRow { at: now, landmark: now, half_life_ms };
    }
    let stmt = Stmt::new("UPDATE usage_clock SET at = $1, landmark = $2, half_life_ms = $3 WHERE id = 1");
    sql.execute(stmt.bind(next.at.0).bind(next.landmark.0).bind(next.half_life_ms)).await?;
    Ok(())
}

/// What holders have held on average of late, by scope and holder, then by slot: contract units.
pub type Means = HashMap<(String, String), Vec<(String, f64)>>;

/// The means of the key pairs and projects that own open sessions of a scaling group.
///
/// # Errors
/// Database errors.
pub async fn means<S: Sql>(sql: &mut S, group: &str, now: Timestamp) -> Result<Means> {
    let Some(row) = clock(sql, false).await? else { return Ok(Means::new()) };
    let scale = (-row.age(now.max(row.at))).exp2() / row.mean_life_s();
    let stmt = Stmt::new(
        "SELECT scope, holder, slot, amount FROM usage_history
         WHERE (scope = 'keypair' AND holder IN (SELECT access_key FROM sessions
                WHERE scaling_group = $1 AND status NOT IN ('TERMINATED', 'CANCELLED')))
            OR (scope = 'project' AND holder IN (SELECT project_id FROM sessions
                WHERE scaling_group = $1 AND status NOT IN ('TERMINATED', 'CANCELLED')))
         ORDER BY scope, holder, slot",
    );
    let mut means = Means::new();
    for row in sql.fetch_all(stmt.bind(group)).await? {
        let holder = (row.get("scope")?, row.get("holder")?);
        means.entry(holder).or_default().push((row.get("slot")?, row.get::<f64>("amount")? * scale));
    }
    Ok(means)
}
