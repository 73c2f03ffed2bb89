//! The typed reads against every answer that a real CRM of version 2025.4 gave (`captured.jsonl`, credentials left out),
//! and lists against each way to end one.

use serde_json::{Value, json};

use super::*;
use crate::Amount;
use crate::testing::FakeHost;

struct Captured {
    call: String,
    arguments: Value,
    body: Value,
}

fn captured(call: &str) -> Vec<Captured> {
    let lines = include_str!("captured.jsonl").lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        Captured {
            call: line["call"].as_str().unwrap().to_owned(),
            arguments: line["arguments"].take(),
            body: line["body"].take(),
        }
    });
    let found: Vec<_> = lines.filter(|line| line.call == call).collect();
    assert!(!found.is_empty(), "no captured answer of {call}");
    found
}

/// A host that gives one captured answer, with the refusals that the real host makes of bodies with an error in them.
fn answering(captured: &Captured) -> FakeHost {
    let error = &captured.body["error"];
    let Some(text) = error["text"].as_str() else {
        return FakeHost::new().answer(&captured.call, captured.body.clone());
    };
    let code = match &error["code"] {
        Value::String(code) => code.clone(),
        code => code.to_string(),
    };
    FakeHost::new().fail(&captured.call, refusal(&code, text))
}

fn refusal(code: &str, text: &str) -> CrmError {
    CrmError::Refused { code: Some(code.to_owned()), text: text.to_owned() }
}

/// Reads every captured record of a list, and checks that no field of it is lost.
fn read_all<T: TryFrom<Value, Error = Error>>(call: &str, extra: fn(&T) -> &Map<String, Value>) -> Vec<T> {
    let mut all = Vec::new();
    for answer in captured(call) {
        for record in Answer(answer.body).records() {
            let read = T::try_from(record.clone()).unwrap();
            for (name, value) in extra(&read) {
                assert_eq!(&record[name], value);
            }
            all.push(read);
        }
    }
    all
}

#[test]
fn every_captured_deal_is_read() {
    let deals = read_all("deal.list", |deal: &Deal| &deal.extra);
    assert_eq!(deals.len(), 11);
    let deal = &deals[0];
    assert_eq!((deal.did, deal.clid, deal.payer, deal.iduser), (1, Some(1), Some(1), Some(2)));
    assert_eq!((deal.step, deal.step_id, deal.close), (Some(60), Some(5), Some(false)));
    assert_eq!(deal.title.as_deref(), Some("Поставка № 1 (изм.)"));
    assert_eq!((deal.kol.as_ref().and_then(Amount::as_minor), deal.datum_start.as_ref()), (Some(250_100), None));
    assert_eq!(deal.status_close, None);
    let names: Vec<_> = deal.extra.keys().map(String::as_str).collect();
    assert_eq!(names, ["mcid", "contractID", "contractTitle", "contractNumber", "contractDate"]);
    // No step: the CRM sends 0 for the percentage and the number.
    assert_eq!((deals[1].step, deals[1].step_id), (None, None));
    // A search by phone brings the client along.
    assert_eq!(deals[5].extra["client"]["phone"], "84951110000");
}

#[test]
fn every_captured_client_is_read() {
    let clients = read_all("client.list", |client: &Client| &client.extra);
    assert_eq!(clients.len(), 8 + 1 + 8 + 3);
    let listed = clients.iter().find(|client| client.clid == 1 && client.clientpath.is_some()).unwrap();
    let none = clients.iter().find(|client| client.clid == 3 && client.clientpath.is_some()).unwrap();
    assert_eq!((none.idcategory, none.category.as_ref(), none.date_edit.as_ref()), (None, None, None));

    let mut read = Vec::new();
    for answer in captured("client.info") {
        let clid = answer.arguments["clid"].as_u64().unwrap_or(1);
        match answering(&answer).host().crm().read_client(clid) {
            Ok(client) => read.extend(client),
            Err(error) => assert_eq!(error.to_string(), "the CRM refused with code 405: Отсутствуют параметры клиента"),
        }
    }
    assert_eq!(read.iter().map(|client| client.clid).collect::<Vec<_>>(), [1, 1, 1, 12, 14]);
    // Both actions tell the same of the same client, by whatever names.
    assert_eq!(read[0].extra["bankinfo"]["castInn"], "7711111111");
    assert_eq!((read[0].head_clid, read[0].clientpath, listed.clientpath), (None, None, Some(6)));
    let alike = |client: &Client| Client { clientpath: None, extra: Map::new(), ..client.clone() };
    assert_eq!(alike(&read[2]), alike(listed));
    assert_eq!(read[2].date_create.as_deref(), Some("2026-11-23 22:24:37"));
    assert_eq!(read[2].extra["date_create"], "23.11.26,  22:24");
}

