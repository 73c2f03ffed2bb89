//! The method `deal`, read: fields, reference lists, records, pages.
//!
//! - `info` lies: every ordinary field is NULL, whatever is stored; only ids and titles of users, steps, types and the
//!   optional blocks are true. `list` with a filter tells the truth.
//! - Reference lists print their ids as strings.
//! - Nothing here writes.

use serde_json::{Map, Value, json};

use super::crm::{Crm, Handled, Reply};
use super::event::Actor;
use super::guide::{CLOSE_STATUSES, DEAL_TYPES, STEPS, step, title_in};
use super::row::{Params, Row};
use super::{client_read, deal, listing, php};

const COLUMNS: [&str; 23] = [
    "did",
    "uid",
    "datum",
    "datum_izm",
    "clid",
    "title",
    "mcid",
    "iduser",
    "datum_plan",
    "step",
    "dog_num",
    "tip",
    "direction",
    "adres",
    "content",
    "payer",
    "kol",
    "marga",
    "datum_start",
    "datum_end",
    "close",
    "datum_close",
    "status_close",
];

/// The last two columns, which both answers print at the end.
const CLOSING: [&str; 2] = ["des_fact", "kol_fact"];

impl Crm {
    pub(super) fn deal_fields() -> Reply {
        Reply::json(&json!({ "data": {
            "did": "Уникальный идентификатор записи сделки в CRM", "uid": "Уникальный идентификатор записи сделки в вашей ИС", "datum": "Дата создания",
            "datum_izm": "Дата изменения", "clid": "Клиент", "title": "Название", "mcid": "Компания", "iduser": "Ответственный", "datum_plan": "Дата план.",
            "step": "Этап", "dog_num": "Договор", "tip": "Тип сделки", "direction": "Направление", "adres": "Адрес", "content": "Описание",
            "payer": "Плательщик", "kol": "Сумма план.", "marga": "Прибыль", "datum_start": "Период. Начало", "datum_end": "Период. Конец",
            "close": "Признак закрытой сделки", "datum_close": "Дата закрытия", "status_close": "Результат закрытия", "des_fact": "Комментарий закрытия",
            "kol_fact": "Сумма факт.",
        } }))
    }

    pub(super) fn deal_steps() -> Reply {
        let data: Vec<Value> = STEPS
            .iter()
            .map(|step| json!({ "idcategory": step.id.to_string(), "title": step.title, "content": step.content }))
            .collect();
        Reply::json(&json!({ "data": data }))
    }

    pub(super) fn deal_types() -> Reply {
        let default = |id: i64| if id == 6 { "yes" } else { "" };
        let data: Vec<Value> = DEAL_TYPES
            .iter()
            .map(|(id, title)| json!({ "tid": id.to_string(), "title": title, "isDefault": default(*id) }))
            .collect();
        Reply::json(&json!({ "data": data }))
    }

    pub(super) fn deal_statuses() -> Reply {
        let data: Vec<Value> =
            CLOSE_STATUSES.iter().map(|(id, title)| json!({ "sid": id.to_string(), "title": title })).collect();
        Reply::json(&json!({ "data": data }))
    }

    pub(super) fn deal_list(&self, actor: Actor, params: &Params) -> Handled {
        let mut all = [COLUMNS.as_slice(), CLOSING.as_slice()].concat();
        if self.applications {
            all.extend(["zayavka", "ztitle"]);
        }
        let mut filter = params.object("filter");
        let phone = filter.shift_remove("phone").map(|phone| php::text_of(&phone));
        let (start, end) = (params.text("dateStart"), params.text("dateEnd"));
        let steps = params.text("steps");
        let mut rows: Vec<&Row> = self
            .deals
            .rows()
            .filter(|deal| self.sees(actor, deal))
            .filter(|deal| match params.text("active").as_deref() {
                Some("yes") => deal.text("close") == "no",
                Some("no") => deal.text("close") == "yes",
                _ => true,
            })
            .filter(|deal| {
                steps.as_deref().is_none_or(|steps| {
                    step(deal.int("idcategory"))
                        .is_some_and(|at| steps.split(',').any(|title| title.trim() == at.title))
                })
            })
            .filter(|deal| {
                phone.as_deref().is_none_or(|phone| {
                    self.clients.get(deal.int("clid")).is_some_and(|client| client.text("phone") == phone)
                })
            })
            .filter(|deal| listing::within(&deal.text("datum"), start.as_deref(), end.as_deref()))
            .filter(|deal| listing::fits(deal, &filter, &all))
            .collect();
        listing::order(&mut rows, params, &all, "datum")?;
        let fields = params.fields(&all);
        let page = listing::page(&rows, params)?;
        let data = page.into_iter().map(|deal| {
            let mut entry = self.deal_entry(deal, &fields);
            if phone.is_some() {
                entry.insert("client".to_owned(), self.client_list_block(deal.int("clid")));
            }
            Value::Object(entry)
        });
        Ok(listing::counted(data.collect(), rows.len()))
    }

