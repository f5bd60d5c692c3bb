//! From typed conditions to SQL with bound parameters.

use std::fmt::Write as _;

use super::{Compare, Condition, Field, Kind, Listing, Literal, Page, SortKey};
use crate::{Dialect, Result, Row, Sql, Stmt, Value};

/// A growing `WHERE` clause and its parameters.
#[derive(Clone, Debug)]
pub struct Conditions {
    dialect: Dialect,
    sql: String,
    args: Vec<Value>,
}

impl Conditions {
    /// No condition yet.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, sql: String::new(), args: Vec::new() }
    }

    /// The database that this is for.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn and(&mut self) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
    }

    fn param(&mut self, value: Value) -> usize {
        self.args.push(value);
        self.args.len()
    }

    /// Demands `fragment`, a fixed text; each `?` in it stands for the next of `values`.
    pub fn add(&mut self, fragment: &'static str, values: impl IntoIterator<Item = Value>) {
        self.and();
        let mut values = values.into_iter();
        for (i, part) in fragment.split('?').enumerate() {
            if i > 0 {
                let number = self.param(values.next().unwrap_or(Value::Text(None)));
                let _ = write!(self.sql, "${number}");
            }
            self.sql.push_str(part);
        }
    }

    /// Demands that `expr`, a fixed text, equals `value`.
    pub fn equal(&mut self, expr: &'static str, value: impl Into<Value>) {
        self.and();
        let number = self.param(value.into());
        let _ = write!(self.sql, "{expr} = ${number}");
    }

    /// Demands that `expr`, a fixed text, is one of `values`.
    pub fn any_of<V: Into<Value>>(&mut self, expr: &'static str, values: impl IntoIterator<Item = V>) {
        self.and();
        self.write_in(expr, values.into_iter().map(Into::into).collect());
    }

    fn write_in(&mut self, expr: &str, values: Vec<Value>) {
        if values.is_empty() {
            self.sql.push_str("1 = 0");
            return;
        }
        let _ = write!(self.sql, "{expr} IN (");
        for (i, value) in values.into_iter().enumerate() {
            let number = self.param(value);
            let _ = write!(self.sql, "{}${number}", if i == 0 { "" } else { ", " });
        }
        self.sql.push(')');
    }

    /// The clause and its parameters.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (&str, &[Value]) {
        (&self.sql, &self.args)
    }

    /// The statement `head`, these conditions, `tail`; both are fixed texts.
    pub fn into_stmt(self, head: &'static str, tail: &'static str) -> Stmt {
        Stmt::assembled(format!("{head}{} {tail}", self.sql)).bind_all(self.args)
    }

    /// Demands what the client's filter says.
    pub(super) fn filter(&mut self, fields: &[Field], condition: &Condition) {
        self.and();
        self.write(fields, condition);
    }

    fn write(&mut self, fields: &[Field], condition: &Condition) {
        match condition {
            Condition::Not(inner) => {
                self.sql.push_str("NOT (");
                self.write(fields, inner);
                self.sql.push(')');
            }
            Condition::And(left, right) => self.write_pair(fields, left, " AND ", right),
            Condition::Or(left, right) => self.write_pair(fields, left, " OR ", right),
            Condition::Compare { field, how, value } => self.write_compare(&fields[*field], *how, value),
            Condition::In { field, values } => {
                let field = &fields[*field];
                if values.iter().any(|v| matches!(v, Literal::Real(_))) {
                    let values = values.iter().map(|v| as_real(field.kind, v)).collect();
                    return self.write_in(&real(field.expr), values);
                }
                let values = values.iter().map(|v| bound(field.kind, v)).collect();
                self.write_in(field.expr, values);
            }
            Condition::IsNull { field, negated } => {
                let _ = write!(self.sql, "{} IS {}NULL", fields[*field].expr, if *negated { "NOT " } else { "" });
            }
            Condition::Like { field, pattern, fold_case } => {
                self.write_like(fields[*field].expr, pattern, *fold_case);
            }
        }
    }

    fn write_pair(&mut self, fields: &[Field], left: &Condition, joint: &str, right: &Condition) {
        self.sql.push('(');
        self.write(fields, left);
        self.sql.push_str(joint);
        self.write(fields, right);
        self.sql.push(')');
    }

    fn write_compare(&mut self, field: &Field, how: Compare, value: &Literal) {
        let operator = match how {
            Compare::Eq => "=",
            Compare::Ne => "<>",
            Compare::Gt => ">",
            Compare::Ge => ">=",
            Compare::Lt => "<",
            Compare::Le => "<=",
        };
        let ranked = !matches!(how, Compare::Eq | Compare::Ne);
        let (left, right) = match (field.kind, value) {
            (Kind::Enum(words), Literal::Word(position)) if ranked => {
                (rank(field.expr, words), Value::Int(i64::try_from(*position).ok()))
            }
            (Kind::Text | Kind::Uuid, _) if ranked => (self.collated(field.expr), bound(field.kind, value)),
            (_, Literal::Real(_)) => (real(field.expr), bound(field.kind, value)),
            _ => (field.expr.to_owned(), bound(field.kind, value)),
        };
        let number = self.param(right);
        let _ = write!(self.sql, "{left} {operator} ${number}");
    }

    /// `%` and `_` are wildcards, a backslash takes their meaning away.
    fn write_like(&mut self, expr: &str, pattern: &str, fold_case: bool) {
        match (self.dialect, fold_case) {
            // SQLite's LIKE knows no case (of ASCII letters), its GLOB does.
            (Dialect::Sqlite, false) => {
                let number = self.param(glob(pattern).into());
                let _ = write!(self.sql, "{expr} GLOB ${number}");
            }
            (Dialect::Sqlite, true) => {
                let number = self.param(closed(pattern).into());
                let _ = write!(self.sql, "{expr} LIKE ${number} ESCAPE '\\'");
            }
            (Dialect::Postgres, fold) => {
                let number = self.param(closed(pattern).into());
                let _ = write!(self.sql, "{expr} {} ${number}", if fold { "ILIKE" } else { "LIKE" });
            }
        }
    }

    /// Text that sorts by its bytes on both databases.
    fn collated(&self, expr: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => expr.to_owned(),
            Dialect::Postgres => format!("{expr} COLLATE \"C\""),
        }
    }

    fn order_by(&self, fields: &[Field], keys: &[SortKey], unique: &'static str) -> String {
        let mut sql = String::from(" ORDER BY ");
        for key in keys {
            let field = &fields[key.field];
            let expr = match field.kind {
                Kind::Enum(words) => rank(field.expr, words),
                Kind::Text | Kind::Uuid => self.collated(field.expr),
                _ => field.expr.to_owned(),
            };
            let _ = write!(sql, "{expr} {}, ", if key.descending { "DESC NULLS FIRST" } else { "ASC NULLS LAST" });
        }
        sql.push_str(unique);
        sql
    }
}

