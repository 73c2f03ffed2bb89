//! The method `person`: contacts.
//!
//! - `update` overwrites every enabled field: what is not sent becomes empty, the name and the responsible user included.
//!   `loyalty` and `clientpath` are cast to numbers: a title becomes the number that it begins with. Without a source the
//!   default *relation's* number is written; of a text that is no number the stored one stays.
//! - Under PHP 8 `add` and `update` end in a fatal error, after the record is written and the event is sent.
//! - `update` and `delete` fire their events whatever happens, for unknown ids as well.
//! - A contact without a responsible user is invisible: `info` answers a record of NULLs and `list` leaves it out.

use serde_json::{Map, Value, json};

use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::{Actor, Event};
use super::guide::{id_in, title_in};
use super::php::{self, Field};
use super::row::{Params, Row};
use super::{clock, listing};

/// The fields `update` overwrites, in the order of its event.
const ENABLED: [&str; 8] = ["person", "ptitle", "tel", "fax", "mob", "mail", "rol", "input7"];

const COLUMNS: [&str; 15] = [
    "pid",
    "date_create",
    "date_edit",
    "clid",
    "client",
    "ptitle",
    "person",
    "tel",
    "fax",
    "mob",
    "mail",
    "rol",
    "iduser",
    "loyalty",
    "input7",
];

/// Levels of loyalty, by the numbers of the measured box: no guide tells them.
pub(super) const LOYALTIES: [(i64, &str); 6] = [
    (1, "3 - Лояльный"),
    (2, "0 - Не лояльный"),
    (3, "4 - Очень Лояльный"),
    (4, "2 - Нейтральный"),
    (5, "1 - Не понятно"),
    (6, "5 - ВиП"),
];

/// What PHP 8 answers after it has written a contact.
const PHP8_PAGE: &str = "<br />\n<b>Fatal error</b>:  Uncaught TypeError: Cannot access offset of type string on string in /var/www/crm/developer/v2/person.php:530\nStack trace:\n#0 /var/www/router.php(7): include()\n#1 {main}\n  thrown in <b>/var/www/crm/developer/v2/person.php</b> on line <b>530</b><br />\n";

/// The source a contact gets when none is named.
const DEFAULT_PATH: i64 = 2;

