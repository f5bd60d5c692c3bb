//! Agents.

use quarterdeck_model::{AccessKey, AgentId, AgentStatus, Timestamp, UserId};
use serde_json::Value as Json;

use super::{AGENT_STATUS, instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only, order_only};
use crate::{Result, Row, Sql, Value};

/// How much of an agent is taken: the sum of the shares of its slots.
const OCCUPATION: &str = "(SELECT COALESCE(SUM(CASE WHEN x.capacity > 0 THEN CAST(x.occupied AS DOUBLE PRECISION) / \
                          x.capacity ELSE 0 END), 0) FROM agent_slots x WHERE x.agent_id = a.id)";

/// What clients may filter and order agents by.
pub const FIELDS: &[Field] = &[
    field("id", "a.id", Kind::Text),
    field("status", "a.status", Kind::Enum(AGENT_STATUS)),
    field("status_changed", "a.status_changed", Kind::Date),
    field("region", "a.region", Kind::Text),
    field("scaling_group", "a.scaling_group", Kind::Text),
    field("schedulable", "a.schedulable", Kind::Bool),
    field("first_contact", "a.first_contact", Kind::Date),
    filter_only("addr", "a.addr", Kind::Text),
    field("lost_at", "a.lost_at", Kind::Date),
    field("version", "a.version", Kind::Text),
    order_only("available_slots", "a.available_slots", Kind::Text),
    order_only("occupied_slots", OCCUPATION, Kind::Int),
];

/// What clients may filter and order summaries of agents by.
pub const SUMMARY_FIELDS: &[Field] = &[
    field("id", "a.id", Kind::Text),
    field("status", "a.status", Kind::Enum(AGENT_STATUS)),
    field("scaling_group", "a.scaling_group", Kind::Text),
    field("schedulable", "a.schedulable", Kind::Bool),
    order_only("available_slots", "a.available_slots", Kind::Text),
    order_only("occupied_slots", OCCUPATION, Kind::Int),
];

const SOURCE: Source = Source {
    columns: "a.id, a.status, a.status_changed, a.region, a.scaling_group, a.schedulable, a.addr, a.architecture, \
              a.version, a.compute_plugins, a.available_slots, a.auto_terminate_abusing_kernel, \
              a.first_contact, a.lost_at, a.cooldown_until, a.cooldown_reason",
    from: "agents a",
    count_from: "agents a",
    order: "CASE a.status WHEN 'ALIVE' THEN 0 WHEN 'LOST' THEN 1 WHEN 'RESTARTING' THEN 2 ELSE 3 END, \
            a.scaling_group, a.id",
    unique: "a.id",
};

/// An agent.
#[derive(Clone, Debug)]
pub struct AgentItem {
    /// Its id.
    pub id: AgentId,
    /// Whether it can be used.
    pub status: AgentStatus,
    /// Since when.
    pub status_changed: Option<Timestamp>,
    /// Where it stands.
    pub region: String,
    /// Its scaling group.
    pub scaling_group: String,
    /// Whether the scheduler may place sessions there.
    pub schedulable: bool,
    /// Where it is called.
    pub addr: String,
    /// The architecture of its images.
    pub architecture: String,
    /// Its release.
    pub version: String,
    /// What it computes with.
    pub compute_plugins: Json,
    /// What it offers: slot → decimal text.
    pub available_slots: Json,
    /// Whether it ends kernels that misbehave.
    pub auto_terminate_abusing_kernel: bool,
    /// When it was first heard of.
    pub first_contact: Timestamp,
    /// When it was lost.
    pub lost_at: Option<Timestamp>,
    /// New kernels are withheld from it until then.
    pub cooldown_until: Option<Timestamp>,
    /// Why.
    pub cooldown_reason: Option<String>,
}

fn read(row: &Row) -> Result<AgentItem> {
    Ok(AgentItem {
        id: row.parse("id")?,
        status: row.parse("status")?,
        status_changed: instant_opt(row, "status_changed")?,
        region: row.get("region")?,
        scaling_group: row.get("scaling_group")?,
        schedulable: row.get("schedulable")?,
        addr: row.get("addr")?,
        architecture: row.get("architecture")?,
        version: row.get("version")?,
        compute_plugins: row.json("compute_plugins")?,
        available_slots: row.json("available_slots")?,
        auto_terminate_abusing_kernel: row.get("auto_terminate_abusing_kernel")?,
        first_contact: instant(row, "first_contact")?,
        lost_at: instant_opt(row, "lost_at")?,
        cooldown_until: instant_opt(row, "cooldown_until")?,
        cooldown_reason: row.get("cooldown_reason")?,
    })
}

/// Which agents: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub id: Option<AgentId>,
    /// Of one of these scaling groups.
    pub scaling_groups: Option<Vec<String>>,
    /// In one of these statuses.
    pub statuses: Option<Vec<AgentStatus>>,
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = &scope.id {
        conditions.equal("a.id", id.as_str());
    }
    if let Some(groups) = &scope.scaling_groups {
        conditions.any_of("a.scaling_group", groups);
    }
    if let Some(statuses) = &scope.statuses {
        conditions.any_of("a.status", statuses.iter().map(|s| s.as_str()));
    }
    conditions
}

/// One page of the agents in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<AgentItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The agents in scope.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<AgentItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The active scaling groups that a user may use in whatever way: through the domain, a project that the user is a
/// member of, or the key pair.
///
/// # Errors
/// The database's.
pub async fn reachable_groups<S: Sql>(
    sql: &mut S,
    domain: &str,
    user: UserId,
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
