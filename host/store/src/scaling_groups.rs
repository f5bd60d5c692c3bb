//! Scaling groups: sets of agents with a scheduler, and who may use them.

use quarterdeck_model::{AccessKey, ProjectId, Timestamp};
use serde_json::Value as Json;

use crate::changes::{
    self, Rows, SCALING_GROUP, SCALING_GROUP_DOMAIN, SCALING_GROUP_KEYPAIR, SCALING_GROUP_PROJECT, Watched,
};
use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A scaling group.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalingGroupRow {
    /// Its name, which identifies it.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: bool,
    /// Whether ordinary sessions may use it.
    pub is_public: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// The application proxy of its sessions.
    pub wsproxy_addr: Option<String>,
    /// What the host shows to that proxy.
    pub wsproxy_api_token: Option<String>,
    /// Kept for clients; `static`.
    pub driver: String,
    /// Kept for clients.
    pub driver_opts: Json,
    /// The name of its scheduler plugin.
    pub scheduler: String,
    /// The scheduler's options, as written by an administrator.
    pub scheduler_opts: Json,
    /// Sessions share the agent's network.
    pub use_host_network: bool,
}

/// Changes to a scaling group; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ScalingGroupChanges {
    /// See [`ScalingGroupRow::description`].
    pub description: Option<String>,
    /// See [`ScalingGroupRow::is_active`].
    pub is_active: Option<bool>,
    /// See [`ScalingGroupRow::is_public`].
    pub is_public: Option<bool>,
    /// See [`ScalingGroupRow::wsproxy_addr`].
    pub wsproxy_addr: Option<String>,
    /// See [`ScalingGroupRow::wsproxy_api_token`].
    pub wsproxy_api_token: Option<String>,
    /// See [`ScalingGroupRow::driver`].
    pub driver: Option<String>,
    /// See [`ScalingGroupRow::driver_opts`].
    pub driver_opts: Option<Json>,
    /// See [`ScalingGroupRow::scheduler`].
    pub scheduler: Option<String>,
    /// See [`ScalingGroupRow::scheduler_opts`].
    pub scheduler_opts: Option<Json>,
    /// See [`ScalingGroupRow::use_host_network`].
    pub use_host_network: Option<bool>,
}

fn row(row: &Row) -> Result<ScalingGroupRow> {
    Ok(ScalingGroupRow {
        name: row.get("name")?,
        description: row.get("description")?,
        is_active: row.get("is_active")?,
        is_public: row.get("is_public")?,
        created_at: Timestamp(row.get("created_at")?),
        wsproxy_addr: row.get("wsproxy_addr")?,
        wsproxy_api_token: row.get("wsproxy_api_token")?,
        driver: row.get("driver")?,
        driver_opts: row.json("driver_opts")?,
        scheduler: row.get("scheduler")?,
        scheduler_opts: row.json("scheduler_opts")?,
        use_host_network: row.get("use_host_network")?,
    })
}

/// By name. Sorted here, since collations differ between databases and the order decides which group is taken.
fn rows(rows: &[Row]) -> Result<Vec<ScalingGroupRow>> {
    let mut rows = rows.iter().map(row).collect::<Result<Vec<_>>>()?;
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// One scaling group.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, name: &str) -> Result<Option<ScalingGroupRow>> {
    let stmt = Stmt::new("SELECT * FROM scaling_groups WHERE name = $1").bind(name);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// All scaling groups, or those that are in use or not, by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S, is_active: Option<bool>) -> Result<Vec<ScalingGroupRow>> {
    let stmt = match is_active {
        None => Stmt::new("SELECT * FROM scaling_groups"),
        Some(on) => Stmt::new("SELECT * FROM scaling_groups WHERE is_active = $1").bind(on),
    };
    rows(&sql.fetch_all(stmt).await?)
}

/// The scaling groups that a domain, a project or a key pair may use (associated with any of them), by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn associated<S: Sql>(
    sql: &mut S,
    domain: Option<&str>,
    project: Option<ProjectId>,
    access_key: Option<&AccessKey>,
) -> Result<Vec<ScalingGroupRow>> {
    let stmt = Stmt::new(
        "SELECT * FROM scaling_groups WHERE name IN (\
         SELECT scaling_group FROM scaling_group_domains WHERE domain_name = $1 \
         UNION SELECT scaling_group FROM scaling_group_projects WHERE project_id = $2 \
         UNION SELECT scaling_group FROM scaling_group_keypairs WHERE access_key = $3)",
    )
    .bind(domain)
    .bind(project.map(|p| p.to_string()))
    .bind(access_key.map(AccessKey::as_str));
    rows(&sql.fetch_all(stmt).await?)
}

