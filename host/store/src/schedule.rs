//! The scheduler's read of a scaling group, and (in [`commit`](mod@commit)) the one write that ends a round.
//!
//! Both are a constant number of statements, whatever the length of the queue. Slot maps stay JSON
//! text here: the caller turns equal texts into amounts once.

mod commit;
mod extras;
mod running;

pub use commit::{
    Account, Cancelled, Commit, Committed, KernelRecord, Placed, PlacedKernel, Record, StaleReason, commit,
};
pub use extras::{Extras, Wanted, extras};

use std::collections::{BTreeSet, HashMap};

use quarterdeck_model::{
    AccessKey, AgentId, AgentStatus, ClusterMode, KernelId, KernelStatus, ProjectId, SessionId, SessionResult,
    SessionStatus, SessionType, Timestamp,
};
use serde_json::Value as Json;

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// Sessions of the group that have not ended: the pending ones and those that hold agents' resources.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// Tells creations apart in events (pending sessions only).
    pub creation_id: String,
    /// Its name (pending sessions only).
    pub name: String,
    /// What it is for.
    pub session_type: SessionType,
    /// Larger is more important.
    pub priority: i64,
    /// How long it is expected to run.
    pub expected_ms: Option<i64>,
    /// Whether its kernels share an agent.
    pub cluster_mode: ClusterMode,
    /// A session of the system.
    pub is_private: bool,
    /// The domain.
    pub domain_name: String,
    /// The project.
    pub project_id: ProjectId,
    /// The owner.
    pub access_key: AccessKey,
    /// Where it stands.
    pub status: SessionStatus,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// Batch sessions: not before (pending sessions only).
    pub starts_at: Option<Timestamp>,
    /// What earlier rounds noted (pending sessions only).
    pub status_data: Option<Json>,
    /// Its kernels, the main one first.
    pub kernels: Vec<KernelRow>,
    /// What it waits for (pending sessions only).
    pub dependencies: Vec<Dependency>,
}

/// A kernel of such a session.
#[derive(Clone, Debug)]
pub struct KernelRow {
    /// Its id.
    pub id: KernelId,
    /// Its image, canonical (pending kernels only).
    pub image: String,
    /// Its architecture.
    pub architecture: String,
    /// Where it stands.
    pub status: KernelStatus,
    /// What it asked for: JSON slot map.
    pub requested_slots: String,
    /// What it holds: JSON object of contract units.
    pub held: String,
    /// Pinned by an administrator (pending kernels only).
    pub designated_agent: Option<AgentId>,
    /// Where it was placed.
    pub agent_id: Option<AgentId>,
    /// What earlier rounds noted (pending kernels only).
    pub status_data: Option<Json>,
}

/// A session that another one waits for.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub result: SessionResult,
}

/// An agent that matters to the group.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Whether it can be used.
    pub status: AgentStatus,
    /// An administrator lets sessions onto it.
    pub schedulable: bool,
    /// Starts are withheld from it until then.
    pub cooldown_until: Option<Timestamp>,
    /// Its scaling group.
    pub scaling_group: String,
    /// Its architecture.
    pub architecture: String,
    /// Where it listens.
    pub addr: String,
    /// Kernels on it.
    pub containers: i64,
    /// Slot → (capacity, occupied), in contract units.
    pub slots: Vec<(String, i64, i64)>,
}

/// What an owner may hold, raw.
#[derive(Clone, Debug)]
pub struct OwnerRow {
    /// The key pair.
    pub access_key: AccessKey,
    /// JSON slot map.
    pub total_resource_slots: String,
    /// `LIMITED` or `UNLIMITED`.
    pub default_for_unspecified: String,
    /// 0 or less: no limit.
    pub max_concurrent_sessions: i64,
    /// 0 or less: no limit.
    pub max_concurrent_sftp_sessions: i64,
    /// The counters of [`concurrency`](crate::schedule): sessions, private sessions.
    pub counted: (i64, i64),
}

/// What a project or domain may hold, raw.
#[derive(Clone, Debug)]
pub struct HolderRow {
    /// The project's id or the domain's name.
    pub holder: String,
    /// JSON slot map.
    pub total_resource_slots: String,
}

