//! The one writer: what waits is applied in one transaction and answered after its commit.
//!
//! - Where a transaction fails, nobody in it is told that it is stored. Each of its changes is then tried in a transaction of its
//!   own, so that one which meets a damaged page refuses none of its neighbours; on a disk that refuses them all, a few are.
//! - What is kept in memory of the store follows the transaction: taken over with its commit, thrown away without.
//! - The writer never waits for more work while something is uncommitted.
//! - New events are refused while the disk is nearly full; what is on it already is still worked on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::append::append;
use super::checkpoint::Checkpointer;
use super::claim::take;
use super::condition::Condition;
use super::lists::Lists;
use super::place::Place;
use super::retention::Sweep;
use super::settle::{begin, end_in_order, release, settle};
use super::space::{Pages, Space};
use super::statistics::Statistics;
use super::{
    Bell, Change, DeliveryId, Duplicates, Error, Queue, forget, letters, operate, scrub, timing, waiting, writes,
};
use crate::clock::Clock;
use crate::event::Appended;

/// How long changes are gathered before they are committed, however many wait: one plugin's many settlements must not
/// hold up another's.
const LONGEST_BATCH: Duration = Duration::from_millis(2);
/// How long another program's write is waited for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Changes of one batch that are tried alone and in vain, one after the other: a disk that hangs must not be asked for each.
const MOST_IN_VAIN: u32 = 8;
/// Events that one take routes at most, so that settling never waits long behind it.
pub(super) const MOST_ROUTED: i64 = 128;

pub(super) struct Writer {
    connection: Connection,
    clock: Clock,
    bell: Arc<Bell>,
    duplicates: Duplicates,
    most_state: u64,
    space: Space,
    place: Arc<Place>,
    pub(super) kept: Kept,
    checkpointer: Checkpointer,
    condition: Arc<Condition>,
}

/// What is kept in memory of the store.
pub(super) struct Kept {
    sweep: Sweep,
    lists: Lists,
    pub(super) statistics: Statistics,
    /// Whether nothing is given out yet (`restored`).
    pub(super) waits: Arc<AtomicBool>,
    /// Events that were kept aside before the start, to be tried once more.
    stuck: VecDeque<i64>,
    /// Queues of which nothing can be claimed, until when they are left out.
    resting: Vec<(Queue, Instant)>,
}

/// Who asked for a change, and what they are told once it is committed.
pub(super) struct Reply<T> {
    sender: oneshot::Sender<Result<T, Error>>,
    found: Option<T>,
}

impl<T> Reply<T> {
    pub(super) fn to(sender: oneshot::Sender<Result<T, Error>>) -> Self {
        Self { sender, found: None }
    }

    fn keep(&mut self, result: rusqlite::Result<T>) -> rusqlite::Result<()> {
        result.map(|found| self.found = Some(found))
    }

    fn tell(self, committed: Result<(), &Error>) {
        let answer = committed.map_err(Clone::clone).and_then(|()| self.found.ok_or(Error::Closed));
        // Whoever no longer waits does not need an answer.
        drop(self.sender.send(answer));
    }
}

