//! Doubt about a write whose answer was lost: was it done? Settled within the attempt where that can be.
//!
//! - A record that may have been added is looked for: among the events that the write caused, then in the CRM's list.
//! - **Found is done**, at any time. **Not found is not done only when the CRM is done with the call**: at once after an
//!   error page of PHP's own, a moment after the connection was closed, and else when a call can't go on any longer.
//! - Where the attempt's time does not suffice, the delivery waits, and that counts as no failure.
//! - Where nobody can tell, the plugin is told.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Attempt;
use super::writes::{Asked, Failure, Plain};
use crate::crm::lookup::{self, Age, Found};
use crate::crm::stranger::Stranger;
use crate::crm::target::Repeat;
use crate::crm::{self, update};
use crate::journal::Written;
use crate::outcome::FaultKind;
use crate::telemetry;

/// Milliseconds of a day.
const A_DAY: i64 = 24 * 3_600_000;
/// How long a record may still come after the connection was closed: PHP goes on, and adds within a moment.
const AFTER_CLOSE: Duration = Duration::from_secs(5);
/// How long the event of a write is waited for where the CRM's list can't tell.
const FOR_EVENT: Duration = Duration::from_secs(2);
/// The wait before the second look; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What an attempt keeps of its time for the plugin to end.
const FOR_THE_PLUGIN: Duration = Duration::from_secs(2);

/// What became of a write in doubt.
pub(super) enum Settled {
    /// It was done; this stands for its answer.
    Done(String),
    /// It was not done, or does no harm a second time: it is to be sent again now.
    Again,
    /// It was not done, and sending it again now would end the same.
    NotDone,
    /// It is not known yet.
    Open,
}

/// Since when the CRM can no longer be at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It has answered, though not as it should.
    Answered,
    /// It closed the connection.
    Closed,
    /// Nothing is known.
    Unknown,
}

/// An answer that was lost.
pub(super) struct Lost {
    pub(super) end: End,
    /// How long it was waited for.
    pub(super) took: Duration,
    /// Whether the write was not sent before.
    pub(super) first: bool,
}

impl Attempt {
    /// What an error says of how far the CRM is.
    pub(super) fn end_of(&self, error: &crm::Error, took: Duration) -> End {
        let patience = self.reach.crm.as_ref().map_or(Duration::ZERO, crm::Client::timeout);
        match error {
            crm::Error::NotTheApi(Stranger::Php(_)) => End::Answered,
            // Somebody between answered: PHP may still be at it.
            crm::Error::NotTheApi(_) => End::Unknown,
            _ if took < patience => End::Closed,
            _ => End::Unknown,
        }
    }

    /// A write of an earlier attempt: its answer, or nothing where it is to be sent (again).
    pub(super) async fn settled_before(&mut self, asked: &Asked, since: i64) -> Result<Option<String>, Failure> {
        match asked.target.repeat {
            Repeat::Harmless => return Ok(None),
            Repeat::Ask => return Err(self.uncertain(asked)),
            Repeat::LookFirst => {}
        }
        let linger = self.reach.crm.as_ref().map_or(Duration::ZERO, crm::Client::linger);
        match self.look(asked, since, since.saturating_add(millis(linger))).await? {
            Settled::Done(answer) => Ok(Some(answer)),
            Settled::Again | Settled::NotDone => {
                // What is sent now is sent now: a later doubt counts from here.
                self.reach.journal.written(asked.write.clone(), Written::Withdrawn).await?;
                self.reach.journal.intend(self.intent_again(asked)).await?;
                Ok(None)
            }
            Settled::Open => {
                self.effects.in_doubt = true;
                let words = format!(
                    "`{}` was sent a moment ago and may still be under way: it is looked for later",
                    asked.call
                );
                Err(crm::Error::Transport(words).into())
            }
        }
    }

    /// A write of this attempt, right after its answer was lost.
    pub(super) async fn settled_now(
        &mut self,
        asked: &Asked,
        error: &crm::Error,
        Lost { end, took, first }: Lost,
    ) -> Result<Settled, Failure> {
        let client = self.reach.crm.clone();
        let now = now();
        let until = match end {
            End::Answered => now,
            End::Closed => now.saturating_add(millis(AFTER_CLOSE)),
            // As long after it was sent as a call can go on.
            End::Unknown => {
                let linger = client.as_ref().map_or(0, |client| millis(client.linger()));
                now.saturating_sub(millis(took)).saturating_add(linger)
            }
        };
        match asked.target.repeat {
            Repeat::Ask => return Err(self.uncertain(asked)),
            Repeat::Harmless if end == End::Answered => return self.harmless_page(asked).await,
            Repeat::Harmless if first && end == End::Closed && self.has_time_for(FIRST_PAUSE) => {
                tokio::time::sleep(FIRST_PAUSE).await;
                // Its events come again.
                self.reach.journal.written(asked.write.clone(), Written::Withdrawn).await?;
                self.reach.journal.intend(self.intent_again(asked)).await?;
                return Ok(Settled::Again);
            }
            Repeat::Harmless => return Ok(Settled::Open),
            Repeat::LookFirst => {}
        }
        let since = now.saturating_sub(millis(took));
        let settled = self.look(asked, since, until).await?;
        if !matches!(settled, Settled::Again) {
            return Ok(settled);
        }
        self.reach.journal.written(asked.write.clone(), Written::Withdrawn).await?;
        if !first || end == End::Answered || matches!(error, crm::Error::NotTheApi(_) | crm::Error::BadAnswer(_)) {
            return Ok(Settled::NotDone);
        }
        self.reach.journal.intend(self.intent_again(asked)).await?;
        Ok(Settled::Again)
    }

