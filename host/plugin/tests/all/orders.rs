//! Whose turn it is and which agent is taken, against the rules written out literally on random rounds.

use std::time::Duration;

use quarterdeck_plugin::scheduling::{Outcome, Proposal, Refusal, Snapshot};
use quarterdeck_plugin::{Call, Judge, Limits, Meter, subject};

use crate::common::{Books, Builder, builtin, map};

const SLOTS: usize = 3;

/// What a policy does in a round where every session has its turn: session and agent.
fn turns(policy: &str, config: &str, snapshot: &Snapshot) -> Vec<(u32, Option<u32>)> {
    let trace = builtin(policy).schedule(&Call::new(config), snapshot, &mut Books::of(snapshot)).unwrap();
    trace
        .proposals
        .iter()
        .map(|(proposal, outcome)| {
            assert_eq!(*outcome, Outcome::Accepted);
            let agent = match proposal {
                Proposal::Place(placement) => Some(placement.agents[0]),
                Proposal::Defer(_) => None,
            };
            (subject(proposal), agent)
        })
        .collect()
}

/// Small numbers, so that ties, full agents and incomparable ones abound.
fn random_round(seed: u64) -> Snapshot {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
    for _ in 0..random(10) {
        let capacity = [("cpu", 2000 * random(4)), ("mem", 4 * random(4)), ("cuda.device", 1000 * random(3))];
        builder = builder.agent(&capacity, &[("cpu", 500 * random(3)), ("mem", random(3))]);
    }
    for _ in 0..random(30) {
        let requested = [("cpu", 500 * random(4)), ("mem", random(4)), ("cuda.device", 1000 * random(2))];
        builder = builder.session(&requested, 0);
        builder.pending.last_mut().unwrap().owner = random(4) as u32;
    }
    for _ in 0..random(6) {
        builder.running.push((random(5) as u32, map(&[("cpu", 500 * random(4)), ("mem", random(6))])));
    }
    builder.build()
}

fn row(matrix: &[u64], row: usize) -> &[u64] {
    &matrix[row * SLOTS..][..SLOTS]
}

fn less(one: &[u64], other: &[u64]) -> bool {
    (0..SLOTS).all(|slot| one[slot] <= other[slot]) && one != other
}

fn fitting(snapshot: &Snapshot, occupied: &[u64], requested: &[u64]) -> Vec<usize> {
    let fits = |agent: &usize| {
        let (has, taken) = (row(&snapshot.agents.capacity, *agent), row(occupied, *agent));
        (0..SLOTS).all(|slot| has[slot] >= taken[slot] && has[slot] - taken[slot] >= requested[slot])
    };
    (0..snapshot.agents.count as usize).filter(fits).collect()
}

/// Serves the sessions that `next` names, each on the agent that `choose` finds.
fn literally(
    snapshot: &Snapshot,
    mut next: impl FnMut(&[usize], &[(u32, Option<u32>)]) -> usize,
    choose: impl Fn(&[usize], &[u64]) -> Option<usize>,
) -> Vec<(u32, Option<u32>)> {
    let mut occupied = snapshot.agents.occupied.clone();
    let mut waiting: Vec<usize> = (0..snapshot.pending.count as usize).collect();
    let mut done = Vec::new();
    while !waiting.is_empty() {
        let session = next(&waiting, &done);
        waiting.retain(|other| *other != session);
        let requested = row(&snapshot.pending.requested, session);
        let agent = choose(&fitting(snapshot, &occupied, requested), &occupied);
        if let Some(agent) = agent {
            (0..SLOTS).for_each(|slot| occupied[agent * SLOTS + slot] += requested[slot]);
        }
        done.push((session as u32, agent.map(|agent| agent as u32)));
    }
    done
}

const ALL_TURNS: &str = r#"{"skip_blocked": true, "hold_after_s": 1000}"#;

#[test]
fn lifo_serves_the_youngest_first() {
    for seed in 0..20 {
        let snapshot = random_round(seed);
        let order: Vec<u32> = turns("lifo", ALL_TURNS, &snapshot).into_iter().map(|(session, _)| session).collect();
        assert_eq!(order, (0..snapshot.pending.count).rev().collect::<Vec<_>>());
    }
}

#[test]
fn mof_takes_the_first_agent_below_which_there_is_none() {
    for seed in 0..60 {
        let snapshot = random_round(seed);
        let expected = literally(
            &snapshot,
            |waiting, _| waiting[0],
            |fitting, occupied| {
                let minimal =
                    |agent: &&usize| !fitting.iter().any(|other| less(row(occupied, *other), row(occupied, **agent)));
                fitting.iter().find(minimal).copied()
            },
        );
        assert_eq!(turns("mof", ALL_TURNS, &snapshot), expected, "seed {seed}");
    }
}

