//! Users: making, changing, deactivating and purging them.

use quarterdeck_model::{ProjectId, UserId, UserRole, UserStatus};
use quarterdeck_store::users::{self, UserChanges, UserRow};
use quarterdeck_store::{Tx, keypairs, projects};

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::{network, superadmin_changes};
use crate::validate::{integrity, length, length_opt, no_matching, nothing_to_update};
use crate::vfolders::estate;
use crate::{keypairs as keypair_rules, password};

/// The resource policy of key pairs that come with a user.
pub(crate) const DEFAULT_POLICY: &str = "default";
/// Requests allowed to the key pair of a user that an administrator made.
const CREATED_RATE_LIMIT: i64 = 10_000;
/// Why a user stands as an administrator said.
const BY_ADMIN: &str = "admin-requested";

/// What a new user is to be like.
#[derive(Clone, Default)]
pub struct UserInput {
    /// Its name; the e-mail address when empty.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Shown to people.
    pub need_password_change: bool,
    /// Its domain.
    pub domain_name: String,
    /// For people; empty without saying.
    pub full_name: Option<String>,
    /// For people; empty without saying.
    pub description: Option<String>,
    /// Active or not; `status` wins.
    pub is_active: Option<bool>,
    /// Its status; active without saying.
    pub status: Option<String>,
    /// Its role; `user` without saying.
    pub role: Option<String>,
    /// Projects of its domain to join; others are ignored.
    pub group_ids: Option<Vec<String>>,
    /// Where it may sign from.
    pub allowed_client_ip: Option<Vec<String>>,
    /// A second factor is set up.
    pub totp_activated: Option<bool>,
}

/// Changes to a user; `None` leaves as it is.
#[derive(Clone, Default)]
pub struct ModifyUserInput {
    /// Its name.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Shown to people.
    pub need_password_change: Option<bool>,
    /// For people.
    pub full_name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Active or not; `status` wins.
    pub is_active: Option<bool>,
    /// Its status.
    pub status: Option<String>,
    /// Its domain; without `group_ids` it leaves all projects.
    pub domain_name: Option<String>,
    /// Its role; key pairs follow.
    pub role: Option<String>,
    /// Its projects from now on, if there are any in its domain; others are ignored.
    pub group_ids: Option<Vec<String>>,
    /// Where it may sign from; an empty list means anywhere.
    pub allowed_client_ip: Option<Vec<String>>,
    /// A second factor is set up.
    pub totp_activated: Option<bool>,
}

macro_rules! hide_secrets {
    ($($ty:ident),+) => {$(
        impl std::fmt::Debug for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($ty)).field("username", &self.username).finish_non_exhaustive()
            }
        }
    )+};
}
hide_secrets!(UserInput, ModifyUserInput);

fn parse<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Error::invalid(e.to_string()))
}

fn status(status: Option<&str>, is_active: Option<bool>) -> Result<Option<UserStatus>> {
    Ok(match (status, is_active) {
        (Some(status), _) => Some(parse(status)?),
        (None, Some(true)) => Some(UserStatus::Active),
        (None, Some(false)) => Some(UserStatus::Inactive),
        (None, None) => None,
    })
}

/// Networks in the form in which they are stored.
fn networks(list: Option<Vec<String>>) -> Result<Option<Vec<String>>> {
    let Some(list) = list else { return Ok(None) };
    list.iter()
        .map(|text| match network(text) {
            Some(network) => Ok(network.to_string()),
            None => Err(Error::BadRequest(format!(
                "Missing or invalid API parameters. ({text} is invalid IP address value)"
            ))),
        })
        .collect::<Result<_>>()
        .map(Some)
}

/// Ids of projects; what is no id names no project.
fn project_ids(list: &[String]) -> Vec<ProjectId> {
    list.iter().filter_map(|id| id.parse().ok()).collect()
}

fn check_lengths(username: Option<&str>, full_name: Option<&str>, description: Option<&str>) -> Result<()> {
    length_opt(username, 64)?;
    length_opt(full_name, 64)?;
    length_opt(description, 500)
}

fn is_administrator(role: UserRole) -> bool {
    matches!(role, UserRole::Superadmin | UserRole::Admin)
}

/// Makes a user with a key pair.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for an unknown role or status;
/// [`Error::BadRequest`] for a malformed network; [`Error::Integrity`] when the address or the name
/// is taken, the domain unknown or a text too long.
pub async fn create(control: &Control, caller: &Principal, email: &str, input: UserInput) -> Result<UserRow> {
    superadmin_changes(caller)?;
    let status = status(input.status.as_deref(), input.is_active)?.unwrap_or(UserStatus::Active);
    let role = input.role.as_deref().map(parse).transpose()?.unwrap_or(UserRole::User);
    let username = if input.username.is_empty() { email.to_owned() } else { input.username };
    length(email, 64)?;
    check_lengths(Some(&username), input.full_name.as_deref(), input.description.as_deref())?;
    let now = control.clock().now();
    let user = UserRow {
        id: UserId::new(),
        username: Some(username),
        email: email.to_owned(),
        need_password_change: input.need_password_change,
        password_changed_at: Some(now),
        full_name: Some(input.full_name.unwrap_or_default()),
        description: Some(input.description.unwrap_or_default()),
        status,
        status_info: Some(BY_ADMIN.to_owned()),
        created_at: now,
        modified_at: now,
        domain_name: input.domain_name,
        role,
        integration_id: None,
        allowed_client_ip: networks(input.allowed_client_ip)?,
        totp_activated: input.totp_activated.unwrap_or(false),
        totp_activated_at: None,
    };
    let hash = password::hash(&input.password).await?;
    let ssh = keypair_rules::SshKeypair::generate().await?;
    let mut keypair = keypair_rules::new_row(&user, DEFAULT_POLICY.to_owned(), CREATED_RATE_LIMIT, now);
    keypair.is_active = status == UserStatus::Active;
    keypair.is_admin = is_administrator(role);
    keypair.ssh_public_key = Some(ssh.public);

    let mut tx = control.store().begin().await?;
    users::insert(&mut tx, &user, Some(&hash)).await.map_err(integrity)?;
    keypairs::insert(&mut tx, &keypair, Some(&ssh.private)).await.map_err(integrity)?;
    if let Some(ids) = input.group_ids.as_deref().map(project_ids) {
        projects::join_all(&mut tx, user.id, &user.domain_name, &ids).await?;
    }
    commit(control, tx).await?;
    Ok(user)
}

