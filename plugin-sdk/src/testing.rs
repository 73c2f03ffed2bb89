//! Runs a plugin's logic under plain `cargo test`, against a fake host: no WebAssembly, no server, no CRM.
//!
//! The fake answers what it was told to, applies [`Crm::update`](crate::Crm::update) to the records it was given, and
//! keeps everything that the handler did, for whole-value comparison. It does not imitate the CRM's behaviour.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use crate::event::entity_of;
use crate::host::Backend;
use crate::{CrmError, Event, Host, HttpError, Level, RecordKind, Request, Response, StateError, Via};

/// An event as the host would hand it over: first attempt, from employee 1 of the account `main`.
///
/// # Example
/// ```
/// let event = salesman_plugin_sdk::testing::event("deal.change.step", &[("did", "4"), ("stepNew", "40")]);
/// assert_eq!(event.field("stepNew"), Some("40"));
/// ```
pub fn event(name: &str, fields: &[(&str, &str)]) -> Event {
    let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    event_with(name, fields)
}

/// The same with nested fields.
///
/// # Example
/// ```
/// use serde_json::{Value, json};
/// let Value::Object(fields) = json!({ "clid": "1", "newparam": { "phone": "8 495 111-00-00" } }) else { unreachable!() };
/// assert_eq!(salesman_plugin_sdk::testing::event_with("client.edit", fields).number("clid"), Some(1));
/// ```
pub fn event_with(name: &str, fields: Map<String, Value>) -> Event {
    Event {
        id: "01936f5e-0000-7000-8000-000000000001".to_owned(),
        account: "main".to_owned(),
        name: name.to_owned(),
        received_at: 1_764_000_000_000,
        via: Via::Json,
        actor: Some(1),
        entity: entity_of(name, &fields),
        fields,
        attempt: 1,
    }
}

/// A host that answers what it was told to, and remembers what it was asked.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::testing::FakeHost;
/// use serde_json::json;
///
/// let fake = FakeHost::new().answer("task.add", json!({ "result": "Успешно", "data": 5 }));
/// fake.host().crm().call("task", "add", &json!({ "title": "Позвонить" }))?;
/// assert_eq!(fake.calls(), [("task.add".to_string(), json!({ "title": "Позвонить" }))]);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Default)]
pub struct FakeHost {
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    answers: BTreeMap<String, VecDeque<Result<Value, CrmError>>>,
    records: BTreeMap<(&'static str, u64), Map<String, Value>>,
    at_risk: BTreeMap<(&'static str, u64), Vec<String>>,
    responses: VecDeque<Result<Response, HttpError>>,
    settings: Map<String, Value>,
    state: BTreeMap<String, String>,
    calls: Vec<(String, Value)>,
    requests: Vec<Request>,
    lines: Vec<String>,
}

impl FakeHost {
    /// A host that knows nothing: every call to the CRM is refused, every request fails.
    ///
    /// # Example
    /// ```
    /// assert!(salesman_plugin_sdk::testing::FakeHost::new().calls().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The next answer to `method.action`. Several are given in order; the last one stays.
    ///
    /// # Example
    /// See [`FakeHost`].
    #[must_use]
    pub fn answer(self, call: &str, body: Value) -> Self {
        self.inner.borrow_mut().answers.entry(call.to_owned()).or_default().push_back(Ok(body));
        self
    }

    /// The next error for `method.action`, in the same queue as the answers.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{CrmError, testing::FakeHost};
    /// let fake = FakeHost::new().fail("deal.list", CrmError::Transport("refused".into()));
    /// assert!(fake.host().crm().deal(4).is_err());
    /// ```
    #[must_use]
    pub fn fail(self, call: &str, error: CrmError) -> Self {
        self.inner.borrow_mut().answers.entry(call.to_owned()).or_default().push_back(Err(error));
        self
    }

    /// A record that [`Crm::update`](crate::Crm::update) finds and changes.
    ///
    /// # Example
    /// See [`Crm::update`](crate::Crm::update).
    #[must_use]
    pub fn record(self, kind: RecordKind, id: u64, fields: Value) -> Self {
        if let Value::Object(fields) = fields {
            self.inner.borrow_mut().records.insert((kind.as_str(), id), fields);
        }
        self
    }

    /// Columns of a record that an update would lose: [`Crm::update`](crate::Crm::update) is refused, and
    /// [`Crm::update_losing`](crate::Crm::update_losing) where it does not accept all of them.
    ///
    /// # Example
    /// See [`Crm::update_losing`](crate::Crm::update_losing).
    #[must_use]
    pub fn would_lose(self, kind: RecordKind, id: u64, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        self.inner.borrow_mut().at_risk.insert((kind.as_str(), id), columns);
        self
    }

    /// The next answer to a request to the outside.
    ///
    /// # Example
    /// See [`Http::send`](crate::Http::send).
    #[must_use]
    pub fn respond(self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.inner.borrow_mut().responses.push_back(Ok(Response { status, headers: Vec::new(), body: body.into() }));
        self
    }

    /// The next failure of a request to the outside, in the same queue as the answers.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{HttpError, Request, testing::FakeHost};
    /// let fake = FakeHost::new().respond_error(HttpError::Transport("timed out".into()));
    /// assert!(fake.host().http().send(&Request::new("GET", "https://example.com/")).is_err());
    /// ```
    #[must_use]
    pub fn respond_error(self, error: HttpError) -> Self {
        self.inner.borrow_mut().responses.push_back(Err(error));
        self
    }

    /// The plugin's settings.
    ///
    /// # Example
    /// See [`Host::settings`].
    #[must_use]
    pub fn with_settings(self, settings: Value) -> Self {
        if let Value::Object(settings) = settings {
            self.inner.borrow_mut().settings = settings;
        }
        self
    }

    /// The door that a handler gets.
    ///
    /// # Example
    /// See [`FakeHost`].
    pub fn host(&self) -> Host<'_> {
        Host::new(self)
    }

    /// Every call to the CRM, in order: `method.action` and the arguments. An update stands as `kind.update` with the
    /// record's id under `id` and the changes under `changes`.
    ///
    /// # Example
    /// See [`FakeHost`].
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.inner.borrow().calls.clone()
    }

