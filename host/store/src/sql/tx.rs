//! Transactions: what they change is told to the audit when they commit.

use std::sync::Arc;

use super::embedded::Lane;
use super::served::Lent;
use super::{Counter, Dialect, Row, Sql, Stmt, burn};
use crate::audit::{self, Act};
use crate::changes::Change;
use crate::error::Result;
use crate::testing::Fuse;

/// A write transaction. Dropping it without [`Tx::commit`] rolls everything back.
#[derive(Debug)]
pub struct Tx {
    inner: TxInner,
    /// Whose changes these are; told to the audit when anything changed.
    acts: Option<Box<Acts>>,
    wrote: bool,
    counter: Counter,
}

/// On the heap: transactions stand in many futures, which they keep small this way.
#[derive(Debug, Default)]
struct Acts {
    acts: Vec<Arc<Act>>,
    /// What was done to rows that the audit tells of.
    changes: Vec<Change>,
    /// How many they were when the part under way began.
    at_part: usize,
}

/// The transaction of either database.
#[derive(Debug)]
pub(super) enum TxInner {
    Sqlite(Lane, Option<Fuse>),
    Postgres(Lent),
}

impl Tx {
    pub(super) fn new(inner: TxInner, act: Option<Arc<Act>>, counter: Counter) -> Self {
        let acts = act.map(|act| Box::new(Acts { acts: vec![act], ..Acts::default() }));
        Self { inner, acts, wrote: false, counter }
    }

    /// Makes everything durable and visible at once, with its entry in the audit: no change is committed without it.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`]; then nothing was written.
    pub async fn commit(mut self) -> Result<()> {
        let Acts { acts, changes, .. } = self.acts.take().map_or_else(Acts::default, |acts| *acts);
        let entries = if self.wrote { audit::tell(&mut self, acts, &changes).await? } else { Vec::new() };
        match self.inner {
            TxInner::Sqlite(lane, fuse) => {
                burn(&fuse).await;
                lane.commit().await?;
                burn(&fuse).await;
            }
            TxInner::Postgres(tx) => tx.commit().await?,
        }
        entries.iter().for_each(|(act, entry)| act.set_told(*entry));
        Ok(())
    }

    /// These are behind what this transaction changes, too: for queues that write for several requests at once.
    pub fn on_behalf_of(&mut self, acts: impl IntoIterator<Item = Arc<Act>>) {
        self.acts.get_or_insert_default().acts.extend(acts);
    }

    /// Begins a part that can be undone without the rest; [`Tx::end_part`] ends it. One at a time.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`].
    pub async fn begin_part(&mut self) -> Result<()> {
        self.execute(Stmt::new("SAVEPOINT part")).await?;
        if let Some(acts) = &mut self.acts {
            acts.at_part = acts.changes.len();
        }
        Ok(())
    }

    /// Ends the part under way and keeps what it did, or undoes it: also after a statement that failed.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`].
    pub async fn end_part(&mut self, keep: bool) -> Result<()> {
        if !keep {
            self.execute(Stmt::new("ROLLBACK TO SAVEPOINT part")).await?;
            if let Some(acts) = &mut self.acts {
                acts.changes.truncate(acts.at_part);
            }
        }
        self.execute(Stmt::new("RELEASE SAVEPOINT part")).await?;
        Ok(())
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// [`crate::Error::Sqlx`]; the transaction is gone then, too.
    pub async fn rollback(self) -> Result<()> {
        match self.inner {
            // Undone as it goes back.
            TxInner::Sqlite(lane, _) => drop(lane),
            TxInner::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }
}

impl Sql for Tx {
    fn dialect(&self) -> Dialect {
        match self.inner {
            TxInner::Sqlite(..) => Dialect::Sqlite,
            TxInner::Postgres(_) => Dialect::Postgres,
        }
    }
    async fn execute(&mut self, stmt: Stmt) -> Result<u64> {
        self.counter.add();
        let changed = match &mut self.inner {
            TxInner::Sqlite(lane, fuse) => {
                burn(fuse).await;
                lane.execute(stmt).await?
            }
            TxInner::Postgres(tx) => tx.execute(stmt).await?,
        };
        self.wrote |= changed > 0;
        Ok(changed)
    }
    async fn fetch_all(&mut self, stmt: Stmt) -> Result<Vec<Row>> {
        self.counter.add();
        let writes = stmt.writes();
        let rows = match &mut self.inner {
            TxInner::Sqlite(lane, _) => lane.rows(stmt).await?,
            TxInner::Postgres(tx) => tx.rows(stmt).await?,
        };
        self.wrote |= writes && !rows.is_empty();
        Ok(rows)
    }
    async fn fetch_optional(&mut self, stmt: Stmt) -> Result<Option<Row>> {
        match &mut self.inner {
            TxInner::Sqlite(lane, _) if !stmt.writes() => {
                self.counter.add();
                lane.row(stmt).await
            }
            _ => Ok(self.fetch_all(stmt).await?.into_iter().next()),
        }
    }
    fn is_watched(&self) -> bool {
        self.acts.as_ref().is_some_and(|acts| !acts.acts.is_empty())
    }
    fn note(&mut self, change: Change) {
        if let Some(acts) = &mut self.acts {
            acts.changes.push(change);
        }
    }
}
