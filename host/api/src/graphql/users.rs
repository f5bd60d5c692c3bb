//! Users.

use async_graphql::{ComplexObject, Context, ID, InputObject, Object, SimpleObject};
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::users::{self, Scope, UserItem};
use quarterdeck_control::store::users::UserRow;
use quarterdeck_control::{Principal, scope, users as use_cases};
use quarterdeck_model::{ProjectId, UserId, UserStatus};

use super::fault::{Answer, Maybe, list, maybe};
use super::loaders::GroupsOf;
use super::pages::pages;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, UuidText};
use super::scope::administered;
use super::{caller, control, input, loader};

/// How many users a list without pages shows.
const UNPAGED: i64 = 100;

/// Somebody with an account.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct User {
    id: Option<ID>,
    uuid: Option<UuidText>,
    username: Option<String>,
    email: Option<String>,
    need_password_change: Option<bool>,
    full_name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    status: Option<String>,
    status_info: Option<String>,
    created_at: Option<DateTime>,
    modified_at: Option<DateTime>,
    domain_name: Option<String>,
    role: Option<String>,
    allowed_client_ip: Option<Vec<Option<String>>>,
    totp_activated: Option<bool>,
    totp_activated_at: Option<DateTime>,
    #[graphql(skip)]
    key: UserId,
}

/// A group that a user is a member of.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct UserGroup {
    id: Option<UuidText>,
    name: Option<String>,
}

/// How a person is called.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct UserInfo {
    pub(crate) email: Option<String>,
    pub(crate) full_name: Option<String>,
}

impl From<UserItem> for User {
    fn from(row: UserItem) -> Self {
        Self {
            id: Some(ID(row.id.to_string())),
            uuid: Some(UuidText(row.id.0)),
            username: row.username,
            email: Some(row.email),
            need_password_change: Some(row.need_password_change),
            full_name: row.full_name,
            description: row.description,
            is_active: Some(row.status == UserStatus::Active),
            status: Some(row.status.to_string()),
            status_info: row.status_info,
            created_at: Some(row.created_at.into()),
            modified_at: Some(row.modified_at.into()),
            domain_name: Some(row.domain_name),
            role: Some(row.role.to_string()),
            allowed_client_ip: row.allowed_client_ip.map(list),
            totp_activated: Some(row.totp_activated),
            totp_activated_at: row.totp_activated_at.map(Into::into),
            key: row.id,
        }
    }
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        UserItem {
            id: row.id,
            username: row.username,
            email: row.email,
            need_password_change: row.need_password_change,
            full_name: row.full_name,
            description: row.description,
            status: row.status,
            status_info: row.status_info,
            created_at: row.created_at,
            modified_at: row.modified_at,
            domain_name: row.domain_name,
            role: row.role,
            allowed_client_ip: row.allowed_client_ip,
            totp_activated: row.totp_activated,
            totp_activated_at: row.totp_activated_at,
        }
        .into()
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl User {
    async fn groups(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<UserGroup>>> {
        maybe(async {
            let groups = loader(ctx).load_one(GroupsOf(self.key)).await?.unwrap_or_default();
            let groups = groups
                .into_iter()
                .map(|(id, name)| Some(UserGroup { id: Some(UuidText(id.0)), name: Some(name) }))
                .collect();
            Ok(Some(groups))
        })
        .await
    }
}

pages!(UserList of User);

/// What can be asked about users.
#[derive(Default)]
pub(crate) struct UserQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl UserQueries {
    async fn user(&self, ctx: &Context<'_>, domain_name: Option<String>, email: Option<String>) -> Maybe<User> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_one(caller, domain_name.as_deref(), email.as_deref(), &caller.email)?;
            first(ctx, Scope { domain: asked.domain, email: asked.user_key, ..Scope::default() }).await
        })
        .await
    }

    async fn user_from_uuid(&self, ctx: &Context<'_>, domain_name: Option<String>, user_id: Option<ID>) -> Maybe<User> {
        maybe(async {
            let caller = caller(ctx);
            // In its canonical form, so that it compares with the caller's own.
            let user = user_id.map(|id| input::user(&id)).transpose()?.map(|id| id.to_string());
            let own = caller.user_id.to_string();
            let asked = scope::Scope::for_one(caller, domain_name.as_deref(), user.as_deref(), &own)?;
            let id = asked.user_key.map(|id| input::user(&id)).transpose()?;
            first(ctx, Scope { domain: asked.domain, id, ..Scope::default() }).await
        })
        .await
    }

