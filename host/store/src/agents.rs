//! Agents: the nodes that kernels run on.

use std::collections::BTreeMap;

use quarterdeck_model::{AgentId, AgentStatus, Timestamp};
use serde_json::{Value, json};

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// An agent.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Whether it can be used.
    pub status: AgentStatus,
    /// Since when.
    pub status_changed: Option<Timestamp>,
    /// Where it stands.
    pub region: String,
    /// The group it serves.
    pub scaling_group: String,
    /// Whether an administrator lets it take new kernels.
    pub schedulable: bool,
    /// Where the host reaches it.
    pub addr: String,
    /// Where users reach its kernels.
    pub public_host: Option<String>,
    /// Its processor architecture.
    pub architecture: String,
    /// Its release.
    pub version: String,
    /// `process`, `docker` or `synthetic`.
    pub runtime: String,
    /// `ai.backend.runtime-type`s that it runs; `*` = any.
    pub runtime_types: Vec<String>,
    /// JSON object: name → facts.
    pub compute_plugins: Value,
    /// JSON slot map of decimal texts.
    pub available_slots: Value,
    /// It ends kernels that it finds abusing.
    pub auto_terminate_abusing_kernel: bool,
    /// When it came first.
    pub first_contact: Timestamp,
    /// When it was heard last.
    pub last_seen: Timestamp,
    /// When it was lost.
    pub lost_at: Option<Timestamp>,
    /// SHA-256 of what it presents.
    pub credential: String,
    /// What the host presents to it.
    pub host_secret: String,
    /// The start of its process that was heard last.
    pub boot_id: String,
    /// The last report of that boot that was taken in.
    pub report_seq: i64,
    /// No starts until then.
    pub cooldown_until: Option<Timestamp>,
    /// Why.
    pub cooldown_reason: Option<String>,
}

impl AgentRow {
    /// Reads a row of `agents`.
    pub fn from_row(row: &Row) -> Result<Self> {
        let time = |name: &str| -> Result<Option<Timestamp>> { Ok(row.get::<Option<i64>>(name)?.map(Timestamp)) };
        Ok(Self {
            id: row.parse("id")?,
            status: row.parse("status")?,
            status_changed: time("status_changed")?,
            region: row.get("region")?,
            scaling_group: row.get("scaling_group")?,
            schedulable: row.get("schedulable")?,
            addr: row.get("addr")?,
            public_host: row.get("public_host")?,
            architecture: row.get("architecture")?,
            version: row.get("version")?,
            runtime: row.get("runtime")?,
            runtime_types: row.json("runtime_types")?,
            compute_plugins: row.json("compute_plugins")?,
            available_slots: row.json("available_slots")?,
            auto_terminate_abusing_kernel: row.get("auto_terminate_abusing_kernel")?,
            first_contact: Timestamp(row.get("first_contact")?),
            last_seen: Timestamp(row.get("last_seen")?),
            lost_at: time("lost_at")?,
            credential: row.get("credential")?,
            host_secret: row.get("host_secret")?,
            boot_id: row.get("boot_id")?,
            report_seq: row.get("report_seq")?,
            cooldown_until: time("cooldown_until")?,
            cooldown_reason: row.get("cooldown_reason")?,
        })
    }
}

/// What an agent says of itself when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its id.
    pub id: AgentId,
    /// Where it stands.
    pub region: String,
    /// The group it serves.
    pub scaling_group: String,
    /// Where the host reaches it.
    pub addr: String,
    /// Where users reach its kernels.
    pub public_host: Option<String>,
    /// Its processor architecture.
    pub architecture: String,
    /// Its release.
    pub version: String,
    /// `process`, `docker` or `synthetic`.
    pub runtime: String,
    /// `ai.backend.runtime-type`s that it runs.
    pub runtime_types: Vec<String>,
    /// JSON object: name → facts.
    pub compute_plugins: Value,
    /// SHA-256 of what it will present.
    pub credential: String,
    /// What the host presents to it.
    pub host_secret: String,
    /// This start of its process.
    pub boot_id: String,
}

