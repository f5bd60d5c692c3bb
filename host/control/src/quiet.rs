//! Threads for what may wait: they yield to everybody else, and their queues have an end.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::oneshot;

/// How nice such a thread is: what decides about live sessions goes first on a busy machine.
const NICENESS: i32 = 10;

/// How much longer a policy may take here: while it is on, others go first.
pub(crate) const PATIENCE: u32 = 3;

type Work = Box<dyn FnOnce() + Send>;

/// One thread that does what it is given, in order. It starts with the first piece of work.
#[derive(Debug)]
pub(crate) struct Quiet {
    name: &'static str,
    depth: usize,
    queue: OnceLock<SyncSender<Work>>,
}

impl Quiet {
    /// A thread of that name, for at most `depth` pieces of work that wait.
    pub(crate) const fn new(name: &'static str, depth: usize) -> Self {
        Self { name, depth, queue: OnceLock::new() }
    }

    /// Has it do something; its answer comes later, or never when it panics. `None` when too much waits already.
    pub(crate) fn offer<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move || {
            let _ = reply.send(work());
        });
        self.queue.get_or_init(|| self.start()).try_send(work).ok()?;
        Some(answer)
    }

    fn start(&self) -> SyncSender<Work> {
        let (queue, work) = sync_channel(self.depth);
        // Without the thread its end of the queue is gone, and every offer is declined.
        if let Err(error) = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || run(&work)) {
            tracing::error!(thread = self.name, %error, "a thread can't be started");
        }
        queue
    }
}

fn run(work: &Receiver<Work>) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "this thread can't lower its priority");
    }
    while let Ok(work) = work.recv() {
        // Whoever waits for it sees its channel closed.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_and_panics_end_nothing() {
        let quiet = Quiet::new("test", 8);
        let broken = quiet.offer(|| -> u32 { panic!("on purpose") }).unwrap();
        let fine = quiet.offer(|| 7).unwrap();
        assert!(broken.await.is_err());
        assert_eq!(fine.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_exceeds_the_queue_is_declined() {
        let quiet = Quiet::new("test", 1);
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (begun, started) = oneshot::channel();
        let first = quiet
            .offer(move || {
                begun.send(()).unwrap();
                gate.recv().unwrap();
            })
            .unwrap();
        started.await.unwrap();
        let second = quiet.offer(|| ()).unwrap();
        assert!(quiet.offer(|| ()).is_none());
        release.send(()).unwrap();
        first.await.unwrap();
        second.await.unwrap();
        quiet.offer(|| ()).unwrap().await.unwrap();
    }
}
