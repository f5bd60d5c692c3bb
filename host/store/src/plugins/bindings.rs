//! Bindings, and the fields of scaling groups through which they show.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, Target, TargetKind};
use serde_json::Value as Json;

use crate::changes::{self, BINDING, Rows, SCALING_GROUP};
use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

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

/// The binding of a plugin to a target.
fn place(kind: PluginKind, plugin: &str, target: &Target, mode: BindingMode) -> Rows {
    Rows::with("kind = $1 AND plugin = $2 AND target_kind = $3 AND target = $4 AND mode = $5", kind.as_str())
        .and(plugin)
        .and(target.kind.as_str())
        .and(&target.name)
        .and(mode.as_str())
}

/// Writes a binding over the one of the same plugin, target and mode.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn upsert_binding<S: Sql>(sql: &mut S, binding: &BindingRow) -> Result<()> {
    let stmt = Stmt::new(
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
    .bind(binding.bound_at.micros());
    let rows = place(binding.kind, &binding.plugin, &binding.target, binding.mode);
    changes::execute(sql, &BINDING, rows, stmt).await?;
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
    let stmt = Stmt::new(
        "DELETE FROM plugin_bindings WHERE kind = $1 AND plugin = $2 AND target_kind = $3 AND target = $4 AND mode = $5",
    )
    .bind(kind.as_str())
    .bind(plugin)
    .bind(target.kind.as_str())
    .bind(&target.name)
    .bind(mode.as_str());
    let changed = changes::execute(sql, &BINDING, place(kind, plugin, target, mode), stmt).await?;
    Ok(changed > 0)
}

/// Removes the live bindings of a kind to a target, but for the one of `plugin`: a scaling group has one scheduler.
/// What they were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_bindings_but<S: Sql>(
    sql: &mut S,
    kind: PluginKind,
    target: &Target,
    plugin: &str,
) -> Result<Vec<BindingRow>> {
    let stmt = Stmt::new(
        "DELETE FROM plugin_bindings WHERE kind = $1 AND target_kind = $2 AND target = $3 AND mode = $4 \
         AND plugin <> $5 RETURNING *",
    )
    .bind(kind.as_str())
    .bind(target.kind.as_str())
    .bind(&target.name)
    .bind(BindingMode::Live.as_str())
    .bind(plugin);
    let rows =
        Rows::with("kind = $1 AND target_kind = $2 AND target = $3 AND mode = $4 AND plugin <> $5", kind.as_str())
            .and(target.kind.as_str())
            .and(&target.name)
            .and(BindingMode::Live.as_str())
            .and(plugin);
    let seen = changes::look(sql, &BINDING, &rows).await?;
    let removed = sql.fetch_all(stmt).await?.iter().map(binding_row).collect::<Result<_>>()?;
    changes::note(sql, &BINDING, &rows, seen).await?;
    Ok(removed)
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
    let stmt = Stmt::new("UPDATE scaling_groups SET scheduler = $2, scheduler_opts = $3 WHERE name = $1")
        .bind(group)
        .bind(scheduler)
        .bind(opts);
    let changed = changes::execute(sql, &SCALING_GROUP, SCALING_GROUP.row(group), stmt).await?;
    Ok(changed > 0)
}
