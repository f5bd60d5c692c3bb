//! Quotas of folders and of their owners, and usage for superadmins (`spec/vfolder.md` §8).

use std::sync::Arc;

use quarterdeck_model::vfolder::{FolderAccess, HostPermission};
use quarterdeck_model::{VfolderId, size};
use quarterdeck_storage::{Limits, Place, Storage, Usage};
use quarterdeck_store::resource_policies;
use quarterdeck_store::vfolders::{self, VfolderChanges, VfolderRow};
use serde_json::Value as Json;

use super::{find_by_id, hosts, place, require_status, unknown};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// How much a folder, and all folders of its owner, may hold. The owner's limit is the site's to set, under
/// `volumes/_quota/<quota scope>` of the configuration tree.
pub(super) async fn limits(control: &Control, row: &VfolderRow) -> Result<Limits> {
    let folder = row.max_size.filter(|mib| *mib > 0).and_then(|mib| u64::try_from(mib).ok()).map(|mib| mib << 20);
    let scope = control.config_tree().get(&format!("volumes/_quota/{}", row.quota_scope_id)).await;
    let scope = scope.and_then(|text| match size::parse_finite(&text) {
        Ok(bytes) => u64::try_from(bytes).ok().filter(|bytes| *bytes > 0),
        Err(error) => {
            tracing::warn!(%error, scope = row.quota_scope_id, "the quota of a quota scope can't be read");
            None
        }
    });
    Ok(Limits { folder, scope })
}

/// The folder of an id on the host that the request says it is on.
async fn reach(control: &Control, row: &VfolderRow, host: &str) -> Result<(Arc<dyn Storage>, Place)> {
    if row.host != host {
        return Err(Error::invalid("The virtual folder is on another host."));
    }
    Ok((control.storages().of_host(&row.host)?, place(row)?))
}

async fn any(control: &Control, id: VfolderId) -> Result<VfolderRow> {
    vfolders::get(&mut control.store().reader(), id).await?.ok_or_else(|| unknown(&id.to_string()))
}

/// What a folder's quota is, as its storage tells it.
///
/// # Errors
/// [`Error::NotFound`] for folders that the caller doesn't have, [`Error::Storage`].
pub async fn get(control: &Control, caller: &Principal, host: &str, id: VfolderId) -> Result<Json> {
    let row = if caller.is_superadmin() { any(control, id).await? } else { find_by_id(control, caller, id).await?.row };
    let (storage, place) = reach(control, &row, host).await?;
    Ok(storage.quota(&place, row.max_size.unwrap_or_default() << 20).await?)
}

/// Sets a folder's quota; the bytes that were set.
///
/// # Errors
/// [`Error::NotFound`] for folders that aren't the caller's, [`Error::FolderStatus`]; [`Error::InvalidParams`] about the
/// host; [`Error::Storage`].
pub async fn set(control: &Control, caller: &Principal, host: &str, id: VfolderId, bytes: i64) -> Result<i64> {
    let row = if caller.is_superadmin() {
        any(control, id).await?
    } else {
        let seen = find_by_id(control, caller, id).await?;
        hosts::require(control, caller, &seen.row, HostPermission::Modify).await?;
        if !seen.is_owner {
            return Err(Error::Forbidden("Only the owner may change the quota of a virtual folder.".to_owned()));
        }
        seen.row
    };
    require_status(&row, FolderAccess::Updatable)?;
    let policy = resource_policies::get(&mut control.store().reader(), &caller.resource_policy).await?;
    let cap = policy.map_or(0, |p| p.max_vfolder_size);
    let bytes = if cap > 0 && (bytes <= 0 || bytes > cap) { cap } else { bytes.max(0) };
    let (storage, place) = reach(control, &row, host).await?;
    storage.set_quota(&place, bytes).await?;
    let mebibytes = bytes.div_euclid(1 << 20) + i64::from(bytes.rem_euclid(1 << 20) > 0);
    let mut tx = control.store().begin().await?;
    let changes = VfolderChanges { max_size: Some(mebibytes), ..VfolderChanges::default() };
    vfolders::update(&mut tx, row.id, &changes).await?;
    tx.commit().await?;
    Ok(bytes)
}

/// What any folder holds; for superadmins.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Storage`].
pub async fn usage(control: &Control, host: &str, id: VfolderId) -> Result<Usage> {
    let row = any(control, id).await?;
    let (storage, place) = reach(control, &row, host).await?;
    Ok(storage.usage(&place).await?)
}

/// How many bytes any folder holds; for superadmins.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Storage`].
pub async fn used_bytes(control: &Control, host: &str, id: VfolderId) -> Result<i64> {
    let row = any(control, id).await?;
    let (storage, place) = reach(control, &row, host).await?;
    Ok(storage.used_bytes(&place).await?)
}
