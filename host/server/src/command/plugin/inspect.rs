//! `quarterdeck plugin inspect FILE.wasm`: everything about a component, without a server.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::author::Candidate;
use super::show_bytes;
use crate::table;

/// Whether an argument of `plugin inspect` names a file and not a plugin of the server.
pub(super) fn is_file(name: &str) -> bool {
    name.ends_with(".wasm")
}

pub(super) async fn run(path: &Path, as_json: bool) -> anyhow::Result<()> {
    let wasm = std::fs::read(path).with_context(|| path.display().to_string())?;
    let plugin = Candidate { file: path.to_owned(), scenarios: None }.load().await?;
    let producers = quarterdeck_plugin::producers(&wasm);
    let (info, outline) = (&plugin.info, &plugin.outline);
    let schema: Json = serde_json::from_str(&info.config_schema).unwrap_or(Json::Null);
    let columns: Vec<String> = info.columns.iter().map(|c| format!("{}.{}", c.table, c.name)).collect();
    if as_json {
        return Ok(table::json(&json!({
            "name": info.name, "version": info.version, "summary": info.summary, "kind": plugin.kind,
            "contract": outline.contract, "digest": plugin.digest, "size_bytes": plugin.size,
            "imports": outline.imports, "exports": outline.exports, "columns": columns, "events": info.events,
            "config_schema": schema, "producers": producers,
        }))?);
    }
    let made: Vec<String> =
        producers.iter().map(|(field, name, version)| format!("{field} {name} {version}").trim().to_owned()).collect();
    let rows = [
        ("plugin", format!("{}@{}", info.name, info.version)),
        ("world", plugin.kind.to_string()),
        ("contract", format!("quarterdeck:policy@{}", outline.contract)),
        ("summary", info.summary.clone()),
        ("digest", plugin.digest.clone()),
        ("size", show_bytes(plugin.size)),
        ("made with", made.join(", ")),
        ("columns", columns.join(", ")),
        ("events", info.events.join(", ")),
        ("imports", outline.imports.join(" ")),
        ("exports", outline.exports.join(" ")),
    ];
    let shown = rows.into_iter().filter(|(_, value)| !value.is_empty());
    table::print(&["", ""], shown.map(|(key, value)| vec![key.to_owned(), value]))?;
    if let Some(options) = schema.get("properties").and_then(Json::as_object) {
        let of = |option: &Json, key: &str| match &option[key] {
            Json::Null => String::new(),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        table::print(
            &["OPTION", "TYPE", "DEFAULT", "DESCRIPTION"],
            options.iter().map(|(name, option)| {
                let kind = if option["enum"].is_array() { of(option, "enum") } else { of(option, "type") };
                vec![name.clone(), kind, of(option, "default"), of(option, "description")]
            }),
        )?;
    }
    Ok(())
}
