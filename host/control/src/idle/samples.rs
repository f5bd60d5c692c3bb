//! Measurements of running sessions over time, for the checkers that judge by them.
//!
//! They are taken from the live statistics that agents send, and kept in the memory of the host that leads the idle
//! checks, for as long as its checkers want to look back. They go with it, and are gathered anew.

use std::collections::{HashMap, HashSet, VecDeque};

use quarterdeck_model::SessionId;
use serde_json::Value as Json;

/// How far apart measurements are.
const INTERVAL_MS: i64 = 15_000;

/// Timers jitter: one that comes by so much too early still counts.
const JITTER_MS: i64 = 500;

/// How many measurements of a session are kept at most; of a longer history they are further apart.
const MOST: i64 = 5_760;

/// After so many intervals without a measurement what was measured before no longer counts.
const LONGEST_GAP: i64 = 10;

/// The measurements of all sessions.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The metrics, in the order of the values.
    metrics: Vec<String>,
    sessions: HashMap<SessionId, Ring>,
}

/// Those of one session, oldest first.
#[derive(Clone, Debug, Default)]
struct Ring {
    at_ms: VecDeque<i64>,
    /// One row of values for each time.
    values: VecDeque<Vec<f64>>,
}

/// The measurements of one session as checkers see them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// When.
    pub at_ms: Vec<i64>,
    /// Metric and values.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Measured {
    /// How many numbers they are.
    pub(super) fn size(&self) -> usize {
        self.at_ms.len() * self.series.len()
    }
}

fn interval_ms(history_ms: i64) -> i64 {
    INTERVAL_MS.max(history_ms / MOST)
}

/// How many measurements a history has.
fn capacity(history_ms: i64) -> usize {
    usize::try_from(history_ms / interval_ms(history_ms)).unwrap_or(0)
}

impl Samples {
    /// Opens a round: forgets sessions that no longer run, and everything when other metrics are wanted than before.
    pub(super) fn open(&mut self, metrics: &[String], running: &HashSet<SessionId>) {
        if self.metrics != metrics {
            self.sessions.clear();
            self.metrics = metrics.to_vec();
        }
        self.sessions.retain(|session, _| running.contains(session));
    }

    /// Measures a session, unless it was only just. Whether it did.
    pub(super) fn take(
        &mut self,
        session: SessionId,
        now_ms: i64,
        history_ms: i64,
        measure: impl FnOnce(&[String]) -> Option<Vec<f64>>,
    ) -> bool {
        let interval = interval_ms(history_ms);
        let age = self.sessions.get(&session).and_then(|ring| ring.at_ms.back()).map(|last| now_ms - last);
        if age.is_some_and(|age| (0..interval - JITTER_MS).contains(&age)) {
            return false;
        }
        let Some(values) = measure(&self.metrics) else { return false };
        let ring = self.sessions.entry(session).or_default();
        if age.is_some_and(|age| !(0..=interval * LONGEST_GAP).contains(&age)) {
            *ring = Ring::default();
        }
        ring.at_ms.push_back(now_ms);
        ring.values.push_back(values);
        true
    }

    /// Takes back what was measured now: every checker says that it is too early.
    pub(super) fn take_back(&mut self, session: SessionId, now_ms: i64) {
        if let Some(ring) = self.sessions.get_mut(&session)
            && ring.at_ms.back() == Some(&now_ms)
        {
            ring.at_ms.pop_back();
            ring.values.pop_back();
        }
    }

    /// Drops what is older than the history; the next measurement comes beside it.
    pub(super) fn trim(&mut self, session: SessionId, history_ms: i64) {
        if let Some(ring) = self.sessions.get_mut(&session) {
            let surplus = ring.at_ms.len().saturating_sub(capacity(history_ms));
            ring.at_ms.drain(..surplus);
            ring.values.drain(..surplus);
        }
    }

    /// What is known of a session.
    pub(super) fn measured(&self, session: SessionId) -> Measured {
        let Some(ring) = self.sessions.get(&session) else { return Measured::default() };
        let column = |position: usize| ring.values.iter().map(|row| row[position]).collect();
        Measured {
            at_ms: ring.at_ms.iter().copied().collect(),
            series: self.metrics.iter().enumerate().map(|(i, metric)| (metric.clone(), column(i))).collect(),
        }
    }
}

