//! Which event a write caused: by name, record and content, each once.

use serde_json::{Map, Value, json};

use super::*;
use crate::event::content::Content;

const OWN_USER: u64 = 7;

/// A store in which a delivery of `alpha` runs, which writes.
struct Writing {
    handle: Handle,
    journal: Journal,
    clock: Clock,
    delivery: DeliveryId,
    writes: u32,
    _folder: tempfile::TempDir,
}

impl Writing {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(10_000_000);
        let journal = open(folder.path(), &clock);
        let handle = journal.handle();
        handle.know_user("main", OWN_USER).await.unwrap();
        handle.append(event("client.edit", Some(1))).await.unwrap();
        let claimed = handle.take(subscriptions(), vec![(queue("alpha"), 1)]).await.unwrap().claimed;
        let delivery = claimed[0].delivery;
        Self { handle, journal, clock, delivery, writes: 0, _folder: folder }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// Intends a write that may cause these events: name, record (none: the answer's), times, choice.
    async fn intend(&mut self, effects: &[(&str, Option<&str>, usize, u8)], content: Value) -> Write {
        self.writes += 1;
        let write = Write { delivery: self.delivery, digest: [9; 16], occurrence: self.writes };
        self.send(&write, effects, content).await;
        write
    }

    async fn send(&self, write: &Write, effects: &[(&str, Option<&str>, usize, u8)], content: Value) -> Intended {
        let effects = effects
            .iter()
            .map(|(name, record, times, choice)| Expected {
                name: (*name).to_owned(),
                record: record.map(str::to_owned),
                added: record.is_none(),
                times: *times,
                choice: *choice,
            })
            .collect();
        let intent = Intent {
            write: write.clone(),
            call: "x.y".to_owned(),
            account: "main".to_owned(),
            kind: "client".to_owned(),
            record: None,
            content: Content::of(&Self::object(content)),
            effects,
            not_done: false,
        };
        self.handle.intend(intent).await.unwrap()
    }

    async fn answered(&self, write: Write, record: Option<&str>) {
        let written = Written::Answered { answer: "{}".to_owned(), record: record.map(str::to_owned) };
        self.handle.written(write, written).await.unwrap();
    }

    /// Whose an event of the host's own user is taken for: `own`, `other` (another program's), or nobody's in particular.
    async fn whose(&self, via: Via, name: &str, fields: Value) -> &'static str {
        let fields = Self::object(fields);
        let event = Event {
            id: EventId::new(),
            account: "main".to_owned(),
            name: name.to_owned(),
            received_at: self.clock.now(),
            via,
            actor: (via != Via::Poll).then_some(OWN_USER),
            entity: crate::event::entity_of(name, &fields),
            fields: Value::Object(fields).to_string(),
        };
        self.handle.append(event.clone()).await.unwrap();
        self.handle.take(subscriptions(), Vec::new()).await.unwrap();
        let path = self.handle.path_of(event.id).unwrap().unwrap();
        match (path.caused_by.is_empty(), path.event.same_login) {
            (false, _) => "own",
            (true, true) => "other",
            (true, false) => "nobody",
        }
    }

    fn close(self) {
        drop(self.handle);
        self.journal.close();
    }
}

#[tokio::test]
async fn a_write_is_used_up_by_its_event_and_matched_by_what_it_says() {
    let mut w = Writing::new().await;
    let edit = |says: Value| json!({ "clid": "5", "autor": "7", "newparam": says });
    let write = w.intend(&[("client.edit", Some("5"), 1, 0)], json!({ "clid": 5, "phone": "84951112233" })).await;
    let other_field = edit(json!({ "address": "Казань" }));
    assert_eq!(w.whose(Via::Json, "client.edit", other_field.clone()).await, "other");
    assert_eq!(w.whose(Via::Json, "client.edit", edit(json!({ "phone": "84950000000" }))).await, "other");
    let own = edit(json!({ "phone": "84951112233" }));
    assert_eq!(w.whose(Via::Json, "client.edit", own.clone()).await, "own");
    // Sent to two addresses of the host, it comes twice.
    assert_eq!(w.whose(Via::Form, "client.edit", own.clone()).await, "own");
    w.answered(write, None).await;
    w.clock.advance(61_000);
    assert_eq!(w.whose(Via::Json, "client.edit", own.clone()).await, "other", "it was used up a minute ago");
    // One that waited in the spool for most of an hour; another record's never.
    let write = w.intend(&[("client.edit", Some("5"), 1, 0)], json!({ "clid": 5, "phone": "1" })).await;
    w.answered(write, None).await;
    w.clock.advance(3_000_000);
    let late = edit(json!({ "phone": "1" }));
    let elsewhere = json!({ "clid": "6", "newparam": { "phone": "1" } });
    assert_eq!(w.whose(Via::Json, "client.edit", elsewhere).await, "other");
    assert_eq!(w.whose(Via::Json, "client.edit", late.clone()).await, "own");
    // An event that says nothing but its record is matched as often as was written.
    for _ in 0..2 {
        let write = w.intend(&[("task.edit", Some("3"), 1, 0)], json!({ "id": 3, "title": "x" })).await;
        w.answered(write, None).await;
    }
    let task = json!({ "id": "3", "autor": "0" });
    let whose = [
        w.whose(Via::Json, "task.edit", task.clone()).await,
        w.whose(Via::Json, "task.edit", task.clone()).await,
        w.whose(Via::Json, "task.edit", task).await,
    ];
    assert_eq!(whose, ["own", "own", "other"]);
    w.close();
}

