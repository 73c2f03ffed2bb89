//! The only owner of the store: what arrived, what is to be done with it, what was done, and what plugins remember.
//!
//! ```text
//! event     seq ─ id, account, name, received_at, via, actor, entity, fields, duplicate (of)
//! cursor    "routed" ─ the last event whose deliveries exist
//! queue     number ─ plugin, account
//! delivery  seq ─ event, queue, lane, state, at, attempts, failures, interruptions, began, crashes, reason, code
//!             0 ready ──claim──▶ 2 running ──settle──▶ 3 done │ 4 skipped │ 5 dead ──operator──▶ 0 ready │ 6 dropped
//!             1 behind ─(the delivery before it in its lane is over)─▶ 0 ready
//! attempt   (delivery, number) ─ times, outcome, reason, code, usage, log
//! host_call (delivery, attempt, ordinal) ─ what was called, what came back
//! state     (plugin, account, key) ─ value, version
//! state_use (plugin, account) ─ keys and bytes of state; counted as they change
//! tally     (queue, code) ─ deliveries that are open (no code) or dead; counted as they change
//! minute    (minute, queue) ─ what came, what ended and how
//! audit     what operators did
//! stuck     events that could not be given to plugins, kept aside
//! hold      the plugins that an operator paused
//! restored  when the store came out of a copy, and whether it was let go on
//! forgotten what was forgotten for whom, by count: the proof, and what is still to be done
//! ```
//!
//! - **An event is acknowledged after it is on disk.** Every change goes through one writer thread, which commits what
//!   waits in one transaction (`synchronous=FULL`) and answers afterwards.
//! - **A queue** is one plugin's deliveries of one account: what is held back, paced and counted together.
//! - **A lane** is a queue's events of one entity. Of a lane at most one delivery is ready or running, the oldest; the
//!   others are behind it. So order holds across retries and restarts without any lock.
//! - **Claiming is an index look-up**, whatever waits. Nothing about waiting deliveries is kept in memory.
//! - **A delivery that was running when the process died** is ready again at the next start, its attempt shown as
//!   interrupted and not counted as a failure. One that was interrupted again and again is under suspicion: `begin`
//!   says on disk that it runs, so that the next end of the process counts against it alone.
//! - **What the CRM sends twice** is recognised while routing (`route`), kept, and not delivered.
//! - **State takes effect with the outcome**, in the same transaction, or not at all.
//! - The format has a version (`user_version`); a newer one than this program knows is refused, an older one migrated.
//!
//! Not here: which plugin wants what and when to try again (`dispatcher`), WebAssembly, HTTP. No SQLite type leaves
//! this room, so that another store can take its place.

mod additions;
mod append;
mod backup;
mod causes;
mod check;
mod checkpoint;
mod claim;
mod compact;
mod condition;
mod damage;
mod effects;
mod error;
mod forget;
mod layout;
mod letters;
mod lists;
mod marker;
mod minutes;
mod operate;
mod page;
mod piecemeal;
mod place;
mod read;
mod restore;
mod restored;
mod retention;
mod route;
mod scrub;
mod search;
mod settle;
mod space;
mod state;
mod statistics;
mod subscription;
mod timing;
mod vouch;
mod waiting;
mod write;
mod writes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::Clock;
use crate::event::{Appended, Event, EventId};
use crate::outcome::{Effects, Next, Outcome};
use crate::plugin::PluginName;
pub use backup::{BackupError, Copied, Kept, Kind, Part, Wanted as BackupWanted, back_up, verified};
pub use causes::Cause;
pub use check::{Checked, Fault, check};
pub use compact::{NotCompacted, Plan, compact};
pub use condition::{Alarm, News, Trouble, watch_over};
pub use damage::Damage;
pub use effects::Expected;
pub use error::Error;
pub use forget::{Forget, Forgettable, Forgetting, Proof, Record, keep_forgetting, without};
pub use layout::Migration;
pub use letters::{Counted, Group, Letter, LetterFilter, Resolution};
pub use lists::Finding;
pub use marker::{Accepting, Lying, Strange, examine};
pub use minutes::{Minute, QueueMinutes};
pub use operate::{Audited, Held, Operated};
pub use place::Whereabouts;
pub use read::{
    AttemptView, Backlog, Caused, DeliveryPath, DeliveryState, DeliveryView, Duplicate, EventPath, EventSummary,
    StateView,
};
pub use restore::{ASIDE, Restoring};
pub use restored::{Doubted, OpenOf, RESTORED, Restored};
pub use retention::{Retention, Swept, keep};
pub use search::{EventFilter, FailedAttempt, Found, Veil, Wanted};
pub use space::Disk;
pub use state::{StateOf, StateUse};
pub use subscription::{Subscription, Subscriptions};
pub use vouch::Word;
use write::Reply;
pub use writes::{Intended, Intent, Write, WriteView, Written};

