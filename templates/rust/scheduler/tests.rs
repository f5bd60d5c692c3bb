//! Rounds without WebAssembly: `cargo test`.

use quarterdeck_sdk::scheduler::Lack;
use quarterdeck_sdk::testing::{Cluster, Job, describe};

use crate::{{type}};

fn cluster() -> Cluster {
    Cluster::new()
        .agent("large", "cpu=64 mem=256g")
        .agent("small", "cpu=8 mem=32g")
        .running(Job::new("running", "cpu=2 mem=4g"), "small")
}

#[test]
fn important_sessions_come_first_then_old_ones() {
    let course = cluster()
        .job(Job::new("old", "cpu=1 mem=1g").waiting_s(60))
        .job(Job::new("new", "cpu=1 mem=1g").waiting_s(1))
        .job(Job::new("important", "cpu=1 mem=1g").priority(5))
        .run::<{{type}}>("{}")
        .expect("the round ends well");
    assert_eq!(course.order(), ["important", "old", "new"]);
}

#[test]
fn packed_fills_the_small_agent_and_spread_the_large_one() {
    let cluster = cluster().pending("job", "cpu=2 mem=4g");
    let packed = cluster.run::<{{type}}>("{}").expect("the round ends well");
    assert_eq!(packed.agent_of("job"), Some("small"));
    let spread = cluster.run::<{{type}}>(r#"{"prefer": "spread"}"#).expect("the round ends well");
    assert_eq!(spread.agent_of("job"), Some("large"));
}

#[test]
fn without_room_others_pass() {
    let cluster = cluster().pending("huge", "cpu=999 mem=1g").pending("modest", "cpu=1 mem=1g");
    let course = cluster.run::<{{type}}>("{}").expect("the round ends well");
    assert_eq!(course.lack_of("huge"), Some(Lack::NoRoom));
    assert_eq!(course.agent_of("modest"), Some("small"));
    let explanation = cluster.explain::<{{type}}>("{}", "huge", 5).expect("it explains");
    assert_eq!(explanation.candidates[0].why, "has not enough left of cpu");
}

#[test]
fn it_describes_itself() {
    let schema: serde_json::Value = serde_json::from_str(&describe::<{{type}}>().config_schema).expect("it is JSON");
    assert_eq!(schema["properties"]["prefer"]["default"], "packed");
}
