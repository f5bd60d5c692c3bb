//! Idle checks: which running sessions have outlived their use.
//!
//! Each round reads the running sessions, asks every bound checker about all of them at once, keeps
//! what they report for users to see, and ends the sessions that the first objecting checker names.
//! A checker that fails, or fails on one session, never keeps the others from being judged: what was
//! not judged counts as active.

mod access;
mod report;
mod samples;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quarterdeck_model::duration::Duration as Span;
use quarterdeck_model::policy::{PluginKind, Target};
use quarterdeck_model::{SessionId, Timestamp};
use quarterdeck_plugin::idling::{Access, CheckerTraits, Finding, Series, State as FindingState, Tick};
use quarterdeck_plugin::{Call, Failure, Isolated, types};
use quarterdeck_store::idle::{self as rows, Candidate, Report};
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use crate::Control;
use crate::error::{Error, Result};
use crate::policies::{Bound, Broken};
use crate::shadow::ShownTick;

pub use access::{AccessEvent, lifetime_ms as access_lifetime_ms, note};
pub use report::report;
use samples::{Measured, Samples, measure};

/// A report older than this is not shown any more.
pub const REPORT_LIFETIME_MS: i64 = 150_000;

/// How many measurements one call of a checker is shown at most: more sessions are shown in several calls.
const MEASUREMENTS_PER_CALL: usize = 500_000;

/// What this host remembers of its checkers.
#[derive(Debug, Default)]
pub struct State {
    /// Traits by digest and configuration: they can't change.
    traits: Mutex<HashMap<(String, String), Arc<CheckerTraits>>>,
    samples: Mutex<Samples>,
}

/// A checker with what it says about itself.
#[derive(Clone, Debug)]
struct Checker {
    bound: Bound,
    traits: Arc<CheckerTraits>,
}

/// What a checker found about the sessions of a round: `None` where it was not asked.
type Findings = Vec<Option<std::result::Result<Finding, String>>>;

/// Checks every [`Settings::idle_interval`](crate::Settings::idle_interval) until `shutdown`.
pub async fn run(control: Control, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(control.settings().idle_interval);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        match tick(&control).await {
            Ok(_) => control.metrics().passed("idle", control.clock().now()),
            Err(error) => tracing::error!(%error, "an idle check failed"),
        }
    }
}

/// One round. The sessions that it ended, with the reasons.
///
/// # Errors
/// [`Error::Store`] when sessions can't be read or reports not be written.
pub async fn tick(control: &Control) -> Result<Vec<(SessionId, String)>> {
    let now = control.clock().now();
    let candidates = rows::candidates(&mut control.store().reader()).await?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let (checkers, broken) = checkers(control).await?;
    for broken in &broken {
        control.policies().blame(broken).await;
    }
    let mut facts = facts(control, &candidates).await;
    let tentative = take_samples(control, &checkers, &candidates, &mut facts, now).await?;
    let mut found: Vec<Findings> = Vec::with_capacity(checkers.len());
    for result in futures::future::join_all(checkers.iter().map(|c| ask(control, c, &candidates, &facts, now))).await {
        found.push(result?);
    }

    keep_samples(&mut control.idle_state().samples.lock(), &checkers, &candidates, &found, &tentative, now);

    let reports = reports(&checkers, &candidates, &found, now);
    if !reports.is_empty() {
        let mut tx = control.store().begin().await?;
        rows::write_reports(&mut tx, &reports).await?;
        tx.commit().await?;
    }

    let reasons: Vec<&str> = checkers.iter().map(|c| c.traits.reason.as_str()).collect();
    let ended: Vec<(SessionId, String)> = verdicts(&reasons, &found)
        .into_iter()
        .map(|(row, reason)| (candidates[row].session_id, reason.to_owned()))
        .collect();
    for (session, reason) in &ended {
        tracing::info!(%session, reason, "a session is idle");
        if let Err(error) = crate::terminate::end_quietly(control, *session, reason).await {
            tracing::warn!(%session, reason, %error, "an idle session can't be ended now");
        }
    }
    if control.policies().has_candidates(PluginKind::IdleChecker, "") {
        let shown = as_shown(&checkers, &found, candidates, facts, now);
        control.shadows().offer_tick(control, shown);
    }
    Ok(ended)
}

