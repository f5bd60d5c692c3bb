//! Virtual folders.

mod invitations;
mod permissions;

use std::collections::HashSet;

use quarterdeck_model::vfolder::{FolderPath, FolderPermission, FolderStatus, OwnershipType, UsageMode};
use quarterdeck_model::{ProjectId, Timestamp, UserId, VfolderId};

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

pub use invitations::{
    InvitationRow, Mine, drop_for_user as drop_invitations_for, insert as insert_invitations, invitation, invitations,
    pending_invitees, restore as restore_invitation, reword as reword_invitation, settle as settle_invitation,
};
pub use permissions::{SharedRow, Sight, drop_grants_of, grant, grantees, regrant, revoke, shared};

/// A folder.
#[derive(Clone, Debug, PartialEq)]
pub struct VfolderRow {
    /// Its id.
    pub id: VfolderId,
    /// Its name; not unique.
    pub name: String,
    /// `<proxy>:<volume>`; empty for one that is a path of the agents' own.
    pub host: String,
    /// Under which directory of the volume it lies.
    pub quota_scope_id: String,
    /// What it is for.
    pub usage_mode: UsageMode,
    /// What members of its project may do with it.
    pub permission: FolderPermission,
    /// MiB; none or 0 = no limit.
    pub max_size: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last.
    pub last_used: Option<Timestamp>,
    /// E-mail address of whoever made it.
    pub creator: String,
    /// A path of the agents' own.
    pub unmanaged_path: Option<String>,
    /// Its owner, if that is a user.
    pub user: Option<UserId>,
    /// The owner's e-mail address.
    pub user_email: Option<String>,
    /// Its owner, if that is a project.
    pub project: Option<ProjectId>,
    /// The project's name.
    pub project_name: Option<String>,
    /// The project's domain.
    pub project_domain: Option<String>,
    /// Whether it may be copied.
    pub cloneable: bool,
    /// Where it stands.
    pub status: FolderStatus,
}

impl VfolderRow {
    /// Where it lies on its volume.
    pub fn path(&self) -> FolderPath {
        FolderPath { scope: self.quota_scope_id.clone(), id: self.id }
    }

    /// Whose it is.
    pub fn ownership(&self) -> OwnershipType {
        if self.project.is_some() { OwnershipType::Group } else { OwnershipType::User }
    }
}

/// A folder to be stored.
#[derive(Clone, Debug)]
pub struct NewVfolder {
    /// Its id.
    pub id: VfolderId,
    /// Its name.
    pub name: String,
    /// See [`VfolderRow::host`].
    pub host: String,
    /// See [`VfolderRow::quota_scope_id`].
    pub quota_scope_id: String,
    /// What it is for.
    pub usage_mode: UsageMode,
    /// What members of its project may do with it.
    pub permission: FolderPermission,
    /// MiB.
    pub max_size: Option<i64>,
    /// When it is made.
    pub created_at: Timestamp,
    /// E-mail address of whoever makes it.
    pub creator: String,
    /// A path of the agents' own.
    pub unmanaged_path: Option<String>,
    /// Its owner: a user …
    pub user: Option<UserId>,
    /// … or a project.
    pub project: Option<ProjectId>,
    /// Whether it may be copied.
    pub cloneable: bool,
}

/// Changes to a folder; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct VfolderChanges {
    /// Its name.
    pub name: Option<String>,
    /// What members of its project may do with it.
    pub permission: Option<FolderPermission>,
    /// Whether it may be copied.
    pub cloneable: Option<bool>,
    /// MiB.
    pub max_size: Option<i64>,
    /// The user who owns it.
    pub user: Option<UserId>,
}

pub(crate) const COLUMNS: &str = "v.id, v.name, v.host, v.quota_scope_id, v.usage_mode, v.permission, v.max_size, v.created_at, \
                       v.last_used, v.creator, v.unmanaged_path, v.user_id, u.email AS user_email, v.project_id, \
                       p.name AS project_name, p.domain_name AS project_domain, v.cloneable, v.status";