#[test]
fn every_captured_person_is_read() {
    let persons = read_all("person.list", |person: &Person| &person.extra);
    assert_eq!(persons.len(), 9);
    assert_eq!((persons[0].iduser, persons[0].user.as_deref()), (Some(1), Some("api@example.test")));
    assert_eq!((persons[1].clid, persons[1].client.as_ref()), (None, None));
    let mut read = Vec::new();
    for answer in captured("person.info") {
        let pid = answer.arguments["pid"].as_u64().unwrap_or(1);
        read.extend(answering(&answer).host().crm().read_person(pid).unwrap());
    }
    let [person] = &read[..] else { panic!("{} persons", read.len()) };
    assert_eq!((person.pid, person.clid, person.ptitle.as_deref()), (10, Some(12), Some("Директор")));
    assert_eq!((person.iduser, person.user.as_deref()), (None, Some("api@example.test")));
}

#[test]
fn every_captured_task_and_activity_is_read() {
    let listed = read_all("task.list", |task: &Task| &task.extra);
    assert_eq!(listed.iter().map(|task| (task.tid, task.iduser)).collect::<Vec<_>>(), [(1, Some(1)), (2, Some(2))]);
    for answer in captured("task.info") {
        let id = answer.arguments["id"].as_u64().unwrap();
        let task = answering(&answer).host().crm().read_task(id).unwrap();
        assert_eq!(task.as_ref().map(|task| task.tid), (id != 99999).then_some(id));
        assert!(task.is_none_or(|task| task.person.is_empty() && task.extra.is_empty() && task.active == Some(true)));
    }
    let mut links = Vec::new();
    for answer in captured("history.info") {
        let id = answer.arguments["id"].as_u64().unwrap();
        let entry = answering(&answer).host().crm().read_history_entry(id).unwrap();
        assert_eq!(entry.as_ref().map(|entry| entry.cid), (id != 99999).then_some(id));
        links.extend(entry.map(|entry| entry.person.len()));
    }
    assert_eq!(links, [1, 0]);
}

#[test]
fn deal_info_is_no_deal() {
    for answer in captured("deal.info").into_iter().filter(|answer| answer.body["data"].is_object()) {
        let error = Deal::try_from(answer.body["data"].clone()).unwrap_err();
        assert!(error.to_string().starts_with("the CRM's deal has no `did`"), "{error}");
    }
}

#[test]
fn a_deal_is_found_among_those_whose_number_holds_its_own() {
    let fake = FakeHost::new()
        .answer("deal.list", json!({ "data": [{ "did": 1 }, { "did": 10 }, { "did": 21 }], "count": 3 }));
    assert_eq!(fake.host().crm().read_deal(1).unwrap().unwrap().did, 1);
    assert_eq!(fake.host().crm().read_deal(2).unwrap(), None);
    let sent = json!({ "filter": { "did": 1 }, "order": "did", "first": "old" });
    assert_eq!(fake.calls()[0], ("deal.list".to_owned(), sent));
}

#[test]
fn another_form_is_an_error_and_the_list_goes_on() {
    let page = json!({ "data": [{ "did": 1, "close": "maybe" }, { "title": "?" }, { "did": 3 }], "count": 3 });
    let fake = FakeHost::new().answer("deal.list", page);
    let deals: Vec<_> =
        fake.host().crm().deals(&json!({})).map(|deal| deal.map_err(|error| error.to_string())).collect();
    assert_eq!(
        deals[0].as_ref().unwrap_err(),
        "deal 1: the field `close` is neither `yes` nor `no` (\"maybe\"): read the record with `Crm::call`"
    );
    assert!(deals[1].as_ref().unwrap_err().contains("has no `did`"));
    assert_eq!(deals[2].as_ref().unwrap().did, 3);
}

