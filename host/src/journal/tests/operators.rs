//! What operators ask and change: searches, replays, pauses.

use super::*;
use crate::journal::search::Fate;

pub(super) async fn store(handle: &Handle, event: Event) -> EventId {
    let id = event.id;
    handle.append(event).await.unwrap();
    id
}

pub(super) async fn take(handle: &Handle, most: usize) -> Vec<Claimed> {
    handle.take(subscriptions(), vec![(queue("alpha"), most), (queue("beta"), most)]).await.unwrap().claimed
}

fn found(handle: &Handle, filter: &EventFilter) -> Vec<EventId> {
    handle.events(filter, None, 100).unwrap().items.into_iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn a_search_finds_what_was_asked_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Options::in_folder(folder.path()), Clock::manual(0)).unwrap();
    let handle = journal.handle();
    let base = event("deal.edit", Some(7));
    let events = [
        Event { received_at: 1_000, ..base.clone() },
        Event { id: EventId::new(), received_at: 2_000, account: "second".to_owned(), ..base.clone() },
        Event { id: EventId::new(), received_at: 3_000, actor: Some(9), ..base.clone() },
        Event {
            id: EventId::new(),
            received_at: 4_000,
            name: "deal.change.step".to_owned(),
            entity: None,
            ..base.clone()
        },
        Event {
            id: EventId::new(),
            received_at: 5_000,
            fields: r#"{"title":"Ромашка"}"#.to_owned(),
            ..event("client.add", None)
        },
    ];
    let mut ids = Vec::new();
    for event in events {
        ids.push(store(&handle, event).await);
    }
    let all = EventFilter::default();
    let text = |text: &str| Some(text.to_owned());
    let cases = [
        (all.clone(), vec![4, 3, 2, 1, 0]),
        (EventFilter { name: text("deal.edit"), ..all.clone() }, vec![2, 1, 0]),
        (EventFilter { name: text("deal.*"), ..all.clone() }, vec![3, 2, 1, 0]),
        (EventFilter { entity: base.entity.clone(), ..all.clone() }, vec![2, 1, 0]),
        (EventFilter { entity: base.entity.clone(), account: text("second"), ..all.clone() }, vec![1]),
        (EventFilter { entity: base.entity.clone(), actor: Some(9), ..all.clone() }, vec![2]),
        (EventFilter { actor: Some(9), ..all.clone() }, vec![2]),
        (EventFilter { account: text("nobody"), ..all.clone() }, vec![]),
        (EventFilter { since: Some(2_000), until: Some(4_000), ..all.clone() }, vec![2, 1]),
        (EventFilter { since: Some(9_000), ..all.clone() }, vec![]),
        (EventFilter { until: Some(500), ..all.clone() }, vec![]),
        (EventFilter { text: text("ромаш"), ..all.clone() }, vec![4]),
        (EventFilter { text: text("100%"), ..all.clone() }, vec![]),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(&handle, &filter), expected.iter().map(|index| ids[*index]).collect::<Vec<_>>(), "{filter:?}");
        // Page by page it is the same.
        let (mut paged, mut cursor) = (Vec::new(), None);
        loop {
            let page = handle.events(&filter, cursor, 1).unwrap();
            paged.extend(page.items.into_iter().map(|event| event.id));
            cursor = page.next.map(|next| next.parse().unwrap());
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(paged, expected.iter().map(|index| ids[*index]).collect::<Vec<_>>(), "{filter:?}, paged");
    }
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn what_waits_is_run_sooner_or_given_up_and_its_record_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(0);
    let journal = Journal::open(&Options::in_folder(folder.path()), clock.clone()).unwrap();
    let handle = journal.handle();
    for _ in 0..3 {
        store(&handle, event("task.edit", Some(1))).await;
    }
    let first = take(&handle, 1).await.remove(0);
    let later = Next::Again { at: 1_000_000, counts: true };
    handle.settle(settlement(&first, Outcome::Retry { reason: "x".to_owned(), after: None }, later)).await.unwrap();
    assert_eq!(take(&handle, 5).await, []);
    assert!(handle.decide(first.delivery, Resolution::Retry).await.unwrap());
    let again = take(&handle, 5).await;
    assert_eq!(again.iter().map(|claimed| claimed.delivery).collect::<Vec<_>>(), [first.delivery]);
    // What runs is nobody's to decide about.
    assert!(!handle.decide(first.delivery, Resolution::Drop).await.unwrap());
    handle.settle(settlement(&again[0], Outcome::Retry { reason: "x".to_owned(), after: None }, later)).await.unwrap();
    assert!(handle.decide(first.delivery, Resolution::Drop).await.unwrap());
    assert_eq!(take(&handle, 5).await.len(), 1, "the next of the record has its turn");
    assert_eq!(handle.backlog().unwrap().open, 2);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_replay_is_a_delivery_of_its_own_behind_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Options::in_folder(folder.path()), Clock::manual(0)).unwrap();
    let handle = journal.handle();
    let id = store(&handle, event("task.edit", Some(1))).await;
    assert_eq!(handle.replay(id, &plugin("beta"), true).await.unwrap(), None, "it has not been routed");
    let first = take(&handle, 1).await.remove(0);
    let same = handle.replay(id, &plugin("alpha"), true).await.unwrap().unwrap();
    let other = handle.replay(id, &plugin("beta"), false).await.unwrap().unwrap();
    assert_eq!(handle.replay(EventId::new(), &plugin("alpha"), true).await.unwrap(), None);
    let states = |id| {
        let fates = handle.events(&EventFilter::default(), None, 1).unwrap().items.remove(0).deliveries;
        fates.into_iter().find(|fate: &Fate| fate.delivery == id).unwrap().state
    };
    assert_eq!((states(same), states(other)), (DeliveryState::Behind, DeliveryState::Ready));
    handle.settle(settlement(&first, Outcome::Done, Next::Done)).await.unwrap();
    let mut replayed: Vec<i64> = take(&handle, 5).await.into_iter().map(|claimed| claimed.delivery.0).collect();
    replayed.sort_unstable();
    assert_eq!(replayed, [same, other]);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn what_operators_did_and_paused_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(5);
    let open = || Journal::open(&Options::in_folder(folder.path()), clock.clone()).unwrap();
    let journal = open();
    let handle = journal.handle();
    handle.audit("anna", "plugin.pause", "alpha", "").await.unwrap();
    handle.hold(&plugin("alpha"), Some("anna")).await.unwrap();
    handle.hold(&plugin("beta"), Some("anna")).await.unwrap();
    handle.hold(&plugin("beta"), None).await.unwrap();
    drop(handle);
    journal.close();
    let journal = open();
    let handle = journal.handle();
    let held = Held { at: 5, who: "anna".to_owned() };
    assert_eq!(handle.held().unwrap(), BTreeMap::from([(plugin("alpha"), held)]));
    let [who, action, object, details] = ["anna", "plugin.pause", "alpha", ""].map(str::to_owned);
    assert_eq!(handle.audited(None, 9).unwrap(), [Audited { number: 1, at: 5, who, action, object, details }]);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn minutes_hold_what_came_and_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(0);
    let journal = Journal::open(&Options::in_folder(folder.path()), clock.clone()).unwrap();
    let handle = journal.handle();
    let minute = 60_000;
    for index in 0..4 {
        store(&handle, Event { received_at: minute, ..event("task.edit", Some(index)) }).await;
    }
    for (index, claimed) in take(&handle, 10).await.into_iter().enumerate() {
        let ended_at = 2 * minute + i64::try_from(index).unwrap();
        let (outcome, next) = match index {
            0 | 1 => (Outcome::Done, Next::Done),
            2 => (Outcome::Rejected { reason: "x".to_owned() }, Next::Dead),
            _ => (Outcome::Retry { reason: "x".to_owned(), after: None }, Next::Again { at: 1, counts: true }),
        };
        handle.settle(Settlement { ended_at, ..settlement(&claimed, outcome, next) }).await.unwrap();
    }
    let came = Minute { at: minute, events: 4, ..Minute::default() };
    let ended = Minute {
        at: 2 * minute,
        good: 2,
        failed: 2,
        dead: 1,
        waited_ms: minute,
        slowest_ms: minute + 1,
        ..Minute::default()
    };
    assert_eq!(handle.minutes(0, 1).unwrap(), [came, ended]);
    let both = Minute { at: 0, events: 4, ..ended };
    assert_eq!(handle.minutes(0, 5).unwrap(), [both]);
    let [name, account] = ["alpha", "main"].map(str::to_owned);
    let alpha = QueueMinutes { plugin: name, account, open: 1, dead: 1, good: 2, failed: 2 };
    assert_eq!(handle.queue_minutes(0).unwrap()[0], alpha);
    let failures = handle.failed_attempts(Some(&plugin("alpha")), 9).unwrap();
    let outcomes: Vec<&str> = failures.iter().map(|failed| failed.outcome.as_str()).collect();
    assert_eq!(outcomes, ["retry", "rejected"]);
    assert_eq!(handle.failed_attempts(Some(&plugin("beta")), 9).unwrap(), []);
    let groups: Vec<(String, u64)> =
        handle.letter_groups().unwrap().into_iter().map(|group| (group.code, group.letters)).collect();
    assert_eq!(groups, [("rejected".to_owned(), 1)]);
    drop(handle);
    journal.close();
}
