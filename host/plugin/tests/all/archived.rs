//! Components of released versions of the contract, as they were built then: every later minor version serves them.

use std::path::PathBuf;
use std::sync::Arc;

use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::scheduling::Proposal;
use quarterdeck_plugin::{Call, Kind, Plugin};
use serde_json::json;

use crate::common::{Books, Builder, RUNTIME};

/// The versions with a folder of their own, and their components.
fn archives() -> Vec<(String, PathBuf)> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut found: Vec<_> = std::fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix("contract-")?.to_owned(), path)))
        .collect();
    found.sort();
    found
}

fn load(version: &str, folder: &std::path::Path, kind: Kind) -> Arc<Plugin> {
    let file = folder.join(format!("{kind}.wasm.zst"));
    let wasm = zstd::decode_all(std::fs::File::open(&file).unwrap()).unwrap();
    let plugin = RUNTIME.load_blocking(&wasm).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!((plugin.kind, plugin.outline.contract.as_str()), (kind, version));
    plugin.self_test().unwrap_or_else(|unsound| panic!("{}: {unsound}", file.display()));
    plugin
}

#[test]
fn components_of_every_released_contract_are_served() {
    let archives = archives();
    assert!(archives.iter().any(|(version, _)| version == "0.1.0"), "{archives:?}");
    for (version, folder) in archives {
        let scheduler = load(&version, &folder, Kind::Scheduler);
        let snapshot = Builder::new(&["cpu", "mem"])
            .agent(&[("cpu", 4000), ("mem", 8 << 30)], &[])
            .session(&[("cpu", 9000), ("mem", 1 << 30)], 2)
            .session(&[("cpu", 2000), ("mem", 1 << 30)], 1)
            .build();
        let call = Call::new(r#"{"skip_blocked": true}"#);
        let trace = scheduler.schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap();
        let placed: Vec<u32> = trace
            .proposals
            .iter()
            .filter_map(|(proposal, _)| match proposal {
                Proposal::Place(placement) => Some(placement.session),
                Proposal::Defer(_) => None,
            })
            .collect();
        assert_eq!(placed, [1], "{version}");
        assert!(scheduler.explain(&call, &snapshot, &mut Books::of(&snapshot), 0, 10).is_ok(), "{version}");
        assert_eq!(
            scheduler.check_config(r#"{"skip_blocked": 1}"#).unwrap_err().problems()[0].pointer,
            "/skip_blocked"
        );

        let checker = load(&version, &folder, Kind::IdleChecker);
        assert_eq!(checker.traits(&Call::default()).unwrap().reason, "idle-session-lifetime", "{version}");

        let hook = load(&version, &folder, Kind::Hook);
        let asked = |image: &str| {
            let body = json!({
                "session": {"kernels": [{"image": image, "slots": {"cpu": "1"}}]},
                "owner": {"email": "user@example.org", "domain": "default", "project": "default", "role": "user"},
            });
            let event = Event {
                name: "PRE_ENQUEUE_SESSION".to_owned(),
                at_ms: 1_700_000_000_000,
                utc_offset_s: 0,
                actor: None,
                body: body.to_string(),
            };
            let rules = json!({"rules": [{"effect": "allow", "images": ["stable/*"]}]});
            hook.handle(&Call::new(rules.to_string()), &event).unwrap()
        };
        assert_eq!(asked("stable/python:3.12"), Verdict::Allow, "{version}");
        assert!(matches!(asked("wild/python:3.12"), Verdict::Deny(_)), "{version}");
    }
}
