//! Users.

use quarterdeck_model::{ProjectId, Timestamp, UserId, UserRole, UserStatus};

use super::{instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only};
use crate::{Result, Row, Sql, Value};

const STATUS: &[(&str, &str)] = &[
    ("ACTIVE", "active"),
    ("INACTIVE", "inactive"),
    ("DELETED", "deleted"),
    ("BEFORE_VERIFICATION", "before-verification"),
];
const ROLE: &[(&str, &str)] =
    &[("SUPERADMIN", "superadmin"), ("ADMIN", "admin"), ("USER", "user"), ("MONITOR", "monitor")];

/// What clients may filter and order users by.
pub const FIELDS: &[Field] = &[
    field("uuid", "u.id", Kind::Uuid),
    field("username", "u.username", Kind::Text),
    field("email", "u.email", Kind::Text),
    field("need_password_change", "u.need_password_change", Kind::Bool),
    field("full_name", "u.full_name", Kind::Text),
    field("description", "u.description", Kind::Text),
    field("is_active", "(u.status = 'active')", Kind::Bool),
    field("status", "u.status", Kind::Enum(STATUS)),
    field("status_info", "u.status_info", Kind::Text),
    field("created_at", "u.created_at", Kind::Date),
    field("modified_at", "u.modified_at", Kind::Date),
    field("domain_name", "u.domain_name", Kind::Text),
    field("role", "u.role", Kind::Enum(ROLE)),
    filter_only("allowed_client_ip", "u.allowed_client_ip", Kind::Text),
    field("totp_activated", "u.totp_activated", Kind::Bool),
    field("totp_activated_at", "u.totp_activated_at", Kind::Date),
];

const SOURCE: Source = Source {
    columns: "u.id, u.username, u.email, u.need_password_change, u.full_name, u.description, u.status, u.status_info, \
              u.created_at, u.modified_at, u.domain_name, u.role, u.allowed_client_ip, u.totp_activated, \
              u.totp_activated_at",
    from: "users u",
    count_from: "users u",
    order: "u.created_at DESC, u.id",
    unique: "u.id",
};

/// A user, without secrets.
#[derive(Clone, Debug)]
pub struct UserItem {
    /// Its id.
    pub id: UserId,
    /// The name to log in with.
    pub username: Option<String>,
    /// The e-mail address.
    pub email: String,
    /// Whether the user is asked for a new password.
    pub need_password_change: bool,
    /// The person's name.
    pub full_name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Whether the account is in use.
    pub status: UserStatus,
    /// Why it is in that status.
    pub status_info: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Its domain.
    pub domain_name: String,
    /// What it may do.
    pub role: UserRole,
    /// From where it may call, as CIDR texts; `None`: anywhere.
    pub allowed_client_ip: Option<Vec<String>>,
    /// Whether one-time passwords are on.
    pub totp_activated: bool,
    /// Since when.
    pub totp_activated_at: Option<Timestamp>,
}

fn read(row: &Row) -> Result<UserItem> {
    Ok(UserItem {
        id: row.parse("id")?,
        username: row.get("username")?,
        email: row.get("email")?,
        need_password_change: row.get("need_password_change")?,
        full_name: row.get("full_name")?,
        description: row.get("description")?,
        status: row.parse("status")?,
        status_info: row.get("status_info")?,
        created_at: instant(row, "created_at")?,
        modified_at: instant(row, "modified_at")?,
        domain_name: row.get("domain_name")?,
        role: row.parse("role")?,
        allowed_client_ip: row.json_opt("allowed_client_ip")?,
        totp_activated: row.get("totp_activated")?,
        totp_activated_at: instant_opt(row, "totp_activated_at")?,
    })
}

/// Which users: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Of this domain.
    pub domain: Option<String>,
    /// Members of this project.
    pub project: Option<ProjectId>,
    /// With this e-mail address.
    pub email: Option<String>,
    /// With this id.
    pub id: Option<UserId>,
    /// In one of these statuses.
    pub statuses: Option<Vec<UserStatus>>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(domain) = &scope.domain {
        conditions.equal("u.domain_name", domain);
    }
    if let Some(project) = scope.project {
        conditions.add(
            "EXISTS (SELECT 1 FROM project_members m WHERE m.user_id = u.id AND m.project_id = ?)",
            [Value::from(project.to_string())],
        );
    }
    if let Some(email) = &scope.email {
        conditions.equal("u.email", email);
    }
    if let Some(id) = scope.id {
        conditions.equal("u.id", id.to_string());
    }
    if let Some(statuses) = &scope.statuses {
        conditions.any_of("u.status", statuses.iter().map(|s| s.as_str()));
    }
    conditions
}

/// One page of the users in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<UserItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The users in scope, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<UserItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, read).await
}
