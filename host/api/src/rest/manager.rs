//! `/manager`: maintenance and announcements.

use quarterdeck_control::maintenance;
use quarterdeck_control::manager::{self, ManagerStatus};
use quarterdeck_model::AgentId;
use serde_json::{Value, json};

use crate::call::{Answer, Call, no_content, ok};
use crate::params::kinds::{any_text, boolish, list, member, nullable, one_of, text};
use crate::route::Access::{Anonymous, Superadmin};
use crate::route::Gate::Open;
use crate::route::{Route, get, post, put};
use crate::wire::{INVALID_API_PARAMS, Problem};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/manager/status", Anonymous, Open, status),
        put("/manager/status", Superadmin, Open, set_status),
        get("/manager/announcement", Anonymous, Open, announcement),
        post("/manager/announcement", Superadmin, Open, announce),
        post("/manager/scheduler/operation", Superadmin, Open, scheduler_operation),
    ]
}

/// Clients send a body with this `GET`; it says nothing.
async fn status(call: Call) -> Answer {
    let version = call.version();
    let mut document = manager::status_document(call.control(), (version.major, version.revision)).await?;
    if let Some(node) = document.pointer_mut("/nodes/0") {
        node["ssl_enabled"] = call.app().settings.tls.into();
    }
    ok(&document)
}

async fn set_status(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let status = params.required(&["status"], |v| member::<ManagerStatus>("ManagerStatus")(v).map(Some));
    let force_kill = params.optional(&["force_kill"], false, boolish);
    params.finish()?;
    let status = status.ok_or_else(|| Problem::new(INVALID_API_PARAMS))?;
    if force_kill && let Err(error) = maintenance::end_placed_sessions(call.control()).await {
        // The status matters more: it was asked for because something is wrong.
        tracing::warn!(%error, "sessions were not ended by force");
    }
    manager::set_status(call.control(), status).await?;
    no_content()
}

async fn scheduler_operation(mut call: Call) -> Answer {
    const OPERATIONS: &[&str] = &["include-agents", "exclude-agents"];
    let mut params = call.params().await?;
    let operation = params.required(&["op"], one_of(OPERATIONS, "SchedulerOps"));
    let args = params.required(&["args"], Ok::<Value, _>);
    params.finish()?;
    let agents = list(any_text)(args).map_err(|fault| {
        let msg = format!("Input validation failed for args with {operation}");
        Problem::new(INVALID_API_PARAMS).msg(msg).data(fault)
    })?;
    let agents: Vec<_> = agents.into_iter().map(AgentId).collect();
    maintenance::set_schedulable(call.control(), &agents, operation == "include-agents").await?;
    no_content()
}

async fn announcement(call: Call) -> Answer {
    let message = manager::announcement(call.control()).await;
    ok(&json!({ "enabled": message.is_some(), "message": message.unwrap_or_default() }))
}

async fn announce(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let enabled = params.optional(&["enabled"], false, boolish);
    let message = params.optional(&["message"], None, nullable(text));
    params.finish()?;
    manager::set_announcement(call.control(), enabled, message.as_deref()).await?;
    no_content()
}
