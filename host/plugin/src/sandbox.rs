//! The world as a guest sees it: the contract's `host` interface and a WASI in which nothing exists and nothing moves.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::LoadError;
use crate::bindings::quarterdeck::policy::{host, types};
use crate::engine::{Clock, Metering};
use crate::journal::Pen;
use crate::limits::Limits;
use crate::wasi;

/// Why the host stopped a guest; looked up when a call comes back with an error.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    #[default]
    No,
    Deadline,
    Memory {
        wanted: usize,
        limit: usize,
    },
    Table {
        wanted: usize,
        limit: usize,
    },
}

/// When a call must be over.
pub(crate) struct Deadline {
    clock: Arc<Clock>,
    at: Duration,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration, clock: Arc<Clock>) -> Self {
        Deadline { at: clock.now() + allowed, clock }
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.clock.now() >= self.at
    }

    pub(crate) fn extend(&mut self, by: Duration) {
        self.at += by;
    }
}

/// State of one store, that is of one call.
pub(crate) struct Sandbox {
    pub(crate) limits: Limits,
    pub(crate) pen: Pen,
    pub(crate) stopped: Stopped,
    /// When the call must be over.
    pub(crate) deadline: Deadline,
    pub(crate) peak_memory: usize,
    /// Bytes of all linear memories now.
    memory: usize,
    config: String,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Sandbox {
    /// `now_ms` is where the clocks stand still.
    pub(crate) fn new(limits: Limits, config: String, seed: u64, now_ms: i64, deadline: Deadline) -> Sandbox {
        let pen = Pen::new(&limits);
        let wasi = wasi::context(&pen, seed, now_ms);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Sandbox { limits, pen, stopped: Stopped::No, deadline, peak_memory: 0, memory: 0, config, wasi, table }
    }

    /// A store around it, limited and metered before any guest code can run.
    pub(crate) fn into_store(
        self,
        engine: &Engine,
        metering: Metering,
        fuel: u64,
    ) -> Result<Store<Sandbox>, wasmtime::Error> {
        let (answer_bytes, handles) = (self.limits.answer_bytes, self.limits.handles);
        let mut store = Store::new(engine, self);
        store.limiter(|sandbox| sandbox);
        store.set_hostcall_fuel(answer_bytes);
        store.set_max_component_handles(handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context: StoreContextMut<'_, Sandbox>| {
            context.data_mut().check_deadline()?;
            Ok(UpdateDeadline::Continue(1))
        });
        if metering == Metering::Fuel {
            store.set_fuel(fuel)?;
        }
        Ok(store)
    }

    /// An error once the deadline has passed. Host functions check it as well: the time that they take is not seen by
    /// the epochs.
    pub(crate) fn check_deadline(&mut self) -> wasmtime::Result<()> {
        if self.deadline.has_passed() {
            self.stopped = Stopped::Deadline;
            return Err(wasmtime::Error::msg("the call's deadline passed"));
        }
        Ok(())
    }
}

/// A linker with everything that [`outline`](crate::verify::outline) lets pass.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<Sandbox>, LoadError> {
    let build = || -> wasmtime::Result<Linker<Sandbox>> {
        let mut linker = Linker::<Sandbox>::new(engine);
        wasi::link(&mut linker)?;
        host::add_to_linker::<Sandbox, HasSelf<Sandbox>>(&mut linker, |sandbox| sandbox)?;
        types::add_to_linker::<Sandbox, HasSelf<Sandbox>>(&mut linker, |sandbox| sandbox)?;
        Ok(linker)
    };
    build().map_err(|error| LoadError::Host(format!("the linker can't be set up: {error:#}")))
}

impl types::Host for Sandbox {}

impl host::Host for Sandbox {
    fn log(&mut self, level: types::LogLevel, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.check_deadline()?;
        self.pen.log(level, &message, fields);
        Ok(())
    }

    fn count(&mut self, metric: String, delta: u64) -> wasmtime::Result<()> {
        self.check_deadline()?;
        self.pen.count(&metric, delta);
        Ok(())
    }

    fn config(&mut self) -> wasmtime::Result<String> {
        self.check_deadline()?;
        Ok(self.config.clone())
    }

    fn budget(&mut self) -> wasmtime::Result<u64> {
        Ok(self.limits.budget)
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl ResourceLimiter for Sandbox {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.limits.memory_bytes.min(Limits::MAX_MEMORY);
        // A component may have several memories: together they get no more than one would.
        let wanted = self.memory.saturating_sub(current).saturating_add(desired);
        if wanted > limit {
            self.stopped = Stopped::Memory { wanted, limit };
            return Err(wasmtime::Error::msg("the memory limit was reached"));
        }
        self.memory = wanted;
        self.peak_memory = self.peak_memory.max(wanted);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // A declared maximum of the guest's own, or 32 bits used up.
        self.stopped = Stopped::Memory { wanted: usize::MAX, limit: self.limits.memory_bytes };
        Err(error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.limits.table_elements;
        if desired > limit {
            self.stopped = Stopped::Table { wanted: desired, limit };
            return Err(wasmtime::Error::msg("the table limit was reached"));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}
