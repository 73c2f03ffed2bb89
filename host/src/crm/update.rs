//! Changes some fields of a record and loses none of the others, or sends nothing.
//!
//! The CRM's own updates overwrite what is not sent (`columns`, measured). So: read the record in the way that works,
//! merge, and send everything that would otherwise be lost. What can't be sent is refused before anything is
//! (`crm.would_lose`), unless the caller says that it may go. Nothing is sent when nothing changes.
//!
//! The answer says little of what was written: a success may be of one field of two, or of none. Where it does not tell,
//! the record is read once more; what did not take is an error (`crm.not_written`).
//!
//! Between reading and writing somebody else may write: the API has no way to notice that.

mod columns;
mod read;
mod same;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Map, Value};

use super::Error;
use super::stranger::{PhpError, Stranger};
pub use columns::Loss;
use read::Read;
pub(super) use same::same_text;

/// The code of a refusal that names what an update would lose.
pub const WOULD_LOSE: &str = "crm.would_lose";
/// The code of a refusal that names what the CRM did not write.
pub const NOT_WRITTEN: &str = "crm.not_written";

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

    /// The number of the API's own user.
    fn own_user(&mut self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Whether a record that is read after a write shows it: a script's answers do not.
    fn shows_writes(&self) -> bool;
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Of which kind the record is.
    pub kind: Kind,
    /// Which record.
    pub id: u64,
    /// The fields and their new values.
    pub changes: &'a Map<String, Value>,
    /// Columns whose loss the caller accepts.
    pub accepted: &'a [String],
}

/// What an update came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// The fields that differed and were written.
    pub fields: Vec<String>,
    /// Fields that were sent, and are as they were before.
    pub not_written: Vec<String>,
    /// Other columns that the CRM changed all the same.
    pub also: Vec<String>,
}

impl Changed {
    /// The names of the changed fields, or what went wrong with the others.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`NOT_WRITTEN`] or [`WOULD_LOSE`], which says what was written all the same.
    pub fn told(self, kind: Kind) -> Result<Vec<String>, Error> {
        let (code, what) = match (&self.not_written[..], &self.also[..]) {
            ([], []) => return Ok(self.fields),
            ([], also) => (WOULD_LOSE, format!("changed {} as well, which nobody asked for", listed(also))),
            (fields, _) => (
                NOT_WRITTEN,
                format!(
                    "did not write {}: a field that is switched off, read only, or a value that it can't store",
                    listed(fields)
                ),
            ),
        };
        let written = if self.fields.is_empty() { "nothing".to_owned() } else { listed(&self.fields) };
        let text = format!("`{}.update` {what}; written: {written}", kind.as_str());
        Err(Error::Refused { code: Some(code.to_owned()), text })
    }
}

/// Waits before the record is read again after a write whose answer was lost.
const LOOK_AFTER: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1_200)];

/// Changes fields of a record; tells which differed and were written. Nothing is sent when none did.
///
/// # Errors
/// [`Error`], all variants; [`Error::Refused`] when there is no such record, and with [`WOULD_LOSE`] or [`NOT_WRITTEN`]
/// before anything is sent.
pub async fn update(caller: &mut (impl Caller + Send), wish: Wish<'_>) -> Result<Changed, Error> {
    let Wish { kind, id, changes, accepted } = wish;
    refuse_fixed(kind, changes)?;
    let changes = &in_numbers(caller, kind, changes).await?;
    let Read { record, mut kept, mut lost } = read::read(caller, kind, id, changes).await?;
    let changed: Vec<String> = changes
        .iter()
        .filter(|(field, value)| !same::holds(&record, field, value))
        .map(|(field, _)| field.clone())
        .collect();
    if changed.is_empty() {
        return Ok(Changed::default());
    }
    refuse_hidden(kind, &record, &changed)?;
    lost.retain(|loss| !accepted.contains(&loss.column));
    if !lost.is_empty() {
        return Err(would_lose(kind, &lost));
    }
    let mut arguments = Map::new();
    arguments.insert(kind.key().to_owned(), id.into());
    for field in &changed {
        kept.shift_remove(field);
        let value = changes.get(field).cloned().unwrap_or_default();
        // PHP never sees a null.
        arguments.insert(field.clone(), if value.is_null() { "".into() } else { value });
    }
    arguments.extend(kept);
    let answer = caller.call(kind.as_str(), "update", arguments).await;
    judged(caller, &wish_of(wish, changes), &record, changed, answer).await
}

