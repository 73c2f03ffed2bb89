//! The one writer: what waits is applied in one transaction and answered after its commit.
//!
//! - A change that fails takes the whole transaction with it: nobody in it is told that it is stored.
//! - The writer never waits for more work while something is uncommitted.
//! - New events are refused while the disk is nearly full; what is on it already is still worked on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::mpsc;

use super::checkpoint::Checkpointer;
use super::layout::{plugin_number, queue_number};
use super::lists::Lists;
use super::minutes::{Minutes, Tally};
use super::place::Place;
use super::read::{EVENT_COLUMNS, event_from_row};
use super::retention::Sweep;
use super::space::Space;
use super::state::{self, WrittenState};
use super::{
    Bell, Change, Claimed, DeliveryId, Duplicates, Error, Queue, Settled, Settlement, Subscriptions, Taken, forget,
    letters, operate, route, scrub, waiting, writes,
};
use crate::clock::Clock;
use crate::event::{Appended, Event, EventId};
use crate::outcome::{Next, Outcome};

/// How long changes are gathered before they are committed, however many wait: one plugin's many settlements must not
/// hold up another's.
const LONGEST_BATCH: Duration = Duration::from_millis(2);
/// How long another program's write is waited for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    connection: Connection,
    clock: Clock,
    bell: Arc<Bell>,
    duplicates: Duplicates,
    most_state: u64,
    space: Space,
    place: Arc<Place>,
    sweep: Sweep,
    minutes: Minutes,
    tally: Tally,
    lists: Lists,
    checkpointer: Checkpointer,
}

/// Bytes of the store that hold nothing any more.
fn spare(connection: &Connection) -> u64 {
    let ask = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let bytes = ask("freelist_count").unwrap_or(0).saturating_mul(ask("page_size").unwrap_or(0));
    u64::try_from(bytes).unwrap_or(0)
}

/// Sends one answer; called after the commit, or with the reason why there was none.
type Answer = Box<dyn FnOnce(Result<(), &Error>)>;

impl Writer {
    pub(super) fn new(
        connection: Connection,
        clock: Clock,
        bell: Arc<Bell>,
        (duplicates, most_state): (Duplicates, u64),
        space: Space,
        place: Arc<Place>,
        checkpointer: Checkpointer,
    ) -> rusqlite::Result<Self> {
        let lists = Lists::load(&connection)?;
        let (sweep, minutes, tally) = (Sweep::new(space.room()), Minutes::default(), Tally::default());
        Ok(Self {
            connection,
            clock,
            bell,
            duplicates,
            most_state,
            space,
            place,
            sweep,
            minutes,
            tally,
            lists,
            checkpointer,
        })
    }

