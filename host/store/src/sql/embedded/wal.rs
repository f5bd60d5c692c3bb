//! Copying the log (WAL) into the file.
//!
//! The log begins anew when all of it is copied and nobody reads from it any more. Beside writers that never pause that
//! doesn't happen: there is always more by the time the copy is done. So the writer waits when the log has grown long, for
//! a moment also until nobody reads from it any more.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use rusqlite::OpenFlags;

use super::{Connection, File};

/// The log is copied each time that it has grown by so many pages (of 4 KiB).
const STEP: u32 = 1000;

/// While the log has so many pages or more, it is copied while nobody writes.
const LONG: u32 = 8000;

/// Unless so many pages or more are still to be copied, as after somebody has read for long: writers don't wait for as much.
const MUCH: u32 = 4 * STEP;

thread_local! {
    /// The log's pages after the last commit on this thread; 0 when there was none since somebody asked.
    static PAGES: Cell<u32> = const { Cell::new(0) };
}

/// Notes how long the log is after each commit of this connection, instead of copying it then and there.
pub(super) fn watch(connection: &mut rusqlite::Connection) {
    connection.wal_hook(Some(|_, pages| {
        PAGES.set(u32::try_from(pages).unwrap_or_default());
        Ok(())
    }));
}

/// The log's pages, if the statement that ran on this thread a moment ago committed something.
pub(super) fn committed() -> Option<u32> {
    Some(PAGES.take()).filter(|pages| *pages > 0)
}

/// How far the log is copied.
#[derive(Debug, Default)]
pub(super) struct Wal {
    /// The log's pages when a copy was last begun.
    copied: AtomicU32,
    /// Pages that the last copy left for the next one, since somebody still read what was there before them.
    behind: AtomicU32,
    /// All of the log is copied: it begins anew with the next commit, which waits for the disk then.
    whole: AtomicBool,
    copier: Mutex<Copier>,
}

#[derive(Debug, Default)]
struct Copier {
    connection: Option<Connection>,
    closed: bool,
}

/// Whether the log is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Not yet.
    No,
    /// Beside whatever else goes on.
    Beside,
    /// Before anybody writes again.
    Alone,
}

impl Wal {
    /// Whether the log, which has so many pages now, is to be copied. Whoever asks does it.
    pub(super) fn due(&self, pages: u32) -> Due {
        // It has begun anew when it has fewer than before.
        let copied = Some(self.copied.load(Ordering::Relaxed)).filter(|copied| *copied <= pages).unwrap_or_default();
        let is_due = pages - copied >= STEP;
        self.copied.store(if is_due { pages } else { copied }, Ordering::Relaxed);
        match is_due {
            false => Due::No,
            true if pages < LONG || self.behind.load(Ordering::Relaxed) >= MUCH => Due::Beside,
            true => Due::Alone,
        }
    }

    /// Whether the commit that comes now has the log begin anew, as far as is known. Whoever asks makes it.
    pub(super) fn begins_anew(&self) -> bool {
        self.whole.swap(false, Ordering::Relaxed)
    }

    /// How far a copy came: the log's pages, and those of them that are in the file.
    fn copied(&self, pages: u32, copied: u32) {
        self.behind.store(pages.saturating_sub(copied), Ordering::Relaxed);
        self.whole.store(pages > 0 && pages == copied, Ordering::Relaxed);
    }

    /// Closes the connection that copies, once it is done; blocks. Nothing is copied afterwards.
    pub(super) fn close(&self) {
        let mut copier = self.copier.lock();
        copier.closed = true;
        copier.connection = None;
    }
}

impl File {
    /// Copies the log, one copy at a time; blocks. `alone`: while nobody writes. A copy that fails is made up for by the next
    /// one.
    pub(super) fn copy_wal(&self, alone: bool) {
        let mut copier = self.wal.copier.lock();
        if copier.closed {
            return;
        }
        let result = match &mut copier.connection {
            Some(connection) => connection.copy_wal(alone),
            none => self.open(OpenFlags::empty()).and_then(|new| none.insert(new).copy_wal(alone)),
        };
        match result {
            Ok((pages, copied)) => self.wal.copied(pages, copied),
            Err(error) => tracing::warn!(%error, "the database's log couldn't be copied into its file"),
        }
    }

    /// Copies the log on a thread for blocking work, without waiting for it.
    pub(super) fn copy_wal_beside(self: &Arc<Self>) {
        let file = self.clone();
        drop(tokio::task::spawn_blocking(move || file.copy_wal(false)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_copied_and_a_long_log_alone() {
        let wal = Wal::default();
        let due: Vec<Due> = [999, 1000, 1999, 2500, 7999, 8000, 9000, 30, 999, 1030].map(|n| wal.due(n)).into();
        assert_eq!(
            due,
            [
                Due::No,
                Due::Beside,
                Due::No,
                Due::Beside,
                Due::Beside,
                Due::No,
                Due::Alone,
                Due::No,
                Due::No,
                Due::Beside
            ]
        );
    }

    #[test]
    fn writers_wait_for_little_alone() {
        let wal = Wal::default();
        assert_eq!(wal.due(9000), Due::Alone);
        wal.copied(9000, 2000);
        assert_eq!(wal.due(10_000), Due::Beside, "somebody reads, or has read for long");
        wal.copied(10_000, 9900);
        assert_eq!(wal.due(11_000), Due::Alone);
        assert!(!wal.begins_anew());
        wal.copied(11_000, 11_000);
        assert!(wal.begins_anew());
        assert!(!wal.begins_anew(), "once");
    }
}
