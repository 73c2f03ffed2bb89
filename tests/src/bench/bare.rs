//! The least that runs the same component on the same event: a fresh store and instance, one call. No limits, no clock,
//! no record, no grants.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../plugin-sdk/wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

use bindings::salesman::plugin::{crm, http, log, settings, state, types};

/// A no-op calls nothing of the host.
fn not_called<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::msg("the no-op called the host"))
}

impl types::Host for Nothing {}

impl crm::Host for Nothing {
    async fn call(&mut self, _: crm::Request) -> wasmtime::Result<Result<String, crm::Error>> {
        not_called()
    }

    async fn update(
        &mut self,
        _: crm::RecordKind,
        _: u64,
        _: String,
    ) -> wasmtime::Result<Result<Vec<String>, crm::Error>> {
        not_called()
    }

    async fn update_losing(
        &mut self,
        _: crm::RecordKind,
        _: u64,
        _: String,
        _: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<String>, crm::Error>> {
        not_called()
    }
}

impl state::Host for Nothing {
    async fn get(&mut self, _: String) -> wasmtime::Result<Result<Option<String>, state::Error>> {
        not_called()
    }

    async fn set(&mut self, _: String, _: String) -> wasmtime::Result<Result<(), state::Error>> {
        not_called()
    }

    async fn delete(&mut self, _: String) -> wasmtime::Result<Result<(), state::Error>> {
        not_called()
    }

    async fn increment(&mut self, _: String, _: i64) -> wasmtime::Result<Result<i64, state::Error>> {
        not_called()
    }

    async fn keys(&mut self, _: String, _: Option<String>) -> wasmtime::Result<Result<Vec<String>, state::Error>> {
        not_called()
    }
}

impl http::Host for Nothing {
    async fn send(&mut self, _: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        not_called()
    }
}

impl settings::Host for Nothing {
    async fn get(&mut self) -> wasmtime::Result<String> {
        not_called()
    }
}

impl log::Host for Nothing {
    async fn write(&mut self, _: log::Level, _: String) -> wasmtime::Result<()> {
        not_called()
    }
}

struct Nothing {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Nothing {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

pub(crate) struct Bare {
    engine: Engine,
    plugin: bindings::PluginPre<Nothing>,
}

fn failed(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

impl Bare {
    pub(crate) fn new(module: &[u8]) -> anyhow::Result<Self> {
        let component = wit_component::ComponentEncoder::default()
            .module(module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .encode()?;
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(32).total_memories(64).linear_memory_keep_resident(128 << 10);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(failed)?;
        let component = Component::from_binary(&engine, &component).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        bindings::Plugin::add_to_linker::<Nothing, HasSelf<Nothing>>(&mut linker, |nothing| nothing).map_err(failed)?;
        let plugin = linker.instantiate_pre(&component).and_then(bindings::PluginPre::new).map_err(failed)?;
        Ok(Self { engine, plugin })
    }

    pub(crate) async fn call(&self, fields: &str) -> anyhow::Result<()> {
        let nothing = Nothing { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
        let mut store = Store::new(&self.engine, nothing);
        let instance = self.plugin.instantiate_async(&mut store).await.map_err(failed)?;
        let event = types::Event {
            id: "01936f5e-0000-7000-8000-000000000001".to_owned(),
            account: "main".to_owned(),
            name: "test.sin".to_owned(),
            received_at: 0,
            via: types::Via::Form,
            actor: Some(1),
            entity: None,
            fields: fields.to_owned(),
            attempt: 1,
        };
        let reply = instance.call_handle(&mut store, &event).await.map_err(failed)?;
        anyhow::ensure!(matches!(reply, types::Reply::Done), "the no-op did something");
        Ok(())
    }
}
