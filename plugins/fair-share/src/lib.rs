//! `fair-share`: whoever has had least of late is next.
//!
//! The turn goes to the project with the smallest share, in it to the owner with the smallest share, and there to the
//! most important session, the oldest of equals. A share is made of two parts: what the holder has held on average of
//! late, older times counting less and less (the host keeps that history and its half-life), and what it holds now, with
//! what was placed in this round. Of both the dominant part counts: the largest fraction of any resource of the group.
//! Shares are divided by weights, so a project of weight 2 is owed twice as much as one of weight 1.
//!
//! Sessions that have waited for `promote_after_s` come before all others, oldest first: nobody starves.
//!
//! Options: those of [`Config`], and those of [`quarterdeck_sdk::placing`].

mod shares;

use std::collections::BTreeMap;

use quarterdeck_sdk::placing::walk::{Preference, Walk};
use quarterdeck_sdk::placing::{Blocking, Line, Turns};
use quarterdeck_sdk::scheduler::{Agent, Column, ColumnData, Round, Session};
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;

use shares::{By, Holder, Shares, Waiting};

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// Whose shares decide.
    #[serde(default)]
    by: By,
    /// How much the past counts beside the present: 0 = not at all, 1 = alone.
    #[serde(default = "half")]
    history_weight: f64,
    /// Whether an owner's more important sessions come first.
    #[serde(default = "yes")]
    priorities: bool,
    /// Seconds of waiting after which a session comes before all others; 0 = never.
    #[serde(default = "a_day")]
    promote_after_s: f64,
    /// By `domain/project`, or the project's name.
    #[serde(default)]
    project_weights: BTreeMap<String, f64>,
    /// By access key.
    #[serde(default)]
    owner_weights: BTreeMap<String, f64>,
    #[serde(flatten)]
    blocking: Blocking,
}

fn half() -> f64 {
    0.5
}

fn yes() -> bool {
    true
}

fn a_day() -> f64 {
    86_400.0
}

struct FairShare(Line<InTurn, Walk>);

impl Policy for FairShare {
    const NAME: &'static str = "fair-share";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Whoever has had least of late is next, by project and owner; the past fades.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fair-share",
        "type": "object",
        "properties": {
            "by": {
                "description": "Whose shares decide.",
                "enum": ["project-then-owner", "project", "owner"],
                "default": "project-then-owner"
            },
            "history_weight": {
                "description": "How much the past counts beside the present: 0 = not at all, 1 = alone.",
                "type": "number", "minimum": 0, "maximum": 1, "default": 0.5
            },
            "priorities": {
                "description": "Whether an owner's sessions of higher priority come before their older ones.",
                "type": "boolean", "default": true
            },
            "promote_after_s": {
                "description": "Seconds of waiting after which a session comes before all others; 0 = never.",
                "type": "number", "minimum": 0, "maximum": 31536000, "default": 86400
            },
            "project_weights": {
                "description": "What projects are owed in proportion, by `domain/project` or name; others 1.",
                "$ref": "#/$defs/weights"
            },
            "owner_weights": {
                "description": "What owners are owed in proportion, by access key; others 1.",
                "$ref": "#/$defs/weights"
            },"##,
        blocking_options!(),
        r#"},
        "$defs": {
            "weights": {
                "type": "object",
                "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000000},
                "default": {}
            }
        }
    }"#
    );
    const COLUMNS: &'static [(&'static str, &'static str)] =
        &[("owners", "usage"), ("projects", "usage"), ("owners", "name"), ("projects", "name")];

    type Config = Config;
}

/// [`Shares`] as the order of a line.
struct InTurn(Shares);

impl Turns for InTurn {
    fn next_turn(&mut self) -> Option<usize> {
        self.0.next()
    }

    fn placed(&mut self, session: Session<'_>) {
        self.0.placed(session.index, session.requested());
    }
}

/// The accounts of a table: what they have held, hold now, and are owed.
fn holders(count: u32, occupied: &[u64], more: &[Column], slots: usize, weight: impl Fn(&str) -> f64) -> Vec<Holder> {
    let column = |name: &str| more.iter().find(|column| column.name == name).map(|column| &column.data);
    (0..count as usize)
        .map(|row| {
            let cells = row * slots..(row + 1) * slots;
            let past = match column("usage") {
                Some(ColumnData::Decimals(values)) => values.get(cells.clone()).map(<[f64]>::to_vec),
                _ => None,
            };
            let weight = match column("name") {
                Some(ColumnData::Texts(names)) => names.get(row).map_or(1.0, |name| weight(name)),
                _ => 1.0,
            };
            Holder { past: past.unwrap_or_else(|| vec![0.0; slots]), held: occupied[cells].to_vec(), weight }
        })
        .collect()
}

fn open(config: Config, round: Round) -> Result<FairShare, String> {
    let slots = round.slots();
    let mut total = vec![0_u64; slots];
    for agent in round.agents().filter(Agent::schedulable) {
        total.iter_mut().zip(agent.capacity()).for_each(|(sum, amount)| *sum = sum.saturating_add(*amount));
    }
    let (owners, projects) = (&round.snapshot.owners, &round.snapshot.projects);
    let owners = holders(owners.count, &owners.occupied, &owners.more, slots, |name| {
        config.owner_weights.get(name).copied().unwrap_or(1.0)
    });
    let projects = holders(projects.count, &projects.occupied, &projects.more, slots, |name| {
        let bare = name.rsplit('/').next().unwrap_or(name);
        let weights = &config.project_weights;
        weights.get(name).or_else(|| weights.get(bare)).copied().unwrap_or(1.0)
    });
    let promote_after_ms = (config.promote_after_s * 1000.0) as u64;
    let waiting = round.pending().map(|session| Waiting {
        owner: session.owner(),
        project: round.snapshot.pending.project[session.index] as usize,
        priority: if config.priorities { session.priority() } else { 0 },
        promoted: promote_after_ms > 0 && session.waiting_ms() >= promote_after_ms,
    });
    let shares = Shares::new(config.by, config.history_weight, total, owners, projects, waiting.collect());
    let walk = Walk::over(&round, Preference::LeastWaste);
    Ok(FairShare(Line::new(round, InTurn(shares), walk, &config.blocking)))
}

quarterdeck_sdk::serve_in_line!(FairShare, open);
