//! Whether an event says what a write said: values compared as the CRM leaves them, not as they were sent.
//!
//! - The CRM rewrites what it is given: quotes, tags and backslashes go, company names are turned round, amounts and dates
//!   have another form. So letters and digits are compared, of titles the words without their order.
//! - Fields that the CRM translates (a category's title becomes its number) are compared by their name alone.
//! - Of a value no more than a number of eight bytes is kept.
//!
//! Not here: which write causes which event (`crm::effects`), and which was the cause (`journal`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields of a write that are kept; with more, any field of an event fits.
const MOST_FIELDS: usize = 64;
/// Bytes of a field's name; longer ones are none of the CRM's.
const LONGEST_NAME: usize = 64;

/// Fields that the CRM translates, or that hold more than one value: their name has to do.
const TRANSLATED: &[&str] = &[
    "idcategory",
    "territory",
    "clientpath",
    "tip_cmr",
    "loyalty",
    "direction",
    "tip",
    "mcid",
    "user",
    "relations",
    "recv",
    "speka",
    "payer",
    "rol",
];
/// Fields that the CRM adds to a change by itself.
const BOOKKEEPING: &[&str] = &["date_edit", "date_change", "editor", "creator", "social"];
/// Fields of a contact that every change of it holds, sent or not (measured).
const OF_EVERY_PERSON: &[&str] = &["clientpath", "loyalty", "iduser"];
/// What an added deal is recognised by.
const OF_NEW_DEAL: &[&str] = &["title", "clid", "uid", "datum_plan"];

/// What a write said, field by field; an empty list stands for any value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<String, Vec<u64>>);

impl Content {
    /// The content of these arguments.
    pub fn of(arguments: &Map<String, Value>) -> Self {
        let mut fields = BTreeMap::new();
        for (name, value) in arguments {
            if name.len() > LONGEST_NAME {
                continue;
            }
            if fields.len() == MOST_FIELDS {
                fields.insert("*".to_owned(), Vec::new());
                break;
            }
            let plain = scalar(value).filter(|_| !TRANSLATED.contains(&name.as_str()));
            fields.insert(name.clone(), plain.map(|text| numbers(name, &text)).unwrap_or_default());
        }
        Self(fields)
    }

    /// As it is stored.
    pub fn to_text(&self) -> String {
        Value::from_iter(self.0.iter().map(|(name, values)| (name.clone(), Value::from(values.clone())))).to_string()
    }

    /// Reads what [`Content::to_text`] wrote.
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    /// Whether an event of this name with these fields says nothing but what the write said.
    pub fn fits(&self, name: &str, fields: &Map<String, Value>) -> bool {
        let changes = fields.get("newparam").and_then(Value::as_object);
        let one = |of_event: &str, of_write: &str| match (fields.get(of_event), self.0.get(of_write)) {
            (Some(value), Some(_)) => self.says(of_write, value),
            _ => true,
        };
        match (name, changes) {
            ("client.edit" | "person.edit" | "deal.edit", Some(changes)) => {
                changes.iter().all(|(field, value)| self.explains(name, field, value))
            }
            // A specification that was edited on a page.
            ("deal.edit", None) => !fields.contains_key("comment") || self.0.contains_key("speka"),
            ("deal.add", Some(changes)) => OF_NEW_DEAL
                .iter()
                .filter(|field| self.0.contains_key(**field))
                .all(|field| changes.get(*field).is_none_or(|value| self.says(field, value))),
            ("deal.change.step", _) => one("stepNew", "step"),
            ("deal.change.user", _) => one("newuser", "iduser"),
            ("deal.change.datum_plan", _) => one("newdate", "datum_plan"),
            ("deal.close", _) => one("status", "status_close"),
            _ => true,
        }
    }

    /// Whether one change of an event is the write's doing.
    fn explains(&self, event: &str, field: &str, value: &Value) -> bool {
        let own = self.0.contains_key(field) && self.says(field, value);
        let by_itself = BOOKKEEPING.contains(&field) || event == "person.edit" && OF_EVERY_PERSON.contains(&field);
        // What an update does not send, the CRM blanks.
        let blanked = event == "deal.edit" && scalar(value).is_none_or(|text| matches!(text.trim(), "" | "0" | "0.00"));
        own || by_itself || blanked && !self.0.contains_key(field) || self.0.contains_key("*")
    }

