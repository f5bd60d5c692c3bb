//! Sessions: reading, enqueueing, and what isn't a change of status (that is [`crate::work`]).

mod find;

use quarterdeck_model::dotfile::Dotfile;
use quarterdeck_model::vfolder::FolderMount;
use quarterdeck_model::{
    AccessKey, ClusterMode, ProjectId, SessionId, SessionResult, SessionStatus, SessionType, Timestamp, UserId,
};
use serde_json::{Value, json};

use crate::endpoints::NewRoute;
use crate::error::Result;
use crate::kernels::NewKernel;
use crate::sql::{Row, Sql, Stmt};
use crate::{dotfiles, endpoints, events, history, kernels, set};

pub use find::{find, find_live};

/// A session.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// Of the request that made it.
    pub creation_id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub session_type: SessionType,
    /// Higher goes first.
    pub priority: i64,
    /// How long its owner expects it to run.
    pub expected_ms: Option<i64>,
    /// Batch: its command is ended after this time.
    pub timeout_ms: Option<i64>,
    /// Its kernels may use the engine that they run in, where an agent allows it.
    pub builds_images: bool,
    /// Whether its kernels share an agent.
    pub cluster_mode: ClusterMode,
    /// How many kernels.
    pub cluster_size: i64,
    /// Counted apart.
    pub is_private: bool,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// The user that owns it.
    pub user_id: UserId,
    /// The key pair that owns it.
    pub access_key: AccessKey,
    /// Where it is placed.
    pub scaling_group: String,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// Where it stands.
    pub status: SessionStatus,
    /// Why.
    pub status_info: Option<String>,
    /// More about why.
    pub status_data: Option<Value>,
    /// Status → ISO 8601 instant.
    pub status_history: Value,
    /// How a batch session ended.
    pub result: SessionResult,
    /// Its command's exit code.
    pub exit_code: Option<i64>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it entered its status.
    pub status_changed: Timestamp,
    /// When it ended.
    pub terminated_at: Option<Timestamp>,
    /// Not before.
    pub starts_at: Option<Timestamp>,
    /// A batch session's command.
    pub startup_command: Option<String>,
    /// Runs in each kernel before anything else.
    pub bootstrap_script: Option<String>,
    /// Told about its life.
    pub callback_url: Option<String>,
    /// JSON object: environment variables.
    pub environ: Value,
    /// JSON list of mounts.
    pub vfolder_mounts: Value,
    /// Kernels use the node's network.
    pub use_host_network: bool,
    /// JSON slot map of decimal texts: what all kernels ask for.
    pub requested_slots: Value,
    /// How often code was run in it.
    pub num_queries: i64,
    /// How often the current step failed.
    pub attempts: i64,
    /// When the current step is tried (again).
    pub retry_at: Option<Timestamp>,
}

impl SessionRow {
    /// Reads a row of `sessions`.
    pub fn from_row(row: &Row) -> Result<Self> {
        let time = |name: &str| -> Result<Option<Timestamp>> { Ok(row.get::<Option<i64>>(name)?.map(Timestamp)) };
        Ok(Self {
            id: row.parse("id")?,
            creation_id: row.get("creation_id")?,
            name: row.get("name")?,
            session_type: row.parse("session_type")?,
            priority: row.get("priority")?,
            expected_ms: row.get("expected_ms")?,
            timeout_ms: row.get("timeout_ms")?,
            builds_images: row.get("builds_images")?,
            cluster_mode: row.parse("cluster_mode")?,
            cluster_size: row.get("cluster_size")?,
            is_private: row.get("is_private")?,
            domain_name: row.get("domain_name")?,
            project_id: row.parse("project_id")?,
            user_id: row.parse("user_id")?,
            access_key: row.parse("access_key")?,
            scaling_group: row.get("scaling_group")?,
            tag: row.get("tag")?,
            status: row.parse("status")?,
            status_info: row.get("status_info")?,
            status_data: row.json_opt("status_data")?,
            status_history: row.json("status_history")?,
            result: row.parse("result")?,
            exit_code: row.get("exit_code")?,
            created_at: Timestamp(row.get("created_at")?),
            status_changed: Timestamp(row.get("status_changed")?),
            terminated_at: time("terminated_at")?,
            starts_at: time("starts_at")?,
            startup_command: row.get("startup_command")?,
            bootstrap_script: row.get("bootstrap_script")?,
            callback_url: row.get("callback_url")?,
            environ: row.json("environ")?,
            vfolder_mounts: row.json("vfolder_mounts")?,
            use_host_network: row.get("use_host_network")?,
            requested_slots: row.json("requested_slots")?,
            num_queries: row.get("num_queries")?,
            attempts: row.get("attempts")?,
            retry_at: time("retry_at")?,
        })
    }
}

