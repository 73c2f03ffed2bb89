//! The plugin's own memory: read as it is stored, written with the outcome.
//!
//! Each stored value that the plugin sees is recorded once, and each listing, so that the attempt can be rehearsed later.
//! What is stored is never changed on the way: a key or value that holds a secret of the configuration is refused instead.

use std::collections::BTreeMap;

use super::{Attempt, LimitHit};
use crate::contract::state::{Error, Host};
use crate::journal::StateUse;
use crate::outcome::{FaultKind, Quota, StateWrite};
use crate::plugin::{Limits, RAISE};

/// Bytes of a key.
const MOST_KEY: usize = 256;
/// Bytes of a value.
const MOST_VALUE: usize = 64 << 10;
/// Keys of one answer.
const MOST_KEYS: usize = 1_000;

/// A recorded read: the key, and what was stored there.
pub const STATE_READ: &str = "state read";
/// A recorded read of a key that was not there.
pub const STATE_READ_NONE: &str = "state read (no such key)";
/// A recorded listing: the stored keys, as a JSON list.
pub const STATE_KEYS: &str = "state keys";

/// Why something is not stored. The settings have it at any time.
const SECRET: &str = "holds a secret of the configuration, which is not stored: read it from the settings each time";

/// What the attempt did to one key, and how the key reads now.
pub(super) struct Pending {
    write: StateWrite,
    value: Option<String>,
}

/// The last word on each key.
pub(super) fn writes(overlay: BTreeMap<String, Pending>) -> Vec<(String, StateWrite)> {
    overlay.into_iter().map(|(key, pending)| (key, pending.write)).collect()
}

impl Pending {
    fn bytes(&self) -> u64 {
        self.value.as_ref().map_or(0, |value| size(value))
    }
}

