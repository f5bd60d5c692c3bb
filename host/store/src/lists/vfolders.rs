//! Virtual folders, and what was granted on them.

use quarterdeck_model::vfolder::FolderPermission;
use quarterdeck_model::{ProjectId, UserId, VfolderId};

use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only, order_only};
use crate::vfolders::{COLUMNS, FROM, VfolderRow, row};
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

const SOURCE: Source =
    Source { columns: COLUMNS, from: FROM, count_from: FROM, order: "v.created_at DESC, v.id", unique: "v.id" };

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
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<VfolderRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, row).await
}

/// The folders in scope, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<VfolderRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, row).await
}

/// The folders of several users, newest first.
///
/// # Errors
/// The database's.
pub async fn of_users<S: Sql>(sql: &mut S, users: &[UserId]) -> Result<Vec<VfolderRow>> {
    let text =
        format!("SELECT {} FROM {} WHERE v.user_id IN {{list}} ORDER BY {}", SOURCE.columns, SOURCE.from, SOURCE.order);
    sql.fetch_all(Stmt::among(&text, users)).await?.iter().map(row).collect()
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
