//! Scheduling: which pending session runs where.
//!
//! One worker per scaling group, so that a slow policy delays nobody else. A pass of a group takes
//! one consistent view of it, asks the group's policy, judges each proposal on books of its own, and
//! writes everything in one transaction whose guards check it once more. Policies are never
//! trusted; one that fails is replaced by the built-in `fifo` for that round.

mod books;
mod commit;
mod compare;
mod consult;
mod facts;
mod frame;
mod pseudonyms;
mod record;
mod recorded;
pub(crate) mod recorder;
mod recordings;
mod replay;
mod snapshot;
mod view;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarterdeck_model::policy::PluginKind;
use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::{SessionId, SessionStatus, Timestamp};
use quarterdeck_plugin::scheduling::Snapshot;
use quarterdeck_plugin::{Call, Failure, RoundTrace};
use quarterdeck_store::rounds::{self, NewRound};
use quarterdeck_store::scaling_groups::ScalingGroupRow;
use quarterdeck_store::schedule as rows;

use crate::Control;
use crate::error::{Error, Result};
use crate::metrics::{ByGroup, PluginCall};
use crate::policies::{Bound, Broken, Choice};
use crate::shadow::ShownRound;

use books::Exchange;
use record::Exposure;
use recorder::{Film, Finish, Mode, Ring};

pub(crate) use books::{Books, Checks, Decision, Verdict};
pub use compare::{Change, Changes, Decisions, Difference, Fate, RoundMetrics, SlotShare};
pub(crate) use consult::{Consulted, consult};
pub use facts::{AccountFacts, AgentFacts, Facts, KernelFacts, Malformed, SessionFacts, TableColumn, Waiting};
pub(crate) use frame::{Account, Agent, Frame, Place, Session};
pub use pseudonyms::Pseudonyms;
pub use record::{FORMAT as RECORDING_FORMAT, Fallback, RecordedCall, RecordedPlugin, Recording, Step, Timings};
pub use recorded::{Reason, RecordedBooks};
pub use recorder::Recorder;
pub use recordings::Recordings;
pub use replay::{REPLAY_FUEL, Replay};
pub(crate) use snapshot::{columns, session_kind, slot_kind};
pub use worker::run;

/// How the last pass of a group went.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupState {
    /// When it began.
    pub at: Timestamp,
    /// The scheduler that the group names.
    pub scheduler: String,
    /// `ok`, or why the group was skipped or the fallback took over.
    pub outcome: String,
    /// Sessions placed then.
    pub placed: usize,
    /// Sessions that found no room then.
    pub deferred: usize,
}

/// What this host remembers of its passes.
#[derive(Debug, Default)]
pub struct State {
    groups: Mutex<BTreeMap<String, GroupState>>,
    last_round: AtomicU64,
}

impl State {
    /// How the last pass of each group went on this host.
    pub fn groups(&self) -> BTreeMap<String, GroupState> {
        self.groups.lock().clone()
    }

    /// A number for a round: rises with time, also over restarts.
    fn next_round(&self, now: Timestamp) -> u64 {
        let now = u64::try_from(now.micros()).unwrap_or(0);
        let next = |last: u64| now.max(last.saturating_add(1));
        let last = self.last_round.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }
}

/// What a pass over a group did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    /// Sessions with agents now.
    pub placed: Vec<SessionId>,
    /// Sessions that found no room.
    pub deferred: Vec<SessionId>,
    /// Sessions that were cancelled.
    pub cancelled: Vec<SessionId>,
    /// Decisions that no longer held when they were to be written: they wait for the next pass.
    pub stale: Vec<SessionId>,
    /// Why the group was not scheduled at all.
    pub skipped: Option<String>,
}

