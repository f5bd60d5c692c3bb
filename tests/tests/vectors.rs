//! Every kind of vector is somebody's: a kind that no test handles, or a handler that is gone, fails here.
//!
//! Vectors about policies run through the compiled components, those about the host through the host.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use quarterdeck_tests::root;
use serde_json::Value;

/// A test: its source file and function.
type Test = (&'static str, &'static str);

/// Vector file, kind (the operation in files without kinds; `*` for all others), how many, and the tests that run all of
/// them: source file and function.
const HANDLED: &[(&str, &str, usize, &[Test])] = &[
    ("scheduler", "pick", 58, &[(PLUGIN, "the_schedulers_pick"), (SCHEDULE, "pick_vectors")]),
    ("scheduler", "assign", 141, &[(PLUGIN, "the_schedulers_assign"), (SCHEDULE, "assign_vectors")]),
    ("scheduler", "tick", 42, &[(PLUGIN, "the_schedulers_tick"), (SCHEDULE, "tick_vectors")]),
    ("scheduler", "dispatch", 45, &[(DISPATCH, "dispatch_vectors")]),
    ("scheduler", "load", 6, &[(DISPATCH, "load_vectors")]),
    ("scheduler", "opts", 24, &[(MODEL, "scheduler_options")]),
    ("idle", "remaining", 9, &[(IDLE, "remaining_vectors")]),
    ("idle", "duration", 20, &[(MODEL, "durations"), (PLUGIN, "thresholds_of_network_timeout")]),
    ("idle", "config_network_timeout", 6, &[(PLUGIN, "thresholds_of_network_timeout")]),
    ("idle", "config_user_grace_period", 4, &[(IDLE, "config_user_grace_period_vectors")]),
    ("idle", "config_utilization", 12, &[(IDLE, "config_utilization_vectors")]),
    ("idle", "network_timeout", 21, &[(PLUGIN, "network_timeout")]),
    ("idle", "session_lifetime", 9, &[(PLUGIN, "session_lifetime"), (IDLE, "session_lifetime_vectors")]),
    ("idle", "utilization", 37, &[(IDLE, "utilization_vectors")]),
    ("idle", "last_access_events", 8, &[(IDLE_ON_DATABASES, "last_access_event_vectors")]),
    ("idle", "enabled", 9, &[(IDLE_ON_DATABASES, "enabled_vectors")]),
    ("idle", "report", 2, &[(IDLE, "report_vectors")]),
    ("idle", "round", 4, &[(IDLE, "round_vectors")]),
    ("hooks", "*", 15, &[(HOOKS, "hook_vectors"), (WIRE, "rejections_by_hooks_look_as_the_vectors_say")]),
    ("slots", "*", 483, &[(MODEL, "slots")]),
];

const PLUGIN: &str = "host/plugin/tests/all/vectors.rs";
const SCHEDULE: &str = "host/control/src/schedule/tests.rs";
const DISPATCH: &str = "host/control/tests/scheduler_vectors.rs";
const IDLE: &str = "host/control/src/idle/tests.rs";
const IDLE_ON_DATABASES: &str = "host/control/tests/idle_vectors.rs";
const HOOKS: &str = "host/control/src/hooks.rs";
const WIRE: &str = "host/api/src/wire.rs";
const MODEL: &str = "host/model/tests/vectors.rs";

#[test]
fn every_kind_of_vector_is_handled() {
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("tests/vectors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(file) = name.strip_suffix("-vectors.json") else { continue };
        let all: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for vector in all["vectors"].as_array().unwrap() {
            let kind = vector["kind"].as_str().unwrap_or("*").to_owned();
            *found.entry((file.to_owned(), kind)).or_default() += 1;
        }
    }
    println!("{:<10} {:<26} {:>5}  by", "file", "kind", "count");
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for (file, kind, count, tests) in HANDLED {
        let there = found.remove(&((*file).to_owned(), (*kind).to_owned())).unwrap_or(0);
        assert_eq!(there, *count, "vectors of kind {kind} in {file}");
        for (source, test) in *tests {
            let text = sources.entry(source).or_insert_with(|| std::fs::read_to_string(root().join(source)).unwrap());
            assert!(
                text.contains(&format!("fn {test}(")),
                "{source} has no test `{test}`, which runs {kind} of {file}"
            );
            println!("{file:<10} {kind:<26} {count:>5}  {source}: {test}");
        }
    }
    assert!(found.is_empty(), "no test handles these vectors: {found:?}");
}
