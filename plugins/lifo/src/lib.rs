//! `lifo`: the youngest pending session first, on the agent that wastes least and is largest, as `fifo` chooses it.
//!
//! Options: those of [`quarterdeck_sdk::placing`].

use quarterdeck_sdk::placing::walk::{Preference, Walk};
use quarterdeck_sdk::placing::{Blocking, Line};
use quarterdeck_sdk::scheduler::Round;
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    blocking: Blocking,
}

struct Lifo(Line<std::iter::Rev<std::ops::Range<usize>>, Walk>);

impl Policy for Lifo {
    const NAME: &'static str = "lifo";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Youngest session first; agents without needless accelerators first, then larger ones.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lifo",
        "type": "object",
        "properties": {"#,
        blocking_options!(),
        "}}"
    );

    type Config = Config;
}

fn open(config: Config, round: Round) -> Result<Lifo, String> {
    let order = (0..round.pending().len()).rev();
    let walk = Walk::over(&round, Preference::LeastWaste);
    Ok(Lifo(Line::new(round, order, walk, &config.blocking)))
}

quarterdeck_sdk::serve_in_line!(Lifo, open);
