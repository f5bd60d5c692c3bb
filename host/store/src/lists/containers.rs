//! Kernels, as "containers" of a session.

use quarterdeck_model::{AccessKey, AgentId, KernelId, KernelStatus, SessionId, Timestamp};
use serde_json::Value as Json;

use super::{KERNEL_STATUS, instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field};
use crate::{Result, Row, Sql};

/// What clients may filter and order kernels by.
pub const FIELDS: &[Field] = &[
    field("image", "k.image", Kind::Text),
    field("architecture", "k.architecture", Kind::Text),
    field("agent", "k.agent_id", Kind::Text),
    field("agent_addr", "k.agent_addr", Kind::Text),
    field("cluster_idx", "k.cluster_idx", Kind::Int),
    field("local_rank", "k.local_rank", Kind::Int),
    field("cluster_role", "k.cluster_role", Kind::Text),
    field("cluster_hostname", "k.cluster_hostname", Kind::Text),
    field("status", "k.status", Kind::Enum(KERNEL_STATUS)),
    field("status_info", "k.status_info", Kind::Text),
    field("created_at", "k.created_at", Kind::Date),
    field("status_changed", "k.status_changed", Kind::Date),
    field("terminated_at", "k.terminated_at", Kind::Date),
];

const SOURCE: Source = Source {
    columns: "k.id, k.session_id, k.cluster_role, k.cluster_idx, k.local_rank, k.cluster_hostname, k.image, \
              k.architecture, k.registry, k.status, k.status_info, k.status_data, k.status_changed, k.created_at, \
              k.terminated_at, s.starts_at, k.agent_id, k.agent_addr, k.container_id, k.resource_opts, \
              k.occupied_slots, k.last_stat",
    from: "kernels k JOIN sessions s ON s.id = k.session_id",
    count_from: "kernels k JOIN sessions s ON s.id = k.session_id",
    // A status changes last of all that happens to a kernel.
    order: "k.status_changed DESC, k.cluster_idx, k.id",
    unique: "k.id",
};

/// A kernel.
#[derive(Clone, Debug)]
pub struct ContainerItem {
    /// Its id.
    pub id: KernelId,
    /// Its session.
    pub session_id: SessionId,
    /// `main` or `sub`.
    pub cluster_role: String,
    /// Its number within its role, from 1.
    pub cluster_idx: i64,
    /// Its number among the kernels of the same agent.
    pub local_rank: i64,
    /// Its host name within the session.
    pub cluster_hostname: String,
    /// Its image.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The image's registry.
    pub registry: String,
    /// Where it stands.
    pub status: KernelStatus,
    /// Why.
    pub status_info: Option<String>,
    /// More about why.
    pub status_data: Option<Json>,
    /// Since when.
    pub status_changed: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it ended.
    pub terminated_at: Option<Timestamp>,
    /// Before when it must not start.
    pub starts_at: Option<Timestamp>,
    /// Where it was placed.
    pub agent_id: Option<AgentId>,
    /// How that agent is called.
    pub agent_addr: Option<String>,
    /// What the agent calls it.
    pub container_id: Option<String>,
    /// Options such as shared memory.
    pub resource_opts: Json,
    /// Slot → decimal text.
    pub occupied_slots: Json,
    /// Its newest statistics.
    pub last_stat: Option<Json>,
}

fn read(row: &Row) -> Result<ContainerItem> {
    Ok(ContainerItem {
        id: row.parse("id")?,
        session_id: row.parse("session_id")?,
        cluster_role: row.get("cluster_role")?,
        cluster_idx: row.get("cluster_idx")?,
        local_rank: row.get("local_rank")?,
        cluster_hostname: row.get("cluster_hostname")?,
        image: row.get("image")?,
        architecture: row.get("architecture")?,
        registry: row.get("registry")?,
        status: row.parse("status")?,
        status_info: row.get("status_info")?,
        status_data: row.json_opt("status_data")?,
        status_changed: instant(row, "status_changed")?,
        created_at: instant(row, "created_at")?,
        terminated_at: instant_opt(row, "terminated_at")?,
        starts_at: instant_opt(row, "starts_at")?,
        agent_id: row.parse_opt("agent_id")?,
        agent_addr: row.get("agent_addr")?,
        container_id: row.get("container_id")?,
        resource_opts: row.json("resource_opts")?,
        occupied_slots: row.json("occupied_slots")?,
        last_stat: row.json_opt("last_stat")?,
    })
}

/// Which kernels: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub id: Option<KernelId>,
    /// Of one of these sessions.
    pub sessions: Option<Vec<SessionId>>,
    /// On one of these agents.
    pub agents: Option<Vec<AgentId>>,
    /// Of sessions of this domain.
    pub domain: Option<String>,
    /// Of sessions of this key pair.
    pub access_key: Option<AccessKey>,
    /// With this cluster role.
    pub role: Option<String>,
    /// In one of these statuses.
    pub statuses: Option<Vec<KernelStatus>>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = scope.id {
        conditions.equal("k.id", id.to_string());
    }
    if let Some(sessions) = &scope.sessions {
        conditions.any_of("k.session_id", sessions.iter().map(ToString::to_string));
    }
    if let Some(agents) = &scope.agents {
        conditions.any_of("k.agent_id", agents.iter().map(AgentId::as_str));
    }
    if let Some(domain) = &scope.domain {
        conditions.equal("s.domain_name", domain);
    }
    if let Some(access_key) = &scope.access_key {
        conditions.equal("s.access_key", access_key.as_str());
    }
    if let Some(role) = &scope.role {
        conditions.equal("k.cluster_role", role);
    }
    if let Some(statuses) = &scope.statuses {
        conditions.any_of("k.status", statuses.iter().map(|s| s.as_str()));
    }
    conditions
}

/// One page of the kernels in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<ContainerItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The kernels in scope.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<ContainerItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}
