//! The method `client`: companies and private customers, written.
//!
//! - `update` touches only the fields that were sent, and fires nothing when none of them changes.
//! - A title that exists already is refused with 304 and the id of the existing record.
//! - Reading lives in `client_read`.

use serde_json::{Map, Value, json};

use super::clock;
use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::{Actor, Event};
use super::php::{self, Field};
use super::row::{Params, Row};

/// The source a new client gets when none is named.
const DEFAULT_PATH: i64 = 2;

impl Crm {
    pub(super) fn client(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(Self::client_fields()),
            "list" => self.client_list(actor, params),
            "info" => self.client_info(actor, params),
            "add" => self.client_add(actor, params),
            "add.list" => Ok(self.client_add_list(actor, params)),
            "update" => self.client_update(actor, params),
            "delete" => self.client_delete(actor, params),
            _ => Err(unknown_action("client")),
        }
    }

    fn client_add(&mut self, actor: Actor, params: &Params) -> Handled {
        let title = params.clean("title", Field::Bare).map(|title| php::company_title(&title));
        let title = title.ok_or_else(|| Reply::error(402, "Отсутствуют параметры - Название клиента"))?;
        if has_placeholder(&title) {
            return Err(Reply::fatal(
                "Uncaught Error: Number of args (1) doesn't match number of placeholders (2) in [select clid from app_clientcat where title = '?s'] in /var/www/crm/vendor/colshrapnel/safemysql/safemysql.class.php:611",
            ));
        }
        if let Some(existing) = self.clients.rows().find(|client| client.text("title") == title) {
            let clid = existing.int("clid");
            let text = format!("Найден существующий клиент - {title} (clid = {clid}). Запрос отклонен.");
            return Err(Reply::json(
                &json!({ "result": "Error", "exists": clid, "error": { "code": 304, "text": text } }),
            ));
        }
        let iduser = self.responsible(actor, params);
        let path = params.clean("clientpath", Field::Plain).map_or(DEFAULT_PATH, |path| self.guides.paths.id_of(&path));
        let category = params.clean("idcategory", Field::Plain).map_or(0, |title| self.guides.categories.id_of(&title));
        let territory =
            params.clean("territory", Field::Plain).map_or(0, |title| self.guides.territories.id_of(&title));
        let row = Row::from(json!({
            "clid": 0,
            "uid": params.column("uid"),
            "type": params.text("type").unwrap_or_else(|| "client".to_owned()),
            "date_create": clock::stamp(),
            "date_edit": Value::Null,
            "title": title,
            "iduser": iduser,
            "idcategory": category,
            "head_clid": params.int("head_clid"),
            "pid": params.int("pid"),
            "address": params.column("address"),
            "phone": params.column("phone"),
            "fax": params.column("fax"),
            "site_url": params.column("site_url"),
            "mail_url": params.column("mail_url"),
            "territory": territory,
            "des": params.column("des"),
            "tip_cmr": params.column("tip_cmr"),
            "clientpath": path,
            "recv": clean_requisites(params),
            "creator": actor.iduser,
            "editor": 0,
        }));
        let clid = self.clients.add("clid", row);
        self.log_activity(actor, ("clid", clid), "Добавлен клиент");
        let event = Event::new("client.add", actor).with("clid", clid).with("autor", actor.iduser).with("user", iduser);
        Ok(Reply::json(&json!({ "result": "Успешно", "data": clid })).about(clid).fires(event))
    }

    fn client_add_list(&mut self, actor: Actor, params: &Params) -> Reply {
        let mut all = Reply { ok: true, ..Reply::default() };
        let mut bodies = Vec::new();
        for item in params.items("client") {
            let reply = self.client_add(actor, &item).unwrap_or_else(|early| early);
            bodies.push(reply.body);
            all.events.extend(reply.events);
        }
        all.body = format!("[{}]", bodies.join(","));
        all
    }

    fn client_update(&mut self, actor: Actor, params: &Params) -> Handled {
        let clid = params.int("clid");
        let Some(before) = self.clients.get(clid).cloned() else {
            return Err(Reply::error(403, "Клиент с указанным clid не найден в пределах аккаунта"));
        };
        let mut changed = Map::new();
        for name in params.map().keys() {
            let Some(value) = self.client_value(name, params) else { continue };
            // It is set only while it is empty.
            if name == "uid" && !before.text("uid").is_empty() || self.switched_off.contains(name) {
                continue;
            }
            if php::text_of(&value).chars().any(|sign| u32::from(sign) > 0xffff) {
                return Err(Reply::error(500, "ОшибкаIncorrect string value в строке 1366"));
            }
            if php::text_of(&value) != before.text(name) {
                changed.insert(name.clone(), value);
            }
        }
        let requisites = params.has("recv");
        let client = self.clients.get_mut(clid).ok_or_else(Reply::syntax_fatal)?;
        for (name, value) in &changed {
            client.set(name, value.clone());
        }
        if requisites {
            let mut merged = before.get("recv").as_object().cloned().unwrap_or_default();
            merged.extend(clean_requisites(params).as_object().cloned().unwrap_or_default());
            client.set("recv", Value::Object(merged));
        }
        let suffix = if requisites { "; Реквизиты обновлены" } else { "" };
        if changed.is_empty() {
            let result = format!("Данные корректны, но идентичны имеющимся.{suffix}");
            return Ok(Reply::json(&json!({ "data": clid, "result": result })).about(clid));
        }
        client.set("date_edit", clock::stamp());
        client.set("editor", actor.iduser);
        // A page's form always holds the responsible user; a REST request mostly doesn't, and then the event says 0.
        let user = if actor.browser { client.int("iduser") } else { params.int("iduser") };
        let hid = self.log_activity(actor, ("clid", clid), "Изменены данные клиента");
        let event = Event::new("client.edit", actor)
            .with("clid", clid)
            .with("autor", actor.iduser)
            .with("user", user)
            .with("newparam", changed);
        Ok(Reply::json(&json!({ "data": clid, "hid": hid, "result": format!("Успешно{suffix}") }))
            .about(clid)
            .fires(event))
    }

    /// A sent field as its column stores it; `None` for names that `update` ignores, the login in `user` among them.
    fn client_value(&mut self, name: &str, params: &Params) -> Option<Value> {
        let plain = params.clean(name, Field::Plain).unwrap_or_default();
        Some(match name {
            "title" => Value::from(php::company_title(&params.clean("title", Field::Bare)?)),
            "idcategory" => Value::from(self.guides.categories.id_of(&plain)),
            "territory" => Value::from(self.guides.territories.id_of(&plain)),
            "clientpath" => Value::from(self.guides.paths.id_of(&plain)),
            "iduser" | "head_clid" | "pid" => Value::from(params.int(name)),
            "uid" | "type" | "address" | "phone" | "fax" | "site_url" | "mail_url" | "des" | "tip_cmr" => {
                Value::from(plain)
            }
            _ => return None,
        })
    }

    fn client_delete(&mut self, actor: Actor, params: &Params) -> Handled {
        if !params.has("clid") {
            return Err(Reply::fatal(
                "Uncaught TypeError: Salesman\\Client::delete(): Argument #1 ($clid) must be of type int, null given in /var/www/crm/inc/class/Client.php:1630",
            ));
        }
        let clid = params.int("clid");
        if self.clients.get(clid).is_none() {
            return Err(Reply::error(403, "Не найдена запись"));
        }
        if self.deals.rows().any(|deal| deal.int("clid") == clid || deal.int("payer") == clid) {
            return Err(Reply::error(
                408,
                "Клиент не удален. Внимание: К сожалению Удаление записи не возможно. Причина - Имеются связанные записи - Сделки.",
            ));
        }
        self.clients.remove(clid);
        let activities = self.history.remove_where(|activity| activity.int("clid") == clid);
        let tasks = self.tasks.remove_where(|task| task.int("clid") == clid);
        let mut persons = 0;
        for person in self.persons.rows_mut().filter(|person| person.int("clid") == clid) {
            person.set("clid", 0);
            persons += 1;
        }
        let message = format!(
            "Успешно: Клиент удален.<br>Также удалено {activities} записи истории активностей. Снята привязка к Клиенту у {persons} Контактов. Удалено {tasks} записей напоминаний. Удалено 0 файлов."
        );
        let event = Event::new("client.delete", actor).with("clid", clid).with("autor", actor.iduser);
        Ok(Reply::json(&json!({ "message": message, "result": "Клиент удален", "data": clid }))
            .about(clid)
            .fires(event))
    }
}

/// The query builder's placeholders inside a title break the search for duplicates.
fn has_placeholder(title: &str) -> bool {
    ["?s", "?i", "?a", "?n", "?u", "?p"].iter().any(|placeholder| title.contains(placeholder))
}

fn clean_requisites(params: &Params) -> Value {
    let sent = params.object("recv");
    Value::Object(
        sent.iter()
            .map(|(name, value)| {
                (name.clone(), Value::from(php::clean(&php::text_of(value), Field::Plain, params.json)))
            })
            .collect(),
    )
}
