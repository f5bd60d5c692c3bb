//! An agent says that it lives, and what it holds.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::Duration;

use futures::future::try_join_all;
use quarterdeck_model::{AgentId, AgentStatus, KernelId, KernelStatus, SessionId};
use quarterdeck_rpc::pb;
use quarterdeck_store::{agents as rows, kernels, sessions};

use super::{amounts, in_background, register};
use crate::error::Result;
use crate::{Control, hooks, terminate};

/// How often it is written who was heard, at least.
const SEEN_EVERY: Duration = Duration::from_secs(5);
/// It is written so often in the time after which an agent that is silent is lost.
const SEEN_SHARE: u32 = 8;
/// With more heartbeats a second agents are told to send them more seldom, so that their number doesn't decide what hearing
/// them costs.
const MOST_A_SECOND: u64 = 200;
/// But still so often in the time after which an agent that is silent is lost.
const BEATS: u64 = 8;
/// And so often that what they measure tells of the present, in milliseconds.
const SELDOMEST_MS: u64 = 10_000;
/// Who was lost longer ago needn't be back within a second: many may never be.
const LATELY_MS: i64 = 600_000;

/// How often agents are to send heartbeats, in milliseconds.
pub(super) fn interval(control: &Control) -> u32 {
    let settings = control.settings();
    let since = control.clock().now().plus_millis(-settings.heartbeat_timeout_ms);
    let agents = control.live().count(since, control.clock().elapsed());
    stretched(settings.heartbeat_interval_ms, agents, settings.heartbeat_timeout_ms)
}

/// The most that any host tells its agents, in milliseconds.
pub(super) fn longest_interval(control: &Control) -> u32 {
    let settings = control.settings();
    stretched(settings.heartbeat_interval_ms, usize::MAX, settings.heartbeat_timeout_ms)
}

fn stretched(interval_ms: u32, agents: usize, timeout_ms: i64) -> u32 {
    let enough = (agents as u64).saturating_mul(1000) / MOST_A_SECOND;
    let longest = (u64::try_from(timeout_ms).unwrap_or_default() / BEATS).min(SELDOMEST_MS);
    u32::try_from(enough.min(longest)).unwrap_or(u32::MAX).max(interval_ms)
}

/// Takes in a heartbeat of the current boot.
pub(super) async fn receive(control: &Control, id: &AgentId, mut beat: pb::HeartbeatRequest) -> Result<()> {
    control.metrics().heartbeats.inc();
    if control.live().hear(id, &beat, control.clock().now()) {
        let (capacity, shown) = amounts(&beat.slots);
        let written = async {
            let mut tx = control.store().begin().await?;
            rows::set_capacity(&mut tx, id, &shown.to_json(), &capacity).await?;
            tx.commit().await?;
            register::register_slot_types(control, &beat.slots).await
        };
        if let Err(error) = written.await {
            control.live().slots_failed(id);
            return Err(error);
        }
        control.signals().schedule.notify_one();
    }
    let (every, elapsed) = (control.settings().reconcile_interval, control.clock().elapsed());
    if let Some(kernels) = control.live().due(id, mem::take(&mut beat.kernels), every, elapsed) {
        reconcile(control, vec![(id.clone(), kernels)]).await?;
    }
    control.live().measure(id, &beat.kernel_stats, control.clock().now());
    if control.policies().has_hooks("POST_AGENT_HEARTBEAT") {
        let (_, shown) = amounts(&beat.slots);
        let body = serde_json::json!({
            "agent": id, "scaling_group": control.live().scaling_group(id), "available_slots": shown.to_json(),
        });
        let control = control.clone();
        in_background("the heartbeat hook failed", async move {
            hooks::dispatch(&control, "POST_AGENT_HEARTBEAT", hooks::Mode::Notify, None, None, body).await.map(drop)
        });
    }
    Ok(())
}

/// Compares the kernels of all agents whose time it is, with one look at the rows: a thousand agents cost as many
/// statements as there are passes, not as many as there are agents.
pub(crate) async fn reconcile_due(control: &Control) -> Result<()> {
    let due = control.live().take_due();
    if due.is_empty() { Ok(()) } else { reconcile(control, due).await }
}

/// Brings both sides together: what an agent has and shouldn't is destroyed; what it should have and
/// hasn't is sent again (while it starts) or counted as ended (when it ran).
async fn reconcile(control: &Control, agents: Vec<(AgentId, Vec<pb::KernelState>)>) -> Result<()> {
    let ids: Vec<&AgentId> = agents.iter().map(|(id, _)| id).collect();
    let mut counted = kernels::on_agents(&mut control.store().reader(), &ids).await?;
    let mut restart: HashSet<SessionId> = HashSet::new();
    let mut lost = Vec::new();
    for (id, has) in &agents {
        let rows = counted.remove(id).unwrap_or_default();
        control.live().owns(id, rows.iter().map(|row| row.id).collect());
        destroy_unwanted(control, id, has, &rows);
        lost.extend(missing(control, id, has, &rows, &mut restart));
    }
    if !restart.is_empty() {
        let ids: Vec<_> = restart.into_iter().collect();
        if sessions::hasten(&mut control.store().reader(), &ids).await? > 0 {
            control.signals().start.notify_one();
        }
    }
    // One item an agent: they are written together, and one that can't be written keeps no other from it.
    try_join_all(lost.into_iter().map(|kernels| control.intake().vanished(kernels))).await?;
    Ok(())
}

