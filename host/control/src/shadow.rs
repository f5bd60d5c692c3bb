//! Policies that watch: what a candidate would have decided beside the live policy, on the same facts.
//!
//! A binding in shadow mode is shown every real round (tick, event) after it was decided. The live path hands over what
//! it has anyway, to a queue with an end; whoever finds it full goes on, and that is counted. A task for each queue plays
//! the candidates on a thread that yields to everybody else, adds up what they would have done, and keeps only the
//! differences. A candidate that keeps failing is put to rest; the live policy never notices.

mod events;
mod ledger;
mod rounds;
mod switch;
mod ticks;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quarterdeck_model::policy::{BindingMode, PluginKind, Target};
use quarterdeck_plugin::Limits;
use quarterdeck_store::plugins::{self, BindingRow, RevisionRow};
use quarterdeck_store::shadow::{self as rows, Run, RunRow, Totals};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::policies::Bound;
use crate::principal::Principal;
use crate::quiet::{PATIENCE, Quiet};
use crate::{Control, Inner};

use ledger::Ledger;

pub(crate) use events::ShownEvent;
pub(crate) use rounds::ShownRound;
pub use switch::{bind, promote, unbind};
pub(crate) use switch::{bind_as, unbind_as};
pub(crate) use ticks::ShownTick;

/// Failures in a row after which a candidate is put to rest.
pub const FAILURES_UNTIL_REST: i64 = 5;

/// Differences that are kept for each binding.
pub const KEPT_RUNS: i64 = 500;

/// Sessions that a kept difference names.
const NAMED_SESSIONS: usize = 200;

/// Rounds of a group that wait for their shadows; each holds its view of the group in memory.
const WAITING_ROUNDS: usize = 4;

/// Ticks that wait.
const WAITING_TICKS: usize = 2;

/// Events that wait.
const WAITING_EVENTS: usize = 256;

/// Something that candidates are shown.
pub(crate) trait Shown: Send + 'static {
    /// Shows it to every candidate that it concerns. `skipped` others came too fast.
    fn play(self, control: &Control, ledger: &mut Ledger, skipped: i64) -> impl Future<Output = ()> + Send;
}

/// What candidates answer on the thread that yields to everybody else.
trait Asked: Send + Sync + 'static {
    /// What there is to say of a candidate that gave no answer.
    fn failed(&self, problem: String) -> Run;
    /// Asks a candidate; with whether it decided all alike.
    fn ask(&self, bound: &Bound, limits: Limits) -> (Run, bool);
}

/// Asks candidates, one after the other.
async fn ask_each(shown: impl Asked, candidates: Vec<Candidate>, control: &Control, ledger: &mut Ledger, skipped: i64) {
    let shown = Arc::new(shown);
    for candidate in candidates {
        let binding = candidate.binding;
        if !ledger.awake(control, &binding).await {
            continue;
        }
        ledger.skipped(&binding, skipped);
        let answered = match candidate.bound {
            Err(problem) => Err(problem),
            Ok(bound) => {
                let (asked, limits) = (Arc::clone(&shown), limits(control));
                quietly(control, move || asked.ask(&bound, limits)).await
            }
        };
        let (run, alike) = answered.unwrap_or_else(|problem| (shown.failed(problem), false));
        ledger.note(control, &binding, run, alike);
    }
}

/// A queue and the task at its other end.
#[derive(Debug)]
struct Lane<S> {
    queue: mpsc::Sender<S>,
    skipped: Arc<AtomicU64>,
}

impl<S: Shown> Lane<S> {
    fn open(inner: Weak<Inner>, depth: usize) -> Self {
        let (queue, shown) = mpsc::channel(depth);
        let skipped = Arc::new(AtomicU64::new(0));
        tokio::spawn(work(inner, shown, Arc::clone(&skipped)));
        Self { queue, skipped }
    }

