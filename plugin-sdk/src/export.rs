//! The entry point of a plugin file: [`export!`](crate::export) and the conversions behind it.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::bindings::salesman::plugin as contract;
use crate::bindings::salesman::plugin::types;
use crate::host::Backend;
use crate::{
    CrmError, Entity, Event, Host, HttpError, Level, Plugin, RecordKind, Reply, Request, Response, StateError, Via,
};

/// Makes a crate a plugin: exports the handler and puts `plugin.toml` and the contract's version into the file.
///
/// Takes an expression that makes the plugin: the name of a unit struct, or a constructor. `plugin.toml` is read from
/// the crate's folder when it is compiled; the host reads it from the file without running any code.
///
/// # Example
/// ```ignore
/// struct Greeter;
/// impl Plugin for Greeter { /* … */ }
/// salesman_plugin_sdk::export!(Greeter);
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:expr) => {
        const _: () = {
            const MANIFEST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml"));

            #[cfg(target_arch = "wasm32")]
            #[used]
            #[unsafe(link_section = "salesman:manifest")]
            static MANIFEST_SECTION: [u8; MANIFEST.len()] = {
                let mut bytes = [0; MANIFEST.len()];
                bytes.copy_from_slice(MANIFEST.as_bytes());
                bytes
            };

            #[cfg(target_arch = "wasm32")]
            #[used]
            #[unsafe(link_section = "salesman:api-version")]
            static VERSION_SECTION: [u8; $crate::API_VERSION.len()] = {
                let mut bytes = [0; $crate::API_VERSION.len()];
                bytes.copy_from_slice($crate::API_VERSION.as_bytes());
                bytes
            };

            struct Exported;

            impl $crate::__private::bindings::Guest for Exported {
                fn handle(event: $crate::__private::Event) -> $crate::__private::Reply {
                    $crate::__private::handle(&$plugin, event)
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::__private::bindings::export_bindings!(Exported with_types_in $crate::__private::bindings);

            // Elsewhere nothing is exported, but the plugin counts as used and its manifest must be there.
            #[cfg(not(target_arch = "wasm32"))]
            const _: (&str, fn($crate::__private::Event) -> $crate::__private::Reply) =
                (MANIFEST, <Exported as $crate::__private::bindings::Guest>::handle);
        };
    };
}

#[doc(hidden)]
pub fn handle(plugin: &impl Plugin, event: types::Event) -> types::Reply {
    report_panics();
    let reply = match event_from(event) {
        Ok(event) => plugin.handle(event, &Host::new(&Imports)).unwrap_or_else(crate::Error::into_reply),
        Err(reason) => Reply::Reject { reason },
    };
    match reply {
        Reply::Done => types::Reply::Done,
        Reply::Skip { reason } => types::Reply::Skip(reason),
        Reply::Retry { reason, after } => types::Reply::Retry(types::Retry {
            reason,
            after: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }),
        Reply::Reject { reason } => types::Reply::Reject(reason),
    }
}

/// A panic's message and place would go to a standard error that nobody reads: they go into the attempt.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| contract::log::write(contract::log::Level::Error, &panic.to_string())));
}

fn event_from(event: types::Event) -> Result<Event, String> {
    let fields: Map<String, Value> = serde_json::from_str(&event.fields)
        .map_err(|error| format!("the event's fields are not a JSON object: {error}"))?;
    Ok(Event {
        id: event.id,
        account: event.account,
        name: event.name,
        received_at: event.received_at,
        via: match event.via {
            types::Via::Form => Via::Form,
            types::Via::Query => Via::Query,
            types::Via::Json => Via::Json,
            types::Via::Poll => Via::Poll,
        },
        actor: event.actor,
        entity: event.entity.map(|entity| Entity { kind: entity.kind, id: entity.id }),
        fields,
        attempt: event.attempt,
    })
}

/// The contract's imports as what stands behind a [`Host`].
struct Imports;

impl Backend for Imports {
    fn crm_call(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<Value, CrmError> {
        let request =
            contract::crm::Request { method: method.to_owned(), action: action.to_owned(), arguments: json(arguments) };
        let body = contract::crm::call(&request).map_err(crm_error)?;
        serde_json::from_str(&body).map_err(|error| CrmError::BadAnswer(error.to_string()))
    }

    fn crm_update(
        &self,
        kind: RecordKind,
        id: u64,
        changes: &Map<String, Value>,
        accepted: &[String],
    ) -> Result<Vec<String>, CrmError> {
        let kind = match kind {
            RecordKind::Client => contract::crm::RecordKind::Client,
            RecordKind::Person => contract::crm::RecordKind::Person,
            RecordKind::Deal => contract::crm::RecordKind::Deal,
            RecordKind::Task => contract::crm::RecordKind::Task,
        };
        match accepted {
            [] => contract::crm::update(kind, id, &json(changes)),
            accepted => contract::crm::update_losing(kind, id, &json(changes), accepted),
        }
        .map_err(crm_error)
    }

    fn state_get(&self, key: &str) -> Result<Option<String>, StateError> {
        contract::state::get(key).map_err(state_error)
    }

    fn state_set(&self, key: &str, value: &str) -> Result<(), StateError> {
        contract::state::set(key, value).map_err(state_error)
    }

    fn state_delete(&self, key: &str) -> Result<(), StateError> {
        contract::state::delete(key).map_err(state_error)
    }

    fn state_increment(&self, key: &str, amount: i64) -> Result<i64, StateError> {
        contract::state::increment(key, amount).map_err(state_error)
    }

    fn state_keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StateError> {
        contract::state::keys(prefix, after).map_err(state_error)
    }

    fn http_send(&self, request: &Request) -> Result<Response, HttpError> {
        let request = contract::http::Request {
            method: request.method.clone(),
            url: request.url.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            timeout: request.timeout.map(milliseconds),
        };
        match contract::http::send(&request) {
            Ok(response) => Ok(Response { status: response.status, headers: response.headers, body: response.body }),
            Err(contract::http::Error::NotGranted(text)) => Err(HttpError::NotGranted(text)),
            Err(contract::http::Error::Transport(text)) => Err(HttpError::Transport(text)),
            Err(contract::http::Error::Invalid(text)) => Err(HttpError::Invalid(text)),
        }
    }

    fn settings(&self) -> String {
        contract::settings::get()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => contract::log::Level::Debug,
            Level::Info => contract::log::Level::Info,
            Level::Warn => contract::log::Level::Warn,
            Level::Error => contract::log::Level::Error,
        };
        contract::log::write(level, message);
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn json(object: &Map<String, Value>) -> String {
    // A map of JSON values always prints.
    serde_json::to_string(object).unwrap_or_else(|_| "{}".to_owned())
}

fn crm_error(error: contract::crm::Error) -> CrmError {
    match error {
        contract::crm::Error::NotGranted(text) => CrmError::NotGranted(text),
        contract::crm::Error::Refused(refusal) => CrmError::Refused { code: refusal.code, text: refusal.text },
        contract::crm::Error::Transport(text) => CrmError::Transport(text),
        contract::crm::Error::BadAnswer(text) => CrmError::BadAnswer(text),
        contract::crm::Error::Invalid(text) => CrmError::Invalid(text),
        contract::crm::Error::Uncertain(text) => CrmError::Uncertain(text),
    }
}

fn state_error(error: contract::state::Error) -> StateError {
    match error {
        contract::state::Error::NotGranted(text) => StateError::NotGranted(text),
        contract::state::Error::Invalid(text) => StateError::Invalid(text),
    }
}
