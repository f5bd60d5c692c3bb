//! `utilization`: a session ends when it makes too little use of what it holds.
//!
//! The host measures running sessions every 15 seconds. Once a window is full, the averages of its samples are held
//! against the thresholds of the configuration: with the operator `and` a session is idle when all metrics are below
//! theirs, with `or` when any is. Metrics of resources that the session doesn't hold don't count.
//!
//! Nothing is measured for the grace period after the start (or after the owner's grace as a new user), and the first
//! verdict needs one sample more than a window has, so the remaining time that is reported is that until the first
//! window is full.

mod window;

use std::collections::BTreeMap;

use quarterdeck_sdk::idle::{CheckerTraits, Finding, IdleChecker, RemainingType, Series, State, Tick, finding};
use quarterdeck_sdk::{ConfigProblem, Policy, config_problem, span};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use window::{Operator, Window};

/// The metrics that may have thresholds, and the family of slots that each is about.
const METRICS: [(&str, &str); 5] =
    [("cpu_util", "cpu"), ("mem", "mem"), ("cuda_util", "cuda"), ("cuda_mem", "cuda"), ("atom_mem", "atom")];

/// The longest history that a checker may ask for.
const LONGEST_HISTORY_MS: u64 = 7 * 86_400_000;

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Config {
    time_window: Value,
    initial_grace_period: Value,
    thresholds_check_operator: Operator,
    resource_thresholds: Option<BTreeMap<String, Option<Threshold>>>,
}

/// What the average of a metric is held against.
#[derive(Debug, Clone, Deserialize)]
struct Threshold {
    /// Percent: a number, also as text.
    average: Value,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            time_window: Value::from("10m"),
            initial_grace_period: Value::from("5m"),
            thresholds_check_operator: Operator::And,
            resource_thresholds: None,
        }
    }
}

impl Threshold {
    fn percent(&self) -> Option<f64> {
        let percent = match &self.average {
            Value::Number(number) => number.as_f64()?,
            Value::String(text) => text.trim().parse::<f64>().ok()?,
            _ => return None,
        };
        percent.is_finite().then_some(percent)
    }
}

/// The options, read.
struct Settings {
    window_ms: u64,
    grace_ms: u64,
    operator: Operator,
    /// By position in [`METRICS`].
    thresholds: [Option<f64>; METRICS.len()],
}

impl Settings {
    fn of(config: &Config) -> Result<Self, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let mut span = |key: &str, value: &Value| {
            span::millis(value).unwrap_or_else(|| {
                problems.push(config_problem(format!("/{key}"), "must be a time span such as 90, 10m or 1.5h"));
                0
            })
        };
        let window_ms = span("time-window", &config.time_window);
        let grace_ms = span("initial-grace-period", &config.initial_grace_period);
        let mut thresholds = [None; METRICS.len()];
        for (metric, threshold) in config.resource_thresholds.iter().flatten() {
            let at = |key: &str| format!("/resource-thresholds/{metric}{key}");
            let Some(position) = METRICS.iter().position(|(name, _)| name == metric) else {
                problems.push(config_problem(at(""), "no such metric"));
                continue;
            };
            let Some(threshold) = threshold else { continue };
            thresholds[position] = threshold.percent();
            if thresholds[position].is_none() {
                problems.push(config_problem(at("/average"), "must be a number of percent"));
            }
        }
        let operator = config.thresholds_check_operator;
        if problems.is_empty() { Ok(Settings { window_ms, grace_ms, operator, thresholds }) } else { Err(problems) }
    }
}

struct Utilization;

impl Policy for Utilization {
    const NAME: &'static str = "utilization";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Ends sessions that use less of what they hold than `resource-thresholds` demand.";
    const CONFIG_SCHEMA: &'static str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "utilization",
        "type": "object",
        "properties": {
            "time-window": {
                "description": "How long a session must use too little where the owner's policy says nothing: seconds, or a number with a unit of s, m, h, d, w, mo, yr. Less than 15 s = never.",
                "$ref": "#/$defs/span",
                "default": "10m"
            },
            "initial-grace-period": {
                "description": "How long after its start a session is not measured.",
                "$ref": "#/$defs/span",
                "default": "5m"
            },
            "thresholds-check-operator": {
                "description": "Whether a session is idle when all of its metrics are below their thresholds (and) or when any is (or).",
                "enum": ["and", "or"],
                "default": "and"
            },
            "resource-thresholds": {
                "description": "Percent by metric. Without any no session is ever idle.",
                "type": ["object", "null"],
                "properties": {
                    "cpu_util": {"$ref": "#/$defs/threshold"},
                    "mem": {"$ref": "#/$defs/threshold"},
                    "cuda_util": {"$ref": "#/$defs/threshold"},
                    "cuda_mem": {"$ref": "#/$defs/threshold"},
                    "atom_mem": {"$ref": "#/$defs/threshold"}
                },
                "additionalProperties": false,
                "default": null,
                "examples": [{"cpu_util": {"average": 30}, "mem": {"average": 10}}]
            }
        },
        "$defs": {
            "span": {
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": 100000000000},
                    {"type": "string", "minLength": 1, "maxLength": 50}
                ]
            },
            "threshold": {
                "type": ["object", "null"],
                "properties": {"average": {"description": "Percent.", "type": ["number", "string"]}},
                "required": ["average"]
            }
        }
    }"##;

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        Settings::of(config).err().unwrap_or_default()
    }
}