impl Crm {
    pub(super) fn person(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(fields()),
            "list" => self.person_list(actor, params),
            "info" => Ok(self.person_info(params)),
            "add" => Ok(self.person_page(self.php8, actor, params, Self::person_add)),
            "add.list" => Ok(self.person_add_list(actor, params)),
            "update" => Ok(self.person_page(self.php8, actor, params, Self::person_update)),
            "delete" => Ok(self.person_delete(actor, params)),
            _ => Err(unknown_action("person")),
        }
    }

    pub(super) fn person_name(&self, pid: i64) -> String {
        self.persons.get(pid).map_or_else(String::new, |person| person.text("person"))
    }

    /// The contacts of an activity or a task, as those methods print them.
    pub(super) fn person_links(&self, pids: &str) -> Value {
        let ids: Vec<i64> =
            pids.split([',', ';']).map(|pid| php::int_of(&Value::from(pid))).filter(|pid| *pid > 0).collect();
        if ids.is_empty() {
            return json!([{ "pid": 0, "person": "" }]);
        }
        let name = |pid: &i64| {
            self.persons.get(*pid).filter(|person| person.int("iduser") > 0).map(|person| person.text("person"))
        };
        ids.iter().map(|pid| json!({ "pid": pid, "person": name(pid) })).collect()
    }

    fn person_list(&self, actor: Actor, params: &Params) -> Handled {
        let filter = params.object("filter");
        let word = params.text("word").map(|word| word.to_lowercase());
        let mut rows: Vec<&Row> = self
            .persons
            .rows()
            .filter(|person| match params.text("user") {
                // An unknown login is number 0.
                Some(login) => person.int("iduser") == self.user_by_login(&login).unwrap_or(0),
                None => self.sees(actor, person),
            })
            .filter(|person| word.as_deref().is_none_or(|word| person.text("person").to_lowercase().contains(word)))
            .filter(|person| person_fits(person, &filter))
            .collect();
        listing::order(&mut rows, params, &COLUMNS, "date_create")?;
        let data = listing::page(&rows, params)?.into_iter().map(|person| self.person_entry(person)).collect();
        Ok(listing::counted(data, rows.len()))
    }

    fn person_entry(&self, person: &Row) -> Value {
        let mut entry = Map::new();
        for column in COLUMNS {
            match column {
                "client" => entry.insert(column.to_owned(), Value::from(self.client_title(person.int("clid")))),
                "iduser" => {
                    entry.insert("user".to_owned(), Value::from(self.login_of(person.int("iduser"))));
                    entry.insert(column.to_owned(), Value::from(person.int("iduser")))
                }
                "loyalty" => entry.insert(column.to_owned(), json!(title_in(&LOYALTIES, person.int(column)))),
                _ => entry.insert(column.to_owned(), person.get(column).clone()),
            };
        }
        entry.insert("clientpath".to_owned(), json!(self.guides.paths.title(person.int("clientpath"))));
        Value::Object(entry)
    }

    fn person_info(&self, params: &Params) -> Reply {
        // Whose contact it is does not matter here.
        let person = self.persons.get(params.int("pid")).filter(|person| !person.is_blank("person"));
        let mut data = Map::new();
        for column in COLUMNS {
            let value = match (column, person) {
                ("client", person) => {
                    Value::from(person.map_or_else(String::new, |person| self.client_title(person.int("clid"))))
                }
                ("iduser", person) => {
                    Value::from(person.map_or_else(String::new, |person| self.login_of(person.int("iduser"))))
                }
                ("loyalty", person) => json!(person.and_then(|person| title_in(&LOYALTIES, person.int("loyalty")))),
                (_, person) => person.map_or(Value::Null, |person| person.get(column).clone()),
            };
            data.insert(column.to_owned(), value);
        }
        // The title is taken for a number, and the source of that number is shown.
        let title = person.and_then(|person| self.guides.paths.title(person.int("clientpath"))).unwrap_or_default();
        let shown = self.guides.paths.title(php::int_of(&Value::from(title))).unwrap_or_default();
        data.insert("clientpath".to_owned(), Value::from(shown));
        if params.yes("socinfo") {
            data.insert("socials".to_owned(), json!({ "blog": "", "mysite": null, "twitter": null, "icq": null, "skype": null, "google": null, "yandex": null, "mykrug": null }));
        }
        Reply::json(&json!({ "data": data }))
    }

    fn person_page(
        &mut self,
        php8: bool,
        actor: Actor,
        params: &Params,
        call: impl Fn(&mut Self, Actor, &Params) -> Reply,
    ) -> Reply {
        let reply = call(self, actor, params);
        if php8 { Reply { body: PHP8_PAGE.to_owned(), ..reply } } else { reply }
    }

    fn person_add(&mut self, actor: Actor, params: &Params) -> Reply {
        let Some(name) = params.clean("person", Field::Plain) else {
            return Reply { ok: false, ..Reply::json(&json!({ "result": "", "data": 0, "error": "" })) };
        };
        let path = params.clean("clientpath", Field::Plain).map_or(DEFAULT_PATH, |path| self.guides.paths.id_of(&path));
        let row = Row::from(json!({
            "pid": 0,
            "date_create": clock::stamp(),
            "date_edit": Value::Null,
            "clid": params.int("clid"),
            "ptitle": params.column("ptitle"),
            "person": name,
            "tel": params.column("tel"),
            "fax": params.column("fax"),
            "mob": params.column("mob"),
            "mail": params.column("mail"),
            "rol": params.column("rol"),
            "iduser": self.responsible(actor, params),
            "loyalty": params.int("loyalty"),
            "input7": params.column("input7"),
            "clientpath": path,
        }));
        let pid = self.persons.add("pid", row);
        let event = Event::new("person.add", actor).with("pid", pid).with("autor", actor.iduser);
        Reply::json(&json!({ "result": "Контакт добавлен", "data": pid, "error": "" })).about(pid).fires(event)
    }

    fn person_add_list(&mut self, actor: Actor, params: &Params) -> Reply {
        let mut all = Reply { ok: true, ..Reply::default() };
        let mut bodies = Vec::new();
        // The list is read from the form variables only, so a JSON request adds nobody.
        let items = if params.json { Vec::new() } else { params.items("persons") };
        for item in items {
            let reply = self.person_add(actor, &item);
            bodies.push(reply.body);
            all.events.extend(reply.events);
        }
        all.body = format!("[{}]", bodies.join(","));
        all
    }

    fn person_update(&mut self, actor: Actor, params: &Params) -> Reply {
        let pid = params.int("pid");
        let before = self.persons.get(pid).cloned().unwrap_or_default();
        let mut changed = Map::new();
        for column in ENABLED {
            let value = params.clean(column, Field::Plain).unwrap_or_default();
            // More than three bytes a character: the database refuses the statement, and the answer is the same.
            if value.chars().any(|sign| u32::from(sign) > 0xffff) {
                return Reply::json(&json!({ "result": "", "data": pid, "error": "Ошибка" }));
            }
            if value != before.text(column) {
                changed.insert(column.to_owned(), Value::from(value));
            }
        }
        let path = match params.text("clientpath").filter(|path| path != "0") {
            Some(path) => Some(php::int_of(&Value::from(path))).filter(|path| *path != 0),
            None => Some(DEFAULT_PATH),
        };
        let path = path.unwrap_or(before.int("clientpath"));
        for (column, value) in [("clientpath", path), ("loyalty", params.int("loyalty"))] {
            if value != before.int(column) {
                changed.insert(column.to_owned(), Value::from(value));
            }
        }
        let clid = params.int("clid");
        if params.has("clid") && clid != before.int("clid") {
            changed.insert("clid".to_owned(), Value::from(clid));
        }
        // The responsible user is emptied silently: the event doesn't mention it.
        let iduser = Some(params.int("iduser")).filter(|iduser| *iduser > 0).map_or(Value::from(""), Value::from);
        if params.has("iduser") && params.text("iduser").unwrap_or_default() != before.text("iduser") {
            changed.insert("iduser".to_owned(), iduser.clone());
        }
        changed.insert("date_edit".to_owned(), Value::from(clock::stamp()));
        changed.insert("editor".to_owned(), Value::from(actor.iduser));
        if let Some(person) = self.persons.get_mut(pid) {
            for (column, value) in &changed {
                person.set(column, value.clone());
            }
            person.set("iduser", iduser);
        }
        let event =
            Event::new("person.edit", actor).with("pid", pid).with("autor", actor.iduser).with("newparam", changed);
        Reply::json(&json!({ "result": "Данные контакта обновлены", "data": pid, "error": "" })).about(pid).fires(event)
    }

    fn person_delete(&mut self, actor: Actor, params: &Params) -> Reply {
        let pid = params.int("pid");
        let mark = pid.to_string();
        if pid > 0 && self.deals.rows().any(|deal| deal.text("pid_list").split(';').any(|linked| linked == mark)) {
            let answer = json!({ "result": "Error", "data": pid, "error": "Контакт не удален. Причина - Имеются связанные записи - Сделки." });
            return Reply { ok: false, ..Reply::json(&answer) };
        }
        self.persons.remove(pid);
        let activities = self.history.remove_where(|activity| activity.text("pid") == mark);
        let message = format!(
            "Успешно: Контакт удален. Также удалено {activities} записи истории активностей. Удалено 0 записей напоминаний. Удалено 0 файлов.\n\t\t\t"
        );
        let event = Event::new("person.delete", actor).with("pid", pid).with("autor", actor.iduser);
        Reply::json(&json!({ "message": message, "result": "Клиент удален", "data": pid })).about(pid).fires(event)
    }
}

