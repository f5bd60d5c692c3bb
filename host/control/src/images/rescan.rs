//! Scans of registries: what they have becomes image records (`spec/config.md` §1.6).

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use quarterdeck_model::image::{ImageRef, labels};
use quarterdeck_model::{ImageId, TaskId, TaskStatus, UserRole};
use quarterdeck_outgoing::registry::{Image, Registry, Session, Variant};
use quarterdeck_store::images::{self, ImageRow};

use super::normalise_architecture;
use crate::Control;
use crate::background_tasks::{self, News, Progress};
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::registries;

/// Tags of one registry that are read at the same time.
const AT_ONCE: usize = 4;
/// Repositories that hold no images for sessions, by what occurs in their names.
const SKIPPED: &[&str] = &["common-", "commons-", "base-", "krunner", "builder", "backendai", "geofront"];
/// Labels of one image, in bytes. They are shown in lists.
const MOST_LABELS: usize = 256 << 10;

/// Scans a registry, or all of them, in the background.
///
/// # Errors
/// [`Error::InsufficientPrivilege`] for whoever is no administrator; those of [`background_tasks::start`]. An unknown
/// registry fails the task.
pub async fn start(control: &Control, caller: &Principal, registry: Option<String>) -> Result<TaskId> {
    if !matches!(caller.role, UserRole::Superadmin | UserRole::Admin) {
        return Err(Error::InsufficientPrivilege("admin privilege required".to_owned()));
    }
    let host = control.clone();
    background_tasks::start(control, "rescan-images", Some(caller.user_id), move |progress| async move {
        scan(&host, registry.as_deref(), &progress).await
    })
    .await
}

/// As [`start`], for a process without loops that waits for the end; `told` hears what becomes of each image.
///
/// # Errors
/// As [`start`]; [`Error::BadRequest`] with the reason when the scan failed.
pub async fn wait(
    control: &Control,
    caller: &Principal,
    registry: Option<String>,
    mut told: impl FnMut(&str),
) -> Result<()> {
    let id = start(control, caller, registry).await?;
    let mut follow = background_tasks::follow(control, id, None).await?;
    let mut alive = tokio::time::interval(background_tasks::SIGN_OF_LIFE);
    loop {
        tokio::select! {
            news = follow.next() => match news? {
                Some(News::Update(step)) => told(step.message.as_deref().unwrap_or_default()),
                Some(News::Ended(row)) if row.status == TaskStatus::Done => return Ok(()),
                Some(News::Ended(row)) => return Err(Error::BadRequest(row.message.unwrap_or_default())),
                None => return Err(Error::Unavailable("The scan was given up.".to_owned())),
            },
            // No loop does it here.
            _ = alive.tick() => background_tasks::keep_alive(control).await?,
        }
    }
}

async fn scan(control: &Control, registry: Option<&str>, progress: &Progress) -> Result<String> {
    let mut all = registries::all(control).await;
    if let Some(name) = registry {
        all.retain(|other, _| other == name);
        if all.is_empty() {
            return Err(Error::BadRequest("It is an unknown registry.".to_owned()));
        }
    }
    let mut failures = Vec::new();
    for (name, registry) in all {
        let scanned = match registry {
            Ok(registry) => scan_one(control, &name, registry, progress).await,
            Err(error) => Err(error),
        };
        match scanned {
            Ok(()) => {}
            // The database is everybody's; a registry's trouble is its own.
            Err(Error::Store(error)) => return Err(Error::Store(error)),
            Err(error) => {
                tracing::warn!(registry = name, %error, "a registry can't be scanned");
                failures.push(format!("{name}: {error}"));
            }
        }
    }
    if failures.is_empty() { Ok(String::new()) } else { Err(Error::BadRequest(failures.join("; "))) }
}

