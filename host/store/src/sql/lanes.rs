//! Connections that read SQLite, one statement at a time.
//!
//! A pool tests each connection before it hands it out and after it got it back. For a file of this host that finds
//! nothing, and each test is another trip to the connection's thread: two of three trips of a statement. Here a statement
//! is one trip.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Result;

/// Reading connections, opened when they are needed. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: SqliteConnectOptions,
    /// One permit for each connection that there may be.
    free: Arc<Semaphore>,
    /// Connections that nobody uses; the last one back is the first one out.
    idle: Mutex<Vec<SqliteConnection>>,
    most: u32,
}

impl Lanes {
    /// At most `most` connections.
    pub(crate) fn new(options: SqliteConnectOptions, most: u32) -> Self {
        let most = most.max(1);
        let free = Arc::new(Semaphore::new(most as usize));
        Self { inner: Arc::new(Inner { options, free, idle: Mutex::default(), most }) }
    }

    /// A connection for one statement. Waits for one while all are in use.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`] when none can be opened, and after [`Lanes::close`].
    pub(crate) async fn take(&self) -> Result<Lane> {
        let permit = self.inner.free.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.inner.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.inner.options.connect().await?,
        };
        Ok(Lane { connection: Some(connection), inner: self.inner.clone(), _permit: permit })
    }

    /// Closes all connections once their statements are done. Nothing is read afterwards.
    pub(crate) async fn close(&self) {
        // Whoever still reads gives its permit back first.
        if let Ok(all) = self.inner.free.acquire_many(self.inner.most).await {
            all.forget();
        }
        self.inner.free.close();
        let idle = std::mem::take(&mut *self.inner.idle.lock());
        for connection in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "a connection didn't close");
            }
        }
    }
}

/// A connection that goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    connection: Option<SqliteConnection>,
    inner: Arc<Inner>,
    /// Given back after the connection.
    _permit: OwnedSemaphorePermit,
}

impl Lane {
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("a lane has its connection until it is dropped")
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A statement that was given up has ended, or ends at its next row, before the connection's thread takes another.
        self.inner.idle.lock().extend(self.connection.take());
    }
}
