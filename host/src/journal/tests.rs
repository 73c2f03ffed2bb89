//! The journal case by case; whatever is asked in whatever order is `model`.

mod causes;
mod claims;
mod damage;
mod forgetting;
mod identity;
mod model;
mod operators;
mod restored;
mod state;
mod vouch;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::event::{Entity, Via};
use crate::outcome::{StateEffects, StateWrite};
use crate::plugin::Pattern;

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
        Subscription::new(plugin("alpha"), vec![pattern("*")]),
        Subscription { ordered: false, ..Subscription::new(plugin("beta"), vec![pattern("deal.*")]) },
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
        // No two are the same, unless a test wants them to be.
        fields: format!("{{\"n\":\"{}\"}}", EventId::new()),
    }
}

fn queue(name: &str) -> Queue {
    Queue { plugin: plugin(name), account: "main".to_owned() }
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
    Journal::open(&Options::in_folder(folder), clock.clone()).unwrap()
}

fn budgets(each: usize) -> Vec<(Queue, usize)> {
    PLUGINS.iter().map(|name| (queue(name), each)).collect()
}

fn stateful(claimed: &Claimed, seen: &[(&str, Option<u64>)], writes: &[(&str, StateWrite)]) -> Settlement {
    let effects = Effects {
        state: StateEffects {
            seen: seen.iter().map(|(key, version)| ((*key).to_owned(), *version)).collect(),
            writes: writes.iter().map(|(key, write)| ((*key).to_owned(), write.clone())).collect(),
            quota: None,
        },
        ..Effects::default()
    };
    Settlement { effects, ..settlement(claimed, Outcome::Done, Next::Done) }
}

#[tokio::test]
async fn a_store_that_somebody_else_holds_is_refused_by_name_and_goes_on_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let other = rusqlite::Connection::open(folder.path().join("journal.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = handle.append(event("deal.edit", None)).await;
    assert!(matches!(refused, Err(Error::Locked)), "whoever gets `Closed` gives up for good: {refused:?}");
    let refused = handle.take(subscriptions(), budgets(1)).await.map(drop);
    assert!(matches!(refused, Err(Error::Locked)), "{refused:?}");
    other.execute_batch("ROLLBACK").unwrap();
    handle.append(event("deal.edit", None)).await.unwrap();
    assert_eq!(handle.take(subscriptions(), budgets(1)).await.unwrap().claimed.len(), 2);
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
    let alpha = vec![(queue("alpha"), 3)];
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
    let error = Journal::open(&Options::in_folder(folder.path()), Clock::Wall).err().unwrap();
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
        "SELECT seq FROM delivery INDEXED BY delivery_ready WHERE queue = 1 AND state = 0 AND at <= 5 ORDER BY at, seq LIMIT 9",
    );
    assert_eq!(claim, "SEARCH delivery USING COVERING INDEX delivery_ready (queue=? AND at<?)");
    let next = plan(
        "SELECT min(seq) FROM delivery INDEXED BY delivery_lane WHERE queue = 1 AND lane = 'x' AND state IN (0, 1, 2)",
    );
    assert_eq!(next, "SEARCH delivery USING INDEX delivery_lane (queue=? AND lane=?)");
    let earlier = plan(
        "SELECT seq FROM event INDEXED BY event_entity WHERE account = 'a' AND entity_kind IS NULL AND entity_id IS NULL AND seq < 9
          ORDER BY seq DESC LIMIT 1",
    );
    assert_eq!(
        earlier,
        "SEARCH event USING COVERING INDEX event_entity (account=? AND entity_kind=? AND entity_id=? AND rowid<?)"
    );
    let waits = plan("SELECT count(*), total(attempts), min(state) FROM delivery WHERE event = 5");
    assert_eq!(waits, "SEARCH delivery USING INDEX delivery_event (event=?)");
}

