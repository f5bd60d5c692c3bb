//! What statements do to rows that people keep an eye on: values before and after, for the audit.
//!
//! The functions that change such a row run their statement through [`execute`]. Where an act is under way
//! ([`crate::audit`]) it reads the rows before and after, in the same transaction, and the transaction keeps the difference
//! until its commit writes it beside the act's entry. Elsewhere it just runs the statement.

use std::borrow::Cow;

use quarterdeck_model::redaction::{HIDDEN, cut, is_secret, is_secret_key, redacted, without_credentials};
use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::schema::Kind;
use crate::set;
use crate::sql::{Dialect, Sql, Stmt, Value};

mod watched;

pub(crate) use watched::*;

/// So many changes of one transaction are told; the rest is counted.
const MOST: usize = 1000;
/// The kind of what isn't a change but the number of those that were left out.
pub(crate) const MORE: &str = "more";

/// A table whose rows are kept an eye on.
#[derive(Debug)]
pub(crate) struct Watched {
    /// What a row is.
    kind: &'static str,
    table: &'static str,
    /// The primary key's column, or what is made of those of a link between two tables.
    key: &'static str,
    /// The columns by which people know a row.
    name: &'static [&'static str],
    columns: &'static [(&'static str, Kind)],
    /// Columns that aren't told: the host's own bookkeeping, and what nobody may read.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "columns are in one list or the other, which a test looks after")
    )]
    silent: &'static [&'static str],
    /// What stands for those of the columns that aren't the table's own: names in place of a link's ids.
    spelled: &'static [(&'static str, &'static str)],
}

/// Rows of a table: a condition with parameters of its own.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    condition: &'static str,
    args: Vec<Value>,
}

impl Rows {
    /// Those that meet a condition over `$1`.
    pub(crate) fn with(condition: &'static str, arg: impl Into<Value>) -> Self {
        Self { condition, args: vec![arg.into()] }
    }

    /// Those that meet a condition over the list `$1`, which it has as `{list}`.
    pub(crate) fn among<T: std::fmt::Display>(condition: &'static str, members: impl IntoIterator<Item = T>) -> Self {
        Self::with(condition, set::array(members))
    }

    /// With the next parameter.
    pub(crate) fn and(mut self, arg: impl Into<Value>) -> Self {
        self.args.push(arg.into());
        self
    }

    fn text(&self, dialect: Dialect) -> String {
        set::with_list(self.condition, dialect)
    }
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    kind: &'static str,
    name: String,
    old: Option<Json>,
    new: Option<Json>,
}

impl Change {
    /// Of something that is no row of its own: of what stays, what differs. `None` when nothing does.
    pub(crate) fn of_documents(
        kind: &'static str,
        name: String,
        mut old: Option<Map<String, Json>>,
        mut new: Option<Map<String, Json>>,
    ) -> Option<Self> {
        if let (Some(old), Some(new)) = (&mut old, &mut new) {
            let whole = old.clone();
            old.retain(|field, value| new.get(field) != Some(value));
            new.retain(|field, value| whole.get(field) != Some(value));
            if old.is_empty() && new.is_empty() {
                return None;
            }
        }
        let (old, new) = (old.map(Json::from), new.map(Json::from));
        (old.is_some() || new.is_some()).then_some(Self { kind, name, old, new })
    }
}

/// A row as it was read: its key, and its columns in their order.
#[derive(Debug)]
pub(crate) struct Seen {
    key: String,
    values: Vec<Value>,
}

/// The rows as they are, if somebody wants to know what becomes of them.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub(crate) async fn look<S: Sql>(sql: &mut S, what: &Watched, rows: &Rows) -> Result<Option<Vec<Seen>>> {
    if !sql.is_watched() {
        return Ok(None);
    }
    let columns: Vec<_> = what.columns.iter().map(|(name, _)| what.spelling(name)).collect();
    let text = format!(
        "SELECT {key} AS its_key, {} FROM {} WHERE {} ORDER BY {key}",
        columns.join(", "),
        what.table,
        rows.text(sql.dialect()),
        key = what.key
    );
    // Nobody else may change them between this look and the change.
    let stmt = Stmt::assembled(text).bind_all(rows.args.iter().cloned()).on_postgres("FOR UPDATE");
    let mut seen = Vec::new();
    for row in sql.fetch_all(stmt).await? {
        let values = what.columns.iter().map(|(name, kind)| kind.read(&row, name)).collect::<Result<_>>()?;
        seen.push(Seen { key: row.get("its_key")?, values });
    }
    Ok(Some(seen))
}

