//! Writes to the CRM: recorded before they are sent and after they are answered, so that none is sent twice.
//!
//! - A write that was answered is not sent again: its answer is given again.
//! - A write whose answer was lost is settled at once where that can be (`doubt`), and sent again where that does no harm.
//! - A write that was surely not done leaves nothing behind: a refusal, or a CRM that was not reached.

use std::time::Instant;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::doubt::{Lost, Settled};
use super::{Attempt, LimitHit};
use crate::crm::stranger::Stranger;
use crate::crm::target::{self, Repeat, Target};
use crate::crm::update::{self, Caller, Changed, Wish};
use crate::crm::{self, is_read};
use crate::event::content::Content;
use crate::journal::{self, Intended, Intent, Write, Written};
use crate::outcome::FaultKind;
use crate::telemetry;

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

/// A write that a plugin asks for.
pub(super) struct Asked {
    pub(super) write: Write,
    pub(super) method: String,
    pub(super) action: String,
    /// `method.action`.
    pub(super) call: String,
    pub(super) arguments: Map<String, Value>,
    /// The arguments as they are recorded.
    pub(super) all: Value,
    pub(super) target: Target,
}

impl Asked {
    fn new(attempt: &mut Attempt, method: &str, action: &str, arguments: &Map<String, Value>) -> Self {
        let (call, all) = (format!("{method}.{action}"), Value::Object(arguments.clone()));
        Self {
            write: attempt.write(&call, &all),
            target: target::target(method, action, arguments),
            method: method.to_owned(),
            action: action.to_owned(),
            arguments: arguments.clone(),
            call,
            all,
        }
    }
}

impl Attempt {
    /// The next write of these words.
    pub(super) fn write(&mut self, call: &str, arguments: &Value) -> Write {
        let digest = digest(call, arguments);
        let asked = self.asked.entry(digest).or_default();
        let occurrence = *asked;
        *asked += 1;
        Write { delivery: self.reach.delivery, digest, occurrence }
    }

    async fn own_user(&mut self) -> Result<u64, crm::Error> {
        match self.reach.crm.clone() {
            Some(client) => client.known_user().await,
            None => Err(crm::Error::Invalid("there is no CRM".into())),
        }
    }

    fn shows_writes(&self) -> bool {
        self.reach.crm.as_ref().is_some_and(crm::Client::shows_writes)
    }

    pub(super) fn intent(&self, write: Write, call: &str, target: &Target) -> Intent {
        let record = target.record.as_ref().map(|record| self.reach.scrubber.scrub(record).into_owned());
        let kind = target.kind.to_owned();
        let (content, effects) = (Content::default(), Vec::new());
        let call = self.label(call, 128);
        Intent { write, call, account: self.reach.account.clone(), kind, record, content, effects, not_done: false }
    }

    /// Shows in the attempt's calls that an answer is not new.
    pub(super) fn record_again(&mut self, call: &str, arguments: &Value, answer: Result<&str, &str>, why: &str) {
        let at = self.since_start();
        self.record(at, format!("crm {} ({why})", self.label(call, 128)), &arguments.to_string(), answer);
    }

    /// Calls `method.action`, which writes, unless it was done before.
    pub(super) async fn crm_write(
        &mut self,
        method: &str,
        action: &str,
        arguments: &Map<String, Value>,
    ) -> Result<String, Failure> {
        crm::checked(arguments)?;
        let asked = Asked::new(self, method, action, arguments);
        let mut repeated = false;
        match self.reach.journal.intend(self.intent_of(&asked)).await? {
            Intended::New => {}
            Intended::Answered(answer) => {
                self.record_again(&asked.call, &asked.all, Ok(&answer), "done before");
                return Ok(answer);
            }
            Intended::Uncertain { since } => {
                if let Some(answer) = self.settled_before(&asked, since).await? {
                    return Ok(answer);
                }
                repeated = true;
            }
        }
        loop {
            let began = Instant::now();
            let error = match self.crm_call(method, action, arguments).await {
                Ok(answer) => {
                    let body = answer.value().unwrap_or_default();
                    let record = target::added(&body).filter(|_| asked.target.record.is_none());
                    return self.answered(&asked, answer.into_text(), record).await;
                }
                Err(error) => error,
            };
            if repeated && target::says_done(action, &error) {
                let answer = json!({ "result": "found", "data": asked.target.record }).to_string();
                self.record_again(&asked.call, &asked.all, Ok(&answer), "was done: the CRM says so");
                return self.answered(&asked, answer, None).await;
            }
            if error.nothing_was_done() {
                self.reach.journal.written(asked.write, Written::Withdrawn).await?;
                return Err(error.into());
            }
            let lost = Lost { end: self.end_of(&error, began.elapsed()), took: began.elapsed(), first: !repeated };
            match self.settled_now(&asked, &error, lost).await? {
                Settled::Done(answer) => return Ok(answer),
                Settled::Again => repeated = true,
                Settled::NotDone => return Err(error.into()),
                Settled::Open => {
                    self.effects.in_doubt = true;
                    telemetry::write_uncertain(self.reach.event, asked.write.delivery, &asked.call);
                    return Err(error.into());
                }
            }
        }
    }

