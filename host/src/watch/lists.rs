//! The lists: which fields are watched, and which event a change becomes.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::event::told::same;

/// What a record says: its watched fields, each as text.
pub(super) type Says = Map<String, Value>;

/// A list of the CRM that can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// Leads: `lead.add`, `lead.setuser`, `lead.do`.
    Leads,
    /// Contracts and other documents: `contract.add`, `contract.edit`, `contract.delete`.
    Documents,
    /// Acts: `akt.add`, `akt.edit`, `akt.delete`.
    Acts,
    /// Deals: `deal.add`, `deal.change.step`, `deal.change.user`, `deal.change.datum_plan`, `deal.close`, `deal.edit`,
    /// `deal.delete`.
    Deals,
}

impl List {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Leads => "leads",
            Self::Documents => "documents",
            Self::Acts => "acts",
            Self::Deals => "deals",
        }
    }

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Leads => "lead",
            Self::Documents => "document",
            Self::Acts => "akt",
            Self::Deals => "deal",
        }
    }

    /// Rows of one page (measured; of acts from the source).
    pub(super) fn rows_of_page(self) -> usize {
        if self == Self::Acts { 100 } else { 200 }
    }

    /// The number of the first page: acts count theirs from 1, and answer 0 with it too (source).
    pub(super) fn first_page(self) -> u32 {
        u32::from(self == Self::Acts)
    }

    fn id(self) -> &'static str {
        if self == Self::Deals { "did" } else { "id" }
    }

    /// The fields whose change is told.
    fn watched(self) -> &'static [&'static str] {
        match self {
            Self::Leads => &["status", "rezult", "clid", "pid", "did"],
            Self::Documents => &["number", "title", "clid", "did", "payerid", "status", "date.start", "date.end"],
            Self::Acts => &["number", "datum", "summa", "clid", "did", "payerid", "status"],
            Self::Deals => &["title", "clid", "iduser", "step", "datum_plan", "kol", "close", "status_close"],
        }
    }
}

/// The record's number.
pub(super) fn record(list: List, row: &Map<String, Value>) -> Option<String> {
    let number = text(row.get(list.id()));
    (number.parse::<u64>().is_ok_and(|number| number > 0)).then_some(number)
}

/// What a row says. Whose an enquiry is, only a look at it tells; one that is open is nobody's yet (source).
pub(super) fn says(list: List, row: &Map<String, Value>) -> Says {
    let mut says: Says = list.watched().iter().map(|key| ((*key).to_owned(), text(row.get(*key)).into())).collect();
    if list == List::Leads {
        if row.contains_key("iduser") {
            says.insert("iduser".to_owned(), text(row.get("iduser")).into());
        } else if same(&text(row.get("status")), "0") {
            says.insert("iduser".to_owned(), "0".into());
        }
    }
    says
}

/// Reads what is known of a record.
pub(super) fn parse(known: &str) -> Says {
    serde_json::from_str(known).unwrap_or_default()
}

/// Whether what is known and what a row says are the same; a field that nobody told agrees with anything.
pub(super) fn agrees(known: &Says, now: &Says) -> bool {
    !now.keys().any(|key| differs(known, now, key))
}

/// Whether an enquiry is somebody's, and not done.
pub(super) fn is_at_work(row: &Map<String, Value>) -> bool {
    text(row.get("status")) == "1"
}

fn differs(known: &Says, now: &Says, key: &str) -> bool {
    known.get(key).is_some_and(|told| !same(&text(Some(told)), &text(now.get(key))))
}

/// The events that a new or changed record becomes.
pub(super) fn changes(
    list: List,
    row: &Map<String, Value>,
    before: Option<&Says>,
    now: &Says,
) -> Vec<(&'static str, Map<String, Value>)> {
    let given_to = || ("lead.setuser", fields(list, row, &[("iduser", "iduser")]));
    let Some(before) = before else {
        let given = list == List::Leads && !same(&text(now.get("iduser")), "0");
        return [addition(list, row)].into_iter().chain(given.then(given_to)).collect();
    };
    let changed = |key: &str| differs(before, now, key);
    let mut events = Vec::new();
    match list {
        List::Leads => {
            let at_work = changed("status") && is_at_work(row);
            let given = changed("iduser") || at_work && !before.contains_key("iduser");
            if given {
                events.push(given_to());
            }
            // Giving it to somebody puts it to work.
            if ["rezult", "clid", "pid", "did"].into_iter().any(changed) || changed("status") && !(given && at_work) {
                events.push(("lead.do", fields(list, row, &[("clid", "clid"), ("pid", "pid"), ("did", "did")])));
            }
        }
        List::Documents | List::Acts if agrees(before, now) => {}
        List::Documents => events.push(("contract.edit", addition(list, row).1)),
        List::Acts => events.push(("akt.edit", addition(list, row).1)),
        List::Deals => {
            let with = |pairs: [(&str, String); 2]| {
                let mut all = fields(list, row, &[]);
                all.extend(pairs.map(|(key, value)| (key.to_owned(), value.into())));
                all
            };
            let both =
                |old: &str, new: &str, key: &str| with([(old, text(before.get(key))), (new, text(now.get(key)))]);
            if changed("step") {
                events.push(("deal.change.step", both("stepOld", "stepNew", "step")));
            }
            if changed("iduser") {
                events.push(("deal.change.user", both("olduser", "newuser", "iduser")));
            }
            if changed("datum_plan") {
                events.push(("deal.change.datum_plan", both("olddate", "newdate", "datum_plan")));
            }
            if changed("close") && text(now.get("close")) == "yes" {
                events.push(("deal.close", fields(list, row, &[("summa", "kol_fact"), ("status", "status_close")])));
            }
            let edited: Map<String, Value> = ["title", "clid", "kol"]
                .into_iter()
                .filter(|key| changed(key))
                .map(|key| (key.to_owned(), text(now.get(key)).into()))
                .collect();
            // A deal that is open again, or has another status of its end, has no event of its own.
            let other = changed("close") || changed("status_close");
            if !edited.is_empty() || other && events.is_empty() {
                let mut all = fields(list, row, &[]);
                if !edited.is_empty() {
                    all.insert("newparam".to_owned(), Value::Object(edited));
                }
                events.push(("deal.edit", all));
            }
        }
    }
    events
}

