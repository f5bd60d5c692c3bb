//! What an image says about itself, when a registry is scanned (`spec/config.md` §1.6).

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use super::{LABEL_ROLE, LABEL_RUNTIME_TYPE, LABEL_SERVICE_PORTS, service_ports};

/// Label: the accelerators it can use.
pub const LABEL_ACCELERATORS: &str = "ai.backend.accelerators";
/// Labels: the least of a slot that it needs; the slot's name follows.
const LABEL_LEAST: &str = "ai.backend.resource.min.";
/// Label: the version of these rules. There is one.
const LABEL_SPEC: &str = "ai.backend.kernelspec";
/// Labels that every image has.
const REQUIRED: &[&str] =
    &["ai.backend.features", "ai.backend.base-distro", LABEL_RUNTIME_TYPE, "ai.backend.runtime-path"];
/// Labels that images which serve models have.
const REQUIRED_FOR_INFERENCE: &[&str] = &["ai.backend.model-path", "ai.backend.model-format"];
/// Label: the ports that models are served on, by the names of their services.
const LABEL_ENDPOINT_PORTS: &str = "ai.backend.endpoint-ports";

/// Checks that an image is one that sessions can start from.
///
/// # Errors
/// Why it isn't.
pub fn check(labels: &IndexMap<String, String>) -> Result<(), String> {
    let required = |name: &str| labels.get(name).ok_or_else(|| format!("the label {name} is missing"));
    let spec = required(LABEL_SPEC)?;
    if spec.trim() != "1" {
        return Err(format!("the label {LABEL_SPEC} must be 1, not '{spec}'"));
    }
    for name in REQUIRED {
        required(name)?;
    }
    let ports = service_ports(labels.get(LABEL_SERVICE_PORTS).map_or("", String::as_str))?;
    match labels.get(LABEL_ROLE).map_or("COMPUTE", String::as_str) {
        "COMPUTE" | "SYSTEM" => {}
        "INFERENCE" => {
            for name in items(required(LABEL_ENDPOINT_PORTS)?) {
                if !ports.iter().any(|port| port.name == name && port.protocol == "preopen") {
                    return Err(format!("the endpoint port '{name}' is no preopen service port"));
                }
            }
            for name in REQUIRED_FOR_INFERENCE {
                required(name)?;
            }
        }
        other => return Err(format!("the label {LABEL_ROLE} must be COMPUTE, INFERENCE or SYSTEM, not '{other}'")),
    }
    Ok(())
}

/// The items of a comma list.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// What a session of the image takes at least: one core and a gibibyte, unless its labels say otherwise.
pub fn resources(labels: &IndexMap<String, String>) -> Json {
    let mut slots = Map::new();
    slots.insert("cpu".to_owned(), json!({"min": "1", "max": null}));
    slots.insert("mem".to_owned(), json!({"min": "1g", "max": null}));
    for (name, least) in labels {
        if let Some(slot) = name.strip_prefix(LABEL_LEAST).filter(|slot| !slot.is_empty()) {
            slots.insert(slot.to_owned(), json!({"min": least, "max": null}));
        }
    }
    Json::Object(slots)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(more: &[(&str, &str)]) -> IndexMap<String, String> {
        let base = [
            ("ai.backend.kernelspec", "1"),
            ("ai.backend.features", "batch query"),
            ("ai.backend.base-distro", "ubuntu20.04"),
            ("ai.backend.runtime-type", "python"),
            ("ai.backend.runtime-path", "/usr/bin/python"),
        ];
        base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn images_must_say_what_they_are() {
        assert_eq!(check(&labels(&[])), Ok(()));
        assert_eq!(check(&labels(&[("ai.backend.role", "SYSTEM")])), Ok(()));
        for name in labels(&[]).keys() {
            let mut less = labels(&[]);
            less.shift_remove(name);
            assert_eq!(check(&less), Err(format!("the label {name} is missing")));
        }
        assert!(check(&labels(&[("ai.backend.kernelspec", "2")])).is_err());
        assert!(check(&labels(&[("ai.backend.role", "OTHER")])).is_err());
        assert!(check(&labels(&[("ai.backend.service-ports", "x:ftp:1")])).is_err());
    }

    #[test]
    fn models_are_served_on_declared_ports() {
        let serving = |ports: &str, endpoints: &str| {
            check(&labels(&[
                ("ai.backend.role", "INFERENCE"),
                ("ai.backend.service-ports", ports),
                ("ai.backend.endpoint-ports", endpoints),
                ("ai.backend.model-path", "/models"),
                ("ai.backend.model-format", "onnx"),
            ]))
        };
        assert_eq!(serving("a:preopen:8000,b:http:8001", "a"), Ok(()));
        assert!(serving("a:preopen:8000,b:http:8001", "a,b").is_err());
        assert!(serving("", "a").is_err());
        assert!(check(&labels(&[("ai.backend.role", "INFERENCE")])).is_err());
    }

    #[test]
    fn needs_have_defaults() {
        assert_eq!(
            resources(&labels(&[
                ("ai.backend.resource.min.mem", "64m"),
                ("ai.backend.resource.min.cuda.shares", "0.1")
            ])),
            json!({
                "cpu": {"min": "1", "max": null}, "mem": {"min": "64m", "max": null},
                "cuda.shares": {"min": "0.1", "max": null},
            })
        );
    }
}
