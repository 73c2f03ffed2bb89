//! Lists that page through to the end.
//!
//! - 200 records a page, whatever `limit` says; `offset` is a page number (measured on version 2025.4).
//! - The end is told in four ways: a count without `data`, `[]`, an empty `data`, and for two methods refusal 404 (measured).
//! - The CRM's own order has no tie-breaker (measured), so a record can stand on two pages: a unique order is asked for
//!   where the source shows that any column will do, and a record's second appearance is dropped.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Answer, Crm, CrmError, number, object};

/// Records on a full page.
const PAGE: u64 = 200;

/// Pages that one [`List`] reads at most.
const MOST_PAGES: u64 = 1_000;

/// The first and the last day that the CRM's database can hold.
const FIRST_DAY: &str = "1000-01-01";
const LAST_DAY: &str = "9999-12-31";

/// All records of a list, page after page; made by [`Crm::list`].
///
/// The first error ends it. A page is asked for when the one before is used up, so that a handler that stops early
/// spends no further calls.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{CrmError, testing::FakeHost};
/// use serde_json::json;
///
/// let fake = FakeHost::new().answer("document.list", json!({ "data": [{ "id": 1 }, { "id": 2 }], "count": 2 }));
/// let documents: Vec<_> = fake.host().crm().list("document", &json!({})).collect::<Result<_, CrmError>>()?;
/// assert_eq!(documents.len(), 2);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
pub struct List<'a> {
    crm: Crm<'a>,
    method: String,
    arguments: Map<String, Value>,
    /// What is wrong with the arguments: told by the first `next`, so that a loop has one place for errors.
    problem: Option<CrmError>,
    first_page: u64,
    pages: u64,
    /// Records that were read, those that came twice included.
    rows: u64,
    records: std::vec::IntoIter<Value>,
    previous: Vec<Value>,
    seen: BTreeSet<u64>,
    ended: bool,
}

impl<'a> Crm<'a> {
    /// All records of `method.list`, over all its pages of 200 (the size is fixed: measured on version 2025.4).
    ///
    /// `arguments` are those of the CRM; `offset`, a page number from 0, says where to begin. Added where they are missing:
    ///
    /// | list | added | because |
    /// |---|---|---|
    /// | `client`, `person`, `deal`, `task`, `history` | `order` by the record's id, `first=old` | the CRM orders by date without a tie-breaker (measured), and takes any column (source) |
    /// | `task` | `active=yes` | without it the list is empty on PHP 8 (measured) |
    /// | `task`, `history` | `dateStart`, `dateEnd`: all days | without them the list is today's (source; measured for `history`: empty) |
    /// | `calls` | `order=datum` | its own default ends in a PHP error (measured) |
    ///
    /// A record that comes a second time is dropped, by its id; lists other than those above, `lead`, `entry`, `document`,
    /// `akt` and `price` are passed on as they come. What is deleted while you read moves the rest up, so records can be
    /// missed: the CRM knows no cursor. `client.list` ignores a `filter` by `clid` (source), `history.list` needs `pid`
    /// (measured): see [`Crm::history_of_person`].
    ///
    /// # Errors
    /// Each item: [`CrmError`], all variants, and nothing after it. [`CrmError::Invalid`] also when `arguments` is not a JSON
    /// object, `offset` is not a whole number, or there is more behind page 1,000 (200,000 records; the host's own limit of
    /// 1,000 calls an attempt comes first where other calls were made); [`CrmError::BadAnswer`] also when a page repeats
    /// the one before, because the list then never ends. The 404 of an empty `lead` or `entry` list is not an error.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{CrmError, testing::FakeHost};
    /// use serde_json::json;
    ///
    /// let empty = CrmError::Refused { code: Some("404".into()), text: "Не найдено".into() };
    /// let fake = FakeHost::new().answer("lead.list", json!({ "data": [{ "id": 1, "phone": "84957770011" }] }));
    /// for lead in fake.host().crm().list("lead", &json!({ "status": 0 })) {
    ///     assert_eq!(lead?["phone"], "84957770011");
    /// }
    /// // Where there is none the CRM refuses with 404: an empty list here.
    /// let fake = FakeHost::new().fail("lead.list", empty);
    /// assert_eq!(fake.host().crm().list("lead", &json!({ "status": 0 })).count(), 0);
    /// # Ok::<(), CrmError>(())
    /// ```
    pub fn list(&self, method: &str, arguments: &impl Serialize) -> List<'a> {
        let (arguments, first_page, problem) = match prepare(method, arguments) {
            Ok((arguments, first_page)) => (arguments, first_page, None),
            Err(problem) => (Map::new(), 0, Some(problem)),
        };
        List {
            crm: *self,
            method: method.to_owned(),
            arguments,
            problem,
            first_page,
            pages: 0,
            rows: 0,
            records: Vec::new().into_iter(),
            previous: Vec::new(),
            seen: BTreeSet::new(),
            ended: false,
        }
    }
}

