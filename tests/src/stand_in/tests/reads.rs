//! What reading shows: credentials, shapes, lies and pages.

use serde_json::json;

use super::{REFUSED, at, form, form_as, is_fatal, json_call, post, start};

#[tokio::test]
async fn a_wrong_key_is_not_the_documented_400() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let wrong_key = post(&stand_in, "client", &headers, "login=api@example.test&apikey=wrong&action=fields").await?;
    assert_eq!((wrong_key.status, wrong_key.body.as_str()), (200, REFUSED));
    assert_eq!(form_as(&stand_in, "nobody@example.test", "deal", &[("action", "list")]).await?, REFUSED);
    let dismissed = form_as(&stand_in, "fired@example.test", "client", &[("action", "fields")]).await?;
    assert_eq!(at(&dismissed, "/data/title")?, "Название");
    Ok(())
}

#[tokio::test]
async fn a_charset_behind_the_json_type_hides_the_credentials() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let key = stand_in.api_key().to_owned();
    let body = r#"{"action":"steplist"}"#;
    let with = |kind: &'static str| [("Content-Type", kind), ("LOGIN", "api@example.test"), ("ApiKey", key.as_str())];
    let refused = post(&stand_in, "deal", &with("application/json; charset=utf-8"), body).await?;
    assert_eq!(refused.body, REFUSED);
    let accepted = post(&stand_in, "deal/", &with("application/json"), body).await?;
    assert_eq!(at(&accepted.body, "/data/1/idcategory")?, "2");
    let inside = json!({ "action": "steplist", "login": "api@example.test", "apikey": key }).to_string();
    let in_body = post(&stand_in, "deal.php", &[("Content-Type", "application/json")], &inside).await?;
    assert_eq!(at(&in_body.body, "/data/0/title")?, "0");
    Ok(())
}

