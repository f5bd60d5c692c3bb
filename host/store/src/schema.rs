//! What tables there are, asked of the database itself: backups, restores and checks know no list that could be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::sql::{Dialect, Row, Sql, Stmt, Value};

/// What a column holds: the only five types there are (see [`crate::sql`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Int,
    Real,
    Bool,
    Bytes,
}

impl Kind {
    /// By the type's name in either database.
    fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "TEXT" => Self::Text,
            "BIGINT" | "INTEGER" => Self::Int,
            "DOUBLE PRECISION" => Self::Real,
            "BOOLEAN" => Self::Bool,
            "BYTEA" => Self::Bytes,
            _ => return None,
        })
    }

    /// The value of a row's column.
    pub(crate) fn read(self, row: &Row, column: &str) -> Result<Value> {
        Ok(match self {
            Self::Text => Value::Text(row.get(column)?),
            Self::Int => Value::Int(row.get(column)?),
            Self::Real => Value::Real(row.get(column)?),
            Self::Bool => Value::Bool(row.get(column)?),
            Self::Bytes => Value::Bytes(row.get(column)?),
        })
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The database counts it up.
    pub(crate) identity: bool,
}

/// Rows of `table` that rows of another one point to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) columns: Vec<String>,
    pub(crate) table: String,
    pub(crate) targets: Vec<String>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// The primary key's columns.
    pub(crate) key: Vec<String>,
    pub(crate) references: Vec<Reference>,
}

impl Table {
    /// The column that the database counts up.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.columns.iter().find(|c| c.identity).map(|c| c.name.as_str())
    }
}

/// A name as SQL takes it, whatever word it is.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Our tables, each after those that it refers to.
pub(crate) async fn tables<S: Sql>(sql: &mut S) -> Result<Vec<Table>> {
    let mut tables = BTreeMap::<String, Table>::new();
    let columns = Stmt::dialect(
        "SELECT m.name AS tab, c.name AS col, c.type AS kind, c.pk AS pk, \
         (c.pk > 0 AND m.sql LIKE '%AUTOINCREMENT%') AS counted \
         FROM sqlite_master m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND m.name NOT LIKE '\\_%' ESCAPE '\\' \
         ORDER BY m.name, c.cid",
        "SELECT CAST(t.table_name AS TEXT) AS tab, CAST(c.column_name AS TEXT) AS col, CAST(c.data_type AS TEXT) AS kind, \
         CAST(0 AS BIGINT) AS pk, CAST(CASE WHEN c.is_identity = 'YES' THEN 1 ELSE 0 END AS BIGINT) AS counted \
         FROM information_schema.tables t JOIN information_schema.columns c \
         ON c.table_schema = t.table_schema AND c.table_name = t.table_name \
         WHERE t.table_schema = current_schema() AND t.table_type = 'BASE TABLE' AND t.table_name NOT LIKE '\\_%' \
         ORDER BY t.table_name, c.ordinal_position",
    );
    let mut keys = BTreeMap::<String, Vec<(i64, String)>>::new();
    for row in sql.fetch_all(columns).await? {
        let (name, column): (String, String) = (row.get("tab")?, row.get("col")?);
        let kind: String = row.get("kind")?;
        let kind = Kind::named(&kind).ok_or_else(|| Error::Corrupt {
            column: format!("{name}.{column}"),
            reason: format!("its type is {kind}, which no release wrote"),
        })?;
        let place: i64 = row.get("pk")?;
        if place > 0 {
            keys.entry(name.clone()).or_default().push((place, column.clone()));
        }
        let table = tables.entry(name.clone()).or_insert_with(|| Table { name, ..Table::default() });
        table.columns.push(Column { name: column, kind, identity: row.get::<i64>("counted")? != 0 });
    }
    for (name, mut columns) in keys {
        columns.sort_unstable();
        if let Some(table) = tables.get_mut(&name) {
            table.key = columns.into_iter().map(|(_, column)| column).collect();
        }
    }
    match sql.dialect() {
        Dialect::Sqlite => sqlite_references(sql, &mut tables).await?,
        Dialect::Postgres => postgres_constraints(sql, &mut tables).await?,
    }
    in_order(tables)
}