pub(crate) const FROM: &str =
    "vfolders v LEFT JOIN users u ON u.id = v.user_id LEFT JOIN projects p ON p.id = v.project_id";

pub(crate) fn row(row: &Row) -> Result<VfolderRow> {
    Ok(VfolderRow {
        id: row.parse("id")?,
        name: row.get("name")?,
        host: row.get("host")?,
        quota_scope_id: row.get("quota_scope_id")?,
        usage_mode: row.parse("usage_mode")?,
        permission: row.parse("permission")?,
        max_size: row.get("max_size")?,
        created_at: Timestamp(row.get("created_at")?),
        last_used: row.get::<Option<i64>>("last_used")?.map(Timestamp),
        creator: row.get("creator")?,
        unmanaged_path: row.get("unmanaged_path")?,
        user: row.parse_opt("user_id")?,
        user_email: row.get("user_email")?,
        project: row.parse_opt("project_id")?,
        project_name: row.get("project_name")?,
        project_domain: row.get("project_domain")?,
        cloneable: row.get("cloneable")?,
        status: row.parse("status")?,
    })
}

/// Adds a folder.
///
/// # Errors
/// A foreign-key violation when the owner is gone.
pub async fn insert<S: Sql>(sql: &mut S, folder: &NewVfolder) -> Result<()> {
    let ownership = if folder.project.is_some() { OwnershipType::Group } else { OwnershipType::User };
    sql.execute(
        Stmt::new(
            "INSERT INTO vfolders (id, name, host, quota_scope_id, usage_mode, permission, max_size, created_at, \
             creator, unmanaged_path, ownership_type, user_id, project_id, cloneable, status, status_changed) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'ready', $8)",
        )
        .bind(folder.id.to_string())
        .bind(&folder.name)
        .bind(&folder.host)
        .bind(&folder.quota_scope_id)
        .bind(folder.usage_mode.as_str())
        .bind(folder.permission.as_str())
        .bind(folder.max_size)
        .bind(folder.created_at.micros())
        .bind(&folder.creator)
        .bind(folder.unmanaged_path.as_deref())
        .bind(ownership.as_str())
        .bind(folder.user.map(|u| u.to_string()))
        .bind(folder.project.map(|p| p.to_string()))
        .bind(folder.cloneable),
    )
    .await?;
    Ok(())
}

/// One folder.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, id: VfolderId) -> Result<Option<VfolderRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM {FROM} WHERE v.id = $1")).bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// The folders of a user, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_user<S: Sql>(sql: &mut S, user: UserId) -> Result<Vec<VfolderRow>> {
    let stmt =
        Stmt::assembled(format!("SELECT {COLUMNS} FROM {FROM} WHERE v.user_id = $1 ORDER BY v.created_at, v.id"));
    sql.fetch_all(stmt.bind(user.to_string())).await?.iter().map(row).collect()
}

/// The users' folders that others share with a user, with what it may do there.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn shared_with<S: Sql>(sql: &mut S, user: UserId) -> Result<Vec<(VfolderRow, FolderPermission)>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS}, g.permission AS granted FROM {FROM} \
         JOIN vfolder_permissions g ON g.vfolder_id = v.id AND g.user_id = $1 \
         WHERE v.project_id IS NULL AND v.user_id <> $1 ORDER BY v.created_at, v.id"
    ));
    let rows = sql.fetch_all(stmt.bind(user.to_string())).await?;
    rows.iter().map(|r| Ok((row(r)?, r.parse("granted")?))).collect()
}

