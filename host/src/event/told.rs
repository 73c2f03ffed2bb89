//! What an event tells about a record of the CRM's lists, in the lists' own words.
//!
//! - Only what the event says: the name of a record alone tells nothing about its fields.
//! - What an event says without a value (the result of an enquiry that was worked on) is there without one.
//!
//! Not here: what is made of it (`journal`), and how a list's change becomes an event (`watch`).

use serde_json::{Map, Value};

/// Records that one event of many tells about at most.
const MOST_RECORDS: usize = 5_000;

/// What is told of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The list: `leads`, `documents`, `acts`, `deals`.
    pub list: &'static str,
    /// The record's number.
    pub record: String,
    /// What happened to it.
    pub what: What,
    /// Fields of the list with their values; without one where the event does not tell it.
    pub says: Vec<(&'static str, Option<String>)>,
    /// Whether the event also tells what no list shows.
    pub more: bool,
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It has other values.
    Changed,
    /// It is no longer there.
    Gone,
}

/// Fields of a deal that its event and the list know by the same name.
const OF_DEAL: [&str; 5] = ["title", "clid", "kol", "iduser", "datum_plan"];

/// What an event of this name with these fields tells.
pub fn told(name: &str, fields: &Map<String, Value>) -> Vec<Told> {
    let one = |list, key: &str, what, says| match number(fields.get(key)) {
        Some(record) => vec![Told { list, record, what, says, more: false }],
        None => Vec::new(),
    };
    let value = |key: &str| fields.get(key).map(text);
    let given = |of: &'static str, key: &str| value(key).filter(|text| !is_nothing(text)).map(|text| (of, Some(text)));
    let deal = |what, says| one("deals", "did", what, says);
    let lead = |what, says| one("leads", "id", what, says);
    let linked = || ["clid", "pid", "did"].into_iter().filter_map(|key| Some((key, Some(value(key)?))));
    let document = || {
        let of = [("number", "number"), ("clid", "clid"), ("did", "did"), ("payerid", "payer")];
        of.into_iter().filter_map(|(of, key)| given(of, key)).collect::<Vec<_>>()
    };
    match name {
        "deal.add" => deal(What::Added, of_deal(fields, &["title", "clid", "iduser", "datum_plan"]).0),
        "deal.import" => many("deals", fields.get("dids"), None, What::Added, &[]),
        "deal.edit" => {
            let (says, more) = of_deal(fields, &OF_DEAL);
            deal(What::Changed, says).into_iter().map(|told| Told { more, ..told }).collect()
        }
        "deal.change.step" => {
            deal(What::Changed, value("stepNew").map(|step| ("step", Some(step))).into_iter().collect())
        }
        "deal.change.user" => {
            let says: Vec<_> = value("newuser").map(|user| ("iduser", Some(user))).into_iter().collect();
            match fields.get("info") {
                Some(info) => many("deals", Some(info), Some("did"), What::Changed, &says),
                None => deal(What::Changed, says),
            }
        }
        "deal.change.datum_plan" => {
            deal(What::Changed, value("newdate").map(|date| ("datum_plan", Some(date))).into_iter().collect())
        }
        "deal.close" => {
            let status = value("status").map(|status| ("status_close", Some(status)));
            deal(What::Changed, [("close", Some("yes".to_owned()))].into_iter().chain(status).collect())
        }
        "deal.delete" => deal(What::Gone, Vec::new()),
        // Nobody has it yet: `iduser` is the coordinator's.
        "lead.add" => {
            let nobody = [("iduser", Some("0".to_owned())), ("status", Some("0".to_owned()))];
            lead(What::Added, nobody.into_iter().chain(linked()).collect())
        }
        // Of a client that is known it comes instead of `lead.add`.
        "lead.setuser" => {
            let user = value("iduser").map(|user| ("iduser", Some(user)));
            let says = user.into_iter().chain([("status", Some("1".to_owned()))]).chain(linked()).collect();
            lead(if fields.contains_key("clid") { What::Added } else { What::Changed }, says)
        }
        "lead.do" => lead(What::Changed, [("status", None), ("rezult", None)].into_iter().chain(linked()).collect()),
        "contract.add" | "document.add" if fields.contains_key("payer") => {
            one("documents", "id", What::Added, document())
        }
        "contract.edit" => one("documents", "id", What::Changed, document()),
        // Deleting an act fires an addition that names nothing but the deal (source).
        "akt.add" if fields.contains_key("payer") => one("acts", "id", What::Added, document()),
        "akt.edit" => one("acts", "id", What::Changed, document()),
        "akt.delete" => one("acts", "id", What::Gone, Vec::new()),
        // Acts and documents share their numbers, and are deleted as contracts (measured).
        "contract.delete" => {
            let of = |list| one(list, "deid", What::Gone, Vec::new());
            of("documents").into_iter().chain(of("acts")).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether two values are one to the CRM: numbers by their size, nothing in all its forms.
pub fn same(left: &str, right: &str) -> bool {
    if left == right || is_nothing(left) && is_nothing(right) {
        return true;
    }
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number(left).is_some() && number(left) == number(right)
}

fn is_nothing(text: &str) -> bool {
    matches!(text.trim(), "" | "0" | "0000-00-00")
}

/// What `newparam` says of these fields, and whether it says more.
fn of_deal(fields: &Map<String, Value>, known: &[&'static str]) -> (Vec<(&'static str, Option<String>)>, bool) {
    let Some(changes) = fields.get("newparam").and_then(Value::as_object) else { return (Vec::new(), true) };
    let says: Vec<_> = known.iter().filter_map(|key| Some((*key, Some(text(changes.get(*key)?))))).collect();
    let more = changes.len() > says.len();
    (says, more)
}

/// The records of a list of numbers, or of a list (or map) of objects with a number at `key`.
fn many(
    list: &'static str,
    records: Option<&Value>,
    key: Option<&str>,
    what: What,
    says: &[(&'static str, Option<String>)],
) -> Vec<Told> {
    let items: Vec<&Value> = match records {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(Value::Object(items)) => items.values().collect(),
        _ => Vec::new(),
    };
    let record = |item: &Value| number(key.map_or(Some(item), |key| item.get(key)));
    items
        .into_iter()
        .take(MOST_RECORDS)
        .filter_map(|item| Some(Told { list, record: record(item)?, what, says: says.to_vec(), more: false }))
        .collect()
}

fn number(value: Option<&Value>) -> Option<String> {
    let text = text(value?);
    text.parse::<u64>().is_ok_and(|number| number > 0).then_some(text)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "1".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_tells_what_it_says_and_nothing_else() {
        let case = |name: &str, fields: Value| -> Value {
            let words = |Told { list, record, what, says, more }: Told| {
                let says: Map<String, Value> =
                    says.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
                json!([format!("{list} {record} {what:?} {more}"), says])
            };
            told(name, fields.as_object().unwrap()).into_iter().map(words).collect()
        };
        assert_eq!(
            case("deal.change.step", json!({ "did": "7", "stepOld": "20", "stepNew": "40" })),
            json!([["deals 7 Changed false", { "step": "40" }]])
        );
        assert_eq!(
            case("deal.edit", json!({ "did": "7", "newparam": { "title": "А", "adres": "Омск" } })),
            json!([["deals 7 Changed true", { "title": "А" }]])
        );
        assert_eq!(
            case("deal.change.user", json!({ "info": [{ "did": "1" }, { "did": "2" }], "newuser": "4" })),
            json!([["deals 1 Changed false", { "iduser": "4" }], ["deals 2 Changed false", { "iduser": "4" }]])
        );
        // An act's change: nothing is said of it.
        assert_eq!(
            case("contract.edit", json!({ "id": "3", "did": "0", "payer": "0", "clid": "0", "pid": "0" })),
            json!([["documents 3 Changed false", {}]])
        );
        assert_eq!(case("akt.add", json!({ "id": "3", "did": "1", "autor": "1" })), json!([]));
        assert_eq!(
            case("contract.delete", json!({ "deid": "3", "did": "1" })),
            json!([["documents 3 Gone false", {}], ["acts 3 Gone false", {}]])
        );
        assert_eq!(
            case("lead.add", json!({ "id": "4", "clid": "0", "pid": "0", "did": "0", "iduser": "1" })),
            json!([["leads 4 Added false", { "iduser": "0", "status": "0", "clid": "0", "pid": "0", "did": "0" }]])
        );
        assert!(same("10", "10.00") && same("", "0") && !same("10", "12") && !same("", "12"));
    }
}
