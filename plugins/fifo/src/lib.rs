//! `fifo`: the oldest pending session first, on the agent that wastes least and is largest.
//!
//! A session that finds no room blocks those behind it, unless `skip_blocked` is on. Then others pass until the session
//! has waited `hold_after_s`; from there on it holds the line, so that a stream of small sessions can't starve it. A
//! session that no agent could take even if it were empty never holds the line: nothing would ever free it.

mod walk;

use quarterdeck_sdk::scheduler::{
    Agent, Candidate, ClusterMode, Explanation, Lack, Outcome, Placement, Proposal, Round, Scheduler, Session,
};
use quarterdeck_sdk::{ConfigProblem, Policy, config_problem, host};
use serde::Deserialize;
use serde_json::Value;
use walk::{Nothing, Walk, extras};

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    /// Sessions that failed this often yield to those that failed less; 0 = never.
    num_retries_to_skip: Value,
    /// Whether sessions without room let others pass.
    skip_blocked: bool,
    /// Age after which they no longer do.
    hold_after_s: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config { num_retries_to_skip: Value::from(0), skip_blocked: false, hold_after_s: 600.0 }
    }
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

struct Fifo {
    round: Round,
    walk: Walk,
    /// Rows in the order in which they are tried.
    order: std::vec::IntoIter<usize>,
    /// What was proposed last.
    last: Option<Proposal>,
    skip_blocked: bool,
    hold_after_ms: u64,
    ended: bool,
}

impl Policy for Fifo {
    const NAME: &'static str = "fifo";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Oldest session first; agents without needless accelerators first, then larger ones.";
    const CONFIG_SCHEMA: &'static str = r#"{
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
            },
            "skip_blocked": {
                "description": "Whether a session without room lets younger ones pass.",
                "type": "boolean",
                "default": false
            },
            "hold_after_s": {
                "description": "With skip_blocked: seconds of waiting after which a session lets nobody pass.",
                "type": "number",
                "minimum": 0,
                "maximum": 31536000,
                "default": 600
            }
        }
    }"#;

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        match config.retries() {
            Some(_) => Vec::new(),
            None => vec![config_problem("/num_retries_to_skip", "must be a whole number, 0 or more")],
        }
    }
}

impl Scheduler for Fifo {
    fn open(config: Config, round: Round) -> Result<Self, String> {
        let retries = config.retries().ok_or("num_retries_to_skip must be a whole number")?;
        // Picking again and again the first that failed less than `retries` times, and the first of all when there is
        // none, comes to the same as this order.
        let failed = |row: &usize| retries > 0 && u64::from(round.pending_session(*row).retries()) >= retries;
        let (tried, fresh): (Vec<usize>, Vec<usize>) = (0..round.pending().len()).partition(failed);
        let order: Vec<usize> = fresh.into_iter().chain(tried).collect();
        let agents = &round.snapshot.agents;
        let walk = Walk::new(round.slots(), &agents.architecture, &agents.schedulable, &agents.capacity);
        Ok(Fifo {
            walk,
            order: order.into_iter(),
            last: None,
            skip_blocked: config.skip_blocked,
            hold_after_ms: (config.hold_after_s * 1000.0) as u64,
            ended: false,
            round,
        })
    }

    fn propose(&mut self, _limit: usize) -> Vec<Proposal> {
        if self.ended {
            return Vec::new();
        }
        let Some(row) = self.order.next() else { return Vec::new() };
        let proposal = match self.place(row) {
            Ok(placement) => Proposal::Place(placement),
            Err(lack) => self.round.pending_session(row).defer(lack, ""),
        };
        self.last = Some(proposal.clone());
        // The next choice depends on the verdict on this one.
        vec![proposal]
    }

    fn settle(&mut self, outcomes: &[Outcome]) {
        let accepted = matches!(outcomes.first(), Some(Outcome::Accepted));
        match self.last.take() {
            Some(Proposal::Place(placement)) if accepted => {
                self.round.occupy(&placement);
                host::count("placed_total", 1);
            }
            Some(Proposal::Defer(deferral)) if accepted => {
                host::count("blocked_total", 1);
                let session = self.round.pending_session(deferral.session as usize);
                self.ended = !self.skip_blocked
                    || (session.waiting_ms() >= self.hold_after_ms && could_ever_be_placed(&self.round, session));
            }
            // The session fails a predicate: nothing should wait for it.
            _ => {}
        }
    }

