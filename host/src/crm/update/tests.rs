//! What is sent along, and what is not: against answers from a script.

use serde_json::json;

use super::same::holds;
use super::*;

struct Script {
    answers: Vec<(&'static str, Value)>,
    calls: Vec<(String, Value)>,
}

impl Caller for Script {
    async fn call(&mut self, method: &str, action: &str, arguments: Map<String, Value>) -> Result<Value, Error> {
        let call = format!("{method}.{action}");
        self.calls.push((call.clone(), Value::Object(arguments)));
        self.answers
            .iter()
            .find(|(name, _)| *name == call)
            .map(|(_, answer)| answer.clone())
            .ok_or(Error::Invalid(call))
    }

    async fn own_user(&mut self) -> Result<u64, Error> {
        Ok(1)
    }

    fn shows_writes(&self) -> bool {
        false
    }
}

async fn changed(
    script: &mut Script,
    kind: Kind,
    id: u64,
    changes: Map<String, Value>,
    accepted: &[&str],
) -> Result<Vec<String>, Error> {
    let accepted: Vec<String> = accepted.iter().map(|column| (*column).to_owned()).collect();
    update(script, Wish { kind, id, changes: &changes, accepted: &accepted })
        .await
        .and_then(|changed| changed.told(kind))
}

fn changes(value: Value) -> Map<String, Value> {
    object(value)
}

#[tokio::test]
async fn changing_one_field_of_a_person_sends_all_that_would_be_blanked() {
    let person = json!({"data":{"pid":10,"date_create":"2026-11-23 22:26:05","date_edit":null,"clid":12,"client":"Клиент П",
        "ptitle":"Директор","person":"Полный Контакт","tel":"84951234599","fax":null,"mob":"89161234599","mail":"full@x.test",
        "rol":null,"iduser":"api@example.test","loyalty":null,"input7":null,"clientpath":""}});
    let mut script = Script {
        answers: vec![
            ("person.info", person),
            ("person.list", json!({"data":[{"pid":9,"iduser":4},{"pid":10,"iduser":1,"clientpath":"Сайт"}],"count":2})),
            ("guides.clientpath", json!({"data":[{"id":6,"title":"Сайты"},{"id":7,"title":"Сайт"}]})),
            ("person.update", json!({"result":"Данные контакта обновлены","data":10,"error":""})),
        ],
        calls: Vec::new(),
    };
    let changed = changed(&mut script, Kind::Person, 10, changes(json!({"mob":"+79161234599"})), &[]).await;
    assert_eq!(changed, Ok(vec!["mob".to_owned()]));
    assert_eq!(
        script.calls.last(),
        Some(&(
            "person.update".to_owned(),
            json!({"pid":10,"mob":"+79161234599","clid":12,"ptitle":"Директор","person":"Полный Контакт","tel":"84951234599",
                "fax":"","mail":"full@x.test","rol":"","iduser":1,"input7":"","loyalty":0,"clientpath":7})
        ))
    );
}

#[tokio::test]
async fn nothing_is_sent_when_only_the_crms_rewriting_differs() {
    let client =
        json!({"data":{"clid":1,"title":"Ромашка ”Юг”, ООО","phone":"84951110000","idcategory":3,"categoryName":"ИТ"}});
    let mut script = Script { answers: vec![("client.info", client)], calls: Vec::new() };
    let same = changes(json!({"title":"Ромашка \"<b>Юг</b>\", ООО","phone":84951110000_u64}));
    assert_eq!(changed(&mut script, Kind::Client, 1, same, &[]).await, Ok(Vec::new()));
    assert_eq!(script.calls.len(), 1);
}

#[test]
fn a_real_change_is_never_taken_for_the_crms_rewriting() {
    let record =
        changes(json!({"des":"маржа < 10%","step":60,"stepID":5,"tip":"Звонок","idcategory":3,"categoryName":"ИТ"}));
    for (field, value, same) in [
        ("des", json!("маржа < 20%"), false),
        ("des", json!("маржа < 10%"), true),
        ("step", json!("5"), false),
        ("step", json!("60"), true),
        ("tip", json!("Встреча"), false),
        ("idcategory", json!("3"), true),
        ("missing", json!("x"), false),
    ] {
        assert_eq!(holds(&record, field, &value), same, "{field} {value}");
    }
}

#[tokio::test]
async fn a_record_of_nulls_is_not_written_over() {
    let mut script =
        Script { answers: vec![("person.info", json!({"data":{"pid":null,"person":null}}))], calls: Vec::new() };
    let result = changed(&mut script, Kind::Person, 7, changes(json!({"mob":"1"})), &[]).await;
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
    assert_eq!(script.calls.len(), 1);
}

#[tokio::test]
async fn a_deals_contacts_and_a_tasks_description_survive() {
    let mut script = Script {
        answers: vec![
            ("deal.list", json!({"data":[{"did":5,"adres":"улица"}],"count":1})),
            ("deal.info", json!({"data":{"did":null,"person":[{"pid":10},{"pid":11}]}})),
            ("deal.update", json!({"result":"Готово","data":5})),
            (
                "task.info",
                json!({"data":{"tid":"8","datum":"2026-11-23","totime":"23:26","title":"z","des":"описание","tip":"Звонок",
                    "priority":"2","speed":"0","active":"no","readonly":"yes","day":null,"status":"1","iduser":1,"autor":4,"clid":0,"did":5,"person":[{"pid":0,"person":""}]}}),
            ),
            ("task.update", json!({"result":"Успешно","data":8})),
        ],
        calls: Vec::new(),
    };
    changed(&mut script, Kind::Deal, 5, changes(json!({"adres":"другая"})), &["coid1", "pid", "marga"]).await.unwrap();
    assert_eq!(script.calls.last().unwrap().1, json!({"did":5,"adres":"другая","pid_list":"10,11"}));
    changed(&mut script, Kind::Task, 8, changes(json!({"title":"z2"})), &["alert", "maintid"]).await.unwrap();
    assert_eq!(
        script.calls.last().unwrap().1,
        json!({"id":8,"title":"z2","des":"описание","priority":"2","speed":"0","active":"no","readonly":"yes","day":"","status":"1","autor":4})
    );
}

#[test]
fn brackets_amounts_and_dates_are_known_in_the_crms_form() {
    let record = changes(
        json!({"des":"a [b] c","note":"a  b","kol":1200.5,"totime":"09:05","datum":"2026-01-05","title":"”Ромашка”, ООО"}),
    );
    assert!(holds(&record, "des", &json!("a < b> c")) || holds(&record, "des", &json!("a [b] c")));
    for (field, value, same) in [
        ("des", json!("a <b> c"), false),
        ("note", json!("a < b"), true),
        ("note", json!("a < c"), false),
        ("kol", json!("1 200,50"), true),
        ("kol", json!("1 200,60"), false),
        ("totime", json!("9:05:00"), true),
        ("datum", json!("2026-1-5"), true),
        ("datum", json!("2026-1-6"), false),
        ("title", json!("ООО \"Ромашка\""), true),
        ("title", json!("ООО \"Ромашки\""), false),
        ("title", json!("Ромашка ООО 😀"), false),
    ] {
        assert_eq!(same::took(&record, field, &value), same, "{field} {value}");
    }
}
