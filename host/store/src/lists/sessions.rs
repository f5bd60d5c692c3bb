//! Sessions, with their main kernel, project and user.

use quarterdeck_model::{
    AccessKey, ClusterMode, KernelId, KernelRole, ProjectId, SessionId, SessionResult, SessionStatus, SessionType,
    Timestamp, UserId,
};
use serde_json::Value as Json;

use super::{SESSION_STATUS, instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only};
use crate::{Result, Row, Sql};

const TYPE: &[(&str, &str)] = &[("INTERACTIVE", "INTERACTIVE"), ("BATCH", "BATCH"), ("INFERENCE", "INFERENCE")];
const CLUSTER_MODE: &[(&str, &str)] = &[("SINGLE_NODE", "single-node"), ("MULTI_NODE", "multi-node")];
const RESULT: &[(&str, &str)] = &[("UNDEFINED", "UNDEFINED"), ("SUCCESS", "SUCCESS"), ("FAILURE", "FAILURE")];

/// What clients may filter and order sessions by.
pub const FIELDS: &[Field] = &[
    field("id", "s.id", Kind::Uuid),
    field("type", "s.session_type", Kind::Enum(TYPE)),
    field("name", "s.name", Kind::Text),
    field("domain_name", "s.domain_name", Kind::Text),
    field("group_name", "p.name", Kind::Text),
    field("user_email", "u.email", Kind::Text),
    field("full_name", "u.full_name", Kind::Text),
    field("access_key", "s.access_key", Kind::Text),
    field("scaling_group", "s.scaling_group", Kind::Text),
    field("cluster_mode", "s.cluster_mode", Kind::Enum(CLUSTER_MODE)),
    field("cluster_size", "s.cluster_size", Kind::Int),
    field("status", "s.status", Kind::Enum(SESSION_STATUS)),
    field("status_info", "s.status_info", Kind::Text),
    field("result", "s.result", Kind::Enum(RESULT)),
    field("created_at", "s.created_at", Kind::Date),
    field("terminated_at", "s.terminated_at", Kind::Date),
    field("starts_at", "s.starts_at", Kind::Date),
    filter_only("startup_command", "s.startup_command", Kind::Text),
];

const SOURCE: Source = Source {
    columns: "s.id, s.tag, s.name, s.session_type, s.cluster_mode, s.cluster_size, s.domain_name, s.project_id, \
              s.user_id, s.access_key, s.scaling_group, s.status, s.status_info, s.status_data, s.status_history, \
              s.status_changed, s.result, s.created_at, s.terminated_at, s.starts_at, s.vfolder_mounts, s.num_queries, \
              COALESCE(s.startup_command, m.startup_command) AS startup_command, p.name AS group_name, \
              u.email AS user_email, u.full_name, m.id AS main_kernel_id, m.kernel_role, m.image, m.architecture, \
              m.registry, m.service_ports",
    from: "sessions s JOIN projects p ON p.id = s.project_id JOIN users u ON u.id = s.user_id \
           LEFT JOIN kernels m ON m.session_id = s.id AND m.cluster_role = 'main'",
    count_from: "sessions s JOIN projects p ON p.id = s.project_id JOIN users u ON u.id = s.user_id",
    // Nothing ends before it began.
    order: "COALESCE(s.terminated_at, s.created_at) DESC, s.id",
    unique: "s.id",
};

/// A session's main kernel, as far as lists of sessions show it.
#[derive(Clone, Debug)]
pub struct MainKernel {
    /// Its id.
    pub id: KernelId,
    /// What its image is for.
    pub role: KernelRole,
    /// Its image.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The image's registry.
    pub registry: String,
    /// The services that it offers.
    pub service_ports: Option<Json>,
}