#[test]
fn mof_among_many_agents_never_takes_one_while_another_is_less_occupied() {
    let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
    for agent in 0..100 {
        let occupied = [("cpu", agent * 7 % 10 * 1000), ("mem", agent * 3 % 7)];
        builder = builder.agent(&[("cpu", 16_000), ("mem", 16), ("cuda.device", agent % 3 * 1000)], &occupied);
    }
    for session in 0..400 {
        let gpus = if session % 5 == 0 { 1000 } else { 0 };
        let requested = [("cpu", 1000 * (1 + session % 3)), ("mem", session % 4), ("cuda.device", gpus)];
        builder = builder.session(&requested, 0);
    }
    let snapshot = builder.build();
    let mut occupied = snapshot.agents.occupied.clone();
    for (session, agent) in turns("mof", ALL_TURNS, &snapshot) {
        let requested = row(&snapshot.pending.requested, session as usize);
        let fitting = fitting(&snapshot, &occupied, requested);
        let Some(agent) = agent else {
            assert!(fitting.is_empty(), "session {session}");
            continue;
        };
        let taken = row(&occupied, agent as usize).to_vec();
        assert!(fitting.contains(&(agent as usize)), "session {session}");
        assert!(!fitting.iter().any(|other| less(row(&occupied, *other), &taken)), "session {session}");
        (0..SLOTS).for_each(|slot| occupied[agent as usize * SLOTS + slot] += requested[slot]);
    }
}

/// The owner with the smallest share, and its oldest session.
fn fairest(snapshot: &Snapshot, waiting: &[usize], done: &[(u32, Option<u32>)], accumulate: bool) -> usize {
    let total: Vec<u64> =
        (0..SLOTS).map(|slot| snapshot.agents.capacity.iter().skip(slot).step_by(SLOTS).sum()).collect();
    let share = |amounts: &[u64]| {
        let parts = (0..SLOTS).filter(|slot| total[*slot] > 0).map(|slot| amounts[slot] as f64 / total[slot] as f64);
        parts.fold(0.0, f64::max)
    };
    let share_of = |owner: u32| {
        let (pending, running) = (&snapshot.pending, &snapshot.running);
        let mut sum = [0; SLOTS];
        for session in (0..running.count as usize).filter(|session| running.owner[*session] == owner) {
            (0..SLOTS).for_each(|slot| sum[slot] += row(&running.held, session)[slot]);
        }
        let placed =
            done.iter().filter(|(session, agent)| agent.is_some() && pending.owner[*session as usize] == owner);
        let placed = placed.map(|(session, _)| row(&pending.requested, *session as usize));
        if accumulate {
            placed.for_each(|amounts| (0..SLOTS).for_each(|slot| sum[slot] += amounts[slot]));
            share(&sum)
        } else {
            placed.map(share).fold(share(&sum), f64::max)
        }
    };
    let key = |session: &usize| share_of(snapshot.pending.owner[*session]);
    *waiting.iter().min_by(|a, b| key(a).total_cmp(&key(b)).then(a.cmp(b))).unwrap()
}

