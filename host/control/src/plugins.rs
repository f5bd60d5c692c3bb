//! Administration of policy plugins: upload, look, bind, unbind, roll back.
//!
//! Each change is one transaction with its entry in the history; running calls finish on the
//! revision they began with, the next call uses the new one.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target, TargetKind};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, Place, RevisionRow};
use quarterdeck_store::{Tx, revisions};
use serde_json::{Map, Value as Json};

use crate::Control;
use crate::error::{Error, Result};
use crate::policies::{self, FALLBACK_SCHEDULER};
use crate::principal::Principal;

/// Largest component that may be uploaded, in bytes: room for a Python guest.
pub const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// A revision and where it serves.
#[derive(Clone, Debug)]
pub struct RevisionView {
    /// The revision.
    pub revision: RevisionRow,
    /// Its bindings.
    pub bindings: Vec<BindingRow>,
    /// Failures in a row, on this host, until now.
    pub failures: u32,
}

/// Everything about one plugin.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its revisions, newest first.
    pub revisions: Vec<RevisionView>,
    /// What happened to it, newest first.
    pub history: Vec<HistoryRow>,
}

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

fn superadmin(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        Ok(())
    } else {
        Err(Error::InsufficientPrivilege("Only superadmins may administer plugins.".to_owned()))
    }
}

/// Takes in a component: verified, compiled and self-tested before anything is stored. Nobody is
/// served by it until it is bound. The flag tells whether this digest is new.
///
/// # Errors
/// [`Error::InvalidParams`] with the precise reason when the component isn't fit.
pub async fn push(control: &Control, caller: &Principal, component: &[u8]) -> Result<(RevisionRow, bool)> {
    superadmin(caller)?;
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(Error::invalid(format!("the component is larger than {} MiB", MAX_COMPONENT_BYTES >> 20)));
    }
    let plugin = control
        .runtime()
        .load(component)
        .await
        .map_err(|e| Error::invalid(format!("the component was refused: {e}")))?;
    let mut row = policies::revision_of(&plugin, component.len(), &caller.email, false);
    row.uploaded_at = control.clock().now();
    let mut tx = control.store().begin().await?;
    let created = plugins::insert_revision(&mut tx, &row, component).await?;
    if created {
        revisions::bump(&mut tx, "bindings").await?;
    } else if let Some(stored) = plugins::revision(&mut tx, &row.digest).await? {
        row = stored;
    }
    tx.commit().await?;
    control.policies().reload().await?;
    tracing::info!(plugin = row.name, version = row.version, digest = row.digest, by = caller.email, "plugin pushed");
    Ok((row, created))
}

/// All revisions with their bindings.
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
    Ok(plugins::revisions(&mut sql).await?.into_iter().map(|revision| view(control, revision, &bindings)).collect())
}

fn view(control: &Control, revision: RevisionRow, bindings: &[BindingRow]) -> RevisionView {
    RevisionView {
        bindings: bindings.iter().filter(|b| b.digest == revision.digest).cloned().collect(),
        failures: control.policies().failures(&revision.digest),
        revision,
    }
}

