//! The one writer: what waits is applied in one transaction and answered after its commit.
//!
//! - A change that fails takes the whole transaction with it: nobody in it is told that it is stored.
//! - The writer never waits for more work while something is uncommitted.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{Notify, mpsc};

use super::layout::plugin_number;
use super::read::{EVENT_COLUMNS, event_from_row};
use super::{Change, Claimed, DeliveryId, Error, Settled, Settlement, Subscriptions, Taken};
use crate::clock::Clock;
use crate::event::Event;
use crate::outcome::{Effects, Next, Outcome, StateWrite};
use crate::plugin::PluginName;

/// Events that one take routes at most, so that settling never waits long behind it.
const MOST_ROUTED: i64 = 512;

pub(super) struct Writer {
    connection: Connection,
    clock: Clock,
    work: Arc<Notify>,
}

/// Sends one answer; called after the commit, or with the reason why there was none.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>)>;

impl Writer {
    pub(super) fn new(connection: Connection, clock: Clock, work: Arc<Notify>) -> Self {
        Self { connection, clock, work }
    }

    pub(super) fn run(mut self, mut changes: mpsc::Receiver<Change>, most: usize) {
        while let Some(first) = changes.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < most
                && let Ok(change) = changes.try_recv()
            {
                batch.push(change);
            }
            self.commit(batch);
        }
        // Leaves one whole file behind, for whoever copies it.
        drop(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    }

    fn commit(&mut self, batch: Vec<Change>) {
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut changes = batch.into_iter();
        let mut news = false;
        let result = self.connection.transaction().and_then(|transaction| {
            let now = self.clock.now();
            for change in changes.by_ref() {
                news |= matches!(change, Change::Append(..) | Change::Settle(..));
                answers.push(apply(&transaction, change, now)?);
            }
            transaction.commit()
        });
        // The change that failed has been answered; those before it are told here, those behind it below.
        for answer in answers {
            answer(result.as_ref().copied());
        }
        if let Err(error) = &result {
            for change in changes {
                change.refuse(error);
            }
        }
        if news {
            self.work.notify_one();
        }
    }
}

impl Change {
    fn refuse(self, error: &rusqlite::Error) {
        let error = || Error::Store(error.to_string());
        // Whoever no longer waits does not need an answer.
        match self {
            Self::Append(_, reply) => drop(reply.send(Err(error()))),
            Self::Take { reply, .. } => drop(reply.send(Err(error()))),
            Self::Settle(_, reply) => drop(reply.send(Err(error()))),
            Self::Release(_, reply) => drop(reply.send(Err(error()))),
        }
    }
}

/// Applies one change; on failure its sender is told at once.
fn apply(connection: &Connection, change: Change, now: i64) -> rusqlite::Result<Answer> {
    match change {
        Change::Append(event, reply) => answer_of(append(connection, &event), reply),
        Change::Take { subscriptions, budgets, reply } => {
            answer_of(take(connection, &subscriptions, &budgets, now), reply)
        }
        Change::Settle(settlement, reply) => answer_of(settle(connection, &settlement, now), reply),
        Change::Release(DeliveryId(seq), reply) => answer_of(release(connection, seq), reply),
    }
}

fn answer_of<T: 'static>(
    result: rusqlite::Result<T>,
    reply: tokio::sync::oneshot::Sender<Result<T, Error>>,
) -> rusqlite::Result<Answer> {
    match result {
        Ok(value) => Ok(Box::new(move |committed| {
            drop(reply.send(committed.map(|()| value).map_err(|error| Error::Store(error.to_string()))));
        })),
        Err(error) => {
            drop(reply.send(Err(Error::Store(error.to_string()))));
            Err(error)
        }
    }
}

fn append(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO event (id, account, name, received_at, via, actor, entity_kind, entity_id, fields)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            event.id.as_bytes(),
            event.account,
            event.name,
            event.received_at,
            event.via.as_str(),
            event.actor.and_then(|actor| i64::try_from(actor).ok()),
            event.entity.as_ref().map(|entity| &entity.kind),
            event.entity.as_ref().map(|entity| &entity.id),
            event.fields,
        ])?;
    Ok(())
}

fn take(
    connection: &Connection,
    subscriptions: &Subscriptions,
    budgets: &[(PluginName, usize)],
    now: i64,
) -> rusqlite::Result<Taken> {
    let mut taken = Taken { unrouted: route(connection, subscriptions, now)?, ..Taken::default() };
    for (plugin, budget) in budgets {
        let number = plugin_number(connection, plugin.as_str())?;
        let before = taken.claimed.len();
        claim(connection, plugin, number, *budget, now, &mut taken.claimed)?;
        if taken.claimed.len() - before < *budget {
            let due = connection
                .prepare_cached(
                    "SELECT min(at) FROM delivery INDEXED BY delivery_ready WHERE plugin = ?1 AND state = 0",
                )?
                .query_row([number], |row| row.get::<_, Option<i64>>(0))?;
            taken.next_due = [taken.next_due, due].into_iter().flatten().min();
        }
    }
    Ok(taken)
}

