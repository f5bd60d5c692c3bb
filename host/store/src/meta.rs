//! Facts about this installation, by name.

use crate::error::Result;
use crate::sql::{Sql, Stmt};

/// What is stored under `name`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, name: &str) -> Result<Option<String>> {
    let row = sql.fetch_optional(Stmt::new("SELECT value FROM meta WHERE name = $1").bind(name)).await?;
    row.map(|r| r.get("value")).transpose()
}

/// Stores `value` under `name`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set<S: Sql>(sql: &mut S, name: &str, value: &str) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value),
    )
    .await?;
    Ok(())
}

/// Forgets what is stored under `name`; whether there was something.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete<S: Sql>(sql: &mut S, name: &str) -> Result<bool> {
    Ok(sql.execute(Stmt::new("DELETE FROM meta WHERE name = $1").bind(name)).await? > 0)
}

/// What is stored under `name`; stores `value` first when nothing is. Hosts that start together agree.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get_or_set<S: Sql>(sql: &mut S, name: &str, value: &str) -> Result<String> {
    sql.execute(
        Stmt::new("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(value),
    )
    .await?;
    sql.fetch_one(Stmt::new("SELECT value FROM meta WHERE name = $1").bind(name)).await?.get("value")
}

/// How many sessions hold agents' resources, counted by their main kernels.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn active_sessions<S: Sql>(sql: &mut S) -> Result<i64> {
    let stmt = Stmt::new(
        "SELECT COUNT(*) AS n FROM kernels WHERE cluster_role = 'main' \
         AND status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED')",
    );
    sql.fetch_one(stmt).await?.get("n")
}
