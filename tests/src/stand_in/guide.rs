//! Users and reference lists: the methods `user` and `guides`, and the lookups that other methods make in them.
//!
//! - A title that is not in a list is added to it, as the CRM does when a client is saved with a new category.
//! - Steps, deal types and closing statuses are fixed: they are the measured box's own.
//! - It doesn't offer the company lists.

use serde_json::{Value, json};

use super::crm::{Crm, Handled, Reply, unknown_action};
use super::row::{Params, Row};

/// What the lists print for "nothing chosen".
pub(super) const UNDEFINED: &str = "--не определено--";

/// A step of the sales funnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) id: i64,
    /// The percent, which is what requests and events name.
    pub(super) title: &'static str,
    pub(super) content: &'static str,
}

/// The steps in the order of the funnel.
pub(super) const STEPS: [Step; 7] = [
    Step { id: 10, title: "0", content: "Проявлен/Выявлен интерес" },
    Step { id: 2, title: "20", content: "Подтвержден интерес" },
    Step { id: 11, title: "40", content: "Отправлено КП" },
    Step {
        id: 5, title: "60", content: "Обсуждение деталей - продукты, услуги, оплата"
    },
    Step { id: 6, title: "80", content: "Согласован договор, Выставлен счет" },
    Step {
        id: 7, title: "90", content: "Получена предоплата, Выполнение договора"
    },
    Step { id: 8, title: "100", content: "Закрытие сделки, Подписание документов" },
];

/// Deal types by id, the default one first.
pub(super) const DEAL_TYPES: [(i64, &str); 6] = [
    (6, "Продажа быстрая"),
    (1, "Продажа простая"),
    (2, "Продажа с разработкой"),
    (4, "Продажа услуг"),
    (5, "Тендер"),
    (3, "Услуги"),
];

/// Closing statuses by id.
pub(super) const CLOSE_STATUSES: [(i64, &str); 7] = [
    (7, "Закрыл менеджер. Отказ"),
    (6, "Отказ от участия"),
    (5, "Отменена Заказчиком"),
    (1, "Победа полная"),
    (2, "Победа, договорились с конкурентами"),
    (3, "Проигрыш по цене"),
    (4, "Проигрыш, договорились с конкурентами"),
];

/// The step of an id.
pub(super) fn step(id: i64) -> Option<Step> {
    STEPS.into_iter().find(|step| step.id == id)
}

/// The step of a percent title; an unknown title is no step.
pub(super) fn step_by_title(title: &str) -> Option<Step> {
    STEPS.into_iter().find(|step| step.title == title)
}

