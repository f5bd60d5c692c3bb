//! Backups: one file, whichever database it is of, from which either kind can be filled.
//!
//! The file is a SQLite database with the schema of the release that wrote it: what our migrations understand, and what
//! anybody can look into. SQLite writes it itself (`VACUUM INTO`); from PostgreSQL all rows are copied out of one
//! snapshot. A restore brings a copy of the file up to this release and copies its rows into an empty database.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::schema::{self, Table, quoted};
use crate::sql::{Dialect, Pools, Sql, Stmt, Tx, Value};
use crate::{Options, Store};

/// Rows that are copied at a time.
const BATCH: usize = 250;
/// Rows of tables with components or recordings, which are large.
const BATCH_OF_BLOBS: usize = 20;
/// Parameters of one statement.
const PARAMETERS: usize = 30_000;

/// A database in which one of these has a row is in use.
const SIGNS_OF_USE: &[&str] =
    &["domains", "users", "scaling_groups", "images", "agents", "sessions", "plugin_revisions", "audit"];

/// Told of each table when it is done, with its rows.
pub type Progress<'a> = &'a mut (dyn FnMut(&str, u64) + Send);

/// Removes a scratch database when it is done with.
struct Scratch(PathBuf);

impl Scratch {
    fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a backup to `path`, replacing a file that is there: whole, or not at all. What others write meanwhile isn't in it.
///
/// # Errors
/// [`Error::Sqlx`], and [`Error::File`] when the file can't be written.
pub async fn write(store: &Store, path: &Path, progress: Progress<'_>) -> Result<()> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    if let Pools::Sqlite { file, .. } = &store.pools
        && file.is_at(path)
    {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is the database itself")));
    }
    let partial = Scratch(beside(path, ".partial"));
    // What a backup that was cut off left.
    drop(Scratch(partial.0.clone()));
    match &store.pools {
        Pools::Sqlite { .. } => vacuum(store, &partial.0).await?,
        Pools::Postgres(_) => {
            let scratch = Scratch(beside(path, ".scratch"));
            drop(Scratch(scratch.0.clone()));
            let copy = Store::open(&scratch.url(), &Options::default()).await?;
            copy.migrate().await?;
            let mut from = store.begin_read().await?;
            let mut to = copy.begin().await?;
            replace(&mut from, &mut to, progress).await?;
            to.commit().await?;
            from.rollback().await?;
            vacuum(&copy, &partial.0).await?;
            copy.close().await;
        }
    }
    let file = std::fs::File::open(&partial.0).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&partial.0, path).map_err(failed)?;
    Ok(())
}

async fn vacuum(store: &Store, path: &Path) -> Result<()> {
    let Pools::Sqlite { read, .. } = &store.pools else { unreachable!("a backup's file is of SQLite") };
    // Reads: a server that runs goes on writing.
    read.take().await?.execute(Stmt::new("VACUUM INTO $1").bind(path.display().to_string())).await?;
    Ok(())
}

/// Fills an empty database from a backup, in one transaction. `scratch` is a directory with room for a copy of it.
///
/// # Errors
/// [`Error::NotEmpty`] when the database is in use; [`Error::NoBackup`] when the file is none, or of a newer release;
/// [`Error::Sqlx`].
pub async fn restore(store: &Store, path: &Path, scratch: &Path, progress: Progress<'_>) -> Result<()> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let copy = Scratch(scratch.join(format!("quarterdeck-restore-{}.sqlite", uuid::Uuid::new_v4().simple())));
    std::fs::copy(path, &copy.0).map_err(failed)?;
    let unreadable = |error: Error| Error::NoBackup { path: path.to_owned(), reason: error.to_string() };
    let source = open(&copy).await.map_err(unreadable)?;
    // A backup of an older release is brought up to this one; one of a newer release is refused by the same step.
    source.migrate().await.map_err(unreadable)?;
    let mut from = source.begin_read().await?;
    let mut to = store.begin().await?;
    if let Some(table) = in_use(&mut to).await? {
        return Err(Error::NotEmpty(table));
    }
    replace(&mut from, &mut to, progress).await?;
    to.commit().await?;
    from.rollback().await?;
    source.close().await;
    Ok(())
}

