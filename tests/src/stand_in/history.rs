//! The method `history`: activities.
//!
//! - `list` works only together with `pid`.
//! - Nothing here fires an event: only the CRM's own page does.
//! - A record without a date is stored with the zero date, and is in no date filter then.

use serde_json::{Map, Value, json};

use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::Actor;
use super::php::Field;
use super::row::{Params, Row};
use super::{clock, listing, php};

const ZERO_DATE: &str = "0000-00-00 00:00:00";

const KINDS: [(&str, &str, &str); 12] = [
    ("Первичный звонок", "#009900", "all"),
    ("Факс", "#cc00cc", "activ"),
    ("Встреча", "#ffcc00", "all"),
    ("Задача", "#ff6600", "all"),
    ("Предложение", "#66ccff", "activ"),
    ("Событие", "#666699", "activ"),
    ("исх.Почта", "#cccc00", "all"),
    ("вх.Звонок", "#99cc00", "all"),
    ("вх.Почта", "#cc3300", "all"),
    ("Поздравление", "#009999", "task"),
    ("исх.2.Звонок", "#339966", "all"),
    ("Отправка КП", "#ff0000", "all"),
];

impl Crm {
    pub(super) fn activity(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(fields()),
            "tips" => Ok(Self::activity_kinds(true)),
            "list" => self.activity_list(actor, params),
            "info" => self.activity_info(params),
            "add" => self.activity_add(actor, params),
            "add.list" => Ok(self.activity_add_list(actor, params)),
            "delete" => self.activity_delete(params),
            _ => Err(unknown_action("history")),
        }
    }

    /// The kinds of activities; the history's own list ends with an empty one.
    pub(super) fn activity_kinds(with_empty: bool) -> Reply {
        let mut data: Vec<Value> = KINDS
            .iter()
            .map(|(title, color, filter)| json!({ "title": title, "color": color, "filter": filter }))
            .collect();
        if with_empty {
            data.push(json!({ "title": "", "color": Value::Null, "filter": "all" }));
        }
        Reply::json(&json!({ "data": data }))
    }

    fn activity_list(&self, actor: Actor, params: &Params) -> Handled {
        let Some(pid) = params.text("pid") else { return Ok(listing::uncounted(Vec::new())) };
        let (start, end) = (params.text("dateStart"), params.text("dateEnd"));
        let mut rows: Vec<&Row> = self
            .history
            .rows()
            .filter(|activity| self.sees(actor, activity))
            .filter(|activity| activity.text("pid").split([',', ';']).any(|linked| linked == pid))
            .filter(|activity| {
                ["clid", "did"].iter().all(|link| !params.has(link) || params.int(link) == activity.int(link))
            })
            .filter(|activity| listing::within(&activity.text("datum"), start.as_deref(), end.as_deref()))
            .collect();
        listing::order(&mut rows, params, &["cid", "datum", "tip", "iduser", "clid", "did"], "datum")?;
        let data = listing::page(&rows, params)?
            .into_iter()
            .map(|activity| Value::Object(self.activity_entry(activity)))
            .collect();
        Ok(listing::uncounted(data))
    }

    fn activity_info(&self, params: &Params) -> Handled {
        if params.text("id").is_none() {
            return Err(Reply::error(405, "Отсутствуют параметры - id активности"));
        }
        let activity = self
            .history
            .get(params.int("id"))
            .ok_or_else(|| Reply::error("403", "Не найдено в пределах аккаунта указанного пользователя."))?;
        Ok(Reply::json(&json!({ "data": self.activity_entry(activity) })))
    }

    fn activity_entry(&self, activity: &Row) -> Map<String, Value> {
        let (iduser, clid, did) = (activity.int("iduser"), activity.int("clid"), activity.int("did"));
        let entry = json!({
            "cid": activity.get("cid"), "datum": activity.get("datum"), "content": activity.get("content"), "tip": activity.get("tip"),
            "iduser": iduser, "user": self.login_of(iduser), "clid": clid, "client": self.client_title(clid),
            "person": self.person_links(&activity.text("pid")), "did": did, "dogovor": self.deal_title(did),
        });
        Row::from(entry).columns().clone()
    }

    pub(super) fn activity_add(&mut self, actor: Actor, params: &Params) -> Handled {
        let content = params
            .clean("content", Field::Bare)
            .ok_or_else(|| Reply::error(405, "Отсутствуют параметры - Заголовок"))?;
        let row = Row::from(json!({
            "cid": 0,
            "datum": params.text("datum").map_or_else(|| ZERO_DATE.to_owned(), |datum| full_stamp(&datum)),
            "content": content,
            "tip": params.clean("tip", Field::Plain).unwrap_or_else(|| "Событие".to_owned()),
            "iduser": self.responsible(actor, params),
            "clid": params.int("clid"),
            "pid": params.text("pid").unwrap_or_default(),
            "did": params.int("did"),
        }));
        let id = self.history.add("cid", row);
        Ok(Reply::json(&json!({ "result": "Успешно", "data": id })).about(id))
    }

    /// A refused item repeats the id of the one before it, because the CRM forgets to clear its answer.
    fn activity_add_list(&mut self, actor: Actor, params: &Params) -> Reply {
        let mut last = Value::Null;
        let mut bodies = Vec::new();
        for item in params.items("list") {
            match self.activity_add(actor, &item) {
                Ok(reply) => {
                    last = Value::from(reply.id);
                    bodies.push(reply.body);
                }
                Err(_) => {
                    let error = json!({ "code": 405, "text": "Отсутствуют параметры - Заголовок" });
                    bodies.push(php::rest_encode(&json!({ "result": "Error", "data": last, "error": error })));
                }
            }
        }
        Reply { body: format!("[{}]", bodies.join(",")), ok: true, ..Reply::default() }
    }

    fn activity_delete(&mut self, params: &Params) -> Handled {
        if params.text("id").is_none() {
            return Err(Reply::error(405, "Отсутствуют параметры - id активности"));
        }
        match self.history.remove(params.int("id")) {
            Some(_) => Ok(Reply::json(&json!({ "result": "Успешно" }))),
            None => Err(Reply::error(403, "Запись не найдена.")),
        }
    }
}

/// A date without a time gets the present minute.
fn full_stamp(datum: &str) -> String {
    if datum.len() > 10 {
        return datum.to_owned();
    }
    let now = clock::minute_stamp();
    format!("{datum}{}", now.get(10..).unwrap_or_default())
}

fn fields() -> Reply {
    Reply::json(&json!({ "data": {
        "cid": "Уникальный идентификатор активности", "datum": "Дата", "content": "Содержание", "tip": "Тип", "iduser": "Ответственный",
        "clid": "Клиент", "pid": "Контакты", "did": "Сделка",
    } }))
}
