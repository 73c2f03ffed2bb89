//! Which events a write causes: the table that the loop guard goes by.
//!
//! - From the CRM's source and from traffic that was measured (version 2025.4). What is not in the table causes nothing:
//!   budgets, prices, currencies, activities, calls, mails, the status of an enquiry.
//! - Some writes cause events of other records: a payment moves the deal on, a deal brings its client.
//! - Each line may come once, or as often as it says; lines of one `choice` are each other's alternatives.
//! - The events that the host makes itself, from the CRM's lists, are in it too: `akt.add` is never sent, and found.
//!
//! Not here: what a write is about (`target`), and how an event is recognised (`journal`, `event::content`).

use serde_json::{Map, Value};

use super::target::number;

/// Records that one list of additions counts at most.
const MOST_OF_LIST: usize = 500;

/// One event that a write may cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The event's name; `family.*` where the write is not known.
    pub name: String,
    /// Of which record.
    pub record: Which,
    /// How often.
    pub times: usize,
    /// Alternatives have the same number: when one came, the others do not. 0: none.
    pub choice: u8,
}

/// The record of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one that the arguments name.
    Known(String),
    /// The one that the answer will name.
    Added,
    /// One that nobody names.
    Unnamed,
}

/// Whose number an event of the table has.
#[derive(Clone, Copy)]
enum Of {
    /// The argument of this name.
    Argument(&'static [&'static str]),
    /// The record that is added.
    New,
    /// Some record.
    Some,
}