/// One pass over every group that has something to schedule and an agent that lives, side by side.
///
/// # Errors
/// [`Error::Store`] when the groups can't be read. What goes wrong within a group is its own affair.
pub async fn tick(control: &Control) -> Result<BTreeMap<String, Pass>> {
    let groups = rows::groups(&mut control.store().reader()).await?;
    let passes = groups.into_iter().map(|group| async move {
        let result = pass(control, &group).await;
        (group, result)
    });
    let mut out = BTreeMap::new();
    for (group, result) in futures::future::join_all(passes).await {
        match result {
            Ok(pass) => {
                out.insert(group, pass);
            }
            Err(error) => tracing::error!(group, %error, "a scheduling pass failed"),
        }
    }
    Ok(out)
}

/// One pass over a scaling group.
///
/// # Errors
/// [`Error::Store`]; [`Error::Internal`] when even the fallback policy fails.
pub async fn pass(control: &Control, group: &str) -> Result<Pass> {
    let started = Instant::now();
    let now = control.clock().now();
    let Some(group) = control.policies().group(group).await? else { return Ok(Pass::default()) };
    let (choice, opts) = match policy(control, &group).await {
        Ok(both) => both,
        Err(Skip::Because(reason)) => return skip(control, &group, now, reason).await,
        Err(Skip::Failed(error)) => return Err(error),
    };

    let mut tx = control.store().begin_read().await?;
    let queue = rows::load(&mut tx, &group.name).await?;
    let ring = Ring::of(control);
    // A recording has the columns of every policy, so that any of them can play the round again; candidates that watch
    // ask for columns of their own.
    let watched = control.policies().has_candidates(PluginKind::Scheduler, &group.name);
    let wanted = match ring.mode {
        _ if !queue.has_pending() => rows::Wanted::default(),
        Mode::Off if !watched => choice.wanted(),
        Mode::Off | Mode::All | Mode::Decisive => rows::Wanted::ALL,
    };
    let extras = rows::extras(&mut tx, &group.name, wanted, now).await?;
    tx.rollback().await?;
    let (queue, expired) = split_expired(queue, now, opts.pending_timeout_s);
    let has_pending = queue.has_pending();
    if !has_pending && expired.is_empty() {
        return Ok(Pass::default());
    }
    let frame = Frame::build(&group.name, now, control.config_tree().slot_types(), queue).with_extras(extras);
    let frame = Arc::new(frame);

    let mut round = if frame.pending.is_empty() { Round::default() } else { decide(control, &choice, &frame).await? };
    let commit = commit::prepare(&frame, &expired, &round.decisions);
    let deferred: Vec<SessionId> = round
        .decisions
        .iter()
        .filter(|d| matches!(d.verdict, Verdict::NoRoom { .. }))
        .map(|d| frame.pending[d.session].row.id)
        .collect();
    let pending = !frame.pending.is_empty();
    let wanted = pending
        && (control.recorder().wants(ring.mode, &frame, choice.print(), &round.outcome, &round.decisions)
            || !expired.is_empty());
    let record = wanted.then(|| NewRound {
        scaling_group: group.name.clone(),
        at: now,
        plugin: choice.plugin().to_owned(),
        version: choice.version().to_owned(),
        digest: choice.digest().to_owned(),
        outcome: round.outcome.clone(),
        pending: frame.pending.len() as i64,
        placed: 0,
        deferred: deferred.len() as i64,
        refused: (round.decisions.len() - deferred.len() - commit.placed.len()) as i64,
        stale: 0,
        duration_us: i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX),
    });
    if commit::is_empty(&commit) && record.is_none() {
        watch(control, None, frame, round);
        return Ok(Pass::default());
    }
    let committing = Instant::now();
    let (committed, id) = commit::write(control.store(), &commit, record, ring.keep).await?;
    if let (Some(round_id), Some(exposure)) = (id, round.exposure.take()) {
        let finish = Finish {
            stale: stale_rows(&frame, &committed),
            commit_us: record::micros(committing.elapsed()),
            total_us: record::micros(started.elapsed()),
        };
        let film = Film { round: round_id, frame: Arc::clone(&frame), exposure, finish, max_bytes: ring.max_bytes };
        if ring.mode != Mode::Off && !control.recorder().record(film) {
            recorder::lost(control);
            tracing::info!(group = group.name, round_id, "too many rounds wait to be recorded; this one is not");
        }
    }

    for (session, reason) in &committed.stale {
        tracing::debug!(%session, ?reason, group = group.name, "a placement no longer holds");
    }
    let signals = control.signals();
    if !committed.placed.is_empty() {
        signals.start.notify_one();
    }
    if !committed.placed.is_empty() || !committed.cancelled.is_empty() {
        signals.events.notify_one();
        signals.changed(committed.placed.iter().chain(&committed.cancelled).copied());
    }
    let labels = ByGroup { scaling_group: group.name.clone() };
    let metrics = control.metrics();
    metrics.rounds.get_or_create(&labels).inc();
    metrics.round_seconds.observe(started.elapsed().as_secs_f64());
    metrics.placements.get_or_create(&labels).inc_by(committed.placed.len() as u64);
    control.schedule_state().groups.lock().insert(
        group.name.clone(),
        GroupState {
            at: now,
            scheduler: group.scheduler.clone(),
            outcome: round.outcome.clone(),
            placed: committed.placed.len(),
            deferred: deferred.len(),
        },
    );
    watch(control, id, frame, round);
    Ok(Pass {
        placed: committed.placed,
        deferred,
        cancelled: committed.cancelled,
        stale: committed.stale.into_iter().map(|(id, _)| id).collect(),
        skipped: None,
    })
}

