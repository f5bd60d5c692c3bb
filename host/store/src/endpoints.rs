//! Model services (the API calls them endpoints) and the routes to their sessions.

mod routes;

use indexmap::IndexMap;
use quarterdeck_model::service::ServiceDefinition;
use quarterdeck_model::{ClusterMode, EndpointId, ImageId, ProjectId, Timestamp, UserId, VfolderId};
use serde_json::Value as Json;

use crate::error::Result;
use crate::listing::{Conditions, Listing, Page, Source};
use crate::revisions;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

pub use routes::{
    Moved, NewRoute, Reached, RouteRow, RouteScope, RouteState, forget as forget_routes, insert as insert_routes,
    of_endpoints, page as route_page, reached, route, select as select_routes, set_ratio, set_statuses, states,
};

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointRow {
    /// Its id.
    pub id: EndpointId,
    /// Its name, unique among all.
    pub name: String,
    /// Who made it.
    pub created_user: UserId,
    /// Whose sessions serve it.
    pub session_owner: UserId,
    /// How many sessions it should have; negative: its end was asked for.
    pub desired_session_count: i64,
    /// The image's canonical name.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The folder with the model.
    pub model: Option<VfolderId>,
    /// Where that appears.
    pub model_mount_destination: String,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// Where its sessions run.
    pub scaling_group: String,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// What its sessions run, unless the model's definition says.
    pub startup_command: Option<String>,
    /// Runs in each kernel first.
    pub bootstrap_script: Option<String>,
    /// Told about the lives of its sessions.
    pub callback_url: Option<String>,
    /// Environment variables.
    pub environ: IndexMap<String, String>,
    /// Whether anybody may call it.
    pub open_to_public: bool,
    /// What each session asks for, as it was requested.
    pub resource_slots: Json,
    /// Options such as `shmem`.
    pub resource_opts: Json,
    /// Whether a session's kernels share an agent.
    pub cluster_mode: ClusterMode,
    /// Kernels of a session.
    pub cluster_size: i64,
    /// Where it is reached.
    pub url: Option<String>,
    /// How its model is served.
    pub definition: Option<ServiceDefinition>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Sessions that failed in a row.
    pub failures: i64,
    /// Before when no further session is made.
    pub retry_at: Option<Timestamp>,
    /// Why the last session failed.
    pub status_info: Option<String>,
    /// SHA-256 of what the coordinator was told last.
    pub told: Option<String>,
}

impl EndpointRow {
    /// Whether its end was asked for.
    pub fn is_ending(&self) -> bool {
        self.desired_session_count < 0
    }
}

/// A service to be stored.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// The service; names of the image don't count, [`NewEndpoint::image_id`] does.
    pub row: EndpointRow,
    /// Its image.
    pub image_id: ImageId,
}

const SOURCE: Source = Source {
    columns: "e.id, e.name, e.created_user, e.session_owner, e.desired_session_count, i.name AS image, i.architecture, \
              e.model, e.model_mount_destination, e.domain_name, e.project_id, e.scaling_group, e.tag, \
              e.startup_command, e.bootstrap_script, e.callback_url, e.environ, e.open_to_public, e.resource_slots, \
              e.resource_opts, e.cluster_mode, e.cluster_size, e.url, e.definition, e.created_at, e.failures, e.retry_at, \
              e.status_info, e.told",
    from: "endpoints e JOIN images i ON i.id = e.image_id",
    count_from: "endpoints e",
    order: "e.created_at, e.id",
    unique: "e.id",
};

fn read(row: &Row) -> Result<EndpointRow> {
    Ok(EndpointRow {
        id: row.parse("id")?,
        name: row.get("name")?,
        created_user: row.parse("created_user")?,
        session_owner: row.parse("session_owner")?,
        desired_session_count: row.get("desired_session_count")?,
        image: row.get("image")?,
        architecture: row.get("architecture")?,
        model: row.parse_opt("model")?,
        model_mount_destination: row.get("model_mount_destination")?,
        domain_name: row.get("domain_name")?,
        project_id: row.parse("project_id")?,
        scaling_group: row.get("scaling_group")?,
        tag: row.get("tag")?,
        startup_command: row.get("startup_command")?,
        bootstrap_script: row.get("bootstrap_script")?,
        callback_url: row.get("callback_url")?,
        environ: row.json("environ")?,
        open_to_public: row.get("open_to_public")?,
        resource_slots: row.json("resource_slots")?,
        resource_opts: row.json("resource_opts")?,
        cluster_mode: row.parse("cluster_mode")?,
        cluster_size: row.get("cluster_size")?,
        url: row.get("url")?,
        definition: row.json_opt("definition")?,
        created_at: Timestamp(row.get("created_at")?),
        failures: row.get("failures")?,
        retry_at: row.get::<Option<i64>>("retry_at")?.map(Timestamp),
        status_info: row.get("status_info")?,
        told: row.get("told")?,
    })
}

