//! Agents that fall silent are `LOST`.

use quarterdeck_model::{AgentId, AgentStatus, Timestamp};
use quarterdeck_store::agents as rows;

use crate::Control;
use crate::error::Result;

/// Marks the agents `LOST` that have been silent too long; those it marked. `leader_since`: silence before that doesn't
/// count, because nobody listened then.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn pass(control: &Control, leader_since: Timestamp) -> Result<Vec<AgentId>> {
    let now = control.clock().now();
    let timeout = control.settings().heartbeat_timeout_ms;
    if now < leader_since.plus_millis(timeout) {
        return Ok(Vec::new());
    }
    let silent = rows::silent_since(&mut control.store().reader(), now.plus_millis(-timeout)).await?;
    if silent.is_empty() {
        return Ok(silent);
    }
    let mut tx = control.store().begin().await?;
    let lost = rows::set_status(&mut tx, &silent, AgentStatus::Lost, now).await?;
    tx.commit().await?;
    for agent in &lost {
        tracing::warn!(%agent, "the agent is lost: no heartbeat for {timeout} ms");
    }
    Ok(lost)
}
