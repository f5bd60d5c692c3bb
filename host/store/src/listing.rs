//! The filter and order mini-languages of paginated lists.
//!
//! Text from a client is parsed into typed conditions over a [`Field`] table and only then written as
//! SQL: column expressions come from the table, every value of the client is a bound parameter, so
//! nothing that a client writes can become part of a statement.

mod parse;
mod sql;
#[cfg(test)]
mod tests;

pub use sql::Conditions;
pub(crate) use sql::{Source, page, select};

/// What a column holds, which decides what it can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text (also JSON documents, which compare as their text).
    Text,
    /// Whole numbers.
    Int,
    /// Truth values.
    Bool,
    /// Text holding a UUID in its canonical form.
    Uuid,
    /// Microseconds since the Unix epoch, written as a date by clients.
    Date,
    /// One of a few words: what clients write, what is stored; in the order by which they sort.
    Enum(&'static [(&'static str, &'static str)]),
}

/// One field that clients may name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name clients use.
    pub name: &'static str,
    /// The SQL expression behind it.
    pub expr: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether filters may name it.
    pub filter: bool,
    /// Whether orders may name it.
    pub order: bool,
}

/// A field for filters and orders.
pub const fn field(name: &'static str, expr: &'static str, kind: Kind) -> Field {
    Field { name, expr, kind, filter: true, order: true }
}

/// A field for filters only.
pub const fn filter_only(name: &'static str, expr: &'static str, kind: Kind) -> Field {
    Field { name, expr, kind, filter: true, order: false }
}

/// A field for orders only.
pub const fn order_only(name: &'static str, expr: &'static str, kind: Kind) -> Field {
    Field { name, expr, kind, filter: false, order: true }
}

/// What is wrong with a client's listing arguments; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The filter.
    #[error("Query filter parsing error: {0}")]
    Filter(String),
    /// The order.
    #[error("Query ordering parsing error: {0}")]
    Order(String),
    /// The page size.
    #[error("LIMIT must not be negative")]
    NegativeLimit,
    /// The page's start.
    #[error("OFFSET must not be negative")]
    NegativeOffset,
}

/// How a client compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

/// A value, already of its column's type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Text(String),
    Int(i64),
    Real(f64),
    Bool(bool),
    /// Position in the column's [`Kind::Enum`] words.
    Word(usize),
}

/// A condition whose fields exist and whose values fit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Compare { field: usize, how: Compare, value: Literal },
    In { field: usize, values: Vec<Literal> },
    IsNull { field: usize, negated: bool },
    Like { field: usize, pattern: String, fold_case: bool },
}

/// One key to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortKey {
    pub(crate) field: usize,
    pub(crate) descending: bool,
}

/// Which rows of a list a client wants, in which order: checked and ready to be run.
#[derive(Clone, Debug)]
pub struct Listing {
    pub(crate) fields: &'static [Field],
    pub(crate) filter: Option<Condition>,
    /// `None`: the list's own order; empty: none at all.
    pub(crate) order: Option<Vec<SortKey>>,
    pub(crate) limit: i64,
    pub(crate) offset: i64,
}

impl Listing {
    /// Parses a client's arguments against the fields of a list.
    ///
    /// # Errors
    /// [`Error`], whose text names what is wrong.
    pub fn parse(
        fields: &'static [Field],
        filter: Option<&str>,
        order: Option<&str>,
        limit: i64,
        offset: i64,
    ) -> Result<Self, Error> {
        if limit < 0 {
            return Err(Error::NegativeLimit);
        }
        if offset < 0 {
            return Err(Error::NegativeOffset);
        }
        Ok(Self {
            fields,
            filter: filter.map(|text| parse::filter(text, fields)).transpose().map_err(Error::Filter)?,
            order: order.map(|text| parse::order(text, fields)).transpose().map_err(Error::Order)?,
            limit,
            offset,
        })
    }

    /// The first `limit` rows in the list's own order.
    pub fn first(fields: &'static [Field], limit: i64) -> Self {
        Self { fields, filter: None, order: None, limit: limit.max(0), offset: 0 }
    }

    /// Every row in the list's own order.
    pub fn all(fields: &'static [Field]) -> Self {
        Self::first(fields, i64::MAX)
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// Rows that match, on whatever page.
    pub total: i64,
    /// The rows of this page.
    pub items: Vec<T>,
}