/// Domain and scaling group of each association with one of the domains.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn names_of_domains<S: Sql>(sql: &mut S, domains: &[String]) -> Result<Vec<(String, String)>> {
    let stmt = Stmt::among(
        "SELECT domain_name, scaling_group FROM scaling_group_domains WHERE domain_name IN {list} \
         ORDER BY domain_name, scaling_group",
        domains,
    );
    sql.fetch_all(stmt).await?.iter().map(|r| Ok((r.get("domain_name")?, r.get("scaling_group")?))).collect()
}

/// Project and scaling group of each association with one of the projects.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn names_of_projects<S: Sql>(sql: &mut S, projects: &[ProjectId]) -> Result<Vec<(ProjectId, String)>> {
    let stmt = Stmt::among(
        "SELECT project_id, scaling_group FROM scaling_group_projects WHERE project_id IN {list} \
         ORDER BY project_id, scaling_group",
        projects,
    );
    sql.fetch_all(stmt).await?.iter().map(|r| Ok((r.parse("project_id")?, r.get("scaling_group")?))).collect()
}

/// Who may use a scaling group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Associates {
    /// Names of domains.
    pub domains: Vec<String>,
    /// Ids and names of projects.
    pub projects: Vec<(ProjectId, String)>,
    /// Key pairs.
    pub access_keys: Vec<String>,
}

/// Who may use a scaling group.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn associates<S: Sql>(sql: &mut S, group: &str) -> Result<Associates> {
    let domains =
        Stmt::new("SELECT domain_name FROM scaling_group_domains WHERE scaling_group = $1 ORDER BY domain_name");
    let projects = Stmt::new(
        "SELECT p.id, p.name FROM scaling_group_projects g JOIN projects p ON p.id = g.project_id \
         WHERE g.scaling_group = $1 ORDER BY p.name, p.id",
    );
    let keys = Stmt::new("SELECT access_key FROM scaling_group_keypairs WHERE scaling_group = $1 ORDER BY access_key");
    let texts = |rows: Vec<Row>, column: &str| rows.iter().map(|r| r.get(column)).collect::<Result<Vec<String>>>();
    Ok(Associates {
        domains: texts(sql.fetch_all(domains.bind(group)).await?, "domain_name")?,
        projects: sql
            .fetch_all(projects.bind(group))
            .await?
            .iter()
            .map(|r| Ok((r.parse("id")?, r.get("name")?)))
            .collect::<Result<_>>()?,
        access_keys: texts(sql.fetch_all(keys.bind(group)).await?, "access_key")?,
    })
}

/// Adds a scaling group.
///
/// # Errors
/// A unique violation when the name is taken.
pub async fn insert<S: Sql>(sql: &mut S, group: &ScalingGroupRow) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO scaling_groups (name, description, is_active, is_public, created_at, wsproxy_addr, \
         wsproxy_api_token, driver, driver_opts, scheduler, scheduler_opts, use_host_network) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(&group.name)
    .bind(group.description.as_deref())
    .bind(group.is_active)
    .bind(group.is_public)
    .bind(group.created_at.micros())
    .bind(group.wsproxy_addr.as_deref())
    .bind(group.wsproxy_api_token.as_deref())
    .bind(&group.driver)
    .bind(&group.driver_opts)
    .bind(&group.scheduler)
    .bind(&group.scheduler_opts)
    .bind(group.use_host_network);
    changes::execute(sql, &SCALING_GROUP, SCALING_GROUP.row(&group.name), stmt).await?;
    Ok(())
}

/// Changes a scaling group; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn update<S: Sql>(sql: &mut S, name: &str, changes: &ScalingGroupChanges) -> Result<Option<u64>> {
    let update = Update::new("scaling_groups")
        .maybe("description", changes.description.as_deref())
        .maybe("is_active", changes.is_active)
        .maybe("is_public", changes.is_public)
        .maybe("wsproxy_addr", changes.wsproxy_addr.as_deref())
        .maybe("wsproxy_api_token", changes.wsproxy_api_token.as_deref())
        .maybe("driver", changes.driver.as_deref())
        .maybe("driver_opts", changes.driver_opts.as_ref())
        .maybe("scheduler", changes.scheduler.as_deref())
        .maybe("scheduler_opts", changes.scheduler_opts.as_ref())
        .maybe("use_host_network", changes.use_host_network);
    if update.is_empty() {
        return Ok(None);
    }
    update.run(sql, &SCALING_GROUP, name).await.map(Some)
}

