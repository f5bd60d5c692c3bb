//! The books: what agents, key pairs, projects and domains hold. Changed by [`crate::work::Work`] in
//! the transaction that changes a status, and recomputable from the kernels at any time.

use std::collections::{BTreeMap, BTreeSet};

use quarterdeck_model::{AccessKey, AgentId, DefaultForUnspecified, ProjectId};

use crate::error::Result;
use crate::set;
use crate::sql::{Dialect, Sql, Stmt};

/// Amounts of slots in contract units (bytes, or thousandths). A slot that is missing is 0.
pub type Units = BTreeMap<String, i64>;

/// Whose books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A key pair (by access key).
    Keypair,
    /// A project (by id).
    Project,
    /// A domain (by name).
    Domain,
}

impl Scope {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Keypair => "keypair",
            Scope::Project => "project",
            Scope::Domain => "domain",
        }
    }
}

/// What one holder holds.
pub async fn held<S: Sql>(sql: &mut S, scope: Scope, holder: &str) -> Result<Units> {
    let rows = sql
        .fetch_all(
            Stmt::new("SELECT slot, amount FROM occupancy WHERE scope = $1 AND holder = $2")
                .bind(scope.as_str())
                .bind(holder),
        )
        .await?;
    rows.iter().map(|row| Ok((row.get("slot")?, row.get("amount")?))).collect()
}

/// What an owner, a project and a domain hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The key pair.
    pub owner: Units,
    /// The project.
    pub project: Units,
    /// The domain.
    pub domain: Units,
}

/// What an owner, its project and its domain hold, read at once.
///
/// # Errors
/// Database errors.
pub async fn holdings<S: Sql>(sql: &mut S, access_key: &AccessKey, project: &str, domain: &str) -> Result<Holdings> {
    let stmt = Stmt::new(
        "SELECT scope, slot, amount FROM occupancy
         WHERE (scope = 'keypair' AND holder = $1) OR (scope = 'project' AND holder = $2)
            OR (scope = 'domain' AND holder = $3)",
    );
    let mut holdings = Holdings::default();
    for row in sql.fetch_all(stmt.bind(access_key.as_str()).bind(project).bind(domain)).await? {
        let units = match row.get::<String>("scope")?.as_str() {
            "keypair" => &mut holdings.owner,
            "project" => &mut holdings.project,
            _ => &mut holdings.domain,
        };
        units.insert(row.get("slot")?, row.get("amount")?);
    }
    Ok(holdings)
}

/// What an owner, a project and a domain may hold, as stored; `None` for what there isn't.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowances {
    /// By the policy of the key pair, with what that says of slots that it doesn't name.
    pub owner: Option<(serde_json::Value, DefaultForUnspecified)>,
    /// The project's.
    pub project: Option<serde_json::Value>,
    /// The domain's.
    pub domain: Option<serde_json::Value>,
}

/// What an owner, its project and its domain may hold, read at once.
///
/// # Errors
/// Database errors.
pub async fn allowances<S: Sql>(
    sql: &mut S,
    access_key: &AccessKey,
    project: &str,
    domain: &str,
) -> Result<Allowances> {
    let stmt = Stmt::new(
        "SELECT p.total_resource_slots AS of_owner, p.default_for_unspecified,
                (SELECT total_resource_slots FROM projects WHERE id = $2) AS of_project,
                (SELECT total_resource_slots FROM domains WHERE name = $3) AS of_domain
         FROM (SELECT 1 AS one) AS once
         LEFT JOIN keypairs k ON k.access_key = $1
         LEFT JOIN keypair_resource_policies p ON p.name = k.resource_policy",
    );
    let row = sql.fetch_one(stmt.bind(access_key.as_str()).bind(project).bind(domain)).await?;
    let owner = row.json_opt("of_owner")?.zip(row.parse_opt("default_for_unspecified")?);
    Ok(Allowances { owner, project: row.json_opt("of_project")?, domain: row.json_opt("of_domain")? })
}