    fn offer(&self, shown: S) {
        if self.queue.try_send(shown).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn work<S: Shown>(inner: Weak<Inner>, mut queue: mpsc::Receiver<S>, skipped: Arc<AtomicU64>) {
    let mut ledger = Ledger::default();
    loop {
        let next = tokio::select! {
            next = queue.recv() => next,
            () = ledger.is_due() => {
                let Some(inner) = inner.upgrade() else { return };
                ledger.write(&Control { inner }).await;
                continue;
            }
        };
        let (Some(shown), Some(inner)) = (next, inner.upgrade()) else { return };
        let skipped = i64::try_from(skipped.swap(0, Ordering::Relaxed)).unwrap_or(i64::MAX);
        shown.play(&Control { inner }, &mut ledger, skipped).await;
    }
}

/// What watches on this host.
pub struct Shadows {
    thread: Quiet,
    rounds: Mutex<HashMap<String, Lane<ShownRound>>>,
    ticks: Mutex<Option<Lane<ShownTick>>>,
    events: Mutex<Option<Lane<ShownEvent>>>,
}

impl std::fmt::Debug for Shadows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            thread: Quiet::new("shadow", 64),
            rounds: Mutex::default(),
            ticks: Mutex::default(),
            events: Mutex::default(),
        }
    }
}

impl Shadows {
    /// Hands over a round that was decided. Never waits.
    pub(crate) fn offer_round(&self, control: &Control, shown: ShownRound) {
        let mut lanes = self.rounds.lock();
        // Groups come and go; a lane whose queue is dropped ends.
        if lanes.len() > 1024 {
            lanes.clear();
        }
        let open = || Lane::open(Arc::downgrade(&control.inner), WAITING_ROUNDS);
        lanes.entry(shown.group().to_owned()).or_insert_with(open).offer(shown);
    }

    /// Hands over a tick of the idle checkers. Never waits.
    pub(crate) fn offer_tick(&self, control: &Control, shown: ShownTick) {
        let open = || Lane::open(Arc::downgrade(&control.inner), WAITING_TICKS);
        self.ticks.lock().get_or_insert_with(open).offer(shown);
    }

    /// Hands over an event of the hooks. Never waits.
    pub(crate) fn offer_event(&self, control: &Control, shown: ShownEvent) {
        let open = || Lane::open(Arc::downgrade(&control.inner), WAITING_EVENTS);
        self.events.lock().get_or_insert_with(open).offer(shown);
    }
}

/// Runs a candidate on the thread that yields to everybody else.
async fn quietly<T: Send + 'static>(
    control: &Control,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::result::Result<T, String> {
    let answer = control.shadows().thread.offer(work).ok_or("too many candidates are waiting for their turn")?;
    answer.await.map_err(|_| "the call broke off".to_owned())
}

/// The limits of a candidate's calls.
fn limits(control: &Control) -> Limits {
    let live = control.runtime().limits().clone();
    Limits { round: live.round * PATIENCE, tick: live.tick * PATIENCE, hook: live.hook * PATIENCE, ..live }
}

/// A candidate, or why it can't be used.
pub(crate) struct Candidate {
    /// Its binding's id.
    pub binding: String,
    /// The candidate.
    pub bound: std::result::Result<Bound, String>,
}

/// What a shadow binding saw, in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Rounds, ticks or events that it was shown.
    pub seen: i64,
    /// Others that came while it was busy.
    pub skipped: i64,
    /// Of those seen: that it failed in.
    pub failed: i64,
    /// Share of those seen, failed ones excepted, without any difference; none before the first.
    pub agreement: Option<f64>,
    /// Sessions that both placed on the same agents (found idle; events that both denied).
    pub same: i64,
    /// Sessions that both placed, on other agents (events that both let pass, with other patches or values).
    pub elsewhere: i64,
    /// Sessions that only the live policy placed (found idle; denied).
    pub only_live: i64,
    /// Sessions that only the candidate placed (found idle; denied).
    pub only_candidate: i64,
    /// Schedulers: how much longer the sessions that the candidate places have waited, on average, than those that the
    /// live policy places, in milliseconds.
    pub wait_difference_ms: Option<f64>,
    /// Schedulers: how much more of the free room is in pieces too small, on average, after the candidate's rounds.
    pub fragmentation_difference: Option<f64>,
    /// How long the candidate takes for each microsecond of the live policy.
    pub latency_ratio: Option<f64>,
}

