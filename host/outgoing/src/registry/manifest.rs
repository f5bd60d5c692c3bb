//! Manifests, lists of manifests, and the configurations of images.

use indexmap::IndexMap;
use serde::Deserialize;

use super::{Session, pull};
use crate::error::{Error, Result};

/// What is understood: images and lists of them, in Docker's words and in those of the Open Container Initiative.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json";
/// The size of a manifest, in bytes.
const MANIFEST_LIMIT: usize = 4 << 20;
/// The size of an image's configuration, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;
/// Images behind one tag.
const MOST: usize = 64;

/// The image behind a tag for one architecture.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The architecture, as registries call it; `unknown` when that can't be told.
    pub architecture: String,
    /// The image, or why it can't be used.
    pub image: Result<Image>,
}

/// What is known about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub config_digest: String,
    /// Its layers and its configuration, in bytes.
    pub size_bytes: u64,
    /// Its labels.
    pub labels: IndexMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    /// Of a list.
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    container_config: Option<Section>,
    config: Option<Section>,
}

impl Config {
    /// What old builders say of the container that they built in comes first; where an image was made otherwise, that part
    /// is there too, and empty.
    fn labels(&self) -> IndexMap<String, Option<String>> {
        let sections = [&self.container_config, &self.config].into_iter().flatten();
        sections.filter_map(|section| section.labels.clone()).find(|labels| !labels.is_empty()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Section {
    #[serde(rename = "Labels")]
    labels: Option<IndexMap<String, Option<String>>>,
}

/// `algorithm:hex`: what registries answer becomes part of addresses.
fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'.' | b'_' | b'-'))
            && (32..=128).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

pub(super) async fn variants(session: &Session, repository: &str, tag: &str) -> Result<Vec<Variant>> {
    let manifest = fetch(session, repository, tag).await?;
    let Some(entries) = manifest.manifests else {
        return Ok(vec![image(session, repository, manifest, None).await]);
    };
    let mut out = Vec::new();
    for entry in entries.into_iter().take(MOST) {
        let platform = entry.platform.as_ref();
        // Attestations are of no architecture; images of other systems are of no use.
        let fits = platform.is_none_or(|p| p.architecture != "unknown" && matches!(p.os.as_str(), "" | "linux"));
        if !fits {
            continue;
        }
        let known = platform.map(|p| p.architecture.clone()).filter(|name| !name.is_empty());
        out.push(match fetch(session, repository, &entry.digest).await {
            Ok(manifest) => image(session, repository, manifest, known).await,
            Err(error) => failed(known, error),
        });
    }
    Ok(out)
}

fn failed(architecture: Option<String>, error: Error) -> Variant {
    Variant { architecture: architecture.unwrap_or_else(|| "unknown".to_owned()), image: Err(error) }
}

fn nonsense(reason: &str) -> Error {
    Error::Unsupported(reason.to_owned())
}

async fn fetch(session: &Session, repository: &str, reference: &str) -> Result<Manifest> {
    if reference.contains(':') && !is_digest(reference) {
        return Err(nonsense("the list of manifests has a malformed digest"));
    }
    let url = session.at(&format!("v2/{repository}/manifests/{reference}"))?;
    session.ask(&url, &pull(repository), &[("accept", ACCEPT)], MANIFEST_LIMIT).await?.json()
}

async fn image(session: &Session, repository: &str, manifest: Manifest, known: Option<String>) -> Variant {
    let read = async {
        let config = manifest.config.ok_or_else(|| nonsense("the manifest is of a kind that has no configuration"))?;
        if !is_digest(&config.digest) {
            return Err(nonsense("the manifest has a malformed digest"));
        }
        let url = session.at(&format!("v2/{repository}/blobs/{}", config.digest))?;
        let blob: Config = session.ask(&url, &pull(repository), &[], CONFIG_LIMIT).await?.json()?;
        let size_bytes = manifest.layers.iter().fold(config.size, |sum, layer| sum.saturating_add(layer.size));
        let labels = blob.labels().into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect();
        Ok((blob.architecture, Image { config_digest: config.digest, size_bytes, labels }))
    };
    match read.await {
        Ok((architecture, image)) => {
            let architecture = if architecture.is_empty() { known } else { Some(architecture) };
            match architecture {
                Some(architecture) => Variant { architecture, image: Ok(image) },
                None => failed(None, nonsense("its architecture is not known")),
            }
        }
        Err(error) => failed(known, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked() {
        assert!(is_digest(&format!("sha256:{}", "0f".repeat(32))));
        for bad in ["sha256:", "sha256:../../x", "x", "", &format!(":{}", "0".repeat(64))] {
            assert!(!is_digest(bad), "{bad}");
        }
    }

    #[test]
    fn labels_are_those_that_are_there() {
        for (config, expected) in [
            (r#"{"container_config": {"Labels": {"a": "1"}}, "config": {"Labels": {"a": "2"}}}"#, Some("1")),
            (r#"{"container_config": {"Labels": null}, "config": {"Labels": {"a": "2"}}}"#, Some("2")),
            (r#"{"container_config": {"Labels": {}}, "config": {"Labels": {"a": "2"}}}"#, Some("2")),
            (r#"{"config": {"Labels": {"a": "2"}}}"#, Some("2")),
            (r#"{"container_config": {}}"#, None),
        ] {
            let config: Config = serde_json::from_str(config).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(config.labels().get("a").cloned().flatten().as_deref(), expected);
        }
    }
}