/// Removes a scaling group with its associations; how many there were (0 or 1).
///
/// # Errors
/// A foreign-key violation while agents or sessions refer to it.
pub async fn delete<S: Sql>(sql: &mut S, name: &str) -> Result<u64> {
    // What goes along by itself wouldn't be told to the audit.
    for what in [&SCALING_GROUP_DOMAIN, &SCALING_GROUP_PROJECT, &SCALING_GROUP_KEYPAIR] {
        let stmt = Stmt::assembled(format!("DELETE FROM {} WHERE scaling_group = $1", what.table())).bind(name);
        changes::execute(sql, what, Rows::with("scaling_group = $1", name), stmt).await?;
    }
    let stmt = Stmt::new("DELETE FROM scaling_groups WHERE name = $1").bind(name);
    changes::execute(sql, &SCALING_GROUP, SCALING_GROUP.row(name), stmt).await
}

/// Whom a scaling group is associated with.
#[derive(Clone, Copy, Debug)]
pub enum Associate<'a> {
    /// A domain.
    Domain(&'a str),
    /// A project.
    Project(ProjectId),
    /// A key pair.
    Keypair(&'a AccessKey),
}

impl Associate<'_> {
    fn table(self) -> (&'static Watched, &'static str, String) {
        match self {
            Associate::Domain(name) => (&SCALING_GROUP_DOMAIN, "domain_name", name.to_owned()),
            Associate::Project(id) => (&SCALING_GROUP_PROJECT, "project_id", id.to_string()),
            Associate::Keypair(key) => (&SCALING_GROUP_KEYPAIR, "access_key", key.to_string()),
        }
    }

    /// The association with a group, or with `None` all of the holder.
    fn rows(self, group: Option<&str>) -> Rows {
        let (_, column, holder) = self.table();
        let rows = Rows::with(
            match (column, group) {
                ("domain_name", None) => "domain_name = $1",
                ("domain_name", Some(_)) => "domain_name = $1 AND scaling_group = $2",
                ("project_id", None) => "project_id = $1",
                ("project_id", Some(_)) => "project_id = $1 AND scaling_group = $2",
                (_, None) => "access_key = $1",
                (_, Some(_)) => "access_key = $1 AND scaling_group = $2",
            },
            holder,
        );
        group.into_iter().fold(rows, Rows::and)
    }
}

/// Lets somebody use a scaling group.
///
/// # Errors
/// A unique violation when it is so already, a foreign-key one when one of the two is unknown.
pub async fn associate<S: Sql>(sql: &mut S, group: &str, with: Associate<'_>) -> Result<()> {
    let (what, column, holder) = with.table();
    let table = what.table();
    let stmt = Stmt::assembled(format!("INSERT INTO {table} (scaling_group, {column}) VALUES ($1, $2)"));
    changes::execute(sql, what, with.rows(Some(group)), stmt.bind(group).bind(holder)).await?;
    Ok(())
}

/// As [`associate`], but fine when it is so already.
///
/// # Errors
/// A foreign-key violation when one of the two is unknown.
pub async fn ensure_associated<S: Sql>(sql: &mut S, group: &str, with: Associate<'_>) -> Result<()> {
    let (what, column, holder) = with.table();
    let table = what.table();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO {table} (scaling_group, {column}) VALUES ($1, $2) ON CONFLICT (scaling_group, {column}) DO NOTHING"
    ));
    changes::execute(sql, what, with.rows(Some(group)), stmt.bind(group).bind(holder)).await?;
    Ok(())
}

/// Ends an association, or with `group` `None` all of the holder; how many there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn disassociate<S: Sql>(sql: &mut S, group: Option<&str>, with: Associate<'_>) -> Result<u64> {
    let (what, column, holder) = with.table();
    let table = what.table();
    let stmt = match group {
        Some(group) => Stmt::assembled(format!("DELETE FROM {table} WHERE {column} = $1 AND scaling_group = $2"))
            .bind(holder)
            .bind(group),
        None => Stmt::assembled(format!("DELETE FROM {table} WHERE {column} = $1")).bind(holder),
    };
    changes::execute(sql, what, with.rows(group), stmt).await
}