    async fn answered(&mut self, asked: &Asked, answer: String, record: Option<String>) -> Result<String, Failure> {
        let recorded = self.reach.scrubber.scrub(&answer).into_owned();
        let written = Written::Answered { answer: recorded, record };
        self.reach.journal.written(asked.write.clone(), written).await?;
        Ok(answer)
    }

    /// Changes fields of a record, unless that was done before.
    pub(super) async fn crm_update(
        &mut self,
        kind: update::Kind,
        id: u64,
        changes: &Map<String, Value>,
        accepted: &[String],
    ) -> Result<Vec<String>, Failure> {
        let call = format!("{}.update", kind.as_str());
        let mut all = json!({ "id": id, "changes": changes });
        if let Some(all) = all.as_object_mut().filter(|_| !accepted.is_empty()) {
            all.insert("accepted".to_owned(), accepted.into());
        }
        let write = self.write(&safe(&call), &all);
        let known = self.reach.journal.known_write(&write)?;
        // One of which a part did not take is made again: an operator may have switched the field on.
        if let Some(Intended::Answered(answer)) = &known
            && let Ok(fields) = serde_json::from_str::<Vec<String>>(answer)
        {
            self.record_again(&call, &all, Ok(answer), "done before");
            return Ok(fields);
        }
        if matches!(&known, Some(Intended::Answered(_))) {
            // Only a part took: what is sent now is a new write, with events of its own.
            self.reach.journal.written(write.clone(), Written::Withdrawn).await?;
        }
        if !accepted.is_empty() {
            self.record_again(&call, &all, Ok("the loss of these columns is accepted by the plugin"), "losing");
        }
        // One whose answer was lost is made again: it reads first, and writes nothing where nothing is left to change.
        let target = Target { kind: kind.as_str(), record: Some(id.to_string()), repeat: Repeat::Harmless };
        let intent = self.intent(write.clone(), &call, &target);
        let mut caller = Updating { attempt: self, intent: Some(intent), sent: false, trouble: None };
        let result = update::update(&mut caller, Wish { kind, id, changes, accepted }).await;
        let (sent, trouble) = (caller.sent, caller.trouble.take());
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let in_doubt = matches!(known, Some(Intended::Uncertain { .. }));
        let changed = match result {
            // What the lost answer was about is there.
            Ok(changed) if in_doubt && changed == Changed::default() => {
                Changed { fields: changes.keys().cloned().collect(), ..changed }
            }
            Ok(changed) if !sent => return Ok(changed.told(kind)?),
            Ok(changed) => changed,
            Err(error) => {
                // After a page of PHP's own the record was looked at: it is as it was.
                let looked = matches!(error, crm::Error::NotTheApi(Stranger::Php(_)));
                if sent && (looked || error.nothing_was_done()) {
                    self.reach.journal.written(write, Written::Withdrawn).await?;
                } else if sent || in_doubt && error.is_no_answer() {
                    self.effects.in_doubt = true;
                    telemetry::write_uncertain(self.reach.event, write.delivery, &call);
                }
                return Err(error.into());
            }
        };
        let written = match (&changed.fields[..], changed.not_written.is_empty()) {
            ([], false) => Written::Withdrawn,
            (fields, true) => Written::Answered { answer: json!(fields).to_string(), record: None },
            (fields, false) => {
                let answer = json!({ "written": fields, "not_written": changed.not_written }).to_string();
                Written::Answered { answer, record: None }
            }
        };
        self.reach.journal.written(write, written).await?;
        Ok(changed.told(kind)?)
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
            let intent = self.attempt.expecting(intent, method, action, &arguments);
            if let Err(error) = self.attempt.reach.journal.intend(intent).await {
                self.trouble = Some(error.into());
                return Err(crm::Error::Unsent("the write can't be recorded".into()));
            }
            self.sent = true;
        }
        self.attempt.crm_call(method, action, &arguments).await?.value()
    }

    async fn own_user(&mut self) -> Result<u64, crm::Error> {
        self.attempt.own_user().await
    }

    fn shows_writes(&self) -> bool {
        self.attempt.shows_writes()
    }
}

/// Reads that the host makes for itself.
pub(super) struct Plain<'a>(pub(super) &'a mut Attempt);

impl Caller for Plain<'_> {
    async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, crm::Error> {
        self.0.crm_call(method, action, &arguments).await?.value()
    }

    async fn own_user(&mut self) -> Result<u64, crm::Error> {
        self.0.own_user().await
    }

    fn shows_writes(&self) -> bool {
        self.0.shows_writes()
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