fn pages(connection: &Connection) -> Pages {
    let ask = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u32>(0));
    let size = ask("page_size").unwrap_or(0);
    let bytes = |pages: &str| u64::from(ask(pages).unwrap_or(0)).saturating_mul(size.into());
    Pages { whole: bytes("page_count"), spare: bytes("freelist_count") }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        clock: Clock,
        (bell, waits): (Arc<Bell>, Arc<AtomicBool>),
        (duplicates, most_state): (Duplicates, u64),
        space: Space,
        (place, condition): (Arc<Place>, Arc<Condition>),
        checkpointer: Checkpointer,
    ) -> rusqlite::Result<Self> {
        let (lists, sweep) = (Lists::load(&connection)?, Sweep::new(space.room()));
        let kept = Kept {
            sweep,
            lists,
            statistics: Statistics::new(Arc::clone(&condition)),
            waits,
            stuck: stuck(&connection)?,
            resting: Vec::new(),
        };
        Ok(Self { connection, clock, bell, duplicates, most_state, space, place, kept, checkpointer, condition })
    }

    pub(super) fn run(mut self, mut changes: mpsc::Receiver<Change>, most: usize) {
        let mut next = changes.blocking_recv();
        while let Some(first) = next {
            let left = match first {
                Change::Scrub(from, mut reply) => {
                    let room = self.space.room();
                    let scrubbed = match self.place.refusal() {
                        Some(refusal) => Err(refusal),
                        None => scrub::some(&mut self.connection, &self.place, &room, from),
                    };
                    match scrubbed {
                        Ok(found) => {
                            reply.found = Some(found);
                            reply.tell(Ok(()));
                        }
                        Err(error) => reply.tell(Err(&error)),
                    }
                    None
                }
                first => self.commit(first, &mut changes, most),
            };
            if self.kept.statistics.is_due() && self.place.refusal().is_none() {
                self.kept.statistics.mend(&mut self.connection);
                // Whatever else is committed on this connection has to be known there.
                self.place.committed(true);
            }
            self.checkpointer.committed(&self.connection);
            next = left.or_else(|| changes.blocking_recv());
        }
        // Its connection would keep the last copying from its end.
        drop(self.checkpointer);
        self.place.close(&self.connection);
    }

    /// Applies what waits, for a bounded time, and commits it: whoever comes meanwhile waits for the next commit. Returns what
    /// can't be done within one.
    fn commit(&mut self, first: Change, changes: &mut mpsc::Receiver<Change>, most: usize) -> Option<Change> {
        let refusal = self.place.refusal();
        let low = self.space.is_low(|| pages(&self.connection));
        if let (Change::Take { subscriptions, .. }, true) = (&first, self.kept.has_stuck() && refusal.is_none()) {
            self.route_stuck(&Arc::clone(subscriptions));
        }
        let mut gathered: Vec<Change> = Vec::new();
        let (mut next, mut left) = (Some(first), None);
        let result = self.within(|connection, batch| {
            let began = Instant::now();
            while let Some(mut change) = next.take() {
                if matches!(change, Change::Scrub(..)) {
                    left = Some(change);
                    break;
                }
                if let Some(refusal) = refusal.as_ref().filter(|why| change.begins() || matches!(why, Error::Replaced))
                {
                    change.tell(Err(refusal));
                } else if low && change.arrives() {
                    change.tell(Err(&Error::Full));
                } else {
                    let applied = apply(connection, &mut change, batch);
                    gathered.push(change);
                    applied?;
                }
                let more = gathered.len() < most && began.elapsed() < LONGEST_BATCH;
                next = if more { changes.try_recv().ok() } else { None };
            }
            Ok(())
        });
        self.heed(gathered.iter().chain(&next).filter_map(Change::tells).max(), &result);
        match result {
            Ok(()) => self.acknowledge(gathered),
            // It did not even begin: whoever asked is told why, and not that the journal is closed.
            Err(failed) if let Some(change) = next => change.tell(Err(&failed.error)),
            // There is no more room for one than for all.
            Err(Failed { error: error @ Error::Full, .. }) => {
                gathered.into_iter().for_each(|change| change.tell(Err(&error)));
            }
            Err(failed) => self.each_alone(gathered, &failed.error),
        }
        left
    }

    /// Does something in one transaction, and brings what is kept in memory in line with what came of it.
    pub(super) fn within(
        &mut self,
        act: impl FnOnce(&Connection, &mut Batch<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), Failed> {
        let Self { connection, kept, duplicates, most_state, place, .. } = self;
        // One that could not even be taken back would be in the way of all that follow.
        if !connection.is_autocommit() {
            drop(connection.execute_batch("ROLLBACK"));
        }
        kept.begin();
        let now = self.clock.now();
        // The lock at once: between a look and a change the log must not begin anew.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let mut replaced = false;
        let result = transaction.and_then(|transaction| {
            if !place.is_ours(&transaction) {
                replaced = true;
                return Ok(());
            }
            let mut batch = Batch { now, duplicates: *duplicates, most_state: *most_state, kept: &mut *kept };
            act(&transaction, &mut batch)?;
            kept.statistics.store(&transaction)?;
            place.sealed(&transaction);
            transaction.commit()
        });
        place.committed(result.is_ok());
        if replaced {
            return Err(Failed { error: Error::Replaced, of_the_store: true });
        }
        result.map_err(|failed| {
            kept.forget();
            Failed { error: self.space.explain(&failed), of_the_store: is_of_the_store(&failed) }
        })
    }

    /// Has readiness follow what became of events that came (`true`), and of probes. Of another change that fails it is asked by a
    /// probe.
    fn heed(&self, event: Option<bool>, result: &Result<(), Failed>) {
        match (result, event) {
            (Ok(()), Some(event)) => self.condition.stored(event),
            (Err(failed), Some(_)) if failed.of_the_store => self.condition.refused(&failed.error),
            (Err(failed), None) if failed.of_the_store => self.condition.doubted(&failed.error),
            _ => {}
        }
    }

    /// Tells those whose changes are committed.
    fn acknowledge(&self, changes: Vec<Change>) {
        let news = changes.iter().any(|change| !matches!(change, Change::Take { .. } | Change::Sweep(..)));
        // Moved away between the look and the commit: its sender keeps it, and nobody finds this one, or both are one by key.
        let lost = if changes.iter().any(Change::arrives) { self.place.refusal() } else { None };
        for change in changes {
            let arrives = change.arrives();
            change.tell(lost.as_ref().filter(|_| arrives).map_or(Ok(()), Err));
        }
        if news {
            self.bell.ring();
        }
    }

    /// Tries each change of a batch that failed in a transaction of its own.
    fn each_alone(&mut self, changes: Vec<Change>, why: &Error) {
        let (mut in_vain, mut why) = (0, why.clone());
        for mut change in changes {
            if in_vain >= MOST_IN_VAIN {
                change.tell(Err(&why));
                continue;
            }
            let result = self.alone(&mut change);
            self.heed(change.tells(), &result);
            match result {
                Ok(()) => {
                    in_vain = 0;
                    self.acknowledge(vec![change]);
                }
                Err(failed) => {
                    in_vain += failed.says_of_the_next();
                    change.tell(Err(&failed.error));
                    why = failed.error;
                }
            }
        }
    }

    fn alone(&mut self, change: &mut Change) -> Result<(), Failed> {
        let result = self.within(|connection, batch| apply(connection, change, batch));
        match (result, change) {
            (Err(failed), Change::Take { subscriptions, budgets, reply }) if failed.concerns_one() => {
                let of_the_store = failed.of_the_store;
                let taken = self.take_in_parts(&Arc::clone(subscriptions), &*budgets, failed.error);
                reply.found = Some(taken.map_err(|error| Failed { error, of_the_store })?);
                Ok(())
            }
            (Err(failed), Change::Sweep(..)) if failed.concerns_one() => {
                self.kept.sweep.skip();
                Err(failed)
            }
            (result, _) => result,
        }
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }
}