/// Changes a user.
///
/// # Errors
/// As [`create`], and [`Error::NotFound`] for an unknown address; [`Error::BadRequest`] when there is
/// nothing to change.
pub async fn modify(control: &Control, caller: &Principal, email: &str, input: ModifyUserInput) -> Result<UserRow> {
    superadmin_changes(caller)?;
    let status = status(input.status.as_deref(), input.is_active)?;
    let role: Option<UserRole> = input.role.as_deref().map(parse).transpose()?;
    check_lengths(input.username.as_deref(), input.full_name.as_deref(), input.description.as_deref())?;
    let now = control.clock().now();
    let group_ids = input.group_ids.filter(|ids| !ids.is_empty());
    let password = match input.password {
        Some(password) => Some((password::hash(&password).await?, now)),
        None => None,
    };
    let changes = UserChanges {
        username: input.username,
        password,
        need_password_change: input.need_password_change,
        full_name: input.full_name,
        description: input.description,
        status,
        status_info: None,
        domain_name: input.domain_name,
        role,
        allowed_client_ip: networks(input.allowed_client_ip)?,
        totp_activated: input.totp_activated,
    };

    let mut tx = control.store().begin().await?;
    let Some(before) = users::by_email(&mut tx, email).await? else { return Err(no_matching("user")) };
    let changes =
        UserChanges { status_info: status.filter(|s| *s != before.status).map(|_| BY_ADMIN.to_owned()), ..changes };
    let updated = users::update(&mut tx, before.id, &changes, now).await.map_err(integrity)?;
    if updated.is_none() && group_ids.is_none() {
        return Err(nothing_to_update());
    }
    let after = users::get(&mut tx, before.id).await?.ok_or_else(|| no_matching("user"))?;
    if before.role != after.role {
        keypairs_follow(&mut tx, &after).await?;
    }
    if let Some(ids) = group_ids {
        projects::move_to(&mut tx, after.id, &after.domain_name, &project_ids(&ids)).await?;
    } else if before.domain_name != after.domain_name {
        projects::leave_all(&mut tx, after.id).await?;
    }
    commit(control, tx).await?;
    Ok(after)
}

/// Key pairs after a change of their user's role.
async fn keypairs_follow(tx: &mut Tx, user: &UserRow) -> Result<()> {
    let pairs = keypairs::of_users(tx, &[user.id]).await?;
    let Some(first) = pairs.first() else { return Ok(()) };
    if is_administrator(user.role) {
        if !(first.is_admin && first.is_active) {
            keypairs::promote_all(tx, user.id).await?;
        }
    } else {
        keypairs::demote(tx, user.id, &first.access_key).await?;
    }
    Ok(())
}

/// Marks a user as deleted and switches off the key pairs.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn delete(control: &Control, caller: &Principal, email: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    let Some(user) = users::by_email(&mut tx, email).await? else { return Err(no_matching("user")) };
    let changes = UserChanges {
        status: Some(UserStatus::Deleted),
        status_info: Some(BY_ADMIN.to_owned()),
        ..UserChanges::default()
    };
    users::update(&mut tx, user.id, &changes, control.clock().now()).await?;
    keypairs::deactivate_all(&mut tx, user.id).await?;
    commit(control, tx).await
}

/// Removes a user with key pairs, past sessions and folders. Folders that others share go to the caller, unless
/// `shared_folders_too`.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::BadRequest`] while kernels of the user are active, or
/// its folders are in sessions; [`Error::Storage`].
pub async fn purge(control: &Control, caller: &Principal, email: &str, shared_folders_too: bool) -> Result<()> {
    superadmin_changes(caller)?;
    let mut reader = control.store().reader();
    let Some(user) = users::by_email(&mut reader, email).await? else { return Err(no_matching("user")) };
    let folders = estate::of_user(control, &user).await?;
    check_idle(&mut reader, &user).await?;
    let left = if shared_folders_too { folders } else { estate::inherit(control, caller, folders).await? };
    estate::dissolve(control, &left).await?;
    let mut tx = control.store().begin().await?;
    check_idle(&mut tx, &user).await?;
    users::delete(&mut tx, user.id).await.map_err(integrity)?;
    commit(control, tx).await
}

async fn check_idle<S: quarterdeck_store::Sql>(sql: &mut S, user: &UserRow) -> Result<()> {
    if users::active_kernels(sql, user.id).await? > 0 {
        return Err(Error::BadRequest(
            "unexpected error: User has some active kernels. Terminate them first.".to_owned(),
        ));
    }
    Ok(())
}
