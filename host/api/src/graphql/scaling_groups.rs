//! Scaling groups and who may use them.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use quarterdeck_control::scaling_groups as use_cases;
use quarterdeck_control::store::scaling_groups::{self, Associate, ScalingGroupRow};
use quarterdeck_model::{AccessKey, ProjectId};

use super::fault::{Maybe, list, maybe};
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, JsonString, UuidText};
use super::scope::superadmin;
use super::{caller, control, input};

/// A set of agents with a scheduler.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ScalingGroup {
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    is_public: Option<bool>,
    created_at: Option<DateTime>,
    wsproxy_addr: Option<String>,
    driver: Option<String>,
    driver_opts: Option<JsonString>,
    scheduler: Option<String>,
    scheduler_opts: Option<JsonString>,
    use_host_network: Option<bool>,
}

impl From<ScalingGroupRow> for ScalingGroup {
    fn from(row: ScalingGroupRow) -> Self {
        Self {
            name: Some(row.name),
            description: row.description,
            is_active: Some(row.is_active),
            is_public: Some(row.is_public),
            created_at: Some(row.created_at.into()),
            wsproxy_addr: row.wsproxy_addr,
            driver: Some(row.driver),
            driver_opts: Some(JsonString(row.driver_opts)),
            scheduler: Some(row.scheduler),
            scheduler_opts: Some(JsonString(row.scheduler_opts)),
            use_host_network: Some(row.use_host_network),
        }
    }
}

/// Those that are active, or aren't, or all.
fn those(rows: Vec<ScalingGroupRow>, is_active: Option<bool>) -> Vec<Option<ScalingGroup>> {
    list(rows.into_iter().filter(|row| is_active.is_none_or(|on| row.is_active == on)).collect())
}

/// What can be asked about scaling groups.
#[derive(Default)]
pub(crate) struct ScalingGroupQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl ScalingGroupQueries {
    async fn scaling_group(&self, ctx: &Context<'_>, name: Option<String>) -> Maybe<ScalingGroup> {
        maybe(async {
            superadmin(ctx)?;
            let Some(name) = name else { return Ok(None) };
            Ok(scaling_groups::get(&mut control(ctx).store().reader(), &name).await?.map(Into::into))
        })
        .await
    }

