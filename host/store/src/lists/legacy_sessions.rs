//! Sessions in the old form: one row a main kernel.

use quarterdeck_model::{
    AccessKey, AgentId, KernelId, KernelStatus, ProjectId, SessionId, SessionResult, SessionStatus, SessionType,
    Timestamp, UserId,
};
use serde_json::Value as Json;

use super::{KERNEL_STATUS, instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, order_only};
use crate::{Result, Row, Sql, Value};

/// What clients may order by: the kernel's own columns.
pub const FIELDS: &[Field] = &[
    order_only("id", "k.id", Kind::Uuid),
    order_only("session_id", "k.session_id", Kind::Uuid),
    order_only("session_name", "s.name", Kind::Text),
    order_only("session_type", "s.session_type", Kind::Text),
    order_only("access_key", "s.access_key", Kind::Text),
    order_only("domain_name", "s.domain_name", Kind::Text),
    order_only("group_id", "s.project_id", Kind::Uuid),
    order_only("user_uuid", "s.user_id", Kind::Uuid),
    order_only("scaling_group", "s.scaling_group", Kind::Text),
    order_only("cluster_role", "k.cluster_role", Kind::Text),
    order_only("cluster_idx", "k.cluster_idx", Kind::Int),
    order_only("cluster_hostname", "k.cluster_hostname", Kind::Text),
    order_only("image", "k.image", Kind::Text),
    order_only("architecture", "k.architecture", Kind::Text),
    order_only("registry", "k.registry", Kind::Text),
    order_only("tag", "s.tag", Kind::Text),
    order_only("agent", "k.agent_id", Kind::Text),
    order_only("agent_addr", "k.agent_addr", Kind::Text),
    order_only("container_id", "k.container_id", Kind::Text),
    order_only("status", "k.status", Kind::Enum(KERNEL_STATUS)),
    order_only("status_info", "k.status_info", Kind::Text),
    order_only("status_changed", "k.status_changed", Kind::Date),
    order_only("created_at", "k.created_at", Kind::Date),
    order_only("terminated_at", "k.terminated_at", Kind::Date),
    order_only("starts_at", "s.starts_at", Kind::Date),
    order_only("startup_command", "k.startup_command", Kind::Text),
    order_only("result", "k.result", Kind::Text),
    order_only("num_queries", "s.num_queries", Kind::Int),
];

const SOURCE: Source = Source {
    columns: "k.id, k.session_id, s.tag, s.name AS session_name, s.session_type, k.cluster_role, k.image, \
              k.architecture, k.registry, s.domain_name, p.name AS group_name, s.project_id, s.scaling_group, s.user_id, \
              u.email AS user_email, s.access_key, k.status, k.status_changed, k.status_info, k.created_at, \
              k.terminated_at, COALESCE(k.startup_command, s.startup_command) AS startup_command, k.result, k.agent_id, \
              k.container_id, k.service_ports, k.occupied_slots, k.resource_opts, s.num_queries, k.last_stat",
    from: "kernels k JOIN sessions s ON s.id = k.session_id JOIN projects p ON p.id = s.project_id \
           JOIN users u ON u.id = s.user_id",
    count_from: "kernels k JOIN sessions s ON s.id = k.session_id",
    order: "k.status_changed DESC, k.id",
    unique: "k.id",
};

