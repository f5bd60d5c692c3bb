//! A scheduler that misbehaves as its configuration says, for tests of the host.

wit_bindgen::generate!({ path: "../../wit", world: "scheduler", generate_all });

use exports::quarterdeck::policy::plugin::{ConfigProblem, Guest as Plugin, Info};
use exports::quarterdeck::policy::scheduling::{
    Explanation, Guest as Scheduling, GuestRound, Outcome, Placement, Proposal, Round, Snapshot,
};
use quarterdeck::policy::host;

struct Hostile;

impl Plugin for Hostile {
    fn describe() -> Info {
        Info {
            name: "hostile".to_owned(),
            version: "0.1.0".to_owned(),
            summary: "Misbehaves on purpose.".to_owned(),
            config_schema: r#"{"type":"object","properties":{"misbehave":{"type":"string"}}}"#.to_owned(),
            columns: Vec::new(),
            events: Vec::new(),
        }
    }

    fn check_config(config: String) -> Result<(), Vec<ConfigProblem>> {
        if config.contains("stall-check") {
            stall();
        }
        Ok(())
    }
}

impl Scheduling for Hostile {
    type Round = Misbehaving;
}

struct Misbehaving {
    mode: String,
}

impl GuestRound for Misbehaving {
    fn open(_snapshot: Snapshot) -> Result<Round, String> {
        Ok(Round::new(Misbehaving { mode: host::config() }))
    }

    fn propose(&self, _limit: u32) -> Vec<Proposal> {
        if self.mode.contains("loop") {
            stall();
        }
        if self.mode.contains("trap") {
            std::process::abort();
        }
        if self.mode.contains("allocate") {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            for _ in 0..4096 {
                hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
            std::hint::black_box(&hoard);
        }
        if self.mode.contains("nonsense") {
            // A session and an agent that aren't there.
            return vec![Proposal::Place(Placement { session: 4_000_000_000, agents: vec![7_000_000] })];
        }
        Vec::new()
    }

    fn settle(&self, _outcomes: Vec<Outcome>) {}

    fn explain(&self, _session: u32, _limit: u32) -> Explanation {
        Explanation { summary: String::new(), candidates: Vec::new() }
    }
}

fn stall() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

export!(Hostile);
