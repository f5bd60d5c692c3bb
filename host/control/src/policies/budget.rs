//! Error budgets: how often a revision may fail before something else takes its place.

use std::collections::VecDeque;

use crate::config::ConfigCache;

/// Where the site says how much is allowed.
const PREFIX: &str = "config/plugins/error-budget";

/// The longest window, in calls: a bound on memory.
const LONGEST_WINDOW: u32 = 1000;

/// How much a revision may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// So many failures in a row are too many; 0: any number is fine.
    pub failures: u32,
    /// How many of its last calls are looked at; 0: none. At most 1000.
    pub window: u32,
    /// More than this share of `window` calls, in percent, is too much.
    pub percent: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { failures: 5, window: 50, percent: 20 }
    }
}

impl Allowance {
    /// What the configuration tree says under `config/plugins/error-budget/{failures,window,percent}`.
    pub(super) fn of(config: &ConfigCache) -> Self {
        let default = Self::default();
        let read = |key: &str, default: u32| match config.value(&format!("{PREFIX}/{key}")) {
            None => default,
            Some(text) => text.trim().parse().unwrap_or_else(|_| {
                tracing::warn!(key = format!("{PREFIX}/{key}"), text, "is no number; the default counts");
                default
            }),
        };
        Self {
            failures: read("failures", default.failures),
            window: read("window", default.window).min(LONGEST_WINDOW),
            percent: read("percent", default.percent).min(100),
        }
    }
}

/// How a revision does on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Failures in a row, until now.
    pub in_a_row: u32,
    /// How many of its last calls are known.
    pub calls: u32,
    /// How many of those failed.
    pub failed: u32,
}

/// What is known of a revision's last calls.
#[derive(Debug, Default)]
pub(super) struct Budget {
    in_a_row: u32,
    /// Whether they failed, oldest first.
    calls: VecDeque<bool>,
}

impl Budget {
    pub(super) fn standing(&self) -> Standing {
        Standing {
            in_a_row: self.in_a_row,
            calls: self.calls.len() as u32,
            failed: self.calls.iter().filter(|failed| **failed).count() as u32,
        }
    }

    /// Notes a call.
    pub(super) fn note(&mut self, failed: bool, allowance: &Allowance) {
        self.in_a_row = if failed { self.in_a_row.saturating_add(1) } else { 0 };
        self.calls.push_back(failed);
        while self.calls.len() > allowance.window as usize {
            self.calls.pop_front();
        }
    }

    /// Why it is used up, if it is.
    pub(super) fn exhausted(&self, allowance: &Allowance) -> Option<String> {
        let standing = self.standing();
        if allowance.failures > 0 && standing.in_a_row >= allowance.failures {
            return Some(format!("failed {} times in a row", standing.in_a_row));
        }
        let window = u64::from(allowance.window);
        if window > 0 && u64::from(standing.failed) * 100 > u64::from(allowance.percent) * window {
            return Some(format!("failed {} of its last {} calls", standing.failed, standing.calls));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(calls: impl IntoIterator<Item = bool>, allowance: Allowance) -> Option<String> {
        let mut budget = Budget::default();
        for failed in calls {
            budget.note(failed, &allowance);
        }
        budget.exhausted(&allowance)
    }

    #[test]
    fn failures_in_a_row_use_it_up() {
        let allowance = Allowance::default();
        assert_eq!(after([true; 4], allowance), None);
        assert_eq!(after([true; 5], allowance).as_deref(), Some("failed 5 times in a row"));
        assert_eq!(after([true, true, true, true, false, true], allowance), None, "a good call begins anew");
        assert_eq!(after([true; 9], Allowance { failures: 0, window: 0, ..allowance }), None);
    }

    #[test]
    fn so_does_a_share_of_the_last_calls() {
        let allowance = Allowance { failures: 0, window: 10, percent: 20 };
        let every_third = |calls: usize| (0..calls).map(|n| n % 3 == 0);
        assert_eq!(after(every_third(6), allowance), None, "two of ten are allowed");
        assert_eq!(after(every_third(7), allowance).as_deref(), Some("failed 3 of its last 7 calls"));
        let old = [true, true].into_iter().chain([false; 9]).chain([true]);
        assert_eq!(after(old, allowance), None, "what is long ago is forgotten");
        assert_eq!(after([true; 50], Allowance { percent: 100, ..allowance }), None);
    }
}
