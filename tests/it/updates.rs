//! An update changes what was asked for and nothing else, or sends nothing: the host's own code against the stand-in,
//! whose rows are compared whole.

use std::time::Duration;

use integration_tests::host::Setup;
use integration_tests::stand_in::{Fault, Options, Row, StandIn};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use salesman_host::crm::update::{self, Caller, Changed, Kind, NOT_WRITTEN, WOULD_LOSE, Wish};
use salesman_host::crm::{Client, Error};
use serde_json::{Map, Value, json};

/// The calls as they are, counted.
struct Through {
    client: Client,
    calls: Vec<String>,
}

impl Caller for Through {
    async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, Error> {
        self.calls.push(format!("{method}.{action}"));
        self.client.call(method, action, &arguments).await
    }

    async fn own_user(&mut self) -> Result<u64, Error> {
        self.client.known_user().await
    }

    fn shows_writes(&self) -> bool {
        true
    }
}

async fn both() -> (StandIn, Through) {
    let crm = StandIn::start(Options::default()).await.unwrap();
    let client = crate::crm_client::configured(crm.base_url(), &crm, "timeout_ms = 5000");
    // A source whose title begins with a number, as number 6.
    crm.put_row("client", json!({ "title": "Первый", "iduser": 1, "pid": 9, "uid": "" }));
    let source = object(json!({ "clid": 1, "clientpath": "1С: франчайзи" }));
    client.call("client", "update", &source).await.unwrap();
    (crm, Through { client, calls: Vec::new() })
}

async fn changed(
    caller: &mut Through,
    kind: Kind,
    id: i64,
    changes: Value,
    accepted: &[&str],
) -> Result<Vec<String>, Error> {
    let accepted: Vec<String> = accepted.iter().map(|column| (*column).to_owned()).collect();
    let wish = Wish { kind, id: id.unsigned_abs(), changes: &object(changes), accepted: &accepted };
    update::update(caller, wish).await.and_then(|changed: Changed| changed.told(kind))
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn row(crm: &StandIn, kind: Kind, id: i64) -> Row {
    let row = match kind {
        Kind::Client => crm.client(id),
        Kind::Person => crm.person(id),
        Kind::Deal => crm.deal(id),
        Kind::Task => crm.task(id),
    };
    row.unwrap_or_default()
}

fn code(result: &Result<Vec<String>, Error>) -> Option<&str> {
    match result {
        Err(Error::Refused { code, .. }) => code.as_deref(),
        _ => None,
    }
}

const TEXTS: [&str; 9] = ["", "Иванов", "О'Коннор", "a [b]", "«Ёлка»", "x”y", "край ", "8 916 000-00-00", "1 < 2"];

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(&TEXTS[..]).prop_map(str::to_owned)
}

fn one_of(numbers: &'static [i64]) -> impl Strategy<Value = i64> {
    prop::sample::select(numbers)
}

