//! Changes some fields of a record and loses none of the others.
//!
//! The CRM's own updates blank what is not sent (measured on version 2025.4): `person.update` every enabled field and the
//! responsible employee, `deal.update` the list of contacts, `task.update` description, priority, speed and author. So:
//! read the record in the way that works, merge, and send everything that would otherwise be lost. Nothing is sent when
//! nothing changes, comparing as the CRM stores: it rewrites quotes, strips tags, drops backslashes.
//!
//! Between reading and writing somebody else may write: the API has no way to notice that.

use serde_json::{Map, Value, json};

use super::Error;

/// The records that can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By `clid`.
    Client,
    /// By `pid`.
    Person,
    /// By `did`.
    Deal,
    /// By `id`.
    Task,
}

impl Kind {
    /// The CRM's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Person => "person",
            Self::Deal => "deal",
            Self::Task => "task",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Client => "clid",
            Self::Person => "pid",
            Self::Deal => "did",
            Self::Task => "id",
        }
    }
}

/// Makes one call and keeps record of it.
pub trait Caller {
    /// Calls `method.action`.
    fn call(
        &mut self,
        method: &str,
        action: &str,
        arguments: Map<String, Value>,
    ) -> impl Future<Output = Result<Value, Error>> + Send;
}

/// Changes fields of a record; returns the names of those that differed. Nothing is written when none did.
///
/// # Errors
/// [`Error`], all variants; [`Error::Refused`] when there is no such record.
pub async fn update(
    caller: &mut (impl Caller + Send),
    kind: Kind,
    id: u64,
    changes: &Map<String, Value>,
) -> Result<Vec<String>, Error> {
    if changes.contains_key(kind.key()) {
        return Err(Error::Invalid(format!("`{}` names the record and can't be changed", kind.key())));
    }
    if kind == Kind::Client && changes.contains_key("user") {
        return Err(Error::Invalid("the CRM ignores `user` in client.update: send `iduser`, a number".into()));
    }
    let Read { record, mut kept } = read(caller, kind, id).await?;
    let changed: Vec<String> =
        changes.iter().filter(|(field, value)| !holds(&record, field, value)).map(|(field, _)| field.clone()).collect();
    if changed.is_empty() {
        return Ok(changed);
    }
    let mut arguments = Map::new();
    arguments.insert(kind.key().to_owned(), id.into());
    for field in &changed {
        kept.shift_remove(field);
        arguments.insert(field.clone(), changes.get(field).cloned().unwrap_or_default());
    }
    arguments.extend(kept);
    caller.call(kind.as_str(), "update", arguments).await?;
    Ok(changed)
}

/// A record as it reads, and what must be sent along with any change.
struct Read {
    record: Map<String, Value>,
    kept: Map<String, Value>,
}

async fn read(caller: &mut (impl Caller + Send), kind: Kind, id: u64) -> Result<Read, Error> {
    match kind {
        Kind::Client => {
            let answer = caller.call("client", "info", object(json!({ "clid": id, "bankinfo": "yes" }))).await?;
            let mut record = record_of(&answer, "clid", id, kind)?;
            if let Some(details) = record.shift_remove("bankinfo") {
                record.insert("recv".to_owned(), details);
            }
            Ok(Read { record, kept: Map::new() })
        }
        Kind::Person => read_person(caller, id).await,
        Kind::Deal => read_deal(caller, id).await,
        Kind::Task => {
            let answer = caller.call("task", "info", object(json!({ "id": id }))).await?;
            let record = record_of(&answer, "tid", id, kind)?;
            let mut kept = only(&record, &["title", "des", "datum", "totime", "tip", "priority", "speed"]);
            for field in ["autor", "clid", "did"] {
                kept.extend(
                    record.get(field).and_then(number).filter(|n| *n > 0).map(|n| (field.to_owned(), n.into())),
                );
            }
            let pids = pids_of(record.get("person"));
            if !pids.is_empty() {
                kept.insert("pid".to_owned(), pids.join(",").into());
            }
            Ok(Read { record, kept })
        }
    }
}

