//! What arrived: one event of the CRM in its normal form.
//!
//! - The same event has the same form, whichever of the three ways it came.
//! - It never changes after intake.
//! - It is a hint: anyone who reaches the CRM can forge one (measured on version 2025.4). Plugins read the record back.
//!
//! Not here: how it is decoded (`ingress`), stored (`journal`) or handed to a plugin (`contract`).

pub mod content;
pub mod told;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// An event's id: a version 7 UUID, so that ids sort by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct EventId(Uuid);

/// An id of now; of the first moment that an id can name where the clock stands before it.
fn fresh() -> Uuid {
    if SystemTime::now() < UNIX_EPOCH {
        return Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 0, 0));
    }
    Uuid::now_v7()
}

impl EventId {
    /// A new id, later than all ids that this process gave or knew of before, whatever the clock did since.
    pub fn new() -> Self {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = fresh().as_u128().max(next(*last));
        Self(Uuid::from_u128(*last))
    }

    /// Has every new id of this process sort after this one: the newest that is stored may be from a time when the clock went
    /// before.
    pub fn begin_after(stored: Self) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        // Others' ids need not have times in them.
        if stored.0.get_version_num() == 7 {
            *last = stored.0.as_u128().max(*last);
        }
    }

    /// Reads the 36-character form.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The 16 bytes that are stored.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// An id from its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

/// The last id of this process: ids have to keep their order across all threads, and across steps of the clock.
static LAST: Mutex<u128> = Mutex::new(0);

/// An id that sorts after another, by a step that cannot be foretold, so that two hosts hardly meet.
fn next(id: u128) -> u128 {
    let bits = |from: u32, count: u32| (id >> from) & ((1 << count) - 1);
    // Milliseconds, then what is left of the version's and the variant's bits.
    let counter = (bits(80, 48) << 74) | (bits(64, 12) << 62) | bits(0, 62);
    let step = 1 + (fresh().as_u128() & 0xffff_ffff);
    let counter = counter.saturating_add(step) & ((1 << 122) - 1);
    let bits = |from: u32, count: u32| (counter >> from) & ((1 << count) - 1);
    (bits(74, 48) << 80) | (7 << 76) | (bits(62, 12) << 64) | (2 << 62) | bits(0, 62)
}

impl Default for EventId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How an event came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// `POST` with a form body: the CRM's `developer/events.php`.
    Form,
    /// `GET` with a query string: an administrator's own variant of it.
    Query,
    /// `POST` with JSON: the CRM's webhooks, or the file that `events-php` writes.
    Json,
    /// Not sent: found by reading the CRM's lists.
    Poll,
}

impl Via {
    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Query => "query",
            Self::Json => "json",
            Self::Poll => "poll",
        }
    }

    /// Reads the stored word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Form, Self::Query, Self::Json, Self::Poll].into_iter().find(|via| via.as_str() == text)
    }
}

/// The record that an event is about. Events of one entity are handled in arrival order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entity {
    /// The event's family: `client`, `deal`, `task`, …
    pub kind: String,
    /// The record's number, as text.
    pub id: String,
}

impl fmt::Display for Entity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind, self.id)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Given at intake.
    pub id: EventId,
    /// Which CRM sent it: the name of a `[crm.NAME]` section.
    pub account: String,
    /// The CRM's name of it, unknown ones included.
    pub name: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub received_at: i64,
    /// How it came in.
    pub via: Via,
    /// `iduser1`, the only field that names the actor reliably (measured).
    pub actor: Option<u64>,
    /// The record it is about, where name and fields tell.
    pub entity: Option<Entity>,
    /// All other arguments: a JSON object as text, every scalar a string. Text, because it is stored and handed on
    /// far more often than it is looked into.
    pub fields: String,
}

/// What became of an event that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is stored.
    New(EventId),
    /// It was stored before, under the same key and with this id.
    Known(EventId),
    /// Its key is that of another event, which stays; it is not stored.
    KeyReused(EventId),
}

/// The field in which a plugin is told that the record of an `*.add` is known. None of the CRM's own fields has such a name.
pub const KNOWN: &str = "@known";

impl Event {
    /// Says in the fields whether the record of an `*.add` is known; what a sender says about it counts for nothing.
    pub fn mark(&mut self, known: bool) {
        if !known && !self.fields.contains(KNOWN) {
            return;
        }
        let mut fields: Map<String, Value> = serde_json::from_str(&self.fields).unwrap_or_default();
        fields.shift_remove(KNOWN);
        if known {
            fields.insert(KNOWN.to_owned(), "1".into());
        }
        self.fields = Value::Object(fields).to_string();
    }
}

/// The fields that a record's number may come from.
pub const RECORD_FIELDS: [&str; 6] = ["clid", "pid", "did", "id", "tid", "deid"];
/// The field that names the actor.
pub const ACTOR_FIELD: &str = "iduser1";

/// The entity that an event of this name with these fields is about.
///
/// The family is the part of the name before the first dot. An id that is missing, empty or `0` (the CRM's "none") gives
/// no entity; so do mass events, which hold many records.
pub fn entity_of(name: &str, fields: &Map<String, Value>) -> Option<Entity> {
    let family = name.split('.').next()?;
    let (kind, keys): (&str, &[&str]) = match family {
        "client" => ("client", &["clid"]),
        "person" => ("person", &["pid"]),
        "deal" => ("deal", &["did"]),
        // The express form sends `tid` instead of `id`.
        "task" => ("task", &["id", "tid"]),
        // `contract.delete` sends `deid`; `document.add` is the unregistered twin of `contract.add`.
        "contract" | "document" => ("contract", &["id", "deid"]),
        other => (other, &["id"]),
    };
    let id = keys.iter().find_map(|key| fields.get(*key)?.as_str().filter(|id| !id.is_empty() && *id != "0"))?;
    Some(Entity { kind: kind.to_owned(), id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_order_after_a_time_that_was_far_ahead_and_stay_what_they_are() {
        let year = 365 * 24 * 3_600_u64;
        let ahead = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + year;
        let ahead = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, ahead, 0));
        EventId::begin_after(EventId(ahead));
        let mut before = EventId(ahead);
        for _ in 0..10_000 {
            let id = EventId::new();
            assert!(id > before && id.0.get_version_num() == 7 && id.0.get_variant() == uuid::Variant::RFC4122);
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
            before = id;
        }
        // One that has no time in it says nothing.
        EventId::begin_after(EventId(Uuid::from_u128(u128::MAX)));
        assert!(EventId::new().0.as_u128() < u128::MAX / 2);
        // A carry goes over the bits that are no number's.
        let full = (7 << 76) | (0xfff << 64) | (2 << 62) | ((1 << 62) - 1) | (5 << 80);
        assert_eq!(next(full) >> 80, 6);
    }
}
