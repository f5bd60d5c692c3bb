//! Ticks of the policy as it was written, without WebAssembly.

use quarterdeck_sdk::idle::State;
use quarterdeck_sdk::testing::{Sessions, Watched, check_config};

use crate::SessionLifetime;

fn states(sessions: &Sessions, config: &str) -> Vec<State> {
    let findings = sessions.check::<SessionLifetime>(config).expect("the tick ends well");
    findings.into_iter().map(|finding| finding.expect("each is judged").state).collect()
}

#[test]
fn a_session_ends_with_its_lifetime() {
    let sessions = Sessions::new()
        .with(Watched::started_ago_s(100).lifetime_limit_s(60))
        .with(Watched::started_ago_s(100).lifetime_limit_s(600))
        .with(Watched::started_ago_s(100).lifetime_limit_s(0))
        .with(Watched::started_ago_s(100).lifetime_limit_s(60).grace_left_s(5));
    assert_eq!(states(&sessions, "{}"), [State::Idle, State::Active, State::Exempt, State::Active]);
}

#[test]
fn waiting_counts_unless_told() {
    let sessions = Sessions::new().with(Watched::started_ago_s(30).created_ago_s(100).lifetime_limit_s(60));
    assert_eq!(states(&sessions, "{}"), [State::Idle]);
    assert_eq!(states(&sessions, r#"{"count_from": "start"}"#), [State::Active]);
    assert!(check_config::<SessionLifetime>(r#"{"count_from": "never"}"#).is_err());
}
