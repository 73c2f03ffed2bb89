//! The journal against a model: whatever is asked in whatever order, with the process dying in between.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append { name: &'static str, record: Option<u8>, says: u8 },
    Take { budget: usize },
    Settle { which: usize, how: How },
    Begin { which: usize },
    Release { which: usize },
    Resolve { which: usize, resolution: Resolution },
    Decide { which: usize, resolution: Resolution },
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
        5 => (prop::sample::select(vec!["deal.edit", "task.edit", "deal.add", "deal.delete"]), proptest::option::weighted(0.8, 0..3_u8), 0..2_u8)
            .prop_map(|(name, record, says)| Step::Append { name, record, says }),
        3 => (0..4_usize).prop_map(|budget| Step::Take { budget }),
        4 => (any::<usize>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => any::<usize>().prop_map(|which| Step::Begin { which }),
        1 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => (any::<usize>(), prop::sample::select(vec![Resolution::Retry, Resolution::Drop]))
            .prop_map(|(which, resolution)| Step::Resolve { which, resolution }),
        1 => (any::<usize>(), prop::sample::select(vec![Resolution::Retry, Resolution::Drop]))
            .prop_map(|(which, resolution)| Step::Decide { which, resolution }),
        1 => prop_oneof![8 => 1..60_i64, 1 => Just(25 * 3_600_000)].prop_map(|milliseconds| Step::Wait { milliseconds }),
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
    interruptions: u32,
    began: bool,
    crashes: u32,
}

#[derive(Default)]
struct Model {
    events: Vec<Event>,
    /// Per routed event: what it repeats.
    duplicates: Vec<Option<(&'static str, usize)>>,
    deliveries: Vec<Expected>,
}

/// What a take claims: event, plugin, attempt, failures, interruptions, crashes.
type Row = (EventId, String, u32, u32, u32, u32);

impl Model {
    fn route(&mut self, now: i64) {
        for index in self.duplicates.len()..self.events.len() {
            let event = self.events[index].clone();
            let wanted: Vec<&'static str> =
                PLUGINS.into_iter().filter(|name| *name == "alpha" || event.name.starts_with("deal.")).collect();
            let duplicate = self.duplicate(index, wanted.len());
            self.duplicates.push(duplicate);
            if duplicate.is_some() {
                continue;
            }
            for name in wanted {
                let record = event.entity.as_ref().map(|entity| entity.id.parse().unwrap());
                let lane = record.filter(|_| name == "alpha");
                let state = if self.busy(name, lane) { DeliveryState::Behind } else { DeliveryState::Ready };
                self.deliveries.push(Expected {
                    plugin: name,
                    event: index,
                    lane,
                    state,
                    at: now,
                    attempts: 0,
                    failures: 0,
                    interruptions: 0,
                    began: false,
                    crashes: 0,
                });
            }
        }
    }

    fn busy(&self, name: &str, lane: Option<u8>) -> bool {
        lane.is_some()
            && self.deliveries.iter().any(|other| other.plugin == name && other.lane == lane && !other.state.is_over())
    }

    fn duplicate(&self, index: usize, wanted: usize) -> Option<(&'static str, usize)> {
        let event = &self.events[index];
        let most = if event.entity.is_some() { 1 } else { 16 };
        let of_record: Vec<usize> = (0..index).rev().filter(|i| self.events[*i].entity == event.entity).collect();
        for earlier in of_record.iter().take(most) {
            let other = &self.events[*earlier];
            let target = match self.duplicates[*earlier] {
                Some(("repeated", _)) => continue,
                Some((_, target)) => target,
                None => *earlier,
            };
            if (&other.name, &other.fields) != (&event.name, &event.fields) {
                continue;
            }
            let made: Vec<_> = self.deliveries.iter().filter(|delivery| delivery.event == target).collect();
            let untouched = |delivery: &&Expected| {
                delivery.attempts == 0 && matches!(delivery.state, DeliveryState::Ready | DeliveryState::Behind)
            };
            if made.len() == wanted && made.iter().all(untouched) {
                return Some(("folded", target));
            }
        }
        if event.entity.is_none() || !event.name.ends_with(".add") {
            return None;
        }
        // What came before a deletion is of another record; one that says something else is as well.
        let since = of_record.into_iter().take_while(|earlier| !self.events[*earlier].name.ends_with(".delete"));
        let mut adds = since.filter(|i| self.events[*i].name == event.name && self.duplicates[*i].is_none());
        let last = adds.next()?;
        let other = &self.events[last];
        let repeated = other.fields == event.fields && other.received_at > event.received_at - 24 * 3_600_000;
        repeated.then_some(("repeated", last))
    }

