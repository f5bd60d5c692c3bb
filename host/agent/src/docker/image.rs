//! Images: whether one is here, and fetching it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptions;
use futures::StreamExt as _;
use quarterdeck_rpc::pb;
use serde_json::Value;

use super::engine::{is_missing, plain};
use crate::process::log::KernelLog;

/// How often the log tells how far an image is.
const TELL: Duration = Duration::from_secs(3);

/// Makes sure that the image is here, and that it is the one the host means; calls `pulling` before it is fetched.
pub(super) async fn prepare(
    docker: &Docker,
    spec: &pb::KernelSpec,
    log: &KernelLog,
    pulling: &(dyn Fn() + Sync),
) -> Result<(), String> {
    let image = spec.image.as_ref().filter(|image| !image.canonical.is_empty()).ok_or("the kernel has no image")?;
    let here = match docker.inspect_image(&image.canonical).await {
        Ok(here) => Some(here),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(format!("the image {}: {}", image.canonical, plain(&error))),
    };
    if is_right(here.as_ref(), image) {
        return Ok(());
    }
    if image.is_local {
        return Err(format!("the image {} is meant to be on this node, and isn't", image.canonical));
    }
    pulling();
    match pull(docker, image, credentials(&spec.internal_data), log).await {
        Ok(()) => Ok(()),
        // An older image of that name is better than none.
        Err(message) if here.is_some() => {
            log.note(&format!("the image {} is older than the host's: {message}", image.canonical));
            Ok(())
        }
        Err(message) => Err(format!("the image {} can't be fetched: {message}", image.canonical)),
    }
}

/// Whether what is here needs no fetching.
fn is_right(here: Option<&ImageInspect>, image: &pb::Image) -> bool {
    let Some(here) = here else { return false };
    image.is_local || image.digest.is_empty() || here.id.as_deref() == Some(image.digest.as_str())
}

/// What the host says to tell the registry.
fn credentials(internal: &str) -> Option<DockerCredentials> {
    let internal: Value = serde_json::from_str(internal).ok()?;
    let registry = &internal["registry"];
    let text = |name: &str| registry[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let username = text("username")?;
    Some(DockerCredentials {
        username: Some(username),
        password: text("password"),
        serveraddress: text("url"),
        ..Default::default()
    })
}

async fn pull(
    docker: &Docker,
    image: &pb::Image,
    credentials: Option<DockerCredentials>,
    log: &KernelLog,
) -> Result<(), String> {
    let (name, tag) = split(&image.canonical);
    let options =
        CreateImageOptions { from_image: Some(name.to_owned()), tag: Some(tag.to_owned()), ..Default::default() };
    log.note(&format!("fetching the image {}", image.canonical));
    let mut steps = docker.create_image(Some(options), None, credentials);
    let (mut progress, mut told) = (Progress::default(), Instant::now());
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| plain(&error))?;
        if let Some(message) = step.error_detail.and_then(|error| error.message) {
            return Err(message);
        }
        let step = CreateImageInfo { error_detail: None, ..step };
        progress.take(&step);
        if told.elapsed() >= TELL {
            told = Instant::now();
            log.note(&progress.to_string());
        }
    }
    log.note(&format!("fetched the image {}", image.canonical));
    Ok(())
}

/// A reference as name and tag (or digest).
fn split(canonical: &str) -> (&str, &str) {
    if let Some((name, digest)) = canonical.split_once('@') {
        return (name, digest);
    }
    match canonical.rsplit_once(':') {
        // What follows the colon of a port has a path.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (canonical, "latest"),
    }
}

/// How far an image is.
#[derive(Debug, Default)]
struct Progress {
    /// Layer → bytes that are here, bytes in all, whether it is unpacked.
    layers: HashMap<String, (u64, u64, bool)>,
}

impl Progress {
    fn take(&mut self, step: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&step.id, &step.status) else { return };
        let known = ["Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete"];
        let done = matches!(status.as_str(), "Pull complete" | "Already exists");
        if !done && status != "Extracting" && !known.contains(&status.as_str()) {
            return;
        }
        let layer = self.layers.entry(id.clone()).or_default();
        layer.2 |= done;
        let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok());
        match (&step.progress_detail, status.as_str()) {
            (Some(detail), "Downloading") => {
                layer.0 = size(detail.current).unwrap_or(layer.0);
                layer.1 = size(detail.total).unwrap_or(layer.1);
            }
            (_, "Downloading" | "Pulling fs layer" | "Waiting") => {}
            _ => layer.0 = layer.1,
        }
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = self.layers.values().filter(|layer| layer.2).count();
        let (here, all) = self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        write!(f, "{done} of {} layers, {} of {} MiB", self.layers.len(), here >> 20, all >> 20)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_the_sum_of_layers() {
        let mut progress = Progress::default();
        for step in [
            json!({"status": "Pulling from library/python", "id": "3.12"}),
            json!({"status": "Already exists", "id": "a"}),
            json!({"status": "Pulling fs layer", "id": "b"}),
            json!({"status": "Pulling fs layer", "id": "c"}),
            json!({"status": "Downloading", "id": "b", "progressDetail": {"current": 1 << 20, "total": 8 << 20}}),
            json!({"status": "Downloading", "id": "c", "progressDetail": {"current": 2 << 20, "total": 2 << 20}}),
            json!({"status": "Download complete", "id": "c"}),
            json!({"status": "Extracting", "id": "c", "progressDetail": {"current": 7, "total": 9}}),
            json!({"status": "Pull complete", "id": "c"}),
            json!({"status": "Digest: sha256:00"}),
        ] {
            progress.take(&serde_json::from_value(step).unwrap());
        }
        assert_eq!(progress.to_string(), "2 of 3 layers, 3 of 10 MiB");
    }

    #[test]
    fn references_are_taken_apart() {
        assert_eq!(split("cr.example.org:5000/a/python:3.12"), ("cr.example.org:5000/a/python", "3.12"));
        assert_eq!(split("cr.example.org:5000/a/python"), ("cr.example.org:5000/a/python", "latest"));
        assert_eq!(split("a/b@sha256:00"), ("a/b", "sha256:00"));
    }

    #[test]
    fn an_image_is_fetched_when_it_is_another() {
        let image = |digest: &str, is_local| pb::Image { digest: digest.into(), is_local, ..Default::default() };
        let here = ImageInspect { id: Some("sha256:1".into()), ..Default::default() };
        assert!(is_right(Some(&here), &image("sha256:1", false)) && is_right(Some(&here), &image("", false)));
        assert!(is_right(Some(&here), &image("sha256:2", true)));
        assert!(!is_right(Some(&here), &image("sha256:2", false)) && !is_right(None, &image("", false)));
    }

    #[test]
    fn registries_are_told_what_the_host_says() {
        let found = credentials(r#"{"registry": {"username": "u", "password": "p", "url": "https://cr"}}"#).unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("u"), Some("p")));
        assert!(credentials(r#"{"registry": null}"#).is_none() && credentials("").is_none());
    }
}
