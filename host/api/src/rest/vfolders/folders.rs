//! Folders themselves: making, listing, renaming, removing, their options and quotas.

use quarterdeck_control::vfolders::clone::{self, CloneFolder, Cloned};
use quarterdeck_control::vfolders::life::{self, CreateFolder};
use quarterdeck_control::vfolders::{self, Seen, files, quota};
use quarterdeck_model::quantity::Quantity;
use quarterdeck_model::vfolder::{FolderPermission, OwnershipType, UsageMode};
use quarterdeck_model::{ProjectId, VfolderId, size};
use serde_json::{Value, json};

use super::{empty, hex, named, slug};
use crate::call::{Answer, Call, created, no_content, ok};
use crate::params::kinds::{boolish, coerced_int, member, nullable, strict_bool, text, uuid};
use crate::params::{Fault, Params};
use crate::route::Access::{Auth, Superadmin};
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, delete, get, post};

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/folders", Auth, Writes, create),
        get("/folders", Auth, Reads, list),
        delete("/folders", Superadmin, Writes, delete_by_id),
        get("/folders/_/quota", Auth, Reads, quota_of),
        post("/folders/_/quota", Auth, Writes, set_quota),
        get("/folders/_/usage", Superadmin, Reads, usage),
        get("/folders/_/used-bytes", Superadmin, Reads, used_bytes),
        get("/folders/{name}", Auth, Reads, info),
        delete("/folders/{name}", Auth, Writes, remove),
        post("/folders/{name}/rename", Auth, Writes, rename),
        post("/folders/{name}/update-options", Auth, Writes, update_options),
        post("/folders/{name}/clone", Auth, Writes, duplicate),
    ]
}

pub(super) fn usage_mode(value: Value) -> Result<UsageMode, Fault> {
    Ok(nullable(member("VFolderUsageMode"))(value)?.unwrap_or(UsageMode::General))
}

pub(super) fn permission(value: Value) -> Result<FolderPermission, Fault> {
    Ok(nullable(member("VFolderPermission"))(value)?.unwrap_or(FolderPermission::ReadWrite))
}

/// Bytes, as a number or as people write sizes.
fn bytes(value: Value) -> Result<i64, Fault> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => return Err("value is not a valid size".into()),
    };
    match size::parse(&text) {
        Ok(Quantity::Infinity) => Err("infinite values are not allowed".into()),
        Ok(_) => {
            let bytes = size::parse_finite(&text).map_err(|e| e.to_string())?;
            i64::try_from(bytes).ok().filter(|b| *b >= 0).ok_or_else(|| "value is out of range".into())
        }
        Err(error) => Err(error.to_string().into()),
    }
}

async fn create(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let host = params.optional(&["host"], None, nullable(text));
    let request = CreateFolder {
        name: params.required(&["name"], slug),
        host: host.clone(),
        usage_mode: params.optional(&["usage_mode"], UsageMode::General, usage_mode),
        permission: params.optional(&["permission"], FolderPermission::ReadWrite, permission),
        unmanaged_path: params.optional(&["unmanaged_path", "unmanagedPath"], None, nullable(text)),
        project: params.optional(&["group", "groupId", "group_id"], None, nullable(text)),
        quota: params.optional(&["quota"], None, nullable(bytes)).unwrap_or_default(),
        cloneable: params.optional(&["cloneable"], false, strict_bool),
    };
    params.finish()?;
    let row = life::create(call.control(), &*call.caller()?, request).await?;
    let mut document = json!({
        "id": hex(row.id),
        "name": row.name,
        "quota_scope_id": row.quota_scope_id,
        "host": row.host,
        "usage_mode": row.usage_mode,
        "permission": row.permission,
        "max_size": row.max_size,
        "creator": row.creator,
        "ownership_type": row.ownership(),
        "user": row.user.map(|id| id.to_string()),
        "group": row.project.map(|id| id.to_string()),
        "cloneable": row.cloneable,
        "status": row.status,
    });
    if let Some(path) = row.unmanaged_path {
        document["unmanaged_path"] = path.into();
        document["host"] = host.into();
    }
    created(&document)
}

async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let all = params.optional(&["all"], false, boolish);
    let project = params.optional(&["group_id", "groupId"], None, nullable(uuid));
    let owner = params.optional(&["owner_user_email", "ownerUserEmail"], None, nullable(text));
    params.finish()?;
    if all {
        return Err(quarterdeck_control::Error::invalid("Deprecated use of 'all' option").into());
    }
    let caller = call.caller()?;
    let folders = vfolders::list(call.control(), &caller, owner.as_deref(), project.map(ProjectId)).await?;
    let entry = |Seen { row, is_owner, permission }: &Seen| {
        let kind = row.ownership();
        json!({
            "name": row.name,
            "id": hex(row.id),
            "quota_scope_id": row.quota_scope_id,
            "host": row.host,
            "status": row.status,
            "usage_mode": row.usage_mode,
            "created_at": row.created_at.spaced(),
            "is_owner": is_owner,
            "permission": permission,
            "user": row.user.map(|id| id.to_string()),
            "group": row.project.map(|id| id.to_string()),
            "creator": row.creator,
            "user_email": row.user_email,
            "group_name": row.project_name,
            "ownership_type": kind,
            "type": kind,
            "cloneable": row.cloneable,
            "max_files": MAX_FILES,
            "max_size": row.max_size,
            "cur_size": 0,
        })
    };
    ok(&folders.iter().map(entry).collect::<Vec<_>>())
}

