//! Events put to the policy as it was written, without WebAssembly.

use quarterdeck_sdk::hook::{Denial, Verdict};
use quarterdeck_sdk::testing::{ask, check_config, enqueue, event};
use serde_json::{Value, json};

use crate::AdmissionLimits;

fn verdict(config: &Value, slots: &Value) -> Verdict {
    let event = event("PRE_ENQUEUE_SESSION", &enqueue(slots));
    ask::<AdmissionLimits>(&config.to_string(), &event).expect("it decides")
}

#[test]
fn too_much_of_a_slot_is_denied_with_the_facts() {
    let config = json!({"max_per_session": {"cpu": 2}});
    assert_eq!(verdict(&config, &json!({"cpu": "2"})), Verdict::Allow);
    let Verdict::Deny(Denial { reason, fields }) = verdict(&config, &json!({"cpu": "3"})) else {
        panic!("it was let through")
    };
    assert!(reason.contains("at most 2 of cpu"), "{reason}");
    assert!(fields.contains(&("requested".to_owned(), "3".to_owned())), "{fields:?}");
}

#[test]
fn faults_of_a_configuration_are_found_before_it_is_bound() {
    let problems = check_config::<AdmissionLimits>(r#"{"max_per_session": {"mem": "much"}}"#).expect_err("no amount");
    assert_eq!(problems[0].pointer, "/max_per_session/mem");
}
