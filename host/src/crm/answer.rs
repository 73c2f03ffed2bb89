//! What an answer of the CRM means. Its status is always 200 and its content type always JSON, so the body decides.
//!
//! The rule fits every captured answer (338 calls, version 2025.4): a failure is a body that is not JSON, or an `error`
//! with a text in it. Everything else is an answer, whatever marker it carries: `Успешно`, `Ok`, none at all.
//! Code 302 without a text is "nothing changed", not a failure.

use serde_json::Value;

use super::Error;
use super::stranger::{PhpError, Stranger};

/// Every captured answer that is an object has one of these.
const OWN_KEYS: [&str; 8] = ["budget", "count", "data", "error", "html", "period", "result", "url"];

/// Judges a body; returns it whole where it is a good answer.
///
/// # Errors
/// [`Error::Refused`] with the CRM's code and words; [`Error::NotTheApi`] for a body of something else,
/// [`Error::BadAnswer`] for JSON that the API does not give. The body itself is not quoted: a PHP error page holds paths and SQL.
pub fn classify(bytes: &[u8]) -> Result<Value, Error> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    if let Some(stranger) = Stranger::of_text(text) {
        return Err(Error::NotTheApi(stranger));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let body = match values.next() {
        Some(Ok(body)) if body.is_object() || body.is_array() => body,
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
    let rest = text.get(values.byte_offset()..).unwrap_or_default().trim();
    if !rest.is_empty() {
        let php = PhpError::of(rest).map(|error| format!(": {error}")).unwrap_or_default();
        return Err(bad(&format!("the answer is JSON with something behind it{php}")));
    }
    if let Some(object) = body.as_object()
        && !OWN_KEYS.iter().any(|key| object.contains_key(*key))
    {
        return Err(Error::NotTheApi(Stranger::Json));
    }
    match refusal(&body) {
        Some(refusal) => Err(refusal),
        None => Ok(body),
    }
}

fn refusal(body: &Value) -> Option<Error> {
    let (code, text) = match body.get("error")? {
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
    fn a_php_error_page_does_not_leak_paths_or_sql() {
        let page =
            "<br />\n<b>Fatal error</b>: Uncaught mysqli_sql_exception: near 'and identity' in /var/www/crm/x.php:466";
        assert_eq!(classify(page.as_bytes()), Err(Error::NotTheApi(Stranger::Php(PhpError::Database))));
    }
}
