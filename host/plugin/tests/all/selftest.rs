//! The test that every component goes through before it may serve.

use std::time::{Duration, Instant};

use quarterdeck_plugin::{SelfTest, Unsound, builtin};

use crate::common::RUNTIME;
use crate::hostile::suite::{Case, Ends, all, case};

fn outcome(case: &Case) -> Result<SelfTest, Unsound> {
    let (name, wasm) = (case.name, case.wasm());
    RUNTIME.compile_blocking(&wasm).unwrap_or_else(|error| panic!("{name}: {error}"));
    let started = Instant::now();
    let outcome = RUNTIME.load_blocking(&wasm).unwrap_or_else(|error| panic!("{name}: {error}")).self_test();
    assert!(started.elapsed() < Duration::from_secs(60), "{name} took {:?}", started.elapsed());
    outcome
}

#[test]
fn every_built_in_is_sound() {
    for builtin in builtin::all() {
        let plugin = RUNTIME.load_blocking(builtin.wasm).unwrap();
        let test = plugin.self_test().unwrap_or_else(|unsound| panic!("{}: {unsound}", builtin.name));
        // What asks for a configuration may say so; nothing else is odd about them.
        let fine = test.notes.iter().all(|note| note.contains("needs a configuration"));
        assert!(fine, "{}: {:?}", builtin.name, test.notes);
    }
}

#[test]
fn what_breaks_when_it_is_called_is_told_precisely() {
    let mut seen = 0;
    for case in all().iter().filter(|case| case.name.starts_with("traps-in-") || case.name.starts_with("loops-in-")) {
        // Nobody asks for explanations here.
        let Ends::Called(export) = case.ends else { continue };
        if export == "explain" {
            continue;
        }
        let unsound = outcome(case).expect_err(case.name).to_string();
        let words = if case.kind == "timeout" { "used up the" } else { "trapped" };
        assert!(unsound.contains(&format!("`{export}` {words}")), "{}: {unsound}", case.name);
        seen += 1;
    }
    assert!(seen >= 6, "{seen} of them");
    let unsound = outcome(&case("allocates-4-gib")).unwrap_err().to_string();
    assert!(unsound.contains("more than the 67108864 allowed"), "{unsound}");
}

#[test]
fn what_behaves_passes() {
    assert_eq!(outcome(&case("well-behaved")), Ok(SelfTest::default()));
    let disguised = case("traps-in-propose").in_disguise().unwrap();
    assert_eq!(RUNTIME.load_blocking(&disguised).unwrap().self_test(), Ok(SelfTest::default()));
}
