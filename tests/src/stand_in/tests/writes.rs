//! What writing does: shapes of success, destroyed fields, rewritten text.

use serde_json::json;

use super::{at, form, json_call, start};

#[tokio::test]
async fn text_comes_back_changed() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let fields = [("action", "add"), ("title", "ООО \"Ромашка\""), ("des", "<b>it's</b> \\ \"x\"")];
    assert_eq!(form(&stand_in, "client", &fields).await?, r#"{"result":"Успешно","data":1}"#);
    let client = stand_in.client(1).unwrap_or_default();
    assert_eq!((client.text("title"), client.text("des")), ("”Ромашка”, ООО".into(), "it&acute;s  ”x”".into()));
    json_call(&stand_in, "client", &json!({ "action": "add", "title": "O'Brien \"q\"", "des": "it's \"x\"" })).await?;
    let client = stand_in.client(2).unwrap_or_default();
    assert_eq!((client.text("title"), client.text("des")), ("OBrien q".into(), "it's ”x”".into()));
    let fatal = form(&stand_in, "client", &[("action", "add"), ("title", "Что ?s это")]).await?;
    assert!(super::is_fatal(&fatal) && stand_in.client(3).is_none());
    Ok(())
}

#[tokio::test]
async fn a_duplicate_client_is_refused_with_the_existing_id() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let fields = [("action", "add"), ("title", "ООО \"Ромашка & Ко\"")];
    form(&stand_in, "client", &fields).await?;
    let expected = r#"{"result":"Error","exists":1,"error":{"code":304,"text":"Найден существующий клиент - \u201dРомашка & Ко\u201d, ООО (clid = 1). Запрос отклонен."}}"#;
    assert_eq!(form(&stand_in, "client", &fields).await?, expected);
    let empty = form(&stand_in, "client", &[("action", "add"), ("title", ""), ("phone", "1")]).await?;
    let missing = r#"{"result":"Error","error":{"code":402,"text":"Отсутствуют параметры - Название клиента"}}"#;
    assert_eq!(empty, missing);
    let list = [("action", "add.list"), ("client[0][title]", "Список 1"), ("client[1][title]", "")];
    assert_eq!(form(&stand_in, "client", &list).await?, format!(r#"[{{"result":"Успешно","data":2}},{missing}]"#));
    Ok(())
}

#[tokio::test]
async fn a_partial_contact_update_wipes_the_contact() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_person(
        json!({ "person": "Петров Пётр", "tel": "84951234567", "mail": "p@x.test", "ptitle": "Директор" }),
    )?;
    let partial = [("action", "update"), ("pid", "1"), ("mob", "89160000000")];
    let answer = form(&stand_in, "person", &partial).await?;
    assert_eq!(answer, r#"{"result":"Данные контакта обновлены","data":1,"error":""}"#);
    let person = stand_in.person(1).unwrap_or_default();
    let left: Vec<String> = ["person", "tel", "mail", "ptitle", "iduser", "mob"].map(|name| person.text(name)).into();
    assert_eq!(left, ["", "", "", "", "", "89160000000"]);
    let gone = r#"{"data":{"pid":null,"date_create":null,"date_edit":null,"clid":null,"client":"","ptitle":null,"person":null,"tel":null,"fax":null,"mob":null,"mail":null,"rol":null,"iduser":"","loyalty":null,"input7":null,"clientpath":""}}"#;
    assert_eq!(form(&stand_in, "person", &[("action", "info"), ("pid", "1")]).await?, gone);
    assert_eq!(form(&stand_in, "person", &[("action", "list")]).await?, r#"{"count":0}"#);
    let whole = [("action", "update"), ("pid", "1"), ("person", "Петров Пётр"), ("iduser", "2")];
    form(&stand_in, "person", &whole).await?;
    let info = form(&stand_in, "person", &[("action", "info"), ("pid", "1")]).await?;
    assert_eq!(at(&info, "/data/iduser")?, "ui@example.test");
    Ok(())
}

#[tokio::test]
async fn a_deal_update_erases_its_contacts_and_302_is_no_failure() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_client(json!({ "title": "Ромашка" }))?;
    stand_in.seed_deal(json!({ "clid": 1, "title": "Поставка", "pid_list": "1,2" }))?;
    assert_eq!(stand_in.deal(1).unwrap_or_default().text("pid_list"), "1;2");
    let change = [("action", "update"), ("did", "1"), ("adres", "Москва")];
    assert_eq!(form(&stand_in, "deal", &change).await?, r#"{"result":"Готово","data":1}"#);
    assert_eq!(stand_in.deal(1).unwrap_or_default().text("pid_list"), "");
    let same = r#"{"result":"Данные корректны, но идентичны имеющимся.","data":1,"error":{"code":302}}"#;
    assert_eq!(form(&stand_in, "deal", &change).await?, same);
    let by_uid = form(&stand_in, "deal", &[("action", "update"), ("uid", "D-1"), ("adres", "x")]).await?;
    assert_eq!(at(&by_uid, "/error/code")?, 402);
    Ok(())
}

#[tokio::test]
async fn an_unknown_step_leaves_the_deal_without_one() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_client(json!({ "title": "Ромашка" }))?;
    stand_in.seed_deal(json!({ "clid": 1, "title": "Поставка", "step": "20" }))?;
    let step =
        async |title: &str| form(&stand_in, "deal", &[("action", "change.step"), ("did", "1"), ("step", title)]).await;
    assert_eq!(step("40").await?, r#"{"result":"Этап сделки изменен на 40%. Предыдущий этап 20%.","data":1}"#);
    let same = r#"{"result":"Error","error":{"code":302,"text":"Данные корректны, но идентичны имеющимся"}}"#;
    assert_eq!(step("40").await?, same);
    step("77").await?;
    assert_eq!(stand_in.deal_step(1), None);
    assert_eq!(step("60").await?, r#"{"result":"Этап сделки изменен на 60%. Предыдущий этап %.","data":1}"#);
    Ok(())
}

#[tokio::test]
async fn a_task_update_resets_what_is_not_sent() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let add = [("action", "add"), ("title", "z"), ("des", "описание"), ("priority", "2"), ("user", "ui@example.test")];
    form(&stand_in, "task", &add).await?;
    form(&stand_in, "task", &[("action", "update"), ("id", "1"), ("title", "z2")]).await?;
    let task = stand_in.task(1).unwrap_or_default();
    let left: Vec<String> = ["title", "des", "priority", "autor", "iduser"].map(|name| task.text(name)).into();
    assert_eq!(left, ["z2", "", "0", "0", "1"]);
    let unknown = form(&stand_in, "task", &[("action", "doit"), ("id", "99999")]).await?;
    assert_eq!(unknown, r#"{"result":"Error","error":{"code":403,"text":"Напоминание не найдено."}}"#);
    Ok(())
}

#[tokio::test]
async fn form_mode_loses_names_with_dots() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.seed_client(json!({ "title": "Ромашка" }))?;
    stand_in.seed_deal(
        json!({ "clid": 1, "title": "Поставка", "speka": [{ "title": "Услуга", "kol": 1, "price": 5000 }] }),
    )?;
    let add = [("action", "invoice.add"), ("did", "1"), ("date.plan", "2031-01-02"), ("summa", "1000")];
    let answer = form(&stand_in, "deal", &add).await?;
    assert_eq!(answer, r#"{"result":"Успешно;Счет добавлен в платежи","data":{"id":1,"invoice":"3"}}"#);
    assert_ne!(stand_in.invoice(1).unwrap_or_default().text("datum_credit"), "2031-01-02");
    json_call(&stand_in, "deal", &json!({ "action": "invoice.add", "did": 1, "date.plan": "2031-01-02" })).await?;
    let second = stand_in.invoice(2).unwrap_or_default();
    assert_eq!((second.text("datum_credit"), second.text("summa")), ("2031-01-02".into(), "4000".into()));
    let nothing_left = form(&stand_in, "deal", &[("action", "invoice.add"), ("did", "1")]).await?;
    assert_eq!(nothing_left, r#"{"error":{"code":406,"text":"Уже выставлены все возможные счета"}}"#);
    let paid = form(&stand_in, "deal", &[("action", "invoice.do"), ("id", "1"), ("summa", "400")]).await?;
    let expected = r#"{"result":"Успешно","data":"Внесена оплата по графику 400,00 р.<br>Поступившая оплата отличается от планируемой.<br>Добавлен дополнительный платеж 600,00 р.<br>На р\/с Основной расчетный счет внесена оплата в размере 400,00 р.","newdata":3}"#;
    assert_eq!(paid, expected);
    Ok(())
}
