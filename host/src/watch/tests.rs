//! The watcher against a reference that knows every change: whatever the CRM tells, loses or tells late, in whatever order,
//! with passes and ends of the process in between.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::journal::{Journal, Queue, Subscription, Subscriptions};
use crate::plugin::{Pattern, PluginName};

/// What one list shows; shared with the test, which changes it.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<u64, Row>>>);

impl Source for Fake {
    async fn page(&mut self, list: List, page: u32) -> Result<Vec<Row>, crm::Error> {
        let rows = self.0.lock().unwrap();
        let from = usize::try_from(page - list.first_page()).unwrap() * list.rows_of_page();
        let hidden = |mut row: Row| {
            // A list of enquiries names nobody.
            if list == List::Leads {
                row.remove("iduser");
            }
            row
        };
        Ok(rows.values().skip(from).take(list.rows_of_page()).cloned().map(hidden).collect())
    }

    async fn lead(&mut self, id: &str) -> Result<Option<Row>, crm::Error> {
        Ok(self.0.lock().unwrap().get(&id.parse().unwrap()).cloned())
    }
}

/// How the CRM's own event of a change reaches the host.
#[derive(Debug, Clone, Copy)]
enum Heard {
    AtOnce,
    Late,
    Never,
}

#[derive(Debug, Clone)]
enum Step {
    Change {
        record: u64,
        field: usize,
        value: u64,
        heard: Heard,
    },
    Add {
        record: u64,
        heard: Heard,
    },
    Delete {
        record: u64,
        heard: Heard,
    },
    /// One of the late ones comes.
    Arrive {
        which: usize,
    },
    Pass,
    Die,
}

const RECORDS: u64 = 3;

fn step() -> impl Strategy<Value = Step> {
    let heard = || prop::sample::select(vec![Heard::AtOnce, Heard::Late, Heard::Never]);
    prop_oneof![
        6 => (1..=RECORDS, 0..4_usize, 1..4_u64, heard())
            .prop_map(|(record, field, value, heard)| Step::Change { record, field, value, heard }),
        1 => (1..=RECORDS, heard()).prop_map(|(record, heard)| Step::Add { record, heard }),
        1 => (1..=RECORDS, heard()).prop_map(|(record, heard)| Step::Delete { record, heard }),
        2 => any::<usize>().prop_map(|which| Step::Arrive { which }),
        4 => Just(Step::Pass),
        1 => Just(Step::Die),
    ]
}

const FIELDS: [&str; 4] = ["step", "iduser", "datum_plan", "title"];

/// The event that a change of a deal's field is, as the CRM sends it.
fn changed(record: u64, field: usize, old: &str, new: &str) -> (&'static str, Value) {
    let did = record.to_string();
    match field {
        0 => ("deal.change.step", json!({ "did": did, "stepOld": old, "stepNew": new, "comment": "x" })),
        1 => ("deal.change.user", json!({ "did": did, "olduser": old, "newuser": new, "comment": "x" })),
        2 => ("deal.change.datum_plan", json!({ "did": did, "olddate": old, "newdate": new })),
        _ => ("deal.edit", json!({ "did": did, "newparam": { "title": new } })),
    }
}

fn of(record: u64, name: &'static str) -> (&'static str, Value) {
    (name, json!({ "did": record.to_string() }))
}

/// What somebody who hears everything would know.
#[derive(Default)]
struct Reference {
    /// What was told of each record; a value that nobody told is not there.
    told: BTreeMap<u64, BTreeMap<usize, String>>,
    /// What the watcher told, and no late event has said again: record, field (none: it is gone), value.
    unused: Vec<(u64, Option<usize>, String)>,
    /// Every event that is to be told, in order.
    log: Vec<(String, u64)>,
}

struct World {
    fake: Fake,
    reference: Reference,
    late: VecDeque<(&'static str, Value, u64, Option<usize>, String)>,
    handle: journal::Handle,
    clock: Clock,
    memory: Memory,
}

impl World {
    fn row(&self, record: u64) -> Option<Row> {
        self.fake.0.lock().unwrap().get(&record).cloned()
    }

    fn set(&self, record: u64, row: Option<Row>) {
        let mut rows = self.fake.0.lock().unwrap();
        match row {
            Some(row) => drop(rows.insert(record, row)),
            None => drop(rows.remove(&record)),
        }
    }