impl Iterator for List<'_> {
    type Item = Result<Value, CrmError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(record) = self.records.next() {
                if self.is_new(&record) {
                    return Some(Ok(record));
                }
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.read_page() {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }
}

impl List<'_> {
    fn read_page(&mut self) -> Result<(), CrmError> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let method = &self.method;
        if self.pages == MOST_PAGES {
            return Err(CrmError::Invalid(format!(
                "`{method}.list` goes on behind {MOST_PAGES} pages: narrow it with its arguments, or begin at a later page with `offset`"
            )));
        }
        let offset = self.first_page + self.pages;
        self.arguments.insert("offset".to_owned(), offset.into());
        let answer = match self.crm.call(method, "list", &self.arguments) {
            Err(error) if is_empty(method, &error) => Answer(Value::Null),
            answer => answer?,
        };
        let count = answer.0.get("count").and_then(number);
        let page = rows(answer).ok_or_else(|| {
            CrmError::BadAnswer(format!("the `data` of `{method}.list` is not a list: read it with `Crm::call`"))
        })?;
        if !page.is_empty() && page == self.previous {
            return Err(CrmError::BadAnswer(format!(
                "page {offset} of `{method}.list` repeats the page before it: this list does not seem to have pages, read it with `Crm::call`"
            )));
        }
        self.pages += 1;
        let rows = page.len() as u64;
        self.rows += rows;
        self.ended = match count {
            _ if page.is_empty() => true,
            Some(count) => self.first_page * PAGE + self.rows >= count,
            None => rows < PAGE,
        };
        self.previous.clone_from(&page);
        self.records = page.into_iter();
        Ok(())
    }

    fn is_new(&mut self, record: &Value) -> bool {
        let id = id_field(&self.method).and_then(|name| number(record.get(name)?));
        id.is_none_or(|id| self.seen.insert(id))
    }
}

/// The arguments with what the CRM needs, and the page to begin with.
fn prepare(method: &str, arguments: &impl Serialize) -> Result<(Map<String, Value>, u64), CrmError> {
    let mut arguments = object(arguments)?;
    let first_page = match arguments.get("offset") {
        None | Some(Value::Null) => 0,
        // Bounded, so that no sum of pages overflows.
        Some(page) => number(page).filter(|page| *page <= u64::from(u32::MAX)).ok_or_else(|| {
            CrmError::Invalid(format!("the `offset` of `{method}.list` is {page}: give a page number, from 0"))
        })?,
    };
    let mut add = |name: &str, value: &str| {
        arguments.entry(name).or_insert_with(|| value.into());
    };
    if matches!(method, "task" | "history") {
        add("dateStart", FIRST_DAY);
        add("dateEnd", LAST_DAY);
    }
    match method {
        "task" => add("active", "yes"),
        "calls" => add("order", "datum"),
        _ => {}
    }
    // Oldest first: what is added meanwhile comes last, and moves nothing.
    if let "client" | "person" | "deal" | "task" | "history" = method
        && let Some(id) = id_field(method)
        && !arguments.contains_key("order")
    {
        arguments.insert("order".to_owned(), id.into());
        arguments.entry("first").or_insert_with(|| "old".into());
    }
    Ok((arguments, first_page))
}

/// What the records of a list are known by.
fn id_field(method: &str) -> Option<&'static str> {
    Some(match method {
        "client" => "clid",
        "person" => "pid",
        "deal" => "did",
        "task" => "tid",
        "history" => "cid",
        "lead" | "document" | "akt" => "id",
        "entry" => "ide",
        "price" => "prid",
        _ => return None,
    })
}

/// Two methods refuse with 404 instead of answering an empty list (measured on version 2025.4).
fn is_empty(method: &str, error: &CrmError) -> bool {
    matches!(method, "lead" | "entry") && error.code() == Some("404")
}

/// The records of an answer, empty where it has none; `None` where `data` is something else.
fn rows(answer: Answer) -> Option<Vec<Value>> {
    match answer.0 {
        Value::Array(rows) => Some(rows),
        Value::Object(mut body) => match body.remove("data") {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(rows)) => Some(rows),
            Some(_) => None,
        },
        _ => Some(Vec::new()),
    }
}