/// Has the kernels destroyed that an agent has and that aren't counted on it.
fn destroy_unwanted(control: &Control, id: &AgentId, has: &[pb::KernelState], rows: &[kernels::OnAgent]) {
    let counted: HashSet<KernelId> = rows.iter().map(|row| row.id).collect();
    let mut unwanted: HashMap<SessionId, Vec<KernelId>> = HashMap::new();
    for kernel in has.iter().filter(|k| k.state != "terminating") {
        let (Ok(kernel_id), Ok(session)) = (kernel.kernel_id.parse::<KernelId>(), kernel.session_id.parse()) else {
            continue;
        };
        if !counted.contains(&kernel_id) {
            unwanted.entry(session).or_default().push(kernel_id);
        }
    }
    for (session, kernels) in unwanted {
        tracing::info!(agent = %id, %session, count = kernels.len(), "the agent has kernels that it shouldn't have");
        terminate::clean_up(control, id.clone(), session, kernels, "terminated-unknown-container");
    }
}

/// What an agent should have and hasn't: adds sessions that are to be sent again to `restart`, and returns the kernels that
/// have been missing for too long, if any.
fn missing(
    control: &Control,
    id: &AgentId,
    has: &[pb::KernelState],
    rows: &[kernels::OnAgent],
    restart: &mut HashSet<SessionId>,
) -> Option<Vec<KernelId>> {
    let present: HashSet<KernelId> = has.iter().filter_map(|k| k.kernel_id.parse().ok()).collect();
    let mut vanished = Vec::new();
    let patience = control.settings().missing_patience;
    let settled = control.clock().now().plus_micros(-i64::try_from(patience.as_micros()).unwrap_or(i64::MAX));
    for row in rows.iter().filter(|row| !present.contains(&row.id)) {
        match row.status {
            KernelStatus::Preparing | KernelStatus::Pulling if row.status_changed < settled => {
                restart.insert(row.session);
            }
            KernelStatus::Running if row.status_changed < settled => vanished.push(row.id),
            // What ends, or restarts, is asked for again by the loop that wants it.
            _ => {}
        }
    }
    let lost = control.live().missing(id, &vanished, patience, control.clock().elapsed());
    if lost.is_empty() {
        return None;
    }
    tracing::warn!(agent = %id, count = lost.len(), "kernels vanished from their agent");
    Some(lost)
}

/// Writes who was heard: now and then, since nobody is lost for being heard a few seconds ago; at once when somebody is
/// among them who was lost lately.
pub(crate) async fn note_seen(control: &Control) -> Result<()> {
    let timeout = u64::try_from(control.settings().heartbeat_timeout_ms).unwrap_or_default();
    let every = SEEN_EVERY.min(Duration::from_millis(timeout) / SEEN_SHARE);
    if control.live().is_seen_due(every, control.clock().elapsed()) {
        return flush_seen(control).await;
    }
    let since = control.clock().now().plus_millis(-LATELY_MS);
    let lost = rows::lost_since(&mut control.store().reader(), since).await?;
    if control.live().were_seen(&lost) { flush_seen(control).await } else { Ok(()) }
}

/// Writes who was heard since the last time; agents that came back are `ALIVE` again.
pub(crate) async fn flush_seen(control: &Control) -> Result<()> {
    let seen = control.live().take_seen();
    if seen.is_empty() {
        return Ok(());
    }
    let mut tx = control.store().begin().await?;
    rows::touch(&mut tx, &seen).await?;
    let revived = rows::revive(&mut tx, &seen, control.clock().now()).await?;
    tx.commit().await?;
    if !revived.is_empty() {
        tracing::info!(agents = ?revived, "agents are back");
        control.signals().schedule.notify_one();
        control.signals().start.notify_one();
        control.signals().terminate.notify_one();
    }
    Ok(())
}

/// The agent stops on purpose.
pub(super) async fn leave(control: &Control, id: &AgentId, status: AgentStatus, reason: &str) -> Result<()> {
    control.live().forget(id);
    let mut tx = control.store().begin().await?;
    rows::set_status(&mut tx, std::slice::from_ref(id), status, control.clock().now()).await?;
    tx.commit().await?;
    tracing::info!(agent = %id, %status, reason, "agent left");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_agents_send_heartbeats_more_seldom() {
        assert_eq!(stretched(3_000, 0, 40_000), 3_000);
        assert_eq!(stretched(3_000, 600, 40_000), 3_000);
        assert_eq!(stretched(3_000, 800, 40_000), 4_000);
        // Not so seldom that one that is late counts as lost.
        assert_eq!(stretched(3_000, 100_000, 40_000), 5_000);
        assert_eq!(stretched(3_000, 100_000, 8_000), 3_000);
        assert_eq!(stretched(3_000, usize::MAX, -1), 3_000);
        assert_eq!(stretched(3_000, usize::MAX, 86_400_000), 10_000);
    }
}