async fn scan_one(control: &Control, name: &str, registry: Registry, progress: &Progress) -> Result<()> {
    let failed = |error: quarterdeck_outgoing::Error| Error::BadRequest(error.to_string());
    let session = Arc::new(Session::open(registry).await.map_err(failed)?);
    let repositories = session.repositories().await.map_err(failed)?;
    let found = tags(&session, repositories, progress)
        .map(|(repository, tag)| {
            let session = Arc::clone(&session);
            async move {
                let variants = session.variants(&repository, &tag).await;
                (repository, tag, variants)
            }
        })
        .buffer_unordered(AT_ONCE);
    tokio::pin!(found);
    while let Some((repository, tag, variants)) = found.next().await {
        let variants =
            variants.unwrap_or_else(|error| vec![Variant { architecture: "unknown".to_owned(), image: Err(error) }]);
        take_in(control, name, &repository, &tag, variants, progress).await?;
    }
    Ok(())
}

/// The tags of all repositories that count, as they are listed.
fn tags<'s>(
    session: &'s Session,
    repositories: Vec<String>,
    progress: &'s Progress,
) -> impl Stream<Item = (String, String)> + 's {
    let wanted = repositories.into_iter().filter(|name| !SKIPPED.iter().any(|part| name.contains(part)));
    stream::iter(wanted)
        .then(move |repository| async move {
            let tags = session.tags(&repository).await.unwrap_or_else(|error| {
                progress.advance(0, format!("Skipped {repository} ({error})"));
                Vec::new()
            });
            progress.add_total(i64::try_from(tags.len()).unwrap_or(i64::MAX));
            stream::iter(tags.into_iter().map(move |tag| (repository.clone(), tag)))
        })
        .flatten()
}

/// Writes the images of one tag, and tells what became of each.
async fn take_in(
    control: &Control,
    registry: &str,
    repository: &str,
    tag: &str,
    variants: Vec<Variant>,
    progress: &Progress,
) -> Result<()> {
    let mut rows = Vec::new();
    let mut told = Vec::new();
    for variant in variants {
        let architecture = normalise_architecture(&variant.architecture).to_owned();
        let what = format!("{repository}:{tag}/{architecture}");
        let image = variant.image.map_err(|error| error.to_string());
        match image.and_then(|image| row(control, registry, repository, tag, architecture, image)) {
            Ok(row) => {
                rows.push(row);
                told.push(format!("Updated {what}"));
            }
            Err(reason) => told.push(format!("Skipped {what} ({reason})")),
        }
    }
    if !rows.is_empty() {
        crate::retry(|| async {
            let mut tx = control.store().begin().await?;
            for row in &rows {
                images::upsert(&mut tx, row).await?;
            }
            crate::identity::commit(control, tx).await
        })
        .await?;
    }
    // One tag is one step, however many images it has.
    let last = told.pop().unwrap_or_else(|| format!("Skipped {repository}:{tag} (it has no image)"));
    for message in told {
        progress.advance(0, message);
    }
    progress.advance(1, last);
    Ok(())
}

/// The record of an image, or why it gets none.
fn row(
    control: &Control,
    registry: &str,
    repository: &str,
    tag: &str,
    architecture: String,
    image: Image,
) -> Result<ImageRow, String> {
    labels::check(&image.labels)?;
    let name = format!("{registry}/{repository}:{tag}");
    ImageRef::parse(&name).map_err(|error| error.to_string())?;
    if image.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_LABELS {
        return Err(format!("its labels are larger than {MOST_LABELS} bytes"));
    }
    if image.labels.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err("its labels have NUL characters".to_owned());
    }
    Ok(ImageRow {
        id: ImageId::new(),
        name,
        image: repository.to_owned(),
        tag: tag.to_owned(),
        registry: registry.to_owned(),
        architecture,
        config_digest: image.config_digest,
        size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
        is_local: false,
        kind: "COMPUTE".to_owned(),
        accelerators: image.labels.get(labels::LABEL_ACCELERATORS).cloned(),
        resources: labels::resources(&image.labels),
        labels: image.labels,
        created_at: control.clock().now(),
    })
}
