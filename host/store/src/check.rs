//! Whether the rows fit together: what the schema says, looked at once more, and what it can't say.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::occupancy;
use crate::schema::{self, quoted};
use crate::sql::{Dialect, Sql, Stmt};

/// Rows that refer to something that isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// The rows' table.
    pub table: String,
    /// The columns that refer.
    pub columns: String,
    /// What they refer to.
    pub parent: String,
    /// How many rows.
    pub rows: i64,
}

/// Rows whose foreign keys point nowhere, table by table.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn broken_references<S: Sql>(sql: &mut S) -> Result<Vec<Orphans>> {
    let mut out = Vec::new();
    for table in schema::tables(sql).await? {
        for reference in &table.references {
            let pairs = || reference.columns.iter().zip(&reference.targets);
            let same: Vec<String> = pairs().map(|(c, t)| format!("p.{} = c.{}", quoted(t), quoted(c))).collect();
            let set: Vec<String> = pairs().map(|(c, _)| format!("c.{} IS NOT NULL", quoted(c))).collect();
            let stmt = Stmt::assembled(format!(
                "SELECT COUNT(*) AS n FROM {} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {})",
                quoted(&table.name),
                set.join(" AND "),
                quoted(&reference.table),
                same.join(" AND ")
            ));
            let rows: i64 = sql.fetch_one(stmt).await?.get("n")?;
            if rows > 0 {
                out.push(Orphans {
                    table: table.name.clone(),
                    columns: reference.columns.join(", "),
                    parent: reference.table.clone(),
                    rows,
                });
            }
        }
    }
    Ok(out)
}

/// Rows without a foreign key (their holder may go first, or is one of several kinds) that belong to nobody any more.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn orphans<S: Sql>(sql: &mut S) -> Result<Vec<Orphans>> {
    const KINDS: &[(&str, &str, &str, &str)] = &[
        (
            "occupancy",
            "holder",
            "keypairs",
            "c.scope = 'keypair' AND c.amount <> 0 AND NOT EXISTS (SELECT 1 FROM keypairs p WHERE p.access_key = c.holder)",
        ),
        (
            "occupancy",
            "holder",
            "projects",
            "c.scope = 'project' AND c.amount <> 0 AND NOT EXISTS (SELECT 1 FROM projects p WHERE p.id = c.holder)",
        ),
        (
            "occupancy",
            "holder",
            "domains",
            "c.scope = 'domain' AND c.amount <> 0 AND NOT EXISTS (SELECT 1 FROM domains p WHERE p.name = c.holder)",
        ),
        (
            "concurrency",
            "access_key",
            "keypairs",
            "(c.sessions <> 0 OR c.private_sessions <> 0) AND NOT EXISTS (SELECT 1 FROM keypairs p WHERE p.access_key = c.access_key)",
        ),
        (
            "sessions",
            "id",
            "kernels",
            "c.status NOT IN ('TERMINATED', 'CANCELLED') AND NOT EXISTS (SELECT 1 FROM kernels p WHERE p.session_id = c.id)",
        ),
        (
            "plugin_bindings",
            "target",
            "scaling_groups",
            "c.target_kind = 'scaling-group' AND NOT EXISTS (SELECT 1 FROM scaling_groups p WHERE p.name = c.target)",
        ),
        (
            "plugin_bindings",
            "target",
            "domains",
            "c.target_kind = 'domain' AND NOT EXISTS (SELECT 1 FROM domains p WHERE p.name = c.target)",
        ),
    ];
    let mut out = Vec::new();
    for (table, columns, parent, condition) in KINDS {
        let stmt = Stmt::assembled(format!("SELECT COUNT(*) AS n FROM {table} c WHERE {condition}"));
        let rows: i64 = sql.fetch_one(stmt).await?.get("n")?;
        if rows > 0 {
            let (table, columns, parent) = ((*table).to_owned(), (*columns).to_owned(), (*parent).to_owned());
            out.push(Orphans { table, columns, parent, rows });
        }
    }
    Ok(out)
}

/// A counter that isn't what its sessions and kernels add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Whose counter: table, holder and slot.
    pub counter: String,
    /// What it says.
    pub stored: i64,
    /// What it should say.
    pub counted: i64,
}

/// Every counter of the books that isn't 0.
async fn counters<S: Sql>(sql: &mut S) -> Result<BTreeMap<String, i64>> {
    let stmt = Stmt::new(
        "SELECT 'agent ' || agent_id || ' ' || slot AS counter, occupied AS n FROM agent_slots WHERE occupied <> 0 \
         UNION ALL SELECT scope || ' ' || holder || ' ' || slot, amount FROM occupancy WHERE amount <> 0 \
         UNION ALL SELECT 'keypair ' || access_key || ' sessions', sessions FROM concurrency WHERE sessions <> 0 \
         UNION ALL SELECT 'keypair ' || access_key || ' private sessions', private_sessions FROM concurrency \
         WHERE private_sessions <> 0",
    );
    sql.fetch_all(stmt).await?.iter().map(|row| Ok((row.get("counter")?, row.get("n")?))).collect()
}

/// Counts everything anew and tells what was wrong before. The transaction then holds the right counters: committing it
/// repairs them.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn recount<S: Sql>(tx: &mut S) -> Result<Vec<Drift>> {
    if tx.dialect() == Dialect::Postgres {
        // Before the first look: what is under way elsewhere would look like a difference.
        tx.execute(Stmt::new("LOCK TABLE agent_slots, occupancy, concurrency IN EXCLUSIVE MODE")).await?;
    }
    let stored = counters(tx).await?;
    occupancy::recalculate(tx).await?;
    let counted = counters(tx).await?;
    let of = |map: &BTreeMap<String, i64>, key: &str| map.get(key).copied().unwrap_or_default();
    let mut names: Vec<&String> = stored.keys().chain(counted.keys()).collect();
    names.sort();
    names.dedup();
    Ok(names
        .into_iter()
        .filter(|name| of(&stored, name) != of(&counted, name))
        .map(|name| Drift { counter: name.clone(), stored: of(&stored, name), counted: of(&counted, name) })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_fresh_database_has_no_faults() {
        for db in testing::databases().await {
            let mut tx = db.store.begin().await.unwrap();
            assert_eq!(broken_references(&mut tx).await.unwrap(), []);
            assert_eq!(orphans(&mut tx).await.unwrap(), []);
            assert_eq!(recount(&mut tx).await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn wrong_counters_and_lost_holders_are_told_and_repaired() {
        for db in testing::databases().await {
            let mut tx = db.store.begin().await.unwrap();
            let stmt = "INSERT INTO occupancy (scope, holder, slot, amount) VALUES ('keypair', 'AKIA', 'cpu', 5)";
            tx.execute(Stmt::new(stmt)).await.unwrap();
            let lost = orphans(&mut tx).await.unwrap();
            assert_eq!((lost.len(), lost[0].table.as_str(), lost[0].rows), (1, "occupancy", 1));
            let drift = recount(&mut tx).await.unwrap();
            assert_eq!(drift, [Drift { counter: "keypair AKIA cpu".to_owned(), stored: 5, counted: 0 }]);
            assert_eq!(recount(&mut tx).await.unwrap(), []);
        }
    }
}
