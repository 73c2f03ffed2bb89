//! What is hidden stays hidden, however it is wrapped.

use std::io::{Read as _, Write as _};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::{EventId, Via};
use crate::journal::{AttemptView, DeliveryState};
use crate::outcome::LogLine;

fn summary(entity: &str) -> EventSummary {
    EventSummary {
        id: EventId::new(),
        account: "main".to_owned(),
        name: "client.add".to_owned(),
        received_at: 0,
        via: Via::Json,
        actor: Some(3),
        entity: Some(entity.to_owned()),
        duplicate: None,
        same_login: false,
        depth: 0,
        known: false,
        deliveries: Vec::new(),
    }
}

const WAYS: u8 = 18;
const FIELDS: u8 = 13;

/// A value wrapped in so many ways, each by one of the kinds.
fn wrapped(value: &Value, ways: &[u8]) -> Value {
    let mut value = value.clone();
    for way in ways {
        value = match way % WAYS {
            0 => json!({ "data": value, "x": 1 }),
            1 => json!([1, value, "y"]),
            2 => Value::String(value.to_string()),
            3 => Value::String(format!("a=1&data={}", encoded(&value.to_string()))),
            4 => Value::String(format!("<r><v>{}</v></r>", value.to_string().replace('"', "&#34;"))),
            5 => Value::String(value.to_string().replace('p', "\\u0070")),
            6 => json!({ "newparam": { "deep": [value] } }),
            7 => Value::String(encoded(&value.to_string())),
            8 => Value::String(base64(true, value.to_string().as_bytes())),
            9 => Value::String(base64(false, value.to_string().as_bytes())),
            10 => Value::String(value.to_string().bytes().map(|byte| format!("{byte:02x}")).collect()),
            11 => Value::String(format!("data:application/json;base64,{}", base64(true, value.to_string().as_bytes()))),
            12 => {
                let [head, body, sign] = [&b"{\"alg\":\"HS256\"}"[..], value.to_string().as_bytes(), &[200; 32]]
                    .map(|part| base64(false, part));
                Value::String(format!("Bearer {head}.{body}.{sign}"))
            }
            13 => Value::String(base64(true, &packed(value.to_string().as_bytes()))),
            14 => {
                let text = value.to_string();
                Value::String(format!("a:1:{{s:2:\"in\";s:{}:\"{text}\";}}", text.len()))
            }
            15 => json!({ "columns": ["title", "in"], "rows": [["x", value]] }),
            16 => Value::String(base64(true, encoded(&value.to_string()).as_bytes())),
            _ => Value::String(format!("see {value} (cut of")),
        };
    }
    value
}

