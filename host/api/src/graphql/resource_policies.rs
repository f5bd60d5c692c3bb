//! Resource policies of key pairs.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use quarterdeck_control::resource_policies as use_cases;
use quarterdeck_control::store::resource_policies::{self, PolicyRow};
use quarterdeck_model::UserRole;

use super::fault::{Maybe, list, maybe};
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{BigInt, DateTime, JsonString, int};
use super::scope::unknown_role;
use super::{caller, control};

/// What a key pair may use.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct KeyPairResourcePolicy {
    name: Option<String>,
    created_at: Option<DateTime>,
    default_for_unspecified: Option<String>,
    total_resource_slots: Option<JsonString>,
    max_session_lifetime: Maybe<i32>,
    max_concurrent_sessions: Maybe<i32>,
    max_containers_per_session: Maybe<i32>,
    idle_timeout: Maybe<BigInt>,
    max_vfolder_count: Maybe<i32>,
    max_vfolder_size: Maybe<BigInt>,
    allowed_vfolder_hosts: Option<JsonString>,
}

impl From<PolicyRow> for KeyPairResourcePolicy {
    fn from(row: PolicyRow) -> Self {
        Self {
            name: Some(row.name),
            created_at: Some(row.created_at.into()),
            default_for_unspecified: Some(row.default_for_unspecified.to_string()),
            total_resource_slots: Some(JsonString(row.total_resource_slots)),
            max_session_lifetime: int(row.max_session_lifetime),
            max_concurrent_sessions: int(row.max_concurrent_sessions),
            max_containers_per_session: int(row.max_containers_per_session),
            idle_timeout: BigInt::safe(row.idle_timeout),
            max_vfolder_count: int(row.max_vfolder_count),
            max_vfolder_size: BigInt::safe(row.max_vfolder_size),
            allowed_vfolder_hosts: Some(JsonString(row.allowed_vfolder_hosts)),
        }
    }
}

/// What can be asked about policies.
#[derive(Default)]
pub(crate) struct PolicyQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl PolicyQueries {
    async fn keypair_resource_policy(&self, ctx: &Context<'_>, name: Option<String>) -> Maybe<KeyPairResourcePolicy> {
        maybe(async {
            let own = &caller(ctx).resource_policy;
            let name = name.as_ref().unwrap_or(own);
            Ok(resource_policies::get(&mut control(ctx).store().reader(), name).await?.map(Into::into))
        })
        .await
    }

    async fn keypair_resource_policies(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<KeyPairResourcePolicy>>> {
        maybe(async {
            let mut sql = control(ctx).store().reader();
            let rows = match caller(ctx).role {
                UserRole::Superadmin | UserRole::Admin => resource_policies::list(&mut sql).await?,
                UserRole::User => resource_policies::of_user(&mut sql, caller(ctx).user_id).await?,
                UserRole::Monitor => return Err(unknown_role()),
            };
            Ok(Some(list(rows)))
        })
        .await
    }
}

payloads! {
    CreateKeyPairResourcePolicy { resource_policy: KeyPairResourcePolicy },
    ModifyKeyPairResourcePolicy,
    DeleteKeyPairResourcePolicy,
}

/// A new policy.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct CreateKeyPairResourcePolicyInput {
    default_for_unspecified: String,
    total_resource_slots: JsonString,
    #[graphql(default = 0)]
    max_session_lifetime: i32,
    max_concurrent_sessions: i32,
    max_containers_per_session: i32,
    idle_timeout: BigInt,
    max_vfolder_count: i32,
    max_vfolder_size: BigInt,
    allowed_vfolder_hosts: Option<JsonString>,
}

/// What may be changed about a policy.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyKeyPairResourcePolicyInput {
    default_for_unspecified: Option<String>,
    total_resource_slots: Option<JsonString>,
    max_session_lifetime: Option<i32>,
    max_concurrent_sessions: Option<i32>,
    max_containers_per_session: Option<i32>,
    idle_timeout: Option<BigInt>,
    max_vfolder_count: Option<i32>,
    max_vfolder_size: Option<BigInt>,
    allowed_vfolder_hosts: Option<JsonString>,
}

/// What can be changed about policies.
#[derive(Default)]
pub(crate) struct PolicyMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl PolicyMutations {
    async fn create_keypair_resource_policy(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: CreateKeyPairResourcePolicyInput,
    ) -> Maybe<CreateKeyPairResourcePolicy> {
        change(ctx, "create_keypair_resource_policy", Allowed::Superadmin, async {
            let input = use_cases::PolicyInput {
                default_for_unspecified: props.default_for_unspecified,
                total_resource_slots: props.total_resource_slots.0,
                max_session_lifetime: props.max_session_lifetime.into(),
                max_concurrent_sessions: props.max_concurrent_sessions.into(),
                max_containers_per_session: props.max_containers_per_session.into(),
                idle_timeout: props.idle_timeout.0,
                max_vfolder_count: props.max_vfolder_count.into(),
                max_vfolder_size: props.max_vfolder_size.0,
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
            };
            let row = use_cases::create(control(ctx), caller(ctx), &name, input).await?;
            Ok(CreateKeyPairResourcePolicy::done(row.into()))
        })
        .await
    }

    async fn modify_keypair_resource_policy(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: ModifyKeyPairResourcePolicyInput,
    ) -> Maybe<ModifyKeyPairResourcePolicy> {
        change(ctx, "modify_keypair_resource_policy", Allowed::Superadmin, async {
            let input = use_cases::ModifyPolicyInput {
                default_for_unspecified: props.default_for_unspecified,
                total_resource_slots: props.total_resource_slots.map(|j| j.0),
                max_session_lifetime: props.max_session_lifetime.map(Into::into),
                max_concurrent_sessions: props.max_concurrent_sessions.map(Into::into),
                max_containers_per_session: props.max_containers_per_session.map(Into::into),
                idle_timeout: props.idle_timeout.map(|n| n.0),
                max_vfolder_count: props.max_vfolder_count.map(Into::into),
                max_vfolder_size: props.max_vfolder_size.map(|n| n.0),
                allowed_vfolder_hosts: props.allowed_vfolder_hosts.map(|j| j.0),
            };
            use_cases::modify(control(ctx), caller(ctx), &name, input).await?;
            Ok(ModifyKeyPairResourcePolicy::success())
        })
        .await
    }

    async fn delete_keypair_resource_policy(
        &self,
        ctx: &Context<'_>,
        name: String,
    ) -> Maybe<DeleteKeyPairResourcePolicy> {
        change(ctx, "delete_keypair_resource_policy", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &name).await?;
            Ok(DeleteKeyPairResourcePolicy::success())
        })
        .await
    }
}