/// Enters an agent as `ALIVE`, or brings its row up to date. Another boot starts its reports anew.
pub async fn register<S: Sql>(sql: &mut S, agent: &Registration, now: Timestamp) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO agents (id, status, status_changed, region, scaling_group, addr, public_host, architecture, version, \
             runtime, runtime_types, compute_plugins, first_contact, last_seen, credential, host_secret, boot_id) \
             VALUES ($1, 'ALIVE', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $2, $2, $12, $13, $14) \
             ON CONFLICT (id) DO UPDATE SET \
             status_changed = CASE WHEN agents.status = 'ALIVE' THEN agents.status_changed ELSE excluded.status_changed END, \
             status = 'ALIVE', lost_at = NULL, region = excluded.region, scaling_group = excluded.scaling_group, \
             addr = excluded.addr, public_host = excluded.public_host, architecture = excluded.architecture, \
             version = excluded.version, runtime = excluded.runtime, runtime_types = excluded.runtime_types, \
             compute_plugins = excluded.compute_plugins, last_seen = excluded.last_seen, credential = excluded.credential, \
             host_secret = excluded.host_secret, cooldown_until = NULL, cooldown_reason = NULL, \
             report_seq = CASE WHEN agents.boot_id = excluded.boot_id THEN agents.report_seq ELSE 0 END, \
             boot_id = excluded.boot_id",
        )
        .bind(agent.id.as_str())
        .bind(now.0)
        .bind(&agent.region)
        .bind(&agent.scaling_group)
        .bind(&agent.addr)
        .bind(agent.public_host.as_deref())
        .bind(&agent.architecture)
        .bind(&agent.version)
        .bind(&agent.runtime)
        .bind(json!(agent.runtime_types))
        .bind(&agent.compute_plugins)
        .bind(&agent.credential)
        .bind(&agent.host_secret)
        .bind(&agent.boot_id),
    )
    .await?;
    Ok(())
}

/// Writes what an agent offers: as shown, and into the books. Slots that it no longer offers have capacity 0.
pub async fn set_capacity<S: Sql>(
    sql: &mut S,
    id: &AgentId,
    shown: &Value,
    capacity: &BTreeMap<String, i64>,
) -> Result<()> {
    sql.execute(Stmt::new("UPDATE agents SET available_slots = $1 WHERE id = $2").bind(shown).bind(id.as_str()))
        .await?;
    let names = set::array(capacity.keys());
    let gone = Stmt::assembled(format!(
        "UPDATE agent_slots SET capacity = 0 WHERE agent_id = $1 AND slot NOT IN {}",
        set::texts(sql.dialect(), "$2")
    ));
    sql.execute(gone.bind(id.as_str()).bind(names)).await?;
    let rows: Vec<_> = capacity.iter().map(|(slot, amount)| json!({"s": slot, "c": amount})).collect();
    let upsert = Stmt::assembled(format!(
        "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) SELECT $1, x.s, x.c, 0 FROM {} WHERE true \
         ON CONFLICT (agent_id, slot) DO UPDATE SET capacity = excluded.capacity",
        set::rows(sql.dialect(), "$2", &[("s", "text"), ("c", "bigint")])
    ));
    sql.execute(upsert.bind(id.as_str()).bind(Value::Array(rows))).await?;
    Ok(())
}

/// One agent.
pub async fn get<S: Sql>(sql: &mut S, id: &AgentId) -> Result<Option<AgentRow>> {
    let row = sql.fetch_optional(Stmt::new("SELECT * FROM agents WHERE id = $1").bind(id.as_str())).await?;
    row.as_ref().map(AgentRow::from_row).transpose()
}

/// Several agents.
pub async fn get_many<S: Sql>(sql: &mut S, ids: &[AgentId]) -> Result<Vec<AgentRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let stmt =
        Stmt::assembled(format!("SELECT * FROM agents WHERE id {} ORDER BY id", set::among(sql.dialect(), "$1")));
    let rows = sql.fetch_all(stmt.bind(set::array(ids))).await?;
    rows.iter().map(AgentRow::from_row).collect()
}

