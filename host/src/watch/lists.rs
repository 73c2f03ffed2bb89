//! The lists: which fields are watched, and which event a change becomes.

use serde::Deserialize;
use serde_json::{Map, Value};

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

    /// The families of the events that the CRM itself may send about a record.
    pub(super) fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Leads => &["lead"],
            // An act's changes come as `contract.edit` (measured).
            Self::Documents | Self::Acts => &["contract", "akt"],
            Self::Deals => &["deal"],
        }
    }

    fn id(self) -> &'static str {
        if self == Self::Deals { "did" } else { "id" }
    }

    /// The fields whose change is told.
    fn watched(self) -> &'static [&'static str] {
        match self {
            Self::Leads => &["user", "status", "rezult", "clid", "pid", "did"],
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

/// What a record says: its watched fields.
pub(super) fn says(list: List, row: &Map<String, Value>) -> String {
    let fields: Map<String, Value> =
        list.watched().iter().map(|key| ((*key).to_owned(), text(row.get(*key)).into())).collect();
    Value::Object(fields).to_string()
}

/// The events that a new or changed record becomes.
pub(super) fn changes(
    list: List,
    row: &Map<String, Value>,
    before: Option<&str>,
    says: &str,
) -> Vec<(&'static str, Map<String, Value>)> {
    let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let Some(before) = before.map(parse) else { return vec![addition(list, row)] };
    let now = parse(says);
    let changed = |key: &str| text(before.get(key)) != text(now.get(key));
    let mut events = Vec::new();
    match list {
        List::Leads => {
            if changed("user") {
                events.push(("lead.setuser", fields(list, row, &[("iduser", "user")])));
            }
            if ["status", "rezult", "clid", "pid", "did"].into_iter().any(changed) {
                events.push(("lead.do", fields(list, row, &[("clid", "clid"), ("pid", "pid"), ("did", "did")])));
            }
        }
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
            if !edited.is_empty() || events.is_empty() {
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
        List::Leads => {
            ("lead.add", fields(list, row, &[("clid", "clid"), ("pid", "pid"), ("did", "did"), ("iduser", "user")]))
        }
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
            let says = says(List::Deals, &now);
            changes(List::Deals, &now, Some(&before), &says)
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
        let lead = row(json!({ "id": 4, "clid": 0, "user": 2, "status": 0 }));
        let (name, fields) = changes(List::Leads, &lead, None, "").remove(0);
        assert_eq!((name, json!(fields)), ("lead.add", json!({ "id": "4", "clid": "0", "iduser": "2" })));
        assert_eq!(
            deletion(List::Documents, "7").map(|(name, fields)| json!([name, fields])),
            Some(json!(["contract.delete", { "deid": "7" }]))
        );
    }
}
