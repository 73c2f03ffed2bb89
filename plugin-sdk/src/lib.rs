//! Write plugins for SalesMan Plugin Host in Rust.
//!
//! A plugin is one struct with one method. The host calls it once per delivery, in a fresh sandboxed instance, with
//! the [`Event`] and a [`Host`] through which it reaches the CRM, its own state, its settings and the outside:
//!
//! ```
//! use salesman_plugin_sdk::{Event, EventData, Host, Plugin, Reply, Result};
//!
//! struct Greeter;
//!
//! impl Plugin for Greeter {
//!     fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
//!         match event.data()? {
//!             EventData::ClientAdd(added) => {
//!                 host.info(format!("client {} arrived", added.clid));
//!                 Reply::done()
//!             }
//!             _ => Reply::skip(),
//!         }
//!     }
//! }
//!
//! // Under plain `cargo test` the same code runs against a fake host.
//! let host = salesman_plugin_sdk::testing::FakeHost::new();
//! let event = salesman_plugin_sdk::testing::event("client.add", &[("clid", "7")]);
//! assert_eq!(Greeter.handle(event, &host.host()), Reply::done());
//! assert_eq!(host.lines(), ["info: client 7 arrived"]);
//! ```
//!
//! In a plugin crate `export!(Greeter);` follows, which puts the crate's `plugin.toml` into the file. The crate's
//! README leads from nothing to a loaded plugin.
//!
//! The author writes no `unsafe`; the only one is the generated glue of the component model.

#[doc(hidden)]
pub mod bindings;
mod crm;
mod error;
mod event;
mod export;
mod host;
mod http;
mod reply;
mod state;
pub mod testing;

pub use crm::{Answer, Client, Crm, CrmError, Deal, HistoryEntry, List, Person, PersonLink, RecordKind, Records, Task};
pub use error::{Error, Result};
pub use event::*;
pub use host::{Host, Level};
pub use http::{Http, HttpError, Request, Response};
pub use reply::Reply;
pub use state::{State, StateError};

#[doc(hidden)]
pub mod __private {
    pub use crate::bindings;
    pub use crate::bindings::salesman::plugin::types::{Event, Reply};
    pub use crate::export::handle;
}

/// The version of the contract that this SDK speaks, as `major.minor`. The host refuses a plugin of another major.
pub const API_VERSION: &str = "1.0";

/// A handler of the CRM's events.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Event, Host, Plugin, Reply, Result};
///
/// struct Nothing;
/// impl Plugin for Nothing {
///     fn handle(&self, _event: Event, _host: &Host) -> Result<Reply> {
///         Reply::skip()
///     }
/// }
/// ```
pub trait Plugin {
    /// Handles one delivery. Called in a fresh instance each time: what must be remembered goes into [`Host::state`].
    ///
    /// # Errors
    /// What `?` brings up decides what becomes of the delivery: see [`Error`].
    fn handle(&self, event: Event, host: &Host) -> Result<Reply>;
}