    /// Whether the write gave a field this value.
    fn says(&self, field: &str, value: &Value) -> bool {
        match (self.0.get(field), scalar(value)) {
            (Some(written), Some(text)) if !written.is_empty() => {
                let mut all = numbers(field, &text);
                // A new deal's title has its number before it.
                if let Some((_, rest)) = text.split_once(": ").filter(|_| field == "title") {
                    all.extend(numbers(field, rest));
                }
                all.iter().any(|number| written.contains(number))
            }
            (Some(_), _) => true,
            (None, _) => false,
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(if *truth { "1" } else { "" }.to_owned()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// The value's numbers: as it is, and where it may hold tags, also without them.
fn numbers(field: &str, text: &str) -> Vec<u64> {
    let mut all = vec![number(&canonical(field, text))];
    if text.contains('<') {
        all.push(number(&canonical(field, &without(text, '<', '>'))));
    }
    all
}

/// A value without what the CRM may change about it.
fn canonical(field: &str, text: &str) -> String {
    if let Some(amount) = amount(text) {
        return amount;
    }
    let text = without_entities(text).to_lowercase();
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    if field == "title" {
        let mut words: Vec<&str> = words.collect();
        words.sort_unstable();
        return words.concat();
    }
    let words: Vec<&str> = words.collect();
    match words[..] {
        // 03.12.2026 and 2026-12-03 are one day.
        [day, month, year] if day.len() == 2 && month.len() == 2 && year.len() == 4 => [year, month, day].concat(),
        _ => words.concat(),
    }
}

/// An amount in one form: `1 000,50` and `1000.5`.
fn amount(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>().replace(',', ".");
    let plain = text.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | '-'));
    let number = text.parse::<f64>().ok().filter(|_| plain && text.len() <= 16)?;
    Some(number.to_string())
}

/// `&acute;` and its kind stand for what was taken out.
fn without_entities(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once('&') {
        kept.push_str(before);
        match after.split_once(';') {
            Some((name, behind)) if name.len() <= 8 && name.chars().all(|letter| letter.is_ascii_alphanumeric()) => {
                rest = behind;
            }
            _ => rest = after,
        }
    }
    kept.push_str(rest);
    kept
}

fn without(text: &str, open: char, close: char) -> String {
    let mut inside = false;
    text.chars()
        .filter(|letter| {
            let was = inside;
            inside = if *letter == open { true } else { inside && *letter != close };
            !was && !inside
        })
        .collect()
}

/// FNV-1a: short, and the same in every version of this program.
fn number(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(written: Value, name: &str, event: Value) -> bool {
        let content = Content::of(written.as_object().unwrap());
        let stored = Content::parse(&content.to_text());
        assert_eq!(stored, content);
        stored.fits(name, event.as_object().unwrap())
    }

    #[test]
    fn what_the_crm_rewrites_is_the_same_and_what_somebody_else_wrote_is_not() {
        let client =
            |written: Value, says: Value| fits(written, "client.edit", json!({ "clid": "1", "newparam": says }));
        let title = json!({ "title": "ООО \"Ромашка\"", "clid": 1 });
        assert!(client(title.clone(), json!({ "title": "”Ромашка”, ООО" })));
        assert!(!client(title, json!({ "title": "”Лютик”, ООО" })));
        assert!(client(json!({ "des": "it's <b>big</b> \\n" }), json!({ "des": "it&acute;s big n" })));
        assert!(client(json!({ "des": "a <b>" }), json!({ "des": "a [b]" })));
        assert!(client(json!({ "phone": "84951112233" }), json!({ "phone": "84951112233", "date_edit": "2026" })));
        assert!(!client(json!({ "phone": "84951112233" }), json!({ "phone": "84951112332" })));
        assert!(!client(json!({ "phone": "84951112233" }), json!({ "address": "Казань" })));
        assert!(
            !client(json!({ "phone": "1" }), json!({ "phone": "1", "address": "Казань" })),
            "one of two is not ours"
        );
        assert!(client(json!({ "idcategory": "ИТ" }), json!({ "idcategory": "3" })));
        let deal = |written: Value, says: Value| fits(written, "deal.edit", json!({ "did": "1", "newparam": says }));
        assert!(deal(json!({ "kol": "1 000,50" }), json!({ "kol": "1000.5", "pid_list": "" })));
        assert!(!deal(json!({ "adres": "Омск" }), json!({ "kol": "5" })));
        assert!(!fits(
            json!({ "adres": "Омск" }),
            "deal.edit",
            json!({ "did": "1", "comment": "Изменена спецификация" })
        ));
        assert!(fits(json!({ "step": "40" }), "deal.change.step", json!({ "stepOld": "20", "stepNew": "40" })));
        assert!(!fits(json!({ "step": "40" }), "deal.change.step", json!({ "stepNew": "60" })));
        let added = json!({ "newparam": { "title": "СД2: Поставка № 1", "kol": "0", "clid": "7" } });
        assert!(fits(json!({ "title": "Поставка № 1", "clid": 7, "kol": 9 }), "deal.add", added.clone()));
        assert!(!fits(json!({ "title": "Поставка № 2", "clid": 7 }), "deal.add", added));
    }

    #[test]
    fn what_is_kept_of_a_write_is_bounded_and_holds_no_value() {
        let secret = "very secret words";
        let many: Map<String, Value> =
            (0..500).map(|n| (format!("input{n}"), Value::from(secret))).chain([("x".repeat(999), json!(1))]).collect();
        let text = Content::of(&many).to_text();
        assert!(text.len() < 4_000 && !text.contains(secret), "{text}");
        assert!(fits(Value::Object(many), "client.edit", json!({ "newparam": { "input499": "x" } })));
    }
}
