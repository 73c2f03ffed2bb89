//! The contract with plugins (`plugin-sdk/wit/plugin.wit`), and its words in ours.
//!
//! Not here: what a call does (`capabilities`) or how an instance is made (`sandbox`).

use std::time::Duration;

use crate::event::{Event, Via};
use crate::outcome::Outcome;

mod bindings {

    wasmtime::component::bindgen!({
        path: "../plugin-sdk/wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(crate) use bindings::salesman::plugin::{crm, http, log, settings, state, types};
pub(crate) use bindings::{Plugin, PluginPre};

/// The major version of the contract that this host speaks.
pub(crate) const API_MAJOR: u32 = 1;

/// An event as a plugin gets it.
pub(crate) fn event_for_plugin(event: Event, attempt: u32) -> types::Event {
    types::Event {
        id: event.id.to_string(),
        account: event.account,
        name: event.name,
        received_at: u64::try_from(event.received_at).unwrap_or(0),
        via: match event.via {
            Via::Form => types::Via::Form,
            Via::Query => types::Via::Query,
            Via::Json => types::Via::Json,
            Via::Poll => types::Via::Poll,
        },
        actor: event.actor,
        entity: event.entity.map(|entity| types::Entity { kind: entity.kind, id: entity.id }),
        fields: event.fields,
        attempt,
    }
}

/// A plugin's reply as an outcome.
pub(crate) fn outcome_of(reply: types::Reply) -> Outcome {
    match reply {
        types::Reply::Done => Outcome::Done,
        types::Reply::Skip(reason) => Outcome::Skipped { reason },
        types::Reply::Retry(retry) => {
            Outcome::Retry { reason: retry.reason, after: retry.after.map(Duration::from_millis) }
        }
        types::Reply::Reject(reason) => Outcome::Rejected { reason },
    }
}