/// A row of a kind, and changes of some of its fields.
fn case() -> impl Strategy<Value = (Kind, Value, Value, bool)> {
    let new = prop::collection::vec(text(), 8);
    let texts = prop::collection::vec(text(), 8);
    let numbers = (one_of(&[0, 1, 2, 3, 4, 5, 6]), one_of(&[0, 1, 2, 4, 6]), one_of(&[0, 1, 2, 4]), one_of(&[0, 1, 3]));
    let kinds = prop::sample::select(&[Kind::Client, Kind::Person, Kind::Deal, Kind::Task][..]);
    (kinds, texts, new, numbers, 0..6_usize, any::<(bool, bool, bool)>()).prop_map(
        |(kind, t, n, (loyalty, path, iduser, link), which, (yes, flag, accepts))| {
            let yes = if yes { "yes" } else { "no" };
            let (row, changes) = match kind {
                Kind::Client => (
                    json!({ "uid": if flag { "u1" } else { "" }, "type": "client", "title": "Клиент", "iduser": 2, "idcategory": link,
                        "head_clid": link, "pid": link, "address": t[0], "phone": t[1], "fax": t[2], "site_url": t[3], "mail_url": t[4],
                        "territory": link, "des": t[5], "tip_cmr": t[6], "clientpath": path, "recv": {}, "date_create": "2026-11-23 10:00:00" }),
                    [json!({ "address": n[0] }), json!({ "des": n[1], "phone": n[2] }), json!({ "uid": "new" }), json!({ "des": null }),
                        json!({ "head_clid": 1 }), json!({ "iduser": 4, "fax": "a 😀" })][which].clone(),
                ),
                Kind::Person => (
                    json!({ "date_create": "2026-11-23 10:00:00", "clid": link, "ptitle": t[0], "person": "Имя Фамилия", "tel": t[1], "fax": t[2],
                        "mob": t[3], "mail": t[4], "rol": t[5], "iduser": iduser, "loyalty": loyalty, "clientpath": path, "input7": t[6] }),
                    [json!({ "mob": n[0] }), json!({ "tel": n[1], "fax": n[2] }), json!({ "loyalty": 2 }), json!({ "clientpath": "Справочник" }),
                        json!({ "iduser": 4 }), json!({ "ptitle": "a 😀 b" })][which].clone(),
                ),
                Kind::Deal => (
                    json!({ "uid": "", "clid": 1, "payer": 1 + link, "title": "СД1: Поставка", "datum_plan": "2026-12-01", "tip": 6, "direction": 1,
                        "idcategory": 2, "mcid": 0, "content": t[0], "adres": t[1], "pid_list": if flag { "1;2" } else { "" }, "iduser": 2,
                        "kol": 5000, "marga": if flag { 1200.25 } else { 0.0 }, "coid1": if flag { "3;2" } else { "" }, "pid": link,
                        "zayavka": t[2], "ztitle": t[3], "close": "no", "datum": "2026-11-23" }),
                    [json!({ "adres": n[0] }), json!({ "title": "Новое" }), json!({ "step": 80 }), json!({ "user": "ui@example.test", "adres": n[1] }),
                        json!({ "clid": 2 }), json!({ "content": n[2], "coid1": "7", "pid": 4 })][which].clone(),
                ),
                Kind::Task => (
                    json!({ "maintid": 0, "iduser": if flag { 1 } else { 2 }, "clid": link, "pid": if flag { "3;4" } else { "0" }, "did": link,
                        "datum": "2026-11-26", "totime": "15:30", "title": t[0], "des": t[1], "tip": "Звонок", "active": yes, "autor": iduser,
                        "priority": link, "speed": link, "readonly": yes, "alert": yes, "day": if flag { "yes" } else { "" }, "status": 0 }),
                    [json!({ "title": "Новое" }), json!({ "des": n[0] }), json!({ "datum": "2026-12-01", "priority": 2 }), json!({ "iduser": 4 }),
                        json!({ "title": "a 😀 b" }), json!({ "clid": 1, "active": "no" })][which].clone(),
                ),
            };
            (kind, row, changes, accepts)
        },
    )
}

/// What the CRM notes of every write.
const NOTED: [&str; 4] = ["date_edit", "editor", "datum_izm", "last_hist"];

/// Null and an empty text are the same to everybody but the database.
fn differs(before: &Row, after: &Row, column: &str) -> bool {
    before.text(column) != after.text(column)
}