fn wish_of<'a>(wish: Wish<'a>, changes: &'a Map<String, Value>) -> Wish<'a> {
    Wish { changes, ..wish }
}

/// What the answer, or the record after it, says of the fields that were sent.
async fn judged(
    caller: &mut (impl Caller + Send),
    wish: &Wish<'_>,
    before: &Map<String, Value>,
    changed: Vec<String>,
    answer: Result<Value, Error>,
) -> Result<Changed, Error> {
    let doubt = match answer {
        Ok(answer) if !caller.shows_writes() || tells(wish, &changed, &answer) => {
            return Ok(by_answer(wish, before, changed, &answer));
        }
        Ok(_) => None,
        // PHP 8 fails after `person.update` has written: the CRM is done with it, and one look tells.
        Err(error @ Error::NotTheApi(Stranger::Php(_))) => Some(error),
        Err(error) if error.nothing_was_done() => return Err(error),
        Err(error) => return looked_for(caller, wish, before, changed, error).await,
    };
    // The write was sent: what keeps the look after it from coming about says nothing of the write.
    let after = read::again(caller, wish.kind, wish.id, wish.changes).await.map_err(|error| {
        // The read's own line in the attempt has the CRM's words.
        let why = error.known();
        Error::Transport(format!("the update was sent, and the record can't be read after it: {why}"))
    })?;
    let changed = by_record(wish, before, &after, changed);
    match doubt {
        // The database may do better the next time; what it can't store, it never will.
        Some(error @ Error::NotTheApi(Stranger::Php(PhpError::Database))) if changed.fields.is_empty() => Err(error),
        _ => Ok(changed),
    }
}

/// The answer was lost: the record is looked at a few times. What is not there by then may still come.
async fn looked_for(
    caller: &mut (impl Caller + Send),
    wish: &Wish<'_>,
    before: &Map<String, Value>,
    changed: Vec<String>,
    error: Error,
) -> Result<Changed, Error> {
    let shows = caller.shows_writes();
    for wait in LOOK_AFTER.iter().filter(|_| shows) {
        tokio::time::sleep(*wait).await;
        let Ok(after) = read::again(caller, wish.kind, wish.id, wish.changes).await else { break };
        let seen = by_record(wish, before, &after, changed.clone());
        if seen.not_written.is_empty() {
            return Ok(seen);
        }
    }
    Err(error)
}

/// Whether the answer alone says what became of each field.
fn tells(wish: &Wish<'_>, changed: &[String], answer: &Value) -> bool {
    if is_identical(answer) {
        return true;
    }
    // The others answer a success to everything.
    let plain = |field: &String| match wish.changes.get(field) {
        Some(Value::String(text)) => text.len() <= 100 && same::is_plane(text),
        Some(Value::Array(_) | Value::Object(_)) | None => false,
        Some(_) => true,
    };
    wish.kind == Kind::Client && matches!(changed, [one] if plain(one))
}

fn is_identical(answer: &Value) -> bool {
    answer.get("result").and_then(Value::as_str).is_some_and(|text| text.contains("идентичны имеющимся"))
}

fn by_answer(wish: &Wish<'_>, before: &Map<String, Value>, changed: Vec<String>, answer: &Value) -> Changed {
    if !is_identical(answer) {
        return Changed { fields: changed, ..Changed::default() };
    }
    // Bank details are written apart from the rest, and what reads as a title may have been the same by number.
    let details = answer.get("result").and_then(Value::as_str).is_some_and(|text| text.contains("Реквизиты"));
    let mut result = Changed::default();
    for field in changed {
        match field.as_str() {
            "recv" if details => result.fields.push(field),
            name if columns::by_title(wish.kind).contains(&name) || columns::unseen(wish.kind).contains(&name) => {}
            // It was there, in the CRM's own form of it.
            name if wish.changes.get(name).is_some_and(|value| same::took(before, name, value)) => {}
            _ => result.not_written.push(field),
        }
    }
    result
}

fn by_record(
    wish: &Wish<'_>,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    changed: Vec<String>,
) -> Changed {
    let mut result = Changed::default();
    for field in changed {
        let value = wish.changes.get(&field).unwrap_or(&Value::Null);
        let by_number = columns::by_title(wish.kind).contains(&field.as_str()) && number(value).is_some();
        let told = wish.kind == Kind::Client && by_number || columns::unseen(wish.kind).contains(&field.as_str());
        if told || same::took(after, &field, value) {
            result.fields.push(field);
        } else {
            result.not_written.push(field);
        }
    }
    // The CRM recalculates the margin of a deal, less what its suppliers get: it may differ from what was sent.
    if wish.kind == Kind::Deal {
        for column in ["marga", "kol"] {
            let moved = before.get(column).is_some_and(|value| !same::took(after, column, value));
            let accepted = wish.accepted.iter().any(|accepted| accepted == column);
            if moved && !accepted && !wish.changes.contains_key(column) {
                result.also.push(column.to_owned());
            }
        }
    }
    result
}

