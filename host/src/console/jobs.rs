//! Large changes at a chosen pace: how far each has come, and its end.
//!
//! - What is meant is collected first, so a job has a total, and what dies again meanwhile is not taken twice.
//! - Jobs are in memory: one that a restart cuts off has done what it says, and the rest is as it was.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

use crate::journal;

/// Jobs that are remembered.
const MOST_REMEMBERED: usize = 50;
/// Jobs that go on at once.
const MOST_AT_ONCE: usize = 4;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum JobState {
    /// It goes on.
    Running,
    /// It has done everything.
    Done,
    /// An operator stopped it.
    Stopped,
    /// The journal refused: the host's log says why.
    Failed,
}

/// A large change under way.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Job {
    /// Its number.
    pub(super) id: u64,
    /// What is done: `dead.retry`, `dead.drop`, `event.replay`.
    pub(super) action: String,
    /// To what.
    pub(super) object: String,
    /// Who asked for it.
    pub(super) who: String,
    /// When: milliseconds since 1970-01-01 UTC.
    pub(super) began_at: i64,
    /// Things a second; null: as fast as the journal takes them.
    pub(super) pace: Option<f64>,
    /// How many things there are, once they are counted.
    pub(super) total: Option<usize>,
    /// How many have been gone through.
    pub(super) done: usize,
    /// How many of these were changed; the others were so already.
    pub(super) changed: usize,
    /// Where it stands.
    pub(super) state: JobState,
}

#[derive(Clone, Default)]
pub(super) struct Jobs {
    list: Arc<Mutex<VecDeque<Arc<Entry>>>>,
}

struct Entry {
    job: Mutex<Job>,
    stop: AtomicBool,
}

