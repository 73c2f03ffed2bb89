//! The events that a write may cause, counted down as they come.
//!
//! - They are on disk before the write is sent; one that was sent again in doubt has them again.
//! - Each is **used up** by the event that it was matched with: a second event of the same kind is somebody else's.
//! - What arrives and what the host found in a list are counted apart: of one write there may be both.
//! - An event is matched when name and record fit and it says nothing but what the write said. Of a record that nobody
//!   named it must come soon; of a named one it may have waited in the CRM's spool.

use rusqlite::{Connection, params};
use serde_json::{Map, Value};

use super::DeliveryId;
use super::writes::Write;
use crate::event::content::Content;

/// Milliseconds after its answer in which a write's events of records that nobody named may still come: the CRM sends them
/// before it answers.
const UNNAMED: i64 = 30_000;
/// Milliseconds for which any event of a write may have waited in the CRM's spool, or until its list was read.
const SPOOLED: i64 = 3_600_000;
/// Milliseconds by which clocks and commits may differ.
const SLACK: i64 = 1_000;
/// Lines that are compared with one event.
const MOST_COMPARED: usize = 64;

/// An event that a write may cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name, or `family.*`.
    pub name: String,
    /// Its record, where its number is known.
    pub record: Option<String>,
    /// Whether the answer names the record.
    pub added: bool,
    /// How often it may come.
    pub times: usize,
    /// Of one choice other than 0 only one comes.
    pub choice: u8,
}

/// What an event is matched by.
pub(super) struct Traits<'a> {
    pub(super) account: &'a str,
    pub(super) name: &'a str,
    pub(super) record: Option<&'a str>,
    pub(super) received_at: i64,
    pub(super) polled: bool,
    pub(super) fields: &'a Map<String, Value>,
}

/// Expects the events of a write that is about to be sent.
pub(super) fn arm(
    connection: &Connection,
    write: &Write,
    account: &str,
    expected: &[Expected],
    content: &Content,
    now: i64,
) -> rusqlite::Result<()> {
    forget_old(connection, now)?;
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    let mut add = connection.prepare_cached(
        "INSERT INTO effect (delivery, digest, occurrence, account, name, record, added, choice, content, armed_at, arrivals, findings)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)",
    )?;
    let content = content.to_text();
    for Expected { name, record, added, times, choice } in expected {
        let times = i64::try_from(*times).unwrap_or(i64::MAX);
        add.execute(params![delivery, digest, occurrence, account, name, record, added, choice, content, now, times])?;
    }
    Ok(())
}

/// A write's answer came, with the number of the record that it added.
pub(super) fn answered(connection: &Connection, write: &Write, record: Option<&str>, now: i64) -> rusqlite::Result<()> {
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    connection
        .prepare_cached(
            "UPDATE effect SET answered_at = ?4, record = iif(added, coalesce(record, ?5), record)
              WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3",
        )?
        .execute(params![delivery, digest, occurrence, now, record])?;
    Ok(())
}

/// A write was surely not done: nothing will come of it.
pub(super) fn withdrawn(connection: &Connection, write: &Write) -> rusqlite::Result<()> {
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    connection
        .prepare_cached("DELETE FROM effect WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3")?
        .execute(params![delivery, digest, occurrence])?;
    Ok(())
}

/// The delivery whose write caused an event; the expectation is used up.
pub(super) fn used(connection: &Connection, event: &Traits<'_>) -> rusqlite::Result<Option<i64>> {
    let family = event.name.split('.').next().unwrap_or_default();
    let any = format!("{family}.*");
    let named = event.record.map(|record| (Some(record), SPOOLED));
    let soon = if event.polled { SPOOLED } else { UNNAMED };
    for (record, after_answer) in named.into_iter().chain([(None, soon)]) {
        for name in [event.name, any.as_str()] {
            if let Some(delivery) = used_of(connection, event, name, record, after_answer)? {
                return Ok(Some(delivery));
            }
        }
    }
    Ok(None)
}

/// The same among those of one name and record, the oldest first.
fn used_of(
    connection: &Connection,
    event: &Traits<'_>,
    name: &str,
    record: Option<&str>,
    after_answer: i64,
) -> rusqlite::Result<Option<i64>> {
    let mut lines = connection.prepare_cached(
        "SELECT number, delivery, content FROM effect INDEXED BY effect_record
          WHERE account = ?1 AND name = ?2 AND record IS ?3 AND armed_at > ?4 - ?5 AND armed_at <= ?4 + ?6
            AND (answered_at IS NULL OR answered_at >= ?4 - ?7) AND iif(?8, findings, arrivals) > 0
          ORDER BY armed_at, number LIMIT ?9",
    )?;
    let mut rows = lines.query(params![
        event.account,
        name,
        record,
        event.received_at,
        SPOOLED,
        SLACK,
        after_answer,
        event.polled,
        i64::try_from(MOST_COMPARED).unwrap_or(i64::MAX)
    ])?;
    while let Some(row) = rows.next()? {
        let content = Content::parse(&row.get::<_, String>(2)?);
        if content.fits(event.name, event.fields) {
            let (number, delivery): (i64, i64) = (row.get(0)?, row.get(1)?);
            use_up(connection, number, event.polled)?;
            return Ok(Some(delivery));
        }
    }
    Ok(None)
}

fn use_up(connection: &Connection, number: i64, polled: bool) -> rusqlite::Result<()> {
    if polled {
        connection.prepare_cached("UPDATE effect SET findings = findings - 1 WHERE number = ?1")?.execute([number])?;
        return Ok(());
    }
    connection
        .prepare_cached(
            "UPDATE effect SET arrivals = arrivals - 1 WHERE number = ?1 OR number IN (
                 SELECT other.number FROM effect one JOIN effect other INDEXED BY effect_write
                     ON other.delivery = one.delivery AND other.digest = one.digest AND other.occurrence = one.occurrence
                  WHERE one.number = ?1 AND one.choice > 0 AND other.choice = one.choice
                    AND other.armed_at = one.armed_at AND other.number <> ?1)",
        )?
        .execute([number])?;
    Ok(())
}

/// Forgets a few of those that nothing can come of any more.
fn forget_old(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM effect WHERE number IN (SELECT number FROM effect ORDER BY number LIMIT 32)
                AND armed_at < ?1 AND coalesce(answered_at, 0) < ?1",
        )?
        .execute([now - 2 * SPOOLED])?;
    Ok(())
}
