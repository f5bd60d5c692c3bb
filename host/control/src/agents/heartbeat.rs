//! An agent says that it lives, and what it holds.

use std::collections::{HashMap, HashSet};

use quarterdeck_model::{AgentId, AgentStatus, KernelId, KernelStatus, SessionId};
use quarterdeck_rpc::pb;
use quarterdeck_store::{agents as rows, kernels, sessions};

use super::{amounts, in_background, register};
use crate::error::Result;
use crate::{Control, hooks, terminate};

/// Takes in a heartbeat of the current boot.
pub(super) async fn receive(control: &Control, id: &AgentId, beat: pb::HeartbeatRequest) -> Result<()> {
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
    if control.live().claim_reconciliation(id, control.settings().reconcile_interval, control.clock().elapsed()) {
        reconcile(control, id, &beat.kernels).await?;
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

/// Brings both sides together: what the agent has and shouldn't is destroyed; what it should have and
/// hasn't is sent again (while it starts) or counted as ended (when it ran).
async fn reconcile(control: &Control, id: &AgentId, has: &[pb::KernelState]) -> Result<()> {
    let rows = kernels::on_agent(&mut control.store().reader(), id).await?;
    control.live().owns(id, rows.iter().map(|row| row.id).collect());
    let counted: HashMap<KernelId, &kernels::OnAgent> = rows.iter().map(|row| (row.id, row)).collect();
    let present: HashSet<KernelId> = has.iter().filter_map(|k| k.kernel_id.parse().ok()).collect();

    let mut unwanted: HashMap<SessionId, Vec<KernelId>> = HashMap::new();
    for kernel in has.iter().filter(|k| k.state != "terminating") {
        let (Ok(kernel_id), Ok(session)) = (kernel.kernel_id.parse::<KernelId>(), kernel.session_id.parse()) else {
            continue;
        };
        if !counted.contains_key(&kernel_id) {
            unwanted.entry(session).or_default().push(kernel_id);
        }
    }
    for (session, kernels) in unwanted {
        tracing::info!(agent = %id, %session, count = kernels.len(), "the agent has kernels that it shouldn't have");
        terminate::clean_up(control, id.clone(), session, kernels, "terminated-unknown-container");
    }

    let mut restart: HashSet<SessionId> = HashSet::new();
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
    if !restart.is_empty() {
        let ids: Vec<_> = restart.into_iter().collect();
        if sessions::hasten(&mut control.store().reader(), &ids).await? > 0 {
            control.signals().start.notify_one();
        }
    }
    let lost = control.live().missing(id, &vanished, patience, control.clock().elapsed());
    if !lost.is_empty() {
        tracing::warn!(agent = %id, count = lost.len(), "kernels vanished from their agent");
        control.intake().vanished(lost).await?;
    }
    Ok(())
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