/// All agents, by id.
pub async fn list<S: Sql>(sql: &mut S) -> Result<Vec<AgentRow>> {
    let rows = sql.fetch_all(Stmt::new("SELECT * FROM agents ORDER BY id")).await?;
    rows.iter().map(AgentRow::from_row).collect()
}

/// Moves agents to a status they don't have; those that were moved. `LOST` and `TERMINATED` note when.
pub async fn set_status<S: Sql>(
    sql: &mut S,
    ids: &[AgentId],
    status: AgentStatus,
    now: Timestamp,
) -> Result<Vec<AgentId>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let lost = match status {
        AgentStatus::Lost | AgentStatus::Terminated => Some(now.0),
        AgentStatus::Alive | AgentStatus::Restarting => None,
    };
    let stmt = Stmt::assembled(format!(
        "UPDATE agents SET status = $1, status_changed = $2, lost_at = $3 WHERE status <> $1 AND id {} RETURNING id",
        set::among(sql.dialect(), "$4")
    ));
    let rows = sql.fetch_all(stmt.bind(status.as_str()).bind(now.0).bind(lost).bind(set::array(ids))).await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Has agents that were heard be `ALIVE`; those that weren't. Who has left on purpose since it was heard stays away.
pub async fn revive<S: Sql>(sql: &mut S, seen: &[(AgentId, Timestamp)], now: Timestamp) -> Result<Vec<AgentId>> {
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<_> = seen.iter().map(|(id, at)| json!({"id": id, "t": at.0})).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE agents SET status = 'ALIVE', status_changed = $2, lost_at = NULL FROM {} WHERE agents.id = x.id \
         AND agents.status <> 'ALIVE' AND (agents.status = 'LOST' OR agents.status_changed < x.t) RETURNING agents.id AS id",
        set::rows(sql.dialect(), "$1", &[("id", "text"), ("t", "bigint")])
    ));
    let rows = sql.fetch_all(stmt.bind(Value::Array(rows)).bind(now.0)).await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Withholds new kernels from an agent until then, and says why. What is withheld for longer stays so.
pub async fn set_cooldown<S: Sql>(sql: &mut S, id: &AgentId, until: Timestamp, reason: &str) -> Result<()> {
    sql.execute(
        Stmt::new(
            "UPDATE agents SET cooldown_until = $1, cooldown_reason = $2 \
             WHERE id = $3 AND (cooldown_until IS NULL OR cooldown_until < $1)",
        )
        .bind(until.0)
        .bind(set::clean(reason).into_owned())
        .bind(id.as_str()),
    )
    .await?;
    Ok(())
}

/// Notes when agents were heard last (never backwards).
pub async fn touch<S: Sql>(sql: &mut S, seen: &[(AgentId, Timestamp)]) -> Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = seen.iter().map(|(id, at)| json!({"id": id, "t": at.0})).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE agents SET last_seen = x.t FROM {} WHERE agents.id = x.id AND agents.last_seen < x.t",
        set::rows(sql.dialect(), "$1", &[("id", "text"), ("t", "bigint")])
    ));
    sql.execute(stmt.bind(Value::Array(rows))).await?;
    Ok(())
}