/// What the statistics of a session's kernels come to: the mean of `<metric>.pct` over them, and for `mem` what they use
/// together of what they hold together. None while a kernel has no statistics, or senseless ones.
pub(super) fn measure(metrics: &[String], kernels: &[(Option<Json>, u64)]) -> Option<Vec<f64>> {
    if kernels.is_empty() {
        return None;
    }
    let stats: Vec<&Json> =
        kernels.iter().map(|(stat, _)| stat.as_ref().filter(|s| s.is_object())).collect::<Option<_>>()?;
    let sum = |metric: &str, key: &str| -> Option<f64> {
        stats.iter().try_fold(0.0, |sum, stat| Some(sum + number(&stat[metric][key])?))
    };
    metrics
        .iter()
        .map(|metric| {
            let mean = sum(metric, "pct")? / kernels.len() as f64;
            if metric != "mem" {
                return Some(mean);
            }
            let held: u64 = kernels.iter().fold(0, |sum, (_, held)| sum.saturating_add(*held));
            let used = sum(metric, "current")?;
            Some(if held == 0 { 0.0 } else { used / held as f64 * 100.0 })
        })
        .collect()
}

/// A number of the statistics: never negative; what is absent is 0.
fn number(value: &Json) -> Option<f64> {
    let number = match value {
        Json::Null => return Some(0.0),
        Json::Number(number) => number.as_f64()?,
        Json::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    number.is_finite().then(|| number.max(0.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn samples(session: SessionId) -> Samples {
        let mut samples = Samples::default();
        samples.open(&["cpu_util".to_owned()], &HashSet::from([session]));
        samples
    }

    fn value(n: f64) -> impl FnOnce(&[String]) -> Option<Vec<f64>> {
        move |_| Some(vec![n])
    }

    #[test]
    fn measurements_keep_their_distance() {
        let id = SessionId::new();
        let mut samples = samples(id);
        assert!(samples.take(id, 0, 60_000, value(1.0)));
        assert!(!samples.take(id, 14_000, 60_000, value(2.0)));
        assert!(samples.take(id, 14_600, 60_000, value(3.0)));
        // Nothing can be measured now: that is no measurement, and the next try may be at once.
        assert!(!samples.take(id, 30_000, 60_000, |_| None));
        assert!(samples.take(id, 31_000, 60_000, value(4.0)));
        assert_eq!(samples.measured(id).series, [("cpu_util".to_owned(), vec![1.0, 3.0, 4.0])]);
        samples.take_back(id, 31_000);
        assert_eq!(samples.measured(id).at_ms, [0, 14_600]);
    }

    #[test]
    fn a_history_is_bounded() {
        let id = SessionId::new();
        let mut samples = samples(id);
        for i in 0..10 {
            samples.take(id, i * 15_000, 60_000, value(i as f64));
            assert!(samples.measured(id).at_ms.len() <= 5);
            samples.trim(id, 60_000);
        }
        assert_eq!(samples.measured(id).series[0].1, [6.0, 7.0, 8.0, 9.0]);
        // A week is measured every 105 seconds.
        assert_eq!(capacity(7 * 86_400_000), 5_760);
        assert!(!samples.take(id, 9 * 15_000 + 100_000, 7 * 86_400_000, value(0.0)));
        // Seven-and-a-half minutes without a measurement: what was before is too old to be taken together with it.
        assert!(samples.take(id, 9 * 15_000 + 450_000, 60_000, value(0.0)));
        assert_eq!(samples.measured(id).at_ms.len(), 1);
    }

    #[test]
    fn other_metrics_and_sessions_that_ended_start_anew() {
        let (id, other) = (SessionId::new(), SessionId::new());
        let mut samples = samples(id);
        samples.take(id, 0, 60_000, value(1.0));
        samples.open(&["cpu_util".to_owned()], &HashSet::from([id, other]));
        assert_eq!(samples.measured(id).at_ms.len(), 1);
        samples.open(&["cpu_util".to_owned()], &HashSet::from([other]));
        assert_eq!(samples.measured(id).at_ms.len(), 0);
        samples.take(other, 0, 60_000, value(1.0));
        samples.open(&["mem".to_owned()], &HashSet::from([other]));
        assert_eq!(samples.measured(other).at_ms.len(), 0);
    }

    #[test]
    fn statistics_are_taken_together() {
        let metrics = ["cpu_util".to_owned(), "mem".to_owned(), "cuda_util".to_owned()];
        let stat = |cpu: Json, mem: Json| Some(json!({"cpu_util": {"pct": cpu}, "mem": {"current": mem, "pct": "99"}}));
        let two = [(stat(json!("10"), json!("100")), 1000), (stat(json!(30), json!("500")), 1000)];
        assert_eq!(measure(&metrics, &two), Some(vec![20.0, 30.0, 0.0]));
        assert_eq!(measure(&metrics, &[(stat(json!("-3"), json!(null)), 0)]), Some(vec![0.0, 0.0, 0.0]));
        for wrong in [json!("abc"), json!("nan"), json!("inf"), json!([])] {
            assert_eq!(measure(&metrics, &[(stat(wrong.clone(), json!("1")), 1)]), None, "{wrong}");
        }
        assert_eq!(measure(&metrics, &[(None, 1), two[0].clone()]), None);
        assert_eq!(measure(&metrics, &[]), None);
    }
}
