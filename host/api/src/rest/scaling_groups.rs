//! `/scaling-groups`: where a user's sessions may run.

use quarterdeck_control::{scaling_groups, services};
use serde_json::json;

use crate::call::{Answer, Call, ok};
use crate::params::kinds::{nullable, text};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get};

const PROJECT: &[&str] = &["group", "group_id", "group_name"];

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/scaling-groups", Auth, Reads, list),
        get("/scaling-groups/{name}/wsproxy-version", Auth, Reads, wsproxy_version),
    ]
}

async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let project = params.required(PROJECT, text);
    params.finish()?;
    let caller = call.caller()?;
    let names = scaling_groups::names_for(call.control(), &caller, &project).await?;
    let names: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    ok(&json!({ "scaling_groups": names }))
}

/// Application proxies say themselves which version they are.
async fn wsproxy_version(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let project = params.optional(PROJECT, None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let group = scaling_groups::find_allowed(call.control(), &caller, call.arg(0), project.as_deref()).await?;
    let version = services::proxy_version(call.control(), &group).await?;
    ok(&json!({ "wsproxy_version": version }))
}
