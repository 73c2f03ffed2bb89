//! Reading a record before it is changed: what it holds, what must be sent along, what would be lost.

use serde_json::{Map, Value, json};

use super::columns::{self, Kept, Loss};
use super::same::{Cleaning, survives};
use super::{Caller, Kind, number, object};
use crate::crm::Error;

/// A record as it reads, what must be sent along with a change, and what an update would lose.
pub(super) struct Read {
    pub(super) record: Map<String, Value>,
    pub(super) kept: Map<String, Value>,
    pub(super) lost: Vec<Loss>,
}

/// Reads what a change of these fields needs to know.
pub(super) async fn read(
    caller: &mut (impl Caller + Send),
    kind: Kind,
    id: u64,
    changes: &Map<String, Value>,
) -> Result<Read, Error> {
    match kind {
        Kind::Client => Ok(Read { record: client(caller, id).await?, kept: Map::new(), lost: Vec::new() }),
        Kind::Person => person(caller, id, changes).await,
        Kind::Deal => deal(caller, id, changes).await,
        Kind::Task => task(caller, id, changes).await,
    }
}

/// Reads the record alone, to see what became of a change.
pub(super) async fn again(
    caller: &mut (impl Caller + Send),
    kind: Kind,
    id: u64,
    changes: &Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    match kind {
        Kind::Client => client(caller, id).await,
        Kind::Person => person_again(caller, id, changes).await,
        Kind::Deal => Ok(deal_record(caller, id, changes.contains_key("pid_list")).await?),
        Kind::Task => task_record(caller, id).await,
    }
}

async fn client(caller: &mut (impl Caller + Send), id: u64) -> Result<Map<String, Value>, Error> {
    let answer = caller.call("client", "info", object(json!({ "clid": id, "bankinfo": "yes" }))).await?;
    let mut record = record_of(&answer, "clid", id, Kind::Client)?;
    if let Some(details) = record.shift_remove("bankinfo") {
        record.insert("recv".to_owned(), details);
    }
    Ok(record)
}

async fn task_record(caller: &mut (impl Caller + Send), id: u64) -> Result<Map<String, Value>, Error> {
    let answer = caller.call("task", "info", object(json!({ "id": id }))).await?;
    let mut record = record_of(&answer, "tid", id, Kind::Task)?;
    let pids = pids_of(record.get("person"));
    record.insert("pid".to_owned(), pids.join(";").into());
    Ok(record)
}

async fn task(caller: &mut (impl Caller + Send), id: u64, changes: &Map<String, Value>) -> Result<Read, Error> {
    let record = task_record(caller, id).await?;
    let mut lost = vec![Loss::new("alert", columns::ALERT), Loss::new("maintid", columns::COPIES)];
    let mut kept = with(&record, columns::OF_TASK.iter(), changes, &mut lost);
    let positive = |field: &str| record.get(field).and_then(number).filter(|value| *value > 0);
    kept.extend(positive("autor").map(|autor| ("autor".to_owned(), autor.into())));
    let pids = record.get("pid").and_then(Value::as_str).unwrap_or_default();
    if !pids.is_empty() {
        kept.insert("pid".to_owned(), pids.replace(';', ",").into());
        kept.extend(positive("clid").map(|clid| ("clid".to_owned(), clid.into())));
        kept.extend(positive("did").map(|did| ("did".to_owned(), did.into())));
    } else if changes.get("clid").and_then(number).is_some_and(|clid| clid > 0) && !changes.contains_key("pid") {
        lost.push(Loss::new("pid", columns::MAIN_CONTACT));
    }
    let own = caller.own_user().await.ok();
    if own.is_none() || record.get("iduser").and_then(number) != own {
        lost.push(Loss::new("iduser", columns::RESPONSIBLE));
    }
    Ok(Read { record, kept, lost })
}

async fn deal_record(
    caller: &mut (impl Caller + Send),
    id: u64,
    with_people: bool,
) -> Result<Map<String, Value>, Error> {
    // `deal.info` answers null for ordinary fields; the list does not hold the contacts. So both are read.
    // The filter takes parts of numbers too: by number, the oldest first, the wanted deal comes before all that hold it.
    let wanted = json!({ "filter": { "did": id }, "order": "did", "first": "old" });
    let list = caller.call("deal", "list", object(wanted)).await?;
    let mut record = row(&list, "did", id).ok_or_else(|| not_found(Kind::Deal, id))?;
    if with_people {
        let info = caller.call("deal", "info", object(json!({ "did": id }))).await?;
        let pids = pids_of(info.get("data").and_then(|data| data.get("person")));
        record.insert("pid_list".to_owned(), pids.join(";").into());
    }
    Ok(record)
}

