//! Files of watched directories: what each host found, and what was done about it.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::DropState;
use serde_json::Value as Json;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// A file in the watched directory of one host.
#[derive(Clone, Debug, PartialEq)]
pub struct DropRow {
    /// Host and directory, as `host:/directory`.
    pub place: String,
    /// Name of the component's file.
    pub file: String,
    /// Stands for all that belongs to the file, or for the fault that keeps it from being read.
    pub content: String,
    /// SHA-256 of the component, when it could be read.
    pub digest: Option<String>,
    /// `name@version`, once known.
    pub plugin: Option<String>,
    /// What became of it.
    pub state: DropState,
    /// Why it was refused or waits.
    pub reason: Option<String>,
    /// The binding that its settings ask for.
    pub binding: Option<Json>,
    /// When it came to that.
    pub at: Timestamp,
}

fn drop_row(row: &Row) -> Result<DropRow> {
    Ok(DropRow {
        place: row.get("place")?,
        file: row.get("file")?,
        content: row.get("content")?,
        digest: row.get("digest")?,
        plugin: row.get("plugin")?,
        state: row.parse("state")?,
        reason: row.get("reason")?,
        binding: row.json_opt("binding")?,
        at: Timestamp(row.get("at")?),
    })
}

/// What was done about a file name's content, once for all hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActRow {
    /// Stands for the content.
    pub content: String,
    /// Who acts, or did.
    pub place: String,
    /// `Waiting` while somebody is at it.
    pub state: DropState,
    /// Why it was refused.
    pub reason: Option<String>,
    /// `name@version`, once known.
    pub plugin: Option<String>,
    /// When this content was taken up first.
    pub since: Timestamp,
    /// From when on somebody else may take it up, unless it is done.
    pub next_at: Timestamp,
    /// How often it was taken up.
    pub tries: i64,
}

/// Writes what a host found over what it found there before.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set<S: Sql>(sql: &mut S, drop: &DropRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO plugin_drops (place, file, content, digest, plugin, state, reason, binding, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (place, file) DO UPDATE SET \
             content = excluded.content, digest = excluded.digest, plugin = excluded.plugin, state = excluded.state, \
             reason = excluded.reason, binding = excluded.binding, at = excluded.at",
        )
        .bind(&drop.place)
        .bind(&drop.file)
        .bind(&drop.content)
        .bind(drop.digest.clone())
        .bind(drop.plugin.clone())
        .bind(drop.state.as_str())
        .bind(drop.reason.clone())
        .bind(drop.binding.clone())
        .bind(drop.at.micros()),
    )
    .await?;
    Ok(())
}

/// What one host found.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_place<S: Sql>(sql: &mut S, place: &str) -> Result<Vec<DropRow>> {
    let stmt = Stmt::new("SELECT * FROM plugin_drops WHERE place = $1 ORDER BY file").bind(place);
    sql.fetch_all(stmt).await?.iter().map(drop_row).collect()
}

/// What all hosts found, the newest first, at most `limit`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn newest<S: Sql>(sql: &mut S, limit: u32) -> Result<Vec<DropRow>> {
    let stmt =
        Stmt::new("SELECT * FROM plugin_drops ORDER BY at DESC, file, place LIMIT CAST($1 AS BIGINT)").bind(limit);
    sql.fetch_all(stmt).await?.iter().map(drop_row).collect()
}

/// Forgets a file that is gone from a host, and what was done about it: if it comes back, it comes anew.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn forget<S: Sql>(sql: &mut S, place: &str, file: &str) -> Result<()> {
    sql.execute(Stmt::new("DELETE FROM plugin_drops WHERE place = $1 AND file = $2").bind(place).bind(file)).await?;
    sql.execute(Stmt::new("DELETE FROM plugin_drop_acts WHERE file = $1").bind(file)).await?;
    Ok(())
}

/// A process that wants to deal with a file.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The process.
    pub holder: &'a str,
    /// Where it found the file.
    pub place: &'a str,
    /// The file's name.
    pub file: &'a str,
    /// Stands for what it found.
    pub content: &'a str,
}

/// Takes up a content that nobody has dealt with, or whose turn has come again; false when it is dealt with, or
/// somebody else is at it. The claim lasts until `next_at`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn claim<S: Sql>(sql: &mut S, claim: &Claim<'_>, now: Timestamp, next_at: Timestamp) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "INSERT INTO plugin_drop_acts (file, content, holder, place, state, since, next_at, tries) \
                 VALUES ($1, $2, $3, $4, 'waiting', $5, $6, 1) ON CONFLICT (file) DO UPDATE SET \
                 since = CASE WHEN plugin_drop_acts.content = excluded.content THEN plugin_drop_acts.since \
                              ELSE excluded.since END, \
                 tries = CASE WHEN plugin_drop_acts.content = excluded.content THEN plugin_drop_acts.tries + 1 \
                              ELSE 1 END, \
                 content = excluded.content, holder = excluded.holder, place = excluded.place, \
                 state = excluded.state, reason = NULL, plugin = NULL, next_at = excluded.next_at \
                 WHERE plugin_drop_acts.content <> excluded.content \
                    OR plugin_drop_acts.state <> 'ok' AND plugin_drop_acts.next_at <= $5",
            )
            .bind(claim.file)
            .bind(claim.content)
            .bind(claim.holder)
            .bind(claim.place)
            .bind(now.micros())
            .bind(next_at.micros()),
        )
        .await?;
    Ok(changed > 0)
}

/// Makes a claim last until `next_at`; false when it is lost.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn renew<S: Sql>(sql: &mut S, claim: &Claim<'_>, next_at: Timestamp) -> Result<bool> {
    let changed = sql
        .execute(
            Stmt::new(
                "UPDATE plugin_drop_acts SET next_at = $4 \
                 WHERE file = $1 AND content = $2 AND holder = $3 AND state = 'waiting'",
            )
            .bind(claim.file)
            .bind(claim.content)
            .bind(claim.holder)
            .bind(next_at.micros()),
        )
        .await?;
    Ok(changed > 0)
}

/// What was done about a file name's content.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn act<S: Sql>(sql: &mut S, file: &str) -> Result<Option<ActRow>> {
    let stmt = Stmt::new("SELECT * FROM plugin_drop_acts WHERE file = $1").bind(file);
    sql.fetch_optional(stmt)
        .await?
        .map(|row| {
            Ok(ActRow {
                content: row.get("content")?,
                place: row.get("place")?,
                state: row.parse("state")?,
                reason: row.get("reason")?,
                plugin: row.get("plugin")?,
                since: Timestamp(row.get("since")?),
                next_at: Timestamp(row.get("next_at")?),
                tries: row.get("tries")?,
            })
        })
        .transpose()
}

/// Ends what [`claim`] began, unless the claim is lost: how it came out, and from when on a refused one may be tried again.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn finish<S: Sql>(sql: &mut S, holder: &str, drop: &DropRow, next_at: Timestamp) -> Result<()> {
    sql.execute(
        Stmt::new(
            "UPDATE plugin_drop_acts SET state = $4, reason = $5, plugin = $6, next_at = $7 \
             WHERE file = $1 AND content = $2 AND holder = $3",
        )
        .bind(&drop.file)
        .bind(&drop.content)
        .bind(holder)
        .bind(drop.state.as_str())
        .bind(drop.reason.clone())
        .bind(drop.plugin.clone())
        .bind(next_at.micros()),
    )
    .await?;
    Ok(())
}
