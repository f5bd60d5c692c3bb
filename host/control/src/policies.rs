//! Which plugin serves whom, and what happens to one that keeps failing.
//!
//! Bindings and revisions are cached; the revision number `bindings` of the database tells when to
//! read them again. Plugins are compiled at their first use (or come from the compiled cache).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target, TargetKind};
use quarterdeck_plugin::{Failure, Plugin, Runtime};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, Place, RevisionRow};
use quarterdeck_store::scaling_groups::ScalingGroupRow;
use quarterdeck_store::{Sql, Store, Tx, revisions};
use serde_json::{Map, Value as Json};

use crate::config::ConfigCache;
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// Failures in a row after which a revision is suspended.
pub const FAILURES_UNTIL_SUSPENSION: u32 = 5;

/// The scheduler that takes over when another one fails.
pub const FALLBACK_SCHEDULER: &str = "fifo";

/// The idle checker that is always on, and first.
pub const FIRST_IDLE_CHECKER: &str = "session_lifetime";

/// A plugin revision with the configuration that it serves somebody with.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The compiled plugin.
    pub plugin: Arc<Plugin>,
    /// Its configuration, a JSON object.
    pub config: String,
    /// The binding behind it; `None` where a built-in serves by default.
    pub binding_id: Option<String>,
    /// Whom it serves.
    pub target: Target,
    /// A failing hook lets the operation go on.
    pub fail_open: bool,
}

/// What the database says about revisions and bindings.
#[derive(Debug, Default)]
struct Catalogue {
    revision: i64,
    revisions: HashMap<String, RevisionRow>,
    bindings: Vec<BindingRow>,
}

impl Catalogue {
    /// The revision that serves where no binding pins one: the newest built-in of that name, else
    /// the newest of that name. Pushing a component never changes who serves.
    fn default_revision(&self, kind: PluginKind, name: &str) -> Option<&RevisionRow> {
        self.revisions
            .values()
            .filter(|r| r.kind == Some(kind) && r.name == name && r.status == RevisionStatus::Ready)
            .max_by_key(|r| (r.builtin, r.uploaded_at, r.digest.clone()))
    }

    fn binding(&self, kind: PluginKind, plugin: &str, target: &Target) -> Option<&BindingRow> {
        self.bindings
            .iter()
            .find(|b| b.mode == BindingMode::Live && b.kind == kind && b.plugin == plugin && b.target == *target)
    }

    fn is_ready(&self, digest: &str) -> bool {
        self.revisions.get(digest).is_some_and(|r| r.status == RevisionStatus::Ready)
    }
}

/// Who decides what.
#[derive(Debug)]
pub struct Policies {
    store: Store,
    runtime: Runtime,
    config: Arc<ConfigCache>,
    metrics: Arc<Metrics>,
    catalogue: ArcSwap<Catalogue>,
    failures: Mutex<HashMap<String, u32>>,
    /// Configurations found valid (`Ok`) or not, by digest and text: checked once, not each round.
    checked: Mutex<HashMap<(String, String), Result<(), String>>>,
}

impl Policies {
    /// Registers the built-in plugins as revisions and reads the bindings.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Internal`] when a built-in doesn't load, which is a broken build.
    pub async fn open(store: Store, runtime: Runtime, config: Arc<ConfigCache>, metrics: Arc<Metrics>) -> Result<Self> {
        let policies = Self {
            store,
            runtime,
            config,
            metrics,
            catalogue: ArcSwap::default(),
            failures: Mutex::default(),
            checked: Mutex::default(),
        };
        policies.register_builtins().await?;
        policies.reload().await?;
        Ok(policies)
    }

