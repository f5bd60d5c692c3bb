//! Domains: tenants, with limits of their own.

use quarterdeck_model::Timestamp;
use serde_json::Value as Json;

use crate::changes::{self, DOMAIN, Rows};
use crate::error::Result;
use crate::scaling_groups::{self, Associate};
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A domain.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainRow {
    /// Its name, which identifies it.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Timestamp,
    /// Slot → limit of all its users together, decimal texts.
    pub total_resource_slots: Json,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Json,
    /// Names of the registries whose images may be used.
    pub allowed_docker_registries: Vec<String>,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
}

/// Changes to a domain; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct DomainChanges {
    /// See [`DomainRow::name`].
    pub name: Option<String>,
    /// See [`DomainRow::description`].
    pub description: Option<String>,
    /// See [`DomainRow::is_active`].
    pub is_active: Option<bool>,
    /// See [`DomainRow::total_resource_slots`].
    pub total_resource_slots: Option<Json>,
    /// See [`DomainRow::allowed_vfolder_hosts`].
    pub allowed_vfolder_hosts: Option<Json>,
    /// See [`DomainRow::allowed_docker_registries`].
    pub allowed_docker_registries: Option<Vec<String>>,
    /// See [`DomainRow::integration_id`].
    pub integration_id: Option<String>,
}

const COLUMNS: &str = "name, description, is_active, created_at, modified_at, total_resource_slots, \
                       allowed_vfolder_hosts, allowed_docker_registries, integration_id";

fn row(row: &Row) -> Result<DomainRow> {
    Ok(DomainRow {
        name: row.get("name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        created_at: Timestamp(row.get("created_at")?),
        modified_at: Timestamp(row.get("modified_at")?),
        total_resource_slots: row.json("total_resource_slots")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
        allowed_docker_registries: row.json("allowed_docker_registries")?,
        integration_id: row.get("integration_id")?,
    })
}

/// One domain.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, name: &str) -> Result<Option<DomainRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM domains WHERE name = $1")).bind(name);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Those of the named domains that exist, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_names<S: Sql>(sql: &mut S, names: &[String]) -> Result<Vec<DomainRow>> {
    let stmt = Stmt::among(&format!("SELECT {COLUMNS} FROM domains WHERE name IN {{list}}"), names);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// All domains, or those that are in use or not, by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S, is_active: Option<bool>) -> Result<Vec<DomainRow>> {
    let stmt = match is_active {
        None => Stmt::assembled(format!("SELECT {COLUMNS} FROM domains ORDER BY name")),
        Some(on) => {
            Stmt::assembled(format!("SELECT {COLUMNS} FROM domains WHERE is_active = $1 ORDER BY name")).bind(on)
        }
    };
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Whether there is any domain.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn any<S: Sql>(sql: &mut S) -> Result<bool> {
    Ok(sql.fetch_optional(Stmt::new("SELECT name FROM domains LIMIT 1")).await?.is_some())
}

/// Adds a domain.
///
/// # Errors
/// A unique violation when the name is taken.
pub async fn insert<S: Sql>(sql: &mut S, domain: &DomainRow) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO domains (name, description, is_active, created_at, modified_at, total_resource_slots, \
         allowed_vfolder_hosts, allowed_docker_registries, integration_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&domain.name)
    .bind(domain.description.as_deref())
    .bind(domain.is_active)
    .bind(domain.created_at.micros())
    .bind(domain.modified_at.micros())
    .bind(&domain.total_resource_slots)
    .bind(&domain.allowed_vfolder_hosts)
    .bind(Json::from(domain.allowed_docker_registries.clone()))
    .bind(domain.integration_id.as_deref());
    changes::execute(sql, &DOMAIN, DOMAIN.row(&domain.name), stmt).await?;
    Ok(())
}

/// Changes a domain; how many there were (0 or 1).
///
/// # Errors
/// A unique violation when the new name is taken, a foreign-key one when users or sessions hold on to the old one.
pub async fn update<S: Sql>(sql: &mut S, name: &str, changes: &DomainChanges, now: Timestamp) -> Result<u64> {
    let update = Update::new("domains")
        .set("modified_at", now.micros())
        .maybe("name", changes.name.as_deref())
        .maybe("description", changes.description.as_deref())
        .maybe("is_active", changes.is_active)
        .maybe("total_resource_slots", changes.total_resource_slots.as_ref())
        .maybe("allowed_vfolder_hosts", changes.allowed_vfolder_hosts.as_ref())
        .maybe("allowed_docker_registries", changes.allowed_docker_registries.clone().map(Json::from))
        .maybe("integration_id", changes.integration_id.as_deref());
    let rows = match &changes.name {
        Some(other) => Rows::with("name IN ($1, $2)", name).and(other),
        None => DOMAIN.row(name),
    };
    changes::execute(sql, &DOMAIN, rows, update.filter("name", name)).await
}

/// What still uses a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainUse {
    /// Kernels that hold an agent's resources.
    pub active_kernels: i64,
    /// Users.
    pub users: i64,
    /// Projects.
    pub projects: i64,
}

/// What still uses a domain.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn usage<S: Sql>(sql: &mut S, name: &str) -> Result<DomainUse> {
    let row = sql
        .fetch_one(
            Stmt::new(
                "SELECT (SELECT COUNT(*) FROM kernels k JOIN sessions s ON s.id = k.session_id WHERE s.domain_name = $1 \
                 AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')) AS active_kernels, \
                 (SELECT COUNT(*) FROM users WHERE domain_name = $1) AS users, \
                 (SELECT COUNT(*) FROM projects WHERE domain_name = $1) AS projects",
            )
            .bind(name),
        )
        .await?;
    Ok(DomainUse {
        active_kernels: row.get("active_kernels")?,
        users: row.get("users")?,
        projects: row.get("projects")?,
    })
}

/// Removes a domain with its sessions; how many domains there were (0 or 1).
///
/// # Errors
/// A foreign-key violation when something else refers to it.
pub async fn delete<S: Sql>(sql: &mut S, name: &str) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM sessions WHERE domain_name = $1").bind(name)).await?;
    sql.execute(Stmt::new("DELETE FROM occupancy WHERE scope = 'domain' AND holder = $1").bind(name)).await?;
    scaling_groups::disassociate(sql, None, Associate::Domain(name)).await?;
    let stmt = Stmt::new("DELETE FROM domains WHERE name = $1").bind(name);
    changes::execute(sql, &DOMAIN, DOMAIN.row(name), stmt).await
}
