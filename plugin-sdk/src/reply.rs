//! What a handler answers.

use std::time::Duration;

use crate::Result;

/// What became of a delivery.
///
/// The constructors return a `Result`, so that the arms of a handler read alike and need no `Ok(…)`.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Reply;
/// assert_eq!(Reply::done(), Ok(Reply::Done));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Handled.
    Done,
    /// Nothing to do here.
    Skip {
        /// Why; shown to the operator, may be empty.
        reason: String,
    },
    /// Try again later.
    Retry {
        /// Why; shown to the operator.
        reason: String,
        /// The shortest wait; `None` leaves it to the host's backoff.
        after: Option<Duration>,
    },
    /// Never going to work: no retry, an operator must look.
    Reject {
        /// Why; shown to the operator.
        reason: String,
    },
}

impl Reply {
    /// The event is handled.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// assert!(salesman_plugin_sdk::Reply::done().is_ok());
    /// ```
    pub fn done() -> Result<Self> {
        Ok(Self::Done)
    }

    /// Nothing to do for this event.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Reply;
    /// assert_eq!(Reply::skip(), Ok(Reply::Skip { reason: String::new() }));
    /// ```
    pub fn skip() -> Result<Self> {
        Self::skip_because("")
    }

    /// Nothing to do for this event, and why.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Reply;
    /// assert_eq!(Reply::skip_because("no phone"), Ok(Reply::Skip { reason: "no phone".into() }));
    /// ```
    pub fn skip_because(reason: impl Into<String>) -> Result<Self> {
        Ok(Self::Skip { reason: reason.into() })
    }

    /// Try again when the host's backoff says so.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// assert!(salesman_plugin_sdk::Reply::retry("the price list is not ready").is_ok());
    /// ```
    pub fn retry(reason: impl Into<String>) -> Result<Self> {
        Ok(Self::Retry { reason: reason.into(), after: None })
    }

    /// Try again, not before `after` has passed.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// use std::time::Duration;
    /// assert!(salesman_plugin_sdk::Reply::retry_after(Duration::from_secs(60), "asked to wait").is_ok());
    /// ```
    pub fn retry_after(after: Duration, reason: impl Into<String>) -> Result<Self> {
        Ok(Self::Retry { reason: reason.into(), after: Some(after) })
    }

    /// Never going to work: the delivery becomes a dead letter at once.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Example
    /// ```
    /// assert!(salesman_plugin_sdk::Reply::reject("the setting `chat` is empty").is_ok());
    /// ```
    pub fn reject(reason: impl Into<String>) -> Result<Self> {
        Ok(Self::Reject { reason: reason.into() })
    }
}
