//! A loaded plugin and the way into its sandbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::component::{Instance, ResourceTableError};
use wasmtime::{Store, Trap};

use crate::backtrace;
use crate::bindings::exports::quarterdeck::policy as world;
use crate::engine::{Metering, Permit};
use crate::journal::{Journal, presentable};
use crate::limits::{Call, Limits, Meter};
use crate::runtime::{Linked, Shared, Workshop};
use crate::sandbox::{Deadline, Sandbox, Stopped};
use crate::types::LogLevel;
use crate::verify::Outline;
use crate::{Failure, Info, Kind, LoadError};

/// A component that was loaded, verified and has described itself. Calls are synchronous and take as long as their
/// limits allow, so asynchronous callers make them on a thread that may block.
pub struct Plugin {
    /// SHA-256 of the component in hexadecimal digits.
    pub digest: String,
    /// Which world it targets.
    pub kind: Kind,
    /// What it says about itself.
    pub info: Info,
    /// Imports, exports and contract version of the component.
    pub outline: Outline,
    /// Size of the component in bytes.
    pub size: usize,
    pub(crate) schema: Option<crate::schema::Schema>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) epoch: Ready,
    pub(crate) fuel: Mutex<Option<Arc<Ready>>>,
}

/// A component compiled for one engine and linked.
pub(crate) struct Ready {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) pre: Linked,
    pub(crate) exports: Exports,
}

/// Where the exports of a component are.
#[derive(Clone)]
pub(crate) struct Exports {
    plugin: world::plugin::GuestIndices,
    own: Own,
}

#[derive(Clone)]
enum Own {
    Scheduler(world::scheduling::GuestIndices),
    IdleChecker(world::idling::GuestIndices),
    Hook(world::hooks::GuestIndices),
}

impl Exports {
    pub(crate) fn of(kind: Kind, pre: &Linked) -> Result<Exports, LoadError> {
        let missing = |error: wasmtime::Error| LoadError::Contract(format!("{error:#}"));
        Ok(Exports {
            plugin: world::plugin::GuestIndices::new(pre).map_err(missing)?,
            own: match kind {
                Kind::Scheduler => Own::Scheduler(world::scheduling::GuestIndices::new(pre).map_err(missing)?),
                Kind::IdleChecker => Own::IdleChecker(world::idling::GuestIndices::new(pre).map_err(missing)?),
                Kind::Hook => Own::Hook(world::hooks::GuestIndices::new(pre).map_err(missing)?),
            },
        })
    }
}

impl Plugin {
    /// Opens a sandbox for one call. Guest code may run in here already.
    pub(crate) fn enter(&self, call: &Call, wall: fn(&Limits) -> Duration, now_ms: i64) -> Result<Visit, Failure> {
        let limits = call.limits.as_ref().unwrap_or(&self.shared.options.limits);
        let ready;
        let ready = match call.meter {
            Meter::Epoch => &self.epoch,
            Meter::Fuel(_) => {
                ready = self.metered()?;
                &*ready
            }
        };
        Visit::new(ready, call, limits.clone(), wall(limits), now_ms)
    }

    fn metered(&self) -> Result<Arc<Ready>, Failure> {
        let mut fuel = self.fuel.lock();
        if let Some(ready) = &*fuel {
            return Ok(ready.clone());
        }
        let ready = self
            .shared
            .ready_again(Metering::Fuel, &self.digest, self.kind)
            .map_err(|error| Failure::Instantiate { reason: error.to_string() })?;
        Ok(fuel.insert(Arc::new(ready)).clone())
    }

    pub(crate) fn must_be(&self, wanted: Kind) -> Result<(), Failure> {
        if self.kind == wanted { Ok(()) } else { Err(Failure::Kind { is: self.kind, wanted }) }
    }

    /// Closes the books of a call: its log lines go to the host's log, its counters to the runtime's.
    pub(crate) fn leave(&self, visit: Visit, call: &Call) -> CallTrace {
        let trace = visit.finish();
        for line in &trace.journal.lines {
            report(self, call, line);
        }
        if trace.journal.dropped > 0 {
            tracing::warn!(
                plugin = self.info.name,
                version = self.info.version,
                call = call.tag,
                lines = trace.journal.dropped,
                "the plugin logged more than it may"
            );
        }
        self.shared.add_counters(&self.info.name, &trace.journal);
        trace
    }

