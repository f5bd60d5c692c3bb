//! `GET /acl`: the vocabulary of folder host permissions.

use quarterdeck_model::vfolder::HostPermission;
use serde_json::json;

use crate::call::{Answer, Call, ok};
use crate::route::{Access, Gate, Route, get};

pub(crate) fn routes() -> Vec<Route> {
    vec![get("/acl", Access::Auth, Gate::Writes, permissions)]
}

async fn permissions(_: Call) -> Answer {
    ok(&json!({ "vfolder_host_permission_list": HostPermission::ALL }))
}
