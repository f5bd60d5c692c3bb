//! The image registries that the configuration tree names (`spec/config.md` §1.2).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use quarterdeck_outgoing::registry::{Kind, Registry};
use quarterdeck_outgoing::{Certificates, Url};
use serde_json::{Map, Value as Json, json};

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

/// What an agent's engine shows to a registry when it fetches an image. It goes to that agent and nowhere else: no row
/// has it, and no log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    url: String,
    username: String,
    password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Login {
    /// What the agent reads: the member `registry` of a kernel's internal data.
    pub(crate) fn document(&self) -> Json {
        json!({"url": self.url, "username": self.username, "password": self.password})
    }
}

/// Those of the registries that want to know who asks, by their names. What is wrong with the configuration of one is told
/// by its scans; its images are fetched as by a stranger.
pub(crate) async fn logins(control: &Control) -> HashMap<String, Login> {
    let login = |(name, registry): (String, Result<Registry>)| {
        let Registry { url, username, password, .. } = registry.ok()?;
        Some((name, Login { url: url.into(), username: username?, password: password.unwrap_or_default() }))
    };
    all(control).await.into_iter().filter_map(login).collect()
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
        "hub" => Kind::Hub,
        "local" => return Err(wrong("/type", "hosts have no container engine of their own to scan")),
        _ => return Err(wrong("/type", "must be docker, harbor, harbor2, hub or local")),
    };
    let hub = text("hub").map(|url| url.parse().map_err(|_| wrong("/hub", "this is no URL"))).transpose()?;
    let projects = text("project").unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty());
    Ok(Registry {
        url,
        kind,
        hub,
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
    fn logins_are_for_agents_alone() {
        let login = Login { url: "https://cr/".into(), username: "somebody".into(), password: "pssst".into() };
        assert_eq!(format!("{login:?}"), r#"Login { url: "https://cr/", .. }"#);
        let told = json!({"url": "https://cr/", "username": "somebody", "password": "pssst"});
        assert_eq!(login.document(), told);
    }

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
        let mirror = read("hub", json!({"": "https://h", "type": "hub", "hub": "https://listing/x"})).unwrap();
        assert_eq!((mirror.kind, mirror.hub.unwrap().as_str()), (Kind::Hub, "https://listing/x"));
        for (bad, told) in [
            (json!({"username": "u"}), "config/docker/registry/cr: the registry has no URL"),
            (json!("::"), "config/docker/registry/cr: this is no URL"),
            (json!({"": "http://h", "hub": "x"}), "config/docker/registry/cr/hub: this is no URL"),
            (json!({"": "http://h", "type": "x"}), "config/docker/registry/cr/type: must be"),
        ] {
            let error = read("cr", bad).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
