//! The journal against a model: whatever is asked in whatever order, with the process dying in between.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::{Entity, Via};
use crate::outcome::{StateEffects, StateWrite};

const PLUGINS: [&str; 2] = ["alpha", "beta"];

fn plugin(name: &str) -> PluginName {
    PluginName::try_from(name.to_owned()).unwrap()
}

fn pattern(text: &str) -> Pattern {
    Pattern::try_from(text.to_owned()).unwrap()
}

/// `alpha` wants all events in order, `beta` only some, in any order.
fn subscriptions() -> Arc<Subscriptions> {
    Arc::new(Subscriptions(vec![
        Subscription { plugin: plugin("alpha"), events: vec![pattern("*")], ordered: true },
        Subscription { plugin: plugin("beta"), events: vec![pattern("deal.*")], ordered: false },
    ]))
}

fn event(name: &str, record: Option<u8>) -> Event {
    Event {
        id: EventId::new(),
        account: "main".to_owned(),
        name: name.to_owned(),
        received_at: 0,
        via: Via::Json,
        actor: Some(1),
        entity: record.map(|id| Entity { kind: "deal".to_owned(), id: id.to_string() }),
        fields: "{}".to_owned(),
    }
}

fn settlement(claimed: &Claimed, outcome: Outcome, next: Next) -> Settlement {
    Settlement {
        delivery: claimed.delivery,
        attempt: claimed.attempt,
        version: "1".to_owned(),
        started_at: 0,
        ended_at: 0,
        outcome,
        effects: Effects::default(),
        next,
    }
}

fn open(folder: &Path, clock: &Clock) -> Journal {
    Journal::open(&Options { data_dir: folder.to_owned() }, clock.clone()).unwrap()
}

fn budgets(each: usize) -> Vec<(PluginName, usize)> {
    PLUGINS.iter().map(|name| (plugin(name), each)).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Append { deal: bool, record: Option<u8> },
    Take { budget: usize },
    Settle { which: usize, how: How },
    Wait { milliseconds: i64 },
    Die,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    Skip,
    Dead,
    Again { after: i64, counts: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => Just(How::Done),
        1 => Just(How::Skip),
        1 => Just(How::Dead),
        3 => (0..50_i64, any::<bool>()).prop_map(|(after, counts)| How::Again { after, counts }),
    ];
    prop_oneof![
        4 => (any::<bool>(), proptest::option::weighted(0.8, 0..3_u8)).prop_map(|(deal, record)| Step::Append { deal, record }),
        3 => (0..4_usize).prop_map(|budget| Step::Take { budget }),
        4 => (any::<usize>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => (1..60_i64).prop_map(|milliseconds| Step::Wait { milliseconds }),
        1 => Just(Step::Die),
    ]
}

/// What one delivery should look like.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    plugin: &'static str,
    event: usize,
    lane: Option<u8>,
    state: DeliveryState,
    at: i64,
    attempts: u32,
    failures: u32,
}

#[derive(Default)]
struct Model {
    events: Vec<Event>,
    routed: usize,
    deliveries: Vec<Expected>,
}

impl Model {
    fn route(&mut self, now: i64) {
        for (index, event) in self.events.iter().enumerate().skip(self.routed) {
            for name in PLUGINS {
                if name == "beta" && !event.name.starts_with("deal.") {
                    continue;
                }
                let record = event.entity.as_ref().map(|entity| entity.id.parse().unwrap());
                let lane = record.filter(|_| name == "alpha");
                let busy = lane.is_some()
                    && self
                        .deliveries
                        .iter()
                        .any(|other| other.plugin == name && other.lane == lane && !other.state.is_over());
                let state = if busy { DeliveryState::Behind } else { DeliveryState::Ready };
                self.deliveries.push(Expected {
                    plugin: name,
                    event: index,
                    lane,
                    state,
                    at: now,
                    attempts: 0,
                    failures: 0,
                });
            }
        }
        self.routed = self.events.len();
    }

