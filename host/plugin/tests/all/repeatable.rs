//! The same input gives the same answer, and compiled code is kept and trusted only where that is safe.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use quarterdeck_plugin::{Call, Meter, Runtime, RuntimeOptions, builtin};

use crate::common::{Books, Builder, builtin};

fn busy_builder() -> Builder {
    let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
    for index in 0..40_u64 {
        let gpu = if index % 5 == 0 { 2000 } else { 0 };
        builder = builder.agent(
            &[("cpu", 4000 + 1000 * (index % 7)), ("mem", 8 << 30), ("cuda.device", gpu)],
            &[("cpu", 500 * (index % 3))],
        );
    }
    for index in 0..200_u64 {
        builder = builder.session(&[("cpu", 1000 + 500 * (index % 4)), ("mem", (1 + index % 3) << 30)], index);
    }
    builder
}

#[test]
fn the_same_snapshot_gives_the_same_round() {
    let fifo = builtin("fifo");
    let snapshot = busy_builder().build();
    for meter in [Meter::Epoch, Meter::Fuel(10_000_000_000)] {
        let call = Call { meter, ..Call::new(r#"{"skip_blocked": true}"#) };
        let run = || fifo.schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first, second);
        assert_eq!(first.fuel_used.is_some(), meter != Meter::Epoch);
        assert_eq!(first.proposals.len(), 200);
        assert!(first.journal.counters["placed_total"] > 50);
    }
    // The meter doesn't change the decisions.
    let with = |meter| {
        let call = Call { meter, ..Call::default() };
        fifo.schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap().proposals
    };
    assert_eq!(with(Meter::Epoch), with(Meter::Fuel(10_000_000_000)));
}

#[test]
fn recordings_survive_json() {
    let fifo = builtin("fifo");
    let snapshot = busy_builder().build();
    let trace = fifo.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    let text = serde_json::to_string(&(&snapshot, &trace)).unwrap();
    let (again, kept): (quarterdeck_plugin::scheduling::Snapshot, quarterdeck_plugin::RoundTrace) =
        serde_json::from_str(&text).unwrap();
    assert_eq!(again, snapshot);
    assert_eq!(kept, trace);
}

fn runtime(dir: &Path) -> Runtime {
    Runtime::new(RuntimeOptions { cache_dir: Some(dir.to_owned()), ..RuntimeOptions::default() }).unwrap()
}

fn compiled(dir: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn written(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn compiled_code_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = builtin::get("fifo").unwrap().wasm;
    runtime(dir.path()).load_blocking(wasm).unwrap();
    let before = written(&compiled(dir.path()));
    let again = runtime(dir.path());
    let plugin = again.load_blocking(wasm).unwrap();
    assert_eq!(written(&compiled(dir.path())), before, "it was compiled a second time");
    assert_eq!(again.get(&plugin.digest).unwrap().info, plugin.info);
    again.forget(&plugin.digest);
    assert!(again.get(&plugin.digest).is_none());
}

#[test]
fn tampered_compiled_code_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = builtin::get("fifo").unwrap().wasm;
    runtime(dir.path()).load_blocking(wasm).unwrap();
    let path = compiled(dir.path());
    let genuine = fs::read(&path).unwrap();
    let mut tampered = genuine.clone();
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    fs::write(&path, &tampered).unwrap();
    runtime(dir.path()).load_blocking(wasm).unwrap();
    assert_ne!(fs::read(compiled(dir.path())).unwrap(), tampered);
    // Without the key that it was made with, genuine code is as good as any other.
    let before = written(&compiled(dir.path()));
    fs::write(dir.path().join("key"), [7; 32]).unwrap();
    runtime(dir.path()).load_blocking(wasm).unwrap();
    assert_ne!(written(&compiled(dir.path())), before);
}
