//! The method `client`, read: fields, records, pages, and the client as a block inside a deal.
//!
//! - `info` and `list` print the same record differently (ids, titles, dates), and both differ from what was sent.
//! - `dateChangeStart` alone doesn't compare with its own value; both ends are needed.
//! - Nothing here writes.

use serde_json::{Map, Value, json};

use super::clock;
use super::crm::{Crm, Handled, Reply};
use super::event::Actor;
use super::guide::UNDEFINED;
use super::listing;
use super::row::{Params, Row};

const COLUMNS: [&str; 19] = [
    "clid",
    "uid",
    "type",
    "date_create",
    "date_edit",
    "title",
    "iduser",
    "idcategory",
    "head_clid",
    "pid",
    "address",
    "phone",
    "fax",
    "site_url",
    "mail_url",
    "territory",
    "des",
    "tip_cmr",
    "clientpath",
];

const REQUISITES: [&str; 15] = [
    "castUrName",
    "castInn",
    "castKpp",
    "castBank",
    "castBankKs",
    "castBankRs",
    "castBankBik",
    "castOkpo",
    "castOgrn",
    "castDirName",
    "castDirSignature",
    "castDirStatus",
    "castDirStatusSig",
    "castDirOsnovanie",
    "castUrAddr",
];

impl Crm {
    pub(super) fn client_fields() -> Reply {
        Reply::json(&json!({ "data": {
            "clid": "Уникальный идентификатор записи клиента в CRM",
            "uid": "Уникальный идентификатор записи клиента в вашей ИС",
            "type": "Тип записи (допустимые - client,person,concurent,contractor,parnter)",
            "date_create": "Дата создания. Timestamp",
            "date_edit": "Дата последнего изменения. Timestamp",
            "title": "Название",
            "iduser": "Ответственный",
            "idcategory": "Категория",
            "head_clid": "Головн. орг-ия",
            "pid": "Осн. контакт",
            "address": "Адрес",
            "phone": "Телефон",
            "fax": "Факс",
            "site_url": "Сайт",
            "mail_url": "Почта",
            "territory": "Территория",
            "des": "Описание",
            "tip_cmr": "Тип отношений",
            "recv": "Реквизиты",
            "clientpath": "Источник клиента",
        } }))
    }

    pub(super) fn client_list(&self, actor: Actor, params: &Params) -> Handled {
        let word = params.text("word").map(|word| word.to_lowercase());
        let filter = params.object("filter");
        let (start, end) = (params.text("dateStart"), params.text("dateEnd"));
        let mut rows: Vec<&Row> = self
            .clients
            .rows()
            .filter(|client| self.sees(actor, client))
            .filter(|client| word.as_deref().is_none_or(|word| client.text("title").to_lowercase().contains(word)))
            .filter(|client| {
                listing::within(&client.text("date_create"), start.as_deref(), end.as_deref())
                    || params.has("dateChangeStart")
            })
            .filter(|client| changed_within(client, params))
            .filter(|client| listing::fits(client, &filter, &COLUMNS))
            .collect();
        listing::order(&mut rows, params, &COLUMNS, "date_create")?;
        let fields = params.fields(&COLUMNS);
        let data = listing::page(&rows, params)?.into_iter().map(|client| self.client_entry(client, &fields)).collect();
        Ok(listing::counted(data, rows.len()))
    }

    pub(super) fn client_info(&self, actor: Actor, params: &Params) -> Handled {
        let client = match (params.text("clid"), params.text("uid")) {
            (Some(_), _) => self.clients.get(params.int("clid")),
            (None, Some(uid)) => self.clients.rows().find(|client| client.text("uid") == uid),
            (None, None) => return Err(Reply::error(405, "Отсутствуют параметры клиента")),
        };
        let client = client.ok_or_else(|| Reply::error(404, "Не найдено"))?;
        if !self.sees(actor, client) {
            return Err(Reply::error(403, "Клиент не найден в пределах аккаунта указанного пользователя."));
        }
        let mut data = Map::new();
        for field in params.fields(&COLUMNS) {
            self.client_info_field(client, field, &mut data);
        }
        if params.yes("bankinfo") {
            data.insert("bankinfo".to_owned(), requisites(client));
        }
        for field in &self.switched_off {
            data.shift_remove(field);
        }
        let mut answer = json!({ "data": data });
        if params.yes("contacts") {
            let clid = client.int("clid");
            let contacts: Vec<Value> = self
                .persons
                .rows()
                .filter(|person| person.int("clid") == clid && self.sees(actor, person))
                .map(|person| json!({ "pid": person.get("pid"), "person": person.get("person"), "ptitle": person.get("ptitle"), "tel": person.get("tel"), "mob": person.get("mob"), "mail": person.get("mail") }))
                .collect();
            if let Some(root) = answer.as_object_mut() {
                root.insert("contacts".to_owned(), Value::from(contacts));
            }
        }
        Ok(Reply::json(&answer))
    }

