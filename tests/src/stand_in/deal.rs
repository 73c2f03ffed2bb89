//! The method `deal`, written: adding, editing, steps, closing, the responsible user.
//!
//! - `update` erases `pid_list`, `coid1`, `pid` and `marga` when they aren't sent, with a title `zayavka` and `ztitle` too,
//!   and answers 302 together with data when nothing changes. It ignores `step` and `user`. A client sent without a payer
//!   is the payer as well, and the other way round.
//! - A step is named by its percent; an unknown one leaves the deal without a step.
//! - Most actions die with a PHP fatal error when `did` is missing.
//! - Reading lives in `deal_read`, money in `invoice`.

use serde_json::{Map, Value, json};

use super::clock;
use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::{Actor, Event};
use super::guide::{CLOSE_STATUSES, DEAL_TYPES, id_in, step, step_by_title, title_in};
use super::php::{self, Field};
use super::row::{Params, Row};

pub(super) const NOT_FOUND: &str = "Сделка с указанным did не найдена в пределах аккаунта указанного пользователя.";

/// The columns a request may set, by the names requests use.
const WRITABLE: [&str; 20] = [
    "coid1",
    "zayavka",
    "ztitle",
    "clid",
    "title",
    "datum_plan",
    "tip",
    "direction",
    "step",
    "mcid",
    "content",
    "adres",
    "pid_list",
    "uid",
    "payer",
    "kol",
    "marga",
    "datum_start",
    "datum_end",
    "iduser",
];

/// Days until the planned date of a deal that names none.
const PLAN_DAYS: i32 = 14;

