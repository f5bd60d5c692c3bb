//! `{{name}}`: a session that nobody has used for `idle_minutes` is idle; one that holds an accelerator after
//! `accelerator_minutes` already. Whoever is connected uses it. The owner's resource policy may be stricter.

use quarterdeck_sdk::idle::{
    Access, CheckerTraits, Finding, IdleChecker, RemainingType, SlotKind, State, Tick, finding,
};
use quarterdeck_sdk::schemars::{self, JsonSchema};
use quarterdeck_sdk::{Policy, host, schema_of};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Options.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Minutes without use after which a session is idle.
    #[schemars(range(min = 0.01, max = 525600))]
    idle_minutes: f64,
    /// The same for sessions that hold an accelerator.
    #[schemars(range(min = 0.01, max = 525600))]
    accelerator_minutes: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config { idle_minutes: 60.0, accelerator_minutes: 20.0 }
    }
}

struct {{type}};

impl Policy for {{type}} {
    const NAME: &'static str = "{{name}}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Ends sessions that nobody uses, earlier where they hold an accelerator.";

    type Config = Config;

    fn config_schema() -> String {
        schema_of::<Config>()
    }
}

impl IdleChecker for {{type}} {
    fn traits(_config: &Config) -> CheckerTraits {
        CheckerTraits {
            reason: "idle-unused".to_owned(),
            remaining: RemainingType::ExpireAfter,
            metrics: Vec::new(),
            history_ms: 0,
        }
    }

    fn check(config: &Config, tick: &Tick) -> Result<Vec<Result<Finding, String>>, String> {
        let findings: Vec<Finding> = (0..tick.count as usize).map(|row| judge(config, tick, row)).collect();
        host::count("idle_total", findings.iter().filter(|finding| finding.state == State::Idle).count() as u64);
        Ok(findings.into_iter().map(Ok).collect())
    }
}

fn judge(config: &Config, tick: &Tick, row: usize) -> Finding {
    if tick.private[row] {
        return finding(State::Exempt, None);
    }
    let held = &tick.held[row * tick.slots.len()..][..tick.slots.len()];
    let accelerator =
        tick.slots.iter().zip(held).any(|(slot, amount)| slot.kind == SlotKind::Unique && *amount > 0);
    let Some(limit) = limit_ms(config, accelerator, tick.idle_limit_ms[row]) else {
        return finding(State::Exempt, None);
    };
    let last_use = match tick.access[row] {
        Access::Busy => return finding(State::Active, Some(limit)),
        _ if tick.connections[row] > 0 => return finding(State::Active, Some(limit)),
        Access::AtMs(at) => at,
        Access::Unknown => tick.started_ms[row],
    };
    let since = last_use.max(tick.started_ms[row]).max(tick.grace_until_ms[row].unwrap_or(i64::MIN));
    let left = since + limit - tick.now_ms;
    Finding {
        state: if left <= 0 { State::Idle } else { State::Active },
        remaining_ms: Some(left),
        report: serde_json::json!({"accelerator": accelerator}).to_string(),
    }
}

/// How long a session may be idle; none = for ever.
fn limit_ms(config: &Config, accelerator: bool, owners: Option<u64>) -> Option<i64> {
    let minutes = if accelerator { config.accelerator_minutes } else { config.idle_minutes };
    let limit = (minutes * 60_000.0).round() as i64;
    match owners {
        Some(0) => None,
        Some(owners) => Some(limit.min(i64::try_from(owners).unwrap_or(i64::MAX))),
        None => Some(limit),
    }
}

quarterdeck_sdk::export_idle_checker!({{type}});
