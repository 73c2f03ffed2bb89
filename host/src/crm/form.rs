//! Arguments as PHP's `http_build_query` writes them: the CRM's form mode.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Encodes nested arguments. Null and empty groups are dropped, true and false become 1 and 0, as PHP does.
pub(super) fn encode(arguments: &Map<String, Value>) -> String {
    let mut body = String::new();
    for (key, value) in arguments {
        write(&mut body, &utf8_percent_encode(key, KEPT).to_string(), value);
    }
    body
}

fn write(body: &mut String, name: &str, value: &Value) {
    let text = match value {
        Value::Null => return,
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                write(body, &format!("{name}%5B{index}%5D"), item);
            }
            return;
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                write(body, &format!("{name}%5B{}%5D", utf8_percent_encode(key, KEPT)), field);
            }
            return;
        }
    };
    if !body.is_empty() {
        body.push('&');
    }
    body.push_str(name);
    body.push('=');
    body.push_str(&utf8_percent_encode(&text, KEPT).to_string());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn nested_arguments_arrive_as_php_reads_them() {
        let Value::Object(arguments) = json!({
            "did": 4, "filter": { "clid": 12, "a b": true }, "ids": [1, "2"], "none": null, "title": "ООО \"Р & К\""
        }) else {
            unreachable!()
        };
        assert_eq!(
            super::encode(&arguments),
            "did=4&filter%5Bclid%5D=12&filter%5Ba%20b%5D=1&ids%5B0%5D=1&ids%5B1%5D=2\
             &title=%D0%9E%D0%9E%D0%9E%20%22%D0%A0%20%26%20%D0%9A%22"
        );
    }
    use serde_json::Value;
}
