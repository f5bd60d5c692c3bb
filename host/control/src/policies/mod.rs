//! Which plugin serves whom, and what happens to one that keeps failing.
//!
//! Bindings and revisions are cached ([`catalogue`](self)); the revision number `bindings` of the database tells when
//! to read them again. Plugins are compiled at their first use (or come from the compiled cache).

mod bound;
mod budget;
mod candidates;
mod catalogue;
mod demote;
mod switch;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{FailurePolicy, LifeStep, RevisionStatus, StepStatus, Target, TargetKind};
use quarterdeck_plugin::{LoadError, Plugin, Runtime};
use quarterdeck_store::plugins::steps::{self, StepRow};
use quarterdeck_store::plugins::{self, RevisionRow};
use quarterdeck_store::scaling_groups::{self, ScalingGroupRow};
use quarterdeck_store::{Store, revisions};
use serde_json::Value as Json;

use crate::config::ConfigCache;
use crate::error::{Error, Result};
use crate::metrics::Metrics;

pub use bound::{Bound, Broken, Choice, enabled_idle_checkers};
pub use budget::{Allowance, Standing};
pub(crate) use switch::{Switch, effective_config, no_config};

use budget::Budget;
use catalogue::Catalogue;

/// The scheduler that takes over when another one fails.
pub const FALLBACK_SCHEDULER: &str = "fifo";

/// The idle checker that is always on, and first.
pub const FIRST_IDLE_CHECKER: &str = "session_lifetime";

/// A plugin that doesn't serve as it should, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// The plugin's name.
    pub plugin: String,
    /// Its version, if it is known.
    pub version: String,
    /// The revision.
    pub digest: String,
    /// Whom it served.
    pub target: Target,
    /// What serves there instead; nothing when the place is empty.
    pub instead: Option<String>,
    /// Why.
    pub reason: String,
    /// Requests are refused for it: a fail-closed hook whose place is empty.
    pub blocks: bool,
}

/// Who decides what.
#[derive(Debug)]
pub struct Policies {
    store: Store,
    runtime: Runtime,
    config: Arc<ConfigCache>,
    metrics: Arc<Metrics>,
    /// This host's name, in steps.
    host: String,
    catalogue: ArcSwap<Catalogue>,
    /// What revisions have left of their error budgets on this host, by digest.
    budgets: Mutex<HashMap<String, Budget>>,
    /// Configurations found valid (`Ok`) or refused, by digest and text: checked once, not each round. A check that
    /// failed is none.
    checked: Mutex<HashMap<(String, String), Result<(), String>>>,
}

impl Policies {
    /// Registers the built-in plugins as revisions, unless they are left to other hosts, and reads the bindings.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Internal`] when a built-in doesn't load, which is a broken build.
    pub async fn open(
        store: Store,
        runtime: Runtime,
        config: Arc<ConfigCache>,
        metrics: Arc<Metrics>,
        host: String,
        builtins: bool,
    ) -> Result<Self> {
        let policies = Self {
            store,
            runtime,
            config,
            metrics,
            host,
            catalogue: ArcSwap::default(),
            budgets: Mutex::default(),
            checked: Mutex::default(),
        };
        if builtins {
            policies.register_builtins().await?;
        }
        policies.reload().await?;
        Ok(policies)
    }

