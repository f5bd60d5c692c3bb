//! Rounds one by one, and whole histories of a cluster.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn fleet(capacity: &[u64], occupied: &[u64]) -> Fleet {
    Fleet {
        slots: 1,
        architecture: vec![0; capacity.len()],
        schedulable: vec![true; capacity.len()],
        capacity: capacity.to_vec(),
        occupied: occupied.to_vec(),
    }
}

fn job(cpu: u64, expected_ms: Option<u64>) -> Job {
    let needs = vec![Need { architecture: 0, requested: vec![cpu], pinned: None }];
    Job { needs, impossible: false, expected_ms, priority: 0 }
}

fn release(end_ms: Option<u64>, agent: usize, cpu: u64) -> Release {
    Release { end_ms, agent, amounts: vec![cpu] }
}

/// Runs a round in which everything is accepted.
fn run(plan: &mut Plan) -> Vec<Decision> {
    std::iter::from_fn(|| {
        let decision = plan.next()?;
        plan.settle(true);
        Some(decision)
    })
    .collect()
}

fn placed(decisions: &[Decision]) -> Vec<usize> {
    decisions.iter().filter_map(|d| if let Decision::Place { job, .. } = d { Some(*job) } else { None }).collect()
}

#[test]
fn gaps_are_used_by_sessions_that_end_in_time() {
    // 2 of 8 are free; 6 come back in 100 ms; the head needs all 8.
    let jobs = vec![job(8, None), job(2, Some(101)), job(2, None), job(1, Some(100)), job(1, Some(50))];
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 10);
    let decisions = run(&mut plan);
    assert_eq!(placed(&decisions), [3, 4]);
    assert_eq!(plan.reservation(), Some((0, Some(100))));
    assert_eq!(decisions[1], Decision::Defer { job: 1, why: Why::InTheWay });
}

#[test]
fn what_the_head_leaves_over_may_be_taken_for_longer() {
    let jobs = vec![job(6, None), job(1, None), job(1, None), job(1, None)];
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 10);
    assert_eq!(placed(&run(&mut plan)), [1, 2]);
}

#[test]
fn while_the_heads_time_is_unknown_the_closest_agent_takes_nothing_new() {
    let jobs = vec![job(8, None), job(1, Some(1)), job(1, Some(1)), job(1, None)];
    let releases = vec![release(None, 0, 6), release(None, 1, 4)];
    let mut plan = Plan::new(fleet(&[8, 8], &[6, 4]), releases, jobs, 10);
    let decisions = run(&mut plan);
    assert_eq!(plan.reservation(), Some((0, None)));
    assert!(plan.is_reserved(1) && !plan.is_reserved(0));
    let agents =
        decisions.iter().filter_map(|d| if let Decision::Place { agents, .. } = d { Some(agents[0]) } else { None });
    assert_eq!(agents.collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn nothing_waits_for_what_can_never_be() {
    let jobs = vec![job(9, None), job(2, None)];
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 10);
    assert_eq!(placed(&run(&mut plan)), [1]);
    assert!(!plan.has_reservation());
}

#[test]
fn nothing_waits_for_what_fails_a_predicate() {
    let jobs = vec![job(8, None), job(2, None)];
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 10);
    assert!(matches!(plan.next(), Some(Decision::Defer { job: 0, .. })));
    plan.settle(false);
    assert_eq!(placed(&run(&mut plan)), [1]);
}

#[test]
fn more_important_sessions_come_first() {
    let mut jobs = vec![job(2, None), job(8, None)];
    jobs[1].priority = 1;
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 10);
    // The large one is at the head though it is younger, and the small one would delay it.
    assert_eq!(placed(&run(&mut plan)), [0_usize; 0]);
    assert_eq!(plan.reservation(), Some((1, Some(100))));
}

#[test]
fn the_depth_bounds_the_work() {
    let jobs = std::iter::once(job(8, None)).chain((0..100).map(|_| job(9, Some(1)))).collect();
    let mut plan = Plan::new(fleet(&[8], &[6]), vec![release(Some(100), 0, 6)], jobs, 5);
    assert_eq!(run(&mut plan).len(), 6);
}

#[test]
fn kernels_of_one_session_are_placed_together_or_not_at_all() {
    let need = |cpu| Need { architecture: 0, requested: vec![cpu], pinned: None };
    let twins = Job { needs: vec![need(5), need(5)], impossible: false, expected_ms: None, priority: 0 };
    let mut plan = Plan::new(fleet(&[8, 8], &[0, 4]), vec![release(Some(70), 1, 4)], vec![twins.clone()], 10);
    assert_eq!(placed(&run(&mut plan)), [0_usize; 0]);
    assert_eq!(plan.reservation(), Some((0, Some(70))));
    assert!(plan.is_reserved(0) && plan.is_reserved(1));
    let mut plan = Plan::new(fleet(&[8, 8], &[0, 0]), Vec::new(), vec![twins], 10);
    assert_eq!(run(&mut plan), [Decision::Place { job: 0, agents: vec![0, 1] }]);
}

