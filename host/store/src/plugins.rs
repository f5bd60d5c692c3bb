//! Policy plugins: revisions by digest, bindings, and the history that rollback reads.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target, TargetKind};
use serde_json::Value as Json;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// A stored component.
#[derive(Clone, Debug)]
pub struct RevisionRow {
    /// Lower-case hex SHA-256 of the component.
    pub digest: String,
    /// The plugin's own name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// What it decides.
    pub kind: PluginKind,
    /// One line about it.
    pub summary: String,
    /// What `describe` answered.
    pub info: Json,
    /// Size of the component in bytes.
    pub size_bytes: i64,
    /// Shipped with the host.
    pub builtin: bool,
    /// Whether it may serve.
    pub status: RevisionStatus,
    /// Why it doesn't.
    pub status_reason: Option<String>,
    /// Who uploaded it (an e-mail address, or `host`).
    pub uploaded_by: String,
    /// When.
    pub uploaded_at: Timestamp,
}

const REVISION: &str = "digest, name, version, kind, summary, info, size_bytes, builtin, status, status_reason, \
                        uploaded_by, uploaded_at";

fn revision_row(row: &Row) -> Result<RevisionRow> {
    Ok(RevisionRow {
        digest: row.get("digest")?,
        name: row.get("name")?,
        version: row.get("version")?,
        kind: row.parse("kind")?,
        summary: row.get("summary")?,
        info: row.json("info")?,
        size_bytes: row.get("size_bytes")?,
        builtin: row.get("builtin")?,
        status: row.parse("status")?,
        status_reason: row.get("status_reason")?,
        uploaded_by: row.get("uploaded_by")?,
        uploaded_at: Timestamp(row.get("uploaded_at")?),
    })
}

/// Which plugin revision, with which configuration, serves whom.
#[derive(Clone, Debug)]
pub struct BindingRow {
    /// The binding's id.
    pub id: String,
    /// The plugin's kind.
    pub kind: PluginKind,
    /// The plugin's name.
    pub plugin: String,
    /// Whom it serves.
    pub target: Target,
    /// The revision.
    pub digest: String,
    /// Its configuration.
    pub config: Json,
    /// Explicit place in the order of calls; by name without one.
    pub position: Option<i64>,
    /// Whether it decides.
    pub mode: BindingMode,
    /// What a failing hook means.
    pub failure_policy: FailurePolicy,
    /// Who bound it.
    pub bound_by: String,
    /// When.
    pub bound_at: Timestamp,
}

fn binding_row(row: &Row) -> Result<BindingRow> {
    Ok(BindingRow {
        id: row.get("id")?,
        kind: row.parse("kind")?,
        plugin: row.get("plugin")?,
        target: Target { kind: row.parse::<TargetKind>("target_kind")?, name: row.get("target")? },
        digest: row.get("digest")?,
        config: row.json("config")?,
        position: row.get("position")?,
        mode: row.parse("mode")?,
        failure_policy: row.parse("failure_policy")?,
        bound_by: row.get("bound_by")?,
        bound_at: Timestamp(row.get("bound_at")?),
    })
}

/// One entry of the append-only record of who changed what.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// Orders the entries; 0 before insertion.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who (an e-mail address, or `host` for the circuit breaker).
    pub actor: String,
    /// `bind`, `unbind`, `rollback` or `suspend`.
    pub action: String,
    /// The plugin's kind.
    pub kind: PluginKind,
    /// The plugin bound by this entry (or unbound).
    pub plugin: String,
    /// Whom it concerns.
    pub target: Target,
    /// The revision that serves from here on, if any.
    pub digest: Option<String>,
    /// Its configuration.
    pub config: Option<Json>,
    /// The plugin that served until here.
    pub previous_plugin: Option<String>,
    /// Its revision.
    pub previous: Option<String>,
    /// Its configuration.
    pub previous_config: Option<Json>,
    /// Why, when a person or the circuit breaker said so.
    pub reason: Option<String>,
}