/// Whether the record shows every one of these values, as a write whose answer was lost would have left them.
///
/// # Errors
/// [`Error`] of the reads.
pub async fn shows(
    caller: &mut (impl Caller + Send),
    kind: Kind,
    id: u64,
    values: &Map<String, Value>,
) -> Result<bool, Error> {
    let record = read::again(caller, kind, id, values).await?;
    let shown = values.iter().filter(|(field, _)| record.contains_key(*field));
    Ok(shown.fold((false, true), |(_, all), (field, value)| (true, all && same::took(&record, field, value)))
        == (true, true))
}

fn refuse_fixed(kind: Kind, changes: &Map<String, Value>) -> Result<(), Error> {
    if changes.contains_key(kind.key()) {
        return Err(Error::Invalid(format!("`{}` names the record and can't be changed", kind.key())));
    }
    match columns::fixed(kind).iter().find(|fixed| changes.contains_key(fixed.field)) {
        Some(fixed) => Err(not_written(kind, fixed.field, fixed.advice)),
        None => Ok(()),
    }
}

/// What the record does not show can't be compared, and the CRM says success to it all the same.
fn refuse_hidden(kind: Kind, record: &Map<String, Value>, changed: &[String]) -> Result<(), Error> {
    let shown = |field: &str| {
        let unseen = columns::unseen(kind).contains(&field);
        unseen || record.contains_key(field) || record.contains_key(&format!("{field}ID"))
    };
    if let Some(field) = changed.iter().find(|field| !shown(field)) {
        return Err(not_written(
            kind,
            field,
            "the CRM does not show it: it is switched off there, or there is no such field",
        ));
    }
    let has_uid = record.get("uid").and_then(Value::as_str).is_some_and(|uid| !uid.is_empty());
    if matches!(kind, Kind::Client | Kind::Deal) && has_uid && changed.iter().any(|field| field == "uid") {
        return Err(not_written(kind, "uid", "the CRM sets it only while it is empty"));
    }
    Ok(())
}

fn not_written(kind: Kind, field: &str, advice: &str) -> Error {
    let field: String = field.chars().take(64).collect();
    let text = format!("`{}.update` does not write `{field}`: {advice}; nothing was sent", kind.as_str());
    Error::Refused { code: Some(NOT_WRITTEN.to_owned()), text }
}

fn would_lose(kind: Kind, lost: &[Loss]) -> Error {
    let columns: Vec<String> = lost.iter().map(|loss| format!("`{}` ({})", loss.column, loss.why)).collect();
    let text = format!(
        "`{}.update` would lose {}; nothing was sent. Change it on the CRM's page, or name these columns as accepted in the call (`update-losing`)",
        kind.as_str(),
        columns.join(", ")
    );
    Error::Refused { code: Some(WOULD_LOSE.to_owned()), text }
}

fn listed(fields: &[String]) -> String {
    fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
}

/// A contact's guides are written by number: a title would be cast to one. A source is looked up, a loyalty has no guide.
async fn in_numbers(
    caller: &mut (impl Caller + Send),
    kind: Kind,
    changes: &Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let mut changes = changes.clone();
    if kind != Kind::Person {
        return Ok(changes);
    }
    if changes.get("loyalty").is_some_and(|value| number(value).is_none()) {
        return Err(not_written(kind, "loyalty", "the CRM takes its number only, and has no guide that tells it"));
    }
    if changes.get("iduser").is_some_and(|value| number(value).is_none()) {
        return Err(not_written(kind, "iduser", "the CRM takes a number only"));
    }
    let title = changes
        .get("clientpath")
        .filter(|value| number(value).is_none())
        .map(|value| value.as_str().unwrap_or_default().to_owned());
    if let Some(title) = title {
        match read::sources(caller, &title).await?[..] {
            [one] => changes.insert("clientpath".to_owned(), one.into()),
            _ => return Err(not_written(kind, "clientpath", "no one source has this title: send its number")),
        };
    }
    Ok(changes)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