/// Makes the deliveries of the next events; tells whether more wait.
fn route(connection: &Connection, subscriptions: &Subscriptions, now: i64) -> rusqlite::Result<bool> {
    let cursor: i64 =
        connection.prepare_cached("SELECT seq FROM cursor WHERE name = 'routed'")?.query_row([], |row| row.get(0))?;
    let mut events = connection.prepare_cached(
        "SELECT seq, account, name, entity_kind, entity_id FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = events.query(params![cursor, MOST_ROUTED])?;
    let (mut last, mut count) = (cursor, 0);
    while let Some(row) = rows.next()? {
        let (seq, account, name): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let entity: Option<(String, String)> = row.get::<_, Option<String>>(3)?.zip(row.get(4)?);
        for subscription in &subscriptions.0 {
            if !subscription.events.iter().any(|pattern| pattern.matches(&name)) {
                continue;
            }
            let lane =
                entity.as_ref().filter(|_| subscription.ordered).map(|(kind, id)| format!("{account}/{kind}:{id}"));
            let plugin = plugin_number(connection, subscription.plugin.as_str())?;
            connection
                .prepare_cached(
                    "INSERT INTO delivery (event, plugin, lane, state, at)
                     VALUES (?1, ?2, ?3, EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                                  WHERE plugin = ?2 AND lane = ?3 AND state IN (0, 1, 2)), ?4)",
                )?
                .execute(params![seq, plugin, lane, now])?;
        }
        (last, count) = (seq, count + 1);
    }
    if count > 0 {
        connection.prepare_cached("UPDATE cursor SET seq = ?1 WHERE name = 'routed'")?.execute([last])?;
    }
    Ok(count == MOST_ROUTED)
}