/// How many sessions there are beside a new one: ordinary ones of its project and domain, and of its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions of the key pair that hold resources, and waiting ones.
    pub owner: (i64, i64),
    /// Sessions of the project that hold resources, and waiting ones.
    pub project: (i64, i64),
    /// Of those, the key pair's.
    pub owner_in_project: (i64, i64),
    /// Sessions of the domain that hold resources, and waiting ones.
    pub domain: (i64, i64),
}

/// Counts the sessions of an owner, its project and its domain in one pass over those that are open.
///
/// # Errors
/// Database errors.
pub async fn counts<S: Sql>(sql: &mut S, access_key: &AccessKey, project: &str, domain: &str) -> Result<Counts> {
    let stmt = Stmt::new(
        "SELECT COALESCE((SELECT c.sessions FROM concurrency c WHERE c.access_key = $1), 0) AS owner_sessions,
                COUNT(CASE WHEN access_key = $1 AND status = 'PENDING' THEN 1 END) AS owner_pending,
                COUNT(CASE WHEN project_id = $2 AND status <> 'PENDING' THEN 1 END) AS project_sessions,
                COUNT(CASE WHEN project_id = $2 AND status = 'PENDING' THEN 1 END) AS project_pending,
                COUNT(CASE WHEN project_id = $2 AND access_key = $1 AND status <> 'PENDING' THEN 1 END) AS own_sessions,
                COUNT(CASE WHEN project_id = $2 AND access_key = $1 AND status = 'PENDING' THEN 1 END) AS own_pending,
                COUNT(CASE WHEN domain_name = $3 AND status <> 'PENDING' THEN 1 END) AS domain_sessions,
                COUNT(CASE WHEN domain_name = $3 AND status = 'PENDING' THEN 1 END) AS domain_pending
         FROM sessions
         WHERE status NOT IN ('TERMINATED', 'CANCELLED') AND status <> 'TERMINATING' AND NOT is_private
           AND (domain_name = $3 OR access_key = $1)",
    );
    let row = sql.fetch_one(stmt.bind(access_key.as_str()).bind(project).bind(domain)).await?;
    let pair = |a: &str, b: &str| -> Result<(i64, i64)> { Ok((row.get(a)?, row.get(b)?)) };
    Ok(Counts {
        owner: pair("owner_sessions", "owner_pending")?,
        project: pair("project_sessions", "project_pending")?,
        owner_in_project: pair("own_sessions", "own_pending")?,
        domain: pair("domain_sessions", "domain_pending")?,
    })
}

/// One slot of one agent, on the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSlot {
    /// The agent.
    pub agent: AgentId,
    /// The slot's name.
    pub slot: String,
    /// What it offers.
    pub capacity: i64,
    /// What its kernels hold.
    pub occupied: i64,
}

/// The books of these agents (of all with `None`), by agent and slot.
pub async fn agent_slots<S: Sql>(sql: &mut S, agents: Option<&[AgentId]>) -> Result<Vec<AgentSlot>> {
    let stmt = match agents {
        None => Stmt::new("SELECT agent_id, slot, capacity, occupied FROM agent_slots ORDER BY agent_id, slot"),
        Some(ids) => Stmt::assembled(format!(
            "SELECT agent_id, slot, capacity, occupied FROM agent_slots WHERE agent_id {} ORDER BY agent_id, slot",
            set::among(sql.dialect(), "$1")
        ))
        .bind(set::array(ids)),
    };
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            Ok(AgentSlot {
                agent: row.parse("agent_id")?,
                slot: row.get("slot")?,
                capacity: row.get("capacity")?,
                occupied: row.get("occupied")?,
            })
        })
        .collect()
}