    /// One call from start to end: whatever its outcome, its log is kept.
    pub(crate) fn call<R>(
        &self,
        call: &Call,
        wall: fn(&Limits) -> Duration,
        now_ms: i64,
        run: impl FnOnce(&mut Visit) -> Result<R, Failure>,
    ) -> Result<(R, CallTrace), Failure> {
        let (result, trace) = self.call_traced(call, wall, now_ms, run)?;
        result.map(|value| (value, trace))
    }

    /// As [`Plugin::call`], with what a call that failed left behind.
    pub(crate) fn call_traced<R>(
        &self,
        call: &Call,
        wall: fn(&Limits) -> Duration,
        now_ms: i64,
        run: impl FnOnce(&mut Visit) -> Result<R, Failure>,
    ) -> Result<(Result<R, Failure>, CallTrace), Failure> {
        let mut visit = self.enter(call, wall, now_ms)?;
        let result = run(&mut visit);
        let trace = self.leave(visit, call);
        Ok((result, trace))
    }
}

fn report(plugin: &Plugin, call: &Call, line: &crate::LogLine) {
    let fields = line.fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                target: "quarterdeck::plugin",
                plugin = plugin.info.name,
                version = plugin.info.version,
                call = call.tag,
                fields,
                "{}",
                line.message
            )
        };
    }
    match line.level {
        LogLevel::Debug => at!(debug),
        LogLevel::Info => at!(info),
        LogLevel::Warn => at!(warn),
        LogLevel::Error => at!(error),
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.digest)
            .field("kind", &self.kind)
            .field("name", &self.info.name)
            .field("version", &self.info.version)
            .finish_non_exhaustive()
    }
}

/// What a call cost and left behind.
#[derive(Debug, Clone, Default)]
pub struct CallTrace {
    /// Wall time.
    pub duration: Duration,
    /// Fuel that was used, in metered calls.
    pub fuel_used: Option<u64>,
    /// The largest linear memory in bytes.
    pub peak_memory: usize,
    /// Log and counters.
    pub journal: Journal,
}

/// A sandbox with an instance in it, for the length of one call.
pub(crate) struct Visit {
    pub(crate) store: Store<Sandbox>,
    instance: Option<Instance>,
    exports: Exports,
    wall: Duration,
    fuel: Option<u64>,
    started: Instant,
    /// Last, so that the instance is gone when its place in the pool is given away.
    _permit: Permit,
}

impl Visit {
    pub(crate) fn new(
        ready: &Ready,
        call: &Call,
        limits: Limits,
        wall: Duration,
        now_ms: i64,
    ) -> Result<Visit, Failure> {
        let machine = &ready.workshop.machine;
        let wall = if matches!(call.meter, Meter::Fuel(_)) { limits.metered } else { wall };
        let permit = machine.enter();
        let started = Instant::now();
        let fuel = match call.meter {
            Meter::Epoch => None,
            Meter::Fuel(fuel) => Some(fuel),
        };
        let deadline = Deadline::after(wall, machine.clock.clone());
        let sandbox = Sandbox::new(limits, call.config.clone(), call.seed, now_ms, deadline);
        let store = sandbox
            .into_store(&machine.engine, machine.metering, fuel.unwrap_or_default())
            .map_err(|error| Failure::Instantiate { reason: format!("{error:#}") })?;
        let exports = ready.exports.clone();
        let mut visit = Visit { store, instance: None, exports, wall, fuel, started, _permit: permit };
        let instance = match ready.pre.instantiate(&mut visit.store) {
            Ok(instance) => instance,
            Err(error) => {
                return Err(match visit.failure("instantiate", error) {
                    // Nothing was answered yet: what isn't a limit or a trap is a fault of the component as such.
                    Failure::Output { reason, .. } => Failure::Instantiate { reason },
                    failure => failure,
                });
            }
        };
        visit.instance = Some(instance);
        Ok(visit)
    }

    fn parts(&mut self) -> (&mut Store<Sandbox>, &Instance) {
        (&mut self.store, self.instance.as_ref().expect("set before anybody else sees the visit"))
    }

    pub(crate) fn plugin(&mut self) -> Result<world::plugin::Guest, Failure> {
        let indices = self.exports.plugin.clone();
        let (store, instance) = self.parts();
        indices.load(store, instance).map_err(mismatch)
    }

