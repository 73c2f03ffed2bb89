//! Writes to the CRM: recorded before they are sent and after they are answered, so that none is sent twice.
//!
//! - A write that was answered is not sent again: its answer is given again.
//! - A write whose answer was lost is sent again where that does no harm. A record that may have been added is looked for:
//!   among the events that the write caused, then in the CRM's list. Where nobody can tell, the plugin is told.
//! - A write that was surely not done leaves nothing behind: a refusal, or a CRM that was not reached.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Attempt, LimitHit};
use crate::crm::lookup::{self, Age, Found};
use crate::crm::target::{self, Repeat, Target};
use crate::crm::update::{self, Caller};
use crate::crm::{self, is_read};
use crate::journal::{self, Intended, Intent, Write, Written};
use crate::outcome::FaultKind;
use crate::telemetry;

/// Milliseconds of a day.
const A_DAY: i64 = 24 * 3_600_000;

/// Why a write brought no good answer.
pub(super) enum Failure {
    /// As every call.
    Crm(crm::Error),
    /// Nobody knows whether it was done.
    Uncertain(String),
    /// The attempt can't go on.
    Hit(LimitHit),
}

impl From<crm::Error> for Failure {
    fn from(error: crm::Error) -> Self {
        Self::Crm(error)
    }
}

impl From<journal::Error> for Failure {
    /// The store's trouble is not the plugin's: the attempt ends as the host's fault, and is made again.
    fn from(error: journal::Error) -> Self {
        telemetry::host_fault("writes", &error);
        let detail = "a write to the CRM can't be recorded now, so it is not sent: the host's log says why".into();
        Self::Hit(LimitHit { kind: FaultKind::Host, detail })
    }
}

impl Attempt {
    /// The next write of these words.
    fn write(&mut self, call: &str, arguments: &Value) -> Write {
        let digest = digest(call, arguments);
        let asked = self.asked.entry(digest).or_default();
        let occurrence = *asked;
        *asked += 1;
        Write { delivery: self.reach.delivery, digest, occurrence }
    }

    fn intent(&self, write: Write, call: &str, target: &Target) -> Intent {
        let (kind, record) = (target.kind.to_owned(), target.record.clone());
        Intent { write, call: call.to_owned(), account: self.reach.account.clone(), kind, record }
    }

    /// Shows in the attempt's calls that an answer is not new.
    fn record_again(&mut self, call: &str, arguments: &Value, answer: Result<&str, &str>, why: &str) {
        let at = self.since_start();
        self.record(at, format!("crm {} ({why})", super::shortened(call, 128)), &arguments.to_string(), answer);
    }

    /// Calls `method.action`, which writes, unless it was done before.
    pub(super) async fn crm_write(
        &mut self,
        method: &str,
        action: &str,
        arguments: &Map<String, Value>,
    ) -> Result<String, Failure> {
        let (call, all) = (format!("{method}.{action}"), Value::Object(arguments.clone()));
        crm::checked(arguments)?;
        let target = target::target(method, action, arguments);
        let write = self.write(&call, &all);
        match self.reach.journal.intend(self.intent(write.clone(), &call, &target)).await? {
            Intended::New => {}
            Intended::Answered(answer) => {
                self.record_again(&call, &all, Ok(&answer), "done before");
                return Ok(answer);
            }
            Intended::Uncertain { since } => {
                if let Some(answer) = self.settle_doubt(&write, method, &call, arguments, &target, since).await? {
                    return Ok(answer);
                }
            }
        }
        match self.crm_call(method, action, arguments).await {
            Ok((body, text)) => {
                let record = target::added(&body).filter(|_| target.record.is_none());
                self.reach.journal.written(write, Written::Answered { answer: text.clone(), record }).await?;
                Ok(text)
            }
            Err(error) => {
                if surely_not_done(&error) {
                    self.reach.journal.written(write, Written::Withdrawn).await?;
                } else {
                    telemetry::write_uncertain(self.reach.event, write.delivery, &call);
                }
                Err(error.into())
            }
        }
    }

    /// What is known of a write whose answer was lost: its answer, or nothing where it is to be sent again.
    async fn settle_doubt(
        &mut self,
        write: &Write,
        method: &str,
        call: &str,
        arguments: &Map<String, Value>,
        target: &Target,
        since: i64,
    ) -> Result<Option<String>, Failure> {
        let all = Value::Object(arguments.clone());
        let found = match target.repeat {
            Repeat::Harmless => return Ok(None),
            Repeat::Ask => Found::Unclear,
            Repeat::LookFirst => match &self.reach.journal.added_by(write.delivery, target.kind)?[..] {
                [one] => one.parse().map_or(Found::Unclear, Found::There),
                // The CRM may be at it still: what is looked for now could be added the moment after.
                [] if self.still_under_way(since) => {
                    let words =
                        format!("`{call}` was sent a moment ago and may still be under way: it is looked for later");
                    return Err(crm::Error::Transport(words).into());
                }
                [] => {
                    let day = jiff::Timestamp::from_millisecond(since - A_DAY).unwrap_or_default();
                    let age = Age {
                        day: day.strftime("%Y-%m-%d").to_string(),
                        newer_than: self.reach.journal.added_before(&self.reach.account, target.kind, since)?,
                    };
                    lookup::find(&mut Plain(self), method, arguments, &age).await?
                }
                _ => Found::Unclear,
            },
        };
        match found {
            Found::Nowhere => Ok(None),
            Found::There(id) => {
                let answer = json!({ "result": "found", "data": id }).to_string();
                self.record_again(call, &all, Ok(&answer), "was done: found");
                let record = Some(id.to_string());
                let written = Written::Answered { answer: answer.clone(), record };
                self.reach.journal.written(write.clone(), written).await?;
                Ok(Some(answer))
            }
            Found::Unclear => {
                let words = format!(
                    "`{call}` was sent by an earlier attempt and its answer was lost; whether it was done can't be told: look into the CRM, then drop this delivery or do the rest by hand"
                );
                self.record_again(call, &all, Err(&words), "uncertain");
                telemetry::write_uncertain(self.reach.event, write.delivery, call);
                Err(Failure::Uncertain(words))
            }
        }
    }