/// How many sessions hold resources over the whole cluster, by owner, project and domain.
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// The owner.
    pub access_key: AccessKey,
    /// The project.
    pub project_id: String,
    /// The domain.
    pub domain_name: String,
    /// Private ones or the others.
    pub is_private: bool,
    /// How many.
    pub sessions: i64,
}

/// What an account holds of a slot.
#[derive(Clone, Debug)]
pub struct OccupancyRow {
    /// `keypair`, `project` or `domain`.
    pub scope: String,
    /// The access key, project id or domain name.
    pub holder: String,
    /// The slot.
    pub slot: String,
    /// How much, in contract units.
    pub amount: i64,
}

/// One consistent view of a scaling group.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Open sessions, oldest first, ties by id.
    pub sessions: Vec<SessionRow>,
    /// Agents, by id.
    pub agents: Vec<AgentRow>,
    /// Owners of those sessions, by access key.
    pub owners: Vec<OwnerRow>,
    /// Projects of those sessions, by id.
    pub projects: Vec<HolderRow>,
    /// Domains of those sessions, by name.
    pub domains: Vec<HolderRow>,
    /// Counts of sessions.
    pub usage: Vec<UsageRow>,
    /// What those owners, projects and domains hold.
    pub occupancy: Vec<OccupancyRow>,
}

impl Queue {
    /// Whether there is anything to schedule.
    pub fn has_pending(&self) -> bool {
        self.sessions.iter().any(|s| s.status == SessionStatus::Pending)
    }
}

/// Somebody who isn't in the queue: accounts and agents that are to be read as if a session of theirs were.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The owner.
    pub access_key: AccessKey,
    /// The project.
    pub project_id: ProjectId,
    /// The domain.
    pub domain_name: String,
    /// Agents that its kernels are pinned to.
    pub agents: Vec<AgentId>,
}

