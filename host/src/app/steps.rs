//! Steps of the machine's clock: the wall clock is compared with one that only goes on.
//!
//! - A step back, and every start, brings forward what would wait for a time that is far away (`journal`).
//! - A step of either kind moves the pauses of plugins with it (`dispatcher`).
//! - A short drift is no step: what is small does no harm, and NTP makes it all the time.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::{dispatcher, journal, telemetry};

/// How often the clocks are compared.
const EVERY: Duration = Duration::from_secs(1);
/// What is less is no step.
const LEAST: i64 = 5_000;
/// The pause after which a store that refused is asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// Compares two clocks.
pub(super) struct Steps {
    wall: i64,
    steady: Instant,
}

impl Steps {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { wall: clock.now(), steady: Instant::now() }
    }

    /// By how much the wall clock went on (or back) more than time did since the last look; none where that is little.
    pub(super) fn step(&mut self, clock: &Clock, steady: Instant) -> Option<i64> {
        let wall = clock.now();
        let passed = i64::try_from(steady.saturating_duration_since(self.steady).as_millis()).unwrap_or(i64::MAX);
        let step = wall.saturating_sub(self.wall).saturating_sub(passed);
        if step.abs() < LEAST {
            // Drift adds up until it is one: what it was compared with stays.
            return None;
        }
        (self.wall, self.steady) = (wall, steady);
        Some(step)
    }
}

/// Keeps what waits in line with the clock; `longest` is the longest wait that there is.
pub(super) async fn keep(journal: journal::Handle, queues: dispatcher::Handle, clock: Clock, longest: Duration) {
    let mut steps = Steps::new(&clock);
    let mut due = Some(Instant::now());
    loop {
        if due.is_some_and(|due| due <= Instant::now()) {
            due = match journal.bring_forward(clock.now(), longest).await {
                Ok(0) => None,
                Ok(count) => {
                    telemetry::brought_forward(count);
                    None
                }
                Err(journal::Error::Closed) => return,
                Err(error) => {
                    telemetry::store_refused("bring forward", &error);
                    Some(Instant::now() + AGAIN)
                }
            };
        }
        tokio::time::sleep(EVERY).await;
        if let Some(step) = steps.step(&clock, Instant::now()) {
            telemetry::clock_stepped(step);
            queues.clock_stepped(step);
            if step < 0 {
                due = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_time_that_passes_and_from_drift() {
        let clock = Clock::manual(1_000_000);
        let mut steps = Steps::new(&clock);
        let begin = steps.steady;
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        clock.advance(100_000);
        assert_eq!(steps.step(&clock, after(100)), None);
        clock.advance(1_000 - 3_600_000);
        assert_eq!(steps.step(&clock, after(101)), Some(-3_600_000));
        clock.advance(1_000);
        assert_eq!(steps.step(&clock, after(102)), None);
        clock.advance(1_000 + 86_400_000);
        assert_eq!(steps.step(&clock, after(103)), Some(86_400_000));
        // A clock that loses a second in each ten is wrong by five once.
        let told = (1..=60).filter(|second| {
            clock.advance(900);
            steps.step(&clock, after(103 + second)).is_some()
        });
        assert_eq!(told.count(), 1);
    }
}
