//! The imitated database, and the way from a method's name to its handler.
//!
//! - A handler runs to its end while the database is locked, and returns its answer together with the events it fires;
//!   so a record is always stored before anybody hears of it.
//! - Handlers don't know how they were called: the REST side and the browser side share them.
//! - Rights are as wide as the facts show: user 1 sees everything, others see their own records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::event::{Actor, Event};
use super::guide::Guides;
use super::php;
use super::row::{Params, Row};
use super::{clock, seed};

/// The user who sees every record.
const ADMINISTRATOR: i64 = 1;

/// One table: records by id, and the last id that was given out.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<i64, Row>,
    last: i64,
}

impl Table {
    /// Stores a record under the next id, which is also written into its `key` column.
    pub(super) fn add(&mut self, key: &str, mut row: Row) -> i64 {
        self.last += 1;
        row.set(key, self.last);
        self.rows.insert(self.last, row);
        self.last
    }

    pub(super) fn last(&self) -> i64 {
        self.last
    }

    pub(super) fn get(&self, id: i64) -> Option<&Row> {
        self.rows.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: i64) -> Option<&mut Row> {
        self.rows.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Row> {
        self.rows.remove(&id)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.values_mut()
    }

    /// Removes all records that fit and tells how many there were.
    pub(super) fn remove_where(&mut self, doomed: impl Fn(&Row) -> bool) -> usize {
        let before = self.rows.len();
        self.rows.retain(|_, row| !doomed(row));
        before - self.rows.len()
    }
}

/// All tables.
#[derive(Debug)]
pub(super) struct Crm {
    pub(super) clients: Table,
    pub(super) persons: Table,
    pub(super) deals: Table,
    pub(super) positions: Table,
    pub(super) invoices: Table,
    pub(super) tasks: Table,
    pub(super) history: Table,
    pub(super) leads: Table,
    pub(super) users: Vec<Row>,
    pub(super) guides: Guides,
    /// Fields of clients that are switched off: neither shown nor written.
    pub(super) switched_off: BTreeSet<String>,
    /// Whether the fields `zayavka` and `ztitle` of deals are switched on; they are off at first.
    pub(super) applications: bool,
    /// Whether PHP 8 runs it: some answers are fatal errors, after the write.
    pub(super) php8: bool,
    /// The last number given to an invoice; the measured box had used two of its own.
    pub(super) invoice_number: i64,
}

/// What a handler answers, and what it tells the outside.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) body: String,
    pub(super) events: Vec<Event>,
    /// The id of the record that was written, for callers inside the program.
    pub(super) id: i64,
    /// Whether the answer reports a success.
    pub(super) ok: bool,
}

impl Reply {
    pub(super) fn json(value: &Value) -> Self {
        let failed = value.get("error").and_then(|error| error.get("text")).is_some();
        Self { body: php::rest_encode(value), events: Vec::new(), id: 0, ok: !failed }
    }

    /// The usual error object with `result`.
    pub(super) fn error(code: impl Into<Value>, text: &str) -> Self {
        Self::json(&json!({ "result": "Error", "error": { "code": code.into(), "text": text } }))
    }

    /// The error object of actions that leave `result` out.
    pub(super) fn bare_error(code: impl Into<Value>, text: &str) -> Self {
        Self::json(&json!({ "error": { "code": code.into(), "text": text } }))
    }

    /// A PHP fatal error in place of an answer.
    pub(super) fn fatal(message: &str) -> Self {
        let body = format!(
            "<br />\n<b>Fatal error</b>:  {message}\nStack trace:\n#0 /srv/crm/router.php(10): require('...')\n#1 {{main}}\n  thrown in <b>/var/www/crm/developer/v2</b> on line <b>466</b><br />\n"
        );
        Self { body, events: Vec::new(), id: 0, ok: false }
    }

    /// The fatal error of a query whose value is missing.
    pub(super) fn syntax_fatal() -> Self {
        Self::fatal(
            "Uncaught mysqli_sql_exception: You have an error in your SQL syntax; check the manual that corresponds to your MariaDB server version for the right syntax to use near 'and identity = '1'' at line 1 in /var/www/crm/vendor/colshrapnel/safemysql/safemysql.class.php:466",
        )
    }

