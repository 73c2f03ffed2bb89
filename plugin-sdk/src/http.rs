//! Requests to the outside, to granted origins only.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::Backend;
use crate::{Error, Result};

/// Why a request brought no answer. An answer of status 4xx or 5xx is a [`Response`], not an error.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::HttpError;
/// assert_eq!(HttpError::Transport("timed out".into()).to_string(), "the request brought no answer: timed out");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// The origin is not granted, or leads to a private address. The text says where to add it.
    NotGranted(String),
    /// No connection, no answer in time, an answer that is too large, a redirect to another origin.
    Transport(String),
    /// The request is wrong, or this delivery's limit of calls is used up.
    Invalid(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(text) => formatter.write_str(text),
            Self::Transport(text) => write!(formatter, "the request brought no answer: {text}"),
            Self::Invalid(text) => write!(formatter, "the request can't be made: {text}"),
        }
    }
}

impl std::error::Error for HttpError {}

/// One request.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Request;
/// let request = Request::new("GET", "https://rates.example.com/eur").header("accept", "application/json");
/// assert_eq!(request.headers.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE` or `HEAD`.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// A shorter limit than the host's.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A request without headers and body.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Request::new("GET", "https://example.com/").method, "GET");
    /// ```
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// Adds a header.
    ///
    /// # Example
    /// ```
    /// let request = salesman_plugin_sdk::Request::new("GET", "https://example.com/").header("accept", "text/plain");
    /// assert_eq!(request.headers, [("accept".to_string(), "text/plain".to_string())]);
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Request::new("POST", "https://example.com/").body("hi").body, b"hi");
    /// ```
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// What the other side answered.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Response;
/// let response = Response { status: 200, headers: vec![], body: br#"{"ok":true}"#.to_vec() };
/// assert!(response.is_success());
/// assert_eq!(response.text(), r#"{"ok":true}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the status is 2xx.
    ///
    /// # Example
    /// ```
    /// # use salesman_plugin_sdk::Response;
    /// assert!(!Response { status: 404, headers: vec![], body: vec![] }.is_success());
    /// ```
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text; bytes that are not UTF-8 become the replacement character.
    ///
    /// # Example
    /// ```
    /// # use salesman_plugin_sdk::Response;
    /// assert_eq!(Response { status: 200, headers: vec![], body: b"hi".to_vec() }.text(), "hi");
    /// ```
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`Error::Data`] when it is not JSON of that form.
    ///
    /// # Example
    /// ```
    /// # use salesman_plugin_sdk::Response;
    /// let response = Response { status: 200, headers: vec![], body: b"[1,2]".to_vec() };
    /// assert_eq!(response.json::<Vec<u32>>()?, [1, 2]);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Data(format!("the answer is not the JSON expected: {error}")))
    }
}

/// Requests to the outside.
#[derive(Clone, Copy)]
pub struct Http<'a> {
    backend: &'a dyn Backend,
}

impl<'a> Http<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend }
    }

    /// Sends `request` and waits for the whole answer.
    ///
    /// # Errors
    /// [`HttpError`], all variants.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{Request, testing::FakeHost};
    /// let fake = FakeHost::new().respond(200, "pong");
    /// assert_eq!(fake.host().http().send(&Request::new("GET", "https://example.com/ping"))?.text(), "pong");
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn send(&self, request: &Request) -> Result<Response, HttpError> {
        self.backend.http_send(request)
    }

    /// Posts `body` as JSON.
    ///
    /// # Errors
    /// [`HttpError`], all variants; [`HttpError::Invalid`] when `body` can't be written as JSON.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// let fake = FakeHost::new().respond(200, "ok");
    /// let answer = fake.host().http().post_json("https://chat.example.com/hook", &serde_json::json!({ "text": "hi" }))?;
    /// assert_eq!(answer.status, 200);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn post_json(&self, url: &str, body: &impl Serialize) -> Result<Response, HttpError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| HttpError::Invalid(format!("the body can't be written as JSON: {error}")))?;
        self.send(&Request::new("POST", url).header("content-type", "application/json").body(body))
    }
}