/// Where a list comes from: fixed texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// What to select.
    pub(crate) columns: &'static str,
    /// The tables, joined so that a row of the list is a row of the join.
    pub(crate) from: &'static str,
    /// The same without the tables that no condition looks at: for counting.
    pub(crate) count_from: &'static str,
    /// The list's own order.
    pub(crate) order: &'static str,
    /// What tells rows apart, so that pages neither overlap nor miss rows.
    pub(crate) unique: &'static str,
}

/// Runs a list: one statement for the count, one for the page.
pub(crate) async fn page<S: Sql, T>(
    sql: &mut S,
    source: &Source,
    mut conditions: Conditions,
    listing: &Listing,
    read: impl Fn(&Row) -> Result<T>,
) -> Result<Page<T>> {
    if let Some(filter) = &listing.filter {
        conditions.filter(listing.fields, filter);
    }
    let count = format!("SELECT COUNT(*) AS total FROM {}{}", source.count_from, conditions.sql);
    let total = sql.fetch_one(Stmt::assembled(count).bind_all(conditions.args.clone())).await?.get("total")?;
    let items = if listing.limit == 0 || listing.offset >= total {
        Vec::new()
    } else {
        rows(sql, source, conditions, listing, read).await?
    };
    Ok(Page { total, items })
}

/// Runs a list without counting: for callers that want the rows only. The listing's filter is not looked at.
async fn rows<S: Sql, T>(
    sql: &mut S,
    source: &Source,
    mut conditions: Conditions,
    listing: &Listing,
    read: impl Fn(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    let order = match &listing.order {
        None => format!(" ORDER BY {}", source.order),
        Some(keys) => conditions.order_by(listing.fields, keys, source.unique),
    };
    let limit = conditions.param(listing.limit.into());
    let offset = conditions.param(listing.offset.into());
    let text = format!(
        "SELECT {} FROM {}{}{order} LIMIT CAST(${limit} AS BIGINT) OFFSET CAST(${offset} AS BIGINT)",
        source.columns, source.from, conditions.sql
    );
    sql.fetch_all(Stmt::assembled(text).bind_all(conditions.args)).await?.iter().map(read).collect()
}

/// Every row that meets the conditions, in the list's own order.
pub(crate) async fn select<S: Sql, T>(
    sql: &mut S,
    source: &Source,
    conditions: Conditions,
    limit: i64,
    read: impl Fn(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    rows(sql, source, conditions, &Listing::first(&[], limit), read).await
}

fn real(expr: &str) -> String {
    format!("CAST({expr} AS DOUBLE PRECISION)")
}

fn as_real(kind: Kind, value: &Literal) -> Value {
    match value {
        Literal::Int(number) => Value::Real(Some(*number as f64)),
        other => bound(kind, other),
    }
}

fn bound(kind: Kind, value: &Literal) -> Value {
    match (kind, value) {
        (Kind::Enum(words), Literal::Word(position)) => Value::Text(words.get(*position).map(|w| w.1.to_owned())),
        (_, Literal::Word(position)) => Value::Int(i64::try_from(*position).ok()),
        (_, Literal::Text(text)) => text.into(),
        (_, Literal::Int(number)) => (*number).into(),
        (_, Literal::Real(number)) => (*number).into(),
        (_, Literal::Bool(value)) => (*value).into(),
    }
}

/// The position of a word in its vocabulary; the words are ours, never a client's.
fn rank(expr: &str, words: &[(&str, &str)]) -> String {
    let mut sql = format!("CASE {expr}");
    for (position, (_, stored)) in words.iter().enumerate() {
        let _ = write!(sql, " WHEN '{stored}' THEN {position}");
    }
    sql.push_str(" END");
    sql
}

/// A pattern whose last character is not a lone backslash, which PostgreSQL refuses.
fn closed(pattern: &str) -> String {
    let slashes = pattern.len() - pattern.trim_end_matches('\\').len();
    if slashes % 2 == 1 { format!("{pattern}\\") } else { pattern.to_owned() }
}

/// The same pattern in GLOB's words.
fn glob(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let literal = |out: &mut String, c: char| match c {
        '*' | '?' | '[' => out.extend(['[', c, ']']),
        _ => out.push(c),
    };
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => out.push('*'),
            '_' => out.push('?'),
            '\\' => literal(&mut out, chars.next().unwrap_or('\\')),
            other => literal(&mut out, other),
        }
    }
    out
}
