//! How candidates come to watch, stop watching, and are promoted.

use quarterdeck_model::policy::{BindingMode, LifeStep, PluginKind, Target};
use quarterdeck_store::plugins::{self, BindingRow};
use quarterdeck_store::shadow::{self as rows, Totals};
use serde_json::Value as Json;

use super::{Figures, is_shadow_of, superadmin};
use crate::Control;
use crate::error::{Error, Result};
use crate::plugins::{BindRequest, Switched, check_config, find, fits, label, serving, settle, target_exists};
use crate::policies::{Switch, no_config};
use crate::principal::Principal;
use crate::signatures;

/// Lets a plugin watch what is decided for a target, from the next round (tick, event) on. Bound again it begins anew.
///
/// # Errors
/// As [`crate::plugins::bind`].
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
    signatures::may_serve(control, &revision).await?;
    fits(kind, &request.target)?;
    target_exists(&mut sql, &request.target).await?;
    let config = match request.config {
        Some(config) => config,
        None => known_config(control, kind, &revision.name, &request.target).await?,
    };
    check_config(control, &revision, &config).await?;
    let binding = BindingRow {
        // A new one each time: what the one before saw goes with it.
        id: uuid::Uuid::new_v4().to_string(),
        kind,
        plugin: revision.name.clone(),
        target: request.target,
        digest: revision.digest.clone(),
        config,
        position: request.position,
        mode: BindingMode::Shadow,
        failure_policy: request.failure_policy,
        bound_by: actor.to_owned(),
        bound_at: control.clock().now(),
    };
    let change = switch(control, "shadow", actor, None);
    let mut tx = Switch::begin(control.store()).await?;
    plugins::delete_binding(&mut tx, kind, &binding.plugin, &binding.target, BindingMode::Shadow).await?;
    plugins::upsert_binding(&mut tx, &binding).await?;
    rows::begin(&mut tx, &binding.id, binding.bound_at).await?;
    change.step(&mut tx, &binding.digest, LifeStep::Shadow, &format!("watches {}", binding.target)).await?;
    tx.commit().await?;
    settle(control).await?;
    tracing::info!(plugin = revision.name, version = revision.version, target = %binding.target, by = actor,
        "plugin bound in shadow");
    Ok(Switched { now: Some(revision), before: None })
}

/// The configuration of the shadow binding that would be replaced, else of the live one of that plugin.
async fn known_config(control: &Control, kind: PluginKind, plugin: &str, target: &Target) -> Result<Json> {
    let mut sql = control.store().reader();
    let bindings = plugins::bindings(&mut sql).await?;
    if let Some(binding) = bindings.into_iter().find(|b| is_shadow_of(b, kind, plugin, target)) {
        return Ok(binding.config);
    }
    let live = serving(&mut sql, kind, plugin, target).await?.filter(|place| place.plugin == plugin);
    Ok(live.map_or_else(no_config, |place| place.config))
}

fn switch<'a>(control: &'a Control, action: &'a str, actor: &'a str, reason: Option<&'a str>) -> Switch<'a> {
    Switch { policies: control.policies(), action, actor, reason, now: control.clock().now() }
}

async fn shadow_binding(tx: &mut quarterdeck_store::Tx, plugin: &str, target: &Target) -> Result<BindingRow> {
    let bindings = plugins::bindings(tx).await?;
    let found = bindings.into_iter().find(|b| is_shadow_of(b, b.kind, plugin, target));
    found.ok_or_else(|| Error::not_found_msg("shadow binding", format!("{plugin} does not watch {target}")))
}

/// Ends a shadow binding; what it saw goes with it.
///
/// # Errors
/// [`Error::NotFound`] when that plugin doesn't watch there.
pub async fn unbind(control: &Control, caller: &Principal, plugin: &str, target: &Target) -> Result<Switched> {
    superadmin(caller)?;
    unbind_as(control, &caller.email, plugin, target).await
}

/// As [`unbind`], on behalf of somebody who was let in elsewhere.
///
/// # Errors
/// As [`unbind`].
pub(crate) async fn unbind_as(control: &Control, actor: &str, plugin: &str, target: &Target) -> Result<Switched> {
    let mut tx = Switch::begin(control.store()).await?;
    let binding = shadow_binding(&mut tx, plugin, target).await?;
    let version = plugins::revision(&mut tx, &binding.digest).await?.map(|r| r.version);
    plugins::delete_binding(&mut tx, binding.kind, plugin, target, BindingMode::Shadow).await?;
    tx.commit().await?;
    settle(control).await?;
    tracing::info!(plugin, %target, by = actor, "plugin unbound from its shadow");
    Ok(Switched { now: None, before: Some(label(plugin, version.as_deref())) })
}

