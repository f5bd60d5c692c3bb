//! Wake-ups. They carry no truth: whoever is woken looks at the database, and looks anyway after a while.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_model::SessionId;
use quarterdeck_store::events::SessionEvent;
use tokio::sync::{Notify, broadcast};

/// What wakes the loops and the calls that wait.
#[derive(Debug)]
pub struct Signals {
    /// There may be something to place.
    pub schedule: Notify,
    /// There may be something to start.
    pub start: Notify,
    /// There may be something to end.
    pub terminate: Notify,
    /// There may be new events to read.
    pub events: Notify,
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
        Self {
            schedule: Notify::new(),
            start: Notify::new(),
            terminate: Notify::new(),
            events: Notify::new(),
            sessions: broadcast::channel(4096).0,
            watched: Arc::default(),
        }
    }
}

impl Signals {
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
