//! The life of folders: making, renaming, changing and removing them (`spec/vfolder.md` §4 and §6).

use quarterdeck_model::vfolder::{
    self as rules, FolderAccess, FolderPermission, FolderStatus, HostPermission, OwnershipType, UsageMode, split_host,
};
use quarterdeck_model::{ProjectId, UserId, VfolderId};
use quarterdeck_storage::Place;
use quarterdeck_store::projects::{self, ProjectRow};
use quarterdeck_store::vfolders::{self, NewVfolder, VfolderChanges, VfolderRow};
use quarterdeck_store::{Sql, resource_policies};
use serde_json::Value as Json;

use super::{Seen, Viewer, accessible, hosts, is_administrator, is_enabled, place, require_status, unknown};
use crate::Control;
use crate::agents::in_background;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// What is under way for longer than this without a sign of life was left by a host that is gone.
const STUCK_MICROS: i64 = 60_000_000;

/// What a new folder is to be like.
#[derive(Clone, Debug)]
pub struct CreateFolder {
    /// Its name.
    pub name: String,
    /// Its host; the default one when none is given.
    pub host: Option<String>,
    /// What it is for.
    pub usage_mode: UsageMode,
    /// What members of its project may do with it.
    pub permission: FolderPermission,
    /// A path of the agents' own.
    pub unmanaged_path: Option<String>,
    /// The project that is to own it, by id or name.
    pub project: Option<String>,
    /// Bytes; 0 = no limit.
    pub quota: i64,
    /// Whether it may be copied.
    pub cloneable: bool,
}

pub(super) fn reserved(name: &str) -> Result<()> {
    if rules::is_reserved_name(name) {
        return Err(Error::invalid(format!("{name} is reserved for internal operations.")));
    }
    Ok(())
}

fn dot_for_project(name: &str) -> Result<()> {
    if rules::is_dot_folder(name) && name != ".local" {
        return Err(Error::invalid("dot-prefixed vfolders cannot be a group folder."));
    }
    Ok(())
}

pub(super) async fn or_default_host(control: &Control, host: Option<String>) -> Result<String> {
    match host {
        Some(host) => Ok(host),
        None => hosts::default_host(control).await.ok_or_else(|| {
            Error::invalid("You must specify the vfolder host because the default host is not configured.")
        }),
    }
}

/// The project that a request names, in the caller's domain.
async fn project_named<S: Sql>(sql: &mut S, caller: &Principal, name: &str) -> Result<ProjectRow> {
    let row = match name.parse::<ProjectId>() {
        Ok(id) => projects::get(sql, id).await?.filter(|p| p.domain_name == caller.domain),
        Err(_) => projects::by_name(sql, &caller.domain, name).await?,
    };
    row.ok_or_else(|| Error::NotFound { object: "user group (or project)", msg: None, data: Some(Json::from(name)) })
}

/// Refuses one folder more than the caller's policy allows.
pub(super) async fn check_count<S: Sql>(sql: &mut S, caller: &Principal) -> Result<()> {
    let policy = resource_policies::get(sql, &caller.resource_policy).await?;
    let most = policy.map_or(0, |p| p.max_vfolder_count);
    if most > 0 && vfolders::count_of_user(sql, caller.user_id).await? >= most {
        return Err(Error::invalid("You cannot create more vfolders."));
    }
    Ok(())
}

/// Whether the caller has a folder of that name on a host, or on any.
pub(super) async fn is_taken(control: &Control, caller: &Principal, name: &str, host: Option<&str>) -> Result<bool> {
    let folders = accessible(control, &Viewer::from(caller)).await?;
    Ok(folders.iter().any(|s| s.row.name == name && host.is_none_or(|host| s.row.host == host)))
}

/// The quota scope of an owner.
pub(super) fn scope_of(user: UserId, project: Option<ProjectId>) -> String {
    project.map_or(user.0, |p| p.0).simple().to_string()
}