/// Changes that are committed together at most.
const MOST_TOGETHER: usize = 512;
/// Changes that may wait for the writer; more senders wait for a place.
const MOST_WAITING: usize = 2_048;

/// Where the store is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder; made when it is not there.
    pub data_dir: PathBuf,
    /// What is done about events that come twice.
    pub duplicates: Duplicates,
    /// Bytes that must be free on the disk; with less, new events are refused. 0: the disk is not looked at.
    pub least_free: u64,
    /// Bytes that the state of all plugins may have, all together.
    pub most_state: u64,
    /// Hears how far the store of an older version has been brought.
    pub told: fn(&Migration),
}

impl Options {
    /// A store in this folder, with everything else as it is by default; the disk's room is not looked at.
    pub fn in_folder(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            duplicates: Duplicates { fold: true, repeated_add: true },
            least_free: 0,
            most_state: u64::MAX,
            told: |_| (),
        }
    }
}

/// What is done about events that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicates {
    /// An event that says the same as one of its record that still waits is folded into it.
    pub fold: bool,
    /// A second `*.add` of a record within a day is not delivered.
    pub repeated_add: bool,
}

/// A delivery's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub i64);

/// One plugin's deliveries of one account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Queue {
    /// Whose.
    pub plugin: PluginName,
    /// Of which CRM.
    pub account: String,
}

/// A delivery that is now running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Which.
    pub delivery: DeliveryId,
    /// For whom.
    pub queue: Queue,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Attempts before that count towards giving up.
    pub failures: u32,
    /// How often the process ended while it was claimed.
    pub interruptions: u32,
    /// How often the process ended while it was the only one under suspicion that ran.
    pub crashes: u32,
    /// What it is about; without its fields where those are [`unread`](Self::unread).
    pub event: Event,
    /// Bytes of its fields that were left in the store ([`Handle::whole`]); 0: the event is whole.
    pub unread: u64,
}

/// What [`Handle::take`] brought.
#[derive(Debug, Default)]
pub struct Taken {
    /// Deliveries to run.
    pub claimed: Vec<Claimed>,
    /// Whether events still wait to be routed.
    pub unrouted: bool,
    /// When the next delivery that was not claimed falls due, for the queues that were asked for.
    pub next_due: Option<i64>,
    /// Queues that got their first delivery.
    pub opened: Vec<Queue>,
    /// Why not all of it could be done; what is claimed is claimed.
    pub refused: Option<Error>,
}

/// The end of an attempt.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Which attempt.
    pub attempt: u32,
    /// The version of the plugin that ran, for people.
    pub version: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// Milliseconds since 1970-01-01 UTC.
    pub ended_at: i64,
    /// What it came to.
    pub outcome: Outcome,
    /// What it leaves behind.
    pub effects: Effects,
    /// What is next.
    pub next: Next,
}

/// What settling came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// As asked.
    Applied,
    /// The plugin's state changed under the attempt: nothing of it took effect, and it is ready to run again.
    Conflict,
    /// The plugin (`all`: all plugins together) would keep more state than it may: nothing took effect, and the attempt
    /// has yet to be settled otherwise.
    StateFull {
        /// Whether it is the bound on all plugins together.
        all: bool,
    },
}

enum Change {
    Append(Box<Event>, Option<String>, Reply<Appended>),
    Intend(Box<Intent>, Reply<Intended>),
    Written(Box<(Write, Written)>, Reply<()>),
    KnowUser {
        account: String,
        user: i64,
        reply: Reply<()>,
    },
    Polled {
        account: String,
        list: String,
        findings: Vec<Finding>,
        reply: Reply<usize>,
    },
    Take {
        subscriptions: Arc<Subscriptions>,
        budgets: Vec<(Queue, usize)>,
        reply: Reply<Taken>,
    },
    Settle(Arc<Settlement>, Reply<Settled>),
    Begin(DeliveryId, Reply<()>),
    EndInOrder(Reply<()>),
    /// With the earliest time of the next attempt.
    Release(DeliveryId, i64, Reply<()>),
    Resolve {
        letters: Vec<DeliveryId>,
        resolution: Resolution,
        reply: Reply<usize>,
    },
    DropWaiting {
        plugin: PluginName,
        below: i64,
        reply: Reply<(usize, i64)>,
    },
    Sweep(Retention, Reply<Swept>),
    Operate(Box<operate::Operation>, Reply<Operated>),
    Forget(Box<forget::Work>, Reply<forget::Walked>),
    Scrub(u32, Reply<scrub::Scrubbed>),
    /// Deliveries, and the longest wait.
    Retime(Vec<i64>, i64, Reply<usize>),
    /// Shows whether anything can be stored.
    Probe(Reply<()>),
    /// Has a table of statistics made anew.
    Mend(statistics::Table, Reply<()>),
}

