//! Rounds without WebAssembly.

use quarterdeck_sdk::testing::{Cluster, Job, describe};

use crate::BestFit;

fn cluster() -> Cluster {
    Cluster::new()
        .agent("large", "cpu=64 mem=256g")
        .agent("small", "cpu=8 mem=32g")
        .running(Job::new("running", "cpu=2 mem=8g"), "large")
}

#[test]
fn sessions_go_where_least_is_left() {
    let course = cluster().pending("job", "cpu=4 mem=16g").run::<BestFit>("{}").expect("the round ends well");
    assert_eq!(course.agent_of("job"), Some("small"));
    assert_eq!(course.journal.counters["packed_total"], 1);
}

#[test]
fn empty_agents_stay_free_if_told() {
    let config = r#"{"keep_empty_agents_free": true}"#;
    let course = cluster().pending("job", "cpu=4 mem=16g").run::<BestFit>(config).expect("the round ends well");
    assert_eq!(course.agent_of("job"), Some("large"));
}

#[test]
fn kernels_share_what_is_left() {
    let job = Job::new("job", "cpu=6 mem=1g").kernel("cpu=6 mem=1g").multi_node();
    let course = cluster().job(job).run::<BestFit>("{}").expect("the round ends well");
    assert_eq!(course.agents_of("job"), Some(vec!["small", "large"]));
}

#[test]
fn it_tells_how_good_an_agent_is() {
    // Its owner has no session left, so it is not placed and the agents are as they were.
    let cluster = cluster().pending("job", "cpu=8 mem=4g").owner_sessions("somebody", 0);
    let explanation = cluster.explain::<BestFit>("{}", "job", 5).expect("it explains");
    assert_eq!(explanation.summary, "2 of 2 agents have room for all of it.");
    assert_eq!(explanation.candidates[0].why, "44 % of it would be left free");
}

#[test]
fn the_schema_is_that_of_the_type() {
    let schema: serde_json::Value = serde_json::from_str(&describe::<BestFit>().config_schema).expect("it is JSON");
    assert_eq!(schema["properties"]["keep_empty_agents_free"]["type"], "boolean");
    assert_eq!(schema["additionalProperties"], false);
}
