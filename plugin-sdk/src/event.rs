//! What happened in the CRM: the event as it was delivered, and a type for every name in the CRM's catalogue.
//!
//! - An event is a hint, not a fact: anybody who reaches the CRM can forge one, duplicates and late ones are normal,
//!   and most carry ids only. A plugin that acts on more than the id reads the record back.
//! - [`Event::fields`] holds what the CRM sent and never loses anything; the typed forms are a reading of it.
//! - An unknown name is [`EventData::Other`], never an error: the CRM's own plugins may fire what they like.

mod catalogue;
mod macros;
mod read;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::{Map, Value};

use crate::Result;

pub use catalogue::*;
pub use value::{Amount, Changes, Reassigned};

/// How an event came in.
///
/// # Example
/// ```
/// assert_eq!(salesman_plugin_sdk::Via::Json.as_str(), "json");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// `POST` with a form body, as the CRM's `developer/events.php` sends it.
    Form,
    /// `GET` with the fields in the query string.
    Query,
    /// `POST` with JSON, as the CRM's webhooks send it.
    Json,
    /// Not sent by the CRM: the host found the change by reading the CRM's lists.
    Poll,
}

impl Via {
    /// The lower-case word for it: `form`, `query` or `json`.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Via::Form.as_str(), "form");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Query => "query",
            Self::Json => "json",
            Self::Poll => "poll",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The record that an event is about.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Entity, testing};
/// let event = testing::event("deal.close", &[("did", "4")]);
/// assert_eq!(event.entity, Some(Entity { kind: "deal".into(), id: "4".into() }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entity {
    /// The event's family: `client`, `person`, `deal`, `task`, `history`, `invoice`, `lead`, `entry`, `contract`, `akt`.
    pub kind: String,
    /// The record's number in the CRM, as text.
    pub id: String,
}

impl fmt::Display for Entity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind, self.id)
    }
}

/// One event of the CRM, and which delivery of it this is.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{EventData, testing};
///
/// let event = testing::event("deal.change.step", &[("did", "4"), ("stepOld", "20"), ("stepNew", "40")]);
/// match event.data()? {
///     EventData::DealChangeStep(change) => assert_eq!(change.step_new.as_deref(), Some("40")),
///     _ => unreachable!(),
/// }
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's id: a version 7 UUID, given by the host. The same in every attempt.
    pub id: String,
    /// The account (CRM) it came from, as the host's configuration names it.
    pub account: String,
    /// The name as the CRM sent it: `deal.change.step`.
    pub name: String,
    /// When the host received it: milliseconds since 1970-01-01 UTC. The CRM itself sends no time.
    pub received_at: u64,
    /// How it came in.
    pub via: Via,
    /// `iduser1`: the employee who caused it, or the one whose login was given to the API. The only reliable field of
    /// that kind; `autor` and `user` are not.
    pub actor: Option<u64>,
    /// The record it is about, where name and fields tell.
    pub entity: Option<Entity>,
    /// All other arguments, nested as the CRM sent them. Scalars are text.
    pub fields: Map<String, Value>,
    /// Which attempt at this delivery this is, from 1.
    pub attempt: u32,
}

impl Event {
    /// The event in the type of its name; [`EventData::Other`] for a name outside the catalogue.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) when the record's own id is missing, or a number is not one. Everything that
    /// the CRM may leave out is an `Option`, an empty list or empty changes, and never fails.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{EventData, testing};
    ///
    /// assert_eq!(testing::event("my.own", &[]).data()?, EventData::Other);
    /// let error = testing::event("deal.close", &[]).data().unwrap_err();
    /// assert_eq!(error.to_string(), "event `deal.close`: the field `did` is missing");
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn data(&self) -> Result<EventData> {
        EventData::read(&self.name, &self.fields)
    }

    /// The text of a top-level field; `None` where it is missing or nested.
    ///
    /// # Example
    /// ```
    /// let event = salesman_plugin_sdk::testing::event("deal.close", &[("did", "4"), ("status", "Победа")]);
    /// assert_eq!(event.field("status"), Some("Победа"));
    /// assert_eq!(event.field("reason"), None);
    /// ```
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// Of an `*.add`: whether the host knows that the record was there before. The CRM's express form sends `client.add` and
    /// `person.add` for records that it only changed. `false` where nothing is known.
    ///
    /// The host says so in the field `@known`, which no sender can set.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing;
    /// assert!(!testing::event("client.add", &[("clid", "8")]).known());
    /// assert!(testing::event("client.add", &[("clid", "8"), ("@known", "1")]).known());
    /// ```
    pub fn known(&self) -> bool {
        self.field("@known") == Some("1")
    }

    /// A top-level field as a whole number; `None` where it is missing or not one. 0 stays 0, although the CRM means
    /// "none" by it in most fields.
    ///
    /// # Example
    /// ```
    /// let event = salesman_plugin_sdk::testing::event("deal.close", &[("did", "4"), ("status", "Победа")]);
    /// assert_eq!(event.number("did"), Some(4));
    /// assert_eq!(event.number("status"), None);
    /// ```
    pub fn number(&self, name: &str) -> Option<u64> {
        read::number(self.fields.get(name)?)
    }
}

/// The record that an event of this name with these fields is about.
///
/// The family is the part of the name before the first dot; `document.*` counts as `contract`. An id that is missing,
/// empty or `0` (the CRM's "none") gives no entity; so do mass events, which hold many records.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Entity, entity_of};
/// use serde_json::{Value, json};
///
/// let Value::Object(fields) = json!({ "deid": "2", "did": "0" }) else { unreachable!() };
/// assert_eq!(entity_of("contract.delete", &fields), Some(Entity { kind: "contract".into(), id: "2".into() }));
/// assert_eq!(entity_of("deal.delete", &fields), None);
/// ```
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
    let id = keys.iter().find_map(|key| read::text(fields.get(*key)?).filter(|id| !id.is_empty() && id != "0"))?;
    Some(Entity { kind: kind.to_owned(), id })
}