    pub(crate) fn scheduling(&mut self) -> Result<world::scheduling::Guest, Failure> {
        let Own::Scheduler(indices) = self.exports.own.clone() else { return Err(wrong_world()) };
        let (store, instance) = self.parts();
        indices.load(store, instance).map_err(mismatch)
    }

    pub(crate) fn idling(&mut self) -> Result<world::idling::Guest, Failure> {
        let Own::IdleChecker(indices) = self.exports.own.clone() else { return Err(wrong_world()) };
        let (store, instance) = self.parts();
        indices.load(store, instance).map_err(mismatch)
    }

    pub(crate) fn hooks(&mut self) -> Result<world::hooks::Guest, Failure> {
        let Own::Hook(indices) = self.exports.own.clone() else { return Err(wrong_world()) };
        let (store, instance) = self.parts();
        indices.load(store, instance).map_err(mismatch)
    }

    /// Calls an export.
    pub(crate) fn run<R>(
        &mut self,
        export: &'static str,
        function: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<R>,
    ) -> Result<R, Failure> {
        let result = function(&mut self.store).map_err(|error| self.failure(export, error))?;
        // The epochs are coarse and don't see the time spent in host functions.
        if self.store.data().deadline.has_passed() {
            return Err(Failure::Timeout { export, limit: self.wall });
        }
        Ok(result)
    }

    /// Lends time to the host: what it `spent` doesn't count.
    pub(crate) fn lend(&mut self, spent: Duration) {
        self.store.data_mut().deadline.extend(spent);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.store.data().limits
    }

    fn failure(&self, export: &'static str, error: wasmtime::Error) -> Failure {
        let sandbox = self.store.data();
        match sandbox.stopped {
            Stopped::Deadline => return Failure::Timeout { export, limit: self.wall },
            Stopped::Memory { wanted, limit } => {
                return Failure::Memory { export, wanted, limit, unit: "bytes of memory" };
            }
            Stopped::Table { wanted, limit } => {
                return Failure::Memory { export, wanted, limit, unit: "table elements" };
            }
            Stopped::No => {}
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Failure::Trap { export, reason: format!("the plugin exited with status {}", exit.0) };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Failure::Fuel { export, limit: self.fuel.unwrap_or_default() },
            Some(Trap::Interrupt) => Failure::Timeout { export, limit: self.wall },
            Some(trap) => {
                let mut reason = backtrace::told(&trap.to_string(), &error);
                if let Some(words) = sandbox.pen.last_words() {
                    reason = format!("{} ({reason})", presentable(&words, 1000));
                }
                Failure::Trap { export, reason }
            }
            None => self.refused(export, &error),
        }
    }

    /// What the runtime refused without a trap: breaches of its limits, and of the contract's types.
    fn refused(&self, export: &'static str, error: &wasmtime::Error) -> Failure {
        let limits = self.limits();
        // The cause alone: a backtrace before it is made of the guest's words, of any length.
        let cause = error.root_cause().to_string();
        let full = matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full));
        // The runtime has no type for these two.
        if full || cause.contains("store handle limit exceeded") {
            let (wanted, limit) = (limits.handles.saturating_add(1), limits.handles);
            return Failure::Memory { export, wanted, limit, unit: "handles" };
        }
        if cause.contains("fuel allocated for hostcalls has been exhausted") {
            let reason = format!("it passed more than the {} bytes allowed at a time", limits.answer_bytes);
            return Failure::Output { export, reason };
        }
        Failure::Output { export, reason: presentable(&cause, 2000) }
    }

    fn finish(self) -> CallTrace {
        let fuel_used = self.fuel.map(|limit| limit - self.store.get_fuel().unwrap_or_default());
        let sandbox = self.store.data();
        CallTrace {
            duration: self.started.elapsed(),
            fuel_used,
            peak_memory: sandbox.peak_memory,
            journal: sandbox.pen.finish(),
        }
    }
}

fn mismatch(error: wasmtime::Error) -> Failure {
    Failure::Instantiate { reason: format!("an export has another type than the contract says: {error:#}") }
}

fn wrong_world() -> Failure {
    Failure::Instantiate { reason: "the component targets another world".to_owned() }
}
