//! What the database says about revisions and bindings, in memory.

use std::collections::{HashMap, HashSet};

use quarterdeck_model::policy::{BindingMode, PluginKind, RevisionStatus, Target};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, RevisionRow};
use quarterdeck_store::scaling_groups::ScalingGroupRow;
use quarterdeck_store::{Store, revisions};
use serde_json::Value as Json;

use super::{FIRST_IDLE_CHECKER, Trouble, blocks};
use crate::error::Result;

/// Demotions that are told of at once.
const DEMOTIONS: u32 = 50;

/// One consistent view of it.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) revision: i64,
    pub(super) revisions: HashMap<String, RevisionRow>,
    pub(super) bindings: Vec<BindingRow>,
    demotions: Vec<HistoryRow>,
}

impl Catalogue {
    pub(super) async fn read(store: &Store) -> Result<Self> {
        let mut reader = store.begin_read().await?;
        let revision = revisions::get(&mut reader, revisions::BINDINGS).await?;
        let bindings = plugins::bindings(&mut reader).await?;
        let rows = plugins::revisions(&mut reader).await?.into_iter().map(|r| (r.digest.clone(), r)).collect();
        let demotions = plugins::demotions(&mut reader, DEMOTIONS).await?;
        reader.rollback().await?;
        Ok(Self { revision, revisions: rows, bindings, demotions })
    }

    /// The revision that serves where no binding pins one: the newest built-in of that name, else
    /// the newest of that name. Pushing a component never changes who serves.
    pub(super) fn default_revision(&self, kind: PluginKind, name: &str) -> Option<&RevisionRow> {
        self.revisions
            .values()
            .filter(|r| r.kind == Some(kind) && r.name == name && r.status == RevisionStatus::Ready)
            .max_by_key(|r| (r.builtin, r.uploaded_at, r.digest.clone()))
    }

    pub(super) fn binding(&self, kind: PluginKind, plugin: &str, target: &Target) -> Option<&BindingRow> {
        self.bindings
            .iter()
            .find(|b| b.mode == BindingMode::Live && b.kind == kind && b.plugin == plugin && b.target == *target)
    }

    pub(super) fn is_ready(&self, digest: &str) -> bool {
        self.revisions.get(digest).is_some_and(|r| r.status == RevisionStatus::Ready)
    }

    /// Live bindings whose revision listens to an event, in the order of calls.
    pub(super) fn listeners<'c>(&'c self, event: &'c str) -> impl Iterator<Item = &'c BindingRow> {
        self.bindings.iter().filter(move |b| {
            b.kind == PluginKind::Hook
                && b.mode == BindingMode::Live
                && self.revisions.get(&b.digest).is_some_and(|r| listens(&r.info, event))
        })
    }

    /// Revisions that somebody bound, or bound again, since `old` was read: they begin with a whole budget.
    pub(super) fn given_a_chance_since(&self, old: &Self) -> HashSet<&str> {
        let known: HashSet<_> = old.bindings.iter().map(|b| (&b.id, &b.digest, b.bound_at)).collect();
        let bound = self.bindings.iter().filter(|b| !known.contains(&(&b.id, &b.digest, b.bound_at)));
        let revived = self.revisions.keys().filter(|digest| {
            self.is_ready(digest) && old.revisions.get(*digest).is_some_and(|r| r.status != RevisionStatus::Ready)
        });
        bound.map(|b| b.digest.as_str()).chain(revived.map(String::as_str)).collect()
    }

    fn label(&self, digest: &str) -> Option<String> {
        self.revisions.get(digest).map(|r| format!("{}@{}", r.name, r.version))
    }

    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let mut out = Vec::new();
        for b in self.bindings.iter().filter(|b| b.mode == BindingMode::Live && !self.is_ready(&b.digest)) {
            let revision = self.revisions.get(&b.digest);
            // A scheduler or an idle checker of that name may step in; of a hook none can.
            let instead = match b.kind {
                PluginKind::Hook => None,
                kind => self.default_revision(kind, &b.plugin).and_then(|r| self.label(&r.digest)),
            };
            out.push(Trouble {
                plugin: b.plugin.clone(),
                version: revision.map(|r| r.version.clone()).unwrap_or_default(),
                digest: b.digest.clone(),
                target: b.target.clone(),
                blocks: blocks(b),
                instead,
                reason: revision
                    .and_then(|r| r.status_reason.clone())
                    .unwrap_or_else(|| "the revision is gone".to_owned()),
            });
        }
        for demotion in &self.demotions {
            let (Some(place), Some(digest)) =
                (&demotion.before, demotion.before.as_ref().and_then(|p| p.digest.as_ref()))
            else {
                continue;
            };
            if out.iter().any(|t| t.digest == *digest && t.target == demotion.target) {
                continue;
            }
            out.push(Trouble {
                plugin: place.plugin.clone(),
                version: self.revisions.get(digest).map(|r| r.version.clone()).unwrap_or_default(),
                digest: digest.clone(),
                target: demotion.target.clone(),
                instead: demotion.now.as_ref().and_then(|p| p.digest.as_deref()).and_then(|d| self.label(d)),
                reason: demotion.reason.clone().unwrap_or_default(),
                blocks: false,
            });
        }
        out
    }

    pub(super) fn serves_by_name(&self, groups: &[ScalingGroupRow]) -> HashMap<String, Vec<Target>> {
        let mut out: HashMap<String, Vec<Target>> = HashMap::new();
        let mut note = |kind: PluginKind, name: &str, target: Target| {
            if self.binding(kind, name, &target).is_some_and(|b| self.is_ready(&b.digest)) {
                return;
            }
            if let Some(revision) = self.default_revision(kind, name) {
                out.entry(revision.digest.clone()).or_default().push(target);
            }
        };
        for group in groups {
            note(PluginKind::Scheduler, &group.scheduler, Target::scaling_group(&group.name));
        }
        note(PluginKind::IdleChecker, FIRST_IDLE_CHECKER, Target::everywhere());
        out
    }
}

pub(super) fn listens(info: &Json, event: &str) -> bool {
    info.get("events").and_then(Json::as_array).is_some_and(|events| events.iter().any(|e| e == event))
}