/// A tick as those who watch are shown it.
fn as_shown(
    checkers: &[Checker],
    found: &[Findings],
    sessions: Vec<Candidate>,
    facts: Facts,
    at: Timestamp,
) -> ShownTick {
    let is_idle =
        |f: &Option<std::result::Result<Finding, String>>| matches!(f, Some(Ok(f)) if f.state == FindingState::Idle);
    let mut all = vec![false; sessions.len()];
    let mut by_checker = Vec::with_capacity(checkers.len() + 1);
    for (checker, findings) in checkers.iter().zip(found) {
        let idle: Vec<bool> = findings.iter().map(is_idle).collect();
        for (any, idle) in all.iter_mut().zip(&idle) {
            *any |= *idle;
        }
        by_checker.push((checker.bound.plugin.info.name.clone(), checker.bound.target.clone(), idle));
    }
    by_checker.push((String::new(), Target::everywhere(), all));
    ShownTick { sessions, facts, at, found: by_checker }
}

/// The checkers in their order, and those that should be among them and can't be asked.
async fn checkers(control: &Control) -> Result<(Vec<Checker>, Vec<Broken>)> {
    let (bounds, mut broken) = control.policies().idle_checkers().await?;
    let mut out = Vec::new();
    for bound in bounds {
        match traits(control, &bound).await {
            Ok(traits) => out.push(Checker { bound, traits }),
            Err(failure) => broken.push(Broken::of(&bound, failure)),
        }
    }
    Ok((out, broken))
}

pub(crate) async fn traits(control: &Control, bound: &Bound) -> std::result::Result<Arc<CheckerTraits>, Failure> {
    let key = (bound.plugin.digest.clone(), bound.config.clone());
    if let Some(known) = control.idle_state().traits.lock().get(&key) {
        return Ok(Arc::clone(known));
    }
    let (plugin, call) = (Arc::clone(&bound.plugin), Call::new(bound.config.clone()));
    let traits = match tokio::task::spawn_blocking(move || plugin.traits(&call)).await {
        Ok(result) => Arc::new(result?),
        Err(error) => return Err(Failure::Instantiate { reason: error.to_string() }),
    };
    let mut memory = control.idle_state().traits.lock();
    // A bound on memory, not a cache policy: checkers are few.
    if memory.len() > 256 {
        memory.clear();
    }
    memory.insert(key, Arc::clone(&traits));
    Ok(traits)
}

/// What all checkers are told that does not stand in the sessions' rows.
pub(crate) struct Facts {
    slots: Vec<(String, quarterdeck_model::slots::SlotKind)>,
    /// How long new users' sessions are left alone.
    user_grace: Option<i64>,
    /// How long an access is remembered.
    access_lifetime_ms: i64,
    /// What was measured of the sessions, by candidate. Empty when no checker asks.
    measured: Vec<Measured>,
}

async fn facts(control: &Control, candidates: &[Candidate]) -> Facts {
    let config = control.config_tree();
    let types = config.slot_types();
    let mut slots: Vec<_> = types.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
    for candidate in candidates {
        for name in held(candidate).keys() {
            if !slots.iter().any(|(known, _)| known == name) {
                slots.push((name.clone(), quarterdeck_model::slots::SlotKind::guess(name)));
            }
        }
    }
    let key = "config/idle/checkers/user_grace_period/user_initial_grace_period";
    let user_grace = span_ms(key, config.get(key).await);
    let key = "config/idle/checkers/network_timeout/threshold";
    let threshold = span_ms(key, config.get(key).await).unwrap_or(600_000);
    Facts { slots, user_grace, access_lifetime_ms: access::lifetime_ms(threshold), measured: Vec::new() }
}

