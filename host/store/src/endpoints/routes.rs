//! Routes: which session serves which service, and how it does.

use quarterdeck_model::service::RouteStatus;
use quarterdeck_model::{AgentId, EndpointId, ProjectId, RouteId, SessionId, SessionStatus, Timestamp, UserId};
use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::listing::{Conditions, Listing, Page, Source};
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRow {
    /// Its id.
    pub id: RouteId,
    /// The service that it belongs to.
    pub endpoint: EndpointId,
    /// Where that is reached.
    pub endpoint_url: Option<String>,
    /// The session that it leads to.
    pub session: SessionId,
    /// Whose session that is.
    pub session_owner: UserId,
    /// Its domain.
    pub domain_name: String,
    /// Where it stands.
    pub status: RouteStatus,
    /// Its share of the requests.
    pub traffic_ratio: f64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A route to be stored, as `PROVISIONING`.
#[derive(Clone, Debug)]
pub struct NewRoute {
    /// Its id.
    pub id: RouteId,
    /// The service that it belongs to.
    pub endpoint: EndpointId,
    /// The session that it leads to.
    pub session: SessionId,
    /// Whose session that is.
    pub session_owner: UserId,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// When it is made.
    pub created_at: Timestamp,
}

const SOURCE: Source = Source {
    columns: "r.id, r.endpoint, e.url AS endpoint_url, r.session, r.session_owner, r.domain_name, r.status, \
              r.traffic_ratio, r.created_at",
    from: "routings r JOIN endpoints e ON e.id = r.endpoint",
    count_from: "routings r",
    order: "r.created_at, r.id",
    unique: "r.id",
};

fn read(row: &Row) -> Result<RouteRow> {
    Ok(RouteRow {
        id: row.parse("id")?,
        endpoint: row.parse("endpoint")?,
        endpoint_url: row.get("endpoint_url")?,
        session: row.parse("session")?,
        session_owner: row.parse("session_owner")?,
        domain_name: row.get("domain_name")?,
        status: row.parse("status")?,
        traffic_ratio: row.get("traffic_ratio")?,
        created_at: Timestamp(row.get("created_at")?),
    })
}

/// Adds routes: in the transaction that enqueues their sessions.
///
/// # Errors
/// A violation when the service is gone.
pub async fn insert<S: Sql>(sql: &mut S, routes: &[NewRoute]) -> Result<()> {
    if routes.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = routes
        .iter()
        .map(|r| {
            json!({
                "id": r.id, "endpoint": r.endpoint, "session": r.session, "session_owner": r.session_owner,
                "domain_name": r.domain_name, "project_id": r.project_id, "created_at": r.created_at.micros(),
            })
        })
        .collect();
    const COLUMNS: &[(&str, &str)] = &[
        ("id", "text"),
        ("endpoint", "text"),
        ("session", "text"),
        ("session_owner", "text"),
        ("domain_name", "text"),
        ("project_id", "text"),
        ("created_at", "bigint"),
    ];
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO routings ({}, status, status_changed) SELECT x.{}, 'provisioning', x.created_at FROM {}",
            names.join(", "),
            names.join(", x."),
            set::rows(sql.dialect(), "$1", COLUMNS)
        ))
        .bind(Json::Array(rows)),
    )
    .await?;
    Ok(())
}

/// Which routes: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct RouteScope {
    /// This one.
    pub id: Option<RouteId>,
    /// Of this service.
    pub endpoint: Option<EndpointId>,
    /// In this domain.
    pub domain: Option<String>,
    /// Of this owner.
    pub owner: Option<UserId>,
}

fn conditions<S: Sql>(sql: &S, scope: &RouteScope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = scope.id {
        conditions.equal("r.id", id.to_string());
    }
    if let Some(endpoint) = scope.endpoint {
        conditions.equal("r.endpoint", endpoint.to_string());
    }
    if let Some(domain) = &scope.domain {
        conditions.equal("r.domain_name", set::clean(domain).into_owned());
    }
    if let Some(owner) = scope.owner {
        conditions.equal("r.session_owner", owner.to_string());
    }
    conditions
}

/// The routes in scope, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn select<S: Sql>(sql: &mut S, scope: &RouteScope) -> Result<Vec<RouteRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// One page of the routes in scope.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn page<S: Sql>(sql: &mut S, scope: &RouteScope, listing: &Listing) -> Result<Page<RouteRow>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// A route of a service.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn route<S: Sql>(sql: &mut S, endpoint: EndpointId, id: RouteId) -> Result<Option<RouteRow>> {
    let scope = RouteScope { id: Some(id), endpoint: Some(endpoint), ..RouteScope::default() };
    Ok(select(sql, &scope).await?.pop())
}

/// The routes of several services, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_endpoints<S: Sql>(sql: &mut S, endpoints: &[EndpointId]) -> Result<Vec<RouteRow>> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::assembled(format!(
        "SELECT {} FROM {} WHERE r.endpoint {} ORDER BY {}",
        SOURCE.columns,
        SOURCE.from,
        set::among(sql.dialect(), "$1"),
        SOURCE.order
    ));
    sql.fetch_all(stmt.bind(set::array(endpoints))).await?.iter().map(read).collect()
}

