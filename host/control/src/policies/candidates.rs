//! Who watches: bindings in shadow mode.

use quarterdeck_model::policy::{BindingMode, PluginKind, RevisionStatus};
use quarterdeck_store::plugins::BindingRow;

use super::Policies;
use super::catalogue::listens;
use crate::shadow::Candidate;

impl Policies {
    /// Whether anybody watches what plugins of this kind decide, for schedulers: in the scaling group `name`. A cheap
    /// question before anything is handed over.
    pub(crate) fn has_candidates(&self, kind: PluginKind, name: &str) -> bool {
        self.catalogue.load().bindings.iter().any(|b| watches(b, kind, name))
    }

    /// Whether any hook that watches listens to an event.
    pub(crate) fn has_listening(&self, event: &str) -> bool {
        let catalogue = self.catalogue.load();
        let hears = |b: &BindingRow| catalogue.revisions.get(&b.digest).is_some_and(|r| listens(&r.info, event));
        catalogue.bindings.iter().any(|b| watches(b, PluginKind::Hook, "") && hears(b))
    }

    /// Those who watch what plugins of this kind decide; schedulers: in the scaling group `name`.
    pub(crate) async fn candidates(&self, kind: PluginKind, name: &str) -> Vec<Candidate> {
        let catalogue = self.catalogue.load_full();
        let mut out = Vec::new();
        for binding in catalogue.bindings.iter().filter(|b| watches(b, kind, name)) {
            out.push(self.candidate(binding).await);
        }
        out
    }

    /// The hooks that watch an event.
    pub(crate) async fn listening(&self, event: &str) -> Vec<Candidate> {
        let catalogue = self.catalogue.load_full();
        let mut out = Vec::new();
        for binding in catalogue.bindings.iter().filter(|b| watches(b, PluginKind::Hook, "")) {
            if catalogue.revisions.get(&binding.digest).is_some_and(|r| listens(&r.info, event)) {
                out.push(self.candidate(binding).await);
            }
        }
        out
    }

    /// A binding's revision with its configuration. What is wrong with it counts against the binding alone.
    async fn candidate(&self, binding: &BindingRow) -> Candidate {
        let catalogue = self.catalogue.load_full();
        let prefix = match binding.kind {
            PluginKind::Scheduler => format!("config/plugins/scheduler/{}", binding.plugin),
            PluginKind::IdleChecker => format!("config/idle/checkers/{}", binding.plugin),
            PluginKind::Hook => format!("config/plugins/hook/{}", binding.plugin),
        };
        let config = self.overlaid(&prefix, Some(binding)).await;
        let bound = match catalogue.revisions.get(&binding.digest) {
            None => Err("the revision is gone".to_owned()),
            // Suspended where it decides: it may watch on.
            Some(revision) if matches!(revision.status, RevisionStatus::Ready | RevisionStatus::Suspended) => self
                .fit(revision, Some(binding), binding.target.clone(), config)
                .await
                .map_err(|unfit| unfit.into_error().to_string()),
            Some(revision) => Err(format!("the revision is {}", revision.status)),
        };
        Candidate { binding: binding.id.clone(), bound }
    }
}

fn watches(binding: &BindingRow, kind: PluginKind, name: &str) -> bool {
    binding.mode == BindingMode::Shadow
        && binding.kind == kind
        && (kind != PluginKind::Scheduler || binding.target.name == name)
}