/// A span of the configuration; one that makes no sense counts as not set, and is told in the log.
pub(crate) fn span_ms(key: &str, text: Option<String>) -> Option<i64> {
    let text = text.filter(|t| !t.trim().is_empty())?;
    match Span::parse_text(&text) {
        Ok(span) => Some(span.millis()),
        Err(error) => {
            tracing::warn!(key, text, %error, "a duration of the configuration makes no sense");
            None
        }
    }
}

/// How much history the checkers want of a session: what they say, or as much as its owner's policy lets it be idle.
fn history_ms(checkers: &[Checker], candidate: &Candidate) -> i64 {
    let wanted = checkers.iter().filter(|c| !c.traits.metrics.is_empty()).map(|c| c.traits.history_ms).max();
    let wanted = i64::try_from(wanted.unwrap_or(0)).unwrap_or(i64::MAX);
    wanted.max(candidate.idle_timeout.saturating_mul(1000))
}

/// Statistics of the running kernels of each session, with the memory that each kernel holds.
type Statistics = HashMap<SessionId, Vec<(Option<Json>, u64)>>;

/// Measures the sessions, if a checker judges by that; those that were measured now. What is known goes into `facts`.
async fn take_samples(
    control: &Control,
    checkers: &[Checker],
    candidates: &[Candidate],
    facts: &mut Facts,
    now: Timestamp,
) -> Result<Vec<bool>> {
    let mut statistics = Statistics::new();
    if checkers.iter().any(|c| !c.traits.metrics.is_empty()) {
        let kernels = rows::running_kernels(&mut control.store().reader()).await?;
        let ids: Vec<_> = kernels.iter().map(|kernel| kernel.kernel_id).collect();
        let mut stats = crate::agents::statistics::of_kernels(control, &ids).await?;
        for kernel in kernels {
            let held: BTreeMap<String, i64> = serde_json::from_str(&kernel.held).unwrap_or_default();
            let mem = held.get("mem").and_then(|bytes| u64::try_from(*bytes).ok()).unwrap_or(0);
            let stat = stats.remove(&kernel.kernel_id);
            statistics.entry(kernel.session_id).or_default().push((stat, mem));
        }
    }
    let mut samples = control.idle_state().samples.lock();
    Ok(sample(&mut samples, checkers, candidates, &statistics, facts, now))
}

/// [`take_samples`] once the statistics are there.
fn sample(
    samples: &mut Samples,
    checkers: &[Checker],
    candidates: &[Candidate],
    statistics: &Statistics,
    facts: &mut Facts,
    now: Timestamp,
) -> Vec<bool> {
    let metrics: BTreeSet<&String> = checkers.iter().flat_map(|c| &c.traits.metrics).collect();
    let metrics: Vec<String> = metrics.into_iter().cloned().collect();
    let running: HashSet<SessionId> = candidates.iter().map(|c| c.session_id).collect();
    samples.open(&metrics, &running);
    if metrics.is_empty() {
        return vec![false; candidates.len()];
    }
    let taken = candidates.iter().map(|candidate| {
        let stats = statistics.get(&candidate.session_id).map_or(&[][..], Vec::as_slice);
        let history = history_ms(checkers, candidate);
        samples.take(candidate.session_id, now.millis(), history, |metrics| measure(metrics, stats))
    });
    let taken = taken.collect();
    facts.measured = candidates.iter().map(|candidate| samples.measured(candidate.session_id)).collect();
    taken
}

/// Forgets what was measured too early, and what is older than anybody wants to look back.
fn keep_samples(
    samples: &mut Samples,
    checkers: &[Checker],
    candidates: &[Candidate],
    found: &[Findings],
    tentative: &[bool],
    now: Timestamp,
) {
    for (row, candidate) in candidates.iter().enumerate() {
        let mut asked = checkers
            .iter()
            .zip(found)
            .filter(|(c, _)| !c.traits.metrics.is_empty())
            .filter_map(|(_, f)| f[row].as_ref());
        let early = |finding: &std::result::Result<Finding, String>| {
            finding.as_ref().is_ok_and(|f| matches!(f.state, FindingState::Grace | FindingState::Exempt))
        };
        if tentative[row] && asked.all(early) {
            samples.take_back(candidate.session_id, now.millis());
        }
        samples.trim(candidate.session_id, history_ms(checkers, candidate));
    }
}

