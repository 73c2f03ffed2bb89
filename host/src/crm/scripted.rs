//! Answers from a script in place of the CRM: for rehearsals, which must change nothing.
//!
//! - Only the connection is replaced: arguments are checked, and answers judged, as always.
//! - A recorded error comes back as the kind that its words tell; the record holds only words.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Error;
use super::stranger::Stranger;

/// Who answers in place of the CRM.
pub trait Answers: Send + Sync {
    /// The body that the CRM would send.
    ///
    /// # Errors
    /// [`Error`], as the plugin is to see it.
    fn answer(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<String, Error>;
}

/// How a client's calls go.
pub(super) enum Way {
    /// To the CRM.
    Live(reqwest::Client),
    /// Nowhere.
    Scripted(Arc<dyn Answers>),
    /// Reads to the CRM, writes nowhere.
    Dry(reqwest::Client, Arc<dyn Answers>),
}

impl Error {
    /// The error that was recorded in these words.
    pub fn from_words(words: &str) -> Self {
        let text = words.to_owned();
        if let Some(rest) = words.strip_prefix("the CRM refused") {
            if let Some((code, text)) = rest.strip_prefix(" with code ").and_then(|rest| rest.split_once(": ")) {
                return Self::Refused { code: Some(code.to_owned()), text: text.to_owned() };
            }
            if let Some(text) = rest.strip_prefix(": ") {
                return Self::Refused { code: None, text: text.to_owned() };
            }
        }
        if let Some(stranger) = Stranger::from_words(words) {
            return Self::NotTheApi(stranger);
        }
        let starts = |starts: &[&str]| starts.iter().any(|start| words.starts_with(start));
        if starts(&["no connection", "the CRM can't be reached"]) {
            return Self::Unsent(text);
        }
        // A status such as 502 means that the CRM's server is down; any other comes with the call's name.
        let down = words.starts_with("the CRM's web server answered 50") && !words.contains(" to `");
        if down || starts(&["no answer in time", "the answer broke off", "the request failed"]) {
            return Self::Transport(text);
        }
        if starts(&["the answer ", "the CRM's web server answered"]) {
            return Self::BadAnswer(text);
        }
        if words.contains(" was sent a moment ago") {
            return Self::Transport(text);
        }
        Self::Invalid(text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::crm::stranger::PhpError;

    #[test]
    fn a_recorded_error_comes_back_as_what_it_was() {
        for error in [
            Error::Refused { code: Some("403".into()), text: "Клиент: не найден".into() },
            Error::Refused { code: None, text: "нет".into() },
            Error::Transport("no answer in time: operation timed out".into()),
            Error::Transport("the CRM's web server answered 503".into()),
            Error::Unsent("no connection: refused".into()),
            Error::BadAnswer("the answer is larger than 16777216 bytes".into()),
            Error::NotTheApi(Stranger::Empty),
            Error::NotTheApi(Stranger::Page),
            Error::NotTheApi(Stranger::Php(PhpError::Database)),
            Error::NotTheApi(Stranger::Status(500)),
            Error::NotTheApi(Stranger::Busy { status: 503, after: None }),
            Error::NotTheApi(Stranger::Busy { status: 429, after: Some(Duration::from_secs(30)) }),
            Error::Invalid("`a b` is no name of an argument".into()),
        ] {
            assert_eq!(Error::from_words(&error.to_string()), error);
        }
    }
}