/// Notes what became of the rows that [`look`] saw.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub(crate) async fn note<S: Sql>(sql: &mut S, what: &Watched, rows: &Rows, seen: Option<Vec<Seen>>) -> Result<()> {
    let Some(mut old) = seen else { return Ok(()) };
    let mut new = look(sql, what, rows).await?.unwrap_or_default();
    // A row that leaves its key for another is one row.
    let mut pairs = Vec::new();
    if let ([one], [other]) = (&*old, &*new)
        && one.key != other.key
    {
        pairs.push((old.pop(), new.pop()));
    }
    for one in old {
        let place = new.iter().position(|other| other.key == one.key);
        pairs.push((Some(one), place.map(|place| new.remove(place))));
    }
    pairs.extend(new.into_iter().map(|other| (None, Some(other))));
    for (old, new) in pairs {
        if let Some(change) = difference(what, old.as_ref(), new.as_ref()) {
            sql.note(change);
        }
    }
    Ok(())
}

/// Runs a statement that changes, adds or removes rows of a watched table, and notes what it did to them. `rows` are those
/// that it may touch, before or after it. How many it touched.
///
/// # Errors
/// Those of the statement.
pub(crate) async fn execute<S: Sql>(sql: &mut S, what: &Watched, rows: Rows, stmt: Stmt) -> Result<u64> {
    let seen = look(sql, what, &rows).await?;
    let changed = sql.execute(stmt).await?;
    if changed > 0 {
        note(sql, what, &rows, seen).await?;
    }
    Ok(changed)
}

impl Watched {
    /// The row of a key.
    pub(crate) fn row(&self, key: impl Into<Value>) -> Rows {
        Rows::with(
            match self.key {
                "name" => "name = $1",
                "access_key" => "access_key = $1",
                _ => "id = $1",
            },
            key,
        )
    }

    fn spelling(&self, column: &'static str) -> Cow<'static, str> {
        let spelled = self.spelled.iter().find(|(name, _)| *name == column);
        spelled.map_or_else(|| column.into(), |(name, text)| format!("{text} AS {name}").into())
    }

    /// The key's column.
    pub(crate) fn key(&self) -> &'static str {
        self.key
    }

    /// The table.
    pub(crate) fn table(&self) -> &'static str {
        self.table
    }
}

