//! Domains.

use async_graphql::{ComplexObject, Context, InputObject, Object, SimpleObject};
use quarterdeck_control::store::domains::{self, DomainRow};
use quarterdeck_control::{Error, domains as use_cases};

use super::fault::{Maybe, list, maybe};
use super::loaders::DomainScalingGroups;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, JsonString};
use super::scope::superadmin;
use super::{caller, control, input, loader};

/// A tenant.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct Domain {
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    created_at: Option<DateTime>,
    modified_at: Option<DateTime>,
    total_resource_slots: Option<JsonString>,
    allowed_vfolder_hosts: Option<JsonString>,
    allowed_docker_registries: Option<Vec<Option<String>>>,
    integration_id: Option<String>,
    #[graphql(skip)]
    key: String,
}

impl From<DomainRow> for Domain {
    fn from(row: DomainRow) -> Self {
        Self {
            name: Some(row.name.clone()),
            description: row.description,
            is_active: Some(row.is_active),
            created_at: Some(row.created_at.into()),
            modified_at: Some(row.modified_at.into()),
            total_resource_slots: Some(JsonString(row.total_resource_slots)),
            allowed_vfolder_hosts: Some(JsonString(row.allowed_vfolder_hosts)),
            allowed_docker_registries: Some(list(row.allowed_docker_registries)),
            integration_id: row.integration_id,
            key: row.name,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl Domain {
    async fn scaling_groups(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<String>>> {
        maybe(async {
            let names = loader(ctx).load_one(DomainScalingGroups(self.key.clone())).await?.unwrap_or_default();
            Ok(Some(list(names)))
        })
        .await
    }
}

/// What can be asked about domains.
#[derive(Default)]
pub(crate) struct DomainQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl DomainQueries {
    async fn domain(&self, ctx: &Context<'_>, name: Option<String>) -> Maybe<Domain> {
        maybe(async {
            let caller = caller(ctx);
            let name = name.as_ref().unwrap_or(&caller.domain);
            if *name != caller.domain && !caller.is_superadmin() {
                return Err(Error::not_found("domain").into());
            }
            Ok(domains::get(&mut control(ctx).store().reader(), name).await?.map(Into::into))
        })
        .await
    }

    async fn domains(&self, ctx: &Context<'_>, is_active: Option<bool>) -> Maybe<Vec<Option<Domain>>> {
        maybe(async {
            superadmin(ctx)?;
            Ok(Some(list(domains::list(&mut control(ctx).store().reader(), is_active).await?)))
        })
        .await
    }
}

payloads! {
    CreateDomain { domain: Domain },
    ModifyDomain { domain: Domain },
    DeleteDomain,
    PurgeDomain,
}

/// A new domain.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct DomainInput {
    description: Option<String>,
    is_active: Option<bool>,
    total_resource_slots: Option<JsonString>,
    allowed_vfolder_hosts: Option<JsonString>,
    allowed_docker_registries: Option<Vec<Option<String>>>,
    integration_id: Option<String>,
}

/// What may be changed about a domain.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyDomainInput {
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    total_resource_slots: Option<JsonString>,
    allowed_vfolder_hosts: Option<JsonString>,
    allowed_docker_registries: Option<Vec<Option<String>>>,
    integration_id: Option<String>,
}

/// What can be changed about domains.
#[derive(Default)]
pub(crate) struct DomainMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl DomainMutations {
    async fn create_domain(&self, ctx: &Context<'_>, name: String, props: DomainInput) -> Maybe<CreateDomain> {
        change(ctx, "create_domain", Allowed::Superadmin, async {
            let input = use_cases::DomainInput {
                description: props.description,
                is_active: props.is_active,
                total_resource_slots: props.total_resource_slots.map(|j| j.0),
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
                allowed_docker_registries: input::texts(props.allowed_docker_registries),
                integration_id: props.integration_id,
            };
            let row = use_cases::create(control(ctx), caller(ctx), &name, input).await?;
            Ok(CreateDomain::done(row.into()))
        })
        .await
    }

    async fn modify_domain(&self, ctx: &Context<'_>, name: String, props: ModifyDomainInput) -> Maybe<ModifyDomain> {
        change(ctx, "modify_domain", Allowed::Superadmin, async {
            let input = use_cases::ModifyDomainInput {
                name: props.name,
                description: props.description,
                is_active: props.is_active,
                total_resource_slots: props.total_resource_slots.map(|j| j.0),
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
                allowed_docker_registries: input::texts(props.allowed_docker_registries),
                integration_id: props.integration_id,
            };
            let row = use_cases::modify(control(ctx), caller(ctx), &name, input).await?;
            Ok(ModifyDomain::done(row.into()))
        })
        .await
    }

    async fn delete_domain(&self, ctx: &Context<'_>, name: String) -> Maybe<DeleteDomain> {
        change(ctx, "delete_domain", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &name).await?;
            Ok(DeleteDomain::success())
        })
        .await
    }

    async fn purge_domain(&self, ctx: &Context<'_>, name: String) -> Maybe<PurgeDomain> {
        change(ctx, "purge_domain", Allowed::Superadmin, async {
            use_cases::purge(control(ctx), caller(ctx), &name).await?;
            Ok(PurgeDomain::success())
        })
        .await
    }
}
