//! Calls to the CRM's REST API: grant → call → record.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Attempt;
use super::writes::Failure;
use crate::contract::crm::{Error, Host, RecordKind, Refusal, Request};
use crate::crm::{is_read, update};
use crate::{crm, telemetry};

impl Attempt {
    /// A refused call is recorded as well: the operator sees what the plugin wanted.
    fn crm_granted(&mut self, call: &str, arguments: &str) -> Result<(), Error> {
        let Err(refusal) = self.reach.grants.crm(call) else { return Ok(()) };
        let (at, words) = (self.since_start(), refusal.to_string());
        self.record(at, format!("crm {}", self.label(call, 128)), arguments, Err(&words));
        Err(Error::NotGranted(words))
    }

    /// The answer, as it is recorded and handed to the plugin.
    pub(super) async fn crm_call(
        &mut self,
        method: &str,
        action: &str,
        arguments: &Map<String, Value>,
    ) -> Result<crm::Answer, crm::Error> {
        let at = self.since_start();
        let Some(client) = self.reach.crm.clone() else {
            return Err(crm::Error::Invalid("the event's account has no `[crm.NAME]` section with a `url`".into()));
        };
        // Stays so where the attempt's time runs out before the answer.
        self.effects.crm_unanswered = true;
        let result = client.answer(method, action, arguments).await;
        self.effects.crm_unanswered = result.as_ref().is_err_and(crm::Error::is_no_answer);
        let took = std::time::Duration::from_micros(self.since_start().saturating_sub(at));
        if !matches!(result, Err(crm::Error::Invalid(_))) {
            let ids = (self.reach.event, self.reach.delivery);
            telemetry::crm_called(ids, method, action, took, result.as_ref().err());
        }
        // Names and JSON values always print.
        let sent = serde_json::to_string(arguments).unwrap_or_default();
        let call = format!("crm {}.{}", self.label(method, 64), self.label(action, 64));
        match result {
            Ok(answer) => {
                self.record(at, call, &sent, Ok(answer.text()));
                Ok(answer)
            }
            Err(error) => {
                self.record(at, call, &sent, Err(&error.to_string()));
                Err(error)
            }
        }
    }
}

impl Host for Attempt {
    async fn call(&mut self, request: Request) -> wasmtime::Result<Result<String, Error>> {
        self.count()?;
        let Request { method, action, arguments } = request;
        if let Err(refusal) = self.crm_granted(&format!("{method}.{action}"), &arguments) {
            return Ok(Err(refusal));
        }
        let arguments = match object(&arguments) {
            Ok(arguments) => arguments,
            Err(error) => return Ok(Err(error)),
        };
        if is_read(&action) {
            return Ok(self
                .crm_call(&method, &action, &arguments)
                .await
                .map(|answer| self.for_plugin(answer.into_text()))
                .map_err(error_for_plugin));
        }
        let answer = self.crm_write(&method, &action, &arguments).await;
        answer_for_plugin(answer.map(|text| self.for_plugin(text)))
    }

    async fn update(
        &mut self,
        kind: RecordKind,
        id: u64,
        changes: String,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        self.changed(kind, id, changes, Vec::new()).await
    }

    async fn update_losing(
        &mut self,
        kind: RecordKind,
        id: u64,
        changes: String,
        accepted: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        self.changed(kind, id, changes, accepted).await
    }
}

impl Attempt {
    fn for_plugin(&self, answer: String) -> String {
        match self.reach.crm.as_ref().map(|client| client.without_key(&answer)) {
            Some(Cow::Owned(clean)) => clean,
            _ => answer,
        }
    }

    async fn changed(
        &mut self,
        kind: RecordKind,
        id: u64,
        changes: String,
        accepted: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        self.count()?;
        let kind = match kind {
            RecordKind::Client => update::Kind::Client,
            RecordKind::Person => update::Kind::Person,
            RecordKind::Deal => update::Kind::Deal,
            RecordKind::Task => update::Kind::Task,
        };
        if let Err(refusal) = self.crm_granted(&format!("{}.update", kind.as_str()), &changes) {
            return Ok(Err(refusal));
        }
        if accepted.len() > MOST_ACCEPTED || accepted.iter().any(|column| column.len() > 64) {
            return Ok(Err(Error::Invalid(format!(
                "at most {MOST_ACCEPTED} columns can be accepted, each by its name"
            ))));
        }
        let changes = match object(&changes) {
            Ok(changes) => changes,
            Err(error) => return Ok(Err(error)),
        };
        let answer = self.crm_update(kind, id, &changes, &accepted).await;
        self.effects.refusal = match &answer {
            Err(Failure::Crm(crm::Error::Refused { code: Some(code), .. })) => {
                [update::WOULD_LOSE, update::NOT_WRITTEN].into_iter().find(|own| own == code)
            }
            _ => None,
        };
        answer_for_plugin(answer)
    }
}

/// Columns whose loss one call can accept: more than any record has.
const MOST_ACCEPTED: usize = 64;
/// Bytes of one call's arguments, as JSON.
const MOST_ARGUMENTS: usize = 256 << 10;

fn object(text: &str) -> Result<Map<String, Value>, Error> {
    if text.len() > MOST_ARGUMENTS {
        return Err(Error::Invalid(format!("the arguments have {} bytes, {MOST_ARGUMENTS} are allowed", text.len())));
    }
    serde_json::from_str(text).map_err(|error| Error::Invalid(format!("the arguments are not a JSON object: {error}")))
}

fn answer_for_plugin<T>(result: Result<T, Failure>) -> wasmtime::Result<Result<T, Error>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Crm(error)) => Ok(Err(error_for_plugin(error))),
        Err(Failure::Uncertain(words)) => Ok(Err(Error::Uncertain(words))),
        Err(Failure::Hit(hit)) => Err(hit.into()),
    }
}

fn error_for_plugin(error: crm::Error) -> Error {
    match error {
        crm::Error::Refused { code, text } => Error::Refused(Refusal { code, text }),
        crm::Error::Transport(text) | crm::Error::Unsent(text) => Error::Transport(text),
        crm::Error::NotTheApi(stranger) => Error::BadAnswer(stranger.to_string()),
        crm::Error::BadAnswer(text) => Error::BadAnswer(text),
        crm::Error::Invalid(text) => Error::Invalid(text),
    }
}
