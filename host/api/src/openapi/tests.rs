#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::rest;

fn written() -> Value {
    serde_json::to_value(document(&rest::routes())).unwrap()
}

#[test]
fn every_route_of_our_own_tells_about_itself_and_no_other() {
    let wrong: Vec<String> = rest::routes()
        .iter()
        .filter(|route| is_own(route.path) != route.about.is_some())
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert!(wrong.is_empty(), "see the head of openapi/mod.rs: {wrong:?}");
}

#[test]
fn the_document_has_each_route_once_and_is_whole() {
    let document = written();
    let mut ids = BTreeSet::new();
    let mut references = Vec::new();
    for route in rest::routes().iter().filter(|route| route.about.is_some()) {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{} {}", route.method, route.path);
        assert!(operation["responses"].as_object().is_some_and(|r| r.keys().any(|status| status.starts_with('2'))));
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        let places = route.path.matches('{').count();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        assert_eq!(parameters.iter().filter(|p| p["in"] == "path").count(), places, "{}", route.path);
    }
    find_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads away"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn find_references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| find_references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| find_references(value, out)),
        _ => {}
    }
}
