//! Image records and their aliases.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use quarterdeck_model::{ImageId, Timestamp};
use serde_json::Value as Json;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// What is known about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Its id.
    pub id: ImageId,
    /// Its canonical name, `registry/image:tag`.
    pub name: String,
    /// The repository's path, without registry.
    pub image: String,
    /// The tag.
    pub tag: String,
    /// The registry's name.
    pub registry: String,
    /// The architecture.
    pub architecture: String,
    /// The digest of its configuration.
    pub config_digest: String,
    /// Its size in bytes.
    pub size_bytes: i64,
    /// Exists on agents only, in no registry.
    pub is_local: bool,
    /// Kept for clients; `COMPUTE`.
    pub kind: String,
    /// Comma list of accelerators it can use.
    pub accelerators: Option<String>,
    /// Its labels.
    pub labels: IndexMap<String, String>,
    /// Slot → `{"min", "max"}`.
    pub resources: Json,
    /// When the record was made.
    pub created_at: Timestamp,
}

/// Changes to an image; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ImageChanges {
    /// See [`ImageRow::name`].
    pub name: Option<String>,
    /// See [`ImageRow::image`].
    pub image: Option<String>,
    /// See [`ImageRow::tag`].
    pub tag: Option<String>,
    /// See [`ImageRow::registry`].
    pub registry: Option<String>,
    /// See [`ImageRow::architecture`].
    pub architecture: Option<String>,
    /// See [`ImageRow::config_digest`].
    pub config_digest: Option<String>,
    /// See [`ImageRow::size_bytes`].
    pub size_bytes: Option<i64>,
    /// See [`ImageRow::is_local`].
    pub is_local: Option<bool>,
    /// See [`ImageRow::kind`].
    pub kind: Option<String>,
    /// See [`ImageRow::accelerators`].
    pub accelerators: Option<String>,
    /// See [`ImageRow::labels`].
    pub labels: Option<IndexMap<String, String>>,
    /// See [`ImageRow::resources`].
    pub resources: Option<Json>,
}

fn labels_json(labels: &IndexMap<String, String>) -> Json {
    Json::Object(labels.iter().map(|(k, v)| (k.clone(), Json::from(v.clone()))).collect())
}

fn row(row: &Row) -> Result<ImageRow> {
    Ok(ImageRow {
        id: row.parse("id")?,
        name: row.get("name")?,
        image: row.get("image")?,
        tag: row.get("tag")?,
        registry: row.get("registry")?,
        architecture: row.get("architecture")?,
        config_digest: row.get("config_digest")?,
        size_bytes: row.get("size_bytes")?,
        is_local: row.get("is_local")?,
        kind: row.get("type")?,
        accelerators: row.get("accelerators")?,
        labels: row.json("labels")?,
        resources: row.json("resources")?,
        created_at: Timestamp(row.get("created_at")?),
    })
}

/// The records of one canonical name, one an architecture.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_name<S: Sql>(sql: &mut S, name: &str) -> Result<Vec<ImageRow>> {
    let stmt = Stmt::new("SELECT * FROM images WHERE name = $1 ORDER BY architecture").bind(name);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The image behind an alias.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_alias<S: Sql>(sql: &mut S, alias: &str) -> Result<Option<ImageRow>> {
    let stmt = Stmt::new("SELECT i.* FROM images i JOIN image_aliases a ON a.image_id = i.id WHERE a.alias = $1");
    sql.fetch_optional(stmt.bind(alias)).await?.as_ref().map(row).transpose()
}

/// The records of several canonical names.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_names<S: Sql>(sql: &mut S, names: &[String]) -> Result<Vec<ImageRow>> {
    let stmt = Stmt::among("SELECT * FROM images WHERE name IN {list}", names);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// All images, by name and architecture.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S) -> Result<Vec<ImageRow>> {
    sql.fetch_all(Stmt::new("SELECT * FROM images ORDER BY name, architecture")).await?.iter().map(row).collect()
}

/// The aliases of several images, sorted.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn aliases<S: Sql>(sql: &mut S, images: &[ImageId]) -> Result<BTreeMap<ImageId, Vec<String>>> {
    let stmt = Stmt::among("SELECT image_id, alias FROM image_aliases WHERE image_id IN {list} ORDER BY alias", images);
    let mut out = BTreeMap::<ImageId, Vec<String>>::new();
    for r in sql.fetch_all(stmt).await? {
        out.entry(r.parse("image_id")?).or_default().push(r.get("alias")?);
    }
    Ok(out)
}

