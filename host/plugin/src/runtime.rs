//! The catalogue of loaded plugins, and how components get into it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use wasmtime::component::{Component, InstancePre, Linker};

use crate::cache::{Cache, digest};
use crate::compile::{CompileLimits, Compiler, compile};
use crate::engine::{Machine, Metering};
use crate::journal::Journal;
use crate::limits::Limits;
use crate::plugin::{Exports, Plugin, Ready};
use crate::sandbox::{Sandbox, linker};
use crate::verify::{Outline, outline};
use crate::{LoadError, describe};

/// How a [`Runtime`] is set up.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Directory of compiled code. It is created, and closed to other users. Without one, compiled code lives in a
    /// temporary directory as long as the runtime.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Limits on a compilation.
    pub compile_limits: CompileLimits,
    /// Limits on a call that doesn't bring its own.
    pub limits: Limits,
    /// Largest component in bytes.
    pub max_component_bytes: usize,
    /// How many calls run at the same time; further ones wait. At most 256.
    pub concurrency: u32,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            cache_dir: None,
            compiler: Compiler::InProcess,
            compile_limits: CompileLimits::default(),
            limits: Limits::default(),
            max_component_bytes: 64 << 20,
            concurrency: 32,
        }
    }
}

/// An engine with its linker.
pub(crate) struct Workshop {
    pub(crate) machine: Machine,
    linker: Linker<Sandbox>,
}

impl Workshop {
    fn new(metering: Metering, concurrency: u32) -> Result<Workshop, LoadError> {
        let machine = Machine::new(metering, concurrency)?;
        let linker = linker(&machine.engine)?;
        Ok(Workshop { machine, linker })
    }
}

/// What plugins share with the runtime that loaded them.
pub(crate) struct Shared {
    pub(crate) options: RuntimeOptions,
    cache: Cache,
    epoch: Arc<Workshop>,
    fuel: Mutex<Option<Arc<Workshop>>>,
    /// One compilation at a time: they are the only expensive thing here.
    compiling: Mutex<()>,
    /// By plugin and metric.
    counters: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
}

/// The plugin host. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
    catalogue: Arc<RwLock<HashMap<String, Arc<Plugin>>>>,
}

impl Runtime {
    /// Sets up the engine and opens the cache.
    pub fn new(options: RuntimeOptions) -> Result<Runtime, LoadError> {
        let cache = Cache::open(options.cache_dir.as_deref())?;
        let epoch = Arc::new(Workshop::new(Metering::Epoch, options.concurrency)?);
        let shared = Shared {
            options,
            cache,
            epoch,
            fuel: Mutex::default(),
            compiling: Mutex::default(),
            counters: Mutex::default(),
        };
        Ok(Runtime { shared: Arc::new(shared), catalogue: Arc::default() })
    }

    /// Loads a component: verifies it, compiles it unless the cache has it, lets it describe itself. Loading the same
    /// bytes again gives the same plugin.
    pub async fn load(&self, wasm: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        let digest = digest(wasm);
        if let Some(plugin) = self.get(&digest) {
            return Ok(plugin);
        }
        let (runtime, wasm) = (self.clone(), wasm.to_vec());
        tokio::task::spawn_blocking(move || runtime.load_blocking(&wasm))
            .await
            .map_err(|error| LoadError::Host(format!("loading was interrupted: {error}")))?
    }

    /// [`Runtime::load`] for callers that may block.
    pub fn load_blocking(&self, wasm: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        let digest = digest(wasm);
        if let Some(plugin) = self.get(&digest) {
            return Ok(plugin);
        }
        let outline = outline(wasm, self.shared.options.max_component_bytes)?;
        let ready = self.shared.ready(Metering::Epoch, &digest, outline.kind, || Ok(wasm.to_vec()))?;
        self.shared.cache.keep_source(&digest, wasm)?;
        let plugin = Arc::new(describe::introduce(self.shared.clone(), digest.clone(), outline, wasm.len(), ready)?);
        // Of two that loaded the same component at the same time, the second adopts the plugin of the first.
        Ok(self.catalogue.write().entry(digest).or_insert(plugin).clone())
    }

    /// Compiles a component for production and for metered calls unless the cache has it, and lets it do nothing. For
    /// callers that may block.
    pub fn compile_blocking(&self, wasm: &[u8]) -> Result<(), LoadError> {
        let digest = digest(wasm);
        let outline = outline(wasm, self.shared.options.max_component_bytes)?;
        for metering in [Metering::Epoch, Metering::Fuel] {
            self.shared.ready(metering, &digest, outline.kind, || Ok(wasm.to_vec()))?;
        }
        Ok(())
    }

    /// What the outside of a component says, without loading it.
    pub fn outline(&self, wasm: &[u8]) -> Result<Outline, LoadError> {
        outline(wasm, self.shared.options.max_component_bytes)
    }

    /// A loaded plugin by the SHA-256 of its component.
    pub fn get(&self, digest: &str) -> Option<Arc<Plugin>> {
        self.catalogue.read().get(digest).cloned()
    }