    pub(super) fn run(mut self, mut changes: mpsc::Receiver<Change>, most: usize) {
        let mut next = changes.blocking_recv();
        while let Some(first) = next {
            let left = match first {
                Change::Scrub(from, reply) => {
                    // Whoever no longer waits does not need an answer.
                    let room = self.space.room();
                    let mut scrubbed = || scrub::some(&mut self.connection, self.place.store(), &room, from);
                    drop(reply.send(if self.place.holds() { scrubbed() } else { Err(Error::Misplaced) }));
                    None
                }
                first => self.commit(first, &mut changes, most),
            };
            self.checkpointer.committed(&self.connection);
            next = left.or_else(|| changes.blocking_recv());
        }
        // Its connection would keep the last copying from its end.
        drop(self.checkpointer);
        // Leaves one whole file behind, for whoever copies it.
        drop(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    }

    /// Applies what waits, for a bounded time, and commits it: whoever comes meanwhile waits for the next commit. Returns what
    /// can't be done within one.
    fn commit(&mut self, first: Change, changes: &mut mpsc::Receiver<Change>, most: usize) -> Option<Change> {
        let mut answers: Vec<(Answer, bool)> = Vec::new();
        let mut news = false;
        self.minutes.clear();
        self.tally.clear();
        let refusal = if self.place.holds() { None } else { Some(Error::Misplaced) };
        // The lock at once: between a look and a change the log must not begin anew.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let (mut first, mut left) = (Some(first), None);
        let result = transaction.and_then(|transaction| {
            let low = self.space.is_low(|| spare(&transaction));
            let (began, now) = (Instant::now(), self.clock.now());
            let mut next = first.take();
            while let Some(change) = next {
                if matches!(change, Change::Scrub(..)) {
                    left = Some(change);
                    break;
                }
                let (arrives, begins) = (change.arrives(), change.begins());
                if let Some(refusal) = refusal.as_ref().filter(|_| begins) {
                    change.refuse(refusal);
                } else if arrives && low {
                    change.refuse(&Error::Full);
                } else {
                    news |= !matches!(change, Change::Take { .. } | Change::Sweep(..));
                    let mut batch = Batch {
                        now,
                        duplicates: self.duplicates,
                        most_state: self.most_state,
                        sweep: &mut self.sweep,
                        minutes: &mut self.minutes,
                        tally: &mut self.tally,
                        lists: &mut self.lists,
                    };
                    answers.push((apply(&transaction, change, &mut batch)?, arrives));
                }
                let more = answers.len() < most && began.elapsed() < LONGEST_BATCH;
                next = if more { changes.try_recv().ok() } else { None };
            }
            self.minutes.store(&transaction)?;
            self.tally.store(&transaction)?;
            transaction.commit()
        });
        let result = result.map_err(|error| self.space.explain(&error));
        // It did not even begin: whoever asked is told why, and not that the journal is closed.
        if let (Some(change), Err(error)) = (first, &result) {
            change.refuse(error);
        }
        // What was not committed was not learnt; where even that can't be read, what is known stays.
        if result.is_err()
            && let Ok(lists) = Lists::load(&self.connection)
        {
            self.lists = lists;
        }
        // Moved away between the look and the commit: its sender keeps it, and nobody finds this one, or both are one by key.
        let lost = answers.iter().any(|(_, arrives)| *arrives) && !self.place.holds();
        // The change that failed has been answered; those before it are told here.
        for (answer, arrives) in answers {
            answer(if lost && arrives { Err(&Error::Misplaced) } else { result.as_ref().copied() });
        }
        if news {
            self.bell.ring();
        }
        left
    }
}

impl Change {
    /// Whether somebody outside forgets it once it is acknowledged.
    fn arrives(&self) -> bool {
        matches!(self, Self::Append(..) | Self::Polled { .. })
    }

    /// Whether it begins something, which must not be done where nobody would find its record.
    fn begins(&self) -> bool {
        self.arrives()
            || matches!(
                self,
                Self::Take { .. } | Self::Intend(..) | Self::Begin(..) | Self::Operate(..) | Self::Forget(..)
            )
    }

    fn refuse(self, error: &Error) {
        let error = || error.clone();
        // Whoever no longer waits does not need an answer.
        match self {
            Self::Append(_, _, reply) => drop(reply.send(Err(error()))),
            Self::Intend(_, reply) => drop(reply.send(Err(error()))),
            Self::KnowUser { reply, .. } | Self::Written(_, reply) => drop(reply.send(Err(error()))),
            Self::Polled { reply, .. } => drop(reply.send(Err(error()))),
            Self::Take { reply, .. } => drop(reply.send(Err(error()))),
            Self::Settle(_, reply) => drop(reply.send(Err(error()))),
            Self::Begin(_, reply) | Self::Release(_, reply) | Self::EndInOrder(reply) => {
                drop(reply.send(Err(error())));
            }
            Self::Resolve { reply, .. } => drop(reply.send(Err(error()))),
            Self::DropWaiting { reply, .. } => drop(reply.send(Err(error()))),
            Self::Sweep(_, reply) => drop(reply.send(Err(error()))),
            Self::Operate(_, reply) => drop(reply.send(Err(error()))),
            Self::Forget(_, reply) => drop(reply.send(Err(error()))),
            Self::Scrub(_, reply) => drop(reply.send(Err(error()))),
        }
    }
}

/// What the changes of one commit share.
struct Batch<'a> {
    now: i64,
    duplicates: Duplicates,
    most_state: u64,
    sweep: &'a mut Sweep,
    minutes: &'a mut Minutes,
    tally: &'a mut Tally,
    lists: &'a mut Lists,
}

