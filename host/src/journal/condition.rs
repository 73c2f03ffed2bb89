//! How the store is: what the last commits did, what is damaged, and whether it goes well again.
//!
//! - The writer says after each commit whether it could store; readiness and alerts hear of it. While it could not, a small
//!   change is tried again and again, so that nobody has to send an event to learn that the disk is back. While all is well,
//!   nothing is written for it. What is damaged stays so until the next start, unless an event shows otherwise.
//! - Where something is damaged, it is looked for what: on a connection of its own, for a bounded time.
//! - An alarm ends a while after the last failure: a store of which a part is damaged fails now and then.
//!
//! Not here: telling people (`alerts`, `telemetry`), making statistics anew (`statistics`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use super::damage::{self, Damage};
use super::statistics::Table;
use super::{Change, Error, Handle};

/// The first pause before it is tried whether the store stores again.
const FIRST: Duration = Duration::from_millis(250);
/// The longest of these pauses.
const LONGEST: Duration = Duration::from_secs(5);
/// How long all must have gone well until the alarm is over.
const SETTLED: Duration = Duration::from_secs(60);
/// How long it is looked for what is damaged.
const LOOK: Duration = Duration::from_secs(20);
/// How long afterwards it is not looked again.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// What waits to be told at most.
const MOST_NEWS: usize = 16;

/// Why nothing can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The disk is full.
    Full,
    /// The disk refuses.
    Disk,
    /// Something in the store's file is damaged.
    Damaged,
    /// Another program holds the file.
    Locked,
    /// The store refuses for another reason.
    Refused,
}

impl Trouble {
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Full => Some(Self::Full),
            Error::Disk(_) => Some(Self::Disk),
            Error::Damaged(_) => Some(Self::Damaged),
            Error::Locked => Some(Self::Locked),
            Error::Store(_) => Some(Self::Refused),
            _ => None,
        }
    }

    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Disk => "disk",
            Self::Damaged => "damaged",
            Self::Locked => "locked",
            Self::Refused => "refused",
        }
    }

    /// A sentence that names nothing of the machine.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Full => "nothing can be stored: the disk with the data folder is full",
            Self::Disk => "nothing can be stored: the disk with the data folder refuses to write or read",
            Self::Damaged => "not all can be stored: the journal is damaged (`salesman-host journal check`)",
            Self::Locked => "nothing can be stored: another program holds the journal's file",
            Self::Refused => "not all can be stored: the journal refuses",
        }
    }
}

/// What is wrong with the store, for as long as somebody should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Why nothing could be stored, a while ago at most.
    pub trouble: Option<Trouble>,
    /// What is damaged, and does not mend by itself.
    pub damaged: Vec<Damage>,
}

impl Alarm {
    /// Whether all is well.
    pub fn is_over(&self) -> bool {
        self.trouble.is_none() && self.damaged.is_empty()
    }
}

/// Something that should be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nothing could be stored.
    Failing(Trouble),
    /// All has gone well for a while.
    Works,
    /// It was found what is damaged.
    Damaged(Damage),
    /// An event (its number) can't be given to plugins, and is kept aside.
    Stuck(i64),
    /// A table of statistics could not be written; events are stored without it. Its name, and why.
    StatisticsFailed(&'static str, String),
    /// It is there again.
    StatisticsMended(&'static str),
}

/// What is known of the store's condition.
pub(super) struct Condition {
    failing: AtomicBool,
    trouble: watch::Sender<Option<Trouble>>,
    alarm: watch::Sender<Alarm>,
    suspected: AtomicBool,
    /// Whether something failed that says nothing of events that come, and it has to be tried whether those are stored.
    doubt: AtomicBool,
    news: Mutex<Vec<News>>,
    heard: Notify,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            failing: AtomicBool::new(false),
            trouble: watch::Sender::new(None),
            alarm: watch::Sender::new(Alarm::default()),
            suspected: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            news: Mutex::default(),
            heard: Notify::new(),
        }
    }
}

impl Condition {
    /// Something was stored: an event, or no more than a probe, which meets no page that events need.
    pub(super) fn stored(&self, event: bool) {
        if !self.failing.load(Ordering::Relaxed) || !event && *self.trouble.borrow() == Some(Trouble::Damaged) {
            return;
        }
        self.failing.store(false, Ordering::Relaxed);
        self.trouble.send_replace(None);
    }

    /// Something could not be stored.
    pub(super) fn refused(&self, error: &Error) {
        self.seen(error);
        if let Some(trouble) = Trouble::of(error) {
            self.failing.store(true, Ordering::Relaxed);
            self.trouble.send_if_modified(|known| known.replace(trouble) != Some(trouble));
        }
    }

