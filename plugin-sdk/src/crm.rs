//! The CRM's REST API v2, with answers and errors that say what they are.

mod activities;
mod fields;
mod list;
mod read;
mod records;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

pub use self::activities::{HistoryEntry, PersonLink, Task};
pub use self::list::List;
pub use self::read::Records;
pub use self::records::{Client, Deal, Person};
use crate::host::Backend;
use crate::{Error, Result};

/// Why a call to the CRM brought no good answer.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::CrmError;
/// let error = CrmError::Refused { code: Some("403".into()), text: "Сделка не найдена".into() };
/// assert_eq!(error.to_string(), "the CRM refused with code 403: Сделка не найдена");
/// assert_eq!(error.code(), Some("403"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrmError {
    /// The plugin's grants do not cover the call. The text says which side refused and where to add it.
    NotGranted(String),
    /// The CRM refused.
    Refused {
        /// Its code, where there is one. The CRM sends numbers and strings; here it is always text.
        code: Option<String>,
        /// Its own words, mostly Russian.
        text: String,
    },
    /// The CRM could not be reached, or did not answer in time. A write may have happened all the same.
    Transport(String),
    /// An answer came that the API does not give: a PHP error page, broken JSON. A write may have happened all the same.
    BadAnswer(String),
    /// The arguments are wrong, or this delivery's limit of calls is used up.
    Invalid(String),
    /// An earlier attempt sent this very write, its answer was lost, and looking does not tell whether it was done. It is
    /// not sent again. Returned from the handler it makes a dead letter: somebody must look.
    Uncertain(String),
}

impl CrmError {
    /// The code of a refusal by the host: the update would lose columns, which the text names.
    ///
    /// # Example
    /// See [`Crm::update_losing`].
    pub const WOULD_LOSE: &'static str = "crm.would_lose";
    /// The code of a refusal by the host: the CRM did not write some fields, which the text names.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::CrmError::NOT_WRITTEN, "crm.not_written");
    /// ```
    pub const NOT_WRITTEN: &'static str = "crm.not_written";

    /// The CRM's own code, where it refused with one.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::CrmError;
    /// assert_eq!(CrmError::Transport("refused".into()).code(), None);
    /// ```
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for CrmError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code: Some(code), text } if code.starts_with("crm.") => write!(formatter, "{code}: {text}"),
            Self::Refused { code: Some(code), text } => write!(formatter, "the CRM refused with code {code}: {text}"),
            Self::Refused { code: None, text } => write!(formatter, "the CRM refused: {text}"),
            Self::NotGranted(text) => formatter.write_str(text),
            Self::Transport(text) => write!(formatter, "the CRM could not be reached: {text}"),
            Self::BadAnswer(text) => write!(formatter, "the CRM gave an answer that is not the API's: {text}"),
            Self::Invalid(text) => write!(formatter, "the call can't be made: {text}"),
            Self::Uncertain(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for CrmError {}

/// The records that [`Crm::update`] changes without loss.
///
/// # Example
/// ```
/// assert_eq!(salesman_plugin_sdk::RecordKind::Person.as_str(), "person");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A client, by `clid`.
    Client,
    /// A contact person, by `pid`.
    Person,
    /// A deal, by `did`.
    Deal,
    /// A task, by `id`.
    Task,
}

impl RecordKind {
    /// The CRM's name of it.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::RecordKind::Deal.as_str(), "deal");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Person => "person",
            Self::Deal => "deal",
            Self::Task => "task",
        }
    }
}

/// A good answer of the CRM.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Answer;
/// let answer = Answer(serde_json::json!({ "result": "Успешно", "data": 12 }));
/// assert_eq!(answer.id(), Some(12));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Answer(
    /// The answer's whole body.
    pub Value,
);

impl Answer {
    /// What the answer holds under `data`; the body itself where it is a list; null where there is neither.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Answer;
    /// // Past the last page the CRM sends the count alone.
    /// assert!(Answer(serde_json::json!({ "count": 450 })).data().is_null());
    /// ```
    pub fn data(&self) -> &Value {
        match &self.0 {
            Value::Array(_) => &self.0,
            body => body.get("data").unwrap_or(&Value::Null),
        }
    }

    /// The list that the answer holds; empty where the CRM sends none, in whichever of its three ways.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Answer;
    /// assert!(Answer(serde_json::json!({ "count": 0 })).records().is_empty());
    /// assert!(Answer(serde_json::json!([])).records().is_empty());
    /// ```
    pub fn records(&self) -> &[Value] {
        self.data().as_array().map_or(&[], Vec::as_slice)
    }

    /// The number of the record that was written, as `add` and `update` answer it.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Answer;
    /// assert_eq!(Answer(serde_json::json!({ "data": "7" })).id(), Some(7));
    /// ```
    pub fn id(&self) -> Option<u64> {
        match self.data() {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// `data` in a type of the plugin's own.
    ///
    /// # Errors
    /// [`Error::Data`] when it does not fit.
    ///
    /// # Example
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Client { title: String }
    /// let answer = salesman_plugin_sdk::Answer(serde_json::json!({ "data": { "title": "Ромашка" } }));
    /// assert_eq!(answer.read::<Client>()?.title, "Ромашка");
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(self.data()).map_err(|error| Error::Data(format!("the CRM's answer does not fit: {error}")))
    }
}

/// The CRM's REST API.
#[derive(Clone, Copy)]
pub struct Crm<'a> {
    backend: &'a dyn Backend,
}

