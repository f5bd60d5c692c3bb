//! Image records: resolving references, administration.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use quarterdeck_model::ImageId;
use quarterdeck_model::image::ImageRef;
use quarterdeck_store::images::{self, ImageChanges, ImageRow};
use quarterdeck_store::{Sql, domains};
use serde_json::{Map, Value as Json};

pub mod import;
pub mod rescan;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::superadmin_changes;
use crate::validate::integrity;

/// The title that a missing image is reported under.
const OBJECT: &str = "environment image";
/// The label that lists what an image can do.
const FEATURES: &str = "ai.backend.features";

/// A slot, and how much of it an image needs at least and can use at most.
pub type ResourceLimit = (String, Option<String>, Option<String>);

/// Changes to an image; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyImageInput {
    /// The canonical name.
    pub name: Option<String>,
    /// The registry's name.
    pub registry: Option<String>,
    /// The repository's path.
    pub image: Option<String>,
    /// The tag.
    pub tag: Option<String>,
    /// The architecture.
    pub architecture: Option<String>,
    /// Exists on agents only.
    pub is_local: Option<bool>,
    /// The size.
    pub size_bytes: Option<i64>,
    /// Kept for clients.
    pub kind: Option<String>,
    /// The digest of its configuration.
    pub digest: Option<String>,
    /// All labels.
    pub labels: Option<Vec<(String, String)>>,
    /// All accelerators.
    pub supported_accelerators: Option<Vec<String>>,
    /// All resource limits: slot, least and most.
    pub resource_limits: Option<Vec<ResourceLimit>>,
}

/// `amd64` and `arm64` are what other systems call two architectures.
pub fn normalise_architecture(name: &str) -> &str {
    match name {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// The image that a reference means: a canonical name first, then an alias. When there is one
/// architecture only it is taken, whatever was asked for.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn resolve(control: &Control, reference: &str, architecture: &str) -> Result<ImageRow> {
    resolve_in(&mut control.store().reader(), reference, architecture).await
}

async fn resolve_in<S: Sql>(sql: &mut S, reference: &str, architecture: &str) -> Result<ImageRow> {
    if let Some(row) = by_reference(sql, reference, architecture).await? {
        return Ok(row);
    }
    match images::by_alias(sql, reference).await? {
        Some(row) => Ok(row),
        None => Err(unknown(reference)),
    }
}

fn unknown(reference: &str) -> Error {
    Error::not_found_msg(OBJECT, format!("Unknown image references: ref:'{reference}', alias:'{reference}'"))
}

async fn by_reference<S: Sql>(sql: &mut S, reference: &str, architecture: &str) -> Result<Option<ImageRow>> {
    // What is no reference may still be an alias.
    let Ok(parsed) = ImageRef::parse(reference) else { return Ok(None) };
    let mut rows = images::by_name(sql, &parsed.canonical()).await?;
    if rows.len() > 1 {
        let architecture = normalise_architecture(architecture);
        rows.retain(|row| row.architecture == architecture);
    }
    Ok(rows.into_iter().next())
}

/// Whether users of a domain that allows these registries may use an image: it is local, or its registry is among them.
///
/// # Errors
/// [`Error::NotFound`] when they may not.
pub fn check_registry(registries: &[String], image: &ImageRow) -> Result<()> {
    if image.is_local || registries.contains(&image.registry) {
        return Ok(());
    }
    Err(Error::not_found_msg(OBJECT, "unknown alias or disallowed registry"))
}

/// One image as GraphQL shows it: superadmins see all, others those of their domain's registries.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn visible(control: &Control, caller: &Principal, reference: &str, architecture: &str) -> Result<ImageRow> {
    let row = resolve(control, reference, architecture).await?;
    if caller.is_superadmin() || visible_registries(control, caller).await?.contains(&row.registry) {
        return Ok(row);
    }
    Err(Error::not_found(OBJECT))
}

async fn visible_registries(control: &Control, caller: &Principal) -> Result<BTreeSet<String>> {
    let row = domains::get(&mut control.store().reader(), &caller.domain).await?;
    Ok(row.map(|d| d.allowed_docker_registries.into_iter().collect()).unwrap_or_default())
}