    /// What a take should claim: event, plugin, attempt, failures.
    fn take(&mut self, budget: usize, now: i64) -> Vec<(EventId, &'static str, u32, u32)> {
        self.route(now);
        let mut claimed = Vec::new();
        for name in PLUGINS {
            let mut due: Vec<usize> = (0..self.deliveries.len())
                .filter(|index| {
                    let delivery = &self.deliveries[*index];
                    delivery.plugin == name && delivery.state == DeliveryState::Ready && delivery.at <= now
                })
                .collect();
            due.sort_by_key(|index| (self.deliveries[*index].at, *index));
            for index in due.into_iter().take(budget) {
                let delivery = &mut self.deliveries[index];
                delivery.state = DeliveryState::Running;
                delivery.attempts += 1;
                delivery.at = now;
                claimed.push((self.events[delivery.event].id, name, delivery.attempts, delivery.failures));
            }
        }
        claimed
    }

    fn settle(&mut self, index: usize, how: How, now: i64) {
        let delivery = &mut self.deliveries[index];
        match how {
            How::Again { after, counts } => {
                (delivery.state, delivery.at) = (DeliveryState::Ready, now + after);
                delivery.failures += u32::from(counts);
                return;
            }
            How::Done => delivery.state = DeliveryState::Done,
            How::Skip => delivery.state = DeliveryState::Skipped,
            How::Dead => delivery.state = DeliveryState::Dead,
        }
        let (name, lane) = (delivery.plugin, delivery.lane);
        let next = self
            .deliveries
            .iter_mut()
            .find(|other| other.plugin == name && other.lane == lane && !other.state.is_over());
        if let Some(next) = next.filter(|_| lane.is_some()) {
            next.state = DeliveryState::Ready;
        }
    }

