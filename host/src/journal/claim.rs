//! Deliveries that are due, given out: each queue's oldest, up to its budget.
//!
//! A small event comes with its fields, as long as there is room for those of one [`take`]. A larger one comes without: whoever
//! runs it reads them when it runs ([`Handle::whole`]), so that what is claimed ahead takes no more memory than its number.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, params};

use super::layout::{plugin_number, queue_number};
use super::read::{EVENT_COLUMNS, event_from_row};
use super::write::Batch;
use super::{Change, Claimed, DeliveryId, Error, Handle, Queue, Subscriptions, Taken, route};
use crate::event::Event;

/// Bytes of fields that come with a claim; most events have one or two kibibytes.
const MOST_CARRIED: i64 = 16 << 10;
/// Bytes of fields that one take brings at most.
const MOST_TOGETHER: i64 = 8 << 20;

impl Claimed {
    /// Leaves the fields in the store, to be read when it runs.
    pub fn set_aside(&mut self) {
        if self.unread == 0 {
            self.unread = u64::try_from(self.event.fields.len()).unwrap_or(u64::MAX);
            self.event.fields = String::new();
        }
    }
}

impl Handle {
    /// The event of a claimed delivery with all its fields; reads the store where the claim came without.
    ///
    /// # Errors
    /// [`Error::Store`]: they can't be read.
    pub fn whole(&self, claimed: &Claimed) -> Result<Event, Error> {
        let mut event = claimed.event.clone();
        if claimed.unread > 0 {
            let (fields, known) = self.readers.read(|connection| {
                connection
                    .prepare_cached("SELECT fields, known FROM event WHERE id = ?1")?
                    .query_row([event.id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            })?;
            event.fields = fields;
            event.mark(known);
        }
        Ok(event)
    }

    /// Gives back a delivery that was claimed and could not begin: it is ready again at this time, as if it had not been claimed.
    ///
    /// # Errors
    /// As of [`Handle::release`].
    pub async fn put_off(&self, delivery: DeliveryId, until: i64) -> Result<(), Error> {
        self.ask(|reply| Change::Release(delivery, until, reply)).await
    }
}

/// Makes deliveries for these subscribers of so many events at most, then claims.
pub(super) fn take(
    connection: &Connection,
    routing: Option<(&Subscriptions, i64)>,
    budgets: &[(Queue, usize)],
    batch: &mut Batch<'_>,
) -> rusqlite::Result<Taken> {
    let (mut taken, now) = (Taken::default(), batch.now);
    if batch.kept.waits.load(Ordering::Relaxed) {
        return Ok(taken);
    }
    if let Some((subscriptions, most)) = routing {
        taken.unrouted = route::route(connection, (subscriptions, most), &mut taken.opened, batch)?;
    }
    let mut room = MOST_TOGETHER;
    for (queue, budget) in budgets {
        let plugin = plugin_number(connection, queue.plugin.as_str())?;
        let (number, _) = queue_number(connection, plugin, &queue.account)?;
        let before = taken.claimed.len();
        claim(connection, (queue, number), *budget, now, &mut room, &mut taken.claimed)?;
        if taken.claimed.len() - before < *budget {
            let due = connection
                .prepare_cached(
                    "SELECT min(at) FROM delivery INDEXED BY delivery_ready WHERE queue = ?1 AND state = 0",
                )?
                .query_row([number], |row| row.get::<_, Option<i64>>(0))?;
            taken.next_due = [taken.next_due, due].into_iter().flatten().min();
        }
    }
    Ok(taken)
}

fn claim(
    connection: &Connection,
    (queue, number): (&Queue, i64),
    budget: usize,
    now: i64,
    room: &mut i64,
    claimed: &mut Vec<Claimed>,
) -> rusqlite::Result<()> {
    let mut due = connection.prepare_cached(
        "SELECT seq, event, attempts, failures, interruptions, crashes FROM delivery INDEXED BY delivery_ready
          WHERE queue = ?1 AND state = 0 AND at <= ?2 ORDER BY at, seq LIMIT ?3",
    )?;
    let due: Vec<(i64, i64, u32, u32, u32, u32)> = due
        .query_map(params![number, now, i64::try_from(budget).unwrap_or(i64::MAX)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    // Fields that stay where they are are not even loaded.
    let columns = EVENT_COLUMNS.replace("fields", "iif(octet_length(fields) <= ?2, fields, '')");
    let question = format!("SELECT {columns}, known, octet_length(fields) FROM event WHERE seq = ?1");
    for (seq, event, attempts, failures, interruptions, crashes) in due {
        connection
            .prepare_cached("UPDATE delivery SET state = 2, attempts = ?2, at = ?3 WHERE seq = ?1")?
            .execute(params![seq, attempts + 1, now])?;
        let (event, unread) =
            connection.prepare_cached(&question)?.query_row([event, MOST_CARRIED.min(*room)], |row| {
                let (mut event, bytes) = (event_from_row(row)?, row.get::<_, i64>(10)?);
                if event.fields.is_empty() {
                    return Ok((event, bytes));
                }
                event.mark(row.get(9)?);
                *room -= bytes;
                Ok((event, 0))
            })?;
        claimed.push(Claimed {
            delivery: DeliveryId(seq),
            queue: queue.clone(),
            attempt: attempts + 1,
            failures,
            interruptions,
            crashes,
            event,
            unread: u64::try_from(unread).unwrap_or(0),
        });
    }
    Ok(())
}