impl<'a> Crm<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend }
    }

    /// Calls `method.action` as it is. Credentials, pace and retries of reads are the host's business.
    ///
    /// A write that an earlier attempt at this delivery completed is not sent again: its answer comes back. Nor is one whose
    /// answer was lost sent blindly: the host looks for an added record first ([`CrmError::Uncertain`] when it can't tell).
    ///
    /// **Danger:** `person.update` empties every field that is not sent, `deal.update` the list of contacts,
    /// `task.update` description and priority. [`Crm::update`] does not.
    ///
    /// # Errors
    /// [`CrmError`], all variants; [`CrmError::Invalid`] when `arguments` is not a JSON object.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("task.add", json!({ "result": "Успешно", "data": 5 }));
    /// let answer = fake.host().crm().call("task", "add", &json!({ "title": "Позвонить" }))?;
    /// assert_eq!(answer.id(), Some(5));
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn call(&self, method: &str, action: &str, arguments: &impl Serialize) -> Result<Answer, CrmError> {
        self.backend.crm_call(method, action, &object(arguments)?).map(Answer)
    }

    /// Changes the named fields of a record and leaves all others as they are.
    ///
    /// The host reads the record, merges, and sends whatever the CRM would otherwise blank; it sends nothing when
    /// nothing changes. Returns the names of the fields that were written: empty when nothing was sent.
    ///
    /// What the API can't preserve is refused before anything is sent, with the code [`CrmError::WOULD_LOSE`]: every
    /// change of a deal or a task at present, and of a contact whose responsible employee can't be found out. Fields that the
    /// CRM did not write (switched off there, read only, an emoji) are refused with [`CrmError::NOT_WRITTEN`]. Both name the
    /// columns, and make a dead letter where the handler returns them.
    ///
    /// # Errors
    /// [`CrmError`], all variants; [`CrmError::Refused`] when there is no such record.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{RecordKind, testing::FakeHost};
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().record(RecordKind::Person, 3, json!({ "person": "Пётр", "mob": "89160000000" }));
    /// let changed = fake.host().crm().update(RecordKind::Person, 3, &json!({ "mob": "+79160000000" }))?;
    /// assert_eq!(changed, ["mob"]);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn update(&self, kind: RecordKind, id: u64, changes: &impl Serialize) -> Result<Vec<String>, CrmError> {
        self.backend.crm_update(kind, id, &object(changes)?, &[])
    }

    /// The same, where the loss of the columns in `accepted` is accepted: "I know". It is recorded with the attempt. The loss
    /// of any other column is refused all the same.
    ///
    /// # Errors
    /// As [`Crm::update`].
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{CrmError, RecordKind, testing::FakeHost};
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new()
    ///     .record(RecordKind::Deal, 4, json!({ "adres": "улица" }))
    ///     .would_lose(RecordKind::Deal, 4, &["coid1", "pid"]);
    /// let (crm, change) = (fake.host().crm(), json!({ "adres": "другая" }));
    /// let refused = crm.update(RecordKind::Deal, 4, &change);
    /// assert_eq!(refused.unwrap_err().code(), Some(CrmError::WOULD_LOSE));
    /// // This CRM notes no competitors and no main contact in its deals.
    /// assert_eq!(crm.update_losing(RecordKind::Deal, 4, &change, &["coid1", "pid"])?, ["adres"]);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn update_losing(
        &self,
        kind: RecordKind,
        id: u64,
        changes: &impl Serialize,
        accepted: &[&str],
    ) -> Result<Vec<String>, CrmError> {
        let accepted: Vec<String> = accepted.iter().map(|column| (*column).to_owned()).collect();
        self.backend.crm_update(kind, id, &object(changes)?, &accepted)
    }

    /// Reads a deal by `deal.list` with a filter, because `deal.info` answers null for most fields.
    ///
    /// # Errors
    /// [`CrmError`], all variants. `Ok(None)` when the list does not hold the deal.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("deal.list", json!({ "data": [{ "did": 4, "title": "Поставка" }], "count": 1 }));
    /// let deal = fake.host().crm().deal(4)?;
    /// assert_eq!(deal.and_then(|deal| deal["title"].as_str().map(String::from)).as_deref(), Some("Поставка"));
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn deal(&self, did: u64) -> Result<Option<Value>, CrmError> {
        let answer = self.call("deal", "list", &json!({ "filter": { "did": did }, "order": "did", "first": "old" }))?;
        Ok(answer.records().iter().find(|deal| number(&deal["did"]) == Some(did)).cloned())
    }

    /// Reads a client by `client.info`.
    ///
    /// # Errors
    /// [`CrmError`], all variants; [`CrmError::Refused`] with code 403 or 404 when there is none.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("client.info", json!({ "data": { "clid": 1, "phone": "84951110000" } }));
    /// assert_eq!(fake.host().crm().client(1)?["phone"], "84951110000");
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn client(&self, clid: u64) -> Result<Value, CrmError> {
        Ok(self.call("client", "info", &json!({ "clid": clid }))?.data().clone())
    }

    /// Reads a contact person by `person.info`. The CRM answers a record of nulls for one that it does not know:
    /// that is `None` here.
    ///
    /// # Errors
    /// [`CrmError`], all variants.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("person.info", json!({ "data": { "pid": null, "person": null } }));
    /// assert_eq!(fake.host().crm().person(99999)?, None);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn person(&self, pid: u64) -> Result<Option<Value>, CrmError> {
        let answer = self.call("person", "info", &json!({ "pid": pid }))?;
        Ok((number(&answer.data()["pid"]) == Some(pid)).then(|| answer.data().clone()))
    }
}

/// A number that the CRM sends as a number or as text.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn object(arguments: &impl Serialize) -> Result<Map<String, Value>, CrmError> {
    match serde_json::to_value(arguments) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(CrmError::Invalid("the arguments must be a JSON object".into())),
        Err(error) => Err(CrmError::Invalid(format!("the arguments can't be written as JSON: {error}"))),
    }
}
