//! Who serves whom: binding and unbinding.

use std::sync::Arc;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target, TargetKind};
use quarterdeck_plugin::Objection;
use quarterdeck_store::Sql;
use quarterdeck_store::plugins::{self, BindingRow, Place, RevisionRow};
use serde_json::{Map, Value as Json};

use super::{find, kind_of, label, superadmin};
use crate::Control;
use crate::error::{Error, Result};
use crate::policies::{Switch, no_config};
use crate::principal::Principal;
use crate::signatures;

/// What to bind to whom.
#[derive(Clone, Debug)]
pub struct BindRequest {
    /// `NAME`, `NAME@VERSION`, or the first 8 or more digits of a digest.
    pub plugin: String,
    /// Whom it shall serve.
    pub target: Target,
    /// Its configuration; `None` keeps the one of the binding it replaces (of the same plugin).
    pub config: Option<Json>,
    /// Place in the order of calls; by name without one.
    pub position: Option<i64>,
    /// Hooks: what a failure means.
    pub failure_policy: FailurePolicy,
}

/// What a change of a binding did.
#[derive(Clone, Debug)]
pub struct Switched {
    /// What serves now; `None` after an unbinding.
    pub now: Option<RevisionRow>,
    /// What served before (`name@version`), if anything did.
    pub before: Option<String>,
}

/// Lets a plugin serve a target, from the next call on.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin, scaling group or domain; [`Error::InvalidParams`] for
/// a revision that failed to come in, a target that the kind can't serve, or a configuration that the plugin refuses.
pub async fn bind(control: &Control, caller: &Principal, request: BindRequest) -> Result<Switched> {
    superadmin(caller)?;
    bind_as(control, &caller.email, request).await
}

/// As [`bind`], on behalf of somebody who was let in elsewhere.
///
/// # Errors
/// As [`bind`].
pub(crate) async fn bind_as(control: &Control, actor: &str, request: BindRequest) -> Result<Switched> {
    let mut sql = control.store().reader();
    let (revision, kind) = find(&mut sql, &request.plugin).await?;
    fits(kind, &request.target)?;
    target_exists(&mut sql, &request.target).await?;
    let config = match request.config {
        Some(config) => config,
        None => serving(&mut sql, kind, &revision.name, &request.target)
            .await?
            .filter(|place| place.plugin == revision.name)
            .map_or_else(no_config, |place| place.config),
    };
    // Compiling may take seconds when the cache is cold, and the check is the guest's: not while holding the writer.
    check_config(control, &revision, &config).await?;

    let binding = BindingRow {
        id: String::new(),
        kind,
        plugin: revision.name.clone(),
        target: request.target,
        digest: revision.digest.clone(),
        config: Json::Null,
        position: request.position,
        mode: BindingMode::Live,
        failure_policy: request.failure_policy,
        bound_by: actor.to_owned(),
        bound_at: control.clock().now(),
    };
    let switched = switch(control, "bind", &revision.digest, &binding, config).await?;
    tracing::info!(plugin = revision.name, version = revision.version, target = %binding.target, by = actor, "plugin bound");
    Ok(switched)
}

/// Whether a configuration may be bound: the plugin's schema and the plugin itself find no fault with it.
///
/// # Errors
/// [`Error::InvalidParams`] with what is wrong, by JSON pointer; also when the plugin breaks over it.
pub(crate) async fn check_config(control: &Control, revision: &RevisionRow, config: &Json) -> Result<()> {
    if !config.is_object() {
        return Err(Error::InvalidParams {
            msg: "Input validation error".to_owned(),
            data: Some(serde_json::json!({"config": "value is not a dict"})),
        });
    }
    let plugin = control.policies().plugin(&revision.digest).await?;
    let text = config.to_string();
    let asked = tokio::task::spawn_blocking(move || Arc::clone(&plugin).check_config(&text)).await;
    match asked.map_err(|e| Error::Internal(format!("a configuration check broke off: {e}")))? {
        Ok(()) => Ok(()),
        Err(objection @ Objection::Refused(_)) => Err(Error::InvalidParams {
            msg: format!("{} refuses the configuration: {objection}", revision.name),
            data: Some(
                objection
                    .problems()
                    .iter()
                    .map(|p| (p.pointer.clone(), Json::String(p.message.clone())))
                    .collect::<Map<_, _>>()
                    .into(),
            ),
        }),
        Err(Objection::Failed(failure)) => {
            Err(Error::invalid(format!("{} fails to check the configuration: {failure}", revision.name)))
        }
    }
}

/// Makes a change: `digest` takes the place that `binding` describes. One transaction; this host follows it at once,
/// the others at their next look.
pub(super) async fn switch(
    control: &Control,
    action: &str,
    digest: &str,
    binding: &BindingRow,
    config: Json,
) -> Result<Switched> {
    let change = Switch {
        policies: control.policies(),
        action,
        actor: &binding.bound_by,
        reason: None,
        now: control.clock().now(),
    };
    if let Some(revision) = plugins::revision(&mut control.store().reader(), digest).await? {
        signatures::may_serve(control, &revision).await?;
    }
    let mut tx = Switch::begin(control.store()).await?;
    let revision = plugins::revision(&mut tx, digest)
        .await?
        .ok_or_else(|| Error::not_found_msg("plugin", format!("the revision {digest} is gone")))?;
    kind_of(&revision)?;
    let before = serving(&mut tx, binding.kind, &revision.name, &binding.target).await?;
    let version = match before.as_ref().and_then(|p| p.digest.as_ref()) {
        Some(digest) => plugins::revision(&mut tx, digest).await?.map(|r| r.version),
        None => None,
    };
    change.install(&mut tx, &revision, binding, config, before.clone()).await?;
    tx.commit().await?;
    settle(control).await?;
    Ok(Switched { now: Some(revision), before: before.map(|p| label(&p.plugin, version.as_deref())) })
}

