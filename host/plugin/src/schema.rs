//! The JSON Schema of a configuration: written by a stranger, compiled and applied with the host's rights, so its cost is
//! bounded before anything is done with it.
//!
//! A schema is harmless when what its references unfold to is small. Without that, two dozen lines that each refer twice
//! to the next stand for a million, and one that refers to itself never ends.

use std::collections::HashMap;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::ConfigProblem;
use crate::journal::presentable;

/// Bytes of a configuration or of its schema.
pub(crate) const MAX_DOCUMENT: usize = 256 << 10;

/// Values of a schema with all references unfolded.
const MAX_UNFOLDED: usize = 20_000;

/// How deep values may lie in each other with all references unfolded: they are compiled on a stack.
const MAX_DEPTH: usize = 200;

/// Regular expressions of a schema with all references unfolded; each may take [`PATTERN_BYTES`] when compiled.
const MAX_PATTERNS: usize = 64;
const PATTERN_BYTES: usize = 256 << 10;

/// How many problems are told at once.
pub(crate) const MAX_PROBLEMS: usize = 20;

/// A compiled schema.
pub(crate) struct Schema(Validator);

impl Schema {
    /// The schema in `text`; none when the text is empty, which means that there are no options.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn compile(text: &str) -> Result<Option<Schema>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        if text.len() > MAX_DOCUMENT {
            return Err("the schema of its configuration is too large".to_owned());
        }
        let schema: Value = serde_json::from_str(text)
            .map_err(|error| format!("the schema of its configuration is not JSON: {error}"))?;
        Unfolding { root: &schema, known: HashMap::new() }
            .extent(&schema, 0)
            .map_err(|error| format!("the schema of its configuration {error}"))?;
        // Nothing is fetched for references, and patterns take linear time.
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES))
            .build(&schema)
            .map(|validator| Some(Schema(validator)))
            .map_err(|error| {
                let place = match error.instance_path().to_string() {
                    place if place.is_empty() => place,
                    place => format!(" at {place}"),
                };
                presentable(&format!("the schema of its configuration is none{place}: {error}"), 500)
            })
    }

    /// What is wrong with a configuration, each with the JSON pointer of the option that it is about.
    pub(crate) fn problems(&self, config: &Value) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        for error in self.0.iter_errors(config) {
            let place = error.instance_path().to_string();
            match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected }
                | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                    problems.extend(unexpected.iter().map(|name| problem(&place, name, "there is no such option")));
                }
                ValidationErrorKind::Required { property } => {
                    problems.push(problem(&place, property.as_str().unwrap_or_default(), "is required"));
                }
                _ => problems.push(ConfigProblem {
                    pointer: presentable(&place, 500),
                    message: presentable(&error.to_string(), 500),
                }),
            }
            if problems.len() >= MAX_PROBLEMS {
                problems.truncate(MAX_PROBLEMS);
                break;
            }
        }
        problems
    }
}

fn problem(place: &str, name: &str, message: &str) -> ConfigProblem {
    let pointer = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
    ConfigProblem { pointer: presentable(&pointer, 500), message: message.to_owned() }
}

/// How much a value unfolds to.
#[derive(Clone, Copy)]
struct Extent {
    size: usize,
    depth: usize,
    patterns: usize,
}

impl Extent {
    fn hold(&mut self, part: Extent) {
        self.size = self.size.saturating_add(part.size);
        self.depth = self.depth.max(part.depth + 1);
        self.patterns = self.patterns.saturating_add(part.patterns);
    }
}

struct Unfolding<'a> {
    root: &'a Value,
    /// Extents of what references point to; none while it is being found out.
    known: HashMap<&'a str, Option<Extent>>,
}