fn difference(what: &Watched, old: Option<&Seen>, new: Option<&Seen>) -> Option<Change> {
    let known = new.or(old)?;
    let text = |column: &&str| {
        let place = what.columns.iter().position(|(name, _)| name == column)?;
        match known.values.get(place)? {
            Value::Text(Some(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    };
    let name = what.name.iter().filter_map(text).collect::<Vec<_>>().join(" ");
    let hides_value = what.table == CONFIG.table && is_secret_key(&name);
    let mut documents = (Map::new(), Map::new());
    for (place, (column, _)) in what.columns.iter().enumerate() {
        let value = |seen: Option<&Seen>| seen.and_then(|seen| seen.values.get(place)).cloned();
        let (before, after) = (value(old), value(new));
        if before == after {
            continue;
        }
        let hidden = hides_value && *column == "value";
        // Of a row that comes or goes, what it has; of one that stays, also what it lacks.
        let both = old.is_some() && new.is_some();
        for (value, document) in [(before, &mut documents.0), (after, &mut documents.1)] {
            let shown = value.map_or(Json::Null, |value| shown(column, value, hidden));
            if both || !shown.is_null() {
                document.insert((*column).to_owned(), shown);
            }
        }
    }
    let (before, after) = documents;
    if old.is_some() && new.is_some() && before.is_empty() {
        return None;
    }
    Some(Change { kind: what.kind, name, old: old.map(|_| before.into()), new: new.map(|_| after.into()) })
}

/// A value, fit to be kept.
fn shown(column: &str, value: Value, hidden: bool) -> Json {
    let hidden = hidden || is_secret(column);
    match value {
        // That there is something to be said tells nothing of what it is.
        Value::Bool(value) => json!(value),
        Value::Text(None) | Value::Int(None) | Value::Real(None) | Value::Bytes(None) => Json::Null,
        _ if hidden => Json::from(HIDDEN),
        Value::Int(value) => json!(value),
        Value::Real(value) => json!(value),
        Value::Bytes(value) => json!(format!("{} bytes", value.map_or(0, |bytes| bytes.len()))),
        Value::Text(Some(text)) => match serde_json::from_str::<Json>(&text) {
            Ok(document @ (Json::Object(_) | Json::Array(_))) => redacted(&document),
            _ => Json::from(cut(&without_credentials(&text))),
        },
    }
}

/// Writes changes beside an entry of the audit.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub(crate) async fn write<S: Sql>(sql: &mut S, entry: i64, at: i64, changes: &[Change]) -> Result<()> {
    const COLUMNS: &[(&str, &str)] =
        &[("place", "bigint"), ("kind", "text"), ("name", "text"), ("old_values", "text"), ("new_values", "text")];
    let mut rows: Vec<Json> = changes
        .iter()
        .take(MOST)
        .enumerate()
        .map(|(place, change)| {
            json!({
                "place": place,
                "kind": change.kind,
                "name": cut(&change.name),
                "old_values": change.old.as_ref().map(Json::to_string),
                "new_values": change.new.as_ref().map(Json::to_string),
            })
        })
        .collect();
    if changes.len() > MOST {
        rows.push(json!({"place": MOST, "kind": MORE, "name": (changes.len() - MOST).to_string()}));
    }
    let source = set::rows(sql.dialect(), "$1", COLUMNS);
    let stmt = Stmt::assembled(format!(
        "INSERT INTO audit_changes (entry, at, kind, name, old_values, new_values) \
         SELECT CAST($2 AS BIGINT), CAST($3 AS BIGINT), kind, name, old_values, new_values FROM {source} ORDER BY place"
    ));
    // Documents hide NUL behind escapes of two depths: the list's own, and those of the values within it.
    let text = set::clean_json(&Json::from(rows).to_string()).into_owned();
    sql.execute(stmt.bind(text).bind(entry).bind(at)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::audit::{Act, Actor, Via};
    use crate::{schema, testing};

    #[tokio::test]
    async fn each_column_is_told_or_known_not_to_be() {
        let db = testing::databases().await.remove(0);
        let tables = schema::tables(&mut db.store.reader()).await.unwrap();
        for what in [CONFIG, DOMAIN, PROJECT, USER, KEYPAIR, POLICY, SCALING_GROUP, PRESET, BINDING] {
            let table = tables.iter().find(|table| table.name == what.table).unwrap();
            let told: Vec<_> = what.columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
            let names: BTreeSet<&str> =
                told.iter().map(|(name, _)| &**name).chain(what.silent.iter().copied()).collect();
            let there: BTreeSet<&str> = table.columns.iter().map(|column| &*column.name).collect();
            assert_eq!(names, there, "{}", what.table);
            for column in &table.columns {
                let said = told.iter().find(|(name, _)| *name == column.name);
                assert!(said.is_none_or(|(_, kind)| *kind == column.kind), "{}.{}", what.table, column.name);
            }
            assert_eq!(table.key, [what.key], "{}", what.table);
            assert!(what.row("x").condition.starts_with(what.key), "{}", what.table);
        }
    }

    #[tokio::test]
    async fn links_can_be_looked_at() {
        for db in testing::databases().await {
            crate::audit::scope(Act::new(Via::Cli, Actor::default(), "x"), async {
                let mut tx = db.store.begin().await.unwrap();
                for what in [PROJECT_MEMBER, SCALING_GROUP_DOMAIN, SCALING_GROUP_PROJECT, SCALING_GROUP_KEYPAIR] {
                    let seen = look(&mut tx, &what, &Rows::among("{list} IS NOT NULL", ["x"])).await;
                    assert!(seen.unwrap().unwrap().is_empty(), "{}", what.table);
                }
            })
            .await;
        }
    }

    #[test]
    fn values_are_shown_without_secrets() {
        let text = |column: &str, text: &str| shown(column, Value::from(text), false);
        assert_eq!(text("secret_key", "s"), HIDDEN);
        assert_eq!(text("ssh_private_key", "s"), HIDDEN);
        assert_eq!(text("wsproxy_addr", "http://u:p@h"), "http://***@h");
        assert_eq!(text("config", r#"{"token": "t", "limit": 3}"#), json!({"token": HIDDEN, "limit": 3}));
        assert_eq!(text("description", "7"), "7");
        assert_eq!(shown("need_password_change", Value::from(true), false), true);
        assert_eq!(shown("password", Value::Text(None), false), Json::Null);
    }
}
