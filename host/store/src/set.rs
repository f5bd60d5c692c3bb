//! Many rows in one statement: a JSON array as parameter, seen as a table.

use crate::sql::Dialect;

/// The SQL of a row source named `x` that expands the JSON array in parameter `param`.
/// `columns` are names and PostgreSQL types (`text`, `bigint`, `boolean`, `double precision`).
pub(crate) fn rows(dialect: Dialect, param: &str, columns: &[(&str, &str)]) -> String {
    match dialect {
        Dialect::Sqlite => {
            let list: Vec<_> =
                columns.iter().map(|(name, _)| format!("json_extract(value, '$.{name}') AS \"{name}\"")).collect();
            // In the binary form: as text, each element would be written out, and read again for each of its columns.
            format!("(SELECT {} FROM jsonb_each({param})) AS x", list.join(", "))
        }
        Dialect::Postgres => {
            let list: Vec<_> = columns.iter().map(|(name, ty)| format!("\"{name}\" {ty}")).collect();
            // As text: it is read once, from its beginning to its end, which the binary form only makes longer.
            format!("json_to_recordset(CAST({param} AS json)) AS x({})", list.join(", "))
        }
    }
}

/// The SQL of a sub-select that yields the texts of the JSON array in parameter `param`, for `IN` and `NOT IN` where they
/// stand beside other conditions; [`among`] serves better where rows are looked up by them.
pub(crate) fn texts(dialect: Dialect, param: &str) -> String {
    match dialect {
        Dialect::Sqlite => format!("(SELECT value FROM json_each({param}))"),
        Dialect::Postgres => format!("(SELECT json_array_elements_text(CAST({param} AS json)))"),
    }
}

/// The SQL that says, behind an expression, that it is among the texts of the JSON array in parameter `param`.
pub(crate) fn among(dialect: Dialect, param: &str) -> String {
    let texts = texts(dialect, param);
    match dialect {
        Dialect::Sqlite => format!("IN {texts}"),
        // As an array: of a sub-select PostgreSQL expects a hundred rows, and as long as it doesn't know a new table's size
        // it would rather read all of it than look that many up.
        Dialect::Postgres => format!("= ANY (ARRAY{texts})"),
    }
}

/// Fills in `IN {list}` and `NOT IN {list}`, and `{list}` elsewhere as a sub-select, with the JSON array in parameter `$1`.
pub(crate) fn with_list(sql: &str, dialect: Dialect) -> String {
    let texts = texts(dialect, "$1");
    sql.replace("NOT IN {list}", &format!("NOT IN {texts}"))
        .replace("IN {list}", &among(dialect, "$1"))
        .replace("{list}", &texts)
}

/// The JSON array of these values' texts.
pub(crate) fn array<T: std::fmt::Display>(values: impl IntoIterator<Item = T>) -> serde_json::Value {
    serde_json::Value::Array(values.into_iter().map(|v| serde_json::Value::String(v.to_string())).collect())
}

/// Text that both databases and JSON take: without NUL, which PostgreSQL refuses.
pub(crate) fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// As [`clean`], for the text of a JSON document, where NUL hides behind an escape.
pub(crate) fn clean_json(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains("\\u0000") { text.replace("\\u0000", "\\ufffd").into() } else { text.into() }
}