/// Makes a folder.
///
/// # Errors
/// Those of `spec/vfolder.md` §6.1, in its order.
pub async fn create(control: &Control, caller: &Principal, request: CreateFolder) -> Result<VfolderRow> {
    let is_unmanaged = request.unmanaged_path.is_some();
    if is_unmanaged && !is_administrator(caller.role) {
        return Err(Error::Forbidden("Insufficient permission".to_owned()));
    }
    let host = if is_unmanaged { String::new() } else { or_default_host(control, request.host).await? };
    reserved(&request.name)?;
    if request.project.is_some() {
        dot_for_project(&request.name)?;
    }
    let mut reader = control.store().reader();
    let project = match &request.project {
        Some(name) => Some(project_named(&mut reader, caller, name).await?),
        None => None,
    };
    if project.is_some() && !is_administrator(caller.role) {
        return Err(Error::Forbidden("no permission".to_owned()));
    }
    let kind = if project.is_some() { OwnershipType::Group } else { OwnershipType::User };
    if !is_enabled(control, kind).await {
        return Err(Error::invalid(format!("{kind}-owned vfolder is not allowed in this cluster")));
    }
    let project = project.map(|p| p.id);
    let taken_on = (!is_unmanaged).then_some(host.as_str());
    if !is_unmanaged {
        let granted = hosts::of_caller(control, caller, project).await?;
        hosts::check(&granted, &host, HostPermission::Create)?;
    }
    check_count(&mut reader, caller).await?;
    if is_taken(control, caller, &request.name, taken_on).await? {
        return Err(Error::FolderExists(Some(request.name)));
    }
    let folder = NewVfolder {
        id: VfolderId::new(),
        quota_scope_id: scope_of(caller.user_id, project),
        host,
        usage_mode: request.usage_mode,
        permission: request.permission,
        max_size: (request.quota > 0).then_some(request.quota >> 20),
        created_at: control.clock().now(),
        creator: caller.email.clone(),
        unmanaged_path: request.unmanaged_path,
        user: project.is_none().then_some(caller.user_id),
        project,
        cloneable: request.cloneable,
        name: request.name,
    };
    if is_unmanaged {
        return insert(control, caller, &folder, None).await;
    }
    let (_, volume) = split_host(&folder.host);
    let path = rules::FolderPath { scope: folder.quota_scope_id.clone(), id: folder.id };
    let place = Place { volume: volume.to_owned(), folder: path };
    let storage = control.storages().of_host(&folder.host)?;
    storage.create(&place).await?;
    let inserted = insert(control, caller, &folder, Some(&folder.host)).await;
    if inserted.is_err()
        && let Err(error) = storage.delete(&place).await
    {
        tracing::warn!(%error, folder = %place.folder, "a directory without a folder stays");
    }
    inserted
}

/// Writes a folder down, unless another one of its owner came first.
pub(super) async fn insert(
    control: &Control,
    caller: &Principal,
    folder: &NewVfolder,
    host: Option<&str>,
) -> Result<VfolderRow> {
    let mut tx = control.store().begin().await?;
    vfolders::lock_owner(&mut tx, caller.user_id).await?;
    check_count(&mut tx, caller).await?;
    let own = vfolders::owned_by(&mut tx, folder.user, folder.project).await?;
    if own.iter().any(|row| row.name == folder.name && host.is_none_or(|host| row.host == host)) {
        return Err(Error::FolderExists(Some(folder.name.clone())));
    }
    vfolders::insert(&mut tx, folder).await.map_err(crate::validate::integrity)?;
    let row = vfolders::get(&mut tx, folder.id).await?;
    tx.commit().await?;
    row.ok_or_else(|| Error::Internal("a folder vanished while it was made".to_owned()))
}

/// Gives a folder another name.
///
/// # Errors
/// [`Error::FolderStatus`]; [`Error::InvalidParams`] when the name is taken or reserved, and about owner and host.
pub async fn rename(control: &Control, caller: &Principal, seen: &Seen, new_name: &str) -> Result<()> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    reserved(new_name)?;
    if seen.row.ownership() == OwnershipType::Group {
        dot_for_project(new_name)?;
    }
    if is_taken(control, caller, new_name, None).await? {
        return Err(Error::invalid("One of your accessible vfolders already has the name you requested."));
    }
    if !seen.is_owner {
        return Err(Error::invalid("Cannot change the name of a vfolder that is not owned by myself."));
    }
    hosts::require(control, caller, &seen.row, HostPermission::Modify).await?;
    let changes = VfolderChanges { name: Some(new_name.to_owned()), ..VfolderChanges::default() };
    change(control, seen, &changes).await
}

/// Changes a folder's options.
///
/// # Errors
/// [`Error::FolderStatus`]; [`Error::InvalidParams`] about owner and host.
pub async fn update_options(
    control: &Control,
    caller: &Principal,
    seen: &Seen,
    cloneable: Option<bool>,
    permission: Option<FolderPermission>,
) -> Result<()> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &seen.row, HostPermission::Modify).await?;
    if !seen.is_owner {
        return Err(Error::invalid("Cannot change the options of a vfolder that is not owned by myself."));
    }
    change(control, seen, &VfolderChanges { cloneable, permission, ..VfolderChanges::default() }).await
}

async fn change(control: &Control, seen: &Seen, changes: &VfolderChanges) -> Result<()> {
    let mut tx = control.store().begin().await?;
    vfolders::update(&mut tx, seen.row.id, changes).await?;
    tx.commit().await?;
    Ok(())
}

