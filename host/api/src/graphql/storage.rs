//! What concerns folders: so far, the vocabulary of what may be granted on their hosts.

use async_graphql::{Object, SimpleObject};
use quarterdeck_control::validate::FOLDER_PERMISSIONS;

/// What may be granted on a folder host.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct PredefinedAtomicPermission {
    vfolder_host_permission_list: Option<Vec<Option<String>>>,
}

/// What can be asked about folders.
#[derive(Default)]
pub(crate) struct StorageQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl StorageQueries {
    async fn vfolder_host_permissions(&self) -> Option<PredefinedAtomicPermission> {
        let names = FOLDER_PERMISSIONS.into_iter().map(|name| Some(name.to_owned())).collect();
        Some(PredefinedAtomicPermission { vfolder_host_permission_list: Some(names) })
    }
}
