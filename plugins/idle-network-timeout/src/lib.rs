//! `network_timeout`: a session ends when nobody has used it for as long as its owner's policy allows.
//!
//! It is used while a command runs in it or a connection to one of its services is open; of such a session nothing is
//! reported. Batch sessions are exempt: they end when their command ends.
//!
//! Options: `threshold`, the time for owners whose policy sets none: seconds, or a text such as `90`, `10m`, `1.5h`,
//! `2d`, `1w`, `3mo` (of 30 days), `1yr` (of 365 days). 0 = for ever.

use quarterdeck_sdk::idle::{
    Access, CheckerTraits, Finding, IdleChecker, RemainingType, SessionKind, State, Tick, finding,
};
use quarterdeck_sdk::{ConfigProblem, Policy, config_problem, span};
use serde::Deserialize;
use serde_json::Value;

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    threshold: Value,
}

impl Default for Config {
    fn default() -> Self {
        Config { threshold: Value::from("10m") }
    }
}

impl Config {
    /// None when it makes no sense.
    fn threshold_ms(&self) -> Option<u64> {
        span::millis(&self.threshold)
    }
}

struct NetworkTimeout;

impl Policy for NetworkTimeout {
    const NAME: &'static str = "network_timeout";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Ends sessions that nobody has used for longer than the owner's resource policy, or \
                                   else `threshold`, allows.";
    const CONFIG_SCHEMA: &'static str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "network_timeout",
        "type": "object",
        "properties": {
            "threshold": {
                "description": "How long a session may be unused where the owner's policy says nothing: seconds, or a number with a unit of s, m, h, d, w, mo, yr. 0 = for ever.",
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": 100000000000},
                    {"type": "string", "minLength": 1, "maxLength": 50}
                ],
                "default": "10m"
            }
        }
    }"#;

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        match config.threshold_ms() {
            Some(_) => Vec::new(),
            None => vec![config_problem("/threshold", "must be a time span such as 90, 10m or 1.5h")],
        }
    }
}

impl IdleChecker for NetworkTimeout {
    fn traits(_config: &Config) -> CheckerTraits {
        CheckerTraits {
            reason: "idle-timeout".to_owned(),
            remaining: RemainingType::ExpireAfter,
            metrics: Vec::new(),
            history_ms: 0,
        }
    }

    fn check(config: &Config, tick: &Tick) -> Result<Vec<Result<Finding, String>>, String> {
        let threshold_ms = config.threshold_ms().ok_or("threshold is no time span")?;
        Ok((0..tick.count as usize).map(|row| Ok(judge(tick, row, threshold_ms))).collect())
    }
}

fn judge(tick: &Tick, row: usize, threshold_ms: u64) -> Finding {
    // A policy may allow centuries; the contract's remaining time ends at a thousand years.
    const LONGEST_MS: i64 = 1000 * 365 * 24 * 3_600_000;
    if tick.kind[row] == SessionKind::Batch {
        return finding(State::Exempt, None);
    }
    if tick.connections[row] > 0 {
        return finding(State::Active, None);
    }
    let used_ms = match tick.access[row] {
        Access::AtMs(at) => at,
        Access::Busy | Access::Unknown => return finding(State::Active, None),
    };
    let limit_ms = match tick.idle_limit_ms[row].unwrap_or(threshold_ms) {
        0 => return finding(State::Exempt, None),
        limit => i64::try_from(limit).unwrap_or(i64::MAX),
    };
    let begin_ms = tick.grace_until_ms[row].map_or(used_ms, |grace| grace.max(used_ms));
    let remaining_ms = begin_ms.saturating_add(limit_ms).saturating_sub(tick.now_ms).clamp(-LONGEST_MS, LONGEST_MS);
    // In the very instant in which its time is up it is still left alone.
    let state = if remaining_ms >= 0 { State::Active } else { State::Idle };
    finding(state, Some(remaining_ms))
}

quarterdeck_sdk::export_idle_checker!(NetworkTimeout);
