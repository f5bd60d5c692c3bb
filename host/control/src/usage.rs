//! The counters of what agents, key pairs, projects and domains hold, and the history of it.

use quarterdeck_model::duration::Duration as Span;
use quarterdeck_store::{occupancy, usage};

use crate::Control;
use crate::error::Result;

/// Computes all counters anew from the kernels there are. They are kept right by every transaction;
/// this is for administrators who doubt it.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn recalculate(control: &Control) -> Result<()> {
    let mut tx = control.store().begin().await?;
    occupancy::recalculate(&mut tx).await?;
    tx.commit().await?;
    control.signals().schedule.notify_one();
    Ok(())
}

/// Where the half-life of the history stands in the configuration: a duration.
pub const HALF_LIFE_KEY: &str = "config/usage/half-life";

/// A week.
const HALF_LIFE_MS: i64 = 7 * 86_400_000;
/// A half-life shorter than this can't be told apart from what is held now.
const SHORTEST_HALF_LIFE_MS: i64 = 60_000;
/// What was held in a longer pause of the host is not known.
const LONGEST_PAUSE_MS: i64 = 3_600_000;

/// Brings the history up to date: what key pairs and projects hold now counts for the time since the last call. Policies
/// see it as the column `usage`.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn accrue(control: &Control) -> Result<()> {
    let configured = control.config_tree().get(HALF_LIFE_KEY).await.filter(|text| !text.trim().is_empty());
    let half_life_ms = match configured.as_deref().map(Span::parse_text) {
        None => HALF_LIFE_MS,
        Some(Ok(span)) => span.millis().max(SHORTEST_HALF_LIFE_MS),
        Some(Err(error)) => {
            tracing::warn!(key = HALF_LIFE_KEY, %error, "a duration of the configuration makes no sense");
            HALF_LIFE_MS
        }
    };
    let mut tx = control.store().begin().await?;
    usage::accrue(&mut tx, control.clock().now(), half_life_ms, LONGEST_PAUSE_MS).await?;
    tx.commit().await?;
    Ok(())
}