/// Shows a round that was decided to those who watch, if anybody does. Nothing is copied for it. `id` is the round's in
/// the ring.
fn watch(control: &Control, id: Option<i64>, frame: Arc<Frame>, round: Round) {
    if !frame.pending.is_empty() && control.policies().has_candidates(PluginKind::Scheduler, &frame.group) {
        let Round { number, decisions, took, .. } = round;
        control.shadows().offer_round(control, ShownRound { id, frame, number, decisions, took });
    }
}

/// Rows of the pending sessions whose placement no longer held.
fn stale_rows(frame: &Frame, committed: &rows::Committed) -> Vec<u32> {
    let row = |id: &SessionId| frame.pending.iter().position(|s| s.row.id == *id).map(|row| row as u32);
    committed.stale.iter().filter_map(|(id, _)| row(id)).collect()
}

/// Why a group is not scheduled.
enum Skip {
    /// Nobody's fault but the configuration's.
    Because(String),
    Failed(Error),
}

/// The policy that a group names: to be asked, or known to be broken.
enum Chosen {
    Policy(Box<Bound>),
    Broken(Box<Broken>),
}

impl Chosen {
    fn plugin(&self) -> &str {
        match self {
            Self::Policy(bound) => &bound.plugin.info.name,
            Self::Broken(broken) => &broken.plugin,
        }
    }

    fn version(&self) -> &str {
        match self {
            Self::Policy(bound) => &bound.plugin.info.version,
            Self::Broken(broken) => &broken.version,
        }
    }

    /// The optional columns that it asks for; all of them where another has to step in for it.
    fn wanted(&self) -> rows::Wanted {
        match self {
            Self::Policy(bound) => snapshot::extras_of(&bound.plugin.info.columns),
            Self::Broken(_) => rows::Wanted::ALL,
        }
    }

    /// What tells it from others: revision and configuration.
    fn print(&self) -> (&str, &str) {
        match self {
            Self::Policy(bound) => (&bound.plugin.digest, &bound.config),
            Self::Broken(broken) => (&broken.digest, ""),
        }
    }

    fn digest(&self) -> &str {
        match self {
            Self::Policy(bound) => &bound.plugin.digest,
            Self::Broken(broken) => &broken.digest,
        }
    }
}