    /// Drops a plugin from the catalogue; calls that hold it finish. Its compiled code stays in the cache.
    pub fn forget(&self, digest: &str) {
        self.catalogue.write().remove(digest);
    }

    /// All loaded plugins.
    pub fn loaded(&self) -> Vec<Arc<Plugin>> {
        self.catalogue.read().values().cloned().collect()
    }

    /// What plugins have counted since the runtime was set up: plugin name, metric, value.
    pub fn counters(&self) -> Vec<(String, String, u64)> {
        let counters = self.shared.counters.lock();
        let of = |(plugin, metrics): (&String, &BTreeMap<String, u64>)| {
            metrics.iter().map(|(metric, value)| (plugin.clone(), metric.clone(), *value)).collect::<Vec<_>>()
        };
        counters.iter().flat_map(of).collect()
    }

    /// The limits of calls that don't bring their own.
    pub fn limits(&self) -> &Limits {
        &self.shared.options.limits
    }
}

/// Counters of one plugin, so that ever new names don't fill the memory.
const MAX_COUNTERS: usize = 256;

/// Counters of all plugins together.
const MAX_COUNTERS_OF_ALL: usize = 16 * 1024;

impl Shared {
    pub(crate) fn workshop(&self, metering: Metering) -> Result<Arc<Workshop>, LoadError> {
        match metering {
            Metering::Epoch => Ok(self.epoch.clone()),
            Metering::Fuel => {
                let mut fuel = self.fuel.lock();
                if let Some(workshop) = &*fuel {
                    return Ok(workshop.clone());
                }
                // Replays run few calls at once, and the address space of a second full pool is better left alone.
                let workshop = Arc::new(Workshop::new(Metering::Fuel, self.options.concurrency.min(8))?);
                Ok(fuel.insert(workshop).clone())
            }
        }
    }

    /// A linked component for an engine, compiled or from the cache.
    pub(crate) fn ready(
        &self,
        metering: Metering,
        digest: &str,
        kind: crate::Kind,
        wasm: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<Ready, LoadError> {
        let workshop = self.workshop(metering)?;
        let name = format!("{digest}-{}", workshop.machine.fingerprint);
        let component = match self.cached(&workshop, &name) {
            Some(component) => component,
            None => {
                let _one_at_a_time = self.compiling.lock();
                match self.cached(&workshop, &name) {
                    Some(component) => component,
                    None => self.compiled(&workshop, &name, &wasm()?)?,
                }
            }
        };
        let pre = workshop
            .linker
            .instantiate_pre(&component)
            .map_err(|error| LoadError::Contract(format!("it doesn't link: {error:#}")))?;
        let exports = Exports::of(kind, &pre)?;
        Ok(Ready { workshop, pre, exports })
    }

    /// The second compilation of a plugin, for metered calls.
    pub(crate) fn ready_again(&self, metering: Metering, digest: &str, kind: crate::Kind) -> Result<Ready, LoadError> {
        self.ready(metering, digest, kind, || self.cache.source(digest))
    }

    fn cached(&self, workshop: &Workshop, name: &str) -> Option<Component> {
        let path = self.cache.find(name)?;
        match adopt(workshop, &path) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::info!(file = %path.display(), "compiled plugin doesn't fit this host: {error:#}");
                self.cache.remove(name);
                None
            }
        }
    }

    fn compiled(&self, workshop: &Workshop, name: &str, wasm: &[u8]) -> Result<Component, LoadError> {
        let path = self.cache.keep(name, |file| {
            compile(&self.options.compiler, &self.options.compile_limits, workshop.machine.metering, wasm, file)
        })?;
        adopt(workshop, &path).map_err(|error| LoadError::Compile(format!("it doesn't fit this host: {error:#}")))
    }

    pub(crate) fn add_counters(&self, plugin: &str, journal: &Journal) {
        if journal.counters.is_empty() {
            return;
        }
        let mut all = self.counters.lock();
        let others: usize = all.values().map(BTreeMap::len).sum();
        let counters = all.entry(plugin.to_owned()).or_default();
        for (metric, delta) in &journal.counters {
            if let Some(value) = counters.get_mut(metric) {
                *value = value.saturating_add(*delta);
            } else if counters.len() < MAX_COUNTERS && others < MAX_COUNTERS_OF_ALL {
                counters.insert(metric.clone(), *delta);
            }
        }
    }
}

/// Maps compiled code into memory.
#[expect(unsafe_code, reason = "loading compiled code trusts its bytes; the cache vouches for them")]
fn adopt(workshop: &Workshop, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this host's compiler, or by a process with the same key: `Cache` has just made
    // sure of that, and nobody else can write to its directory. Files there are replaced, never changed in place.
    unsafe { Component::deserialize_file(&workshop.machine.engine, path) }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("plugins", &self.catalogue.read().len()).finish_non_exhaustive()
    }
}

/// A component that is linked.
pub(crate) type Linked = InstancePre<Sandbox>;
