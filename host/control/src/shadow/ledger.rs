//! What candidates did, kept in memory for a moment and written together: the database has more important things to do.

use std::collections::HashMap;
use std::time::Duration;

use quarterdeck_store::shadow::{self as rows, Run, Totals};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::{FAILURES_UNTIL_REST, KEPT_RUNS};
use crate::Control;
use crate::error::{Error, Result};

/// How long figures wait for others. What a host had not written when it was killed is lost.
const DELAY: Duration = Duration::from_millis(250);

/// Differences that wait for being written; of more than these only the numbers are kept.
const WAITING_RUNS: usize = 64;

/// The figures of the bindings of one queue.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: HashMap<String, Entry>,
    due: Option<Instant>,
}

/// The figures of a binding that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    more: Totals,
    runs: Vec<Run>,
    rests: bool,
    changed: bool,
}

impl Ledger {
    /// Ends when something is to be written; never while there is nothing.
    pub(super) async fn is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Whether a binding is to be shown anything. Bindings that aren't in `present` are forgotten.
    pub(super) async fn awake(&mut self, control: &Control, binding: &str) -> bool {
        if !self.entries.contains_key(binding) {
            let known = match rows::totals(&mut control.store().reader(), binding).await {
                Ok(Some(known)) => known,
                Ok(None) => return false,
                Err(error) => {
                    tracing::warn!(binding, %error, "the figures of a shadow binding can't be read");
                    return false;
                }
            };
            let mut entry = Entry { rests: known.rested.is_some(), ..Entry::default() };
            binding.clone_into(&mut entry.more.binding);
            entry.more.failed_in_a_row = known.failed_in_a_row;
            self.entries.insert(binding.to_owned(), entry);
        }
        !self.entries[binding].rests
    }

    /// Counts what a binding was too busy for.
    pub(super) fn skipped(&mut self, binding: &str, skipped: i64) {
        if skipped > 0
            && let Some(entry) = self.entries.get_mut(binding)
        {
            entry.more.skipped += skipped;
            entry.changed = true;
            self.due.get_or_insert_with(|| Instant::now() + DELAY);
        }
    }

    /// Counts a run, and keeps it unless it was `alike`.
    pub(super) fn note(&mut self, control: &Control, binding: &str, run: Run, alike: bool) {
        let Some(entry) = self.entries.get_mut(binding) else { return };
        entry.more.count(&run, alike);
        entry.changed = true;
        if entry.more.failed_in_a_row >= FAILURES_UNTIL_REST {
            let reason = format!("failed {} times in a row, at last: {}", entry.more.failed_in_a_row, run.outcome);
            tracing::warn!(binding, reason, "a shadow is put to rest");
            entry.more.rested = Some((control.clock().now(), reason));
            entry.rests = true;
        }
        if (!alike || !run.is_ok()) && entry.runs.len() < WAITING_RUNS {
            entry.runs.push(run);
        }
        self.due.get_or_insert_with(|| Instant::now() + DELAY);
    }

    /// Writes what there is; bindings that are gone are forgotten.
    pub(super) async fn write(&mut self, control: &Control) {
        self.due = None;
        let mut gone = Vec::new();
        for (binding, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.changed) {
            let written = crate::retry(|| async {
                let mut tx = control.store().begin().await?;
                let there = rows::add(&mut tx, &entry.more, &entry.runs, KEPT_RUNS).await?;
                tx.commit().await?;
                Ok(there)
            });
            match written.await {
                Ok(true) => {}
                Ok(false) => gone.push(binding.clone()),
                // The figures are for people; they are not worth more than a few tries.
                Err(error) => tracing::warn!(binding, %error, "the figures of a shadow binding can't be written"),
            }
            let failed_in_a_row = entry.more.failed_in_a_row;
            entry.more = Totals { binding: binding.clone(), failed_in_a_row, ..Totals::default() };
            entry.runs.clear();
            entry.changed = false;
        }
        for binding in gone {
            self.entries.remove(&binding);
        }
    }
}

/// Details as they are stored: compressed JSON.
pub(super) fn pack(details: &Json) -> Option<Vec<u8>> {
    zstd::bulk::compress(details.to_string().as_bytes(), 3).ok()
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(bytes: &[u8]) -> Result<Json> {
    let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("the details of a shadow's run: {e}"));
    let json = zstd::stream::decode_all(bytes).map_err(|e| broken(&e))?;
    serde_json::from_slice(&json).map_err(|e| broken(&e))
}