    fn text(&self, record: u64, field: usize) -> String {
        self.row(record).map(|row| row[FIELDS[field]].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    async fn hear(
        &mut self,
        heard: Heard,
        (name, fields): (&'static str, Value),
        record: u64,
        field: Option<usize>,
        value: String,
    ) {
        match heard {
            Heard::Never => {}
            Heard::Late => self.late.push_back((name, fields, record, field, value)),
            Heard::AtOnce => self.arrive(name, fields, record, field, value).await,
        }
    }

    async fn arrive(&mut self, name: &'static str, fields: Value, record: u64, field: Option<usize>, value: String) {
        let Value::Object(fields) = fields else { unreachable!() };
        let event = Event {
            id: EventId::new(),
            account: "main".to_owned(),
            name: name.to_owned(),
            received_at: self.clock.now(),
            via: Via::Json,
            actor: Some(7),
            entity: entity_of(name, &fields),
            fields: Value::Object(fields).to_string(),
        };
        self.handle.append(event).await.unwrap();
        let reference = &mut self.reference;
        let same = |(of, at, told): &(u64, Option<usize>, String)| (*of, *at, told) == (record, field, &value);
        if name != "deal.add"
            && let Some(found) = reference.unused.iter().position(same)
        {
            reference.unused.remove(found);
            return;
        }
        match (name, field) {
            ("deal.add", _) => drop(reference.told.entry(record).or_default()),
            ("deal.delete", _) => drop(reference.told.remove(&record)),
            (_, Some(field)) => {
                if let Some(told) = reference.told.get_mut(&record) {
                    told.insert(field, value);
                }
            }
            _ => unreachable!(),
        }
        reference.log.push((name.to_owned(), record));
    }

    async fn pass(&mut self) {
        let rows = self.fake.0.lock().unwrap().clone();
        let reference = &mut self.reference;
        for (record, row) in &rows {
            let value = |field: usize| row[FIELDS[field]].as_str().unwrap().to_owned();
            if let Some(told) = reference.told.get(record) {
                for field in 0..FIELDS.len() {
                    if told.get(&field).is_some_and(|told| *told != value(field)) {
                        reference.log.push((changed(*record, field, "", "").0.to_owned(), *record));
                        reference.unused.push((*record, Some(field), value(field)));
                    }
                }
            } else {
                reference.log.push(("deal.add".to_owned(), *record));
            }
            reference.told.insert(*record, (0..FIELDS.len()).map(|field| (field, value(field))).collect());
        }
        let gone: Vec<u64> = reference.told.keys().filter(|record| !rows.contains_key(record)).copied().collect();
        for record in gone {
            reference.told.remove(&record);
            reference.log.push(("deal.delete".to_owned(), record));
            reference.unused.push((record, None, String::new()));
        }
        self.read().await;
    }

    async fn read(&mut self) {
        let (source, journal, clock) = (self.fake.clone(), self.handle.clone(), self.clock.clone());
        let mut reader = Reader { account: "main".to_owned(), source, journal, clock };
        reader.pass(List::Deals, &mut self.memory).await.unwrap();
    }

    /// What was delivered, in order.
    async fn told(&self) -> Vec<Event> {
        told(&self.handle).await
    }
}

async fn told(handle: &journal::Handle) -> Vec<Event> {
    let plugin = PluginName::try_from("all".to_owned()).unwrap();
    let every = vec![Pattern::try_from("*".to_owned()).unwrap()];
    // In order of arrival, whatever is behind what.
    let subscription = Subscription { ordered: false, ..Subscription::new(plugin.clone(), every) };
    let queue = Queue { plugin, account: "main".to_owned() };
    let mut events = Vec::new();
    loop {
        let subscriptions = Arc::new(Subscriptions(vec![subscription.clone()]));
        let taken = handle.take(subscriptions, vec![(queue.clone(), 1_000)]).await.unwrap();
        let none = taken.claimed.is_empty() && !taken.unrouted;
        events.extend(taken.claimed.into_iter().map(|claimed| claimed.event));
        if none {
            return events;
        }
    }
}

fn deal(record: u64) -> Row {
    let row = json!({
        "did": record, "title": "0", "clid": 1, "iduser": "0", "step": "0", "datum_plan": "0", "kol": 1, "close": "no",
        "status_close": "",
    });
    row.as_object().unwrap().clone()
}

fn open(folder: &Path, clock: &Clock) -> Journal {
    let options = journal::Options {
        // What is told is compared one by one.
        duplicates: journal::Duplicates { fold: false, repeated_add: false },
        ..journal::Options::in_folder(folder)
    };
    Journal::open(&options, clock.clone()).unwrap()
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(10_000_000);
    let mut journal = open(folder.path(), &clock);
    let mut world = World {
        fake: Fake::default(),
        reference: Reference::default(),
        late: VecDeque::new(),
        handle: journal.handle(),
        clock: clock.clone(),
        memory: Memory::default(),
    };
    world.set(1, Some(deal(1)));
    // What was there before is no news.
    world.read().await;
    world.reference.told.insert(1, (0..FIELDS.len()).map(|field| (field, "0".to_owned())).collect());
    for step in steps {
        clock.advance(10);
        match step {
            Step::Change { record, field, value, heard } => {
                let (Some(mut row), old) = (world.row(record), world.text(record, field)) else { continue };
                let value = value.to_string();
                if old == value {
                    continue;
                }
                row.insert(FIELDS[field].to_owned(), value.clone().into());
                world.set(record, Some(row));
                world.hear(heard, changed(record, field, &old, &value), record, Some(field), value).await;
            }
            Step::Add { record, heard } if world.row(record).is_none() => {
                world.set(record, Some(deal(record)));
                world.hear(heard, of(record, "deal.add"), record, None, String::new()).await;
            }
            Step::Delete { record, heard } if world.row(record).is_some() => {
                world.set(record, None);
                world.hear(heard, of(record, "deal.delete"), record, None, String::new()).await;
            }
            Step::Add { .. } | Step::Delete { .. } => {}
            Step::Arrive { which } if !world.late.is_empty() => {
                let (name, fields, record, field, value) = world.late.remove(which % world.late.len()).unwrap();
                world.arrive(name, fields, record, field, value).await;
            }
            Step::Arrive { .. } => {}
            Step::Pass => world.pass().await,
            Step::Die => {
                world.memory = Memory::default();
                let World { fake, reference, late, handle, memory, .. } = world;
                drop(handle);
                journal.close();
                journal = open(folder.path(), &clock);
                world = World { fake, reference, late, handle: journal.handle(), clock: clock.clone(), memory };
            }
        }
    }
    while let Some((name, fields, record, field, value)) = world.late.pop_front() {
        world.arrive(name, fields, record, field, value).await;
    }
    world.pass().await;
    let told = world.told().await;
    let log: Vec<(String, u64)> =
        told.iter().map(|event| (event.name.clone(), event.entity.as_ref().unwrap().id.parse().unwrap())).collect();
    assert_eq!(log, world.reference.log);
    // Whoever heard all that was told last of each value knows what the CRM holds.
    let mut heard: BTreeMap<(u64, &str), String> = BTreeMap::new();
    for event in &told {
        for told in crate::event::told::told(&event.name, &lists::parse(&event.fields)) {
            if told.what != crate::event::told::What::Changed {
                heard.retain(|(record, _), _| record.to_string() != told.record);
            }
            for (key, value) in told.says {
                heard.insert((told.record.parse().unwrap(), key), value.unwrap());
            }
        }
    }
    for ((record, key), value) in heard {
        if let Some(row) = world.row(record)
            && FIELDS.contains(&key)
            && row[key] != json!("0")
        {
            assert_eq!(json!(value), row[key], "{record} {key}");
        }
    }
    drop(world);
    journal.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_change_is_told_once_by_whoever_tells_it_first(steps in proptest::collection::vec(step(), 1..50)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

/// Lists with the enquiries of a test.
async fn passes(list: List, states: Vec<Vec<Value>>, key: &str) -> Vec<Vec<Value>> {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(10_000_000);
    let journal = open(folder.path(), &clock);
    let (fake, handle) = (Fake::default(), journal.handle());
    let mut memory = Memory::default();
    let mut all = Vec::new();
    for rows in states {
        *fake.0.lock().unwrap() =
            rows.into_iter().map(|row| (row[key].as_u64().unwrap(), row.as_object().unwrap().clone())).collect();
        let mut reader =
            Reader { account: "main".to_owned(), source: fake.clone(), journal: handle.clone(), clock: clock.clone() };
        reader.pass(list, &mut memory).await.unwrap();
        let words = |event: Event| json!([event.name, serde_json::from_str::<Value>(&event.fields).unwrap()]);
        all.push(told(&handle).await.into_iter().map(words).collect());
    }
    drop(handle);
    journal.close();
    all
}

fn lead(id: u64, status: u64, user: u64) -> Value {
    json!({ "id": id, "user": 0, "iduser": user, "status": status, "rezult": null, "clid": 0, "pid": 0, "did": 0 })
}

#[tokio::test]
async fn an_enquiry_that_is_given_to_somebody_is_told_as_that_also_a_pass_after_it_came() {
    let setuser = |user: &str| json!(["lead.setuser", { "id": "1", "iduser": user }]);
    let states = vec![
        vec![],
        vec![lead(1, 0, 0)],
        vec![lead(1, 1, 3)],
        // Nothing of it is in the list.
        vec![lead(1, 1, 2)],
        vec![lead(1, 1, 2)],
        vec![lead(1, 3, 2)],
    ];
    assert_eq!(
        passes(List::Leads, states, "id").await,
        [
            vec![],
            vec![json!(["lead.add", { "id": "1", "clid": "0", "pid": "0", "did": "0" }])],
            vec![setuser("3")],
            vec![setuser("2")],
            vec![],
            vec![json!(["lead.do", { "id": "1", "clid": "0", "pid": "0", "did": "0" }])],
        ]
    );
}

#[tokio::test]
async fn enquiries_for_which_the_calls_do_not_suffice_have_their_turn_in_a_later_pass() {
    let all = |status: u64, user: u64| (1..=120).map(|id| lead(id, status, user)).collect::<Vec<_>>();
    let found = passes(List::Leads, vec![all(0, 0), all(1, 3), all(1, 3), all(1, 3), all(1, 3)], "id").await;
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 50, 50, 20, 0]);
    let mut told: Vec<Value> = found.into_iter().flatten().collect();
    told.sort_by_key(|event| event[1]["id"].as_str().unwrap().parse::<u64>().unwrap());
    let expected: Vec<Value> =
        (1..=120).map(|id: u64| json!(["lead.setuser", { "id": id.to_string(), "iduser": "3" }])).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn acts_behind_the_first_hundred_are_watched_too() {
    let act = |id: u64, number: &str| json!({ "id": id, "number": number, "did": 1, "clid": 1, "payerid": 1 });
    let all = |last: &str| (1..=150).map(|id| act(id, if id == 150 { last } else { "1" })).collect::<Vec<_>>();
    let found = passes(List::Acts, vec![all("1"), all("2")], "id").await;
    let edit = json!(["akt.edit", { "id": "150", "did": "1", "payer": "1", "clid": "1", "number": "2" }]);
    assert_eq!(found, [vec![], vec![edit]]);
}

/// A copy of a store, as the store of another folder.
fn copied(from: &Path, clock: &Clock) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (to, stop) = (folder.path().join("copy"), std::sync::atomic::AtomicBool::new(false));
    let wanted =
        journal::BackupWanted { data_dir: from, to: &to, replace: false, parts: &[], least_free: 0, stop: &stop };
    journal::back_up(&wanted, clock).unwrap();
    std::fs::rename(&to, folder.path().join("journal.sqlite")).unwrap();
    folder
}

#[tokio::test]
async fn what_a_list_shows_first_after_a_restore_is_doubted_and_what_changes_later_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(10_000_000);
    let journal = open(folder.path(), &clock);
    let fake = Fake::default();
    let read = async |handle: &journal::Handle| {
        let (source, journal, clock) = (fake.clone(), handle.clone(), clock.clone());
        let mut reader = Reader { account: "main".to_owned(), source, journal, clock };
        reader.pass(List::Deals, &mut Memory::default()).await.unwrap()
    };
    let step = |record: u64, step: &str| {
        let mut row = deal(record);
        row.insert("step".to_owned(), step.into());
        fake.0.lock().unwrap().insert(record, row);
    };
    step(1, "0");
    assert_eq!(read(&journal.handle()).await, 0);
    journal.close();
    let folder = copied(folder.path(), &clock);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    assert!(handle.waits_for_go_on());
    assert!(told(&handle).await.is_empty());
    assert!(handle.go_on("anna").await.unwrap() && !handle.waits_for_go_on());
    // Changed, and added, in the time that the store knows nothing of.
    step(1, "1");
    step(2, "0");
    assert_eq!(read(&handle).await, 2);
    assert_eq!(told(&handle).await.len(), 2);
    let doubted = |handle: &journal::Handle| handle.doubted(0, 10).unwrap().len();
    assert_eq!(doubted(&handle), 2);
    step(1, "2");
    assert_eq!(read(&handle).await, 1);
    assert_eq!((told(&handle).await.len(), doubted(&handle)), (1, 2));
    drop(handle);
    journal.close();
    assert!(!open(folder.path(), &clock).handle().waits_for_go_on(), "it went on");
}
