//! Who answers in a rehearsal: a file, a recording, made-up success for writes that are not sent, or nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use super::Called;
use super::answers::Answers;
use super::record::Recording;
use crate::capabilities::{OutsideAnswer, OutsideAnswers, OutsideRequest, STATE_READ, STATE_READ_NONE};
use crate::crm::{self, target};

/// How the words of a call begin that nobody answers.
pub(super) const NO_ANSWER: &str = "no answer for ";
/// The first number of a record that was not really added: no CRM of a box counts so far.
const MADE_UP: u64 = 900_000_001;

/// What is said, and by whom.
pub(super) enum Script {
    /// Every call fails and says why.
    Nothing,
    /// As a file says.
    File(Mutex<Answers>),
    /// As was recorded.
    Recording(Box<Mutex<Recording>>),
    /// Success, with made-up numbers; the number of the next record.
    MadeUp(Mutex<u64>),
}

impl Script {
    pub(super) fn made_up() -> Self {
        Self::MadeUp(Mutex::new(MADE_UP))
    }

    /// What was there and nobody asked for.
    pub(super) fn unused(&self) -> Vec<String> {
        match self {
            Self::File(answers) => lock(answers).unused(),
            Self::Recording(recording) => lock(recording).unused(),
            Self::Nothing | Self::MadeUp(_) => Vec::new(),
        }
    }

    /// Answers that may not be those of the call, in words.
    pub(super) fn guesses(&self, calls: &[Called]) -> Vec<String> {
        let Self::Recording(recording) = self else { return Vec::new() };
        let recording = lock(recording);
        let reads = calls.iter().filter(|call| matches!(call.call.as_str(), STATE_READ | STATE_READ_NONE));
        let unknown = reads.filter(|call| !recording.knows(&call.request));
        let told =
            |call: &Called| format!("the stored value of `{}` was not read then: it is not known here", call.request);
        recording.guesses().into_iter().chain(unknown.map(told)).collect()
    }

    /// Why nobody answers, and what to do.
    fn silence(&self, call: &str) -> String {
        let why = match self {
            Self::Nothing => {
                "this rehearsal has none: give some with `--answers`, or use the CRM's own with `--dry-run`"
            }
            Self::File(_) => "the answers file has no entry that fits",
            Self::Recording(_) => "the delivery never made this call, or its answer was too long to be recorded whole",
            Self::MadeUp(_) => "it is not sent",
        };
        format!("{NO_ANSWER}`{call}`: {why}")
    }
}

impl crm::scripted::Answers for Script {
    fn answer(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<String, crm::Error> {
        let call = format!("{method}.{action}");
        let answer = match self {
            Self::Nothing => None,
            Self::File(answers) => lock(answers).crm(&call, arguments),
            Self::Recording(recording) => lock(recording).crm(&call, arguments),
            Self::MadeUp(next) => {
                let record = target::target(method, action, arguments).record.and_then(|record| record.parse().ok());
                let number = record.unwrap_or_else(|| {
                    let mut next = lock(next);
                    *next += 1;
                    *next - 1
                });
                Some(Ok(json!({ "result": "Успешно", "data": number }).to_string()))
            }
        };
        answer.unwrap_or_else(|| Err(crm::Error::Unsent(self.silence(&call))))
    }
}

/// A script in front of a host that runs: what it has no answer for is refused, so that nobody waits for a CRM to come back.
pub(super) struct Standing(pub(super) Arc<Script>);

impl crm::scripted::Answers for Standing {
    fn answer(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<String, crm::Error> {
        crm::scripted::Answers::answer(&*self.0, method, action, arguments).map_err(|error| match error {
            crm::Error::Unsent(text) => crm::Error::Refused { code: None, text },
            other => other,
        })
    }
}

impl OutsideAnswers for Script {
    fn answer(&self, request: &OutsideRequest<'_>) -> Result<OutsideAnswer, String> {
        let OutsideRequest { method, url, origin, body } = *request;
        let answer = match self {
            Self::Nothing => None,
            Self::File(answers) => lock(answers).outside(method, url, origin, body),
            Self::Recording(recording) => lock(recording).outside(method, origin, body),
            Self::MadeUp(_) => Some(Ok(OutsideAnswer {
                status: 200,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body: br#"{"ok":true}"#.to_vec(),
            })),
        };
        // The path may hold a token.
        answer.unwrap_or_else(|| Err(self.silence(&format!("{method} {origin}"))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