    /// Something else than an event could not be stored: whether one could is tried.
    pub(super) fn doubted(&self, error: &Error) {
        self.seen(error);
        if Trouble::of(error).is_some() && !self.doubt.swap(true, Ordering::Relaxed) {
            self.heard.notify_one();
        }
    }

    /// Somebody met this: it may be damage.
    pub(super) fn seen(&self, error: &Error) {
        if matches!(error, Error::Damaged(_)) && !self.suspected.swap(true, Ordering::Relaxed) {
            self.heard.notify_one();
        }
    }

    /// Something should be told.
    pub(super) fn say(&self, news: News) {
        let mut waiting = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST_NEWS {
            waiting.push(news);
            self.heard.notify_one();
        }
    }

    fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Handle {
    /// Why the last commit that had something to store could not; none where it could.
    pub fn trouble(&self) -> Option<Trouble> {
        *self.condition.trouble.borrow()
    }

    /// The same, now and from now on.
    pub fn condition(&self) -> watch::Receiver<Option<Trouble>> {
        self.condition.trouble.subscribe()
    }

    /// What is wrong with the store, now and from now on.
    pub fn alarm(&self) -> watch::Receiver<Alarm> {
        self.condition.alarm.subscribe()
    }
}

/// Looks after the store for as long as it is open; `told` hears what changes.
pub async fn watch_over(journal: Handle, told: impl Fn(&News)) {
    let condition = Arc::clone(&journal.condition);
    let mut trouble = condition.trouble.subscribe();
    let (mut pause, mut well_since, mut looked) = (FIRST, None::<Instant>, None::<Instant>);
    let mut tried = None::<Instant>;
    loop {
        condition.take_news().iter().for_each(&told);
        let now = *trouble.borrow_and_update();
        let rested = looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
        if rested && condition.suspected.swap(false, Ordering::Relaxed) {
            looked = Some(Instant::now());
            look(&journal, &told).await;
        }
        if now.is_none()
            && tried.is_none_or(|at| at.elapsed() >= LONGEST)
            && condition.doubt.swap(false, Ordering::Relaxed)
        {
            tried = Some(Instant::now());
            drop(journal.ask(Change::Probe).await);
            continue;
        }
        let alarmed = condition.alarm.borrow().trouble;
        if let Some(now) = now {
            well_since = None;
            if alarmed.is_none() {
                condition.alarm.send_modify(|alarm| alarm.trouble = Some(now));
                told(&News::Failing(now));
            }
            if now == Trouble::Damaged {
                // Only an event that is stored shows that events are stored.
                tokio::select! {
                    _ = trouble.changed() => {}
                    () = condition.heard.notified() => {}
                    () = journal.closed() => return,
                }
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST);
            if matches!(journal.ask(Change::Probe).await, Err(Error::Closed)) {
                return;
            }
            continue;
        }
        pause = FIRST;
        let left = alarmed.map(|_| SETTLED.saturating_sub(well_since.get_or_insert_with(Instant::now).elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            well_since = None;
            condition.alarm.send_modify(|alarm| alarm.trouble = None);
            told(&News::Works);
            continue;
        }
        tokio::select! {
            _ = trouble.changed() => {}
            () = condition.heard.notified() => {}
            () = tokio::time::sleep(left.unwrap_or(LOOK_AGAIN)) => {}
            // What is doubted is tried when its time has come.
            () = tokio::time::sleep(LONGEST), if condition.doubt.load(Ordering::Relaxed) => {}
            () = journal.closed() => return,
        }
    }
}

/// Finds out what is damaged; statistics among it are made anew.
async fn look(journal: &Handle, told: &impl Fn(&News)) {
    let (sender, answer) = oneshot::channel();
    let (readers, bound) = (Arc::clone(&journal.readers), journal.room.bound(LOOK));
    // A thread that nobody waits for when the host ends.
    let looking = std::thread::Builder::new().name("damage".to_owned()).spawn(move || {
        let found = readers.another().map(|connection| damage::look(&connection, &bound).damaged);
        sender.send(found.unwrap_or_default()).unwrap_or_default();
    });
    drop(looking);
    let mut damaged = answer.await.unwrap_or_default();
    for table in damaged.iter().filter_map(|damage| Table::of(&damage.table)) {
        drop(journal.ask(|reply| Change::Mend(table, reply)).await);
    }
    damaged.iter().for_each(|damage| told(&News::Damaged(damage.clone())));
    damaged.retain(|damage| Table::of(&damage.table).is_none());
    let damaged = &damaged;
    journal.condition.alarm.send_if_modified(|alarm| {
        let changed = alarm.damaged != *damaged;
        alarm.damaged.clone_from(damaged);
        changed
    });
}
