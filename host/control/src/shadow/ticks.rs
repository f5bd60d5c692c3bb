//! Ticks of idle checkers, judged again by candidates.

use std::sync::Arc;

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{PluginKind, Target, TargetKind};
use quarterdeck_plugin::Call;
use quarterdeck_plugin::idling::State as FindingState;
use quarterdeck_store::idle::Candidate as Judged;
use quarterdeck_store::shadow::Run;
use serde_json::{Value as Json, json};

use super::ledger::{Ledger, pack};
use super::{NAMED_SESSIONS, Shown, limits, quietly};
use crate::Control;
use crate::idle::{self, Facts};
use crate::policies::Bound;

/// A tick after the checkers were asked.
pub(crate) struct ShownTick {
    /// The running sessions.
    pub sessions: Vec<Judged>,
    /// What else checkers are told.
    pub facts: Facts,
    /// When.
    pub at: Timestamp,
    /// Name and target of each checker that was asked, and which sessions it found idle; the last entry, of no name, is
    /// what all of them found together.
    pub found: Vec<(String, Target, Vec<bool>)>,
}

impl ShownTick {
    /// Which sessions the checker in whose place a candidate would stand found idle: the one of its name there, or else
    /// all together.
    fn live(&self, bound: &Bound) -> &[bool] {
        let name = &bound.plugin.info.name;
        let own = self.found.iter().find(|(checker, target, _)| checker == name && *target == bound.target);
        own.or_else(|| self.found.last()).map_or(&[], |(_, _, idle)| idle)
    }

    fn run(&self, outcome: String) -> Run {
        Run { at: self.at.0, outcome, ..Run::default() }
    }

    async fn ask(&self, control: &Control, bound: &Bound) -> (Run, bool) {
        let target = &bound.target;
        let concerned: Vec<usize> = (0..self.sessions.len())
            .filter(|i| target.kind != TargetKind::Domain || target.name == self.sessions[*i].domain_name)
            .collect();
        let traits = match idle::traits(control, bound).await {
            Ok(traits) => traits,
            Err(failure) => return (self.run(format!("{}: {failure}", failure.label())), false),
        };
        let columns = idle::columns(&traits, &concerned, &self.sessions, &self.facts, self.at);
        let (plugin, mut call) = (Arc::clone(&bound.plugin), Call::new(bound.config.clone()));
        call.limits = Some(limits(control));
        call.tag = "tick in shadow".to_owned();
        let isolated = match quietly(control, move || plugin.check_isolated(&call, &columns)).await {
            Ok(isolated) => isolated,
            Err(problem) => return (self.run(problem), false),
        };
        if let Some(failure) = isolated.failure {
            return (self.run(format!("{}: {failure}", failure.label())), false);
        }
        let live = self.live(bound);
        let mut run = self.run("ok".to_owned());
        let mut differing: Vec<Json> = Vec::new();
        for (row, finding) in concerned.into_iter().zip(isolated.findings) {
            let idle = matches!(&finding, Ok(finding) if finding.state == FindingState::Idle);
            let was = live.get(row).copied().unwrap_or(false);
            let count = match (was, idle) {
                (false, false) => continue,
                (true, true) => &mut run.same,
                (true, false) => &mut run.only_live,
                (false, true) => &mut run.only_candidate,
            };
            *count += 1;
            if was != idle && differing.len() < NAMED_SESSIONS {
                let session = self.sessions[row].session_id;
                differing.push(json!({"session": session, "live": fate(was), "candidate": fate(idle)}));
            }
        }
        let alike = run.only_live + run.only_candidate == 0;
        if !alike {
            run.details = pack(&json!({"sessions": differing}));
        }
        (run, alike)
    }
}

fn fate(idle: bool) -> Json {
    json!({"fate": if idle { "idle" } else { "active" }})
}

impl Shown for ShownTick {
    async fn play(self, control: &Control, ledger: &mut Ledger, skipped: i64) {
        for candidate in control.policies().candidates(PluginKind::IdleChecker, "").await {
            let binding = candidate.binding;
            if !ledger.awake(control, &binding).await {
                continue;
            }
            ledger.skipped(&binding, skipped);
            let (run, alike) = match &candidate.bound {
                Err(problem) => (self.run(problem.clone()), false),
                Ok(bound) => self.ask(control, bound).await,
            };
            ledger.note(control, &binding, run, alike);
        }
    }
}