/// Changes to the books, summed up before they are written.
#[derive(Clone, Debug, Default)]
pub struct Deltas {
    agents: BTreeMap<(AgentId, String), i64>,
    holders: BTreeMap<(&'static str, String, String), i64>,
    sessions: BTreeMap<AccessKey, (i64, i64)>,
}

impl Deltas {
    /// An agent's kernels hold `sign` × `units` more.
    pub fn agent(&mut self, agent: &AgentId, units: &Units, sign: i64) {
        for (slot, amount) in units {
            let cell = self.agents.entry((agent.clone(), slot.clone())).or_default();
            *cell = cell.saturating_add(amount.saturating_mul(sign));
        }
    }

    /// A holder holds `sign` × `units` more.
    pub fn holder(&mut self, scope: Scope, holder: &str, units: &Units, sign: i64) {
        for (slot, amount) in units {
            let cell = self.holders.entry((scope.as_str(), holder.to_owned(), slot.clone())).or_default();
            *cell = cell.saturating_add(amount.saturating_mul(sign));
        }
    }

    /// A key pair has `delta` more sessions.
    pub fn sessions(&mut self, access_key: &AccessKey, is_private: bool, delta: i64) {
        let cell = self.sessions.entry(access_key.clone()).or_default();
        if is_private { cell.1 += delta } else { cell.0 += delta }
    }

