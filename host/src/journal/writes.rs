//! What plugins write into the CRM: the intent before it is sent, the answer after it, so that no write is sent twice.
//!
//! ```text
//! intend ──(nothing known)──▶ New: send it ──▶ answered (kept, given to every repetition)
//!        ──(answered)───────▶ Answered          withdrawn (surely not done: forgotten, may be sent again)
//!        ──(sent, no answer)▶ Uncertain         — nothing: the process ended, or no answer came
//! ```
//!
//! A write is known by its delivery, its call with all arguments, and which repetition of the same call it is.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::{DeliveryId, effects, restored};
use crate::event::content::Content;

/// One write that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Whose.
    pub delivery: DeliveryId,
    /// The call and its arguments, shortened to a digest.
    pub digest: [u8; 16],
    /// Which one of the same calls of this delivery, from 0.
    pub occurrence: u32,
}

/// What is recorded of a write before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Which write.
    pub write: Write,
    /// `method.action`.
    pub call: String,
    /// To which CRM.
    pub account: String,
    /// The family of the events that it causes.
    pub kind: String,
    /// The record, where its number is known.
    pub record: Option<String>,
    /// What it says, field by field: digests only.
    pub content: Content,
    /// The events that it may cause.
    pub effects: Vec<effects::Expected>,
    /// Whether it was found out, or said by somebody, that it has not been done: it is sent now.
    pub not_done: bool,
}

/// What is known of a write that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intended {
    /// Nothing: send it.
    New,
    /// It was done; this is its answer.
    Answered(String),
    /// It was sent, and nobody knows whether it was done.
    Uncertain {
        /// When: milliseconds since 1970-01-01 UTC.
        since: i64,
    },
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was done.
    Answered {
        /// The answer.
        answer: String,
        /// The number of the record that was added.
        record: Option<String>,
    },
    /// It was surely not done.
    Withdrawn,
}

/// A write of a delivery, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct WriteView {
    /// What it is named by, within its delivery.
    pub key: String,
    /// `method.action`.
    pub call: String,
    /// The record that it is about or added, as `kind:id`, where its number is known.
    pub record: Option<String>,
    /// When it was sent first: milliseconds since 1970-01-01 UTC.
    pub sent_at: i64,
    /// When its answer was recorded; null: none was.
    pub answered_at: Option<i64>,
    /// Whether nobody knows if it was done, and nobody has said what is to be done about it.
    pub uncertain: bool,
    /// The call and its arguments, shortened to a digest.
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) digest: [u8; 16],
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) occurrence: u32,
}

impl WriteView {
    pub(super) fn write(&self, delivery: i64) -> Write {
        Write { delivery: DeliveryId(delivery), digest: self.digest, occurrence: self.occurrence }
    }
}

/// What is known of a write. Of one that may have been done after the store was copied the ledger knows nothing.
pub(super) fn known(connection: &Connection, write: &Write) -> rusqlite::Result<Option<Intended>> {
    match recorded(connection, write)? {
        None => {
            let since = restored::since(connection, write.delivery.0)?;
            Ok(since.map(|since| Intended::Uncertain { since }))
        }
        known => Ok(known),
    }
}

fn recorded(connection: &Connection, write: &Write) -> rusqlite::Result<Option<Intended>> {
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    connection
        .prepare_cached(
            "SELECT sent_at, answer, may_send FROM write WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3",
        )?
        .query_row(params![delivery, digest, occurrence], |row| {
            Ok(match row.get::<_, Option<String>>(1)? {
                Some(answer) => Intended::Answered(answer),
                None if row.get(2)? => Intended::New,
                None => Intended::Uncertain { since: row.get(0)? },
            })
        })
        .optional()
}

/// Records that were added by a delivery, as the CRM's events tell, and are no known answer of it. Where another delivery
/// may have added one as well, the event is no evidence.
pub(super) fn added_by(connection: &Connection, delivery: i64, kind: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT entity_id FROM event e INDEXED BY event_cause
              WHERE cause = ?1 AND entity_kind = ?2 AND name = ?2 || '.add'
                AND NOT EXISTS (SELECT 1 FROM write o INDEXED BY write_record
                     WHERE o.account = e.account AND o.kind = ?2 AND o.delivery <> ?1
                       AND o.sent_at BETWEEN e.received_at - 3600000 AND e.received_at + 1000
                       AND (o.answered_at IS NULL OR o.record = e.entity_id))
                AND entity_id NOT IN (SELECT record FROM write WHERE delivery = ?1 AND kind = ?2 AND record IS NOT NULL)",
        )?
        .query_map(params![delivery, kind], |row| row.get(0))?
        .collect()
}

