//! Virtual folders, and what was granted on them.

use quarterdeck_model::vfolder::{FolderPermission, FolderStatus, OwnershipType, UsageMode};
use quarterdeck_model::{ProjectId, Timestamp, UserId, VfolderId};

use super::{instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only, order_only};
use crate::{Result, Row, Sql, Stmt};

const USAGE_MODE: &[(&str, &str)] = &[("GENERAL", "general"), ("MODEL", "model"), ("DATA", "data")];
const PERMISSION: &[(&str, &str)] =
    &[("READ_ONLY", "ro"), ("READ_WRITE", "rw"), ("RW_DELETE", "wd"), ("OWNER_PERM", "wd")];
const OWNERSHIP: &[(&str, &str)] = &[("USER", "user"), ("GROUP", "group")];
const STATUS: &[(&str, &str)] = &[
    ("READY", "ready"),
    ("PERFORMING", "performing"),
    ("CLONING", "cloning"),
    ("DELETING", "deleting"),
    ("MOUNTED", "mounted"),
];

/// What clients may filter and order folders by.
pub const FIELDS: &[Field] = &[
    field("id", "v.id", Kind::Uuid),
    field("host", "v.host", Kind::Text),
    field("quota_scope_id", "v.quota_scope_id", Kind::Text),
    field("name", "v.name", Kind::Text),
    field("group", "v.project_id", Kind::Uuid),
    field("group_name", "p.name", Kind::Text),
    field("user", "v.user_id", Kind::Uuid),
    field("user_email", "u.email", Kind::Text),
    field("creator", "v.creator", Kind::Text),
    filter_only("unmanaged_path", "v.unmanaged_path", Kind::Text),
    field("usage_mode", "v.usage_mode", Kind::Enum(USAGE_MODE)),
    field("permission", "v.permission", Kind::Enum(PERMISSION)),
    field("ownership_type", "v.ownership_type", Kind::Enum(OWNERSHIP)),
    field("max_files", "1000", Kind::Int),
    field("max_size", "v.max_size", Kind::Int),
    field("created_at", "v.created_at", Kind::Date),
    field("last_used", "v.last_used", Kind::Date),
    field("cloneable", "v.cloneable", Kind::Bool),
    field("status", "v.status", Kind::Enum(STATUS)),
    order_only("cur_size", "0", Kind::Int),
];

const SOURCE: Source = Source {
    columns: "v.id, v.name, v.host, v.quota_scope_id, v.usage_mode, v.permission, v.max_size, v.created_at, \
              v.last_used, v.creator, v.unmanaged_path, v.ownership_type, v.user_id, u.email AS user_email, \
              v.project_id, p.name AS project_name, v.cloneable, v.status",
    from: "vfolders v LEFT JOIN users u ON u.id = v.user_id LEFT JOIN projects p ON p.id = v.project_id",
    count_from: "vfolders v LEFT JOIN users u ON u.id = v.user_id LEFT JOIN projects p ON p.id = v.project_id",
    order: "v.created_at DESC, v.id",
    unique: "v.id",
};

/// A folder.
#[derive(Clone, Debug)]
pub struct VfolderItem {
    /// Its id.
    pub id: VfolderId,
    /// Its name.
    pub name: String,
    /// `<proxy>:<volume>`
    pub host: String,
    /// Under which directory of the volume it lies.
    pub quota_scope_id: String,
    /// What it is for.
    pub usage_mode: UsageMode,
    /// What members of its project may do with it.
    pub permission: FolderPermission,
    /// MiB.
    pub max_size: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last.
    pub last_used: Option<Timestamp>,
    /// E-mail address of whoever made it.
    pub creator: String,
    /// A path of the agents' own.
    pub unmanaged_path: Option<String>,
    /// Whose it is.
    pub ownership_type: OwnershipType,
    /// Its owner, if that is a user.
    pub user: Option<UserId>,
    /// The owner's e-mail address.
    pub user_email: Option<String>,
    /// Its owner, if that is a project.
    pub project: Option<ProjectId>,
    /// The project's name.
    pub project_name: Option<String>,
    /// Whether it may be copied.
    pub cloneable: bool,
    /// Where it stands.
    pub status: FolderStatus,
}