    fn deal_entry(&self, deal: &Row, fields: &[&str]) -> Map<String, Value> {
        let mut entry = Map::new();
        for field in fields {
            match *field {
                "clid" => {
                    entry.insert("clid".to_owned(), deal.get("clid").clone());
                    entry.insert("clientTitle".to_owned(), Value::from(self.client_title(deal.int("clid"))));
                }
                "iduser" => {
                    let iduser = deal.int("iduser");
                    entry.insert("iduser".to_owned(), Value::from(iduser));
                    entry.insert("user".to_owned(), Value::from(self.login_of(iduser)));
                    entry.insert(
                        "userTitle".to_owned(),
                        self.user_by_id(iduser).map_or(Value::Null, |user| user.get("title").clone()),
                    );
                }
                "step" | "dog_num" | "tip" | "direction" => linked_fields(deal, field, &mut entry),
                "payer" => {
                    entry.insert("payer".to_owned(), deal.get("payer").clone());
                    entry.insert("payerTitle".to_owned(), Value::from(self.client_title(deal.int("payer"))));
                }
                "status_close" => {
                    let status = deal.get("status_close");
                    entry.insert(
                        "status_close".to_owned(),
                        if status.is_null() { Value::from(false) } else { status.clone() },
                    );
                }
                "mcid" => {
                    entry.insert("mcid".to_owned(), Value::from(deal.int("mcid").max(1)));
                }
                "kol_fact" => {
                    entry.insert("kol_fact".to_owned(), php::number(deal.amount("kol_fact")));
                }
                _ => {
                    entry.insert((*field).to_owned(), deal.get(field).clone());
                }
            }
        }
        entry
    }

    pub(super) fn deal_info(&self, actor: Actor, params: &Params) -> Handled {
        let found = match (params.text("did"), params.text("uid")) {
            (Some(_), _) => self.deal_of(actor, params)?,
            (None, Some(uid)) => {
                let deal = self.deals.rows().find(|deal| deal.text("uid") == uid && self.sees(actor, deal));
                deal.cloned().ok_or_else(|| Reply::error(404, deal::NOT_FOUND))?
            }
            (None, None) => return Err(Reply::syntax_fatal()),
        };
        let all = [COLUMNS.as_slice(), CLOSING.as_slice()].concat();
        let mut data = Map::new();
        for field in params.fields(&all) {
            match field {
                "iduser" => {
                    let iduser = found.int("iduser");
                    data.insert("iduser".to_owned(), Value::from(iduser));
                    data.insert("user".to_owned(), Value::from(self.login_of(iduser)));
                    data.insert("userUID".to_owned(), Value::from(self.uid_of(iduser)));
                }
                "step" | "dog_num" | "tip" | "direction" => linked_fields(&found, field, &mut data),
                "payer" => {
                    if params.yes("payer") {
                        data.insert("payer".to_owned(), self.client_block(found.int("payer")));
                    }
                }
                "status_close" => {
                    data.insert("status_close".to_owned(), Value::from(false));
                }
                _ => {
                    data.insert(field.to_owned(), Value::Null);
                }
            }
        }
        self.deal_blocks(&found, params, &mut data);
        Ok(Reply::json(&json!({ "data": data })))
    }

    /// The optional blocks at the end of `info`; they are true.
    fn deal_blocks(&self, deal: &Row, params: &Params, data: &mut Map<String, Value>) {
        let did = deal.int("did");
        if params.yes("client") {
            data.insert("client".to_owned(), self.client_block(deal.int("clid")));
        }
        if params.yes("bankinfo") {
            data.insert(
                "bankinfo".to_owned(),
                self.clients.get(deal.int("payer")).map_or(Value::Null, client_read::requisites),
            );
        }
        let pids = deal.text("pid_list");
        let persons: Vec<Value> = pids
            .split(';')
            .filter_map(|pid| pid.parse().ok())
            .map(|pid| person_block(pid, self.persons.get(pid)))
            .collect();
        if !persons.is_empty() {
            data.insert("person".to_owned(), Value::from(persons));
        }
        if params.yes("speka") {
            let positions: Vec<Value> =
                self.positions.rows().filter(|position| position.int("did") == did).map(position_block).collect();
            data.insert("speka".to_owned(), Value::from(positions));
        }
        if params.yes("invoice") {
            let invoices: Vec<Value> = self
                .invoices
                .rows()
                .filter(|invoice| invoice.int("did") == did)
                .map(|invoice| self.invoice_entry(invoice))
                .collect();
            if !invoices.is_empty() {
                data.insert("invoice".to_owned(), Value::from(invoices));
            }
        }
    }
}

/// The fields that print an id and a title, the same in both answers.
fn linked_fields(deal: &Row, field: &str, entry: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Value| entry.insert(name.to_owned(), value);
    match field {
        "step" => {
            let at = step(deal.int("idcategory"));
            put("step", Value::from(at.and_then(|step| step.title.parse::<i64>().ok()).unwrap_or(0)));
            put("stepID", Value::from(at.map_or(0, |step| step.id)));
            put("stepTitle", json!(at.map(|step| step.content)));
        }
        "dog_num" => {
            put("contractID", Value::from(0));
            put("contractTitle", Value::Null);
            put("contractNumber", Value::Null);
            put("contractDate", Value::Null);
        }
        "tip" => {
            put("tipID", Value::from(deal.int("tip")));
            put("tip", json!(title_in(&DEAL_TYPES, deal.int("tip"))));
        }
        _ => {
            put("directionID", Value::from(1));
            put("direction", Value::from("Основное"));
        }
    }
}

/// A number stands there whether or not there is such a contact.
fn person_block(pid: i64, person: Option<&Row>) -> Value {
    let none = Row::default();
    let person = person.unwrap_or(&none);
    json!({
        "pid": pid, "title": person.text("person"), "post": person.text("ptitle"), "phone": person.text("tel"),
        "mob": person.text("mob"), "email": person.text("mail"),
    })
}

fn position_block(position: &Row) -> Value {
    json!({
        "spid": position.get("spid"), "prid": 0, "artikul": position.get("artikul"), "title": position.get("title"), "tip": "0",
        "kol": position.get("kol"), "dop": 1, "price": position.get("price"), "price_in": position.get("price_in"), "nds": position.get("nds"), "comments": " ",
    })
}