impl Entry {
    fn change(&self, change: impl FnOnce(&mut Job)) {
        change(&mut self.job.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a job is to do.
pub(super) struct Order {
    pub(super) action: &'static str,
    pub(super) object: String,
    pub(super) who: String,
    pub(super) began_at: i64,
    pub(super) pace: Option<f64>,
}

impl Jobs {
    fn entries(&self) -> Vec<Arc<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The newest first.
    pub(super) fn all(&self) -> Vec<Job> {
        let read = |entry: &Arc<Entry>| entry.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.entries().iter().rev().map(read).collect()
    }

    /// Takes a record's name out of what was asked for.
    pub(super) fn forget(&self, record: &str) {
        for entry in self.entries() {
            entry.change(|job| job.object = journal::without(&job.object, record));
        }
    }

    /// Stops a job; tells whether it was going on.
    pub(super) fn stop(&self, id: u64) -> bool {
        self.entries().iter().any(|entry| {
            let job = entry.job.lock().unwrap_or_else(PoisonError::into_inner);
            let meant = job.id == id && job.state == JobState::Running;
            if meant {
                entry.stop.store(true, Ordering::Relaxed);
            }
            meant
        })
    }

    /// Starts a job: `collect` finds what is meant, `one` changes one of it and tells whether it did. `None` where too
    /// many go on already.
    pub(super) fn start<T, C, O, F>(&self, order: Order, collect: C, one: O) -> Option<Job>
    where
        T: Send + 'static,
        C: FnOnce() -> Result<Vec<T>, journal::Error> + Send + 'static,
        O: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = Result<usize, journal::Error>> + Send + 'static,
    {
        let (entry, first) = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            let running = |entry: &&Arc<Entry>| {
                entry.job.lock().unwrap_or_else(PoisonError::into_inner).state == JobState::Running
            };
            if list.iter().filter(running).count() >= MOST_AT_ONCE {
                return None;
            }
            let last = list.back().map_or(0, |entry| entry.job.lock().unwrap_or_else(PoisonError::into_inner).id);
            let Order { action, object, who, began_at, pace } = order;
            let (total, done, changed, state) = (None, 0, 0, JobState::Running);
            let job = Job {
                id: last + 1,
                action: action.to_owned(),
                object,
                who,
                began_at,
                pace,
                total,
                done,
                changed,
                state,
            };
            let entry = Arc::new(Entry { job: Mutex::new(job.clone()), stop: AtomicBool::new(false) });
            list.push_back(Arc::clone(&entry));
            if list.len() > MOST_REMEMBERED
                && let Some(over) = list.iter().position(|entry| !running(&entry))
            {
                list.remove(over);
            }
            (entry, job)
        };
        tokio::spawn(async move {
            // One that panics must not look as if it went on.
            let end = std::panic::AssertUnwindSafe(run(&entry, collect, one)).catch_unwind().await;
            let end = end.unwrap_or(JobState::Failed);
            entry.change(|job| job.state = end);
        });
        Some(first)
    }
}

/// Things that are changed in one step, so that the journal is not asked for each where no pace is set.
const STEP: usize = 128;

async fn run<T, C, O, F>(entry: &Entry, collect: C, one: O) -> JobState
where
    T: Send + 'static,
    C: FnOnce() -> Result<Vec<T>, journal::Error> + Send + 'static,
    O: Fn(Vec<T>) -> F,
    F: Future<Output = Result<usize, journal::Error>>,
{
    let Ok(Ok(meant)) = tokio::task::spawn_blocking(collect).await else { return JobState::Failed };
    entry.change(|job| job.total = Some(meant.len()));
    let pace = entry.job.lock().unwrap_or_else(PoisonError::into_inner).pace;
    // A slow pace goes one by one, a fast one in steps of a tenth of a second.
    let step = pace.map_or(STEP, |pace| to_count(pace / 10.0).clamp(1, STEP));
    let pause = pace.map(|pace| Duration::from_secs_f64(to_float(step) / pace));
    let mut tick = pause.map(tokio::time::interval);
    let mut meant = meant.into_iter();
    loop {
        let some: Vec<T> = meant.by_ref().take(step).collect();
        if some.is_empty() {
            return JobState::Done;
        }
        if let Some(tick) = &mut tick {
            tick.tick().await;
        }
        if entry.stop.load(Ordering::Relaxed) {
            return JobState::Stopped;
        }
        let count = some.len();
        match one(some).await {
            Ok(changed) => entry.change(|job| {
                job.done += count;
                job.changed += changed;
            }),
            Err(error) => {
                crate::telemetry::host_fault("console", &error);
                return JobState::Failed;
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of things, bounded by the caller")]
fn to_count(number: f64) -> usize {
    number as usize
}

#[expect(clippy::cast_precision_loss, reason = "at most 128")]
fn to_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pace: Option<f64>) -> Order {
        Order { action: "dead.retry", object: "all".to_owned(), who: "anna".to_owned(), began_at: 0, pace }
    }

    async fn ended(jobs: &Jobs, id: u64) -> Job {
        loop {
            let job = jobs.all().into_iter().find(|job| job.id == id).unwrap();
            if job.state != JobState::Running {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_job_keeps_its_pace_tells_how_far_it_is_and_stops_when_asked() {
        let jobs = Jobs::default();
        let began = std::time::Instant::now();
        let all = jobs.start(
            order(Some(200.0)),
            || Ok((0..50).collect::<Vec<u32>>()),
            async |some: Vec<u32>| {
                // Those with even numbers were changed before.
                Ok(some.iter().filter(|number| *number % 2 == 1).count())
            },
        );
        let done = ended(&jobs, all.unwrap().id).await;
        assert_eq!((done.state, done.total, done.done, done.changed), (JobState::Done, Some(50), 50, 25));
        // Three steps of twenty at most, a tenth of a second apart.
        assert!(began.elapsed() >= Duration::from_millis(195), "{:?}", began.elapsed());

        let slow = order(Some(50.0));
        let slow = jobs.start(slow, || Ok(vec![0_u32; 100_000]), async |some: Vec<u32>| Ok(some.len())).unwrap();
        while jobs.all().iter().any(|job| job.id == slow.id && job.done == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(jobs.stop(slow.id));
        let stopped = ended(&jobs, slow.id).await;
        assert_eq!(stopped.state, JobState::Stopped);
        assert!((5..1_000).contains(&stopped.done), "{stopped:?}");
        assert!(!jobs.stop(slow.id), "it has ended");
    }

    #[tokio::test]
    async fn a_journal_that_refuses_ends_a_job_and_a_crowd_of_jobs_is_refused() {
        let jobs = Jobs::default();
        let failed =
            jobs.start(order(None), || Ok(vec![1_u32]), async |_: Vec<u32>| Err(journal::Error::Closed)).unwrap();
        assert_eq!(ended(&jobs, failed.id).await.state, JobState::Failed);
        let forever = || jobs.start(order(Some(0.01)), || Ok(vec![0_u32; 9]), async |some: Vec<u32>| Ok(some.len()));
        let started: Vec<bool> = (0..6).map(|_| forever().is_some()).collect();
        assert_eq!(started, [true, true, true, true, false, false]);
    }
}
