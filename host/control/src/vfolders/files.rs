//! Files inside folders (`spec/vfolder.md` §7). What is possible is decided by the folder's storage.

use std::sync::Arc;

use quarterdeck_model::KernelId;
use quarterdeck_model::vfolder::{FolderAccess, HostPermission, OwnershipType};
use quarterdeck_storage::{Entry, Place, Room, Storage, Usage};
use quarterdeck_store::vfolders::VfolderRow;
use serde_json::json;

use super::{Seen, accessible, hosts, place, quota, require_status};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// The folder that tasks' logs are in.
const LOGS: &str = ".logs";

/// A permission to send or fetch one file, and where.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// What the storage wants to see.
    pub token: String,
    /// The storage's base address for clients; the server's own when none is given.
    pub base: Option<String>,
}

/// The storage of a folder that may be treated so.
fn reach(control: &Control, seen: &Seen, access: FolderAccess) -> Result<(Arc<dyn Storage>, Place)> {
    require_status(&seen.row, access)?;
    let place = place(&seen.row)?;
    Ok((control.storages().of_host(&seen.row.host)?, place))
}

/// What a folder holds.
///
/// # Errors
/// [`Error::Storage`].
pub async fn usage(control: &Control, seen: &Seen) -> Result<Usage> {
    if seen.row.host.is_empty() {
        return Ok(Usage { file_count: 0, used_bytes: 0 });
    }
    let (storage, place) = reach(control, seen, FolderAccess::Readable)?;
    Ok(storage.usage(&place).await?)
}

/// Makes a directory.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::Storage`].
pub async fn mkdir(control: &Control, seen: &Seen, path: &str, parents: bool, exist_ok: bool) -> Result<()> {
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    Ok(storage.mkdir(&place, path, parents, exist_ok).await?)
}

/// What a directory holds.
///
/// # Errors
/// [`Error::Storage`].
pub async fn list(control: &Control, seen: &Seen, path: &str) -> Result<Vec<Entry>> {
    let (storage, place) = reach(control, seen, FolderAccess::Readable)?;
    Ok(storage.list(&place, path).await?)
}

/// The content of a small file at the folder's root; `None` when there is none of that name.
///
/// # Errors
/// [`Error::Storage`].
pub(crate) async fn fetch(control: &Control, folder: &VfolderRow, name: &str) -> Result<Option<Vec<u8>>> {
    let place = place(folder)?;
    let storage = control.storages().of_host(&folder.host)?;
    // Storages differ in what they say of a file that isn't there.
    if !storage.list(&place, ".").await?.iter().any(|entry| entry.name == name) {
        return Ok(None);
    }
    Ok(Some(storage.fetch(&place, name).await?))
}

/// What a task wrote to its log: tasks of sessions leave it in the user's folder `.logs`, below the id of their kernel.
///
/// # Errors
/// [`Error::NotFound`] when the caller has no such folder; [`Error::Storage`].
pub async fn task_log(control: &Control, caller: &Principal, kernel: KernelId) -> Result<Vec<u8>> {
    let folders = accessible(control, &caller.into()).await?;
    let logs = folders.into_iter().find(|s| s.row.name == LOGS && s.row.ownership() == OwnershipType::User);
    let none = || Error::NotFound { object: "vfolder", msg: None, data: Some(json!({ "vfolder_name": LOGS })) };
    let (storage, place) = reach(control, &logs.ok_or_else(none)?, FolderAccess::Readable)?;
    let id = kernel.0.simple().to_string();
    Ok(storage.fetch(&place, &format!("task/{}/{}/{}.log", &id[..2], &id[2..4], &id[4..])).await?)
}

/// Lets the caller upload a file.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::InvalidParams`] about the host, [`Error::Storage`]; [`Error::FolderOperation`] when
/// the folder would hold more than it may.
pub async fn request_upload(
    control: &Control,
    caller: &Principal,
    seen: &Seen,
    path: &str,
    size: u64,
) -> Result<Ticket> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &seen.row, HostPermission::UploadFile).await?;
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    let limits = quota::limits(control, &seen.row).await?;
    // What would not fit is refused before it is sent; the storage looks again when it is there.
    let over =
        |whose: &str| Err(Error::FolderOperation(format!("The quota of the virtual folder{whose} is exceeded.")));
    match storage.room(&place, size, limits).await? {
        Room::Enough => {}
        Room::FolderFull => return over(""),
        Room::OwnerFull => return over("'s owner"),
    }
    let token = storage.upload_token(&place, path, size, limits).await?;
    Ok(Ticket { token, base: storage.client_api().map(str::to_owned) })
}

/// Lets the caller download a file or directory.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::InvalidParams`] about the host, [`Error::Storage`].
pub async fn request_download(
    control: &Control,
    caller: &Principal,
    seen: &Seen,
    path: &str,
    archive: bool,
) -> Result<Ticket> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &seen.row, HostPermission::DownloadFile).await?;
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    let token = storage.download_token(&place, path, archive).await?;
    Ok(Ticket { token, base: storage.client_api().map(str::to_owned) })
}

/// Moves a file or directory.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::Storage`].
pub async fn move_file(control: &Control, seen: &Seen, from: &str, to: &str) -> Result<()> {
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    Ok(storage.move_file(&place, from, to).await?)
}

/// Gives a file or directory another name.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::InvalidParams`] about the host, [`Error::Storage`].
pub async fn rename(control: &Control, caller: &Principal, seen: &Seen, path: &str, new_name: &str) -> Result<()> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    hosts::require(control, caller, &seen.row, HostPermission::Modify).await?;
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    Ok(storage.rename(&place, path, new_name).await?)
}

/// Removes files and, if `recursive`, directories.
///
/// # Errors
/// [`Error::FolderStatus`], [`Error::Storage`].
pub async fn remove(control: &Control, seen: &Seen, paths: &[String], recursive: bool) -> Result<()> {
    let (storage, place) = reach(control, seen, FolderAccess::Updatable)?;
    Ok(storage.remove(&place, paths, recursive).await?)
}