impl IdleChecker for Utilization {
    fn traits(config: &Config) -> CheckerTraits {
        let window_ms = Settings::of(config).map_or(0, |settings| settings.window_ms);
        CheckerTraits {
            reason: "idle-utilization".to_owned(),
            remaining: RemainingType::GracePeriod,
            metrics: METRICS.iter().map(|(metric, _)| (*metric).to_owned()).collect(),
            history_ms: window_ms.min(LONGEST_HISTORY_MS),
        }
    }

    fn check(config: &Config, tick: &Tick) -> Result<Vec<Result<Finding, String>>, String> {
        let settings = Settings::of(config).map_err(|_| "the configuration makes no sense")?;
        let mut measured: Vec<[Option<&Series>; METRICS.len()]> = vec![[None; METRICS.len()]; tick.count as usize];
        for series in &tick.metrics {
            if let Some(position) = METRICS.iter().position(|(metric, _)| *metric == series.metric)
                && let Some(row) = measured.get_mut(series.session as usize)
            {
                row[position] = Some(series);
            }
        }
        Ok(measured.iter().enumerate().map(|(row, series)| Ok(judge(&settings, tick, row, series))).collect())
    }
}

fn judge(settings: &Settings, tick: &Tick, row: usize, series: &[Option<&Series>; METRICS.len()]) -> Finding {
    // A policy may allow centuries; the contract's remaining time ends at a thousand years.
    const LONGEST_MS: i64 = 1000 * 365 * 24 * 3_600_000;
    let window = Window::of(tick.idle_limit_ms[row].unwrap_or(settings.window_ms));
    if window.size == 0 {
        return finding(State::Exempt, None);
    }
    let newest_ms = series.iter().flatten().filter_map(|series| series.at_ms.last().copied()).max();
    if newest_ms.is_some_and(|newest| newest < tick.now_ms && tick.now_ms - newest < window.patience_ms()) {
        // Nothing was measured since the last judgement: that one stands.
        return finding(State::Active, None);
    }
    let created_ms = tick.created_ms[row];
    let begin_ms = tick.grace_until_ms[row].map_or(created_ms, |grace| grace.max(created_ms));
    let grace_end_ms = begin_ms.saturating_add_unsigned(settings.grace_ms);
    let remaining_ms = grace_end_ms.saturating_add_unsigned(window.length_ms).saturating_sub(tick.now_ms);
    let remaining_ms = Some(remaining_ms.clamp(-LONGEST_MS, LONGEST_MS));
    if tick.now_ms <= grace_end_ms {
        return finding(State::Grace, remaining_ms);
    }
    if newest_ms != Some(tick.now_ms) {
        // There are no statistics of it now.
        return finding(State::Active, remaining_ms);
    }
    let held = families(tick, row);
    let mut judged = Vec::with_capacity(METRICS.len());
    let mut shown = Map::new();
    let mut full = true;
    for (position, (metric, family)) in METRICS.iter().enumerate() {
        let (Some(threshold), true) = (settings.thresholds[position], held.contains(family)) else { continue };
        let values = series[position].map_or(&[][..], |series| &series.value);
        full &= window.is_full(values.len());
        let average = window.average(values);
        judged.push((average, threshold));
        shown.insert((*metric).to_owned(), pair(metric, average, threshold));
    }
    let idle = full && settings.operator.is_idle(&judged);
    let report = json!({"thresholds_check_operator": settings.operator.as_str(), "resources": shown});
    Finding { state: if idle { State::Idle } else { State::Active }, remaining_ms, report: report.to_string() }
}

/// The families of slots of which the session's main kernel holds something.
fn families(tick: &Tick, row: usize) -> Vec<&str> {
    let held = &tick.held[row * tick.slots.len()..][..tick.slots.len()];
    tick.slots
        .iter()
        .zip(held)
        .filter(|(_, amount)| **amount > 0)
        .map(|(slot, _)| slot.name.split('.').next().unwrap_or_default())
        .collect()
}

/// Average and threshold as users see them: of memory whole percents.
fn pair(metric: &str, average: f64, threshold: f64) -> Value {
    if metric.contains("mem") { json!([average as i64, threshold as i64]) } else { json!([average, threshold]) }
}

quarterdeck_sdk::export_idle_checker!(Utilization);