/// Everything about the plugin that `reference` names (as in [`BindRequest::plugin`]).
///
/// # Errors
/// [`Error::NotFound`], [`Error::InsufficientPrivilege`].
pub async fn inspect(control: &Control, caller: &Principal, reference: &str) -> Result<Inspection> {
    let all = list(control, caller).await?;
    let (name, version) = split_reference(reference);
    let revisions: Vec<RevisionView> = all
        .into_iter()
        .filter(|v| {
            (v.revision.name == name && version.is_none_or(|wanted| v.revision.version == wanted))
                || is_digest_of(reference, &v.revision.digest)
        })
        .collect();
    if revisions.is_empty() {
        return Err(Error::not_found_msg("plugin", reference));
    }
    let names: Vec<&str> = revisions.iter().map(|v| v.revision.name.as_str()).collect();
    let history = plugins::history_of(&mut control.store().reader(), &names, 50).await?;
    Ok(Inspection { revisions, history })
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

/// The newest revision that `reference` (see [`BindRequest::plugin`]) names.
pub(crate) async fn find(tx: &mut Tx, reference: &str) -> Result<RevisionRow> {
    let (name, version) = split_reference(reference);
    let mut matches: Vec<RevisionRow> = plugins::revisions(tx)
        .await?
        .into_iter()
        .filter(|r| {
            (r.name == name && version.is_none_or(|wanted| r.version == wanted)) || is_digest_of(reference, &r.digest)
        })
        .collect();
    matches.sort_by_key(|r| (r.uploaded_at, r.digest.clone()));
    matches.pop().ok_or_else(|| Error::not_found_msg("plugin", reference))
}

/// Lets a plugin serve a target, from the next call on.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin, scaling group or domain; [`Error::InvalidParams`] for
/// a target that the kind can't serve, or a configuration that the plugin refuses.
pub async fn bind(control: &Control, caller: &Principal, request: BindRequest) -> Result<Switched> {
    superadmin(caller)?;
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    let revision = find(&mut tx, &request.plugin).await?;
    let kind = known_kind(&revision)?;
    fits(kind, &request.target)?;
    target_exists(&mut tx, &request.target).await?;
    let serving = serving(&mut tx, &revision, &request.target).await?;
    let config = match request.config {
        Some(config) => config,
        None => match serving.as_ref().filter(|s| s.plugin == revision.name) {
            Some(s) => s.config.clone(),
            None => Json::Object(Map::new()),
        },
    };
    if !config.is_object() {
        return Err(Error::InvalidParams {
            msg: "Input validation error".to_owned(),
            data: Some(serde_json::json!({"config": "value is not a dict"})),
        });
    }
    // Compiling may take seconds when the cache is cold: not while holding the writer.
    tx.rollback().await?;
    let plugin = control.policies().plugin(&revision.digest).await?;
    plugin.check_config(&config.to_string()).map_err(|problems| Error::InvalidParams {
        msg: format!("{} refuses the configuration: {}", revision.name, policies::describe(&problems)),
        data: Some(
            problems.iter().map(|p| (p.pointer.clone(), Json::String(p.message.clone()))).collect::<Map<_, _>>().into(),
        ),
    })?;
    let mut tx = control.store().begin().await?;
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
        bound_by: caller.email.clone(),
        bound_at: now,
    };
    let switched = switch(&mut tx, "bind", &revision, &binding, config, serving, now).await?;
    tx.commit().await?;
    control.policies().reload().await?;
    control.signals().schedule.notify_one();
    tracing::info!(plugin = revision.name, version = revision.version, target = %binding.target, by = caller.email, "plugin bound");
    Ok(switched)
}

/// The kind of a revision that may be bound.
fn known_kind(revision: &RevisionRow) -> Result<PluginKind> {
    match (revision.kind, revision.status) {
        (Some(kind), RevisionStatus::Ready | RevisionStatus::Suspended) => Ok(kind),
        _ => Err(Error::invalid(format!("The revision {} isn't fit to serve: it is {}.", revision.digest, revision.status))),
    }
}

/// What serves a target now, in the place that a new revision would take.
#[derive(Clone, Debug)]
struct Serving {
    plugin: String,
    digest: Option<String>,
    version: Option<String>,
    config: Json,
    position: Option<i64>,
    failure_policy: FailurePolicy,
}

