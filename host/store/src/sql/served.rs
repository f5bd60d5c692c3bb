//! PostgreSQL: connections for one thing at a time, a statement or a transaction.
//!
//! sqlx's own pool asks a connection for a sign of life each time that it comes back. That is a second trip to the database
//! for each statement, and the server's time as well as ours. Here a connection is asked when it was left in the middle of
//! something, and after it was idle.
//!
//! What runs here is on the heap: it stands in futures of every kind, which are nested deeply and of which tests have small
//! stacks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleResult};
use futures::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::runtime::Handle;

use super::{Row, STATEMENTS, Stmt, arguments};
use crate::error::{Error, Result};
use crate::sql::Dialect;

/// Tells PostgreSQL at the start of each connection to notice within half a minute when this host is gone, however it
/// went: its locks, those on rows included, are free then. Statements are short: compiling one would take longer than
/// running it.
pub(crate) const WATCHFUL: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
     SET tcp_keepalives_count = 3; SET tcp_user_timeout = 25000; SET idle_in_transaction_session_timeout = 60000; \
     SET jit = off";

/// How long a connection is waited for: while all are in use, until the server has one, and when it is to be closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that was idle for no longer is taken to be alive.
const TRUSTED: Duration = Duration::from_secs(5);

/// The server's side of a connection grows with what it has done; then it makes way for a new one.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How long a connection may take to say that it is alive.
const ANSWERING: Duration = Duration::from_secs(5);

/// How long a connection that was left in the middle of something may take to come to rest.
const SETTLING: Duration = Duration::from_secs(30);

/// Waiting longer for a connection is told to the operator.
const SLOW: Duration = Duration::from_secs(2);

/// Makes connections, and looks at them before they are used again.
#[derive(Debug)]
struct Maker(Arc<PgConnectOptions>);

impl Manager for Maker {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> std::result::Result<PgConnection, sqlx::Error> {
        let mut pause = Duration::from_millis(10);
        loop {
            match connect(&self.0).await {
                // The server is starting up, or has as many connections as it may: both pass.
                Err(error) if is_passing(&error) => tokio::time::sleep(pause).await,
                connected => return connected,
            }
            pause = (2 * pause).min(Duration::from_secs(5));
        }
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > LIFETIME {
            return Err(deadpool::managed::RecycleError::message("old"));
        }
        if metrics.last_used() > TRUSTED {
            connection.ping().await?;
        }
        Ok(())
    }
}

async fn connect(options: &PgConnectOptions) -> std::result::Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(WATCHFUL).execute(&mut connection).await?;
    Ok(connection)
}

/// Whether connecting is worth another try at once.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        // `too_many_connections` and `cannot_connect_now`.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| ["53300", "57P03"].contains(&code.as_ref())),
        _ => false,
    }
}

/// Some connections, opened when they are needed and given out in the order in which they are asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pool: Pool<Maker>,
    options: Arc<PgConnectOptions>,
}

impl Served {
    /// At most `most` connections to the server that a `postgres://` URL names. The first is opened at once, so that a
    /// wrong address or password shows.
    ///
    /// # Errors
    /// [`Error::Sqlx`].
    pub(super) async fn open(url: &str, most: u32) -> Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let options = Arc::new(options.statement_cache_capacity(STATEMENTS));
        let pool = Pool::builder(Maker(options.clone()))
            .max_size(most.max(1) as usize)
            .recycle_timeout(Some(ANSWERING))
            // The one that came back last has its statements prepared, and the server its memory warm.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let served = Self { pool, options };
        drop(served.take().await?);
        Ok(served)
    }

    /// How the server is reached, for connections that are nobody else's.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// A connection that is nobody else's, ever.
    ///
    /// # Errors
    /// [`Error::Sqlx`] when none can be opened.
    pub(crate) async fn open_another(&self) -> Result<PgConnection> {
        Ok(connect(&self.options).await?)
    }

    /// A connection. Waits for one while all are in use.
    ///
    /// # Errors
    /// [`Error::Sqlx`]: when none can be opened, when none is given back for 30 seconds, and after [`Served::close`].
    pub(crate) async fn take(&self) -> Result<Lent> {
        let since = Instant::now();
        // However many turn out to be lost on the way.
        let taken = tokio::time::timeout(PATIENCE, self.pool.get()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let connection = taken.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(_) => sqlx::Error::PoolTimedOut,
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => sqlx::Error::PoolClosed,
        })?;
        if since.elapsed() > SLOW {
            tracing::warn!(took = ?since.elapsed(), "a connection to the database was waited for");
        }
        Ok(Lent { connection: Some(connection), in_transaction: false, is_busy: false })
    }

    /// Runs a statement by itself; the number of rows it changed.
    ///
    /// # Errors
    /// As [`Served::take`] and [`Lent::execute`].
    pub(super) fn execute(&self, stmt: Stmt) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.take().await?.execute(stmt).await })
    }

    /// Runs a query by itself; all its rows.
    ///
    /// # Errors
    /// As [`Served::execute`].
    pub(super) fn rows(&self, stmt: Stmt) -> BoxFuture<'_, Result<Vec<Row>>> {
        Box::pin(async move { self.take().await?.rows(stmt).await })
    }

    /// A connection with a transaction that `how` begins.
    ///
    /// # Errors
    /// As [`Served::take`], and when it doesn't begin.
    pub(super) fn begin(&self, how: &'static str) -> BoxFuture<'_, Result<Lent>> {
        Box::pin(async move {
            let mut lent = self.take().await?;
            // Before it is said: whoever gives up meanwhile may have begun it.
            lent.in_transaction = true;
            lent.say(how).await?;
            Ok(lent)
        })
    }

    /// Closes all connections once what they are used for is done, or after 30 seconds. Nobody gets one from now on.
    pub(super) async fn close(&self) {
        let idle = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        let closed = async {
            for connection in idle {
                let _ = connection.close().await;
            }
            // The others are closed as they come back, those included that are being opened.
            while self.pool.status().size > 0 || self.pool.status().waiting > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, closed).await;
    }
}

