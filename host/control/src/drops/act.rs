//! Doing what a file asks for, and what its going asks for.

use std::sync::Arc;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, Target, TargetKind};
use quarterdeck_store::drops::{self, DropRow};
use quarterdeck_store::plugins::{self as rows, RevisionRow};
use serde_json::{Value as Json, json};

use super::files::Content;
use super::settings::Wish;
use crate::Control;
use crate::error::{Error, Result};
use crate::plugins::{self, BindRequest, Upload};
use crate::{policies, shadow};

/// Entries of a target's history in which the work of a host that went away is looked for.
const LOOK_BACK: u32 = 32;

/// What came of a file.
pub(super) struct Done {
    /// `name@version`.
    pub(super) plugin: String,
    /// The binding that its settings ask for.
    pub(super) binding: Option<Json>,
}

/// Who acts, as histories say it.
fn actor(file: &str) -> String {
    format!("file {file}")
}

/// The binding that a content asks for, as it is kept for the day when the file goes.
pub(super) fn binding(content: &Content) -> Option<Json> {
    let wish = Wish::read(content.settings.as_deref().unwrap_or_default()).ok().flatten()?;
    Some(describe(&wish))
}

fn describe(wish: &Wish) -> Json {
    json!({
        "target": {"kind": wish.target.kind, "name": wish.target.name},
        "mode": wish.mode,
        "unbind_on_removal": wish.unbind_on_removal,
    })
}

/// Takes the component in, and binds it if its settings say so. Done twice it is done once: `since` tells when this
/// content was taken up first, perhaps by a host that went away in the midst of it.
pub(super) async fn act(control: &Control, file: &str, content: Content, since: Timestamp) -> Result<Done> {
    let actor = actor(file);
    let wish = Wish::read(content.settings.as_deref().unwrap_or_default())
        .map_err(|reason| Error::invalid(format!("the settings were refused: {reason}")))?;
    let upload = Upload { component: Arc::from(content.component), signature: content.signature };
    let revision = plugins::take_in(control, &actor, upload).await?.revision;
    let plugin = format!("{}@{}", revision.name, revision.version);
    let Some(wish) = wish else { return Ok(Done { plugin, binding: None }) };
    let binding = Some(describe(&wish));
    let (live, target) = (wish.mode == BindingMode::Live, wish.target.clone());
    if !is_bound(control, &revision, &wish, &actor, since).await? {
        let request = BindRequest {
            plugin: revision.digest.clone(),
            target: wish.target,
            config: wish.config,
            position: wish.position,
            failure_policy: wish.failure_policy,
        };
        match wish.mode {
            BindingMode::Live => plugins::bind_as(control, &actor, request).await?,
            BindingMode::Shadow => shadow::bind_as(control, &actor, request).await?,
        };
    }
    if live {
        end_shadow(control, &actor, &revision, &target).await?;
    }
    Ok(Done { plugin, binding })
}

/// A file that asked for a shadow before asks for more now: nothing watches itself.
async fn end_shadow(control: &Control, actor: &str, revision: &RevisionRow, target: &Target) -> Result<()> {
    let bindings = rows::bindings(&mut control.store().reader()).await?;
    let own = bindings.into_iter().find(|b| {
        b.mode == BindingMode::Shadow && b.digest == revision.digest && b.target == *target && b.bound_by == actor
    });
    let Some(own) = own else { return Ok(()) };
    match shadow::unbind_as(control, actor, &own.plugin, target).await {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a revision serves as wished already, or was bound for this very content before and somebody changed that.
async fn is_bound(
    control: &Control,
    revision: &RevisionRow,
    wish: &Wish,
    actor: &str,
    since: Timestamp,
) -> Result<bool> {
    let Some(kind) = revision.kind else { return Ok(false) };
    let mut sql = control.store().reader();
    for binding in rows::bindings(&mut sql).await? {
        let same = binding.kind == kind
            && binding.digest == revision.digest
            && binding.target == wish.target
            && binding.mode == wish.mode
            && binding.position == wish.position
            && binding.failure_policy == wish.failure_policy;
        if !same {
            continue;
        }
        let config = match binding.mode {
            BindingMode::Live => policies::effective_config(&mut sql, &binding).await?,
            BindingMode::Shadow => binding.config.clone(),
        };
        if wish.config.as_ref().is_none_or(|wished| *wished == config) && serves(&mut sql, revision, wish).await? {
            return Ok(true);
        }
    }
    if wish.mode == BindingMode::Shadow {
        // Bound again it would forget what it saw, and no more harm than that.
        return Ok(false);
    }
    let history = rows::history(&mut sql, kind, &wish.target, LOOK_BACK).await?;
    Ok(history.iter().any(|entry| {
        entry.at >= since
            && entry.actor == actor
            && entry.now.as_ref().is_some_and(|place| place.digest.as_deref() == Some(revision.digest.as_str()))
    }))
}

/// A scheduler's binding serves only while its group names the plugin.
async fn serves<S: quarterdeck_store::Sql>(sql: &mut S, revision: &RevisionRow, wish: &Wish) -> Result<bool> {
    if wish.target.kind != TargetKind::ScalingGroup || wish.mode != BindingMode::Live {
        return Ok(true);
    }
    let group = rows::group_scheduler(sql, &wish.target.name).await?;
    Ok(group.is_some_and(|(scheduler, _)| scheduler == revision.name))
}

/// A file is gone: what it bound stays bound, unless its settings had said otherwise and nobody else has changed it.
pub(super) async fn gone(control: &Control, row: &DropRow) -> Result<()> {
    if let Some((target, mode, digest)) = ends_with_file(row) {
        let bound = rows::bindings(&mut control.store().reader())
            .await?
            .into_iter()
            .find(|b| b.target == target && b.digest == digest && b.mode == mode);
        if let Some(binding) = bound {
            let actor = actor(&row.file);
            let ended = match mode {
                BindingMode::Live => plugins::unbind_as(control, &actor, &binding.plugin, &target).await,
                BindingMode::Shadow => shadow::unbind_as(control, &actor, &binding.plugin, &target).await,
            };
            match ended {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut tx = control.store().begin().await?;
    drops::forget(&mut tx, &row.place, &row.file).await?;
    tx.commit().await?;
    tracing::info!(file = row.file, place = row.place, "a file is gone from the plugin directory");
    Ok(())
}

fn ends_with_file(row: &DropRow) -> Option<(Target, BindingMode, String)> {
    let binding = row.binding.as_ref().filter(|b| b["unbind_on_removal"] == true)?;
    let kind: TargetKind = binding["target"]["kind"].as_str()?.parse().ok()?;
    let name = binding["target"]["name"].as_str()?.to_owned();
    let mode: BindingMode = binding["mode"].as_str()?.parse().ok()?;
    Some((Target { kind, name }, mode, row.digest.clone()?))
}