/// Opens a file that says that our migrations made it.
async fn open(file: &Scratch) -> Result<Store> {
    let store = Store::open(&file.url(), &Options { connections: 1, ..Options::default() }).await?;
    let marks = "SELECT COUNT(*) AS n FROM sqlite_master WHERE name IN ('_sqlx_migrations', 'revisions', 'keypairs')";
    let found: i64 = store.reader().fetch_one(Stmt::new(marks)).await?.get("n")?;
    if found < 3 {
        return Err(Error::Corrupt { column: "the schema".to_owned(), reason: "it isn't Quarterdeck's".to_owned() });
    }
    Ok(store)
}

/// A table that shows that somebody uses this database.
///
/// # Errors
/// [`Error::Sqlx`].
async fn in_use<S: Sql>(sql: &mut S) -> Result<Option<&'static str>> {
    for table in SIGNS_OF_USE {
        if sql.fetch_optional(Stmt::assembled(format!("SELECT 1 AS one FROM {table} LIMIT 1"))).await?.is_some() {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Makes `to` what `from` is, table by table.
async fn replace(from: &mut Tx, to: &mut Tx, progress: Progress<'_>) -> Result<()> {
    let tables = schema::tables(from).await?;
    // What migrations put in.
    for table in schema::tables(to).await?.iter().rev() {
        to.execute(Stmt::assembled(format!("DELETE FROM {}", quoted(&table.name)))).await?;
    }
    for table in &tables {
        let rows = copy(from, to, table).await?;
        if let Some(column) = table.identity() {
            let last = last_identity(from, table, column).await?;
            set_identity(to, table, column, last).await?;
        }
        progress(&table.name, rows);
    }
    Ok(())
}

async fn copy(from: &mut Tx, to: &mut Tx, table: &Table) -> Result<u64> {
    let list: Vec<String> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    let key: Vec<String> = table.key.iter().map(|c| quoted(c)).collect();
    let (list, key) = (list.join(", "), key.join(", "));
    let blobs = table.columns.iter().any(|c| c.kind == schema::Kind::Bytes);
    let batch = if blobs { BATCH_OF_BLOBS } else { BATCH }.min(PARAMETERS / table.columns.len().max(1));
    let name = quoted(&table.name);
    let mut after: Option<Vec<Value>> = None;
    let mut count = 0;
    loop {
        let mut stmt = match &after {
            None => Stmt::assembled(format!("SELECT {list} FROM {name} ORDER BY {key} LIMIT {batch}")),
            Some(_) => {
                let marks: Vec<String> = (1..=table.key.len()).map(|i| format!("${i}")).collect();
                Stmt::assembled(format!(
                    "SELECT {list} FROM {name} WHERE ({key}) > ({}) ORDER BY {key} LIMIT {batch}",
                    marks.join(", ")
                ))
            }
        };
        stmt = stmt.bind_all(after.take().unwrap_or_default());
        let rows = from.fetch_all(stmt).await?;
        if rows.is_empty() {
            return Ok(count);
        }
        let mut values = Vec::with_capacity(rows.len() * table.columns.len());
        for row in &rows {
            for column in &table.columns {
                values.push(column.kind.read(row, &column.name)?);
            }
        }
        let last = &values[values.len() - table.columns.len()..];
        let place = |name: &String| table.columns.iter().position(|c| c.name == *name);
        after = Some(table.key.iter().filter_map(place).map(|i| last[i].clone()).collect());
        count += rows.len() as u64;
        let short = rows.len() < batch;
        insert(to, table, &list, rows.len(), values).await?;
        if short {
            return Ok(count);
        }
    }
}

async fn insert(to: &mut Tx, table: &Table, list: &str, rows: usize, values: Vec<Value>) -> Result<()> {
    let width = table.columns.len();
    let marks: Vec<String> = (0..rows)
        .map(|row| {
            let row: Vec<String> = (1..=width).map(|i| format!("${}", row * width + i)).collect();
            format!("({})", row.join(", "))
        })
        .collect();
    let name = quoted(&table.name);
    let tail = format!("VALUES {}", marks.join(", "));
    let stmt = Stmt::assembled_dialect(
        format!("INSERT INTO {name} ({list}) {tail}"),
        format!("INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE {tail}"),
    );
    to.execute(stmt.bind_all(values)).await?;
    Ok(())
}

/// The highest number that was ever given out: numbers of rows that are gone aren't used again.
async fn last_identity(from: &mut Tx, table: &Table, column: &str) -> Result<i64> {
    let stmt = match from.dialect() {
        Dialect::Sqlite => Stmt::new("SELECT seq AS n FROM sqlite_sequence WHERE name = $1").bind(&table.name),
        Dialect::Postgres => Stmt::new(
            "SELECT s.last_value AS n FROM pg_sequences s WHERE s.schemaname = current_schema() \
             AND CAST(pg_get_serial_sequence(quote_ident($1), $2) AS regclass) \
             = CAST(quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename) AS regclass)",
        )
        .bind(&table.name)
        .bind(column),
    };
    let row = from.fetch_optional(stmt).await?;
    Ok(row.map(|r| r.get::<Option<i64>>("n")).transpose()?.flatten().unwrap_or(0))
}

async fn set_identity(to: &mut Tx, table: &Table, column: &str, last: i64) -> Result<()> {
    match to.dialect() {
        Dialect::Sqlite => {
            to.execute(Stmt::new("DELETE FROM sqlite_sequence WHERE name = $1").bind(&table.name)).await?;
            let stmt = Stmt::new("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)");
            to.execute(stmt.bind(&table.name).bind(last)).await?;
        }
        Dialect::Postgres => {
            let stmt = Stmt::new("SELECT setval(pg_get_serial_sequence(quote_ident($1), $2), GREATEST($3, 1), $3 > 0)");
            to.fetch_all(stmt.bind(&table.name).bind(column).bind(last)).await?;
        }
    }
    Ok(())
}

/// What SQLite itself finds wrong with its file; nothing for PostgreSQL, which looks after itself.
///
/// # Errors
/// [`Error::Sqlx`].
pub async fn file_faults(store: &Store) -> Result<Vec<String>> {
    if store.dialect() == Dialect::Postgres {
        return Ok(Vec::new());
    }
    let rows = store.reader().fetch_all(Stmt::new("PRAGMA integrity_check(100)")).await?;
    let lines = rows.iter().map(|row| row.get::<String>("integrity_check")).collect::<Result<Vec<_>>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    /// Every table's rows, as text.
    async fn contents(store: &Store) -> Vec<(String, Vec<String>)> {
        let mut tx = store.begin_read().await.unwrap();
        let mut out = Vec::new();
        for table in schema::tables(&mut tx).await.unwrap() {
            let stmt = Stmt::assembled(format!("SELECT * FROM {}", quoted(&table.name)));
            let mut rows: Vec<String> = Vec::new();
            for row in tx.fetch_all(stmt).await.unwrap() {
                let mut cells: Vec<String> = table
                    .columns
                    .iter()
                    .map(|c| format!("{}={:?}", c.name, c.kind.read(&row, &c.name).unwrap()))
                    .collect();
                cells.sort();
                rows.push(cells.join(","));
            }
            rows.sort();
            out.push((table.name, rows));
        }
        out.sort();
        out
    }

    async fn fill(store: &Store) {
        let mut tx = store.begin().await.unwrap();
        for i in 0..700 {
            let stmt = Stmt::new(
                "INSERT INTO domains (name, created_at, modified_at, dotfiles, description) VALUES ($1, 1, 2, $2, $3)",
            );
            let text = (i % 2 == 0).then_some("ä\u{1F600}'\"\\");
            tx.execute(stmt.bind(format!("d{i}")).bind(vec![0u8, 255, 1]).bind(text)).await.unwrap();
        }
        for i in 0..3 {
            let stmt = Stmt::new("INSERT INTO history (session_id, status, at) VALUES ($1, 'PENDING', 1)");
            tx.execute(stmt.bind(format!("s{i}"))).await.unwrap();
        }
        tx.execute(Stmt::new("DELETE FROM history WHERE id = 3")).await.unwrap();
        let stmt =
            Stmt::new("INSERT INTO usage_history (scope, holder, slot, amount) VALUES ('project', 'p', 'cpu', $1)");
        tx.execute(stmt.bind(0.1 + 0.2)).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn each_kind_is_restored_into_each() {
        let dir = tempfile::tempdir().unwrap();
        for (i, from) in testing::databases().await.iter().enumerate() {
            fill(&from.store).await;
            let before = contents(&from.store).await;
            let file = dir.path().join(format!("{i}.backup"));
            std::fs::write(&file, "an older one").unwrap();
            write(&from.store, &file, &mut |_, _| {}).await.unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), i + 1, "scratch files stay behind");
            for to in testing::databases().await {
                let mut rows = 0;
                restore(&to.store, &file, dir.path(), &mut |_, n| rows += n).await.unwrap();
                assert!(rows >= 704, "{rows}");
                assert_eq!(contents(&to.store).await, before);
                // Numbers go on where they were, also of rows that are gone.
                let mut tx = to.store.begin().await.unwrap();
                let stmt =
                    Stmt::new("INSERT INTO history (session_id, status, at) VALUES ('x', 'PENDING', 1) RETURNING id");
                let id: i64 = tx.fetch_one(stmt).await.unwrap().get("id").unwrap();
                assert_eq!(id, 4);
                tx.commit().await.unwrap();
                let again = restore(&to.store, &file, dir.path(), &mut |_, _| {}).await.unwrap_err();
                assert!(matches!(again, Error::NotEmpty("domains")), "{again}");
            }
        }
    }

    #[tokio::test]
    async fn a_database_is_no_backup_of_itself() {
        let db = testing::sqlite().await;
        let file = PathBuf::from(db.url.trim_start_matches("sqlite://"));
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let refused = write(&db.store, path, &mut |_, _| {}).await.unwrap_err();
            assert!(refused.to_string().ends_with("it is the database itself"), "{refused}");
        }
        assert!(file_faults(&db.store).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_backup_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "not a database at all, but long enough to look like something").unwrap();
        let other = dir.path().join("other.sqlite");
        let store = Store::open(&format!("sqlite://{}", other.display()), &Options::default()).await.unwrap();
        store.close().await;
        let newer = dir.path().join("newer");
        let db = testing::sqlite().await;
        db.store
            .reader()
            .execute(Stmt::new(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'of tomorrow', TRUE, x'00', 1)",
            ))
            .await
            .unwrap();
        write(&db.store, &newer, &mut |_, _| {}).await.unwrap();
        let target = testing::sqlite().await;
        let before = contents(&target.store).await;
        for file in [&text, &other, &newer] {
            let error = restore(&target.store, file, dir.path(), &mut |_, _| {}).await.unwrap_err();
            assert!(matches!(error, Error::NoBackup { .. }), "{error}");
        }
        let missing =
            restore(&target.store, &dir.path().join("missing"), dir.path(), &mut |_, _| {}).await.unwrap_err();
        assert!(matches!(missing, Error::File { .. }), "{missing}");
        assert_eq!(contents(&target.store).await, before);
    }
}
