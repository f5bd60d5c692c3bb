//! `drf`: dominant resource fairness. The turn goes to the owner with the smallest dominant share, and there to the
//! oldest session; equal shares go by the oldest session that is pending. The agent is the largest fitting one.
//!
//! An owner's dominant share is the largest part that one user holds of any resource: for each slot what the running
//! sessions hold together, divided by what the agents of the scaling group have together; the largest of these quotients
//! counts. Slots of which the group has nothing don't.
//!
//! Options: `accumulate`, and those of [`quarterdeck_sdk::placing`]. Without `accumulate` a placement in this round raises
//! its owner's share to the share of the placed session at least; so it was always done in Backend.AI. With it the
//! placement is added to what the owner holds, as if the session were running already, which is fairer in rounds that
//! place many sessions at once.

mod shares;

use quarterdeck_sdk::placing::walk::{Preference, Walk};
use quarterdeck_sdk::placing::{Blocking, Line, Turns};
use quarterdeck_sdk::scheduler::{Round, Session};
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;
use shares::Shares;

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// Whether placements of this round add up.
    #[serde(default)]
    accumulate: bool,
    #[serde(flatten)]
    blocking: Blocking,
}

struct Drf(Line<ByShare, Walk>);

impl Policy for Drf {
    const NAME: &'static str = "drf";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Dominant resource fairness: whoever holds least of what they hold most of is next; larger agents first.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "drf",
        "type": "object",
        "properties": {
            "accumulate": {
                "description": "Whether placements of one round add up in their owner's share. Otherwise the largest counts.",
                "type": "boolean",
                "default": false
            },"#,
        blocking_options!(),
        "}}"
    );

    type Config = Config;
}

struct ByShare(Shares);

impl Turns for ByShare {
    fn next_turn(&mut self) -> Option<usize> {
        self.0.next()
    }

    fn placed(&mut self, session: Session<'_>) {
        self.0.placed(session.owner(), session.requested());
    }

    fn can_take_back(&self) -> bool {
        true
    }

    fn mark(&mut self) {
        self.0.mark();
    }

    fn take_back(&mut self) {
        self.0.take_back();
    }
}

fn open(config: Config, round: Round) -> Result<Drf, String> {
    let (agents, running) = (&round.snapshot.agents, &round.snapshot.running);
    let total = shares::total(round.slots(), &agents.schedulable, &agents.capacity);
    let running = (running.owner.as_slice(), running.held.as_slice());
    let turns = ByShare(Shares::new(total, config.accumulate, &round.snapshot.pending.owner, running));
    let walk = Walk::over(&round, Preference::Largest);
    Ok(Drf(Line::new(round, turns, walk, &config.blocking)))
}

#[cfg(test)]
mod tests;

quarterdeck_sdk::serve_in_line!(Drf, open);
