//! What grows is bounded, and gauges are kept current.

use quarterdeck_model::{AgentStatus, SessionStatus};
use quarterdeck_store::{agents, clusters, events, sessions};

use crate::Control;
use crate::error::Result;
use crate::metrics::ByStatus;

/// Drops the oldest events beyond the ring's size; error logs, usage records, live statistics, call-backs and entries of the
/// audit that are too old; and gives up components that nobody takes in any more.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn pass(control: &Control) -> Result<u64> {
    let mut tx = control.store().begin().await?;
    let dropped = events::trim(&mut tx, control.settings().event_ring).await?;
    clusters::forget_ended(&mut tx).await?;
    tx.commit().await?;
    crate::plugins::tidy(control).await?;
    crate::agents::statistics::expire(control).await?;
    let expired = crate::error_logs::expire(control).await? + crate::usage_records::expire(control).await?;
    let expired = expired + crate::callbacks::expire(control).await?;
    Ok(dropped + expired + crate::audit::expire(control).await?)
}

/// Sets the gauges that show how many sessions and agents are in which status.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn measure(control: &Control) -> Result<()> {
    let mut reader = control.store().reader();
    let open = sessions::open_by_status(&mut reader).await?;
    for status in SessionStatus::ALL.iter().filter(|s| !s.is_dead()) {
        let count = open.iter().find(|(s, _)| s == status).map_or(0, |(_, n)| *n);
        control.metrics().sessions.get_or_create(&ByStatus { status: status.to_string() }).set(count);
    }
    let known = agents::by_status(&mut reader).await?;
    for status in AgentStatus::ALL {
        let count = known.iter().find(|(s, _)| s == status).map_or(0, |(_, n)| *n);
        control.metrics().agents.get_or_create(&ByStatus { status: status.to_string() }).set(count);
    }
    Ok(())
}
