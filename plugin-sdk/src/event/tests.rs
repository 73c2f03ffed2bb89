//! What the typed events must never get wrong, against events that a real CRM sent.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;
use crate::testing::{event, event_with};

/// One captured webhook: its name, what caused it, and its arguments as the host hands them on.
struct Captured {
    name: String,
    trigger: String,
    fields: Map<String, Value>,
}

fn captured() -> Vec<Captured> {
    let lines = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/webhooks-json.jsonl"));
    let events: Vec<_> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let mut fields = object(serde_json::from_str(line["body"].as_str().unwrap()).unwrap());
            for key in ["event", "identity", "iduser1"] {
                fields.shift_remove(key);
            }
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            Captured { name: text("event"), trigger: text("trigger"), fields }
        })
        .collect();
    assert!(events.len() > 70, "the captured events are gone: {}", events.len());
    events
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("not an object: {value}") };
    map
}

fn data(name: &str, fields: Value) -> EventData {
    event_with(name, object(fields)).data().unwrap_or_else(|error| panic!("{error}"))
}

fn error(name: &str, fields: Value) -> String {
    event_with(name, object(fields)).data().expect_err("it was taken").to_string()
}

/// The same value with every text that is a whole number turned into a JSON number.
fn with_numbers(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.parse::<i64>() {
            Ok(number) if number.to_string() == *text => number.into(),
            _ => value.clone(),
        },
        Value::Array(list) => list.iter().map(with_numbers).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), with_numbers(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

#[test]
fn no_captured_event_loses_or_moves_a_field() {
    let mut actual = String::new();
    for event in captured() {
        let data = EventData::read(&event.name, &event.fields).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(data, EventData::Other, "{}", event.name);
        let sent = Value::Object(event.fields);
        actual.push_str(&format!("== {} ({})\n{sent}\n{data:#?}\n\n", event.name, event.trigger));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/event/expected.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let difference =
        actual.lines().zip(expected.lines()).enumerate().find(|(_, (actual, expected))| actual != expected);
    assert!(actual == expected, "{} differs at {difference:#?}; UPDATE_EXPECT=1 rewrites it", path.display());
}

#[test]
fn no_captured_field_is_unknown_to_the_catalogue() {
    for event in captured() {
        let entry = catalogue().iter().find(|entry| entry.name == event.name).unwrap();
        for field in event.fields.keys() {
            assert!(entry.fields.contains(&field.as_str()), "{}: {field}", event.name);
        }
    }
}

#[test]
fn numbers_sent_as_numbers_are_not_read_differently() {
    for event in captured() {
        let as_numbers = object(with_numbers(&Value::Object(event.fields.clone())));
        assert_eq!(
            EventData::read(&event.name, &as_numbers),
            EventData::read(&event.name, &event.fields),
            "{}",
            event.name
        );
        assert_eq!(entity_of(&event.name, &as_numbers), entity_of(&event.name, &event.fields), "{}", event.name);
    }
}

#[test]
fn no_event_needs_more_than_the_record_it_is_about() {
    let needed = |entry: &CatalogueEntry| -> Vec<&str> {
        let ids = ["clid", "pid", "did", "id", "deid"];
        let mut fields: Map<String, Value> = ids.iter().map(|id| ((*id).to_owned(), "1".into())).collect();
        ids.into_iter()
            .filter(|id| {
                let removed = fields.shift_remove(*id).unwrap();
                let missed = EventData::read(entry.name, &fields).is_err();
                fields.insert((*id).to_owned(), removed);
                missed
            })
            .collect()
    };
    let expected: &[(&str, &[&str])] = &[
        ("client.add", &["clid"]),
        ("client.edit", &["clid"]),
        ("client.delete", &["clid"]),
        ("client.change.recv", &["clid"]),
        ("person.add", &["pid"]),
        ("person.edit", &["pid"]),
        ("person.delete", &["pid"]),
        ("person.change.user", &["pid"]),
        ("deal.add", &["did"]),
        ("deal.edit", &["did"]),
        ("deal.delete", &["did"]),
        ("deal.change.step", &["did"]),
        ("deal.change.datum_plan", &["did"]),
        ("deal.close", &["did"]),
        ("invoice.add", &["did", "id"]),
        ("invoice.edit", &["did", "id"]),
        ("invoice.doit", &["did", "id"]),
        ("invoice.undoit", &["did", "id"]),
        ("invoice.delete", &["did", "id"]),
        ("task.add", &["id"]),
        ("task.doit", &["id"]),
        ("task.remove", &["id"]),
        ("history.add", &["id"]),
        ("lead.add", &["id"]),
        ("lead.setuser", &["id"]),
        ("lead.do", &["id"]),
        ("entry.add", &["id"]),
        ("entry.status", &["id"]),
        ("contract.edit", &["id"]),
        ("contract.delete", &["deid"]),
        ("document.add", &["id"]),
    ];
    let actual: Vec<_> =
        catalogue().iter().map(|entry| (entry.name, needed(entry))).filter(|(_, ids)| !ids.is_empty()).collect();
    let expected: Vec<_> = expected.iter().map(|(name, ids)| (*name, ids.to_vec())).collect();
    assert_eq!(actual, expected);
}

#[test]
fn a_missing_or_broken_number_is_named_in_the_error() {
    assert_eq!(error("client.edit", json!({})), "event `client.edit`: the field `clid` is missing");
    assert_eq!(error("client.edit", json!({ "clid": "" })), "event `client.edit`: the field `clid` is missing");
    assert_eq!(
        error("client.edit", json!({ "clid": "7abc" })),
        r#"event `client.edit`: the field `clid` is not a whole number: "7abc""#
    );
    assert_eq!(
        error("client.edit", json!({ "clid": "7", "user": ["1"] })),
        r#"event `client.edit`: the field `user` is not a whole number: ["1"]"#
    );
    assert_eq!(
        error("deal.close", json!({ "did": "7", "status": { "a": "1" } })),
        r#"event `deal.close`: the field `status` is not text: {"a":"1"}"#
    );
    assert_eq!(
        error("deal.edit", json!({ "did": "7", "newparam": "x" })),
        r#"event `deal.edit`: the field `newparam` is not a list: "x""#
    );
    assert_eq!(
        error("deal.change.user", json!({ "info": ["7"] })),
        r#"event `deal.change.user`: the field `info` holds an entry that is no record: "7""#
    );
    // A list's positions are no ids.
    assert_eq!(
        error("deal.change.user", json!({ "info": [{ "title": "x" }] })),
        "event `deal.change.user`: the field `info` holds an entry without an id"
    );
}

#[test]
fn an_empty_or_null_optional_field_is_not_an_error() {
    let empty =
        data("deal.change.step", json!({ "did": "1", "autor": "", "stepOld": null, "stepNew": "", "reason": "" }));
    assert_eq!(empty, data("deal.change.step", json!({ "did": "1" })));
    for nothing in [json!(null), json!(""), json!([]), json!({})] {
        let edit = data("client.edit", json!({ "clid": "1", "newparam": nothing }));
        assert_eq!(edit, data("client.edit", json!({ "clid": "1" })));
    }
}

#[test]
fn a_mass_change_of_clients_is_read_from_an_object_and_a_list_alike() {
    // The page for clients starts with an empty entry, which PHP drops: what is left has gaps and comes as an object.
    let entries = [json!({ "clid": "7", "title": "Ромашка", "olduser": "2" }), json!({ "clid": "9", "olduser": "0" })];
    let expected = [
        Reassigned { id: 7, title: Some("Ромашка".into()), olduser: Some(2) },
        Reassigned { id: 9, title: None, olduser: None },
    ];
    let infos = [
        json!({ "1": entries[0], "2": entries[1] }),
        json!([[], entries[0], entries[1]]),
        json!({ "7": { "title": "Ромашка", "olduser": "2" }, "9": { "olduser": "0" } }),
    ];
    for info in infos {
        let change =
            data("client.change.user", json!({ "info": info, "autor": "1", "newuser": "4", "comment": "отпуск" }));
        let EventData::ClientChangeUser(change) = change else { panic!("{change:?}") };
        assert_eq!((change.clid, change.olduser, change.newuser), (None, None, Some(4)));
        assert_eq!(change.records(), expected);
    }
}

#[test]
fn a_mass_change_of_deals_without_any_deal_is_not_an_error() {
    let EventData::DealChangeUser(change) = data("deal.change.user", json!({ "autor": "1", "newuser": "4" })) else {
        panic!("another type")
    };
    assert_eq!(change.records(), []);
    let info = json!([{ "did": "4", "title": "Поставка", "olduser": "1" }]);
    let EventData::DealChangeUser(change) = data("deal.change.user", json!({ "info": info, "newuser": "4" })) else {
        panic!("another type")
    };
    assert_eq!(change.records(), [Reassigned { id: 4, title: Some("Поставка".into()), olduser: Some(1) }]);
}

#[test]
fn an_import_with_gaps_keeps_its_order_and_invents_no_record_0() {
    let import =
        data("client.import", json!({ "clids": { "0": "10", "2": "11" }, "pids": ["0", "8", ""], "autor": "1" }));
    let EventData::ClientImport(import) = import else { panic!("{import:?}") };
    assert_eq!((import.clids, import.pids, import.user), (vec![10, 11], vec![8], None));
}

#[test]
fn changes_hold_text_whatever_was_sent_and_keep_what_is_nested() {
    let sent = json!({ "iduser": 2, "recv": { "inn": 77, "kpp": null }, "tags": ["a", 1], "active": true });
    let EventData::ClientEdit(edit) = data("client.edit", json!({ "clid": 1, "newparam": sent })) else {
        panic!("another type")
    };
    let expected = json!({ "iduser": "2", "recv": { "inn": "77", "kpp": null }, "tags": ["a", "1"], "active": "1" });
    assert_eq!(Value::Object(edit.newparam.0.clone()), expected);
    assert_eq!((edit.newparam.number("iduser"), edit.newparam.text("recv")), (Some(2), None));
}

#[test]
fn the_entity_is_the_record_itself_and_never_number_0() {
    let entity = |name: &str, fields: &[(&str, &str)]| event(name, fields).entity.map(|entity| entity.to_string());
    let all = [("clid", "1"), ("pid", "2"), ("did", "3"), ("id", "4"), ("tid", "5"), ("deid", "6")];
    let cases = [
        ("client.add", "client:1"),
        ("person.add", "person:2"),
        ("deal.change.step", "deal:3"),
        ("task.add", "task:4"),
        ("history.add", "history:4"),
        ("invoice.doit", "invoice:4"),
        ("lead.do", "lead:4"),
        ("entry.status", "entry:4"),
        ("contract.edit", "contract:4"),
        ("document.add", "contract:4"),
        ("akt.edit", "akt:4"),
        ("email.send", "email:4"),
        ("budjet.do", "budjet:4"),
    ];
    for (name, expected) in cases {
        assert_eq!(entity(name, &all).as_deref(), Some(expected), "{name}");
        assert_eq!(entity(name, &[]), None, "{name}");
        assert_eq!(entity(name, &all.map(|(key, _)| (key, "0"))), None, "{name}");
    }
    assert_eq!(entity("task.add", &[("tid", "3")]).as_deref(), Some("task:3"));
    assert_eq!(entity("contract.delete", &[("deid", "2"), ("did", "0")]).as_deref(), Some("contract:2"));
}

#[test]
fn the_catalogue_names_no_event_twice_and_none_is_other() {
    let names: std::collections::BTreeSet<_> = catalogue().iter().map(|entry| entry.name).collect();
    assert_eq!((names.len(), catalogue().len()), (50, 50));
    let fields = object(json!({ "clid": "1", "pid": "1", "did": "1", "id": "1", "deid": "1" }));
    for entry in catalogue() {
        assert_ne!(EventData::read(entry.name, &fields), Ok(EventData::Other), "{}", entry.name);
    }
    assert_eq!(data("client.change.relation", json!({ "clid": "1" })), EventData::Other);
}

#[test]
fn an_amount_is_never_rounded_through_a_binary_fraction() {
    let minor = |text: &str| Amount::from(text).as_minor();
    assert_eq!(minor("0.29"), Some(29));
    assert_eq!(minor("1.5"), Some(150));
    assert_eq!(minor("1234.5600000000002"), Some(123_456));
    assert_eq!(minor("0.295"), Some(30));
    assert_eq!(minor("-0.295"), Some(-30));
    assert_eq!(minor("12\u{a0}345,67"), Some(1_234_567));
    assert_eq!(minor("92233720368547758.07"), Some(i64::MAX));
    assert_eq!(minor(".5"), Some(50));
    assert_eq!(minor("5."), Some(500));
    for text in ["92233720368547758.08", "", ".", "-", "1.2.3", "1e5", "NaN", "inf", "--1", "١"] {
        assert_eq!(minor(text), None, "{text}");
    }
    assert_eq!(Amount::from("NaN").as_f64(), None);
}