#[tokio::test]
async fn what_is_over_is_forgotten_by_age_and_size_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let mut ids = Vec::new();
    for _ in 0..400 {
        let event = event("task.edit", None);
        ids.push(event.id);
        handle.append(event).await.unwrap();
    }
    let mut claimed = Vec::new();
    while claimed.len() < 400 {
        claimed.extend(handle.take(subscriptions(), vec![(queue("alpha"), 400)]).await.unwrap().claimed);
    }
    // Every tenth stays open, every tenth is a dead letter.
    for (index, claimed) in claimed.iter().enumerate() {
        let (outcome, next) = match index % 10 {
            3 => continue,
            7 => (Outcome::Rejected { reason: "no".to_owned() }, Next::Dead),
            _ => (Outcome::Done, Next::Done),
        };
        handle.settle(settlement(claimed, outcome, next)).await.unwrap();
    }
    let left = |handle: &Handle| ids.iter().filter(|id| handle.path_of(**id).unwrap().is_some()).count();
    let sweep = async |retention: Retention| {
        let mut removed = 0;
        loop {
            let swept = handle.sweep(retention).await.unwrap();
            removed += swept.removed;
            if !swept.more {
                return (removed, swept.over);
            }
        }
    };
    let day = std::time::Duration::from_secs(24 * 3_600);
    let by_age = Retention { age: day, size: u64::MAX };
    // Events here say that they came at 0: a day later they are a day old, and not more.
    clock.advance(24 * 3_600_000 - 1_000);
    assert_eq!((sweep(by_age).await, left(&handle)), ((0, false), 400));
    clock.advance(1);
    // The last event stays, so that no number is given twice.
    assert_eq!((sweep(by_age).await, left(&handle)), ((319, false), 81));
    assert_eq!((sweep(by_age).await, left(&handle)), ((0, false), 81));

    let mut late = event("task.edit", None);
    late.received_at = clock.now();
    let late = (late.id, handle.append(late).await.unwrap()).0;
    let mut next = event("task.edit", None);
    next.received_at = clock.now();
    handle.append(next).await.unwrap();
    for claimed in handle.take(subscriptions(), vec![(queue("alpha"), 400)]).await.unwrap().claimed {
        handle.settle(settlement(&claimed, Outcome::Done, Next::Done)).await.unwrap();
    }
    let by_size = Retention { age: day * 90, size: 1 };
    // What is younger than a day stays, however little room there is; the one that was kept as the last is not.
    assert_eq!(sweep(by_size).await, (1, true));
    assert_eq!((left(&handle), handle.path_of(late).unwrap().is_some()), (80, true));
    clock.advance(24 * 3_600_000 + 1);
    assert_eq!(sweep(by_size).await, (1, true));
    assert_eq!(handle.path_of(late).unwrap(), None);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let kept = event("deal.edit", Some(1));
    handle.append(kept.clone()).await.unwrap();
    drop(handle);
    journal.close();
    // More than any disk has.
    let options = Options { least_free: u64::MAX, ..Options::in_folder(folder.path()) };
    let journal = Journal::open(&options, clock.clone()).unwrap();
    let handle = journal.handle();
    let refused = handle.append(event("deal.edit", Some(2))).await;
    assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
    let claimed = handle.take(subscriptions(), budgets(4)).await.unwrap().claimed;
    assert_eq!(claimed.iter().map(|claimed| claimed.event.id).collect::<Vec<_>>(), [kept.id, kept.id]);
    for claimed in claimed {
        handle.settle(settlement(&claimed, Outcome::Done, Next::Done)).await.unwrap();
    }
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_store_of_the_first_format_is_brought_up_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(layout::file(folder.path())).unwrap();
    connection.execute_batch(layout::STEPS[0]).unwrap();
    connection
        .execute_batch(
            "INSERT INTO plugin VALUES (1, 'alpha'), (2, 'beta');
             INSERT INTO event VALUES
                (1, x'018f0000000070008000000000000001', 'main', 'deal.edit', 5, 'json', 1, 'deal', '7', '{}'),
                (2, x'018f0000000070008000000000000002', 'main', 'deal.edit', 6, 'json', 1, 'deal', '7', '{}'),
                (3, x'018f0000000070008000000000000003', 'other', 'deal.edit', 7, 'json', 1, 'deal', '7', '{}');
             UPDATE cursor SET seq = 3;
             INSERT INTO delivery VALUES
                (1, 1, 1, 'main/deal:7', 2, 5, 1, 0, NULL), (2, 1, 2, NULL, 5, 6, 8, 8, 'no'),
                (3, 2, 1, 'main/deal:7', 1, 6, 0, 0, NULL), (4, 3, 1, 'other/deal:7', 0, 7, 0, 0, NULL);
             PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let other = Queue { plugin: plugin("alpha"), account: "other".to_owned() };
    let budgets = vec![(queue("alpha"), 9), (other, 9), (queue("beta"), 9)];
    let claimed = handle.take(subscriptions(), budgets.clone()).await.unwrap().claimed;
    let rows = |claimed: &[Claimed]| -> Vec<_> {
        claimed.iter().map(|c| (c.delivery.0, c.queue.account.clone(), c.attempt, c.interruptions)).collect()
    };
    assert_eq!(rows(&claimed), [(1, "main".to_owned(), 2, 1), (4, "other".to_owned(), 1, 0)]);
    handle.settle(settlement(&claimed[0], Outcome::Done, Next::Done)).await.unwrap();
    let next = handle.take(subscriptions(), budgets).await.unwrap().claimed;
    assert_eq!(rows(&next), [(3, "main".to_owned(), 1, 0)]);
    let letters = handle.letters(&LetterFilter::default(), 0, 9).unwrap();
    assert_eq!(letters.iter().map(|l| (l.delivery, l.plugin.as_str())).collect::<Vec<_>>(), [(2, "beta")]);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_store_of_the_format_before_keeps_its_lists_and_writes_and_learns_what_a_write_causes() {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(layout::file(folder.path())).unwrap();
    for step in layout::STEPS.iter().take(4) {
        connection.execute_batch(step).unwrap();
    }
    connection
        .execute_batch(
            "INSERT INTO plugin VALUES (1, 'alpha');
             INSERT INTO queue VALUES (1, 1, 'main');
             INSERT INTO event (seq, id, account, name, received_at, via, actor, entity_kind, entity_id, fields)
                VALUES (1, x'018f0000000070008000000000000001', 'main', 'deal.edit', 5, 'json', 1, 'deal', '7', '{}');
             UPDATE cursor SET seq = 1;
             INSERT INTO delivery (seq, event, queue, state, at) VALUES (1, 1, 1, 3, 5);
             INSERT INTO write VALUES (1, x'09090909090909090909090909090909', 0, 'client.update', 'main', 'client', '8', 900, 950, '{}');
             INSERT INTO polled VALUES ('main', 'deals', '', 'known'), ('main', 'deals', '7', '{\"step\":\"20\"}');
             PRAGMA user_version = 4;",
        )
        .unwrap();
    drop(connection);
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    // What arrives is applied to what the list said then.
    let mut step = event("deal.change.step", Some(7));
    step.fields = r#"{"did":"7","stepNew":"40"}"#.to_owned();
    handle.append(step).await.unwrap();
    let known: Vec<_> = handle.polled_before("main", "deals").unwrap().into_iter().collect();
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(known, [pair("", "known"), pair("7", r#"{"step":"40"}"#)]);
    // A write of then shows that its record was there.
    let mut added = event("client.add", None);
    added.entity = Some(Entity { kind: "client".to_owned(), id: "8".to_owned() });
    added.received_at = 1_000;
    handle.append(added.clone()).await.unwrap();
    let claimed = handle.take(subscriptions(), vec![(queue("alpha"), 9)]).await.unwrap().claimed;
    assert!(
        claimed.iter().any(|claimed| claimed.event.id == added.id && claimed.event.fields.contains(r#""@known":"1""#))
    );
    assert!(handle.path_of(added.id).unwrap().unwrap().event.known);
    assert_eq!(handle.delivery(DeliveryId(1)).unwrap().unwrap().delivery.writes.len(), 1);
    drop(handle);
    journal.close();
}
