//! Makes the deliveries of what has arrived, one per plugin that wants it; recognises what the CRM sends twice.
//!
//! - An event is **folded** into the one before it when both say the same and nothing of that one has started. The one
//!   before it means: of the same record, with nothing of that record in between, so that order never changes.
//! - A **repeated** `*.add` of a record within a day is recorded and not delivered: the express form sends two (measured).
//! - Both cost index look-ups of a bounded number of rows.

use rusqlite::{Connection, OptionalExtension, params};

use super::layout::{plugin_number, queue_number};
use super::{Duplicates, Queue, Subscription, Subscriptions};

/// Events that one take routes at most, so that settling never waits long behind it.
const MOST_ROUTED: i64 = 512;
/// Earlier events without a record that are compared with a new one.
const MOST_WITHOUT_RECORD: i64 = 16;
/// Earlier events of a record among which its first `*.add` is looked for.
const MOST_OF_RECORD: i64 = 256;
/// Milliseconds within which a second `*.add` is a repetition.
const A_DAY: i64 = 24 * 3_600_000;

/// What routing looks at.
struct Arrived {
    seq: i64,
    account: String,
    name: String,
    received_at: i64,
    actor: Option<i64>,
    entity: Option<(String, String)>,
    fields: String,
}

/// Makes the deliveries of the next events; tells whether more wait. Queues that are new are added to `opened`.
pub(super) fn route(
    connection: &Connection,
    subscriptions: &Subscriptions,
    duplicates: Duplicates,
    now: i64,
    opened: &mut Vec<Queue>,
) -> rusqlite::Result<bool> {
    let cursor: i64 =
        connection.prepare_cached("SELECT seq FROM cursor WHERE name = 'routed'")?.query_row([], |row| row.get(0))?;
    let mut events = connection.prepare_cached(
        "SELECT seq, account, name, received_at, actor, entity_kind, entity_id, fields FROM event
          WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = events.query(params![cursor, MOST_ROUTED])?;
    let (mut last, mut count) = (cursor, 0);
    while let Some(row) = rows.next()? {
        let event = Arrived {
            seq: row.get(0)?,
            account: row.get(1)?,
            name: row.get(2)?,
            received_at: row.get(3)?,
            actor: row.get(4)?,
            entity: row.get::<_, Option<String>>(5)?.zip(row.get(6)?),
            fields: row.get(7)?,
        };
        (last, count) = (event.seq, count + 1);
        let wanted: Vec<&Subscription> = subscriptions
            .0
            .iter()
            .filter(|subscription| subscription.events.iter().any(|pattern| pattern.matches(&event.name)))
            .collect();
        let duplicate = match folded(connection, duplicates, &event, wanted.len())? {
            Some(of) => Some(("folded", of)),
            None => repeated(connection, duplicates, &event)?.map(|of| ("repeated", of)),
        };
        if let Some((word, of)) = duplicate {
            connection
                .prepare_cached("UPDATE event SET duplicate = ?2, duplicate_of = ?3 WHERE seq = ?1")?
                .execute(params![event.seq, word, of])?;
            continue;
        }
        for subscription in wanted {
            deliver(connection, subscription, &event, now, opened)?;
        }
    }
    if count > 0 {
        connection.prepare_cached("UPDATE cursor SET seq = ?1 WHERE name = 'routed'")?.execute([last])?;
    }
    Ok(count == MOST_ROUTED)
}

fn deliver(
    connection: &Connection,
    subscription: &Subscription,
    event: &Arrived,
    now: i64,
    opened: &mut Vec<Queue>,
) -> rusqlite::Result<()> {
    let lane = event.entity.as_ref().filter(|_| subscription.ordered).map(|(kind, id)| format!("{kind}:{id}"));
    let plugin = plugin_number(connection, subscription.plugin.as_str())?;
    let (queue, new) = queue_number(connection, plugin, &event.account)?;
    if new {
        opened.push(Queue { plugin: subscription.plugin.clone(), account: event.account.clone() });
    }
    connection
        .prepare_cached(
            "INSERT INTO delivery (event, queue, lane, state, at)
             VALUES (?1, ?2, ?3, EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                          WHERE queue = ?2 AND lane = ?3 AND state IN (0, 1, 2)), ?4)",
        )?
        .execute(params![event.seq, queue, lane, now])?;
    Ok(())
}

/// The event that says the same and still waits, untouched.
fn folded(
    connection: &Connection,
    duplicates: Duplicates,
    event: &Arrived,
    wanted: usize,
) -> rusqlite::Result<Option<i64>> {
    if !duplicates.fold || wanted == 0 {
        return Ok(None);
    }
    let (kind, id) = event.entity.as_ref().map_or((None, None), |(kind, id)| (Some(kind), Some(id)));
    // Of a record only its last event counts: what lies between two equal ones must be seen before the second.
    let most = if event.entity.is_some() { 1 } else { MOST_WITHOUT_RECORD };
    let mut earlier = connection.prepare_cached(
        "SELECT name = ?5 AND actor IS ?6 AND fields = ?7, duplicate, coalesce(duplicate_of, seq)
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
        let waits = connection
            .prepare_cached(
                "SELECT count(*) = ?2 AND total(attempts) = 0 AND min(state IN (0, 1)) FROM delivery WHERE event = ?1",
            )?
            .query_row(params![target, i64::try_from(wanted).unwrap_or(i64::MAX)], |row| {
                row.get::<_, Option<bool>>(0)
            })?;
        if waits == Some(true) {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

/// The `*.add` of the same record that came within the last day.
fn repeated(connection: &Connection, duplicates: Duplicates, event: &Arrived) -> rusqlite::Result<Option<i64>> {
    let Some((kind, id)) = event.entity.as_ref().filter(|_| duplicates.repeated_add && event.name.ends_with(".add"))
    else {
        return Ok(None);
    };
    connection
        .prepare_cached(
            "SELECT seq FROM (SELECT seq, name, received_at, duplicate FROM event INDEXED BY event_entity
                               WHERE account = ?1 AND entity_kind = ?2 AND entity_id = ?3 AND seq < ?4
                               ORDER BY seq DESC LIMIT ?7)
              WHERE name = ?5 AND received_at > ?6 AND duplicate IS NULL LIMIT 1",
        )?
        .query_row(
            params![event.account, kind, id, event.seq, event.name, event.received_at - A_DAY, MOST_OF_RECORD],
            |row| row.get(0),
        )
        .optional()
}