async fn serving(tx: &mut Tx, revision: &RevisionRow, target: &Target) -> Result<Option<Serving>> {
    let (plugin, config) = if revision.kind == Some(PluginKind::Scheduler) {
        let Some((scheduler, opts)) = plugins::group_scheduler(tx, &target.name).await? else { return Ok(None) };
        (scheduler, Some(opts.get("config").cloned().unwrap_or_else(|| Json::Object(Map::new()))))
    } else {
        (revision.name.clone(), None)
    };
    let bindings = plugins::bindings(tx).await?;
    let binding = bindings
        .into_iter()
        .find(|b| Some(b.kind) == revision.kind && b.plugin == plugin && b.target == *target && b.mode == BindingMode::Live);
    let all = plugins::revisions(tx).await?;
    let current = match &binding {
        Some(b) => all.iter().find(|r| r.digest == b.digest),
        // A scheduler may serve by its name alone.
        None if revision.kind == Some(PluginKind::Scheduler) => all
            .iter()
            .filter(|r| r.kind == Some(PluginKind::Scheduler) && r.name == plugin && r.status == RevisionStatus::Ready)
            .max_by_key(|r| (r.builtin, r.uploaded_at, r.digest.clone())),
        None => return Ok(None),
    };
    Ok(Some(Serving {
        digest: current.map(|r| r.digest.clone()),
        version: current.map(|r| r.version.clone()),
        position: binding.as_ref().and_then(|b| b.position),
        failure_policy: binding.as_ref().map_or(FailurePolicy::FailClosed, |b| b.failure_policy),
        config: config.or_else(|| binding.map(|b| b.config)).unwrap_or_else(|| Json::Object(Map::new())),
        plugin,
    }))
}

/// Installs `revision` and records the change. A suspended revision gets a new chance.
async fn switch(
    tx: &mut Tx,
    action: &str,
    revision: &RevisionRow,
    binding: &BindingRow,
    config: Json,
    before: Option<Serving>,
    now: Timestamp,
) -> Result<Switched> {
    plugins::set_status(tx, &revision.digest, RevisionStatus::Ready, None).await?;
    policies::install(tx, revision, binding, config.clone(), now).await?;
    let record = HistoryRow {
        id: 0,
        at: now,
        actor: binding.bound_by.clone(),
        action: action.to_owned(),
        kind: binding.kind,
        plugin: revision.name.clone(),
        target: binding.target.clone(),
        now: Some(policies::place(binding, config)),
        before: before.as_ref().map(|b| Place {
            plugin: b.plugin.clone(),
            digest: b.digest.clone(),
            config: b.config.clone(),
            position: b.position,
            failure_policy: b.failure_policy,
        }),
        reason: None,
    };
    plugins::record(tx, &record).await?;
    revisions::bump(tx, "bindings").await?;
    Ok(Switched { now: Some(revision.clone()), before: before.map(|b| label(&b.plugin, b.version.as_deref())) })
}

fn label(plugin: &str, version: Option<&str>) -> String {
    version.map_or_else(|| plugin.to_owned(), |v| format!("{plugin}@{v}"))
}

