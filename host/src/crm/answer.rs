//! What an answer of the CRM means. Its status is always 200 and its content type always JSON, so the body decides.
//!
//! The rule fits every captured answer (338 calls, version 2025.4): a failure is a body that is not JSON, or an `error`
//! with a text in it. Everything else is an answer, whatever marker it carries: `Успешно`, `Ok`, none at all.
//! Code 302 without a text is "nothing changed", not a failure.
//!
//! - A body of 16 MiB may hold 8 million values, which would take half a gibibyte: it is judged while it is written over, and
//!   made into values only where it has few ([`MOST_VALUES`]).
//! - Large answers are held one at a time, over all accounts and plugins ([`Large`]).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;
use super::stranger::{PhpError, Stranger};

/// Every captured answer that is an object has one of these.
const OWN_KEYS: [&str; 8] = ["budget", "count", "data", "error", "html", "period", "result", "url"];

/// Values of an answer that the host looks into: a list of a thousand records has about a hundred thousand.
const MOST_VALUES: usize = 400_000;
/// Bytes of a refusal's code and words.
const MOST_REFUSAL: usize = 64 << 10;
/// Bytes of an answer that count as large.
pub(super) const LARGE: usize = 1 << 20;

/// The one place for a large answer. All clients of a host share it.
#[derive(Debug, Clone)]
pub struct Large(Arc<Semaphore>);

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Large {
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// A good answer.
#[derive(Debug)]
pub struct Answer {
    text: String,
    values: usize,
    /// Of a large answer, until it is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// The whole body as JSON, without what only makes it longer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same, to keep.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The body, to look into.
    ///
    /// # Errors
    /// [`Error::BadAnswer`] where it has more than the host looks into.
    pub fn value(&self) -> Result<Value, Error> {
        if self.values > MOST_VALUES {
            return Err(bad(&format!("the answer holds more than {MOST_VALUES} values: ask for less at once")));
        }
        serde_json::from_str(&self.text).map_err(|error| bad(&format!("the answer is not valid JSON: {error}")))
    }

    pub(super) fn held_by(self, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { _place: place, ..self }
    }
}

/// Judges a body; returns it as values where it is a good answer.
///
/// # Errors
/// As [`judged`], and [`Answer::value`].
pub fn classify(bytes: &[u8]) -> Result<Value, Error> {
    judged(bytes)?.value()
}

/// Judges a body; returns it whole where it is a good answer.
///
/// # Errors
/// [`Error::Refused`] with the CRM's code and words; [`Error::NotTheApi`] for a body of something else,
/// [`Error::BadAnswer`] for JSON that the API does not give. The body itself is not quoted: a PHP error page holds paths and SQL.
pub fn judged(bytes: &[u8]) -> Result<Answer, Error> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    if let Some(stranger) = Stranger::of_text(text) {
        return Err(Error::NotTheApi(stranger));
    }
    let mut bodies = serde_json::Deserializer::from_str(text).into_iter::<Rewritten>();
    let body = match bodies.next() {
        Some(Ok(body)) if body.shape != Shape::Plain => body,
        Some(Ok(_)) => return Err(bad("the answer is neither a JSON object nor a list")),
        Some(Err(error)) => {
            return Err(bad(&format!(
                "the answer is not valid JSON (line {}, column {}): a record may hold a backslash sequence typed by a user",
                error.line(),
                error.column()
            )));
        }
        None => return Err(Error::NotTheApi(Stranger::Empty)),
    };
    let rest = text.get(bodies.byte_offset()..).unwrap_or_default().trim();
    if !rest.is_empty() {
        let php = PhpError::of(rest).map(|error| format!(": {error}")).unwrap_or_default();
        return Err(bad(&format!("the answer is JSON with something behind it{php}")));
    }
    if body.shape == Shape::Object && !body.own {
        return Err(Error::NotTheApi(Stranger::Json));
    }
    if let Some(error) = body.error.clone().and_then(|range| body.text.get(range)) {
        if error.len() > MOST_REFUSAL {
            return Err(bad("the answer's `error` is longer than any refusal"));
        }
        let error = serde_json::from_slice(error).unwrap_or(Value::Null);
        if let Some(refusal) = refusal(&error) {
            return Err(refusal);
        }
    }
    let text = String::from_utf8(body.text).map_err(|_| bad("the answer is no text"))?;
    Ok(Answer { text, values: body.values, _place: None })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Shape {
    #[default]
    Plain,
    List,
    Object,
}

/// A body, written over as its values would be, without making them.
#[derive(Default)]
struct Rewritten {
    text: Vec<u8>,
    values: usize,
    shape: Shape,
    /// Whether it has one of [`OWN_KEYS`].
    own: bool,
    /// Where the value of `error` stands in the text.
    error: Option<Range<usize>>,
}

impl<'de> Deserialize<'de> for Rewritten {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self::default();
        Node { all: &mut all, is_top: true, comma: false }.deserialize(from)?;
        Ok(all)
    }
}

impl Rewritten {
    fn plain<E: de::Error>(&mut self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(&mut self.text, value).map_err(E::custom)
    }
}

