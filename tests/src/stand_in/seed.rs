//! What the stand-in knows when it starts: the users, and for a demo a handful of records.
//!
//! - The users are those of the captured traffic: an administrator who owns the API login, a manager, a dismissed
//!   colleague whose login still works, and a second manager.
//! - Demo records are stored silently: nobody is told about them.

use serde_json::{Value, json};

use super::row::Row;

/// The login that the API key belongs to.
pub(super) const API_LOGIN: &str = "api@example.test";

/// All users, by ascending id.
pub(super) fn users() -> Vec<Row> {
    let user = |iduser: i64, uid: Option<&str>, title: &str, login: &str, active: &str, post: &str, role: &str| {
        Row::from(json!({
            "iduser": iduser, "uid": uid, "oid": false, "title": title, "login": login, "active": active, "tip": role, "user_post": post,
            "email": login, "phone": Value::Null, "phone_in": Value::Null, "mob": Value::Null,
        }))
    };
    vec![
        user(1, Some("UID-API-1"), "Админ Тестов", API_LOGIN, "yes", "Администратор", "Руководитель организации"),
        user(2, Some("UID-UI-2"), "Иванова Анна", "ui@example.test", "yes", "Менеджер", "Менеджер продаж"),
        user(3, None, "Уволенный Пётр", "fired@example.test", "no", "Менеджер", "Менеджер продаж"),
        user(4, None, "Сидоров Олег", "mgr2@example.test", "yes", "Менеджер", "Менеджер продаж"),
    ]
}

/// The demo's clients.
pub(super) fn demo_clients() -> Vec<Value> {
    vec![
        json!({ "title": "ООО Ромашка", "phone": "84951110000", "mail_url": "info@romashka.test", "address": "Москва, ул. Ленина, 1", "iduser": 2, "clientpath": "Сайт" }),
        json!({ "title": "ИП Лютиков", "phone": "84957654321", "type": "person", "iduser": 2 }),
        json!({ "title": "АО Северный ветер", "mail_url": "mail@north.test", "territory": "Тюмень", "iduser": 4 }),
    ]
}

/// The demo's contacts; `clid` counts the clients above.
pub(super) fn demo_persons() -> Vec<Value> {
    vec![
        json!({ "person": "Петров Пётр", "clid": 1, "tel": "84951234567", "mob": "89161234567", "mail": "p@romashka.test", "ptitle": "Директор", "iduser": 2 }),
        json!({ "person": "Сидорова Мария", "clid": 3, "mail": "maria@north.test", "ptitle": "Бухгалтер", "iduser": 4 }),
    ]
}

/// The demo's deals.
pub(super) fn demo_deals() -> Vec<Value> {
    vec![
        json!({
            "clid": 1, "title": "Поставка № 1", "step": "20", "tip": "Продажа простая", "pid_list": "1", "iduser": 2, "uid": "D-001",
            "speka": [{ "title": "Поддержка", "kol": 2, "price": "1000.50", "price_in": 100, "nds": 20 }, { "title": "Работа", "kol": 1, "price": 500 }],
        }),
        json!({ "clid": 3, "title": "Внедрение", "step": "0", "kol": 150_000, "marga": 40_000, "iduser": 4 }),
    ]
}
