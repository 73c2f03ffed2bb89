//! When to try again, and when to give up: a pure function, without a clock.

use std::time::Duration;

use crate::outcome::{FaultKind, Next, Outcome};

/// How much longer each wait is: eight attempts with the defaults span half an hour.
const GROWTH: u32 = 3;
/// The longest wait that a plugin can ask for: its other events of the record wait as well.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3_600);

/// The pace of retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait of all.
    pub longest: Duration,
    /// Attempts before a delivery becomes a dead letter.
    pub attempts: u32,
}

impl Policy {
    /// The longest time that a delivery ever waits until it is tried again.
    pub fn longest_wait(&self) -> Duration {
        self.longest.max(LONGEST_ASKED)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { first: Duration::from_secs(2), longest: Duration::from_secs(30 * 60), attempts: 8 }
    }
}

/// What is next after an attempt that came to `outcome`, with `failures` counted before it.
///
/// The wait is exponential with full jitter: `jitter` in 0..1 takes its share of the whole, so that deliveries which
/// failed together do not come back together. A wait that the plugin asked for is never shortened.
pub fn decide(policy: &Policy, failures: u32, outcome: &Outcome, jitter: f64, now: i64) -> Next {
    let after = match outcome {
        Outcome::Done => return Next::Done,
        Outcome::Skipped { .. } => return Next::Skipped,
        Outcome::Rejected { .. } => return Next::Dead,
        // It would come to the same until somebody has looked.
        Outcome::Failed(fault) if fault.kind == FaultKind::Uncertain => return Next::Dead,
        Outcome::Retry { after, .. } => after.unwrap_or_default(),
        Outcome::Failed(_) => Duration::ZERO,
    };
    if failures.saturating_add(1) >= policy.attempts {
        return Next::Dead;
    }
    let grown = policy.first.saturating_mul(GROWTH.saturating_pow(failures));
    let wait = grown.min(policy.longest).mul_f64(jitter.clamp(0.0, 1.0)).max(after.min(LONGEST_ASKED));
    Next::Again { at: now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)), counts: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Fault;

    #[test]
    fn the_wait_grows_is_bounded_and_ends() {
        let policy = Policy::default();
        let failed = Outcome::Failed(Fault::new(FaultKind::Trap, "x"));
        let retry = |after| Outcome::Retry { reason: String::new(), after };
        let again = |at| Next::Again { at, counts: true };
        let minute = Duration::from_secs(60);
        let cases = [
            (0, Outcome::Done, 1.0, Next::Done),
            (0, Outcome::Skipped { reason: String::new() }, 1.0, Next::Skipped),
            (0, Outcome::Rejected { reason: String::new() }, 1.0, Next::Dead),
            (0, failed.clone(), 1.0, again(1_000 + 2_000)),
            (0, failed.clone(), 0.5, again(1_000 + 1_000)),
            (0, failed.clone(), 0.0, again(1_000)),
            (3, failed.clone(), 1.0, again(1_000 + 54_000)),
            (6, failed.clone(), 1.0, again(1_000 + 1_458_000)),
            (7, failed.clone(), 1.0, Next::Dead),
            (u32::MAX, failed, 1.0, Next::Dead),
            (0, Outcome::Failed(Fault::new(FaultKind::Uncertain, "x")), 1.0, Next::Dead),
            (0, retry(None), 1.0, again(1_000 + 2_000)),
            (0, retry(Some(minute)), 0.1, again(1_000 + 60_000)),
            (7, retry(Some(minute)), 0.1, Next::Dead),
        ];
        for (failures, outcome, jitter, expected) in cases {
            assert_eq!(decide(&policy, failures, &outcome, jitter, 1_000), expected, "{failures} {outcome:?} {jitter}");
        }
        let day = 24 * 3_600 * 1_000;
        assert_eq!(decide(&policy, 0, &retry(Some(Duration::MAX)), 1.0, 0), again(day));
        let patient = Policy { attempts: 100, ..policy };
        assert_eq!(decide(&patient, 60, &retry(None), 1.0, 0), again(30 * 60 * 1_000));
    }
}
