//! Makes the deliveries of what has arrived, one per plugin that wants it; recognises what the CRM sends twice.
//!
//! - An event is **folded** into the one before it when both say the same and nothing of that one has started. The one
//!   before it means: of the same record, with nothing of that record in between, so that order never changes.
//! - A **repeated** `*.add` of a record is recorded and not delivered; one of a known record says so (`additions`).
//! - What the host had **found** in a list before it came was recognised when it was stored, and is not delivered either.
//! - Both cost index look-ups of a bounded number of rows.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::additions::{self, Added, Addition};
use super::causes::{self, Origin, Traits};
use super::layout::{plugin_number, queue_number};
use super::minutes::Tally;
use super::write::Batch;
use super::{Duplicates, Queue, Subscription, Subscriptions};

/// Earlier events without a record that are compared with a new one.
const MOST_WITHOUT_RECORD: i64 = 16;

/// What routing looks at.
struct Arrived {
    seq: i64,
    account: String,
    name: String,
    received_at: i64,
    polled: bool,
    actor: Option<i64>,
    entity: Option<(String, String)>,
    fields: String,
    via: String,
    /// Recognised when it came as what the host had found before.
    found_before: bool,
    /// Whether its record was in a watched list when it came.
    known: bool,
    /// Since when its deliveries' writes may have been done without the ledger's knowledge.
    doubted_since: Option<i64>,
}

/// What routing looks at, as columns.
const COLUMNS: &str = "seq, account, name, received_at, actor, entity_kind, entity_id, fields, via, duplicate IS NOT NULL, known, doubted_since";

fn arrived(row: &Row<'_>) -> rusqlite::Result<Arrived> {
    Ok(Arrived {
        seq: row.get(0)?,
        account: row.get(1)?,
        name: row.get(2)?,
        received_at: row.get(3)?,
        actor: row.get(4)?,
        entity: row.get::<_, Option<String>>(5)?.zip(row.get(6)?),
        fields: row.get(7)?,
        polled: row.get::<_, String>(8)? == "poll",
        via: row.get(8)?,
        found_before: row.get(9)?,
        known: row.get(10)?,
        doubted_since: row.get(11)?,
    })
}

fn cursor(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT seq FROM cursor WHERE name = 'routed'")?.query_row([], |row| row.get(0))
}

fn proceed(connection: &Connection, to: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE cursor SET seq = ?1 WHERE name = 'routed'")?.execute([to])?;
    Ok(())
}

/// Makes the deliveries of the next events; tells whether more wait. Queues that are new are added to `opened`.
pub(super) fn route(
    connection: &Connection,
    (subscriptions, most): (&Subscriptions, i64),
    opened: &mut Vec<Queue>,
    batch: &mut Batch<'_>,
) -> rusqlite::Result<bool> {
    let cursor = cursor(connection)?;
    let mut events =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2"))?;
    let mut rows = events.query(params![cursor, most])?;
    let (mut last, mut count) = (cursor, 0);
    while let Some(row) = rows.next()? {
        let event = arrived(row)?;
        (last, count) = (event.seq, count + 1);
        one(connection, &event, subscriptions, opened, batch)?;
    }
    if count > 0 {
        proceed(connection, last)?;
    }
    Ok(count == most)
}

/// Leaves the next event aside, which can't be routed; tells its number, where there is one.
pub(super) fn set_aside(connection: &Connection, now: i64) -> rusqlite::Result<Option<i64>> {
    let cursor = cursor(connection)?;
    let next = connection
        .query_row("SELECT min(seq) FROM event WHERE seq > ?1", [cursor], |row| row.get::<_, Option<i64>>(0))
        // It may be the page with the numbers that is damaged: they are given one after the other.
        .or_else(|error| {
            let last: i64 = connection.query_row("SELECT max(seq) FROM event", [], |row| row.get(0))?;
            if last > cursor { Ok(Some(cursor + 1)) } else { Err(error) }
        })?;
    if let Some(event) = next {
        connection.execute("INSERT OR IGNORE INTO stuck VALUES (?1, ?2)", params![event, now])?;
        proceed(connection, event)?;
    }
    Ok(next)
}

/// Routes an event that was left aside.
pub(super) fn again(
    connection: &Connection,
    event: i64,
    subscriptions: &Subscriptions,
    batch: &mut Batch<'_>,
) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM stuck WHERE event = ?1", [event])?;
    let words = format!("SELECT {COLUMNS} FROM event WHERE seq = ?1");
    // One that was forgotten meanwhile is not there.
    let event = connection.query_row(&words, [event], arrived).optional()?;
    // The loop opens every queue of a live plugin by itself.
    event.map_or(Ok(()), |event| one(connection, &event, subscriptions, &mut Vec::new(), batch))
}

