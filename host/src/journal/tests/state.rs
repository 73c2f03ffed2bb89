//! What plugins keep: counted as it changes, bounded, and counted for stores that were made before.

use super::*;
use crate::outcome::{Fault, FaultKind, LogLine, Quota};

/// What is stored, counted anew: keys and bytes.
fn counted(folder: &Path) -> (u64, u64) {
    let connection = rusqlite::Connection::open(layout::file(folder)).unwrap();
    connection
        .query_row("SELECT count(*), coalesce(sum(octet_length(key) + octet_length(value)), 0) FROM state", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .map(|(keys, bytes)| (u64::try_from(keys).unwrap(), u64::try_from(bytes).unwrap()))
        .unwrap()
}

fn kept(handle: &Handle) -> (u64, u64) {
    handle.state_uses().unwrap().iter().fold((0, 0), |(keys, bytes), of| (keys + of.keys, bytes + of.bytes))
}

async fn next(handle: &Handle) -> Claimed {
    handle.append(event("client.edit", None)).await.unwrap();
    handle.take(subscriptions(), vec![(queue("alpha"), 1)]).await.unwrap().claimed.remove(0)
}

fn bounded(claimed: &Claimed, writes: &[(&str, StateWrite)], bytes: u64, keys: u64) -> Settlement {
    let mut settlement = stateful(claimed, &[], writes);
    settlement.effects.state.quota = Some(Quota { bytes, keys });
    settlement
}

fn set(text: &str) -> StateWrite {
    StateWrite::Set(text.to_owned())
}

#[tokio::test]
async fn what_is_kept_is_counted_as_it_changes_and_never_more_than_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1));
    let handle = journal.handle();
    let long = "я".repeat(20);
    let full = Settled::StateFull { all: false };
    let steps: [(&[(&str, StateWrite)], Settled); 9] = [
        (&[("a", set("12345")), ("b", set(&long))], Settled::Applied),
        // 6 + 41 bytes so far, of 50.
        (&[("a", set("123456789"))], full),
        (&[("a", set("12345678"))], Settled::Applied),
        (&[("c", set(""))], full),
        // What makes room and takes it is one step.
        (&[("b", StateWrite::Delete), ("c", set("x")), ("d", StateWrite::Add(41))], Settled::Applied),
        (&[("d", StateWrite::Add(1))], Settled::Applied),
        (&[("e", set("1"))], full),
        (&[("no", StateWrite::Delete)], Settled::Applied),
        (&[("a", StateWrite::Delete), ("c", StateWrite::Delete), ("d", StateWrite::Delete)], Settled::Applied),
    ];
    for (step, (writes, expected)) in steps.into_iter().enumerate() {
        let claimed = next(&handle).await;
        let settled = handle.settle(bounded(&claimed, writes, 50, 3)).await.unwrap();
        assert_eq!(settled, expected, "step {step}");
        if settled == full {
            let fault = Outcome::Failed(Fault::new(FaultKind::StateLimit, "full"));
            assert_eq!(handle.settle(settlement(&claimed, fault, Next::Dead)).await.unwrap(), Settled::Applied);
        }
        assert_eq!(kept(&handle), counted(folder.path()), "step {step}");
        assert!(kept(&handle).1 <= 50 && kept(&handle).0 <= 3, "step {step}");
    }
    assert_eq!(kept(&handle), (0, 0));
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn who_is_over_a_bound_that_was_lowered_can_still_write_less() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { most_state: 100, ..Options::in_folder(folder.path()) };
    let journal = Journal::open(&options, Clock::manual(1)).unwrap();
    let handle = journal.handle();
    let claimed = next(&handle).await;
    let writes = [("a", set(&"x".repeat(60)))];
    assert_eq!(handle.settle(bounded(&claimed, &writes, 1_000, 9)).await.unwrap(), Settled::Applied);
    let claimed = next(&handle).await;
    let writes = [("b", set(&"x".repeat(60)))];
    let settled = handle.settle(bounded(&claimed, &writes, 1_000, 9)).await.unwrap();
    assert_eq!(settled, Settled::StateFull { all: true }, "all plugins together may keep 100 bytes");
    let writes = [("a", set(&"x".repeat(30)))];
    assert_eq!(handle.settle(bounded(&claimed, &writes, 10, 0)).await.unwrap(), Settled::Applied);
    assert_eq!(kept(&handle), (1, 31));
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn what_a_store_kept_before_it_was_counted_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(layout::file(folder.path())).unwrap();
    for step in layout::STEPS.iter().take(5) {
        connection.execute_batch(step).unwrap();
    }
    connection
        .execute_batch(
            "INSERT INTO plugin VALUES (1, 'alpha'), (2, 'beta');
             INSERT INTO state VALUES (1, 'main', 'a', 'ю', 1), (1, 'main', 'b', '', 1), (2, 'main', 'a', '12', 1);
             PRAGMA user_version = 5;",
        )
        .unwrap();
    drop(connection);
    let journal = open(folder.path(), &Clock::manual(1));
    let of: Vec<(String, u64, u64)> =
        journal.handle().state_uses().unwrap().into_iter().map(|of| (of.plugin, of.keys, of.bytes)).collect();
    assert_eq!(of, [("alpha".to_owned(), 2, 4), ("beta".to_owned(), 1, 3)]);
    journal.close();
}

#[tokio::test]
async fn what_attempts_record_does_not_fill_the_disk_however_young_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    for _ in 0..2 {
        let claimed = next(&handle).await;
        let mut end = settlement(&claimed, Outcome::Done, Next::Done);
        let line = LogLine { at: 1, level: "info".to_owned(), text: "x".repeat(60_000) };
        end.effects.lines = vec![line; 10];
        handle.settle(end).await.unwrap();
    }
    let retention = Retention { age: std::time::Duration::from_secs(1_000_000), size: 1 << 20 };
    assert!(handle.sweep(retention).await.unwrap().over);
    assert!(!handle.sweep(retention).await.unwrap().over, "only the events are left");
    drop(handle);
    journal.close();
}
