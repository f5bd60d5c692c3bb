//! Counters that tell hosts when what they cache has changed.

use std::collections::HashMap;

use crate::error::Result;
use crate::notices;
use crate::sql::{Sql, Stmt};

/// Users, key pairs, domains, projects, policies, scaling groups and their associations.
pub const IDENTITY: &str = "identity";
/// The shared configuration tree, and the manager's status.
pub const CONFIG: &str = "config";
/// Plugin bindings.
pub const BINDINGS: &str = "bindings";
/// Model services and their routes.
pub const ROUTES: &str = "routes";

/// Notes that `area` changes with this transaction. Other hosts [hear](crate::notices) of it when it is committed.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn bump<S: Sql>(sql: &mut S, area: &str) -> Result<()> {
    sql.execute(notices::raise(area)).await?;
    Ok(())
}

/// The revision of one area; 0 when it never changed.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, area: &str) -> Result<i64> {
    let row = sql.fetch_optional(Stmt::new("SELECT revision FROM revisions WHERE area = $1").bind(area)).await?;
    row.map_or(Ok(0), |r| r.get("revision"))
}

/// The revisions of all areas.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn all<S: Sql>(sql: &mut S) -> Result<HashMap<String, i64>> {
    let rows = sql.fetch_all(Stmt::new("SELECT area, revision FROM revisions")).await?;
    rows.iter().map(|r| Ok((r.get("area")?, r.get("revision")?))).collect()
}
