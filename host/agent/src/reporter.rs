//! What happened to kernels, in order, kept until the host acknowledged it.

use std::collections::VecDeque;
use std::path::PathBuf;

use parking_lot::Mutex;
use quarterdeck_model::Timestamp;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{limits, pb};
use tokio::sync::Notify;

use crate::process::log::read_log;

/// The queue of one agent's reports. Sequence numbers count from 1 for each start of the process.
#[derive(Default)]
pub struct Reporter {
    queue: Mutex<Queue>,
    wake: Notify,
    drained: Notify,
}

#[derive(Default)]
struct Queue {
    last_seq: u64,
    pending: VecDeque<Entry>,
}

#[derive(Clone)]
struct Entry {
    report: pb::Report,
    /// What is left of an ended kernel. Its log is read when the report is sent: a host that is away for long must
    /// not fill the agent's memory.
    remains: Option<PathBuf>,
}

/// A kernel whose end the host knows.
#[derive(Debug)]
pub struct Settled {
    /// Which kernel.
    pub kernel_id: String,
    /// The directory with what is left of it.
    pub remains: Option<PathBuf>,
}

impl Reporter {
    /// Appends a report.
    pub fn send(&self, session_id: &str, kernel_id: &str, event: Event) {
        self.push(session_id, kernel_id, event, None);
    }

    /// Appends the report of a kernel's end, whose log lies in `remains`.
    pub fn ended(&self, session_id: &str, kernel_id: &str, end: pb::Terminated, remains: Option<PathBuf>) {
        self.push(session_id, kernel_id, Event::Terminated(end), remains);
    }

    fn push(&self, session_id: &str, kernel_id: &str, event: Event, remains: Option<PathBuf>) {
        let mut queue = self.queue.lock();
        queue.last_seq += 1;
        let report = pb::Report {
            seq: queue.last_seq,
            at_us: Timestamp::now().micros(),
            session_id: session_id.to_owned(),
            kernel_id: kernel_id.to_owned(),
            event: Some(event),
        };
        queue.pending.push_back(Entry { report, remains });
        drop(queue);
        self.wake.notify_one();
    }

    /// Waits until something may be there to send.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether anything waits for acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().pending.is_empty()
    }

    /// Waits until everything is acknowledged.
    pub async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.is_empty() {
                return;
            }
            drained.await;
        }
    }

    /// The oldest reports, as many as one call carries, with logs read in. Reads files.
    pub fn batch(&self) -> Vec<pb::Report> {
        let entries: Vec<Entry> = self.queue.lock().pending.iter().take(limits::MAX_REPORTS).cloned().collect();
        let mut reports = Vec::with_capacity(entries.len());
        let mut size = 0;
        for Entry { mut report, remains } in entries {
            if let (Some(Event::Terminated(end)), Some(remains)) = (&mut report.event, remains) {
                end.log = read_log(&remains);
                size += end.log.len();
            }
            size += 1024;
            if size > limits::MAX_REPORT_BATCH && !reports.is_empty() {
                break;
            }
            reports.push(report);
        }
        reports
    }

    /// Drops what the host acknowledged; answers the kernels whose end was among it.
    pub fn acknowledged(&self, seq: u64) -> Vec<Settled> {
        let mut settled = Vec::new();
        let mut queue = self.queue.lock();
        while queue.pending.front().is_some_and(|entry| entry.report.seq <= seq) {
            let Some(Entry { report, remains }) = queue.pending.pop_front() else { break };
            if matches!(report.event, Some(Event::Terminated(_) | Event::StartFailed(_))) {
                settled.push(Settled { kernel_id: report.kernel_id, remains });
            }
        }
        let empty = queue.pending.is_empty();
        drop(queue);
        if empty {
            self.drained.notify_waiters();
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reports_stay_until_acknowledged() {
        let reporter = Reporter::default();
        reporter.send("s", "k", Event::Preparing(pb::Preparing {}));
        reporter.send("s", "k", Event::Creating(pb::Creating {}));
        reporter.ended("s", "k", pb::Terminated::default(), None);
        assert_eq!(reporter.batch().iter().map(|report| report.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(reporter.acknowledged(2).is_empty());
        assert_eq!(reporter.batch().iter().map(|report| report.seq).collect::<Vec<_>>(), [3]);
        assert_eq!(
            reporter.acknowledged(9).iter().map(|settled| settled.kernel_id.as_str()).collect::<Vec<_>>(),
            ["k"]
        );
        assert!(reporter.is_empty() && reporter.batch().is_empty());
    }

    #[test]
    fn a_batch_stays_below_the_message_limit() {
        let reporter = Reporter::default();
        let remains = tempfile::tempdir().unwrap();
        let log = crate::process::log::KernelLog::create(remains.path()).unwrap();
        log.append(&vec![b'x'; 3 * 1024 * 1024]);
        for _ in 0..4 {
            reporter.ended("s", "k", pb::Terminated::default(), Some(remains.path().to_owned()));
        }
        assert_eq!(reporter.batch().len(), 1);
        reporter.acknowledged(1);
        assert_eq!(reporter.batch()[0].seq, 2);
    }
}