fn addition(list: List, row: &Map<String, Value>) -> (&'static str, Map<String, Value>) {
    match list {
        List::Leads => ("lead.add", fields(list, row, &[("clid", "clid"), ("pid", "pid"), ("did", "did")])),
        List::Documents => (
            "contract.add",
            fields(
                list,
                row,
                &[("did", "did"), ("payer", "payerid"), ("clid", "clid"), ("number", "number"), ("datum", "datum")],
            ),
        ),
        List::Acts => (
            "akt.add",
            fields(
                list,
                row,
                &[("did", "did"), ("payer", "payerid"), ("clid", "clid"), ("number", "number"), ("datum", "datum")],
            ),
        ),
        List::Deals => ("deal.add", fields(list, row, &[])),
    }
}

/// The event that a record which is gone becomes; leads are never deleted through a list of the open ones.
pub(super) fn deletion(list: List, record: &str) -> Option<(&'static str, Map<String, Value>)> {
    let with = |key: &str| [(key.to_owned(), Value::from(record))].into_iter().collect();
    match list {
        List::Leads => None,
        List::Documents => Some(("contract.delete", with("deid"))),
        List::Acts => Some(("akt.delete", with("id"))),
        List::Deals => Some(("deal.delete", with("did"))),
    }
}

/// The record's number and some of its fields, under the names that the CRM's own events have; empty ones are left out.
fn fields(list: List, row: &Map<String, Value>, wanted: &[(&str, &str)]) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert(list.id().to_owned(), text(row.get(list.id())).into());
    for (name, key) in wanted {
        let value = text(row.get(*key));
        if !value.is_empty() {
            fields.insert((*name).to_owned(), value.into());
        }
    }
    fields
}

/// A scalar as the CRM's events carry it: text.
fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(true)) => "1".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_change_becomes_the_event_that_the_crm_would_have_sent() {
        let deal = json!({ "did": 1, "title": "Поставка", "clid": 1, "iduser": 2, "step": 40, "datum_plan": "2026-12-03", "kol": 10, "close": "no", "status_close": false });
        let before = says(List::Deals, &row(deal.clone()));
        let told = |changed: Value| -> Value {
            let mut now = row(deal.clone());
            now.extend(row(changed));
            changes(List::Deals, &now, Some(&before), &says(List::Deals, &now))
                .into_iter()
                .map(|(name, fields)| json!([name, fields]))
                .collect()
        };
        assert_eq!(
            told(json!({ "step": 60 })),
            json!([["deal.change.step", { "did": "1", "stepOld": "40", "stepNew": "60" }]])
        );
        assert_eq!(
            told(json!({ "iduser": 3, "kol": 12 })),
            json!([["deal.change.user", { "did": "1", "olduser": "2", "newuser": "3" }], ["deal.edit", { "did": "1", "newparam": { "kol": "12" } }]])
        );
        assert_eq!(
            told(json!({ "close": "yes", "kol_fact": 10, "status_close": "Выиграна" })),
            json!([["deal.close", { "did": "1", "summa": "10", "status": "Выиграна" }]])
        );
        let lead = |changed: Value| {
            let mut all = row(json!({ "id": 4, "clid": 0, "user": 0, "status": 0, "rezult": null }));
            all.extend(row(changed));
            all
        };
        let told = |before: Option<Value>, now: Value| -> Value {
            let before = before.map(|before| says(List::Leads, &lead(before)));
            let (now, row) = (says(List::Leads, &lead(now.clone())), lead(now));
            let words = |(name, fields)| json!([name, fields]);
            changes(List::Leads, &row, before.as_ref(), &now).into_iter().map(words).collect()
        };
        let given = |user: i64| json!({ "status": 1, "iduser": user });
        assert_eq!(told(None, json!({})), json!([["lead.add", { "id": "4", "clid": "0" }]]));
        assert_eq!(
            told(None, given(3)),
            json!([["lead.add", { "id": "4", "clid": "0" }], ["lead.setuser", { "id": "4", "iduser": "3" }]])
        );
        // An assignment is told as one, and nothing else.
        let setuser = |user: &str| json!([["lead.setuser", { "id": "4", "iduser": user }]]);
        assert_eq!(told(Some(json!({})), given(3)), setuser("3"));
        assert_eq!(told(Some(given(3)), given(2)), setuser("2"));
        assert_eq!(
            told(Some(given(3)), json!({ "status": 2, "iduser": 3, "clid": 9 })),
            json!([["lead.do", { "id": "4", "clid": "9" }]])
        );
        assert_eq!(
            deletion(List::Documents, "7").map(|(name, fields)| json!([name, fields])),
            Some(json!(["contract.delete", { "deid": "7" }]))
        );
    }
}
