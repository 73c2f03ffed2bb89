//! Damaged pages, changes that fail, and disks that refuse: who is refused, what is said, and the way back.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use futures_util::future::join_all;

use super::*;

fn store(folder: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(layout::file(folder)).unwrap()
}

/// Overwrites the first page of a table or index in a store that nobody has open.
pub(super) fn damage(folder: &Path, name: &str) {
    let connection = store(folder);
    let page = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0)).unwrap();
    let size = page("PRAGMA page_size");
    let root = page(&format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'"));
    drop(connection);
    let file = std::fs::File::options().write(true).open(layout::file(folder)).unwrap();
    file.write_all_at(&vec![0xaa; usize::try_from(size).unwrap()], u64::from(root - 1) * u64::from(size)).unwrap();
}

/// A store with some deliveries that are open, done and dead.
async fn used(folder: &Path, clock: &Clock) {
    let journal = open(folder, clock);
    let handle = journal.handle();
    for n in 0..12 {
        let key = (n % 2 == 0).then(|| format!("before {n}"));
        handle.append_once(event("deal.edit", Some(n % 3)), key).await.unwrap();
    }
    let claimed = handle.take(subscriptions(), budgets(2)).await.unwrap().claimed;
    for (n, one) in claimed.iter().enumerate() {
        let (outcome, next) = match n % 2 {
            0 => (Outcome::Done, Next::Done),
            _ => (Outcome::Rejected { reason: "x".to_owned() }, Next::Dead),
        };
        handle.settle(settlement(one, outcome, next)).await.unwrap();
    }
    drop(handle);
    journal.close();
}

fn found(folder: &Path) -> Vec<String> {
    let checked = check(folder, Duration::from_secs(60), 0).unwrap();
    assert!(checked.left.is_empty() || !checked.findings.is_empty(), "{checked:?}");
    checked.findings.into_iter().map(|fault| fault.what).collect()
}

#[tokio::test]
async fn damaged_statistics_refuse_no_event_and_are_made_anew() {
    for table in ["minute", "tally"] {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_000);
        used(folder.path(), &clock).await;
        damage(folder.path(), table);
        assert!(found(folder.path()).iter().any(|what| what.contains(&format!("`{table}`"))), "{table}");
        let journal = open(folder.path(), &clock);
        let handle = journal.handle();
        let appended = join_all((0..64).map(|n| handle.append(event("deal.edit", Some(n))))).await;
        assert_eq!(appended.iter().filter(|appended| appended.is_err()).count(), 0, "{table}: {appended:?}");
        let claimed = handle.take(subscriptions(), budgets(4)).await.unwrap();
        assert!(claimed.refused.is_none() && claimed.claimed.len() == 8, "{table}: {claimed:?}");
        for one in &claimed.claimed {
            handle.settle(settlement(one, Outcome::Done, Next::Done)).await.unwrap();
        }
        // What is shown is right again, and stays so.
        let backlog = handle.backlog().unwrap();
        assert_eq!((backlog.open, backlog.dead), (2 * 76 - 12, 2), "{table}");
        assert!(handle.minutes(0, 1).is_ok(), "{table}");
        assert_eq!(found(folder.path()), Vec::<String>::new(), "{table}");
        drop(handle);
        journal.close();
    }
}