    fn client_entry(&self, client: &Row, fields: &[&str]) -> Value {
        let mut entry = Map::new();
        for field in fields {
            let extra = match *field {
                "iduser" => Some(("user", Value::from(self.login_of(client.int("iduser"))))),
                "idcategory" => Some((
                    "idcategoryTitle",
                    Value::from(self.guides.categories.title(client.int("idcategory")).unwrap_or(UNDEFINED)),
                )),
                "head_clid" => Some((
                    "head_clidTitle",
                    self.clients
                        .get(client.int("head_clid"))
                        .map_or(Value::from(UNDEFINED), |head| head.get("title").clone()),
                )),
                "pid" => Some(("person", Value::from(self.person_name(client.int("pid"))))),
                "territory" => Some(("territoryTitle", json!(self.guides.territories.title(client.int("territory"))))),
                "clientpath" => Some(("clientpathTitle", json!(self.guides.paths.title(client.int("clientpath"))))),
                _ => None,
            };
            if let Some((name, value)) = extra {
                entry.insert(name.to_owned(), value);
            }
            entry.insert((*field).to_owned(), client.get(field).clone());
        }
        Value::Object(entry)
    }

    fn client_info_field(&self, client: &Row, field: &str, data: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
        let own = client.get(field).clone();
        match field {
            "date_create" => {
                put("created", own);
                put("date_create", Value::from(clock::short(&client.text("date_create"))));
            }
            "date_edit" => {
                put("edited", own);
                put("date_edit", Value::from(clock::short(&client.text("date_edit"))));
            }
            "iduser" => {
                put("iduser", own);
                put("user", Value::from(self.login_of(client.int("iduser"))));
            }
            "idcategory" => {
                put("idcategory", own);
                put(
                    "categoryName",
                    Value::from(self.guides.categories.title(client.int("idcategory")).unwrap_or(UNDEFINED)),
                );
            }
            "head_clid" => {
                let head = client.int("head_clid");
                put("head_clid", if head == 0 { Value::from("") } else { Value::from(self.client_title(head)) });
            }
            "pid" => {
                put("pid", own);
                put("person", Value::from(self.person_name(client.int("pid"))));
            }
            "territory" => {
                put("territory", own);
                put("territoryName", json!(self.guides.territories.title(client.int("territory"))));
            }
            "des" => {
                put("des", if client.is_blank("des") { Value::Null } else { own });
            }
            "clientpath" => {
                put("clientpath", json!(self.guides.paths.title(client.int("clientpath"))));
            }
            _ => {
                put(field, own);
            }
        }
    }

    /// The client inside `info` of a deal: with bank details.
    pub(super) fn client_block(&self, clid: i64) -> Value {
        self.client_card(clid, "dostup")
    }

    /// The client inside a `list` of deals: with access rights instead.
    pub(super) fn client_list_block(&self, clid: i64) -> Value {
        self.client_card(clid, "recv")
    }

    fn client_card(&self, clid: i64, without: &str) -> Value {
        let Some(client) = self.clients.get(clid) else { return json!([]) };
        let mut card = self.whole_card(client);
        if let Some(card) = card.as_object_mut() {
            card.shift_remove(without);
        }
        card
    }

    fn whole_card(&self, client: &Row) -> Value {
        let name_of = |column: &str| {
            self.user_by_id(client.int(column)).map_or(Value::from(""), |user| user.get("title").clone())
        };
        let (clid, title, kind) = (client.int("clid"), client.text("title"), client.text("type"));
        let mut recv = Map::new();
        recv.insert("clid".to_owned(), Value::from(clid));
        for (name, value) in requisites(client).as_object().into_iter().flatten() {
            recv.insert(name.clone(), value.clone());
            if name == "castUrName" {
                recv.insert("castUrNameShort".to_owned(), Value::from(""));
                recv.insert("castName".to_owned(), Value::from(title.clone()));
            }
        }
        recv.insert("castFacAddr".to_owned(), Value::from(client.text("address")));
        recv.insert("castType".to_owned(), Value::from(kind.clone()));
        json!({
            "clid": clid, "uid": client.get("uid"), "clientUID": client.get("uid"), "iduser": client.get("iduser"), "title": title, "des": client.text("des"),
            "idcategory": client.get("idcategory"), "category": self.guides.categories.title(client.int("idcategory")),
            "phone": client.get("phone"), "fax": client.get("fax"), "site_url": client.get("site_url"), "mail_url": client.get("mail_url"),
            "address": client.get("address"), "pid": client.get("pid"), "fav": "no", "trash": "no", "head_clid": client.get("head_clid"), "head": "",
            "scheme": Value::Null, "tip_cmr": client.get("tip_cmr"), "relation": client.get("tip_cmr"), "territory": client.get("territory"),
            "territoryname": self.guides.territories.title(client.int("territory")),
            "created": client.get("date_create"), "creator": name_of("creator"), "creatorID": client.get("creator"), "date_create": clock::short(&client.text("date_create")),
            "edited": client.get("date_edit"), "editor": name_of("editor"), "editorID": client.get("editor"), "date_edit": clock::short(&client.text("date_edit")),
            "dostup": [], "clientpath": self.guides.paths.title(client.int("clientpath")), "clientpath2": client.get("clientpath"), "type": kind, "priceLevel": "price_1", "recv": recv,
        })
    }
}

/// Bank details with every key present, empty where nothing was saved.
pub(super) fn requisites(client: &Row) -> Value {
    let saved = client.get("recv");
    REQUISITES
        .iter()
        .map(|name| ((*name).to_owned(), saved.get(name).cloned().unwrap_or_else(|| Value::from(""))))
        .collect()
}

fn changed_within(client: &Row, params: &Params) -> bool {
    let Some(start) = params.text("dateChangeStart") else { return true };
    let edited = client.text("date_edit");
    if edited.is_empty() {
        return false;
    }
    match params.text("dateChangeEnd") {
        Some(end) => listing::within(&edited, Some(&start), Some(&end)),
        None => listing::within(&edited, params.text("dateStart").as_deref(), None),
    }
}
