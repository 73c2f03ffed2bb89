//! The door to the host. A handler sees one [`Host`]; behind it stands the real host or a fake one.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Crm, CrmError, Error, Http, HttpError, RecordKind, Request, Response, Result, State, StateError};

/// How much a log line matters.
///
/// # Example
/// ```
/// assert_eq!(salesman_plugin_sdk::Level::Warn.to_string(), "warn");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// What happened.
    Info,
    /// Something is odd, the work goes on.
    Warn,
    /// Something failed.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// What a handler can reach.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Host, Result};
///
/// fn count(host: &Host) -> Result<i64> {
///     host.info("counting");
///     Ok(host.state().increment("seen", 1)?)
/// }
/// # let fake = salesman_plugin_sdk::testing::FakeHost::new();
/// # assert_eq!(count(&fake.host()), Ok(1));
/// ```
pub struct Host<'a> {
    backend: &'a dyn Backend,
}

impl<'a> Host<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend }
    }

    /// The CRM's REST API.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) -> salesman_plugin_sdk::Result<()> {
    /// let clients = host.crm().call("client", "list", &serde_json::json!({ "word": "Ромашка" }))?;
    /// # Ok(()) }
    /// ```
    pub fn crm(&self) -> Crm<'a> {
        Crm::new(self.backend)
    }

    /// The plugin's own memory.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) -> salesman_plugin_sdk::Result<()> {
    /// host.state().set("last", &"2026-11-23")?;
    /// # Ok(()) }
    /// ```
    pub fn state(&self) -> State<'a> {
        State::new(self.backend)
    }

    /// Requests to the outside.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) -> salesman_plugin_sdk::Result<()> {
    /// let answer = host.http().post_json("https://chat.example.com/hook", &serde_json::json!({ "text": "hi" }))?;
    /// # Ok(()) }
    /// ```
    pub fn http(&self) -> Http<'a> {
        Http::new(self.backend)
    }

    /// What the administrator set: the manifest's `[settings]` overlaid by the host's configuration.
    ///
    /// # Errors
    /// [`Error::Data`] when they do not have the form of `T`; the message names the setting.
    ///
    /// # Example
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Settings { chat: String }
    ///
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new().with_settings(serde_json::json!({ "chat": "sales" }));
    /// let settings: Settings = fake.host().settings()?;
    /// assert_eq!(settings.chat, "sales");
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.backend.settings())
            .map_err(|error| Error::Data(format!("the plugin's settings do not fit: {error}")))
    }

    /// Keeps a line with this attempt.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) {
    /// host.log(salesman_plugin_sdk::Level::Debug, "stage 40, no rule");
    /// # }
    /// ```
    pub fn log(&self, level: Level, message: impl AsRef<str>) {
        self.backend.log(level, message.as_ref());
    }

    /// Keeps a line for the plugin's author.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) { host.debug("no rule for this stage"); }
    /// ```
    pub fn debug(&self, message: impl AsRef<str>) {
        self.log(Level::Debug, message);
    }

    /// Keeps a line about what happened.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) { host.info("task 12 added"); }
    /// ```
    pub fn info(&self, message: impl AsRef<str>) {
        self.log(Level::Info, message);
    }

    /// Keeps a line about something odd.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) { host.warn("the deal has no responsible employee"); }
    /// ```
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(Level::Warn, message);
    }

    /// Keeps a line about a failure.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(host: &salesman_plugin_sdk::Host) { host.error("the chat answered 500"); }
    /// ```
    pub fn error(&self, message: impl AsRef<str>) {
        self.log(Level::Error, message);
    }
}

/// What stands behind a [`Host`]: the contract's imports, or a test's fake.
pub(crate) trait Backend {
    fn crm_call(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<Value, CrmError>;
    fn crm_update(
        &self,
        kind: RecordKind,
        id: u64,
        changes: &Map<String, Value>,
        accepted: &[String],
    ) -> Result<Vec<String>, CrmError>;
    fn state_get(&self, key: &str) -> Result<Option<String>, StateError>;
    fn state_set(&self, key: &str, value: &str) -> Result<(), StateError>;
    fn state_delete(&self, key: &str) -> Result<(), StateError>;
    fn state_increment(&self, key: &str, amount: i64) -> Result<i64, StateError>;
    fn state_keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StateError>;
    fn http_send(&self, request: &Request) -> Result<Response, HttpError>;
    fn settings(&self) -> String;
    fn log(&self, level: Level, message: &str);
}
