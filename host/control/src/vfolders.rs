//! Virtual folders: who has which, and what may be done with them (`spec/vfolder.md`).
//!
//! What a folder is called, whose it is and who else may use it is in the database; its files are in a storage
//! ([`storages`]). Here is the part that both need: the folders that somebody has.

pub mod clone;
mod dot_folders;
pub(crate) mod estate;
pub mod files;
pub mod hosts;
pub mod life;
mod mounts;
pub mod nodes;
pub mod quota;
pub mod sharing;
pub(crate) mod storages;

use quarterdeck_model::vfolder::{FolderAccess, FolderPermission, OwnershipType};
use quarterdeck_model::{UserId, UserRole, VfolderId};
use quarterdeck_storage::Place;
use quarterdeck_store::users::UserRow;
use quarterdeck_store::vfolders::{self, ProjectFolders, VfolderRow};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::{Control, config};

pub(crate) use dot_folders::DotFolders;
pub(crate) use mounts::{Wanted, resolve as resolve_mounts};
pub use storages::StorageSettings;

/// A folder as one user sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The folder.
    pub row: VfolderRow,
    /// It counts as the user's own.
    pub is_owner: bool,
    /// What the user may do with its content.
    pub permission: FolderPermission,
}

/// Whose eyes folders are seen with.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The user.
    pub id: UserId,
    /// Its role.
    pub role: UserRole,
    /// Its domain.
    pub domain: String,
}

impl From<&Principal> for Viewer {
    fn from(principal: &Principal) -> Self {
        Self { id: principal.user_id, role: principal.role, domain: principal.domain.clone() }
    }
}

impl From<&UserRow> for Viewer {
    fn from(user: &UserRow) -> Self {
        Self { id: user.id, role: user.role, domain: user.domain_name.clone() }
    }
}

fn is_administrator(role: UserRole) -> bool {
    matches!(role, UserRole::Admin | UserRole::Superadmin)
}

/// Whether folders of a kind are switched on.
async fn is_enabled(control: &Control, kind: OwnershipType) -> bool {
    config::vfolder_types(control).await.iter().any(|name| name == kind.as_str())
}

/// Everybody's folders as one user has them: its own, those that others share with it, and its projects' (§2.2). As
/// members, administrators see their projects' only.
async fn of_viewer(control: &Control, viewer: &Viewer, role: UserRole) -> Result<Vec<Seen>> {
    let types = config::vfolder_types(control).await;
    let enabled = |kind: OwnershipType| types.iter().any(|name| name == kind.as_str());
    let mut sql = control.store().reader();
    let mut seen = Vec::new();
    if enabled(OwnershipType::User) {
        let own = vfolders::of_user(&mut sql, viewer.id).await?;
        seen.extend(own.into_iter().map(|row| Seen { permission: row.permission, is_owner: true, row }));
        let shared = vfolders::shared_with(&mut sql, viewer.id).await?;
        seen.extend(shared.into_iter().map(|(row, permission)| Seen { row, is_owner: false, permission }));
    }
    if enabled(OwnershipType::Group) {
        let which = match role {
            UserRole::Superadmin => ProjectFolders::All,
            UserRole::Admin => ProjectFolders::Domain(viewer.domain.clone()),
            UserRole::User | UserRole::Monitor => ProjectFolders::Member(viewer.id),
        };
        let folders = vfolders::of_projects(&mut sql, &which, viewer.id).await?;
        seen.extend(folders.into_iter().map(|(row, granted)| Seen {
            permission: granted.unwrap_or(row.permission),
            is_owner: is_administrator(role),
            row,
        }));
    }
    Ok(seen)
}

/// The folders that somebody has.
///
/// # Errors
/// [`Error::Store`].
pub async fn accessible(control: &Control, viewer: &Viewer) -> Result<Vec<Seen>> {
    of_viewer(control, viewer, viewer.role).await
}

/// The caller's folder of a name, if it may be used as far as `need`.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find(control: &Control, caller: &Principal, name: &str, need: FolderPermission) -> Result<Seen> {
    let folders = accessible(control, &caller.into()).await?;
    let fits = |seen: &Seen| seen.row.name == name && (seen.is_owner || seen.permission >= need);
    folders.into_iter().find(fits).ok_or_else(|| unknown(name))
}

/// The caller's folder of an id.
async fn find_by_id(control: &Control, caller: &Principal, id: VfolderId) -> Result<Seen> {
    let folders = accessible(control, &caller.into()).await?;
    folders.into_iter().find(|seen| seen.row.id == id).ok_or_else(|| unknown(&id.to_string()))
}

/// No such folder, as far as the caller is concerned.
fn unknown(name: &str) -> Error {
    Error::NotFound { object: "virtual folder", msg: None, data: Some(Json::from(name)) }
}

/// Whether a folder's status lets it be treated so.
fn require_status(row: &VfolderRow, access: FolderAccess) -> Result<()> {
    if access.admits(row.status) { Ok(()) } else { Err(Error::FolderStatus) }
}

/// Where a folder's files are; only folders on hosts have any.
fn place(row: &VfolderRow) -> Result<Place> {
    if row.host.is_empty() {
        return Err(Error::FolderOperation("The files of an unmanaged virtual folder can't be reached.".to_owned()));
    }
    let (_, volume) = quarterdeck_model::vfolder::split_host(&row.host);
    Ok(Place { volume: volume.to_owned(), folder: row.path() })
}

/// The folders that somebody has, with the owner named by e-mail address for superadmins.
///
/// # Errors
/// [`Error::InvalidParams`] for those who may not look for others, and for unknown owners.
pub async fn list(
    control: &Control,
    caller: &Principal,
    owner_email: Option<&str>,
    project: Option<quarterdeck_model::ProjectId>,
) -> Result<Vec<Seen>> {
    let viewer = match owner_email {
        None => Viewer::from(caller),
        Some(_) if !caller.is_superadmin() => return Err(Error::invalid("Only superadmins may have user scopes.")),
        Some(email) => {
            let user = quarterdeck_store::users::by_email(&mut control.store().reader(), email).await?;
            let user = user.ok_or_else(|| Error::invalid("Cannot delegate an unknown user"))?;
            Viewer { domain: caller.domain.clone(), ..Viewer::from(&user) }
        }
    };
    let mut seen = accessible(control, &viewer).await?;
    if let Some(project) = project {
        seen.retain(|s| s.row.project.is_none_or(|p| p == project));
    }
    Ok(seen)
}
