//! The event of a rehearsal: a sample, or a file in one of the shapes in which events are met.
//!
//! - As the CRM sends it: JSON, or form-encoded text. Read as the intake reads it.
//! - As the host's API shows it (`GET /api/v1/events/{id}`): it is in its normal form already.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Error;
use crate::event::{Entity, Event, EventId, Via};
use crate::ingress::{decode, normal_event, problem::Problem};
use crate::text;
use crate::workshop::samples;

/// Reads what `--event` says: the name of a sample, or a file.
///
/// # Errors
/// [`Error::NoEvent`], [`Error::File`], [`Error::Event`].
pub fn read(wanted: &str, account: &str, now: i64) -> Result<Event, Error> {
    if let Some(sample) = samples::event(wanted) {
        return Ok(Event { account: account.to_owned(), ..sample });
    }
    let path = Path::new(wanted);
    if !path.exists() {
        return Err(Error::NoEvent { wanted: wanted.to_owned(), names: samples::names().join(", ") });
    }
    let bytes = std::fs::read(path).map_err(|cause| Error::File { path: path.to_owned(), cause })?;
    parse(&bytes, account, now).map_err(|cause| Error::Event { path: path.to_owned(), cause })
}

/// Reads an event in any of its shapes.
fn parse(bytes: &[u8], account: &str, now: i64) -> Result<Event, String> {
    let text = text::of(bytes.to_vec()).map_err(|error| error.to_string())?;
    let text = text.trim();
    let words = |problem: Problem| problem.to_string();
    if !text.starts_with('{') {
        let fields = decode::form(text.as_bytes()).map_err(|error| words(error.into()))?;
        return normal_event(account.to_owned(), Via::Form, fields, now).map_err(words);
    }
    if let Ok(Value::Object(shown)) = serde_json::from_str(text)
        && shown.get("event").is_some_and(Value::is_object)
    {
        return from_api(&shown);
    }
    let fields = decode::json(text.as_bytes()).map_err(|error| words(error.into()))?;
    normal_event(account.to_owned(), Via::Json, fields, now).map_err(words)
}

/// An event as the API shows it.
#[derive(Deserialize)]
struct Shown {
    id: EventId,
    account: String,
    name: String,
    received_at: i64,
    via: Via,
    actor: Option<u64>,
    entity: Option<String>,
}

/// The event of an answer of the host's API: `event` and `fields` of it.
///
/// # Errors
/// What is missing or wrong.
pub fn from_api(answer: &Map<String, Value>) -> Result<Event, String> {
    let event = answer.get("event").cloned().unwrap_or_default();
    let shown: Shown = serde_json::from_value(event).map_err(|error| format!("`event`: {error}"))?;
    let fields = answer.get("fields").filter(|fields| fields.is_object()).ok_or("`fields` is not an object")?;
    let entity = shown.entity.as_deref().and_then(|entity| entity.split_once(':'));
    Ok(Event {
        id: shown.id,
        account: shown.account,
        name: shown.name,
        received_at: shown.received_at,
        via: shown.via,
        actor: shown.actor,
        entity: entity.map(|(kind, id)| Entity { kind: kind.to_owned(), id: id.to_owned() }),
        fields: fields.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_three_shapes_of_a_file_are_one_event() {
        let id = EventId::new();
        let shown = json!({
            "event": { "id": id, "account": "main", "name": "deal.add", "received_at": 5, "via": "json", "actor": 2,
                       "entity": "deal:4", "depth": 1 },
            "fields": { "did": "4", "newparam": { "title": "Поставка" } }, "routed": true, "deliveries": []
        });
        let api = parse(shown.to_string().as_bytes(), "other", 0).unwrap();
        let hook = br#"{"event":"deal.add","did":4,"iduser1":"2","newparam":{"title":"\u041f\u043e\u0441\u0442\u0430\u0432\u043a\u0430"},"ses":"cookie"}"#;
        let json = parse(hook, "main", 5).unwrap();
        let form = "event=deal.add&did=4&iduser1=2&newparam[title]=%D0%9F%D0%BE%D1%81%D1%82%D0%B0%D0%B2%D0%BA%D0%B0\n";
        let form = parse(form.as_bytes(), "main", 5).unwrap();
        let marked = [b"\xef\xbb\xbf", &hook[..], b"\r\n"].concat();
        assert_eq!(Event { id, ..parse(&marked, "main", 5).unwrap() }, api);
        assert_eq!(Event { id, ..json }, api);
        assert_eq!(Event { id, via: Via::Json, ..form }, api);
    }

    #[test]
    fn what_is_no_event_says_why() {
        for (wrong, words) in
            [("{\"a\":1}", "no field `event`"), ("{", "not valid JSON"), ("a=%2", "hexadecimal"), ("{\0\"\0", "UTF-16")]
        {
            let told = parse(wrong.as_bytes(), "main", 0).unwrap_err();
            assert!(told.contains(words), "{wrong}: {told}");
        }
        let told = read("deal.ad", "main", 0).unwrap_err().to_string();
        assert!(told.contains("deal.add"), "{told}");
    }
}
