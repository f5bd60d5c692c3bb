//! What kernels were given and have used, for reports and statistics.

use quarterdeck_model::{KernelId, ProjectId, Timestamp, UserId};
use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// A kernel whose use is to be recorded.
#[derive(Clone, Debug)]
pub struct Source {
    /// The kernel.
    pub kernel: KernelId,
    /// Its user.
    pub user: UserId,
    /// When it was made.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Slot → amount, as JSON.
    pub occupied_slots: String,
    /// What was measured last, as its agent told it.
    pub last_stat: Option<String>,
    /// It has a record.
    pub is_recorded: bool,
}

/// What a kernel was given and used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Thousandths of a core.
    pub cpu_allocated: i64,
    /// Bytes.
    pub mem_allocated: i64,
    /// Thousandths of a device.
    pub gpu_allocated: i64,
    /// Whether anybody measured the rest.
    pub measured: bool,
    /// Milliseconds of processor time.
    pub cpu_used: f64,
    /// Bytes.
    pub mem_used: i64,
    /// Bytes.
    pub disk_used: i64,
    /// Bytes.
    pub io_read: i64,
    /// Bytes.
    pub io_write: i64,
}

const SOURCES: &str = "SELECT k.id, k.created_at, k.terminated_at, k.occupied_slots, k.last_stat, s.user_id, \
    u.kernel_id AS recorded FROM kernels k JOIN sessions s ON s.id = k.session_id \
    LEFT JOIN usage_records u ON u.kernel_id = k.id";

fn source(row: &Row) -> Result<Source> {
    Ok(Source {
        kernel: row.parse("id")?,
        user: row.parse("user_id")?,
        begun_at: Timestamp(row.get("created_at")?),
        ended_at: row.get::<Option<i64>>("terminated_at")?.map(Timestamp),
        occupied_slots: row.get("occupied_slots")?,
        last_stat: row.get("last_stat")?,
        is_recorded: row.get::<Option<String>>("recorded")?.is_some(),
    })
}

/// Kernels that ended since then and have no final record yet, oldest first; of one user or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn ended<S: Sql>(sql: &mut S, since: Timestamp, user: Option<UserId>, limit: i64) -> Result<Vec<Source>> {
    let stmt = Stmt::assembled(format!(
        "{SOURCES} WHERE k.status = 'TERMINATED' AND k.terminated_at >= $1 AND u.ended_at IS NULL \
         AND (CAST($2 AS TEXT) IS NULL OR s.user_id = $2) ORDER BY k.terminated_at, k.id LIMIT CAST($3 AS BIGINT)"
    ));
    let stmt = stmt.bind(since.micros()).bind(user.map(|user| user.to_string())).bind(limit);
    sql.fetch_all(stmt).await?.iter().map(source).collect()
}

/// Kernels that run, by id after `after`; of one user or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn running<S: Sql>(sql: &mut S, after: &str, user: Option<UserId>, limit: i64) -> Result<Vec<Source>> {
    let stmt = Stmt::assembled(format!(
        "{SOURCES} WHERE k.status = 'RUNNING' AND k.id > $1 AND (CAST($2 AS TEXT) IS NULL OR s.user_id = $2) \
         ORDER BY k.id LIMIT CAST($3 AS BIGINT)"
    ));
    let stmt = stmt.bind(after).bind(user.map(|user| user.to_string())).bind(limit);
    sql.fetch_all(stmt).await?.iter().map(source).collect()
}