    fn explain(&self, session: usize, limit: usize) -> Explanation {
        let session = self.round.pending_session(session);
        let requested = session.requested();
        let architecture = session.kernels().next().map(|kernel| kernel.architecture()).unwrap_or_default();
        let mut candidates: Vec<Candidate> = self
            .round
            .agents()
            .map(|agent| {
                let why = obstacle(&self.round, agent, architecture, requested);
                Candidate {
                    agent: agent.index as u32,
                    feasible: why.is_none(),
                    score: -(extras(agent.capacity(), requested) as f64),
                    why: why.unwrap_or_default(),
                }
            })
            .collect();
        candidates.sort_by(|a, b| b.feasible.cmp(&a.feasible).then(b.score.total_cmp(&a.score)));
        let feasible = candidates.iter().filter(|candidate| candidate.feasible).count();
        candidates.truncate(limit);
        let scope = match session.mode() {
            ClusterMode::SingleNode => "the whole session",
            ClusterMode::MultiNode => "all its kernels together",
        };
        let summary = if feasible == 0 {
            format!("None of {} agents has room for {scope}.", self.round.agents().len())
        } else {
            format!("{feasible} of {} agents have room for {scope}.", self.round.agents().len())
        };
        Explanation { summary, candidates }
    }
}

impl Fifo {
    /// Where a session goes, or what is lacking. Leaves the books as they were.
    fn place(&mut self, row: usize) -> Result<Placement, Lack> {
        let session = self.round.pending_session(row);
        match session.mode() {
            ClusterMode::SingleNode => {
                let mut kernels = session.kernels();
                let Some(main) = kernels.next() else { return Ok(session.across(Vec::new())) };
                if kernels.any(|kernel| kernel.architecture() != main.architecture()) {
                    return Err(Lack::NoCompatibleAgent);
                }
                let (architecture, pinned) = (main.architecture(), main.agent());
                let agent = choose(&self.round, &mut self.walk, architecture, session.requested(), pinned, true)?;
                Ok(session.on(agent))
            }
            ClusterMode::MultiNode => {
                // The kernels share what is left, so each is booked before the next one is placed; all of it is undone
                // afterwards, because only the host's verdict makes it true.
                let rows = session.kernel_rows();
                let mut agents = Vec::with_capacity(rows.len());
                let mut lack = None;
                for row in rows.clone() {
                    let kernel = self.round.kernel(row);
                    let (architecture, pinned) = (kernel.architecture(), kernel.agent());
                    match choose(&self.round, &mut self.walk, architecture, kernel.requested(), pinned, false) {
                        Ok(agent) => {
                            self.round.occupy_kernel(row, agent);
                            agents.push(agent);
                        }
                        Err(found) => {
                            lack = Some(found);
                            break;
                        }
                    }
                }
                for (row, agent) in rows.zip(&agents) {
                    self.round.release_kernel(row, *agent);
                }
                match lack {
                    Some(lack) => Err(lack),
                    None => Ok(self.round.pending_session(row).across(agents)),
                }
            }
        }
    }
}

/// The agent for one request.
fn choose(
    round: &Round,
    walk: &mut Walk,
    architecture: u32,
    requested: &[u64],
    pinned: Option<usize>,
    lasting: bool,
) -> Result<usize, Lack> {
    // A pin comes first: it may point to an agent that takes no other sessions.
    if let Some(pinned) = pinned {
        return if round.agent(pinned).fits(requested) { Ok(pinned) } else { Err(Lack::ExceedsCapacity) };
    }
    match walk.choose(&round.snapshot.agents.occupied, architecture, requested, lasting) {
        Ok(agent) => Ok(agent),
        Err(Nothing::Compatible) => Err(Lack::NoCompatibleAgent),
        Err(Nothing::Room) => Err(Lack::NoRoom),
    }
}

/// Whether an empty cluster would have room for it.
fn could_ever_be_placed(round: &Round, session: Session<'_>) -> bool {
    let possible = |architecture: u32, requested: &[u64], pinned: Option<usize>| match pinned {
        Some(pinned) => round.agent(pinned).could_ever_fit(requested),
        None => round.agents().any(|agent| agent.is_compatible(architecture) && agent.could_ever_fit(requested)),
    };
    match session.mode() {
        ClusterMode::SingleNode => {
            session.kernels().next().is_none_or(|main| possible(main.architecture(), session.requested(), main.agent()))
        }
        ClusterMode::MultiNode => {
            session.kernels().all(|kernel| possible(kernel.architecture(), kernel.requested(), kernel.agent()))
        }
    }
}

/// What keeps a request off an agent, for people.
fn obstacle(round: &Round, agent: Agent<'_>, architecture: u32, requested: &[u64]) -> Option<String> {
    if !agent.schedulable() {
        return Some("takes no sessions".to_owned());
    }
    if agent.architecture() != architecture {
        return Some("has another architecture".to_owned());
    }
    let lacking: Vec<&str> = agent
        .free()
        .zip(requested)
        .zip(&round.snapshot.slots)
        .filter(|((free, requested), _)| free.is_none_or(|free| free < **requested))
        .map(|(_, slot)| slot.name.as_str())
        .collect();
    (!lacking.is_empty()).then(|| format!("has not enough left of {}", lacking.join(", ")))
}

quarterdeck_sdk::export_scheduler!(Fifo);