/// Those of these users who have, as members, any folder whose name begins with a dot: sessions have those without asking.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn with_dot_folders<S: Sql>(sql: &mut S, users: &[UserId]) -> Result<HashSet<UserId>> {
    // Each part by an index of its own.
    let stmt = Stmt::among(
        "SELECT v.user_id AS id FROM vfolders v WHERE v.user_id IN {list} AND v.name LIKE '.%' \
         UNION SELECT g.user_id FROM vfolder_permissions g JOIN vfolders v ON v.id = g.vfolder_id \
         WHERE g.user_id IN {list} AND v.name LIKE '.%' \
         UNION SELECT m.user_id FROM project_members m JOIN vfolders v ON v.project_id = m.project_id \
         WHERE m.user_id IN {list} AND v.name LIKE '.%'",
        users,
    );
    sql.fetch_all(stmt).await?.iter().map(|row| row.parse("id")).collect()
}

/// Whose projects' folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectFolders {
    /// Of the projects that a user belongs to.
    Member(UserId),
    /// Of a domain's projects.
    Domain(String),
    /// Of all projects.
    All,
}

/// Projects' folders, with what was granted to `user` in particular.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_projects<S: Sql>(
    sql: &mut S,
    which: &ProjectFolders,
    user: UserId,
) -> Result<Vec<(VfolderRow, Option<FolderPermission>)>> {
    let (condition, key) = match which {
        ProjectFolders::Member(user) => {
            ("v.project_id IN (SELECT m.project_id FROM project_members m WHERE m.user_id = $2)", user.to_string())
        }
        ProjectFolders::Domain(domain) => ("p.domain_name = $2", domain.clone()),
        ProjectFolders::All => ("$2 = ''", String::new()),
    };
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS}, g.permission AS granted FROM {FROM} \
         LEFT JOIN vfolder_permissions g ON g.vfolder_id = v.id AND g.user_id = $1 \
         WHERE v.project_id IS NOT NULL AND {condition} ORDER BY v.created_at, v.id"
    ));
    let rows = sql.fetch_all(stmt.bind(user.to_string()).bind(key)).await?;
    rows.iter().map(|r| Ok((row(r)?, r.parse_opt("granted")?))).collect()
}

/// The projects' folders of this name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn project_folders_named<S: Sql>(sql: &mut S, name: &str) -> Result<Vec<VfolderRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE v.project_id IS NOT NULL AND v.name = $1 ORDER BY v.created_at, v.id"
    ));
    sql.fetch_all(stmt.bind(name)).await?.iter().map(row).collect()
}

/// The folders of a user or of a project.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn owned_by<S: Sql>(
    sql: &mut S,
    user: Option<UserId>,
    project: Option<ProjectId>,
) -> Result<Vec<VfolderRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE v.user_id = $1 OR v.project_id = $2 ORDER BY v.created_at, v.id"
    ));
    let stmt = stmt.bind(user.map(|u| u.to_string())).bind(project.map(|p| p.to_string()));
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Folders in one of the statuses of something under way, since before `before`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn stuck<S: Sql>(sql: &mut S, status: FolderStatus, before: Timestamp) -> Result<Vec<VfolderRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE v.status <> 'ready' AND v.status = $1 AND v.status_changed < $2 \
         ORDER BY v.status_changed LIMIT 100"
    ));
    sql.fetch_all(stmt.bind(status.as_str()).bind(before.micros())).await?.iter().map(row).collect()
}

/// How many folders a user owns.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn count_of_user<S: Sql>(sql: &mut S, user: UserId) -> Result<i64> {
    let stmt = Stmt::new("SELECT COUNT(*) AS n FROM vfolders WHERE user_id = $1").bind(user.to_string());
    sql.fetch_one(stmt).await?.get("n")
}

/// How many folders there are.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn count<S: Sql>(sql: &mut S) -> Result<i64> {
    sql.fetch_one(Stmt::new("SELECT COUNT(*) AS n FROM vfolders")).await?.get("n")
}

/// Makes others that add folders for this user wait until the transaction ends.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn lock_owner<S: Sql>(sql: &mut S, user: UserId) -> Result<()> {
    let stmt = Stmt::new("SELECT id FROM users WHERE id = $1").bind(user.to_string()).on_postgres("FOR UPDATE");
    sql.fetch_optional(stmt).await?;
    Ok(())
}