/// Writes records; final ones stay as they are, and what was measured isn't forgotten when nobody measured it lately.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn write<S: Sql>(sql: &mut S, records: &[(Source, Use)]) -> Result<u64> {
    const COLUMNS: &[(&str, &str)] = &[
        ("kernel_id", "text"),
        ("user_id", "text"),
        ("begun_at", "bigint"),
        ("ended_at", "bigint"),
        ("cpu_allocated", "bigint"),
        ("mem_allocated", "bigint"),
        ("gpu_allocated", "bigint"),
        ("measured", "boolean"),
        ("cpu_used", "double precision"),
        ("mem_used", "bigint"),
        ("disk_used", "bigint"),
        ("io_read", "bigint"),
        ("io_write", "bigint"),
    ];
    if records.is_empty() {
        return Ok(0);
    }
    let rows: Vec<Json> = records
        .iter()
        .map(|(source, used)| {
            json!({
                "kernel_id": source.kernel, "user_id": source.user, "begun_at": source.begun_at,
                "ended_at": source.ended_at, "cpu_allocated": used.cpu_allocated, "mem_allocated": used.mem_allocated,
                "gpu_allocated": used.gpu_allocated, "measured": used.measured, "cpu_used": used.cpu_used,
                "mem_used": used.mem_used, "disk_used": used.disk_used, "io_read": used.io_read,
                "io_write": used.io_write,
            })
        })
        .collect();
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let given: Vec<_> = names.iter().map(|name| format!("x.{name}")).collect();
    let measured: Vec<_> = ["cpu_used", "mem_used", "disk_used", "io_read", "io_write"]
        .iter()
        .map(|name| format!("{name} = CASE WHEN excluded.measured THEN excluded.{name} ELSE usage_records.{name} END"))
        .collect();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO usage_records ({}) SELECT {} FROM {} JOIN kernels k ON k.id = x.kernel_id WHERE TRUE \
         ON CONFLICT (kernel_id) DO UPDATE SET ended_at = excluded.ended_at, cpu_allocated = excluded.cpu_allocated, \
         mem_allocated = excluded.mem_allocated, gpu_allocated = excluded.gpu_allocated, \
         measured = (usage_records.measured OR excluded.measured), {} WHERE usage_records.ended_at IS NULL",
        names.join(", "),
        given.join(", "),
        set::rows(sql.dialect(), "$1", COLUMNS),
        measured.join(", "),
    ));
    sql.execute(stmt.bind(Json::Array(rows))).await
}

/// Forgets records of kernels that ended before then.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn drop_before<S: Sql>(sql: &mut S, horizon: Timestamp) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM usage_records WHERE ended_at < $1").bind(horizon.micros())).await
}

/// A kernel with what it was given and used, for reports.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// The kernel.
    pub kernel: KernelId,
    /// Its session.
    pub session: String,
    /// What the agent calls it.
    pub container: Option<String>,
    /// Its domain.
    pub domain: String,
    /// Its project.
    pub project: ProjectId,
    /// That project's name.
    pub project_name: String,
    /// The session's name.
    pub name: String,
    /// The key pair.
    pub access_key: String,
    /// The user's address.
    pub email: String,
    /// The user's name.
    pub full_name: Option<String>,
    /// Where it ran.
    pub agent: Option<String>,
    /// Its image.
    pub image: String,
    /// When it was made.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its status changed last.
    pub status_changed: Timestamp,
    /// Its status.
    pub status: String,
    /// Why.
    pub status_info: Option<String>,
    /// The session's statuses and their times.
    pub status_history: Json,
    /// How the kernels of its session are spread.
    pub cluster_mode: String,
    /// As requested, `shmem` among it.
    pub resource_opts: Json,
    /// Device kind → devices.
    pub attached_devices: Json,
    /// The session's folders.
    pub mounts: Json,
    /// What it was given and used.
    pub used: Use,
}

/// The measured kernels that ran between two instants, by their end; of some projects or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn report<S: Sql>(
    sql: &mut S,
    from: Timestamp,
    to: Timestamp,
    projects: Option<&[ProjectId]>,
) -> Result<Vec<ReportRow>> {
    let within = set::texts(sql.dialect(), "$3");
    let stmt = Stmt::assembled(format!(
        "SELECT u.*, k.session_id, k.container_id, k.agent_id, k.image, k.status, k.status_info, k.status_changed, \
         k.resource_opts, k.attached_devices, s.domain_name, s.project_id, s.name AS session_name, s.access_key, \
         s.status_history, s.cluster_mode, s.vfolder_mounts, p.name AS project_name, o.email, o.full_name \
         FROM usage_records u JOIN kernels k ON k.id = u.kernel_id JOIN sessions s ON s.id = k.session_id \
         JOIN projects p ON p.id = s.project_id JOIN users o ON o.id = s.user_id \
         WHERE u.measured AND u.begun_at < $2 AND (u.ended_at IS NULL OR u.ended_at >= $1) \
         AND (CAST($3 AS TEXT) IS NULL OR s.project_id IN {within}) \
         ORDER BY CASE WHEN u.ended_at IS NULL THEN 1 ELSE 0 END, u.ended_at, u.kernel_id"
    ));
    let stmt = stmt.bind(from.micros()).bind(to.micros()).bind(projects.map(|ids| set::array(ids).to_string()));
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            Ok(ReportRow {
                kernel: row.parse("kernel_id")?,
                session: row.get("session_id")?,
                container: row.get("container_id")?,
                domain: row.get("domain_name")?,
                project: row.parse("project_id")?,
                project_name: row.get("project_name")?,
                name: row.get("session_name")?,
                access_key: row.get("access_key")?,
                email: row.get("email")?,
                full_name: row.get("full_name")?,
                agent: row.get("agent_id")?,
                image: row.get("image")?,
                begun_at: Timestamp(row.get("begun_at")?),
                ended_at: row.get::<Option<i64>>("ended_at")?.map(Timestamp),
                status_changed: Timestamp(row.get("status_changed")?),
                status: row.get("status")?,
                status_info: row.get("status_info")?,
                status_history: row.json("status_history")?,
                cluster_mode: row.get("cluster_mode")?,
                resource_opts: row.json("resource_opts")?,
                attached_devices: row.json("attached_devices")?,
                mounts: row.json("vfolder_mounts")?,
                used: Use {
                    cpu_allocated: row.get("cpu_allocated")?,
                    mem_allocated: row.get("mem_allocated")?,
                    gpu_allocated: row.get("gpu_allocated")?,
                    measured: row.get("measured")?,
                    cpu_used: row.get("cpu_used")?,
                    mem_used: row.get("mem_used")?,
                    disk_used: row.get("disk_used")?,
                    io_read: row.get("io_read")?,
                    io_write: row.get("io_write")?,
                },
            })
        })
        .collect()
}

