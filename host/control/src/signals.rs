//! Wake-ups. They carry no truth: whoever is woken looks at the database, and looks anyway after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use quarterdeck_model::SessionId;
use quarterdeck_store::events::SessionEvent;
use tokio::sync::{Notify, broadcast};

/// Wakes a loop, here and on the other hosts of the database.
#[derive(Debug)]
pub struct Wake {
    topic: &'static str,
    here: Notify,
    /// Somebody was woken here since the other hosts were told.
    due: AtomicBool,
    herald: Arc<Notify>,
}

impl Wake {
    fn new(topic: &'static str, herald: &Arc<Notify>) -> Self {
        Self { topic, here: Notify::new(), due: AtomicBool::new(false), herald: Arc::clone(herald) }
    }

    /// Wakes it; one that isn't waiting is woken when it next waits. Call it after the commit.
    pub fn notify_one(&self) {
        self.here.notify_one();
        if !self.due.swap(true, Ordering::AcqRel) {
            self.herald.notify_one();
        }
    }

    /// Resolves when it is woken.
    pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.here.notified()
    }
}

/// What wakes the loops and the calls that wait.
#[derive(Debug)]
pub struct Signals {
    /// There may be something to place.
    pub schedule: Wake,
    /// There may be something to start.
    pub start: Wake,
    /// There may be something to end.
    pub terminate: Wake,
    /// Model services may need to be looked after.
    pub services: Wake,
    /// Routes of model services may have changed.
    pub routes: Wake,
    /// There may be new events to read.
    pub events: Wake,
    herald: Arc<Notify>,
    /// Every event of the log, in order, as this host reads it. Slow readers lose the oldest.
    pub sessions: broadcast::Sender<Arc<SessionEvent>>,
    watched: Arc<Mutex<HashMap<SessionId, Watched>>>,
}

#[derive(Debug)]
struct Watched {
    changed: Arc<Notify>,
    watchers: usize,
}

impl Default for Signals {
    fn default() -> Self {
        let herald = Arc::new(Notify::new());
        Self {
            schedule: Wake::new("schedule", &herald),
            start: Wake::new("start", &herald),
            terminate: Wake::new("terminate", &herald),
            events: Wake::new("events", &herald),
            services: Wake::new("services", &herald),
            routes: Wake::new("routes", &herald),
            herald,
            sessions: broadcast::channel(4096).0,
            watched: Arc::default(),
        }
    }
}

impl Signals {
    fn wakes(&self) -> [&Wake; 6] {
        [&self.schedule, &self.start, &self.terminate, &self.services, &self.routes, &self.events]
    }

    /// Resolves when the other hosts have to be told something.
    pub(crate) async fn due(&self) {
        self.herald.notified().await;
    }

    /// The topics of what was woken since the last call.
    pub(crate) fn take_due(&self) -> Vec<&'static str> {
        self.wakes().into_iter().filter(|wake| wake.due.swap(false, Ordering::AcqRel)).map(|wake| wake.topic).collect()
    }

    /// Wakes what another host told of: this host only. Unknown topics are those of newer releases.
    pub(crate) fn told(&self, topic: &str) {
        if let Some(wake) = self.wakes().into_iter().find(|wake| wake.topic == topic) {
            wake.here.notify_one();
        }
    }

    /// Wakes everything on this host.
    pub(crate) fn wake_all_here(&self) {
        self.wakes().into_iter().for_each(|wake| wake.here.notify_one());
    }

    /// Waits for changes of one session until the guard is dropped.
    pub fn watch(&self, session: SessionId) -> Watch {
        let mut watched = self.watched.lock();
        let entry = watched.entry(session).or_insert_with(|| Watched { changed: Arc::new(Notify::new()), watchers: 0 });
        entry.watchers += 1;
        Watch { session, changed: Arc::clone(&entry.changed), watched: Arc::clone(&self.watched) }
    }

    /// Tells those who watch these sessions that they changed.
    pub fn changed(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let watched = self.watched.lock();
        if watched.is_empty() {
            return;
        }
        for session in sessions {
            if let Some(entry) = watched.get(&session) {
                entry.changed.notify_waiters();
            }
        }
    }
}

/// Somebody waits for a session.
#[derive(Debug)]
pub struct Watch {
    session: SessionId,
    changed: Arc<Notify>,
    watched: Arc<Mutex<HashMap<SessionId, Watched>>>,
}

impl Watch {
    /// Resolves at the next change. Enable it (`as_mut().enable()`) before reading the row: then no change is missed.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watched.lock();
        if let Some(entry) = watched.get_mut(&self.session) {
            entry.watchers -= 1;
            if entry.watchers == 0 {
                watched.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn other_hosts_are_told_once_of_a_burst_and_what_they_tell_goes_no_further() {
        let signals = Signals::default();
        for _ in 0..3 {
            signals.schedule.notify_one();
            signals.events.notify_one();
        }
        signals.due().await;
        assert_eq!(signals.take_due(), ["schedule", "events"]);
        assert_eq!(signals.take_due(), [""; 0]);
        signals.schedule.notified().await;
        signals.events.notified().await;

        signals.told("start");
        signals.told("something new");
        signals.start.notified().await;
        // At most the permit of the burst is left.
        let _ = tokio::time::timeout(Duration::from_millis(1), signals.due()).await;
        assert_eq!(signals.take_due(), [""; 0]);
    }
}
