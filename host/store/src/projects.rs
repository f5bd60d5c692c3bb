//! Projects (the API calls them groups) and their members.

use quarterdeck_model::{ProjectId, Timestamp, UserId};
use serde_json::Value as Json;

use crate::changes::{self, PROJECT, PROJECT_MEMBER, Rows};
use crate::error::Result;
use crate::scaling_groups::{self, Associate};
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A project.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique in its domain.
    pub name: String,
    /// Its domain.
    pub domain_name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Slot → limit of all its sessions together, decimal texts.
    pub total_resource_slots: Json,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Json,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
}

/// Changes to a project; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ProjectChanges {
    /// See [`ProjectRow::name`].
    pub name: Option<String>,
    /// See [`ProjectRow::domain_name`].
    pub domain_name: Option<String>,
    /// See [`ProjectRow::description`].
    pub description: Option<String>,
    /// See [`ProjectRow::is_active`].
    pub is_active: Option<bool>,
    /// See [`ProjectRow::total_resource_slots`].
    pub total_resource_slots: Option<Json>,
    /// See [`ProjectRow::allowed_vfolder_hosts`].
    pub allowed_vfolder_hosts: Option<Json>,
    /// See [`ProjectRow::integration_id`]; `Some(None)` unsets.
    pub integration_id: Option<Option<String>>,
}

const COLUMNS: &str = "p.id, p.name, p.domain_name, p.description, p.is_active, p.created_at, p.modified_at, \
                       p.total_resource_slots, p.allowed_vfolder_hosts, p.integration_id";

fn row(row: &Row) -> Result<ProjectRow> {
    Ok(ProjectRow {
        id: row.parse("id")?,
        name: row.get("name")?,
        domain_name: row.get("domain_name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        created_at: Timestamp(row.get("created_at")?),
        modified_at: Timestamp(row.get("modified_at")?),
        total_resource_slots: row.json("total_resource_slots")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
        integration_id: row.get("integration_id")?,
    })
}

/// One project.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, id: ProjectId) -> Result<Option<ProjectRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM projects p WHERE p.id = $1")).bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Those of the projects that exist, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_ids<S: Sql>(sql: &mut S, ids: &[ProjectId]) -> Result<Vec<ProjectRow>> {
    let stmt = Stmt::among(&format!("SELECT {COLUMNS} FROM projects p WHERE p.id IN {{list}}"), ids);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The project of this name in a domain.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_name<S: Sql>(sql: &mut S, domain: &str, name: &str) -> Result<Option<ProjectRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM projects p WHERE p.domain_name = $1 AND p.name = $2"))
        .bind(domain)
        .bind(name);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// The projects of this name in whatever domain.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn ids_named<S: Sql>(sql: &mut S, name: &str) -> Result<Vec<ProjectId>> {
    let rows = sql.fetch_all(Stmt::new("SELECT id FROM projects WHERE name = $1").bind(name)).await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Projects by the given properties (`None` = any), by domain and name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(
    sql: &mut S,
    domain: Option<&str>,
    name: Option<&str>,
    is_active: Option<bool>,
) -> Result<Vec<ProjectRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM projects p WHERE (CAST($1 AS TEXT) IS NULL OR p.domain_name = $1) \
         AND (CAST($2 AS TEXT) IS NULL OR p.name = $2) \
         AND (CAST($3 AS BOOLEAN) IS NULL OR p.is_active = $3) ORDER BY p.domain_name, p.name"
    ))
    .bind(domain)
    .bind(name)
    .bind(is_active);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The projects a user belongs to, by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_user<S: Sql>(sql: &mut S, user: UserId) -> Result<Vec<ProjectRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM projects p JOIN project_members m ON m.project_id = p.id WHERE m.user_id = $1 \
         ORDER BY p.name, p.id"
    ))
    .bind(user.to_string());
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The projects of several users, one pair a membership.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_users<S: Sql>(sql: &mut S, users: &[UserId]) -> Result<Vec<(UserId, ProjectRow)>> {
    let stmt = Stmt::among(
        &format!(
            "SELECT m.user_id, {COLUMNS} FROM projects p JOIN project_members m ON m.project_id = p.id \
             WHERE m.user_id IN {{list}} ORDER BY p.name, p.id"
        ),
        users,
    );
    sql.fetch_all(stmt).await?.iter().map(|r| Ok((r.parse("user_id")?, row(r)?))).collect()
}

/// Whether a user belongs to a project.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn is_member<S: Sql>(sql: &mut S, project: ProjectId, user: UserId) -> Result<bool> {
    let stmt = Stmt::new("SELECT user_id FROM project_members WHERE project_id = $1 AND user_id = $2")
        .bind(project.to_string())
        .bind(user.to_string());
    Ok(sql.fetch_optional(stmt).await?.is_some())
}

/// Adds a project.
///
/// # Errors
/// A unique violation when the name is taken in the domain, a foreign-key one when there is no such domain.
pub async fn insert<S: Sql>(sql: &mut S, project: &ProjectRow) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO projects (id, name, domain_name, description, is_active, created_at, modified_at, \
         total_resource_slots, allowed_vfolder_hosts, integration_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(project.id.to_string())
    .bind(&project.name)
    .bind(&project.domain_name)
    .bind(project.description.as_deref())
    .bind(project.is_active)
    .bind(project.created_at.micros())
    .bind(project.modified_at.micros())
    .bind(&project.total_resource_slots)
    .bind(&project.allowed_vfolder_hosts)
    .bind(project.integration_id.as_deref());
    changes::execute(sql, &PROJECT, PROJECT.row(project.id.to_string()), stmt).await?;
    Ok(())
}

