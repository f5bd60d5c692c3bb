//! Projects, which the API calls groups.

use quarterdeck_model::{ProjectId, Timestamp, UserId};
use serde_json::Value as Json;

use super::instant;
use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql, Value};

const SOURCE: Source = Source {
    columns: "p.id, p.name, p.description, p.is_active, p.created_at, p.modified_at, p.domain_name, \
              p.total_resource_slots, p.allowed_vfolder_hosts, p.integration_id",
    from: "projects p",
    count_from: "projects p",
    order: "p.name, p.domain_name, p.id",
    unique: "p.id",
};

/// A project.
#[derive(Clone, Debug)]
pub struct ProjectItem {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique within its domain.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Its domain.
    pub domain_name: String,
    /// What it may occupy at once: slot → amount.
    pub total_resource_slots: Json,
    /// Storage host → what is allowed there.
    pub allowed_vfolder_hosts: Json,
    /// A foreign system's id for it.
    pub integration_id: Option<String>,
}

fn read(row: &Row) -> Result<ProjectItem> {
    Ok(ProjectItem {
        id: row.parse("id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        created_at: instant(row, "created_at")?,
        modified_at: instant(row, "modified_at")?,
        domain_name: row.get("domain_name")?,
        total_resource_slots: row.json("total_resource_slots")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
        integration_id: row.get("integration_id")?,
    })
}

/// Which projects: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub id: Option<ProjectId>,
    /// With this name.
    pub name: Option<String>,
    /// Of this domain.
    pub domain: Option<String>,
    /// Active ones, or the others.
    pub is_active: Option<bool>,
    /// That this user is a member of.
    pub member: Option<UserId>,
}

/// The projects in scope, by name.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<ProjectItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = scope.id {
        conditions.equal("p.id", id.to_string());
    }
    if let Some(name) = &scope.name {
        conditions.equal("p.name", name);
    }
    if let Some(domain) = &scope.domain {
        conditions.equal("p.domain_name", domain);
    }
    if let Some(is_active) = scope.is_active {
        conditions.equal("p.is_active", is_active);
    }
    if let Some(user) = scope.member {
        conditions.add(
            "EXISTS (SELECT 1 FROM project_members m WHERE m.project_id = p.id AND m.user_id = ?)",
            [Value::from(user.to_string())],
        );
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The scaling groups associated with projects themselves: project and scaling group.
///
/// # Errors
/// The database's.
pub async fn scaling_groups_of<S: Sql>(sql: &mut S, projects: &[ProjectId]) -> Result<Vec<(ProjectId, String)>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.any_of("project_id", projects.iter().map(ToString::to_string));
    let stmt = conditions
        .into_stmt("SELECT project_id, scaling_group FROM scaling_group_projects", "ORDER BY project_id, scaling_group");
    sql.fetch_all(stmt).await?.iter().map(|row| Ok((row.parse("project_id")?, row.get("scaling_group")?))).collect()
}