/// A page of clients with the numbers of `range`.
fn page(range: std::ops::Range<u64>, count: Option<u64>) -> Value {
    let data: Vec<_> = range.map(|clid| json!({ "clid": clid, "tid": clid.to_string() })).collect();
    match count {
        Some(count) => json!({ "data": data, "count": count }),
        None => json!({ "data": data }),
    }
}

fn numbers(list: List<'_>) -> Vec<u64> {
    list.map(|record| record.unwrap()["clid"].as_u64().unwrap()).collect()
}

#[test]
fn a_list_is_read_to_its_end() {
    for count in [Some(450), None] {
        let (method, call) = if count.is_some() { ("client", "client.list") } else { ("task", "task.list") };
        let fake = FakeHost::new()
            .answer(call, page(1..201, count))
            .answer(call, page(201..401, count))
            .answer(call, page(401..451, count));
        assert_eq!(numbers(fake.host().crm().list(method, &json!({}))), (1..451).collect::<Vec<_>>());
        let pages: Vec<_> = fake.calls().into_iter().map(|(_, arguments)| arguments["offset"].clone()).collect();
        assert_eq!(pages, [0, 1, 2]);
    }
}

#[test]
fn a_list_of_full_pages_ends_by_its_count_or_by_an_empty_page() {
    let fake = FakeHost::new().answer("client.list", page(1..201, Some(200)));
    assert_eq!(fake.host().crm().list("client", &json!({})).count(), 200);
    assert_eq!(fake.calls().len(), 1);
    let empty = [json!([]), json!({ "count": 200 }), json!({ "data": [] }), json!({ "data": null })];
    for end in empty {
        let fake = FakeHost::new().answer("task.list", page(1..201, None)).answer("task.list", end);
        assert_eq!(fake.host().crm().list("task", &json!({})).count(), 200);
        assert_eq!(fake.calls().len(), 2);
    }
    // A list that refuses when it is empty does so past its last page too.
    let fake = FakeHost::new().answer("lead.list", page(1..201, None)).fail("lead.list", refusal("404", "Не найдено"));
    assert_eq!(numbers(fake.host().crm().list("lead", &json!({}))).len(), 200);
    let fake = FakeHost::new().answer("client.list", page(401..451, Some(450)));
    assert_eq!(numbers(fake.host().crm().list("client", &json!({ "offset": 2 }))).len(), 50);
    assert_eq!(fake.calls().len(), 1);
}

#[test]
fn every_captured_list_ends_and_an_empty_one_is_empty_in_each_of_its_shapes() {
    let mut read = Vec::new();
    for method in ["client", "person", "deal", "task", "history", "lead", "entry"] {
        for answer in captured(&format!("{method}.list")) {
            let fake = answering(&answer);
            let records = fake.host().crm().list(method, &json!({})).map(Result::unwrap).count();
            assert_eq!(records, Answer(answer.body).records().len());
            assert_eq!(fake.calls().len(), 1);
            read.push((method, records));
        }
    }
    for empty in [("client", 0), ("deal", 0), ("task", 0), ("history", 0), ("lead", 0), ("entry", 0)] {
        assert!(read.contains(&empty), "no captured empty {}.list", empty.0);
    }
    assert!(read.contains(&("lead", 3)) && read.contains(&("entry", 1)));
}

#[test]
fn a_404_is_empty_only_where_it_was_seen_so() {
    let fake = FakeHost::new().fail("deal.list", refusal("404", "Не найдено"));
    let items: Vec<_> = fake.host().crm().list("deal", &json!({})).collect();
    assert_eq!(items, [Err(refusal("404", "Не найдено"))]);
    let fake = FakeHost::new().fail("lead.list", refusal("401", "Неизвестный пользователь"));
    assert_eq!(fake.host().crm().list("lead", &json!({})).filter(Result::is_err).count(), 1);
}

#[test]
fn an_error_in_the_middle_ends_the_list() {
    let fake = FakeHost::new()
        .answer("client.list", page(1..201, Some(450)))
        .fail("client.list", CrmError::Transport("timed out".into()));
    let mut list = fake.host().crm().list("client", &json!({}));
    assert!(list.by_ref().take(200).all(|record| record.is_ok()));
    assert_eq!(list.next(), Some(Err(CrmError::Transport("timed out".into()))));
    assert_eq!((list.next(), fake.calls().len()), (None, 2));
}