async fn sqlite_references<S: Sql>(sql: &mut S, tables: &mut BTreeMap<String, Table>) -> Result<()> {
    let stmt = Stmt::new(
        "SELECT m.name AS tab, f.id AS id, f.\"table\" AS parent, f.\"from\" AS col, f.\"to\" AS target \
         FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq",
    );
    let mut last = None;
    for row in sql.fetch_all(stmt).await? {
        let (name, id): (String, i64) = (row.get("tab")?, row.get("id")?);
        let parent: String = row.get("parent")?;
        let target: Option<String> = row.get("target")?;
        // Without a column the parent's key is meant.
        let target = target.or_else(|| tables.get(&parent).and_then(|t| t.key.first().cloned())).unwrap_or_default();
        let Some(table) = tables.get_mut(&name) else { continue };
        if last != Some((name.clone(), id)) {
            table.references.push(Reference { table: parent, ..Reference::default() });
            last = Some((name, id));
        }
        if let Some(reference) = table.references.last_mut() {
            reference.columns.push(row.get("col")?);
            reference.targets.push(target);
        }
    }
    Ok(())
}

async fn postgres_constraints<S: Sql>(sql: &mut S, tables: &mut BTreeMap<String, Table>) -> Result<()> {
    let stmt = Stmt::new(
        "SELECT CAST(t.relname AS TEXT) AS tab, CAST(c.contype AS TEXT) AS kind, CAST(p.relname AS TEXT) AS parent, \
         (SELECT CAST(json_agg(a.attname ORDER BY k.n) AS TEXT) FROM unnest(c.conkey) WITH ORDINALITY AS k (num, n) \
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num) AS cols, \
         (SELECT CAST(json_agg(a.attname ORDER BY k.n) AS TEXT) FROM unnest(c.confkey) WITH ORDINALITY AS k (num, n) \
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num) AS targets \
         FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace s ON s.oid = t.relnamespace \
         LEFT JOIN pg_class p ON p.oid = c.confrelid \
         WHERE s.nspname = current_schema() AND c.contype IN ('p', 'f') ORDER BY t.relname, c.conname",
    );
    for row in sql.fetch_all(stmt).await? {
        let name: String = row.get("tab")?;
        let Some(table) = tables.get_mut(&name) else { continue };
        let columns: Vec<String> = row.json("cols")?;
        if row.get::<String>("kind")? == "p" {
            table.key = columns;
        } else {
            table.references.push(Reference { columns, table: row.get("parent")?, targets: row.json("targets")? });
        }
    }
    Ok(())
}

/// Parents before children.
fn in_order(mut left: BTreeMap<String, Table>) -> Result<Vec<Table>> {
    let mut done = BTreeSet::new();
    let mut out = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let free: Vec<String> = left
            .values()
            .filter(|t| t.references.iter().all(|r| r.table == t.name || done.contains(&r.table)))
            .map(|t| t.name.clone())
            .collect();
        if free.is_empty() {
            let names: Vec<&str> = left.keys().map(String::as_str).collect();
            return Err(Error::Corrupt { column: names.join(", "), reason: "tables refer to each other".to_owned() });
        }
        for name in free {
            out.extend(left.remove(&name));
            done.insert(name);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn both_databases_tell_the_same() {
        let all = testing::databases().await;
        let mut seen = Vec::new();
        for db in &all {
            let mut tables = tables(&mut db.store.reader()).await.unwrap();
            let names: Vec<String> = tables.iter().map(|t| t.name.clone()).collect();
            let place = |name: &str| names.iter().position(|n| n == name).unwrap();
            assert!(place("domains") < place("users") && place("users") < place("keypairs"));
            assert!(place("sessions") < place("kernels"));
            for table in &mut tables {
                assert!(!table.key.is_empty(), "{} has no key: it can't be read piece by piece", table.name);
                table.columns.sort_by(|a, b| a.name.cmp(&b.name));
                table.references.sort_by(|a, b| (&a.table, &a.columns).cmp(&(&b.table, &b.columns)));
            }
            assert_eq!(tables[place("history")].identity(), Some("id"));
            seen.push(tables);
        }
        for other in &seen[1..] {
            assert_eq!(*other, seen[0]);
        }
    }
}