    /// Every request to the outside, in order.
    ///
    /// # Example
    /// ```
    /// assert!(salesman_plugin_sdk::testing::FakeHost::new().requests().is_empty());
    /// ```
    pub fn requests(&self) -> Vec<Request> {
        self.inner.borrow().requests.clone()
    }

    /// Every log line, as `level: text`.
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// fake.host().warn("no phone");
    /// assert_eq!(fake.lines(), ["warn: no phone"]);
    /// ```
    pub fn lines(&self) -> Vec<String> {
        self.inner.borrow().lines.clone()
    }

    /// The whole state, values as JSON text.
    ///
    /// # Example
    /// ```
    /// let fake = salesman_plugin_sdk::testing::FakeHost::new();
    /// fake.host().state().set("last", "40")?;
    /// assert_eq!(fake.state().get("last").map(String::as_str), Some("\"40\""));
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn state(&self) -> BTreeMap<String, String> {
        self.inner.borrow().state.clone()
    }
}

impl Backend for FakeHost {
    fn crm_call(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<Value, CrmError> {
        let mut inner = self.inner.borrow_mut();
        let call = format!("{method}.{action}");
        inner.calls.push((call.clone(), Value::Object(arguments.clone())));
        let no_answer =
            || CrmError::Invalid(format!("the fake host has no answer for `{call}`: give it one with `answer`"));
        let queue = inner.answers.get_mut(&call).ok_or_else(no_answer)?;
        if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }.ok_or_else(no_answer)?
    }

    fn crm_update(
        &self,
        kind: RecordKind,
        id: u64,
        changes: &Map<String, Value>,
        accepted: &[String],
    ) -> Result<Vec<String>, CrmError> {
        let mut inner = self.inner.borrow_mut();
        let call = match accepted {
            [] => json!({ "id": id, "changes": changes }),
            accepted => json!({ "id": id, "changes": changes, "accepted": accepted }),
        };
        inner.calls.push((format!("{}.update", kind.as_str()), call));
        let at_risk = inner.at_risk.get(&(kind.as_str(), id)).cloned().unwrap_or_default();
        let lost: Vec<String> = at_risk.into_iter().filter(|column| !accepted.contains(column)).collect();
        if !lost.is_empty() {
            let text = format!("`{}.update` would lose `{}`", kind.as_str(), lost.join("`, `"));
            return Err(CrmError::Refused { code: Some(CrmError::WOULD_LOSE.into()), text });
        }
        let Some(record) = inner.records.get_mut(&(kind.as_str(), id)) else {
            return Err(CrmError::Refused {
                code: Some("403".into()), text: "Запись не найдена".into()
            });
        };
        let mut changed = Vec::new();
        for (field, value) in changes {
            if record.get(field) != Some(value) {
                record.insert(field.clone(), value.clone());
                changed.push(field.clone());
            }
        }
        Ok(changed)
    }

    fn state_get(&self, key: &str) -> Result<Option<String>, StateError> {
        Ok(self.inner.borrow().state.get(key).cloned())
    }

    fn state_set(&self, key: &str, value: &str) -> Result<(), StateError> {
        self.inner.borrow_mut().state.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn state_delete(&self, key: &str) -> Result<(), StateError> {
        self.inner.borrow_mut().state.remove(key);
        Ok(())
    }

    fn state_increment(&self, key: &str, amount: i64) -> Result<i64, StateError> {
        let mut inner = self.inner.borrow_mut();
        let value = inner.state.get(key).map_or(Ok(0), |text| text.parse::<i64>());
        let sum = value.ok().and_then(|value| value.checked_add(amount));
        let sum =
            sum.ok_or_else(|| StateError::Invalid(format!("the state of `{key}` is not a number that can grow")))?;
        inner.state.insert(key.to_owned(), sum.to_string());
        Ok(sum)
    }

    fn state_keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StateError> {
        let inner = self.inner.borrow();
        let keys =
            inner.state.keys().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        Ok(keys.take(1_000).cloned().collect())
    }

    fn http_send(&self, request: &Request) -> Result<Response, HttpError> {
        let mut inner = self.inner.borrow_mut();
        inner.requests.push(request.clone());
        let none = HttpError::Invalid("the fake host has no response: give it one with `respond`".into());
        if inner.responses.len() > 1 { inner.responses.pop_front() } else { inner.responses.front().cloned() }
            .unwrap_or(Err(none))
    }

    fn settings(&self) -> String {
        Value::Object(self.inner.borrow().settings.clone()).to_string()
    }

    fn log(&self, level: Level, message: &str) {
        self.inner.borrow_mut().lines.push(format!("{level}: {message}"));
    }
}
