//! `spread-pack`: the oldest pending session first, on the emptiest agent that fits or on the fullest.
//!
//! Spreading leaves each session much room around it, packing leaves whole agents free for large sessions; which of them
//! may differ by kind of session. Agents without needless accelerators come before others, and of those the ones that
//! have fewest sessions of the same group: sessions of one owner, of one project, or with one tag. Such groups can also be
//! kept apart strictly; a session that only that keeps from running lets others pass.
//!
//! Options: those of [`Config`], and those of [`quarterdeck_sdk::placing`].

mod rank;

use std::collections::BTreeMap;

use quarterdeck_sdk::placing::{Blocking, Choice, Line};
use quarterdeck_sdk::scheduler::{Agent, Column, ColumnData, Lack, Placement, Round, SessionKind};
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;

use rank::{Rank, Strategy};

/// What groups of sessions are kept apart by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Apart {
    #[default]
    Nothing,
    Owner,
    Project,
    Tag,
}

/// How strictly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Strictness {
    /// Other agents are preferred.
    #[default]
    Prefer,
    /// No two on one agent.
    Require,
}

/// Strategies by kind of session.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Strategies {
    interactive: Option<Strategy>,
    batch: Option<Strategy>,
    inference: Option<Strategy>,
}

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(default)]
    strategy: Strategy,
    #[serde(default)]
    strategies: Strategies,
    #[serde(default)]
    keep_apart: Apart,
    #[serde(default)]
    strictness: Strictness,
    /// Whether the kernels of one multi-node session prefer agents of their own.
    #[serde(default = "yes")]
    spread_kernels: bool,
    #[serde(flatten)]
    blocking: Blocking,
}

fn yes() -> bool {
    true
}

impl Config {
    fn strategy_for(&self, kind: SessionKind) -> Strategy {
        let own = match kind {
            SessionKind::Interactive => self.strategies.interactive,
            SessionKind::Batch => self.strategies.batch,
            SessionKind::Inference => self.strategies.inference,
        };
        own.unwrap_or(self.strategy)
    }
}

struct SpreadPack(Line<std::ops::Range<usize>, Placing>);

impl Policy for SpreadPack {
    const NAME: &'static str = "spread-pack";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Spreads sessions over agents or packs them, by kind, and keeps groups of them apart.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "spread-pack",
        "type": "object",
        "properties": {
            "strategy": {
                "description": "Whether sessions go to the emptiest agent that fits or to the fullest.",
                "$ref": "#/$defs/strategy",
                "default": "spread"
            },
            "strategies": {
                "description": "Another strategy for a kind of session.",
                "type": "object",
                "properties": {
                    "interactive": {"$ref": "#/$defs/strategy"},
                    "batch": {"$ref": "#/$defs/strategy"},
                    "inference": {"$ref": "#/$defs/strategy"}
                },
                "additionalProperties": false,
                "default": {},
                "examples": [{"batch": "pack"}]
            },
            "keep_apart": {
                "description": "Which sessions avoid each other: those of one owner, of one project, or with the same tag.",
                "enum": ["nothing", "owner", "project", "tag"],
                "default": "nothing"
            },
            "strictness": {
                "description": "Whether they prefer other agents, or wait until there is one.",
                "enum": ["prefer", "require"],
                "default": "prefer"
            },
            "spread_kernels": {
                "description": "Whether the kernels of a multi-node session prefer agents of their own.",
                "type": "boolean",
                "default": true
            },"##,
        blocking_options!(),
        r#"},
        "$defs": {"strategy": {"enum": ["spread", "pack"]}}
    }"#
    );
    const COLUMNS: &'static [(&'static str, &'static str)] = &[("pending", "tag"), ("running", "tag")];

    type Config = Config;
}

/// A group of sessions that avoid each other.
type Group = usize;

/// Chooses agents.
struct Placing {
    config: Config,
    /// The group of each pending session, if it has one.
    groups: Vec<Option<Group>>,
    /// How many kernels of a group are on an agent.
    crowd: BTreeMap<(Group, usize), u32>,
    strategy: Strategy,
    group: Option<Group>,
    /// Where kernels of the session whose turn it is are to go already.
    planned: Vec<usize>,
}

