//! Groups, which are projects inside.

use async_graphql::{ComplexObject, Context, InputObject, Object, SimpleObject};
use quarterdeck_control::projects as use_cases;
use quarterdeck_control::store::projects::{self, ProjectRow};
use quarterdeck_model::{ProjectId, UserRole};

use super::fault::{Answer, Fault, Maybe, list, maybe};
use super::loaders::ProjectScalingGroups;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, JsonString, UuidText};
use super::scope::{administered, unknown_role};
use super::{caller, control, input, loader};
use crate::wire;

/// People of a domain who work on something.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct Group {
    id: Option<UuidText>,
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    created_at: Option<DateTime>,
    modified_at: Option<DateTime>,
    domain_name: Option<String>,
    total_resource_slots: Option<JsonString>,
    allowed_vfolder_hosts: Option<JsonString>,
    integration_id: Option<String>,
    #[graphql(skip)]
    key: ProjectId,
}

impl From<ProjectRow> for Group {
    fn from(row: ProjectRow) -> Self {
        Self {
            id: Some(UuidText(row.id.0)),
            name: Some(row.name),
            description: row.description,
            is_active: Some(row.is_active),
            created_at: Some(row.created_at.into()),
            modified_at: Some(row.modified_at.into()),
            domain_name: Some(row.domain_name),
            total_resource_slots: Some(JsonString(row.total_resource_slots)),
            allowed_vfolder_hosts: Some(JsonString(row.allowed_vfolder_hosts)),
            integration_id: row.integration_id,
            key: row.id,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl Group {
    async fn scaling_groups(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<String>>> {
        maybe(async {
            let names = loader(ctx).load_one(ProjectScalingGroups(self.key)).await?.unwrap_or_default();
            Ok(Some(list(names)))
        })
        .await
    }
}

/// What can be asked about groups.
#[derive(Default)]
pub(crate) struct GroupQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl GroupQueries {
    async fn group(&self, ctx: &Context<'_>, id: UuidText, domain_name: Option<String>) -> Maybe<Group> {
        maybe(async { Ok(group(ctx, ProjectId(id.0), domain_name).await?.map(Into::into)) }).await
    }

    async fn groups_by_name(
        &self,
        ctx: &Context<'_>,
        name: String,
        domain_name: Option<String>,
    ) -> Maybe<Vec<Option<Group>>> {
        maybe(async {
            let mut sql = control(ctx).store().reader();
            let rows = if caller(ctx).role == UserRole::User {
                let mut rows = projects::of_user(&mut sql, caller(ctx).user_id).await?;
                rows.retain(|row| row.name == name);
                rows
            } else {
                let domain = administered(caller(ctx), domain_name)?;
                projects::list(&mut sql, domain.as_deref(), Some(&name), None).await?
            };
            Ok(Some(list(rows)))
        })
        .await
    }

    async fn groups(
        &self,
        ctx: &Context<'_>,
        domain_name: Option<String>,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<Group>>> {
        maybe(async {
            let mut sql = control(ctx).store().reader();
            let rows = if caller(ctx).role == UserRole::User {
                projects::of_user(&mut sql, caller(ctx).user_id).await?
            } else {
                let domain = administered(caller(ctx), domain_name)?;
                projects::list(&mut sql, domain.as_deref(), None, is_active).await?
            };
            Ok(Some(list(rows)))
        })
        .await
    }
}

async fn group(ctx: &Context<'_>, id: ProjectId, domain: Option<String>) -> Answer<Option<ProjectRow>> {
    let caller = caller(ctx);
    let low = || Fault::class(wire::INSUFFICIENT_PRIVILEGE);
    let foreign = domain.as_ref().is_some_and(|d| *d != caller.domain);
    let mut sql = control(ctx).store().reader();
    match caller.role {
        UserRole::Superadmin => {
            let row = projects::get(&mut sql, id).await?;
            Ok(row.filter(|row| domain.is_none_or(|d| row.domain_name == d)))
        }
        UserRole::Admin | UserRole::User if foreign => Err(low()),
        UserRole::Admin => Ok(projects::get(&mut sql, id).await?.filter(|row| row.domain_name == caller.domain)),
        UserRole::User => {
            let Some(row) = projects::get(&mut sql, id).await? else { return Ok(None) };
            if !projects::is_member(&mut sql, id, caller.user_id).await? {
                return Err(low());
            }
            Ok((row.domain_name == caller.domain).then_some(row))
        }
        UserRole::Monitor => Err(unknown_role()),
    }
}

payloads! {
    CreateGroup { group: Group },
    ModifyGroup { group: Group },
    DeleteGroup,
    PurgeGroup,
}

/// A new group.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct GroupInput {
    description: Option<String>,
    is_active: Option<bool>,
    domain_name: String,
    total_resource_slots: Option<JsonString>,
    allowed_vfolder_hosts: Option<JsonString>,
    integration_id: Option<String>,
}

/// What may be changed about a group.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyGroupInput {
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    domain_name: Option<String>,
    total_resource_slots: Option<JsonString>,
    user_update_mode: Option<String>,
    user_uuids: Option<Vec<Option<String>>>,
    allowed_vfolder_hosts: Option<JsonString>,
    integration_id: Option<String>,
}

/// What can be changed about groups.
#[derive(Default)]
pub(crate) struct GroupMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl GroupMutations {
    async fn create_group(&self, ctx: &Context<'_>, name: String, props: GroupInput) -> Maybe<CreateGroup> {
        change(ctx, "create_group", Allowed::Admin, async {
            let input = use_cases::ProjectInput {
                domain_name: props.domain_name,
                description: props.description,
                is_active: props.is_active,
                total_resource_slots: props.total_resource_slots.map(|j| j.0),
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
                integration_id: props.integration_id,
            };
            let row = use_cases::create(control(ctx), caller(ctx), &name, input).await?;
            Ok(CreateGroup::done(row.into()))
        })
        .await
    }

    async fn modify_group(&self, ctx: &Context<'_>, gid: UuidText, props: ModifyGroupInput) -> Maybe<ModifyGroup> {
        change(ctx, "modify_group", Allowed::Admin, async {
            let input = use_cases::ModifyProjectInput {
                name: props.name,
                description: props.description,
                is_active: props.is_active,
                domain_name: props.domain_name,
                total_resource_slots: props.total_resource_slots.map(|j| j.0),
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
                integration_id: props.integration_id,
                user_update_mode: props.user_update_mode,
                user_uuids: input::texts(props.user_uuids),
            };
            match use_cases::modify(control(ctx), caller(ctx), ProjectId(gid.0), input).await {
                Ok(Some(row)) => Ok(ModifyGroup::done(row.into())),
                Ok(None) => Ok(ModifyGroup::success()),
                Err(quarterdeck_control::Error::NotFound { .. }) => {
                    Ok(ModifyGroup::new(false, "no such group".to_owned()))
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn delete_group(&self, ctx: &Context<'_>, gid: UuidText) -> Maybe<DeleteGroup> {
        change(ctx, "delete_group", Allowed::Admin, async {
            use_cases::delete(control(ctx), caller(ctx), ProjectId(gid.0)).await?;
            Ok(DeleteGroup::success())
        })
        .await
    }

    async fn purge_group(&self, ctx: &Context<'_>, gid: UuidText) -> Maybe<PurgeGroup> {
        change(ctx, "purge_group", Allowed::Admin, async {
            use_cases::purge(control(ctx), caller(ctx), ProjectId(gid.0)).await?;
            Ok(PurgeGroup::success())
        })
        .await
    }
}
