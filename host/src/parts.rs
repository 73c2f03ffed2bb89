//! The host's long-lived parts: whether each is there, and what happens where one is not.
//!
//! - A part that fails is told in the log, counted, and named by `/readyz` until it has run well for a minute.
//! - A part that can be made anew is: after a moment, and after longer ones where it fails again.
//! - Those without which the host is of no use end it instead (`app`), to be started again.
//!
//! Not here: what the parts do.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::telemetry;

/// The times of a part that fails.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// The wait before a part is made anew; it doubles.
    first: Duration,
    longest: Duration,
    /// How long a part must run until it counts as well.
    settled: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60), settled: Duration::from_secs(60) }
    }
}

/// What is known of the parts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Those that are not well, by name and by what they are of, with the number of their failures.
    down: Arc<Mutex<BTreeMap<(&'static str, String), u32>>>,
    /// Which of several of the same name is meant, such as that of one CRM.
    of: String,
    times: Times,
}

impl Parts {
    /// The same, for the parts of one CRM: each is well or not by itself.
    #[must_use]
    pub fn of(&self, account: &str) -> Self {
        Self { of: account.to_owned(), ..self.clone() }
    }

    /// The names of the parts that failed and are not known to be well again.
    pub fn down(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.locked().keys().map(|(name, _)| *name).collect();
        names.dedup();
        names
    }

    /// Says that a part failed; returns how long to wait before it is made anew.
    pub fn failed(&self, part: &'static str) -> Duration {
        let mut down = self.locked();
        let failures = down.entry((part, self.of.clone())).or_default();
        *failures = failures.saturating_add(1);
        let wait = self.times.first.saturating_mul(2_u32.saturating_pow(*failures - 1)).min(self.times.longest);
        drop(down);
        telemetry::part_failed(part, &self.of);
        wait
    }

    /// Says that a part is well.
    pub fn well(&self, part: &'static str) {
        self.locked().remove(&(part, self.of.clone()));
    }

    /// Runs a part, which `make` makes, until it ends by itself.
    pub async fn keep<F: Future<Output = ()>>(self, part: &'static str, mut make: impl FnMut() -> F) {
        loop {
            let running = AssertUnwindSafe(async { make().await }).catch_unwind();
            let mut running = std::pin::pin!(running);
            let ended = tokio::select! {
                ended = running.as_mut() => Some(ended),
                () = tokio::time::sleep(self.times.settled) => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    self.well(part);
                    running.await
                }
            };
            match ended {
                Ok(()) => return self.well(part),
                Err(_) => tokio::time::sleep(self.failed(part)).await,
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u32>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_made_anew_and_named_until_it_runs_well() {
        let (first, settled) = (Duration::from_millis(20), Duration::from_millis(50));
        let parts = Parts { times: Times { first, longest: first * 2, settled }, ..Parts::default() };
        let (told, mut tried) = tokio::sync::mpsc::unbounded_channel();
        let mut tries = 0;
        tokio::spawn(parts.clone().keep("poller", move || {
            tries += 1;
            let fails = tries < 4;
            told.send(fails).unwrap();
            async move {
                assert!(!fails, "planted");
                std::future::pending::<()>().await;
            }
        }));
        let began = std::time::Instant::now();
        for expected in [true, true, true, false] {
            assert_eq!(tried.recv().await, Some(expected));
        }
        assert!(began.elapsed() >= first * 5, "each wait is as long as it must be: {:?}", began.elapsed());
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !parts.down().is_empty() && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(parts.down(), Vec::<&str>::new());
    }

    #[test]
    fn a_part_that_failed_is_named_and_waits_longer_each_time() {
        let parts = Parts::default();
        let waits: Vec<u64> = (0..9).map(|_| parts.failed("poller").as_secs()).collect();
        assert_eq!((waits, parts.down()), (vec![1, 2, 4, 8, 16, 32, 60, 60, 60], vec!["poller"]));
        parts.well("poller");
        assert_eq!(parts.down(), Vec::<&str>::new());
    }

    #[test]
    fn of_two_parts_of_the_same_name_one_that_is_well_hides_nothing_of_the_other() {
        let parts = Parts::default();
        let (first, second) = (parts.of("main"), parts.of("second"));
        first.failed("watch");
        assert_eq!(second.failed("watch"), Duration::from_secs(1), "its own first failure");
        first.well("watch");
        assert_eq!(parts.down(), vec!["watch"]);
        second.well("watch");
        assert_eq!(parts.down(), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_not_made_anew() {
        let parts = Parts::default();
        parts.clone().keep("asker", || std::future::ready(())).await;
        assert_eq!(parts.down(), Vec::<&str>::new());
    }
}