/// Stores a component; false when this digest is there already.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn insert_revision<S: Sql>(sql: &mut S, revision: &RevisionRow, component: &[u8]) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "INSERT INTO plugin_revisions (digest, name, version, kind, summary, info, size_bytes, builtin, status, \
                 status_reason, uploaded_by, uploaded_at, component) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (digest) DO NOTHING",
            )
            .bind(&revision.digest)
            .bind(&revision.name)
            .bind(&revision.version)
            .bind(revision.kind.as_str())
            .bind(&revision.summary)
            .bind(&revision.info)
            .bind(revision.size_bytes)
            .bind(revision.builtin)
            .bind(revision.status.as_str())
            .bind(revision.status_reason.clone())
            .bind(&revision.uploaded_by)
            .bind(revision.uploaded_at.micros())
            .bind(component),
        )
        .await?;
    Ok(changed > 0)
}

/// The revision with this digest.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn revision<S: Sql>(sql: &mut S, digest: &str) -> Result<Option<RevisionRow>> {
    let stmt = Stmt::assembled(format!("SELECT {REVISION} FROM plugin_revisions WHERE digest = $1")).bind(digest);
    sql.fetch_optional(stmt).await?.as_ref().map(revision_row).transpose()
}

/// The bytes of a component.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn component<S: Sql>(sql: &mut S, digest: &str) -> Result<Option<Vec<u8>>> {
    let stmt = Stmt::new("SELECT component FROM plugin_revisions WHERE digest = $1").bind(digest);
    sql.fetch_optional(stmt).await?.map(|row| row.get("component")).transpose()
}

/// All revisions, newest first within kind and name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn revisions<S: Sql>(sql: &mut S) -> Result<Vec<RevisionRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {REVISION} FROM plugin_revisions ORDER BY kind, name, uploaded_at DESC, digest"
    ));
    sql.fetch_all(stmt).await?.iter().map(revision_row).collect()
}

/// Changes how a revision stands; false when there is none, or it stands so already.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_status<S: Sql>(
    sql: &mut S,
    digest: &str,
    status: RevisionStatus,
    reason: Option<&str>,
) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new("UPDATE plugin_revisions SET status = $2, status_reason = $3 WHERE digest = $1 AND status <> $2")
                .bind(digest)
                .bind(status.as_str())
                .bind(reason),
        )
        .await?;
    Ok(changed > 0)
}

/// All bindings, in the order in which they are called: explicit positions first, then by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn bindings<S: Sql>(sql: &mut S) -> Result<Vec<BindingRow>> {
    let mut rows: Vec<BindingRow> = sql
        .fetch_all(Stmt::new("SELECT * FROM plugin_bindings"))
        .await?
        .iter()
        .map(binding_row)
        .collect::<Result<_>>()?;
    // Sorted here, since collations differ between databases and the order is part of the contract.
    rows.sort_by(|a, b| {
        let key = |r: &BindingRow| (r.position.is_none(), r.position, r.plugin.clone(), r.id.clone());
        key(a).cmp(&key(b))
    });
    Ok(rows)
}

/// Writes a binding over the one of the same plugin, target and mode.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn upsert_binding<S: Sql>(sql: &mut S, binding: &BindingRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO plugin_bindings (id, kind, plugin, target_kind, target, digest, config, position, mode, \
             failure_policy, bound_by, bound_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (kind, plugin, target_kind, target, mode) DO UPDATE SET digest = excluded.digest, \
             config = excluded.config, position = excluded.position, failure_policy = excluded.failure_policy, \
             bound_by = excluded.bound_by, bound_at = excluded.bound_at",
        )
        .bind(&binding.id)
        .bind(binding.kind.as_str())
        .bind(&binding.plugin)
        .bind(binding.target.kind.as_str())
        .bind(&binding.target.name)
        .bind(&binding.digest)
        .bind(&binding.config)
        .bind(binding.position)
        .bind(binding.mode.as_str())
        .bind(binding.failure_policy.as_str())
        .bind(&binding.bound_by)
        .bind(binding.bound_at.micros()),
    )
    .await?;
    Ok(())
}