/// A session to be enqueued, with its kernels.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// Of the request that makes it.
    pub creation_id: String,
    /// Its name, free among the key pair's live sessions.
    pub name: String,
    /// What it is for.
    pub session_type: SessionType,
    /// Higher goes first.
    pub priority: i64,
    /// How long its owner expects it to run.
    pub expected_ms: Option<i64>,
    /// Batch: its command is ended after this time.
    pub timeout_ms: Option<i64>,
    /// Its kernels may use the engine that they run in, where an agent allows it.
    pub builds_images: bool,
    /// Whether its kernels share an agent.
    pub cluster_mode: ClusterMode,
    /// Counted apart.
    pub is_private: bool,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// The user that owns it.
    pub user_id: UserId,
    /// The key pair that owns it.
    pub access_key: AccessKey,
    /// Where it is placed.
    pub scaling_group: String,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// When it is enqueued.
    pub created_at: Timestamp,
    /// Not before.
    pub starts_at: Option<Timestamp>,
    /// A batch session's command.
    pub startup_command: Option<String>,
    /// Runs in each kernel before anything else.
    pub bootstrap_script: Option<String>,
    /// Told about its life.
    pub callback_url: Option<String>,
    /// JSON object: environment variables.
    pub environ: Value,
    /// Kernels use the node's network.
    pub use_host_network: bool,
    /// JSON slot map of decimal texts.
    pub requested_slots: Value,
    /// Its kernels, main kernel first.
    pub kernels: Vec<NewKernel>,
    /// Sessions that must succeed first.
    pub dependencies: Vec<SessionId>,
    /// What its kernels find in their home; those that win last.
    pub dotfiles: Vec<Dotfile>,
    /// Folders that its kernels have.
    pub vfolder_mounts: Vec<FolderMount>,
    /// The model service that it is to serve.
    pub route: Option<NewRoute>,
}