/// A session.
#[derive(Clone, Debug)]
pub struct SessionItem {
    /// Its id.
    pub id: SessionId,
    /// A label of the user.
    pub tag: Option<String>,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: SessionType,
    /// Whether its kernels share an agent.
    pub cluster_mode: ClusterMode,
    /// How many kernels it has.
    pub cluster_size: i64,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// The project's name.
    pub group_name: String,
    /// Its user.
    pub user_id: UserId,
    /// The user's e-mail address.
    pub user_email: String,
    /// The user's name.
    pub full_name: Option<String>,
    /// The key pair that it belongs to.
    pub access_key: AccessKey,
    /// Its scaling group.
    pub scaling_group: String,
    /// Where it stands.
    pub status: SessionStatus,
    /// Why.
    pub status_info: Option<String>,
    /// More about why.
    pub status_data: Option<Json>,
    /// Status → when it was reached last.
    pub status_history: Json,
    /// Since when it is in its status.
    pub status_changed: Timestamp,
    /// How it ended.
    pub result: SessionResult,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it ended.
    pub terminated_at: Option<Timestamp>,
    /// Before when it must not start.
    pub starts_at: Option<Timestamp>,
    /// What a batch session runs.
    pub startup_command: Option<String>,
    /// The folders mounted in it.
    pub vfolder_mounts: Json,
    /// Requests made to it.
    pub num_queries: i64,
    /// Its main kernel.
    pub main: Option<MainKernel>,
}

fn read(row: &Row) -> Result<SessionItem> {
    let main = match row.parse_opt::<KernelId>("main_kernel_id")? {
        None => None,
        Some(id) => Some(MainKernel {
            id,
            role: row.parse("kernel_role")?,
            image: row.get("image")?,
            architecture: row.get("architecture")?,
            registry: row.get("registry")?,
            service_ports: row.json_opt("service_ports")?,
        }),
    };
    Ok(SessionItem {
        id: row.parse("id")?,
        tag: row.get("tag")?,
        name: row.get("name")?,
        kind: row.parse("session_type")?,
        cluster_mode: row.parse("cluster_mode")?,
        cluster_size: row.get("cluster_size")?,
        domain_name: row.get("domain_name")?,
        project_id: row.parse("project_id")?,
        group_name: row.get("group_name")?,
        user_id: row.parse("user_id")?,
        user_email: row.get("user_email")?,
        full_name: row.get("full_name")?,
        access_key: row.parse("access_key")?,
        scaling_group: row.get("scaling_group")?,
        status: row.parse("status")?,
        status_info: row.get("status_info")?,
        status_data: row.json_opt("status_data")?,
        status_history: row.json("status_history")?,
        status_changed: instant(row, "status_changed")?,
        result: row.parse("result")?,
        created_at: instant(row, "created_at")?,
        terminated_at: instant_opt(row, "terminated_at")?,
        starts_at: instant_opt(row, "starts_at")?,
        startup_command: row.get("startup_command")?,
        vfolder_mounts: row.json("vfolder_mounts")?,
        num_queries: row.get("num_queries")?,
        main,
    })
}

/// Which sessions: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// These.
    pub ids: Option<Vec<SessionId>>,
    /// Of this domain.
    pub domain: Option<String>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of one of these key pairs.
    pub access_keys: Option<Vec<AccessKey>>,
    /// In one of these statuses.
    pub statuses: Option<Vec<SessionStatus>>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(ids) = &scope.ids {
        conditions.any_of("s.id", ids.iter().map(ToString::to_string));
    }
    if let Some(domain) = &scope.domain {
        conditions.equal("s.domain_name", domain);
    }
    if let Some(project) = scope.project {
        conditions.equal("s.project_id", project.to_string());
    }
    if let Some(keys) = &scope.access_keys {
        conditions.any_of("s.access_key", keys.iter().map(AccessKey::as_str));
    }
    if let Some(statuses) = &scope.statuses {
        conditions.any_of("s.status", statuses.iter().map(|s| s.as_str()));
    }
    conditions
}

/// One page of the sessions in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<SessionItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The sessions in scope, newest first, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<SessionItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, read).await
}

/// What sessions depend on: session and dependency.
///
/// # Errors
/// The database's.
pub async fn dependencies_of<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<Vec<(SessionId, SessionId)>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.any_of("session_id", sessions.iter().map(ToString::to_string));
    let stmt = conditions
        .into_stmt("SELECT session_id, depends_on FROM session_dependencies", "ORDER BY session_id, depends_on");
    sql.fetch_all(stmt).await?.iter().map(|row| Ok((row.parse("session_id")?, row.parse("depends_on")?))).collect()
}