#[test]
fn a_record_on_two_pages_comes_once() {
    let fake =
        FakeHost::new().answer("client.list", page(1..201, Some(398))).answer("client.list", page(199..399, Some(398)));
    assert_eq!(numbers(fake.host().crm().list("client", &json!({}))), (1..399).collect::<Vec<_>>());
}

#[test]
fn a_page_that_repeats_is_an_error() {
    let fake = FakeHost::new().answer("client.list", page(1..201, Some(450)));
    let items: Vec<_> = fake.host().crm().list("client", &json!({})).collect();
    assert_eq!((items.len(), fake.calls().len()), (201, 2));
    let Some(Err(CrmError::BadAnswer(text))) = items.last() else { panic!("{:?}", items.last()) };
    assert!(text.starts_with("page 1 of `client.list` repeats the page before it"), "{text}");
}

#[test]
fn a_list_without_end_is_stopped() {
    let mut fake = FakeHost::new();
    for record in 0..1_001 {
        fake = fake.answer("client.list", json!({ "data": [{ "clid": record }], "count": 1_000_000 }));
    }
    let items: Vec<_> = fake.host().crm().list("client", &json!({})).collect();
    assert_eq!((items.len(), fake.calls().len()), (1_001, 1_000));
    let Some(Err(CrmError::Invalid(text))) = items.last() else { panic!("{:?}", items.last()) };
    assert!(text.starts_with("`client.list` goes on behind 1000 pages"), "{text}");
}

#[test]
fn what_is_no_list_or_no_argument_is_an_error() {
    let fake = FakeHost::new().answer("client.list", json!({ "data": { "clid": 1 } }));
    let crm = fake.host().crm();
    assert!(matches!(crm.list("client", &json!({})).next(), Some(Err(CrmError::BadAnswer(_)))));
    assert!(matches!(crm.list("client", &json!([])).next(), Some(Err(CrmError::Invalid(_)))));
    let mut list = crm.list("client", &json!({ "offset": 0.5 }));
    let problem = "the `offset` of `client.list` is 0.5: give a page number, from 0";
    assert_eq!(list.next(), Some(Err(CrmError::Invalid(problem.into()))));
    assert_eq!((list.next(), fake.calls().len()), (None, 1));
}

#[test]
fn what_the_crm_needs_is_added_and_what_the_caller_says_stays() {
    let sent = |method: &str, arguments: Value| {
        let fake = FakeHost::new().answer(&format!("{method}.list"), json!([]));
        assert_eq!(fake.host().crm().list(method, &arguments).count(), 0);
        fake.calls().remove(0).1
    };
    let days = json!({ "dateStart": "1000-01-01", "dateEnd": "9999-12-31" });
    let (start, end) = (&days["dateStart"], &days["dateEnd"]);
    assert_eq!(
        sent("task", json!({})),
        json!({ "dateStart": start, "dateEnd": end, "active": "yes", "order": "tid", "first": "old", "offset": 0 })
    );
    assert_eq!(
        sent("task", json!({ "active": "no", "dateStart": "2026-11-23", "order": "datum" })),
        json!({ "active": "no", "dateStart": "2026-11-23", "order": "datum", "dateEnd": end, "offset": 0 })
    );
    assert_eq!(sent("calls", json!({})), json!({ "order": "datum", "offset": 0 }));
    assert_eq!(sent("lead", json!({ "status": 0 })), json!({ "status": 0, "offset": 0 }));
    assert_eq!(sent("deal", json!({ "first": "new" })), json!({ "first": "new", "order": "did", "offset": 0 }));

    let fake = FakeHost::new().answer("history.list", json!([]));
    assert_eq!(fake.host().crm().history_of_person(10).count(), 0);
    assert_eq!(
        fake.calls()[0].1,
        json!({ "pid": 10, "dateStart": start, "dateEnd": end, "order": "cid", "first": "old", "offset": 0 })
    );
}

#[test]
fn open_tasks_leave_out_what_is_done() {
    let page = json!({ "data": [{ "tid": "1", "active": "yes" }, { "tid": "2", "active": "no" }] });
    let fake = FakeHost::new().answer("task.list", page);
    let ids = |records: Records<'_, Task>| records.map(|task| task.unwrap().tid).collect::<Vec<_>>();
    assert_eq!(ids(fake.host().crm().open_tasks(&json!({}))), [1]);
    assert_eq!(ids(fake.host().crm().tasks(&json!({ "active": "no" }))), [1, 2]);
}
