//! Key pairs.

use async_graphql::{ComplexObject, Context, ID, InputObject, Object, SimpleObject};
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::keypairs::{self, KeyPairItem, Scope};
use quarterdeck_control::{keypairs as use_cases, scope};
use quarterdeck_model::{AccessKey, UserId};

use super::fault::{Maybe, list, maybe};
use super::loaders::{QueriesOf, SessionsOf, VfoldersOf};
use super::pages::pages;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, UuidText, int};
use super::sessions::ComputeSession;
use super::users::UserInfo;
use super::vfolders::VirtualFolder;
use super::{caller, control, input, loader};

/// How many key pairs a list without pages shows.
const UNPAGED: i64 = 100;

/// What requests are signed with.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct KeyPair {
    id: Option<ID>,
    user_id: Option<String>,
    full_name: Option<String>,
    access_key: Option<String>,
    is_active: Option<bool>,
    is_admin: Option<bool>,
    resource_policy: Option<String>,
    created_at: Option<DateTime>,
    last_used: Option<DateTime>,
    rate_limit: Maybe<i32>,
    user: Option<UuidText>,
    ssh_public_key: Option<String>,
    concurrency_used: Maybe<i32>,
    user_info: Option<UserInfo>,
    #[graphql(deprecation = "Moved to KeyPairResourcePolicy object as the max_concurrent_sessions field.")]
    concurrency_limit: Option<i32>,
    #[graphql(skip)]
    key: AccessKey,
    #[graphql(skip)]
    secret: String,
    #[graphql(skip)]
    owner: UserId,
}