/// Changes a project; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// As [`insert`].
pub async fn update<S: Sql>(
    sql: &mut S,
    id: ProjectId,
    changes: &ProjectChanges,
    now: Timestamp,
) -> Result<Option<u64>> {
    let update = Update::new("projects")
        .maybe("name", changes.name.as_deref())
        .maybe("domain_name", changes.domain_name.as_deref())
        .maybe("description", changes.description.as_deref())
        .maybe("is_active", changes.is_active)
        .maybe("total_resource_slots", changes.total_resource_slots.as_ref())
        .maybe("allowed_vfolder_hosts", changes.allowed_vfolder_hosts.as_ref())
        .maybe("integration_id", changes.integration_id.clone());
    if update.is_empty() {
        return Ok(None);
    }
    update.set("modified_at", now.micros()).run(sql, &PROJECT, id.to_string()).await.map(Some)
}

/// Makes those of the users members that belong to the project's domain; how many they were.
///
/// # Errors
/// A unique violation when one of them is a member already.
pub async fn add_members<S: Sql>(sql: &mut S, project: ProjectId, users: &[UserId]) -> Result<u64> {
    let stmt = Stmt::among(
        "INSERT INTO project_members (project_id, user_id) \
         SELECT p.id, u.id FROM projects p JOIN users u ON u.domain_name = p.domain_name \
         WHERE p.id = $2 AND u.id IN {list}",
        users,
    );
    changes::execute(sql, &PROJECT_MEMBER, members(project, users), stmt.bind(project.to_string())).await
}

/// Ends memberships; how many there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn remove_members<S: Sql>(sql: &mut S, project: ProjectId, users: &[UserId]) -> Result<u64> {
    let stmt = Stmt::among("DELETE FROM project_members WHERE project_id = $2 AND user_id IN {list}", users);
    changes::execute(sql, &PROJECT_MEMBER, members(project, users), stmt.bind(project.to_string())).await
}

fn members(project: ProjectId, users: &[UserId]) -> Rows {
    Rows::among("user_id IN {list} AND project_id = $2", users).and(project.to_string())
}

/// Makes a user a member of those of the projects that belong to `domain`; the rest is ignored.
///
/// # Errors
/// A foreign-key violation for an unknown user.
pub async fn join_all<S: Sql>(sql: &mut S, user: UserId, domain: &str, projects: &[ProjectId]) -> Result<u64> {
    let stmt = Stmt::among(
        "INSERT INTO project_members (project_id, user_id) SELECT id, $3 FROM projects \
         WHERE domain_name = $2 AND id IN {list} ON CONFLICT (project_id, user_id) DO NOTHING",
        projects,
    );
    changes::execute(sql, &PROJECT_MEMBER, memberships(user), stmt.bind(domain).bind(user.to_string())).await
}

fn memberships(user: UserId) -> Rows {
    Rows::with("user_id = $1", user.to_string())
}

/// Ends all memberships of a user.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn leave_all<S: Sql>(sql: &mut S, user: UserId) -> Result<u64> {
    let stmt = Stmt::new("DELETE FROM project_members WHERE user_id = $1").bind(user.to_string());
    changes::execute(sql, &PROJECT_MEMBER, memberships(user), stmt).await
}

/// Makes a user a member of those of the projects that belong to `domain`, and of nothing else.
///
/// # Errors
/// As [`join_all`].
pub async fn move_to<S: Sql>(sql: &mut S, user: UserId, domain: &str, projects: &[ProjectId]) -> Result<()> {
    let stmt = Stmt::among(
        "DELETE FROM project_members WHERE user_id = $3 AND project_id NOT IN \
         (SELECT id FROM projects WHERE domain_name = $2 AND id IN {list})",
        projects,
    );
    let stmt = stmt.bind(domain).bind(user.to_string());
    changes::execute(sql, &PROJECT_MEMBER, memberships(user), stmt).await?;
    join_all(sql, user, domain, projects).await?;
    Ok(())
}

/// How many kernels of a project hold an agent's resources.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn active_kernels<S: Sql>(sql: &mut S, id: ProjectId) -> Result<i64> {
    sql.fetch_one(
        Stmt::new(
            "SELECT COUNT(*) AS n FROM kernels k JOIN sessions s ON s.id = k.session_id WHERE s.project_id = $1 \
             AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')",
        )
        .bind(id.to_string()),
    )
    .await?
    .get("n")
}

/// Removes a project with its sessions; how many projects there were (0 or 1).
///
/// # Errors
/// A foreign-key violation when something else refers to it.
pub async fn delete<S: Sql>(sql: &mut S, project: ProjectId) -> Result<u64> {
    let id = project.to_string();
    sql.execute(Stmt::new("DELETE FROM sessions WHERE project_id = $1").bind(&id)).await?;
    sql.execute(Stmt::new("DELETE FROM occupancy WHERE scope = 'project' AND holder = $1").bind(&id)).await?;
    // What goes along by itself wouldn't be told to the audit.
    let members = Stmt::new("DELETE FROM project_members WHERE project_id = $1").bind(&id);
    changes::execute(sql, &PROJECT_MEMBER, Rows::with("project_id = $1", &id), members).await?;
    scaling_groups::disassociate(sql, None, Associate::Project(project)).await?;
    let stmt = Stmt::new("DELETE FROM projects WHERE id = $1").bind(&id);
    changes::execute(sql, &PROJECT, PROJECT.row(&id), stmt).await
}
