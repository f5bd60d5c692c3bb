//! The image registries that the configuration tree names (`spec/config.md` §1.2).

use std::collections::BTreeMap;

use quarterdeck_outgoing::registry::{Kind, Registry};
use quarterdeck_outgoing::{Certificates, Url};
use serde_json::{Map, Value as Json};

use crate::Control;
use crate::config::is_true;
use crate::error::{Error, Result};

/// Below it, a registry's name holds its address, and its children how to talk to it.
const KEY: &str = "config/docker/registry";
/// Registries at such hosts are Docker Hub.
const HUB: &str = ".docker.io";

/// The registries by name; what is wrong with the configuration of one is an error in its place.
pub async fn all(control: &Control) -> BTreeMap<String, Result<Registry>> {
    let Json::Object(entries) = control.config_tree().prefix(KEY).await else { return BTreeMap::new() };
    entries
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, entry)| {
            let registry = read(&name, entry);
            (name, registry)
        })
        .collect()
}

fn read(name: &str, entry: Json) -> Result<Registry> {
    let entry = match entry {
        Json::Object(entry) => entry,
        url => Map::from_iter([(String::new(), url)]),
    };
    let text = |key: &str| entry.get(key).and_then(Json::as_str).map(str::trim).filter(|text| !text.is_empty());
    let wrong = |key: &str, what: &str| Error::invalid(format!("{KEY}/{name}{key}: {what}"));
    let url = text("").ok_or_else(|| wrong("", "the registry has no URL"))?;
    let url: Url = url.parse().map_err(|_| wrong("", "this is no URL"))?;
    let kind = match text("type").unwrap_or("docker") {
        _ if url.host_str().is_some_and(|host| host.ends_with(HUB)) => Kind::Hub,
        "docker" => Kind::Docker,
        "harbor" => Kind::Harbor,
        "harbor2" => Kind::Harbor2,
        "local" => return Err(wrong("/type", "hosts have no container engine of their own to scan")),
        _ => return Err(wrong("/type", "must be docker, harbor, harbor2 or local")),
    };
    let projects = text("project").unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty());
    Ok(Registry {
        url,
        kind,
        username: text("username").map(str::to_owned),
        // Not trimmed: blanks may belong to it.
        password: entry.get("password").and_then(Json::as_str).map(str::to_owned),
        projects: projects.map(str::to_owned).collect(),
        certificates: if text("ssl-verify").is_none_or(is_true) {
            Certificates::Checked
        } else {
            Certificates::Unchecked
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn registries_are_read() {
        let plain = read("cr", json!("http://127.0.0.1:5000")).unwrap();
        assert_eq!(
            (plain.url.as_str(), plain.kind, plain.certificates),
            ("http://127.0.0.1:5000/", Kind::Docker, Certificates::Checked)
        );
        let full = read(
            "cr",
            json!({"": "https://h/x", "type": "harbor2", "username": "u", "password": " p ", "project": "a, b,", "ssl-verify": "no"}),
        )
        .unwrap();
        assert_eq!(full.kind, Kind::Harbor2);
        assert_eq!((full.username.as_deref(), full.password.as_deref()), (Some("u"), Some(" p ")));
        assert_eq!(full.projects, ["a", "b"]);
        assert_eq!(full.certificates, Certificates::Unchecked);
        assert_eq!(read("hub", json!("https://registry-1.docker.io")).unwrap().kind, Kind::Hub);
        for (bad, told) in [
            (json!({"username": "u"}), "config/docker/registry/cr: the registry has no URL"),
            (json!("::"), "config/docker/registry/cr: this is no URL"),
            (json!({"": "http://h", "type": "x"}), "config/docker/registry/cr/type: must be"),
        ] {
            let error = read("cr", bad).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
