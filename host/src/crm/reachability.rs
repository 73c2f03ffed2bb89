//! Whether a CRM can be reached at all: the difference between a call that failed and a CRM that is away.
//!
//! - After a call that brought no answer of the API, somebody may ask: then a cheap read is tried, once for all who ask.
//! - Only an answer of the API counts as one: pages, plain text, empty bodies and other statuses come from a CRM without
//!   its database, from maintenance, from a proxy. A key that is refused is of no use either.
//! - While the CRM is away, calls fail at once, and the read is tried again and again, at growing distances.
//! - A web server that asks to be left alone (`Retry-After`) is left alone.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::Map;
use tokio::sync::watch;

use super::stranger::Stranger;
use super::{Error, Inner};
use crate::telemetry;

/// How long the read may take at least; a CRM that is allowed slower calls gets their time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before the first repetition; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Two reads, because one of them alone may be broken by what a user typed (measured: `\u0431` in a title).
const READS: [(&str, &str); 2] = [("client", "fields"), ("task", "tips")];

pub(super) struct Reachability {
    answers: watch::Sender<bool>,
    /// When an answer came last to somebody who asked.
    asking: tokio::sync::Mutex<Option<Instant>>,
    /// Why it counts as away.
    why: Mutex<Option<Error>>,
}

impl Reachability {
    pub(super) fn new() -> Self {
        Self { answers: watch::Sender::new(true), asking: tokio::sync::Mutex::new(None), why: Mutex::new(None) }
    }

    pub(super) fn answers(&self) -> bool {
        *self.answers.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }

    /// Why it counts as away; `None` while it does not.
    pub(super) fn why(&self) -> Option<Error> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, why: Option<Error>) {
        let answers = why.is_none();
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.answers.send_replace(answers);
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
        match self.probe().await {
            Ok(()) => {
                *answered = Some(Instant::now());
                false
            }
            Err(why) => {
                self.leave(why);
                true
            }
        }
    }

    /// Counts the CRM as away until a read of the host's own is answered again.
    pub(super) fn leave(self: &Arc<Self>, why: Error) {
        if !self.reachability.answers() {
            return;
        }
        let asked = asked_to_wait(&why);
        self.reachability.tell(Some(why));
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            let (mut grown, mut wait) = (FIRST_WAIT, asked.unwrap_or(FIRST_WAIT));
            loop {
                tokio::time::sleep(wait).await;
                // Nobody needs it any more.
                let Some(inner) = inner.upgrade() else { return };
                // Whatever becomes of one look, there is another: else the CRM would be away for ever.
                let looked = AssertUnwindSafe(inner.probe()).catch_unwind().await;
                let why = match looked {
                    Ok(Ok(())) => return inner.reachability.tell(None),
                    Ok(Err(why)) => why,
                    Err(_) => {
                        telemetry::host_fault("crm", &"a look at the CRM failed in the host's own code");
                        Error::Transport("the look at it failed".into())
                    }
                };
                grown = grown.saturating_mul(2).min(LONGEST_WAIT);
                wait = asked_to_wait(&why).unwrap_or(grown);
                inner.reachability.tell(Some(why));
            }
        });
    }

    /// Tries the reads until one brings an answer of the API.
    async fn probe(self: &Arc<Self>) -> Result<(), Error> {
        let mut why = Error::Transport("no answer in time".into());
        for (method, action) in READS {
            let nothing = Map::new();
            let read = self.send(method, action, &nothing);
            let answer = match tokio::time::timeout(self.options.timeout.max(PATIENCE), read).await {
                Err(_) => return Err(why),
                Ok(answer) => answer,
            };
            why = match answer {
                Ok(answer) if answer.value().is_ok_and(|body| body.get("data").is_some_and(|data| !data.is_null())) => {
                    return Ok(());
                }
                Ok(_) => Error::NotTheApi(Stranger::Json),
                Err(error) if !error.is_no_answer() => return Ok(()),
                // The second read would meet the same.
                Err(error @ (Error::Transport(_) | Error::Unsent(_))) => return Err(error),
                Err(error) => error,
            };
        }
        Err(why)
    }
}

/// How long a web server asked to be left alone.
fn asked_to_wait(why: &Error) -> Option<Duration> {
    match why {
        Error::NotTheApi(Stranger::Busy { after, .. }) => *after,
        _ => None,
    }
}
