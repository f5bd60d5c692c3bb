//! Agents: how they join, that they live, what they report.
//!
//! [`HostService`] is what they call. Reports go through one queue ([`intake`]) whose transactions
//! each take in everything that waits; heartbeats cost no transaction: what they say is kept in
//! memory ([`Live`]) and written every few seconds, and what many agents have is compared with the rows
//! together. Other hosts read [there](statistics) how kernels and agents do.

mod heartbeat;
pub mod intake;
mod live;
mod modify;
mod register;
pub(crate) mod reports;
mod scrub;
pub mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use quarterdeck_model::slots::{self, SlotKind, SlotMap};
use quarterdeck_model::{AgentId, AgentStatus};
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::host_server::Host;
use quarterdeck_rpc::{AgentHandle, credentials, metadata};
use quarterdeck_store::agents::{self as rows, AgentRow};
use quarterdeck_store::occupancy::Units;
use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::{AgentOperation, Control};

pub use live::Live;
pub use modify::{ModifyAgent, modify, new_join_token};

pub(crate) use heartbeat::{flush_seen, note_seen, reconcile_due};

/// The service that agents call.
#[derive(Clone, Debug)]
pub struct HostService {
    control: Control,
}

impl HostService {
    /// The service of this host.
    pub fn new(control: Control) -> Self {
        Self { control }
    }

    /// Who calls, if it presents its credential. `None`: the host doesn't know that agent.
    async fn authenticate<T>(&self, request: &Request<T>) -> Result<Option<AgentId>, Status> {
        let caller = metadata::caller(request.metadata())?;
        let id = AgentId(caller.agent_id);
        if let Some(hash) = self.control.live().credential(&id)
            && credentials::matches_hash(&caller.bearer, &hash)
        {
            return Ok(Some(id));
        }
        // Another host may have registered it, or it registered anew.
        let Some(row) = rows::get(&mut self.control.store().reader(), &id).await.map_err(internal)? else {
            return Ok(None);
        };
        if !credentials::matches_hash(&caller.bearer, &row.credential) {
            return Err(Status::unauthenticated("the credential is not the one issued to this agent"));
        }
        self.control.live().enter(&row);
        Ok(Some(id))
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "an agent's call failed");
    Status::internal("the host failed; try again")
}

#[tonic::async_trait]
impl Host for HostService {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        register::register(&self.control, request).await.map(Response::new)
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let heartbeat_interval_ms = heartbeat::interval(&self.control);
        let again = Response::new(pb::HeartbeatResponse { heartbeat_interval_ms, register_again: true });
        let Some(id) = self.authenticate(&request).await? else { return Ok(again) };
        if !self.control.live().is_boot(&id, &request.get_ref().boot_id) {
            return Ok(again);
        }
        let mut beat = request.into_inner();
        scrub::heartbeat(&mut beat);
        heartbeat::receive(&self.control, &id, beat).await.map_err(internal)?;
        Ok(Response::new(pb::HeartbeatResponse { heartbeat_interval_ms, register_again: false }))
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportResponse>, Status> {
        let again = Response::new(pb::ReportResponse { acknowledged: 0, register_again: true });
        let Some(id) = self.authenticate(&request).await? else { return Ok(again) };
        let pb::ReportRequest { boot_id, mut reports } = request.into_inner();
        reports.truncate(scrub::REPORTS);
        reports.iter_mut().for_each(scrub::report);
        match self.control.intake().reports(id, boot_id, reports).await.map_err(internal)? {
            Some(acknowledged) => Ok(Response::new(pb::ReportResponse { acknowledged, register_again: false })),
            None => Ok(again),
        }
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveResponse>, Status> {
        let Some(id) = self.authenticate(&request).await? else { return Ok(Response::new(pb::LeaveResponse {})) };
        let pb::LeaveRequest { boot_id, reason } = request.into_inner();
        if self.control.live().is_boot(&id, &boot_id) {
            let status = if reason == "agent-restart" { AgentStatus::Restarting } else { AgentStatus::Terminated };
            heartbeat::leave(&self.control, &id, status, &reason).await.map_err(internal)?;
        }
        Ok(Response::new(pb::LeaveResponse {}))
    }
}

/// How the host calls an agent.
///
/// # Errors
/// [`Error::Agent`] when its address is none.
pub(crate) fn handle(control: &Control, agent: &AgentRow, operation: AgentOperation) -> Result<AgentHandle> {
    control
        .rpc()
        .agent(&agent.addr, agent.id.as_str(), &agent.host_secret)
        .map_err(|error| call_error(operation, &error))
}

/// A failed call, as the use case's error.
pub(crate) fn call_error(operation: AgentOperation, error: &quarterdeck_rpc::CallError) -> Error {
    Error::Agent { operation, timeout: *error == quarterdeck_rpc::CallError::Timeout, message: error.to_string() }
}

/// Slots of the protocol, as the books count them and as they are shown.
pub(crate) fn amounts(list: &[pb::Slot]) -> (Units, SlotMap) {
    let mut units = Units::new();
    let mut shown = SlotMap::new();
    for slot in list {
        let kind = slot.kind.parse().unwrap_or_else(|_| SlotKind::guess(&slot.name));
        let amount = slot.amount.min(scrub::LARGEST);
        units.insert(slot.name.clone(), i64::try_from(amount).unwrap_or(i64::MAX));
        shown.insert(slot.name.clone(), slots::from_units(kind, amount));
    }
    (units, shown)
}

/// A JSON text of an agent's, or `None` when it is empty or none.
pub(crate) fn json(text: &str) -> Option<serde_json::Value> {
    if text.is_empty() {
        return None;
    }
    serde_json::from_str(text).map_err(|error| tracing::warn!(%error, "an agent sent something that is not JSON")).ok()
}

/// Runs `work` beside everything else; what goes wrong is logged.
pub(crate) fn in_background(
    what: &'static str,
    work: impl Future<Output = Result<()>> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::warn!(%error, "{what}");
        }
    })
}

/// Shared text.
pub(crate) type Text = Arc<str>;