fn base64(standard: bool, bytes: &[u8]) -> String {
    let signs = if standard { *b"+/=" } else { *b"-_ " };
    let letters: Vec<u8> = [b'A'..=b'Z', b'a'..=b'z', b'0'..=b'9'].into_iter().flatten().chain(signs).collect();
    let letter = |group: u32, place: u32| char::from(letters[(group >> (18 - 6 * place) & 63) as usize]);
    let groups = bytes.chunks(3).map(|chunk| {
        let group = (0..3).fold(0, |group, at| group << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        let known = u32::try_from(chunk.len()).unwrap() + 1;
        let group: String =
            (0..4).map(|place| if place < known { letter(group, place) } else { char::from(letters[64]) }).collect();
        group.trim().to_owned()
    });
    groups.collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packing.write_all(bytes).unwrap();
    packing.finish().unwrap()
}

/// All that a text tells whoever unwraps what stands in it, by any of the ways.
fn unwrapped(text: &str, depth: usize) -> String {
    let mut all = cover::readings(text).concat().replace('\\', "");
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "+/-_".contains(letter);
    for word in all.clone().split(|letter| !is_letter(letter)).filter(|word| word.len() >= 8 && depth < 5) {
        let digits: Vec<char> = word.chars().collect();
        let hex = digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16));
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits = word.replace('-', "+").replace('_', "/");
        let bits: String = bits.chars().map(|letter| format!("{:06b}", letters.find(letter).unwrap_or(0))).collect();
        let bytes = bits.as_bytes().chunks_exact(8);
        let bytes: Vec<u8> =
            bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect();
        let mut plain = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut plain).ok();
        for read in [hex.collect::<Result<Vec<u8>, _>>().unwrap_or_default(), bytes, plain.into_bytes()] {
            if let Ok(read) = String::from_utf8(read)
                && !read.is_empty()
            {
                all.push(' ');
                all.push_str(&unwrapped(&read, depth + 1));
            }
        }
    }
    all
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The ways in which a hidden field itself is written.
fn field(way: u8, marker: &str) -> Value {
    match way % FIELDS {
        0 => json!({ "phone": marker }),
        1 => json!({ "Phone": [marker, { "more": marker }] }),
        2 => json!({ "client[phone]": marker }),
        3 => json!({ "field": "phone", "value": marker }),
        4 => json!(["phone", marker]),
        5 => json!(format!("phone={marker}&a=1")),
        6 => json!(format!("<client><phone>{marker}</phone></client>")),
        7 => json!(format!("{{\"phone\": \"{marker}")),
        8 => json!({ "columns": ["title", "phone"], "rows": [["x", marker], ["y", marker]] }),
        9 => json!([["title", "phone"], ["x", marker]]),
        10 => json!({ "meta": { "fields": [{ "name": "title" }, { "name": "phone" }] }, "data": [{ "1": marker }] }),
        11 => json!(format!("a:1:{{s:5:\"phone\";s:11:\"{marker}\";}}")),
        _ => json!({ "phone": marker.parse::<u64>().unwrap_or(1) }),
    }
}

fn attempt(call: &str, request: String, answer: String, words: &str) -> AttemptView {
    let call = HostCall { at: 0, took: 0, call: call.to_owned(), request, answer, good: true };
    AttemptView {
        number: 1,
        version: "1".to_owned(),
        started_at: 0,
        ended_at: 0,
        outcome: "rejected".to_owned(),
        reason: words.to_owned(),
        code: None,
        usage: crate::outcome::Usage::default(),
        lines: vec![LogLine { at: 0, level: "info".to_owned(), text: words.to_owned() }],
        lines_dropped: 0,
        calls: vec![call],
    }
}

