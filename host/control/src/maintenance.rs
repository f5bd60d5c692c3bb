//! What administrators do to many sessions or agents at once.

use quarterdeck_model::{AgentId, SessionStatus, Timestamp};
use quarterdeck_store::{agents, sessions};

use crate::Control;
use crate::error::{Error, Result};
use crate::terminate;

/// Why sessions end when the installation is frozen by force.
const FREEZE: &str = "manager-freeze-force-kill";
/// Sessions that have, or may soon have, something on an agent.
const PLACED: &[SessionStatus] = &[
    SessionStatus::Scheduled,
    SessionStatus::Pulling,
    SessionStatus::Preparing,
    SessionStatus::Running,
    SessionStatus::Restarting,
    SessionStatus::RunningDegraded,
    SessionStatus::Error,
];
/// Sessions ended in one transaction.
const BATCH: usize = 500;
/// Sessions looked at.
const ALL: i64 = 1_000_000;

/// Ends every session that is on an agent. Those that can't be ended now are left alone.
///
/// # Errors
/// [`Error::Store`].
pub async fn end_placed_sessions(control: &Control) -> Result<()> {
    // The last instant there is: also those that wait for another try.
    let now = Timestamp(i64::MAX);
    let placed = sessions::due(&mut control.store().reader(), PLACED, now, ALL, &[]).await?;
    for batch in placed.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        for (id, answer) in ids.iter().zip(terminate::request(control, &ids, FREEZE, true).await?) {
            if let Err(error) = answer {
                tracing::info!(session = %id, %error, "a session was not ended by force");
            }
        }
    }
    Ok(())
}

/// Has what an agent runs compared with what it should run at its next heartbeat, not only when its time has come: what it
/// lost counts as ended, what it has too much is destroyed.
///
/// # Errors
/// [`Error::NotFound`] when it isn't known.
pub async fn sync_agent(control: &Control, id: &AgentId) -> Result<()> {
    if agents::get(&mut control.store().reader(), id).await?.is_none() {
        return Err(Error::not_found("agent instance"));
    }
    control.live().reconcile_soon(id);
    Ok(())
}

/// Lets agents take new kernels, or keeps new ones from them. All of them or none.
///
/// # Errors
/// [`Error::NotFound`] when one of them isn't known.
pub async fn set_schedulable(control: &Control, ids: &[AgentId], schedulable: bool) -> Result<()> {
    let mut tx = control.store().begin().await?;
    for id in ids {
        if agents::modify(&mut tx, id, Some(schedulable), None).await? == 0 {
            return Err(Error::not_found("agent instance"));
        }
    }
    tx.commit().await?;
    for id in ids {
        if let Some(row) = agents::get(&mut control.store().reader(), id).await? {
            control.live().enter(&row);
        }
    }
    if schedulable {
        control.signals().schedule.notify_one();
    }
    Ok(())
}