    fn take(&mut self, budget: usize, now: i64) -> Vec<Row> {
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
                let Expected { attempts, failures, interruptions, crashes, .. } = *delivery;
                let id = self.events[delivery.event].id;
                claimed.push((id, name.to_owned(), attempts, failures, interruptions, crashes));
            }
        }
        claimed
    }

    fn settle(&mut self, index: usize, how: How, now: i64) {
        let delivery = &mut self.deliveries[index];
        delivery.began = false;
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
        delivery.at = 0;
        let (name, lane) = (delivery.plugin, delivery.lane);
        let next = self
            .deliveries
            .iter_mut()
            .find(|other| other.plugin == name && other.lane == lane && !other.state.is_over());
        if let Some(next) = next.filter(|_| lane.is_some()) {
            next.state = DeliveryState::Ready;
        }
    }

    fn release(&mut self, index: usize) {
        let delivery = &mut self.deliveries[index];
        (delivery.state, delivery.began) = (DeliveryState::Ready, false);
        delivery.attempts -= 1;
    }

    fn resolve(&mut self, index: usize, resolution: Resolution, now: i64) {
        let (name, lane) = (self.deliveries[index].plugin, self.deliveries[index].lane);
        let busy = self.busy(name, lane);
        let delivery = &mut self.deliveries[index];
        delivery.at = now;
        delivery.state = match resolution {
            Resolution::Drop => DeliveryState::Dropped,
            Resolution::Retry => {
                (delivery.failures, delivery.interruptions, delivery.crashes) = (0, 0, 0);
                if busy { DeliveryState::Behind } else { DeliveryState::Ready }
            }
        };
    }

    fn decide(&mut self, index: usize, resolution: Resolution, now: i64) -> bool {
        let delivery = &mut self.deliveries[index];
        match (delivery.state, resolution) {
            (DeliveryState::Dead, _) => self.resolve(index, resolution, now),
            (DeliveryState::Ready, Resolution::Retry) => delivery.at = delivery.at.min(now),
            (DeliveryState::Ready, Resolution::Drop) => {
                self.settle(index, How::Done, now);
                self.deliveries[index].state = DeliveryState::Dropped;
            }
            (DeliveryState::Behind, Resolution::Drop) => delivery.state = DeliveryState::Dropped,
            _ => return false,
        }
        true
    }

    fn die(&mut self, now: i64) {
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.state == DeliveryState::Running) {
            (delivery.state, delivery.at) = (DeliveryState::Ready, now);
            delivery.interruptions += 1;
            delivery.crashes += u32::from(delivery.began);
            delivery.began = false;
        }
    }
}

