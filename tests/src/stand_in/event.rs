//! What the CRM tells the outside about a write, before it is put on the wire.
//!
//! - The order of the fields is the CRM's: the event's own arguments, then `event`, `identity`, `iduser1`, `ses`.
//! - An argument that a handler names itself (`identity` in some events) stays where the handler put it.
//! - It doesn't know where events go.

use serde_json::{Map, Value};

use super::php;

/// The account number; a CRM on its own box always has number 1.
const IDENTITY: i64 = 1;

/// PHP drops every request variable beyond this number, and with it the tail of a large event.
const MAX_INPUT_VARS: usize = 1000;

/// One event as a handler of the CRM fires it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The dotted name, such as `client.add`.
    pub name: String,
    /// The event's own arguments in the CRM's order.
    pub args: Map<String, Value>,
    /// The user who caused it: the logged-in one, or the owner of the API login.
    pub actor: i64,
    /// Whether a browser caused it; only then the session cookie travels along.
    pub browser: bool,
}

impl Event {
    pub(super) fn new(name: &str, actor: Actor) -> Self {
        Self { name: name.to_owned(), args: Map::new(), actor: actor.iduser, browser: actor.browser }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.args.insert(name.to_owned(), value.into());
        self
    }

    /// The pairs of the form post; `cookie` is added only when a browser caused the event.
    pub(super) fn pairs(&self, cookie: &str) -> Vec<(String, String)> {
        let mut all = self.args.clone();
        all.insert("event".to_owned(), Value::from(self.name.clone()));
        all.insert("identity".to_owned(), Value::from(IDENTITY));
        all.insert("iduser1".to_owned(), Value::from(self.actor));
        if self.browser {
            all.insert("ses".to_owned(), Value::from(cookie));
        }
        php::flatten(&all)
    }

    /// The JSON of a webhook, or nothing when the relay lost the event's own name.
    pub(super) fn webhook_body(&self, cookie: &str) -> Option<String> {
        let mut fields = php::nest(self.pairs(cookie).into_iter().take(MAX_INPUT_VARS));
        fields.get("event")?;
        fields.shift_remove("ses");
        if !fields.contains_key("iduser1") {
            fields.insert("iduser1".to_owned(), Value::Null);
        }
        Some(php::json_encode(&Value::Object(fields)))
    }
}

/// Who acts, and through which door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) iduser: i64,
    pub(super) browser: bool,
}

impl Actor {
    pub(super) fn api(iduser: i64) -> Self {
        Self { iduser, browser: false }
    }

    pub(super) fn browser(iduser: i64) -> Self {
        Self { iduser, browser: true }
    }
}
