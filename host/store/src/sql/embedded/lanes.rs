//! Connections for one thing at a time: a statement, or a transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::costs::{Costs, Slot};
use super::wal::{self, Due};
use super::{Answer, Connection, File, Job, LONGEST_PAUSE, PATIENCE, Want, is_busy};
use crate::error::{Error, Result};
use crate::sql::{Row, Stmt};

/// How long a lane is waited for.
const QUEUEING: Duration = Duration::from_secs(30);

/// With larger parameters, in bytes, no statement counts as short: what it costs depends on them.
const LARGE: usize = 16 << 10;

/// What takes longer is told to the operator.
const SLOW: Duration = Duration::from_secs(1);

/// Some connections, opened when they are needed and given out in the order in which they are asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    /// One permit for each connection that there may be.
    free: Arc<Semaphore>,
    /// Connections that nobody uses; the last one back is the first one out.
    idle: Mutex<Vec<Connection>>,
    most: u32,
}

impl Lanes {
    /// At most `most` connections, of which there are some already.
    pub(crate) fn new(file: Arc<File>, most: u32, open: Vec<Connection>) -> Self {
        let most = most.max(1);
        let free = Arc::new(Semaphore::new(most as usize));
        Self { inner: Arc::new(Inner { file, free, idle: Mutex::new(open), most }) }
    }

    /// A connection. Waits for one while all are in use.
    ///
    /// # Errors
    /// [`Error::Sqlite`] when none can be opened; [`Error::Sqlx`] after [`Lanes::close`], and when none is given back for
    /// 30 seconds.
    pub(crate) async fn take(&self) -> Result<Lane> {
        let free = self.inner.free.clone();
        let permit = match free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(sqlx::Error::PoolClosed.into()),
            Err(TryAcquireError::NoPermits) => tokio::time::timeout(QUEUEING, free.acquire_owned())
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)?
                .map_err(|_| sqlx::Error::PoolClosed)?,
        };
        let idle = self.inner.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.inner.file.connect().await?,
        };
        let held =
            Held { connection: Some(connection), inner: self.inner.clone(), permit: Some(permit), copies: false };
        Ok(Lane { held: Some(held), in_transaction: false, wrote: false, is_heavy: false })
    }

    /// A connection with a transaction that `how` begins.
    ///
    /// # Errors
    /// As [`Lanes::take`], and [`Error::Sqlite`] when it doesn't begin: also after ten seconds of another process's writing.
    pub(crate) async fn begin(&self, how: &'static str) -> Result<Lane> {
        let mut lane = self.take().await?;
        lane.run(Job::new(Stmt::new(how), Want::Changes)?, false).await?;
        (lane.in_transaction, lane.is_heavy) = (true, false);
        Ok(lane)
    }

    /// How many connections nobody uses.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.inner.idle.lock().len()
    }

    /// Closes all connections once what they are used for is done. Nobody gets one afterwards.
    pub(crate) async fn close(&self) {
        // Whoever still uses one gives its permit back first.
        if let Ok(all) = self.inner.free.acquire_many(self.inner.most).await {
            all.forget();
        }
        self.inner.free.close();
        let idle = std::mem::take(&mut *self.inner.idle.lock());
        // The last one of the file copies its log.
        let _ = tokio::task::spawn_blocking(move || drop(idle)).await;
    }
}

/// A connection that goes back when this is dropped; an open transaction is undone then.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Elsewhere while a thread for blocking work has it, and for good when that wasn't waited for.
    held: Option<Held>,
    in_transaction: bool,
    /// The transaction has changed rows.
    wrote: bool,
    /// A statement of the transaction was none to be run in place.
    is_heavy: bool,
}

impl Lane {
    /// Runs a statement; the number of rows it changed.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; [`Error::NulInText`]; [`Error::GivenUp`] when its transaction is undone already.
    pub(crate) async fn execute(&mut self, stmt: Stmt) -> Result<u64> {
        let commits = !self.in_transaction;
        Ok(self.run(Job::new(stmt, Want::Changes)?, commits).await?.changed)
    }

