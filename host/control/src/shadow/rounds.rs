//! Rounds, played again by candidates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quarterdeck_model::policy::PluginKind;
use quarterdeck_plugin::scheduling::Lack;
use quarterdeck_plugin::{Call, Limits};
use quarterdeck_store::shadow::Run;
use serde_json::{Value as Json, json};

use super::ledger::{Ledger, pack};
use super::{Asked, NAMED_SESSIONS, Shown, ask_each};
use crate::Control;
use crate::policies::Bound;
use crate::schedule::{self, Books, Decision, Decisions, Difference, Fate, Frame, Verdict};

/// A round after it was decided. What the live path had anyway: handing it over copies nothing.
pub(crate) struct ShownRound {
    /// Its id in the ring, if it is on record.
    pub id: Option<i64>,
    /// What it was decided on.
    pub frame: Arc<Frame>,
    /// The round's number.
    pub number: u64,
    /// What was decided.
    pub decisions: Vec<Decision>,
    /// How long the live policy took.
    pub took: Duration,
}

impl ShownRound {
    pub(super) fn group(&self) -> &str {
        &self.frame.group
    }
}

impl Shown for ShownRound {
    async fn play(self, control: &Control, ledger: &mut Ledger, skipped: i64) {
        let candidates = control.policies().candidates(PluginKind::Scheduler, self.group()).await;
        ask_each(self, candidates, control, ledger, skipped).await;
    }
}

impl ShownRound {
    fn run(&self) -> Run {
        Run {
            round: self.id,
            at: self.frame.now.0,
            outcome: "ok".to_owned(),
            live_us: micros(self.took),
            ..Run::default()
        }
    }
}

impl Asked for ShownRound {
    fn failed(&self, problem: String) -> Run {
        Run { outcome: problem, ..self.run() }
    }

    fn ask(&self, bound: &Bound, limits: Limits) -> (Run, bool) {
        let (frame, plugin) = (&*self.frame, &bound.plugin);
        let mut call = Call::new(bound.config.clone());
        call.limits = Some(limits);
        call.seed = schedule::seed(&frame.group, self.number);
        call.tag = format!("{} {} in shadow", frame.group, self.number);
        let snapshot = schedule::columns(frame, self.number, call.seed, &plugin.info.columns);
        let mut books = Books::new(frame);
        let started = Instant::now();
        let result = plugin.schedule(&call, &snapshot, &mut books);
        let took = started.elapsed();
        let mut run = Run { candidate_us: micros(took), ..self.run() };
        if let Err(failure) = result {
            run.outcome = format!("{}: {failure}", failure.label());
            return (run, false);
        }
        let (decisions, _) = books.close();
        let (live, candidate) = (fates(frame, &self.decisions), fates(frame, &decisions));
        let difference = Difference::between(&live, &candidate, &snapshot);
        let changes = difference.changes();
        let (left, right) = (&difference.left, &difference.right);
        run.elsewhere = changes.moved.into();
        run.only_live = changes.only_left.into();
        run.only_candidate = changes.only_right.into();
        run.same = i64::from(left.placed) - run.elsewhere - run.only_live;
        run.live_waited_ms = i64::try_from(left.placed_waited_ms).unwrap_or(i64::MAX);
        run.candidate_waited_ms = i64::try_from(right.placed_waited_ms).unwrap_or(i64::MAX);
        run.live_fragmentation = left.fragmentation;
        run.candidate_fragmentation = right.fragmentation;
        // In which order the same is decided is nobody's concern.
        let alike = difference.sessions.is_empty();
        if !alike {
            run.details = pack(&details(frame, &difference));
        }
        (run, alike)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn fates(frame: &Frame, decisions: &[Decision]) -> Decisions {
    let mut out = Decisions { fates: vec![Fate::Untouched; frame.pending.len()], order: Vec::new() };
    for decision in decisions {
        out.fates[decision.session] = match &decision.verdict {
            Verdict::Placed(agents) => Fate::Placed(agents.clone()),
            Verdict::NoRoom { .. } => Fate::Deferred(Lack::NoRoom),
            Verdict::Ineligible => Fate::Refused(decision.checks.failed[0].2),
            Verdict::Refused { refusal, .. } => Fate::Refused(*refusal),
        };
        out.order.push(decision.session as u32);
    }
    out
}

/// Which sessions fare differently, and how.
fn details(frame: &Frame, difference: &Difference) -> Json {
    let fate = |fate: &Fate| match fate {
        Fate::Placed(agents) => {
            let ids: Vec<&str> = agents.iter().map(|a| frame.agents[*a as usize].id.as_str()).collect();
            json!({"fate": fate.word(), "agents": ids})
        }
        _ => json!({"fate": fate.word()}),
    };
    let sessions: Vec<Json> = difference
        .sessions
        .iter()
        .take(NAMED_SESSIONS)
        .map(|change| {
            let row = &frame.pending[change.session as usize].row;
            json!({
                "session": row.id, "name": row.name, "owner": row.access_key,
                "live": fate(&change.left), "candidate": fate(&change.right),
            })
        })
        .collect();
    json!({"sessions": sessions, "left_out": difference.sessions.len().saturating_sub(NAMED_SESSIONS)})
}
