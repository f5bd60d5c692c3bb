//! The same switch backwards.

use quarterdeck_model::policy::{BindingMode, PluginKind, Target, TargetKind};
use quarterdeck_store::plugins::{self, BindingRow};
use serde_json::Value as Json;

use super::bind::{Switched, remove, switch};
use super::superadmin;
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// Undoes the last change at a target: what served before it serves again, as it was bound then. Done twice it is where
/// it was.
///
/// # Errors
/// [`Error::NotFound`] when nothing was ever changed there, [`Error::InvalidParams`] when several
/// kinds were and `kind` doesn't say which.
pub async fn rollback(
    control: &Control,
    caller: &Principal,
    kind: Option<PluginKind>,
    target: &Target,
) -> Result<Switched> {
    superadmin(caller)?;
    let mut sql = control.store().reader();
    let kinds = match (kind, target.kind) {
        (Some(kind), _) => vec![kind],
        (None, TargetKind::ScalingGroup) => vec![PluginKind::Scheduler],
        (None, _) => vec![PluginKind::IdleChecker, PluginKind::Hook],
    };
    let mut last = Vec::new();
    for kind in kinds {
        last.extend(plugins::history(&mut sql, kind, target, 1).await?);
    }
    let entry = match last.len() {
        0 => return Err(Error::not_found_msg("plugin binding", format!("nothing was ever bound to {target}"))),
        1 => last.remove(0),
        _ => return Err(Error::invalid("Several kinds of plugin are bound there: say which kind to roll back.")),
    };
    let Some((digest, place)) = entry.before.and_then(|place| Some((place.digest.clone()?, place))) else {
        // Nothing served before: the way back is an unbinding.
        return remove(control, "rollback", &caller.email, &entry.plugin, target).await;
    };
    let binding = BindingRow {
        id: String::new(),
        kind: entry.kind,
        plugin: place.plugin.clone(),
        target: target.clone(),
        digest: digest.clone(),
        config: Json::Null,
        position: place.position,
        mode: BindingMode::Live,
        failure_policy: place.failure_policy,
        bound_by: caller.email.clone(),
        bound_at: control.clock().now(),
    };
    let switched = switch(control, "rollback", &digest, &binding, place.config).await?;
    tracing::info!(plugin = place.plugin, digest, %target, by = caller.email, "plugin rolled back");
    Ok(switched)
}
