//! Folder hosts, kinds of folders, and what nodes have mounted.

use http::{Method, StatusCode};
use quarterdeck_control::vfolders::{hosts, nodes};
use quarterdeck_control::{Error, config};
use quarterdeck_model::ProjectId;
use serde_json::{Map, json};

use crate::call::{Answer, Call, json as answer, ok};
use crate::params::kinds::{boolish, nullable, text, uuid};
use crate::route::Access::{Auth, Superadmin};
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, delete, get, post};

pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        get("/folders/_/hosts", Auth, Reads, allowed),
        get("/folders/_/perf-metric", Superadmin, Reads, performance),
        get("/folders/_/fstab", Superadmin, Reads, fstab),
        get("/folders/_/mounts", Superadmin, Reads, mounts),
        post("/folders/_/mounts", Superadmin, Writes, mount),
        delete("/folders/_/mounts", Superadmin, Writes, unmount),
    ];
    for path in ["/folders/_/all-hosts", "/folders/_/all_hosts"] {
        routes.push(Route::new(Method::GET, path, Superadmin, Reads, all));
    }
    for path in ["/folders/_/allowed-types", "/folders/_/allowed_types"] {
        routes.push(Route::new(Method::GET, path, Auth, Reads, types));
    }
    routes
}

async fn allowed(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let project = params.optional(&["group_id", "groupId"], None, nullable(uuid));
    params.finish()?;
    let found = hosts::allowed(call.control(), &*call.caller()?, project.map(ProjectId)).await?;
    let mut volumes = Map::new();
    for (host, volume) in found.allowed.iter().zip(found.volumes) {
        let info = json!({
            "backend": volume.backend,
            "capabilities": volume.capabilities,
            "usage": volume.usage,
            "sftp_scaling_groups": volume.sftp_scaling_groups,
        });
        volumes.insert(host.clone(), info);
    }
    ok(&json!({ "default": found.default, "allowed": found.allowed, "volume_info": volumes }))
}

async fn all(call: Call) -> Answer {
    let (default, hosts) = hosts::all(call.control()).await;
    ok(&json!({ "default": default, "allowed": hosts }))
}

async fn types(call: Call) -> Answer {
    ok(&config::vfolder_types(call.control()).await)
}

async fn performance(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let host = params.required(&["folder_host"], text);
    params.finish()?;
    ok(&hosts::performance(call.control(), &host).await?)
}

async fn fstab(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.optional(&["fstab_path"], None, nullable(text));
    let agent = params.optional(&["agent_id"], None, nullable(text));
    params.finish()?;
    if agent.is_some() {
        return Err(Error::Unavailable("The agents of this cluster have no watcher.".to_owned()).into());
    }
    ok(&json!({
        "content": "# Since Backend.AI 20.09, reading the manager fstab is no longer supported.",
        "node": "manager",
        "node_id": "manager",
    }))
}

async fn mounts(call: Call) -> Answer {
    let volumes = nodes::volume_paths(call.control()).await;
    let paths: Vec<_> = volumes.iter().map(|(_, path)| path).collect();
    // Agents aren't asked: they have no directories that are mounted for folders.
    ok(&json!({
        "manager": {"success": true, "mounts": paths, "message": "(legacy)"},
        "storage-proxy": {"success": true, "mounts": volumes, "message": ""},
        "agents": {},
    }))
}

fn nothing_mounted() -> Answer {
    ok(&json!({
        "manager": {"success": true, "message": "Managers do not have mountpoints since v20.09."},
        "agents": {},
    }))
}

async fn mount(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.required(&["fs_location"], text);
    params.required(&["name"], text);
    params.optional(&["fs_type"], "nfs".to_owned(), text);
    for name in ["options", "scaling_group", "fstab_path"] {
        params.optional(&[name], None, nullable(text));
    }
    params.optional(&["edit_fstab"], false, boolish);
    params.finish()?;
    nothing_mounted()
}

async fn unmount(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let name = params.required(&["name"], text);
    for name in ["scaling_group", "fstab_path"] {
        params.optional(&[name], None, nullable(text));
    }
    params.optional(&["edit_fstab"], false, boolish);
    params.finish()?;
    if nodes::is_in_sessions(call.control(), &name).await? {
        let text = "Target host is used in sessions";
        return answer(StatusCode::CONFLICT, &json!({ "title": text, "message": text }));
    }
    nothing_mounted()
}