#[test]
fn no_other_column_of_any_record_changes_whatever_is_changed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (crm, caller) = runtime.block_on(both());
    let client = caller.client;
    let mut runner = TestRunner::new(Config { cases: 160, failure_persistence: None, ..Config::default() });
    let done = runner.run(&case(), |(kind, stored, changes, accepts)| {
        let id = crm.put_row(kind.as_str(), stored);
        let copy =
            (kind == Kind::Task).then(|| crm.put_row("task", json!({ "maintid": id, "iduser": 4, "title": "копия" })));
        let before = row(&crm, kind, id);
        let accepted: &[&str] = match kind {
            Kind::Deal if accepts => &["coid1", "pid", "marga"],
            Kind::Task if accepts => &["alert", "maintid", "iduser"],
            _ => &[],
        };
        crm.set_php8(accepts);
        let mut caller = Through { client: client.clone(), calls: Vec::new() };
        let result = runtime.block_on(changed(&mut caller, kind, id, changes.clone(), accepted));
        let after = row(&crm, kind, id);
        let moved: Vec<&String> = after
            .columns()
            .keys()
            .filter(|column| differs(&before, &after, column) && !NOTED.contains(&column.as_str()))
            .collect();
        let asked = |column: &str| changes.get(column).is_some() || accepted.contains(&column);
        // The step's own column never moves, whatever name it was asked for by.
        let wrong: Vec<&&String> = moved.iter().filter(|column| !asked(column)).collect();
        let told = format!("{result:?} {changes} {accepted:?}");
        prop_assert!(wrong.is_empty(), "{kind:?} {wrong:?}: {told}");
        let lost_copy = copy.is_some_and(|copy| crm.task(copy).is_none());
        prop_assert!(!lost_copy || accepted.contains(&"maintid"), "the copy is gone: {told}");
        match &result {
            Ok(fields) if fields.is_empty() => prop_assert!(moved.is_empty(), "{moved:?}: {told}"),
            Ok(_) => {}
            Err(Error::Refused { code, .. }) if code.as_deref() == Some(WOULD_LOSE) => {
                prop_assert!(moved.is_empty() && !lost_copy, "{moved:?}: {told}");
            }
            Err(Error::Refused { .. }) => {}
            Err(error) => return Err(TestCaseError::fail(format!("{error:?} {told}"))),
        }
        Ok(())
    });
    done.unwrap();
}

fn a_person(loyalty: i64, clientpath: i64, iduser: i64) -> Value {
    json!({ "date_create": "2026-11-23 10:00:00", "clid": 1, "ptitle": "Директор", "person": "О'Коннор", "tel": "1", "fax": null, "mob": "2",
        "mail": "a@x.test", "rol": "ЛПР;Друг", "iduser": iduser, "loyalty": loyalty, "clientpath": clientpath, "input7": "101" })
}

#[tokio::test]
async fn a_contacts_guides_are_kept_by_number_and_nobodys_contact_is_refused_for_good() {
    let (crm, mut caller) = both().await;
    for (loyalty, clientpath) in [(0, 0), (3, 6), (2, 4), (1, 1), (5, 0)] {
        let pid = crm.put_row("person", a_person(loyalty, clientpath, 2));
        let result = changed(&mut caller, Kind::Person, pid, json!({ "mob": "+7" }), &[]).await;
        assert_eq!(result, Ok(vec!["mob".to_owned()]));
        let after = crm.person(pid).unwrap();
        assert_eq!((after.int("loyalty"), after.int("clientpath")), (loyalty, clientpath));
        assert_eq!((after.text("person"), after.text("mob"), after.int("iduser")), ("О'Коннор".into(), "+7".into(), 2));
    }
    // The common case costs two reads, the write, and a look.
    assert_eq!(caller.calls[..4], ["person.info", "person.list", "person.update", "person.list"]);
    let nobodys = crm.put_row("person", a_person(0, 0, 0));
    let before = crm.person(nobodys);
    let result = changed(&mut caller, Kind::Person, nobodys, json!({ "mob": "+7" }), &[]).await;
    assert_eq!(code(&result), Some(WOULD_LOSE), "{result:?}");
    assert!(format!("{result:?}").contains("`iduser`"), "{result:?}");
    assert_eq!(crm.person(nobodys), before);
    let result = changed(&mut caller, Kind::Person, nobodys, json!({ "mob": "+7" }), &["iduser", "loyalty"]).await;
    assert_eq!(result, Ok(vec!["mob".to_owned()]));
}

