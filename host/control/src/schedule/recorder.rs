//! The flight recorder: which rounds are kept, and the task that writes their recordings.
//!
//! Nothing here delays a round. Its summary goes with the transaction that it ends in; the recording is made, compressed
//! and written afterwards, from a queue. A recording that a crash cuts off, or that finds the queue full, is lost: its
//! round's summary stays.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quarterdeck_store::rounds::{self, NewRecording};
use tokio::sync::{mpsc, oneshot};

use super::books::{Decision, Verdict};
use super::frame::Frame;
use super::record::{Exposure, Recording};
use crate::error::{Error, Result};
use crate::{Control, Inner};

/// Where the site configures the ring.
const KEEP: &str = "config/rounds/keep";
const MAX_BYTES: &str = "config/rounds/max-bytes";
const MODE: &str = "config/rounds/mode";

/// Rounds of a group that can be kept at most.
const KEEP_LIMIT: i64 = 100_000;
/// Bytes of recordings of a group unless the site says otherwise.
const DEFAULT_MAX_BYTES: i64 = 64 << 20;
/// The largest recording that is kept, in bytes as stored.
pub(crate) const MAX_RECORDING_BYTES: usize = 16 << 20;
/// Rounds that may wait to be recorded.
const WAITING: usize = 256;
/// Rows (sessions and agents) of all of them together: a bound for the memory that they hold.
const WAITING_ROWS: usize = 100_000;

/// Which rounds are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every round that had a session to place.
    All,
    /// Of those: rounds that placed or cancelled a session, in which the policy failed, or whose decisions differ from
    /// those of the round before. A queue that waits unchanged is kept once.
    #[default]
    Decisive,
    /// As `decisive`, but summaries only.
    Off,
}

/// How the ring of a group is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Rounds.
    pub keep: i64,
    /// Bytes of recordings.
    pub max_bytes: i64,
    pub mode: Mode,
}

impl Ring {
    /// As configured; what makes no sense counts as not said.
    pub(crate) fn of(control: &Control) -> Self {
        let tree = control.config_tree();
        let number = |key: &str, max: i64| {
            let text = tree.value(key)?;
            let number = text.trim().parse::<i64>().ok().filter(|n| (1..=max).contains(n));
            if number.is_none() {
                tracing::warn!(key, value = text, "the configuration of recorded rounds makes no sense");
            }
            number
        };
        let settings = control.settings();
        let default = i64::try_from(settings.round_ring).unwrap_or(KEEP_LIMIT).clamp(1, KEEP_LIMIT);
        let mode = match tree.value(MODE).as_deref().map(str::trim) {
            _ if !settings.record_rounds => Mode::Off,
            Some("all") => Mode::All,
            Some("off") => Mode::Off,
            Some("decisive") | None => Mode::Decisive,
            Some(other) => {
                tracing::warn!(key = MODE, value = other, "the configuration of recorded rounds makes no sense");
                Mode::Decisive
            }
        };
        Self {
            keep: number(KEEP, KEEP_LIMIT).unwrap_or(default),
            max_bytes: number(MAX_BYTES, i64::MAX).unwrap_or(DEFAULT_MAX_BYTES),
            mode,
        }
    }
}

/// A round on its way to its recording.
pub(crate) struct Film {
    /// Its id.
    pub round: i64,
    pub frame: Arc<Frame>,
    pub exposure: Exposure,
    /// What only the end of the round told.
    pub finish: Finish,
    /// See [`Ring::max_bytes`].
    pub max_bytes: i64,
}

/// What is known of a round when it has been written.
#[derive(Debug, Default)]
pub(crate) struct Finish {
    /// Rows of the sessions whose placement no longer held.
    pub stale: Vec<u32>,
    pub commit_us: u64,
    pub total_us: u64,
}

impl Film {
    fn rows(&self) -> usize {
        self.frame.pending.len() + self.frame.running.len() + self.frame.agents.len()
    }

    fn develop(self) -> Recording {
        let mut recording = self.exposure.develop(&self.frame);
        recording.stale = self.finish.stale;
        recording.timings.commit_us = self.finish.commit_us;
        recording.timings.total_us = self.finish.total_us;
        recording
    }
}

enum Job {
    Record(Box<Film>),
    /// Answered when everything before it has been written or lost.
    Flush(oneshot::Sender<()>),
}

