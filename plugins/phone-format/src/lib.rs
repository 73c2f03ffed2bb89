//! Brings phone numbers to one form: `8 (495) 123-45-67` becomes `+74951234567`.
//!
//! The record is read back, and written only when a number changes; all other fields stay as they are. Numbers that are
//! not Russian ones stay as they were typed.

use salesman_plugin_sdk::{Changes, CrmError, Event, EventData, Host, Plugin, RecordKind, Reply, Result};
use serde_json::{Map, Value};

const CLIENT_FIELDS: [&str; 2] = ["phone", "fax"];
const PERSON_FIELDS: [&str; 3] = ["tel", "mob", "fax"];

struct PhoneFormat;

impl Plugin for PhoneFormat {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
        match event.data()? {
            EventData::ClientAdd(client) => format(host, RecordKind::Client, client.clid),
            EventData::ClientEdit(client) if touches(&client.newparam, &CLIENT_FIELDS) => {
                format(host, RecordKind::Client, client.clid)
            }
            EventData::PersonAdd(person) => format(host, RecordKind::Person, person.pid),
            EventData::PersonEdit(person) if touches(&person.newparam, &PERSON_FIELDS) => {
                format(host, RecordKind::Person, person.pid)
            }
            _ => Reply::skip_because("no phone number changed"),
        }
    }
}

fn touches(changes: &Changes, fields: &[&str]) -> bool {
    changes.names().any(|name| fields.contains(&name))
}

fn format(host: &Host, kind: RecordKind, id: u64) -> Result<Reply> {
    let (read, fields) = match kind {
        RecordKind::Person => (host.crm().person(id), &PERSON_FIELDS[..]),
        _ => (host.crm().client(id).map(Some), &CLIENT_FIELDS[..]),
    };
    let record = match read {
        Ok(Some(record)) => record,
        // Deleted since, or out of the API user's sight: nothing to format.
        Ok(None) | Err(CrmError::Refused { .. }) => {
            return Reply::skip_because(format!("the CRM shows no {} {id}", kind.as_str()));
        }
        Err(error) => return Err(error.into()),
    };
    let mut changes = Map::new();
    for field in fields {
        let Some(stored) = record.get(*field).and_then(Value::as_str) else { continue };
        let formatted = normal(stored);
        if formatted != stored {
            changes.insert((*field).to_owned(), formatted.into());
        }
    }
    if changes.is_empty() {
        return Reply::skip_because("the numbers have their form already");
    }
    let changed = host.crm().update(kind, id, &changes)?;
    host.info(format!("{} {id}: {} formatted", kind.as_str(), changed.join(", ")));
    Reply::done()
}