impl From<KeyPairItem> for KeyPair {
    fn from(row: KeyPairItem) -> Self {
        Self {
            id: Some(ID(row.access_key.to_string())),
            user_id: Some(row.user_email.clone()),
            full_name: row.full_name.clone(),
            access_key: Some(row.access_key.to_string()),
            is_active: Some(row.is_active),
            is_admin: Some(row.is_admin),
            resource_policy: Some(row.resource_policy),
            created_at: Some(row.created_at.into()),
            last_used: row.last_used.map(Into::into),
            rate_limit: int(row.rate_limit),
            user: Some(UuidText(row.user_id.0)),
            ssh_public_key: row.ssh_public_key,
            concurrency_used: int(row.concurrency_used),
            user_info: Some(UserInfo { email: Some(row.user_email), full_name: row.full_name }),
            concurrency_limit: Some(0),
            key: row.access_key,
            secret: row.secret_key,
            owner: row.user_id,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl KeyPair {
    /// Shown to its own user and to superadmins.
    async fn secret_key(&self, ctx: &Context<'_>) -> Option<&str> {
        let caller = caller(ctx);
        (caller.is_superadmin() || caller.user_id == self.owner).then_some(self.secret.as_str())
    }

    /// Requests signed with it, this one included.
    async fn num_queries(&self, ctx: &Context<'_>) -> Maybe<i32> {
        maybe(async { loader(ctx).load_one(QueriesOf(self.key.clone())).await?.and_then(int).transpose() }).await
    }

    async fn vfolders(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<VirtualFolder>>> {
        maybe(async { Ok(Some(list(loader(ctx).load_one(VfoldersOf(self.owner)).await?.unwrap_or_default()))) }).await
    }

    async fn compute_sessions(&self, ctx: &Context<'_>, status: Option<String>) -> Maybe<Vec<Option<ComputeSession>>> {
        maybe(async {
            let statuses = status.map(|s| input::words(&s)).transpose()?;
            let rows = loader(ctx).load_one(SessionsOf(self.key.clone(), statuses)).await?.unwrap_or_default();
            Ok(Some(list(rows)))
        })
        .await
    }
}

pages!(KeyPairList of KeyPair);

/// What can be asked about key pairs.
#[derive(Default)]
pub(crate) struct KeyPairQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl KeyPairQueries {
    async fn keypair(
        &self,
        ctx: &Context<'_>,
        domain_name: Option<String>,
        access_key: Option<String>,
    ) -> Maybe<KeyPair> {
        maybe(async {
            let caller = caller(ctx);
            let own = caller.access_key.as_str();
            let asked = scope::Scope::for_one(caller, domain_name.as_deref(), access_key.as_deref(), own)?;
            let scope = Scope { domain: asked.domain, access_key: asked.user_key.map(AccessKey), ..Scope::default() };
            // Sessions change this without anybody's changing the key pair.
            if ctx.look_ahead().field("concurrency_used").exists() {
                let rows = keypairs::select(&mut control(ctx).store().reader(), &scope, 1).await?;
                return Ok(rows.into_iter().next().map(Into::into));
            }
            let row = control(ctx).identity().keypair(&scope).await?;
            Ok(row.map(|row| KeyPairItem::clone(&row).into()))
        })
        .await
    }

    async fn keypairs(
        &self,
        ctx: &Context<'_>,
        domain_name: Option<String>,
        email: Option<String>,
        is_active: Option<bool>,
    ) -> Maybe<Vec<Option<KeyPair>>> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_list(caller, domain_name.as_deref(), email.as_deref(), &caller.email)?;
            let limit = if asked.user_key.is_some() { i64::MAX } else { UNPAGED };
            let scope = Scope { domain: asked.domain, email: asked.user_key, is_active, ..Scope::default() };
            Ok(Some(list(keypairs::select(&mut control(ctx).store().reader(), &scope, limit).await?)))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn keypair_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        domain_name: Option<String>,
        email: Option<String>,
        is_active: Option<bool>,
    ) -> Maybe<KeyPairList> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_list(caller, domain_name.as_deref(), email.as_deref(), &caller.email)?;
            let scope = Scope { domain: asked.domain, email: asked.user_key, is_active, ..Scope::default() };
            let listing =
                Listing::parse(keypairs::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(keypairs::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}

payloads! {
    CreateKeyPair { keypair: KeyPair },
    ModifyKeyPair,
    DeleteKeyPair,
}

/// A new key pair.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct KeyPairInput {
    is_active: Option<bool>,
    is_admin: Option<bool>,
    resource_policy: String,
    /// Not looked at.
    concurrency_limit: Option<i32>,
    rate_limit: i32,
}

/// What may be changed about a key pair.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyKeyPairInput {
    is_active: Option<bool>,
    is_admin: Option<bool>,
    resource_policy: Option<String>,
    /// Not looked at.
    concurrency_limit: Option<i32>,
    rate_limit: Option<i32>,
}

/// What can be changed about key pairs.
#[derive(Default)]
pub(crate) struct KeyPairMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl KeyPairMutations {
    async fn create_keypair(&self, ctx: &Context<'_>, props: KeyPairInput, user_id: String) -> Maybe<CreateKeyPair> {
        let _ = props.concurrency_limit;
        change(ctx, "create_keypair", Allowed::Superadmin, async {
            let input = use_cases::KeypairInput {
                is_active: props.is_active,
                is_admin: props.is_admin,
                resource_policy: props.resource_policy,
                rate_limit: props.rate_limit.into(),
            };
            let row = use_cases::create(control(ctx), caller(ctx), &user_id, input).await?;
            // As lists show it, with what hangs on its user.
            let scope = Scope { access_key: Some(row.access_key), ..Scope::default() };
            let rows = keypairs::select(&mut control(ctx).store().reader(), &scope, 1).await?;
            Ok(rows.into_iter().next().map_or_else(CreateKeyPair::success, |row| CreateKeyPair::done(row.into())))
        })
        .await
    }

    async fn modify_keypair(
        &self,
        ctx: &Context<'_>,
        access_key: String,
        props: ModifyKeyPairInput,
    ) -> Maybe<ModifyKeyPair> {
        let _ = props.concurrency_limit;
        change(ctx, "modify_keypair", Allowed::Superadmin, async {
            let input = use_cases::ModifyKeypairInput {
                is_active: props.is_active,
                is_admin: props.is_admin,
                resource_policy: props.resource_policy,
                rate_limit: props.rate_limit.map(Into::into),
            };
            use_cases::modify(control(ctx), caller(ctx), &access_key, input).await?;
            Ok(ModifyKeyPair::success())
        })
        .await
    }

    async fn delete_keypair(&self, ctx: &Context<'_>, access_key: String) -> Maybe<DeleteKeyPair> {
        change(ctx, "delete_keypair", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &access_key).await?;
            Ok(DeleteKeyPair::success())
        })
        .await
    }
}
