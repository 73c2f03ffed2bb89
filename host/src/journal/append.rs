//! An event that arrived, stored once.

use rusqlite::{Connection, OptionalExtension, params};

use super::lists::Lists;
use crate::event::{Appended, Event, EventId};

pub(super) fn append(
    connection: &Connection,
    event: &Event,
    key: Option<&str>,
    lists: &Lists,
) -> rusqlite::Result<Appended> {
    if let Some(key) = key {
        let known = connection
            .prepare_cached(
                "SELECT id, name, actor, fields FROM event INDEXED BY event_key WHERE account = ?1 AND key = ?2",
            )?
            .query_row(params![event.account, key], |row| {
                let id = EventId::from_bytes(row.get(0)?);
                let (name, actor, fields): (String, Option<i64>, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
                let same = name == event.name && actor == stored(event.actor) && same_fields(&fields, &event.fields);
                Ok(if same { Appended::Known(id) } else { Appended::KeyReused(id) })
            })
            .optional()?;
        if let Some(known) = known {
            return Ok(known);
        }
    }
    let arrival = lists.arrived(connection, event)?;
    connection
        .prepare_cached(
            // No number is given twice: the newest event may have been forgotten, and what was routed is behind the cursor.
            "INSERT INTO event (seq, id, account, name, received_at, via, actor, entity_kind, entity_id, fields, key,
                                duplicate, duplicate_of, known)
             VALUES (max(coalesce((SELECT max(seq) FROM event), 0), (SELECT seq FROM cursor WHERE name = 'routed')) + 1,
                     ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            event.id.as_bytes(),
            event.account,
            event.name,
            event.received_at,
            event.via.as_str(),
            stored(event.actor),
            event.entity.as_ref().map(|entity| &entity.kind),
            event.entity.as_ref().map(|entity| &entity.id),
            event.fields,
            key,
            arrival.found_as.map(|_| "found"),
            arrival.found_as,
            arrival.listed,
        ])?;
    Ok(Appended::New(event.id))
}

fn stored(actor: Option<u64>) -> Option<i64> {
    actor.and_then(|actor| i64::try_from(actor).ok())
}

/// Whether two events say the same, in whichever order and shape they came.
fn same_fields(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || read(one).is_some_and(|one| Some(one) == read(other))
}