impl Placing {
    fn over(round: &Round, config: Config) -> Self {
        let snapshot = &round.snapshot;
        let (groups, of_running) = match config.keep_apart {
            Apart::Nothing => (vec![None; round.pending().len()], Vec::new()),
            Apart::Owner => (rows(&snapshot.pending.owner), rows(&snapshot.running.owner)),
            Apart::Project => (rows(&snapshot.pending.project), rows(&snapshot.running.project)),
            Apart::Tag => {
                let mut names = BTreeMap::new();
                let count = snapshot.pending.count as usize;
                let groups = tags(&snapshot.pending.more, count, &mut names);
                (groups, tags(&snapshot.running.more, snapshot.running.count as usize, &mut names))
            }
        };
        let mut crowd = BTreeMap::new();
        for (row, group) in of_running.iter().enumerate() {
            let (Some(group), [from, to, ..]) = (group, &snapshot.running.first_kernel[row..]) else { continue };
            for kernel in *from..*to {
                if let Some(agent) = round.kernel(kernel as usize).agent() {
                    *crowd.entry((*group, agent)).or_insert(0) += 1;
                }
            }
        }
        Placing { config, groups, crowd, strategy: Strategy::Spread, group: None, planned: Vec::new() }
    }

    /// Kernels of the same group on an agent.
    fn others(&self, agent: usize) -> u32 {
        self.group.and_then(|group| self.crowd.get(&(group, agent))).copied().unwrap_or(0)
    }
}

fn rows(column: &[u32]) -> Vec<Option<Group>> {
    column.iter().map(|row| Some(*row as usize)).collect()
}

/// Groups by tag; sessions without one belong to none.
fn tags(more: &[Column], count: usize, names: &mut BTreeMap<String, Group>) -> Vec<Option<Group>> {
    let texts = more.iter().find(|column| column.name == "tag").map(|column| &column.data);
    let Some(ColumnData::Texts(texts)) = texts else { return vec![None; count] };
    texts
        .iter()
        .map(|text| {
            let next = names.len();
            (!text.is_empty()).then(|| *names.entry(text.clone()).or_insert(next))
        })
        .collect()
}

impl Choice for Placing {
    fn turn(&mut self, round: &Round, session: usize) {
        self.strategy = self.config.strategy_for(round.pending_session(session).kind());
        self.group = self.groups.get(session).copied().flatten();
        self.planned.clear();
    }

    fn placed(&mut self, _round: &Round, placement: &Placement) {
        if let Some(group) = self.groups.get(placement.session as usize).copied().flatten() {
            for agent in &placement.agents {
                *self.crowd.entry((group, *agent as usize)).or_insert(0) += 1;
            }
        }
    }

    fn agent_for(&mut self, round: &Round, architecture: u32, requested: &[u64], lasting: bool) -> Result<usize, Lack> {
        let (mut compatible, mut kept_apart) = (false, false);
        let mut best: Option<(Rank, usize)> = None;
        for agent in round.agents().filter(|agent| agent.is_compatible(architecture)) {
            compatible = true;
            if !agent.fits(requested) {
                continue;
            }
            let others = self.others(agent.index);
            if others > 0 && self.config.strictness == Strictness::Require {
                kept_apart = true;
                continue;
            }
            let siblings = match self.config.spread_kernels {
                true => self.planned.iter().filter(|planned| **planned == agent.index).count() as u32,
                false => 0,
            };
            let rank = Rank::of(self.strategy, agent.capacity(), agent.occupied(), requested, others, siblings);
            if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                best = Some((rank, agent.index));
            }
        }
        let Some((_, agent)) = best else {
            return Err(match (compatible, kept_apart) {
                (false, _) => Lack::NoCompatibleAgent,
                (true, true) => Lack::HeldBack,
                (true, false) => Lack::NoRoom,
            });
        };
        if !lasting {
            self.planned.push(agent);
        }
        Ok(agent)
    }

    fn score(&self, agent: Agent<'_>, requested: &[u64]) -> f64 {
        let others = self.others(agent.index);
        Rank::of(self.strategy, agent.capacity(), agent.occupied(), requested, others, 0).score()
    }
}

fn open(config: Config, round: Round) -> Result<SpreadPack, String> {
    let order = 0..round.pending().len();
    let blocking = config.blocking.clone();
    let placing = Placing::over(&round, config);
    Ok(SpreadPack(Line::new(round, order, placing, &blocking)))
}

quarterdeck_sdk::serve_in_line!(SpreadPack, open);
