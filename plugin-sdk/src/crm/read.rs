//! Typed reading of records, by the actions of the CRM that tell the truth.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Client, Crm, CrmError, Deal, HistoryEntry, List, Person, Task};
use crate::Result;

/// Typed records of a list; made by [`Crm::deals`] and its like.
///
/// An error of the CRM ends it, as in [`List`]. A record that can't be read is an error in its own place, and the next ones
/// follow.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{Result, testing::FakeHost};
/// use serde_json::json;
///
/// let fake = FakeHost::new().answer("deal.list", json!({ "data": [{ "did": 4, "kol": 2501.5 }], "count": 1 }));
/// let deals = fake.host().crm().deals(&json!({ "active": "yes" })).collect::<Result<Vec<_>>>()?;
/// assert_eq!(deals.iter().filter_map(|deal| deal.kol.as_ref()?.as_minor()).sum::<i64>(), 250_150);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
pub struct Records<'a, T> {
    list: List<'a>,
    keep: fn(&T) -> bool,
}

impl<T: TryFrom<Value, Error = crate::Error>> Iterator for Records<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.list.next()?.map_err(crate::Error::from).and_then(T::try_from) {
                Ok(record) if !(self.keep)(&record) => {}
                record => return Some(record),
            }
        }
    }
}

impl<'a> Crm<'a> {
    /// Reads a deal, by `deal.list`: `deal.info` answers null for every ordinary field (measured on version 2025.4).
    ///
    /// The CRM compares a filter by `did` as a piece of text, so that 1 also finds 10 and 21 (read in its source). Ordered
    /// by `did` the wanted deal comes first, and one call is enough. Grant: `deal.list`.
    ///
    /// # Errors
    /// [`Error::Crm`](crate::Error::Crm); [`Error::Data`](crate::Error::Data) when a field is of another form. `Ok(None)`
    /// where there is no such deal, or the API's user may not see it: the CRM does not tell which.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let found = json!({ "data": [{ "did": 4, "title": "Поставка", "kol": 2501 }, { "did": 14 }], "count": 2 });
    /// let fake = FakeHost::new().answer("deal.list", found);
    /// let deal = fake.host().crm().read_deal(4)?.ok_or("the deal is gone")?;
    /// assert_eq!(deal.kol.and_then(|sum| sum.as_minor()), Some(250_100));
    /// assert_eq!(fake.host().crm().read_deal(5)?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_deal(&self, did: u64) -> Result<Option<Deal>> {
        let arguments = json!({ "filter": { "did": did }, "order": "did", "first": "old" });
        let answer = self.call("deal", "list", &arguments)?;
        let deal = answer.records().iter().find(|deal| deal.get("did").and_then(super::number) == Some(did));
        deal.cloned().map(Deal::try_from).transpose()
    }

    /// Reads a client, by `client.info`. Grant: `client.info`.
    ///
    /// # Errors
    /// [`Error::Crm`](crate::Error::Crm); [`Error::Data`](crate::Error::Data) when a field is of another form. `Ok(None)`
    /// where the API's user may not see it, which the CRM answers with 403 (measured on version 2025.4), and where there is no
    /// such client, which it answers the same (read in its source).
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("client.info", json!({ "data": { "clid": 1, "clientpath": "Сайт" } }));
    /// let client = fake.host().crm().read_client(1)?.ok_or("the client is gone")?;
    /// assert_eq!(client.clientpath_title.as_deref(), Some("Сайт"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_client(&self, clid: u64) -> Result<Option<Client>> {
        found(self.call("client", "info", &json!({ "clid": clid })))
    }

    /// Reads a contact person, by `person.info`. Grant: `person.info`.
    ///
    /// Who is responsible comes as a login: `user` is filled and `iduser` is `None` (measured on version 2025.4). Where the
    /// number is needed, [`Crm::persons`] with a filter by `clid` has both.
    ///
    /// # Errors
    /// [`Error::Crm`](crate::Error::Crm); [`Error::Data`](crate::Error::Data) when a field is of another form. `Ok(None)`
    /// where there is no such person, for which the CRM answers a record of nulls (measured).
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("person.info", json!({ "data": { "pid": 10, "iduser": "api@example.test" } }));
    /// let person = fake.host().crm().read_person(10)?.ok_or("the person is gone")?;
    /// assert_eq!((person.iduser, person.user.as_deref()), (None, Some("api@example.test")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_person(&self, pid: u64) -> Result<Option<Person>> {
        let answer = self.call("person", "info", &json!({ "pid": pid }))?;
        let known = answer.data().get("pid").and_then(super::number) == Some(pid);
        if known { Person::try_from(answer.data().clone()).map(Some) } else { Ok(None) }
    }

    /// Reads a task, open or done, by `task.info`. Grant: `task.info`.
    ///
    /// # Errors
    /// [`Error::Crm`](crate::Error::Crm); [`Error::Data`](crate::Error::Data) when a field is of another form. `Ok(None)`
    /// where there is no such task, which the CRM answers with 403 (measured on version 2025.4).
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("task.info", json!({ "data": { "tid": "1", "active": "yes" } }));
    /// let task = fake.host().crm().read_task(1)?.ok_or("the task is gone")?;
    /// assert_eq!((task.tid, task.active), (1, Some(true)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_task(&self, tid: u64) -> Result<Option<Task>> {
        found(self.call("task", "info", &json!({ "id": tid })))
    }

    /// Reads one activity, by `history.info`. Grant: `history.info`.
    ///
    /// # Errors
    /// [`Error::Crm`](crate::Error::Crm); [`Error::Data`](crate::Error::Data) when a field is of another form. `Ok(None)`
    /// where there is no such activity, which the CRM answers with 403 (measured on version 2025.4).
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("history.info", json!({ "data": { "cid": 36, "tip": "Встреча" } }));
    /// let entry = fake.host().crm().read_history_entry(36)?.ok_or("the activity is gone")?;
    /// assert_eq!(entry.tip.as_deref(), Some("Встреча"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_history_entry(&self, cid: u64) -> Result<Option<HistoryEntry>> {
        found(self.call("history", "info", &json!({ "id": cid })))
    }

    /// All activities of a contact person, oldest record first, of all days. Grant: `history.list`.
    ///
    /// The person is a must: `history.list` is empty without `pid`, also for a client or a deal (measured on version 2025.4),
    /// so activities without a person are in no list. Nor are those whose date is zeros, as `history.add` without `datum`
    /// stores them (measured).
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{Result, testing::FakeHost};
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("history.list", json!({ "data": [{ "cid": 36, "content": "Поговорили" }] }));
    /// let entries = fake.host().crm().history_of_person(10).collect::<Result<Vec<_>>>()?;
    /// assert_eq!(entries.first().and_then(|entry| entry.content.as_deref()), Some("Поговорили"));
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn history_of_person(&self, pid: u64) -> Records<'a, HistoryEntry> {
        self.records("history", &json!({ "pid": pid }), |_| true)
    }

    /// All deals of `deal.list`, with the arguments of that action. Grant: `deal.list`.
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read, which is every one
    /// when `fields` does not name `did`.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("deal.list", json!({ "data": [{ "did": 5, "title": "Поставка" }], "count": 1 }));
    /// for deal in fake.host().crm().deals(&json!({ "active": "yes", "filter": { "clid": 12 } })) {
    ///     assert_eq!(deal?.did, 5);
    /// }
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn deals(&self, arguments: &impl Serialize) -> Records<'a, Deal> {
        self.records("deal", arguments, |_| true)
    }

    /// All clients of `client.list`, with the arguments of that action. Grant: `client.list`.
    ///
    /// Its `filter` takes `relations`, `idcategory`, `territory`, `type`, `clientpath`, `trash` and the client's own fields
    /// `input…`; anything else in it, `clid` included, is silently ignored (read in the source). By `dateChangeStart` alone
    /// the list is wrong: give `dateChangeEnd` too; clients that were never edited are in no such list (measured on version
    /// 2025.4).
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read, which is every one
    /// when `fields` does not name `clid`.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("client.list", json!({ "data": [{ "clid": 2, "title": "ИП Лютиков" }], "count": 1 }));
    /// for client in fake.host().crm().clients(&json!({ "word": "Лютиков" })) {
    ///     assert_eq!(client?.clid, 2);
    /// }
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn clients(&self, arguments: &impl Serialize) -> Records<'a, Client> {
        self.records("client", arguments, |_| true)
    }

    /// All contact persons of `person.list`, with the arguments of that action. Grant: `person.list`.
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read, which is every one
    /// when `fields` does not name `pid`.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let page = json!({ "data": [{ "pid": 6, "user": "ui@example.test", "iduser": 2 }], "count": 1 });
    /// let fake = FakeHost::new().answer("person.list", page);
    /// for person in fake.host().crm().persons(&json!({ "filter": { "clid": 1 } })) {
    ///     assert_eq!(person?.iduser, Some(2));
    /// }
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn persons(&self, arguments: &impl Serialize) -> Records<'a, Person> {
        self.records("person", arguments, |_| true)
    }

    /// All tasks of `task.list`, with the arguments of that action (`clid`, `did`, `user`, `word`, dates; it has no `filter`).
    /// Grant: `task.list`.
    ///
    /// Without `active` it is the open ones, of all days: see [`Crm::list`] for what is added. On PHP 7 the CRM ignores
    /// `active` (read in its source): [`Crm::open_tasks`] does not depend on it.
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let fake = FakeHost::new().answer("task.list", json!({ "data": [{ "tid": "3", "active": "no" }] }));
    /// for task in fake.host().crm().tasks(&json!({ "active": "no", "dateStart": "2026-11-01" })) {
    ///     assert_eq!(task?.active, Some(false));
    /// }
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn tasks(&self, arguments: &impl Serialize) -> Records<'a, Task> {
        self.records("task", arguments, |_| true)
    }

    /// The open tasks of `task.list`, of all days unless `dateStart` and `dateEnd` say otherwise. Grant: `task.list`.
    ///
    /// `active=yes` is sent, without which the list is empty on PHP 8 (measured on version 2025.4). On PHP 7 the CRM ignores
    /// it (read in its source), so tasks that are done are left out here too.
    ///
    /// # Errors
    /// As [`Crm::list`]; [`Error::Data`](crate::Error::Data) in the place of a record that can't be read.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::testing::FakeHost;
    /// use serde_json::json;
    ///
    /// let page = json!({ "data": [{ "tid": "1", "active": "yes" }, { "tid": "2", "active": "no" }] });
    /// let fake = FakeHost::new().answer("task.list", page);
    /// assert_eq!(fake.host().crm().open_tasks(&json!({ "clid": 1 })).count(), 1);
    /// ```
    pub fn open_tasks(&self, arguments: &impl Serialize) -> Records<'a, Task> {
        self.records("task", arguments, |task: &Task| task.active != Some(false))
    }

    fn records<T>(&self, method: &str, arguments: &impl Serialize, keep: fn(&T) -> bool) -> Records<'a, T> {
        Records { list: self.list(method, arguments), keep }
    }
}

/// The record that an `info` brought; none where the CRM knows none that its user may see.
fn found<T: TryFrom<Value, Error = crate::Error>>(answer: Result<Answer, CrmError>) -> Result<Option<T>> {
    match answer {
        Err(error) if matches!(error.code(), Some("403" | "404")) => Ok(None),
        answer => T::try_from(answer?.data().clone()).map(Some),
    }
}
