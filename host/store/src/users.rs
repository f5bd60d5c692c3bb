//! Users.

use quarterdeck_model::{Timestamp, UserId, UserRole, UserStatus};
use serde_json::Value as Json;

use crate::changes::{self, KEYPAIR, Rows, SCALING_GROUP_KEYPAIR, USER};
use crate::error::Result;
use crate::projects;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A user; the password's hash is read with [`password`] only.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub username: Option<String>,
    /// Its e-mail address, which identifies it at login.
    pub email: String,
    /// Shown to people; blocks nothing.
    pub need_password_change: bool,
    /// When the password was set last.
    pub password_changed_at: Option<Timestamp>,
    /// For people.
    pub full_name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether the account is in use.
    pub status: UserStatus,
    /// Why it stands so.
    pub status_info: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Its domain.
    pub domain_name: String,
    /// What it may do.
    pub role: UserRole,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
    /// Networks (CIDR texts) it may sign requests from; `None` or none = anywhere.
    pub allowed_client_ip: Option<Vec<String>>,
    /// A second factor is set up.
    pub totp_activated: bool,
    /// Since when.
    pub totp_activated_at: Option<Timestamp>,
}

/// Changes to a user; `None` leaves as it is.
#[derive(Clone, Default)]
pub struct UserChanges {
    /// See [`UserRow::username`].
    pub username: Option<String>,
    /// A new password's hash, and when it was set.
    pub password: Option<(String, Timestamp)>,
    /// See [`UserRow::need_password_change`].
    pub need_password_change: Option<bool>,
    /// See [`UserRow::full_name`].
    pub full_name: Option<String>,
    /// See [`UserRow::description`].
    pub description: Option<String>,
    /// See [`UserRow::status`].
    pub status: Option<UserStatus>,
    /// See [`UserRow::status_info`].
    pub status_info: Option<String>,
    /// See [`UserRow::domain_name`].
    pub domain_name: Option<String>,
    /// See [`UserRow::role`].
    pub role: Option<UserRole>,
    /// See [`UserRow::allowed_client_ip`].
    pub allowed_client_ip: Option<Vec<String>>,
    /// See [`UserRow::totp_activated`].
    pub totp_activated: Option<bool>,
}

impl std::fmt::Debug for UserChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserChanges").field("status", &self.status).field("role", &self.role).finish_non_exhaustive()
    }
}

const COLUMNS: &str = "id, username, email, need_password_change, password_changed_at, full_name, description, status, \
                       status_info, created_at, modified_at, domain_name, role, integration_id, allowed_client_ip, \
                       totp_activated, totp_activated_at";

fn row(row: &Row) -> Result<UserRow> {
    Ok(UserRow {
        id: row.parse("id")?,
        username: row.get("username")?,
        email: row.get("email")?,
        need_password_change: row.get("need_password_change")?,
        password_changed_at: row.get::<Option<i64>>("password_changed_at")?.map(Timestamp),
        full_name: row.get("full_name")?,
        description: row.get("description")?,
        status: row.parse("status")?,
        status_info: row.get("status_info")?,
        created_at: Timestamp(row.get("created_at")?),
        modified_at: Timestamp(row.get("modified_at")?),
        domain_name: row.get("domain_name")?,
        role: row.parse("role")?,
        integration_id: row.get("integration_id")?,
        allowed_client_ip: row.json_opt("allowed_client_ip")?,
        totp_activated: row.get("totp_activated")?,
        totp_activated_at: row.get::<Option<i64>>("totp_activated_at")?.map(Timestamp),
    })
}

/// One user.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, id: UserId) -> Result<Option<UserRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM users WHERE id = $1")).bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// The user with this e-mail address.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_email<S: Sql>(sql: &mut S, email: &str) -> Result<Option<UserRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM users WHERE email = $1")).bind(email);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// The user with this name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_username<S: Sql>(sql: &mut S, username: &str) -> Result<Option<UserRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM users WHERE username = $1")).bind(username);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// The superadmins that aren't deleted, the oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn superadmins<S: Sql>(sql: &mut S) -> Result<Vec<UserRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM users WHERE role = 'superadmin' AND status <> 'deleted' ORDER BY created_at, id"
    ));
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Those of the users that exist, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_ids<S: Sql>(sql: &mut S, ids: &[UserId]) -> Result<Vec<UserRow>> {
    let stmt = Stmt::among(&format!("SELECT {COLUMNS} FROM users WHERE id IN {{list}}"), ids);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Those of the users that exist, by their e-mail addresses, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_emails<S: Sql>(sql: &mut S, emails: &[String]) -> Result<Vec<UserRow>> {
    let stmt = Stmt::among(&format!("SELECT {COLUMNS} FROM users WHERE email IN {{list}}"), emails);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The stored hash of a user's password; `None` when the user has none (or there is no such user).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn password<S: Sql>(sql: &mut S, id: UserId) -> Result<Option<String>> {
    let stmt = Stmt::new("SELECT password FROM users WHERE id = $1").bind(id.to_string());
    Ok(sql.fetch_optional(stmt).await?.map(|r| r.get::<Option<String>>("password")).transpose()?.flatten())
}

/// How the bcrypt hashes among the passwords begin, each once: variant and cost, as `$2b$12`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn bcrypt_kinds<S: Sql>(sql: &mut S) -> Result<Vec<String>> {
    let stmt = Stmt::new("SELECT DISTINCT SUBSTR(password, 1, 6) AS kind FROM users WHERE password LIKE '$2%'");
    sql.fetch_all(stmt).await?.iter().map(|r| r.get("kind")).collect()
}