/// Applies one change; where it fails, its sender is among those who are told.
fn apply(connection: &Connection, change: Change, batch: &mut Batch<'_>) -> rusqlite::Result<Answer> {
    let now = batch.now;
    match change {
        Change::Append(event, key, reply) => {
            let appended = append(connection, &event, key.as_deref(), batch.lists);
            if matches!(appended, Ok(Appended::New(_))) {
                batch.minutes.came(event.received_at);
            }
            answer_of(appended, reply)
        }
        Change::Intend(intent, reply) => answer_of(writes::intend(connection, &intent, now), reply),
        Change::Written(written, reply) => answer_of(writes::written(connection, &written.0, &written.1, now), reply),
        Change::KnowUser { account, user, reply } => answer_of(know_user(connection, &account, user), reply),
        Change::Polled { account, list, findings, reply } => {
            let events = findings.iter().flat_map(|finding| &finding.events);
            events.for_each(|event| batch.minutes.came(event.received_at));
            answer_of(batch.lists.found(connection, &account, &list, &findings), reply)
        }
        Change::Take { subscriptions, budgets, reply } => {
            answer_of(take(connection, &subscriptions, &budgets, batch), reply)
        }
        Change::Settle(settlement, reply) => answer_of(settle(connection, &settlement, batch), reply),
        Change::Begin(DeliveryId(seq), reply) => answer_of(begin(connection, seq), reply),
        Change::EndInOrder(reply) => answer_of(end_in_order(connection), reply),
        Change::Release(DeliveryId(seq), reply) => answer_of(release(connection, seq), reply),
        Change::Resolve { letters, resolution, reply } => {
            answer_of(letters::resolve(connection, &letters, resolution, now, batch.tally), reply)
        }
        Change::DropWaiting { plugin, below, reply } => {
            answer_of(waiting::drop_step(connection, &plugin, below, now, batch.tally), reply)
        }
        Change::Sweep(retention, reply) => answer_of(batch.sweep.step(connection, &retention, now), reply),
        Change::Forget(work, reply) => answer_of(forget::apply(connection, &work, now, batch.tally), reply),
        // Not within a transaction: `run` does it.
        Change::Scrub(_, reply) => answer_of(Ok(scrub::Scrubbed::InTheWay), reply),
        Change::Operate(operation, reply) => answer_of(operate::apply(connection, &operation, now, batch.tally), reply),
    }
}

fn answer_of<T: 'static>(
    result: rusqlite::Result<T>,
    reply: tokio::sync::oneshot::Sender<Result<T, Error>>,
) -> rusqlite::Result<Answer> {
    match result {
        Ok(value) => Ok(Box::new(move |committed| {
            drop(reply.send(committed.map(|()| value).map_err(Clone::clone)));
        })),
        Err(error) => {
            drop(reply.send(Err(Error::from(&error))));
            Err(error)
        }
    }
}

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

fn know_user(connection: &Connection, account: &str, user: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO account VALUES (?1, ?2)")?.execute(params![account, user])?;
    Ok(())
}