    fn die(&mut self, now: i64) {
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.state == DeliveryState::Running) {
            (delivery.state, delivery.at) = (DeliveryState::Ready, now);
        }
    }
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    let mut journal = open(folder.path(), &clock);
    let mut model = Model::default();
    let mut running: Vec<Claimed> = Vec::new();
    for step in steps {
        let handle = journal.handle();
        match step {
            Step::Append { deal, record } => {
                let event = event(if deal { "deal.edit" } else { "task.edit" }, record);
                handle.append(event.clone()).await.unwrap();
                model.events.push(event);
            }
            Step::Take { budget } => {
                let taken = handle.take(subscriptions(), budgets(budget)).await.unwrap();
                let found: Vec<_> = taken
                    .claimed
                    .iter()
                    .map(|c| (c.event.id, c.plugin.as_str().to_owned(), c.attempt, c.failures))
                    .collect();
                let expected: Vec<_> = model
                    .take(budget, clock.now())
                    .into_iter()
                    .map(|(id, name, a, f)| (id, name.to_owned(), a, f))
                    .collect();
                assert_eq!(found, expected);
                running.extend(taken.claimed);
            }
            Step::Settle { which, how } if !running.is_empty() => {
                let claimed = running.remove(which % running.len());
                let (outcome, next) = match how {
                    How::Done => (Outcome::Done, Next::Done),
                    How::Skip => (Outcome::Skipped { reason: "x".to_owned() }, Next::Skipped),
                    How::Dead => (Outcome::Rejected { reason: "x".to_owned() }, Next::Dead),
                    How::Again { after, counts } => (
                        Outcome::Retry { reason: "x".to_owned(), after: None },
                        Next::Again { at: clock.now() + after, counts },
                    ),
                };
                assert_eq!(handle.settle(settlement(&claimed, outcome.clone(), next)).await.unwrap(), Settled::Applied);
                // A second word on the same attempt changes nothing.
                assert_eq!(handle.settle(settlement(&claimed, outcome, Next::Dead)).await.unwrap(), Settled::Applied);
                let index = usize::try_from(claimed.delivery.0 - 1).unwrap();
                model.settle(index, how, clock.now());
            }
            Step::Settle { .. } => {}
            Step::Wait { milliseconds } => clock.advance(milliseconds),
            Step::Die => {
                drop(handle);
                journal.close();
                journal = open(folder.path(), &clock);
                model.die(clock.now());
                running.clear();
            }
        }
    }
    let handle = journal.handle();
    // Events that were never taken are routed now, so that the whole can be compared.
    let claimed = handle.take(subscriptions(), Vec::new()).await.unwrap().claimed;
    assert_eq!(claimed, []);
    model.route(clock.now());
    let mut found = Vec::new();
    for event in &model.events {
        let path = handle.path_of(event.id).unwrap().unwrap();
        assert!(path.routed);
        found.extend(path.deliveries.into_iter().map(|delivery| {
            // Every attempt that ended is there, in order; one that runs is not.
            let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
            let open = u32::from(delivery.state == DeliveryState::Running);
            (delivery.plugin, delivery.state, u32::try_from(numbers.len()).unwrap() + open)
        }));
    }
    let mut expected = model.deliveries.clone();
    expected.sort_by_key(|delivery| delivery.event);
    let expected: Vec<_> =
        expected.into_iter().map(|delivery| (delivery.plugin.to_owned(), delivery.state, delivery.attempts)).collect();
    assert_eq!(found, expected);
    drop(handle);
    journal.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_never_other_than_its_model(steps in proptest::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

fn stateful(claimed: &Claimed, seen: &[(&str, Option<u64>)], writes: &[(&str, StateWrite)]) -> Settlement {
    let effects = Effects {
        state: StateEffects {
            seen: seen.iter().map(|(key, version)| ((*key).to_owned(), *version)).collect(),
            writes: writes.iter().map(|(key, write)| ((*key).to_owned(), write.clone())).collect(),
        },
        ..Effects::default()
    };
    Settlement { effects, ..settlement(claimed, Outcome::Done, Next::Done) }
}

#[tokio::test]
async fn state_that_changed_meanwhile_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    for _ in 0..3 {
        handle.append(event("deal.edit", None)).await.unwrap();
    }
    let alpha = vec![(plugin("alpha"), 3)];
    let claimed = handle.take(subscriptions(), alpha.clone()).await.unwrap().claimed;
    let [first, second, third] = &claimed[..] else { panic!("{claimed:?}") };
    let set = |text: &str| StateWrite::Set(text.to_owned());
    assert_eq!(handle.settle(stateful(first, &[("n", None)], &[("n", set("1"))])).await.unwrap(), Settled::Applied);
    // The second read before the first wrote.
    assert_eq!(handle.settle(stateful(second, &[("n", None)], &[("n", set("1"))])).await.unwrap(), Settled::Conflict);
    // Adding does not depend on what was read.
    assert_eq!(handle.settle(stateful(third, &[], &[("n", StateWrite::Add(5))])).await.unwrap(), Settled::Applied);
    let view = handle.state(&plugin("alpha"), "main");
    let (value, version) = view.get("n").unwrap().unwrap();
    assert_eq!(value, "6");

    let again = handle.take(subscriptions(), alpha).await.unwrap().claimed;
    assert_eq!(
        again.iter().map(|c| (c.delivery, c.attempt, c.failures)).collect::<Vec<_>>(),
        [(second.delivery, 2, 0)]
    );
    assert_eq!(
        handle.settle(stateful(&again[0], &[("n", Some(version))], &[("n", set("7"))])).await.unwrap(),
        Settled::Applied
    );
    assert_eq!(view.get("n").unwrap().map(|(value, _)| value).as_deref(), Some("7"));
    assert_eq!(view.keys("", "", 10).unwrap(), ["n"]);
    assert_eq!(handle.state(&plugin("beta"), "main").get("n").unwrap(), None);
    assert_eq!(handle.state(&plugin("alpha"), "other").get("n").unwrap(), None);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &Clock::manual(1)).close();
    let connection = rusqlite::Connection::open(layout::file(folder.path())).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    let error = Journal::open(&Options { data_dir: folder.path().to_owned() }, Clock::Wall).err().unwrap();
    assert!(matches!(error, Error::Newer { found: 999, .. }), "{error}");
}

#[test]
fn claiming_and_promoting_never_scan_the_backlog() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &Clock::manual(1)).close();
    let connection = rusqlite::Connection::open(layout::file(folder.path())).unwrap();
    let plan = |sql: &str| -> String {
        connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap()
            .query_map([], |row| row.get::<_, String>(3))
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
            .join("; ")
    };
    let claim = plan(
        "SELECT seq FROM delivery INDEXED BY delivery_ready WHERE plugin = 1 AND state = 0 AND at <= 5 ORDER BY at, seq LIMIT 9",
    );
    assert_eq!(claim, "SEARCH delivery USING COVERING INDEX delivery_ready (plugin=? AND at<?)");
    let next = plan(
        "SELECT min(seq) FROM delivery INDEXED BY delivery_lane WHERE plugin = 1 AND lane = 'x' AND state IN (0, 1, 2)",
    );
    assert_eq!(next, "SEARCH delivery USING INDEX delivery_lane (plugin=? AND lane=?)");
}