fn read(row: &Row) -> Result<VfolderItem> {
    Ok(VfolderItem {
        id: row.parse("id")?,
        name: row.get("name")?,
        host: row.get("host")?,
        quota_scope_id: row.get("quota_scope_id")?,
        usage_mode: row.parse("usage_mode")?,
        permission: row.parse("permission")?,
        max_size: row.get("max_size")?,
        created_at: instant(row, "created_at")?,
        last_used: instant_opt(row, "last_used")?,
        creator: row.get("creator")?,
        unmanaged_path: row.get("unmanaged_path")?,
        ownership_type: row.parse("ownership_type")?,
        user: row.parse_opt("user_id")?,
        user_email: row.get("user_email")?,
        project: row.parse_opt("project_id")?,
        project_name: row.get("project_name")?,
        cloneable: row.get("cloneable")?,
        status: row.parse("status")?,
    })
}

/// Which folders: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Of users of this domain.
    pub domain: Option<String>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of this user.
    pub user: Option<UserId>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(domain) = &scope.domain {
        conditions.equal("u.domain_name", domain);
    }
    if let Some(project) = scope.project {
        conditions.equal("v.project_id", project.to_string());
    }
    if let Some(user) = scope.user {
        conditions.equal("v.user_id", user.to_string());
    }
    conditions
}

/// One page of the folders in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<VfolderItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The folders in scope, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<VfolderItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, read).await
}

/// The folders of several users, newest first.
///
/// # Errors
/// The database's.
pub async fn of_users<S: Sql>(sql: &mut S, users: &[UserId]) -> Result<Vec<VfolderItem>> {
    let text =
        format!("SELECT {} FROM {} WHERE v.user_id IN {{list}} ORDER BY {}", SOURCE.columns, SOURCE.from, SOURCE.order);
    sql.fetch_all(Stmt::among(&text, users)).await?.iter().map(read).collect()
}

/// What clients may filter and order grants by.
pub const GRANT_FIELDS: &[Field] = &[
    field("permission", "g.permission", Kind::Enum(PERMISSION)),
    field("vfolder", "g.vfolder_id", Kind::Uuid),
    field("vfolder_name", "v.name", Kind::Text),
    field("user", "g.user_id", Kind::Uuid),
    field("user_email", "u.email", Kind::Text),
];

const GRANTS: Source = Source {
    columns: "g.permission, g.vfolder_id, v.name, g.user_id, u.email",
    from: "vfolder_permissions g JOIN vfolders v ON v.id = g.vfolder_id JOIN users u ON u.id = g.user_id",
    count_from: "vfolder_permissions g JOIN vfolders v ON v.id = g.vfolder_id JOIN users u ON u.id = g.user_id",
    order: "v.created_at DESC, g.vfolder_id, g.user_id",
    unique: "g.vfolder_id, g.user_id",
};

/// What a user was granted on a folder.
#[derive(Clone, Debug)]
pub struct GrantItem {
    /// What.
    pub permission: FolderPermission,
    /// The folder.
    pub vfolder: VfolderId,
    /// The folder's name.
    pub vfolder_name: String,
    /// The user.
    pub user: UserId,
    /// The user's e-mail address.
    pub user_email: String,
}

/// One page of all grants.
///
/// # Errors
/// The database's.
pub async fn grants<S: Sql>(sql: &mut S, listing: &Listing) -> Result<Page<GrantItem>> {
    let conditions = Conditions::new(sql.dialect());
    let read = |row: &Row| {
        Ok(GrantItem {
            permission: row.parse("permission")?,
            vfolder: row.parse("vfolder_id")?,
            vfolder_name: row.get("name")?,
            user: row.parse("user_id")?,
            user_email: row.get("email")?,
        })
    };
    crate::listing::page(sql, &GRANTS, conditions, listing, read).await
}