/// A connection that goes back when this is dropped; an open transaction is undone then.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Here until it goes back.
    connection: Option<Object<Maker>>,
    in_transaction: bool,
    /// Something was said to the server whose answer isn't here yet, or was an error: the connection may be lost.
    is_busy: bool,
}

impl Lent {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is here until it goes back")
    }

    /// Runs a statement; the number of rows it changed.
    ///
    /// # Errors
    /// [`Error::Sqlx`]; [`Error::NulInText`].
    pub(super) fn execute(&mut self, stmt: Stmt) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let (sql, args) = stmt.into_parts(Dialect::Postgres);
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments(args)?);
            self.is_busy = true;
            let done = query.execute(self.connection()).await;
            self.is_busy = done.is_err();
            Ok(done?.rows_affected())
        })
    }

    /// Runs a query; all its rows.
    ///
    /// # Errors
    /// As [`Lent::execute`].
    pub(super) fn rows(&mut self, stmt: Stmt) -> BoxFuture<'_, Result<Vec<Row>>> {
        Box::pin(async move {
            let (sql, args) = stmt.into_parts(Dialect::Postgres);
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments(args)?);
            self.is_busy = true;
            let rows = query.fetch_all(self.connection()).await;
            self.is_busy = rows.is_err();
            Ok(rows?.into_iter().map(Row::Postgres).collect())
        })
    }

    /// Makes the transaction durable and visible.
    ///
    /// # Errors
    /// [`Error::Sqlx`]; then nothing was written, unless it was the connection that failed.
    pub(super) fn commit(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(self.end("COMMIT"))
    }

    /// Undoes the transaction.
    ///
    /// # Errors
    /// [`Error::Sqlx`]; it is gone then, too.
    pub(super) fn rollback(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(self.end("ROLLBACK"))
    }

    async fn end(mut self, how: &'static str) -> Result<()> {
        self.say(how).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Says something that has no parameters and is over with one answer.
    async fn say(&mut self, what: &'static str) -> Result<()> {
        self.is_busy = true;
        let said = sqlx::raw_sql(what).execute(self.connection()).await;
        self.is_busy = said.is_err();
        said.map(drop).map_err(Error::from)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (in_transaction, is_busy) = (self.in_transaction, self.is_busy);
        if !in_transaction && !is_busy {
            return;
        }
        let mut unsettled = Unsettled(self.connection.take());
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let Some(connection) = &mut unsettled.0 else { return };
            let settle = async {
                if in_transaction {
                    sqlx::raw_sql("ROLLBACK").execute(&mut **connection).await.map(drop)
                } else {
                    connection.ping().await
                }
            };
            match tokio::time::timeout(SETTLING, settle).await {
                Ok(Ok(())) => drop(unsettled.0.take()),
                Ok(Err(error)) => tracing::warn!(%error, "a connection to the database is lost"),
                Err(_) => tracing::warn!("a connection to the database is given up: it doesn't come to rest"),
            }
        });
    }
}

/// A connection that nobody may get as it is. The server undoes what is open when it notices that it is gone.
struct Unsettled(Option<Object<Maker>>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}
