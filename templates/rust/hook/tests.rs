//! Events without WebAssembly: `cargo test`.

use quarterdeck_sdk::hook::{Denial, Reply, Verdict};
use quarterdeck_sdk::testing::{ask, describe, enqueue, event};
use serde_json::{Value, json};

use crate::{{type}};

fn verdict(config: &str, body: &Value) -> Verdict {
    ask::<{{type}}>(config, &event("PRE_ENQUEUE_SESSION", body)).expect("it decides")
}

#[test]
fn too_many_accelerators_are_denied_with_the_facts() {
    let Verdict::Deny(Denial { reason, fields }) = verdict("{}", &enqueue(&json!({"cuda.device": "3"}))) else {
        panic!("it was let through")
    };
    assert!(reason.contains("at most 2 accelerators"), "{reason}");
    assert!(fields.contains(&("requested".to_owned(), "3".to_owned())));
}

#[test]
fn exempt_projects_may_have_more() {
    let mut body = enqueue(&json!({"cuda.device": "8"}));
    body["owner"]["project"] = json!("vision");
    body["session"]["tag"] = json!("mine");
    assert_eq!(verdict(r#"{"exempt_projects": ["vision"]}"#, &body), Verdict::Allow);
}

#[test]
fn sessions_are_tagged_with_their_project() {
    let patched = Verdict::Reply(Reply { patch: Some(r#"{"session":{"tag":"default"}}"#.to_owned()), value: None });
    assert_eq!(verdict("{}", &enqueue(&json!({"cpu": "1"}))), patched);
}

#[test]
fn it_describes_itself() {
    assert_eq!(describe::<{{type}}>().events, ["PRE_ENQUEUE_SESSION"]);
}
