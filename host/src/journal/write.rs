//! The one writer: what waits is applied in one transaction and answered after its commit.
//!
//! - A change that fails takes the whole transaction with it: nobody in it is told that it is stored.
//! - The writer never waits for more work while something is uncommitted.
//! - New events are refused while the disk is nearly full; what is on it already is still worked on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::mpsc;

use super::append::append;
use super::checkpoint::Checkpointer;
use super::claim::take;
use super::lists::Lists;
use super::minutes::{Minutes, Tally};
use super::place::Place;
use super::retention::Sweep;
use super::settle::{begin, end_in_order, release, settle};
use super::space::Space;
use super::{Bell, Change, DeliveryId, Duplicates, Error, forget, letters, operate, scrub, waiting, writes};
use crate::clock::Clock;
use crate::event::Appended;

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
pub(super) struct Batch<'a> {
    pub(super) now: i64,
    pub(super) duplicates: Duplicates,
    pub(super) most_state: u64,
    sweep: &'a mut Sweep,
    pub(super) minutes: &'a mut Minutes,
    pub(super) tally: &'a mut Tally,
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

fn know_user(connection: &Connection, account: &str, user: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO account VALUES (?1, ?2)")?.execute(params![account, user])?;
    Ok(())
}