/// Why something was not committed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// Whether it says something of the store, and not only of what was to be stored.
    of_the_store: bool,
}

impl Failed {
    /// Whether it concerns only what was asked: others may go well.
    pub(super) fn concerns_one(&self) -> bool {
        !self.of_the_store || matches!(self.error, Error::Damaged(_))
    }

    /// How many tries in vain it counts for, where others are tried after it: another program's lock takes a long wait of each.
    fn says_of_the_next(&self) -> u32 {
        match self.error {
            _ if self.concerns_one() => 0,
            Error::Locked | Error::Full | Error::Closed | Error::Replaced => MOST_IN_VAIN,
            _ => 1,
        }
    }
}

/// Whether an error says something of the store, and not only of what was to be stored.
fn is_of_the_store(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    !matches!(error.sqlite_error_code(), None | Some(ConstraintViolation | TooBig | TypeMismatch))
}

/// Events that could not be routed.
fn stuck(connection: &Connection) -> rusqlite::Result<VecDeque<i64>> {
    connection.prepare("SELECT event FROM stuck ORDER BY event")?.query_map([], |row| row.get(0))?.collect()
}

impl Kept {
    pub(super) fn has_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    pub(super) fn next_stuck(&mut self) -> Option<i64> {
        self.stuck.pop_front()
    }

    pub(super) fn rest(&mut self, queue: Queue, until: Instant) {
        self.resting.retain(|(known, _)| *known != queue);
        self.resting.push((queue, until));
    }

    pub(super) fn rests(&self, queue: &Queue) -> bool {
        self.resting.iter().any(|(known, until)| known == queue && *until > Instant::now())
    }

    fn begin(&mut self) {
        self.lists.begin();
        self.sweep.begin();
        self.statistics.begin();
    }

    fn forget(&mut self) {
        self.lists.forget();
        self.sweep.forget();
    }
}

impl Change {
    /// Whether somebody outside forgets it once it is acknowledged.
    fn arrives(&self) -> bool {
        matches!(self, Self::Append(..) | Self::Polled { .. })
    }

    /// Whether readiness follows what becomes of it, as an event does or a probe.
    fn tells(&self) -> Option<bool> {
        self.arrives().then_some(true).or(matches!(self, Self::Probe(..)).then_some(false))
    }

    /// Whether it begins something, which must not be done where nobody would find its record.
    fn begins(&self) -> bool {
        self.arrives()
            || matches!(
                self,
                Self::Take { .. } | Self::Intend(..) | Self::Begin(..) | Self::Operate(..) | Self::Forget(..)
            )
    }