async fn read_person(caller: &mut (impl Caller + Send), id: u64) -> Result<Read, Error> {
    let answer = caller.call("person", "info", object(json!({ "pid": id }))).await?;
    let mut record = record_of(&answer, "pid", id, Kind::Person)?;
    // `person.info` names the employee by login and leaves the source empty; the list of the client's contacts holds
    // the employee's number and the source's title.
    let clid = record.get("clid").and_then(number).unwrap_or(0);
    // A login of digits is still a login.
    let mut iduser = record.get("iduser").and_then(Value::as_u64).filter(|iduser| *iduser > 0);
    if clid > 0 {
        let list = caller.call("person", "list", object(json!({ "filter": { "clid": clid } }))).await?;
        let rows = list.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if let Some(row) = rows.iter().find(|row| row.get("pid").and_then(number) == Some(id)) {
            iduser = iduser.or(row.get("iduser").and_then(number));
            record.extend(row.get("clientpath").map(|source| ("clientpath".to_owned(), source.clone())));
        }
    }
    if iduser.is_none()
        && let Some(login) = record.get("iduser").and_then(Value::as_str).filter(|login| !login.is_empty())
    {
        let answer = caller.call("user", "user", object(json!({ "user": login }))).await?;
        iduser = answer.get("data").and_then(|data| data.get("iduser")).and_then(number);
    }
    let iduser = iduser.filter(|iduser| *iduser > 0).ok_or_else(|| {
        Error::BadAnswer("the person's responsible employee can't be found out: an update would erase it".into())
    })?;
    record.insert("iduser".to_owned(), iduser.into());
    const READ_ONLY: [&str; 6] = ["pid", "date_create", "date_edit", "client", "socials", "user"];
    let mut kept = Map::new();
    for (field, value) in record.iter().filter(|(field, _)| !READ_ONLY.contains(&field.as_str())) {
        let unset = match field.as_str() {
            "clid" => number(value).unwrap_or(0) == 0,
            // An empty source is one that could not be read: the CRM keeps its own default.
            "clientpath" => value.as_str().unwrap_or_default().is_empty(),
            _ => false,
        };
        if !unset {
            kept.insert(field.clone(), if value.is_null() { "".into() } else { value.clone() });
        }
    }
    Ok(Read { record, kept })
}

async fn read_deal(caller: &mut (impl Caller + Send), id: u64) -> Result<Read, Error> {
    // `deal.info` answers null for ordinary fields; the list does not hold the contacts. So both are read.
    // The filter takes parts of numbers too: by number, the oldest first, the wanted deal comes before all that hold it.
    let wanted = json!({ "filter": { "did": id }, "order": "did", "first": "old" });
    let list = caller.call("deal", "list", object(wanted)).await?;
    let rows = list.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let row = rows.iter().find(|row| row.get("did").and_then(number) == Some(id));
    let record = row.and_then(Value::as_object).cloned().ok_or_else(|| not_found(Kind::Deal, id))?;
    let info = caller.call("deal", "info", object(json!({ "did": id }))).await?;
    let pids = pids_of(info.get("data").and_then(|data| data.get("person")));
    let mut kept = Map::new();
    if !pids.is_empty() {
        kept.insert("pid_list".to_owned(), pids.join(",").into());
    }
    Ok(Read { record, kept })
}

fn pids_of(person: Option<&Value>) -> Vec<String> {
    let people = person.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    people
        .iter()
        .filter_map(|person| number(person.get("pid")?))
        .filter(|pid| *pid > 0)
        .map(|pid| pid.to_string())
        .collect()
}

fn record_of(answer: &Value, key: &str, id: u64, kind: Kind) -> Result<Map<String, Value>, Error> {
    let record = answer.get("data").and_then(Value::as_object);
    // An unknown id is answered with a record of nulls, not with an error.
    match record.filter(|record| record.get(key).and_then(number) == Some(id)) {
        Some(record) => Ok(record.clone()),
        None => Err(not_found(kind, id)),
    }
}

fn not_found(kind: Kind, id: u64) -> Error {
    Error::Refused { code: Some("404".into()), text: format!("{} {id} reads as an empty record", kind.as_str()) }
}

fn only(record: &Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    let sent = |value: &Value| if value.is_null() { Value::from("") } else { value.clone() };
    fields.iter().filter_map(|field| Some(((*field).to_owned(), sent(record.get(*field)?)))).collect()
}

/// Whether the record has this value in the field already, as far as the CRM can tell.
fn holds(record: &Map<String, Value>, field: &str, value: &Value) -> bool {
    // Lists are shown by title beside their number.
    let id = format!("{field}ID");
    let last = if record.contains_key(field) { field } else { id.as_str() };
    let beside = [last.to_owned(), format!("{field}Name"), format!("{field}Title")];
    if let (Value::Object(wanted), Some(Value::Object(stored))) = (value, record.get(field)) {
        return wanted.iter().all(|(key, value)| holds(stored, key, value));
    }
    beside.iter().filter_map(|name| record.get(name)).any(|stored| stored_text(stored) == stored_text(value))
}

/// Whether two texts are the same once the CRM has stored them.
pub(super) fn same_text(one: &str, other: &str) -> bool {
    stored_text(&Value::from(one)) == stored_text(&Value::from(other))
}