    /// Writes them: at most three statements, always in the same order of tables and rows.
    pub async fn write<S: Sql>(self, sql: &mut S) -> Result<()> {
        let dialect = sql.dialect();
        let agents: Vec<_> = self
            .agents
            .into_iter()
            .filter(|(_, delta)| *delta != 0)
            .map(|((agent, slot), delta)| serde_json::json!({"a": agent, "s": slot, "d": delta}))
            .collect();
        if !agents.is_empty() {
            sql.execute(
                Stmt::assembled(format!(
                    "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) SELECT x.a, x.s, 0, x.d FROM {} WHERE true \
                     ON CONFLICT (agent_id, slot) DO UPDATE SET occupied = agent_slots.occupied + excluded.occupied",
                    set::rows(dialect, "$1", &[("a", "text"), ("s", "text"), ("d", "bigint")])
                ))
                .bind(serde_json::Value::Array(agents)),
            )
            .await?;
        }
        let holders: Vec<_> = self
            .holders
            .into_iter()
            .filter(|(_, delta)| *delta != 0)
            .map(|((scope, holder, slot), delta)| serde_json::json!({"k": scope, "h": holder, "s": slot, "d": delta}))
            .collect();
        if !holders.is_empty() {
            sql.execute(
                Stmt::assembled(format!(
                    "INSERT INTO occupancy (scope, holder, slot, amount) SELECT x.k, x.h, x.s, x.d FROM {} WHERE true \
                     ON CONFLICT (scope, holder, slot) DO UPDATE SET amount = occupancy.amount + excluded.amount",
                    set::rows(dialect, "$1", &[("k", "text"), ("h", "text"), ("s", "text"), ("d", "bigint")])
                ))
                .bind(serde_json::Value::Array(holders)),
            )
            .await?;
        }
        let sessions: Vec<_> = self
            .sessions
            .into_iter()
            .filter(|(_, delta)| *delta != (0, 0))
            .map(|(access_key, (n, p))| serde_json::json!({"k": access_key, "n": n, "p": p}))
            .collect();
        if !sessions.is_empty() {
            sql.execute(
                Stmt::assembled(format!(
                    "INSERT INTO concurrency (access_key, sessions, private_sessions) SELECT x.k, x.n, x.p FROM {} WHERE true \
                     ON CONFLICT (access_key) DO UPDATE SET sessions = concurrency.sessions + excluded.sessions, \
                     private_sessions = concurrency.private_sessions + excluded.private_sessions",
                    set::rows(dialect, "$1", &[("k", "text"), ("n", "bigint"), ("p", "bigint")])
                ))
                .bind(serde_json::Value::Array(sessions)),
            )
            .await?;
        }
        Ok(())
    }
}

/// Whose books changed.
#[derive(Clone, Debug, Default)]
pub struct Concerned {
    /// Agents.
    pub agents: BTreeSet<AgentId>,
    /// Key pairs.
    pub keys: BTreeSet<AccessKey>,
    /// Projects.
    pub projects: BTreeSet<ProjectId>,
    /// Domains.
    pub domains: BTreeSet<String>,
}

/// Rebuilds these books from the kernels and sessions.
pub async fn recalculate_of<S: Sql>(sql: &mut S, concerned: &Concerned) -> Result<()> {
    let (sum, each) = match sql.dialect() {
        Dialect::Sqlite => ("SUM(j.value)", "json_each(k.held) j"),
        Dialect::Postgres => {
            ("CAST(SUM(CAST(j.value AS BIGINT)) AS BIGINT)", "jsonb_each_text(CAST(k.held AS jsonb)) j")
        }
    };
    // First the locks, then the sums: a statement that had to wait for a row would sum up what was before.
    let locks = Stmt::among("SELECT slot FROM agent_slots WHERE agent_id IN {list}", &concerned.agents)
        .on_postgres("ORDER BY agent_id COLLATE \"C\", slot COLLATE \"C\" FOR UPDATE");
    sql.fetch_all(locks).await?;
    let text = format!(
        "UPDATE agent_slots SET occupied = COALESCE((SELECT {sum} FROM kernels k, {each} \
         WHERE k.agent_id = agent_slots.agent_id AND j.key = agent_slots.slot \
         AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')), 0) WHERE agent_id IN {{list}}"
    );
    sql.execute(Stmt::among(&text, &concerned.agents)).await?;
    let keys: Vec<String> = concerned.keys.iter().map(ToString::to_string).collect();
    let projects = concerned.projects.iter().map(ToString::to_string).collect();
    let domains = concerned.domains.iter().cloned().collect();
    // In the order of the scopes' names, as they are written.
    for (scope, column, holders) in
        [("domain", "domain_name", domains), ("keypair", "access_key", keys), ("project", "project_id", projects)]
    {
        let locks = format!("SELECT slot FROM occupancy WHERE scope = '{scope}' AND holder IN {{list}}");
        let locks =
            Stmt::among(&locks, &holders).on_postgres("ORDER BY holder COLLATE \"C\", slot COLLATE \"C\" FOR UPDATE");
        sql.fetch_all(locks).await?;
        // All kernels that run are looked at once: they have an index by themselves.
        let text = format!(
            "WITH sums AS MATERIALIZED (SELECT s.{column} AS holder, j.key AS slot, {sum} AS n \
             FROM kernels k JOIN sessions s ON s.id = k.session_id, {each} \
             WHERE k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED') AND k.status <> 'TERMINATING' \
             AND NOT s.is_private AND s.{column} IN {{list}} GROUP BY s.{column}, j.key) \
             UPDATE occupancy SET amount = COALESCE((SELECT n FROM sums \
             WHERE sums.holder = occupancy.holder AND sums.slot = occupancy.slot), 0) \
             WHERE scope = '{scope}' AND holder IN {{list}}"
        );
        sql.execute(Stmt::among(&text, holders)).await?;
    }
    recount(sql, concerned.keys.iter()).await
}

/// Counts the sessions of key pairs anew.
pub async fn recount<'k, S: Sql>(sql: &mut S, keys: impl IntoIterator<Item = &'k AccessKey>) -> Result<()> {
    let keys: Vec<_> = keys.into_iter().map(|k| serde_json::json!({"k": k})).collect();
    if keys.is_empty() {
        return Ok(());
    }
    // The empty update locks rows that exist: whoever is about to change them has done so when they are counted.
    let stmt = Stmt::assembled(format!(
        "INSERT INTO concurrency (access_key, sessions, private_sessions) SELECT x.k, 0, 0 FROM {} WHERE true \
         ON CONFLICT (access_key) DO UPDATE SET sessions = concurrency.sessions",
        set::rows(sql.dialect(), "$1", &[("k", "text")])
    ));
    sql.execute(stmt.bind(serde_json::Value::Array(keys.clone()))).await?;
    let count = |private: &str| {
        format!(
            "(SELECT COUNT(*) FROM sessions s WHERE s.access_key = concurrency.access_key AND {private} s.is_private \
             AND s.status NOT IN ('TERMINATED', 'CANCELLED') AND s.status NOT IN ('PENDING', 'TERMINATING'))"
        )
    };
    let text = format!(
        "UPDATE concurrency SET sessions = {}, private_sessions = {} WHERE access_key IN {{list}}",
        count("NOT"),
        count("")
    );
    sql.execute(Stmt::among(&text, keys.iter().filter_map(|k| k["k"].as_str()))).await?;
    Ok(())
}