/// A session's main kernel and what of the session used to be its own.
#[derive(Clone, Debug)]
pub struct LegacySessionItem {
    /// The kernel's id.
    pub id: KernelId,
    /// The session's id.
    pub session_id: SessionId,
    /// A label of the user.
    pub tag: Option<String>,
    /// The session's name.
    pub session_name: String,
    /// What it is for.
    pub kind: SessionType,
    /// `main`
    pub cluster_role: String,
    /// Its image.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The image's registry.
    pub registry: String,
    /// Its domain.
    pub domain_name: String,
    /// Its project's name.
    pub group_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// Its scaling group.
    pub scaling_group: String,
    /// Its user.
    pub user_id: UserId,
    /// The user's e-mail address.
    pub user_email: String,
    /// The key pair that it belongs to.
    pub access_key: AccessKey,
    /// Where the kernel stands.
    pub status: KernelStatus,
    /// Since when.
    pub status_changed: Timestamp,
    /// Why.
    pub status_info: Option<String>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it ended.
    pub terminated_at: Option<Timestamp>,
    /// What a batch session runs.
    pub startup_command: Option<String>,
    /// How it ended.
    pub result: SessionResult,
    /// Where it was placed.
    pub agent_id: Option<AgentId>,
    /// What the agent calls it.
    pub container_id: Option<String>,
    /// The services that it offers.
    pub service_ports: Option<Json>,
    /// Slot → decimal text.
    pub occupied_slots: Json,
    /// Options such as shared memory.
    pub resource_opts: Json,
    /// Requests made to it.
    pub num_queries: i64,
    /// Its newest statistics.
    pub last_stat: Option<Json>,
}

fn read(row: &Row) -> Result<LegacySessionItem> {
    Ok(LegacySessionItem {
        id: row.parse("id")?,
        session_id: row.parse("session_id")?,
        tag: row.get("tag")?,
        session_name: row.get("session_name")?,
        kind: row.parse("session_type")?,
        cluster_role: row.get("cluster_role")?,
        image: row.get("image")?,
        architecture: row.get("architecture")?,
        registry: row.get("registry")?,
        domain_name: row.get("domain_name")?,
        group_name: row.get("group_name")?,
        project_id: row.parse("project_id")?,
        scaling_group: row.get("scaling_group")?,
        user_id: row.parse("user_id")?,
        user_email: row.get("user_email")?,
        access_key: row.parse("access_key")?,
        status: row.parse("status")?,
        status_changed: instant(row, "status_changed")?,
        status_info: row.get("status_info")?,
        created_at: instant(row, "created_at")?,
        terminated_at: instant_opt(row, "terminated_at")?,
        startup_command: row.get("startup_command")?,
        result: row.parse("result")?,
        agent_id: row.parse_opt("agent_id")?,
        container_id: row.get("container_id")?,
        service_ports: row.json_opt("service_ports")?,
        occupied_slots: row.json("occupied_slots")?,
        resource_opts: row.json("resource_opts")?,
        num_queries: row.get("num_queries")?,
        last_stat: row.json_opt("last_stat")?,
    })
}

/// Which main kernels: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Of this domain.
    pub domain: Option<String>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of this key pair.
    pub access_key: Option<AccessKey>,
    /// In one of these statuses.
    pub statuses: Option<Vec<KernelStatus>>,
    /// Of a session that lives and whose id or name is this.
    pub live: Option<String>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.add("k.cluster_role = 'main'", []);
    if let Some(domain) = &scope.domain {
        conditions.equal("s.domain_name", domain);
    }
    if let Some(project) = scope.project {
        conditions.equal("s.project_id", project.to_string());
    }
    if let Some(access_key) = &scope.access_key {
        conditions.equal("s.access_key", access_key.as_str());
    }
    if let Some(statuses) = &scope.statuses {
        conditions.any_of("k.status", statuses.iter().map(|s| s.as_str()));
    }
    if let Some(reference) = &scope.live {
        let id = reference.parse::<SessionId>().map_or_else(|_| reference.clone(), |id| id.to_string());
        conditions.add("(s.id = ? OR s.name = ?)", [Value::from(id), Value::from(reference)]);
        conditions.add(
            "s.status NOT IN (?, ?)",
            [SessionStatus::Terminated, SessionStatus::Cancelled].map(|s| Value::from(s.as_str())),
        );
    }
    conditions
}

/// One page of the main kernels in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<LegacySessionItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The main kernels in scope, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<LegacySessionItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, read).await
}