/// Names of the groups with something to schedule and an agent that lives, in order.
///
/// # Errors
/// Database errors.
pub async fn groups<S: Sql>(sql: &mut S) -> Result<Vec<String>> {
    let stmt = Stmt::new(
        // Group by group: a long queue isn't walked through to find out whose it is. `EXISTS` says the same, and PostgreSQL
        // makes a join of it that does walk.
        "SELECT g.name FROM scaling_groups g
         WHERE (SELECT a.id FROM agents a WHERE a.scaling_group = g.name AND a.status = 'ALIVE' LIMIT 1) IS NOT NULL
         AND (SELECT s.id FROM sessions s WHERE s.scaling_group = g.name AND s.status = 'PENDING'
              ORDER BY s.created_at LIMIT 1) IS NOT NULL",
    );
    let mut names = sql.fetch_all(stmt).await?.iter().map(|r| r.get("name")).collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// The open sessions of a group.
const OPEN: &str = "scaling_group = $1 AND status NOT IN ('TERMINATED', 'CANCELLED')";

/// Statements over the open sessions of a group.
fn of_open(sql: &str, group: &str) -> Stmt {
    Stmt::assembled(sql.replace("{open}", OPEN)).bind(group)
}

/// Who and what open sessions, and perhaps a visitor, have to do with: JSON arrays for lists in statements.
struct Concerned {
    agents: Json,
    owners: Json,
    projects: Json,
    domains: Json,
}

impl Concerned {
    fn of(sessions: &[SessionRow], visitor: Option<&Visitor>) -> Self {
        let (mut agents, mut owners) = (BTreeSet::new(), BTreeSet::new());
        let (mut projects, mut domains) = (BTreeSet::new(), BTreeSet::new());
        for session in sessions {
            owners.insert(session.access_key.as_str());
            projects.insert(session.project_id);
            domains.insert(session.domain_name.as_str());
            let places = session.kernels.iter().filter_map(|k| k.agent_id.as_ref().or(k.designated_agent.as_ref()));
            agents.extend(places.map(AgentId::as_str));
        }
        if let Some(visitor) = visitor {
            owners.insert(visitor.access_key.as_str());
            projects.insert(visitor.project_id);
            domains.insert(visitor.domain_name.as_str());
            agents.extend(visitor.agents.iter().map(AgentId::as_str));
        }
        Self {
            agents: set::array(agents),
            owners: set::array(owners),
            projects: set::array(projects),
            domains: set::array(domains),
        }
    }
}

/// Reads everything that a round of `group` is decided on. Pass a transaction of
/// [`Store::begin_read`](crate::Store::begin_read), so that all of it is one state.
///
/// Without a pending session nothing is filled in.
///
/// # Errors
/// Database errors, and stored values that this release doesn't write.
pub async fn load<S: Sql>(sql: &mut S, group: &str) -> Result<Queue> {
    read(sql, group, None).await
}

/// As [`load`], with everything that a session of `visitor`'s would be decided on, whether or not others are pending.
///
/// # Errors
/// As [`load`].
pub async fn load_with<S: Sql>(sql: &mut S, group: &str, visitor: &Visitor) -> Result<Queue> {
    read(sql, group, Some(visitor)).await
}

async fn read<S: Sql>(sql: &mut S, group: &str, visitor: Option<&Visitor>) -> Result<Queue> {
    let mut pending = pending(sql, group).await?;
    if pending.is_empty() && visitor.is_none() {
        return Ok(Queue::default());
    }
    let index: HashMap<SessionId, usize> = pending.iter().enumerate().map(|(i, s)| (s.id, i)).collect();
    for (session, kernel) in kernels(sql, group).await? {
        if let Some(&i) = index.get(&session) {
            pending[i].kernels.push(kernel);
        }
    }
    for (session, dependency) in dependencies(sql, group).await? {
        if let Some(&i) = index.get(&session) {
            pending[i].dependencies.push(dependency);
        }
    }
    let mut sessions = running::read(sql, group).await?;
    sessions.append(&mut pending);
    sessions.sort_by_key(|s| (s.created_at, s.id));
    let concerned = Concerned::of(&sessions, visitor);
    Ok(Queue {
        agents: agents(sql, group, &concerned).await?,
        owners: owners(sql, &concerned).await?,
        projects: holders(sql, "SELECT id AS holder, total_resource_slots FROM projects WHERE id", &concerned.projects)
            .await?,
        domains: holders(
            sql,
            "SELECT name AS holder, total_resource_slots FROM domains WHERE name",
            &concerned.domains,
        )
        .await?,
        usage: usage(sql, group, &sessions).await?,
        occupancy: occupancy(sql, &concerned).await?,
        sessions,
    })
}

/// The pending sessions of a group, without kernels.
async fn pending<S: Sql>(sql: &mut S, group: &str) -> Result<Vec<SessionRow>> {
    let stmt = Stmt::new(
        "SELECT id, creation_id, name, session_type, priority, expected_ms, cluster_mode, is_private, domain_name,
                project_id, access_key, status, created_at, starts_at, status_data
         FROM sessions WHERE scaling_group = $1 AND status = 'PENDING'",
    );
    sql.fetch_all(stmt.bind(group)).await?.iter().map(session).collect()
}

fn session(row: &Row) -> Result<SessionRow> {
    Ok(SessionRow {
        id: row.parse("id")?,
        creation_id: row.get("creation_id")?,
        name: row.get("name")?,
        session_type: row.parse("session_type")?,
        priority: row.get("priority")?,
        expected_ms: row.get("expected_ms")?,
        cluster_mode: row.parse("cluster_mode")?,
        is_private: row.get("is_private")?,
        domain_name: row.get("domain_name")?,
        project_id: row.parse("project_id")?,
        access_key: row.parse("access_key")?,
        status: row.parse("status")?,
        created_at: Timestamp(row.get("created_at")?),
        starts_at: row.get::<Option<i64>>("starts_at")?.map(Timestamp),
        status_data: row.json_opt("status_data")?,
        kernels: Vec::new(),
        dependencies: Vec::new(),
    })
}

async fn kernels<S: Sql>(sql: &mut S, group: &str) -> Result<Vec<(SessionId, KernelRow)>> {
    let stmt = Stmt::new(
        "SELECT id, session_id, image, architecture, status, requested_slots, held, designated_agent,
                agent_id, CASE WHEN status = 'PENDING' THEN status_data END AS status_data
         FROM kernels WHERE session_id IN (SELECT id FROM sessions WHERE scaling_group = $1 AND status = 'PENDING')
         ORDER BY session_id, CASE WHEN cluster_role = 'main' THEN 0 ELSE 1 END, local_rank, cluster_idx, id",
    );
    let rows = sql.fetch_all(stmt.bind(group)).await?;
    rows.iter()
        .map(|row| {
            let kernel = KernelRow {
                id: row.parse("id")?,
                image: row.get("image")?,
                architecture: row.get("architecture")?,
                status: row.parse("status")?,
                requested_slots: row.get("requested_slots")?,
                held: row.get("held")?,
                designated_agent: row.parse_opt("designated_agent")?,
                agent_id: row.parse_opt("agent_id")?,
                status_data: row.json_opt("status_data")?,
            };
            Ok((row.parse("session_id")?, kernel))
        })
        .collect()
}

async fn dependencies<S: Sql>(sql: &mut S, group: &str) -> Result<Vec<(SessionId, Dependency)>> {
    let stmt = Stmt::new(
        "SELECT d.session_id, d.depends_on, t.name, t.result FROM session_dependencies d
         JOIN sessions s ON s.id = d.session_id JOIN sessions t ON t.id = d.depends_on
         WHERE s.scaling_group = $1 AND s.status = 'PENDING'
         ORDER BY d.session_id, t.created_at, d.depends_on",
    )
    .bind(group);
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            let dependency =
                Dependency { id: row.parse("depends_on")?, name: row.get("name")?, result: row.parse("result")? };
            Ok((row.parse("session_id")?, dependency))
        })
        .collect()
}