fn claim(
    connection: &Connection,
    plugin: &PluginName,
    number: i64,
    budget: usize,
    now: i64,
    claimed: &mut Vec<Claimed>,
) -> rusqlite::Result<()> {
    let due: Vec<(i64, i64, u32, u32)> = connection
        .prepare_cached(
            "SELECT seq, event, attempts, failures FROM delivery INDEXED BY delivery_ready
              WHERE plugin = ?1 AND state = 0 AND at <= ?2 ORDER BY at, seq LIMIT ?3",
        )?
        .query_map(params![number, now, i64::try_from(budget).unwrap_or(i64::MAX)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, event, attempts, failures) in due {
        connection
            .prepare_cached("UPDATE delivery SET state = 2, attempts = ?2, at = ?3 WHERE seq = ?1")?
            .execute(params![seq, attempts + 1, now])?;
        let event = connection
            .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE seq = ?1"))?
            .query_row([event], event_from_row)?;
        let (delivery, plugin) = (DeliveryId(seq), plugin.clone());
        claimed.push(Claimed { delivery, plugin, attempt: attempts + 1, failures, event });
    }
    Ok(())
}

fn settle(connection: &Connection, settlement: &Settlement, now: i64) -> rusqlite::Result<Settled> {
    let DeliveryId(seq) = settlement.delivery;
    let running = connection
        .prepare_cached(
            "SELECT d.plugin, d.lane, e.account FROM delivery d JOIN event e ON e.seq = d.event
              WHERE d.seq = ?1 AND d.state = 2 AND d.attempts = ?2",
        )?
        .query_row(params![seq, settlement.attempt], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    // Settled before: one terminal outcome per delivery, the first.
    let Some((plugin, lane, account)) = running else { return Ok(Settled::Applied) };

    let good = matches!(settlement.outcome, Outcome::Done | Outcome::Skipped { .. });
    if good && !settlement.effects.state.writes.is_empty() {
        if state_moved(connection, plugin, &account, &settlement.effects)? {
            record(connection, settlement, "conflict", "another delivery changed the plugin's state meanwhile")?;
            again(connection, seq, now, false, "the plugin's state changed meanwhile")?;
            return Ok(Settled::Conflict);
        }
        write_state(connection, plugin, &account, settlement)?;
    }
    let reason = settlement.outcome.reason();
    record(connection, settlement, settlement.outcome.as_str(), &reason)?;
    let over = match settlement.next {
        Next::Again { at, counts } => {
            again(connection, seq, at, counts, &reason)?;
            return Ok(Settled::Applied);
        }
        Next::Done => 3,
        Next::Skipped => 4,
        Next::Dead => 5,
    };
    connection
        .prepare_cached("UPDATE delivery SET state = ?2, at = ?3, reason = nullif(?4, '') WHERE seq = ?1")?
        .execute(params![seq, over, settlement.ended_at, reason])?;
    if let Some(lane) = lane {
        connection
            .prepare_cached(
                "UPDATE delivery SET state = 0 WHERE seq = (
                     SELECT min(seq) FROM delivery INDEXED BY delivery_lane
                      WHERE plugin = ?1 AND lane = ?2 AND state IN (0, 1, 2)) AND state = 1",
            )?
            .execute(params![plugin, lane])?;
    }
    Ok(Settled::Applied)
}

fn release(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE delivery SET state = 0, attempts = attempts - 1 WHERE seq = ?1 AND state = 2")?
        .execute([seq])?;
    Ok(())
}

fn again(connection: &Connection, seq: i64, at: i64, counts: bool, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE delivery SET state = 0, at = ?2, failures = failures + ?3, reason = ?4 WHERE seq = ?1")?
        .execute(params![seq, at, counts, reason])?;
    Ok(())
}

fn state_moved(connection: &Connection, plugin: i64, account: &str, effects: &Effects) -> rusqlite::Result<bool> {
    let mut version =
        connection.prepare_cached("SELECT version FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?;
    for (key, seen) in &effects.state.seen {
        let stored: Option<i64> = version.query_row(params![plugin, account, key], |row| row.get(0)).optional()?;
        if stored != seen.map(|seen| i64::try_from(seen).unwrap_or(i64::MAX)) {
            return Ok(true);
        }
    }
    // A number that another delivery has replaced by something else can't be added to.
    for (key, write) in &effects.state.writes {
        if let StateWrite::Add(amount) = write
            && grown(connection, plugin, account, key, *amount)?.is_none()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number at `key` with `amount` added; `None` where there is no number, or none that can grow so far.
fn grown(connection: &Connection, plugin: i64, account: &str, key: &str, amount: i64) -> rusqlite::Result<Option<i64>> {
    let stored: Option<String> = connection
        .prepare_cached("SELECT value FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
        .query_row(params![plugin, account, key], |row| row.get(0))
        .optional()?;
    Ok(stored.map_or(Some(0), |text| text.parse::<i64>().ok()).and_then(|number| number.checked_add(amount)))
}

fn write_state(connection: &Connection, plugin: i64, account: &str, settlement: &Settlement) -> rusqlite::Result<()> {
    // No two settlements share a delivery and an attempt, so a version never comes back.
    let DeliveryId(seq) = settlement.delivery;
    let version = (seq << 16) | i64::from(settlement.attempt & 0xffff);
    for (key, write) in &settlement.effects.state.writes {
        match write {
            StateWrite::Set(value) => connection
                .prepare_cached("INSERT OR REPLACE INTO state VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![plugin, account, key, value, version])?,
            StateWrite::Add(amount) => {
                let sum = grown(connection, plugin, account, key, *amount)?.unwrap_or_default();
                connection
                    .prepare_cached("INSERT OR REPLACE INTO state VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![plugin, account, key, sum.to_string(), version])?
            }
            StateWrite::Delete => connection
                .prepare_cached("DELETE FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
                .execute(params![plugin, account, key])?,
        };
    }
    Ok(())
}

fn record(connection: &Connection, settlement: &Settlement, outcome: &str, reason: &str) -> rusqlite::Result<()> {
    let DeliveryId(seq) = settlement.delivery;
    let effects = &settlement.effects;
    let code = match &settlement.outcome {
        Outcome::Failed(fault) => Some(fault.kind.code()),
        _ => None,
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    // Lines are plain text and numbers: they always print.
    let lines = serde_json::to_string(&effects.lines).unwrap_or_else(|_| "[]".to_owned());
    connection
        .prepare_cached("INSERT INTO attempt VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")?
        .execute(params![
        seq,
        settlement.attempt,
        settlement.version,
        settlement.started_at,
        settlement.ended_at,
        outcome,
        reason,
        code,
        number(effects.usage.cpu),
        number(effects.usage.wall),
        number(effects.usage.memory),
        lines,
        number(effects.lines_dropped),
    ])?;
    for (ordinal, call) in (1_i64..).zip(&effects.calls) {
        connection.prepare_cached("INSERT INTO host_call VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
            params![
                seq,
                settlement.attempt,
                ordinal,
                number(call.at),
                number(call.took),
                call.call,
                call.request,
                call.answer,
                call.good,
            ],
        )?;
    }
    Ok(())
}