    /// Answers whoever asked for it.
    fn tell(self, committed: Result<(), &Error>) {
        match self {
            Self::Append(_, _, reply) => reply.tell(committed),
            Self::Intend(_, reply) => reply.tell(committed),
            Self::KnowUser { reply, .. } | Self::Written(_, reply) => reply.tell(committed),
            Self::Polled { reply, .. } => reply.tell(committed),
            Self::Take { reply, .. } => reply.tell(committed),
            Self::Settle(_, reply) => reply.tell(committed),
            Self::Begin(_, reply) | Self::Release(_, _, reply) | Self::EndInOrder(reply) => reply.tell(committed),
            Self::Resolve { reply, .. } => reply.tell(committed),
            Self::DropWaiting { reply, .. } => reply.tell(committed),
            Self::Sweep(_, reply) => reply.tell(committed),
            Self::Retime(_, _, reply) => reply.tell(committed),
            Self::Operate(_, reply) => reply.tell(committed),
            Self::Forget(_, reply) => reply.tell(committed),
            Self::Scrub(_, reply) => reply.tell(committed),
            Self::Probe(reply) | Self::Mend(_, reply) => reply.tell(committed),
        }
    }
}

/// What the changes of one commit share.
pub(super) struct Batch<'a> {
    pub(super) now: i64,
    pub(super) duplicates: Duplicates,
    pub(super) most_state: u64,
    pub(super) kept: &'a mut Kept,
}

/// Applies one change; it can be applied again after the transaction has failed.
fn apply(connection: &Connection, change: &mut Change, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
    let now = batch.now;
    let Kept { lists, sweep, statistics, .. } = &mut *batch.kept;
    match change {
        Change::Append(event, key, reply) => {
            let appended = append(connection, event, key.as_deref(), lists);
            if matches!(appended, Ok(Appended::New(_))) {
                statistics.minutes.came(event.received_at);
            }
            reply.keep(appended)
        }
        Change::Intend(intent, reply) => reply.keep(writes::intend(connection, intent, now)),
        Change::Written(written, reply) => reply.keep(writes::written(connection, &written.0, &written.1, now)),
        Change::KnowUser { account, user, reply } => reply.keep(know_user(connection, account, *user)),
        Change::Polled { account, list, findings, reply } => {
            let events = findings.iter().flat_map(|finding| &finding.events);
            events.for_each(|event| statistics.minutes.came(event.received_at));
            reply.keep(lists.found(connection, account, list, findings))
        }
        Change::Take { subscriptions, budgets, reply } => {
            let some: Vec<_> = budgets.iter().filter(|(queue, _)| !batch.kept.rests(queue)).cloned().collect();
            reply.keep(take(connection, Some((subscriptions, MOST_ROUTED)), &some, batch))
        }
        Change::Settle(settlement, reply) => reply.keep(settle(connection, settlement, batch)),
        Change::Begin(DeliveryId(seq), reply) => reply.keep(begin(connection, *seq)),
        Change::EndInOrder(reply) => reply.keep(end_in_order(connection)),
        Change::Release(DeliveryId(seq), until, reply) => reply.keep(release(connection, *seq, *until)),
        Change::Resolve { letters, resolution, reply } => {
            reply.keep(letters::resolve(connection, letters, *resolution, now, &mut statistics.tally))
        }
        Change::DropWaiting { plugin, below, reply } => {
            reply.keep(waiting::drop_step(connection, plugin, *below, now, &mut statistics.tally))
        }
        Change::Sweep(retention, reply) => reply.keep(sweep.step(connection, retention, now)),
        Change::Retime(late, longest, reply) => reply.keep(timing::retime(connection, late, *longest, now)),
        Change::Forget(work, reply) => reply.keep(forget::apply(connection, work, now, &mut statistics.tally)),
        // Not within a transaction: `run` does it.
        Change::Scrub(_, reply) => reply.keep(Ok(scrub::Scrubbed::InTheWay)),
        Change::Operate(operation, reply) => {
            reply.keep(operate::apply(connection, operation, now, &mut statistics.tally))
        }
        Change::Probe(reply) => reply.keep(probe(connection)),
        Change::Mend(table, reply) => {
            statistics.doubt(*table);
            reply.keep(Ok(()))
        }
    }
}

/// The smallest change that has to reach the disk.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO cursor VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET seq = seq + 1", [])?;
    Ok(())
}

fn know_user(connection: &Connection, account: &str, user: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO account VALUES (?1, ?2)")?.execute(params![account, user])?;
    Ok(())
}
