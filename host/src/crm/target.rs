//! What a write is about: the family of the events that it causes, the record, and whether sending it twice does harm.
//!
//! From the list of events and who fires them (measured on version 2025.4): events of acts and documents are `contract.*`,
//! invoices are written through `deal`, and a record that is added has no number yet.

use serde_json::{Map, Value, json};

use super::Error;

/// What a write is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The family of its events: what stands before the dot.
    pub kind: &'static str,
    /// The record's number, where the arguments name it.
    pub record: Option<String>,
    /// What is done when nobody knows whether it was done.
    pub repeat: Repeat,
}

/// What is done about a write that was sent, and whose answer never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It is sent again: the second time changes nothing.
    Harmless,
    /// The record is looked for first, and added only when it is not there.
    LookFirst,
    /// The plugin is told.
    Ask,
}

/// What `method.action` with these arguments is about.
pub fn target(method: &str, action: &str, arguments: &Map<String, Value>) -> Target {
    let invoice = method == "deal" && action.starts_with("invoice.");
    let (kind, key): (&'static str, &[&str]) = match method {
        _ if invoice => ("invoice", &["id"]),
        "client" => ("client", &["clid"]),
        "person" => ("person", &["pid"]),
        "deal" => ("deal", &["did"]),
        "task" => ("task", &["id", "tid"]),
        "history" => ("history", &["id"]),
        "lead" => ("lead", &["id"]),
        "entry" => ("entry", &["id", "ide"]),
        "document" | "akt" => ("contract", &["id", "deid"]),
        _ => ("other", &["id"]),
    };
    let record = if adds(action) { None } else { key.iter().find_map(|key| arguments.get(*key).and_then(number)) };
    let repeat = match (method, action) {
        ("client" | "person" | "deal" | "task" | "history", "add") => Repeat::LookFirst,
        (_, "update" | "delete") | ("deal", "change.user" | "change.step") => Repeat::Harmless,
        _ => Repeat::Ask,
    };
    Target { kind, record, repeat }
}

/// Whether an action adds a record.
fn adds(action: &str) -> bool {
    matches!(action, "add" | "add.list" | "addlist" | "invoice.add" | "invoice.express")
}

/// Whether `method.action` adds a record, whose number is the answer.
pub fn call_adds(call: &str) -> bool {
    call.split_once('.').is_some_and(|(_, action)| adds(action))
}

/// What stands for the answer of `method.action` where somebody says that it was done; `record`: the number of what it is
/// about, or added. It stands where the CRM's own answer has it. A request to elsewhere has an answer that nobody knows.
pub fn stands_for(call: &str, record: Option<u64>) -> String {
    let (method, action) = call.split_once('.').unwrap_or((call, ""));
    let body = match (method, action) {
        _ if call.starts_with("http ") => return String::new(),
        (_, "invoice.add" | "invoice.express") => json!({ "result": "found", "data": { "id": record } }),
        ("lead", "add") => json!({ "result": "found", "id": record, "data": record }),
        _ => json!({ "result": "found", "data": record }),
    };
    body.to_string()
}

/// Whether a refusal of a write that was sent before says that it was done: the step is there, the record is gone.
pub fn says_done(action: &str, error: &Error) -> bool {
    let Error::Refused { code: Some(code), .. } = error else { return false };
    match action {
        "delete" => matches!(code.as_str(), "403" | "404"),
        "change.step" | "change.user" => code == "302",
        _ => false,
    }
}

/// The number of the record that an answer to `add` names.
pub fn added(body: &Value) -> Option<String> {
    let data = body.get("data");
    // An enquiry's number stands beside the data.
    data.and_then(number).or_else(|| data?.get("id").and_then(number)).or_else(|| body.get("id").and_then(number))
}

/// A record's number as text; 0 is the CRM's "none".
pub(super) fn number(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (text.parse::<u64>().is_ok_and(|number| number > 0)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_matched_with_the_events_that_the_crm_fires_for_it() {
        let case = |call: &str, arguments: Value| {
            let (method, action) = call.split_once('.').unwrap();
            let Value::Object(arguments) = arguments else { panic!() };
            let Target { kind, record, repeat } = target(method, action, &arguments);
            (kind, record, repeat)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(case("client.update", json!({ "clid": 5 })), ("client", some("5"), Repeat::Harmless));
        assert_eq!(case("deal.change.step", json!({ "did": "7" })), ("deal", some("7"), Repeat::Harmless));
        assert_eq!(case("deal.invoice.do", json!({ "id": 3, "did": 7 })), ("invoice", some("3"), Repeat::Ask));
        assert_eq!(case("deal.invoice.add", json!({ "did": 7 })), ("invoice", None, Repeat::Ask));
        // The deal of a task is not the task.
        assert_eq!(case("task.add", json!({ "did": 7, "id": 9 })), ("task", None, Repeat::LookFirst));
        assert_eq!(case("akt.status.change", json!({ "id": 3 })), ("contract", some("3"), Repeat::Ask));
        assert_eq!(case("budget.doit", json!({ "id": 3 })), ("other", some("3"), Repeat::Ask));
        assert_eq!(added(&json!({ "data": 5 })), some("5"));
        assert_eq!(added(&json!({ "data": { "id": 3, "number": "2" } })), some("3"));
        assert_eq!(added(&json!({ "result": "Success", "id": 3 })), some("3"));
        assert_eq!(added(&json!({ "data": 0 })), None);
        // What an operator says stands where the CRM's own answer does.
        for call in ["task.add", "deal.invoice.add", "lead.add", "contract.add"] {
            let answer = serde_json::from_str(&stands_for(call, Some(5))).unwrap();
            assert_eq!((call_adds(call), added(&answer)), (true, some("5")), "{call}");
        }
        assert!(!call_adds("deal.invoice.do") && stands_for("http POST https://chat.example", None).is_empty());
    }
}
