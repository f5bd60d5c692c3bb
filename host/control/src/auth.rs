//! Logging in, signing up, and what users change about themselves.

use std::net::IpAddr;

use quarterdeck_model::duration::Duration;
use quarterdeck_model::{ProjectId, Timestamp, UserId, UserRole, UserStatus};
use quarterdeck_store::users::{self, UserChanges, UserRow};
use quarterdeck_store::{Sql, domains, keypairs, projects, resource_policies};
use serde_json::{Map, Value as Json, json};

use crate::Control;
use crate::error::{Error, Result};
use crate::guesses::Guesser;
use crate::hooks::{self, Mode};
use crate::identity::commit;
use crate::keypairs as keypair_rules;
use crate::password::{self, Check};
use crate::principal::Principal;
use crate::users::DEFAULT_POLICY;
use crate::validate::{integrity, length, length_opt};

/// The configuration key that says how old passwords may become.
const MAX_PASSWORD_AGE: &str = "config/auth/max_password_age";
/// The project that people who sign up join, if their domain has it.
const DEFAULT_PROJECT: &str = "default";
/// Requests allowed to the key pair of somebody who signed up.
const SIGNUP_RATE_LIMIT: i64 = 1_000;

fn mismatch() -> Error {
    Error::AuthFailed("User credential mismatch.".to_owned())
}