/// Inserts sessions as `PENDING`, with kernels, dependencies, history and events, in a constant number of statements.
///
/// # Errors
/// A violation of the schema (a name that is taken, an unknown agent) concerns all of them: insert them one by one then.
pub async fn enqueue<S: Sql>(sql: &mut S, sessions: &[NewSession]) -> Result<()> {
    let rows: Vec<_> = sessions
        .iter()
        .map(|s| {
            json!({
                "id": s.id, "creation_id": s.creation_id, "name": s.name, "session_type": s.session_type,
                "priority": s.priority, "expected_ms": s.expected_ms, "timeout_ms": s.timeout_ms,
                "builds_images": s.builds_images,
                "cluster_mode": s.cluster_mode, "cluster_size": s.kernels.len(), "is_private": s.is_private,
                "domain_name": s.domain_name, "project_id": s.project_id, "user_id": s.user_id,
                "access_key": s.access_key, "scaling_group": s.scaling_group, "tag": s.tag,
                "status_history": json!({ SessionStatus::Pending.as_str(): s.created_at.iso() }).to_string(),
                "created_at": s.created_at.0, "starts_at": s.starts_at.map(|t| t.0), "startup_command": s.startup_command,
                "bootstrap_script": s.bootstrap_script, "callback_url": s.callback_url, "environ": s.environ.to_string(),
                "use_host_network": s.use_host_network, "requested_slots": s.requested_slots.to_string(),
                "vfolder_mounts": json!(s.vfolder_mounts).to_string(),
            })
        })
        .collect();
    const COLUMNS: &[(&str, &str)] = &[
        ("id", "text"),
        ("creation_id", "text"),
        ("name", "text"),
        ("session_type", "text"),
        ("priority", "bigint"),
        ("expected_ms", "bigint"),
        ("timeout_ms", "bigint"),
        ("builds_images", "boolean"),
        ("cluster_mode", "text"),
        ("cluster_size", "bigint"),
        ("is_private", "boolean"),
        ("domain_name", "text"),
        ("project_id", "text"),
        ("user_id", "text"),
        ("access_key", "text"),
        ("scaling_group", "text"),
        ("tag", "text"),
        ("status_history", "text"),
        ("created_at", "bigint"),
        ("starts_at", "bigint"),
        ("startup_command", "text"),
        ("bootstrap_script", "text"),
        ("callback_url", "text"),
        ("environ", "text"),
        ("use_host_network", "boolean"),
        ("requested_slots", "text"),
        ("vfolder_mounts", "text"),
    ];
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO sessions ({}, status, status_changed) SELECT x.{}, 'PENDING', x.created_at FROM {}",
            names.join(", "),
            names.join(", x."),
            set::rows(sql.dialect(), "$1", COLUMNS)
        ))
        .bind(Value::Array(rows)),
    )
    .await?;
    kernels::insert(sql, sessions).await?;
    let dependencies: Vec<_> =
        sessions.iter().flat_map(|s| s.dependencies.iter().map(|d| json!({"s": s.id, "d": d}))).collect();
    if !dependencies.is_empty() {
        sql.execute(
            Stmt::assembled(format!(
                "INSERT INTO session_dependencies (session_id, depends_on) SELECT x.s, x.d FROM {} WHERE true \
                 ON CONFLICT (session_id, depends_on) DO NOTHING",
                set::rows(sql.dialect(), "$1", &[("s", "text"), ("d", "text")])
            ))
            .bind(Value::Array(dependencies)),
        )
        .await?;
    }
    dotfiles::keep(sql, sessions).await?;
    let routes: Vec<_> = sessions.iter().filter_map(|s| s.route.clone()).collect();
    endpoints::insert_routes(sql, &routes).await?;
    let pending =
        |session, kernel, at| history::Entry { session, kernel, status: "PENDING".to_owned(), reason: None, at };
    let entries: Vec<_> = sessions
        .iter()
        .flat_map(|s| {
            std::iter::once(pending(s.id, None, s.created_at))
                .chain(s.kernels.iter().map(|k| pending(s.id, Some(k.id), s.created_at)))
        })
        .collect();
    history::append(sql, &entries).await?;
    let events: Vec<_> = sessions
        .iter()
        .map(|s| events::NewEvent {
            name: "session_enqueued",
            session: Some(s.id),
            kernel: s.kernels.first().map(|k| k.id),
            reason: "unknown".to_owned(),
            exit_code: None,
            at: s.created_at,
            callback_url: s.callback_url.clone(),
        })
        .collect();
    events::append(sql, &events).await
}

/// One session.
pub async fn get<S: Sql>(sql: &mut S, id: SessionId) -> Result<Option<SessionRow>> {
    let row = sql.fetch_optional(Stmt::new("SELECT * FROM sessions WHERE id = $1").bind(id.to_string())).await?;
    row.as_ref().map(SessionRow::from_row).transpose()
}

/// Several sessions, in no particular order.
pub async fn get_many<S: Sql>(sql: &mut S, ids: &[SessionId]) -> Result<Vec<SessionRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sql
        .fetch_all(
            Stmt::assembled(format!("SELECT * FROM sessions WHERE id {}", set::among(sql.dialect(), "$1")))
                .bind(set::array(ids)),
        )
        .await?;
    rows.iter().map(SessionRow::from_row).collect()
}

/// A session's status alone: what waiting calls look at.
pub async fn status<S: Sql>(sql: &mut S, id: SessionId) -> Result<Option<SessionStatus>> {
    let row = sql.fetch_optional(Stmt::new("SELECT status FROM sessions WHERE id = $1").bind(id.to_string())).await?;
    row.map(|row| row.parse("status")).transpose()
}

