//! `session_lifetime`: a session ends when it is as old as its owner's policy allows.

use quarterdeck_sdk::Policy;
use quarterdeck_sdk::idle::{CheckerTraits, Finding, IdleChecker, RemainingType, State, Tick, finding};
use serde::Deserialize;

/// From when on a session's life is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CountFrom {
    /// When it was enqueued: the time of waiting counts.
    #[default]
    Creation,
    /// When it started to run.
    Start,
}

/// Options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Config {
    count_from: CountFrom,
}

struct SessionLifetime;

impl Policy for SessionLifetime {
    const NAME: &'static str = "session_lifetime";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Ends sessions that are as old as the owner's resource policy allows.";
    const CONFIG_SCHEMA: &'static str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "session_lifetime",
        "type": "object",
        "properties": {
            "count_from": {
                "description": "Whether a session's life begins when it is enqueued or when it starts to run.",
                "enum": ["creation", "start"],
                "default": "creation"
            }
        }
    }"#;

    type Config = Config;
}

impl IdleChecker for SessionLifetime {
    fn traits(_config: &Config) -> CheckerTraits {
        CheckerTraits {
            reason: "idle-session-lifetime".to_owned(),
            remaining: RemainingType::ExpireAfter,
            metrics: Vec::new(),
            history_ms: 0,
        }
    }

    fn check(config: &Config, tick: &Tick) -> Result<Vec<Result<Finding, String>>, String> {
        let born = match config.count_from {
            CountFrom::Creation => &tick.created_ms,
            CountFrom::Start => &tick.started_ms,
        };
        Ok((0..tick.count as usize)
            .map(|row| Ok(judge(tick.now_ms, born[row], tick.grace_until_ms[row], tick.lifetime_limit_ms[row])))
            .collect())
    }
}

fn judge(now_ms: i64, born_ms: i64, grace_until_ms: Option<i64>, limit_ms: Option<u64>) -> Finding {
    let limit_ms = match limit_ms {
        None | Some(0) => return finding(State::Exempt, None),
        Some(limit) => i64::try_from(limit).unwrap_or(i64::MAX),
    };
    let begin_ms = grace_until_ms.map_or(born_ms, |grace| grace.max(born_ms));
    // A policy may allow centuries; the contract's remaining time ends at a thousand years.
    const LONGEST_MS: i64 = 1000 * 365 * 24 * 3_600_000;
    let remaining_ms = begin_ms.saturating_add(limit_ms).saturating_sub(now_ms).clamp(-LONGEST_MS, LONGEST_MS);
    let state = if remaining_ms > 0 { State::Active } else { State::Idle };
    finding(state, Some(remaining_ms))
}

#[cfg(test)]
mod tests;

quarterdeck_sdk::export_idle_checker!(SessionLifetime);
