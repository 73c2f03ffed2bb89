//! Was it added? Looks for a record that may have been added before the answer got lost.
//!
//! - Looked for is a record that says the same as what was sent, in all fields that both have. The CRM rewrites quotes and
//!   tags, so texts are compared as it stores them.
//! - It must be new: created on the day of sending or later, or, where the list does not tell, with a higher number than
//!   a record that the host knows to be older.
//! - What another write is known to have added is not this one's.
//! - In doubt the answer is [`Found::Unclear`]: two records fit, or the list can't tell.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Error;
use super::update::{Caller, same_text};

/// What looking brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The record is there, under this number.
    There(u64),
    /// It is surely not there.
    Nowhere,
    /// Nobody can tell.
    Unclear,
}

/// What is known about when the record was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Age {
    /// The day of sending as the CRM writes it (`2026-11-23`), or the day before, because its clock may differ.
    pub day: String,
    /// A record of this kind that was there before.
    pub newer_than: Option<u64>,
    /// Records that are known to be other writes' doing.
    pub others: BTreeSet<u64>,
}

/// Looks for what `method.add` with these arguments may have added.
///
/// # Errors
/// [`Error`] of the list that was asked.
pub async fn find(
    caller: &mut (impl Caller + Send),
    method: &str,
    arguments: &Map<String, Value>,
    age: &Age,
) -> Result<Found, Error> {
    let day = age.day.as_str();
    let text = |key: &str| arguments.get(key).map(plain).filter(|text| !text.is_empty() && text != "0");
    let (question, id, title, created) = match method {
        "client" => {
            (json!({ "dateStart": day, "order": "date_create" }), "clid", ("title", "title"), Some("date_create"))
        }
        "person" => match text("clid") {
            Some(clid) => (json!({ "filter": { "clid": clid } }), "pid", ("person", "person"), Some("date_create")),
            None => return Ok(Found::Unclear),
        },
        "deal" => match text("clid") {
            Some(clid) => (json!({ "filter": { "clid": clid } }), "did", ("title", "title"), Some("datum")),
            None => return Ok(Found::Unclear),
        },
        "task" => match text("datum") {
            // The list takes both ends of the task's own day.
            Some(due) => (
                json!({ "active": "yes", "dateStart": due, "dateEnd": format!("{due} 23:59:59") }),
                "tid",
                ("title", "title"),
                None,
            ),
            None => return Ok(Found::Unclear),
        },
        "history" => match text("pid") {
            // The list works only with a contact (measured), and shows only today unless it is told otherwise.
            Some(pid) => {
                (json!({ "pid": pid, "dateStart": day, "dateEnd": "2099-12-31" }), "cid", ("content", "content"), None)
            }
            None => return Ok(Found::Unclear),
        },
        _ => return Ok(Found::Unclear),
    };
    let Some(wanted) = text(title.0) else { return Ok(Found::Unclear) };
    let mut found = Vec::new();
    for page in 0..MOST_PAGES {
        let Value::Object(mut question) = question.clone() else { return Ok(Found::Unclear) };
        question.insert("offset".to_owned(), page.into());
        let answer = caller.call(method, "list", question).await?;
        let rows = match &answer {
            Value::Array(rows) => rows.as_slice(),
            body => body.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice),
        };
        for row in rows {
            let Some(number) = row.get(id).map(plain).and_then(|text| text.parse::<u64>().ok()) else { continue };
            let fresh = created.is_none_or(|key| row.get(key).is_some_and(|at| plain(at).as_str() >= day));
            let known_older = age.newer_than.is_some_and(|older| number <= older);
            let known = known_older || age.others.contains(&number);
            if fresh && !known && says(row, title.1, &wanted) && agrees(row, arguments) {
                found.push(number);
            }
        }
        if rows.len() < ROWS_OF_PAGE {
            found.sort_unstable();
            found.dedup();
            return Ok(match found[..] {
                [] => Found::Nowhere,
                // Without any sign of its age it may have been there all along.
                [one] if created.is_some() || age.newer_than.is_some() => Found::There(one),
                _ => Found::Unclear,
            });
        }
    }
    Ok(Found::Unclear)
}

/// Rows of one page of the CRM's lists (measured).
const ROWS_OF_PAGE: usize = 200;
/// Pages that are looked at.
const MOST_PAGES: u32 = 20;

/// Whether a row has the wanted title. The CRM puts a number before a deal's title (`СД6: `).
fn says(row: &Value, key: &str, wanted: &str) -> bool {
    let Some(text) = row.get(key).map(plain) else { return false };
    let bare =
        text.split_once(": ").filter(|(number, _)| number.starts_with("СД")).map_or(text.as_str(), |(_, rest)| rest);
    same_text(&text, wanted) || same_text(bare, wanted)
}

/// Whether a row contradicts nothing of what was sent.
fn agrees(row: &Value, arguments: &Map<String, Value>) -> bool {
    ["clid", "did", "datum", "user", "totime"].iter().all(|key| match (row.get(*key), arguments.get(*key)) {
        (Some(stored), Some(sent)) => {
            let (stored, sent) = (plain(stored), plain(sent));
            sent.is_empty() || stored.is_empty() || stored.starts_with(&sent)
        }
        _ => true,
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}