fn one(
    connection: &Connection,
    event: &Arrived,
    subscriptions: &Subscriptions,
    opened: &mut Vec<Queue>,
    batch: &mut Batch<'_>,
) -> rusqlite::Result<()> {
    let (duplicates, now, tally) = (batch.duplicates, batch.now, &mut batch.kept.statistics.tally);
    if event.found_before {
        return Ok(());
    }
    let origin = origin(connection, event)?;
    let wanted: Vec<&Subscription> =
        subscriptions.0.iter().filter(|subscription| subscription.wants(&event.account, &event.name)).collect();
    // What plugins caused is counted link by link: none of it is folded into another.
    let same = match origin {
        Origin::Delivery { .. } => None,
        _ => folded(connection, duplicates, event, &wanted)?,
    };
    let duplicate = match same {
        Some(of) => Some(("folded", of)),
        None => added(connection, duplicates, event)?.map(|of| ("repeated", of)),
    };
    if let Some((word, of)) = duplicate {
        connection
            .prepare_cached("UPDATE event SET duplicate = ?2, duplicate_of = ?3 WHERE seq = ?1")?
            .execute(params![event.seq, word, of])?;
        return Ok(());
    }
    for subscription in wanted {
        deliver(connection, subscription, event, origin, now, opened, tally)?;
    }
    Ok(())
}

/// What an `*.add` repeats; whether it is of a known record is remembered with it.
fn added(connection: &Connection, duplicates: Duplicates, event: &Arrived) -> rusqlite::Result<Option<i64>> {
    let Some((kind, id)) = event.entity.as_ref().filter(|_| event.name.ends_with(".add")) else { return Ok(None) };
    let judged = Added {
        seq: event.seq,
        account: &event.account,
        name: &event.name,
        received_at: event.received_at,
        polled: event.polled,
        entity: (kind, id),
        fields: &event.fields,
        listed: event.known,
    };
    let known = match additions::judge(connection, &judged)? {
        Addition::Repeated(of) if duplicates.repeated_add => return Ok(Some(of)),
        Addition::Repeated(_) | Addition::Known => true,
        Addition::New => false,
    };
    if known != event.known {
        connection.prepare_cached("UPDATE event SET known = ?2 WHERE seq = ?1")?.execute(params![event.seq, known])?;
    }
    Ok(None)
}

/// Where the event comes from; remembered with it.
fn origin(connection: &Connection, event: &Arrived) -> rusqlite::Result<Origin> {
    let origin = causes::origin(
        connection,
        &Traits {
            seq: event.seq,
            account: &event.account,
            name: &event.name,
            received_at: event.received_at,
            polled: event.polled,
            actor: event.actor,
            entity: event.entity.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str())),
            fields: &event.fields,
            via: &event.via,
        },
    )?;
    match origin {
        Origin::Elsewhere => {}
        Origin::SameLogin => {
            connection.prepare_cached("UPDATE event SET same_login = 1 WHERE seq = ?1")?.execute([event.seq])?;
        }
        Origin::Delivery { delivery, depth, .. } => {
            connection
                .prepare_cached("UPDATE event SET cause = ?2, depth = ?3 WHERE seq = ?1")?
                .execute(params![event.seq, delivery, depth])?;
        }
    }
    Ok(origin)
}

fn deliver(
    connection: &Connection,
    subscription: &Subscription,
    event: &Arrived,
    origin: Origin,
    now: i64,
    opened: &mut Vec<Queue>,
    tally: &mut Tally,
) -> rusqlite::Result<()> {
    let lane = event.entity.as_ref().filter(|_| subscription.ordered).map(|(kind, id)| format!("{kind}:{id}"));
    let plugin = plugin_number(connection, subscription.plugin.as_str())?;
    let (queue, new) = queue_number(connection, plugin, &event.account)?;
    if new {
        opened.push(Queue { plugin: subscription.plugin.clone(), account: event.account.clone() });
    }
    if let Some(most) = subscription.most_waiting
        && waiting(connection, queue, most, tally)? >= i64::from(most)
    {
        return Ok(());
    }
    let held = held_back(connection, subscription, event, origin, plugin)?;
    if let Some((state, code, reason)) = held {
        connection
            .prepare_cached(
                "INSERT INTO delivery (event, queue, lane, state, at, code, reason, doubted_since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![event.seq, queue, lane, state, now, code, reason, event.doubted_since])?;
        tally.state(state, queue, Some(code), 1);
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO delivery (event, queue, lane, state, at, doubted_since)
             VALUES (?1, ?2, ?3, EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                          WHERE queue = ?2 AND lane = ?3 AND state IN (0, 1, 2)), ?4, ?5)",
        )?
        .execute(params![event.seq, queue, lane, now, event.doubted_since])?;
    tally.open(queue, 1);
    Ok(())
}

