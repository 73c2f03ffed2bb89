//! Deliveries that are due, given out: each queue's oldest, up to its budget.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, params};

use super::layout::{plugin_number, queue_number};
use super::read::{EVENT_COLUMNS, event_from_row};
use super::write::Batch;
use super::{Claimed, DeliveryId, Queue, Subscriptions, Taken, route};

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
    for (queue, budget) in budgets {
        let plugin = plugin_number(connection, queue.plugin.as_str())?;
        let (number, _) = queue_number(connection, plugin, &queue.account)?;
        let before = taken.claimed.len();
        claim(connection, queue, number, *budget, now, &mut taken.claimed)?;
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
    queue: &Queue,
    number: i64,
    budget: usize,
    now: i64,
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
    for (seq, event, attempts, failures, interruptions, crashes) in due {
        connection
            .prepare_cached("UPDATE delivery SET state = 2, attempts = ?2, at = ?3 WHERE seq = ?1")?
            .execute(params![seq, attempts + 1, now])?;
        let event = connection
            .prepare_cached(&format!("SELECT {EVENT_COLUMNS}, known FROM event WHERE seq = ?1"))?
            .query_row([event], |row| {
                let mut event = event_from_row(row)?;
                event.mark(row.get(9)?);
                Ok(event)
            })?;
        claimed.push(Claimed {
            delivery: DeliveryId(seq),
            queue: queue.clone(),
            attempt: attempts + 1,
            failures,
            interruptions,
            crashes,
            event,
        });
    }
    Ok(())
}