/// Rung after every commit that brought something.
#[derive(Default)]
struct Bell {
    work: Notify,
    rung: AtomicU64,
}

impl Bell {
    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        self.work.notify_one();
    }
}

/// The journal's writer.
pub struct Journal {
    handle: Handle,
    thread: JoinHandle<()>,
    /// Holds the lock on the data folder for as long as the journal is open.
    lock: File,
}

impl Journal {
    /// Opens or makes the store, brings it up to this program's format, and makes interrupted deliveries ready again.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::InUse`], [`Error::Newer`], [`Error::Strange`], [`Error::Store`].
    pub fn open(options: &Options, clock: Clock) -> Result<Self, Error> {
        let layout::Opened { lock, connection, marker } = layout::open(options, &clock)?;
        let place = Arc::new(place::Place::of(&options.data_dir, &connection, marker)?);
        read::newest_id(&connection)?.into_iter().for_each(EventId::begin_after);
        let condition = Arc::new(condition::Condition::default());
        let readers =
            read::Readers::new(layout::file(&options.data_dir), Arc::clone(place.store()), Arc::clone(&condition));
        let readers = Arc::new(readers);
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let bell = Arc::new(Bell::default());
        let waits = Arc::new(AtomicBool::new(restored::waits(&connection)?));
        let room = Arc::new(space::Room::new(options.data_dir.clone(), options.least_free));
        let checkpointer = checkpoint::Checkpointer::start(
            &layout::file(&options.data_dir),
            &connection,
            Arc::clone(&room),
            Arc::clone(&place),
        )?;
        let writer = write::Writer::new(
            connection,
            clock,
            (Arc::clone(&bell), Arc::clone(&waits)),
            (options.duplicates, options.most_state),
            space::Space::new(Arc::clone(&room)),
            (Arc::clone(&place), Arc::clone(&condition)),
            checkpointer,
        )?;
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(receiver, MOST_TOGETHER))
            .map_err(|error| Error::of_file(&options.data_dir, &error))?;
        let forgetting = Arc::default();
        let handle = Handle { sender, readers, bell, room, place, condition, waits, forgetting };
        Ok(Self { handle, thread, lock })
    }

    /// A door to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until everything that was handed in is on disk and all other handles are gone, then closes the store.
    pub fn close(self) {
        drop(self.handle);
        // A writer that panicked has lost nothing that was acknowledged; there is nobody left to tell.
        drop(self.thread.join());
        drop(self.lock);
    }
}

/// A door to the journal. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    sender: mpsc::Sender<Change>,
    readers: Arc<read::Readers>,
    bell: Arc<Bell>,
    room: Arc<space::Room>,
    place: Arc<place::Place>,
    condition: Arc<condition::Condition>,
    waits: Arc<AtomicBool>,
    forgetting: Arc<forget::Orders>,
}

impl Handle {
    /// Stores an event; returns when it is on disk.
    ///
    /// # Errors
    /// [`Error::Store`] when it is not stored: nothing of it is left. [`Error::Closed`].
    pub async fn append(&self, event: Event) -> Result<(), Error> {
        self.append_once(event, None).await.map(drop)
    }

