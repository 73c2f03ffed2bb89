//! The only source of "now" for journal and dispatcher: the wall clock, or one that a test moves by hand.
//!
//! Not here: waiting. A timer takes its duration from two readings of this clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clock.
    Wall,
    /// Stands still until it is moved.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock for tests that stands at `milliseconds`.
    pub fn manual(milliseconds: i64) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(milliseconds)))
    }

    /// The time.
    pub fn now(&self) -> i64 {
        match self {
            Self::Wall => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Self::Manual(time) => time.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock on; the wall clock can't be moved.
    pub fn advance(&self, milliseconds: i64) {
        if let Self::Manual(time) = self {
            time.fetch_add(milliseconds, Ordering::SeqCst);
        }
    }
}
