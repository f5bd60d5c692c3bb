//! The JSON Schema of the server's file, made of the example and the rules: what is documented is what is described.

use serde_json::{Map, Value as Json, json};

use super::EXAMPLE;
use super::check::{RULES, Rule};

/// A key of the example.
struct Entry {
    name: String,
    /// As TOML.
    value: String,
    /// The value is the default, and not only an example.
    is_default: bool,
    /// A table that holds texts alone.
    holds_texts: bool,
    about: String,
}

/// The keys of an example in its order: `key = value` and `[table]`, in force or behind a `#`.
fn entries(example: &str) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    let mut about: Vec<&str> = Vec::new();
    let mut in_table = false;
    for line in example.lines() {
        let (text, is_default) = match line.strip_prefix("# ").or_else(|| line.strip_prefix('#')) {
            Some(text) => (text.trim_end(), false),
            None => (line.trim_end(), true),
        };
        if line.is_empty() {
            about.clear();
            in_table = false;
        } else if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            in_table = true;
            if name.contains('.') {
                // A table within the one before it.
                out.iter_mut().last().into_iter().for_each(|table| table.holds_texts = false);
                continue;
            }
            let (name, value) = (name.to_owned(), "{}".to_owned());
            out.push(Entry { name, value, is_default: false, holds_texts: true, about: prose(&about) });
        } else if let Some((name, value)) = text.split_once(" = ").filter(|(name, _)| is_key(name)) {
            if !in_table {
                let (name, value) = (name.to_owned(), value.to_owned());
                out.push(Entry { name, value, is_default, holds_texts: false, about: prose(&about) });
            } else if let Some(table) = out.last_mut().filter(|_| !value.starts_with('"')) {
                table.holds_texts = false;
            }
        } else {
            about.push(text);
        }
    }
    out
}

fn is_key(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Comment lines as one text.
fn prose(lines: &[&str]) -> String {
    lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names of an example's keys.
pub(super) fn keys(example: &str) -> Vec<String> {
    entries(example).into_iter().map(|entry| entry.name).collect()
}

/// The schema.
pub(crate) fn document() -> Json {
    let mut properties = Map::new();
    for entry in entries(EXAMPLE) {
        let Some(mut property) = described(&entry) else { continue };
        match RULES.iter().find(|(name, _)| *name == entry.name) {
            Some((_, Rule::Range(least, most))) => {
                let number = |n: f64| if n.fract() == 0.0 { json!(n as i64) } else { json!(n) };
                property.insert("minimum".to_owned(), number(*least));
                property.insert("maximum".to_owned(), number(*most));
            }
            Some((_, Rule::Words(words))) => {
                property.insert("enum".to_owned(), json!(words));
            }
            Some((_, Rule::Text)) => {
                property.insert("minLength".to_owned(), json!(1));
            }
            Some((_, Rule::Networks)) | None => {}
        }
        properties.insert(entry.name, Json::Object(property));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Quarterdeck server configuration",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// A key's type, text and default.
fn described(entry: &Entry) -> Option<Map<String, Json>> {
    let table: toml::Table = toml::from_str(&format!("value = {}", entry.value)).ok()?;
    let value = serde_json::to_value(table.get("value")?).ok()?;
    let kind = match &value {
        Json::String(_) => "string",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Json::Number(_) => "number",
        Json::Array(_) => "array",
        Json::Object(_) | Json::Null => "object",
    };
    let mut out = Map::new();
    out.insert("description".to_owned(), Json::from(entry.about.as_str()));
    out.insert("type".to_owned(), Json::from(kind));
    match kind {
        "array" => drop(out.insert("items".to_owned(), json!({"type": "string"}))),
        "object" if entry.holds_texts => drop(out.insert("additionalProperties".to_owned(), json!({"type": "string"}))),
        _ => {}
    }
    if entry.is_default {
        out.insert("default".to_owned(), value);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The file's keys as the program knows them: what it says when it meets another one.
    fn fields() -> Vec<String> {
        let error = toml::from_str::<super::super::FileSettings>("unheard_of = 1").unwrap_err();
        let list = error.message().split("expected one of ").nth(1).unwrap().to_owned();
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_key_is_documented_and_described() {
        let schema = document();
        let properties = schema["properties"].as_object().unwrap();
        let (mut described, mut known): (Vec<_>, Vec<_>) = (properties.keys().cloned().collect(), fields());
        described.sort();
        known.sort();
        assert_eq!(described, known);
        for (name, property) in properties {
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{name}: {property}");
        }
        assert_eq!(properties["listen"]["default"], "127.0.0.1:8081");
        assert_eq!(properties["idle_interval_seconds"]["minimum"], 0.1);
        assert_eq!(properties["recorded_rounds"]["type"], "integer");
        assert_eq!(properties["plugin_trusted_keys"]["additionalProperties"]["type"], "string");
        assert_eq!(properties["node_id"].get("default"), None);
    }
}
