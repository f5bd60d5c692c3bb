//! The JSON Schema of a configuration: written by a stranger, compiled and applied with the host's rights, so its cost is
//! bounded before anything is done with it.
//!
//! A schema is harmless when what its references unfold to is small. Without that, two dozen lines that each refer twice
//! to the next stand for a million, and one that refers to itself never ends.

use std::collections::HashMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::journal::presentable;

/// Bytes of a configuration or of its schema.
pub(crate) const MAX_DOCUMENT: usize = 256 << 10;

/// Values of a schema with all references unfolded.
const MAX_UNFOLDED: usize = 20_000;

/// Regular expressions of a schema; each may take [`PATTERN_BYTES`] when compiled.
const MAX_PATTERNS: usize = 64;
const PATTERN_BYTES: usize = 256 << 10;

/// The schema in `text`; none when the text is empty, which means that there are no options.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn compile(text: &str) -> Result<Option<Validator>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > MAX_DOCUMENT {
        return Err("the schema of its configuration is too large".to_owned());
    }
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("the schema of its configuration is not JSON: {error}"))?;
    Unfolding { root: &schema, known: HashMap::new(), patterns: 0 }
        .size(&schema)
        .map_err(|error| format!("the schema of its configuration {error}"))?;
    // Nothing is fetched for references, and patterns take linear time.
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES))
        .build(&schema)
        .map(Some)
        .map_err(|error| presentable(&format!("the schema of its configuration is none: {error}"), 500))
}

struct Unfolding<'a> {
    root: &'a Value,
    /// Sizes of what references point to; none while it is being found out.
    known: HashMap<&'a str, Option<usize>>,
    patterns: usize,
}

impl<'a> Unfolding<'a> {
    fn size(&mut self, value: &'a Value) -> Result<usize, String> {
        let mut size = 1_usize;
        match value {
            Value::Array(values) => {
                for value in values {
                    size = size.saturating_add(self.size(value)?);
                }
            }
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(pointer)) => size = size.saturating_add(self.target(pointer)?),
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                            return Err(format!("uses `{key}`, which is not supported here"));
                        }
                        ("pattern", Value::String(_)) => self.patterns += 1,
                        ("patternProperties", Value::Object(patterns)) => self.patterns += patterns.len(),
                        _ => {}
                    }
                    size = size.saturating_add(self.size(value)?);
                }
            }
            _ => {}
        }
        if self.patterns > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} regular expressions"));
        }
        if size > MAX_UNFOLDED {
            return Err(format!("unfolds to more than {MAX_UNFOLDED} values"));
        }
        Ok(size)
    }

    fn target(&mut self, pointer: &'a str) -> Result<usize, String> {
        match self.known.get(pointer) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(format!("refers to itself at `{}`", presentable(pointer, 80))),
            None => {}
        }
        let lost = || format!("refers to `{}`, which is not in it", presentable(pointer, 80));
        let target = pointer.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)).ok_or_else(lost)?;
        self.known.insert(pointer, None);
        let size = self.size(target)?;
        self.known.insert(pointer, Some(size));
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(schema: &str) -> String {
        compile(schema).map(|_| ()).expect_err("it is faulty")
    }

    #[test]
    fn references_unfold_within_bounds() {
        let twice = r##"{"$defs": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}}}"##;
        assert!(compile(twice).expect("a schema").expect("not empty").is_valid(&serde_json::json!({"a": 1})));
        let doubling: Vec<String> = (0..60)
            .map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##, n + 1))
            .collect();
        let doubling = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d60":{{}}}}}}"##, doubling.join(","));
        assert!(fault(&doubling).contains("unfolds to more than"), "{}", fault(&doubling));
        assert!(fault(r##"{"$ref": "#"}"##).contains("refers to itself"));
        assert!(fault(r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}"##).contains("itself"));
        assert!(fault(r#"{"$ref": "https://example.com/schema"}"#).contains("not in it"));
        assert!(fault(r##"{"$dynamicRef": "#x"}"##).contains("not supported"));
    }

    #[test]
    fn regular_expressions_are_bounded() {
        let many = vec![r#"{"pattern": "a"}"#; 65].join(",");
        assert!(fault(&format!(r#"{{"allOf": [{many}]}}"#)).contains("regular expressions"));
        assert!(fault(r#"{"pattern": "(\\w{1000}){1000}"}"#).len() <= 500);
    }
}