/// One value within it.
struct Node<'a> {
    all: &'a mut Rewritten,
    is_top: bool,
    /// Whether another stands before it.
    comma: bool,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.all.values += 1;
        if self.comma {
            self.all.text.push(b',');
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.all.plain(&())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.all.plain(&value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.all.plain(&value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.all.plain(&value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.all.plain(&value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.all.plain(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.is_top {
            self.all.shape = Shape::List;
        }
        self.all.text.push(b'[');
        let mut comma = false;
        while list.next_element_seed(Node { all: &mut *self.all, is_top: false, comma })?.is_some() {
            comma = true;
        }
        self.all.text.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        if self.is_top {
            self.all.shape = Shape::Object;
        }
        self.all.text.push(b'{');
        let mut comma = false;
        while let Some(key) = object.next_key::<String>()? {
            if std::mem::replace(&mut comma, true) {
                self.all.text.push(b',');
            }
            self.all.plain(key.as_str())?;
            self.all.text.push(b':');
            let begins = self.all.text.len();
            object.next_value_seed(Node { all: &mut *self.all, is_top: false, comma: false })?;
            if self.is_top {
                self.all.own |= OWN_KEYS.contains(&key.as_str());
                // The last counts, as everywhere.
                self.all.error = if key == "error" { Some(begins..self.all.text.len()) } else { self.all.error.take() };
            }
        }
        self.all.text.push(b'}');
        Ok(())
    }
}

fn refusal(error: &Value) -> Option<Error> {
    let (code, text) = match error {
        Value::String(text) => (None, text.as_str()),
        Value::Object(error) => {
            let code = error.get("code").and_then(|code| match code {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
            (code, error.get("text").and_then(Value::as_str).unwrap_or_default())
        }
        _ => return None,
    };
    (!text.is_empty()).then(|| Error::Refused { code, text: text.to_owned() })
}

fn bad(words: &str) -> Error {
    Error::BadAnswer(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_were_not_captured_are_judged_by_the_same_rule() {
        let refused = |code: Option<&str>, text: &str| {
            Err(Error::Refused { code: code.map(str::to_owned), text: text.to_owned() })
        };
        assert_eq!(classify(br#"{"result":"Error","error":"has deals"}"#), refused(None, "has deals"));
        assert_eq!(classify(br#"{"error":{"code":400,"text":"key"}}"#), refused(Some("400"), "key"));
        assert!(classify(br#"{"data":1,"error":{"code":302}}"#).is_ok());
        assert!(classify(br#"{"data":1,"error":{"code":500,"text":""}}"#).is_ok());
        for broken in
            [&b""[..], b"  ", b"null", b"12", b"{\"a\":", b"<html></html>", b"{}<br />Fatal error", b"{} {}", b"{}"]
        {
            assert!(classify(broken).is_err_and(|error| error.is_no_answer()), "{broken:?}");
        }
    }

    #[test]
    fn what_plugins_get_is_what_the_values_would_be_written_as() {
        for (body, text) in [
            (
                "\u{feff} { \"data\" : [ 1 , -2.50, 1e3, true, null, {} , [] ] }\n",
                r#"{"data":[1,-2.5,1000.0,true,null,{},[]]}"#,
            ),
            (
                r#"{"data":"\u041a\/\n","count":18446744073709551615}"#,
                "{\"data\":\"К/\\n\",\"count\":18446744073709551615}",
            ),
            ("[[],\"a\"]", "[[],\"a\"]"),
        ] {
            let answer = judged(body.as_bytes()).unwrap();
            assert_eq!((answer.text(), answer.value().unwrap().to_string().as_str()), (text, text));
        }
        // As deep as the reader goes, and no deeper.
        assert!(judged(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
        assert!(judged("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn an_answer_of_very_many_values_is_handed_on_and_not_looked_into() {
        let many = format!("[{}1]", "1,".repeat(MOST_VALUES));
        let answer = judged(many.as_bytes()).unwrap();
        assert_eq!(answer.text(), many);
        assert!(matches!(answer.value(), Err(Error::BadAnswer(_))));
        let long = format!("{{\"error\":{{\"code\":1,\"text\":{:?}}}}}", "x".repeat(MOST_REFUSAL));
        assert!(matches!(judged(long.as_bytes()), Err(Error::BadAnswer(_))));
        let twice = r#"{"error":{"code":1,"text":"first"},"data":1,"error":{"code":"2","text":"last"}}"#;
        assert_eq!(classify(twice.as_bytes()), Err(Error::Refused { code: Some("2".into()), text: "last".into() }));
    }

    proptest::proptest! {
        #[test]
        fn every_body_is_judged_and_written_as_before(text in "[\\[\\]{}\"a:,0-9.eE\\\\u -]{0,40}|\\{\"(data|error)\":[\\[\\]{}\"a:,0-9.]{0,20}\\}") {
            if let Ok(answer) = judged(text.as_bytes()) {
                let value: Value = serde_json::from_str(text.trim()).unwrap();
                proptest::prop_assert_eq!(answer.value().unwrap(), value);
            }
        }
    }

    #[test]
    fn a_php_error_page_does_not_leak_paths_or_sql() {
        let page =
            "<br />\n<b>Fatal error</b>: Uncaught mysqli_sql_exception: near 'and identity' in /var/www/crm/x.php:466";
        assert_eq!(classify(page.as_bytes()), Err(Error::NotTheApi(Stranger::Php(PhpError::Database))));
    }
}