    async fn register_builtins(&self) -> Result<()> {
        for builtin in quarterdeck_plugin::builtin::all() {
            let digest = quarterdeck_plugin::digest(builtin.wasm);
            if plugins::revision(&mut self.store.reader(), &digest).await?.is_some() {
                continue;
            }
            let plugin = self
                .runtime
                .load(builtin.wasm)
                .await
                .map_err(|e| Error::Internal(format!("built-in plugin {}: {e}", builtin.name)))?;
            let row = revision_of(&plugin, builtin.wasm.len(), "host", true);
            let mut tx = self.store.begin().await?;
            plugins::insert_revision(&mut tx, &row, builtin.wasm).await?;
            revisions::bump(&mut tx, "bindings").await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Reads revisions and bindings again if another transaction changed them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn refresh(&self) -> Result<()> {
        let revision = revisions::get(&mut self.store.reader(), "bindings").await?;
        if revision != self.catalogue.load().revision {
            self.reload().await?;
        }
        Ok(())
    }

    /// Reads revisions and bindings again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn reload(&self) -> Result<()> {
        let mut sql = self.store.reader();
        // The number first: a change in between is read again at the next refresh.
        let revision = revisions::get(&mut sql, "bindings").await?;
        let bindings = plugins::bindings(&mut sql).await?;
        let revisions = plugins::revisions(&mut sql).await?.into_iter().map(|r| (r.digest.clone(), r)).collect();
        self.catalogue.store(Arc::new(Catalogue { revision, revisions, bindings }));
        Ok(())
    }

    /// The compiled plugin of a stored revision.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown digest, [`Error::Unavailable`] when it no longer loads.
    pub async fn plugin(&self, digest: &str) -> Result<Arc<Plugin>> {
        if let Some(plugin) = self.runtime.get(digest) {
            return Ok(plugin);
        }
        let component = plugins::component(&mut self.store.reader(), digest)
            .await?
            .ok_or_else(|| Error::not_found_msg("plugin", format!("no revision with digest {digest}")))?;
        self.runtime.load(&component).await.map_err(|e| {
            tracing::error!(digest, error = %e, "a stored plugin doesn't load");
            Error::Unavailable(format!("plugin {digest} doesn't load: {e}"))
        })
    }

    /// The scheduler of a scaling group; `None` when the group names no plugin.
    ///
    /// Its configuration is `scheduler_opts.config` over `config/plugins/scheduler/<name>`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] when the plugin refuses that configuration: the group's run fails then.
    pub async fn scheduler(&self, group: &ScalingGroupRow) -> Result<Option<Bound>> {
        let catalogue = self.catalogue.load_full();
        let target = Target::scaling_group(&group.name);
        let binding = catalogue.binding(PluginKind::Scheduler, &group.scheduler, &target);
        let digest = match binding {
            Some(b) if catalogue.is_ready(&b.digest) => b.digest.clone(),
            _ => match catalogue.default_revision(PluginKind::Scheduler, &group.scheduler) {
                Some(r) => r.digest.clone(),
                None => return Ok(None),
            },
        };
        let mut config = self.tree_config(&format!("config/plugins/scheduler/{}", group.scheduler)).await;
        if let Some(Json::Object(own)) = group.scheduler_opts.get("config") {
            config.extend(own.clone());
        }
        let bound = Bound {
            plugin: self.plugin(&digest).await?,
            config: Json::Object(config).to_string(),
            binding_id: binding.map(|b| b.id.clone()),
            target,
            fail_open: false,
        };
        self.check(&bound)?;
        Ok(Some(bound))
    }

    /// The built-in scheduler that takes over for a round when the group's own fails. It passes
    /// over sessions that don't fit, as a fresh installation's group does.
    ///
    /// # Errors
    /// [`Error::Internal`] when the built-in isn't there, which is a broken build.
    pub async fn fallback_scheduler(&self) -> Result<Bound> {
        let digest = self
            .catalogue
            .load()
            .default_revision(PluginKind::Scheduler, FALLBACK_SCHEDULER)
            .map(|r| r.digest.clone())
            .ok_or_else(|| Error::Internal("the built-in scheduler is missing".to_owned()))?;
        Ok(Bound {
            plugin: self.plugin(&digest).await?,
            config: r#"{"skip_blocked":true}"#.to_owned(),
            binding_id: None,
            target: Target::everywhere(),
            fail_open: false,
        })
    }

    /// The idle checkers in their order: session lifetime, those that `config/idle/enabled` names,
    /// then those that are only bound. One that doesn't load is left out and logged.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn idle_checkers(&self) -> Result<Vec<Bound>> {
        let catalogue = self.catalogue.load_full();
        let enabled = self.config.get("config/idle/enabled").await.unwrap_or_default();
        let mut wanted: Vec<(String, Target)> = vec![(FIRST_IDLE_CHECKER.to_owned(), Target::everywhere())];
        for name in enabled_idle_checkers(&enabled) {
            wanted.push((name.to_owned(), Target::everywhere()));
        }
        for b in &catalogue.bindings {
            let named = wanted.iter().any(|(name, target)| *name == b.plugin && *target == b.target);
            if b.kind == PluginKind::IdleChecker && b.mode == BindingMode::Live && !named {
                wanted.push((b.plugin.clone(), b.target.clone()));
            }
        }
        let mut out = Vec::with_capacity(wanted.len());
        for (name, target) in wanted {
            let binding = catalogue.binding(PluginKind::IdleChecker, &name, &target);
            let digest = match binding.filter(|b| catalogue.is_ready(&b.digest)) {
                Some(b) => b.digest.clone(),
                None => match catalogue.default_revision(PluginKind::IdleChecker, &name) {
                    Some(r) => r.digest.clone(),
                    None => {
                        tracing::warn!(checker = name, "no such idle checker");
                        continue;
                    }
                },
            };
            let prefix = format!("config/idle/checkers/{name}");
            match self.bound(&digest, binding, target, &prefix).await {
                Ok(bound) => out.push(bound),
                Err(error) => tracing::error!(checker = name, %error, "an idle checker can't be used"),
            }
        }
        Ok(out)
    }