#[tokio::test]
async fn what_was_not_written_is_an_error_that_names_it() {
    let (crm, mut caller) = both().await;
    crm.switch_off("des");
    let clid = crm.put_row(
        "client",
        json!({ "uid": "U", "title": "К", "iduser": 2, "phone": "1", "des": "текст", "address": "А" }),
    );
    for (changes, name) in [
        (json!({ "uid": "V" }), "uid"),
        (json!({ "des": "другой" }), "des"),
        (json!({ "user": "ui@example.test" }), "user"),
        (json!({ "no_such": 1 }), "no_such"),
    ] {
        let sent = crm.calls().len();
        let result = changed(&mut caller, Kind::Client, clid, changes, &[]).await;
        assert_eq!(code(&result), Some(NOT_WRITTEN), "{result:?}");
        assert!(format!("{result:?}").contains(&format!("`{name}`")), "{result:?}");
        assert!(crm.calls()[sent..].iter().all(|call| call.action != "update"), "{name} was sent");
    }
    // A null empties, and the answer says so: no second look.
    assert_eq!(
        changed(&mut caller, Kind::Client, clid, json!({ "phone": null }), &[]).await,
        Ok(vec!["phone".to_owned()])
    );
    assert_eq!(caller.calls.last().map(String::as_str), Some("client.update"));
    assert_eq!(crm.client(clid).unwrap().text("phone"), "");
    let did = crm.put_row(
        "deal",
        json!({ "clid": 1, "title": "Д", "iduser": 2, "idcategory": 2, "adres": "а", "pid_list": "", "uid": "" }),
    );
    for changes in [json!({ "user": "ui@example.test" }), json!({ "step": 80 })] {
        let result = changed(&mut caller, Kind::Deal, did, changes, &["coid1", "pid"]).await;
        assert_eq!(code(&result), Some(NOT_WRITTEN), "{result:?}");
    }
    let id = crm.put_row(
        "task",
        json!({ "iduser": 1, "title": "З", "des": "", "datum": "2026-11-26", "tip": "Звонок", "maintid": 0 }),
    );
    let result = changed(&mut caller, Kind::Task, id, json!({ "title": "a 😀" }), &["alert", "maintid"]).await;
    assert_eq!(code(&result), Some(NOT_WRITTEN), "{result:?}");
}

#[tokio::test]
async fn a_value_that_is_there_in_the_crms_own_form_is_no_failure() {
    let (crm, mut caller) = both().await;
    let id = crm.put_row("client", json!({ "title": "”Ромашка”, ООО", "iduser": 1 }));
    let title = json!({ "title": "ООО \"Ромашка\"" });
    let result = changed(&mut caller, Kind::Client, id, title, &[]).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(row(&crm, Kind::Client, id).text("title"), "”Ромашка”, ООО");
}

#[tokio::test]
async fn an_update_after_which_the_record_can_not_be_read_stays_in_doubt() {
    let (crm, mut caller) = both().await;
    let id = crm.put_row("client", json!({ "title": "Второй", "iduser": 1 }));
    let several = json!({ "des": "раз", "address": "два" });
    let fault = Fault::Instead {
        status: "200 OK", retry_after: None, body: "Ошибка подключения к БД: refused"
    };
    // The first read is good; those after the write are not.
    crm.fault_on(Some("client"), Some("update"), 1, Fault::HtmlAfterWrite);
    crm.fault_after(Some("client"), Some("info"), (1, usize::MAX), fault);
    let error = changed(&mut caller, Kind::Client, id, several, &[]).await.unwrap_err();
    assert!(!error.nothing_was_done(), "what was sent is not known to be undone: {error}");
    assert_eq!(row(&crm, Kind::Client, id).text("des"), "раз");
}