fn fits(kind: PluginKind, target: &Target) -> Result<()> {
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

async fn target_exists(tx: &mut Tx, target: &Target) -> Result<()> {
    match target.kind {
        TargetKind::Everywhere => Ok(()),
        TargetKind::ScalingGroup => match plugins::group_scheduler(tx, &target.name).await? {
            Some(_) => Ok(()),
            None => Err(Error::not_found_msg("scaling group", target.name.clone())),
        },
        TargetKind::Domain => match quarterdeck_store::domains::get(tx, &target.name).await? {
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
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    let bindings = plugins::bindings(&mut tx).await?;
    let binding = bindings
        .into_iter()
        .find(|b| b.plugin == plugin && b.target == *target && b.mode == BindingMode::Live)
        .ok_or_else(|| Error::not_found_msg("plugin binding", format!("{plugin} is not bound to {target}")))?;
    let config = policies::effective_config(&mut tx, &binding).await?;
    plugins::delete_binding(&mut tx, binding.kind, plugin, target, BindingMode::Live).await?;
    let version = plugins::revision(&mut tx, &binding.digest).await?.map(|r| r.version);
    if binding.kind == PluginKind::Scheduler
        && let Some((scheduler, mut opts)) = plugins::group_scheduler(&mut tx, &target.name).await?
        && scheduler == plugin
    {
        opts["config"] = Json::Object(Map::new());
        plugins::set_group_scheduler(&mut tx, &target.name, FALLBACK_SCHEDULER, &opts).await?;
        revisions::bump(&mut tx, "identity").await?;
    }
    let record = HistoryRow {
        id: 0,
        at: now,
        actor: caller.email.clone(),
        action: "unbind".to_owned(),
        kind: binding.kind,
        plugin: plugin.to_owned(),
        target: target.clone(),
        now: None,
        before: Some(policies::place(&binding, config)),
        reason: None,
    };
    plugins::record(&mut tx, &record).await?;
    revisions::bump(&mut tx, "bindings").await?;
    tx.commit().await?;
    control.policies().reload().await?;
    control.signals().schedule.notify_one();
    Ok(Switched { now: None, before: Some(label(plugin, version.as_deref())) })
}

/// Undoes the last change at a target: what served before it serves again, with its configuration.
/// Done twice it is where it was.
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
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    let kinds = match (kind, target.kind) {
        (Some(kind), _) => vec![kind],
        (None, TargetKind::ScalingGroup) => vec![PluginKind::Scheduler],
        (None, _) => vec![PluginKind::IdleChecker, PluginKind::Hook],
    };
    let mut last = Vec::new();
    for kind in kinds {
        last.extend(plugins::history(&mut tx, kind, target, 1).await?);
    }
    let entry = match last.len() {
        0 => return Err(Error::not_found_msg("plugin binding", format!("nothing was ever bound to {target}"))),
        1 => last.remove(0),
        _ => return Err(Error::invalid("Several kinds of plugin are bound there: say which kind to roll back.")),
    };
    let Some((previous, place)) = entry.before.and_then(|place| Some((place.digest.clone()?, place))) else {
        // Nothing served before: the way back is an unbinding.
        tx.rollback().await?;
        return unbind(control, caller, &entry.plugin, target).await;
    };
    let revision = plugins::revision(&mut tx, &previous)
        .await?
        .ok_or_else(|| Error::not_found_msg("plugin", format!("the revision {previous} is gone")))?;
    let kind = known_kind(&revision)?;
    let before = match &entry.now {
        Some(_) => {
            let current = serving(&mut tx, &revision, target).await?;
            // Another plugin of the same kind took a place of its own beside the old one.
            if revision.kind != Some(PluginKind::Scheduler) && revision.name != entry.plugin {
                plugins::delete_binding(&mut tx, kind, &entry.plugin, target, BindingMode::Live).await?;
            }
            current
        }
        None => None,
    };
    let binding = BindingRow {
        id: String::new(),
        kind,
        plugin: revision.name.clone(),
        target: target.clone(),
        digest: revision.digest.clone(),
        config: Json::Null,
        position: place.position,
        mode: BindingMode::Live,
        failure_policy: place.failure_policy,
        bound_by: caller.email.clone(),
        bound_at: now,
    };
    let switched = switch(&mut tx, "rollback", &revision, &binding, place.config, before, now).await?;
    tx.commit().await?;
    control.policies().reload().await?;
    control.signals().schedule.notify_one();
    tracing::info!(plugin = revision.name, version = revision.version, %target, by = caller.email, "plugin rolled back");
    Ok(switched)
}

#[cfg(test)]
mod tests {
    use super::{fits, is_digest_of, split_reference};
    use quarterdeck_model::policy::{PluginKind, Target};

    #[test]
    fn references_name_a_version_or_a_digest() {
        assert_eq!(split_reference("fifo"), ("fifo", None));
        assert_eq!(split_reference("fifo@1.2.0"), ("fifo", Some("1.2.0")));
        let digest = "0123456789abcdef";
        assert!(is_digest_of("01234567", digest));
        assert!(is_digest_of("sha256:0123456789ABCDEF", digest));
        assert!(!is_digest_of("0123456", digest), "too short to be meant");
        assert!(!is_digest_of("fifo", digest));
    }

    #[test]
    fn kinds_serve_their_own_targets() {
        assert!(fits(PluginKind::Scheduler, &Target::scaling_group("g")).is_ok());
        assert!(fits(PluginKind::Scheduler, &Target::everywhere()).is_err());
        assert!(fits(PluginKind::Hook, &Target::domain("d")).is_ok());
        assert!(fits(PluginKind::IdleChecker, &Target::scaling_group("g")).is_err());
    }
}