#[test]
fn drf_serves_the_smallest_dominant_share() {
    for seed in 0..60 {
        let snapshot = random_round(seed);
        for (accumulate, config) in
            [(false, ALL_TURNS), (true, r#"{"skip_blocked": true, "hold_after_s": 1000, "accumulate": true}"#)]
        {
            let expected = literally(
                &snapshot,
                |waiting, done| fairest(&snapshot, waiting, done, accumulate),
                |fitting, _| {
                    let capacity = |agent: usize| row(&snapshot.agents.capacity, agent);
                    let larger = |best: usize, next: usize| less(capacity(best), capacity(next));
                    fitting.iter().copied().reduce(|best, next| if larger(best, next) { next } else { best })
                },
            );
            assert_eq!(turns("drf", config, &snapshot), expected, "seed {seed} accumulate {accumulate}");
        }
    }
}

#[test]
fn placements_of_one_round_count_apart_or_together() {
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 100_000)], &[]);
    for owner in [0, 0, 0, 1, 1, 1] {
        builder = builder.session(&[("cpu", 1000)], 0);
        builder.pending.last_mut().unwrap().owner = owner;
    }
    let order =
        |config: &str| turns("drf", config, &builder.build()).into_iter().map(|turn| turn.0).collect::<Vec<_>>();
    assert_eq!(order("{}"), [0, 3, 1, 2, 4, 5]);
    assert_eq!(order(r#"{"accumulate": true}"#), [0, 3, 1, 4, 2, 5]);
}

#[test]
fn they_block_the_line_and_explain_themselves() {
    let mut builder = Builder::new(&["cpu"])
        .agent(&[("cpu", 4000)], &[("cpu", 3000)])
        .agent(&[("cpu", 8000)], &[("cpu", 4000)])
        .session(&[("cpu", 1000)], 2)
        .session(&[("cpu", 6000)], 1)
        .session(&[("cpu", 1000)], 0);
    builder.pending[1].owner = 1;
    let snapshot = builder.build();
    for (policy, blocking, passing) in
        [("lifo", vec![2, 1], vec![2, 1, 0]), ("mof", vec![0, 1], vec![0, 1, 2]), ("drf", vec![0, 1], vec![0, 1, 2])]
    {
        let order = |config: &str| turns(policy, config, &snapshot).into_iter().map(|turn| turn.0).collect::<Vec<_>>();
        assert_eq!(order("{}"), blocking, "{policy}");
        assert_eq!(order(r#"{"skip_blocked": true}"#), passing, "{policy}");
        let mut books = Books::of(&snapshot);
        let explained = builtin(policy).explain(&Call::default(), &snapshot, &mut books, 0, 10).unwrap();
        let best = &explained.candidates[0];
        assert!(best.feasible && best.agent == if policy == "lifo" { 0 } else { 1 }, "{policy}: {explained:?}");
    }
}

/// Counted in fuel, because time depends on the machine.
#[test]
fn large_rounds_take_few_steps() {
    let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
    for agent in 0..1_000 {
        let gpus = if agent % 4 == 0 { 2000 } else { 0 };
        builder = builder.agent(&[("cpu", 64_000), ("mem", 256 << 30), ("cuda.device", gpus)], &[]);
    }
    for session in 0..10_000 {
        builder = builder.session(&[("cpu", 1000 * (1 + session % 2)), ("mem", (1 + session % 4) << 30)], 0);
        builder.pending.last_mut().unwrap().owner = (session % 50) as u32;
    }
    let snapshot = builder.build();
    for policy in ["fifo", "lifo", "mof", "drf"] {
        let policy = builtin(policy);
        let mut accept = |proposals: &[Proposal]| vec![Outcome::Accepted; proposals.len()];
        let call = Call {
            limits: Some(Limits { round: Duration::from_secs(300), ..Limits::default() }),
            meter: Meter::Fuel(1_000_000_000),
            ..Call::default()
        };
        let trace = policy.schedule(&call, &snapshot, &mut accept).unwrap();
        assert!(trace.proposals.iter().all(|(proposal, _)| matches!(proposal, Proposal::Place(_))));
        assert_eq!(trace.proposals.len(), 10_000);
    }
}

/// A crowd of three owners with requests of several sizes, and a few agents that can take most of it.
fn crowd() -> Builder {
    let mut builder = Builder::new(&["cpu", "mem"]);
    for agent in 0..6 {
        builder = builder.agent(&[("cpu", 16_000 + 8_000 * (agent % 3)), ("mem", 64 << 30)], &[("cpu", 1000 * agent)]);
    }
    for row in 0..150_u64 {
        builder = builder.session(&[("cpu", 500 + 250 * (row % 5)), ("mem", (1 + row % 3) << 28)], 1000 - row);
        builder.pending.last_mut().unwrap().owner = (row * row % 3) as u32;
    }
    builder
}

#[test]
fn lots_decide_as_one_at_a_time_when_nothing_is_refused() {
    let snapshot = crowd().build();
    for name in ["fifo", "lifo", "drf"] {
        for other in ["", r#","accumulate":true"#].into_iter().take(if name == "drf" { 2 } else { 1 }) {
            let round = |lot: u32| {
                let call = Call::new(format!(r#"{{"skip_blocked":true,"lot":{lot}{other}}}"#));
                builtin(name).schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap()
            };
            let (one, lots) = (round(1), round(64));
            assert!(one.proposals.len() == 150 && lots.calls < one.calls / 2, "{name}: {} calls", lots.calls);
            assert_eq!(one.proposals, lots.proposals, "{name}{other}");
            assert_eq!(one.journal.counters, lots.journal.counters, "{name}{other}");
        }
    }
}

#[test]
fn a_refusal_in_a_lot_takes_nothing_from_the_others() {
    let snapshot = crowd().build();
    for name in ["fifo", "lifo", "drf"] {
        let call = Call::new(r#"{"skip_blocked":true,"lot":16}"#);
        let mut books = Books::of(&snapshot);
        // A quota that every seventh session exceeds.
        let mut judge = |proposals: &[Proposal]| -> Vec<Outcome> {
            let verdict = |proposal: &Proposal| match subject(proposal) % 7 {
                0 => Outcome::Refused(Refusal::OwnerQuota),
                _ => books.judge(std::slice::from_ref(proposal)).remove(0),
            };
            proposals.iter().map(verdict).collect()
        };
        let trace = builtin(name).schedule(&call, &snapshot, &mut judge).unwrap();
        assert_eq!(trace.proposals.len(), 150, "{name}: each session has its turn");
        // Whatever the policy believed of the refused ones, it never counts room twice.
        let wrong = |(_, outcome): &&(Proposal, Outcome)| *outcome == Outcome::Refused(Refusal::Capacity);
        assert_eq!(trace.proposals.iter().filter(wrong).count(), 0, "{name}");
        let placed = |(proposal, outcome): &&(Proposal, Outcome)| {
            matches!(proposal, Proposal::Place(_)) && *outcome == Outcome::Accepted
        };
        let placed = trace.proposals.iter().filter(placed).count() as u64;
        assert!(placed > 80 && trace.journal.counters["placed_total"] == placed, "{name}: {placed}");
    }
}
