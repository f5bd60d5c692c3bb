//! What a call leaves behind beside its answer: log lines and counters, both bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::types::LogLevel;

/// One line of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Severity.
    pub level: LogLevel,
    /// The message, without control characters.
    pub message: String,
    /// Named details, without control characters.
    pub fields: Vec<(String, String)>,
}

/// Log and counters of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The lines that were kept, in order.
    pub lines: Vec<LogLine>,
    /// How many lines exceeded the limits.
    pub dropped: u32,
    /// What the plugin counted.
    pub counters: BTreeMap<String, u64>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    partial: Vec<u8>,
}

/// A single message is cut at this many bytes.
const MESSAGE_BYTES: usize = 2048;

/// The journal while the guest writes it: the WASI streams hold it too.
#[derive(Clone)]
pub(crate) struct Pen {
    journal: Arc<Mutex<Journal>>,
    max_lines: usize,
    max_bytes: usize,
    max_counters: usize,
}

impl Pen {
    pub(crate) fn new(limits: &Limits) -> Pen {
        Pen {
            journal: Arc::default(),
            max_lines: limits.log_lines,
            max_bytes: limits.log_bytes,
            max_counters: limits.counters,
        }
    }

    pub(crate) fn log(&self, level: LogLevel, message: &str, fields: Vec<(String, String)>) {
        let mut journal = self.journal.lock();
        self.push(&mut journal, level, message, fields);
    }

    fn push(&self, journal: &mut Journal, level: LogLevel, message: &str, fields: Vec<(String, String)>) {
        let full = journal.lines.len() >= self.max_lines || journal.bytes >= self.max_bytes;
        if full {
            journal.dropped = journal.dropped.saturating_add(1);
            return;
        }
        let room = (self.max_bytes - journal.bytes).min(MESSAGE_BYTES);
        let message = presentable(message, room);
        let mut used = message.len();
        let mut kept = Vec::new();
        for (name, value) in fields.iter().take(16) {
            let (name, value) = (presentable(name, 64), presentable(value, 512));
            used += name.len() + value.len();
            kept.push((name, value));
        }
        journal.bytes = journal.bytes.saturating_add(used.max(1));
        journal.lines.push(LogLine { level, message, fields: kept });
    }

    /// Text that arrives on standard output or error.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut journal = self.journal.lock();
        for &byte in bytes {
            if byte == b'\n' {
                self.flush(&mut journal);
            } else if journal.partial.len() < MESSAGE_BYTES {
                journal.partial.push(byte);
            }
        }
    }

    fn flush(&self, journal: &mut Journal) {
        let line = std::mem::take(&mut journal.partial);
        let line = String::from_utf8_lossy(&line);
        if !line.trim().is_empty() {
            self.push(journal, LogLevel::Info, &line, Vec::new());
        }
    }

    pub(crate) fn count(&self, metric: &str, delta: u64) {
        let valid = (1..=64).contains(&metric.len())
            && metric.starts_with(|first: char| first.is_ascii_lowercase())
            && metric.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !valid {
            return;
        }
        let mut journal = self.journal.lock();
        let room = journal.counters.len() < self.max_counters;
        match journal.counters.get_mut(metric) {
            Some(value) => *value = value.saturating_add(delta),
            None if room => {
                journal.counters.insert(metric.to_owned(), delta);
            }
            None => {}
        }
    }

    /// The last line so far: after a panic, the guest's own words about it.
    pub(crate) fn last_words(&self) -> Option<String> {
        let mut journal = self.journal.lock();
        self.flush(&mut journal);
        // The panic message of Rust takes two lines: where, and what.
        let lines = &journal.lines;
        let from = lines.iter().rposition(|line| line.message.contains("panicked at")).unwrap_or(lines.len());
        let words: Vec<&str> = lines[from..].iter().take(2).map(|line| line.message.as_str()).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    pub(crate) fn finish(&self) -> Journal {
        let mut journal = self.journal.lock();
        self.flush(&mut journal);
        std::mem::take(&mut *journal)
    }
}

/// Cut to size and freed of what could confuse a terminal or a log.
pub(crate) fn presentable(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        if out.len() + character.len_utf8() > limit {
            break;
        }
        out.push(if character.is_control() { ' ' } else { character });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limits = Limits { log_lines: 3, log_bytes: 1 << 20, ..Limits::default() };
        let pen = Pen::new(&limits);
        for _ in 0..10 {
            pen.log(LogLevel::Info, "again", Vec::new());
        }
        let journal = pen.finish();
        assert_eq!((journal.lines.len(), journal.dropped), (3, 7));
    }

    #[test]
    fn bytes_are_limited_too() {
        let limits = Limits { log_lines: 100, log_bytes: 10, ..Limits::default() };
        let pen = Pen::new(&limits);
        pen.log(LogLevel::Info, "0123456789abc", Vec::new());
        pen.log(LogLevel::Info, "more", Vec::new());
        let journal = pen.finish();
        assert_eq!(journal.lines[0].message, "0123456789");
        assert_eq!((journal.lines.len(), journal.dropped), (1, 1));
    }

    #[test]
    fn control_characters_do_not_reach_the_log() {
        let pen = Pen::new(&Limits::default());
        pen.write(b"\x1b[31mred\nnext");
        let journal = pen.finish();
        assert_eq!(journal.lines[0].message, " [31mred");
        assert_eq!(journal.lines[1].message, "next");
    }

    #[test]
    fn counters_saturate_and_have_proper_names() {
        let pen = Pen::new(&Limits { counters: 1, ..Limits::default() });
        pen.count("placed_total", u64::MAX);
        pen.count("placed_total", 5);
        pen.count("Nope", 1);
        pen.count("another", 1);
        let journal = pen.finish();
        assert_eq!(journal.counters.into_iter().collect::<Vec<_>>(), [("placed_total".to_owned(), u64::MAX)]);
    }
}