    /// Whether any hook listens to an event: a cheap question before a body is put together.
    pub fn has_hooks(&self, event: &str) -> bool {
        let catalogue = self.catalogue.load();
        catalogue.bindings.iter().any(|b| {
            b.kind == PluginKind::Hook
                && b.mode == BindingMode::Live
                && catalogue.revisions.get(&b.digest).is_some_and(|r| listens(&r.info, event))
        })
    }

    /// Hooks that everybody's requests depend on, but that may not serve: what they guard is refused.
    pub fn required_but_unavailable(&self) -> Vec<String> {
        let catalogue = self.catalogue.load();
        let closed = catalogue.bindings.iter().filter(|b| {
            b.kind == PluginKind::Hook
                && b.mode == BindingMode::Live
                && b.target.kind == TargetKind::Everywhere
                && b.failure_policy == FailurePolicy::FailClosed
                && !catalogue.is_ready(&b.digest)
        });
        closed.map(|b| b.plugin.clone()).collect()
    }

    /// The hooks for an event that concerns `domain`, in the order of their calls.
    ///
    /// A hook that can't be loaded is an error unless it was bound fail-open: a closed door must
    /// not open because its lock is broken.
    ///
    /// # Errors
    /// [`Error::RejectedByHook`] for such a hook, [`Error::Store`].
    pub async fn hooks(&self, event: &str, domain: Option<&str>) -> Result<Vec<Bound>> {
        let catalogue = self.catalogue.load_full();
        let mut out = Vec::new();
        for b in &catalogue.bindings {
            let concerned = match b.target.kind {
                TargetKind::Everywhere => true,
                TargetKind::Domain => domain == Some(b.target.name.as_str()),
                TargetKind::ScalingGroup => false,
            };
            let revision = catalogue.revisions.get(&b.digest);
            if b.kind != PluginKind::Hook
                || b.mode != BindingMode::Live
                || !concerned
                || !revision.is_some_and(|r| listens(&r.info, event))
            {
                continue;
            }
            let fail_open = b.failure_policy == FailurePolicy::FailOpen;
            if !catalogue.is_ready(&b.digest) {
                if fail_open {
                    continue;
                }
                return Err(Error::RejectedByHook {
                    plugin: b.plugin.clone(),
                    reason: "the hook is suspended; an administrator has to look at it".to_owned(),
                });
            }
            let prefix = format!("config/plugins/hook/{}", b.plugin);
            match self.bound(&b.digest, Some(b), b.target.clone(), &prefix).await {
                Ok(bound) => out.push(bound),
                Err(error) if fail_open => tracing::error!(hook = b.plugin, %error, "a hook can't be used"),
                Err(error) => {
                    tracing::error!(hook = b.plugin, %error, "a hook can't be used");
                    return Err(Error::RejectedByHook {
                        plugin: b.plugin.clone(),
                        reason: "the hook can't be used; an administrator has to look at it".to_owned(),
                    });
                }
            }
        }
        Ok(out)
    }

    async fn bound(&self, digest: &str, binding: Option<&BindingRow>, target: Target, prefix: &str) -> Result<Bound> {
        let mut config = self.tree_config(prefix).await;
        if let Some(Json::Object(own)) = binding.map(|b| &b.config) {
            config.extend(own.clone());
        }
        let bound = Bound {
            plugin: self.plugin(digest).await?,
            config: Json::Object(config).to_string(),
            binding_id: binding.map(|b| b.id.clone()),
            target,
            fail_open: binding.is_some_and(|b| b.failure_policy == FailurePolicy::FailOpen),
        };
        self.check(&bound)?;
        Ok(bound)
    }

