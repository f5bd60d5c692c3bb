//! Kernels: one container or process tree of a session each.

use std::collections::HashMap;

use quarterdeck_model::{AgentId, KernelId, KernelRole, KernelStatus, SessionId, SessionResult, TaskId, Timestamp};
use serde_json::{Value, json};

use crate::error::Result;
use crate::occupancy::Units;
use crate::sessions::NewSession;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// A kernel (all but its output, which may be large).
#[derive(Clone, Debug)]
pub struct KernelRow {
    /// Its id.
    pub id: KernelId,
    /// Its session.
    pub session_id: SessionId,
    /// `main` or `sub`.
    pub cluster_role: String,
    /// Its index in the cluster.
    pub cluster_idx: i64,
    /// Its rank on its node.
    pub local_rank: i64,
    /// Its name in the cluster.
    pub cluster_hostname: String,
    /// What its image is for.
    pub kernel_role: KernelRole,
    /// Canonical name of its image.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The image's registry.
    pub registry: String,
    /// JSON object: the image's labels.
    pub image_labels: Value,
    /// The session's tag.
    pub tag: Option<String>,
    /// Where it stands.
    pub status: KernelStatus,
    /// Why.
    pub status_info: Option<String>,
    /// More about why.
    pub status_data: Option<Value>,
    /// When it entered its status.
    pub status_changed: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it ran first.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub terminated_at: Option<Timestamp>,
    /// Pinned there by an administrator.
    pub designated_agent: Option<AgentId>,
    /// Where it was placed.
    pub agent_id: Option<AgentId>,
    /// That agent's address then.
    pub agent_addr: Option<String>,
    /// The runtime's name for it.
    pub container_id: Option<String>,
    /// JSON slot map of decimal texts.
    pub requested_slots: Value,
    /// JSON slot map of decimal texts.
    pub occupied_slots: Value,
    /// What the books count, in contract units.
    pub held: Units,
    /// JSON object, e.g. `{"shmem": 67108864}`.
    pub resource_opts: Value,
    /// JSON list of `K=V`.
    pub environ: Value,
    /// Runs before anything else.
    pub bootstrap_script: Option<String>,
    /// A batch session's command.
    pub startup_command: Option<String>,
    /// JSON list of port numbers.
    pub preopen_ports: Value,
    /// JSON list of service ports, once it runs.
    pub service_ports: Option<Value>,
    /// Where its ports are reached.
    pub kernel_host: Option<String>,
    /// Which interpreter really runs.
    pub runtime_info: Option<Value>,
    /// JSON object: device → list of devices.
    pub attached_devices: Value,
    /// Its last statistics.
    pub last_stat: Option<Value>,
    /// Its exit code.
    pub exit_code: Option<i64>,
    /// How its batch command ended.
    pub result: SessionResult,
}

/// The columns of [`KernelRow`].
pub const COLUMNS: &str = "id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname, kernel_role, image, \
     architecture, registry, image_labels, tag, status, status_info, status_data, status_changed, created_at, started_at, \
     terminated_at, designated_agent, agent_id, agent_addr, container_id, requested_slots, occupied_slots, held, resource_opts, \
     environ, bootstrap_script, startup_command, preopen_ports, service_ports, kernel_host, runtime_info, attached_devices, \
     last_stat, exit_code, result";