async fn deal(caller: &mut (impl Caller + Send), id: u64, changes: &Map<String, Value>) -> Result<Read, Error> {
    let record = deal_record(caller, id, true).await?;
    let (mut kept, mut lost) = (Map::new(), Vec::new());
    let pids = record.get("pid_list").and_then(Value::as_str).unwrap_or_default();
    if !pids.is_empty() {
        kept.insert("pid_list".to_owned(), pids.replace(';', ",").into());
    }
    for (column, why) in [("coid1", columns::COMPETITORS), ("pid", columns::MAIN_PERSON)] {
        if !changes.contains_key(column) {
            lost.push(Loss::new(column, why));
        }
    }
    let mut keep = |field: &str, why: &'static str| match record.get(field) {
        Some(value) => {
            kept.insert(field.to_owned(), if value.is_null() { "".into() } else { value.clone() });
        }
        None => lost.push(Loss::new(field, why)),
    };
    keep("marga", columns::MARGIN);
    if changes.contains_key("title") {
        keep("zayavka", columns::APPLICATION);
        keep("ztitle", columns::APPLICATION);
    }
    // The CRM takes the one for the other where only one is sent.
    for (sent, beside) in [("clid", "payer"), ("payer", "clid")] {
        let changed = changes.get(sent).and_then(number).is_some_and(|value| value > 0);
        if let Some(value) = record.get(beside).filter(|_| changed && !changes.contains_key(beside)) {
            kept.insert(beside.to_owned(), value.clone());
        }
    }
    if changes.contains_key("direction") && changes.contains_key("tip") {
        lost.push(Loss::new("idcategory", columns::STAGE));
    }
    Ok(Read { record, kept, lost })
}

async fn person(caller: &mut (impl Caller + Send), id: u64, changes: &Map<String, Value>) -> Result<Read, Error> {
    let answer = caller.call("person", "info", object(json!({ "pid": id }))).await?;
    let mut record = record_of(&answer, "pid", id, Kind::Person)?;
    let mut lost = Vec::new();
    // `person.info` names the employee by login and takes the source's number for a title; the list tells the truth,
    // of contacts within the API user's sight.
    let (row, loyalty) = person_row(caller, id, text(&record, "loyalty").is_empty()).await?;
    let loyalty = match (loyalty, &row) {
        (known @ Some(_), _) => known,
        (None, Some(_)) if !changes.contains_key("loyalty") => loyalty_of(caller, id).await?,
        (None, _) => None,
    };
    let mut iduser = record.get("iduser").and_then(Value::as_u64).filter(|iduser| *iduser > 0);
    if let Some(row) = &row {
        // A login of digits is still a login.
        iduser = iduser.or(row.get("iduser").and_then(number));
        record.extend(row.get("clientpath").map(|source| ("clientpath".to_owned(), source.clone())));
    }
    if iduser.is_none_or(|iduser| iduser == 0)
        && let Some(login) = record.get("iduser").and_then(Value::as_str).filter(|login| !login.is_empty())
    {
        let answer = caller.call("user", "user", object(json!({ "user": login }))).await?;
        iduser = answer.get("data").and_then(|data| data.get("iduser")).and_then(number);
    }
    let iduser = iduser.filter(|iduser| *iduser > 0);
    if iduser.is_none() && !changes.contains_key("iduser") {
        lost.push(Loss::new("iduser", columns::OWNER));
    }
    if loyalty.is_none() && !changes.contains_key("loyalty") {
        lost.push(Loss::new("loyalty", columns::LOYALTY));
    }
    record.insert("iduser".to_owned(), iduser.unwrap_or(0).into());
    let mut kept = person_kept(&record, changes, &mut lost);
    kept.insert("loyalty".to_owned(), loyalty.unwrap_or(0).into());
    kept.insert("clientpath".to_owned(), source(caller, id, text(&record, "clientpath"), changes).await?);
    Ok(Read { record, kept, lost })
}

fn person_kept(record: &Map<String, Value>, changes: &Map<String, Value>, lost: &mut Vec<Loss>) -> Map<String, Value> {
    let mut kept = Map::new();
    for (field, value) in record.iter().filter(|(field, _)| !columns::PERSON_SHOWS_ONLY.contains(&field.as_str())) {
        if matches!(field.as_str(), "loyalty" | "clientpath") || field == "clid" && number(value).unwrap_or(0) == 0 {
            continue;
        }
        let cleaning = if field == "rol" { Cleaning::Parts } else { Cleaning::Field };
        if value.as_str().is_some_and(|text| !survives(text, cleaning)) && !changes.contains_key(field) {
            lost.push(Loss::new(field, columns::REWRITTEN));
        }
        kept.insert(field.clone(), if value.is_null() { "".into() } else { value.clone() });
    }
    kept
}