    async fn tree_config(&self, prefix: &str) -> Map<String, Json> {
        match self.config.prefix(prefix).await {
            Json::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Whether the plugin accepts the configuration; each pair is asked once.
    fn check(&self, bound: &Bound) -> Result<()> {
        let key = (bound.plugin.digest.clone(), bound.config.clone());
        let known = self.checked.lock().get(&key).cloned();
        let verdict = known.unwrap_or_else(|| {
            let verdict = bound.plugin.check_config(&bound.config).map_err(|problems| describe(&problems));
            let mut checked = self.checked.lock();
            // A bound on memory, not a cache policy: configurations are few.
            if checked.len() > 1024 {
                checked.clear();
            }
            checked.insert(key, verdict.clone());
            verdict
        });
        verdict.map_err(|problem| {
            Error::invalid(format!("plugin {} refuses its configuration: {problem}", bound.plugin.info.name))
        })
    }

    /// Failures in a row of a revision, until now.
    pub fn failures(&self, digest: &str) -> u32 {
        self.failures.lock().get(digest).copied().unwrap_or(0)
    }

    /// A call went well.
    pub async fn succeeded(&self, bound: &Bound) {
        self.metrics.plugin_call(&bound.plugin.info.name, bound.plugin.kind.as_str(), "ok");
        self.failures.lock().remove(&bound.plugin.digest);
    }

    /// A call failed. After [`FAILURES_UNTIL_SUSPENSION`] in a row the revision is suspended and
    /// what served before it serves again.
    pub async fn failed(&self, bound: &Bound, failure: &Failure) {
        let plugin = &bound.plugin;
        self.metrics.plugin_call(&plugin.info.name, plugin.kind.as_str(), failure.label());
        let count = {
            let mut failures = self.failures.lock();
            let count = failures.entry(plugin.digest.clone()).or_insert(0);
            *count += 1;
            *count
        };
        tracing::warn!(plugin = plugin.info.name, version = plugin.info.version, digest = plugin.digest, in_a_row = count,
            outcome = failure.label(), reason = %failure, "a plugin failed");
        if count < FAILURES_UNTIL_SUSPENSION {
            return;
        }
        let reason = format!("failed {count} times in a row, at last: {failure}");
        match self.suspend(&plugin.digest, &reason).await {
            Ok(true) => {
                tracing::error!(plugin = plugin.info.name, digest = plugin.digest, reason, "a plugin was suspended");
            }
            Ok(false) => {}
            Err(error) => tracing::error!(plugin = plugin.info.name, %error, "a plugin couldn't be suspended"),
        }
    }

    /// Takes a revision out of service; false for built-ins (there is nothing behind them) and
    /// revisions that are out already.
    async fn suspend(&self, digest: &str, reason: &str) -> Result<bool> {
        let now = Timestamp::now();
        let mut tx = self.store.begin().await?;
        let Some(revision) = plugins::revision(&mut tx, digest).await? else { return Ok(false) };
        if revision.builtin || !plugins::set_status(&mut tx, digest, RevisionStatus::Suspended, Some(reason)).await? {
            return Ok(false);
        }
        for binding in plugins::bindings(&mut tx).await?.into_iter().filter(|b| b.digest == digest) {
            self.bind_predecessor(&mut tx, &binding, reason, now).await?;
        }
        revisions::bump(&mut tx, "bindings").await?;
        tx.commit().await?;
        self.failures.lock().remove(digest);
        self.reload().await?;
        Ok(true)
    }

    /// Binds what served before `binding` did, if that is still good: of hooks and idle checkers
    /// only an older revision of the same plugin can step in; a scheduler is always replaced.
    async fn bind_predecessor(&self, tx: &mut Tx, binding: &BindingRow, reason: &str, now: Timestamp) -> Result<()> {
        let mut predecessor = None;
        for place in plugins::history(tx, binding.kind, &binding.target, 200).await?.into_iter().filter_map(|h| h.before)
        {
            let Some(digest) = place.digest.filter(|d| *d != binding.digest) else { continue };
            predecessor = plugins::revision(tx, &digest)
                .await?
                .filter(|r| r.status == RevisionStatus::Ready)
                .filter(|r| binding.kind == PluginKind::Scheduler || r.name == binding.plugin)
                .map(|r| (r, place.config));
            if predecessor.is_some() {
                break;
            }
        }
        if predecessor.is_none() && binding.kind == PluginKind::Scheduler {
            let catalogue = self.catalogue.load();
            predecessor =
                catalogue.default_revision(PluginKind::Scheduler, FALLBACK_SCHEDULER).map(|r| (r.clone(), no_config()));
        }
        let mut record = HistoryRow {
            id: 0,
            at: now,
            actor: "host".to_owned(),
            action: "suspend".to_owned(),
            kind: binding.kind,
            plugin: binding.plugin.clone(),
            target: binding.target.clone(),
            now: None,
            before: Some(place(binding, effective_config(tx, binding).await?)),
            reason: Some(reason.to_owned()),
        };
        if let Some((revision, config)) = predecessor {
            record.plugin.clone_from(&revision.name);
            let like = BindingRow { plugin: revision.name.clone(), digest: revision.digest.clone(), ..binding.clone() };
            record.now = Some(place(&like, config.clone()));
            install(tx, &revision, binding, config, now).await?;
        }
        plugins::record(tx, &record).await?;
        Ok(())
    }
}

/// What the history keeps of a binding.
pub(crate) fn place(binding: &BindingRow, config: Json) -> Place {
    Place {
        plugin: binding.plugin.clone(),
        digest: Some(binding.digest.clone()),
        config,
        position: binding.position,
        failure_policy: binding.failure_policy,
    }
}

/// The configuration that a binding serves with, apart from the configuration tree.
pub(crate) async fn effective_config<S: Sql>(sql: &mut S, binding: &BindingRow) -> Result<Json> {
    if binding.kind != PluginKind::Scheduler {
        return Ok(binding.config.clone());
    }
    let serving =
        plugins::group_scheduler(sql, &binding.target.name).await?.filter(|(name, _)| *name == binding.plugin);
    Ok(serving.and_then(|(_, opts)| opts.get("config").cloned()).unwrap_or_else(no_config))
}

fn no_config() -> Json {
    Json::Object(Map::new())
}

/// Writes `revision` in the place of `like`: same target, order and failure policy.
pub(crate) async fn install(
    tx: &mut Tx,
    revision: &RevisionRow,
    like: &BindingRow,
    config: Json,
    now: Timestamp,
) -> Result<()> {
    let scheduler = like.kind == PluginKind::Scheduler;
    if scheduler {
        let (_, mut opts) =
            plugins::group_scheduler(tx, &like.target.name).await?.ok_or_else(|| Error::not_found("scaling group"))?;
        if !opts.is_object() {
            opts = Json::Object(Map::new());
        }
        opts["config"] = config.clone();
        plugins::set_group_scheduler(tx, &like.target.name, &revision.name, &opts).await?;
        revisions::bump(tx, "identity").await?;
    }
    let row = BindingRow {
        id: uuid::Uuid::new_v4().to_string(),
        plugin: revision.name.clone(),
        digest: revision.digest.clone(),
        // A scheduler's configuration lives in its group's options.
        config: if scheduler { Json::Object(Map::new()) } else { config },
        bound_at: now,
        ..like.clone()
    };
    plugins::upsert_binding(tx, &row).await?;
    Ok(())
}

/// The names in the text of `config/idle/enabled`, without `session_lifetime`, which is always on.
/// `timeout`, the name that old configuration comments show, means `network_timeout`.
pub fn enabled_idle_checkers(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != FIRST_IDLE_CHECKER)
        .map(|name| if name == "timeout" { "network_timeout" } else { name })
}

/// The row for a freshly loaded component.
pub(crate) fn revision_of(plugin: &Plugin, size: usize, by: &str, builtin: bool) -> RevisionRow {
    RevisionRow {
        digest: plugin.digest.clone(),
        name: plugin.info.name.clone(),
        version: plugin.info.version.clone(),
        kind: Some(plugin.kind),
        summary: plugin.info.summary.clone(),
        info: serde_json::json!({
            "config_schema": serde_json::from_str::<Json>(&plugin.info.config_schema).unwrap_or(Json::Null),
            "columns": plugin.info.columns.iter().map(|c| format!("{}.{}", c.table, c.name)).collect::<Vec<_>>(),
            "events": plugin.info.events,
        }),
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        builtin,
        status: RevisionStatus::Ready,
        status_reason: None,
        uploaded_by: by.to_owned(),
        uploaded_at: Timestamp::now(),
    }
}

fn listens(info: &Json, event: &str) -> bool {
    info.get("events").and_then(Json::as_array).is_some_and(|events| events.iter().any(|e| e == event))
}

/// What is wrong with a configuration, in one line.
pub(crate) fn describe(problems: &[quarterdeck_plugin::ConfigProblem]) -> String {
    let words = problems.iter().map(|p| match p.pointer.as_str() {
        "" => p.message.clone(),
        pointer => format!("{pointer}: {}", p.message),
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::enabled_idle_checkers;

    #[test]
    fn enabled_checkers_are_trimmed_and_keep_their_order() {
        let names: Vec<_> =
            enabled_idle_checkers(" utilization , timeout,, session_lifetime,network_timeout").collect();
        assert_eq!(names, ["utilization", "network_timeout", "network_timeout"]);
    }
}