impl KernelRow {
    /// Reads a row with [`COLUMNS`].
    pub fn from_row(row: &Row) -> Result<Self> {
        let time = |name: &str| -> Result<Option<Timestamp>> { Ok(row.get::<Option<i64>>(name)?.map(Timestamp)) };
        Ok(Self {
            id: row.parse("id")?,
            session_id: row.parse("session_id")?,
            cluster_role: row.get("cluster_role")?,
            cluster_idx: row.get("cluster_idx")?,
            local_rank: row.get("local_rank")?,
            cluster_hostname: row.get("cluster_hostname")?,
            kernel_role: row.parse("kernel_role")?,
            image: row.get("image")?,
            architecture: row.get("architecture")?,
            registry: row.get("registry")?,
            image_labels: row.json("image_labels")?,
            tag: row.get("tag")?,
            status: row.parse("status")?,
            status_info: row.get("status_info")?,
            status_data: row.json_opt("status_data")?,
            status_changed: Timestamp(row.get("status_changed")?),
            created_at: Timestamp(row.get("created_at")?),
            started_at: time("started_at")?,
            terminated_at: time("terminated_at")?,
            designated_agent: row.parse_opt("designated_agent")?,
            agent_id: row.parse_opt("agent_id")?,
            agent_addr: row.get("agent_addr")?,
            container_id: row.get("container_id")?,
            requested_slots: row.json("requested_slots")?,
            occupied_slots: row.json("occupied_slots")?,
            held: row.json("held")?,
            resource_opts: row.json("resource_opts")?,
            environ: row.json("environ")?,
            bootstrap_script: row.get("bootstrap_script")?,
            startup_command: row.get("startup_command")?,
            preopen_ports: row.json("preopen_ports")?,
            service_ports: row.json_opt("service_ports")?,
            kernel_host: row.get("kernel_host")?,
            runtime_info: row.json_opt("runtime_info")?,
            attached_devices: row.json("attached_devices")?,
            last_stat: row.json_opt("last_stat")?,
            exit_code: row.get("exit_code")?,
            result: row.parse("result")?,
        })
    }
}

/// A kernel to be enqueued.
#[derive(Clone, Debug)]
pub struct NewKernel {
    /// Its id.
    pub id: KernelId,
    /// `main`, `sub`, or what a cluster template calls it.
    pub cluster_role: String,
    /// Its index in the cluster.
    pub cluster_idx: i64,
    /// Its rank on its node.
    pub local_rank: i64,
    /// Its name in the cluster.
    pub cluster_hostname: String,
    /// What its image is for.
    pub kernel_role: KernelRole,
    /// Canonical name of its image.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The image's registry.
    pub registry: String,
    /// JSON object: the image's labels.
    pub image_labels: Value,
    /// Pinned there by an administrator.
    pub designated_agent: Option<AgentId>,
    /// JSON slot map of decimal texts.
    pub requested_slots: Value,
    /// The same in contract units.
    pub held: Units,
    /// JSON object.
    pub resource_opts: Value,
    /// JSON list of `K=V`.
    pub environ: Value,
    /// Runs before anything else; the session's when `None`.
    pub bootstrap_script: Option<String>,
    /// JSON list of port numbers.
    pub preopen_ports: Value,
}

/// Inserts the kernels of new sessions.
pub(crate) async fn insert<S: Sql>(sql: &mut S, sessions: &[NewSession]) -> Result<()> {
    const COLUMNS: &[(&str, &str)] = &[
        ("id", "text"),
        ("session_id", "text"),
        ("cluster_role", "text"),
        ("cluster_idx", "bigint"),
        ("local_rank", "bigint"),
        ("cluster_hostname", "text"),
        ("kernel_role", "text"),
        ("image", "text"),
        ("architecture", "text"),
        ("registry", "text"),
        ("image_labels", "text"),
        ("tag", "text"),
        ("status_changed", "bigint"),
        ("created_at", "bigint"),
        ("designated_agent", "text"),
        ("requested_slots", "text"),
        ("occupied_slots", "text"),
        ("held", "text"),
        ("resource_opts", "text"),
        ("environ", "text"),
        ("bootstrap_script", "text"),
        ("startup_command", "text"),
        ("preopen_ports", "text"),
    ];
    let rows: Vec<_> = sessions
        .iter()
        .flat_map(|s| {
            s.kernels.iter().map(move |k| {
                json!({
                    "id": k.id, "session_id": s.id, "cluster_role": k.cluster_role, "cluster_idx": k.cluster_idx,
                    "local_rank": k.local_rank, "cluster_hostname": k.cluster_hostname, "kernel_role": k.kernel_role,
                    "image": k.image, "architecture": k.architecture, "registry": k.registry,
                    "image_labels": k.image_labels.to_string(), "tag": s.tag,
                    "status_changed": s.created_at.0, "created_at": s.created_at.0, "designated_agent": k.designated_agent,
                    "requested_slots": k.requested_slots.to_string(), "occupied_slots": k.requested_slots.to_string(),
                    "held": json!(k.held).to_string(), "resource_opts": k.resource_opts.to_string(),
                    "environ": k.environ.to_string(), "bootstrap_script": k.bootstrap_script.as_ref().or(s.bootstrap_script.as_ref()),
                    "startup_command": s.startup_command, "preopen_ports": k.preopen_ports.to_string(),
                })
            })
        })
        .collect();
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO kernels ({}, status) SELECT x.{}, 'PENDING' FROM {}",
            names.join(", "),
            names.join(", x."),
            set::rows(sql.dialect(), "$1", COLUMNS)
        ))
        .bind(Value::Array(rows)),
    )
    .await?;
    Ok(())
}

