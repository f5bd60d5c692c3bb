//! Tables for people.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

/// Prints rows under headings, without lines: readable, and easy to cut with `awk`.
pub(crate) fn print(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if headings.iter().any(|heading| !heading.is_empty()) {
        table.set_header(headings);
    }
    for row in rows {
        table.add_row(row);
    }
    let mut out = std::io::stdout().lock();
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints some members of objects as a table: headings, and the members they stand for.
pub(crate) fn records(columns: &[(&str, &str)], objects: &[serde_json::Value]) -> std::io::Result<()> {
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    print(&headings, objects.iter().map(|o| columns.iter().map(|(_, member)| cell(&o[*member])).collect()))
}

/// Prints an object whole, a member a line.
pub(crate) fn record(object: &serde_json::Value) -> std::io::Result<()> {
    let members = object.as_object().into_iter().flatten();
    print(&["", ""], members.map(|(name, value)| vec![name.replace('_', " "), cell(value)]))
}

/// A value, for people.
fn cell(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(map) if map.is_empty() => "-".to_owned(),
        // Nested ones are best known as what they are.
        Value::Object(map) if map.values().any(|v| v.is_object() || v.is_array()) => value.to_string(),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={}", cell(v))).collect::<Vec<_>>().join(","),
    }
}

/// Prints lines.
pub(crate) fn text(lines: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Prints a JSON document.
pub(crate) fn json(document: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)
}
