//! What an update overwrites besides what it is asked for: each row of the measured table.

use serde_json::{Value, json};

use super::{at, form, start};
use crate::stand_in::{Row, StandIn};

fn values(row: Option<Row>, columns: &[&str]) -> Vec<String> {
    let row = row.unwrap_or_default();
    columns.iter().map(|column| row.text(column)).collect()
}

async fn update(stand_in: &StandIn, method: &str, fields: &[(&str, &str)]) -> anyhow::Result<String> {
    let all: Vec<(&str, &str)> = [("action", "update")].iter().chain(fields).copied().collect();
    form(stand_in, method, &all).await
}

fn a_task(maintid: i64, iduser: i64) -> Value {
    json!({ "maintid": maintid, "iduser": iduser, "title": "z", "des": "d", "pid": "3;4", "active": "no", "readonly": "yes", "alert": "yes", "day": "yes",
        "priority": 2, "speed": 1, "autor": 2, "clid": 0, "did": 0 })
}

#[tokio::test]
async fn a_task_goes_to_the_apis_user_without_its_copies_and_open_again() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let id = stand_in.put_row("task", a_task(0, 2));
    let copy = stand_in.put_row("task", a_task(id, 4));
    let number = id.to_string();
    update(&stand_in, "task", &[("id", &number), ("title", "z2"), ("users", "2,4"), ("alert", "yes")]).await?;
    let left = values(stand_in.task(id), &["iduser", "active", "readonly", "alert", "day", "pid", "priority", "des"]);
    assert_eq!(left, ["1", "yes", "no", "no", "", "0", "0", ""]);
    assert!(stand_in.task(copy).is_none());
    let kept = [("active", "no"), ("readonly", "yes"), ("day", "yes"), ("pid", "3,4"), ("des", "d"), ("priority", "2")];
    let sent: Vec<(&str, &str)> = [("id", number.as_str())].iter().chain(&kept).copied().collect();
    update(&stand_in, "task", &sent).await?;
    let left = values(stand_in.task(id), &["active", "readonly", "day", "pid", "des", "priority", "title"]);
    assert_eq!(left, ["no", "yes", "yes", "3;4", "d", "2", "z2"]);
    let answer = update(&stand_in, "task", &[("id", &number), ("title", "a 😀")]).await?;
    assert_eq!(
        (at(&answer, "/result")?, values(stand_in.task(id), &["title"])),
        (json!("Успешно"), vec!["z2".to_owned()])
    );
    Ok(())
}

#[tokio::test]
async fn a_deal_loses_competitors_contact_margin_and_application() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let columns = ["coid1", "pid", "marga", "zayavka", "ztitle", "pid_list"];
    let deal = json!({ "clid": 1, "title": "Д", "iduser": 2, "coid1": "3;2", "pid": 7, "marga": 1200.25, "zayavka": "З", "ztitle": "О", "pid_list": "1;2", "uid": "" });
    let first = stand_in.put_row("deal", deal.clone());
    update(&stand_in, "deal", &[("did", &first.to_string()), ("adres", "x")]).await?;
    assert_eq!(values(stand_in.deal(first), &columns), ["", "0", "0", "З", "О", ""]);
    let second = stand_in.put_row("deal", deal);
    stand_in.switch_applications_on();
    let number = second.to_string();
    update(
        &stand_in,
        "deal",
        &[("did", &number), ("title", "Н"), ("marga", "1200.25"), ("coid1", "3;2"), ("pid", "7")],
    )
    .await?;
    assert_eq!(values(stand_in.deal(second), &columns), ["3;2", "7", "1200.25", "0", "", ""]);
    let kept = [
        ("did", number.as_str()),
        ("title", "Н2"),
        ("marga", "1200.25"),
        ("coid1", "3;2"),
        ("pid", "7"),
        ("zayavka", "З"),
        ("ztitle", "О"),
    ];
    update(&stand_in, "deal", &kept).await?;
    assert_eq!(values(stand_in.deal(second), &columns), ["3;2", "7", "1200.25", "З", "О", ""]);
    let ignored = update(
        &stand_in,
        "deal",
        &[("did", &number), ("step", "80"), ("user", "ui@example.test"), ("coid1", "3;2"), ("pid", "7")],
    )
    .await?;
    assert_eq!(at(&ignored, "/error/code")?, 302);
    Ok(())
}

#[tokio::test]
async fn a_contacts_titles_are_cast_to_numbers_and_php_8_says_so_by_a_page() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let person = json!({ "person": "П", "iduser": 2, "clid": 1, "loyalty": 3, "clientpath": 4 });
    let pid = stand_in.put_row("person", person);
    let number = pid.to_string();
    let named = |loyalty: &'static str, path: &'static str| [("loyalty", loyalty), ("clientpath", path)];
    for (fields, left) in [
        (named("4 - Очень Лояльный", "1С: франчайзи"), ["4", "1"]),
        (named("3", "-"), ["3", "1"]),
        (named("", "0"), ["0", "2"]),
        (named("3", "4"), ["3", "4"]),
    ] {
        let sent: Vec<(&str, &str)> = [("pid", number.as_str()), ("person", "П"), ("iduser", "2"), ("clid", "1")]
            .iter()
            .chain(&fields)
            .copied()
            .collect();
        update(&stand_in, "person", &sent).await?;
        assert_eq!(values(stand_in.person(pid), &["loyalty", "clientpath"]), left);
    }
    let listed =
        form(&stand_in, "person", &[("action", "list"), ("filter[pid]", &number), ("filter[loyalty]", "3")]).await?;
    assert_eq!(at(&listed, "/data/0/loyalty")?, "4 - Очень Лояльный");
    let other =
        form(&stand_in, "person", &[("action", "list"), ("filter[pid]", &number), ("filter[loyalty]", "4")]).await?;
    assert_eq!(other, r#"{"count":0}"#);
    stand_in.set_php8(true);
    let page = update(&stand_in, "person", &[("pid", &number), ("person", "П2"), ("iduser", "2")]).await?;
    assert!(super::is_fatal(&page) && page.contains("person.php"), "{page}");
    assert_eq!(values(stand_in.person(pid), &["person"]), ["П2"]);
    Ok(())
}

#[tokio::test]
async fn a_clients_uid_is_set_once_a_field_that_is_off_never_and_tags_become_brackets() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.switch_off("des");
    let clid = stand_in
        .put_row("client", json!({ "title": "К", "iduser": 2, "uid": "", "des": "д", "address": "а" }))
        .to_string();
    let identical = "Данные корректны, но идентичны имеющимся.";
    let set = update(&stand_in, "client", &[("clid", &clid), ("uid", "X")]).await?;
    assert_eq!(at(&set, "/result")?, "Успешно");
    for field in [("uid", "Y"), ("des", "другое"), ("user", "ui@example.test")] {
        let answer = update(&stand_in, "client", &[("clid", &clid), field]).await?;
        assert_eq!(at(&answer, "/result")?, identical, "{field:?}");
    }
    update(&stand_in, "client", &[("clid", &clid), ("address", "1 < 2")]).await?;
    assert_eq!(values(stand_in.client(clid.parse()?), &["uid", "des", "address"]), ["X", "д", "1 [ 2"]);
    Ok(())
}