impl<'a> Unfolding<'a> {
    fn extent(&mut self, value: &'a Value, level: usize) -> Result<Extent, String> {
        let mut extent = Extent { size: 1, depth: 0, patterns: 0 };
        match value {
            Value::Array(values) => {
                for value in values {
                    extent.hold(self.extent(value, level + 1)?);
                }
            }
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(pointer)) => extent.hold(self.target(pointer, level + 1)?),
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                            return Err(format!("uses `{key}`, which is not supported here"));
                        }
                        // References below it would mean something else than they seem to.
                        ("$id", Value::String(_)) if level > 0 => {
                            return Err("uses `$id` below its top, which is not supported here".to_owned());
                        }
                        ("pattern", Value::String(_)) => extent.patterns += 1,
                        ("patternProperties", Value::Object(patterns)) => extent.patterns += patterns.len(),
                        _ => {}
                    }
                    extent.hold(self.extent(value, level + 1)?);
                }
            }
            _ => {}
        }
        if extent.patterns > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} regular expressions"));
        }
        if extent.size > MAX_UNFOLDED {
            return Err(format!("unfolds to more than {MAX_UNFOLDED} values"));
        }
        if level + extent.depth > MAX_DEPTH {
            return Err(format!("unfolds to values more than {MAX_DEPTH} deep"));
        }
        Ok(extent)
    }

    fn target(&mut self, pointer: &'a str, level: usize) -> Result<Extent, String> {
        match self.known.get(pointer) {
            Some(Some(extent)) => return Ok(*extent),
            Some(None) => return Err(format!("refers to itself at `{}`", presentable(pointer, 80))),
            // Chains end here, before they are followed to their end.
            None if level > MAX_DEPTH => return Err(format!("unfolds to values more than {MAX_DEPTH} deep")),
            None => {}
        }
        let lost = || format!("refers to `{}`, which is not in it", presentable(pointer, 80));
        let target = pointer.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)).ok_or_else(lost)?;
        self.known.insert(pointer, None);
        let extent = self.extent(target, level)?;
        self.known.insert(pointer, Some(extent));
        Ok(extent)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Map, json};

    use super::*;

    fn fault(schema: &str) -> String {
        Schema::compile(schema).map(|_| ()).expect_err("it is faulty")
    }

    #[test]
    fn references_unfold_within_bounds() {
        let twice = r##"{"$defs": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}}}"##;
        assert_eq!(problems(&serde_json::from_str(twice).unwrap(), &json!({"a": 1})), []);
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

    fn problems(schema: &Value, config: &Value) -> Vec<(String, String)> {
        let schema = Schema::compile(&schema.to_string()).unwrap().unwrap();
        schema.problems(config).into_iter().map(|p| (p.pointer, p.message)).collect()
    }

    #[test]
    fn problems_point_at_the_option() {
        let schema = json!({
            "type": "object",
            "properties": {
                "age": {"type": "integer", "minimum": 1, "maximum": 10},
                "by": {"enum": ["cpu", "mem"]},
                "hours": {"type": "array", "items": {"$ref": "#/$defs/hour"}},
                "a/b": {"type": "object", "required": ["c~d"]},
            },
            "required": ["by"],
            "additionalProperties": false,
            "$defs": {"hour": {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"}},
        });
        assert_eq!(problems(&schema, &json!({"age": 5, "by": "cpu", "hours": ["09:00"]})), []);
        let pointers = |config: Value| problems(&schema, &config).into_iter().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(pointers(json!({"age": "5", "by": "cpu"})), ["/age"]);
        assert_eq!(pointers(json!({"age": 11, "by": "disk"})), ["/age", "/by"]);
        assert_eq!(pointers(json!({"by": "cpu", "hours": ["09:00", "9"]})), ["/hours/1"]);
        assert_eq!(pointers(json!({"by": "cpu", "a/b": {}})), ["/a~1b/c~0d"]);
        assert_eq!(problems(&schema, &json!({"age": 2})), [("/by".to_owned(), "is required".to_owned())]);
        let unknown = problems(&schema, &json!({"by": "cpu", "aeg": 2}));
        assert_eq!(unknown, [("/aeg".to_owned(), "there is no such option".to_owned())]);
    }

    #[test]
    fn floods_of_problems_are_cut() {
        let config: Map<String, Value> = (0..500).map(|n| (n.to_string(), json!(n))).collect();
        let schema = json!({"additionalProperties": {"type": "string"}});
        assert_eq!(problems(&schema, &Value::Object(config)).len(), MAX_PROBLEMS);
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        assert!(fault("{").contains("is not JSON"));
        assert!(fault(r#"{"type": "objekt"}"#).contains("is none at /type"));
        assert!(fault(r#"{"properties": {"a": {"minimum": "1"}}}"#).contains("at /properties/a/minimum"));
        assert!(fault("[]").contains("is none"));
        assert!(fault(&format!(r#"{{"title": "{}"}}"#, "x".repeat(MAX_DOCUMENT))).contains("too large"));
        // Look-around needs time that grows faster than the text.
        assert!(fault(r#"{"pattern": "^(?=a)(a+)+$"}"#).contains("is none"));
    }

    #[test]
    fn references_are_what_they_seem_to_be() {
        let inner = json!({"$id": "https://example.org/", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
        let schema = json!({"$defs": {"a": {}}, "properties": {"p": inner}});
        assert!(fault(&schema.to_string()).contains("`$id` below its top"));
        assert!(fault(r##"{"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}"##).contains("not in it"));
        // Options may bear such names.
        let schema = json!({"properties": {"$ref": {"type": "string"}, "$id": {"type": "integer"}}});
        assert_eq!(problems(&schema, &json!({"$ref": "x", "$id": "y"})).len(), 1);
    }

    #[test]
    fn chains_of_references_are_bounded() {
        for order in [0..2000, 0..100] {
            let last = order.end;
            let mut chain: Map<String, Value> =
                order.map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}))).collect();
            chain.insert(format!("d{last}"), json!({"type": "integer"}));
            let backwards: Map<String, Value> = chain.iter().rev().map(|(k, v)| (k.clone(), v.clone())).collect();
            for defs in [chain, backwards] {
                let schema = json!({"$defs": defs, "properties": {"a": {"$ref": "#/$defs/d0"}}});
                if last > MAX_DEPTH {
                    assert!(fault(&schema.to_string()).contains("deep"));
                } else {
                    assert_eq!(problems(&schema, &json!({"a": "x"})).len(), 1);
                }
            }
        }
    }
}