/// One kernel.
pub async fn get<S: Sql>(sql: &mut S, id: KernelId) -> Result<Option<KernelRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM kernels WHERE id = $1")).bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(KernelRow::from_row).transpose()
}

/// The kernels of these sessions, each session's main kernel first.
pub async fn of_sessions<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<Vec<KernelRow>> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} FROM kernels WHERE session_id {} \
         ORDER BY session_id, CASE cluster_role WHEN 'main' THEN 0 ELSE 1 END, cluster_idx",
        set::among(sql.dialect(), "$1")
    ));
    let rows = sql.fetch_all(stmt.bind(set::array(sessions))).await?;
    rows.iter().map(KernelRow::from_row).collect()
}

/// A kernel's output as kept after its end.
pub async fn log<S: Sql>(sql: &mut S, id: KernelId) -> Result<Option<String>> {
    let row =
        sql.fetch_optional(Stmt::new("SELECT container_log FROM kernels WHERE id = $1").bind(id.to_string())).await?;
    row.map_or(Ok(None), |row| row.get("container_log"))
}

/// Remembers which background task archives a kernel's work directory.
pub async fn set_commit_task<S: Sql>(sql: &mut S, id: KernelId, task: TaskId) -> Result<()> {
    let stmt =
        Stmt::new("UPDATE kernels SET commit_task = $2 WHERE id = $1").bind(id.to_string()).bind(task.to_string());
    sql.execute(stmt).await?;
    Ok(())
}

/// Those of these sessions of which a kernel is being archived.
pub async fn being_committed<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::among(
        "SELECT DISTINCT k.session_id FROM kernels k JOIN background_tasks t ON t.id = k.commit_task
         WHERE k.session_id IN {list} AND t.status = 'started'",
        sessions,
    );
    let rows = sql.fetch_all(stmt).await?;
    rows.iter().map(|row| row.parse("session_id")).collect()
}

/// A kernel that the host counts on an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnAgent {
    /// The kernel.
    pub id: KernelId,
    /// Its session.
    pub session: SessionId,
    /// Where it stands.
    pub status: KernelStatus,
    /// Since when.
    pub status_changed: Timestamp,
}

/// The kernels that occupy these agents, by agent; agents without any are left out.
pub async fn on_agents<S: Sql>(sql: &mut S, agents: &[&AgentId]) -> Result<HashMap<AgentId, Vec<OnAgent>>> {
    let mut out: HashMap<AgentId, Vec<OnAgent>> = HashMap::new();
    if agents.is_empty() {
        return Ok(out);
    }
    let stmt = Stmt::among(
        "SELECT agent_id, id, session_id, status, status_changed FROM kernels
         WHERE agent_id IN {list} AND status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')",
        agents,
    );
    for row in &sql.fetch_all(stmt).await? {
        out.entry(row.parse("agent_id")?).or_default().push(OnAgent {
            id: row.parse("id")?,
            session: row.parse("session_id")?,
            status: row.parse("status")?,
            status_changed: Timestamp(row.get("status_changed")?),
        });
    }
    Ok(out)
}

/// The sessions of kernels, for those that exist.
pub async fn sessions_of<S: Sql>(sql: &mut S, kernels: &[KernelId]) -> Result<Vec<(KernelId, SessionId)>> {
    if kernels.is_empty() {
        return Ok(Vec::new());
    }
    let stmt =
        Stmt::assembled(format!("SELECT id, session_id FROM kernels WHERE id {}", set::among(sql.dialect(), "$1")));
    let rows = sql.fetch_all(stmt.bind(set::array(kernels))).await?;
    rows.iter().map(|row| Ok((row.parse("id")?, row.parse("session_id")?))).collect()
}