fn size(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Attempt {
    /// Counts the call and checks key and grant.
    fn state_call(&mut self, key: &str) -> Answer<()> {
        self.count()?;
        if let Err(refusal) = self.reach.grants.state() {
            return Ok(Err(Error::NotGranted(refusal.to_string())));
        }
        if key.is_empty() || key.len() > MOST_KEY || key.chars().any(char::is_control) {
            return Ok(Err(Error::Invalid(format!("a key has 1 to {MOST_KEY} bytes and no control characters"))));
        }
        if self.reach.scrubber.finds(key) {
            return Ok(Err(Error::Invalid(format!("the key {SECRET}"))));
        }
        Ok(Ok(()))
    }

    /// Takes up a write, if the attempt may write so much, and its plugin keep it. Only near the plugin's bound is it
    /// looked at what each key had before; what other attempts write meanwhile is seen when the outcome is stored.
    fn take_up(&mut self, key: String, pending: Pending) -> Answer<()> {
        let had = self.overlay.get(&key).map_or(0, |before| size(&key) + before.bytes());
        let written = self.written - had + size(&key) + pending.bytes();
        if written > Limits::STATE_WRITES {
            let words = format!("one attempt writes at most {} bytes of state", Limits::STATE_WRITES);
            return Ok(Err(full(&words)));
        }
        let kept = match self.kept_state {
            Some(kept) => kept,
            None => *self.kept_state.insert(self.reach.state.used().map_err(unreadable)?),
        };
        let keys = u64::try_from(self.overlay.len()).unwrap_or(u64::MAX) + 1;
        let replaced = self.overlay.insert(key.clone(), pending);
        let near = kept.bytes + written > self.quota.bytes || kept.keys + keys > self.quota.keys;
        if near && self.has_grown_too_far(kept)? {
            match replaced {
                Some(before) => self.overlay.insert(key, before),
                None => self.overlay.remove(&key),
            };
            let Quota { bytes, keys } = self.quota;
            let words = format!(
                "the plugin's state is full, {} MiB and {keys} keys for each CRM are allowed: delete what is no longer \
                 needed, or have `state_mib` or `state_keys` raised {RAISE}",
                bytes >> 20
            );
            return Ok(Err(full(&words)));
        }
        self.written = written;
        Ok(Ok(()))
    }

    /// Whether what is written makes more of what was kept, and more than may be.
    fn has_grown_too_far(&self, kept: StateUse) -> Result<bool, LimitHit> {
        let (mut bytes, mut keys) = (kept.bytes, kept.keys);
        for (key, pending) in &self.overlay {
            let before = self.reach.state.size(key).map_err(unreadable)?;
            let after = if pending.value.is_some() { size(key) + pending.bytes() } else { 0 };
            bytes = (bytes + after).saturating_sub(before);
            keys = (keys + u64::from(after > 0)).saturating_sub(u64::from(before > 0));
        }
        Ok(bytes > self.quota.bytes.max(kept.bytes) || keys > self.quota.keys.max(kept.keys))
    }

    fn stored(&mut self, key: &str) -> Result<Option<(String, u64)>, LimitHit> {
        let at = self.since_start();
        let stored = self.reach.state.get(key).map_err(unreadable)?;
        if self.state_read.insert(key.to_owned()) {
            match &stored {
                Some((value, _)) => self.record(at, STATE_READ.to_owned(), key, Ok(value)),
                None => self.record(at, STATE_READ_NONE.to_owned(), key, Ok("")),
            }
        }
        Ok(stored)
    }
}

/// A refusal with the code by which it is known.
fn full(words: &str) -> Error {
    Error::Invalid(format!("{}: {words}", FaultKind::StateLimit.code()))
}

/// The store's trouble is not the plugin's: the attempt ends as the host's fault, and is made again.
fn unreadable(error: crate::journal::Error) -> LimitHit {
    crate::telemetry::host_fault("state", &error);
    LimitHit { kind: FaultKind::Host, detail: "the plugin's state can't be read now: the host's log says why".into() }
}

impl Host for Attempt {
    async fn get(&mut self, key: String) -> Answer<Option<String>> {
        if let Err(error) = self.state_call(&key)? {
            return Ok(Err(error));
        }
        if let Some(pending) = self.overlay.get(&key)
            && !matches!(pending.write, StateWrite::Add(_))
        {
            return Ok(Ok(pending.value.clone()));
        }
        let stored = self.stored(&key)?;
        if !self.effects.state.seen.iter().any(|(seen, _)| *seen == key) {
            self.effects.state.seen.push((key.clone(), stored.as_ref().map(|(_, version)| *version)));
        }
        // A number that the plugin has added to is read as it will be.
        Ok(Ok(match self.overlay.get(&key) {
            Some(pending) => pending.value.clone(),
            None => stored.map(|(value, _)| value),
        }))
    }

    async fn set(&mut self, key: String, value: String) -> Answer<()> {
        if let Err(error) = self.state_call(&key)? {
            return Ok(Err(error));
        }
        if value.len() > MOST_VALUE {
            return Ok(Err(Error::Invalid(format!(
                "a value has at most {MOST_VALUE} bytes, this one has {}",
                value.len()
            ))));
        }
        if self.reach.scrubber.finds(&value) {
            return Ok(Err(Error::Invalid(format!("the value {SECRET}"))));
        }
        self.take_up(key, Pending { write: StateWrite::Set(value.clone()), value: Some(value) })
    }

    async fn delete(&mut self, key: String) -> Answer<()> {
        if let Err(error) = self.state_call(&key)? {
            return Ok(Err(error));
        }
        self.take_up(key, Pending { write: StateWrite::Delete, value: None })
    }

    async fn increment(&mut self, key: String, amount: i64) -> Answer<i64> {
        if let Err(error) = self.state_call(&key)? {
            return Ok(Err(error));
        }
        let current = match self.overlay.get(&key) {
            Some(pending) => pending.value.clone(),
            None => self.stored(&key)?.map(|(value, _)| value),
        };
        let sum = match current.as_deref().map_or(Ok(0), str::parse::<i64>).map(|current| current.checked_add(amount)) {
            Ok(Some(sum)) => sum,
            _ => {
                return Ok(Err(Error::Invalid(format!(
                    "the value of `{key}` is not a whole number that can grow by {amount}"
                ))));
            }
        };
        let write = match self.overlay.get(&key).map(|pending| &pending.write) {
            // On top of the plugin's own value the sum is that value; otherwise only the growth is stored.
            Some(StateWrite::Set(_) | StateWrite::Delete) => StateWrite::Set(sum.to_string()),
            Some(StateWrite::Add(before)) => StateWrite::Add(before.saturating_add(amount)),
            None => StateWrite::Add(amount),
        };
        Ok(self.take_up(key, Pending { write, value: Some(sum.to_string()) })?.map(|()| sum))
    }

    async fn keys(&mut self, prefix: String, after: Option<String>) -> Answer<Vec<String>> {
        if let Err(error) = self.state_call("keys")? {
            return Ok(Err(error));
        }
        let after = after.unwrap_or_default();
        // Enough stored keys that, with every one of the plugin's deletes gone, a full answer is left.
        let at = self.since_start();
        let stored = self.reach.state.keys(&prefix, &after, MOST_KEYS + self.overlay.len()).map_err(unreadable)?;
        let asked = serde_json::json!({ "prefix": prefix, "after": after }).to_string();
        self.record(at, STATE_KEYS.to_owned(), &asked, Ok(&serde_json::Value::from(stored.clone()).to_string()));
        let mut keys: std::collections::BTreeSet<String> = stored.into_iter().collect();
        for (key, pending) in self.overlay.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after) {
            if pending.value.is_some() {
                keys.insert(key.clone())
            } else {
                keys.remove(key)
            };
        }
        Ok(Ok(keys.into_iter().take(MOST_KEYS).collect()))
    }
}