/// Sessions in one of these statuses whose turn has come, oldest change first. Those of `under_way` are left out: however
/// many they are, they keep nobody else from the page.
pub async fn due<S: Sql>(
    sql: &mut S,
    statuses: &[SessionStatus],
    now: Timestamp,
    limit: i64,
    under_way: &[SessionId],
) -> Result<Vec<(SessionId, SessionStatus)>> {
    // The statuses stand in the text: a partial index serves only statuses that the planner sees. Two halves, since
    // neither database finds "null or less" in an index.
    let list: Vec<_> = statuses.iter().map(|s| format!("'{s}'")).collect();
    let others = match under_way {
        [] => String::new(),
        _ => format!("AND id NOT IN {}", set::texts(sql.dialect(), "$3")),
    };
    let half = |condition: &str| {
        format!(
            "SELECT id, status, status_changed FROM sessions WHERE status IN ({}) \
             AND status NOT IN ('TERMINATED', 'CANCELLED') AND {condition} {others}",
            list.join(", ")
        )
    };
    let stmt = Stmt::assembled(format!(
        "SELECT id, status FROM ({} UNION ALL {}) AS due ORDER BY status_changed, id LIMIT CAST($2 AS BIGINT)",
        half("retry_at IS NULL"),
        half("retry_at <= $1")
    ));
    let mut stmt = stmt.bind(now.0).bind(limit);
    if !under_way.is_empty() {
        stmt = stmt.bind(set::array(under_way));
    }
    let rows = sql.fetch_all(stmt).await?;
    rows.iter().map(|row| Ok((row.parse("id")?, row.parse("status")?))).collect()
}

/// Batch sessions whose command has ended, and that still run. Their turn is set by the report of the result and by
/// every change of status after it; [`hasten_finished`] gives one to those that have none.
pub async fn finished_batches<S: Sql>(sql: &mut S, now: Timestamp, limit: i64) -> Result<Vec<SessionId>> {
    let rows = sql
        .fetch_all(
            Stmt::new(
                "SELECT id FROM sessions WHERE status IN ('RUNNING', 'RUNNING_DEGRADED') AND retry_at <= $1 \
                 AND status NOT IN ('TERMINATED', 'CANCELLED') AND result <> 'UNDEFINED' ORDER BY retry_at LIMIT CAST($2 AS BIGINT)",
            )
            .bind(now.0)
            .bind(limit),
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Puts off the next look at these sessions, as long as they keep their status. `failed` counts an attempt.
pub async fn postpone<S: Sql>(
    sql: &mut S,
    sessions: &[(SessionId, SessionStatus, Timestamp)],
    failed: bool,
) -> Result<()> {
    if sessions.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = sessions.iter().map(|(id, status, at)| json!({"id": id, "s": status, "t": at.0})).collect();
    sql.execute(
        Stmt::assembled(format!(
            "UPDATE sessions SET retry_at = x.t, attempts = sessions.attempts + $2 FROM {} \
             WHERE sessions.id = x.id AND sessions.status = x.s",
            set::rows(sql.dialect(), "$1", &[("id", "text"), ("s", "text"), ("t", "bigint")])
        ))
        .bind(Value::Array(rows))
        .bind(i64::from(failed)),
    )
    .await?;
    Ok(())
}

/// Has these sessions looked at now, whatever was planned.
pub async fn hasten<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<u64> {
    if sessions.is_empty() {
        return Ok(0);
    }
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET retry_at = NULL WHERE id {} AND retry_at IS NOT NULL AND status NOT IN ('TERMINATED', 'CANCELLED')",
        set::among(sql.dialect(), "$1")
    ));
    sql.execute(stmt.bind(set::array(sessions))).await
}

/// Has all sessions in these statuses looked at now: what a host does that doesn't know what was sent before.
pub async fn hasten_all<S: Sql>(sql: &mut S, statuses: &[SessionStatus]) -> Result<u64> {
    let list: Vec<_> = statuses.iter().map(|s| format!("'{s}'")).collect();
    let stmt = Stmt::assembled(format!(
        "UPDATE sessions SET retry_at = NULL WHERE retry_at IS NOT NULL AND status NOT IN ('TERMINATED', 'CANCELLED') \
         AND status IN ({})",
        list.join(", ")
    ));
    sql.execute(stmt).await
}

/// Has all finished batch sessions that still run looked at now.
pub async fn hasten_finished<S: Sql>(sql: &mut S, now: Timestamp) -> Result<u64> {
    let stmt = Stmt::new(
        "UPDATE sessions SET retry_at = $1 WHERE status IN ('RUNNING', 'RUNNING_DEGRADED') \
         AND status NOT IN ('TERMINATED', 'CANCELLED') AND result <> 'UNDEFINED'",
    );
    sql.execute(stmt.bind(now.0)).await
}

