//! Images.

use quarterdeck_model::ImageId;
use serde_json::Value as Json;

use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql};

const SOURCE: Source = Source {
    columns: "i.id, i.name, i.image, i.tag, i.registry, i.architecture, i.is_local, i.config_digest, i.size_bytes, \
              i.accelerators, i.labels, i.resources",
    from: "images i",
    count_from: "images i",
    order: "i.name, i.architecture",
    unique: "i.id",
};

/// An image.
#[derive(Clone, Debug)]
pub struct ImageItem {
    /// Its id.
    pub id: ImageId,
    /// `registry/image:tag`
    pub name: String,
    /// The repository path without registry.
    pub image: String,
    /// Its tag.
    pub tag: String,
    /// Its registry.
    pub registry: String,
    /// Its architecture.
    pub architecture: String,
    /// Whether it is on an agent only.
    pub is_local: bool,
    /// The digest of its configuration.
    pub digest: String,
    /// Bytes.
    pub size_bytes: i64,
    /// Accelerators that it can use, separated by commas.
    pub accelerators: Option<String>,
    /// Label → value.
    pub labels: Json,
    /// Slot → `min` and `max`.
    pub resources: Json,
}

fn read(row: &Row) -> Result<ImageItem> {
    Ok(ImageItem {
        id: row.parse("id")?,
        name: row.get("name")?,
        image: row.get("image")?,
        tag: row.get("tag")?,
        registry: row.get("registry")?,
        architecture: row.get("architecture")?,
        is_local: row.get("is_local")?,
        digest: row.get("config_digest")?,
        size_bytes: row.get("size_bytes")?,
        accelerators: row.get("accelerators")?,
        labels: row.json("labels")?,
        resources: row.json("resources")?,
    })
}

/// Which images: every part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This one.
    pub id: Option<ImageId>,
    /// From one of these registries.
    pub registries: Option<Vec<String>>,
}

/// The images in scope, by name.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope) -> Result<Vec<ImageItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(id) = scope.id {
        conditions.equal("i.id", id.to_string());
    }
    if let Some(registries) = &scope.registries {
        conditions.any_of("i.registry", registries);
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The registries whose images a domain may run.
///
/// # Errors
/// The database's.
pub async fn registries_of<S: Sql>(sql: &mut S, domain: &str) -> Result<Vec<String>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.equal("name", domain);
    let stmt = conditions.into_stmt("SELECT allowed_docker_registries FROM domains", "");
    match sql.fetch_optional(stmt).await? {
        Some(row) => row.json("allowed_docker_registries"),
        None => Ok(Vec::new()),
    }
}

/// Aliases of images: image and alias.
///
/// # Errors
/// The database's.
pub async fn aliases_of<S: Sql>(sql: &mut S, images: &[ImageId]) -> Result<Vec<(ImageId, String)>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.any_of("image_id", images.iter().map(ToString::to_string));
    let stmt = conditions.into_stmt("SELECT image_id, alias FROM image_aliases", "ORDER BY alias");
    sql.fetch_all(stmt).await?.iter().map(|row: &Row| Ok((row.parse("image_id")?, row.get("alias")?))).collect()
}
