//! The host's side of what policies ask of it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::host::LogLevel;

/// A line of a policy's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Severity.
    pub level: LogLevel,
    /// The message.
    pub message: String,
    /// Named details.
    pub fields: Vec<(String, String)>,
}

/// What a call left behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Journal {
    /// Its log, in order.
    pub lines: Vec<Line>,
    /// What it counted.
    pub counters: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Desk {
    config: String,
    budget: u64,
    journal: Journal,
}

thread_local! {
    static DESK: RefCell<Desk> = const {
        RefCell::new(Desk {
            config: String::new(),
            budget: 1_000_000_000,
            journal: Journal { lines: Vec::new(), counters: BTreeMap::new() },
        })
    };
}

/// What this thread's last call of a policy has logged and counted.
pub fn journal() -> Journal {
    DESK.with_borrow(|desk| desk.journal.clone())
}

/// What `host::budget` answers on this thread from here on; a billion otherwise, as the server does by default.
pub fn set_budget(fuel: u64) {
    DESK.with_borrow_mut(|desk| desk.budget = fuel);
}

/// Begins a call with a configuration.
pub(super) fn open(config: &str) {
    DESK.with_borrow_mut(|desk| {
        config.clone_into(&mut desk.config);
        desk.journal = Journal::default();
    });
}

pub(crate) fn log(level: LogLevel, message: &str, fields: &[(String, String)]) {
    let line = Line { level, message: message.to_owned(), fields: fields.to_vec() };
    DESK.with_borrow_mut(|desk| desk.journal.lines.push(line));
}

pub(crate) fn count(metric: &str, delta: u64) {
    DESK.with_borrow_mut(|desk| {
        let counter = desk.journal.counters.entry(metric.to_owned()).or_default();
        *counter = counter.saturating_add(delta);
    });
}

pub(crate) fn config() -> String {
    DESK.with_borrow(|desk| desk.config.clone())
}

pub(crate) fn budget() -> u64 {
    DESK.with_borrow(|desk| desk.budget)
}