#[tokio::test]
async fn a_bound_on_what_waits_is_kept_while_the_tally_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    used(folder.path(), &clock).await;
    damage(folder.path(), "tally");
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let bounded = Subscription { most_waiting: Some(12), ..Subscription::new(plugin("alpha"), vec![pattern("*")]) };
    for n in 0..10 {
        handle.append(event("deal.edit", Some(n))).await.unwrap();
    }
    // Nothing was stored into the tally before: routing is the first that meets it.
    let taken = handle.take(Arc::new(Subscriptions(vec![bounded])), Vec::new()).await.unwrap();
    assert!(taken.refused.is_none(), "{taken:?}");
    // By the time that the next change is stored it has been made anew.
    handle.append(event("deal.edit", None)).await.unwrap();
    let of_alpha = handle.queue_minutes(0).unwrap().into_iter().find(|queue| queue.plugin == "alpha").unwrap();
    assert_eq!(of_alpha.open, 12);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_damaged_index_refuses_those_who_need_it_and_nobody_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    used(folder.path(), &clock).await;
    damage(folder.path(), "event_key");
    let what = found(folder.path());
    assert!(
        what.len() == 1 && what[0].starts_with("the index `event_key` of the table `event` is damaged"),
        "{what:?}"
    );
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let key = |n: u8| (n % 2 == 1).then(|| format!("key {n}"));
    let all = join_all((0..100).map(|n| handle.append_once(event("deal.edit", Some(n)), key(n)))).await;
    for (n, one) in all.iter().enumerate() {
        let needs_it = n % 2 == 1;
        assert_eq!(matches!(one, Err(Error::Damaged(_))), needs_it, "{n}: {one:?}");
    }
    // As the last event that was sent: the odd ones are refused.
    assert_eq!(handle.trouble(), Some(Trouble::Damaged));
    // Somebody looks what it is, and the alarm names it.
    let mut alarm = handle.alarm();
    let watching = tokio::spawn(watch_over(handle.clone(), |_| ()));
    let named = tokio::time::timeout(Duration::from_secs(30), alarm.wait_for(|alarm| !alarm.damaged.is_empty()));
    assert_eq!(named.await.unwrap().unwrap().damaged[0].index.as_deref(), Some("event_key"));
    // What needs no event's page shows nothing.
    handle.ask(Change::Probe).await.unwrap();
    assert_eq!(handle.trouble(), Some(Trouble::Damaged));
    handle.append(event("deal.edit", None)).await.unwrap();
    assert_eq!(handle.trouble(), None);
    drop(alarm);
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled());
    drop(handle);
    journal.close();
    // And the way back that is named is one.
    compact(folder.path(), |_| ()).unwrap();
    assert_eq!(found(folder.path()), Vec::<String>::new());
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let again = handle.append_once(event("deal.edit", None), Some("before 2".to_owned())).await.unwrap();
    assert!(matches!(again, Appended::KeyReused(_)), "{again:?}");
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_store_whose_first_pages_are_damaged_is_called_so_at_the_start_and_by_a_check() {
    for name in ["sqlite_schema", "store"] {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_000);
        used(folder.path(), &clock).await;
        let connection = store(folder.path());
        let (size, root) = match name {
            // Behind the file's own head, and what the page says of itself.
            "sqlite_schema" => (3_000_u32, 100_u64),
            _ => {
                let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'store'";
                let root = connection.query_row(root, [], |row| row.get::<_, u32>(0)).unwrap();
                (4_096, u64::from(root - 1) * 4_096)
            }
        };
        drop(connection);
        let file = std::fs::File::options().write(true).open(layout::file(folder.path())).unwrap();
        file.write_all_at(&vec![0xaa; usize::try_from(size).unwrap()], root).unwrap();
        // The first start and the second, and who compacts.
        for _ in 0..2 {
            let refused =
                Journal::open(&Options::in_folder(folder.path()), clock.clone()).map(Journal::close).unwrap_err();
            assert!(!refused.may_pass() && refused.to_string().contains("damaged"), "{name}: {refused}");
            assert!(refused.to_string().contains("salesman-host restore"), "{name}: {refused}");
        }
        let refused = compact(folder.path(), |_| ()).unwrap_err().to_string();
        assert!(refused.contains("damaged"), "{name}: {refused}");
        let checked = check(folder.path(), Duration::from_secs(60), 0).unwrap();
        assert!(checked.findings.iter().any(|fault| fault.remedy.contains("restore")), "{name}: {checked:?}");
    }
}