/// The images that the caller may see. With `is_operation`, those that have the feature `operation`, or haven't.
///
/// # Errors
/// [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal, is_operation: Option<bool>) -> Result<Vec<ImageRow>> {
    let mut rows = images::list(&mut control.store().reader()).await?;
    if !caller.is_superadmin() {
        let registries = visible_registries(control, caller).await?;
        rows.retain(|row| registries.contains(&row.registry));
    }
    if let Some(wanted) = is_operation {
        rows.retain(|row| {
            let features = row.labels.get(FEATURES).map_or("", String::as_str);
            features.split_whitespace().any(|feature| feature == "operation") == wanted
        });
    }
    Ok(rows)
}

/// An image that no registry tells of: it exists on agents only, such as what the runtime `process` finds on its node.
#[derive(Clone, Debug)]
pub struct LocalImage {
    /// `REGISTRY/NAME:TAG`; the registry is only a name here.
    pub reference: String,
    /// For which architecture.
    pub architecture: String,
    /// What runs in it (`python`, `app`, …): the label `ai.backend.runtime-type`.
    pub runtime_type: String,
    /// The runtime's path within the image.
    pub runtime_path: String,
    /// More labels; those named like ours win.
    pub labels: Vec<(String, String)>,
    /// Slot limits.
    pub resource_limits: Vec<ResourceLimit>,
    /// Other names for it.
    pub aliases: Vec<String>,
}

/// Records an image that exists on agents only, over the record of the same name and architecture.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for a malformed reference; [`Error::Integrity`] when an
/// alias is taken.
pub async fn add_local(control: &Control, caller: &Principal, image: LocalImage) -> Result<ImageRow> {
    superadmin_changes(caller)?;
    let parsed = ImageRef::parse(&image.reference).map_err(|e| Error::invalid(e.to_string()))?;
    let mut labels = IndexMap::from([
        ("ai.backend.kernelspec".to_owned(), "1".to_owned()),
        (FEATURES.to_owned(), "batch query uid-match user-input".to_owned()),
        ("ai.backend.base-distro".to_owned(), "local".to_owned()),
        ("ai.backend.role".to_owned(), "COMPUTE".to_owned()),
        ("ai.backend.runtime-type".to_owned(), image.runtime_type),
        ("ai.backend.runtime-path".to_owned(), image.runtime_path),
    ]);
    labels.extend(image.labels);
    let canonical = parsed.canonical();
    let mut row = ImageRow {
        id: ImageId::new(),
        image: parsed.name.clone(),
        tag: parsed.tag.clone(),
        registry: parsed.registry.clone(),
        architecture: normalise_architecture(&image.architecture).to_owned(),
        // There is nothing to take a digest of; clients want one that is always the same.
        config_digest: digest_of(&canonical),
        name: canonical,
        size_bytes: 0,
        is_local: true,
        kind: "COMPUTE".to_owned(),
        accelerators: None,
        labels,
        resources: resource_limits(image.resource_limits),
        created_at: control.clock().now(),
    };
    let mut tx = control.store().begin().await?;
    row.id = images::upsert(&mut tx, &row).await.map_err(integrity)?;
    for alias in &image.aliases {
        if images::by_alias(&mut tx, alias).await?.is_none_or(|known| known.id != row.id) {
            images::insert_alias(&mut tx, alias, row.id).await.map_err(integrity)?;
        }
    }
    commit(control, tx).await?;
    Ok(row)
}

fn digest_of(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    format!("sha256:{}", crate::hex::hex(&Sha256::digest(text.as_bytes())))
}

/// Gives an image another name.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::Integrity`] when the name is taken.
pub async fn alias(control: &Control, caller: &Principal, alias: &str, target: &str, architecture: &str) -> Result<()> {
    superadmin_changes(caller)?;
    if alias.is_empty() || alias.contains('\0') {
        return Err(Error::BadRequest("An alias needs a name.".to_owned()));
    }
    let mut tx = control.store().begin().await?;
    let row = resolve_in(&mut tx, target, architecture).await?;
    images::insert_alias(&mut tx, alias, row.id).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(())
}

/// Takes a name from an image.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::BadRequest`] when nothing has that name.
pub async fn dealias(control: &Control, caller: &Principal, alias: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if images::delete_alias(&mut tx, alias).await? == 0 {
        return Err(Error::BadRequest("No such alias".to_owned()));
    }
    commit(control, tx).await?;
    Ok(())
}

