//! Image references, labels and service ports (`spec/session.md` §3.5, §3.8).

use indexmap::IndexMap;

pub mod labels;

use crate::status::KernelRole;

/// Label: the image's role.
pub const LABEL_ROLE: &str = "ai.backend.role";
/// Label: the kind of interpreter it needs.
pub const LABEL_RUNTIME_TYPE: &str = "ai.backend.runtime-type";
/// Label: shared memory it likes to have.
pub const LABEL_SHMEM: &str = "ai.backend.resource.preferred.shmem";
/// Label: `name:protocol:port` of its services.
pub const LABEL_SERVICE_PORTS: &str = "ai.backend.service-ports";

const DEFAULT_REGISTRY: &str = "index.docker.io";
const DEFAULT_NAMESPACE: &str = "lablup";

/// An image reference in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Where it comes from, e.g. `cr.example.org`.
    pub registry: String,
    /// Its path there, e.g. `stable/python`.
    pub name: String,
    /// Its tag, e.g. `3.9-ubuntu20.04`.
    pub tag: String,
}

/// A text that is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid image reference '{reference}': {problem}")]
pub struct ImageRefError {
    /// The text.
    pub reference: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ImageRef {
    /// Reads `[registry/]name[:tag]`. Without a slash the registry is Docker Hub's and the name gets the
    /// reference's namespace; with one the first part is the registry. Without a tag it is `latest`.
    ///
    /// # Errors
    /// [`ImageRefError`].
    pub fn parse(text: &str) -> Result<Self, ImageRefError> {
        let error = |problem| ImageRefError { reference: text.to_owned(), problem };
        if text.contains("://") || text.starts_with("//") {
            return Err(error("it must not have a scheme"));
        }
        if text.len() > 512 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(error("it is too long or has blanks"));
        }
        let (registry, path) = match text.split_once('/') {
            None => (DEFAULT_REGISTRY.to_owned(), format!("{DEFAULT_NAMESPACE}/{text}")),
            Some((registry, path)) if registry == "docker.io" || registry.ends_with(".docker.io") => {
                let path = if path.contains('/') { path.to_owned() } else { format!("{DEFAULT_NAMESPACE}/{path}") };
                (registry.to_owned(), path)
            }
            Some((registry, path)) => (registry.to_owned(), path.to_owned()),
        };
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
            _ => (path, "latest".to_owned()),
        };
        if registry.is_empty() || name.is_empty() || name.ends_with('/') || name.starts_with('/') {
            return Err(error("the name is empty"));
        }
        check_tag(&tag).map_err(error)?;
        Ok(Self { registry, name, tag })
    }

    /// `registry/name:tag`
    pub fn canonical(&self) -> String {
        format!("{}/{}:{}", self.registry, self.name, self.tag)
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.canonical())
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if tag.is_empty() || tag.len() > 128 || !tag.chars().all(fine) || tag.starts_with(['.', '-']) {
        return Err("the tag is invalid");
    }
    // `3.9-py39-py311`: a platform part may be given once only.
    let mut seen: Vec<&str> = Vec::new();
    for part in tag.split('-').skip(1) {
        let family = part.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !family.is_empty() && seen.contains(&family) {
            return Err("a component of the tag is duplicated");
        }
        seen.push(family);
    }
    Ok(())
}

/// One architecture, one name: `amd64` is `x86_64`, and so on.
pub fn normalise_architecture(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "amd64" | "x64" => "x86_64".to_owned(),
        "arm64" => "aarch64".to_owned(),
        "x32" | "i686" => "x86".to_owned(),
        _ => lower,
    }
}

/// The role that an image's labels give it.
pub fn role(labels: &IndexMap<String, String>) -> KernelRole {
    match labels.get(LABEL_ROLE).map(|r| r.to_ascii_uppercase()).as_deref() {
        Some("SYSTEM") => KernelRole::System,
        Some("INFERENCE") => KernelRole::Inference,
        _ => KernelRole::Compute,
    }
}

/// A service that an image offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// `tcp`, `http` or `preopen`.
    pub protocol: String,
    /// Ports in the container.
    pub ports: Vec<u16>,
}

/// Reads the label `ai.backend.service-ports`: `name:proto:port` or `name:proto:[p1,p2]`, joined by commas.
/// Services of protocol `pty` have no port of their own and are left out.
///
/// # Errors
/// A sentence for an image that declares nonsense.
pub fn service_ports(label: &str) -> Result<Vec<ServicePort>, String> {
    let mut out: Vec<ServicePort> = Vec::new();
    let mut rest = label.trim();
    while !rest.is_empty() {
        // A list of ports has commas of its own.
        let end = match (rest.find('['), rest.find(',')) {
            (Some(open), Some(comma)) if open < comma => rest[open..]
                .find(']')
                .map(|close| open + close + 1)
                .ok_or_else(|| format!("Unfinished port list: {rest}"))?,
            (Some(open), None) if !rest[open..].contains(']') => return Err(format!("Unfinished port list: {rest}")),
            (_, Some(comma)) => comma,
            (_, None) => rest.len(),
        };
        let item = rest[..end].trim();
        rest = rest[end..].trim_start_matches([',', ' ']);
        let mut parts = item.splitn(3, ':');
        let (Some(name), Some(protocol), Some(ports)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("Invalid service port definition: {item}"));
        };
        if protocol == "pty" {
            continue;
        }
        if !matches!(protocol, "tcp" | "http" | "preopen") {
            return Err(format!("Unsupported service protocol: {protocol}"));
        }
        let ports = ports.trim_start_matches('[').trim_end_matches(']');
        let ports: Vec<u16> = ports
            .split(',')
            .map(|p| p.trim().parse().map_err(|_| format!("Invalid service port: {p}")))
            .collect::<Result<_, String>>()?;
        for port in &ports {
            let reserved = matches!(port, 2000..=2003 | 2200 | 7681);
            if *port <= 1024 || *port == u16::MAX || reserved {
                return Err(format!("The port {port} of the service {name} is reserved or out of range"));
            }
            if out.iter().any(|s| s.ports.contains(port)) {
                return Err(format!("The port {port} is used by several services"));
            }
        }
        out.push(ServicePort { name: name.to_owned(), protocol: protocol.to_owned(), ports });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_are_completed() {
        let canonical = |text: &str| ImageRef::parse(text).map(|r| r.canonical());
        assert_eq!(canonical("python").unwrap(), "index.docker.io/lablup/python:latest");
        assert_eq!(canonical("cr.example.org/stable/python:3.9").unwrap(), "cr.example.org/stable/python:3.9");
        assert_eq!(canonical("localhost:5000/python").unwrap(), "localhost:5000/python:latest");
        assert_eq!(canonical("docker.io/python:1").unwrap(), "docker.io/lablup/python:1");
        for bad in ["", "http://x/y", "//x/y", "x/", "x/y:", "x/y:-1", "x/y:1-py39-py311", "a b/c"] {
            assert!(canonical(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn service_ports_are_checked() {
        let ports = service_ports("ipython:pty:3000,jupyter:http:8081, x:tcp:[9000,9001]").unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[1].ports, [9000, 9001]);
        assert_eq!(service_ports("").unwrap(), []);
        for bad in ["a:http:80", "a:http:2200", "a:ftp:8000", "a:http:8000,b:http:8000", "a:http", "a:http:[8000"] {
            assert!(service_ports(bad).is_err(), "{bad}");
        }
    }
}