#[tokio::test]
async fn what_a_write_does_to_other_records_is_its_doing_too() {
    let mut w = Writing::new().await;
    // A payment that moves the deal on; which deal, the call does not say.
    let effects = [("invoice.doit", Some("3"), 1, 0), ("deal.change.step", Some("7"), 1, 0)];
    let write = w.intend(&effects, json!({ "id": 3, "newstep": 4 })).await;
    let step = json!({ "did": "7", "stepOld": "40", "stepNew": "60" });
    assert_eq!(w.whose(Via::Json, "deal.change.step", step.clone()).await, "own");
    assert_eq!(w.whose(Via::Json, "invoice.doit", json!({ "id": "3", "did": "7" })).await, "own");
    w.answered(write, None).await;
    assert_eq!(w.whose(Via::Json, "deal.change.step", json!({ "did": "7", "stepNew": "40" })).await, "other");
    // A deal that brings its client; the numbers come with the events, and with the answer.
    let write = w.intend(&[("deal.add", None, 1, 0), ("client.add", None, 1, 0)], json!({ "title": "Б" })).await;
    assert_eq!(w.whose(Via::Json, "client.add", json!({ "clid": "20" })).await, "own");
    let deal = |title: &str| json!({ "did": "30", "newparam": { "title": title } });
    assert_eq!(w.whose(Via::Json, "deal.add", deal("СД1: А")).await, "other");
    assert_eq!(w.whose(Via::Json, "deal.add", json!({ "did": "31", "newparam": { "title": "СД2: Б" } })).await, "own");
    w.answered(write, Some("31")).await;
    // One of two: an enquiry of a known client is given away at once.
    let write = w.intend(&[("lead.add", None, 1, 1), ("lead.setuser", None, 1, 1)], json!({})).await;
    assert_eq!(w.whose(Via::Json, "lead.setuser", json!({ "id": "4", "clid": "1", "iduser": "2" })).await, "own");
    w.answered(write, Some("4")).await;
    assert_eq!(w.whose(Via::Json, "lead.add", json!({ "id": "4", "clid": "1" })).await, "other");
    // A task for several employees has no number.
    let write = w.intend(&[("task.add", None, 1, 0)], json!({ "title": "x" })).await;
    assert_eq!(w.whose(Via::Json, "task.add", json!({ "id": "0", "autor": "7" })).await, "own");
    w.answered(write, Some("8")).await;
    w.close();
}

#[tokio::test]
async fn what_is_found_in_a_list_is_matched_apart_from_what_arrives() {
    let mut w = Writing::new().await;
    let effects = [("contract.edit", Some("3"), 1, 0), ("akt.edit", Some("3"), 1, 0)];
    let write = w.intend(&effects, json!({ "id": 3, "status": 1 })).await;
    w.answered(write, None).await;
    assert_eq!(w.whose(Via::Json, "contract.edit", json!({ "id": "3", "did": "0" })).await, "own");
    w.clock.advance(60_000);
    assert_eq!(w.whose(Via::Poll, "akt.edit", json!({ "id": "3", "number": "2" })).await, "own");
    assert_eq!(w.whose(Via::Poll, "akt.edit", json!({ "id": "3", "number": "2" })).await, "nobody");
    // What is merged with somebody else's change is not the plugin's own.
    let write = w.intend(&[("deal.edit", Some("7"), 1, 0)], json!({ "did": 7, "title": "А" })).await;
    w.answered(write, None).await;
    let merged = json!({ "did": "7", "newparam": { "title": "А", "kol": "5" } });
    assert_eq!(w.whose(Via::Poll, "deal.edit", merged).await, "nobody");
    w.close();
}

#[tokio::test]
async fn a_write_that_was_refused_causes_nothing_and_one_that_is_sent_again_causes_its_events_again() {
    let mut w = Writing::new().await;
    let effects = [("person.edit", Some("3"), 1, 0)];
    let says = json!({ "pid": 3, "tel": "1" });
    let event = |date: &str| json!({ "pid": "3", "newparam": { "tel": "1", "date_edit": date, "editor": "7" } });
    let write = w.intend(&effects, says.clone()).await;
    w.handle.written(write, Written::Withdrawn).await.unwrap();
    assert_eq!(w.whose(Via::Json, "person.edit", event("a")).await, "other");
    let write = w.intend(&effects, says.clone()).await;
    assert_eq!(w.whose(Via::Json, "person.edit", event("b")).await, "own");
    // Its answer was lost; contacts fire even when nothing changes.
    assert!(matches!(w.send(&write, &effects, says.clone()).await, Intended::Uncertain { .. }));
    assert_eq!(w.whose(Via::Json, "person.edit", event("c")).await, "own");
    w.answered(write.clone(), None).await;
    assert!(matches!(w.send(&write, &effects, says).await, Intended::Answered(_)));
    assert_eq!(w.whose(Via::Json, "person.edit", event("d")).await, "other");
    w.close();
}
