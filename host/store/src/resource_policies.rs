//! Resource policies: what a key pair may use.

use quarterdeck_model::{DefaultForUnspecified, Timestamp};
use serde_json::Value as Json;

use crate::changes::{self, POLICY};
use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A resource policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRow {
    /// Its name, which identifies it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What slots that it doesn't mention are limited to.
    pub default_for_unspecified: DefaultForUnspecified,
    /// Slot → limit, decimal texts.
    pub total_resource_slots: Json,
    /// Seconds; 0 = for ever.
    pub max_session_lifetime: i64,
    /// Sessions at a time; 0 or less = any number.
    pub max_concurrent_sessions: i64,
    /// Sessions of the system at a time.
    pub max_concurrent_sftp_sessions: i64,
    /// Kernels of one session.
    pub max_containers_per_session: i64,
    /// Folders.
    pub max_vfolder_count: i64,
    /// Bytes of one folder.
    pub max_vfolder_size: i64,
    /// Seconds; 0 = never idle.
    pub idle_timeout: i64,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Json,
}

/// Changes to a policy; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct PolicyChanges {
    /// See [`PolicyRow::default_for_unspecified`].
    pub default_for_unspecified: Option<DefaultForUnspecified>,
    /// See [`PolicyRow::total_resource_slots`].
    pub total_resource_slots: Option<Json>,
    /// See [`PolicyRow::max_session_lifetime`].
    pub max_session_lifetime: Option<i64>,
    /// See [`PolicyRow::max_concurrent_sessions`].
    pub max_concurrent_sessions: Option<i64>,
    /// See [`PolicyRow::max_concurrent_sftp_sessions`].
    pub max_concurrent_sftp_sessions: Option<i64>,
    /// See [`PolicyRow::max_containers_per_session`].
    pub max_containers_per_session: Option<i64>,
    /// See [`PolicyRow::max_vfolder_count`].
    pub max_vfolder_count: Option<i64>,
    /// See [`PolicyRow::max_vfolder_size`].
    pub max_vfolder_size: Option<i64>,
    /// See [`PolicyRow::idle_timeout`].
    pub idle_timeout: Option<i64>,
    /// See [`PolicyRow::allowed_vfolder_hosts`].
    pub allowed_vfolder_hosts: Option<Json>,
}

fn row(row: &Row) -> Result<PolicyRow> {
    Ok(PolicyRow {
        name: row.get("name")?,
        created_at: Timestamp(row.get("created_at")?),
        default_for_unspecified: row.parse("default_for_unspecified")?,
        total_resource_slots: row.json("total_resource_slots")?,
        max_session_lifetime: row.get("max_session_lifetime")?,
        max_concurrent_sessions: row.get("max_concurrent_sessions")?,
        max_concurrent_sftp_sessions: row.get("max_concurrent_sftp_sessions")?,
        max_containers_per_session: row.get("max_containers_per_session")?,
        max_vfolder_count: row.get("max_vfolder_count")?,
        max_vfolder_size: row.get("max_vfolder_size")?,
        idle_timeout: row.get("idle_timeout")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
    })
}

/// One policy.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, name: &str) -> Result<Option<PolicyRow>> {
    let stmt = Stmt::new("SELECT * FROM keypair_resource_policies WHERE name = $1").bind(name);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Those of the named policies that exist, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_names<S: Sql>(sql: &mut S, names: &[String]) -> Result<Vec<PolicyRow>> {
    let stmt = Stmt::among("SELECT * FROM keypair_resource_policies WHERE name IN {list}", names);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// All policies, by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S) -> Result<Vec<PolicyRow>> {
    sql.fetch_all(Stmt::new("SELECT * FROM keypair_resource_policies ORDER BY name")).await?.iter().map(row).collect()
}

/// The policies of a user's key pairs, one entry a key pair.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_user<S: Sql>(sql: &mut S, user: quarterdeck_model::UserId) -> Result<Vec<PolicyRow>> {
    let stmt = Stmt::new(
        "SELECT p.* FROM keypairs k JOIN keypair_resource_policies p ON p.name = k.resource_policy \
         WHERE k.user_id = $1 ORDER BY k.created_at, k.access_key",
    )
    .bind(user.to_string());
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Adds a policy.
///
/// # Errors
/// A unique violation when the name is taken.
pub async fn insert<S: Sql>(sql: &mut S, policy: &PolicyRow) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO keypair_resource_policies (name, created_at, default_for_unspecified, total_resource_slots, \
         max_session_lifetime, max_concurrent_sessions, max_concurrent_sftp_sessions, max_containers_per_session, \
         max_vfolder_count, max_vfolder_size, idle_timeout, allowed_vfolder_hosts) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(&policy.name)
    .bind(policy.created_at.micros())
    .bind(policy.default_for_unspecified.as_str())
    .bind(&policy.total_resource_slots)
    .bind(policy.max_session_lifetime)
    .bind(policy.max_concurrent_sessions)
    .bind(policy.max_concurrent_sftp_sessions)
    .bind(policy.max_containers_per_session)
    .bind(policy.max_vfolder_count)
    .bind(policy.max_vfolder_size)
    .bind(policy.idle_timeout)
    .bind(&policy.allowed_vfolder_hosts);
    changes::execute(sql, &POLICY, POLICY.row(&policy.name), stmt).await?;
    Ok(())
}

/// Changes a policy; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn update<S: Sql>(sql: &mut S, name: &str, changes: &PolicyChanges) -> Result<Option<u64>> {
    let update = Update::new("keypair_resource_policies")
        .maybe("default_for_unspecified", changes.default_for_unspecified.map(DefaultForUnspecified::as_str))
        .maybe("total_resource_slots", changes.total_resource_slots.as_ref())
        .maybe("max_session_lifetime", changes.max_session_lifetime)
        .maybe("max_concurrent_sessions", changes.max_concurrent_sessions)
        .maybe("max_concurrent_sftp_sessions", changes.max_concurrent_sftp_sessions)
        .maybe("max_containers_per_session", changes.max_containers_per_session)
        .maybe("max_vfolder_count", changes.max_vfolder_count)
        .maybe("max_vfolder_size", changes.max_vfolder_size)
        .maybe("idle_timeout", changes.idle_timeout)
        .maybe("allowed_vfolder_hosts", changes.allowed_vfolder_hosts.as_ref());
    if update.is_empty() {
        return Ok(None);
    }
    update.run(sql, &POLICY, name).await.map(Some)
}

/// Removes a policy; how many there were (0 or 1).
///
/// # Errors
/// A foreign-key violation while key pairs use it.
pub async fn delete<S: Sql>(sql: &mut S, name: &str) -> Result<u64> {
    let stmt = Stmt::new("DELETE FROM keypair_resource_policies WHERE name = $1").bind(name);
    changes::execute(sql, &POLICY, POLICY.row(name), stmt).await
}