fn index_of(delivery: DeliveryId) -> usize {
    usize::try_from(delivery.0 - 1).unwrap()
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
            Step::Append { name, record, says } => {
                let mut event = event(name, record);
                event.received_at = clock.now();
                event.fields = format!("{{\"says\":\"{says}\"}}");
                handle.append(event.clone()).await.unwrap();
                model.events.push(event);
            }
            Step::Take { budget } => {
                let taken = handle.take(subscriptions(), budgets(budget)).await.unwrap();
                let row = |c: &Claimed| {
                    let plugin = c.queue.plugin.as_str().to_owned();
                    (c.event.id, plugin, c.attempt, c.failures, c.interruptions, c.crashes)
                };
                assert_eq!(taken.claimed.iter().map(row).collect::<Vec<_>>(), model.take(budget, clock.now()));
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
                model.settle(index_of(claimed.delivery), how, clock.now());
            }
            Step::Begin { which } if !running.is_empty() => {
                let claimed = &running[which % running.len()];
                handle.begin(claimed.delivery).await.unwrap();
                model.deliveries[index_of(claimed.delivery)].began = true;
            }
            Step::Release { which } if !running.is_empty() => {
                let claimed = running.remove(which % running.len());
                handle.release(claimed.delivery).await.unwrap();
                model.release(index_of(claimed.delivery));
            }
            Step::Resolve { which, resolution } => {
                let dead: Vec<usize> = (0..model.deliveries.len())
                    .filter(|index| model.deliveries[*index].state == DeliveryState::Dead)
                    .collect();
                let letters = handle.letters(&LetterFilter::default(), 0, 1_000).unwrap();
                let found: Vec<usize> = letters.iter().map(|letter| index_of(DeliveryId(letter.delivery))).collect();
                assert_eq!(found, dead);
                if let Some(index) = dead.get(which % dead.len().max(1)) {
                    let letter = DeliveryId(i64::try_from(*index).unwrap() + 1);
                    assert_eq!(handle.resolve(vec![letter], resolution).await.unwrap(), 1);
                    model.resolve(*index, resolution, clock.now());
                }
                // Those that are not dead stay as they are.
                let others = running.iter().map(|claimed| claimed.delivery).collect();
                assert_eq!(handle.resolve(others, resolution).await.unwrap(), 0);
            }
            Step::Decide { which, resolution } if !model.deliveries.is_empty() => {
                let index = which % model.deliveries.len();
                let delivery = DeliveryId(i64::try_from(index).unwrap() + 1);
                let changed = model.decide(index, resolution, clock.now());
                assert_eq!(handle.decide(delivery, resolution).await.unwrap(), changed);
            }
            Step::Decide { .. } | Step::Settle { .. } | Step::Begin { .. } | Step::Release { .. } => {}
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
    // What is counted as it goes is what a count would bring.
    let count = |states: &[DeliveryState]| {
        u64::try_from(model.deliveries.iter().filter(|one| states.contains(&one.state)).count()).unwrap()
    };
    let open = count(&[DeliveryState::Ready, DeliveryState::Behind, DeliveryState::Running]);
    let backlog = handle.backlog().unwrap();
    assert_eq!((backlog.open, backlog.dead), (open, count(&[DeliveryState::Dead])));
    let unrouted = u64::try_from(model.events.len() - model.duplicates.len()).unwrap();
    assert_eq!(backlog.unrouted, unrouted);
    let grouped: u64 = handle.letter_groups().unwrap().iter().map(|group| group.letters).sum();
    assert_eq!(grouped, backlog.dead);
    // Events that were never taken are routed now, so that the whole can be compared.
    let claimed = handle.take(subscriptions(), Vec::new()).await.unwrap().claimed;
    assert_eq!(claimed, []);
    model.route(clock.now());
    let (mut found, mut duplicates) = (Vec::new(), Vec::new());
    for event in &model.events {
        let path = handle.path_of(event.id).unwrap().unwrap();
        assert!(path.routed);
        duplicates.push(path.event.duplicate.map(|duplicate| (duplicate.how, duplicate.of.unwrap())));
        found.extend(path.deliveries.into_iter().map(|delivery| {
            // Every attempt that ended is there, in order; one that runs is not.
            let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
            let open = u32::from(delivery.state == DeliveryState::Running);
            (delivery.plugin, delivery.state, u32::try_from(numbers.len()).unwrap() + open)
        }));
    }
    let expected: Vec<_> =
        model.duplicates.iter().map(|d| d.map(|(how, of)| (how.to_owned(), model.events[of].id))).collect();
    assert_eq!(duplicates, expected);
    let mut expected = model.deliveries.clone();
    expected.sort_by_key(|delivery| delivery.event);
    let expected: Vec<_> =
        expected.into_iter().map(|delivery| (delivery.plugin.to_owned(), delivery.state, delivery.attempts)).collect();
    assert_eq!(found, expected);
    let checked = check(folder.path(), std::time::Duration::from_secs(60), 0).unwrap();
    assert_eq!((checked.findings, checked.left), (Vec::new(), Vec::new()), "a check finds nothing in what is right");
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