fn path(fields: Value, attempts: Vec<AttemptView>, entity: &str) -> EventPath {
    let delivery = DeliveryView {
        id: 1,
        plugin: "one".to_owned(),
        state: DeliveryState::Dead,
        reason: attempts.first().map(|attempt| attempt.reason.clone()),
        code: Some("rejected".to_owned()),
        at: 0,
        replay: false,
        attempts,
        writes: Vec::new(),
        caused: Vec::new(),
    };
    EventPath { event: summary(entity), fields, routed: true, caused_by: Vec::new(), deliveries: vec![delivery] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_hidden_value_shows_nowhere_however_it_is_wrapped(
        way in 0..FIELDS, fields in prop::collection::vec(0..WAYS, 0..4), calls in prop::collection::vec(0..WAYS, 0..4),
    ) {
        const MARKER: &str = "79161234567";
        let mask = Mask::new(["phone".to_owned()]);
        let event = json!({ "clid": "5", "in": wrapped(&field(way, MARKER), &fields) });
        // Whoever sees it as it is can unwrap it.
        prop_assert!(unwrapped(&event.to_string(), 0).contains(MARKER), "{event}");
        let answer = wrapped(&field(way, MARKER), &calls);
        let status = format!("200 {answer}");
        let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
        let attempts = vec![
            attempt("crm client.info", json!({ "a": answer }).to_string(), text.clone(), "told +7 (916) 123-45-67"),
            attempt("http POST https://a.example", text, status, "79161234567"),
            attempt("state read", MARKER.to_owned(), MARKER.to_owned(), ""),
        ];
        let mut path = path(event.clone(), attempts, "client:79161234567");
        mask.path(&mut path);
        let shown = serde_json::to_string(&path).unwrap();
        let digits: String = unwrapped(&shown, 0).chars().filter(char::is_ascii_digit).collect();
        prop_assert!(!digits.contains("9161234567"), "{event}\n{shown}");
        let (mut summary, fields) = (summary("client:5"), event.to_string());
        let searched = mask.cover(&mut summary, &fields).unwrap_or(fields);
        prop_assert!(!unwrapped(&searched, 0).contains("916123"), "{searched}");
    }
}

#[test]
fn what_is_beside_a_hidden_value_is_shown() {
    let mask = Mask::new(["phone".to_owned()]);
    let fields = json!({
        "phone": "+79161234567", "title": "Ромашка", "note": "call 8 916 123-45-67", "sum": "100.50",
        "client": { "Phone": ["+79260001122"], "microphone": "yes" }, "79161234567": "by number",
    });
    let call = attempt(
        "crm client.info",
        "{\"clid\":\"5\"}".into(),
        "{\"data\":{\"phone\":\"x\",\"title\":\"Р\"}}".into(),
        "",
    );
    let mut limited = attempt("crm client.info", String::new(), "no answer in time".into(), "the plugin used 1000 ms");
    limited.code = Some("plugin.cpu_limit".to_owned());
    let mut path = path(fields, vec![call, limited], "client:5");
    mask.path(&mut path);
    assert_eq!(
        path.fields,
        json!({
            "phone": HIDDEN, "title": "Ромашка", "note": HIDDEN, "sum": "100.50",
            "client": { "Phone": HIDDEN, "microphone": "yes" }, HIDDEN: "by number",
        })
    );
    assert_eq!(path.event.entity.as_deref(), Some("client:5"));
    let attempts = &path.deliveries[0].attempts;
    assert_eq!(
        (attempts[0].calls[0].request.as_str(), attempts[1].reason.as_str()),
        ("{\"clid\":\"5\"}", "the plugin used 1000 ms")
    );
    assert_eq!(attempts[0].calls[0].answer, format!("{{\"data\":{{\"phone\":\"{HIDDEN}\",\"title\":\"Р\"}}}}"));
    assert_eq!(attempts[1].calls[0].answer, HIDDEN);
}

#[test]
fn a_record_whose_number_is_hidden_has_none() {
    let shown = |names: &[&str], record: &str| {
        let mut record = record.to_owned();
        Mask::new(names.iter().map(|name| (*name).to_owned())).lone_record(&mut record);
        record
    };
    assert_eq!(shown(&["phone"], "client:1234567"), "client:1234567");
    assert_eq!(shown(&["phone"], "call:79161234567"), format!("call:{HIDDEN}"));
    assert_eq!(shown(&["clid"], "client:5"), format!("client:{HIDDEN}"));
    assert_eq!(shown(&[], "call:79161234567"), "call:79161234567");
    let mask = Mask::new(["clid".to_owned()]);
    for (text, expected) in
        [("main client:5", HIDDEN), ("record=client:5 since=7", HIDDEN), ("dead.drop 17", "dead.drop 17")]
    {
        let mut text = text.to_owned();
        mask.deed(&mut text);
        assert_eq!(text, expected);
    }
}

#[test]
fn what_only_looks_encoded_is_shown() {
    let mask = Mask::new(["phone".to_owned()]);
    for text in [
        "550e8400-e29b-41d4-a716-446655440000",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "79161234567",
        "40817810099910004312",
        "internationalization_of_everything",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36",
        "https://crm.example/card.deal?did=17",
        "0JDQvdC90LAg0JjQstCw0L3QvtCy0LA=",
    ] {
        let mut value = json!({ "a": text });
        assert!(!mask.hide(&mut value, &mut BTreeSet::new(), 0), "{value}");
    }
    let long = "Zm9v".repeat(200_000);
    let mut value = json!({ "columns": ["title"], "rows": [[long]] });
    assert!(!mask.hide(&mut value, &mut BTreeSet::new(), 0));
}
