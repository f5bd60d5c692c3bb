//! Versioned migrations, one text for both databases.
//!
//! A file under `migrations/` is never edited after its release. `{{identity}}` stands for the
//! column type of a key that the database counts up itself. What only one database can read (triggers) stands between
//! the lines `-- {{sqlite}}`, `-- {{postgres}}` and `-- {{end}}`.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection as _, SqlSafeStr as _};

use crate::error::Result;
use crate::sql::{Dialect, File, Pools};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first schema", include_str!("../migrations/0001_first_schema.sql")),
    (2, "plugin steps", include_str!("../migrations/0002_plugin_steps.sql")),
    (3, "plugin ways", include_str!("../migrations/0003_plugin_ways.sql")),
    (4, "recordings apart from rounds", include_str!("../migrations/0004_rounds.sql")),
    (5, "shadow", include_str!("../migrations/0005_shadow.sql")),
    (6, "usage history", include_str!("../migrations/0006_usage_history.sql")),
    (8, "dotfiles templates logs", include_str!("../migrations/0008_dotfiles_templates_logs.sql")),
    (10, "live statistics", include_str!("../migrations/0010_live_statistics.sql")),
    (12, "audit", include_str!("../migrations/0012_audit.sql")),
    (15, "background tasks", include_str!("../migrations/0015_background_tasks.sql")),
    (16, "usage records", include_str!("../migrations/0016_usage_records.sql")),
    (22, "streams", include_str!("../migrations/0022_streams.sql")),
    (23, "commits", include_str!("../migrations/0023_commits.sql")),
    (24, "cluster keys", include_str!("../migrations/0024_cluster_keys.sql")),
    (27, "virtual folders", include_str!("../migrations/0027_vfolders.sql")),
    (30, "services", include_str!("../migrations/0030_services.sql")),
    (31, "callbacks", include_str!("../migrations/0031_callbacks.sql")),
    (32, "audit changes", include_str!("../migrations/0032_audit_changes.sql")),
    (33, "image builds", include_str!("../migrations/0033_builds.sql")),
];

fn migrator(dialect: Dialect) -> Migrator {
    migrator_of(dialect, MIGRATIONS)
}

fn migrator_of(dialect: Dialect, migrations: &'static [(i64, &'static str, &'static str)]) -> Migrator {
    let identity = match dialect {
        Dialect::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Dialect::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    };
    let migrations = migrations
        .iter()
        .map(|(version, description, sql)| {
            Migration::new(
                *version,
                Cow::Borrowed(*description),
                MigrationType::Simple,
                sqlx::AssertSqlSafe(of_dialect(sql, dialect).replace("{{identity}}", identity)).into_sql_str(),
                false,
            )
        })
        .collect::<Vec<_>>();
    Migrator::with_migrations(migrations)
}

/// The lines that are for this database.
fn of_dialect(sql: &str, dialect: Dialect) -> String {
    let mut only = None;
    let mut out = String::with_capacity(sql.len());
    for line in sql.lines() {
        match line {
            "-- {{sqlite}}" => only = Some(Dialect::Sqlite),
            "-- {{postgres}}" => only = Some(Dialect::Postgres),
            "-- {{end}}" => only = None,
            _ if only.is_none_or(|only| only == dialect) => {
                out.push_str(line);
                out.push('\n');
            }
            _ => {}
        }
    }
    out
}

pub(crate) async fn run(pools: &Pools) -> Result<()> {
    let migrator = migrator(pools.dialect());
    match pools {
        Pools::Sqlite { file, .. } => {
            // sqlx locks PostgreSQL meanwhile, not SQLite.
            let _alone = file.lock().await?;
            run_sqlite(&migrator, file).await?;
        }
        Pools::Postgres(served) => {
            // Not one of the host's: it has a lock while it is at work, and keeps it when that fails.
            let mut connection = served.open_another().await?;
            migrator.run(&mut connection).await?;
            connection.close().await?;
        }
    }
    Ok(())
}

/// On a connection of sqlx's, which knows migrations; everything else is the embedded SQLite's.
async fn run_sqlite(migrator: &Migrator, file: &File) -> Result<()> {
    let mut connection = file.for_migrations().await?;
    let result = migrator.run(&mut connection).await;
    // Also after a failure: the file may be removed then, which its connection mustn't outlive.
    connection.close().await?;
    Ok(result?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sql::{Sql as _, Stmt};
    use crate::{Options, Store, rounds};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn several_processes_may_migrate_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("new.db").display());
        let migrate = async || Store::open(&url, &Options::default()).await.unwrap().migrate().await;
        for result in futures::future::join_all((0..3).map(|_| migrate())).await {
            result.unwrap();
        }
    }

    #[tokio::test]
    async fn recordings_of_the_first_schema_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("old.db").display());
        let store = Store::open(&url, &Options::default()).await.unwrap();
        let Pools::Sqlite { file, .. } = &store.pools else { unreachable!("it was opened as such") };
        run_sqlite(&migrator_of(Dialect::Sqlite, &MIGRATIONS[..1]), file).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        for recording in ["x'0102'", "NULL"] {
            tx.execute(Stmt::assembled(format!(
                "INSERT INTO rounds (scaling_group, at, plugin, digest, outcome, placed, deferred, refused, duration_us,
                    recording) VALUES ('sg', 1, 'fifo', 'd', 'ok', 1, 2, 3, 4, {recording})"
            )))
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();
        store.migrate().await.unwrap();
        let rows = rounds::list(&mut store.reader(), &rounds::Filter::default(), 10).await.unwrap();
        assert_eq!(
            rows.iter().map(|r| (r.id, r.bytes, r.refused)).collect::<Vec<_>>(),
            [(2, None, 3), (1, Some(2), 3)]
        );
        assert_eq!(rounds::recording(&mut store.reader(), 1).await.unwrap(), Some(vec![1, 2]));
    }
}
