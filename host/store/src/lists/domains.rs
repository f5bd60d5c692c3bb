//! Domains.

use quarterdeck_model::Timestamp;
use serde_json::Value as Json;

use super::instant;
use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql};

const SOURCE: Source = Source {
    columns: "d.name, d.description, d.is_active, d.created_at, d.modified_at, d.total_resource_slots, \
              d.allowed_vfolder_hosts, d.allowed_docker_registries, d.integration_id",
    from: "domains d",
    count_from: "domains d",
    order: "d.name",
    unique: "d.name",
};

/// A domain.
#[derive(Clone, Debug)]
pub struct DomainItem {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// What it may occupy at once: slot → amount.
    pub total_resource_slots: Json,
    /// Storage host → what is allowed there.
    pub allowed_vfolder_hosts: Json,
    /// Registries whose images it may run.
    pub allowed_docker_registries: Vec<String>,
    /// A foreign system's id for it.
    pub integration_id: Option<String>,
}

fn read(row: &Row) -> Result<DomainItem> {
    Ok(DomainItem {
        name: row.get("name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        created_at: instant(row, "created_at")?,
        modified_at: instant(row, "modified_at")?,
        total_resource_slots: row.json("total_resource_slots")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
        allowed_docker_registries: row.json("allowed_docker_registries")?,
        integration_id: row.get("integration_id")?,
    })
}

/// Which domains: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub name: Option<String>,
    /// Active ones, or the others.
    pub is_active: Option<bool>,
}

/// The domains in scope, by name.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<DomainItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(name) = &scope.name {
        conditions.equal("d.name", name);
    }
    if let Some(is_active) = scope.is_active {
        conditions.equal("d.is_active", is_active);
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The scaling groups associated with domains: domain and scaling group.
///
/// # Errors
/// The database's.
pub async fn scaling_groups_of<S: Sql>(sql: &mut S, domains: &[String]) -> Result<Vec<(String, String)>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.any_of("domain_name", domains);
    let stmt = conditions
        .into_stmt("SELECT domain_name, scaling_group FROM scaling_group_domains", "ORDER BY domain_name, scaling_group");
    sql.fetch_all(stmt).await?.iter().map(|row| Ok((row.get("domain_name")?, row.get("scaling_group")?))).collect()
}