/// A list of numbers, each in its normal form.
fn normal(list: &str) -> String {
    list.split([',', ';'])
        .map(|number| one(number.trim()))
        .filter(|number| !number.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Only what can be nothing but a Russian number is changed: `+7` or `8` and ten digits, or ten digits alone. Numbering there
/// begins with 3, 4, 8 or 9 (7 is Kazakhstan's part of `+7`), so ten digits that begin otherwise are somebody else's.
fn one(typed: &str) -> String {
    let digits: String = typed.chars().filter(char::is_ascii_digit).collect();
    let marks = |character: char| "+-() .\u{a0}\u{2011}\u{2013}".contains(character);
    let other = typed.chars().any(|character| !(character.is_ascii_digit() || marks(character)));
    let plus = typed.starts_with('+');
    let country = if plus { digits.strip_prefix('7') } else { digits.strip_prefix(['7', '8']) };
    let national = match (digits.len(), country) {
        _ if other || typed.matches('+').count() > usize::from(plus) => None,
        (11, rest) => rest,
        (10, _) if !plus => Some(digits.as_str()),
        _ => None,
    };
    match national {
        Some(national)
            if national.starts_with(['3', '4', '8', '9']) || (national.starts_with('7') && digits.len() == 11) =>
        {
            format!("+7{national}")
        }
        _ => typed.to_owned(),
    }
}

salesman_plugin_sdk::export!(PhoneFormat);

#[cfg(test)]
mod tests {
    use salesman_plugin_sdk::testing::{FakeHost, event};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_that_is_not_understood_stays_as_it_was_typed() {
        let cases = [
            ("8 (495) 123-45-67", "+74951234567"),
            ("+7(495)123-45-67, 84951234568", "+74951234567, +74951234568"),
            ("9161234567", "+79161234567"),
            ("+74951234567", "+74951234567"),
            ("7 916 123 45 67", "+79161234567"),
            ("8.916.123.45.67", "+79161234567"),
            ("8\u{2011}916\u{2011}123\u{2011}45\u{2011}67", "+79161234567"),
            ("8 800 555-35-35", "+78005553535"),
            ("(495) 123-45-67", "+74951234567"),
            ("+7 701 123-45-67", "+77011234567"),
            // Other countries'.
            ("+375 29 123-45-67", "+375 29 123-45-67"),
            ("+84 912 345 678", "+84 912 345 678"),
            ("+84912345678", "+84912345678"),
            ("+8613812345678", "+8613812345678"),
            ("+81 3 1234 5678", "+81 3 1234 5678"),
            ("+1 415 555 2671", "+1 415 555 2671"),
            ("+44 20 7946 0958", "+44 20 7946 0958"),
            ("+49 1512 3456789", "+49 1512 3456789"),
            ("+380501234567", "+380501234567"),
            ("+84951234567", "+84951234567"),
            // Ten digits of a national form that is not ours.
            ("0501234567", "0501234567"),
            ("050 123-45-67", "050 123-45-67"),
            ("1234567890", "1234567890"),
            ("2025550143", "2025550143"),
            ("7012345678", "7012345678"),
            // Eleven that only look like it.
            ("80501234567", "80501234567"),
            ("81012345678", "81012345678"),
            ("71234567890", "71234567890"),
            ("+70123456789", "+70123456789"),
            ("8 10 375 29 123-45-67", "8 10 375 29 123-45-67"),
            ("123-45-67", "123-45-67"),
            ("112", "112"),
            ("8+9161234567", "8+9161234567"),
            ("++79161234567", "++79161234567"),
            ("8 495 123-45-67 доб. 12", "8 495 123-45-67 доб. 12"),
            ("8 495 123-45-67#12", "8 495 123-45-67#12"),
            ("8 (495) 123-45-67 / 68", "8 (495) 123-45-67 / 68"),
            ("8 (495) 123-45-67; +84 912 345 678", "+74951234567, +84 912 345 678"),
            ("нет", "нет"),
            ("", ""),
        ];
        for (typed, expected) in cases {
            assert_eq!(normal(typed), expected, "{typed}");
            assert_eq!(normal(expected), expected, "the form itself must not change again: {expected}");
        }
    }

    #[test]
    fn a_person_is_written_once_and_only_in_the_changed_field() {
        let record = json!({ "pid": 3, "person": "Пётр", "tel": null, "mob": "8 916 000-00-00" });
        let fake =
            FakeHost::new().answer("person.info", json!({ "data": record })).record(RecordKind::Person, 3, record);
        assert_eq!(PhoneFormat.handle(event("person.add", &[("pid", "3")]), &fake.host()), Reply::done());
        assert_eq!(
            fake.calls().last(),
            Some(&("person.update".to_owned(), json!({ "id": 3, "changes": { "mob": "+79160000000" } })))
        );
    }

    #[test]
    fn a_record_that_is_gone_is_no_failure() {
        let gone = CrmError::Refused { code: Some("403".into()), text: "Клиент не найден".into() };
        let fake = FakeHost::new().fail("client.info", gone).answer("person.info", json!({ "data": { "pid": null } }));
        for event in [event("client.add", &[("clid", "9")]), event("person.add", &[("pid", "9")])] {
            assert!(matches!(PhoneFormat.handle(event, &fake.host()), Ok(Reply::Skip { .. })));
        }
    }

    #[test]
    fn its_own_write_does_not_make_it_write_again() {
        let fake = FakeHost::new().answer("client.info", json!({ "data": { "clid": 1, "phone": "+74951110000" } }));
        let reply = PhoneFormat.handle(event("client.add", &[("clid", "1")]), &fake.host());
        assert!(matches!(reply, Ok(Reply::Skip { .. })), "{reply:?}");
        assert_eq!(fake.calls().len(), 1);
    }
}
