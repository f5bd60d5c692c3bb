//! What concerns folder hosts: what may be granted on them, and the volumes behind them.

use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};
use quarterdeck_control::store::listing::Page;
use quarterdeck_control::vfolders::hosts::{self, VolumeDetails};
use quarterdeck_model::vfolder::HostPermission;

use super::control;
use super::fault::{Fault, Maybe, maybe};
use super::pages::pages;
use super::scalars::JsonString;
use super::scope::superadmin;

/// What may be granted on a folder host.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct PredefinedAtomicPermission {
    vfolder_host_permission_list: Option<Vec<Option<String>>>,
}

/// A volume that folders can be on.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct StorageVolume {
    id: Option<ID>,
    backend: Option<String>,
    fsprefix: Option<String>,
    path: Option<String>,
    capabilities: Option<Vec<Option<String>>>,
    #[graphql(skip)]
    details: VolumeDetails,
}

impl From<VolumeDetails> for StorageVolume {
    fn from(details: VolumeDetails) -> Self {
        let volume = details.volume.clone();
        Self {
            id: Some(ID(details.host.clone())),
            backend: Some(volume.backend),
            fsprefix: Some(volume.fsprefix),
            path: Some(volume.path),
            capabilities: Some(volume.capabilities.into_iter().map(Some).collect()),
            details,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl StorageVolume {
    async fn hardware_metadata(&self) -> Maybe<JsonString> {
        maybe(async { Ok(Some(JsonString(self.details.hardware().await?))) }).await
    }

    async fn performance_metric(&self) -> Option<JsonString> {
        Some(JsonString(self.details.performance().await))
    }

    async fn usage(&self) -> Maybe<JsonString> {
        maybe(async { Ok(Some(JsonString(self.details.usage().await?))) }).await
    }
}

pages!(StorageVolumeList of StorageVolume);

/// What can be asked about folder hosts.
#[derive(Default)]
pub(crate) struct StorageQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl StorageQueries {
    async fn vfolder_host_permissions(&self) -> Option<PredefinedAtomicPermission> {
        let names = HostPermission::ALL.iter().map(|p| Some(p.to_string())).collect();
        Some(PredefinedAtomicPermission { vfolder_host_permission_list: Some(names) })
    }

    async fn storage_volume(&self, ctx: &Context<'_>, id: Option<String>) -> Maybe<StorageVolume> {
        maybe(async {
            superadmin(ctx)?;
            let id = id.ok_or_else(|| Fault("id is required".to_owned()))?;
            match hosts::volume(control(ctx), &id).await {
                Ok(volume) => Ok(Some(volume.into())),
                Err(quarterdeck_control::Error::BadRequest(msg)) => Err(Fault(msg)),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn storage_volume_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
    ) -> Maybe<StorageVolumeList> {
        // Volumes come as they are found.
        drop((filter, order));
        maybe(async {
            superadmin(ctx)?;
            let volumes = hosts::volumes(control(ctx)).await;
            let total = i64::try_from(volumes.len()).unwrap_or(i64::MAX);
            let (skip, take) =
                (usize::try_from(offset).unwrap_or_default(), usize::try_from(limit).unwrap_or_default());
            let items: Vec<VolumeDetails> = volumes.into_iter().skip(skip).take(take).collect();
            Ok(Some(Page { total, items }.into()))
        })
        .await
    }
}