/// Writes a record over the one of the same name and architecture, which keeps its id; the id.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn upsert<S: Sql>(sql: &mut S, image: &ImageRow) -> Result<ImageId> {
    sql.fetch_one(
        Stmt::new(
            "INSERT INTO images (id, name, image, tag, registry, architecture, config_digest, size_bytes, is_local, \
             type, accelerators, labels, resources, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
             ON CONFLICT (name, architecture) DO UPDATE SET image = excluded.image, tag = excluded.tag, \
             registry = excluded.registry, config_digest = excluded.config_digest, size_bytes = excluded.size_bytes, \
             is_local = excluded.is_local, type = excluded.type, accelerators = excluded.accelerators, \
             labels = excluded.labels, resources = excluded.resources RETURNING id",
        )
        .bind(image.id.to_string())
        .bind(&image.name)
        .bind(&image.image)
        .bind(&image.tag)
        .bind(&image.registry)
        .bind(&image.architecture)
        .bind(&image.config_digest)
        .bind(image.size_bytes)
        .bind(image.is_local)
        .bind(&image.kind)
        .bind(image.accelerators.as_deref())
        .bind(labels_json(&image.labels))
        .bind(&image.resources)
        .bind(image.created_at.micros()),
    )
    .await?
    .parse("id")
}

/// Changes an image; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// A unique violation when the new name and architecture are taken.
pub async fn update<S: Sql>(sql: &mut S, id: ImageId, changes: &ImageChanges) -> Result<Option<u64>> {
    let update = Update::new("images")
        .maybe("name", changes.name.as_deref())
        .maybe("image", changes.image.as_deref())
        .maybe("tag", changes.tag.as_deref())
        .maybe("registry", changes.registry.as_deref())
        .maybe("architecture", changes.architecture.as_deref())
        .maybe("config_digest", changes.config_digest.as_deref())
        .maybe("size_bytes", changes.size_bytes)
        .maybe("is_local", changes.is_local)
        .maybe("type", changes.kind.as_deref())
        .maybe("accelerators", changes.accelerators.as_deref())
        .maybe("labels", changes.labels.as_ref().map(labels_json))
        .maybe("resources", changes.resources.as_ref());
    if update.is_empty() {
        return Ok(None);
    }
    sql.execute(update.filter("id", id.to_string())).await.map(Some)
}

/// Gives an image another name.
///
/// # Errors
/// A unique violation when the alias is taken.
pub async fn insert_alias<S: Sql>(sql: &mut S, alias: &str, image: ImageId) -> Result<()> {
    let stmt = Stmt::new("INSERT INTO image_aliases (alias, image_id) VALUES ($1, $2)");
    sql.execute(stmt.bind(alias).bind(image.to_string())).await?;
    Ok(())
}

/// Points an alias at an image, whatever it meant before.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_alias<S: Sql>(sql: &mut S, alias: &str, image: ImageId) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO image_aliases (alias, image_id) VALUES ($1, $2) \
         ON CONFLICT (alias) DO UPDATE SET image_id = excluded.image_id",
    );
    sql.execute(stmt.bind(alias).bind(image.to_string())).await?;
    Ok(())
}

/// Removes an alias; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_alias<S: Sql>(sql: &mut S, alias: &str) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM image_aliases WHERE alias = $1").bind(alias)).await
}

/// Removes an image with its aliases; how many images there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete<S: Sql>(sql: &mut S, id: ImageId) -> Result<u64> {
    let id = id.to_string();
    sql.execute(Stmt::new("DELETE FROM image_aliases WHERE image_id = $1").bind(&id)).await?;
    sql.execute(Stmt::new("DELETE FROM images WHERE id = $1").bind(&id)).await
}

/// Removes the images of a registry with their aliases; how many images there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_of_registry<S: Sql>(sql: &mut S, registry: &str) -> Result<u64> {
    sql.execute(
        Stmt::new("DELETE FROM image_aliases WHERE image_id IN (SELECT id FROM images WHERE registry = $1)")
            .bind(registry),
    )
    .await?;
    sql.execute(Stmt::new("DELETE FROM images WHERE registry = $1").bind(registry)).await
}