/// How much waits in a queue, as of the last commit; counted up to `most` where the tally can't tell.
fn waiting(connection: &Connection, queue: i64, most: u32, tally: &mut Tally) -> rusqlite::Result<i64> {
    if let Some(waiting) = tally.waiting(connection, queue)? {
        return Ok(waiting);
    }
    connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                    WHERE queue = ?1 AND state IN (0, 1, 2) LIMIT ?2)",
        )?
        .query_row(params![queue, most], |row| row.get(0))
}

/// Whether the loop guard keeps the event from a plugin: the delivery's state, code and reason.
fn held_back(
    connection: &Connection,
    subscription: &Subscription,
    event: &Arrived,
    origin: Origin,
    plugin: i64,
) -> rusqlite::Result<Option<(i64, &'static str, String)>> {
    let Origin::Delivery { delivery, plugin: cause, depth } = origin else { return Ok(None) };
    if cause == plugin && !subscription.own_events {
        let reason = format!(
            "the plugin caused this event itself, by a write of delivery {delivery}: set `own_events = true` under `[plugins.{}]` to have such events delivered",
            subscription.plugin
        );
        return Ok(Some((4, "loop.own_event", reason)));
    }
    // Whoever had no part in the chain can't have made it so long, and goes on.
    if depth > subscription.most_depth && causes::in_chain(connection, delivery, plugin)? {
        let chain = causes::chain(connection, delivery)?;
        let reason = format!(
            "plugins cause each other's events, {depth} in a row: {}; retry this delivery to let the chain go on, or raise `most_depth` under `[plugins.{}]`",
            causes::in_words(&chain, &event.name),
            subscription.plugin
        );
        return Ok(Some((5, "loop.too_deep", reason)));
    }
    Ok(None)
}

/// The event that says the same and still waits, untouched.
fn folded(
    connection: &Connection,
    duplicates: Duplicates,
    event: &Arrived,
    wanted: &[&Subscription],
) -> rusqlite::Result<Option<i64>> {
    if !duplicates.fold || wanted.is_empty() {
        return Ok(None);
    }
    let (kind, id) = event.entity.as_ref().map_or((None, None), |(kind, id)| (Some(kind), Some(id)));
    // Of a record only its last event counts: what lies between two equal ones must be seen before the second.
    let most = if event.entity.is_some() { 1 } else { MOST_WITHOUT_RECORD };
    let mut earlier = connection.prepare_cached(
        "SELECT name = ?5 AND actor IS ?6 AND fields = ?7 AND cause IS NULL, duplicate, coalesce(duplicate_of, seq)
           FROM event INDEXED BY event_entity
          WHERE account = ?1 AND entity_kind IS ?2 AND entity_id IS ?3 AND seq < ?4 ORDER BY seq DESC LIMIT ?8",
    )?;
    let parameters = params![event.account, kind, id, event.seq, event.name, event.actor, event.fields, most];
    let mut rows = earlier.query(parameters)?;
    while let Some(row) = rows.next()? {
        let same: bool = row.get(0)?;
        let duplicate: Option<String> = row.get(1)?;
        if !same || duplicate.as_deref() == Some("repeated") {
            continue;
        }
        let target: i64 = row.get(2)?;
        if waits(connection, target, wanted)? {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

/// Whether an event waits for everybody who wants it now, and nothing of it has started.
fn waits(connection: &Connection, event: i64, wanted: &[&Subscription]) -> rusqlite::Result<bool> {
    let mut deliveries = connection.prepare_cached(
        "SELECT p.name, d.attempts = 0 AND d.state IN (0, 1) FROM delivery d
           JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin WHERE d.event = ?1",
    )?;
    let made: Vec<(String, bool)> =
        deliveries.query_map([event], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let has = |wanted: &&Subscription| made.iter().any(|(plugin, _)| plugin == wanted.plugin.as_str());
    Ok(made.iter().all(|(_, untouched)| *untouched) && wanted.iter().all(has))
}