/// Removes an image with its aliases.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn forget(control: &Control, caller: &Principal, reference: &str, architecture: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    let row = resolve_in(&mut tx, reference, architecture).await?;
    images::delete(&mut tx, row.id).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(())
}

/// Removes the images of a registry with their aliases.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::BadRequest`] without a registry.
pub async fn clear(control: &Control, caller: &Principal, registry: Option<&str>) -> Result<()> {
    superadmin_changes(caller)?;
    let Some(registry) = registry else { return Err(Error::BadRequest("A registry must be given.".to_owned())) };
    let mut tx = control.store().begin().await?;
    images::delete_of_registry(&mut tx, registry).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(())
}

/// Changes an image, given by its canonical name. Changing nothing is fine, if it exists.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::BadRequest`] for an unknown image.
pub async fn modify(
    control: &Control,
    caller: &Principal,
    target: &str,
    architecture: &str,
    input: ModifyImageInput,
) -> Result<()> {
    superadmin_changes(caller)?;
    let changes = ImageChanges {
        name: input.name,
        image: input.image,
        tag: input.tag,
        registry: input.registry,
        architecture: input.architecture,
        config_digest: input.digest,
        size_bytes: input.size_bytes,
        is_local: input.is_local,
        kind: input.kind,
        accelerators: input.supported_accelerators.map(|list| list.join(",")),
        labels: input.labels.map(|list| list.into_iter().collect::<IndexMap<_, _>>()),
        resources: input.resource_limits.map(resource_limits),
    };
    let mut tx = control.store().begin().await?;
    let Some(row) = by_reference(&mut tx, target, architecture).await? else {
        return Err(Error::BadRequest("Image not found".to_owned()));
    };
    images::update(&mut tx, row.id, &changes).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(())
}

fn resource_limits(limits: Vec<ResourceLimit>) -> Json {
    let object = limits.into_iter().map(|(slot, least, most)| {
        let mut entry = Map::new();
        for (name, value) in [("min", least), ("max", most)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                entry.insert(name.to_owned(), Json::from(value));
            }
        }
        (slot, Json::Object(entry))
    });
    Json::Object(object.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::ImageId;
    use quarterdeck_store::testing;
    use serde_json::json;

    use super::*;
    use crate::seed;

    #[tokio::test]
    async fn references_are_canonical_names_or_aliases() {
        const NAME: &str = "conf-registry/stable/python:3.9-ubuntu20.04";
        for db in testing::databases().await {
            seed::load(&db.store, &seed::tests::conformance_seed()).await.unwrap();
            let mut tx = db.store.begin().await.unwrap();
            assert_eq!(resolve_in(&mut tx, "python", "x86_64").await.unwrap().name, NAME);
            // Only one architecture is stored: it is what there is.
            let row = resolve_in(&mut tx, NAME, "aarch64").await.unwrap();
            assert_eq!((row.name.as_str(), row.architecture.as_str()), (NAME, "x86_64"));
            let other = ImageRow { id: ImageId::new(), architecture: "aarch64".into(), ..row };
            images::upsert(&mut tx, &other).await.unwrap();
            assert_eq!(resolve_in(&mut tx, NAME, "arm64").await.unwrap().architecture, "aarch64");
            assert_eq!(resolve_in(&mut tx, NAME, "amd64").await.unwrap().architecture, "x86_64");
            for nonsense in ["nope", "conf-registry/none:1", NAME.trim_end_matches("04"), "http://x", "", ":"] {
                let error = resolve_in(&mut tx, nonsense, "x86_64").await.unwrap_err();
                assert!(matches!(error, Error::NotFound { object: OBJECT, .. }), "{nonsense}: {error}");
            }
            assert!(resolve_in(&mut tx, NAME, "riscv64").await.is_err());
        }
    }

    #[test]
    fn empty_limits_are_left_out() {
        let limits =
            vec![("cpu".to_owned(), Some("1".to_owned()), Some(String::new())), ("mem".to_owned(), None, None)];
        assert_eq!(resource_limits(limits), json!({"cpu": {"min": "1"}, "mem": {}}));
    }
}