    /// Whether a call sent at `since` may not have ended yet: the CRM goes on when its caller has gone.
    fn still_under_way(&self, since: i64) -> bool {
        let timeout = self.reach.crm.as_ref().map_or(Duration::ZERO, crm::Client::timeout);
        let wait = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).saturating_mul(2);
        jiff::Timestamp::now().as_millisecond() < since.saturating_add(wait)
    }

    /// Changes fields of a record, unless that was done before.
    pub(super) async fn crm_update(
        &mut self,
        kind: update::Kind,
        id: u64,
        changes: &Map<String, Value>,
    ) -> Result<Vec<String>, Failure> {
        let call = format!("{}.update", kind.as_str());
        let all = json!({ "id": id, "changes": changes });
        let write = self.write(&safe(&call), &all);
        if let Some(Intended::Answered(answer)) = self.reach.journal.known_write(&write)? {
            self.record_again(&call, &all, Ok(&answer), "done before");
            return Ok(serde_json::from_str(&answer).unwrap_or_default());
        }
        // One whose answer was lost is made again: it reads first, and writes nothing where nothing is left to change.
        let target = Target { kind: kind.as_str(), record: Some(id.to_string()), repeat: Repeat::Harmless };
        let intent = self.intent(write.clone(), &call, &target);
        let mut caller = Updating { attempt: self, intent: Some(intent), sent: false, trouble: None };
        let result = update::update(&mut caller, kind, id, changes).await;
        let (sent, trouble) = (caller.sent, caller.trouble.take());
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        match &result {
            Ok(changed) if sent => {
                let answer = json!(changed).to_string();
                self.reach.journal.written(write, Written::Answered { answer, record: None }).await?;
            }
            Err(error) if sent && surely_not_done(error) => {
                self.reach.journal.written(write, Written::Withdrawn).await?;
            }
            Err(_) if sent => telemetry::write_uncertain(self.reach.event, write.delivery, &call),
            _ => {}
        }
        Ok(result?)
    }
}

/// What a write's words are known by. A safe update (`{"id":…,"changes":…}`) is another call than the CRM's own `update`.
pub fn digest(call: &str, arguments: &Value) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(call.as_bytes());
    hash.update([0]);
    canonical(arguments, &mut hash);
    let mut digest = [0; 16];
    digest.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    digest
}

/// The name under which a safe update is recorded.
pub fn safe(call: &str) -> String {
    format!("safe {call}")
}

fn surely_not_done(error: &crm::Error) -> bool {
    match error {
        crm::Error::Refused { .. } | crm::Error::Unsent(_) | crm::Error::Invalid(_) => true,
        // A PHP error page may come after the record was written (measured for contacts under PHP 8).
        crm::Error::NotTheApi(stranger) => stranger.nothing_was_done(),
        crm::Error::Transport(_) | crm::Error::BadAnswer(_) => false,
    }
}

/// An update's calls: the one that writes is recorded before it is sent.
struct Updating<'a> {
    attempt: &'a mut Attempt,
    intent: Option<Intent>,
    sent: bool,
    trouble: Option<Failure>,
}

impl Caller for Updating<'_> {
    async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, crm::Error> {
        if !is_read(action)
            && let Some(intent) = self.intent.take()
        {
            if let Err(error) = self.attempt.reach.journal.intend(intent).await {
                self.trouble = Some(error.into());
                return Err(crm::Error::Unsent("the write can't be recorded".into()));
            }
            self.sent = true;
        }
        self.attempt.crm_call(method, action, &arguments).await.map(|(body, _)| body)
    }
}

/// Reads that the host makes for itself.
struct Plain<'a>(&'a mut Attempt);

impl Caller for Plain<'_> {
    async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, crm::Error> {
        self.0.crm_call(method, action, &arguments).await.map(|(body, _)| body)
    }
}

/// A value's words without the order of its keys: a plugin's map may have another order the next time.
fn canonical(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            hash.update(b"{");
            for key in keys {
                hash.update(Value::from(key.as_str()).to_string().as_bytes());
                hash.update(b":");
                canonical(object.get(key).unwrap_or(&Value::Null), hash);
                hash.update(b",");
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            for item in items {
                canonical(item, hash);
                hash.update(b",");
            }
            hash.update(b"]");
        }
        plain => hash.update(plain.to_string().as_bytes()),
    }
}
