//! The loop guard's memory: which delivery caused an event, and how long the chain behind it is.
//!
//! - An event is **caused by** a delivery when its actor is the host's own user of that CRM, and one of the delivery's
//!   writes expects it (`effects`): by name, record and content, and not used up by an event before. It comes before the
//!   write's answer (measured), so a write under way counts.
//! - An event of the same user that no write expects comes from another program under the same login: it is marked. One
//!   that is a copy of an event that was matched, because the CRM sends to two addresses of the host, is matched likewise.
//! - Writes are on disk before they are sent (`writes`), so a restart forgets none of this.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::{Map, Value};

use super::effects;
use crate::event::EventId;

/// Links of a chain that are told.
const MOST_LINKS: i64 = 64;
/// Links of a chain among which a plugin is looked for; there are never as many plugins.
const MOST_SEARCHED: i64 = 1_024;
/// Milliseconds between two copies of an event at most.
const COPIES: i64 = 60_000;
/// Earlier events of a record among which the first copy is looked for.
const MOST_COPIES: i64 = 16;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody else's doing.
    Elsewhere,
    /// The host's own user, but none of the host's writes.
    SameLogin,
    /// A delivery's write.
    Delivery { delivery: i64, plugin: i64, depth: u32 },
}

/// What an event is matched by.
pub(super) struct Traits<'a> {
    pub(super) seq: i64,
    pub(super) account: &'a str,
    pub(super) name: &'a str,
    pub(super) received_at: i64,
    /// Found by polling, which does not tell who did it.
    pub(super) polled: bool,
    pub(super) actor: Option<i64>,
    pub(super) entity: Option<(&'a str, &'a str)>,
    pub(super) fields: &'a str,
    pub(super) via: &'a str,
}

pub(super) fn origin(connection: &Connection, event: &Traits<'_>) -> rusqlite::Result<Origin> {
    let nobody = if event.polled { Origin::Elsewhere } else { Origin::SameLogin };
    let own: Option<i64> = connection
        .prepare_cached("SELECT user FROM account WHERE name = ?1")?
        .query_row([event.account], |row| row.get(0))
        .optional()?;
    if !event.polled && (own.is_none() || own != event.actor) {
        return Ok(Origin::Elsewhere);
    }
    let fields: Map<String, Value> = serde_json::from_str(event.fields).unwrap_or_default();
    let looked_for = effects::Traits {
        account: event.account,
        name: event.name,
        record: event.entity.map(|(_, id)| id),
        received_at: event.received_at,
        polled: event.polled,
        fields: &fields,
    };
    let delivery = match effects::used(connection, &looked_for)? {
        Some(delivery) => Some(delivery),
        None => copied(connection, event, fields.contains_key("newparam"))?,
    };
    delivery.map_or(Ok(nobody), |delivery| caused_by(connection, delivery))
}

fn caused_by(connection: &Connection, delivery: i64) -> rusqlite::Result<Origin> {
    connection
        .prepare_cached(
            "SELECT q.plugin, e.depth FROM delivery d JOIN queue q ON q.number = d.queue JOIN event e ON e.seq = d.event
              WHERE d.seq = ?1",
        )?
        .query_row([delivery], |row| {
            Ok(Origin::Delivery { delivery, plugin: row.get(0)?, depth: row.get::<_, u32>(1)? + 1 })
        })
        .optional()
        .map(|found| found.unwrap_or(Origin::SameLogin))
}

/// The cause of an event of which this one is a copy: it came by another way, or says in full what was changed, which
/// the CRM does only once.
fn copied(connection: &Connection, event: &Traits<'_>, in_full: bool) -> rusqlite::Result<Option<i64>> {
    let Some((kind, id)) = event.entity.filter(|_| !event.polled) else { return Ok(None) };
    connection
        .prepare_cached(
            "SELECT cause FROM (SELECT name, fields, actor, via, cause, received_at FROM event INDEXED BY event_entity
                                 WHERE account = ?1 AND entity_kind = ?2 AND entity_id = ?3 AND seq < ?4
                                 ORDER BY seq DESC LIMIT ?11)
              WHERE name = ?5 AND fields = ?6 AND actor IS ?7 AND cause IS NOT NULL AND received_at >= ?8
                AND (?9 OR via <> ?10) LIMIT 1",
        )?
        .query_row(
            params![
                event.account,
                kind,
                id,
                event.seq,
                event.name,
                event.fields,
                event.actor,
                event.received_at - COPIES,
                in_full,
                event.via,
                MOST_COPIES
            ],
            |row| row.get(0),
        )
        .optional()
}

/// Whether a plugin had a part in the chain behind a delivery, that delivery included.
pub(super) fn in_chain(connection: &Connection, delivery: i64, plugin: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "WITH RECURSIVE link (plugin, cause, position) AS (
                 SELECT q.plugin, e.cause, 1 FROM delivery d JOIN event e ON e.seq = d.event
                   JOIN queue q ON q.number = d.queue WHERE d.seq = ?1
                 UNION ALL
                 SELECT q.plugin, e.cause, position + 1 FROM link JOIN delivery d ON d.seq = link.cause
                   JOIN event e ON e.seq = d.event JOIN queue q ON q.number = d.queue WHERE position < ?3)
             SELECT EXISTS (SELECT 1 FROM link WHERE plugin = ?2)",
        )?
        .query_row(params![delivery, plugin, MOST_SEARCHED], |row| row.get(0))
}

/// One link of the chain behind an event, the nearest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Cause {
    /// The delivery whose write caused it.
    pub delivery: i64,
    /// Whose delivery.
    pub plugin: String,
    /// The event that was delivered.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// Its record, as `kind:id`.
    pub entity: Option<String>,
}

/// The chain behind a delivery: that delivery's event, what caused it, and so on.
pub(super) fn chain(connection: &Connection, delivery: i64) -> rusqlite::Result<Vec<Cause>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE link (delivery, plugin, event, name, entity, cause, position) AS (
                 SELECT d.seq, p.name, e.id, e.name, e.entity_kind || ':' || e.entity_id, e.cause, 1
                   FROM delivery d JOIN event e ON e.seq = d.event
                   JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin WHERE d.seq = ?1
                 UNION ALL
                 SELECT d.seq, p.name, e.id, e.name, e.entity_kind || ':' || e.entity_id, e.cause, position + 1
                   FROM link JOIN delivery d ON d.seq = link.cause JOIN event e ON e.seq = d.event
                   JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin WHERE position < ?2)
             SELECT delivery, plugin, event, name, entity FROM link ORDER BY position",
        )?
        .query_map(params![delivery, MOST_LINKS], |row| {
            Ok(Cause {
                delivery: row.get(0)?,
                plugin: row.get(1)?,
                event: EventId::from_bytes(row.get(2)?),
                name: row.get(3)?,
                entity: row.get(4)?,
            })
        })?
        .collect()
}

/// The chain in words, from its beginning to the event that it led to.
pub(super) fn in_words(chain: &[Cause], name: &str) -> String {
    let mut words = String::new();
    for link in chain.iter().rev() {
        words.push_str(&format!("{} → {} → ", link.name, link.plugin));
    }
    words.push_str(name);
    words
}
