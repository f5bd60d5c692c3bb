//! Administration of policy plugins: upload, look, bind, unbind, roll back.
//!
//! Each change is one transaction with its entry in the history; running calls finish on the
//! revision they began with, the next call uses the new one.

mod bind;
mod life;
mod rollback;

use std::collections::BTreeSet;

use quarterdeck_model::policy::{BindingMode, LifeStep, PluginKind, RevisionStatus, Target};
use quarterdeck_store::plugins::steps::{self, StepRow};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, RevisionRow};
use quarterdeck_store::signatures::{self, SignatureRow};
use quarterdeck_store::{Sql, scaling_groups};

use crate::Control;
use crate::error::{Error, Result};
use crate::policies::{self, Standing};
use crate::principal::Principal;

pub use bind::{BindRequest, Switched, bind, unbind};
pub(crate) use bind::{bind_as, unbind_as};
pub(crate) use bind::{check_config, fits, serving, settle, target_exists};
pub(crate) use life::give_up;
pub use life::{MAX_COMPONENT_BYTES, Pushed, Upload, push, take_in, tidy};
pub use rollback::rollback;

/// Entries of the history that an inspection shows.
const HISTORY_SHOWN: u32 = 50;

/// A revision and where it serves.
#[derive(Clone, Debug)]
pub struct RevisionView {
    /// The revision.
    pub revision: RevisionRow,
    /// How far it has come: while it comes in, the step that is under way.
    pub stage: LifeStep,
    /// Its bindings.
    pub bindings: Vec<BindingRow>,
    /// Whom it serves without a binding, by its name alone.
    pub by_name: Vec<Target>,
    /// How its last calls on this host went.
    pub standing: Standing,
    /// The steps of its life, oldest first; only where it was asked for by itself.
    pub steps: Vec<StepRow>,
    /// Whose signature it bears.
    pub signature: Option<SignatureRow>,
}

/// Everything about one plugin.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its revisions, newest first.
    pub revisions: Vec<RevisionView>,
    /// What happened to it, newest first.
    pub history: Vec<HistoryRow>,
}

pub(crate) fn superadmin(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        Ok(())
    } else {
        Err(Error::InsufficientPrivilege("Only superadmins may administer plugins.".to_owned()))
    }
}

/// All revisions with their bindings, those that failed to come in included.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal) -> Result<Vec<RevisionView>> {
    superadmin(caller)?;
    let mut sql = control.store().reader();
    let mut bindings = plugins::bindings(&mut sql).await?;
    for binding in &mut bindings {
        binding.config = policies::effective_config(&mut sql, binding).await?;
    }
    let groups = scaling_groups::list(&mut sql, None).await?;
    let mut by_name = control.policies().serves_by_name(&groups);
    let latest = steps::latest(&mut sql).await?;
    let mut signatures = signatures::all(&mut sql).await?;
    let revisions = plugins::revisions(&mut sql).await?;
    Ok(revisions
        .into_iter()
        .map(|revision| {
            let bindings: Vec<_> = bindings.iter().filter(|b| b.digest == revision.digest).cloned().collect();
            let by_name = by_name.remove(&revision.digest).unwrap_or_default();
            RevisionView {
                stage: stage(&revision, &bindings, &by_name, latest.get(&revision.digest)),
                standing: control.policies().standing(&revision.digest),
                bindings,
                by_name,
                steps: Vec::new(),
                signature: signatures.remove(&revision.digest),
                revision,
            }
        })
        .collect())
}

fn stage(revision: &RevisionRow, bindings: &[BindingRow], by_name: &[Target], latest: Option<&StepRow>) -> LifeStep {
    let bound = |mode: BindingMode| bindings.iter().any(|b| b.mode == mode);
    match revision.status {
        RevisionStatus::Failed => LifeStep::Failed,
        RevisionStatus::Suspended => LifeStep::Suspended,
        RevisionStatus::Incoming => latest.map_or(LifeStep::Uploaded, |step| step.step),
        RevisionStatus::Ready if bound(BindingMode::Live) || !by_name.is_empty() => LifeStep::Active,
        RevisionStatus::Ready if bound(BindingMode::Shadow) => LifeStep::Shadow,
        RevisionStatus::Ready => match latest.map(|step| step.step) {
            Some(LifeStep::Active | LifeStep::Retired | LifeStep::Suspended) => LifeStep::Retired,
            _ => LifeStep::SelfTested,
        },
    }
}

/// Everything about the plugin that `reference` names (as in [`BindRequest::plugin`]).
///
/// # Errors
/// [`Error::NotFound`], [`Error::InsufficientPrivilege`].
pub async fn inspect(control: &Control, caller: &Principal, reference: &str) -> Result<Inspection> {
    let mut revisions = list(control, caller).await?;
    revisions.retain(|view| is_meant(reference, &view.revision));
    if revisions.is_empty() {
        return Err(Error::not_found_msg("plugin", reference));
    }
    revisions.sort_by_key(|view| std::cmp::Reverse(view.revision.uploaded_at));
    let mut sql = control.store().reader();
    for view in &mut revisions {
        view.steps = steps::of_revision(&mut sql, &view.revision.digest).await?;
    }
    let names: BTreeSet<&str> =
        revisions.iter().map(|v| v.revision.name.as_str()).filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let history = plugins::history_of(&mut sql, &names, HISTORY_SHOWN).await?;
    Ok(Inspection { revisions, history })
}

fn is_meant(reference: &str, revision: &RevisionRow) -> bool {
    let (name, version) = split_reference(reference);
    let named = !revision.name.is_empty() && revision.name == name && version.is_none_or(|v| revision.version == v);
    named || is_digest_of(reference, &revision.digest)
}

fn split_reference(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (reference, None),
    }
}

fn is_digest_of(reference: &str, digest: &str) -> bool {
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    hex.len() >= 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && digest.starts_with(&hex.to_ascii_lowercase())
}

/// The newest revision that `reference` names and that may be bound. Those that aren't fit count only when nothing
/// else is meant: the answer is their reason then.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::InvalidParams`] for one that came in badly, or is still coming in.
pub(crate) async fn find<S: Sql>(sql: &mut S, reference: &str) -> Result<(RevisionRow, PluginKind)> {
    let mut matches: Vec<RevisionRow> =
        plugins::revisions(sql).await?.into_iter().filter(|r| is_meant(reference, r)).collect();
    matches.sort_by_key(|r| (may_serve(r.status), r.uploaded_at, r.digest.clone()));
    let revision = matches.pop().ok_or_else(|| Error::not_found_msg("plugin", reference))?;
    let kind = kind_of(&revision)?;
    Ok((revision, kind))
}

fn may_serve(status: RevisionStatus) -> bool {
    matches!(status, RevisionStatus::Ready | RevisionStatus::Suspended)
}

/// The kind of a revision that may be bound.
fn kind_of(revision: &RevisionRow) -> Result<PluginKind> {
    match (revision.kind, revision.status) {
        (Some(kind), status) if may_serve(status) => Ok(kind),
        (_, RevisionStatus::Incoming) => {
            Err(Error::invalid(format!("The revision {} is still coming in.", revision.digest)))
        }
        _ => Err(Error::invalid(format!(
            "The revision {} can't serve: {}",
            revision.digest,
            revision.status_reason.as_deref().unwrap_or("it failed")
        ))),
    }
}

pub(crate) fn label(plugin: &str, version: Option<&str>) -> String {
    version.map_or_else(|| plugin.to_owned(), |v| format!("{plugin}@{v}"))
}

#[cfg(test)]
mod tests;
