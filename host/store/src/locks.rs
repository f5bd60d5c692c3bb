//! Which host leads a loop: advisory locks of PostgreSQL, held by one connection of each host.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use crate::Store;
use crate::error::Result;
use crate::sql::Pools;

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
    /// [`crate::Error::Sqlx`] when the database can't be reached: then this host leads nothing.
    pub async fn campaign(&mut self, names: &[&str]) -> Result<BTreeSet<String>> {
        let Pools::Postgres(pool) = &self.pools else {
            return Ok(names.iter().map(|name| (*name).to_owned()).collect());
        };
        let result = async {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => {
                    self.held.clear();
                    // Not from the pool: this one is never given back.
                    self.connection.insert(PgConnection::connect_with(&pool.connect_options()).await?)
                }
            };
            connection.ping().await?;
            for name in names {
                if self.held.contains(*name) {
                    continue;
                }
                let row = sqlx::query("SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS led")
                    .bind(format!("quarterdeck/{name}"))
                    .fetch_one(&mut *connection)
                    .await?;
                if row.try_get("led")? {
                    self.held.insert((*name).to_owned());
                }
            }
            Ok(self.held.clone())
        }
        .await;
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
            let _ = connection.close().await;
        }
    }
}