/// The policy and the options of a group.
async fn policy(control: &Control, group: &ScalingGroupRow) -> std::result::Result<(Chosen, SchedulerOpts), Skip> {
    let opts = SchedulerOpts::parse(&group.scheduler_opts)
        .map_err(|e| Skip::Because(format!("the group's scheduler options make no sense: {e}")))?;
    match control.policies().choose(group).await {
        Ok(Choice::Policy(bound)) => Ok((Chosen::Policy(bound), opts)),
        Ok(Choice::Broken(broken)) => Ok((Chosen::Broken(broken), opts)),
        Ok(Choice::Nobody) => Err(Skip::Because(format!("Cannot load the scheduler plugin: {}", group.scheduler))),
        Err(error @ (Error::InvalidParams { .. } | Error::Unavailable(_))) => Err(Skip::Because(error.to_string())),
        Err(error) => Err(Skip::Failed(error)),
    }
}

/// Notes why a group is not scheduled, in the ring only when that is news.
async fn skip(control: &Control, group: &ScalingGroupRow, now: Timestamp, reason: String) -> Result<Pass> {
    let state = GroupState {
        at: now,
        scheduler: group.scheduler.clone(),
        outcome: format!("skipped: {reason}"),
        placed: 0,
        deferred: 0,
    };
    let before = control.schedule_state().groups.lock().insert(group.name.clone(), state.clone());
    if before.is_none_or(|b| b.outcome != state.outcome) {
        tracing::error!(group = group.name, scheduler = group.scheduler, reason, "a scaling group is not scheduled");
        let round = NewRound {
            scaling_group: group.name.clone(),
            at: now,
            plugin: group.scheduler.clone(),
            version: String::new(),
            digest: String::new(),
            outcome: state.outcome,
            pending: 0,
            placed: 0,
            deferred: 0,
            refused: 0,
            stale: 0,
            duration_us: 0,
        };
        let keep = Ring::of(control).keep;
        let mut tx = control.store().begin().await?;
        rounds::append(&mut tx, &round, keep).await?;
        tx.commit().await?;
    }
    Ok(Pass { skipped: Some(reason), ..Pass::default() })
}

/// Takes out the sessions that have waited for `timeout` seconds (0 or less: for ever).
pub(crate) fn split_expired(
    mut queue: rows::Queue,
    now: Timestamp,
    timeout: f64,
) -> (rows::Queue, Vec<rows::SessionRow>) {
    if timeout <= 0.0 {
        return (queue, Vec::new());
    }
    let expired =
        |s: &rows::SessionRow| s.status == SessionStatus::Pending && now.seconds() - s.created_at.seconds() >= timeout;
    let (out, rest) = std::mem::take(&mut queue.sessions).into_iter().partition(expired);
    queue.sessions = rest;
    (queue, out)
}

/// What a round came to.
#[derive(Default)]
struct Round {
    number: u64,
    decisions: Vec<Decision>,
    outcome: String,
    exposure: Option<Exposure>,
    /// How long the policy that decided took.
    took: Duration,
}

/// One run of a policy over a frame.
struct Run {
    decisions: Vec<Decision>,
    steps: Vec<Exchange>,
    snapshot: Snapshot,
    snapshot_time: Duration,
    seed: u64,
    trace: RoundTrace,
    failure: Option<Failure>,
}