/// When an event of the table comes.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// With this argument, neither empty nor 0.
    With(&'static str),
    /// Once for each item of the list in this argument.
    Each(&'static str),
    /// As alternatives.
    OneOf(u8),
}

type Line = (&'static str, &'static [(&'static str, Of, When)]);

const CLIENT: Of = Of::Argument(&["clid"]);
const PERSON: Of = Of::Argument(&["pid"]);
const DEAL: Of = Of::Argument(&["did"]);
const BY_ID: Of = Of::Argument(&["id"]);
const TASK: Of = Of::Argument(&["id", "tid"]);
const DOCUMENT: Of = Of::Argument(&["id", "deid"]);
use When::{Always, Each, OneOf, With};

/// `method.action`, and what it causes.
const TABLE: &[Line] = &[
    ("client.add", &[("client.add", Of::New, Always)]),
    ("client.add.list", &[("client.add", Of::Some, Each("client"))]),
    // With the owner the list of clients changes as well, under the same name.
    ("client.update", &[("client.edit", CLIENT, Always)]),
    ("client.delete", &[("client.delete", CLIENT, Always)]),
    // A contact that is there already is changed instead.
    ("person.add", &[("person.add", Of::New, OneOf(1)), ("person.edit", Of::New, OneOf(1))]),
    ("person.add.list", &[("person.add", Of::Some, Each("persons")), ("person.edit", Of::Some, Each("persons"))]),
    ("person.update", &[("person.edit", PERSON, Always)]),
    ("person.delete", &[("person.delete", PERSON, Always)]),
    (
        "deal.add",
        &[
            ("deal.add", Of::New, Always),
            ("client.add", Of::Some, With("client")),
            ("person.add", Of::Some, With("client")),
            ("entry.status", Of::Argument(&["ide"]), With("ide")),
        ],
    ),
    (
        "deal.update",
        &[
            ("deal.edit", DEAL, Always),
            // As the list shows it.
            ("deal.change.user", DEAL, With("iduser")),
            ("deal.change.datum_plan", DEAL, With("datum_plan")),
        ],
    ),
    ("deal.change.step", &[("deal.change.step", DEAL, Always)]),
    ("deal.change.user", &[("deal.change.user", DEAL, Always)]),
    // The list shows the step that a closed deal has.
    ("deal.change.close", &[("deal.close", DEAL, Always)]),
    ("deal.delete", &[("deal.delete", DEAL, Always)]),
    ("deal.invoice.add", &[("invoice.add", Of::New, Always), ("deal.change.step", DEAL, With("newstep"))]),
    ("deal.invoice.express", &[("invoice.add", Of::New, Always), ("deal.change.step", DEAL, With("newstep"))]),
    ("deal.invoice.do", &[("invoice.doit", BY_ID, Always), ("deal.change.step", DEAL, With("newstep"))]),
    // The step goes back to the one before.
    ("deal.invoice.undoit", &[("invoice.undoit", BY_ID, Always), ("deal.change.step", DEAL, Always)]),
    ("deal.invoice.edit", &[("invoice.edit", BY_ID, Always)]),
    ("deal.invoice.delete", &[("invoice.delete", BY_ID, Always)]),
    ("task.add", &[("task.add", Of::New, Always)]),
    ("task.update", &[("task.edit", TASK, Always)]),
    ("task.doit", &[("task.doit", TASK, Always)]),
    ("task.delete", &[("task.remove", TASK, Always)]),
    // Whoever is known already is given the enquiry at once.
    ("lead.add", &[("lead.add", Of::New, OneOf(1)), ("lead.setuser", Of::New, OneOf(1))]),
    ("document.add", &[("document.add", Of::New, Always), ("contract.add", Of::New, Always)]),
    ("document.update", &[("contract.edit", DOCUMENT, Always)]),
    ("document.status.change", &[("contract.edit", DOCUMENT, Always)]),
    // Deleting fires an addition as well (source).
    ("document.delete", &[("contract.delete", DOCUMENT, Always), ("document.add", DOCUMENT, Always)]),
    (
        "akt.add",
        &[
            ("contract.edit", Of::New, Always),
            ("akt.add", Of::New, Always),
            ("deal.change.step", DEAL, With("newstep")),
            ("deal.edit", DEAL, With("dogovor")),
            ("invoice.add", Of::Some, With("newinvoice")),
        ],
    ),
    ("akt.update", &[("contract.edit", DOCUMENT, Always), ("akt.edit", DOCUMENT, Always)]),
    ("akt.status.change", &[("contract.edit", DOCUMENT, Always), ("akt.edit", DOCUMENT, Always)]),
    (
        "akt.delete",
        &[("contract.delete", DOCUMENT, Always), ("akt.delete", DOCUMENT, Always), ("akt.add", DOCUMENT, Always)],
    ),
];

/// Methods all of whose writes are in the table, or cause nothing.
const KNOWN: &[&str] = &[
    "client",
    "person",
    "deal",
    "task",
    "history",
    "lead",
    "entry",
    "document",
    "akt",
    "budget",
    "price",
    "guides",
    "user",
    "statistic",
    "currency",
    "calls",
    "metrika",
];

/// The events that `method.action` with these arguments may cause.
pub fn effects(method: &str, action: &str, arguments: &Map<String, Value>) -> Vec<Effect> {
    // Invoices have a method of their own in the API's third version.
    let call = if method == "invoice" { format!("deal.invoice.{action}") } else { format!("{method}.{action}") };
    match TABLE.iter().find(|(known, _)| *known == call) {
        Some((_, lines)) => lines.iter().filter_map(|line| effect(line, arguments)).collect(),
        None if KNOWN.contains(&method) || method == "invoice" => Vec::new(),
        // A method of somebody's own: any one event of its family.
        None => {
            let record = ["id"].iter().find_map(|key| arguments.get(*key).and_then(number));
            let record = record.map_or(Which::Unnamed, Which::Known);
            vec![Effect { name: format!("{method}.*"), record, times: 1, choice: 0 }]
        }
    }
}

fn effect((name, of, when): &(&str, Of, When), arguments: &Map<String, Value>) -> Option<Effect> {
    let (times, choice) = match when {
        Always => (1, 0),
        OneOf(choice) => (1, *choice),
        With(key) => (usize::from(arguments.get(*key).is_some_and(is_given)), 0),
        Each(key) => (arguments.get(*key).map_or(0, items), 0),
    };
    let record = match of {
        Of::Argument(keys) => {
            keys.iter().find_map(|key| arguments.get(*key).and_then(number)).map_or(Which::Unnamed, Which::Known)
        }
        Of::New => Which::Added,
        Of::Some => Which::Unnamed,
    };
    (times > 0).then(|| Effect { name: (*name).to_owned(), record, times: times.min(MOST_OF_LIST), choice })
}

fn items(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(items) => items.len(),
        _ => 0,
    }
}

fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !matches!(text.trim(), "" | "0" | "no"),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn caused(call: &str, arguments: Value) -> Vec<String> {
        let (method, action) = call.split_once('.').unwrap();
        let Value::Object(arguments) = arguments else { panic!() };
        effects(method, action, &arguments)
            .into_iter()
            .map(|Effect { name, record, times, choice }| {
                let record = match record {
                    Which::Known(id) => id,
                    Which::Added => "new".to_owned(),
                    Which::Unnamed => "?".to_owned(),
                };
                format!("{name} {record} {times} {choice}")
            })
            .collect()
    }

    #[test]
    fn each_write_has_the_events_that_the_crm_fires_for_it_and_no_others() {
        let case =
            |call: &str, arguments: Value, expected: &[&str]| assert_eq!(caused(call, arguments), expected, "{call}");
        case("client.update", json!({ "clid": 5 }), &["client.edit 5 1 0"]);
        case("client.add.list", json!({ "client": [{}, {}, {}] }), &["client.add ? 3 0"]);
        case("person.add", json!({ "clid": 5 }), &["person.add new 1 1", "person.edit new 1 1"]);
        case("deal.add", json!({ "clid": 5, "ide": 0 }), &["deal.add new 1 0"]);
        case(
            "deal.add",
            json!({ "payer": 5, "client": "Лютик", "ide": "7" }),
            &["deal.add new 1 0", "client.add ? 1 0", "person.add ? 1 0", "entry.status 7 1 0"],
        );
        case("deal.invoice.add", json!({ "did": 7 }), &["invoice.add new 1 0"]);
        case("deal.invoice.add", json!({ "did": 7, "newstep": 4 }), &["invoice.add new 1 0", "deal.change.step 7 1 0"]);
        case("deal.invoice.do", json!({ "id": 3, "newstep": 4 }), &["invoice.doit 3 1 0", "deal.change.step ? 1 0"]);
        case("invoice.undoit", json!({ "id": 3, "did": 7 }), &["invoice.undoit 3 1 0", "deal.change.step 7 1 0"]);
        case("akt.status.change", json!({ "id": 3 }), &["contract.edit 3 1 0", "akt.edit 3 1 0"]);
        case("document.delete", json!({ "id": 3 }), &["contract.delete 3 1 0", "document.add 3 1 0"]);
        case("task.delete", json!({ "id": 9 }), &["task.remove 9 1 0"]);
        for silent in ["history.add", "budget.doit", "entry.status", "calls.add", "deal.invoice.mail"] {
            case(silent, json!({ "id": 3, "did": 7 }), &[]);
        }
        case("warehouse.put", json!({ "id": 3 }), &["warehouse.* 3 1 0"]);
    }
}
