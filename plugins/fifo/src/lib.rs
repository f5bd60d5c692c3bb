//! `fifo`: the oldest pending session first, on the agent that wastes least and is largest.
//!
//! Options: `num_retries_to_skip`, so that sessions which failed often yield to others, and those of
//! [`quarterdeck_sdk::placing`].

use quarterdeck_sdk::placing::walk::{Preference, Walk};
use quarterdeck_sdk::placing::{Blocking, Line};
use quarterdeck_sdk::scheduler::Round;
use quarterdeck_sdk::{ConfigProblem, Policy, blocking_options, config_problem};
use serde::Deserialize;
use serde_json::Value;

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// Sessions that failed this often yield to those that failed less; 0 = never.
    #[serde(default = "zero")]
    num_retries_to_skip: Value,
    #[serde(flatten)]
    blocking: Blocking,
}

fn zero() -> Value {
    Value::from(0)
}

impl Config {
    /// Whole numbers, also as text or with a zero fraction.
    fn retries(&self) -> Option<u64> {
        match &self.num_retries_to_skip {
            Value::Number(number) => number.as_u64().or_else(|| {
                let number = number.as_f64()?;
                (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
            }),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

struct Fifo(Line<std::vec::IntoIter<usize>, Walk>);

impl Policy for Fifo {
    const NAME: &'static str = "fifo";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Oldest session first; agents without needless accelerators first, then larger ones.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fifo",
        "type": "object",
        "properties": {
            "num_retries_to_skip": {
                "description": "A session that failed this often is tried after those that failed less. 0 = never.",
                "anyOf": [
                    {"type": "integer", "minimum": 0, "maximum": 4294967295},
                    {"type": "string", "pattern": "^ *[0-9]{1,9} *$"}
                ],
                "default": 0
            },"#,
        blocking_options!(),
        "}}"
    );

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        match config.retries() {
            Some(_) => Vec::new(),
            None => vec![config_problem("/num_retries_to_skip", "must be a whole number, 0 or more")],
        }
    }
}

fn open(config: Config, round: Round) -> Result<Fifo, String> {
    let retries = config.retries().ok_or("num_retries_to_skip must be a whole number")?;
    // Picking again and again the first that failed less than `retries` times, and the first of all when there is
    // none, comes to the same as this order.
    let failed = |row: &usize| retries > 0 && u64::from(round.pending_session(*row).retries()) >= retries;
    let (tried, fresh): (Vec<usize>, Vec<usize>) = (0..round.pending().len()).partition(failed);
    let order: Vec<usize> = fresh.into_iter().chain(tried).collect();
    let walk = Walk::over(&round, Preference::LeastWaste);
    Ok(Fifo(Line::new(round, order.into_iter(), walk, &config.blocking)))
}

quarterdeck_sdk::serve_in_line!(Fifo, open);
