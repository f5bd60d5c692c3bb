//! Windows of samples, and what is made of their averages.

use serde::Deserialize;

/// How far apart samples are, in milliseconds.
const INTERVAL_MS: u64 = 15_000;

/// Of longer windows the host keeps samples further apart, so that there are never more.
const MOST_SAMPLES: u64 = 5_760;

/// How the metrics of a session are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// Idle when every metric is below its threshold.
    And,
    /// Idle when any is.
    Or,
}

impl Operator {
    /// As configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Operator::And => "and",
            Operator::Or => "or",
        }
    }

    /// Whether a session with these averages and thresholds is idle. One without any isn't.
    pub fn is_idle(self, judged: &[(f64, f64)]) -> bool {
        let mut idle = judged.iter().map(|(average, threshold)| average < threshold);
        match self {
            Operator::And => !judged.is_empty() && idle.all(|idle| idle),
            Operator::Or => idle.any(|idle| idle),
        }
    }
}

/// A window of so many samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds.
    pub length_ms: u64,
    /// Samples; 0 where the window is shorter than what lies between two.
    pub size: usize,
    interval_ms: u64,
}

impl Window {
    /// The window of a length.
    pub fn of(length_ms: u64) -> Self {
        let interval_ms = INTERVAL_MS.max(length_ms / MOST_SAMPLES);
        Window { length_ms, size: (length_ms / interval_ms) as usize, interval_ms }
    }

    /// A last sample younger than this was judged already. Half a second less than what lies between two: timers jitter.
    pub fn patience_ms(&self) -> i64 {
        self.interval_ms as i64 - 500
    }

    /// Whether so many samples are enough: one more than the window has.
    pub fn is_full(&self, samples: usize) -> bool {
        samples > self.size
    }

    /// The mean of the newest samples; 0 without any.
    pub fn average(&self, values: &[f64]) -> f64 {
        let newest = &values[values.len().saturating_sub(self.size)..];
        if newest.is_empty() { 0.0 } else { newest.iter().sum::<f64>() / newest.len() as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_samples() {
        assert_eq!(Window::of(60_000).size, 4);
        assert_eq!(Window::of(14_999).size, 0);
        assert_eq!(Window::of(86_400_000).size, 5_760);
        // A week has as many as a day, further apart.
        let week = Window::of(7 * 86_400_000);
        assert_eq!((week.size, week.patience_ms()), (5_760, 104_500));
        assert!(!Window::of(60_000).is_full(4) && Window::of(60_000).is_full(5));
    }

    #[test]
    fn averages_are_over_the_newest() {
        let window = Window::of(30_000);
        assert_eq!(window.average(&[100.0, 1.0, 3.0]), 2.0);
        assert_eq!(window.average(&[8.0]), 8.0);
        assert_eq!(window.average(&[]), 0.0);
    }

    #[test]
    fn operators_differ_where_metrics_do() {
        let mixed = [(10.0, 30.0), (30.0, 30.0)];
        assert!(!Operator::And.is_idle(&mixed) && Operator::Or.is_idle(&mixed));
        assert!(Operator::And.is_idle(&mixed[..1]));
        assert!(!Operator::And.is_idle(&[]) && !Operator::Or.is_idle(&[]));
    }
}