fn held(candidate: &Candidate) -> BTreeMap<String, i64> {
    serde_json::from_str(&candidate.held).unwrap_or_default()
}

/// Asks one checker about the sessions that it is bound for.
async fn ask(
    control: &Control,
    checker: &Checker,
    candidates: &[Candidate],
    facts: &Facts,
    now: Timestamp,
) -> Result<Findings> {
    let mut findings: Findings = vec![None; candidates.len()];
    let target = &checker.bound.target;
    let concerned: Vec<usize> = (0..candidates.len())
        .filter(|i| {
            target.kind != quarterdeck_model::policy::TargetKind::Domain || target.name == candidates[*i].domain_name
        })
        .collect();
    if concerned.is_empty() {
        return Ok(findings);
    }
    for batch in batches(&checker.traits, concerned, &facts.measured) {
        let columns = columns(&checker.traits, &batch, candidates, facts, now);
        let (plugin, call) = (Arc::clone(&checker.bound.plugin), Call::new(checker.bound.config.clone()));
        let started = Instant::now();
        let isolated = tokio::task::spawn_blocking(move || plugin.check_isolated(&call, &columns))
            .await
            .map_err(|e| Error::Internal(format!("an idle check broke off: {e}")))?;
        match failed(&isolated) {
            None => control.policies().succeeded(&checker.bound, started.elapsed()).await,
            Some(failure) => control.policies().failed(&checker.bound, failure).await,
        }
        for (i, finding) in batch.into_iter().zip(isolated.findings) {
            if let Err(problem) = &finding {
                let checker = &checker.bound.plugin.info.name;
                tracing::warn!(session = %candidates[i].session_id, checker, problem, "a session was not judged");
            }
            findings[i] = Some(finding);
        }
    }
    Ok(findings)
}

/// Whether a check counts as failed: one poisoned session among others that were judged is no reason to take the
/// checker out of service.
fn failed(isolated: &Isolated) -> Option<&Failure> {
    isolated.failure.as_ref().filter(|_| !isolated.findings.iter().any(std::result::Result::is_ok))
}

/// The sessions of each call: all at once, unless they bring too many measurements along.
fn batches(traits: &CheckerTraits, concerned: Vec<usize>, measured: &[Measured]) -> Vec<Vec<usize>> {
    if traits.metrics.is_empty() {
        return vec![concerned];
    }
    let mut batches = vec![Vec::new()];
    let mut size = 0;
    for row in concerned {
        let more = measured.get(row).map_or(0, Measured::size);
        if size > 0 && size + more > MEASUREMENTS_PER_CALL {
            batches.push(Vec::new());
            size = 0;
        }
        size += more;
        if let Some(batch) = batches.last_mut() {
            batch.push(row);
        }
    }
    batches
}

/// What a checker asks for of what was measured.
fn series(traits: &CheckerTraits, batch: &[usize], measured: &[Measured]) -> Vec<Series> {
    let mut out = Vec::new();
    for (session, known) in batch.iter().filter_map(|row| measured.get(*row)).enumerate() {
        for (metric, value) in known.series.iter().filter(|(metric, _)| traits.metrics.contains(metric)) {
            let at_ms = known.at_ms.clone();
            out.push(Series { session: session as u32, metric: metric.clone(), at_ms, value: value.clone() });
        }
    }
    out
}