/// The highest number of a record that was added before a time, as far as the host wrote it itself.
pub(super) fn added_before(
    connection: &Connection,
    account: &str,
    kind: &str,
    time: i64,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(
            "SELECT max(CAST(record AS INTEGER)) FROM (SELECT record FROM write INDEXED BY write_record
                WHERE account = ?1 AND kind = ?2 AND sent_at < ?3 AND answered_at < ?3 ORDER BY sent_at DESC LIMIT 1000)",
        )?
        .query_row(params![account, kind, time], |row| row.get::<_, Option<i64>>(0))
        .map(|number| number.and_then(|number| u64::try_from(number).ok()))
}

/// Records that were added since a time, as far as the host wrote them itself and got to know their numbers.
pub(super) fn added_since(
    connection: &Connection,
    account: &str,
    kind: &str,
    time: i64,
) -> rusqlite::Result<BTreeSet<u64>> {
    let mut found = connection.prepare_cached(
        "SELECT CAST(record AS INTEGER) FROM write INDEXED BY write_record
          WHERE account = ?1 AND kind = ?2 AND sent_at >= ?3 AND answered_at IS NOT NULL AND record IS NOT NULL LIMIT 10000",
    )?;
    let numbers = found.query_map(params![account, kind, time], |row| row.get::<_, i64>(0))?;
    numbers.map(|number| number.map(|number| u64::try_from(number).unwrap_or(0))).collect()
}

pub(super) fn intend(connection: &Connection, intent: &Intent, now: i64) -> rusqlite::Result<Intended> {
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = &intent.write;
    let known = if intent.not_done { recorded(connection, &intent.write)? } else { known(connection, &intent.write)? };
    let known = known.unwrap_or(Intended::New);
    // One that nobody knows to be done may be sent again, and then its events come again.
    if !matches!(known, Intended::Answered(_)) {
        effects::arm(connection, &intent.write, &intent.account, &intent.effects, &intent.content, now)?;
    }
    let sent_at = match known {
        Intended::New => now,
        Intended::Uncertain { since } => since,
        Intended::Answered(_) => return Ok(known),
    };
    connection
        .prepare_cached(
            "INSERT INTO write (delivery, digest, occurrence, call, account, kind, record, sent_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (delivery, digest, occurrence) DO UPDATE SET sent_at = excluded.sent_at, may_send = 0",
        )?
        .execute(params![
            delivery,
            digest,
            occurrence,
            intent.call,
            intent.account,
            intent.kind,
            intent.record,
            sent_at
        ])?;
    Ok(known)
}

pub(super) fn written(connection: &Connection, write: &Write, written: &Written, now: i64) -> rusqlite::Result<()> {
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    match written {
        Written::Answered { record, .. } => effects::answered(connection, write, record.as_deref(), now)?,
        Written::Withdrawn => effects::withdrawn(connection, write)?,
    }
    match written {
        Written::Answered { answer, record } => connection
            .prepare_cached(
                "UPDATE write SET answered_at = ?4, answer = ?5, record = coalesce(record, ?6)
                  WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3",
            )?
            .execute(params![delivery, digest, occurrence, now, answer, record])?,
        // Without a row it would count as sent: it is known by now that it was not.
        Written::Withdrawn if restored::since(connection, *delivery)?.is_some() => connection
            .prepare_cached("UPDATE write SET may_send = 1 WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3")?
            .execute(params![delivery, digest, occurrence])?,
        Written::Withdrawn => connection
            .prepare_cached("DELETE FROM write WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3")?
            .execute(params![delivery, digest, occurrence])?,
    };
    Ok(())
}

pub(super) fn of_delivery(connection: &Connection, delivery: i64) -> rusqlite::Result<Vec<WriteView>> {
    connection
        .prepare_cached(
            "SELECT call, sent_at, answered_at, kind || ':' || record, digest, occurrence, may_send FROM write
              WHERE delivery = ?1 ORDER BY sent_at, call, digest, occurrence",
        )?
        .query_map([delivery], |row| {
            let (said, occurrence): (Vec<u8>, u32) = (row.get(4)?, row.get(5)?);
            // One of another length fits no write, and keeps nobody from seeing the rest.
            let mut digest = [0; 16];
            digest.iter_mut().zip(said).for_each(|(to, from)| *to = from);
            let named: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let answered_at: Option<i64> = row.get(2)?;
            Ok(WriteView {
                key: format!("{named}-{occurrence}"),
                call: row.get(0)?,
                record: row.get(3)?,
                sent_at: row.get(1)?,
                answered_at,
                uncertain: answered_at.is_none() && !row.get::<_, bool>(6)?,
                digest,
                occurrence,
            })
        })?
        .collect()
}
