//! The whole host in small: its loops' passes, agents, the clock and what goes wrong, driven one step at a time by a seed.
//!
//! The store is the real one, in memory (a SQLite file on a file system that has no disk). Agents speak the real protocol,
//! over no network; policies are the compiled ones. A fuse in the store kills the host at a write that the seed chooses, as
//! `kill -9` would. After every step the laws are checked ([`laws`]); in the end everything is mended, and what clients were
//! promised must have come true.
//!
//! A seed that fails prints itself: `QUARTERDECK_SIM_SEED=17 cargo test -p quarterdeck-control simulation` plays it again
//! and tells each step.
#![allow(clippy::unwrap_used)]

mod agent;
mod dice;
mod host;
mod laws;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};

use world::World;

/// Names one seed to be played again.
const SEED: &str = "QUARTERDECK_SIM_SEED";

fn plugins() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let options = || RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() };
    RUNTIME.get_or_init(|| Runtime::new(options()).unwrap()).clone()
}

fn seeds() -> u64 {
    if std::env::var("QUARTERDECK_TEST_SCALE").as_deref() == Ok("long") { 100_000 } else { 2_000 }
}

#[test]
fn the_laws_hold_whatever_happens() {
    if let Ok(seed) = std::env::var(SEED) {
        World::new(seed.parse().unwrap(), true).play();
        return;
    }
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds() {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| World::new(seed, false).play())).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that broke a law: {failed:?}; play one again with {SEED}=<seed>");
}