#[tokio::test]
async fn a_change_that_fails_refuses_none_of_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let other = store(folder.path());
    other
        .execute_batch(
            "CREATE TRIGGER planted BEFORE INSERT ON event WHEN NEW.name = 'deal.bad' BEGIN SELECT RAISE(ABORT, 'planted'); END",
        )
        .unwrap();
    // Many in a row, too.
    let bad = |n: usize| n % 10 == 3 || (40..70).contains(&n);
    let name = |n: u8| if bad(n.into()) { "deal.bad" } else { "deal.edit" };
    let all = join_all((0..200).map(|n| handle.append(event(name(n), None)))).await;
    let refused: Vec<usize> = (0..200).filter(|n| all[*n].is_err()).collect();
    assert_eq!(refused, (0..200).filter(|n| bad(*n)).collect::<Vec<_>>());
    assert!(all[3].as_ref().unwrap_err().to_string().contains("planted"), "with its own error: {all:?}");
    assert_eq!(handle.trouble(), None, "that says nothing of the store");
    assert_eq!(handle.backlog().unwrap().unrouted, 200 - 20 - 27);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn while_all_fails_a_few_are_tried_and_all_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let other = store(folder.path());
    let planted = "CREATE TRIGGER planted BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'planted'); END";
    other.execute_batch(planted).unwrap();
    let all = join_all((0..200).map(|n| handle.append(event("deal.edit", Some(n))))).await;
    assert!(all.iter().all(|one| one.as_ref().is_err_and(|error| error.to_string().contains("planted"))), "{all:?}");
    other.execute_batch("DROP TRIGGER planted").unwrap();
    handle.append(event("deal.edit", None)).await.unwrap();
    assert_eq!(handle.backlog().unwrap().unrouted, 1);
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn an_event_that_can_t_be_read_holds_back_neither_its_queue_nor_another_and_is_given_up_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    // The first is for one of the two plugins only, and can't be read.
    handle.append(event("task.edit", None)).await.unwrap();
    let good = event("deal.edit", None);
    handle.append(good.clone()).await.unwrap();
    handle.take(subscriptions(), Vec::new()).await.unwrap();
    store(folder.path()).execute_batch("UPDATE event SET id = x'00' WHERE seq = 1").unwrap();
    let taken = handle.take(subscriptions(), budgets(4)).await.unwrap();
    let mut claimed: Vec<_> =
        taken.claimed.iter().map(|claimed| (claimed.queue.plugin.as_str(), claimed.event.id)).collect();
    claimed.sort();
    assert_eq!(claimed, [("alpha", good.id), ("beta", good.id)]);
    assert!(taken.refused.is_some(), "it is told");
    // And found once: nobody pays for it the next time.
    let taken = handle.take(subscriptions(), budgets(4)).await.unwrap();
    assert!(taken.refused.is_none() && taken.claimed.is_empty(), "{taken:?}");
    for _ in 0..8 {
        clock.advance(600_000);
        handle.take(subscriptions(), budgets(4)).await.unwrap();
    }
    let letters = handle.letter_groups().unwrap();
    assert_eq!(
        letters.iter().map(|group| (group.code.as_str(), group.letters)).collect::<Vec<_>>(),
        [("journal.damaged", 1)]
    );
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn an_event_that_can_t_be_routed_is_kept_aside_and_tried_again_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let events: Vec<Event> = (0..40).map(|n| event("deal.edit", Some(n))).collect();
    for event in &events {
        handle.append(event.clone()).await.unwrap();
    }
    let damage = "UPDATE event SET account = CAST(x'ff' AS TEXT) WHERE seq = 20";
    store(folder.path()).execute_batch(damage).unwrap();
    let mut claimed = 0;
    for _ in 0..100 {
        let taken = handle.take(subscriptions(), vec![(queue("alpha"), 40)]).await.unwrap();
        claimed += taken.claimed.len();
        if claimed == 39 {
            break;
        }
    }
    assert_eq!((claimed, handle.backlog().unwrap().unrouted), (39, 0));
    assert!(handle.take(subscriptions(), budgets(40)).await.unwrap().refused.is_none(), "nobody pays for it any more");
    let what = found(folder.path());
    assert!(what.iter().any(|what| what.starts_with("events could not be given to plugins (1")), "{what:?}");
    drop(handle);
    journal.close();
    store(folder.path()).execute_batch("UPDATE event SET account = 'main' WHERE seq = 20").unwrap();
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let again = handle.take(subscriptions(), vec![(queue("alpha"), 99)]).await.unwrap().claimed;
    assert!(again.iter().any(|claimed| claimed.event.id == events[19].id && claimed.attempt == 1), "{again:?}");
    assert_eq!(found(folder.path()), Vec::<String>::new());
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn what_can_t_be_claimed_makes_nobody_unready_who_takes_events() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    used(folder.path(), &clock).await;
    damage(folder.path(), "delivery_ready");
    let journal = open(folder.path(), &clock);
    let handle = journal.handle();
    let refused = handle.take(subscriptions(), budgets(4)).await;
    assert!(refused.as_ref().map_or(true, |taken| taken.refused.is_some() && taken.claimed.is_empty()), "{refused:?}");
    assert_eq!(handle.trouble(), None);
    handle.append(event("deal.edit", None)).await.unwrap();
    drop(handle.take(subscriptions(), budgets(4)).await);
    assert_eq!(handle.trouble(), None, "an event sent now would be stored");
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_store_that_stores_again_is_found_out_without_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(watch_over(handle.clone(), move |news: &News| told.send(news.clone()).unwrap_or(())));
    let other = store(folder.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(handle.append(event("deal.edit", None)).await, Err(Error::Locked)));
    assert_eq!(handle.trouble(), Some(Trouble::Locked));
    assert_eq!(news.recv().await, Some(News::Failing(Trouble::Locked)));
    assert_eq!(handle.alarm().borrow().trouble, Some(Trouble::Locked));
    other.execute_batch("ROLLBACK").unwrap();
    let mut trouble = handle.condition();
    let over = tokio::time::timeout(Duration::from_secs(30), trouble.wait_for(Option::is_none)).await;
    assert!(over.is_ok_and(|over| over.is_ok()));
    // A store that fails now and then is not told again and again.
    assert_eq!(handle.alarm().borrow().trouble, Some(Trouble::Locked));
    drop(trouble);
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled());
    drop(handle);
    journal.close();
}