    /// Stores an event, unless one of this account came with the same key before; tells which one is stored.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn append_once(&self, event: Event, key: Option<String>) -> Result<Appended, Error> {
        self.ask(|reply| Change::Append(Box::new(event), key, reply)).await
    }

    /// Records that a write is about to be sent, and tells what is known of it.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: the write must not be sent.
    pub async fn intend(&self, intent: Intent) -> Result<Intended, Error> {
        self.ask(|reply| Change::Intend(Box::new(intent), reply)).await
    }

    /// Records what became of a write.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: it counts as uncertain.
    pub async fn written(&self, write: Write, written: Written) -> Result<(), Error> {
        self.ask(|reply| Change::Written(Box::new((write, written)), reply)).await
    }

    /// How many of the last 10,000 events the host's own user caused by none of the host's writes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn same_login(&self, account: &str) -> Result<u32, Error> {
        self.readers.same_login(account)
    }

    /// What is known of a write; nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn known_write(&self, write: &Write) -> Result<Option<Intended>, Error> {
        self.readers.known_write(write)
    }

    /// Records that a delivery added, as the CRM's own events tell, and that are no known answer of it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn added_by(&self, delivery: DeliveryId, kind: &str) -> Result<Vec<String>, Error> {
        self.readers.added_by(delivery, kind)
    }

    /// The highest number of a record that the host added itself before a time.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn added_before(&self, account: &str, kind: &str, time: i64) -> Result<Option<u64>, Error> {
        self.readers.added_before(account, kind, time)
    }

    /// Records that the host is known to have added itself since a time.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn added_since(&self, account: &str, kind: &str, time: i64) -> Result<BTreeSet<u64>, Error> {
        self.readers.added_since(account, kind, time)
    }

    /// Remembers the number of the host's own user of a CRM.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: the one that was known before stays.
    pub async fn know_user(&self, account: &str, user: u64) -> Result<(), Error> {
        let (account, user) = (account.to_owned(), i64::try_from(user).unwrap_or(i64::MAX));
        self.ask(|reply| Change::KnowUser { account, user, reply }).await
    }

    /// Remembers what records of a list say, together with the events that this makes; returns how many those are.
    /// A finding of which more is known by now than when the list was read is left out, with its events.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing is remembered, and no event stored.
    pub async fn polled(&self, account: &str, list: &str, findings: Vec<Finding>) -> Result<usize, Error> {
        let (account, list) = (account.to_owned(), list.to_owned());
        self.ask(|reply| Change::Polled { account, list, findings, reply }).await
    }

    /// What the records of a list say, as far as it was told; of the list as a whole under an empty number.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn polled_before(&self, account: &str, list: &str) -> Result<BTreeMap<String, String>, Error> {
        self.readers.polled_before(account, list)
    }

    /// Makes deliveries of events that have none yet, then claims up to each budget of those that are due.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing is claimed.
    pub async fn take(&self, subscriptions: Arc<Subscriptions>, budgets: Vec<(Queue, usize)>) -> Result<Taken, Error> {
        self.ask(|reply| Change::Take { subscriptions, budgets, reply }).await
    }

    /// Stores the end of an attempt.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: the delivery still counts as running.
    pub async fn settle(&self, settlement: impl Into<Arc<Settlement>>) -> Result<Settled, Error> {
        let settlement = settlement.into();
        self.ask(|reply| Change::Settle(settlement, reply)).await
    }

    /// Says on disk that a delivery is about to run, so that the end of the process counts against it.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing is said.
    pub async fn begin(&self, delivery: DeliveryId) -> Result<(), Error> {
        self.ask(|reply| Change::Begin(delivery, reply)).await
    }

    /// Says on disk that the process is about to end in order: what still runs is not held responsible.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: it counts as interrupted.
    pub async fn end_in_order(&self) -> Result<(), Error> {
        self.ask(Change::EndInOrder).await
    }

    /// Gives back a delivery that was claimed and never began: it is ready again, as if it had not been claimed.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: it counts as interrupted at the next start.
    pub async fn release(&self, delivery: DeliveryId) -> Result<(), Error> {
        self.put_off(delivery, 0).await
    }

    /// One step of forgetting what is over.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing is removed.
    pub async fn sweep(&self, retention: Retention) -> Result<Swept, Error> {
        self.ask(|reply| Change::Sweep(retention, reply)).await
    }

    /// Every queue that ever had a delivery.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn queues(&self) -> Result<Vec<Queue>, Error> {
        self.readers.queues()
    }

    /// Whether the writer is gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns when the writer is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Returns when there may be something new to take.
    pub async fn work(&self) {
        self.bell.work.notified().await;
    }

    /// Another number after every commit that brought something: whoever shows what is stored looks again then.
    pub fn changes(&self) -> u64 {
        self.bell.rung.load(Ordering::Relaxed)
    }

    /// A plugin's state, as it is stored now.
    pub fn state(&self, plugin: &PluginName, account: &str) -> StateView {
        StateView::new(Arc::clone(&self.readers), plugin.clone(), account.to_owned())
    }

    /// An event with everything that became of it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn path_of(&self, event: EventId) -> Result<Option<EventPath>, Error> {
        self.readers.path_of(event)
    }

    /// A delivery with its event.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delivery(&self, delivery: DeliveryId) -> Result<Option<DeliveryPath>, Error> {
        self.readers.delivery(delivery)
    }

    async fn ask<T>(&self, change: impl FnOnce(Reply<T>) -> Change) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(change(Reply::to(reply))).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}
