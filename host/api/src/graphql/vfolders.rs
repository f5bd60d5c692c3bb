//! Virtual folders, and what was granted on them.

use async_graphql::{Context, ID, Object, SimpleObject};
use quarterdeck_control::scope;
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::vfolders::{self, GrantItem, Scope};
use quarterdeck_control::store::vfolders::VfolderRow;
use quarterdeck_model::ProjectId;

use super::fault::{Answer, Maybe, list, maybe};
use super::pages::pages;
use super::scalars::{BigInt, DateTime, UuidText};
use super::scope::superadmin;
use super::{caller, control, input};

/// How many folders a list without pages shows.
const UNPAGED: i64 = 100;
/// Told, but nobody counts.
const MAX_FILES: i32 = 1000;

/// A folder.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct VirtualFolder {
    id: Option<ID>,
    host: Option<String>,
    quota_scope_id: Option<String>,
    name: Option<String>,
    user: Option<UuidText>,
    user_email: Option<String>,
    group: Option<UuidText>,
    group_name: Option<String>,
    creator: Option<String>,
    unmanaged_path: Option<String>,
    usage_mode: Option<String>,
    permission: Option<String>,
    ownership_type: Option<String>,
    max_files: Option<i32>,
    max_size: Maybe<BigInt>,
    created_at: Option<DateTime>,
    last_used: Option<DateTime>,
    num_files: Option<i32>,
    cur_size: Maybe<BigInt>,
    cloneable: Option<bool>,
    status: Option<String>,
}

impl From<VfolderRow> for VirtualFolder {
    fn from(row: VfolderRow) -> Self {
        let ownership = row.ownership();
        Self {
            id: Some(ID(row.id.to_string())),
            host: Some(row.host),
            quota_scope_id: Some(row.quota_scope_id),
            name: Some(row.name),
            user: row.user.map(|id| UuidText(id.0)),
            user_email: row.user_email,
            group: row.project.map(|id| UuidText(id.0)),
            group_name: row.project_name,
            creator: Some(row.creator),
            unmanaged_path: row.unmanaged_path,
            usage_mode: Some(row.usage_mode.to_string()),
            permission: Some(row.permission.to_string()),
            ownership_type: Some(ownership.to_string()),
            max_files: Some(MAX_FILES),
            max_size: row.max_size.and_then(BigInt::safe),
            created_at: Some(row.created_at.into()),
            last_used: row.last_used.map(Into::into),
            num_files: Some(0),
            cur_size: BigInt::safe(0),
            cloneable: Some(row.cloneable),
            status: Some(row.status.to_string()),
        }
    }
}

/// What a user was granted on a folder.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct VirtualFolderPermission {
    id: Option<ID>,
    permission: Option<String>,
    vfolder: Option<UuidText>,
    vfolder_name: Option<String>,
    user: Option<UuidText>,
    user_email: Option<String>,
}

impl From<GrantItem> for VirtualFolderPermission {
    fn from(row: GrantItem) -> Self {
        Self {
            id: None,
            permission: Some(row.permission.to_string()),
            vfolder: Some(UuidText(row.vfolder.0)),
            vfolder_name: Some(row.vfolder_name),
            user: Some(UuidText(row.user.0)),
            user_email: Some(row.user_email),
        }
    }
}

pages!(VirtualFolderList of VirtualFolder, VirtualFolderPermissionList of VirtualFolderPermission);

/// What can be asked about folders.
#[derive(Default)]
pub(crate) struct VfolderQueries;

/// Users see their own folders, administrators those of their domain's users, superadmins all.
fn seen(ctx: &Context<'_>, domain: Option<&str>, project: Option<ProjectId>) -> Answer<Scope> {
    let caller = caller(ctx);
    let asked = scope::Scope::for_list(caller, domain, None, &caller.user_id.to_string())?;
    let user = asked.user_key.map(|id| input::user(&id)).transpose()?;
    Ok(Scope { domain: asked.domain, project, user })
}

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl VfolderQueries {
    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn vfolder_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        domain_name: Option<String>,
        group_id: Option<UuidText>,
        access_key: Option<String>,
    ) -> Maybe<VirtualFolderList> {
        // Declared, but never meant anything.
        drop(access_key);
        maybe(async {
            let scope = seen(ctx, domain_name.as_deref(), group_id.map(|id| ProjectId(id.0)))?;
            let listing =
                Listing::parse(vfolders::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(vfolders::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }

    async fn vfolders(
        &self,
        ctx: &Context<'_>,
        domain_name: Option<String>,
        group_id: Option<String>,
        access_key: Option<String>,
    ) -> Maybe<Vec<Option<VirtualFolder>>> {
        drop(access_key);
        maybe(async {
            let project = group_id.map(|id| input::uuid(&id).map(ProjectId)).transpose()?;
            let scope = seen(ctx, domain_name.as_deref(), project)?;
            Ok(Some(list(vfolders::select(&mut control(ctx).store().reader(), &scope, UNPAGED).await?)))
        })
        .await
    }

    async fn vfolder_permission_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
    ) -> Maybe<VirtualFolderPermissionList> {
        maybe(async {
            superadmin(ctx)?;
            let fields = vfolders::GRANT_FIELDS;
            let listing = Listing::parse(fields, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(vfolders::grants(&mut control(ctx).store().reader(), &listing).await?.into()))
        })
        .await
    }
}