/// `LOST` agents that became so after `since`.
pub async fn lost_since<S: Sql>(sql: &mut S, since: Timestamp) -> Result<Vec<AgentId>> {
    let stmt = Stmt::new("SELECT id FROM agents WHERE status = 'LOST' AND lost_at > $1");
    let rows = sql.fetch_all(stmt.bind(since.0)).await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// `ALIVE` agents that were heard last before `deadline`.
pub async fn silent_since<S: Sql>(sql: &mut S, deadline: Timestamp) -> Result<Vec<AgentId>> {
    let rows = sql
        .fetch_all(
            Stmt::new("SELECT id FROM agents WHERE status = 'ALIVE' AND last_seen < $1 ORDER BY id").bind(deadline.0),
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Where the reports of these agents stand: boot and last sequence number. Locks them until the transaction ends.
pub async fn report_marks<S: Sql>(sql: &mut S, ids: &[AgentId]) -> Result<BTreeMap<AgentId, (String, i64)>> {
    let lock = if sql.dialect() == crate::Dialect::Postgres { "FOR NO KEY UPDATE" } else { "" };
    let stmt = Stmt::assembled(format!(
        "SELECT id, boot_id, report_seq FROM agents WHERE id {} ORDER BY id {lock}",
        set::among(sql.dialect(), "$1")
    ));
    let rows = sql.fetch_all(stmt.bind(set::array(ids))).await?;
    rows.iter().map(|row| Ok((row.parse("id")?, (row.get("boot_id")?, row.get("report_seq")?)))).collect()
}

/// Notes up to which report each agent was heard.
pub async fn set_report_marks<S: Sql>(sql: &mut S, marks: &[(AgentId, i64)]) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = marks.iter().map(|(id, seq)| json!({"id": id, "q": seq})).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE agents SET report_seq = x.q FROM {} WHERE agents.id = x.id",
        set::rows(sql.dialect(), "$1", &[("id", "text"), ("q", "bigint")])
    ));
    sql.execute(stmt.bind(Value::Array(rows))).await?;
    Ok(())
}

/// Lets an agent take new kernels or not, or moves it to another group.
///
/// # Errors
/// A violation of a foreign key when the group doesn't exist.
pub async fn modify<S: Sql>(
    sql: &mut S,
    id: &AgentId,
    schedulable: Option<bool>,
    scaling_group: Option<&str>,
) -> Result<u64> {
    sql.execute(
        Stmt::new(
            "UPDATE agents SET schedulable = COALESCE($1, schedulable), scaling_group = COALESCE($2, scaling_group) WHERE id = $3",
        )
        .bind(schedulable)
        .bind(scaling_group)
        .bind(id.as_str()),
    )
    .await
}

/// How many agents are in each status.
pub async fn by_status<S: Sql>(sql: &mut S) -> Result<Vec<(AgentStatus, i64)>> {
    let rows = sql.fetch_all(Stmt::new("SELECT status, COUNT(*) AS n FROM agents GROUP BY status")).await?;
    rows.iter().map(|row| Ok((row.parse("status")?, row.get("n")?))).collect()
}

/// Keeps a join token, by its SHA-256.
pub async fn add_join_token<S: Sql>(
    sql: &mut S,
    hash: &str,
    note: Option<&str>,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<()> {
    sql.execute(
        Stmt::new("INSERT INTO join_tokens (hash, note, created_at, expires_at) VALUES ($1, $2, $3, $4)")
            .bind(hash)
            .bind(note)
            .bind(now.0)
            .bind(expires_at.map(|t| t.0)),
    )
    .await?;
    Ok(())
}

/// Whether a join token of that SHA-256 exists and hasn't expired.
pub async fn has_join_token<S: Sql>(sql: &mut S, hash: &str, now: Timestamp) -> Result<bool> {
    let row = sql
        .fetch_optional(
            Stmt::new("SELECT hash FROM join_tokens WHERE hash = $1 AND (expires_at IS NULL OR expires_at > $2)")
                .bind(hash)
                .bind(now.0),
        )
        .await?;
    Ok(row.is_some())
}

/// Digests of the images with these canonical names: (name, architecture, digest, local).
pub async fn image_facts<S: Sql>(sql: &mut S, names: &[String]) -> Result<Vec<(String, String, String, bool)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::assembled(format!(
        "SELECT name, architecture, config_digest, is_local FROM images WHERE name {}",
        set::among(sql.dialect(), "$1")
    ));
    let rows = sql.fetch_all(stmt.bind(set::array(names))).await?;
    rows.iter()
        .map(|row| Ok((row.get("name")?, row.get("architecture")?, row.get("config_digest")?, row.get("is_local")?)))
        .collect()
}
