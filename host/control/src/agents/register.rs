//! An agent announces itself.

use quarterdeck_model::slots::SlotTypes;
use quarterdeck_model::{AgentId, AgentStatus, Timestamp};
use quarterdeck_rpc::{credentials, metadata, pb};
use quarterdeck_store::{agents as rows, scaling_groups};
use tonic::{Request, Status};

use super::{amounts, heartbeat, internal, json, scrub};
use crate::Control;

/// Who misses so many heartbeats may have its place taken by whoever has a join token.
const SILENT_BEATS: i64 = 4;

/// Enters the agent, gives it a credential, and takes over what it offers.
pub(super) async fn register(
    control: &Control,
    request: Request<pb::RegisterRequest>,
) -> Result<pb::RegisterResponse, Status> {
    let bearer = metadata::caller(request.metadata()).map(|caller| caller.bearer).unwrap_or_default();
    let mut agent = request.into_inner();
    let now = control.clock().now();
    check(&agent)?;
    scrub::slots(&mut agent.slots);
    let id = AgentId(agent.agent_id.clone());
    let mut reader = control.store().reader();
    let known = rows::get(&mut reader, &id).await.map_err(internal)?;
    let by_credential =
        !bearer.is_empty() && known.as_ref().is_some_and(|row| credentials::matches_hash(&bearer, &row.credential));
    if !by_credential {
        // Tokens are 256 random bits, looked up by their hash: how long that takes tells nothing about them.
        let hash = credentials::hash(&agent.join_token);
        let joins =
            !agent.join_token.is_empty() && rows::has_join_token(&mut reader, &hash, now).await.map_err(internal)?;
        if !joins {
            return Err(Status::unauthenticated("the join token is unknown or has expired"));
        }
        // A token joins new agents and those that are gone; it takes no living agent's place.
        if let Some(row) = &known
            && row.status == AgentStatus::Alive
            && !is_silent(control, row, now)
        {
            return Err(Status::already_exists("an agent of that id is alive; give this one another --id"));
        }
    }
    if scaling_groups::get(&mut reader, &agent.scaling_group).await.map_err(internal)?.is_none() {
        return Err(Status::failed_precondition(format!("there is no scaling group '{}'", agent.scaling_group)));
    }
    let credential = credentials::generate();
    let (capacity, shown) = amounts(&agent.slots);
    let region = if agent.region.is_empty() { control.settings().region.clone() } else { agent.region.clone() };
    let registration = rows::Registration {
        id: id.clone(),
        region,
        scaling_group: agent.scaling_group.clone(),
        addr: agent.addr.clone(),
        public_host: Some(agent.public_host.clone()).filter(|host| !host.is_empty()),
        architecture: agent.architecture.clone(),
        version: agent.version.clone(),
        runtime: agent.runtime.clone(),
        runtime_types: agent.runtime_types.clone(),
        compute_plugins: json(&agent.compute_plugins)
            .filter(serde_json::Value::is_object)
            .unwrap_or_else(|| serde_json::json!({})),
        credential: credentials::hash(&credential),
        host_secret: agent.host_secret.clone(),
        boot_id: agent.boot_id.clone(),
    };
    let mut tx = control.store().begin().await.map_err(internal)?;
    rows::register(&mut tx, &registration, now).await.map_err(internal)?;
    rows::set_capacity(&mut tx, &id, &shown.to_json(), &capacity).await.map_err(internal)?;
    tx.commit().await.map_err(internal)?;
    register_slot_types(control, &agent.slots).await.map_err(internal)?;
    if let Some(row) = rows::get(&mut reader, &id).await.map_err(internal)? {
        control.live().enter(&row);
        control.live().slots_written(&id, agent.slots.clone());
    }
    let reason = if known.is_some() { "revived" } else { "self-started" };
    tracing::info!(agent = %id, group = agent.scaling_group, runtime = agent.runtime, reason, "agent registered");
    if quarterdeck_rpc::is_exposed(&agent.addr) {
        tracing::warn!(agent = %id, addr = agent.addr, "this agent is spoken to without encryption");
    }
    control.signals().schedule.notify_one();
    control.signals().start.notify_one();
    control.signals().terminate.notify_one();
    Ok(pb::RegisterResponse { credential, heartbeat_interval_ms: heartbeat::interval(control) })
}

/// Whether nothing was heard of the agent for some heartbeats, however seldom the host that hears it wants them.
fn is_silent(control: &Control, row: &rows::AgentRow, now: Timestamp) -> bool {
    let heard = control.live().last_heard(&row.id).map_or(row.last_seen, |heard| heard.max(row.last_seen));
    let patience = i64::from(heartbeat::longest_interval(control)) * SILENT_BEATS;
    heard.plus_millis(patience) < now
}

#[allow(clippy::result_large_err, reason = "it is the error type of tonic's services")]
fn check(agent: &pb::RegisterRequest) -> Result<(), Status> {
    if let Some(name) = scrub::registration(agent) {
        return Err(Status::invalid_argument(format!("{name} is missing, too long or malformed")));
    }
    if agent.slots.len() > 256 {
        return Err(Status::invalid_argument("too many slots"));
    }
    Ok(())
}

/// Adds slot types that the site doesn't know yet to its configuration.
pub(super) async fn register_slot_types(control: &Control, slots: &[pb::Slot]) -> crate::Result<()> {
    let reported: SlotTypes = slots
        .iter()
        .filter(|slot| !slot.name.is_empty())
        .filter_map(|slot| Some((slot.name.clone(), slot.kind.parse().ok()?)))
        .collect();
    control.config_tree().register_slot_types(&reported).await
}