    async fn scaling_groups(
        &self,
        ctx: &Context<'_>,
        name: Option<String>,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<ScalingGroup>>> {
        maybe(async {
            superadmin(ctx)?;
            let mut rows = scaling_groups::list(&mut control(ctx).store().reader(), is_active).await?;
            rows.retain(|row| name.as_ref().is_none_or(|name| row.name == *name));
            Ok(Some(list(rows)))
        })
        .await
    }

    async fn scaling_groups_for_domain(
        &self,
        ctx: &Context<'_>,
        domain: String,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<ScalingGroup>>> {
        maybe(async {
            superadmin(ctx)?;
            let mut sql = control(ctx).store().reader();
            Ok(Some(those(scaling_groups::associated(&mut sql, Some(&domain), None, None).await?, is_active)))
        })
        .await
    }

    async fn scaling_groups_for_user_group(
        &self,
        ctx: &Context<'_>,
        user_group: String,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<ScalingGroup>>> {
        maybe(async {
            superadmin(ctx)?;
            let project = ProjectId(input::uuid(&user_group)?);
            let mut sql = control(ctx).store().reader();
            Ok(Some(those(scaling_groups::associated(&mut sql, None, Some(project), None).await?, is_active)))
        })
        .await
    }

    async fn scaling_groups_for_keypair(
        &self,
        ctx: &Context<'_>,
        access_key: String,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<ScalingGroup>>> {
        maybe(async {
            superadmin(ctx)?;
            let key = AccessKey(access_key);
            let mut sql = control(ctx).store().reader();
            Ok(Some(those(scaling_groups::associated(&mut sql, None, None, Some(&key)).await?, is_active)))
        })
        .await
    }
}

payloads! {
    CreateScalingGroup { scaling_group: ScalingGroup },
    ModifyScalingGroup,
    DeleteScalingGroup,
    AssociateScalingGroupWithDomain,
    AssociateScalingGroupWithUserGroup,
    AssociateScalingGroupWithKeyPair,
    DisassociateScalingGroupWithDomain,
    DisassociateScalingGroupWithUserGroup,
    DisassociateScalingGroupWithKeyPair,
    DisassociateAllScalingGroupsWithDomain,
    DisassociateAllScalingGroupsWithGroup,
}

/// A new scaling group.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct CreateScalingGroupInput {
    description: Option<String>,
    is_active: Option<bool>,
    is_public: Option<bool>,
    wsproxy_addr: Option<String>,
    driver: String,
    driver_opts: Option<JsonString>,
    scheduler: String,
    scheduler_opts: Option<JsonString>,
    use_host_network: Option<bool>,
}

/// What may be changed about a scaling group.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyScalingGroupInput {
    description: Option<String>,
    is_active: Option<bool>,
    is_public: Option<bool>,
    wsproxy_addr: Option<String>,
    driver: Option<String>,
    driver_opts: Option<JsonString>,
    scheduler: Option<String>,
    scheduler_opts: Option<JsonString>,
    use_host_network: Option<bool>,
}

/// What can be changed about scaling groups.
#[derive(Default)]
pub(crate) struct ScalingGroupMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl ScalingGroupMutations {
    async fn create_scaling_group(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: CreateScalingGroupInput,
    ) -> Maybe<CreateScalingGroup> {
        change(ctx, "create_scaling_group", Allowed::Superadmin, async {
            let input = use_cases::ScalingGroupInput {
                description: props.description,
                is_active: props.is_active,
                is_public: props.is_public,
                wsproxy_addr: props.wsproxy_addr,
                driver: props.driver,
                driver_opts: props.driver_opts.map(|j| j.0),
                scheduler: props.scheduler,
                scheduler_opts: props.scheduler_opts.map(|j| j.0),
                use_host_network: props.use_host_network,
            };
            let row = use_cases::create(control(ctx), caller(ctx), &name, input).await?;
            Ok(CreateScalingGroup::done(row.into()))
        })
        .await
    }

    async fn modify_scaling_group(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: ModifyScalingGroupInput,
    ) -> Maybe<ModifyScalingGroup> {
        change(ctx, "modify_scaling_group", Allowed::Superadmin, async {
            let input = use_cases::ModifyScalingGroupInput {
                description: props.description,
                is_active: props.is_active,
                is_public: props.is_public,
                wsproxy_addr: props.wsproxy_addr,
                driver: props.driver,
                driver_opts: props.driver_opts.map(|j| j.0),
                scheduler: props.scheduler,
                scheduler_opts: props.scheduler_opts.map(|j| j.0),
                use_host_network: props.use_host_network,
            };
            use_cases::modify(control(ctx), caller(ctx), &name, input).await?;
            Ok(ModifyScalingGroup::success())
        })
        .await
    }

    async fn delete_scaling_group(&self, ctx: &Context<'_>, name: String) -> Maybe<DeleteScalingGroup> {
        change(ctx, "delete_scaling_group", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &name).await?;
            Ok(DeleteScalingGroup::success())
        })
        .await
    }

    async fn associate_scaling_group_with_domain(
        &self,
        ctx: &Context<'_>,
        domain: String,
        scaling_group: String,
    ) -> Maybe<AssociateScalingGroupWithDomain> {
        change(ctx, "associate_scaling_group_with_domain", Allowed::Superadmin, async {
            use_cases::associate(control(ctx), caller(ctx), &scaling_group, Associate::Domain(&domain)).await?;
            Ok(AssociateScalingGroupWithDomain::success())
        })
        .await
    }

