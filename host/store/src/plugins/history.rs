//! The append-only record of who bound what, which rollback reads.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{FailurePolicy, PluginKind, Target};
use serde_json::Value as Json;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// One place in the order of calls: which revision, and how it is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The plugin's name.
    pub plugin: String,
    /// Its revision; none when a scaling group named a scheduler that wasn't there.
    pub digest: Option<String>,
    /// Its configuration.
    pub config: Json,
    /// Its explicit position.
    pub position: Option<i64>,
    /// What a failure means.
    pub failure_policy: FailurePolicy,
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
    /// `bind`, `unbind`, `rollback`, `suspend` or `promote`; words that begin with `shadow` don't touch what serves.
    pub action: String,
    /// The plugin's kind.
    pub kind: PluginKind,
    /// The plugin bound by this entry (or unbound).
    pub plugin: String,
    /// Whom it concerns.
    pub target: Target,
    /// What serves from here on, if anything.
    pub now: Option<Place>,
    /// What served until here, if anything.
    pub before: Option<Place>,
    /// Why, when a person or the circuit breaker said so.
    pub reason: Option<String>,
}

/// Appends an entry to the record.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn record<S: Sql>(sql: &mut S, entry: &HistoryRow) -> Result<()> {
    let (now, before) = (entry.now.as_ref(), entry.before.as_ref());
    sql.execute(
        Stmt::new(
            "INSERT INTO plugin_history (at, actor, action, kind, plugin, target_kind, target, digest, config, \
             position, failure_policy, previous_plugin, previous, previous_config, previous_position, \
             previous_failure_policy, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .bind(entry.at.micros())
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(entry.kind.as_str())
        .bind(&entry.plugin)
        .bind(entry.target.kind.as_str())
        .bind(&entry.target.name)
        .bind(now.and_then(|p| p.digest.clone()))
        .bind(now.map(|p| p.config.clone()))
        .bind(now.and_then(|p| p.position))
        .bind(now.map(|p| p.failure_policy.as_str()))
        .bind(before.map(|p| p.plugin.clone()))
        .bind(before.and_then(|p| p.digest.clone()))
        .bind(before.map(|p| p.config.clone()))
        .bind(before.and_then(|p| p.position))
        .bind(before.map(|p| p.failure_policy.as_str()))
        .bind(entry.reason.clone()),
    )
    .await?;
    Ok(())
}

/// The newest changes of what serves a target, newest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn history<S: Sql>(sql: &mut S, kind: PluginKind, target: &Target, limit: u32) -> Result<Vec<HistoryRow>> {
    let stmt = Stmt::new(
        "SELECT * FROM plugin_history WHERE kind = $1 AND target_kind = $2 AND target = $3 \
         AND action NOT LIKE 'shadow%' ORDER BY id DESC LIMIT CAST($4 AS BIGINT)",
    )
    .bind(kind.as_str())
    .bind(target.kind.as_str())
    .bind(&target.name)
    .bind(limit);
    sql.fetch_all(stmt).await?.iter().map(history_row).collect()
}

/// The newest entries that name one of these plugins, newest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn history_of<S: Sql>(sql: &mut S, plugins: &[&str], limit: u32) -> Result<Vec<HistoryRow>> {
    let stmt = Stmt::among(
        "SELECT * FROM plugin_history WHERE plugin IN {list} OR previous_plugin IN {list} ORDER BY id DESC \
         LIMIT CAST($2 AS BIGINT)",
        plugins,
    )
    .bind(limit);
    sql.fetch_all(stmt).await?.iter().map(history_row).collect()
}

/// Suspensions whose place nobody has changed since: what an administrator has to look at. Newest first, at most
/// `limit`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn demotions<S: Sql>(sql: &mut S, limit: u32) -> Result<Vec<HistoryRow>> {
    let stmt = Stmt::new(
        "SELECT * FROM plugin_history h WHERE h.action = 'suspend' AND NOT EXISTS (SELECT 1 FROM plugin_history n \
         WHERE n.id > h.id AND n.kind = h.kind AND n.target_kind = h.target_kind AND n.target = h.target \
         AND n.action NOT LIKE 'shadow%' \
         AND (n.kind = $1 OR n.plugin = h.previous_plugin OR n.previous_plugin = h.previous_plugin)) \
         ORDER BY h.id DESC LIMIT CAST($2 AS BIGINT)",
    )
    .bind(PluginKind::Scheduler.as_str())
    .bind(limit);
    sql.fetch_all(stmt).await?.iter().map(history_row).collect()
}

fn history_row(row: &Row) -> Result<HistoryRow> {
    let plugin: String = row.get("plugin")?;
    let policy = |name: &str| -> Result<FailurePolicy> {
        // Entries of the first release don't say.
        match row.get::<Option<String>>(name)? {
            Some(_) => row.parse(name),
            None => Ok(FailurePolicy::FailClosed),
        }
    };
    let now = match row.get::<Option<String>>("digest")? {
        None => None,
        digest => Some(Place {
            plugin: plugin.clone(),
            digest,
            config: row.json_opt("config")?.unwrap_or_else(|| Json::Object(Default::default())),
            position: row.get("position")?,
            failure_policy: policy("failure_policy")?,
        }),
    };
    let before = match row.get::<Option<String>>("previous_plugin")? {
        None => None,
        Some(plugin) => Some(Place {
            plugin,
            digest: row.get("previous")?,
            config: row.json_opt("previous_config")?.unwrap_or_else(|| Json::Object(Default::default())),
            position: row.get("previous_position")?,
            failure_policy: policy("previous_failure_policy")?,
        }),
    };
    Ok(HistoryRow {
        id: row.get("id")?,
        at: Timestamp(row.get("at")?),
        actor: row.get("actor")?,
        action: row.get("action")?,
        kind: row.parse("kind")?,
        plugin,
        target: Target { kind: row.parse("target_kind")?, name: row.get("target")? },
        now,
        before,
        reason: row.get("reason")?,
    })
}
