//! Folders for others: invitations to users' folders, grants on projects' (`spec/vfolder.md` §9).

use std::collections::HashSet;

use quarterdeck_model::vfolder::{
    self as rules, FolderAccess, FolderPermission, HostPermission, InvitationState, OwnershipType,
};
use quarterdeck_model::{ProjectId, UserId, UserRole, UserStatus, VfolderId};
use quarterdeck_store::users::UserRow;
use quarterdeck_store::vfolders::{self, InvitationRow, Mine, SharedRow, Sight, VfolderChanges, VfolderRow};
use quarterdeck_store::{keypairs, projects, users};
use uuid::Uuid;

use super::{Seen, accessible, hosts, require_status, unknown};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

fn no_invitation() -> Error {
    Error::not_found("vfolder invitation")
}

/// Invites users to the caller's folder of a name; whom it invited.
///
/// # Errors
/// Those of `spec/vfolder.md` §9.1, in its order.
pub async fn invite(
    control: &Control,
    caller: &Principal,
    name: &str,
    permission: FolderPermission,
    emails: &[String],
) -> Result<Vec<String>> {
    let folders: Vec<Seen> = accessible(control, &caller.into()).await?;
    let mut named = folders.into_iter().filter(|seen| seen.row.name == name).peekable();
    let first = named.peek().ok_or_else(|| unknown(name))?;
    require_status(&first.row, FolderAccess::Updatable)?;
    if rules::is_dot_folder(name) {
        return Err(Error::Forbidden("Cannot share private dot-prefixed vfolders.".to_owned()));
    }
    let own =
        named.find(|seen| seen.row.user == Some(caller.user_id)).ok_or_else(|| Error::not_found("virtual folder"))?;
    let row = own.row;
    require_status(&row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &row, HostPermission::InviteOthers).await?;

    let mut tx = control.store().begin().await?;
    let mut invitees: Vec<UserRow> = users::by_emails(&mut tx, emails).await?;
    let ids: Vec<UserId> = invitees.iter().map(|u| u.id).collect();
    let reachable: HashSet<UserId> =
        keypairs::of_users(&mut tx, &ids).await?.into_iter().filter(|k| k.is_active).map(|k| k.user_id).collect();
    invitees.retain(|u| u.id != caller.user_id && reachable.contains(&u.id));
    if invitees.is_empty() {
        return Err(no_invitation());
    }
    let ids: Vec<UserId> = invitees.iter().map(|u| u.id).collect();
    if vfolders::is_name_known(&mut tx, &ids, name).await? {
        return Err(Error::FolderExists(None));
    }
    let waiting = vfolders::pending_invitees(&mut tx, row.id, &caller.email).await?;
    let now = control.clock().now();
    let mut invited = Vec::new();
    // In the order of the request.
    for email in emails {
        let known = invitees.iter().any(|u| u.email == *email);
        if known && !waiting.contains(email) && !invited.contains(email) {
            invited.push(email.clone());
        }
    }
    vfolders::insert_invitations(&mut tx, row.id, &caller.email, &invited, permission, now).await?;
    tx.commit().await?;
    Ok(invited)
}

/// The caller's pending invitations.
///
/// # Errors
/// [`Error::Store`].
pub async fn invitations(control: &Control, caller: &Principal, which: Mine) -> Result<Vec<InvitationRow>> {
    Ok(vfolders::invitations(&mut control.store().reader(), which, &caller.email).await?)
}

/// Changes what a pending invitation of the caller's offers; one that isn't the caller's stays as it is.
///
/// # Errors
/// [`Error::NotFound`] for what can't be an invitation's id.
pub async fn reword(control: &Control, caller: &Principal, id: &str, permission: FolderPermission) -> Result<()> {
    let id = id.parse::<Uuid>().map_err(|_| no_invitation())?;
    let mut tx = control.store().begin().await?;
    vfolders::reword_invitation(&mut tx, id, &caller.email, permission, control.clock().now()).await?;
    tx.commit().await?;
    Ok(())
}

