//! The two engines (epochs for production, fuel for replay), the clock that drives epochs, and the gate that keeps the
//! number of concurrent calls within what the pool has room for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::{LoadError, limits::Limits};

/// How compiled code is interrupted. The two differ in the code that is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Metering {
    /// Checks an epoch counter at loops and function entries.
    Epoch,
    /// Counts instructions.
    Fuel,
}

impl Metering {
    /// The word for it on a command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Metering::Epoch => "epoch",
            Metering::Fuel => "fuel",
        }
    }
}

/// How often the epoch advances while calls run; a deadline is noticed within this time.
const TICK: Duration = Duration::from_millis(5);

/// A tick that is later than this stands for a machine that was suspended or starved, not for a call that took long.
const LATE: Duration = Duration::from_millis(100);

/// Time as calls live through it: it stands still while the whole process does, so that no plugin is blamed for a machine
/// that was suspended.
pub(crate) struct Clock(Mutex<Tick>);

struct Tick {
    at: Instant,
    /// The clock's time then.
    reads: Duration,
}

impl Clock {
    fn new() -> Self {
        Clock(Mutex::new(Tick { at: Instant::now(), reads: Duration::ZERO }))
    }

    pub(crate) fn now(&self) -> Duration {
        let tick = self.0.lock();
        tick.reads + tick.at.elapsed().min(LATE)
    }

    /// To be called all the time while calls run.
    fn tick(&self) {
        let mut tick = self.0.lock();
        let (before, now) = (tick.at, Instant::now());
        tick.reads += now.duration_since(before).min(LATE);
        tick.at = now;
    }
}

/// Everything that shapes compiled code. Host and compiling child must agree on it.
fn code_config(metering: Metering) -> Config {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.cranelift_nan_canonicalization(true);
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    config.wasm_component_model(true);
    config.max_wasm_stack(512 << 10);
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    config.memory_may_move(false);
    config.memory_init_cow(true);
    // Debug information is the guest's as well: nothing of it is parsed with the host's rights.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    match metering {
        Metering::Epoch => config.epoch_interruption(true),
        // Fuel doesn't see what host functions cost, so the clock stands behind it.
        Metering::Fuel => config.consume_fuel(true).epoch_interruption(true),
    };
    config
}

/// An engine that only compiles: no pool, so that it fits a limited address space.
pub(crate) fn compiling_engine(metering: Metering) -> wasmtime::Result<Engine> {
    let mut config = code_config(metering);
    config.parallel_compilation(true);
    Engine::new(&config)
}

/// Linear memories of one component.
const MEMORIES: u32 = 8;

/// An engine that runs components. All pools are address space only until they are used, and give most of it back.
fn running_engine(metering: Metering, concurrency: u32) -> Result<Engine, LoadError> {
    // Rust guests are one core instance with one table; those of Python and JavaScript are many.
    let per_component = Limits::default().instances as u32;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(concurrency)
        .total_core_instances(concurrency * per_component)
        // As many as all calls together may have: none takes another one's place.
        .total_memories(concurrency * MEMORIES)
        .total_tables(concurrency * per_component)
        .total_stacks(0)
        .max_core_instances_per_component(per_component)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(per_component)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .table_elements(60_000)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(4 << 20)
        .max_memory_size(Limits::MAX_MEMORY)
        .max_unused_warm_slots(8)
        .linear_memory_keep_resident(4 << 20)
        .pagemap_scan(wasmtime::Enabled::Auto)
        .table_keep_resident(16 << 10)
        .decommit_batch_size(1);
    let mut config = code_config(metering);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    match Engine::new(&config) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            // An address-space limit on the process, most likely. Slower, with the same semantics.
            tracing::warn!("no room for the pooling allocator, instances are allocated on demand: {error:#}");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config).map_err(|error| LoadError::Host(format!("the engine doesn't start: {error:#}")))
        }
    }
}

/// Tells artifacts of one engine configuration and wasmtime version from those of others.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An engine, its epoch clock and its gate.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) metering: Metering,
    pub(crate) fingerprint: String,
    pub(crate) clock: Arc<Clock>,
    gate: Arc<Gate>,
}

struct Gate {
    state: Mutex<GateState>,
    /// Signalled when a call begins (for the clock) or ends (for those who wait).
    changed: Condvar,
    capacity: u32,
}

#[derive(Default)]
struct GateState {
    running: u32,
    closed: bool,
}

impl Machine {
    pub(crate) fn new(metering: Metering, concurrency: u32) -> Result<Machine, LoadError> {
        let concurrency = concurrency.clamp(1, 256);
        let engine = running_engine(metering, concurrency)?;
        let gate = Arc::new(Gate { state: Mutex::default(), changed: Condvar::new(), capacity: concurrency });
        let clock = Arc::new(Clock::new());
        let (weak, calls, ticking) = (engine.weak(), gate.clone(), clock.clone());
        std::thread::Builder::new()
            .name("plugin-epochs".to_owned())
            .stack_size(64 << 10)
            .spawn(move || {
                while calls.wait_for_calls() {
                    ticking.tick();
                    std::thread::sleep(TICK);
                    ticking.tick();
                    match weak.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })
            .map_err(|error| LoadError::Host(format!("no thread for the epoch clock: {error}")))?;
        let fingerprint = fingerprint(&engine);
        Ok(Machine { engine, metering, fingerprint, clock, gate })
    }

    /// Waits for room for one more call. The epoch advances while the permit is held.
    pub(crate) fn enter(&self) -> Permit {
        let mut state = self.gate.state.lock();
        while state.running >= self.gate.capacity {
            self.gate.changed.wait(&mut state);
        }
        state.running += 1;
        self.gate.changed.notify_all();
        Permit { gate: self.gate.clone() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.gate.state.lock().closed = true;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    /// False when the machine is gone.
    fn wait_for_calls(&self) -> bool {
        let mut state = self.state.lock();
        while state.running == 0 {
            if state.closed {
                return false;
            }
            self.changed.wait(&mut state);
        }
        true
    }
}

/// The right to run one call.
pub(crate) struct Permit {
    gate: Arc<Gate>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.state.lock().running -= 1;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_clock_stands_still_while_the_machine_does() {
        let clock = Clock::new();
        // As if nothing had run for a minute.
        clock.0.lock().at = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        assert_eq!(clock.now(), LATE);
        clock.tick();
        let now = clock.now();
        assert!((LATE..LATE * 2).contains(&now), "{now:?}");
        clock.tick();
        assert!(clock.now() >= now);
    }
}
