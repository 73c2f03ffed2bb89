//! A store that came out of a copy: what waits, what is doubted, and how a doubt ends.

use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use super::operators::take;
use super::*;
use crate::event::content::Content;
use crate::journal::statistics::{self, Table};
use crate::journal::{BackupWanted, Intended, Intent, Written, back_up};

fn intent(delivery: DeliveryId, occurrence: u32, not_done: bool) -> Intent {
    Intent {
        write: Write { delivery, digest: [7; 16], occurrence },
        call: "task.add".to_owned(),
        account: "main".to_owned(),
        kind: "task".to_owned(),
        record: None,
        content: Content::default(),
        effects: Vec::new(),
        not_done,
    }
}

/// A copy of a store, as a store of its own.
fn copied(from: &std::path::Path, clock: &Clock) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (to, stop) = (folder.path().join("copy"), AtomicBool::new(false));
    let wanted = BackupWanted { data_dir: from, to: &to, replace: false, parts: &[], least_free: 0, stop: &stop };
    back_up(&wanted, clock).unwrap();
    std::fs::rename(&to, folder.path().join("journal.sqlite")).unwrap();
    folder
}

#[tokio::test]
async fn what_was_open_is_doubted_until_it_was_looked_for_and_nothing_else_is() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(10_000));
    let journal = Journal::open(&Options::in_folder(folder.path()), clock.clone()).unwrap();
    let handle = journal.handle();
    for number in 1..=3 {
        handle.append(event("deal.edit", Some(number))).await.unwrap();
    }
    let running = take(&handle, 1).await;
    let known = intent(running[0].delivery, 0, false);
    assert_eq!(handle.intend(known.clone()).await.unwrap(), Intended::New);
    let answer = Written::Answered { answer: "{}".to_owned(), record: None };
    handle.written(known.write.clone(), answer).await.unwrap();
    // Not routed yet.
    handle.append(event("deal.edit", Some(9))).await.unwrap();
    clock.advance(5_000);
    let copy = copied(folder.path(), &clock);
    clock.advance(60_000);
    let restored = Journal::open(&Options::in_folder(copy.path()), clock.clone()).unwrap();
    let handle = restored.handle();
    let told = handle.restored().unwrap().unwrap();
    assert_eq!((told.copied_at, told.restored_at, told.unrouted, told.released_at), (15_000, 75_000, 1, None));
    handle.append(event("deal.edit", Some(10))).await.unwrap();
    assert!(take(&handle, 10).await.is_empty(), "it waits");
    assert!(handle.go_on("anna").await.unwrap());
    let claimed = take(&handle, 10).await;
    // It was copied while it ran; its process did not end.
    assert!(claimed.iter().all(|claimed| claimed.interruptions == 0));
    let doubted: Vec<i64> = handle.doubted(0, 100).unwrap().into_iter().map(|doubted| doubted.delivery).collect();
    let new = claimed.iter().find(|claimed| claimed.event.entity.as_ref().unwrap().id == "10").unwrap().delivery;
    assert!(!doubted.contains(&new.0) && doubted.len() + 2 == claimed.len(), "{doubted:?}");
    // Answered before the copy: known. Not known to the ledger: it may have been done since.
    assert_eq!(handle.intend(known).await.unwrap(), Intended::Answered("{}".to_owned()));
    let other = running[0].delivery;
    assert_eq!(handle.intend(intent(other, 1, false)).await.unwrap(), Intended::Uncertain { since: 15_000 });
    assert_eq!(handle.intend(intent(new, 0, false)).await.unwrap(), Intended::New);
    // Looked for and not found: it is sent now, and a doubt about that counts from now.
    handle.written(intent(other, 1, false).write, Written::Withdrawn).await.unwrap();
    assert_eq!(handle.intend(intent(other, 1, true)).await.unwrap(), Intended::New);
    assert_eq!(handle.intend(intent(other, 1, false)).await.unwrap(), Intended::Uncertain { since: 75_000 });
    // Turned away, such as by a rate limit: surely not done, so it is not doubted anew.
    handle.written(intent(other, 1, false).write, Written::Withdrawn).await.unwrap();
    assert_eq!(handle.intend(intent(other, 1, false)).await.unwrap(), Intended::New);
    assert!(!handle.go_on("anna").await.unwrap(), "once");
}

#[tokio::test]
async fn pages_that_nothing_leads_to_keep_no_copy_from_being_made_and_a_damaged_table_does() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(10_000));
    let journal = Journal::open(&Options::in_folder(folder.path()), clock.clone()).unwrap();
    for number in 1..=3 {
        journal.handle().append(event("deal.edit", Some(number))).await.unwrap();
    }
    journal.close();
    let file = folder.path().join("journal.sqlite");
    // As a running host does it, whose table was damaged.
    let mut store = Connection::open(&file).unwrap();
    statistics::rebuild(&mut store, Table::of("minute").unwrap()).unwrap();
    let said: String = store.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).unwrap();
    assert!(said.contains("never used"), "{said}");
    drop(store);
    let copy = copied(folder.path(), &clock);
    let restored = Journal::open(&Options::in_folder(copy.path()), clock.clone()).unwrap();
    assert_eq!(restored.handle().restored().unwrap().unwrap().unrouted, 3);
    super::damage::damage(folder.path(), "event");
    let (to, stop) = (copy.path().join("copy"), AtomicBool::new(false));
    let wanted =
        BackupWanted { data_dir: folder.path(), to: &to, replace: false, parts: &[], least_free: 0, stop: &stop };
    let refused = back_up(&wanted, &clock).unwrap_err();
    assert!(!to.exists(), "{refused}");
}
