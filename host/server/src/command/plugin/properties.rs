//! What every policy of a kind must hold, tried on many made-up inputs: it breaks no rule, it answers the same twice, and
//! it comes to an end within its fuel.

pub(super) mod inputs;

use quarterdeck_control::schedule::Replay;
use quarterdeck_plugin::hooks::Verdict;
use quarterdeck_plugin::scheduling::{Outcome, Refusal};
use quarterdeck_plugin::{Call, CallTrace, Kind, Meter, Plugin};

use super::scenario::{Mismatch, Played};
use inputs::{Dice, Size};

/// Made-up inputs per property.
const TRIES: u64 = 40;

/// Tries the properties of the plugin's kind.
pub(super) fn check(plugin: &Plugin, sessions: u32, meter: Meter) -> Vec<(String, Played)> {
    let many = format!("comes to an end within its fuel on {sessions} sessions");
    match plugin.kind {
        Kind::Scheduler => {
            let small = |seed| inputs::round(&mut Dice::new(seed), Size { sessions: 40, agents: 12 });
            let tries = || (1..=TRIES).map(small);
            vec![
                ("never proposes what breaks a rule".to_owned(), worst(tries(), |r| rules(plugin, &r, meter))),
                ("decides the same twice".to_owned(), worst(tries(), |r| same(plugin, &r, meter))),
                (many, {
                    let large = Size { sessions, agents: sessions.div_ceil(100) };
                    rules(plugin, &inputs::round(&mut Dice::new(7), large), meter)
                }),
            ]
        }
        Kind::IdleChecker => {
            let judge = |count: u32, seed| {
                let tick = inputs::tick(&mut Dice::new(seed), count);
                let call = Call { meter, ..Call::new("{}") };
                let (first, second) = (plugin.check_traced(&call, &tick), plugin.check_traced(&call, &tick));
                answered(
                    first.0,
                    first.1.as_ref().map_err(ToString::to_string),
                    second.1.as_ref().map_err(ToString::to_string),
                )
            };
            vec![
                ("judges any sessions, the same twice".to_owned(), worst(1..=TRIES, |seed| judge(30, seed))),
                (many, judge(sessions, 7)),
            ]
        }
        Kind::Hook => {
            let events = plugin.info.events.clone();
            let ask = |(event, seed): (String, u64)| {
                let event = inputs::event(&mut Dice::new(seed), &event);
                let call = Call { meter, ..Call::new("{}") };
                let (first, second) = (plugin.handle_traced(&call, &event), plugin.handle_traced(&call, &event));
                let mut played = answered(
                    first.0,
                    first.1.as_ref().map_err(ToString::to_string),
                    second.1.as_ref().map_err(ToString::to_string),
                );
                if let Ok(Verdict::Deny(denial)) = &first.1
                    && denial.reason.trim().is_empty()
                {
                    played.mismatches.push(mismatch("denial", "a reason for the user", "none"));
                }
                played
            };
            let all = events.iter().flat_map(|event| (1..=TRIES).map(|seed| (event.clone(), seed)));
            vec![("answers any event, the same twice".to_owned(), worst(all, ask))]
        }
    }
}

fn mismatch(what: impl Into<String>, expected: &str, got: impl Into<String>) -> Mismatch {
    Mismatch { what: what.into(), expected: expected.to_owned(), got: got.into() }
}

/// The first that failed, else the one that cost most.
fn worst<T>(inputs: impl Iterator<Item = T>, mut run: impl FnMut(T) -> Played) -> Played {
    let mut worst = Played::default();
    for input in inputs {
        let played = run(input);
        if !played.passed() {
            return played;
        }
        if played.trace.fuel_used >= worst.trace.fuel_used {
            worst = played;
        }
    }
    worst
}

fn played(replay: Replay) -> Played {
    Played {
        failure: (!replay.is_ok()).then(|| replay.outcome.clone()),
        trace: CallTrace {
            duration: std::time::Duration::from_micros(replay.duration_us),
            fuel_used: replay.fuel_used,
            peak_memory: replay.peak_memory,
            journal: replay.journal,
        },
        ..Played::default()
    }
}

fn rules(plugin: &Plugin, recording: &inputs::Recording, meter: Meter) -> Played {
    let replay = recording.replay(plugin, "{}", meter);
    // Quotas are the host's to know; room, architectures, pins and the shape of a session are in the snapshot.
    let broken: Vec<Mismatch> = replay
        .steps
        .iter()
        .flat_map(|step| step.proposals.iter().zip(&step.outcomes))
        .filter_map(|(proposal, outcome)| match outcome {
            Outcome::Refused(
                refusal @ (Refusal::Capacity | Refusal::Architecture | Refusal::Pinned | Refusal::Malformed),
            ) => Some(mismatch(format!("{proposal:?}"), "a placement with room", format!("{refusal:?}"))),
            _ => None,
        })
        .take(3)
        .collect();
    Played { mismatches: broken, ..played(replay) }
}

fn same(plugin: &Plugin, recording: &inputs::Recording, meter: Meter) -> Played {
    let (first, second) = (recording.replay(plugin, "{}", meter), recording.replay(plugin, "{}", meter));
    let alike = first == second;
    let mut out = played(first);
    if !alike {
        out.mismatches.push(mismatch("two runs on the same snapshot", "the same decisions and fuel", "others"));
    }
    out
}

fn answered<T: PartialEq>(trace: CallTrace, first: Result<&T, String>, second: Result<&T, String>) -> Played {
    let mut played = Played { trace, failure: first.as_ref().err().cloned(), ..Played::default() };
    if first != second {
        played.mismatches.push(mismatch("two calls with the same input", "the same answer", "others"));
    }
    played
}
