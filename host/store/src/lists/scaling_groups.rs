//! Scaling groups.

use quarterdeck_model::{AccessKey, ProjectId, Timestamp};
use serde_json::Value as Json;

use super::instant;
use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql, Value};

const SOURCE: Source = Source {
    columns: "g.name, g.description, g.is_active, g.is_public, g.created_at, g.wsproxy_addr, g.driver, g.driver_opts, \
              g.scheduler, g.scheduler_opts, g.use_host_network",
    from: "scaling_groups g",
    count_from: "scaling_groups g",
    order: "g.name",
    unique: "g.name",
};

/// A scaling group.
#[derive(Clone, Debug)]
pub struct ScalingGroupItem {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Whether sessions may be put there.
    pub is_active: bool,
    /// Whether plain users see it.
    pub is_public: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where its proxy for services is.
    pub wsproxy_addr: Option<String>,
    /// What moves agents in and out.
    pub driver: String,
    /// The driver's options.
    pub driver_opts: Json,
    /// What places sessions.
    pub scheduler: String,
    /// The scheduler's options.
    pub scheduler_opts: Json,
    /// Whether sessions use their agents' networks.
    pub use_host_network: bool,
}

fn read(row: &Row) -> Result<ScalingGroupItem> {
    Ok(ScalingGroupItem {
        name: row.get("name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        is_public: row.get("is_public")?,
        created_at: instant(row, "created_at")?,
        wsproxy_addr: row.get("wsproxy_addr")?,
        driver: row.get("driver")?,
        driver_opts: row.json("driver_opts")?,
        scheduler: row.get("scheduler")?,
        scheduler_opts: row.json("scheduler_opts")?,
        use_host_network: row.get("use_host_network")?,
    })
}

/// Which scaling groups: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub name: Option<String>,
    /// Active ones, or the others.
    pub is_active: Option<bool>,
    /// Associated with this domain.
    pub domain: Option<String>,
    /// Associated with this project.
    pub project: Option<ProjectId>,
    /// Associated with this key pair.
    pub access_key: Option<AccessKey>,
}

/// The scaling groups in scope, by name.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<ScalingGroupItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(name) = &scope.name {
        conditions.equal("g.name", name);
    }
    if let Some(is_active) = scope.is_active {
        conditions.equal("g.is_active", is_active);
    }
    if let Some(domain) = &scope.domain {
        conditions.add(
            "EXISTS (SELECT 1 FROM scaling_group_domains x WHERE x.scaling_group = g.name AND x.domain_name = ?)",
            [Value::from(domain)],
        );
    }
    if let Some(project) = scope.project {
        conditions.add(
            "EXISTS (SELECT 1 FROM scaling_group_projects x WHERE x.scaling_group = g.name AND x.project_id = ?)",
            [Value::from(project.to_string())],
        );
    }
    if let Some(access_key) = &scope.access_key {
        conditions.add(
            "EXISTS (SELECT 1 FROM scaling_group_keypairs x WHERE x.scaling_group = g.name AND x.access_key = ?)",
            [Value::from(access_key.as_str())],
        );
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The active scaling groups that a user may use in whatever way: through the domain, a project that the user is a
/// member of, or the key pair.
///
/// # Errors
/// The database's.
pub async fn reachable<S: Sql>(
    sql: &mut S,
    domain: &str,
    user: quarterdeck_model::UserId,
    access_key: &AccessKey,
) -> Result<Vec<String>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.equal("g.is_active", true);
    conditions.add(
        "(EXISTS (SELECT 1 FROM scaling_group_domains x WHERE x.scaling_group = g.name AND x.domain_name = ?) \
         OR EXISTS (SELECT 1 FROM scaling_group_projects x JOIN project_members m ON m.project_id = x.project_id \
         WHERE x.scaling_group = g.name AND m.user_id = ?) \
         OR EXISTS (SELECT 1 FROM scaling_group_keypairs x WHERE x.scaling_group = g.name AND x.access_key = ?))",
        [Value::from(domain), Value::from(user.to_string()), Value::from(access_key.as_str())],
    );
    let stmt = conditions.into_stmt("SELECT g.name FROM scaling_groups g", "ORDER BY g.name");
    sql.fetch_all(stmt).await?.iter().map(|row| row.get("name")).collect()
}
