//! Executes a plugin: bytes to a compiled plugin, a compiled plugin and an event to an outcome.
//!
//! - **A fresh instance per attempt**, from a shared compiled component: nothing leaks from event to event.
//! - **Every bound ends in its own fault**: processor time, time, memory, tables, stack, calls, reply. The host goes on.
//! - **Processor time is the thread's own**, so a plugin is not charged for a busy machine. A plugin that computes
//!   yields every few milliseconds; those that compute much share all processors but one, so that the rest never waits.
//! - **Plugins run on threads of their own** (`threads`): an instruction that takes long holds up no event that comes in.
//! - **What was compiled once is loaded** from a cache of the host's own (`cache`), and compiled again where that is damaged.
//! - No folder, no variable, no socket. Clocks and random numbers are there.
//!
//! Not here: which event runs when (`dispatcher`), what a host call does (`capabilities`), the store.

mod adapter;
mod cache;
pub mod compiler;
mod component;
mod engine;
mod fault;
mod meter;
mod threads;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::capabilities::{Attempt, Reach};
use crate::contract;
use crate::event::Event;
use crate::outcome::{Effects, Fault, FaultKind, Outcome};
use crate::plugin::{Limits, Manifest, RAISE};
use cache::Cache;
pub(crate) use compiler::Allowance;
use compiler::{Compiler, Refusal};
pub(crate) use component::digest;
pub use component::{Inspection, Kind, LoadError, MANIFEST_SECTION, VERSION_SECTION, inspect, manifest_of, read_file};
use engine::{Engine, StoreLimits};
use meter::{Load, Meter, Metered};
use threads::Threads;

/// How soon an attempt that waits for its turn is looked at again when its time seems to be over.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Bytes that a plugin can hand to the host in one call, before the host looks at them.
const MOST_HANDED_OVER: usize = 4 << 20;

/// How much may run at once.
#[derive(Debug, Clone)]
pub struct Options {
    /// Instances at once; memory is reserved for each.
    pub instances: u32,
    /// The folder with compiled plugins; `None`: each is compiled whenever it is loaded.
    pub cache: Option<PathBuf>,
    /// Where plugins are compiled.
    pub compiler: Compiler,
}

/// The engine that all plugins share.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<Running>,
    cache: Option<Cache>,
    compiler: Compiler,
    threads: Threads,
}

/// A plugin that is ready to run.
pub struct CompiledPlugin {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The SHA-256 of its file, in hexadecimal.
    pub hash: String,
    /// Bytes of its file.
    pub size: u64,
    prepared: contract::PluginPre<Running>,
    load: Load,
}

/// What an instance's store holds.
struct Running {
    attempt: Attempt,
    limits: StoreLimits,
}

impl wasmtime_wasi::WasiView for Running {
    fn ctx(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
        self.attempt.ctx()
    }
}

impl Sandbox {
    /// An engine with its pool of instances.
    ///
    /// # Errors
    /// When the machine refuses the address space, or the engine's settings do not fit it; the text says why.
    pub fn new(options: &Options) -> Result<Self, String> {
        Self::set_up(options).map_err(|error| format!("the sandbox can't be set up: {error:#}"))
    }

    fn set_up(options: &Options) -> Result<Self, wasmtime::Error> {
        let engine = Engine::new(options.instances)?;
        let mut linker = Linker::new(engine.wasmtime());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        contract::Plugin::add_to_linker::<Running, HasSelf<Attempt>>(&mut linker, |running| &mut running.attempt)?;
        let cache = options.cache.as_deref().and_then(|folder| Cache::open(folder, engine.fingerprint()));
        let threads = Threads::start()?;
        Ok(Self { engine, linker, cache, compiler: options.compiler.clone(), threads })
    }

    /// The threads that attempts run on, from their beginning to their end: none takes events in.
    pub fn threads(&self) -> &tokio::runtime::Handle {
        self.threads.handle()
    }

    /// Makes a plugin of a file: a core module of `wasm32-wasip1`, or a component. Takes processor time, unless the
    /// compiled form is in the cache.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file and what to do.
    pub fn compile(&self, bytes: &[u8]) -> Result<CompiledPlugin, LoadError> {
        if let Some(known) = self.known(bytes) {
            return known;
        }
        let hash = component::digest(bytes);
        let made = component::guarded(|| self.compiled(bytes, &hash));
        if let (Err(error), Some(cache)) = (&made, &self.cache)
            && error.is_final()
        {
            cache.condemn(&hash, error);
        }
        let (manifest, component) = made?;
        component::guarded(|| self.prepared(bytes, hash, manifest, &component))
    }

    /// What is known of a file without compiling it: the plugin, or why it is none.
    pub fn known(&self, bytes: &[u8]) -> Option<Result<CompiledPlugin, LoadError>> {
        let cache = self.cache.as_ref()?;
        let hash = component::digest(bytes);
        if let Some(error) = cache.verdict(&hash) {
            return Some(Err(error));
        }
        let known = component::guarded(|| {
            let cached = cache.get(self.engine.wasmtime(), &hash);
            let ready = cached.map(|(manifest, component)| self.prepared(bytes, hash, manifest, &component));
            ready.transpose()
        });
        known.transpose()
    }

