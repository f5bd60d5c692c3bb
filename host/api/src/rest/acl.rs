//! `GET /acl`: the vocabulary of folder host permissions.

use serde_json::json;

use crate::call::{Answer, Call, ok};
use crate::route::{Access, Gate, Route, get};

const PERMISSIONS: [&str; 8] = [
    "create-vfolder",
    "modify-vfolder",
    "delete-vfolder",
    "mount-in-session",
    "upload-file",
    "download-file",
    "invite-others",
    "set-user-specific-permission",
];

pub(crate) fn routes() -> Vec<Route> {
    vec![get("/acl", Access::Auth, Gate::Writes, permissions)]
}

async fn permissions(_: Call) -> Answer {
    ok(&json!({ "vfolder_host_permission_list": PERMISSIONS }))
}
