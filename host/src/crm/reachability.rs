//! Whether a CRM can be reached at all: the difference between a call that failed and a CRM that is away.
//!
//! - After a call that got no answer, somebody may ask: then one cheap read is tried, once for all who ask.
//! - While the CRM is away, calls fail at once, and the read is tried again and again, at growing distances.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Map;
use tokio::sync::watch;

use super::{Error, Inner};

/// How long the read may take at least; a CRM that is allowed slower calls gets their time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before the first repetition; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

pub(super) struct Reachability {
    answers: watch::Sender<bool>,
    /// When an answer came last to somebody who asked.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

impl Reachability {
    pub(super) fn new() -> Self {
        Self { answers: watch::Sender::new(true), asking: tokio::sync::Mutex::new(None) }
    }

    pub(super) fn answers(&self) -> bool {
        *self.answers.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }
}

impl Inner {
    /// Whether nobody can reach the CRM; tries it where that is not known.
    pub(super) async fn is_away(self: &Arc<Self>) -> bool {
        let since = Instant::now();
        let mut answered = self.reachability.asking.lock().await;
        if !self.reachability.answers() {
            return true;
        }
        if answered.is_some_and(|at| at > since) {
            return false;
        }
        if self.answers_now().await {
            *answered = Some(Instant::now());
            return false;
        }
        self.reachability.answers.send_replace(false);
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut wait = FIRST_WAIT;
            loop {
                tokio::time::sleep(wait).await;
                // Nobody needs it any more.
                let Some(inner) = inner.upgrade() else { return };
                if inner.answers_now().await {
                    inner.reachability.answers.send_replace(true);
                    return;
                }
                wait = wait.saturating_mul(2).min(LONGEST_WAIT);
            }
        });
        true
    }

    /// Any answer will do: a refusal and an error page come from a CRM that is there.
    async fn answers_now(&self) -> bool {
        let nothing = Map::new();
        let read = self.send("client", "fields", &nothing);
        !matches!(
            tokio::time::timeout(self.options.timeout.max(PATIENCE), read).await,
            Err(_) | Ok(Err(Error::Transport(_) | Error::Unsent(_)))
        )
    }
}