/// Gives a session another name.
///
/// # Errors
/// A violation of uniqueness when a live session has the name.
pub async fn rename<S: Sql>(sql: &mut S, id: SessionId, name: &str) -> Result<u64> {
    sql.execute(Stmt::new("UPDATE sessions SET name = $1 WHERE id = $2").bind(name).bind(id.to_string())).await
}

/// Sessions that depend on any of these, directly or not (without these themselves).
pub async fn dependents<S: Sql>(sql: &mut S, id: SessionId) -> Result<Vec<SessionId>> {
    let rows = sql
        .fetch_all(
            Stmt::new(
                "WITH RECURSIVE after (id, depth) AS ( \
                   SELECT session_id, 1 FROM session_dependencies WHERE depends_on = $1 \
                   UNION SELECT d.session_id, a.depth + 1 FROM session_dependencies d JOIN after a ON d.depends_on = a.id \
                 ) SELECT id, MAX(depth) AS depth FROM after GROUP BY id ORDER BY MAX(depth) DESC, id",
            )
            .bind(id.to_string()),
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Sessions that this one waits for.
pub async fn dependencies<S: Sql>(sql: &mut S, id: SessionId) -> Result<Vec<SessionId>> {
    let rows = sql
        .fetch_all(
            Stmt::new("SELECT depends_on FROM session_dependencies WHERE session_id = $1 ORDER BY depends_on")
                .bind(id.to_string()),
        )
        .await?;
    rows.iter().map(|row| row.parse("depends_on")).collect()
}

/// Which of these names live sessions of these key pairs have.
pub async fn taken_names<S: Sql>(sql: &mut S, wanted: &[(AccessKey, String)]) -> Result<Vec<(AccessKey, String)>> {
    let rows: Vec<_> = wanted.iter().map(|(key, name)| json!({"k": key, "n": name})).collect();
    // Name by name. As a join PostgreSQL would hold them against all sessions there are, as long as it doesn't know how many
    // those are.
    let stmt = Stmt::assembled(format!(
        "SELECT x.k, x.n FROM {} WHERE (SELECT s.id FROM sessions s WHERE s.access_key = x.k AND s.name = x.n \
         AND s.status NOT IN ('TERMINATED', 'CANCELLED') LIMIT 1) IS NOT NULL",
        set::rows(sql.dialect(), "$1", &[("k", "text"), ("n", "text")])
    ));
    let rows = sql.fetch_all(stmt.bind(Value::Array(rows))).await?;
    rows.iter().map(|row| Ok((row.parse("k")?, row.get("n")?))).collect()
}

/// Counts one more run of code.
pub async fn count_query<S: Sql>(sql: &mut S, id: SessionId) -> Result<u64> {
    sql.execute(Stmt::new("UPDATE sessions SET num_queries = num_queries + 1 WHERE id = $1").bind(id.to_string())).await
}

/// How many sessions are in each status that isn't dead.
pub async fn open_by_status<S: Sql>(sql: &mut S) -> Result<Vec<(SessionStatus, i64)>> {
    let rows = sql
        .fetch_all(Stmt::new(
            "SELECT status, COUNT(*) AS n FROM sessions WHERE status NOT IN ('TERMINATED', 'CANCELLED') GROUP BY status",
        ))
        .await?;
    rows.iter().map(|row| Ok((row.parse("status")?, row.get("n")?))).collect()
}

/// SSH key pairs of key pairs that have both halves: (access key, public, private).
pub async fn ssh_keypairs<S: Sql>(sql: &mut S, access_keys: &[AccessKey]) -> Result<Vec<(AccessKey, String, String)>> {
    let stmt = Stmt::assembled(format!(
        "SELECT access_key, ssh_public_key, ssh_private_key FROM keypairs \
         WHERE access_key {} AND ssh_public_key IS NOT NULL AND ssh_private_key IS NOT NULL",
        set::among(sql.dialect(), "$1")
    ));
    let rows = sql.fetch_all(stmt.bind(set::array(access_keys))).await?;
    rows.iter()
        .map(|row| Ok((row.parse("access_key")?, row.get("ssh_public_key")?, row.get("ssh_private_key")?)))
        .collect()
}