/// What kernels together had at one time, or by how much that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Kernels.
    pub kernels: i64,
    /// Thousandths of a core.
    pub cpu_allocated: i64,
    /// Bytes.
    pub mem_allocated: i64,
    /// Thousandths of a device.
    pub gpu_allocated: i64,
    /// Bytes.
    pub io_read: i64,
    /// Bytes.
    pub io_write: i64,
    /// Bytes.
    pub disk_used: i64,
}

/// By how much the sums change at the bins of a series, which begins at `from` and has `bins` of `width` microseconds
/// each; bins at which nothing changes are left out. A kernel counts from the bin of its beginning to that of its end, or
/// to the series' end while it runs. Of one user or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn changes<S: Sql>(
    sql: &mut S,
    from: Timestamp,
    width: i64,
    bins: i64,
    user: Option<UserId>,
) -> Result<Vec<(i64, Sums)>> {
    const SUMMED: [&str; 6] = ["cpu_allocated", "mem_allocated", "gpu_allocated", "io_read", "io_write", "disk_used"];
    let plus = SUMMED.join(", ");
    let minus = SUMMED.map(|name| format!("-{name}")).join(", ");
    let sums = SUMMED.map(|name| format!("CAST(SUM({name}) AS BIGINT) AS {name}")).join(", ");
    let stmt = Stmt::assembled(format!(
        "SELECT bin, CAST(SUM(kernels) AS BIGINT) AS kernels, {sums} FROM (\
           SELECT CASE WHEN begun_at <= $1 THEN 0 ELSE (begun_at - $1) / $2 END AS bin, 1 AS kernels, {plus} \
           FROM usage_records WHERE begun_at < $1 + $2 * $3 AND (ended_at IS NULL OR ended_at >= $1) \
           AND (CAST($4 AS TEXT) IS NULL OR user_id = $4) \
           UNION ALL \
           SELECT (ended_at - $1) / $2 + 1 AS bin, -1 AS kernels, {minus} \
           FROM usage_records WHERE begun_at < $1 + $2 * $3 AND ended_at >= $1 \
           AND (CAST($4 AS TEXT) IS NULL OR user_id = $4)\
         ) AS steps WHERE bin < $3 GROUP BY bin ORDER BY bin"
    ));
    let stmt = stmt.bind(from.micros()).bind(width).bind(bins).bind(user.map(|user| user.to_string()));
    let rows = sql.fetch_all(stmt).await?;
    rows.iter()
        .map(|row| {
            let sums = Sums {
                kernels: row.get("kernels")?,
                cpu_allocated: row.get("cpu_allocated")?,
                mem_allocated: row.get("mem_allocated")?,
                gpu_allocated: row.get("gpu_allocated")?,
                io_read: row.get("io_read")?,
                io_write: row.get("io_write")?,
                disk_used: row.get("disk_used")?,
            };
            Ok((row.get("bin")?, sums))
        })
        .collect()
}
