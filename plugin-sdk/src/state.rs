//! The plugin's own small memory.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::Backend;
use crate::{Error, Result};

/// Why a state call failed.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::StateError;
/// assert_eq!(StateError::Invalid("the key is empty".into()).to_string(), "the state call can't be made: the key is empty");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The plugin's grants do not cover state. The text says where to add it.
    NotGranted(String),
    /// A limit is used up, the key is wrong, or the value is not what the call needs.
    Invalid(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(text) => formatter.write_str(text),
            Self::Invalid(text) => write!(formatter, "the state call can't be made: {text}"),
        }
    }
}

impl std::error::Error for StateError {}

/// Keys and values that outlive the instance, kept per plugin and account.
///
/// Writes take effect together with the delivery's outcome, or not at all. Two deliveries that run at the same time and
/// read and write the same key do not overwrite each other: the later one is run again.
#[derive(Clone, Copy)]
pub struct State<'a> {
    backend: &'a dyn Backend,
}

impl<'a> State<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend }
    }

    /// The value of `key`, with this delivery's own writes.
    ///
    /// # Errors
    /// [`Error::State`]; [`Error::Data`] when the stored value does not fit `T`.
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// assert_eq!(fake.host().state().get::<u32>("seen")?, None);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(text) = self.backend.state_get(key)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Data(format!("the state of `{key}` does not fit: {error}")))
    }

    /// Sets `key` to `value`, kept as JSON.
    ///
    /// # Errors
    /// [`Error::State`]; [`Error::Data`] when `value` can't be written as JSON.
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// fake.host().state().set("stage", &40)?;
    /// assert_eq!(fake.host().state().get::<u32>("stage")?, Some(40));
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        Ok(self.backend.state_set(key, &serde_json::to_string(value)?)?)
    }

    /// Removes `key`; nothing happens where there is none.
    ///
    /// # Errors
    /// [`StateError`].
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// fake.host().state().delete("stage")?;
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn delete(&self, key: &str) -> Result<(), StateError> {
        self.backend.state_delete(key)
    }

    /// Adds `amount` to the whole number at `key` (0 where there is none) and returns the sum. Deliveries that run at
    /// the same time add up correctly and never make each other run again: the way to count.
    ///
    /// # Errors
    /// [`StateError::Invalid`] when the value is not a whole number or the sum does not fit 64 bits.
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// assert_eq!(fake.host().state().increment("seen", 2), Ok(2));
    /// assert_eq!(fake.host().state().increment("seen", 1), Ok(3));
    /// ```
    pub fn increment(&self, key: &str, amount: i64) -> Result<i64, StateError> {
        self.backend.state_increment(key, amount)
    }

    /// The keys that start with `prefix`, sorted: at most 1,000, those behind `after`.
    ///
    /// # Errors
    /// [`StateError`].
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// fake.host().state().set("seen.a", &1)?;
    /// fake.host().state().set("seen.b", &1)?;
    /// assert_eq!(fake.host().state().keys("seen.", Some("seen.a"))?, ["seen.b"]);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StateError> {
        self.backend.state_keys(prefix, after)
    }
}