/// Rebuilds all books from the kernels and sessions.
pub async fn recalculate<S: Sql>(sql: &mut S) -> Result<()> {
    if sql.dialect() == Dialect::Postgres {
        // Whoever has changed a status but not the books yet waits here, and adds to the new figures.
        sql.execute(Stmt::new("LOCK TABLE agent_slots, occupancy, concurrency IN EXCLUSIVE MODE")).await?;
    }
    sql.execute(Stmt::new("UPDATE agent_slots SET occupied = 0 WHERE occupied <> 0")).await?;
    sql.execute(Stmt::dialect(
        "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) \
         SELECT k.agent_id, j.key, 0, SUM(j.value) FROM kernels k, json_each(k.held) j \
         WHERE k.agent_id IS NOT NULL AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED') GROUP BY k.agent_id, j.key \
         ON CONFLICT (agent_id, slot) DO UPDATE SET occupied = excluded.occupied",
        "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) \
         SELECT k.agent_id, j.key, 0, CAST(SUM(CAST(j.value AS BIGINT)) AS BIGINT) \
         FROM kernels k, jsonb_each_text(CAST(k.held AS jsonb)) j \
         WHERE k.agent_id IS NOT NULL AND k.status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED') GROUP BY k.agent_id, j.key \
         ON CONFLICT (agent_id, slot) DO UPDATE SET occupied = excluded.occupied",
    ))
    .await?;
    sql.execute(Stmt::new("DELETE FROM occupancy")).await?;
    for (scope, column) in [("keypair", "access_key"), ("project", "project_id"), ("domain", "domain_name")] {
        let source = match sql.dialect() {
            Dialect::Sqlite => {
                "SUM(j.value) FROM kernels k JOIN sessions s ON s.id = k.session_id, json_each(k.held) j"
            }
            Dialect::Postgres => {
                "CAST(SUM(CAST(j.value AS BIGINT)) AS BIGINT) FROM kernels k JOIN sessions s ON s.id = k.session_id, \
                 jsonb_each_text(CAST(k.held AS jsonb)) j"
            }
        };
        sql.execute(Stmt::assembled(format!(
            "INSERT INTO occupancy (scope, holder, slot, amount) SELECT '{scope}', s.{column}, j.key, {source} \
             WHERE k.status NOT IN ('PENDING', 'TERMINATING', 'TERMINATED', 'CANCELLED') AND NOT s.is_private \
             GROUP BY s.{column}, j.key"
        )))
        .await?;
    }
    sql.execute(Stmt::new("DELETE FROM concurrency")).await?;
    sql.execute(Stmt::new(
        "INSERT INTO concurrency (access_key, sessions, private_sessions) \
         SELECT access_key, CAST(SUM(CASE WHEN is_private THEN 0 ELSE 1 END) AS BIGINT), \
         CAST(SUM(CASE WHEN is_private THEN 1 ELSE 0 END) AS BIGINT) FROM sessions \
         WHERE status NOT IN ('PENDING', 'TERMINATING', 'TERMINATED', 'CANCELLED') GROUP BY access_key",
    ))
    .await?;
    Ok(())
}
