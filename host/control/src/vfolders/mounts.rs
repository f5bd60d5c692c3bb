//! Folders in sessions: which of those that a request names, and which by themselves (`spec/vfolder.md` §10).

use indexmap::IndexMap;
use quarterdeck_model::vfolder::{
    self as rules, FolderMount, FolderStatus, HostPermission, MountRequest, OwnershipType, is_dot_folder,
};
use quarterdeck_model::{ProjectId, UserRole};

use super::{Seen, Viewer, hosts, of_viewer, place};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// What a request says about folders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Folders, or paths within them.
    pub(crate) mounts: &'a [String],
    /// Where they appear.
    pub(crate) map: &'a IndexMap<String, String>,
}

/// The folders of a session of `owner` in a project.
///
/// # Errors
/// Those of `spec/vfolder.md` §10.
pub(crate) async fn resolve(
    control: &Control,
    owner: &Principal,
    project: ProjectId,
    wanted: Wanted<'_>,
) -> Result<Vec<FolderMount>> {
    let requests = rules::read_mounts(wanted.mounts, wanted.map).map_err(Error::invalid)?;
    // Most sessions have no folders, and that is one question instead of three lists.
    if requests.is_empty() && !control.dot_folders().has(&control.store().reader(), owner.user_id).await? {
        return Ok(Vec::new());
    }
    // Administrators mount what they have as members, like everybody.
    let viewer = Viewer::from(owner);
    let mut candidates = of_viewer(control, &viewer, UserRole::User).await?;
    candidates.retain(|s| is_dot_folder(&s.row.name) || requests.iter().any(|r| r.name == s.row.name));
    if candidates.is_empty() {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        return Err(Error::not_found_msg("virtual folder", "There is no accessible vfolders at all."));
    }
    let granted = hosts::of_caller(control, owner, Some(project)).await?;
    let mut mounts = Vec::new();
    for request in &requests {
        let named: Vec<&Seen> = candidates.iter().filter(|s| s.row.name == request.name).collect();
        if named.is_empty() {
            let msg = format!("VFolder {} is not found or accessible.", request.name);
            return Err(Error::not_found_msg("virtual folder", msg));
        }
        // A project's folder belongs into that project's sessions; the user's own come first.
        let Some(seen) = named.into_iter().find(|s| s.row.project.is_none_or(|p| p == project)) else { continue };
        mounts.push(mount(control, owner, &granted, seen, Some(request)).await?);
    }
    let mut taken: Vec<&str> = requests.iter().map(|r| r.name.as_str()).collect();
    for seen in &candidates {
        let name = seen.row.name.as_str();
        let elsewhere = seen.row.project.is_some_and(|p| p != project);
        // What can't be mounted of itself must not keep every session from starting.
        let unusable = seen.row.host.is_empty() || seen.row.status == FolderStatus::Deleting;
        if !is_dot_folder(name) || taken.contains(&name) || elsewhere || unusable {
            continue;
        }
        taken.push(name);
        mounts.push(mount(control, owner, &granted, seen, None).await?);
    }
    rules::check_targets(&mounts).map_err(Error::invalid)?;
    Ok(mounts)
}

async fn mount(
    control: &Control,
    owner: &Principal,
    granted: &hosts::Granted,
    seen: &Seen,
    request: Option<&MountRequest>,
) -> Result<FolderMount> {
    let row = &seen.row;
    if row.host.is_empty() {
        return Err(Error::invalid(format!("The unmanaged vfolder {} can't be mounted.", row.name)));
    }
    if row.status == FolderStatus::Deleting {
        return Err(Error::FolderStatus);
    }
    hosts::check(granted, &row.host, HostPermission::MountInSession)?;
    let storage = control.storages().of_host(&row.host)?;
    let at = place(row)?;
    let mut subpath = request.map_or_else(|| ".".to_owned(), |r| r.subpath.clone());
    let mut target = request.and_then(|r| r.target.clone()).unwrap_or_else(|| rules::default_target(&row.name));
    if row.name == ".linuxbrew" {
        target = rules::default_target(&row.name);
    }
    if row.name == ".local" && row.ownership() == OwnershipType::Group {
        // Everybody has a part of it.
        subpath = owner.user_id.0.simple().to_string();
        target = rules::default_target(&row.name);
        storage.mkdir(&at, &subpath, true, true).await?;
    }
    let root = storage.mount_path(&at, &subpath).await?;
    let host_path = if subpath == "." { root } else { format!("{}/{subpath}", root.trim_end_matches('/')) };
    Ok(FolderMount {
        name: row.name.clone(),
        vfid: at.folder.to_string(),
        vfsubpath: subpath,
        host_path,
        kernel_path: target,
        mount_perm: seen.permission,
        usage_mode: row.usage_mode,
    })
}