    pub(super) fn fires(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    pub(super) fn about(mut self, id: i64) -> Self {
        self.id = id;
        self
    }
}

/// A handler's result; both sides are answers, the error side only leaves early.
pub(super) type Handled = Result<Reply, Reply>;

impl Crm {
    pub(super) fn new() -> Self {
        Self {
            clients: Table::default(),
            persons: Table::default(),
            deals: Table::default(),
            positions: Table::default(),
            invoices: Table::default(),
            tasks: Table::default(),
            history: Table::default(),
            leads: Table::default(),
            users: seed::users(),
            guides: Guides::new(),
            switched_off: BTreeSet::new(),
            applications: false,
            php8: false,
            invoice_number: 2,
        }
    }

    /// Handles one action; `None` when there is no such method at all.
    pub(super) fn handle(&mut self, actor: Actor, method: &str, action: &str, params: &Params) -> Option<Reply> {
        let handled = match method {
            "client" => self.client(actor, action, params),
            "person" => self.person(actor, action, params),
            "deal" => self.deal(actor, action, params),
            "task" => self.task(actor, action, params),
            "history" => self.activity(actor, action, params),
            "lead" => self.lead(actor, action, params),
            "user" => self.user(action, params),
            "guides" => self.guide(action),
            _ => return None,
        };
        Some(handled.unwrap_or_else(|early| early))
    }

    /// The user of a login, active or not: the CRM lets a dismissed user's login in.
    pub(super) fn user_by_login(&self, login: &str) -> Option<i64> {
        self.users.iter().find(|user| user.text("login") == login).map(|user| user.int("iduser"))
    }

    pub(super) fn user_by_id(&self, iduser: i64) -> Option<&Row> {
        self.users.iter().find(|user| user.int("iduser") == iduser)
    }

    pub(super) fn login_of(&self, iduser: i64) -> String {
        self.user_by_id(iduser).map_or_else(String::new, |user| user.text("login"))
    }

    /// The external id of a user, empty when unset.
    pub(super) fn uid_of(&self, iduser: i64) -> String {
        self.user_by_id(iduser).map_or_else(String::new, |user| user.text("uid"))
    }

    /// The responsible user that a new record gets: named by login, by number, or the actor.
    pub(super) fn responsible(&self, actor: Actor, params: &Params) -> i64 {
        let by_login = params.text("user").and_then(|login| self.user_by_login(&login));
        let by_number = Some(params.int("iduser")).filter(|iduser| *iduser > 0);
        by_login.or(by_number).unwrap_or(actor.iduser)
    }

    /// Whether the actor may read the record.
    pub(super) fn sees(&self, actor: Actor, row: &Row) -> bool {
        let owner = row.int("iduser");
        if actor.iduser == ADMINISTRATOR { self.user_by_id(owner).is_some() } else { owner == actor.iduser }
    }

    pub(super) fn client_title(&self, clid: i64) -> String {
        self.clients.get(clid).map_or_else(String::new, |client| client.text("title"))
    }

    pub(super) fn deal_title(&self, did: i64) -> String {
        self.deals.get(did).map_or_else(String::new, |deal| deal.text("title"))
    }

    /// Writes the activity that the CRM itself adds beside most changes, and returns its id.
    pub(super) fn log_activity(&mut self, actor: Actor, link: (&str, i64), content: &str) -> i64 {
        let mut row = Row::from(json!({
            "cid": 0, "datum": clock::stamp(), "content": content, "tip": "СобытиеCRM", "iduser": actor.iduser, "clid": 0, "pid": "", "did": 0,
        }));
        row.set(link.0, link.1);
        self.history.add("cid", row)
    }
}

/// The answer to an action that a method doesn't know.
pub(super) fn unknown_action(method: &str) -> Reply {
    match method {
        "lead" => Reply::error(402, "Не известный метод"),
        "guides" => Reply::error(402, "Неизвестный метод"),
        "user" => Reply::error("402", "Неизвестный метод"),
        _ => Reply::bare_error(402, "Неизвестный метод"),
    }
}
