//! Stored components.

use std::collections::HashSet;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{PluginKind, RevisionStatus};
use serde_json::Value as Json;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// A stored component.
#[derive(Clone, Debug)]
pub struct RevisionRow {
    /// Lower-case hex SHA-256 of the component.
    pub digest: String,
    /// The plugin's own name; empty until it has described itself.
    pub name: String,
    /// Its semantic version; empty until then.
    pub version: String,
    /// What it decides; unknown until its outside was looked at.
    pub kind: Option<PluginKind>,
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
        kind: match row.get::<String>("kind")?.as_str() {
            "" => None,
            _ => Some(row.parse("kind")?),
        },
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

/// How many revisions that failed one of their first steps are kept.
pub const FAILED_KEPT: u32 = 50;

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
            .bind(revision.kind.map_or("", PluginKind::as_str))
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

/// Which of these revisions there are.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn known<'d, S: Sql>(sql: &mut S, digests: impl IntoIterator<Item = &'d str>) -> Result<HashSet<String>> {
    let stmt = Stmt::among("SELECT digest FROM plugin_revisions WHERE digest IN {list}", digests);
    sql.fetch_all(stmt).await?.iter().map(|row| row.get("digest")).collect()
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

/// Takes a failed revision in once more, with its bytes; false when it isn't a failed one.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn retry_revision<S: Sql>(
    sql: &mut S,
    digest: &str,
    by: &str,
    at: Timestamp,
    component: &[u8],
) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "UPDATE plugin_revisions SET status = $2, status_reason = NULL, uploaded_by = $3, uploaded_at = $4, \
                 component = $5, size_bytes = $6 WHERE digest = $1 AND status = $7",
            )
            .bind(digest)
            .bind(RevisionStatus::Incoming.as_str())
            .bind(by)
            .bind(at.micros())
            .bind(component)
            .bind(i64::try_from(component.len()).unwrap_or(i64::MAX))
            .bind(RevisionStatus::Failed.as_str()),
        )
        .await?;
    Ok(changed > 0)
}

/// Writes what an incoming revision is found to be, step by step: kind, then name and the rest, and `status`. False
/// when it isn't incoming any more.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn introduce_revision<S: Sql>(sql: &mut S, revision: &RevisionRow) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "UPDATE plugin_revisions SET name = $2, version = $3, kind = $4, summary = $5, info = $6, status = $7, \
                 status_reason = $8 WHERE digest = $1 AND status = $9",
            )
            .bind(&revision.digest)
            .bind(&revision.name)
            .bind(&revision.version)
            .bind(revision.kind.map_or("", PluginKind::as_str))
            .bind(&revision.summary)
            .bind(&revision.info)
            .bind(revision.status.as_str())
            .bind(revision.status_reason.clone())
            .bind(RevisionStatus::Incoming.as_str()),
        )
        .await?;
    Ok(changed > 0)
}

/// Ends the way of an incoming revision. Its bytes are of no more use; the newest [`FAILED_KEPT`] such rows stay. False
/// when it isn't incoming any more.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn fail_revision<S: Sql>(sql: &mut S, digest: &str, reason: &str) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "UPDATE plugin_revisions SET status = $2, status_reason = $3, component = $4 \
                 WHERE digest = $1 AND status = $5",
            )
            .bind(digest)
            .bind(RevisionStatus::Failed.as_str())
            .bind(reason)
            .bind(Vec::new())
            .bind(RevisionStatus::Incoming.as_str()),
        )
        .await?;
    sql.execute(
        Stmt::new(
            "DELETE FROM plugin_revisions WHERE status = $1 AND digest NOT IN (SELECT digest FROM plugin_revisions \
             WHERE status = $1 ORDER BY uploaded_at DESC, digest LIMIT CAST($2 AS BIGINT))",
        )
        .bind(RevisionStatus::Failed.as_str())
        .bind(FAILED_KEPT),
    )
    .await?;
    Ok(changed > 0)
}

/// Digests of revisions that came in before `before` and are still on their way: whoever took them in is gone.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn stranded<S: Sql>(sql: &mut S, before: Timestamp) -> Result<Vec<String>> {
    let stmt = Stmt::new("SELECT digest FROM plugin_revisions WHERE status = $1 AND uploaded_at < $2 ORDER BY digest")
        .bind(RevisionStatus::Incoming.as_str())
        .bind(before.micros());
    sql.fetch_all(stmt).await?.iter().map(|row| row.get("digest")).collect()
}