/// Changes a folder; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// A foreign-key violation for an unknown user.
pub async fn update<S: Sql>(sql: &mut S, id: VfolderId, changes: &VfolderChanges) -> Result<Option<u64>> {
    let update = Update::new("vfolders")
        .maybe("name", changes.name.as_deref())
        .maybe("permission", changes.permission.map(FolderPermission::as_str))
        .maybe("cloneable", changes.cloneable)
        .maybe("max_size", changes.max_size)
        .maybe("user_id", changes.user.map(|u| u.to_string()));
    if update.is_empty() {
        return Ok(None);
    }
    sql.execute(update.filter("id", id.to_string())).await.map(Some)
}

/// Says when a folder was used last.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_last_used<S: Sql>(sql: &mut S, id: VfolderId, at: Timestamp) -> Result<()> {
    let stmt = Stmt::new("UPDATE vfolders SET last_used = $2 WHERE id = $1");
    sql.execute(stmt.bind(id.to_string()).bind(at.micros())).await?;
    Ok(())
}

/// Moves a folder from one status to another; whether it was there and in the first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn change_status<S: Sql>(
    sql: &mut S,
    id: VfolderId,
    from: FolderStatus,
    to: FolderStatus,
    now: Timestamp,
) -> Result<bool> {
    let stmt = Stmt::new("UPDATE vfolders SET status = $3, status_changed = $4 WHERE id = $1 AND status = $2");
    let stmt = stmt.bind(id.to_string()).bind(from.as_str()).bind(to.as_str()).bind(now.micros());
    Ok(sql.execute(stmt).await? > 0)
}

/// Says that whatever is under way with a folder still is.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn touch<S: Sql>(sql: &mut S, id: VfolderId, status: FolderStatus, now: Timestamp) -> Result<()> {
    let stmt = Stmt::new("UPDATE vfolders SET status_changed = $3 WHERE id = $1 AND status = $2");
    sql.execute(stmt.bind(id.to_string()).bind(status.as_str()).bind(now.micros())).await?;
    Ok(())
}

/// Forgets a folder, with all that was granted on it; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete<S: Sql>(sql: &mut S, id: VfolderId) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM vfolders WHERE id = $1").bind(id.to_string())).await
}

/// Whether a session that isn't over has one of the folders.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn in_use<S: Sql>(sql: &mut S, folders: &[VfolderId]) -> Result<bool> {
    // A path is hexadecimal digits and a slash: nothing that LIKE or JSON would read otherwise.
    let stmt = Stmt::among(
        "SELECT s.id FROM vfolders v JOIN sessions s \
         ON s.vfolder_mounts LIKE '%\"' || v.quota_scope_id || '/' || REPLACE(v.id, '-', '') || '\"%' \
         WHERE v.id IN {list} AND s.status NOT IN ('TERMINATED', 'CANCELLED') LIMIT 1",
        folders,
    );
    Ok(sql.fetch_optional(stmt).await?.is_some())
}

/// Whether one of the users owns a folder of this name, or shares another user's.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn is_name_known<S: Sql>(sql: &mut S, users: &[UserId], name: &str) -> Result<bool> {
    let stmt = Stmt::among(
        "SELECT v.id FROM vfolders v WHERE v.name = $2 AND (v.user_id IN {list} OR (v.project_id IS NULL AND EXISTS \
         (SELECT 1 FROM vfolder_permissions g WHERE g.vfolder_id = v.id AND g.user_id IN {list}))) LIMIT 1",
        users,
    );
    Ok(sql.fetch_optional(stmt.bind(name)).await?.is_some())
}

/// What sessions that aren't over have mounted, one JSON list a session.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn mounted<S: Sql>(sql: &mut S) -> Result<Vec<serde_json::Value>> {
    let stmt = Stmt::new(
        "SELECT vfolder_mounts FROM sessions WHERE status NOT IN ('TERMINATED', 'CANCELLED') AND vfolder_mounts <> '[]'",
    );
    sql.fetch_all(stmt).await?.iter().map(|r| r.json("vfolder_mounts")).collect()
}