/// Told, but nobody counts.
const MAX_FILES: u32 = 1000;

async fn info(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadOnly).await?;
    let usage = files::usage(call.control(), &seen).await?;
    let Seen { row, is_owner, permission } = seen;
    let (created, none) = (row.created_at.spaced(), || "None".to_owned());
    ok(&json!({
        "name": row.name,
        "id": hex(row.id),
        "host": row.host,
        "quota_scope_id": row.quota_scope_id,
        "status": row.status,
        "numFiles": usage.file_count,
        "num_files": usage.file_count,
        "used_bytes": usage.used_bytes,
        "created": created,
        "created_at": created,
        "last_used": created,
        "user": row.user.map_or_else(none, |id| id.to_string()),
        "group": row.project.map_or_else(none, |id| id.to_string()),
        "type": if row.ownership() == OwnershipType::User { "user" } else { "group" },
        "is_owner": is_owner,
        "permission": permission,
        "usage_mode": row.usage_mode,
        "cloneable": row.cloneable,
        "max_size": row.max_size,
        "cur_size": 0,
    }))
}

async fn remove(call: Call) -> Answer {
    life::delete(call.control(), &*call.caller()?, call.arg(0)).await?;
    no_content()
}

async fn delete_by_id(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let id = params.required(&["id"], text);
    params.finish()?;
    life::delete_by_id(call.control(), &*call.caller()?, &id).await?;
    no_content()
}

async fn rename(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::RwDelete).await?;
    let mut params = call.params().await?;
    let new_name = params.required(&["new_name"], slug);
    params.finish()?;
    life::rename(call.control(), &*call.caller()?, &seen, &new_name).await?;
    empty()
}

async fn update_options(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::RwDelete).await?;
    let mut params = call.params().await?;
    let cloneable = params.optional(&["cloneable"], None, nullable(strict_bool));
    let permission = params.optional(&["permission"], None, nullable(member("VFolderPermission")));
    params.finish()?;
    life::update_options(call.control(), &*call.caller()?, &seen, cloneable, permission).await?;
    empty()
}

async fn duplicate(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadOnly).await?;
    let mut params = call.params().await?;
    let request = CloneFolder {
        name: params.required(&["target_name"], slug),
        host: params.optional(&["target_host"], None, nullable(text)),
        usage_mode: params.optional(&["usage_mode"], UsageMode::General, usage_mode),
        permission: params.optional(&["permission"], FolderPermission::ReadWrite, permission),
        cloneable: params.optional(&["cloneable"], false, strict_bool),
    };
    params.finish()?;
    let Cloned { folder, task } = clone::duplicate(call.control(), &*call.caller()?, &seen, request).await?;
    created(&json!({
        "id": hex(folder.id),
        "name": folder.name,
        "host": folder.host,
        "usage_mode": folder.usage_mode,
        "permission": folder.permission,
        "creator": folder.creator,
        "ownership_type": OwnershipType::User,
        "user": folder.user.map(|id| id.to_string()),
        "group": null,
        "cloneable": folder.cloneable,
        "bgtask_id": task.to_string(),
    }))
}

fn host_and_id(params: &mut Params) -> (String, VfolderId) {
    (params.required(&["folder_host"], text), VfolderId(params.required(&["id"], uuid)))
}

async fn quota_of(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (host, id) = host_and_id(&mut params);
    params.finish()?;
    ok(&quota::get(call.control(), &*call.caller()?, &host, id).await?)
}

async fn set_quota(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (host, id) = host_and_id(&mut params);
    let input = params.required(&["input"], |value| match value {
        Value::Object(input) => Ok(input),
        _ => Err("value is not a dict".into()),
    });
    let bytes = match input.get("size_bytes") {
        Some(value) => coerced_int(i64::MIN..=i64::MAX)(value.clone()).or_else(|_| bytes(value.clone())),
        None => Err("is required".into()),
    };
    let bytes = bytes.unwrap_or_else(|fault| {
        params.fault("input", json!({ "size_bytes": fault }));
        0
    });
    params.finish()?;
    let applied = quota::set(call.control(), &*call.caller()?, &host, id, bytes).await?;
    ok(&json!({ "size_bytes": applied }))
}

async fn usage(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (host, id) = host_and_id(&mut params);
    params.finish()?;
    ok(&quota::usage(call.control(), &host, id).await?)
}

async fn used_bytes(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (host, id) = host_and_id(&mut params);
    params.finish()?;
    ok(&json!({ "used_bytes": quota::used_bytes(call.control(), &host, id).await? }))
}
