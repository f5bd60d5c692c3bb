//! Which host leads a loop: advisory locks of PostgreSQL, held by one connection of each host.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use crate::Store;
use crate::error::Result;
use crate::sql::Pools;

/// A database that is silent for longer is lost, and with it what this host leads. The database itself gives a silent
/// host's locks away later than that (see [`crate::sql::WATCHFUL`]), so that there are never two leaders for long.
const PATIENCE: Duration = Duration::from_secs(4);

/// The leaderships of one host. They end with it, or with its connection.
#[derive(Debug)]
pub struct Leadership {
    pools: Pools,
    connection: Option<PgConnection>,
    held: BTreeSet<String>,
}

impl Leadership {
    pub(crate) fn new(store: &Store) -> Self {
        Self { pools: store.pools.clone(), connection: None, held: BTreeSet::new() }
    }

    /// Tries to lead each of `names`; the ones that this host leads now. With SQLite that is all of them: it has one host.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`] when the database can't be reached or doesn't answer in time: then this host leads nothing.
    pub async fn campaign(&mut self, names: &[&str]) -> Result<BTreeSet<String>> {
        let Pools::Postgres(served) = &self.pools else {
            return Ok(names.iter().map(|name| (*name).to_owned()).collect());
        };
        let (connection, held) = (&mut self.connection, &mut self.held);
        let campaign = async {
            let connection = match connection {
                Some(connection) => connection,
                None => {
                    held.clear();
                    // Not from the pool: this one is never given back.
                    connection.insert(served.open_another().await?)
                }
            };
            connection.ping().await?;
            for name in names {
                if held.contains(*name) {
                    continue;
                }
                let row = sqlx::query("SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS led")
                    .bind(format!("quarterdeck/{name}"))
                    .fetch_one(&mut *connection)
                    .await?;
                if row.try_get("led")? {
                    held.insert((*name).to_owned());
                }
            }
            Ok(held.clone())
        };
        let result = match tokio::time::timeout(PATIENCE, campaign).await {
            Ok(result) => result,
            Err(_) => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database doesn't answer");
                Err(sqlx::Error::Io(late).into())
            }
        };
        if result.is_err() {
            self.connection = None;
            self.held.clear();
        }
        result
    }

    /// Gives up everything at once, so that another host needn't wait for the connection to die.
    pub async fn resign(&mut self) {
        self.held.clear();
        if let Some(connection) = self.connection.take() {
            // The locks end with the connection however it ends.
            let _ = tokio::time::timeout(PATIENCE, connection.close()).await;
        }
    }
}