/// A session of a history.
#[derive(Debug, Clone)]
struct Arrival {
    at: u64,
    cpu: u64,
    /// How long it really runs.
    runs: u64,
    /// Whether it says so.
    tells: bool,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (0..200_u64, 1..=8_u64, 1..100_u64, prop::bool::weighted(0.7))
        .prop_map(|(at, cpu, runs, tells)| Arrival { at, cpu, runs, tells });
    prop::collection::vec(arrival, 1..40).prop_map(|mut arrivals| {
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals
    })
}

/// Plays a history on two agents of 8; answers when each session was promised to start at the latest, and when it did.
fn play(arrivals: &[Arrival]) -> (BTreeMap<usize, u64>, BTreeMap<usize, u64>) {
    let mut promised: BTreeMap<usize, u64> = BTreeMap::new();
    let mut started: BTreeMap<usize, u64> = BTreeMap::new();
    // Session → agent, while it runs.
    let mut running: BTreeMap<usize, usize> = BTreeMap::new();
    let mut now = 0;
    while started.len() < arrivals.len() || !running.is_empty() {
        let end = |row: &usize| started[row] + arrivals[*row].runs;
        running.retain(|row, _| end(row) > now);
        let waiting: Vec<usize> =
            (0..arrivals.len()).filter(|row| arrivals[*row].at <= now && !started.contains_key(row)).collect();
        let mut occupied = [0, 0];
        let releases = running.iter().map(|(row, agent)| {
            occupied[*agent] += arrivals[*row].cpu;
            release(arrivals[*row].tells.then(|| end(row) - now), *agent, arrivals[*row].cpu)
        });
        let releases = releases.collect();
        assert!(occupied.iter().all(|cpu| *cpu <= 8), "more is taken than there is");
        let jobs =
            waiting.iter().map(|row| job(arrivals[*row].cpu, arrivals[*row].tells.then_some(arrivals[*row].runs)));
        let mut plan = Plan::new(fleet(&[8, 8], &occupied), releases, jobs.collect(), usize::MAX);
        for decision in run(&mut plan) {
            if let Decision::Place { job, agents } = decision {
                started.insert(waiting[job], now);
                running.insert(waiting[job], agents[0]);
            }
        }
        if let Some((head, Some(ms))) = plan.reservation() {
            promised.entry(waiting[head]).or_insert(now + ms);
        }
        now += 1;
        assert!(now < 100_000, "somebody starves");
    }
    (promised, started)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is started in between, nobody who was promised a time starts later; and everybody starts some day.
    #[test]
    fn the_head_of_the_line_is_never_delayed(arrivals in arrivals()) {
        let (promised, started) = play(&arrivals);
        prop_assert_eq!(started.len(), arrivals.len());
        for (session, promise) in promised {
            prop_assert!(started[&session] <= promise, "session {} started at {} and was promised {}", session, started[&session], promise);
        }
    }

    /// No decision asks an agent for more than it has left, and no session is decided twice.
    #[test]
    fn rounds_respect_capacity(
        capacity in prop::collection::vec(0..10_u64, 1..6),
        jobs in prop::collection::vec((prop::collection::vec(0..6_u64, 1..4), prop::option::of(1..50_u64), -2..3_i32), 0..40),
        ends in prop::collection::vec(prop::option::of(1..60_u64), 6),
    ) {
        let occupied: Vec<u64> = capacity.iter().map(|has| has / 2).collect();
        let releases = occupied.iter().enumerate().map(|(agent, taken)| release(ends[agent], agent, *taken)).collect();
        let needs = |cpus: &[u64]| cpus.iter().map(|cpu| Need { architecture: 0, requested: vec![*cpu], pinned: None }).collect();
        let jobs: Vec<Job> = jobs
            .iter()
            .map(|(cpus, expected_ms, priority)| Job { needs: needs(cpus), impossible: false, expected_ms: *expected_ms, priority: *priority })
            .collect();
        let mut free: Vec<u64> = capacity.iter().zip(&occupied).map(|(has, taken)| has - taken).collect();
        let mut seen = BTreeSet::new();
        let mut plan = Plan::new(fleet(&capacity, &occupied), releases, jobs.clone(), usize::MAX);
        for decision in run(&mut plan) {
            let (Decision::Place { job, .. } | Decision::Defer { job, .. }) = &decision;
            prop_assert!(seen.insert(*job));
            if let Decision::Place { job, agents } = &decision {
                for (need, agent) in jobs[*job].needs.iter().zip(agents) {
                    prop_assert!(free[*agent] >= need.requested[0]);
                    free[*agent] -= need.requested[0];
                }
            }
        }
        prop_assert_eq!(seen.len(), jobs.len());
    }
}
