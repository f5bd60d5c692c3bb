//! What superadmins see of the nodes' own mounts (`spec/vfolder.md` §8.1).

use quarterdeck_store::vfolders;
use serde_json::Value as Json;

use crate::Control;
use crate::error::Result;

/// Where storages keep their volumes: host and path.
pub async fn volume_paths(control: &Control) -> Vec<(String, String)> {
    control.storages().volumes().await.into_iter().map(|v| (v.host, v.volume.path)).collect()
}

/// Whether a folder of this name is in a session that isn't over.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn is_in_sessions(control: &Control, name: &str) -> Result<bool> {
    let mounts = vfolders::mounted(&mut control.store().reader()).await?;
    let mut folders = mounts.iter().filter_map(Json::as_array).flatten();
    Ok(folders.any(|mount| mount.get("name").and_then(Json::as_str) == Some(name)))
}
