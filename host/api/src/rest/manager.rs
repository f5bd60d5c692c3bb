//! `/manager`: maintenance and announcements.

use quarterdeck_control::manager::{self, ManagerStatus};
use serde_json::json;

use crate::call::{Answer, Call, no_content, ok};
use crate::params::kinds::{boolish, member, nullable, text};
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
    manager::set_status(call.control(), status).await?;
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
