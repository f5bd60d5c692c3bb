//! Changes of what serves a target: each is one transaction, with its entry in the history and its steps in the lives
//! of the revisions concerned.

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, LifeStep, PluginKind, RevisionStatus, StepStatus};
use quarterdeck_store::plugins::steps::{self, StepRow};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, Place, RevisionRow};
use quarterdeck_store::{Sql, Store, Tx, revisions};
use serde_json::{Map, Value as Json};

use super::{FALLBACK_SCHEDULER, Policies};
use crate::error::{Error, Result};

/// A change that is being made: who makes it, when and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switch<'a> {
    pub(crate) policies: &'a Policies,
    /// The word in the history.
    pub(crate) action: &'a str,
    pub(crate) actor: &'a str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) now: Timestamp,
}

impl Switch<'_> {
    /// Begins a transaction that changes bindings. Changes wait for each other from here on, so that each sees what
    /// the one before has left; hosts learn of it when it is committed.
    pub(crate) async fn begin(store: &Store) -> Result<Tx> {
        let mut tx = store.begin().await?;
        revisions::bump(&mut tx, revisions::BINDINGS).await?;
        Ok(tx)
    }

    /// Binds `revision` as `like` says (target, position, failure policy, who), in place of `before`. A suspended
    /// revision gets a new chance.
    pub(crate) async fn install(
        &self,
        tx: &mut Tx,
        revision: &RevisionRow,
        like: &BindingRow,
        config: Json,
        before: Option<Place>,
    ) -> Result<()> {
        let mut gone: Vec<String> = before.iter().filter_map(|p| p.digest.clone()).collect();
        plugins::set_status(tx, &revision.digest, RevisionStatus::Ready, None).await?;
        let scheduler = like.kind == PluginKind::Scheduler;
        if scheduler {
            let (_, mut opts) = plugins::group_scheduler(tx, &like.target.name)
                .await?
                .ok_or_else(|| Error::not_found("scaling group"))?;
            if !opts.is_object() {
                opts = no_config();
            }
            opts["config"] = config.clone();
            plugins::set_group_scheduler(tx, &like.target.name, &revision.name, &opts).await?;
            revisions::bump(tx, revisions::IDENTITY).await?;
            // One that once served the group would come back to life with its name, old configuration and all.
            let others = plugins::delete_bindings_but(tx, like.kind, &like.target, &revision.name).await?;
            gone.extend(others.into_iter().map(|b| b.digest));
        }
        let row = BindingRow {
            id: uuid::Uuid::new_v4().to_string(),
            plugin: revision.name.clone(),
            digest: revision.digest.clone(),
            // A scheduler's configuration lives in its group's options.
            config: if scheduler { no_config() } else { config.clone() },
            mode: BindingMode::Live,
            bound_at: self.now,
            ..like.clone()
        };
        plugins::upsert_binding(tx, &row).await?;
        self.record(tx, &row, Some(place(&row, config)), before).await?;
        let words = format!("{} to {}", self.action, row.target);
        self.step(tx, &row.digest, LifeStep::Active, &words).await?;
        gone.retain(|digest| *digest != row.digest);
        self.retire(tx, gone, &format!("{}@{} serves {}", revision.name, revision.version, row.target)).await
    }

    /// Ends a binding. A scaling group falls back to the built-in `fifo`.
    pub(crate) async fn remove(&self, tx: &mut Tx, binding: &BindingRow) -> Result<()> {
        let config = effective_config(tx, binding).await?;
        let mut successor = None;
        plugins::delete_binding(tx, binding.kind, &binding.plugin, &binding.target, BindingMode::Live).await?;
        if binding.kind == PluginKind::Scheduler
            && let Some((scheduler, mut opts)) = plugins::group_scheduler(tx, &binding.target.name).await?
            && scheduler == binding.plugin
        {
            opts["config"] = no_config();
            plugins::set_group_scheduler(tx, &binding.target.name, FALLBACK_SCHEDULER, &opts).await?;
            revisions::bump(tx, revisions::IDENTITY).await?;
            successor = built_in_scheduler(tx).await?;
        }
        if let Some(revision) = successor {
            let words = format!("{} of {} from {}", self.action, binding.plugin, binding.target);
            self.step(tx, &revision.digest, LifeStep::Active, &words).await?;
        }
        self.record(tx, binding, None, Some(place(binding, config))).await?;
        self.retire(tx, vec![binding.digest.clone()], &format!("{} from {}", self.action, binding.target)).await
    }

    /// Writes the entry in the history.
    pub(super) async fn record(
        &self,
        tx: &mut Tx,
        about: &BindingRow,
        now: Option<Place>,
        before: Option<Place>,
    ) -> Result<()> {
        let entry = HistoryRow {
            id: 0,
            at: self.now,
            actor: self.actor.to_owned(),
            action: self.action.to_owned(),
            kind: about.kind,
            plugin: about.plugin.clone(),
            target: about.target.clone(),
            now,
            before,
            reason: self.reason.map(str::to_owned),
        };
        Ok(plugins::record(tx, &entry).await?)
    }

    /// Writes a step that is done with being decided.
    pub(crate) async fn step(&self, tx: &mut Tx, digest: &str, step: LifeStep, words: &str) -> Result<()> {
        let reason = match self.reason {
            Some(reason) => format!("{words}: {reason}"),
            None => words.to_owned(),
        };
        let row = self.policies.step(digest, step, StepStatus::Ok, self.now, self.actor);
        steps::record_step(tx, &StepRow { duration_us: Some(0), reason: Some(reason), ..row }).await?;
        Ok(())
    }

    /// Notes which of the revisions serve nobody any more. Suspended ones have their own step.
    async fn retire(&self, tx: &mut Tx, digests: Vec<String>, words: &str) -> Result<()> {
        let mut digests = digests;
        digests.sort_unstable();
        digests.dedup();
        if digests.is_empty() {
            return Ok(());
        }
        let bindings = plugins::bindings(tx).await?;
        for digest in digests {
            let serves = bindings.iter().any(|b| b.mode == BindingMode::Live && b.digest == digest);
            let known = plugins::revision(tx, &digest).await?;
            if !serves && known.is_some_and(|r| r.status == RevisionStatus::Ready) {
                self.step(tx, &digest, LifeStep::Retired, words).await?;
            }
        }
        Ok(())
    }
}

/// What schedules where nothing else does.
pub(super) async fn built_in_scheduler<S: Sql>(sql: &mut S) -> Result<Option<RevisionRow>> {
    let ready = plugins::revisions(sql).await?.into_iter().filter(|r| {
        r.kind == Some(PluginKind::Scheduler) && r.name == FALLBACK_SCHEDULER && r.status == RevisionStatus::Ready
    });
    Ok(ready.max_by_key(|r| (r.builtin, r.uploaded_at, r.digest.clone())))
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
    if binding.kind != PluginKind::Scheduler || binding.mode != BindingMode::Live {
        return Ok(binding.config.clone());
    }
    let serving =
        plugins::group_scheduler(sql, &binding.target.name).await?.filter(|(name, _)| *name == binding.plugin);
    Ok(serving.and_then(|(_, opts)| opts.get("config").cloned()).unwrap_or_else(no_config))
}

/// A configuration that says nothing.
pub(crate) fn no_config() -> Json {
    Json::Object(Map::new())
}