/// Takes an invitation: the caller has the folder from here on.
///
/// # Errors
/// [`Error::NotFound`] for invitations that aren't pending or aren't the caller's; [`Error::FolderExists`] when the caller
/// has a folder of that name.
pub async fn accept(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let id = id.parse::<Uuid>().map_err(|_| no_invitation())?;
    let mut tx = control.store().begin().await?;
    vfolders::lock_owner(&mut tx, caller.user_id).await?;
    let invitation = vfolders::invitation(&mut tx, id).await?;
    let invitation = invitation
        .filter(|i| i.state == InvitationState::Pending && i.invitee == caller.email)
        .ok_or_else(no_invitation)?;
    if vfolders::is_name_known(&mut tx, &[caller.user_id], &invitation.vfolder_name).await? {
        return Err(Error::FolderExists(None));
    }
    let row = vfolders::get(&mut tx, invitation.vfolder).await?.ok_or_else(no_invitation)?;
    require_status(&row, FolderAccess::Updatable)?;
    if !vfolders::settle_invitation(&mut tx, id, InvitationState::Accepted, control.clock().now()).await? {
        return Err(no_invitation());
    }
    vfolders::grant(&mut tx, row.id, &[caller.user_id], invitation.permission).await?;
    tx.commit().await?;
    Ok(())
}

/// Takes an invitation back, or declines it.
///
/// # Errors
/// [`Error::NotFound`] for invitations that aren't pending; [`Error::Forbidden`] for those of others.
pub async fn withdraw(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let id = id.parse::<Uuid>().map_err(|_| no_invitation())?;
    let mut tx = control.store().begin().await?;
    let invitation = vfolders::invitation(&mut tx, id).await?;
    let invitation = invitation.filter(|i| i.state == InvitationState::Pending).ok_or_else(no_invitation)?;
    let state = if invitation.inviter == caller.email {
        InvitationState::Canceled
    } else if invitation.invitee == caller.email {
        InvitationState::Rejected
    } else {
        return Err(Error::Forbidden("The invitation concerns others.".to_owned()));
    };
    vfolders::settle_invitation(&mut tx, id, state, control.clock().now()).await?;
    tx.commit().await?;
    Ok(())
}

/// The project's folder of a name that the caller administers.
async fn project_folder(
    control: &Control,
    caller: &Principal,
    name: &str,
    refusal: &str,
) -> Result<(VfolderRow, ProjectId)> {
    let mut rows = vfolders::project_folders_named(&mut control.store().reader(), name).await?;
    if !caller.is_superadmin() {
        rows.retain(|row| row.project_domain.as_deref() == Some(&caller.domain));
    }
    if rows.len() > 1 {
        return Err(Error::TooManyFolders(format!("Multiple project folders found: {name}")));
    }
    let none = || Error::not_found_msg("virtual folder", refusal);
    let row = rows.pop().ok_or_else(none)?;
    let project = row.project.ok_or_else(none)?;
    require_status(&row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &row, HostPermission::SetUserPerm).await?;
    Ok((row, project))
}

/// Gives members of a project a permission of their own on its folder; who they are.
///
/// # Errors
/// Those of `spec/vfolder.md` §9.3.
pub async fn share(
    control: &Control,
    caller: &Principal,
    name: &str,
    permission: FolderPermission,
    emails: &[String],
) -> Result<Vec<String>> {
    let refusal = "Only project folders are directly sharable.";
    let (row, project) = project_folder(control, caller, name, refusal).await?;
    let mut tx = control.store().begin().await?;
    let mut targets = users::by_emails(&mut tx, emails).await?;
    targets.retain(|user| user.status == UserStatus::Active && user.id != caller.user_id);
    let ids: Vec<UserId> = targets.iter().map(|user| user.id).collect();
    let of_project = projects::of_users(&mut tx, &ids).await?.into_iter().filter(|(_, row)| row.id == project);
    let members: HashSet<UserId> = of_project.map(|(user, _)| user).collect();
    targets.retain(|user| members.contains(&user.id));
    if targets.is_empty() {
        return Err(Error::not_found("user"));
    }
    let strangers: Vec<&str> =
        emails.iter().filter(|e| !targets.iter().any(|u| u.email == **e)).map(String::as_str).collect();
    if !strangers.is_empty() {
        let msg = format!("Some users do not belong to folder's group: {}", strangers.join(","));
        return Err(Error::not_found_msg("user", msg));
    }
    let ids: Vec<UserId> = targets.iter().map(|user| user.id).collect();
    vfolders::grant(&mut tx, row.id, &ids, permission).await?;
    tx.commit().await?;
    Ok(emails.to_vec())
}