/// The list compares links and guides by number, and looks for parts in all other columns.
fn person_fits(person: &Row, filter: &Map<String, Value>) -> bool {
    filter.iter().all(|(name, wanted)| {
        let wanted = php::text_of(wanted);
        match name.as_str() {
            "clid" => php::int_of(&Value::from(wanted.as_str())) == 0 || person.text("clid") == wanted,
            "loyalty" if wanted.parse::<i64>().is_err() => {
                id_in(&LOYALTIES, &wanted).is_some_and(|id| person.int("loyalty") == id)
            }
            "loyalty" | "clientpath" => person.int(name).to_string() == wanted,
            _ => person.text(name).contains(&wanted),
        }
    })
}

fn fields() -> Reply {
    Reply::json(&json!({ "data": {
        "pid": "Уникальный идентификатор записи контакта в CRM", "date_create": "Дата создания. Timestamp", "date_edit": "Дата последнего изменения. Timestamp",
        "clid": "Клиент", "ptitle": "Должность", "person": "Ф.И.О.", "tel": "Тел.", "fax": "Факс", "mob": "Моб.", "mail": "Почта", "rol": "Роль",
        "iduser": "Ответственный", "loyalty": "Лояльность", "input7": "Дата рождения", "clientpath": "Канал",
    } }))
}