impl Crm {
    pub(super) fn deal(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(Self::deal_fields()),
            "steplist" => Ok(Self::deal_steps()),
            "type" => Ok(Self::deal_types()),
            "statusclose" => Ok(Self::deal_statuses()),
            "direction" => {
                Ok(Reply::json(&json!({ "data": [{ "id": "1", "title": "Основное", "isDefault": "yes" }] })))
            }
            "funnel" => Ok(Reply::json(&json!({ "data": { "stepsName": [], "defaultName": "" } }))),
            "list" => self.deal_list(actor, params),
            "info" => self.deal_info(actor, params),
            "add" => self.deal_add(actor, params),
            "update" => self.deal_update(actor, params),
            "change.step" => self.deal_step(actor, params),
            "change.close" => self.deal_close(actor, params),
            "change.user" => self.deal_user(actor, params),
            "delete" => self.deal_delete(actor, params),
            "invoice.templates" => Ok(Self::invoice_templates()),
            "invoice.info" => Ok(self.invoice_info(params)),
            "invoice.add" => self.invoice_add(actor, params),
            "invoice.do" => self.invoice_do(actor, params),
            _ => Err(unknown_action("deal")),
        }
    }

    /// The deal of `did`, which must be given and readable.
    pub(super) fn deal_of(&self, actor: Actor, params: &Params) -> Result<Row, Reply> {
        if params.text("did").is_none() {
            return Err(Reply::syntax_fatal());
        }
        let deal = self.deals.get(params.int("did")).filter(|deal| self.sees(actor, deal)).cloned();
        deal.ok_or_else(|| Reply::error(403, NOT_FOUND))
    }

    fn deal_add(&mut self, actor: Actor, params: &Params) -> Handled {
        let clid = Some(params.int("clid")).filter(|clid| *clid > 0).unwrap_or_else(|| params.int("payer"));
        if self.clients.get(clid).is_none() {
            return Err(Reply::error(407, "Клиент или Плательщик не найден."));
        }
        if params.clean("title", Field::Bare).is_none() {
            return Err(Reply::error(406, "Отсутствуют параметры - Название сделки"));
        }
        let positions = params.items("speka");
        let mut fresh = self.deal_values(params);
        if let Some(title) = fresh.get_mut("title") {
            // The number counts deals from two, as on the measured box.
            *title = Value::from(format!("СД{}: {}", self.deals.last() + 2, php::text_of(title)));
        }
        let iduser = self.responsible(actor, params);
        fresh.shift_remove("iduser");
        let calculate = if positions.is_empty() { "no" } else { "yes" };
        let defaults = [
            ("clid", Value::from(clid)),
            ("datum_plan", Value::from(clock::day(PLAN_DAYS))),
            ("tip", Value::from(6)),
            ("direction", Value::from(1)),
            ("iduser", Value::from(iduser)),
            ("payer", Value::from(clid)),
            ("kol", Value::from(0)),
            ("marga", Value::from(0)),
            ("close", Value::from("no")),
            ("pid", Value::from(if actor.browser { params.int("pid") } else { 0 })),
            ("coid1", Value::from("")),
            ("zayavka", Value::from("")),
            ("ztitle", Value::from("")),
            ("calculate", Value::from(calculate)),
            ("datum", Value::from(clock::day(0))),
            ("autor", Value::from(actor.iduser)),
            ("identity", Value::from(1)),
            ("idcategory", Value::from(0)),
            ("idcurrency", Value::from(0)),
            ("idcourse", Value::from(0)),
        ];
        for (name, value) in defaults {
            fresh.entry(name).or_insert(value);
        }
        let did = self.deals.add("did", Row::from(Value::Object(fresh.clone())));
        fresh.insert("did".to_owned(), Value::from(did));
        self.log_activity(actor, ("did", did), "Добавлена сделка");
        let mut answer = json!({ "result": "Успешно", "data": did });
        if !positions.is_empty() {
            self.add_positions(did, &positions);
            if let Some(root) = answer.as_object_mut() {
                root.insert("text".to_owned(), json!(["Добавлены позиции в спецификацию. Ошибок 0"]));
            }
        }
        let event = Event::new("deal.add", actor)
            .with("did", did)
            .with("autor", actor.iduser)
            .with("userUID", self.uid_of(actor.iduser))
            .with("newparam", fresh);
        Ok(Reply::json(&answer).about(did).fires(event))
    }

    /// Stores the specification; the deal's sums are counted from it, after the event's values were taken.
    fn add_positions(&mut self, did: i64, positions: &[Params]) {
        let (mut sum, mut margin) = (0.0, 0.0);
        for position in positions {
            let amount = |name: &str| position.value(name).map_or(0.0, php::float_of);
            let (count, price, cost) = (amount("kol"), amount("price"), amount("price_in"));
            sum += count * price;
            margin += count * (price - cost);
            let row = Row::from(json!({
                "spid": 0, "did": did, "artikul": position.column("artikul"), "title": position.column("title"),
                "kol": php::number(count), "price": php::number(price), "price_in": php::number(cost), "nds": php::number(amount("nds")),
            }));
            self.positions.add("spid", row);
        }
        if let Some(deal) = self.deals.get_mut(did) {
            deal.set("kol", php::number(sum));
            deal.set("marga", php::number(margin));
        }
    }

    fn deal_update(&mut self, actor: Actor, params: &Params) -> Handled {
        if params.int("did") == 0 {
            return Err(Reply::error(402, "Отсутствуют параметры - did сделки"));
        }
        let before = self.deal_of(actor, params)?;
        let did = before.int("did");
        let has_positions = self.positions.rows().any(|position| position.int("did") == did);
        let mut sent = self.deal_values(params);
        // The pages' own forms send everything.
        let api = !actor.browser;
        if api {
            sent.shift_remove("idcategory");
            for column in ["pid_list", "coid1"] {
                sent.entry(column).or_insert(Value::from(""));
            }
            for (named, beside) in [("clid", "payer"), ("payer", "clid")] {
                if let Some(link) = sent.get(named).filter(|_| !params.has(beside)).cloned() {
                    sent.entry(beside).or_insert(link);
                }
            }
            if !self.applications {
                sent.shift_remove("zayavka");
                sent.shift_remove("ztitle");
            }
            if params.has("title") {
                sent.entry("zayavka").or_insert(Value::from(0));
                sent.entry("ztitle").or_insert(Value::from(""));
            }
            if !before.text("uid").is_empty() {
                sent.shift_remove("uid");
            }
        }
        // Sums are no change by themselves, unless a title comes with them.
        let sums = |name: &str| api && matches!(name, "kol" | "marga") && !params.has("title");
        let mut changed: Map<String, Value> =
            sent.into_iter().filter(|(name, value)| php::text_of(value) != before.text(name)).collect();
        if changed.keys().all(|name| sums(name)) {
            return Ok(Reply::json(&json!({ "result": "Данные корректны, но идентичны имеющимся.", "data": did, "error": { "code": 302 } })).about(did));
        }
        if let Some(deal) = self.deals.get_mut(did) {
            for (name, value) in &changed {
                deal.set(name, value.clone());
            }
            deal.set("datum_izm", clock::day(0));
            if api {
                deal.set("pid", params.int("pid"));
                if !has_positions && !params.has("marga") {
                    deal.set("marga", php::number(0.0));
                }
                if has_positions {
                    deal.set("kol", before.get("kol").clone());
                    deal.set("marga", before.get("marga").clone());
                }
            }
        }
        if !actor.browser && !params.has("pid_list") {
            changed.insert("pid_list".to_owned(), Value::from(""));
        }
        self.log_activity(actor, ("did", did), "Изменены параметры сделки");
        let event =
            Event::new("deal.edit", actor).with("did", did).with("autor", actor.iduser).with("newparam", changed);
        Ok(Reply::json(&json!({ "result": "Готово", "data": did })).about(did).fires(event))
    }

    /// The sent fields as columns, in the order of the request: `step` becomes `idcategory`, titles become ids.
    fn deal_values(&self, params: &Params) -> Map<String, Value> {
        let mut values = Map::new();
        for name in params.map().keys().filter(|name| WRITABLE.contains(&name.as_str())) {
            let plain = params.clean(name, Field::Plain).unwrap_or_default();
            let (column, value) = match name.as_str() {
                "title" => ("title", Value::from(params.clean("title", Field::Bare).unwrap_or_default())),
                "tip" => ("tip", Value::from(id_in(&DEAL_TYPES, &plain).unwrap_or(6))),
                "direction" => ("direction", Value::from(1)),
                "step" => ("idcategory", Value::from(step_by_title(&plain).map_or(0, |step| step.id))),
                "clid" | "mcid" | "payer" | "iduser" => (name.as_str(), Value::from(params.int(name))),
                "kol" | "marga" => (name.as_str(), php::number(params.value(name).map_or(0.0, php::float_of))),
                "pid_list" => ("pid_list", Value::from(pid_list(params))),
                other => (other, Value::from(plain)),
            };
            values.insert(column.to_owned(), value);
        }
        values
    }

    fn deal_step(&mut self, actor: Actor, params: &Params) -> Handled {
        let before = self.deal_of(actor, params)?;
        let did = before.int("did");
        let wanted = params.text("step").ok_or_else(|| Reply::error(406, "Отсутствуют параметры - Этап сделки"))?;
        let (old, new) = (step(before.int("idcategory")), step_by_title(&wanted));
        let new_id = new.map_or(0, |step| step.id);
        if new_id == before.int("idcategory") {
            return Err(Reply::error(302, "Данные корректны, но идентичны имеющимся"));
        }
        if let Some(deal) = self.deals.get_mut(did) {
            deal.set("idcategory", new_id);
            deal.set("datum_izm", clock::day(0));
        }
        let reason = params
            .clean("description", Field::Plain)
            .or_else(|| params.clean("reason", Field::Plain))
            .unwrap_or_default();
        let (old_title, new_title) = (old.map(|step| step.title), new.map(|step| step.title));
        let result = format!(
            "Этап сделки изменен на {}%. Предыдущий этап {}%.",
            new_title.unwrap_or_default(),
            old_title.unwrap_or_default()
        );
        self.log_activity(actor, ("did", did), &result);
        // A step that isn't there is NULL, and a NULL argument never reaches the wire.
        let event = Event::new("deal.change.step", actor)
            .with("did", did)
            .with("autor", actor.iduser)
            .with("stepOld", json!(old_title))
            .with("stepNew", json!(new_title))
            .with("reason", reason.clone())
            .with("comment", reason);
        Ok(Reply::json(&json!({ "result": result, "data": did })).about(did).fires(event))
    }

    fn deal_close(&mut self, actor: Actor, params: &Params) -> Handled {
        if params.text("did").is_none() {
            return Err(Reply::fatal(
                "Uncaught TypeError: Salesman\\Deal::changeClose(): Argument #1 ($did) must be of type int, null given, called in /var/www/crm/developer/v2/deal.php on line 1153 and defined in /var/www/crm/inc/class/Deal.php:2881",
            ));
        }
        let before = self.deal_of(actor, params)?;
        let did = before.int("did");
        if before.text("close") == "yes" {
            let text = "Сделка уже закрыта";
            return Err(Reply::json(
                &json!({ "result": "Error", "data": text, "error": { "code": 407, "text": text } }),
            ));
        }
        let by_title = params.text("status_close").and_then(|title| id_in(&CLOSE_STATUSES, &title));
        let status = title_in(&CLOSE_STATUSES, params.int("sid"))
            .or_else(|| by_title.and_then(|id| title_in(&CLOSE_STATUSES, id)));
        let status = status.ok_or_else(|| Reply::error("405", "Отсутствуют параметры"))?;
        let sum = params.value("kol_fact").map_or(0.0, php::float_of);
        if let Some(deal) = self.deals.get_mut(did) {
            deal.set("close", "yes");
            deal.set("datum_close", clock::day(0));
            deal.set("status_close", status);
            deal.set("kol_fact", php::number(sum));
            deal.set("des_fact", params.column("des_fact"));
            if params.has("marga") {
                deal.set("marga", php::number(params.value("marga").map_or(0.0, php::float_of)));
            }
        }
        let result = format!("Сделка закрыта со статусом {status}");
        self.log_activity(actor, ("did", did), &result);
        // This event names the account itself, so it stands before the event's name.
        let event = Event::new("deal.close", actor)
            .with("did", did)
            .with("autor", actor.iduser)
            .with("summa", php::short_float(sum))
            .with("status", status)
            .with("identity", 1);
        Ok(Reply::json(&json!({ "result": "Ok", "data": result })).about(did).fires(event))
    }

    fn deal_user(&mut self, actor: Actor, params: &Params) -> Handled {
        let before = self.deal_of(actor, params)?;
        let did = before.int("did");
        let by_login = params.text("user").and_then(|login| self.user_by_login(&login));
        let newuser =
            by_login.or_else(|| Some(params.int("iduser")).filter(|iduser| self.user_by_id(*iduser).is_some()));
        let newuser = newuser.ok_or_else(|| Reply::error(406, "Не указан новый ответственный"))?;
        if let Some(deal) = self.deals.get_mut(did) {
            deal.set("iduser", newuser);
        }
        self.log_activity(actor, ("did", did), "Передача сделки");
        let event = Event::new("deal.change.user", actor)
            .with("did", did)
            .with("autor", actor.iduser)
            .with("olduser", before.int("iduser"))
            .with("newuser", newuser)
            .with("comment", params.clean("reason", Field::Plain).unwrap_or_default());
        Ok(Reply::json(&json!({ "result": "Успешно. Контакты не переведены", "data": did })).about(did).fires(event))
    }

    fn deal_delete(&mut self, actor: Actor, params: &Params) -> Handled {
        let deal = self.deal_of(actor, params)?;
        let did = deal.int("did");
        if self.invoices.rows().any(|invoice| invoice.int("did") == did) {
            return Err(Reply::error("407", "Сделка не удалена. Причина - Имеются связанные записи - Счета."));
        }
        self.deals.remove(did);
        self.positions.remove_where(|position| position.int("did") == did);
        let event = Event::new("deal.delete", actor).with("did", did).with("autor", actor.iduser);
        Ok(Reply::json(&json!({ "result": "Сделка удалена", "data": did })).about(did).fires(event))
    }
}

/// Contacts come as a list or with commas, and are stored with semicolons.
fn pid_list(params: &Params) -> String {
    match params.value("pid_list") {
        Some(Value::Array(pids)) => pids.iter().map(php::text_of).collect::<Vec<_>>().join(";"),
        _ => params.text("pid_list").unwrap_or_default().replace(',', ";"),
    }
}