/// Takes back permissions of their own on a project's folder.
///
/// # Errors
/// Those of `spec/vfolder.md` §9.3.
pub async fn unshare(control: &Control, caller: &Principal, name: &str, emails: &[String]) -> Result<()> {
    let refusal = "Only project folders are directly unsharable.";
    let (row, _) = project_folder(control, caller, name, refusal).await?;
    let mut tx = control.store().begin().await?;
    let ids: Vec<UserId> = users::by_emails(&mut tx, emails).await?.into_iter().map(|u| u.id).collect();
    if ids.is_empty() {
        return Err(Error::not_found("user(s)."));
    }
    vfolders::revoke(&mut tx, row.id, &ids).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives up a folder that others share with the caller, or takes it from `user` if a superadmin asks so.
///
/// # Errors
/// [`Error::FolderStatus`]; [`Error::InvalidParams`] for projects' folders and the caller's own;
/// [`Error::InsufficientPrivilege`] about others.
pub async fn leave(control: &Control, caller: &Principal, seen: &Seen, user: Option<&str>) -> Result<()> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    if seen.row.ownership() == OwnershipType::Group {
        return Err(Error::invalid("Cannot leave a group vfolder."));
    }
    let user = match user.map(str::parse::<UserId>) {
        None => caller.user_id,
        Some(Ok(user)) if user == caller.user_id || caller.is_superadmin() => user,
        Some(Err(_)) if caller.is_superadmin() => return Err(Error::invalid("shared_user_uuid is no UUID.")),
        Some(_) => return Err(Error::InsufficientPrivilege("Insufficient permission.".to_owned())),
    };
    if user == caller.user_id && seen.is_owner {
        return Err(Error::invalid("Cannot leave a vfolder owned by the requesting user."));
    }
    let mut tx = control.store().begin().await?;
    vfolders::revoke(&mut tx, seen.row.id, &[user]).await?;
    tx.commit().await?;
    Ok(())
}

/// The grants that the caller may see, of one folder or of all.
///
/// # Errors
/// [`Error::Store`].
pub async fn shared(control: &Control, caller: &Principal, vfolder: Option<VfolderId>) -> Result<Vec<SharedRow>> {
    let sight = match caller.role {
        UserRole::Superadmin => Sight::All,
        UserRole::Admin => Sight::Of(caller.user_id, Some(caller.domain.clone())),
        UserRole::User | UserRole::Monitor => Sight::Of(caller.user_id, None),
    };
    Ok(vfolders::shared(&mut control.store().reader(), vfolder, &sight).await?)
}

/// Changes what a user was granted on a folder, or takes it back; what wasn't granted isn't granted now.
///
/// # Errors
/// [`Error::Forbidden`] for whoever neither owns the folder nor administers its project.
pub async fn update_shared(
    control: &Control,
    caller: &Principal,
    vfolder: VfolderId,
    user: UserId,
    permission: Option<FolderPermission>,
) -> Result<()> {
    let mut tx = control.store().begin().await?;
    let row = vfolders::get(&mut tx, vfolder).await?;
    let may = match &row {
        _ if caller.is_superadmin() => true,
        None => false,
        Some(row) if row.user == Some(caller.user_id) => true,
        Some(row) => caller.role == UserRole::Admin && row.project_domain.as_deref() == Some(&caller.domain),
    };
    if !may {
        return Err(Error::Forbidden("Only the owner may change who shares a virtual folder.".to_owned()));
    }
    match permission {
        Some(permission) => vfolders::regrant(&mut tx, vfolder, user, permission).await?,
        None => vfolders::revoke(&mut tx, vfolder, &[user]).await?,
    };
    tx.commit().await?;
    Ok(())
}

/// Gives a user's folder to another user; for superadmins.
///
/// # Errors
/// [`Error::NotFound`] for users who can't have it; [`Error::FolderOperation`] when the new owner may not use its host.
pub async fn change_owner(control: &Control, vfolder: VfolderId, email: &str) -> Result<()> {
    let mut reader = control.store().reader();
    let user = users::by_email(&mut reader, email).await?.filter(|u| u.status == UserStatus::Active);
    let user = user.ok_or_else(|| Error::not_found("user"))?;
    let mut pairs = keypairs::of_users(&mut reader, &[user.id]).await?;
    pairs.sort_by_key(|pair| pair.created_at);
    let first = pairs.first().ok_or_else(|| Error::not_found("user"))?;
    let granted = hosts::of_user(control, user.id, &user.domain_name, &first.resource_policy).await?;
    let row = vfolders::get(&mut reader, vfolder).await?;
    let row = row.filter(|row| granted.contains_key(&row.host)).ok_or_else(|| {
        Error::FolderOperation("User to migrate vfolder needs an access to the storage host.".to_owned())
    })?;
    if row.ownership() == OwnershipType::Group {
        return Ok(());
    }
    let mut tx = control.store().begin().await?;
    let changes = VfolderChanges { user: Some(user.id), ..VfolderChanges::default() };
    vfolders::update(&mut tx, row.id, &changes).await?;
    vfolders::drop_invitations_for(&mut tx, &[row.id], &user.email).await?;
    vfolders::revoke(&mut tx, row.id, &[user.id]).await?;
    tx.commit().await?;
    Ok(())
}