fn take(
    connection: &Connection,
    subscriptions: &Subscriptions,
    budgets: &[(Queue, usize)],
    batch: &mut Batch<'_>,
) -> rusqlite::Result<Taken> {
    let (mut taken, now) = (Taken::default(), batch.now);
    taken.unrouted = route::route(connection, subscriptions, batch.duplicates, now, &mut taken.opened, batch.tally)?;
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

fn settle(connection: &Connection, settlement: &Settlement, batch: &mut Batch<'_>) -> rusqlite::Result<Settled> {
    let (DeliveryId(seq), now) = (settlement.delivery, batch.now);
    let running = connection
        .prepare_cached(
            "SELECT d.queue, d.lane, q.plugin, q.account, iif(d.replay, d.at, e.received_at)
               FROM delivery d JOIN queue q ON q.number = d.queue JOIN event e ON e.seq = d.event
              WHERE d.seq = ?1 AND d.state = 2 AND d.attempts = ?2",
        )?
        .query_row(params![seq, settlement.attempt], |row| {
            let lane: (i64, Option<String>, i64) = (row.get(0)?, row.get(1)?, row.get(4)?);
            Ok((lane, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
        })
        .optional()?;
    // Settled before: one terminal outcome per delivery, the first.
    let Some(((queue, lane, since), plugin, account)) = running else { return Ok(Settled::Applied) };

    let good = matches!(settlement.outcome, Outcome::Done | Outcome::Skipped { .. });
    if good && !settlement.effects.state.writes.is_empty() {
        if state::moved(connection, plugin, &account, &settlement.effects)? {
            record(connection, settlement, "conflict", "another delivery changed the plugin's state meanwhile")?;
            again(connection, seq, now, false, "the plugin's state changed meanwhile")?;
            return Ok(Settled::Conflict);
        }
        match state::write(connection, (plugin, &account), settlement, batch.most_state)? {
            WrittenState::Applied => {}
            WrittenState::Full => return Ok(Settled::StateFull { all: false }),
            WrittenState::AllFull => return Ok(Settled::StateFull { all: true }),
        }
    }
    let reason = settlement.outcome.reason();
    batch.minutes.ended(queue, settlement, since);
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
    let code = settlement.outcome.letter_code(&settlement.effects);
    connection
        .prepare_cached(
            "UPDATE delivery SET state = ?2, at = ?3, began = 0, reason = nullif(?4, ''), code = ?5 WHERE seq = ?1",
        )?
        .execute(params![seq, over, settlement.ended_at, reason, code])?;
    batch.tally.open(queue, -1);
    batch.tally.state(over, queue, Some(code), 1);
    if let Some(lane) = lane {
        promote(connection, queue, &lane)?;
    }
    Ok(Settled::Applied)
}

/// Makes the oldest of those that wait in a lane ready.
pub(super) fn promote(connection: &Connection, queue: i64, lane: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0 WHERE seq = (
                 SELECT min(seq) FROM delivery INDEXED BY delivery_lane
                  WHERE queue = ?1 AND lane = ?2 AND state IN (0, 1, 2)) AND state = 1",
        )?
        .execute(params![queue, lane])?;
    Ok(())
}

/// Says on disk that a delivery under suspicion is about to run.
fn begin(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE delivery SET began = 1 WHERE seq = ?1 AND state = 2")?.execute([seq])?;
    Ok(())
}

/// Says on disk that what runs is cut off by an ordered end, so that the next start counts nothing against it.
fn end_in_order(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE delivery INDEXED BY delivery_running SET began = -1 WHERE state = 2", [])?;
    Ok(())
}

fn release(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0, began = 0, attempts = attempts - 1 WHERE seq = ?1 AND state = 2",
        )?
        .execute([seq])?;
    Ok(())
}

fn again(connection: &Connection, seq: i64, at: i64, counts: bool, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0, began = 0, at = ?2, failures = failures + ?3, reason = ?4 WHERE seq = ?1",
        )?
        .execute(params![seq, at, counts, reason])?;
    Ok(())
}

fn record(connection: &Connection, settlement: &Settlement, outcome: &str, reason: &str) -> rusqlite::Result<()> {
    let DeliveryId(seq) = settlement.delivery;
    let effects = &settlement.effects;
    let code = settlement.outcome.code();
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
