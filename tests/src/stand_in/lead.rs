//! The method `lead`: enquiries.
//!
//! - An enquiry of a known client is given to that client's user (`lead.setuser`); any other goes to the coordinator
//!   (`lead.add`). Neither event has an author.
//! - An unknown id isn't an error: the answer is a nearly empty record.
//! - `list` prints no responsible user, whoever it is.

use serde_json::{Value, json};

use super::crm::{Crm, Handled, Reply, unknown_action};
use super::event::{Actor, Event};
use super::php::Field;
use super::row::{Params, Row};
use super::{clock, listing};

/// The user whom the module's settings name as coordinator.
const COORDINATOR: i64 = 1;

const STATUSES: [&str; 4] = ["Открыт", "В работе", "Обработан", "Закрыт"];
const ORDERABLE: [&str; 5] = ["id", "datum", "status", "iduser", "clid"];

impl Crm {
    pub(super) fn lead(&mut self, actor: Actor, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(fields()),
            "list" => self.lead_list(params),
            "info" => Ok(self.lead_info(params)),
            "add" => Ok(self.lead_add(actor, params)),
            _ => Err(unknown_action("lead")),
        }
    }

    fn lead_list(&self, params: &Params) -> Handled {
        let (start, end) = (params.text("dateStart"), params.text("dateEnd"));
        let mut rows: Vec<&Row> = self
            .leads
            .rows()
            .filter(|lead| !params.has("status") || params.int("status") == lead.int("status"))
            .filter(|lead| listing::within(&lead.text("datum"), start.as_deref(), end.as_deref()))
            .collect();
        listing::order(&mut rows, params, &ORDERABLE, "datum")?;
        let data: Vec<Value> = listing::page(&rows, params)?.into_iter().map(|lead| self.lead_entry(lead)).collect();
        if data.is_empty() {
            return Err(Reply::error(404, "Не найдено"));
        }
        Ok(Reply::json(&json!({ "data": data })))
    }

    fn lead_entry(&self, lead: &Row) -> Value {
        let (clid, pid, did) = (lead.int("clid"), lead.int("pid"), lead.int("did"));
        json!({
            "id": lead.get("id"), "datum": lead.get("datum"), "datum_do": Value::Null, "email": lead.get("email"), "phone": lead.get("phone"),
            "site": lead.get("site"), "company": lead.get("company"), "city": lead.get("city"), "country": lead.get("country"), "content": lead.get("description"),
            "clid": clid, "client": self.clients.get(clid).map(|client| client.text("title")),
            "pid": pid, "person": self.persons.get(pid).map(|person| person.text("person")),
            "did": did, "deal": self.deals.get(did).map(|deal| deal.text("title")),
            "user": 0, "userName": "Не определен", "status": lead.get("status"), "statusName": status_name(lead.int("status")),
            "rezult": Value::Null, "rezultName": "", "clientpath": lead.text("clientpath"), "clientpathName": self.guides.paths.title(lead.int("clientpath")), "uids": [],
        })
    }

    fn lead_info(&self, params: &Params) -> Reply {
        let id = params.int("id");
        let Some(lead) = self.leads.get(id) else {
            let nothing = json!({
                "description": "", "statusName": "", "rezultName": Value::Null, "clientpathName": "", "userName": Value::Null, "client": Value::Null,
                "person": Value::Null, "deal": Value::Null,
            });
            return Reply::json(&json!({ "data": nothing, "id": id }));
        };
        let mut data = lead.clone();
        let links = [
            ("statusName", json!(status_name(lead.int("status")))),
            ("rezultName", Value::Null),
            ("clientpathName", json!(self.guides.paths.title(lead.int("clientpath")))),
            ("userName", json!(self.user_by_id(lead.int("iduser")).map(|user| user.text("title")))),
            ("client", json!(self.clients.get(lead.int("clid")).map(|client| client.text("title")))),
            ("person", json!(self.persons.get(lead.int("pid")).map(|person| person.text("person")))),
            ("deal", json!(self.deals.get(lead.int("did")).map(|deal| deal.text("title")))),
        ];
        for (name, value) in links {
            data.set(name, value);
        }
        Reply::json(&json!({ "data": data.columns(), "id": id }))
    }

    fn lead_add(&mut self, actor: Actor, params: &Params) -> Reply {
        let (email, phone) = (params.clean("email", Field::Plain), params.clean("phone", Field::Plain));
        let known = |sent: &Option<String>, stored: &str| sent.as_deref().is_some_and(|sent| sent == stored);
        let client = self
            .clients
            .rows()
            .find(|client| known(&email, &client.text("mail_url")) || known(&phone, &client.text("phone")));
        let (clid, iduser) = client.map_or((0, 0), |client| (client.int("clid"), client.int("iduser")));
        let path = params.clean("clientpath", Field::Plain).map_or(0, |path| self.guides.paths.id_of(&path));
        let row = Row::from(json!({
            "id": 0, "datum": clock::stamp(), "datum_do": Value::Null, "status": i64::from(iduser > 0), "rezult": 0, "title": params.column("title"),
            "email": email, "phone": phone, "site": params.column("site"), "company": params.column("company"), "description": params.column("description"),
            "ip": Value::Null, "city": params.column("city"), "country": params.column("country"), "iduser": iduser, "clientpath": path,
            "pid": 0, "clid": clid, "did": 0, "partner": 0, "utm_source": params.column("utm_source"), "utm_medium": params.column("utm_medium"),
            "utm_campaign": params.column("utm_campaign"), "utm_term": params.column("utm_term"), "utm_content": params.column("utm_content"),
            "utm_referrer": params.column("utm_referrer"),
        }));
        let id = self.leads.add("id", row);
        let (name, told) = if iduser > 0 { ("lead.setuser", iduser) } else { ("lead.add", COORDINATOR) };
        let event = Event::new(name, actor)
            .with("id", id)
            .with("clid", clid)
            .with("pid", 0)
            .with("did", 0)
            .with("iduser", told);
        Reply::json(&json!({ "result": "Success", "id": id })).about(id).fires(event)
    }
}

fn status_name(status: i64) -> Option<&'static str> {
    usize::try_from(status).ok().and_then(|index| STATUSES.get(index).copied())
}

fn fields() -> Reply {
    Reply::json(&json!({ "data": {
        "id": "Уникальный идентификатор заявки", "datum": "Дата получения", "datum_do": "Дата обработки", "status": "Статус", "rezult": "Результат",
        "title": "Название", "email": "Почта", "phone": "Телефон", "site": "Сайт", "company": "Компания", "description": "Описание", "ip": "IP-адрес",
        "city": "Город", "country": "Страна", "iduser": "Ответственный", "clientpath": "Источник", "pid": "Контакт", "clid": "Клиент", "did": "Сделка",
    } }))
}