    /// Runs a query; all its rows.
    ///
    /// # Errors
    /// As [`Lane::execute`].
    pub(crate) async fn rows(&mut self, stmt: Stmt) -> Result<Vec<Row>> {
        let answer = self.run(Job::new(stmt, Want::Rows)?, false).await?;
        Ok(answer.rows.into_iter().map(Row::Sqlite).collect())
    }

    /// Runs a query that changes nothing; its first row.
    ///
    /// # Errors
    /// As [`Lane::execute`].
    pub(crate) async fn row(&mut self, stmt: Stmt) -> Result<Option<Row>> {
        let mut answer = self.run(Job::new(stmt, Want::First)?, false).await?;
        Ok(answer.rows.pop().map(Row::Sqlite))
    }

    /// Makes the transaction durable and visible.
    ///
    /// # Errors
    /// As [`Lane::execute`]; then nothing was written. After [`Error::Thread`], and when this isn't waited for, it may have
    /// been.
    pub(crate) async fn commit(mut self) -> Result<()> {
        self.run(Job::new(Stmt::new("COMMIT"), Want::Changes)?, true).await.map(drop)
    }

    /// Runs a statement. `commits`: by itself, or what its transaction has done until now.
    async fn run(&mut self, mut job: Job, commits: bool) -> Result<Answer> {
        // Here until the statement has ended: whoever gives up waiting before that has given up the transaction.
        let mut held = self.held.take().ok_or(Error::GivenUp)?;
        // What runs in place never waits, so that a loop of statements would keep its thread from all others.
        tokio::task::coop::consume_budget().await;
        let slot = Costs::slot(&job.text);
        // A commit costs what its transaction has written, and the disk's time where it waits for the disk.
        let writes = commits && (self.wrote || !self.in_transaction);
        let is_long = job.size() > LARGE || (commits && self.is_heavy) || (writes && held.inner.file.waits_to_commit());
        let (since, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            // SQLite undoes a transaction by itself when the disk is full, say. What follows must not be written alone.
            if self.in_transaction && !held.connection().is_in_transaction() {
                self.held = Some(held);
                return Err(Error::GivenUp);
            }
            let result = if !is_long && held.inner.file.costs.is_short(slot) {
                held.run(&job, slot)
            } else {
                self.is_heavy = true;
                let result;
                (held, job, result) = beside(held, job, slot).await?;
                result
            };
            match result {
                Err(error) if is_busy(&error) && since.elapsed() < PATIENCE => {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                result => {
                    self.held = Some(held);
                    let answer = result?;
                    self.wrote |= self.in_transaction && answer.changed > 0;
                    return Ok(answer);
                }
            }
        }
    }
}

/// Runs a statement on a thread for blocking work. It has the connection until the statement ends. If nobody waits for that
/// any more, the thread gives the connection back, and undoes the transaction unless it was just committed.
async fn beside(mut held: Held, job: Job, slot: Slot) -> Result<(Held, Job, rusqlite::Result<Answer>)> {
    let work = move || {
        let result = held.run(&job, slot);
        (held, job, result)
    };
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// What a lane has of the lanes.
#[derive(Debug)]
struct Held {
    /// Here until it goes back.
    connection: Option<Connection>,
    inner: Arc<Inner>,
    /// Given back after the connection.
    permit: Option<OwnedSemaphorePermit>,
    /// The log is to be copied before anybody else gets the connection.
    copies: bool,
}

impl Held {
    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is here until it goes back")
    }

    fn run(&mut self, job: &Job, slot: Slot) -> rusqlite::Result<Answer> {
        let since = Instant::now();
        let result = self.connection().run(job);
        let took = since.elapsed();
        if took > SLOW {
            tracing::warn!(statement = %job.text, ?took, "a statement took long");
        }
        let file = &self.inner.file;
        if result.is_ok() {
            file.costs.learn(slot, took);
        }
        match wal::committed().map_or(Due::No, |pages| file.wal.due(pages)) {
            Due::No => {}
            Due::Beside => file.copy_wal_beside(),
            Due::Alone => self.copies = true,
        }
        result
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !connection.settle() {
            return;
        }
        if !self.copies {
            self.inner.idle.lock().push(connection);
            return;
        }
        let (inner, permit) = (self.inner.clone(), self.permit.take());
        let give_back = move || {
            inner.file.copy_wal(true);
            inner.idle.lock().push(connection);
            drop(permit);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}
