//! Folders for others: invitations, shares, changes of ownership.

use http::Method;
use quarterdeck_control::store::vfolders::{InvitationRow, Mine, SharedRow};
use quarterdeck_control::vfolders::sharing;
use quarterdeck_model::vfolder::FolderPermission;
use quarterdeck_model::{UserId, VfolderId};
use serde_json::json;

use super::named;
use crate::call::{Answer, Call, created, ok};
use crate::params::kinds::{list, member, nullable, text, uuid};
use crate::route::Access::{Admin, Auth, Superadmin};
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, delete, get, post};

const EMAILS: &[&str] = &["emails", "user_ids", "userIDs"];

pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        get("/folders/_/shared", Auth, Reads, shared),
        post("/folders/_/shared", Auth, Writes, update_shared),
        post("/folders/_/change-ownership", Superadmin, Writes, change_ownership),
        get("/folders/invitations/list", Auth, Reads, |call| invitations(call, Mine::Received)),
        post("/folders/invitations/update/{invitation}", Auth, Writes, update_invitation),
        post("/folders/invitations/accept", Auth, Writes, accept),
        delete("/folders/invitations/delete", Auth, Writes, withdraw),
        post("/folders/{name}/invite", Auth, Writes, invite),
        post("/folders/{name}/leave", Auth, Writes, leave),
        post("/folders/{name}/share", Admin, Writes, share),
        delete("/folders/{name}/unshare", Admin, Writes, unshare),
    ];
    for path in ["/folders/invitations/list-sent", "/folders/invitations/list_sent"] {
        routes.push(Route::new(Method::GET, path, Auth, Reads, |call| invitations(call, Mine::Sent)));
    }
    routes
}

async fn invite(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let permission = params.optional(&["perm", "permission"], FolderPermission::ReadWrite, member("VFolderPermission"));
    let emails = params.required(EMAILS, list(text));
    params.finish()?;
    let invited = sharing::invite(call.control(), &*call.caller()?, call.arg(0), permission, &emails).await?;
    created(&json!({ "invited_ids": invited }))
}

async fn invitations(call: Call, which: Mine) -> Answer {
    let rows = sharing::invitations(call.control(), &*call.caller()?, which).await?;
    let entry = |i: &InvitationRow| {
        json!({
            "id": i.id.to_string(),
            "inviter": i.inviter,
            "invitee": i.invitee,
            "perm": i.permission,
            "state": i.state,
            "created_at": i.created_at.spaced(),
            "modified_at": i.modified_at.map_or_else(|| "None".to_owned(), |at| at.spaced()),
            "vfolder_id": i.vfolder.to_string(),
            "vfolder_name": i.vfolder_name,
        })
    };
    ok(&json!({ "invitations": rows.iter().map(entry).collect::<Vec<_>>() }))
}

async fn update_invitation(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let permission = params
        .required(&["perm", "permission"], |value| member::<FolderPermission>("VFolderPermission")(value).map(Some));
    params.finish()?;
    let permission = permission.unwrap_or(FolderPermission::ReadOnly);
    sharing::reword(call.control(), &*call.caller()?, call.arg(0), permission).await?;
    ok(&json!({ "msg": format!("vfolder invitation updated: {}.", call.arg(0)) }))
}

async fn accept(mut call: Call) -> Answer {
    let id = invitation_id(&mut call).await?;
    sharing::accept(call.control(), &*call.caller()?, &id).await?;
    ok(&json!({}))
}

async fn withdraw(mut call: Call) -> Answer {
    let id = invitation_id(&mut call).await?;
    sharing::withdraw(call.control(), &*call.caller()?, &id).await?;
    ok(&json!({}))
}

async fn invitation_id(call: &mut Call) -> Result<String, crate::wire::Problem> {
    let mut params = call.params().await?;
    let id = params.required(&["inv_id"], text);
    params.finish()?;
    Ok(id)
}

async fn share(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let permission = params.optional(&["permission", "perm"], FolderPermission::ReadWrite, member("VFolderPermission"));
    let emails = params.required(EMAILS, list(text));
    params.finish()?;
    let shared = sharing::share(call.control(), &*call.caller()?, call.arg(0), permission, &emails).await?;
    created(&json!({ "shared_emails": shared }))
}

async fn unshare(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let emails = params.required(EMAILS, list(text));
    params.finish()?;
    sharing::unshare(call.control(), &*call.caller()?, call.arg(0), &emails).await?;
    ok(&json!({ "unshared_emails": emails }))
}

async fn leave(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadOnly).await?;
    let mut params = call.params().await?;
    let user = params.optional(&["shared_user_uuid", "sharedUserUuid"], None, nullable(text));
    params.finish()?;
    sharing::leave(call.control(), &*call.caller()?, &seen, user.as_deref()).await?;
    ok(&json!({ "msg": "left the shared vfolder" }))
}

async fn shared(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let folder = params.optional(&["vfolder_id", "vfolderId"], None, nullable(uuid));
    params.finish()?;
    let rows = sharing::shared(call.control(), &*call.caller()?, folder.map(VfolderId)).await?;
    let entry = |s: &SharedRow| {
        let (owner, kind) = match (s.project, s.user) {
            (Some(project), _) => (project.to_string(), "project"),
            (None, user) => (user.map(|u| u.to_string()).unwrap_or_default(), "user"),
        };
        json!({
            "vfolder_id": s.vfolder.to_string(),
            "vfolder_name": s.vfolder_name,
            "status": s.status,
            "owner": owner,
            "type": kind,
            "shared_to": {"uuid": s.grantee.to_string(), "email": s.grantee_email},
            "perm": s.permission,
        })
    };
    ok(&json!({ "shared": rows.iter().map(entry).collect::<Vec<_>>() }))
}

async fn update_shared(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let folder = VfolderId(params.required(&["vfolder"], uuid));
    let user = UserId(params.required(&["user"], uuid));
    let permission = params.required(&["perm", "permission"], nullable(member("VFolderPermission")));
    params.finish()?;
    sharing::update_shared(call.control(), &*call.caller()?, folder, user, permission).await?;
    ok(&json!({ "msg": "shared vfolder permission updated" }))
}

async fn change_ownership(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let folder = VfolderId(params.required(&["vfolder"], uuid));
    let email = params.required(&["user_email"], text);
    params.finish()?;
    sharing::change_owner(call.control(), folder, &email).await?;
    ok(&json!({}))
}