/// A route beside its session, as the loop that looks after services sees it.
#[derive(Clone, Debug)]
pub struct RouteState {
    /// Its id.
    pub id: RouteId,
    /// The service that it belongs to.
    pub endpoint: EndpointId,
    /// The session that it leads to.
    pub session: SessionId,
    /// Where the route stands.
    pub status: RouteStatus,
    /// Since when.
    pub status_changed: Timestamp,
    /// Where its session stands.
    pub session_status: SessionStatus,
    /// Since when.
    pub session_changed: Timestamp,
    /// Why its session stands there.
    pub session_info: Option<String>,
}

/// All routes with their sessions, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn states<S: Sql>(sql: &mut S) -> Result<Vec<RouteState>> {
    let stmt = Stmt::new(
        "SELECT r.id, r.endpoint, r.session, r.status, r.status_changed, s.status AS session_status, \
         s.status_changed AS session_changed, s.status_info FROM routings r JOIN sessions s ON s.id = r.session \
         ORDER BY r.created_at, r.id",
    );
    let read = |row: &Row| {
        Ok(RouteState {
            id: row.parse("id")?,
            endpoint: row.parse("endpoint")?,
            session: row.parse("session")?,
            status: row.parse("status")?,
            status_changed: Timestamp(row.get("status_changed")?),
            session_status: row.parse("session_status")?,
            session_changed: Timestamp(row.get("session_changed")?),
            session_info: row.get("status_info")?,
        })
    };
    sql.fetch_all(stmt).await?.iter().map(read).collect()
}

/// A route that changes its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The route.
    pub id: RouteId,
    /// Where it stood.
    pub from: RouteStatus,
    /// Where it stands.
    pub to: RouteStatus,
}

/// Changes statuses of routes that still stand where they were seen; how many did.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_statuses<S: Sql>(sql: &mut S, moved: &[Moved], now: Timestamp) -> Result<u64> {
    let mut changed = 0;
    for route in moved {
        let stmt = Stmt::new("UPDATE routings SET status = $3, status_changed = $4 WHERE id = $1 AND status = $2");
        let stmt = stmt.bind(route.id.to_string()).bind(route.from.as_str()).bind(route.to.as_str());
        changed += sql.execute(stmt.bind(now.micros())).await?;
    }
    Ok(changed)
}

/// Sets a route's share of the requests.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_ratio<S: Sql>(sql: &mut S, id: RouteId, ratio: f64) -> Result<u64> {
    sql.execute(Stmt::new("UPDATE routings SET traffic_ratio = $2 WHERE id = $1").bind(id.to_string()).bind(ratio))
        .await
}

/// Removes routes whose sessions are over.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn forget<S: Sql>(sql: &mut S, ids: &[RouteId]) -> Result<u64> {
    if ids.is_empty() {
        return Ok(0);
    }
    let stmt = Stmt::assembled(format!("DELETE FROM routings WHERE id {}", set::among(sql.dialect(), "$1")));
    sql.execute(stmt.bind(set::array(ids))).await
}

/// Where a route's session is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Reached {
    /// The route.
    pub route: RouteId,
    /// The service that it belongs to.
    pub endpoint: EndpointId,
    /// The session.
    pub session: SessionId,
    /// Where the route stands.
    pub status: RouteStatus,
    /// Its share of the requests.
    pub traffic_ratio: f64,
    /// The main kernel's host.
    pub kernel_host: Option<String>,
    /// The agent's address, for kernels that name no host.
    pub agent_addr: Option<String>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// JSON list of the main kernel's service ports.
    pub service_ports: Option<Json>,
}

/// Where the sessions of routes are reached whose main kernel runs, oldest first; of one service, or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn reached<S: Sql>(sql: &mut S, endpoint: Option<EndpointId>) -> Result<Vec<Reached>> {
    let only = if endpoint.is_some() { "AND r.endpoint = $1" } else { "" };
    let mut stmt = Stmt::assembled(format!(
        "SELECT r.id, r.endpoint, r.session, r.status, r.traffic_ratio, k.kernel_host, k.agent_addr, k.agent_id, \
         k.service_ports FROM routings r JOIN kernels k ON k.session_id = r.session AND k.cluster_role = 'main' \
         WHERE k.status = 'RUNNING' {only} ORDER BY r.created_at, r.id"
    ));
    if let Some(endpoint) = endpoint {
        stmt = stmt.bind(endpoint.to_string());
    }
    let read = |row: &Row| {
        Ok(Reached {
            route: row.parse("id")?,
            endpoint: row.parse("endpoint")?,
            session: row.parse("session")?,
            status: row.parse("status")?,
            traffic_ratio: row.get("traffic_ratio")?,
            kernel_host: row.get("kernel_host")?,
            agent_addr: row.get("agent_addr")?,
            agent: row.parse_opt("agent_id")?,
            service_ports: row.json_opt("service_ports")?,
        })
    };
    sql.fetch_all(stmt).await?.iter().map(read).collect()
}