/// Begins to remove the caller's folder of a name.
///
/// # Errors
/// [`Error::NotFound`], [`Error::TooManyFolders`], [`Error::FolderStatus`]; [`Error::InvalidParams`] about owner and
/// host; [`Error::FolderOperation`] while sessions have it.
pub async fn delete(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    let mut folders = accessible(control, &caller.into()).await?;
    folders.retain(|seen| seen.row.name == name);
    if folders.len() > 1 {
        return Err(Error::TooManyFolders("Multiple folders with the same name.".to_owned()));
    }
    let seen = folders.pop().ok_or_else(|| unknown(name))?;
    require_status(&seen.row, FolderAccess::Deletable)?;
    hosts::require(control, caller, &seen.row, HostPermission::Delete).await?;
    if !seen.is_owner && seen.permission != FolderPermission::RwDelete {
        return Err(Error::invalid("Cannot delete the vfolder that is not owned by myself."));
    }
    begin_removal(control, seen.row).await
}

/// Begins to remove any folder; for superadmins.
///
/// # Errors
/// As [`delete`].
pub async fn delete_by_id(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let parsed = id.parse::<VfolderId>().map_err(|_| unknown(id))?;
    let row = vfolders::get(&mut control.store().reader(), parsed).await?.ok_or_else(|| unknown(id))?;
    require_status(&row, FolderAccess::Deletable)?;
    hosts::require(control, caller, &row, HostPermission::Delete).await?;
    begin_removal(control, row).await
}

async fn begin_removal(control: &Control, row: VfolderRow) -> Result<()> {
    let mut tx = control.store().begin().await?;
    // What sessions have stays: a mount must never lead nowhere.
    if vfolders::in_use(&mut tx, &[row.id]).await? {
        return Err(Error::FolderOperation("The virtual folder is mounted to active sessions.".to_owned()));
    }
    let now = control.clock().now();
    if !vfolders::change_status(&mut tx, row.id, FolderStatus::Ready, FolderStatus::Deleting, now).await? {
        return Err(Error::FolderStatus);
    }
    tx.commit().await?;
    let control = control.clone();
    in_background("a folder can't be removed", async move { remove(&control, &row).await });
    Ok(())
}

/// Removes a folder's files and then the folder. One whose files can't be removed is as it was before.
async fn remove(control: &Control, row: &VfolderRow) -> Result<()> {
    let removed = if row.host.is_empty() { Ok(()) } else { remove_files(control, row).await };
    let mut tx = control.store().begin().await?;
    if removed.is_ok() {
        vfolders::delete(&mut tx, row.id).await?;
    } else {
        let now = control.clock().now();
        vfolders::change_status(&mut tx, row.id, FolderStatus::Deleting, FolderStatus::Ready, now).await?;
    }
    tx.commit().await?;
    removed
}

async fn remove_files(control: &Control, row: &VfolderRow) -> Result<()> {
    Ok(control.storages().of_host(&row.host)?.delete(&place(row)?).await?)
}

/// Removes all folders of a user or project that is about to go; nobody has them in sessions any more.
///
/// # Errors
/// [`Error::Storage`], [`Error::Store`]; what was removed by then stays so.
pub(super) async fn remove_all(control: &Control, rows: &[VfolderRow]) -> Result<()> {
    for row in rows {
        if !row.host.is_empty() {
            remove_files(control, row).await?;
        }
        let mut tx = control.store().begin().await?;
        vfolders::delete(&mut tx, row.id).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// A folder that was copied is as it was before.
pub(super) async fn back_to_ready(control: &Control, id: VfolderId) -> Result<()> {
    let mut tx = control.store().begin().await?;
    let now = control.clock().now();
    vfolders::change_status(&mut tx, id, FolderStatus::Cloning, FolderStatus::Ready, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Goes on with what hosts that are gone have left: folders on their way out, and copies that nobody makes any more.
pub(crate) async fn sweep(control: &Control) -> Result<()> {
    let before = control.clock().now().plus_micros(-STUCK_MICROS);
    let mut reader = control.store().reader();
    for row in vfolders::stuck(&mut reader, FolderStatus::Deleting, before).await? {
        if let Err(error) = remove(control, &row).await {
            tracing::warn!(%error, folder = %row.id, "a folder can't be removed");
        }
    }
    for row in vfolders::stuck(&mut reader, FolderStatus::Cloning, before).await? {
        back_to_ready(control, row.id).await?;
    }
    Ok(())
}

/// Tidies up what uploads, copies and removals that broke off have left on the server's own volumes.
pub(crate) async fn tidy(control: &Control) -> Result<()> {
    if let Some(storage) = control.storages().embedded() {
        quarterdeck_storage::Storage::maintain(storage).await?;
    }
    Ok(())
}