    async fn register_builtins(&self) -> Result<()> {
        let builtins = quarterdeck_plugin::builtin::all();
        let known = plugins::known(&mut self.store.reader(), builtins.iter().map(|b| b.digest())).await?;
        for builtin in builtins.iter().filter(|b| !known.contains(b.digest())) {
            let at = Timestamp::now();
            let started = std::time::Instant::now();
            let plugin = self
                .runtime
                .load(builtin.wasm)
                .await
                .map_err(|e| Error::Internal(format!("built-in plugin {}: {e}", builtin.name)))?;
            let duration_us = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
            let row = revision_of(&plugin, builtin.wasm.len(), "host", true);
            let mut tx = self.store.begin().await?;
            if plugins::insert_revision(&mut tx, &row, builtin.wasm).await? {
                for step in LifeStep::ADMISSION {
                    // Loading is one act here; the test took place when this release was built.
                    let (duration_us, reason) = match step {
                        LifeStep::Compiled => (Some(duration_us), None),
                        LifeStep::SelfTested => (Some(0), Some("tested when this release was built".to_owned())),
                        _ => (Some(0), None),
                    };
                    let row = self.step(&row.digest, *step, StepStatus::Ok, at, "host");
                    steps::record_step(&mut tx, &StepRow { duration_us, reason, ..row }).await?;
                }
                revisions::bump(&mut tx, revisions::BINDINGS).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// A step that this host takes, without duration and reason.
    pub(crate) fn step(&self, digest: &str, step: LifeStep, status: StepStatus, at: Timestamp, actor: &str) -> StepRow {
        StepRow {
            id: 0,
            digest: digest.to_owned(),
            step,
            status,
            host: self.host.clone(),
            at,
            duration_us: None,
            actor: actor.to_owned(),
            reason: None,
        }
    }

    /// Reads revisions and bindings again if another transaction changed them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn refresh(&self) -> Result<()> {
        let revision = revisions::get(&mut self.store.reader(), revisions::BINDINGS).await?;
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
        let read = Catalogue::read(&self.store).await?;
        let new = Arc::new(read);
        // Two readings may cross; the older one must not win.
        let old =
            self.catalogue.rcu(|now| if now.revision > new.revision { Arc::clone(now) } else { Arc::clone(&new) });
        if old.revision <= new.revision {
            let fresh = new.given_a_chance_since(&old);
            self.budgets.lock().retain(|digest, _| !fresh.contains(digest.as_str()));
        }
        Ok(())
    }

    /// A scaling group as it is now, with the cached bindings brought to the same moment: who looks for its scheduler
    /// afterwards finds the one that was bound then, whichever host bound it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn group(&self, name: &str) -> Result<Option<ScalingGroupRow>> {
        loop {
            let mut reader = self.store.begin_read().await?;
            let revision = revisions::get(&mut reader, revisions::BINDINGS).await?;
            let group = scaling_groups::get(&mut reader, name).await?;
            reader.rollback().await?;
            // Bindings that are newer still are fine only with a group of their own time.
            if revision == self.catalogue.load().revision {
                return Ok(group);
            }
            self.reload().await?;
        }
    }

    /// The compiled plugin of a stored revision.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown digest, [`Error::Unavailable`] when it no longer loads.
    pub async fn plugin(&self, digest: &str) -> Result<Arc<Plugin>> {
        self.load(digest).await?.map_err(|e| Error::Unavailable(format!("plugin {digest} doesn't load: {e}")))
    }

    /// As [`Policies::plugin`], with the reason why it doesn't load.
    async fn load(&self, digest: &str) -> Result<Result<Arc<Plugin>, LoadError>> {
        if let Some(plugin) = self.runtime.get(digest) {
            return Ok(Ok(plugin));
        }
        let component = plugins::component(&mut self.store.reader(), digest)
            .await?
            .ok_or_else(|| Error::not_found_msg("plugin", format!("no revision with digest {digest}")))?;
        let loaded = self.runtime.load(&component).await;
        if let Err(error) = &loaded {
            tracing::error!(digest, %error, "a stored plugin doesn't load");
        }
        Ok(loaded)
    }

    /// Plugins that don't serve as they should: those that were demoted and not looked at since, and hooks whose place
    /// is empty.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.catalogue.load().troubles()
    }

    /// Whom a revision serves without a binding: scaling groups that only name it, and the idle checker that is
    /// always on.
    pub(crate) fn serves_by_name(&self, groups: &[ScalingGroupRow]) -> HashMap<String, Vec<Target>> {
        self.catalogue.load().serves_by_name(groups)
    }
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

/// Whether an empty place of this kind refuses requests.
fn blocks(binding: &plugins::BindingRow) -> bool {
    binding.kind == quarterdeck_model::policy::PluginKind::Hook
        && binding.failure_policy == FailurePolicy::FailClosed
        && binding.target.kind != TargetKind::ScalingGroup
}