    async fn users(
        &self,
        ctx: &Context<'_>,
        domain_name: Option<String>,
        group_id: Option<UuidText>,
        is_active: Option<bool>,
        status: Option<String>,
    ) -> Maybe<Vec<Option<User>>> {
        maybe(async {
            let scope = many(caller(ctx), domain_name, group_id, is_active, status)?;
            Ok(Some(list(users::select(&mut control(ctx).store().reader(), &scope, UNPAGED).await?)))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn user_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        domain_name: Option<String>,
        group_id: Option<UuidText>,
        is_active: Option<bool>,
        status: Option<String>,
    ) -> Maybe<UserList> {
        maybe(async {
            let scope = many(caller(ctx), domain_name, group_id, is_active, status)?;
            let listing =
                Listing::parse(users::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(users::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}

async fn first(ctx: &Context<'_>, scope: Scope) -> Answer<Option<User>> {
    let rows = users::select(&mut control(ctx).store().reader(), &scope, 1).await?;
    Ok(rows.into_iter().next().map(Into::into))
}

/// The scope of lists for administrators; a status wins over activity.
fn many(
    caller: &Principal,
    domain: Option<String>,
    group: Option<UuidText>,
    is_active: Option<bool>,
    status: Option<String>,
) -> Answer<Scope> {
    let domain = administered(caller, domain)?;
    let statuses = match (status, is_active) {
        (Some(status), _) => Some(vec![input::word(&status)?]),
        (None, Some(true)) => Some(vec![UserStatus::Active]),
        (None, Some(false)) => Some(vec![UserStatus::Inactive, UserStatus::Deleted, UserStatus::BeforeVerification]),
        (None, None) => None,
    };
    Ok(Scope { domain, project: group.map(|g| ProjectId(g.0)), statuses, ..Scope::default() })
}

payloads! {
    CreateUser { user: User },
    ModifyUser { user: User },
    DeleteUser,
    PurgeUser,
}

/// A new user.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct UserInput {
    username: String,
    password: String,
    need_password_change: bool,
    full_name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    status: Option<String>,
    domain_name: String,
    role: Option<String>,
    group_ids: Option<Vec<Option<String>>>,
    allowed_client_ip: Option<Vec<Option<String>>>,
    totp_activated: Option<bool>,
}

/// What may be changed about a user.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyUserInput {
    username: Option<String>,
    password: Option<String>,
    need_password_change: Option<bool>,
    full_name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
    status: Option<String>,
    domain_name: Option<String>,
    role: Option<String>,
    group_ids: Option<Vec<Option<String>>>,
    allowed_client_ip: Option<Vec<Option<String>>>,
    totp_activated: Option<bool>,
}

/// How a user is purged.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct PurgeUserInput {
    /// Whether folders that others share go, too; otherwise they are given to the caller.
    purge_shared_vfolders: Option<bool>,
}

/// What can be changed about users.
#[derive(Default)]
pub(crate) struct UserMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl UserMutations {
    async fn create_user(&self, ctx: &Context<'_>, email: String, props: UserInput) -> Maybe<CreateUser> {
        change(ctx, "create_user", Allowed::Superadmin, async {
            let input = use_cases::UserInput {
                username: props.username,
                password: props.password,
                need_password_change: props.need_password_change,
                domain_name: props.domain_name,
                full_name: props.full_name,
                description: props.description,
                is_active: props.is_active,
                status: props.status,
                role: props.role,
                group_ids: input::texts(props.group_ids),
                allowed_client_ip: input::texts(props.allowed_client_ip),
                totp_activated: props.totp_activated,
            };
            let row = use_cases::create(control(ctx), caller(ctx), &email, input).await?;
            Ok(CreateUser::done(row.into()))
        })
        .await
    }

    async fn modify_user(&self, ctx: &Context<'_>, email: String, props: ModifyUserInput) -> Maybe<ModifyUser> {
        change(ctx, "modify_user", Allowed::Superadmin, async {
            let input = use_cases::ModifyUserInput {
                username: props.username,
                password: props.password,
                need_password_change: props.need_password_change,
                full_name: props.full_name,
                description: props.description,
                is_active: props.is_active,
                status: props.status,
                domain_name: props.domain_name,
                role: props.role,
                group_ids: input::texts(props.group_ids),
                allowed_client_ip: input::texts(props.allowed_client_ip),
                totp_activated: props.totp_activated,
            };
            let row = use_cases::modify(control(ctx), caller(ctx), &email, input).await?;
            Ok(ModifyUser::done(row.into()))
        })
        .await
    }

    async fn delete_user(&self, ctx: &Context<'_>, email: String) -> Maybe<DeleteUser> {
        change(ctx, "delete_user", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &email).await?;
            Ok(DeleteUser::success())
        })
        .await
    }

    async fn purge_user(&self, ctx: &Context<'_>, email: String, props: PurgeUserInput) -> Maybe<PurgeUser> {
        change(ctx, "purge_user", Allowed::Superadmin, async {
            let shared_too = props.purge_shared_vfolders.unwrap_or_default();
            use_cases::purge(control(ctx), caller(ctx), &email, shared_too).await?;
            Ok(PurgeUser::success())
        })
        .await
    }
}