/// A login.
#[derive(Clone)]
pub struct Authorize {
    /// `keypair`; nothing else is supported.
    pub kind: String,
    /// The user's domain.
    pub domain: String,
    /// The user's e-mail address.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What a login yields.
#[derive(Clone)]
pub struct Login {
    /// The key pair to sign with.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The user's role.
    pub role: UserRole,
    /// The user's status.
    pub status: UserStatus,
}

/// Logs in with e-mail address and password.
///
/// # Errors
/// [`Error::AuthFailed`], [`Error::TooManyGuesses`], [`Error::PasswordExpired`], [`Error::RejectedByHook`];
/// [`Error::InvalidParams`] for other kinds of logins.
pub async fn authorize(control: &Control, request: Authorize, client: IpAddr) -> Result<Login> {
    if request.kind != "keypair" {
        return Err(Error::invalid("Unsupported authorization type"));
    }
    let body = json!({
        "params": {
            "type": request.kind, "domain": request.domain, "username": request.username,
            "password": request.password,
        },
        "client_address": client.to_string(),
    });
    let asked = hooks::dispatch(control, "AUTHORIZE", Mode::First, None, Some(&request.domain), body).await?;
    let param = |name: &str, otherwise: &str| {
        asked.body.pointer(&format!("/params/{name}")).and_then(Json::as_str).unwrap_or(otherwise).to_owned()
    };
    let domain = param("domain", &request.domain);
    let username = param("username", &request.username);
    let vouched = asked.values.first().map(|(_, value)| value).filter(|value| !value.is_null());
    let user = match vouched {
        Some(value) => vouched_user(control, value, &domain).await?,
        None => guess(control, client, &domain, &username, &param("password", &request.password)).await?,
    };
    match user.status {
        UserStatus::Active => {}
        UserStatus::BeforeVerification => {
            return Err(Error::AuthFailed("This account needs email verification.".to_owned()));
        }
        UserStatus::Inactive | UserStatus::Deleted => return Err(mismatch()),
    }
    let pairs = keypairs::of_users(&mut control.store().reader(), &[user.id]).await?;
    let Some(pair) = pairs.into_iter().find(|pair| pair.is_active) else {
        return Err(Error::AuthFailed("No API keypairs found.".to_owned()));
    };
    check_password_age(control, &user)?;
    let body = json!({
        "params": {"type": request.kind, "domain": domain, "username": username},
        "user": {
            "uuid": user.id.to_string(), "email": user.email, "role": user.role.as_str(),
            "domain": user.domain_name, "status": user.status.as_str(),
        },
        "access_key": pair.access_key.as_str(),
    });
    hooks::dispatch(control, "POST_AUTHORIZE", Mode::All, None, Some(&user.domain_name), body).await?;
    Ok(Login { access_key: pair.access_key.0, secret_key: pair.secret_key, role: user.role, status: user.status })
}

/// The user that a hook vouches for: an existing one of the domain.
async fn vouched_user(control: &Control, value: &Json, domain: &str) -> Result<UserRow> {
    let sql = &mut control.store().reader();
    let user = match (value.get("uuid").and_then(Json::as_str), value.get("email").and_then(Json::as_str)) {
        (Some(id), _) => match id.parse::<UserId>() {
            Ok(id) => users::get(sql, id).await?,
            Err(_) => None,
        },
        (None, Some(email)) => users::by_email(sql, email).await?,
        (None, None) => None,
    };
    user.filter(|user| user.domain_name == domain).ok_or_else(mismatch)
}

/// As [`check_password`], for strangers, who may not guess on and on.
async fn guess(control: &Control, client: IpAddr, domain: &str, email: &str, guess: &str) -> Result<UserRow> {
    let guesser = Guesser::new(client, domain, email);
    control.guesses().check(control.config_tree(), &guesser)?;
    let user = check_password(control, domain, email, guess).await;
    match &user {
        Ok(_) => control.guesses().succeeded(&guesser),
        Err(Error::AuthFailed(_)) => control.guesses().failed(&guesser),
        Err(_) => {}
    }
    user
}

/// The user whose password this is.
async fn check_password(control: &Control, domain: &str, email: &str, guess: &str) -> Result<UserRow> {
    let sql = &mut control.store().reader();
    // A NUL can't be stored, so nothing equals a text with one.
    let user = match email.contains('\0') || domain.contains('\0') {
        true => None,
        false => users::by_email(sql, email).await?.filter(|user| user.domain_name == domain),
    };
    // Also without a user: the answer must take as long as for a wrong password.
    let stored = users::password(sql, user.as_ref().map_or_else(UserId::new, |user| user.id)).await?;
    let slowest = control.identity().slowest_bcrypt().await?;
    let check = password::verify(guess, stored.as_deref(), slowest).await?;
    let (Some(user), true) = (user, check.is_match()) else { return Err(mismatch()) };
    if check == Check::MatchOutdated {
        let old = stored.unwrap_or_default();
        if let Err(error) = replace_hash(control, user.id, &old, guess).await {
            // The login is right nevertheless; the next one tries again.
            tracing::warn!(user = %user.id, %error, "an outdated password hash can't be replaced");
        }
    }
    Ok(user)
}

async fn replace_hash(control: &Control, user: UserId, old: &str, guess: &str) -> Result<()> {
    let new = password::hash(guess).await?;
    let mut tx = control.store().begin_bookkeeping().await?;
    users::rehash(&mut tx, user, old, &new).await?;
    tx.commit().await?;
    Ok(())
}

/// How old passwords may become; `None` = any age.
fn max_password_age(control: &Control) -> Option<Duration> {
    let text = control.config_tree().value(MAX_PASSWORD_AGE).filter(|text| !text.is_empty() && text != "null")?;
    match Duration::parse_text(&text) {
        Ok(age) => Some(age),
        Err(_) => {
            tracing::warn!(value = text, "{MAX_PASSWORD_AGE} is no duration; passwords never expire");
            None
        }
    }
}

fn check_password_age(control: &Control, user: &UserRow) -> Result<()> {
    let (Some(age), Some(changed)) = (max_password_age(control), user.password_changed_at) else { return Ok(()) };
    let expires = changed.plus_millis(age.millis());
    if control.clock().now() > expires {
        return Err(Error::PasswordExpired(format!("Password expired on {}.", expires.spaced())));
    }
    Ok(())
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// `superadmin` or `user`.
    pub global_role: &'static str,
    /// `admin` or `user`, by the key pair.
    pub domain_role: &'static str,
    /// `user` for a member of the project asked about.
    pub group_role: Option<&'static str>,
}

/// What the caller may do, also in a project.
///
/// # Errors
/// [`Error::NotFound`] for a project that the caller doesn't belong to.
pub async fn roles(control: &Control, caller: &Principal, project: Option<ProjectId>) -> Result<Roles> {
    let group_role = match project {
        None => None,
        Some(id) if projects::is_member(&mut control.store().reader(), id, caller.user_id).await? => Some("user"),
        Some(_) => {
            return Err(Error::not_found_msg(
                "project (user group)",
                "No such project or you are not the member of it.",
            ));
        }
    };
    Ok(Roles {
        global_role: if caller.is_superadmin() { "superadmin" } else { "user" },
        domain_role: if caller.is_admin { "admin" } else { "user" },
        group_role,
    })
}

/// Somebody who wants an account.
#[derive(Clone)]
pub struct Signup {
    /// The domain.
    pub domain: String,
    /// The e-mail address.
    pub email: String,
    /// The password.
    pub password: String,
    /// The user's name; the address without saying.
    pub username: Option<String>,
    /// For people.
    pub full_name: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// A new key pair, shown once.
#[derive(Clone)]
pub struct NewKeypair {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

/// What hooks decide about a new account: on conflicts the first hook wins.
fn merged(values: Vec<(String, Json)>) -> Map<String, Json> {
    let mut out = Map::new();
    for (_, value) in values {
        if let Json::Object(map) = value {
            for (name, value) in map {
                out.entry(name).or_insert(value);
            }
        }
    }
    out
}

fn text(overrides: &Map<String, Json>, name: &str) -> Option<String> {
    overrides.get(name).and_then(Json::as_str).map(str::to_owned)
}

fn word<T: std::str::FromStr>(overrides: &Map<String, Json>, name: &str, otherwise: T) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = text(overrides, name) else { return Ok(otherwise) };
    text.parse().map_err(|e: T::Err| Error::BadRequest(e.to_string()))
}

/// Asks the hooks whether a password is good enough.
async fn check_format(control: &Control, user: Option<&UserRow>, domain: &str, params: Json) -> Result<()> {
    let mut body = json!({"params": params});
    if let Some(user) = user {
        body["user"] = json!({
            "uuid": user.id.to_string(), "email": user.email, "role": user.role.as_str(),
            "domain": user.domain_name, "status": user.status.as_str(),
        });
    }
    match hooks::dispatch(control, "VERIFY_PASSWORD_FORMAT", Mode::All, None, Some(domain), body).await {
        Err(Error::RejectedByHook { plugin, reason }) if reason.is_empty() => {
            Err(Error::RejectedByHook { plugin, reason: "invalid password format".to_owned() })
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Makes an account for somebody who asks for it. `language` is the request's `Accept-Language`.
///
/// # Errors
/// [`Error::RejectedByHook`]; [`Error::BadRequest`] when address or name are taken, the domain is
/// unknown or a text is too long.
pub async fn signup(control: &Control, request: Signup, language: Option<&str>) -> Result<NewKeypair> {
    let username = request.username.clone().unwrap_or_else(|| request.email.clone());
    let params = json!({
        "domain": request.domain, "email": request.email, "password": request.password, "username": username,
        "full_name": request.full_name.clone().unwrap_or_default(),
        "description": request.description.clone().unwrap_or_default(),
    });
    let body = json!({"params": params});
    let asked = hooks::dispatch(control, "PRE_SIGNUP", Mode::All, None, Some(&request.domain), body).await?;
    let overrides = merged(asked.values);
    check_format(control, None, &request.domain, params).await?;

    let now = control.clock().now();
    let user = UserRow {
        id: UserId::new(),
        username: Some(text(&overrides, "username").unwrap_or(username)),
        email: text(&overrides, "email").unwrap_or(request.email),
        need_password_change: overrides.get("need_password_change").and_then(Json::as_bool).unwrap_or(false),
        password_changed_at: Some(now),
        full_name: Some(text(&overrides, "full_name").or(request.full_name).unwrap_or_default()),
        description: Some(text(&overrides, "description").or(request.description).unwrap_or_default()),
        status: word(&overrides, "status", UserStatus::Active)?,
        status_info: Some(text(&overrides, "status_info").unwrap_or_else(|| "user-signup".to_owned())),
        created_at: now,
        modified_at: now,
        domain_name: text(&overrides, "domain_name").unwrap_or_else(|| request.domain.clone()),
        role: word(&overrides, "role", UserRole::User)?,
        integration_id: text(&overrides, "integration_id"),
        allowed_client_ip: None,
        totp_activated: false,
        totp_activated_at: None,
    };
    check_new_user(&user)?;
    // Told before the slow part; the insertion below decides.
    refuse_known(&mut control.store().reader(), &user).await?;
    let hash = password::hash(&text(&overrides, "password").unwrap_or(request.password)).await?;
    let policy = text(&overrides, "resource_policy").unwrap_or_else(|| DEFAULT_POLICY.to_owned());
    let project = text(&overrides, "group").unwrap_or_else(|| DEFAULT_PROJECT.to_owned());
    let mut pair = keypair_rules::new_row(&user, policy, SIGNUP_RATE_LIMIT, now);
    pair.is_active = user.status == UserStatus::Active;

    let mut tx = control.store().begin().await?;
    refuse_known(&mut tx, &user).await?;
    if resource_policies::get(&mut tx, &pair.resource_policy).await?.is_none() {
        return Err(Error::BadRequest(format!("Unknown resource policy: {}", pair.resource_policy)));
    }
    users::insert(&mut tx, &user, Some(&hash)).await.map_err(taken)?;
    keypairs::insert(&mut tx, &pair, None).await.map_err(taken)?;
    if let Some(project) = projects::by_name(&mut tx, &user.domain_name, &project).await? {
        projects::add_members(&mut tx, project.id, &[user.id]).await?;
    }
    commit(control, tx).await?;

    let body = json!({"email": user.email, "uuid": user.id.to_string(), "lang": preferred_language(language)});
    hooks::dispatch(control, "POST_SIGNUP", Mode::Notify, None, Some(&user.domain_name), body).await?;
    Ok(NewKeypair { access_key: pair.access_key.0, secret_key: pair.secret_key })
}

fn preferred_language(header: Option<&str>) -> String {
    let first = header.and_then(|h| h.split(',').next()).map(str::trim).filter(|l| !l.is_empty());
    first.unwrap_or("en-us").to_lowercase()
}

fn check_new_user(user: &UserRow) -> Result<()> {
    let check = || {
        length(&user.email, 64)?;
        length(&user.domain_name, 64)?;
        length_opt(user.username.as_deref(), 64)?;
        length_opt(user.full_name.as_deref(), 64)?;
        length_opt(user.description.as_deref(), 500)?;
        length_opt(user.integration_id.as_deref(), 512)
    };
    check().map_err(as_bad_request)
}

fn as_bad_request(error: Error) -> Error {
    match error {
        Error::Integrity(what) => Error::BadRequest(what),
        other => other,
    }
}

/// Somebody else was faster.
fn taken(error: quarterdeck_store::Error) -> Error {
    as_bad_request(integrity(error))
}

async fn refuse_known<S: Sql>(sql: &mut S, user: &UserRow) -> Result<()> {
    let refuse = |what: &str| Err(Error::BadRequest(what.to_owned()));
    if users::by_email(sql, &user.email).await?.is_some() {
        return refuse("Email already exists");
    }
    if domains::get(sql, &user.domain_name).await?.is_none() {
        return refuse("Unknown domain");
    }
    match &user.username {
        Some(name) if users::by_username(sql, name).await?.is_some() => refuse("Username already exists"),
        _ => Ok(()),
    }
}

/// Closes the caller's own account: its key pairs stop working at once.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's address, [`Error::BadRequest`] for a wrong password.
pub async fn signout(control: &Control, caller: &Principal, email: &str, guess: &str) -> Result<()> {
    if email != caller.email {
        return Err(Error::Forbidden("Not the account owner".to_owned()));
    }
    match check_password(control, &caller.domain, email, guess).await {
        Err(Error::AuthFailed(_)) => return Err(Error::BadRequest("Invalid email and/or password".to_owned())),
        other => other?,
    };
    let changes = UserChanges { status: Some(UserStatus::Inactive), ..UserChanges::default() };
    let mut tx = control.store().begin().await?;
    users::update(&mut tx, caller.user_id, &changes, control.clock().now()).await?;
    keypairs::deactivate_all(&mut tx, caller.user_id).await?;
    commit(control, tx).await
}

/// Changes the caller's own password.
///
/// # Errors
/// [`Error::AuthFailed`] for a wrong old one, [`Error::PlainBadRequest`] when the new ones differ,
/// [`Error::RejectedByHook`].
pub async fn update_password(control: &Control, caller: &Principal, old: &str, new: &str, again: &str) -> Result<()> {
    let user = match check_password(control, &caller.domain, &caller.email, old).await {
        Err(Error::AuthFailed(_)) => return Err(Error::AuthFailed("Old password mismatch".to_owned())),
        other => other?,
    };
    if new != again {
        return Err(Error::PlainBadRequest("new password mismatch"));
    }
    let params = json!({"old_password": old, "new_password": new, "new_password2": again});
    check_format(control, Some(&user), &user.domain_name, params).await?;
    store_password(control, user.id, new).await?;
    Ok(())
}

async fn store_password(control: &Control, user: UserId, new: &str) -> Result<Timestamp> {
    let hash = password::hash(new).await?;
    let now = control.clock().now();
    let changes =
        UserChanges { password: Some((hash, now)), need_password_change: Some(false), ..UserChanges::default() };
    let mut tx = control.store().begin().await?;
    users::update(&mut tx, user, &changes, now).await?;
    commit(control, tx).await?;
    Ok(now)
}

/// Replaces a password that became too old to log in with; when it was replaced.
///
/// # Errors
/// [`Error::BadRequest`] where passwords don't expire, [`Error::AuthFailed`] for wrong credentials or
/// the same password again, [`Error::RejectedByHook`].
pub async fn update_expired_password(
    control: &Control,
    client: IpAddr,
    domain: &str,
    email: &str,
    current: &str,
    new: &str,
) -> Result<Timestamp> {
    if max_password_age(control).is_none() {
        return Err(Error::BadRequest("Unsupported function.".to_owned()));
    }
    let user = guess(control, client, domain, email, current).await?;
    if new == current {
        return Err(Error::AuthFailed("Cannot update to the same password as an existing password.".to_owned()));
    }
    let params = json!({"domain": domain, "username": email, "current_password": current, "new_password": new});
    check_format(control, Some(&user), &user.domain_name, params).await?;
    store_password(control, user.id, new).await
}

/// Changes the caller's own full name.
///
/// # Errors
/// [`Error::PlainBadRequest`] when the user is gone, [`Error::BadRequest`] for a name that is too long.
pub async fn update_full_name(control: &Control, caller: &Principal, full_name: &str) -> Result<()> {
    length(full_name, 64).map_err(as_bad_request)?;
    let changes = UserChanges { full_name: Some(full_name.to_owned()), ..UserChanges::default() };
    let mut tx = control.store().begin().await?;
    if users::update(&mut tx, caller.user_id, &changes, control.clock().now()).await? != Some(1) {
        return Err(Error::PlainBadRequest("Unknown user"));
    }
    commit(control, tx).await
}

macro_rules! hide_secrets {
    ($($ty:ident => $field:ident),+) => {$(
        impl std::fmt::Debug for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($ty)).field(stringify!($field), &self.$field).finish_non_exhaustive()
            }
        }
    )+};
}
hide_secrets!(Authorize => username, Login => access_key, Signup => email, NewKeypair => access_key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hook_wins_on_a_key() {
        let values = vec![
            ("a".to_owned(), json!({"role": "admin", "group": "g"})),
            ("b".to_owned(), json!({"role": "superadmin", "status": "inactive"})),
            ("c".to_owned(), json!("nonsense")),
        ];
        let map = merged(values);
        assert_eq!(Json::Object(map), json!({"role": "admin", "group": "g", "status": "inactive"}));
    }

    #[test]
    fn languages() {
        assert_eq!(preferred_language(None), "en-us");
        assert_eq!(preferred_language(Some("")), "en-us");
        assert_eq!(preferred_language(Some("ko-KR;q=0.9, en")), "ko-kr;q=0.9");
    }
}