#[tokio::test]
async fn unknown_names_answer_differently_per_method() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let bare = r#"{"error":{"code":402,"text":"Неизвестный метод"}}"#;
    let cases = [
        ("client", bare),
        ("history", bare),
        ("lead", r#"{"result":"Error","error":{"code":402,"text":"Не известный метод"}}"#),
        ("guides", r#"{"result":"Error","error":{"code":402,"text":"Неизвестный метод"}}"#),
        ("user", r#"{"result":"Error","error":{"code":"402","text":"Неизвестный метод"}}"#),
    ];
    for (method, expected) in cases {
        assert_eq!(form(&stand_in, method, &[("action", "no.such.action")]).await?, expected, "{method}");
    }
    assert_eq!(post(&stand_in, "nosuch", &[], "").await?.status, 404);
    let malformed = json_call_raw(&stand_in, "{bad json").await?;
    assert!(malformed.starts_with(&format!("{bare}<br />")), "{malformed}");
    Ok(())
}

async fn json_call_raw(stand_in: &crate::stand_in::StandIn, body: &str) -> anyhow::Result<String> {
    let headers = [("Content-Type", "application/json"), ("login", "api@example.test"), ("apikey", stand_in.api_key())];
    Ok(post(stand_in, "client", &headers, body).await?.body)
}

#[tokio::test]
async fn deal_info_hides_ordinary_fields_that_the_list_shows() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_client(json!({ "title": "Ромашка" }))?;
    let did = stand_in.seed_deal(json!({ "clid": 1, "title": "Поставка", "step": "60", "tip": "Услуги" }))?;
    let info = form(&stand_in, "deal", &[("action", "info"), ("did", "1")]).await?;
    let expected = r#"{"data":{"did":null,"uid":null,"datum":null,"datum_izm":null,"clid":null,"title":null,"mcid":null,"iduser":1,"user":"api@example.test","userUID":"UID-API-1","datum_plan":null,"step":60,"stepID":5,"stepTitle":"Обсуждение деталей - продукты, услуги, оплата","contractID":0,"contractTitle":null,"contractNumber":null,"contractDate":null,"tipID":3,"tip":"Услуги","directionID":1,"direction":"Основное","adres":null,"content":null,"kol":null,"marga":null,"datum_start":null,"datum_end":null,"close":null,"datum_close":null,"status_close":false,"des_fact":null,"kol_fact":null}}"#;
    assert_eq!(info, expected);
    stand_in.seed_deal(json!({ "clid": 1, "title": "Другая" }))?;
    let call = json!({ "action": "list", "filter": { "did": did }, "fields": "did,title,step,kol" });
    let list = json_call(&stand_in, "deal", &call).await?;
    let expected = r#"{"data":[{"did":1,"title":"СД2: Поставка","step":60,"stepID":5,"stepTitle":"Обсуждение деталей - продукты, услуги, оплата","kol":0}],"count":1}"#;
    assert_eq!(list, expected);
    Ok(())
}

#[tokio::test]
async fn empty_lists_have_four_different_shapes() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let list = [("action", "list")];
    assert_eq!(form(&stand_in, "client", &list).await?, r#"{"count":0}"#);
    assert_eq!(form(&stand_in, "person", &list).await?, r#"{"count":0}"#);
    let nothing = r#"{"result":"Error","error":{"code":404,"text":"Не найдено"}}"#;
    assert_eq!(form(&stand_in, "lead", &list).await?, nothing);
    stand_in.seed_task(json!({ "title": "Позвонить", "datum": "2026-11-23" }))?;
    assert_eq!(form(&stand_in, "task", &list).await?, "[]");
    let active = form(&stand_in, "task", &[("action", "list"), ("active", "yes")]).await?;
    assert_eq!(at(&active, "/data/0/tid")?, "1");
    form(&stand_in, "history", &[("action", "add"), ("content", "x"), ("clid", "1"), ("pid", "7")]).await?;
    assert_eq!(form(&stand_in, "history", &[("action", "list"), ("clid", "1")]).await?, "[]");
    let by_person = form(&stand_in, "history", &[("action", "list"), ("pid", "7")]).await?;
    assert_eq!(at(&by_person, "/data/0/content")?, "x");
    Ok(())
}

#[tokio::test]
async fn pages_hold_200_records_whatever_the_limit_says() -> anyhow::Result<()> {
    let stand_in = start().await?;
    for number in 0..450 {
        stand_in.seed_client(json!({ "title": format!("Клиент {number}") }))?;
    }
    let page = async |offset: &str| {
        let fields = [("action", "list"), ("fields", "clid"), ("limit", "10"), ("first", "old"), ("offset", offset)];
        form(&stand_in, "client", &fields).await
    };
    let sizes = [("0", 200, 1), ("-3", 200, 1), ("1", 200, 201), ("0.5", 200, 101), ("2", 50, 401)];
    for (offset, size, first) in sizes {
        let body = page(offset).await?;
        let data = at(&body, "/data")?;
        assert_eq!((data.as_array().map(Vec::len), at(&body, "/data/0/clid")?), (Some(size), json!(first)), "{offset}");
    }
    assert_eq!(page("3").await?, r#"{"count":450}"#);
    assert!(is_fatal(&page("abc").await?));
    assert!(is_fatal(&form(&stand_in, "client", &[("action", "list"), ("order", "no_such_column")]).await?));
    Ok(())
}

#[tokio::test]
async fn a_manager_sees_only_own_records_but_may_write_others() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_client(json!({ "title": "Свой", "iduser": 2 }))?;
    stand_in.seed_client(json!({ "title": "Чужой", "iduser": 1 }))?;
    let manager = "ui@example.test";
    let list = form_as(&stand_in, manager, "client", &[("action", "list"), ("fields", "clid,iduser")]).await?;
    assert_eq!(list, r#"{"data":[{"clid":1,"user":"ui@example.test","iduser":2}],"count":1}"#);
    let info = form_as(&stand_in, manager, "client", &[("action", "info"), ("clid", "2")]).await?;
    assert_eq!(at(&info, "/error/code")?, 403);
    let write = [("action", "update"), ("clid", "2"), ("address", "Тверь")];
    assert_eq!(at(&form_as(&stand_in, manager, "client", &write).await?, "/result")?, "Успешно");
    Ok(())
}

#[tokio::test]
async fn missing_parameters_end_in_html_instead_of_an_error() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let fatal = [("deal", "info"), ("deal", "change.step"), ("deal", "change.close"), ("deal", "change.user")];
    let more = [("deal", "delete"), ("deal", "invoice.do"), ("user", "user"), ("client", "delete")];
    for (method, action) in fatal.into_iter().chain(more) {
        let body = form(&stand_in, method, &[("action", action)]).await?;
        assert!(is_fatal(&body), "{method} {action}: {body}");
    }
    let unknown = form(&stand_in, "user", &[("action", "user"), ("user", "none@x")]).await?;
    assert_eq!(unknown, r#"{"error":{"code":"404","text":"Пользователь не найден"}}"#);
    Ok(())
}

#[tokio::test]
async fn a_typed_escape_makes_the_answer_invalid_json() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let add = json!({ "action": "add", "title": "Клиент № 1", "des": "a\\u0431b" });
    json_call(&stand_in, "client", &add).await?;
    let body = form(&stand_in, "client", &[("action", "info"), ("clid", "1"), ("fields", "clid,title,des")]).await?;
    assert_eq!(body, "{\"data\":{\"clid\":1,\"title\":\"Клиент \\u2116 1\",\"des\":\"a\\бb\"}}");
    assert!(serde_json::from_str::<serde_json::Value>(&body).is_err());
    Ok(())
}