/// Lets this host follow a change that was committed.
pub(crate) async fn settle(control: &Control) -> Result<()> {
    control.policies().reload().await?;
    // A scaling group may name another scheduler now.
    control.identity().refresh().await?;
    control.signals().schedule.notify_one();
    Ok(())
}

/// What serves a target now, in the place that a revision of `plugin` would take.
pub(crate) async fn serving<S: Sql>(
    sql: &mut S,
    kind: PluginKind,
    plugin: &str,
    target: &Target,
) -> Result<Option<Place>> {
    let (plugin, config) = if kind == PluginKind::Scheduler {
        let Some((scheduler, opts)) = plugins::group_scheduler(sql, &target.name).await? else { return Ok(None) };
        (scheduler, Some(opts.get("config").cloned().unwrap_or_else(no_config)))
    } else {
        (plugin.to_owned(), None)
    };
    let binding = plugins::bindings(sql)
        .await?
        .into_iter()
        .find(|b| b.kind == kind && b.plugin == plugin && b.target == *target && b.mode == BindingMode::Live);
    let digest = match &binding {
        Some(binding) => Some(binding.digest.clone()),
        // A scheduler may serve by its name alone.
        None if kind == PluginKind::Scheduler => plugins::revisions(sql)
            .await?
            .into_iter()
            .filter(|r| r.kind == Some(kind) && r.name == plugin && r.status == RevisionStatus::Ready)
            .max_by_key(|r| (r.builtin, r.uploaded_at, r.digest.clone()))
            .map(|r| r.digest),
        None => return Ok(None),
    };
    Ok(Some(Place {
        plugin,
        digest,
        position: binding.as_ref().and_then(|b| b.position),
        failure_policy: binding.as_ref().map_or(FailurePolicy::FailClosed, |b| b.failure_policy),
        config: config.or_else(|| binding.map(|b| b.config)).unwrap_or_else(no_config),
    }))
}

pub(crate) fn fits(kind: PluginKind, target: &Target) -> Result<()> {
    let fine = match kind {
        PluginKind::Scheduler => target.kind == TargetKind::ScalingGroup,
        PluginKind::IdleChecker | PluginKind::Hook => target.kind != TargetKind::ScalingGroup,
    };
    if fine {
        return Ok(());
    }
    let wanted = match kind {
        PluginKind::Scheduler => "a scaling group",
        PluginKind::IdleChecker | PluginKind::Hook => "a domain or everybody",
    };
    Err(Error::invalid(format!("A plugin of kind {kind} serves {wanted}, not {target}.")))
}

pub(crate) async fn target_exists<S: Sql>(sql: &mut S, target: &Target) -> Result<()> {
    match target.kind {
        TargetKind::Everywhere => Ok(()),
        TargetKind::ScalingGroup => match plugins::group_scheduler(sql, &target.name).await? {
            Some(_) => Ok(()),
            None => Err(Error::not_found_msg("scaling group", target.name.clone())),
        },
        TargetKind::Domain => match quarterdeck_store::domains::get(sql, &target.name).await? {
            Some(_) => Ok(()),
            None => Err(Error::not_found_msg("domain", target.name.clone())),
        },
    }
}

/// Ends a binding. A scaling group falls back to the built-in `fifo`.
///
/// # Errors
/// [`Error::NotFound`] when that plugin isn't bound there.
pub async fn unbind(control: &Control, caller: &Principal, plugin: &str, target: &Target) -> Result<Switched> {
    superadmin(caller)?;
    remove(control, "unbind", &caller.email, plugin, target).await
}

/// As [`unbind`], on behalf of somebody who was let in elsewhere.
///
/// # Errors
/// As [`unbind`].
pub(crate) async fn unbind_as(control: &Control, actor: &str, plugin: &str, target: &Target) -> Result<Switched> {
    remove(control, "unbind", actor, plugin, target).await
}

/// Ends a binding, as `action` says in the history.
pub(super) async fn remove(
    control: &Control,
    action: &str,
    actor: &str,
    plugin: &str,
    target: &Target,
) -> Result<Switched> {
    let now: Timestamp = control.clock().now();
    let change = Switch { policies: control.policies(), action, actor, reason: None, now };
    let mut tx = Switch::begin(control.store()).await?;
    let binding = plugins::bindings(&mut tx)
        .await?
        .into_iter()
        .find(|b| b.plugin == plugin && b.target == *target && b.mode == BindingMode::Live)
        .ok_or_else(|| Error::not_found_msg("plugin binding", format!("{plugin} is not bound to {target}")))?;
    let version = plugins::revision(&mut tx, &binding.digest).await?.map(|r| r.version);
    change.remove(&mut tx, &binding).await?;
    tx.commit().await?;
    settle(control).await?;
    tracing::info!(plugin, %target, by = actor, "plugin unbound");
    Ok(Switched { now: None, before: Some(label(plugin, version.as_deref())) })
}

#[cfg(test)]
mod tests {
    use super::fits;
    use quarterdeck_model::policy::{PluginKind, Target};

    #[test]
    fn kinds_serve_their_own_targets() {
        assert!(fits(PluginKind::Scheduler, &Target::scaling_group("g")).is_ok());
        assert!(fits(PluginKind::Scheduler, &Target::everywhere()).is_err());
        assert!(fits(PluginKind::Hook, &Target::domain("d")).is_ok());
        assert!(fits(PluginKind::IdleChecker, &Target::scaling_group("g")).is_err());
    }
}