/// The contact's row in the list, and its loyalty where that is none: asked first, because most contacts have none.
async fn person_row(
    caller: &mut (impl Caller + Send),
    id: u64,
    none: bool,
) -> Result<(Option<Map<String, Value>>, Option<u64>), Error> {
    if none && let Some(row) = listed(caller, id, Some(("loyalty", 0))).await? {
        // Where the list took no notice of the filter, the title tells.
        let loyalty = text(&row, "loyalty").is_empty().then_some(0);
        return Ok((Some(row), loyalty));
    }
    Ok((listed(caller, id, None).await?, None))
}

/// The contact's row, where it has this value. The filter takes parts of numbers too: the oldest comes first.
async fn listed(
    caller: &mut (impl Caller + Send),
    id: u64,
    having: Option<(&str, u64)>,
) -> Result<Option<Map<String, Value>>, Error> {
    let mut filter = object(json!({ "pid": id }));
    filter.extend(having.map(|(column, value)| (column.to_owned(), value.into())));
    let wanted = json!({ "filter": filter, "order": "pid", "first": "old" });
    let list = caller.call("person", "list", object(wanted)).await?;
    Ok(row(&list, "pid", id))
}

/// Levels of loyalty that are tried: the API has no guide of them, and numbers of a handful are never higher.
const MOST_LEVELS: u64 = 40;

/// The number of the contact's loyalty, found by asking the list for each.
async fn loyalty_of(caller: &mut (impl Caller + Send), id: u64) -> Result<Option<u64>, Error> {
    for level in 1..=MOST_LEVELS {
        let Some(row) = listed(caller, id, Some(("loyalty", level))).await? else { continue };
        // A list that takes no notice of the filter would tell the first number of all.
        let heeds = listed(caller, id, Some(("loyalty", level + 1_000_000))).await?.is_none();
        return Ok((heeds && !row.is_empty()).then_some(level));
    }
    Ok(None)
}

/// What keeps the contact's source: its number by the guide. Where that does not tell, a text that is no number, for
/// which the CRM keeps its own, 0 included (measured).
async fn source(
    caller: &mut (impl Caller + Send),
    id: u64,
    title: &str,
    changes: &Map<String, Value>,
) -> Result<Value, Error> {
    if title.is_empty() || changes.contains_key("clientpath") {
        return Ok(KEEP_SOURCE.into());
    }
    let numbers = sources(caller, title).await?;
    if let [one] = numbers[..] {
        return Ok(one.into());
    }
    for number in numbers {
        if listed(caller, id, Some(("clientpath", number))).await?.is_some() {
            return Ok(number.into());
        }
    }
    Ok(KEEP_SOURCE.into())
}

/// Casts to 0, and is not empty to PHP.
const KEEP_SOURCE: &str = "-";

/// The numbers of all sources with this title.
pub(super) async fn sources(caller: &mut (impl Caller + Send), title: &str) -> Result<Vec<u64>, Error> {
    let guide = caller.call("guides", "clientpath", Map::new()).await?;
    let entries = guide.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let titled = entries.iter().filter(|entry| entry.get("title").and_then(Value::as_str) == Some(title));
    Ok(titled.filter_map(|entry| number(entry.get("id")?)).collect())
}

/// The row shows titles where numbers were sent: the list is asked whether it has them.
async fn person_again(
    caller: &mut (impl Caller + Send),
    id: u64,
    changes: &Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let Some(mut record) = listed(caller, id, None).await? else {
        let answer = caller.call("person", "info", object(json!({ "pid": id }))).await?;
        return record_of(&answer, "pid", id, Kind::Person);
    };
    for column in columns::by_title(Kind::Person) {
        let Some(wanted) = changes.get(*column).and_then(number) else { continue };
        if listed(caller, id, Some((column, wanted))).await?.is_some() {
            record.insert((*column).to_owned(), wanted.into());
        }
    }
    Ok(record)
}

fn with<'a>(
    record: &Map<String, Value>,
    kept: impl Iterator<Item = &'a Kept>,
    changes: &Map<String, Value>,
    lost: &mut Vec<Loss>,
) -> Map<String, Value> {
    let mut sent = Map::new();
    for Kept { field, cleaning } in kept {
        let Some(value) = record.get(*field) else { continue };
        if value.as_str().is_some_and(|text| !survives(text, *cleaning)) && !changes.contains_key(*field) {
            lost.push(Loss::new(field, columns::REWRITTEN));
        }
        sent.insert((*field).to_owned(), if value.is_null() { "".into() } else { value.clone() });
    }
    sent
}

fn row(list: &Value, key: &str, id: u64) -> Option<Map<String, Value>> {
    let rows = list.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    rows.iter().find(|row| row.get(key).and_then(number) == Some(id)).and_then(Value::as_object).cloned()
}

fn text<'a>(record: &'a Map<String, Value>, field: &str) -> &'a str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
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
