//! Ticks without WebAssembly: `cargo test`.

use quarterdeck_sdk::idle::State;
use quarterdeck_sdk::testing::{Sessions, Watched, check_config, describe};

use crate::{{type}};

fn states(sessions: &Sessions, config: &str) -> Vec<State> {
    let findings = sessions.check::<{{type}}>(config).expect("the tick ends well");
    findings.into_iter().map(|finding| finding.expect("each is judged").state).collect()
}

#[test]
fn whoever_uses_a_session_keeps_it() {
    let sessions = Sessions::new()
        .with(Watched::started_ago_s(10_000).used_ago_s(7200))
        .with(Watched::started_ago_s(10_000).used_ago_s(60))
        .with(Watched::started_ago_s(10_000).busy())
        .with(Watched::started_ago_s(10_000).private());
    assert_eq!(states(&sessions, "{}"), [State::Idle, State::Active, State::Active, State::Exempt]);
}

#[test]
fn accelerators_are_given_back_earlier() {
    let sessions = Sessions::new()
        .with(Watched::started_ago_s(10_000).used_ago_s(1800).held("cpu=1 cuda.device=1"))
        .with(Watched::started_ago_s(10_000).used_ago_s(1800).held("cpu=1"));
    assert_eq!(states(&sessions, "{}"), [State::Idle, State::Active]);
    assert_eq!(states(&sessions, r#"{"accelerator_minutes": 45}"#), [State::Active, State::Active]);
}

#[test]
fn the_owners_policy_may_be_stricter_or_switch_it_off() {
    let sessions = Sessions::new()
        .with(Watched::started_ago_s(10_000).used_ago_s(1200).idle_limit_s(600))
        .with(Watched::started_ago_s(10_000).used_ago_s(9000).idle_limit_s(0));
    assert_eq!(states(&sessions, "{}"), [State::Idle, State::Exempt]);
}

#[test]
fn it_describes_itself() {
    assert_eq!(describe::<{{type}}>().name, "{{name}}");
    assert!(check_config::<{{type}}>(r#"{"idle_seconds": 5}"#).is_err());
}