/// Adds a user with the hash of its password.
///
/// # Errors
/// A unique violation when the address or the name is taken, a foreign-key one when there is no such domain.
pub async fn insert<S: Sql>(sql: &mut S, user: &UserRow, password: Option<&str>) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO users (id, username, email, password, need_password_change, password_changed_at, full_name, \
         description, status, status_info, created_at, modified_at, domain_name, role, integration_id, \
         allowed_client_ip, totp_activated, totp_activated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(user.id.to_string())
    .bind(user.username.as_deref())
    .bind(&user.email)
    .bind(password)
    .bind(user.need_password_change)
    .bind(user.password_changed_at.map(Timestamp::micros))
    .bind(user.full_name.as_deref())
    .bind(user.description.as_deref())
    .bind(user.status.as_str())
    .bind(user.status_info.as_deref())
    .bind(user.created_at.micros())
    .bind(user.modified_at.micros())
    .bind(&user.domain_name)
    .bind(user.role.as_str())
    .bind(user.integration_id.as_deref())
    .bind(user.allowed_client_ip.clone().map(Json::from))
    .bind(user.totp_activated)
    .bind(user.totp_activated_at.map(Timestamp::micros));
    changes::execute(sql, &USER, USER.row(user.id.to_string()), stmt).await?;
    Ok(())
}

/// Changes a user; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// As [`insert`].
pub async fn update<S: Sql>(sql: &mut S, id: UserId, changes: &UserChanges, now: Timestamp) -> Result<Option<u64>> {
    let update = Update::new("users")
        .maybe("username", changes.username.as_deref())
        .maybe("password", changes.password.as_ref().map(|(hash, _)| hash))
        .maybe("password_changed_at", changes.password.as_ref().map(|(_, at)| at.micros()))
        .maybe("need_password_change", changes.need_password_change)
        .maybe("full_name", changes.full_name.as_deref())
        .maybe("description", changes.description.as_deref())
        .maybe("status", changes.status.map(UserStatus::as_str))
        .maybe("status_info", changes.status_info.as_deref())
        .maybe("domain_name", changes.domain_name.as_deref())
        .maybe("role", changes.role.map(UserRole::as_str))
        .maybe("allowed_client_ip", changes.allowed_client_ip.clone().map(Json::from))
        .maybe("totp_activated", changes.totp_activated);
    if update.is_empty() {
        return Ok(None);
    }
    update.set("modified_at", now.micros()).run(sql, &USER, id.to_string()).await.map(Some)
}

/// Writes a better hash of the same password, unless it was changed meanwhile.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn rehash<S: Sql>(sql: &mut S, id: UserId, old: &str, new: &str) -> Result<()> {
    let stmt = Stmt::new("UPDATE users SET password = $3 WHERE id = $1 AND password = $2");
    sql.execute(stmt.bind(id.to_string()).bind(old).bind(new)).await?;
    Ok(())
}

/// How many kernels of a user hold an agent's resources.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn active_kernels<S: Sql>(sql: &mut S, id: UserId) -> Result<i64> {
    sql.fetch_one(
        Stmt::new(
            "SELECT COUNT(*) AS n FROM kernels k JOIN sessions s ON s.id = k.session_id WHERE s.user_id = $1 \
             AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')",
        )
        .bind(id.to_string()),
    )
    .await?
    .get("n")
}

/// Removes a user with its sessions and key pairs; how many users there were (0 or 1).
///
/// # Errors
/// A foreign-key violation when something else refers to it.
pub async fn delete<S: Sql>(sql: &mut S, user: UserId) -> Result<u64> {
    let id = user.to_string();
    // A key pair's sessions are its user's sessions; those of another user's would block the next statements.
    for statement in [
        "DELETE FROM sessions WHERE user_id = $1",
        "DELETE FROM occupancy WHERE scope = 'keypair' AND holder IN (SELECT access_key FROM keypairs WHERE user_id = $1)",
        "DELETE FROM concurrency WHERE access_key IN (SELECT access_key FROM keypairs WHERE user_id = $1)",
    ] {
        sql.execute(Stmt::new(statement).bind(&id)).await?;
    }
    // What goes along by itself wouldn't be told to the audit.
    let links =
        "DELETE FROM scaling_group_keypairs WHERE access_key IN (SELECT access_key FROM keypairs WHERE user_id = $1)";
    let rows = Rows::with("access_key IN (SELECT access_key FROM keypairs WHERE user_id = $1)", &id);
    changes::execute(sql, &SCALING_GROUP_KEYPAIR, rows, Stmt::new(links).bind(&id)).await?;
    projects::leave_all(sql, user).await?;
    let stmt = Stmt::new("DELETE FROM keypairs WHERE user_id = $1").bind(&id);
    changes::execute(sql, &KEYPAIR, Rows::with("user_id = $1", &id), stmt).await?;
    let stmt = Stmt::new("DELETE FROM users WHERE id = $1").bind(&id);
    changes::execute(sql, &USER, USER.row(&id), stmt).await
}
