//! What hosts and other processes tell each other: PostgreSQL passes it on (`NOTIFY`), SQLite is asked whether anybody
//! wrote (`data_version`).
//!
//! Nothing here is truth. Whoever hears of something looks at the rows, and looks anyway after a while.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use crate::Store;
use crate::error::{Error, Result};
use crate::sql::{Connection, File, Pools, Sql as _, Stmt};

/// Where hosts of one database tell each other things.
const CHANNEL: &str = "quarterdeck";

/// How often SQLite is asked. It reads one word of memory that the processes share.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A connection that was silent for so long is tried: nobody says when the other side is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// How long a connection may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// These topics: areas of [`crate::revisions`] that a transaction changed, or what a host had said by
    /// [`Store::tell`].
    Said {
        /// Who said so; empty: a transaction, of whichever host.
        by: String,
        /// About what.
        topics: Vec<String>,
    },
    /// Somebody committed something, this process or another one.
    Committed,
    /// Things may have been said that weren't heard.
    Missed,
}

/// The statement that raises the number of `area`, and says so where several hosts may listen: they hear it when the
/// transaction is committed.
pub(crate) fn raise(area: &str) -> Stmt {
    const RAISE: &str = "INSERT INTO revisions (area, revision) VALUES ($1, 1) \
         ON CONFLICT (area) DO UPDATE SET revision = revisions.revision + 1";
    let and_say =
        format!("WITH raised AS ({RAISE} RETURNING area) SELECT pg_notify('{CHANNEL}', ':' || area) FROM raised");
    Stmt::assembled_dialect(RAISE.to_owned(), and_say).bind(area)
}

impl Store {
    /// Tells the other hosts of this database something, at once. With SQLite there are none.
    ///
    /// # Errors
    /// [`Error::Sqlx`].
    pub async fn tell(&self, host: &str, topics: &[&str]) -> Result<()> {
        if topics.is_empty() || self.dialect() == crate::Dialect::Sqlite {
            return Ok(());
        }
        // Words needn't survive the database: don't wait for its disk.
        let stmt = Stmt::new(
            "SELECT pg_notify($1, $2) FROM (SELECT set_config('synchronous_commit', 'off', true) OFFSET 0) AS hasty",
        );
        let words = format!("{host}:{}", topics.join(","));
        self.reader().fetch_all(stmt.bind(CHANNEL).bind(words)).await?;
        Ok(())
    }

    /// Listens to what is said from now on.
    pub fn listener(&self) -> Listener {
        Listener(match &self.pools {
            Pools::Sqlite { file, .. } => Ear::Sqlite { file: file.clone(), connection: None, version: None },
            Pools::Postgres(served) => Ear::Postgres { options: Box::new(served.options().clone()), listener: None },
        })
    }
}

/// Hears what is said, on a connection of its own. It connects when it is first asked.
#[derive(Debug)]
pub struct Listener(Ear);

#[derive(Debug)]
enum Ear {
    Sqlite { file: Arc<File>, connection: Option<Connection>, version: Option<i64> },
    Postgres { options: Box<PgConnectOptions>, listener: Option<PgListener> },
}

impl Listener {
    /// Waits for the next thing said. The first is always [`Heard::Missed`]: whatever came before wasn't heard.
    ///
    /// # Errors
    /// [`Error::Sqlx`] when the database can't be reached; the next call connects again.
    pub async fn next(&mut self) -> Result<Heard> {
        let heard = match &mut self.0 {
            Ear::Sqlite { file, connection, version } => ask(file, connection, version).await,
            Ear::Postgres { options, listener } => listen(options, listener).await,
        };
        if heard.is_err() {
            match &mut self.0 {
                Ear::Sqlite { connection, .. } => *connection = None,
                Ear::Postgres { listener, .. } => *listener = None,
            }
        }
        heard
    }
}

async fn ask(file: &Arc<File>, connection: &mut Option<Connection>, version: &mut Option<i64>) -> Result<Heard> {
    loop {
        let connection = match &mut *connection {
            Some(connection) => {
                tokio::time::sleep(ASK_EVERY).await;
                connection
            }
            None => {
                *version = None;
                connection.insert(file.connect().await?)
            }
        };
        let now = connection.data_version()?;
        match version.replace(now) {
            None => return Ok(Heard::Missed),
            Some(before) if before != now => return Ok(Heard::Committed),
            Some(_) => {}
        }
    }
}

