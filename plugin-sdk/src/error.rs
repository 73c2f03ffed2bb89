//! What can go wrong in a handler, and what the host makes of it.

use std::fmt;

use crate::{CrmError, HttpError, Reply, StateError};

/// What a handler returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a handler could not do its work. `?` turns every error of this crate into it.
///
/// When a handler returns it, the delivery is **retried** where time or the administrator may help (transport faults,
/// answers that are not the API's, a wrong key, a missing grant, [`Error::other`]), and **rejected** where they can't (a
/// refusal by the CRM, data of the wrong form). A handler that knows better matches on the error and returns the [`Reply`] it wants.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Error, Reply};
///
/// let error = Error::other("the price list is empty");
/// assert_eq!(error.to_string(), "the price list is empty");
/// assert_eq!(error.into_reply(), Reply::Retry { reason: "the price list is empty".into(), after: None });
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A call to the CRM failed.
    Crm(CrmError),
    /// A call to the plugin's state failed.
    State(StateError),
    /// A request to the outside failed.
    Http(HttpError),
    /// An event, a setting or an answer does not have the expected form.
    Data(String),
    /// Anything else, in the handler's own words.
    Other(String),
}

impl Error {
    /// An error in the handler's own words; the delivery is retried.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Error::other("no").to_string(), "no");
    /// ```
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// An error about data of the wrong form; the delivery is rejected.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{Error, Reply};
    /// assert_eq!(Error::data("no `did`").into_reply(), Reply::Reject { reason: "no `did`".into() });
    /// ```
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data(message.into())
    }

    /// Whether the same call may succeed later.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{CrmError, Error};
    /// assert!(Error::Crm(CrmError::Transport("refused".into())).is_transient());
    /// assert!(!Error::data("no `did`").is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Crm(CrmError::Transport(_) | CrmError::BadAnswer(_) | CrmError::NotGranted(_)) => true,
            // 401: the host's key or login is wrong, which has nothing to do with this event.
            Self::Crm(error) => error.code() == Some("401"),
            Self::Http(error) => matches!(error, HttpError::Transport(_) | HttpError::NotGranted(_)),
            Self::State(error) => matches!(error, StateError::NotGranted(_)),
            Self::Data(_) => false,
            Self::Other(_) => true,
        }
    }

    /// The reply that the host gets when a handler returns this error.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{CrmError, Error, Reply};
    /// let error = Error::from(CrmError::Refused { code: Some("403".into()), text: "нет".into() });
    /// assert_eq!(error.into_reply(), Reply::Reject { reason: "the CRM refused with code 403: нет".into() });
    /// ```
    pub fn into_reply(self) -> Reply {
        let reason = self.to_string();
        if self.is_transient() { Reply::Retry { reason, after: None } } else { Reply::Reject { reason } }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crm(error) => error.fmt(formatter),
            Self::State(error) => error.fmt(formatter),
            Self::Http(error) => error.fmt(formatter),
            Self::Data(text) | Self::Other(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<CrmError> for Error {
    fn from(error: CrmError) -> Self {
        Self::Crm(error)
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<HttpError> for Error {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Data(error.to_string())
    }
}