#[tokio::test]
async fn a_check_finds_what_tables_do_not_agree_on() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    used(folder.path(), &clock).await;
    assert_eq!(found(folder.path()), Vec::<String>::new());
    let sabotages = [
        ("UPDATE delivery SET state = 0 WHERE state = 1 AND lane IS NOT NULL", "of a record more than one delivery"),
        ("UPDATE delivery SET state = 1 WHERE state = 0", "deliveries wait behind one that is over"),
        ("DELETE FROM event WHERE seq = 3", "deliveries are of an event that is not there"),
        ("UPDATE delivery SET queue = 99 WHERE seq = 1", "deliveries are of a plugin that is not known"),
        ("UPDATE delivery SET state = 9 WHERE seq = 1", "deliveries are in a state that does not exist"),
        ("DELETE FROM cursor WHERE name = 'routed'", "it is not known up to which event"),
        ("UPDATE cursor SET seq = 3 WHERE name = 'routed'", "deliveries are of events that were not given"),
        ("UPDATE tally SET deliveries = deliveries + 1", "counts of what waits"),
        ("INSERT INTO state_use VALUES (1, 'main', 1, 10)", "sums of what plugins keep"),
    ];
    for (sabotage, expected) in sabotages {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(layout::file(folder.path()), layout::file(copy.path())).unwrap();
        store(copy.path()).execute_batch(sabotage).unwrap();
        let found = found(copy.path());
        assert!(found.iter().any(|what| what.starts_with(expected)), "{sabotage}: {found:?}");
    }
}

#[tokio::test]
async fn compacting_gives_room_back_and_changes_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000);
    used(folder.path(), &clock).await;
    let connection = store(folder.path());
    // Room that nothing uses, and a number that is not given again.
    connection
        .execute_batch(
            "CREATE TABLE ballast (x BLOB); INSERT INTO ballast SELECT randomblob(100000) FROM (VALUES (1), (2), (3), (4), (5));
             DROP TABLE ballast; DELETE FROM audit; INSERT OR REPLACE INTO sqlite_sequence VALUES ('audit', 7);
             UPDATE tally SET deliveries = 5;",
        )
        .unwrap();
    drop(connection);
    let rows = |folder: &Path| {
        let connection = store(folder);
        let mut all = Vec::new();
        for table in ["event", "delivery", "attempt", "cursor", "plugin", "queue", "sqlite_sequence", "sqlite_schema"] {
            let columns = if table == "sqlite_schema" { "type, name, sql" } else { "*" };
            let mut rows = connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2")).unwrap();
            let count = rows.column_count();
            let rows = rows.query_map([], |row| (0..count).map(|n| row.get::<_, rusqlite::types::Value>(n)).collect());
            all.push((table, rows.unwrap().collect::<Result<Vec<Vec<_>>, _>>().unwrap()));
        }
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        (version, all)
    };
    let before = (std::fs::metadata(layout::file(folder.path())).unwrap().len(), rows(folder.path()));
    // A copy that was broken off, and a store that is in use.
    std::fs::write(compact::beside(folder.path()), "half").unwrap();
    let running = open(folder.path(), &clock);
    assert!(!compact::beside(folder.path()).exists(), "a start removes what was left");
    assert!(matches!(compact(folder.path(), |_| ()), Err(NotCompacted::Journal(Error::InUse(_)))));
    running.close();
    let reader = store(folder.path());
    reader.execute_batch("BEGIN; SELECT count(*) FROM event; ").unwrap();
    let mut plan = None;
    let after = compact(folder.path(), |known| plan = Some(*known));
    drop(reader);
    let after = match after {
        Ok(after) => after,
        // A reader of the log is in the way; one of the file alone is not.
        Err(NotCompacted::Read(_)) => compact(folder.path(), |known| plan = Some(*known)).unwrap(),
        Err(error) => panic!("{error}"),
    };
    assert!(after + 400_000 < before.0 && plan.unwrap().before == before.0, "{after} of {}", before.0);
    assert_eq!(rows(folder.path()), before.1);
    assert_eq!(found(folder.path()), Vec::<String>::new(), "the tally is counted anew");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("compact")), "{left:?}");
    let journal = open(folder.path(), &clock);
    journal.handle().append(event("deal.edit", None)).await.unwrap();
    journal.close();
}
