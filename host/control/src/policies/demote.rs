//! What happens to a revision that fails: its failures are counted against its budget, and when that is used up, what
//! served before it serves again.

use std::time::Duration;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, LifeStep, PluginKind, RevisionStatus, Target};
use quarterdeck_plugin::Failure;
use quarterdeck_store::Tx;
use quarterdeck_store::plugins::{self, BindingRow, RevisionRow};
use serde_json::Value as Json;

use super::budget::{Allowance, Standing};
use super::switch::{Switch, built_in_scheduler, effective_config, no_config, place};
use super::{Bound, Broken, Policies};
use crate::audit::{self, Act, Actor, Via};
use crate::error::Result;

/// How far back a predecessor is looked for.
const MEMORY: u32 = 500;

impl Policies {
    /// Failures in a row of a revision on this host, until now.
    pub fn failures(&self, digest: &str) -> u32 {
        self.standing(digest).in_a_row
    }

    /// How a revision does on this host.
    pub fn standing(&self, digest: &str) -> Standing {
        self.budgets.lock().get(digest).map(super::budget::Budget::standing).unwrap_or_default()
    }

    /// A call went well, and took so long.
    pub async fn succeeded(&self, bound: &Bound, took: Duration) {
        self.metrics.plugin_call_ok(&bound.plugin.info.name, bound.plugin.kind.as_str(), took);
        let allowance = Allowance::of(&self.config);
        self.budgets.lock().entry(bound.plugin.digest.clone()).or_default().note(false, &allowance);
    }

    /// A call failed. When the revision's [`Allowance`] is used up it is suspended, and what served before it serves
    /// again.
    pub async fn failed(&self, bound: &Bound, failure: &Failure) {
        self.blame(&Broken::of(bound, failure.clone())).await;
    }

    /// As [`Policies::failed`], for one that couldn't even be called.
    pub async fn blame(&self, broken: &Broken) {
        let Broken { plugin, version, digest, failure, .. } = broken;
        self.metrics.plugin_call(plugin, broken.kind.as_str(), failure.label());
        if !broken.to_blame {
            return;
        }
        let allowance = Allowance::of(&self.config);
        let (standing, exhausted) = {
            let mut budgets = self.budgets.lock();
            let budget = budgets.entry(digest.clone()).or_default();
            budget.note(true, &allowance);
            (budget.standing(), budget.exhausted(&allowance))
        };
        tracing::warn!(plugin, version, digest, in_a_row = standing.in_a_row, outcome = failure.label(),
            reason = %failure, "a plugin failed");
        let Some(why) = exhausted else { return };
        let reason = format!("{why}, at last: {failure}");
        let act =
            Act::new(Via::System, Actor { name: Some("host".to_owned()), ..Actor::default() }, "plugin suspended")
                .on(format!("{plugin}@{version}"))
                .with(Json::from(reason.as_str()));
        match audit::scope(act, self.suspend(digest, &reason)).await {
            Ok(true) => tracing::error!(plugin, version, digest, reason, "a plugin was suspended"),
            Ok(false) => {}
            Err(error) => tracing::error!(plugin, %error, "a plugin couldn't be suspended"),
        }
    }

    /// Takes a revision out of service; false for built-ins (there is nothing behind them) and
    /// revisions that are out already, by another host as well.
    async fn suspend(&self, digest: &str, reason: &str) -> Result<bool> {
        if self.catalogue.load().revisions.get(digest).is_some_and(|r| r.builtin) {
            return Ok(false);
        }
        let switch =
            Switch { policies: self, action: "suspend", actor: "host", reason: Some(reason), now: Timestamp::now() };
        let mut tx = Switch::begin(&self.store).await?;
        let Some(revision) = plugins::revision(&mut tx, digest).await?.filter(|r| !r.builtin) else { return Ok(false) };
        if !plugins::set_status(&mut tx, digest, RevisionStatus::Suspended, Some(reason)).await? {
            return Ok(false);
        }
        switch.step(&mut tx, digest, LifeStep::Suspended, "by the error budget").await?;
        for binding in self.served_by(&mut tx, &revision).await? {
            self.bind_predecessor(&mut tx, &switch, &binding).await?;
        }
        tx.commit().await?;
        self.budgets.lock().remove(digest);
        self.reload().await?;
        Ok(true)
    }

