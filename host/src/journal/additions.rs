//! Whether an `*.add` is about a new record: sent twice, of a record that is known, or really new.
//!
//! - A **second** `*.add` within a day is a repetition: the express form sends two, the second with the numbers of what was
//!   made with it (measured). So is one that says the same, and one that the host found while the CRM's own was under way.
//! - A deletion lies between two records of one number: what came before it counts no more. Where nobody told of one, an
//!   `*.add` that says something else than the first is of a new record all the same; the CRM sends it on insertion only.
//! - The express form sends an `*.add` for records that it only touched. Where events, writes of plugins or a list show
//!   that the record was there before, the event is **known**, and says so.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};

/// Earlier events of a record that are looked at.
const MOST_OF_RECORD: i64 = 256;
/// Milliseconds within which a second `*.add` is a repetition.
const A_DAY: i64 = 24 * 3_600_000;

/// What an `*.add` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addition {
    /// Of a record that nothing was heard of.
    New,
    /// Of a record that was there before.
    Known,
    /// Of one whose `*.add` has come: that event.
    Repeated(i64),
}

/// What is judged.
pub(super) struct Added<'a> {
    pub(super) seq: i64,
    pub(super) account: &'a str,
    pub(super) name: &'a str,
    pub(super) received_at: i64,
    pub(super) polled: bool,
    pub(super) entity: (&'a str, &'a str),
    pub(super) fields: &'a str,
    /// Whether the record was in a watched list when it came.
    pub(super) listed: bool,
}

/// An earlier `*.add` of the record.
struct Earlier {
    seq: i64,
    received_at: i64,
    polled: bool,
    fields: String,
    known: bool,
    delivered: bool,
}

pub(super) fn judge(connection: &Connection, event: &Added<'_>) -> rusqlite::Result<Addition> {
    let (earlier, touched) = before(connection, event)?;
    let Some(earlier) = earlier else {
        // The watcher tells of what was not in its list a pass before.
        let known = !event.polled && (event.listed || touched || written(connection, event)?);
        return Ok(if known { Addition::Known } else { Addition::New });
    };
    let sent_again = is_sent_again(event.name, event.fields);
    let first = is_sent_again(event.name, &earlier.fields) && !earlier.known;
    let same = sent_again || first || event.polled || earlier.polled || earlier.fields == event.fields;
    let repeated = same && earlier.delivered && earlier.received_at > event.received_at - A_DAY;
    Ok(match repeated {
        true => Addition::Repeated(earlier.seq),
        false if sent_again && !event.polled => Addition::Known,
        false => Addition::New,
    })
}

/// The last `*.add` of the record since it was deleted, and whether anything else of it came.
fn before(connection: &Connection, event: &Added<'_>) -> rusqlite::Result<(Option<Earlier>, bool)> {
    let (kind, id) = event.entity;
    let deleted = deleted_by_another_name(connection, event)?;
    let mut rows = connection.prepare_cached(
        "SELECT seq, name, received_at, via = 'poll', fields, known, duplicate IS NOT NULL,
                EXISTS (SELECT 1 FROM delivery d WHERE d.event = event.seq)
           FROM event INDEXED BY event_entity
          WHERE account = ?1 AND entity_kind = ?2 AND entity_id = ?3 AND seq < ?4 AND seq > ?5 ORDER BY seq DESC LIMIT ?6",
    )?;
    let mut rows = rows.query(params![event.account, kind, id, event.seq, deleted, MOST_OF_RECORD])?;
    let mut touched = false;
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        if name.ends_with(".delete") {
            break;
        }
        if row.get(6)? {
            continue;
        }
        if name != event.name {
            // Also one that came a moment ago: the express form on an existing client sends `client.edit`, then `client.add`.
            touched = true;
            continue;
        }
        let earlier = Earlier {
            seq: row.get(0)?,
            received_at: row.get(2)?,
            polled: row.get(3)?,
            fields: row.get(4)?,
            known: row.get(5)?,
            delivered: row.get(7)?,
        };
        return Ok((Some(earlier), touched));
    }
    Ok((None, touched))
}

/// An act is deleted as a contract (measured): the last such event, or 0.
fn deleted_by_another_name(connection: &Connection, event: &Added<'_>) -> rusqlite::Result<i64> {
    let (kind, id) = event.entity;
    if kind != "akt" {
        return Ok(0);
    }
    connection
        .prepare_cached(
            "SELECT coalesce(max(seq), 0) FROM event INDEXED BY event_entity
              WHERE account = ?1 AND entity_kind = 'contract' AND entity_id = ?2 AND seq < ?3 AND name = 'contract.delete'",
        )?
        .query_row(params![event.account, id, event.seq], |row| row.get(0))
}

/// Whether a plugin changed the record before: it was there then.
fn written(connection: &Connection, event: &Added<'_>) -> rusqlite::Result<bool> {
    let (kind, id) = event.entity;
    connection
        .prepare_cached(
            "SELECT 1 FROM write INDEXED BY write_about
              WHERE account = ?1 AND kind = ?2 AND record = ?3 AND sent_at <= ?4
                AND call NOT LIKE '%.add' AND call NOT LIKE '%.express' LIMIT 1",
        )?
        .query_row(params![event.account, kind, id, event.received_at], |_| Ok(()))
        .optional()
        .map(|found| found.is_some())
}

/// Whether an `*.add` is the express form's second one, which holds the numbers of everything that was made.
fn is_sent_again(name: &str, fields: &str) -> bool {
    let fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
    match name {
        "client.add" => fields.contains_key("did") || fields.contains_key("pid") || fields.contains_key("tid"),
        "person.add" => fields.contains_key("clid") || fields.contains_key("did") || fields.contains_key("tid"),
        "task.add" => fields.contains_key("tid"),
        _ => false,
    }
}
