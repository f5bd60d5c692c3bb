//! Rounds of the policy as it was written, without WebAssembly.

use quarterdeck_sdk::scheduler::{Lack, Outcome, Refusal};
use quarterdeck_sdk::testing::{Cluster, Job, Node, describe};

use crate::Drf;

/// Two owners on one agent: `rich` holds much of it already.
fn unequal() -> Cluster {
    Cluster::new()
        .agent("a", "cpu=16 mem=64g")
        .running(Job::new("running", "cpu=8 mem=1g").owner("rich"), "a")
        .job(Job::new("rich-1", "cpu=1 mem=1g").owner("rich").waiting_s(30))
        .job(Job::new("poor-1", "cpu=1 mem=1g").owner("poor").waiting_s(20))
        .job(Job::new("poor-2", "cpu=1 mem=1g").owner("poor").waiting_s(10))
}

#[test]
fn whoever_holds_least_is_next() {
    let course = unequal().run::<Drf>("{}").expect("the round ends well");
    assert_eq!(course.order(), ["poor-1", "poor-2", "rich-1"]);
    assert_eq!(course.agent_of("rich-1"), Some("a"));
    assert_eq!(course.journal.counters["placed_total"], 3);
}

#[test]
fn a_quota_is_the_hosts_to_know() {
    let course = unequal().owner_sessions("poor", 1).run::<Drf>("{}").expect("the round ends well");
    let second = course.turn_of("poor-2").expect("it had its turn");
    assert_eq!(second.outcome, Outcome::Refused(Refusal::Concurrency));
    assert_eq!(course.agent_of("rich-1"), Some("a"), "nobody waits for a session that fails a predicate");
}

#[test]
fn without_room_nobody_passes_unless_told() {
    let cluster = Cluster::new()
        .agent("a", "cpu=4 mem=8g")
        .job(Job::new("large", "cpu=8 mem=1g").waiting_s(20))
        .job(Job::new("small", "cpu=1 mem=1g").waiting_s(10));
    let blocked = cluster.run::<Drf>("{}").expect("the round ends well");
    assert_eq!(blocked.order(), ["large"]);
    assert_eq!(blocked.lack_of("large"), Some(Lack::NoRoom));
    let skipped = cluster.run::<Drf>(r#"{"skip_blocked": true}"#).expect("the round ends well");
    assert_eq!(skipped.agent_of("small"), Some("a"));
}

#[test]
fn it_explains_by_the_walk_that_places() {
    let explanation = Cluster::new()
        .agent("full", "cpu=1 mem=1g")
        .node(Node::new("other", "cpu=64 mem=64g").architecture("aarch64"))
        .agent("roomy", "cpu=8 mem=8g")
        .pending("job", "cpu=2 mem=1g")
        .explain::<Drf>("{}", "job", 2)
        .expect("it explains");
    assert_eq!(explanation.summary, "1 of 3 agents has room for all of it.");
    let seen: Vec<(u32, bool, &str)> =
        explanation.candidates.iter().map(|c| (c.agent, c.feasible, c.why.as_str())).collect();
    assert_eq!(seen, [(2, true, ""), (1, false, "has another architecture")]);
}

#[test]
fn it_describes_itself_properly() {
    assert_eq!(describe::<Drf>().name, "drf");
}