/// The columns of a tick.
pub(crate) fn columns(
    traits: &CheckerTraits,
    batch: &[usize],
    candidates: &[Candidate],
    facts: &Facts,
    now: Timestamp,
) -> Tick {
    let rows: Vec<&Candidate> = batch.iter().map(|i| &candidates[*i]).collect();
    let seconds = |s: i64| u64::try_from(s).unwrap_or(0).saturating_mul(1000);
    Tick {
        now_ms: now.millis(),
        count: rows.len() as u32,
        kind: rows.iter().map(|r| crate::schedule::session_kind(r.session_type)).collect(),
        private: rows.iter().map(|r| r.is_private).collect(),
        created_ms: rows.iter().map(|r| r.created_at.millis()).collect(),
        started_ms: rows.iter().map(|r| r.started_at.unwrap_or(r.created_at).millis()).collect(),
        grace_until_ms: rows
            .iter()
            .map(|r| facts.user_grace.map(|grace| r.user_created_at.plus_millis(grace).millis()))
            .collect(),
        access: rows
            .iter()
            .map(|r| match r.last_access {
                Some(None) => Access::Busy,
                Some(Some(at)) if now.millis() - at.millis() < facts.access_lifetime_ms => Access::AtMs(at.millis()),
                Some(Some(_)) | None => Access::Unknown,
            })
            .collect(),
        connections: rows.iter().map(|r| u32::try_from(r.connections).unwrap_or(u32::MAX)).collect(),
        idle_limit_ms: rows.iter().map(|r| (r.idle_timeout >= 0).then(|| seconds(r.idle_timeout))).collect(),
        lifetime_limit_ms: rows.iter().map(|r| Some(seconds(r.max_session_lifetime))).collect(),
        slots: facts
            .slots
            .iter()
            .map(|(name, kind)| types::Slot { name: name.clone(), kind: crate::schedule::slot_kind(*kind) })
            .collect(),
        held: rows
            .iter()
            .flat_map(|r| {
                let held = held(r);
                facts
                    .slots
                    .iter()
                    .map(move |(name, _)| held.get(name).and_then(|n| u64::try_from(*n).ok()).unwrap_or(0))
                    .collect::<Vec<_>>()
            })
            .collect(),
        metrics: series(traits, batch, &facts.measured),
        more: Vec::new(),
    }
}

/// What is kept for users to see: seconds left, -1 when time is up, nothing where a checker doesn't apply.
fn reports(checkers: &[Checker], candidates: &[Candidate], found: &[Findings], now: Timestamp) -> Vec<Report> {
    let mut out = Vec::new();
    for (checker, findings) in checkers.iter().zip(found) {
        for (candidate, finding) in candidates.iter().zip(findings) {
            let Some(Ok(finding)) = finding else { continue };
            if finding.state == FindingState::Exempt || (finding.remaining_ms.is_none() && finding.report.is_empty()) {
                continue;
            }
            out.push(Report {
                session_id: candidate.session_id,
                checker: checker.bound.plugin.info.name.clone(),
                remaining: finding.remaining_ms.map(shown),
                extra: serde_json::from_str(&finding.report).ok(),
                at: now,
            });
        }
    }
    // A checker may be listed twice; one report of it is kept.
    let mut seen = std::collections::HashSet::new();
    out.retain(|r| seen.insert((r.session_id, r.checker.clone())));
    out
}

/// Remaining time as it is shown.
fn shown(remaining_ms: i64) -> f64 {
    if remaining_ms > 0 { remaining_ms as f64 / 1000.0 } else { -1.0 }
}

/// The sessions (rows) to be ended: the first checker that finds one idle gives the reason. What was
/// not judged counts as active.
fn verdicts<'r>(reasons: &[&'r str], found: &[Findings]) -> Vec<(usize, &'r str)> {
    let rows = found.first().map_or(0, Vec::len);
    (0..rows)
        .filter_map(|row| {
            let idle = |findings: &Findings| matches!(&findings[row], Some(Ok(f)) if f.state == FindingState::Idle);
            reasons.iter().zip(found).find(|(_, findings)| idle(findings)).map(|(reason, _)| (row, *reason))
        })
        .collect()
}

#[cfg(test)]
mod tests;