/// Adds a service.
///
/// # Errors
/// A violation when the name is taken or something that it refers to is gone.
pub async fn insert<S: Sql>(sql: &mut S, new: &NewEndpoint) -> Result<()> {
    let row = &new.row;
    let environ = serde_json::to_value(&row.environ).unwrap_or_default();
    let definition = row.definition.as_ref().and_then(|d| serde_json::to_value(d).ok());
    sql.execute(
        Stmt::new(
            "INSERT INTO endpoints (id, name, created_user, session_owner, desired_session_count, image_id, model, \
             model_mount_destination, domain_name, project_id, scaling_group, tag, startup_command, bootstrap_script, \
             callback_url, environ, open_to_public, resource_slots, resource_opts, cluster_mode, cluster_size, url, \
             definition, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
             $18, $19, $20, $21, $22, $23, $24)",
        )
        .bind(row.id.to_string())
        .bind(&row.name)
        .bind(row.created_user.to_string())
        .bind(row.session_owner.to_string())
        .bind(row.desired_session_count)
        .bind(new.image_id.to_string())
        .bind(row.model.map(|id| id.to_string()))
        .bind(&row.model_mount_destination)
        .bind(&row.domain_name)
        .bind(row.project_id.to_string())
        .bind(&row.scaling_group)
        .bind(row.tag.as_deref())
        .bind(row.startup_command.as_deref())
        .bind(row.bootstrap_script.as_deref())
        .bind(row.callback_url.as_deref())
        .bind(environ)
        .bind(row.open_to_public)
        .bind(&row.resource_slots)
        .bind(&row.resource_opts)
        .bind(row.cluster_mode.as_str())
        .bind(row.cluster_size)
        .bind(row.url.as_deref())
        .bind(definition)
        .bind(row.created_at.micros()),
    )
    .await?;
    Ok(())
}

/// One service.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, id: EndpointId) -> Result<Option<EndpointRow>> {
    let scope = EndpointScope { id: Some(id), ..EndpointScope::default() };
    Ok(select(sql, &scope).await?.pop())
}

/// One service, locked until the transaction ends.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn lock<S: Sql>(sql: &mut S, id: EndpointId) -> Result<Option<EndpointRow>> {
    let stmt = Stmt::assembled(format!("SELECT {} FROM {} WHERE e.id = $1", SOURCE.columns, SOURCE.from));
    let row = sql.fetch_optional(stmt.on_postgres("FOR UPDATE OF e").bind(id.to_string())).await?;
    row.as_ref().map(read).transpose()
}

/// Which services: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct EndpointScope {
    /// This one.
    pub id: Option<EndpointId>,
    /// Of this name.
    pub name: Option<String>,
    /// In this domain.
    pub domain: Option<String>,
    /// In this project.
    pub project: Option<ProjectId>,
    /// Of this owner.
    pub owner: Option<UserId>,
}

fn conditions<S: Sql>(sql: &S, scope: &EndpointScope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = scope.id {
        conditions.equal("e.id", id.to_string());
    }
    if let Some(name) = &scope.name {
        conditions.equal("e.name", set::clean(name).into_owned());
    }
    if let Some(domain) = &scope.domain {
        conditions.equal("e.domain_name", set::clean(domain).into_owned());
    }
    if let Some(project) = scope.project {
        conditions.equal("e.project_id", project.to_string());
    }
    if let Some(owner) = scope.owner {
        conditions.equal("e.session_owner", owner.to_string());
    }
    conditions
}

/// The services in scope, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn select<S: Sql>(sql: &mut S, scope: &EndpointScope) -> Result<Vec<EndpointRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// One page of the services in scope.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn page<S: Sql>(sql: &mut S, scope: &EndpointScope, listing: &Listing) -> Result<Page<EndpointRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// Sets how many sessions a service should have; its failures are forgotten, so that the next one is made at once.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_desired<S: Sql>(sql: &mut S, id: EndpointId, count: i64) -> Result<u64> {
    let stmt =
        Stmt::new("UPDATE endpoints SET desired_session_count = $2, failures = 0, retry_at = NULL WHERE id = $1");
    sql.execute(stmt.bind(id.to_string()).bind(count)).await
}

/// Notes how the sessions of a service fare.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_failures<S: Sql>(
    sql: &mut S,
    id: EndpointId,
    failures: i64,
    retry_at: Option<Timestamp>,
    info: Option<&str>,
) -> Result<()> {
    let stmt = Stmt::new(
        "UPDATE endpoints SET failures = $2, retry_at = $3, status_info = COALESCE($4, status_info) WHERE id = $1",
    );
    sql.execute(stmt.bind(id.to_string()).bind(failures).bind(retry_at.map(|t| t.micros())).bind(info)).await?;
    Ok(())
}

/// Notes what the coordinator was told, and which address it gave.
///
/// # Errors
/// A violation when the address is another service's.
pub async fn set_told<S: Sql>(sql: &mut S, id: EndpointId, told: &str, url: Option<&str>) -> Result<()> {
    let stmt = Stmt::new("UPDATE endpoints SET told = $2, url = COALESCE($3, url) WHERE id = $1");
    sql.execute(stmt.bind(id.to_string()).bind(told).bind(url)).await?;
    Ok(())
}

/// Removes a service whose end was asked for and that has no routes; whether it was there.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_ended<S: Sql>(sql: &mut S, id: EndpointId) -> Result<bool> {
    let stmt = Stmt::new(
        "DELETE FROM endpoints WHERE id = $1 AND desired_session_count < 0 \
         AND NOT EXISTS (SELECT 1 FROM routings r WHERE r.endpoint = endpoints.id)",
    );
    Ok(sql.execute(stmt.bind(id.to_string())).await? > 0)
}

/// Notes that app proxies have to look at the services again.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn touch<S: Sql>(sql: &mut S) -> Result<()> {
    revisions::bump(sql, revisions::ROUTES).await
}
