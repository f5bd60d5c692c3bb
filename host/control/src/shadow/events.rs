//! Events of hooks, answered again by candidates.
//!
//! What hooks are shown may hold secrets, such as passwords: it is kept for the moment of the call and never written.

use quarterdeck_model::policy::TargetKind;
use quarterdeck_plugin::hooks::Event;
use quarterdeck_plugin::{Call, Limits};
use quarterdeck_store::shadow::Run;
use serde_json::{Value as Json, json};

use super::ledger::{Ledger, pack};
use super::{Asked, Shown, ask_each};
use crate::Control;
use crate::hooks::{self, Answer, Dispatched};
use crate::policies::Bound;

/// An event after the hooks were asked, and what came of it.
pub(crate) struct ShownEvent {
    /// As the first hook was shown it.
    pub event: Event,
    /// Its name.
    pub name: &'static str,
    /// The domain that it concerns.
    pub domain: Option<String>,
    /// What came of asking: the body and the values, or the reason of the denial.
    pub outcome: Result<Dispatched, String>,
}

impl Shown for ShownEvent {
    async fn play(self, control: &Control, ledger: &mut Ledger, skipped: i64) {
        let concerned = |bound: &Bound| match bound.target.kind {
            TargetKind::Everywhere => true,
            TargetKind::Domain => self.domain.as_deref() == Some(bound.target.name.as_str()),
            TargetKind::ScalingGroup => false,
        };
        let mut candidates = control.policies().listening(self.name).await;
        // One that can't be used says so at every event.
        candidates.retain(|candidate| candidate.bound.as_ref().map_or(true, concerned));
        ask_each(self, candidates, control, ledger, skipped).await;
    }
}

impl ShownEvent {
    fn run(&self, outcome: String) -> Run {
        Run { at: self.event.at_ms.saturating_mul(1000), outcome, ..Run::default() }
    }
}

impl Asked for ShownEvent {
    fn failed(&self, problem: String) -> Run {
        self.run(problem)
    }

    fn ask(&self, bound: &Bound, limits: Limits) -> (Run, bool) {
        let mut call = Call::new(bound.config.clone());
        call.limits = Some(limits);
        call.tag = format!("{} in shadow", self.name);
        let answer = bound.plugin.handle(&call, &self.event).and_then(|verdict| hooks::check(self.name, verdict));
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return (self.run(format!("{}: {failure}", failure.label())), false),
        };
        let mut run = self.run("ok".to_owned());
        let mut told = json!({"event": self.name, "domain": self.domain});
        match (&self.outcome, answer) {
            (Err(_), Answer::Deny(_)) => run.same = 1,
            (Err(reason), _) => {
                run.only_live = 1;
                told["live"] = denied(reason);
                told["candidate"] = json!({"verdict": "allowed"});
            }
            (Ok(_), Answer::Deny(reason)) => {
                run.only_candidate = 1;
                told["live"] = json!({"verdict": "allowed"});
                told["candidate"] = denied(&reason);
            }
            (Ok(live), answer) => {
                let (patch, value) = match answer {
                    Answer::Reply { patch, value } => (patch, value),
                    Answer::Allow | Answer::Deny(_) => (None, None),
                };
                let mut body: Json = serde_json::from_str(&self.event.body).unwrap_or_default();
                if let Some(patch) = patch {
                    hooks::merge_patch(&mut body, &patch);
                }
                let others = (body != live.body, value.as_ref() != live.values.first().map(|(_, value)| value));
                if others.0 || others.1 {
                    run.elsewhere = 1;
                    told["candidate"] = json!({"verdict": "allowed", "other_patch": others.0, "other_value": others.1});
                }
            }
        }
        let alike = run.only_live + run.only_candidate + run.elsewhere == 0;
        if !alike {
            run.details = pack(&told);
        }
        (run, alike)
    }
}

/// Reasons are for users; of long ones the beginning is enough here.
fn denied(reason: &str) -> Json {
    json!({"verdict": "denied", "reason": reason.chars().take(200).collect::<String>()})
}
