//! What a write that is about to be sent will cause: the CRM's table in the journal's words.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Attempt;
use super::writes::Asked;
use crate::crm::effects::{Effect, Which, effects};
use crate::event::content::Content;
use crate::journal::{Expected, Intent};

impl Attempt {
    /// The intent of a call that is about to be sent, for the first time or again.
    pub(super) fn intent_of(&self, asked: &Asked) -> Intent {
        let intent = self.intent(asked.write.clone(), &asked.call, &asked.target);
        self.expecting(intent, &asked.method, &asked.action, &asked.arguments)
    }

    /// The same of a call that has surely not been done.
    pub(super) fn intent_again(&self, asked: &Asked) -> Intent {
        Intent { not_done: true, ..self.intent_of(asked) }
    }

    /// The intent of `method.action` with exactly these arguments, the events that it may cause included.
    pub(super) fn expecting(
        &self,
        mut intent: Intent,
        method: &str,
        action: &str,
        arguments: &Map<String, Value>,
    ) -> Intent {
        // Names of fields and numbers of records are kept as they are written.
        let written = Value::Object(arguments.clone()).to_string();
        let clean: Option<Map<String, Value>> = match self.reach.scrubber.scrub(&written) {
            Cow::Borrowed(_) => None,
            Cow::Owned(clean) => Some(serde_json::from_str(&clean).unwrap_or_default()),
        };
        let arguments = clean.as_ref().unwrap_or(arguments);
        intent.content = Content::of(arguments);
        intent.effects = effects(method, action, arguments).into_iter().map(expected).collect();
        intent
    }
}

fn expected(Effect { name, record, times, choice }: Effect) -> Expected {
    let added = record == Which::Added;
    let record = if let Which::Known(id) = record { Some(id) } else { None };
    Expected { name, record, added, times, choice }
}