/// Hands rounds over to be recorded.
pub struct Recorder {
    queue: mpsc::Sender<Job>,
    /// Rows of the rounds that wait.
    waiting: Arc<AtomicUsize>,
    /// What was decided in each group's last round.
    last: Mutex<HashMap<String, u64>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// The end of the queue that the writer holds.
pub(crate) struct Receiver {
    jobs: mpsc::Receiver<Job>,
    waiting: Arc<AtomicUsize>,
}

impl Recorder {
    /// The queue, and its other end for [`run`].
    pub(crate) fn new() -> (Self, Receiver) {
        let (queue, jobs) = mpsc::channel(WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        (Self { queue, waiting: Arc::clone(&waiting), last: Mutex::default() }, Receiver { jobs, waiting })
    }

    /// Whether a round is worth keeping; `policy` is the revision and configuration that decided it. Asks and remembers at once.
    pub(crate) fn wants(
        &self,
        mode: Mode,
        frame: &Frame,
        policy: (&str, &str),
        outcome: &str,
        decisions: &[Decision],
    ) -> bool {
        let print = fingerprint(frame, policy, outcome, decisions);
        let news = self.last.lock().insert(frame.group.clone(), print) != Some(print);
        let placed = decisions.iter().any(|d| matches!(d.verdict, Verdict::Placed(_)));
        mode == Mode::All || news || placed || outcome != "ok"
    }

    /// Takes a round over, or loses it when too much waits already.
    pub(crate) fn record(&self, film: Film) -> bool {
        let rows = film.rows();
        let waiting = self.waiting.fetch_add(rows, Ordering::AcqRel);
        // A round that is larger than the bound is taken when nothing else waits.
        if (waiting == 0 || waiting + rows <= WAITING_ROWS) && self.queue.try_send(Job::Record(Box::new(film))).is_ok()
        {
            return true;
        }
        self.waiting.fetch_sub(rows, Ordering::AcqRel);
        false
    }

    /// Waits until every round that was handed over is written.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Job::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// Equal for rounds that decided the same for the same reasons.
fn fingerprint(frame: &Frame, policy: (&str, &str), outcome: &str, decisions: &[Decision]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (policy, outcome).hash(&mut hasher);
    for (row, problem) in &frame.broken {
        (row.id, problem).hash(&mut hasher);
    }
    for decision in decisions {
        frame.pending[decision.session].row.id.hash(&mut hasher);
        match &decision.verdict {
            Verdict::Placed(agents) => (0, agents).hash(&mut hasher),
            Verdict::Ineligible => {
                for (name, message, _) in &decision.checks.failed {
                    (1, name, message).hash(&mut hasher);
                }
            }
            Verdict::NoRoom { msg, .. } => (2, msg).hash(&mut hasher),
            Verdict::Refused { why, .. } => (3, why).hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// Writes what comes, until the host is dropped.
pub(crate) async fn run(inner: Weak<Inner>, mut receiver: Receiver) {
    while let Some(job) = receiver.jobs.recv().await {
        let Some(control) = inner.upgrade().map(|inner| Control { inner }) else { return };
        match job {
            Job::Record(film) => {
                let (round, rows, max_bytes) = (film.round, film.rows(), film.max_bytes);
                if let Err(error) = write(&control, *film, max_bytes).await {
                    lost(&control);
                    tracing::warn!(round, %error, "a scheduling round could not be recorded");
                }
                receiver.waiting.fetch_sub(rows, Ordering::AcqRel);
            }
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Counts a recording that isn't there.
pub(crate) fn lost(control: &Control) {
    control.metrics().lost_recordings.inc();
}

async fn write(control: &Control, film: Film, max_bytes: i64) -> Result<()> {
    let round = film.round;
    let bytes = tokio::task::spawn_blocking(move || film.develop().to_bytes())
        .await
        .map_err(|e| Error::Internal(format!("a recording broke off: {e}")))??;
    let limit = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(MAX_RECORDING_BYTES);
    if bytes.len() > limit {
        lost(control);
        tracing::info!(round, bytes = bytes.len(), limit, "a scheduling round is too large to be recorded");
        return Ok(());
    }
    let recording = NewRecording { round, bytes };
    crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        rounds::keep_recording(&mut tx, &recording, max_bytes).await?;
        Ok(tx.commit().await?)
    })
    .await
}