    async fn associate_scaling_group_with_user_group(
        &self,
        ctx: &Context<'_>,
        scaling_group: String,
        user_group: UuidText,
    ) -> Maybe<AssociateScalingGroupWithUserGroup> {
        change(ctx, "associate_scaling_group_with_user_group", Allowed::Superadmin, async {
            let project = Associate::Project(ProjectId(user_group.0));
            use_cases::associate(control(ctx), caller(ctx), &scaling_group, project).await?;
            Ok(AssociateScalingGroupWithUserGroup::success())
        })
        .await
    }

    async fn associate_scaling_group_with_keypair(
        &self,
        ctx: &Context<'_>,
        access_key: String,
        scaling_group: String,
    ) -> Maybe<AssociateScalingGroupWithKeyPair> {
        change(ctx, "associate_scaling_group_with_keypair", Allowed::Superadmin, async {
            let key = AccessKey(access_key);
            use_cases::associate(control(ctx), caller(ctx), &scaling_group, Associate::Keypair(&key)).await?;
            Ok(AssociateScalingGroupWithKeyPair::success())
        })
        .await
    }

    async fn disassociate_scaling_group_with_domain(
        &self,
        ctx: &Context<'_>,
        domain: String,
        scaling_group: String,
    ) -> Maybe<DisassociateScalingGroupWithDomain> {
        change(ctx, "disassociate_scaling_group_with_domain", Allowed::Superadmin, async {
            let with = Associate::Domain(&domain);
            use_cases::disassociate(control(ctx), caller(ctx), Some(&scaling_group), with).await?;
            Ok(DisassociateScalingGroupWithDomain::success())
        })
        .await
    }

    async fn disassociate_scaling_group_with_user_group(
        &self,
        ctx: &Context<'_>,
        scaling_group: String,
        user_group: UuidText,
    ) -> Maybe<DisassociateScalingGroupWithUserGroup> {
        change(ctx, "disassociate_scaling_group_with_user_group", Allowed::Superadmin, async {
            let with = Associate::Project(ProjectId(user_group.0));
            use_cases::disassociate(control(ctx), caller(ctx), Some(&scaling_group), with).await?;
            Ok(DisassociateScalingGroupWithUserGroup::success())
        })
        .await
    }

    async fn disassociate_scaling_group_with_keypair(
        &self,
        ctx: &Context<'_>,
        access_key: String,
        scaling_group: String,
    ) -> Maybe<DisassociateScalingGroupWithKeyPair> {
        change(ctx, "disassociate_scaling_group_with_keypair", Allowed::Superadmin, async {
            let key = AccessKey(access_key);
            let with = Associate::Keypair(&key);
            use_cases::disassociate(control(ctx), caller(ctx), Some(&scaling_group), with).await?;
            Ok(DisassociateScalingGroupWithKeyPair::success())
        })
        .await
    }

    async fn disassociate_all_scaling_groups_with_domain(
        &self,
        ctx: &Context<'_>,
        domain: String,
    ) -> Maybe<DisassociateAllScalingGroupsWithDomain> {
        change(ctx, "disassociate_all_scaling_groups_with_domain", Allowed::Superadmin, async {
            use_cases::disassociate(control(ctx), caller(ctx), None, Associate::Domain(&domain)).await?;
            Ok(DisassociateAllScalingGroupsWithDomain::success())
        })
        .await
    }

    async fn disassociate_all_scaling_groups_with_group(
        &self,
        ctx: &Context<'_>,
        user_group: UuidText,
    ) -> Maybe<DisassociateAllScalingGroupsWithGroup> {
        change(ctx, "disassociate_all_scaling_groups_with_group", Allowed::Superadmin, async {
            let with = Associate::Project(ProjectId(user_group.0));
            use_cases::disassociate(control(ctx), caller(ctx), None, with).await?;
            Ok(DisassociateAllScalingGroupsWithGroup::success())
        })
        .await
    }
}