/// A value's text as the CRM would keep it, with everything left out that it rewrites.
fn stored_text(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    };
    let mut kept = String::with_capacity(text.len());
    let mut in_tag = false;
    let plain = text.replace("&acute;", "'").replace("&quot;", "\"").replace("&amp;", "&");
    let mut characters = plain.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // PHP takes `<` for a tag only when one begins there.
            '<' if characters.peek().is_some_and(|next| next.is_alphabetic() || "/!?".contains(*next)) => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            '"' | '\'' | '“' | '”' | '„' | '«' | '»' | '’' | '‘' | '´' | '\\' => {}
            other => kept.push(other),
        }
    }
    kept.trim().to_owned()
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script {
        answers: Vec<(&'static str, Value)>,
        calls: Vec<(String, Value)>,
    }

    impl Caller for Script {
        async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, Error> {
            let call = format!("{method}.{action}");
            self.calls.push((call.clone(), Value::Object(arguments)));
            self.answers
                .iter()
                .find(|(name, _)| *name == call)
                .map(|(_, answer)| answer.clone())
                .ok_or(Error::Invalid(call))
        }
    }

    fn changes(value: Value) -> Map<String, Value> {
        object(value)
    }

    #[tokio::test]
    async fn changing_one_field_of_a_person_sends_all_that_would_be_blanked() {
        let person = json!({"data":{"pid":10,"date_create":"2026-11-23 22:26:05","date_edit":null,"clid":12,"client":"Клиент П",
            "ptitle":"Директор","person":"Полный Контакт","tel":"84951234599","fax":null,"mob":"89161234599","mail":"full@x.test",
            "rol":null,"iduser":"api@example.test","loyalty":null,"input7":null,"clientpath":""}});
        let mut script = Script {
            answers: vec![
                ("person.info", person),
                (
                    "person.list",
                    json!({"data":[{"pid":9,"iduser":4},{"pid":10,"iduser":1,"clientpath":"Сайт"}],"count":2}),
                ),
                ("person.update", json!({"result":"Данные контакта обновлены","data":10,"error":""})),
            ],
            calls: Vec::new(),
        };
        let changed = update(&mut script, Kind::Person, 10, &changes(json!({"mob":"+79161234599"}))).await;
        assert_eq!(changed, Ok(vec!["mob".to_owned()]));
        assert_eq!(
            script.calls.last(),
            Some(&(
                "person.update".to_owned(),
                json!({"pid":10,"mob":"+79161234599","clid":12,"ptitle":"Директор","person":"Полный Контакт","tel":"84951234599",
                    "fax":"","mail":"full@x.test","rol":"","iduser":1,"loyalty":"","input7":"","clientpath":"Сайт"})
            ))
        );
    }

    #[tokio::test]
    async fn nothing_is_sent_when_only_the_crms_rewriting_differs() {
        let client = json!({"data":{"clid":1,"title":"Ромашка ”Юг”, ООО","phone":"84951110000","idcategory":3,"categoryName":"ИТ"}});
        let mut script = Script { answers: vec![("client.info", client)], calls: Vec::new() };
        let same = changes(json!({"title":"Ромашка \"<b>Юг</b>\", ООО","phone":84951110000_u64}));
        assert_eq!(update(&mut script, Kind::Client, 1, &same).await, Ok(Vec::new()));
        assert_eq!(script.calls.len(), 1);
    }

    #[test]
    fn a_real_change_is_never_taken_for_the_crms_rewriting() {
        let record = changes(
            json!({"des":"маржа < 10%","step":60,"stepID":5,"tip":"Звонок","idcategory":3,"categoryName":"ИТ"}),
        );
        for (field, value, same) in [
            ("des", json!("маржа < 20%"), false),
            ("des", json!("маржа < 10%"), true),
            ("step", json!("5"), false),
            ("step", json!("60"), true),
            ("tip", json!("Встреча"), false),
            ("idcategory", json!("3"), true),
            ("missing", json!("x"), false),
        ] {
            assert_eq!(holds(&record, field, &value), same, "{field} {value}");
        }
    }

    #[tokio::test]
    async fn a_record_of_nulls_is_not_written_over() {
        let mut script =
            Script { answers: vec![("person.info", json!({"data":{"pid":null,"person":null}}))], calls: Vec::new() };
        let result = update(&mut script, Kind::Person, 7, &changes(json!({"mob":"1"}))).await;
        assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
        assert_eq!(script.calls.len(), 1);
    }

    #[tokio::test]
    async fn a_deals_contacts_and_a_tasks_description_survive() {
        let mut script = Script {
            answers: vec![
                ("deal.list", json!({"data":[{"did":5,"adres":"улица"}],"count":1})),
                ("deal.info", json!({"data":{"did":null,"person":[{"pid":10},{"pid":11}]}})),
                ("deal.update", json!({"result":"Готово","data":5})),
                (
                    "task.info",
                    json!({"data":{"tid":"8","datum":"2026-11-23","totime":"23:26","title":"z","des":"описание","tip":"Звонок",
                        "priority":"2","speed":"0","iduser":1,"autor":4,"clid":0,"did":5,"person":[{"pid":0,"person":""}]}}),
                ),
                ("task.update", json!({"result":"Успешно","data":8})),
            ],
            calls: Vec::new(),
        };
        update(&mut script, Kind::Deal, 5, &changes(json!({"adres":"другая"}))).await.unwrap();
        assert_eq!(script.calls.last().unwrap().1, json!({"did":5,"adres":"другая","pid_list":"10,11"}));
        update(&mut script, Kind::Task, 8, &changes(json!({"title":"z2"}))).await.unwrap();
        assert_eq!(
            script.calls.last().unwrap().1,
            json!({"id":8,"title":"z2","des":"описание","datum":"2026-11-23","totime":"23:26","tip":"Звонок","priority":"2",
                "speed":"0","autor":4,"did":5})
        );
    }
}
