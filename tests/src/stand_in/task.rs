//! The method `task`: reminders.
//!
//! - `update` resets description, priority, speed, author, contact, whether it is done, read only and of the whole day
//!   when they aren't sent; `alert` can't be sent, and the task goes to the API's user. Copies for colleagues are deleted.
//! - A text of which the database can't hold a part is a success all the same.
//! - `list` answers an empty array unless `active=yes` is asked for.
//! - An edit through the API fires its event with author 0; deleting fires nothing, since that event isn't registered.

use serde_json::{Map, Value, json};

use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::{Actor, Event};
use super::php::Field;
use super::row::{Params, Row};
use super::{clock, listing};

const ORDERABLE: [&str; 8] = ["tid", "datum", "totime", "title", "tip", "iduser", "clid", "did"];
const NOT_FOUND: &str = "Напоминание не найдено.";

impl Crm {
    pub(super) fn task(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(fields()),
            "tips" => Ok(Self::activity_kinds(false)),
            "list" => self.task_list(actor, params),
            "info" => self.task_info(actor, params),
            "add" => self.task_add(actor, params),
            "update" => self.task_update(actor, params),
            "doit" => self.task_doit(actor, params),
            "delete" => self.task_delete(params),
            "history" if params.text("content").is_none() => Err(Reply::error(405, "Отсутствуют параметры")),
            "history" => self.activity_add(actor, params),
            _ => Err(unknown_action("task")),
        }
    }

    fn task_list(&self, actor: Actor, params: &Params) -> Handled {
        if !params.yes("active") {
            return Ok(listing::uncounted(Vec::new()));
        }
        let (start, end) = (params.text("dateStart"), params.text("dateEnd"));
        let mut rows: Vec<&Row> = self
            .tasks
            .rows()
            .filter(|task| self.sees(actor, task) && task.text("active") == "yes")
            .filter(|task| listing::within(&task.text("datum"), start.as_deref(), end.as_deref()))
            .filter(|task| ["clid", "did"].iter().all(|link| !params.has(link) || params.int(link) == task.int(link)))
            .collect();
        // Unlike the other lists, tasks come in the order they were made unless one is asked for.
        if params.has("order") {
            listing::order(&mut rows, params, &ORDERABLE, "datum")?;
        }
        let data =
            listing::page(&rows, params)?.into_iter().map(|task| Value::Object(self.task_entry(task, false))).collect();
        Ok(listing::uncounted(data))
    }

    fn task_info(&self, actor: Actor, params: &Params) -> Handled {
        if params.text("id").is_none() {
            return Err(Reply::error(405, "Отсутствуют параметры - id напоминания"));
        }
        let task =
            self.tasks.get(params.int("id")).filter(|task| self.sees(actor, task) || task.int("autor") == actor.iduser);
        let task = task.ok_or_else(|| {
            Reply::error("403", "Напоминание с указанным id не найдено в пределах аккаунта указанного пользователя.")
        })?;
        Ok(Reply::json(&json!({ "data": self.task_entry(task, true) })))
    }

    fn task_entry(&self, task: &Row, with_persons: bool) -> Map<String, Value> {
        let (iduser, autor, clid, did) = (task.int("iduser"), task.int("autor"), task.int("clid"), task.int("did"));
        let entry = json!({
            "tid": task.text("tid"), "datum": task.get("datum"), "totime": task.get("totime"), "title": task.get("title"), "des": task.get("des"),
            "tip": task.get("tip"), "active": task.get("active"), "priority": task.text("priority"), "speed": task.text("speed"),
            "iduser": iduser, "user": self.login_of(iduser), "autor": autor, "autorlogin": self.login_of(autor),
            "clid": clid, "client": self.client_title(clid), "person": self.person_links(&task.text("pid")),
            "did": did, "dogovor": self.deal_title(did), "readonly": task.get("readonly"), "day": task.get("day"), "status": task.text("status"),
        });
        let mut entry = Row::from(entry).columns().clone();
        if !with_persons {
            entry.shift_remove("person");
        }
        entry
    }

    fn task_add(&mut self, actor: Actor, params: &Params) -> Handled {
        let title = params
            .clean("title", Field::Plain)
            .ok_or_else(|| Reply::error(405, "Отсутствуют параметры - Заголовок"))?;
        let iduser = self.responsible(actor, params);
        // A task for oneself has no author.
        let autor = if iduser == actor.iduser { 0 } else { actor.iduser };
        let row = Row::from(json!({
            "tid": 0,
            "datum": params.text("datum").unwrap_or_else(|| clock::day(0)),
            "totime": params.text("totime").unwrap_or_else(clock::next_hour),
            "title": title,
            "des": params.column("des"),
            "tip": params.clean("tip", Field::Plain).unwrap_or_else(|| "Звонок".to_owned()),
            "active": "yes",
            "priority": params.int("priority"),
            "speed": params.int("speed"),
            "iduser": iduser,
            "autor": autor,
            "clid": params.int("clid"),
            "pid": params.text("pid").unwrap_or_default(),
            "did": params.int("did"),
            "readonly": params.text("readonly").unwrap_or_else(|| "no".to_owned()),
            "alert": if actor.browser { params.text("alert").unwrap_or_else(|| "no".to_owned()) } else { "no".to_owned() },
            "maintid": if actor.browser { params.int("maintid") } else { 0 },
            "day": params.text("day").unwrap_or_default(),
            "status": 0,
        }));
        let id = self.tasks.add("tid", row);
        let event = Event::new("task.add", actor).with("id", id).with("autor", actor.iduser);
        Ok(Reply::json(&json!({ "result": "Успешно", "data": id })).about(id).fires(event))
    }

    fn task_update(&mut self, actor: Actor, params: &Params) -> Handled {
        let id = self.task_id(params)?;
        let sent: Vec<(&str, Value)> = ["title", "datum", "totime", "tip"]
            .into_iter()
            .filter_map(|column| params.clean(column, Field::Plain).map(|value| (column, Value::from(value))))
            // A link can be moved and not removed.
            .chain(
                ["clid", "did"]
                    .into_iter()
                    .filter(|column| params.int(column) > 0)
                    .map(|column| (column, Value::from(params.int(column)))),
            )
            .collect();
        let texts = ["title", "des", "tip"].map(|column| params.text(column).unwrap_or_default());
        if !actor.browser && texts.iter().any(|text| text.chars().any(|sign| u32::from(sign) > 0xffff)) {
            return Ok(Reply::json(&json!({ "result": "Успешно", "data": id })).about(id));
        }
        let main_contact = self.clients.get(params.int("clid")).map_or(0, |client| client.int("pid"));
        if !actor.browser {
            self.tasks.remove_where(|task| task.int("maintid") == id && task.int("iduser") != actor.iduser);
        }
        if let Some(task) = self.tasks.get_mut(id) {
            for (column, value) in sent {
                task.set(column, value);
            }
            task.set("des", params.clean("des", Field::Plain).unwrap_or_default());
            task.set("priority", params.int("priority"));
            task.set("speed", params.int("speed"));
            task.set("autor", params.int("autor"));
            task.set("pid", params.text("pid").map_or_else(|| main_contact.to_string(), |pid| pid.replace(',', ";")));
            task.set("day", params.text("day").unwrap_or_default());
            task.set("active", params.text("active").unwrap_or_else(|| "yes".to_owned()));
            task.set("readonly", params.text("readonly").unwrap_or_else(|| "no".to_owned()));
            task.set("alert", "no");
            if !actor.browser {
                task.set("iduser", actor.iduser);
            }
        }
        let autor = if actor.browser { actor.iduser } else { 0 };
        let event = Event::new("task.edit", actor).with("id", id).with("autor", autor);
        Ok(Reply::json(&json!({ "result": "Успешно", "data": id })).about(id).fires(event))
    }

    fn task_doit(&mut self, actor: Actor, params: &Params) -> Handled {
        let id = self.task_id(params)?;
        let task = self.tasks.get(id).cloned().unwrap_or_default();
        let text = params.clean("description", Field::Bare).unwrap_or_else(|| task.text("title"));
        let row = Row::from(json!({
            "cid": 0, "datum": clock::stamp(), "content": text, "tip": params.clean("tip", Field::Plain).unwrap_or_else(|| task.text("tip")),
            "iduser": actor.iduser, "clid": task.int("clid"), "pid": task.text("pid"), "did": task.int("did"),
        }));
        let history = self.history.add("cid", row);
        if let Some(task) = self.tasks.get_mut(id) {
            task.set("active", "no");
            task.set("status", 1);
        }
        let event = Event::new("task.doit", actor).with("id", id).with("autor", actor.iduser);
        let answer =
            json!({ "result": "Успешно", "data": id, "message": "Добавлена Активность", "historyID": history });
        Ok(Reply::json(&answer).about(id).fires(event))
    }

    fn task_delete(&mut self, params: &Params) -> Handled {
        let id = self.task_id(params)?;
        self.tasks.remove(id);
        Ok(Reply::json(&json!({ "result": "Успешно", "data": id, "message": "Запись удалена" })).about(id))
    }

    fn task_id(&self, params: &Params) -> Result<i64, Reply> {
        if params.text("id").is_none() {
            return Err(Reply::error(405, "Отсутствуют параметры - id напоминания"));
        }
        let id = params.int("id");
        self.tasks.get(id).map(|_| id).ok_or_else(|| Reply::error(403, NOT_FOUND))
    }
}

fn fields() -> Reply {
    Reply::json(&json!({ "data": {
        "tid": "Уникальный идентификатор напоминания", "datum": "Дата", "totime": "Время", "title": "Тема", "des": "Агенда", "tip": "Тип", "active": "Активность",
        "priority": "Важность", "speed": "Срочность", "iduser": "Ответственный", "autor": "Автор", "clid": "Клиент", "pid": "Контакты", "did": "Сделка",
        "readonly": "Только чтение", "day": "Весь день", "status": "Статус",
    } }))
}