async fn listen(options: &PgConnectOptions, listener: &mut Option<PgListener>) -> Result<Heard> {
    let Some(ear) = listener else {
        let connect = async {
            // Not one of the host's pool: this one is never given back.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone());
            let mut new = PgListener::connect_with(&pool).await?;
            new.execute(crate::sql::WATCHFUL).await?;
            new.listen(CHANNEL).await?;
            Ok::<_, Error>(new)
        };
        *listener = Some(in_time(connect).await?);
        return Ok(Heard::Missed);
    };
    loop {
        match tokio::time::timeout(SILENCE, ear.try_recv()).await {
            Ok(Ok(Some(said))) => return Ok(parse(said.payload())),
            // The connection was lost and there is another one.
            Ok(Ok(None)) => return Ok(Heard::Missed),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => in_time(async { Ok(ear.execute("SELECT 1").await.map(drop)?) }).await?,
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database doesn't answer");
        Err(sqlx::Error::Io(late).into())
    })
}

fn parse(words: &str) -> Heard {
    let (by, topics) = words.split_once(':').unwrap_or(("", words));
    Heard::Said { by: by.to_owned(), topics: topics.split(',').map(str::to_owned).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Dialect, Options, revisions, testing};

    async fn hears(listener: &mut Listener, what: &Heard) {
        let heard = async { while listener.next().await.unwrap() != *what {} };
        tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap_or_else(|_| panic!("never heard {what:?}"));
    }

    #[tokio::test]
    async fn commits_are_heard_elsewhere_and_what_is_undone_is_not() {
        for db in testing::databases().await {
            let elsewhere = Store::open(&db.url, &Options::default()).await.unwrap();
            let mut listener = elsewhere.listener();
            assert_eq!(listener.next().await.unwrap(), Heard::Missed);
            let said = |topic: &str| match db.dialect() {
                Dialect::Sqlite => Heard::Committed,
                Dialect::Postgres => Heard::Said { by: String::new(), topics: vec![topic.to_owned()] },
            };

            let before = revisions::get(&mut elsewhere.reader(), revisions::CONFIG).await.unwrap();
            let mut tx = db.store.begin().await.unwrap();
            revisions::bump(&mut tx, "undone").await.unwrap();
            tx.rollback().await.unwrap();
            let mut tx = db.store.begin().await.unwrap();
            revisions::bump(&mut tx, revisions::CONFIG).await.unwrap();
            tx.commit().await.unwrap();
            let next = tokio::time::timeout(Duration::from_secs(20), listener.next()).await.unwrap().unwrap();
            assert_eq!(next, said("config"));
            assert_eq!(revisions::get(&mut elsewhere.reader(), revisions::CONFIG).await.unwrap(), before + 1);
        }
    }

    #[tokio::test]
    async fn hosts_of_one_database_hear_each_other() {
        let Some(db) = testing::postgres().await else { return };
        let mut listener = db.store.listener();
        assert_eq!(listener.next().await.unwrap(), Heard::Missed);
        db.store.tell("one", &["schedule", "events"]).await.unwrap();
        hears(
            &mut listener,
            &Heard::Said { by: "one".to_owned(), topics: vec!["schedule".to_owned(), "events".to_owned()] },
        )
        .await;

        // A connection that is cut is made anew, and the gap is told of.
        let cut = Stmt::new(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND query LIKE 'LISTEN%'",
        );
        assert_eq!(db.store.reader().fetch_all(cut).await.unwrap().len(), 1);
        hears_after_the_gap(&mut listener).await;
        db.store.tell("two", &["start"]).await.unwrap();
        hears(&mut listener, &Heard::Said { by: "two".to_owned(), topics: vec!["start".to_owned()] }).await;
    }

    /// The cut may come as an error first; the next call connects again.
    async fn hears_after_the_gap(listener: &mut Listener) {
        for _ in 0..2 {
            match tokio::time::timeout(Duration::from_secs(20), listener.next()).await.unwrap() {
                Ok(heard) => return assert_eq!(heard, Heard::Missed),
                Err(error) => assert!(matches!(error, Error::Sqlx(_)), "{error}"),
            }
        }
        panic!("it doesn't connect again");
    }
}