    /// PHP 8 fails after it has updated a contact: whether the record shows it tells.
    async fn harmless_page(&mut self, asked: &Asked) -> Result<Settled, Failure> {
        let pid = asked.target.record.as_ref().and_then(|record| record.parse().ok());
        let Some(pid) = pid.filter(|_| asked.method == "person" && asked.action == "update") else {
            return Ok(Settled::Open);
        };
        let mut values = asked.arguments.clone();
        values.shift_remove("pid");
        match update::shows(&mut Plain(self), update::Kind::Person, pid, &values).await {
            Ok(true) => self.done(asked, pid).await,
            Ok(false) | Err(_) => Ok(Settled::Open),
        }
    }

    /// Looks for what was added, again and again until that is settled or the attempt's time is up.
    async fn look(&mut self, asked: &Asked, since: i64, until: i64) -> Result<Settled, Failure> {
        // Stays so where the attempt is ended meanwhile.
        let before = std::mem::replace(&mut self.effects.in_doubt, true);
        let settled = self.looked(asked, since, until).await;
        self.effects.in_doubt = before;
        settled
    }

    async fn looked(&mut self, asked: &Asked, since: i64, until: i64) -> Result<Settled, Failure> {
        let for_event = Instant::now() + FOR_EVENT;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = now();
            let found = match self.found(asked, since).await {
                Ok(found) => found,
                // A list that does not answer says nothing.
                Err(Failure::Crm(_)) => return Ok(Settled::Open),
                Err(failure) => return Err(failure),
            };
            match found {
                Found::There(id) => return self.done(asked, id).await,
                Found::Nowhere if began >= until => return Ok(Settled::Again),
                Found::Unclear if Instant::now() >= for_event => return Err(self.uncertain(asked)),
                Found::Nowhere | Found::Unclear => {}
            }
            if !self.has_time_for(pause) {
                return Ok(Settled::Open);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn found(&mut self, asked: &Asked, since: i64) -> Result<Found, Failure> {
        match &self.reach.journal.added_by(asked.write.delivery, asked.target.kind)?[..] {
            [one] => return Ok(one.parse().map_or(Found::Unclear, Found::There)),
            [] => {}
            _ => return Ok(Found::Unclear),
        }
        let day = jiff::Timestamp::from_millisecond(since - A_DAY).unwrap_or_default();
        let age = Age {
            day: day.strftime("%Y-%m-%d").to_string(),
            newer_than: self.reach.journal.added_before(&self.reach.account, asked.target.kind, since)?,
            others: self.reach.journal.added_since(&self.reach.account, asked.target.kind, since)?,
        };
        Ok(lookup::find(&mut Plain(self), &asked.method, &asked.arguments, &age).await?)
    }

    async fn done(&mut self, asked: &Asked, id: u64) -> Result<Settled, Failure> {
        let answer = json!({ "result": "found", "data": id }).to_string();
        self.record_again(&asked.call, &asked.all, Ok(&answer), "was done: found");
        let written = Written::Answered { answer: answer.clone(), record: Some(id.to_string()) };
        self.reach.journal.written(asked.write.clone(), written).await?;
        Ok(Settled::Done(answer))
    }

    fn uncertain(&mut self, asked: &Asked) -> Failure {
        let words = format!(
            "whether `{}` was done can't be told: it was sent and its answer was lost, or may have been sent after the copy that this store was restored from; look into the CRM, then say `salesman-host dead done NUMBER` or `dead send NUMBER`, or give this delivery up",
            asked.call
        );
        self.effects.refusal = Some(FaultKind::Uncertain.code());
        self.record_again(&asked.call, &asked.all, Err(&words), "uncertain");
        telemetry::write_uncertain(self.reach.event, asked.write.delivery, &asked.call);
        Failure::Uncertain(words)
    }

    /// Whether the attempt has time for a pause, and a look after it.
    fn has_time_for(&self, pause: Duration) -> bool {
        self.began.elapsed() + pause + FOR_THE_PLUGIN < self.time
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