/// Agents that live in the group, and others that its kernels are pinned to or placed on.
async fn agents<S: Sql>(sql: &mut S, group: &str, concerned: &Concerned) -> Result<Vec<AgentRow>> {
    let which = format!("(scaling_group = $1 AND status = 'ALIVE') OR id IN {}", set::texts(sql.dialect(), "$2"));
    let stmt = |text: String| Stmt::assembled(text).bind(group).bind(&concerned.agents);
    let text = format!(
        "SELECT id, status, schedulable, cooldown_until, scaling_group, architecture, addr,
                (SELECT COUNT(*) FROM kernels k WHERE k.agent_id = agents.id
                 AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')) AS containers
         FROM agents WHERE {which}"
    );
    let mut agents = sql
        .fetch_all(stmt(text))
        .await?
        .iter()
        .map(|row| {
            Ok(AgentRow {
                id: row.parse("id")?,
                status: row.parse("status")?,
                schedulable: row.get("schedulable")?,
                cooldown_until: row.get::<Option<i64>>("cooldown_until")?.map(Timestamp),
                scaling_group: row.get("scaling_group")?,
                architecture: row.get("architecture")?,
                addr: row.get("addr")?,
                containers: row.get("containers")?,
                slots: Vec::new(),
            })
        })
        .collect::<Result<Vec<AgentRow>>>()?;
    agents.sort_by(|a, b| a.id.cmp(&b.id));
    let text = format!(
        "SELECT agent_id, slot, capacity, occupied FROM agent_slots
         WHERE agent_id IN (SELECT id FROM agents WHERE {which})"
    );
    for row in sql.fetch_all(stmt(text)).await? {
        let id: AgentId = row.parse("agent_id")?;
        if let Ok(i) = agents.binary_search_by(|a| a.id.cmp(&id)) {
            agents[i].slots.push((row.get("slot")?, row.get("capacity")?, row.get("occupied")?));
        }
    }
    Ok(agents)
}

async fn owners<S: Sql>(sql: &mut S, concerned: &Concerned) -> Result<Vec<OwnerRow>> {
    let text = format!(
        "SELECT k.access_key, p.total_resource_slots, p.default_for_unspecified, p.max_concurrent_sessions,
                p.max_concurrent_sftp_sessions, COALESCE(c.sessions, 0) AS sessions,
                COALESCE(c.private_sessions, 0) AS private_sessions
         FROM keypairs k JOIN keypair_resource_policies p ON p.name = k.resource_policy
         LEFT JOIN concurrency c ON c.access_key = k.access_key
         WHERE k.access_key {}",
        set::among(sql.dialect(), "$1")
    );
    let mut rows = sql
        .fetch_all(Stmt::assembled(text).bind(&concerned.owners))
        .await?
        .iter()
        .map(|row| {
            Ok(OwnerRow {
                access_key: row.parse("access_key")?,
                total_resource_slots: row.get("total_resource_slots")?,
                default_for_unspecified: row.get("default_for_unspecified")?,
                max_concurrent_sessions: row.get("max_concurrent_sessions")?,
                max_concurrent_sftp_sessions: row.get("max_concurrent_sftp_sessions")?,
                counted: (row.get("sessions")?, row.get("private_sessions")?),
            })
        })
        .collect::<Result<Vec<OwnerRow>>>()?;
    rows.sort_by(|a, b| a.access_key.cmp(&b.access_key));
    Ok(rows)
}

async fn holders<S: Sql>(sql: &mut S, text: &'static str, concerned: &Json) -> Result<Vec<HolderRow>> {
    let text = format!("{text} {}", set::among(sql.dialect(), "$1"));
    let mut rows = sql
        .fetch_all(Stmt::assembled(text).bind(concerned))
        .await?
        .iter()
        .map(|row| Ok(HolderRow { holder: row.get("holder")?, total_resource_slots: row.get("total_resource_slots")? }))
        .collect::<Result<Vec<HolderRow>>>()?;
    rows.sort_by(|a, b| a.holder.cmp(&b.holder));
    Ok(rows)
}

/// Sessions that hold resources: those of the group are known, the others are counted.
async fn usage<S: Sql>(sql: &mut S, group: &str, sessions: &[SessionRow]) -> Result<Vec<UsageRow>> {
    const REST: &str = "WHERE status NOT IN ('TERMINATED', 'CANCELLED') AND status NOT IN ('PENDING', 'TERMINATING')
           AND scaling_group <> $1
         GROUP BY access_key, project_id, domain_name, is_private";
    const CELLS: &str = "SELECT access_key, project_id, domain_name, is_private, COUNT(*) AS sessions FROM sessions";
    // SQLite would rather have the groups in order than leave out what this index tells apart.
    let stmt =
        Stmt::assembled_dialect(format!("{CELLS} INDEXED BY ix_sessions_open {REST}"), format!("{CELLS} {REST}"));
    let mut out = sql
        .fetch_all(stmt.bind(group))
        .await?
        .iter()
        .map(|row| {
            Ok(UsageRow {
                access_key: row.parse("access_key")?,
                project_id: row.get("project_id")?,
                domain_name: row.get("domain_name")?,
                is_private: row.get("is_private")?,
                sessions: row.get("sessions")?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut counts: HashMap<(&AccessKey, ProjectId, &str, bool), i64> = HashMap::new();
    for s in sessions.iter().filter(|s| !matches!(s.status, SessionStatus::Pending | SessionStatus::Terminating)) {
        *counts.entry((&s.access_key, s.project_id, &s.domain_name, s.is_private)).or_default() += 1;
    }
    out.extend(counts.into_iter().map(|((access_key, project, domain, is_private), sessions)| UsageRow {
        access_key: access_key.clone(),
        project_id: project.to_string(),
        domain_name: domain.to_owned(),
        is_private,
        sessions,
    }));
    Ok(out)
}

async fn occupancy<S: Sql>(sql: &mut S, concerned: &Concerned) -> Result<Vec<OccupancyRow>> {
    let list = |param| set::texts(sql.dialect(), param);
    let text = format!(
        "SELECT scope, holder, slot, amount FROM occupancy
         WHERE (scope = 'keypair' AND holder IN {})
            OR (scope = 'project' AND holder IN {})
            OR (scope = 'domain' AND holder IN {})",
        list("$1"),
        list("$2"),
        list("$3"),
    );
    let stmt = Stmt::assembled(text).bind(&concerned.owners).bind(&concerned.projects).bind(&concerned.domains);
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            Ok(OccupancyRow {
                scope: row.get("scope")?,
                holder: row.get("holder")?,
                slot: row.get("slot")?,
                amount: row.get("amount")?,
            })
        })
        .collect()
}