impl Figures {
    /// What these sums come to.
    pub fn of(totals: &Totals) -> Self {
        let sums = &totals.sums;
        let played = totals.seen - totals.failed;
        let ratio = |part: f64, whole: i64| (whole > 0).then(|| part / whole as f64);
        let placed = |others: i64| sums.same + sums.elsewhere + others;
        let live_wait = ratio(sums.live_waited_ms as f64, placed(sums.only_live));
        let candidate_wait = ratio(sums.candidate_waited_ms as f64, placed(sums.only_candidate));
        let timed = sums.live_us > 0;
        Self {
            seen: totals.seen,
            skipped: totals.skipped,
            failed: totals.failed,
            agreement: ratio(totals.alike as f64, played),
            same: sums.same,
            elsewhere: sums.elsewhere,
            only_live: sums.only_live,
            only_candidate: sums.only_candidate,
            wait_difference_ms: live_wait.zip(candidate_wait).filter(|_| timed).map(|(live, other)| other - live),
            fragmentation_difference: ratio(sums.candidate_fragmentation - sums.live_fragmentation, played)
                .filter(|_| timed),
            latency_ratio: ratio(sums.candidate_us as f64, sums.live_us),
        }
    }
}

/// A shadow binding and what it saw.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The binding.
    pub binding: BindingRow,
    /// Its revision.
    pub revision: Option<RevisionRow>,
    /// What it saw.
    pub totals: Totals,
}

fn superadmin(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        return Ok(());
    }
    Err(Error::InsufficientPrivilege("Only superadmins may administer plugins.".to_owned()))
}

/// All shadow bindings with what they saw, the oldest first.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal) -> Result<Vec<Summary>> {
    superadmin(caller)?;
    let mut reader = control.store().reader();
    let totals: HashMap<String, Totals> =
        rows::all(&mut reader).await?.into_iter().map(|t| (t.binding.clone(), t)).collect();
    let mut bindings = plugins::bindings(&mut reader).await?;
    bindings.retain(|b| b.mode == BindingMode::Shadow);
    bindings.sort_by(|a, b| (a.bound_at, &a.id).cmp(&(b.bound_at, &b.id)));
    let mut out = Vec::with_capacity(bindings.len());
    for binding in bindings {
        let revision = plugins::revision(&mut reader, &binding.digest).await?;
        let totals = totals.get(&binding.id).cloned().unwrap_or_default();
        out.push(Summary { binding, revision, totals });
    }
    Ok(out)
}

/// A shadow binding, by its id or its plugin's name, and runs of it that were kept: the newest first, older than
/// `before` (a run's id), at most `limit`.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidParams`] when the plugin watches several targets, [`Error::InsufficientPrivilege`].
pub async fn runs(
    control: &Control,
    caller: &Principal,
    reference: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<(Summary, Vec<RunRow>)> {
    let all = list(control, caller).await?;
    let mut found: Vec<Summary> =
        all.into_iter().filter(|s| s.binding.id == reference || s.binding.plugin == reference).collect();
    let summary = match found.len() {
        0 => return Err(Error::not_found_msg("shadow binding", reference)),
        1 => found.remove(0),
        _ => {
            let ids: Vec<&str> = found.iter().map(|s| s.binding.id.as_str()).collect();
            let msg = format!("{reference} watches several targets: name one of the bindings {}.", ids.join(", "));
            return Err(Error::invalid(msg));
        }
    };
    let runs = rows::runs(&mut control.store().reader(), &summary.binding.id, before, limit).await?;
    Ok((summary, runs))
}

/// The details of a run: who fares how.
///
/// # Errors
/// [`Error::Internal`] when what is stored can't be read.
pub fn details(run: &RunRow) -> Result<Json> {
    let Some(bytes) = &run.run.details else { return Ok(Json::Null) };
    ledger::unpack(bytes)
}

fn is_shadow_of(binding: &BindingRow, kind: PluginKind, plugin: &str, target: &Target) -> bool {
    binding.mode == BindingMode::Shadow && binding.kind == kind && binding.plugin == plugin && binding.target == *target
}

#[cfg(test)]
mod tests;