/// Removes the binding of a plugin to a target; false when there is none.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_binding<S: Sql>(
    sql: &mut S,
    kind: PluginKind,
    plugin: &str,
    target: &Target,
    mode: BindingMode,
) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "DELETE FROM plugin_bindings WHERE kind = $1 AND plugin = $2 AND target_kind = $3 AND target = $4 AND mode = $5",
            )
            .bind(kind.as_str())
            .bind(plugin)
            .bind(target.kind.as_str())
            .bind(&target.name)
            .bind(mode.as_str()),
        )
        .await?;
    Ok(changed > 0)
}

/// Appends an entry to the record.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn record<S: Sql>(sql: &mut S, entry: &HistoryRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO plugin_history (at, actor, action, kind, plugin, target_kind, target, digest, config, \
             previous_plugin, previous, previous_config, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(entry.at.micros())
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(entry.kind.as_str())
        .bind(&entry.plugin)
        .bind(entry.target.kind.as_str())
        .bind(&entry.target.name)
        .bind(entry.digest.clone())
        .bind(entry.config.clone())
        .bind(entry.previous_plugin.clone())
        .bind(entry.previous.clone())
        .bind(entry.previous_config.clone())
        .bind(entry.reason.clone()),
    )
    .await?;
    Ok(())
}

/// The newest entries about a target (`None` = every target and kind), newest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn history<S: Sql>(sql: &mut S, about: Option<(PluginKind, &Target)>, limit: u32) -> Result<Vec<HistoryRow>> {
    let stmt = match about {
        Some((kind, target)) => Stmt::new(
            "SELECT * FROM plugin_history WHERE kind = $1 AND target_kind = $2 AND target = $3 ORDER BY id DESC LIMIT $4",
        )
        .bind(kind.as_str())
        .bind(target.kind.as_str())
        .bind(&target.name)
        .bind(limit),
        None => Stmt::new("SELECT * FROM plugin_history ORDER BY id DESC LIMIT $1").bind(limit),
    };
    sql.fetch_all(stmt)
        .await?
        .iter()
        .map(|row| {
            Ok(HistoryRow {
                id: row.get("id")?,
                at: Timestamp(row.get("at")?),
                actor: row.get("actor")?,
                action: row.get("action")?,
                kind: row.parse("kind")?,
                plugin: row.get("plugin")?,
                target: Target { kind: row.parse("target_kind")?, name: row.get("target")? },
                digest: row.get("digest")?,
                config: row.json_opt("config")?,
                previous_plugin: row.get("previous_plugin")?,
                previous: row.get("previous")?,
                previous_config: row.json_opt("previous_config")?,
                reason: row.get("reason")?,
            })
        })
        .collect()
}

/// The scheduler's name and the options of a scaling group: the views through which bindings show.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn group_scheduler<S: Sql>(sql: &mut S, group: &str) -> Result<Option<(String, Json)>> {
    let stmt = Stmt::new("SELECT scheduler, scheduler_opts FROM scaling_groups WHERE name = $1").bind(group);
    sql.fetch_optional(stmt).await?.map(|row| Ok((row.get("scheduler")?, row.json("scheduler_opts")?))).transpose()
}

/// Writes a scaling group's scheduler and options; false when there is no such group.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_group_scheduler<S: Sql>(sql: &mut S, group: &str, scheduler: &str, opts: &Json) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new("UPDATE scaling_groups SET scheduler = $2, scheduler_opts = $3 WHERE name = $1")
                .bind(group)
                .bind(scheduler)
                .bind(opts),
        )
        .await?;
    Ok(changed > 0)
}
