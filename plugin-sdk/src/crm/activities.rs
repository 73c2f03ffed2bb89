//! Tasks and what was done: the records that hang on clients, deals and persons.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{Error, Result};

/// A contact person that a task or an activity is about.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::HistoryEntry;
/// use serde_json::json;
///
/// let entry = HistoryEntry::try_from(json!({ "cid": 36, "person": [{ "pid": 1, "person": null }] }))?;
/// // Nobody is called by that number any more.
/// assert_eq!(entry.person.first().map(|link| (link.pid, link.name.is_some())), Some((1, false)));
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PersonLink {
    /// The person's number.
    pub pid: u64,
    /// The person's name; `None` where the record is gone.
    pub name: Option<String>,
}

/// A task, as `task.list` and `task.info` answer it (measured on version 2025.4).
///
/// Missing, null, empty, zero dates and references of 0 are `None`. Date and time are in the account's time zone.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Task;
/// use serde_json::json;
///
/// let task = Task::try_from(json!({ "tid": "8", "datum": "2026-11-23", "totime": "23:26", "priority": "2", "clid": 0 }))?;
/// assert_eq!((task.tid, task.priority, task.clid), (8, Some(2), None));
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Task {
    /// The task's number.
    pub tid: u64,
    /// The day, `YYYY-MM-DD`.
    pub datum: Option<String>,
    /// The time of day, `HH:MM`.
    pub totime: Option<String>,
    /// Its title.
    pub title: Option<String>,
    /// The description.
    pub des: Option<String>,
    /// The kind of task, by its title.
    pub tip: Option<String>,
    /// Whether it is still to be done.
    pub active: Option<bool>,
    /// The importance; 0 is ordinary, 2 was seen.
    pub priority: Option<u64>,
    /// The urgency; 0 is ordinary.
    pub speed: Option<u64>,
    /// The employee who has to do it.
    pub iduser: Option<u64>,
    /// That employee's login.
    pub user: Option<String>,
    /// The employee who set it; `None` for tasks made through the API without `user` (the CRM sends 0).
    pub autor: Option<u64>,
    /// That employee's login.
    pub autorlogin: Option<String>,
    /// The client.
    pub clid: Option<u64>,
    /// The client's title.
    pub client: Option<String>,
    /// The persons; only from `task.info`, `task.list` leaves them out.
    pub person: Vec<PersonLink>,
    /// The deal.
    pub did: Option<u64>,
    /// The deal's title.
    pub dogovor: Option<String>,
    /// Whether it is marked as read-only.
    pub readonly: Option<bool>,
    /// Whether it takes the whole day: the CRM's own mark, seen only empty.
    pub day: Option<String>,
    /// How it ended: 0 while it is open, 1 done, 2 failed (1 and 2: read in the source).
    pub status: Option<u64>,
    /// Every other field, by the CRM's name.
    pub extra: Map<String, Value>,
}

impl TryFrom<Value> for Task {
    type Error = Error;

    fn try_from(record: Value) -> Result<Self> {
        let (tid, mut fields) = Fields::begin("task", "tid", record)?;
        Ok(Self {
            tid,
            datum: fields.date("datum")?,
            totime: fields.text("totime")?,
            title: fields.text("title")?,
            des: fields.text("des")?,
            tip: fields.text("tip")?,
            active: fields.flag("active")?,
            priority: fields.number("priority")?,
            speed: fields.number("speed")?,
            iduser: fields.reference("iduser")?,
            user: fields.text("user")?,
            autor: fields.reference("autor")?,
            autorlogin: fields.text("autorlogin")?,
            clid: fields.reference("clid")?,
            client: fields.text("client")?,
            person: links(&mut fields)?,
            did: fields.reference("did")?,
            dogovor: fields.text("dogovor")?,
            readonly: fields.flag("readonly")?,
            day: fields.text("day")?,
            status: fields.number("status")?,
            extra: fields.rest(),
        })
    }
}

/// An activity in the history of a client, person or deal, as `history.info` answers it (measured on version 2025.4), and
/// `history.list` too (read in its source: no capture of it has a record).
///
/// Missing, null, empty, zero dates and references of 0 are `None`.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::HistoryEntry;
/// use serde_json::json;
///
/// let entry = HistoryEntry::try_from(json!({ "cid": 36, "datum": "2026-11-23 22:24:00", "tip": "Встреча", "did": 0 }))?;
/// assert_eq!((entry.cid, entry.tip.as_deref(), entry.did), (36, Some("Встреча"), None));
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The activity's number.
    pub cid: u64,
    /// When it was, `YYYY-MM-DD HH:MM:SS` in the account's time zone; `None` where the CRM holds zeros.
    pub datum: Option<String>,
    /// What was written. The list puts `<br />` before each line's end (read in its source).
    pub content: Option<String>,
    /// The kind of activity, by its title.
    pub tip: Option<String>,
    /// The employee.
    pub iduser: Option<u64>,
    /// That employee's login.
    pub user: Option<String>,
    /// The client.
    pub clid: Option<u64>,
    /// The client's title.
    pub client: Option<String>,
    /// The persons.
    pub person: Vec<PersonLink>,
    /// The deal.
    pub did: Option<u64>,
    /// The deal's title.
    pub dogovor: Option<String>,
    /// Every other field, by the CRM's name.
    pub extra: Map<String, Value>,
}

impl TryFrom<Value> for HistoryEntry {
    type Error = Error;

    fn try_from(record: Value) -> Result<Self> {
        let (cid, mut fields) = Fields::begin("activity", "cid", record)?;
        Ok(Self {
            cid,
            datum: fields.date("datum")?,
            content: fields.text("content")?,
            tip: fields.text("tip")?,
            iduser: fields.reference("iduser")?,
            user: fields.text("user")?,
            clid: fields.reference("clid")?,
            client: fields.text("client")?,
            person: links(&mut fields)?,
            did: fields.reference("did")?,
            dogovor: fields.text("dogovor")?,
            extra: fields.rest(),
        })
    }
}

/// The persons of a record. Where there is none the CRM sends one with the number 0.
fn links(fields: &mut Fields) -> Result<Vec<PersonLink>> {
    let mut links = Vec::new();
    for link in fields.objects("person")? {
        let (pid, mut fields) = Fields::begin("linked person", "pid", link)?;
        if pid != 0 {
            links.push(PersonLink { pid, name: fields.text("person")? });
        }
    }
    Ok(links)
}