#[tokio::test]
async fn a_refusal_that_keeps_columns_takes_one_attempt_and_is_found_by_its_code() {
    let crm = StandIn::start(Options::default()).await.unwrap();
    let mut nobodys = a_person(0, 0, 0);
    nobodys["tel"] = "8 (495) 765-43-21".into();
    let pid = crm.put_row("person", nobodys);
    let host = Setup::new().unwrap().crm(&crm).plugins(crate::samples()).start().await.unwrap();
    let id = host.accepted(&format!("event=person.add&pid={pid}&iduser1=2")).await.unwrap();
    host.settled(&id).await.unwrap();
    let letters = host.api("dead?code=crm.would_lose").await.unwrap();
    let found: Vec<_> = letters["items"].as_array().unwrap().iter().map(|letter| &letter["attempts"]).collect();
    assert_eq!(found, [1], "{letters}");
    assert_eq!(row(&crm, Kind::Person, pid).text("tel"), "8 (495) 765-43-21");
}

#[tokio::test]
async fn the_loss_of_named_columns_can_be_accepted_and_of_no_others() {
    let (crm, mut caller) = both().await;
    let id = crm.put_row(
        "task",
        json!({ "maintid": 0, "iduser": 2, "title": "З", "des": "текст", "datum": "2026-11-26", "totime": "10:00", "tip": "Звонок", "active": "no",
            "readonly": "yes", "alert": "yes", "day": "yes", "priority": 2, "speed": 1, "autor": 4, "pid": "3;4", "clid": 1, "did": 2, "status": 1 }),
    );
    let result = changed(&mut caller, Kind::Task, id, json!({ "title": "Новое" }), &["alert", "maintid"]).await;
    let told = format!("{result:?}");
    assert!(code(&result) == Some(WOULD_LOSE) && told.contains("`iduser`") && !told.contains("`alert`"), "{told}");
    let before = crm.task(id).unwrap();
    let result =
        changed(&mut caller, Kind::Task, id, json!({ "title": "Новое" }), &["alert", "maintid", "iduser"]).await;
    assert_eq!(result, Ok(vec!["title".to_owned()]));
    let after = crm.task(id).unwrap();
    let moved: Vec<&String> = before.columns().keys().filter(|column| differs(&before, &after, column)).collect();
    assert_eq!(moved, ["iduser", "title", "alert"]);
}

#[tokio::test]
async fn php_8s_page_after_the_write_costs_one_look_and_no_failure() {
    let (crm, mut caller) = both().await;
    crm.set_php8(true);
    let pid = crm.put_row("person", a_person(3, 6, 2));
    assert_eq!(changed(&mut caller, Kind::Person, pid, json!({ "mob": "+7" }), &[]).await, Ok(vec!["mob".to_owned()]));
    assert_eq!(crm.calls().iter().filter(|call| call.action == "update" && call.method == "person").count(), 1);
    // The database refuses the statement, and the page is the same.
    let result = changed(&mut caller, Kind::Person, pid, json!({ "mob": "a 😀" }), &[]).await;
    assert_eq!(code(&result), Some(NOT_WRITTEN), "{result:?}");
}

#[tokio::test]
async fn an_update_whose_answer_is_lost_is_settled_by_a_look() {
    let (crm, mut caller) = both().await;
    let clid = crm.put_row("client", json!({ "uid": "", "title": "К", "iduser": 2, "phone": "1" }));
    crm.fault_on(Some("client"), Some("update"), 1, Fault::CloseAfterWrite);
    let began = std::time::Instant::now();
    assert_eq!(
        changed(&mut caller, Kind::Client, clid, json!({ "phone": "2" }), &[]).await,
        Ok(vec!["phone".to_owned()])
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    crm.fault_on(Some("client"), Some("update"), 1, Fault::Down);
    let result = changed(&mut caller, Kind::Client, clid, json!({ "phone": "3" }), &[]).await;
    assert!(matches!(result, Err(Error::Transport(_))), "{result:?}");
}