/// Lets a plugin that watches a target decide there, with the configuration that it watched with. One transaction; the
/// history keeps in figures what it saw. [`crate::plugins::rollback`] undoes it.
///
/// # Errors
/// [`Error::NotFound`] when that plugin doesn't watch there; [`Error::InvalidParams`] when it failed, was put to rest or
/// saw nothing yet, unless `force`.
pub async fn promote(
    control: &Control,
    caller: &Principal,
    plugin: &str,
    target: &Target,
    force: bool,
) -> Result<Switched> {
    superadmin(caller)?;
    // A look at the whole component: not while holding the writer. One that takes its place meanwhile was looked at then.
    let watching = plugins::bindings(&mut control.store().reader()).await?;
    if let Some(binding) = watching.into_iter().find(|b| is_shadow_of(b, b.kind, plugin, target))
        && let Some(revision) = plugins::revision(&mut control.store().reader(), &binding.digest).await?
    {
        signatures::may_serve(control, &revision).await?;
    }
    let mut tx = Switch::begin(control.store()).await?;
    let binding = shadow_binding(&mut tx, plugin, target).await?;
    let totals = rows::totals(&mut tx, &binding.id).await?.unwrap_or_default();
    if let (Some(doubt), false) = (doubt(&totals), force) {
        return Err(Error::invalid(format!("{plugin} {doubt}. Promote it by force if that doesn't matter.")));
    }
    let revision = plugins::revision(&mut tx, &binding.digest)
        .await?
        .ok_or_else(|| Error::not_found_msg("plugin", format!("the revision {} is gone", binding.digest)))?;
    let before = serving(&mut tx, binding.kind, plugin, target).await?;
    let version = match before.as_ref().and_then(|p| p.digest.as_ref()) {
        Some(digest) => plugins::revision(&mut tx, digest).await?.map(|r| r.version),
        None => None,
    };
    let reason = record_of(&totals);
    let change = switch(control, "promote", &caller.email, Some(&reason));
    plugins::delete_binding(&mut tx, binding.kind, plugin, target, BindingMode::Shadow).await?;
    let like = BindingRow { bound_by: caller.email.clone(), ..binding.clone() };
    change.install(&mut tx, &revision, &like, binding.config.clone(), before.clone()).await?;
    tx.commit().await?;
    settle(control).await?;
    tracing::info!(plugin, version = revision.version, %target, by = caller.email, reason, "plugin promoted");
    Ok(Switched { now: Some(revision), before: before.map(|p| label(&p.plugin, version.as_deref())) })
}

/// What speaks against promoting a candidate.
fn doubt(totals: &Totals) -> Option<String> {
    if let Some((_, reason)) = &totals.rested {
        return Some(format!("was put to rest: it {reason}"));
    }
    if totals.failed > 0 {
        return Some(format!("failed in {} of {} cases that it was shown", totals.failed, totals.seen));
    }
    (totals.seen == 0).then(|| "has not been shown anything yet".to_owned())
}

/// What a candidate saw, in a few words.
fn record_of(totals: &Totals) -> String {
    let figures = Figures::of(totals);
    let mut words = format!("shown {} cases, failed in {}", figures.seen, figures.failed);
    if let Some(agreement) = figures.agreement {
        words.push_str(&format!(", decided {:.1} % of the others alike", agreement * 100.0));
    }
    words
}

#[cfg(test)]
mod tests {
    use quarterdeck_model::Timestamp;
    use quarterdeck_store::shadow::{Run, Totals};

    use super::{Figures, doubt, record_of};

    fn run(same: i64, elsewhere: i64, waited: (i64, i64)) -> Run {
        Run {
            outcome: "ok".to_owned(),
            same,
            elsewhere,
            live_waited_ms: waited.0,
            candidate_waited_ms: waited.1,
            live_us: 100,
            candidate_us: 150,
            live_fragmentation: 0.5,
            candidate_fragmentation: 0.25,
            ..Run::default()
        }
    }

    #[test]
    fn figures_are_shares_and_means() {
        let mut totals = Totals::default();
        assert_eq!(Figures::of(&totals).agreement, None);
        totals.count(&run(2, 0, (20, 20)), true);
        totals.count(&run(0, 2, (20, 60)), false);
        totals.count(&Run { outcome: "trap: x".to_owned(), ..Run::default() }, false);
        let figures = Figures::of(&totals);
        assert_eq!((figures.seen, figures.failed, figures.agreement), (3, 1, Some(0.5)));
        assert_eq!((figures.wait_difference_ms, figures.latency_ratio), (Some(10.0), Some(1.5)));
        assert_eq!(figures.fragmentation_difference, Some(-0.25));
        assert_eq!(totals.failed_in_a_row, 1);
        totals.count(&run(1, 0, (0, 0)), true);
        assert_eq!(totals.failed_in_a_row, 0);
    }

    #[test]
    fn only_a_good_record_is_promoted() {
        let mut totals = Totals::default();
        assert!(doubt(&totals).is_some_and(|d| d.contains("not been shown")));
        totals.count(&run(1, 0, (0, 0)), true);
        assert_eq!(doubt(&totals), None);
        assert_eq!(record_of(&totals), "shown 1 cases, failed in 0, decided 100.0 % of the others alike");
        totals.count(&Run { outcome: "trap".to_owned(), ..Run::default() }, false);
        assert!(doubt(&totals).is_some_and(|d| d.contains("1 of 2")));
        totals.rested = Some((Timestamp(0), "failed 5 times in a row".to_owned()));
        assert!(doubt(&totals).is_some_and(|d| d.contains("put to rest")));
    }
}
