//! Whether an event of another record names this one: in a field of its family, or in a list of them.
//!
//! - A CRM writes numbers in many ways: as text, in lists (`clids[0]`), in comma lists, as JSON in a text, with zeros before.
//! - Only fields of the family count: a price of 123 is no client 123.

use serde_json::Value;

/// JSON in a text, in JSON in a text.
const DEEPEST: usize = 4;

/// A number without the zeros before it.
pub(super) fn bare(id: &str) -> &str {
    id.trim_start_matches('0')
}

/// Whether an event's fields name a record by its family's field.
pub(super) fn names(fields: &str, field: &str, id: &str) -> bool {
    // What can't be read may name it.
    serde_json::from_str(fields).map_or(true, |value| within(&value, false, field, bare(id), DEEPEST))
}

/// `of_family`: the value stands in a field of the family.
fn within(value: &Value, of_family: bool, field: &str, id: &str, deeper: usize) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(key, value)| {
            // A list that came with its places named.
            let place = key.bytes().all(|byte| byte.is_ascii_digit());
            within(value, is_field(key, field) || (place && of_family), field, id, deeper)
        }),
        Value::Array(items) => items.iter().any(|item| within(item, of_family, field, id, deeper)),
        Value::String(text) => {
            let text = text.trim();
            let inner = deeper > 0 && text.starts_with(['{', '[']);
            let listed = |part: &str| !part.is_empty() && bare(part) == id;
            inner && serde_json::from_str(text).is_ok_and(|value| within(&value, of_family, field, id, deeper - 1))
                || of_family && text.split(|character: char| !character.is_alphanumeric()).any(listed)
        }
        Value::Number(number) => of_family && number.to_string() == id,
        Value::Null | Value::Bool(_) => false,
    }
}

/// `clid`, `clids`, `clids[0]`, `newparam[clid]`.
fn is_field(key: &str, field: &str) -> bool {
    key.split(|character: char| !character.is_alphanumeric())
        .any(|word| word.strip_prefix(field).is_some_and(|rest| matches!(rest, "" | "s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_in_every_shape_in_which_a_crm_names_it_and_in_no_other_field() {
        for fields in [
            r#"{"clid":"123"}"#,
            r#"{"clid":123}"#,
            r#"{"clids[0]":"10","clids[1]":"123"}"#,
            r#"{"clids":["10","123"]}"#,
            r#"{"clids":{"0":"10","1":"123"}}"#,
            r#"{"clid":["123"]}"#,
            r#"{"newparam":{"clid":"0123"}}"#,
            r#"{"newparam[clid]":"123"}"#,
            r#"{"data":"{\"clid\":\"123\"}"}"#,
            r#"{"clids":"[10, 123]"}"#,
            r#"{"clid":"123,124"}"#,
            r#"{"clid":"124; 123"}"#,
            r#"{"clid":"0123"}"#,
        ] {
            assert!(names(fields, "clid", "123"), "{fields}");
        }
        for fields in [
            r#"{"clid":"1234"}"#,
            r#"{"clid":"12,3"}"#,
            r#"{"price":"123","clid":"7"}"#,
            r#"{"clids":{"price":"123"}}"#,
            r#"{"clidx":"123"}"#,
            r#"{"note":"clid 123"}"#,
            r#"{"clid":""}"#,
        ] {
            assert!(!names(fields, "clid", "123"), "{fields}");
        }
        assert!(!names(r#"{"clid":""}"#, "clid", "0"));
    }
}