    fn prepared(
        &self,
        bytes: &[u8],
        hash: String,
        manifest: Manifest,
        compiled: &Component,
    ) -> Result<CompiledPlugin, LoadError> {
        let prepared = self
            .linker
            .instantiate_pre(compiled)
            .and_then(contract::PluginPre::new)
            .map_err(|error| LoadError::Imports(format!("{error:#}")))?;
        Ok(CompiledPlugin { manifest, hash, size: component::size(bytes), prepared, load: Load::default() })
    }

    fn compiled(&self, bytes: &[u8], hash: &str) -> Result<(Manifest, Component), LoadError> {
        if let Some(cache) = &self.cache
            && let Ok(mut writing) = cache.writing(hash)
        {
            match self.compiler.compile(bytes, &mut writing) {
                Ok(manifest) if cache.keep(hash, &manifest, &writing).is_ok() => {
                    if let Some(kept) = cache.get(self.engine.wasmtime(), hash) {
                        return Ok(kept);
                    }
                }
                Err(Refusal::File(error)) => return Err(error),
                // Where no room is for it, it is compiled once more, and held in memory.
                Ok(_) | Err(Refusal::Code(_)) => {}
            }
        }
        let mut code = Vec::new();
        let manifest = self.compiler.compile(bytes, &mut code).map_err(|refusal| match refusal {
            Refusal::File(error) => error,
            Refusal::Code(error) => LoadError::Compiler(error.to_string()),
        })?;
        // It was made for this very engine: what fails now is the machine's memory.
        let component = cache::trusted(self.engine.wasmtime(), &code);
        Ok((manifest, component.map_err(|error| LoadError::Compiler(format!("{error:#}")))?))
    }

    /// Whether a file's compiled form is at hand: else [`Self::compile`] takes its time.
    pub fn is_compiled(&self, bytes: &[u8]) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.has(&component::digest(bytes)))
    }

    /// Removes the oldest compiled plugins beyond so many.
    pub fn forget_oldest_compiled(&self, most: usize) {
        if let Some(cache) = &self.cache {
            cache.keep_newest(most);
        }
    }

    /// Removes compiled plugins that are not among these hashes, or were made for another engine.
    pub fn forget_compiled_except(&self, hashes: &BTreeSet<String>) {
        if let Some(cache) = &self.cache {
            cache.keep_only(hashes);
        }
    }

    /// Runs one attempt to its end.
    pub async fn invoke(
        &self,
        plugin: &CompiledPlugin,
        event: Event,
        number: u32,
        reach: Reach,
        limits: &Limits,
    ) -> (Outcome, Effects) {
        let began = Instant::now();
        let meter = Arc::new(Meter::new(limits.cpu, plugin.load.is_high()));
        let running = Running { attempt: Attempt::new(reach, limits), limits: StoreLimits::new(limits.memory) };
        let mut store = Store::new(self.engine.wasmtime(), running);
        store.set_hostcall_fuel(MOST_HANDED_OVER);
        store.limiter(|running| &mut running.limits);
        self.engine.watch(&mut store, Arc::clone(&meter));
        let _awake = self.engine.awake();

        let call = async {
            let instance = plugin.prepared.instantiate_async(&mut store).await.map_err(fault::Stage::Start)?;
            let event = contract::event_for_plugin(event, number);
            instance.call_handle(&mut store, &event).await.map_err(fault::Stage::Handle)
        };
        let result = in_time(Metered::new(call, &meter, self.engine.heavy()), &meter, limits.time).await;
        let outcome = match result {
            Some(Ok(reply)) => bounded(contract::outcome_of(reply), limits),
            Some(Err(stage)) => {
                let running = store.data();
                Outcome::Failed(fault::of(stage, &running.limits, limits, running.attempt.last_error()))
            }
            None => Outcome::Failed(Fault::new(
                FaultKind::TimeLimit,
                format!(
                    "the plugin did not answer within {} ms, waiting for calls included: raise `time_ms` {RAISE} \
                     if the calls need longer",
                    limits.time.as_millis()
                ),
            )),
        };
        plugin.load.add(&meter);
        let running = store.into_data();
        let mut effects = running.attempt.into_effects();
        effects.usage.cpu = meter.used_micros();
        effects.usage.wall = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        effects.usage.memory = running.limits.peak();
        (outcome, effects)
    }
}

/// What a call brings within its time; the time in which it waited for its turn on the processor is not counted.
async fn in_time<F: Future>(call: Metered<'_, F>, meter: &Meter, time: Duration) -> Option<F::Output> {
    let mut call = std::pin::pin!(call);
    let began = Instant::now();
    loop {
        let mut left = (time + meter.waited()).saturating_sub(began.elapsed());
        if left.is_zero() {
            if !meter.waits() {
                return None;
            }
            // The wait that goes on now is counted when it ends.
            left = LOOK_AGAIN;
        }
        if let Ok(output) = tokio::time::timeout(left, &mut call).await {
            return Some(output);
        }
    }
}

fn bounded(outcome: Outcome, limits: &Limits) -> Outcome {
    let reason = match &outcome {
        Outcome::Skipped { reason } | Outcome::Retry { reason, .. } | Outcome::Rejected { reason } => reason,
        Outcome::Done | Outcome::Failed(_) => return outcome,
    };
    if u64::try_from(reason.len()).unwrap_or(u64::MAX) <= limits.reply {
        return outcome;
    }
    Outcome::Failed(Fault::new(
        FaultKind::ReplyLimit,
        format!("the plugin's reply has {} bytes, {} are allowed: shorten the reason", reason.len(), limits.reply),
    ))
}