    /// The places that a revision fills: its live bindings, and the scaling groups that name it without one. Bindings
    /// of schedulers that their group doesn't name any more are none.
    async fn served_by(&self, tx: &mut Tx, revision: &RevisionRow) -> Result<Vec<BindingRow>> {
        let live: Vec<BindingRow> =
            plugins::bindings(tx).await?.into_iter().filter(|b| b.mode == BindingMode::Live).collect();
        if revision.kind != Some(PluginKind::Scheduler) {
            return Ok(live.into_iter().filter(|b| b.digest == revision.digest).collect());
        }
        let others_serve_by_name = plugins::revisions(tx)
            .await?
            .iter()
            .any(|r| r.kind == revision.kind && r.name == revision.name && r.status == RevisionStatus::Ready);
        let mut out = Vec::new();
        for group in quarterdeck_store::scaling_groups::list(tx, None).await? {
            if group.scheduler != revision.name {
                continue;
            }
            let target = Target::scaling_group(&group.name);
            match live
                .iter()
                .find(|b| b.kind == PluginKind::Scheduler && b.plugin == revision.name && b.target == target)
            {
                Some(binding) if binding.digest == revision.digest => out.push(binding.clone()),
                Some(_) => {}
                // By name: another revision of it steps in, if there is one.
                None if others_serve_by_name => {}
                None => out.push(BindingRow {
                    id: String::new(),
                    kind: PluginKind::Scheduler,
                    plugin: revision.name.clone(),
                    target,
                    digest: revision.digest.clone(),
                    config: no_config(),
                    position: None,
                    mode: BindingMode::Live,
                    failure_policy: FailurePolicy::FailClosed,
                    bound_by: "host".to_owned(),
                    bound_at: Timestamp(0),
                }),
            }
        }
        Ok(out)
    }

    /// Binds the last one that served in the place of `binding` and is still good: of hooks and idle checkers only
    /// another revision of the same plugin can step in; a scheduler is always replaced, by the built-in if need be.
    async fn bind_predecessor(&self, tx: &mut Tx, switch: &Switch<'_>, binding: &BindingRow) -> Result<()> {
        let before = place(binding, effective_config(tx, binding).await?);
        match self.predecessor(tx, binding).await? {
            Some((revision, config)) => {
                let like = BindingRow { bound_by: switch.actor.to_owned(), ..binding.clone() };
                switch.install(tx, &revision, &like, config, Some(before)).await
            }
            None => switch.record(tx, binding, None, Some(before)).await,
        }
    }

    async fn predecessor(&self, tx: &mut Tx, binding: &BindingRow) -> Result<Option<(RevisionRow, Json)>> {
        let scheduler = binding.kind == PluginKind::Scheduler;
        for entry in plugins::history(tx, binding.kind, &binding.target, MEMORY).await? {
            let Some(place) = entry.before.filter(|p| scheduler || p.plugin == binding.plugin) else { continue };
            let Some(digest) = place.digest.filter(|digest| *digest != binding.digest) else { continue };
            let revision = plugins::revision(tx, &digest).await?.filter(|r| r.status == RevisionStatus::Ready);
            if let Some(revision) = revision {
                return Ok(Some((revision, place.config)));
            }
        }
        if !scheduler {
            return Ok(None);
        }
        // As it takes over for single rounds: one session that finds no room keeps nobody waiting.
        let config = serde_json::json!({"skip_blocked": true});
        Ok(built_in_scheduler(tx).await?.map(|revision| (revision, config)))
    }
}
