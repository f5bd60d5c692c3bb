//! Live statistics that hosts show each other: of each kernel and agent the last that was heard.

use std::collections::HashMap;

use quarterdeck_model::Timestamp;
use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// What a statistic is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kernel.
    Kernel,
    /// An agent.
    Agent,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Kernel => "kernel",
            Kind::Agent => "agent",
        }
    }
}

/// A statistic as a host heard it.
#[derive(Clone, Debug)]
pub struct Statistic {
    /// What it is of.
    pub kind: Kind,
    /// Whom it is of.
    pub id: String,
    /// As its agent sent it: a JSON text.
    pub stat: String,
    /// When it was heard.
    pub at: Timestamp,
}

/// Writes what was heard, over whatever was heard before.
///
/// # Errors
/// Database errors.
pub async fn write<S: Sql>(sql: &mut S, statistics: &[Statistic]) -> Result<()> {
    if statistics.is_empty() {
        return Ok(());
    }
    let rows: Vec<Json> = statistics
        .iter()
        .map(|s| json!({"k": s.kind.as_str(), "i": set::clean(&s.id), "s": set::clean(&s.stat), "a": s.at.0}))
        .collect();
    // SQLite needs the WHERE to tell the conflict's clause from a join's.
    let stmt = Stmt::assembled(format!(
        "INSERT INTO live_statistics (kind, id, stat, at) SELECT x.k, x.i, x.s, x.a FROM {} WHERE true
         ON CONFLICT (kind, id) DO UPDATE SET stat = excluded.stat, at = excluded.at
         WHERE live_statistics.at <= excluded.at",
        set::rows(sql.dialect(), "$1", &[("k", "text"), ("i", "text"), ("s", "text"), ("a", "bigint")])
    ));
    sql.execute(stmt.bind(Json::Array(rows))).await?;
    Ok(())
}

/// What was heard of these after `since`, by id.
///
/// # Errors
/// Database errors.
pub async fn read<S: Sql>(
    sql: &mut S,
    kind: Kind,
    ids: impl IntoIterator<Item = String>,
    since: Timestamp,
) -> Result<HashMap<String, String>> {
    let stmt = Stmt::among("SELECT id, stat FROM live_statistics WHERE id IN {list} AND kind = $2 AND at > $3", ids);
    let rows = sql.fetch_all(stmt.bind(kind.as_str()).bind(since.0)).await?;
    rows.iter().map(|row| Ok((row.get("id")?, row.get("stat")?))).collect()
}

/// Drops what wasn't renewed since `before`.
///
/// # Errors
/// Database errors.
pub async fn expire<S: Sql>(sql: &mut S, before: Timestamp) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM live_statistics WHERE at < $1").bind(before.0)).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn the_last_that_was_heard_is_kept_until_nobody_renews_it() {
        for db in testing::databases().await {
            let mut tx = db.store.begin().await.unwrap();
            let said = |at, kind, id: &str, stat: &str| Statistic {
                kind,
                id: id.to_owned(),
                stat: stat.to_owned(),
                at: Timestamp(at),
            };
            let first =
                [said(10, Kind::Kernel, "a", "1"), said(10, Kind::Kernel, "b", "2\0"), said(10, Kind::Agent, "a", "3")];
            write(&mut tx, &first).await.unwrap();
            write(&mut tx, &[said(20, Kind::Kernel, "a", "4")]).await.unwrap();
            // What comes late is old news.
            write(&mut tx, &[said(15, Kind::Kernel, "a", "5")]).await.unwrap();
            let ids = || ["a", "b", "nobody"].map(str::to_owned);
            let all = read(&mut tx, Kind::Kernel, ids(), Timestamp(0)).await.unwrap();
            assert_eq!(
                all,
                HashMap::from([("a".to_owned(), "4".to_owned()), ("b".to_owned(), "2\u{fffd}".to_owned())])
            );
            let fresh = read(&mut tx, Kind::Kernel, ids(), Timestamp(10)).await.unwrap();
            assert_eq!(fresh.len(), 1);
            assert_eq!(read(&mut tx, Kind::Agent, ids(), Timestamp(0)).await.unwrap()["a"], "3");
            assert_eq!(expire(&mut tx, Timestamp(20)).await.unwrap(), 2);
            tx.commit().await.unwrap();
        }
    }
}