/// Asks the policy; when it fails, asks the built-in one on fresh books of the same frame.
async fn decide(control: &Control, chosen: &Chosen, frame: &Arc<Frame>) -> Result<Round> {
    let number = control.schedule_state().next_round(frame.now);
    let bound = match chosen {
        Chosen::Policy(bound) => bound,
        Chosen::Broken(broken) => {
            took_over(control, frame, broken);
            let (_, second) = fall_back(control, frame, number).await?;
            // It was shown nothing, so there is nothing to record.
            let outcome = replay::outcome(Some(&broken.failure));
            let took = second.trace.duration;
            return Ok(Round { number, decisions: second.decisions, outcome, exposure: None, took });
        }
    };
    let mut run = ask(bound, frame, number).await?;
    let outcome = replay::outcome(run.failure.as_ref());
    let Some(failure) = run.failure.take() else {
        let (decisions, took) = (std::mem::take(&mut run.decisions), run.trace.duration);
        control.policies().succeeded(bound, took).await;
        let exposure = expose(control, bound, run, &outcome, None);
        return Ok(Round { number, decisions, outcome, exposure, took });
    };
    took_over(control, frame, &Broken::of(bound, failure.clone()));
    control.policies().failed(bound, &failure).await;
    let (fallback, second) = fall_back(control, frame, number).await?;
    let plugin = RecordedPlugin::of(&fallback.plugin, &fallback.config);
    let fallback = Fallback { plugin, steps: record::steps(second.steps) };
    // The recording is about the policy that failed: that is what somebody will want to look at.
    let exposure = expose(control, bound, run, &outcome, Some(fallback));
    Ok(Round { number, decisions: second.decisions, outcome, exposure, took: second.trace.duration })
}

/// Notes that the built-in policy takes over for a round.
fn took_over(control: &Control, frame: &Frame, broken: &Broken) {
    let Broken { plugin, version, digest, failure, .. } = broken;
    tracing::warn!(group = frame.group, plugin, version, digest, outcome = failure.label(), reason = %failure,
        "a scheduler failed; the built-in one takes over for this round");
    let labels = PluginCall {
        plugin: plugin.clone(),
        kind: broken.kind.as_str().to_owned(),
        outcome: failure.label().to_owned(),
    };
    control.metrics().plugin_fallbacks.get_or_create(&labels).inc();
}

/// Asks the built-in policy, on fresh books of the same frame.
async fn fall_back(control: &Control, frame: &Arc<Frame>, number: u64) -> Result<(Bound, Run)> {
    let fallback = control.policies().fallback_scheduler().await?;
    let run = ask(&fallback, frame, number).await?;
    match &run.failure {
        None => Ok((fallback, run)),
        Some(failure) => Err(Error::Internal(format!("the built-in scheduler failed: {failure}"))),
    }
}

/// Keeps what a recording needs, if there is to be one.
fn expose(control: &Control, bound: &Bound, run: Run, outcome: &str, fallback: Option<Fallback>) -> Option<Exposure> {
    control.settings().record_rounds.then(|| Exposure {
        plugin: RecordedPlugin::of(&bound.plugin, &bound.config),
        call: RecordedCall { seed: run.seed, limits: control.runtime().limits().clone(), ..RecordedCall::default() },
        snapshot: run.snapshot,
        snapshot_time: run.snapshot_time,
        steps: run.steps,
        trace: run.trace,
        outcome: outcome.to_owned(),
        fallback,
    })
}

/// Runs a policy on a thread that may block.
async fn ask(bound: &Bound, frame: &Arc<Frame>, number: u64) -> Result<Run> {
    let (plugin, frame) = (Arc::clone(&bound.plugin), Arc::clone(frame));
    let mut call = Call::new(bound.config.clone());
    call.seed = seed(&frame.group, number);
    call.tag = format!("{} {number}", frame.group);
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let snapshot = snapshot::columns(&frame, number, call.seed, &plugin.info.columns);
        let snapshot_time = started.elapsed();
        let mut books = Books::new(&*frame);
        let (trace, result) = plugin.schedule_traced(&call, &snapshot, &mut books);
        let (decisions, steps) = books.close();
        Run { decisions, steps, snapshot, snapshot_time, seed: call.seed, trace, failure: result.err() }
    })
    .await
    .map_err(|e| Error::Internal(format!("a scheduling round broke off: {e}")))
}

/// A seed that differs between rounds and groups and is the same whenever they are (splitmix64 over FNV-1a).
pub(crate) fn seed(group: &str, round: u64) -> u64 {
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut z = (hash ^ round).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
