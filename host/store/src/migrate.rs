//! Versioned migrations, one text for both databases.
//!
//! A file under `migrations/` is never edited after its release. `{{identity}}` stands for the
//! column type of a key that the database counts up itself.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::error::Result;
use crate::sql::{Dialect, Pools};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first schema", include_str!("../migrations/0001_first_schema.sql")),
    (4, "recordings apart from rounds", include_str!("../migrations/0004_rounds.sql")),
];

fn migrator(dialect: Dialect) -> Migrator {
    let identity = match dialect {
        Dialect::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Dialect::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    };
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, description, sql)| {
            Migration::new(
                *version,
                Cow::Borrowed(*description),
                MigrationType::Simple,
                sqlx::AssertSqlSafe(sql.replace("{{identity}}", identity)).into_sql_str(),
                false,
            )
        })
        .collect::<Vec<_>>();
    Migrator::with_migrations(migrations)
}

pub(crate) async fn run(pools: &Pools) -> Result<()> {
    let migrator = migrator(pools.dialect());
    match pools {
        Pools::Sqlite { write, .. } => migrator.run(write).await?,
        Pools::Postgres(pool) => migrator.run(pool).await?,
    }
    Ok(())
}