/// The title of an id in one of the fixed lists.
pub(super) fn title_in(list: &[(i64, &'static str)], id: i64) -> Option<&'static str> {
    list.iter().find(|(known, _)| *known == id).map(|(_, title)| *title)
}

/// The id of a title or of a number in one of the fixed lists.
pub(super) fn id_in(list: &[(i64, &'static str)], wanted: &str) -> Option<i64> {
    list.iter().find(|(id, title)| *title == wanted || id.to_string() == wanted).map(|(id, _)| *id)
}

/// A reference list that grows.
#[derive(Debug)]
pub(super) struct Guide(Vec<(i64, String)>);

impl Guide {
    fn of(entries: &[(i64, &str)]) -> Self {
        Self(entries.iter().map(|(id, title)| (*id, (*title).to_owned())).collect())
    }

    pub(super) fn title(&self, id: i64) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, title)| title.as_str())
    }

    /// The id of a number or a title; a new title is added.
    pub(super) fn id_of(&mut self, wanted: &str) -> i64 {
        if let Some((id, _)) = self.0.iter().find(|(id, title)| title == wanted || id.to_string() == wanted) {
            return *id;
        }
        if wanted.is_empty() || wanted.parse::<i64>().is_ok() {
            return 0;
        }
        let next = self.0.iter().map(|(id, _)| *id).max().unwrap_or(0) + 1;
        self.0.push((next, wanted.to_owned()));
        next
    }
}

/// The lists that grow.
#[derive(Debug)]
pub(super) struct Guides {
    pub(super) categories: Guide,
    pub(super) territories: Guide,
    pub(super) paths: Guide,
}

impl Guides {
    pub(super) fn new() -> Self {
        Self {
            categories: Guide::of(&[(1, "Физические лица"), (2, "Розница")]),
            territories: Guide::of(&[(1, "Пермь"), (3, "Тюмень"), (4, "Челябинск"), (5, "Москва")]),
            paths: Guide::of(&[
                (1, "Личные связи"),
                (2, "Маркетинг"),
                (3, "Справочник"),
                (4, "Заказ с сайта"),
                (5, "Рекомендации клиентов"),
            ]),
        }
    }
}

impl Crm {
    pub(super) fn guide(&self, action: &str) -> Handled {
        let data: Vec<Value> = match action {
            "category" => self
                .guides
                .categories
                .0
                .iter()
                .map(|(id, title)| json!({ "id": id, "title": title, "tip": "client" }))
                .collect(),
            "territory" => {
                self.guides.territories.0.iter().map(|(id, title)| json!({ "id": id, "title": title })).collect()
            }
            "clientpath" => self.guides.paths.0.iter().map(|(id, title)| path_entry(*id, title)).collect(),
            "relations" => relations(),
            _ => return Err(unknown_action("guides")),
        };
        Ok(Reply::json(&json!({ "data": data })))
    }

    pub(super) fn user(&self, action: &str, params: &Params) -> Handled {
        match action {
            "fields" => Ok(Reply::json(&json!({ "data": {
                "iduser": "Идентификатор пользователя", "uid": "Идентификатор в вашей ИС", "title": "ФИО", "login": "Логин",
                "active": "Активность", "tip": "Роль", "user_post": "Должность", "email": "Почта", "phone": "Телефон",
                "phone_in": "Внутренний номер", "mob": "Мобильный",
            } }))),
            "user.list" => {
                let data: Vec<Value> = self
                    .users
                    .iter()
                    .map(|user| pick(user, &["iduser", "uid", "oid", "title", "login", "email", "active"]))
                    .collect();
                Ok(Reply::json(&json!({ "data": data })))
            }
            "user" => self.user_info(params),
            _ => Err(unknown_action("user")),
        }
    }

    fn user_info(&self, params: &Params) -> Handled {
        let wanted = match (params.text("user"), params.text("iduser")) {
            (Some(login), _) => self.user_by_login(&login).unwrap_or(0),
            (None, Some(_)) => params.int("iduser"),
            (None, None) => return Err(Reply::syntax_fatal()),
        };
        let user = self.user_by_id(wanted).ok_or_else(|| Reply::bare_error("404", "Пользователь не найден"))?;
        let columns = [
            "iduser",
            "uid",
            "oid",
            "title",
            "login",
            "active",
            "tip",
            "user_post",
            "email",
            "phone",
            "phone_in",
            "mob",
        ];
        Ok(Reply::json(&json!({ "data": pick(user, &columns) })))
    }
}

fn pick(row: &Row, columns: &[&str]) -> Value {
    columns.iter().map(|column| ((*column).to_owned(), row.get(column).clone())).collect()
}

fn path_entry(id: i64, title: &str) -> Value {
    let source = if title == "Рекомендации клиентов" { "fromfriend" } else { "" };
    json!({ "id": id, "title": title, "utm_source": source, "destination": "" })
}

fn relations() -> Vec<Value> {
    let all = [
        (1, "0 - Не работаем", "#333333"),
        (2, "1 - Холодный клиент", "#99ccff"),
        (3, "3 - Текущий клиент", "#3366ff"),
        (5, "4 - Постоянный клиент", "#ff9900"),
        (4, "2 - Потенциальный клиент", "#99ff66"),
        (6, "5 - Перспективный клиент", "#ff0033"),
    ];
    all.into_iter().map(|(id, title, color)| json!({ "id": id, "title": title, "color": color })).collect()
}
