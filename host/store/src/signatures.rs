//! Signatures of components.

use std::collections::HashMap;

use quarterdeck_model::Timestamp;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// Whose signature a component bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureRow {
    /// SHA-256 of the component.
    pub digest: String,
    /// What the trusted key was called when it was checked.
    pub key_name: String,
    /// The key's id, 16 upper-case hex digits.
    pub key_id: String,
    /// The trusted comment.
    pub comment: String,
    /// The signature document.
    pub signature: String,
    /// When it was checked.
    pub checked_at: Timestamp,
}

fn signature_row(row: &Row) -> Result<SignatureRow> {
    Ok(SignatureRow {
        digest: row.get("digest")?,
        key_name: row.get("key_name")?,
        key_id: row.get("key_id")?,
        comment: row.get("comment")?,
        signature: row.get("signature")?,
        checked_at: Timestamp(row.get("checked_at")?),
    })
}

/// Writes a component's signature over the one that it has.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set<S: Sql>(sql: &mut S, signature: &SignatureRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO plugin_signatures (digest, key_name, key_id, comment, signature, checked_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (digest) DO UPDATE SET key_name = excluded.key_name, \
             key_id = excluded.key_id, comment = excluded.comment, signature = excluded.signature, \
             checked_at = excluded.checked_at",
        )
        .bind(&signature.digest)
        .bind(&signature.key_name)
        .bind(&signature.key_id)
        .bind(&signature.comment)
        .bind(&signature.signature)
        .bind(signature.checked_at.micros()),
    )
    .await?;
    Ok(())
}

/// The signature of one component.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, digest: &str) -> Result<Option<SignatureRow>> {
    let stmt = Stmt::new("SELECT * FROM plugin_signatures WHERE digest = $1").bind(digest);
    sql.fetch_optional(stmt).await?.as_ref().map(signature_row).transpose()
}

/// All signatures by the component's digest.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn all<S: Sql>(sql: &mut S) -> Result<HashMap<String, SignatureRow>> {
    let rows = sql.fetch_all(Stmt::new("SELECT * FROM plugin_signatures")).await?;
    rows.iter().map(|row| signature_row(row).map(|s| (s.digest.clone(), s))).collect()
}
