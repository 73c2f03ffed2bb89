//! The loop guard's memory: which delivery caused an event, and how long the chain behind it is.
//!
//! - An event is **caused by** a delivery when its actor is the host's own user of that CRM, and its record is the one
//!   that the delivery is writing, or wrote a moment ago. It comes before the write's answer (measured), so a write under
//!   way counts; one that adds a record, whose number is not known yet, is recognised by the event's name.
//! - An event of the same user without such a write comes from another program under the same login: it is marked.
//! - Writes are on disk before they are sent (`writes`), so a restart forgets none of this.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use crate::event::EventId;

/// Milliseconds after its answer in which a write's events may still come: the CRM sends them before it answers.
const AFTER_ANSWER: i64 = 30_000;
/// Milliseconds for which a write without an answer may still cause events: they may have waited in the CRM's spool.
const WITHOUT_ANSWER: i64 = 3_600_000;
/// Links of a chain that are told.
const MOST_LINKS: i64 = 64;

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
    pub(super) account: &'a str,
    pub(super) name: &'a str,
    pub(super) received_at: i64,
    /// Found by polling, which does not tell who did it.
    pub(super) polled: bool,
    pub(super) actor: Option<i64>,
    pub(super) entity: Option<(&'a str, &'a str)>,
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
    let Some((kind, id)) = event.entity else { return Ok(nobody) };
    // An act's writes cause events of contracts (measured); polling tells them apart.
    let kind = if kind == "akt" { "contract" } else { kind };
    let after_answer = if event.polled { WITHOUT_ANSWER } else { AFTER_ANSWER };
    let adds = event.name.ends_with(".add");
    let found = connection
        .prepare_cached(
            "SELECT w.delivery, q.plugin, e.depth FROM write w INDEXED BY write_record
               JOIN delivery d ON d.seq = w.delivery JOIN queue q ON q.number = d.queue JOIN event e ON e.seq = d.event
              WHERE w.account = ?1 AND w.kind = ?2 AND w.sent_at > ?4 - ?6 AND w.sent_at <= ?4 + 1000
                AND (w.record = ?3 OR w.record IS NULL AND ?5)
                AND (w.answered_at IS NULL OR w.answered_at >= ?4 - ?7)
              ORDER BY w.record IS NULL, w.sent_at DESC LIMIT 1",
        )?
        .query_row(params![event.account, kind, id, event.received_at, adds, WITHOUT_ANSWER, after_answer], |row| {
            Ok(Origin::Delivery { delivery: row.get(0)?, plugin: row.get(1)?, depth: row.get::<_, u32>(2)? + 1 })
        })
        .optional()?;
    Ok(found.unwrap_or(nobody))
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
