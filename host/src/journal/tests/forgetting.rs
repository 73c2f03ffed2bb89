//! Forgetting: what is deleted, what stays, and that no byte of it is left.

use super::operators::{store, take};
use super::*;

/// Has a record forgotten for good.
async fn forgotten(handle: &Handle, record: &Record, mentions: bool) -> Proof {
    let (who, version) = ("anna".to_owned(), "1".to_owned());
    let order = Forget { record: record.clone(), mentions, who, version };
    let number = handle.forget(order).await.unwrap();
    let keeper = tokio::spawn(keep_forgetting(handle.clone(), |_| ()));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let proof = handle.proof(number).unwrap().unwrap();
        if proof.erased_at.is_some() {
            keeper.abort();
            assert!(keeper.await.unwrap_err().is_cancelled());
            return proof;
        }
        assert!(std::time::Instant::now() < until, "{proof:?}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_forgotten_record_is_nowhere_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Options::in_folder(folder.path()), Clock::manual(0)).unwrap();
    let handle = journal.handle();
    let about = |name: &str, kind: &str, id: &str, fields: &str| Event {
        entity: Some(Entity { kind: kind.to_owned(), id: id.to_owned() }),
        fields: fields.to_owned(),
        ..event(name, None)
    };
    store(&handle, about("client.add", "client", "123", r#"{"clid":"123","phone":"planted-one"}"#)).await;
    let other = store(&handle, about("client.add", "client", "1234", r#"{"clid":"1234"}"#)).await;
    store(&handle, about("deal.add", "deal", "5", r#"{"clid":"123","title":"planted-two"}"#)).await;
    let calls = store(&handle, about("deal.add", "deal", "6", r#"{"did":"6"}"#)).await;
    for claimed in take(&handle, 10).await {
        let mut end = settlement(&claimed, Outcome::Done, Next::Done);
        let is_calls = claimed.event.id == calls;
        let answer = if is_calls { r#"{"data":{"clid":123,"title":"planted-three"}}"# } else { "{}" };
        end.effects.calls.push(crate::outcome::HostCall {
            at: 0,
            took: 0,
            call: "crm client.info".to_owned(),
            request: "{}".to_owned(),
            answer: answer.to_owned(),
            good: true,
        });
        let key = if is_calls { "seen:client:123" } else { "seen:client:1234" };
        end.effects.state = StateEffects {
            seen: Vec::new(),
            writes: vec![(key.to_owned(), StateWrite::Set("planted-four".to_owned()))],
            quota: None,
        };
        if claimed.queue.plugin == plugin("alpha") && (is_calls || claimed.event.id == other) {
            handle.settle(end).await.unwrap();
        } else {
            handle.settle(settlement(&claimed, Outcome::Done, Next::Done)).await.unwrap();
        }
    }
    let record = Record { account: "main".to_owned(), kind: "client".to_owned(), id: "123".to_owned() };
    // One that waits, and one that was given up.
    let (again, given_up) = (event("task.edit", Some(3)), event("task.edit", Some(4)));
    for (name, next) in [(again, Next::Again { at: 9, counts: true }), (given_up, Next::Dead)] {
        store(&handle, Event { entity: Some(Entity { kind: "client".to_owned(), id: "123".to_owned() }), ..name })
            .await;
        // Only for the one: what is replayed for the other goes on waiting.
        let claimed = handle.take(subscriptions(), vec![(queue("alpha"), 10)]).await.unwrap().claimed.remove(0);
        handle.settle(settlement(&claimed, Outcome::Rejected { reason: "x".to_owned() }, next)).await.unwrap();
        if next != Next::Dead {
            assert!(handle.decide(claimed.delivery, Resolution::Drop).await.unwrap());
            handle.replay(claimed.event.id, &plugin("beta"), false).await.unwrap();
        }
    }
    assert_eq!((handle.backlog().unwrap().open, handle.backlog().unwrap().dead), (1, 1));
    let proof = forgotten(&handle, &record, false).await;
    // Its three events, the newest of all among them, and one key of state.
    assert_eq!((proof.counts["events"], proof.counts["state"], proof.left), (3, 1, 0));
    assert_eq!((handle.backlog().unwrap().open, handle.backlog().unwrap().dead), (0, 0));
    let newest =
        store(&handle, about("client.edit", "client", "123", r#"{"clid":"123","phone":"planted-five"}"#)).await;
    let list = r#"{"clids":["10","123"],"phone":"planted-six"}"#.to_owned();
    store(&handle, Event { fields: list, ..event("client.import", None) }).await;
    assert_eq!(handle.forgettable(&record, true, 1).unwrap().others, 2, "the deal and the list");
    for claimed in take(&handle, 10).await {
        handle.settle(settlement(&claimed, Outcome::Done, Next::Done)).await.unwrap();
    }
    forgotten(&handle, &record, true).await;
    // No number is given twice: what comes next is routed all the same.
    let next = store(&handle, event("task.edit", Some(9))).await;
    assert_eq!(take(&handle, 10).await.iter().map(|claimed| claimed.event.id).collect::<Vec<_>>(), [next]);
    assert_eq!(handle.path_of(newest).unwrap(), None, "no bare row is left");
    assert!(handle.path_of(other).unwrap().is_some());
    drop(handle);
    journal.close();
    let file = std::fs::read(layout::file(folder.path())).unwrap();
    let text = String::from_utf8_lossy(&file);
    for planted in ["planted-one", "planted-two", "planted-three", "planted-five", "planted-six"] {
        assert!(!text.contains(planted), "{planted}");
    }
    assert!(text.contains("planted-four"), "another record's state stays");
}

/// Columns that hold names of the configuration, of the CRM's functions, of the host's own words, the proof itself, or a
/// record's number that the watcher needs.
const NO_PERSONS: [&str; 32] = [
    "account name",
    "attempt code",
    "attempt outcome",
    "attempt version",
    "audit action",
    "audit who",
    "cursor name",
    "delivery code",
    "effect account",
    "effect name",
    "event account",
    "event duplicate",
    "event entity_kind",
    "event name",
    "event via",
    "hold plugin",
    "hold who",
    "host_call call",
    "plugin name",
    "polled account",
    "polled list",
    "polled record",
    "queue account",
    "state account",
    "state_use account",
    "store id",
    "tally code",
    "restored version",
    "restored released_by",
    "write account",
    "write call",
    "write kind",
];

/// Everything that may hold something of a record: its own rows, and those of others that name it.
const PLANTED: &str = r#"
    INSERT INTO plugin VALUES (1, 'alpha');
    INSERT INTO queue VALUES (1, 1, 'main');
    INSERT INTO event (seq, id, account, name, received_at, via, entity_kind, entity_id, fields, key) VALUES
        (1, x'018f0000000070008000000000000001', 'main', 'client.add', 5, 'json', 'client', '7700123', '{"phone":"planted!"}', 'planted!'),
        (2, x'018f0000000070008000000000000002', 'main', 'deal.add', 5, 'json', 'deal', '2', '{"clid":"7700123","title":"planted!"}', NULL),
        (3, x'018f0000000070008000000000000003', 'main', 'deal.edit', 5, 'json', 'deal', '3', '{}', NULL),
        (4, x'018f0000000070008000000000000004', 'main', 'deal.edit', 5, 'json', 'deal', '4', '{}', NULL),
        (5, x'018f0000000070008000000000000005', 'main', 'deal.edit', 5, 'json', 'deal', '5', '{"stays":"stays!"}', NULL);
    UPDATE cursor SET seq = 5 WHERE name = 'routed';
    INSERT INTO delivery (seq, event, queue, lane, state, at, reason) VALUES
        (1, 1, 1, 'client:7700123', 3, 5, 'planted!'), (2, 2, 1, 'deal:2', 3, 5, 'planted!'),
        (3, 3, 1, 'deal:3', 3, 5, 'planted!'), (4, 4, 1, 'deal:4', 5, 5, 'planted!');
    INSERT INTO attempt SELECT seq, 1, '1', 5, 5, 'done', 'planted!', NULL, 0, 0, 0, '["planted!"]', 0 FROM delivery;
    INSERT INTO host_call SELECT seq, 1, 0, 5, 1, 'crm client.update', '{"id": 7700123, "phone": "planted!"}', '{"id":7700123,"phone":"planted!"}', 1
        FROM delivery;
    INSERT INTO write (delivery, digest, occurrence, call, account, kind, record, sent_at, answered_at, answer)
        SELECT seq, x'09090909090909090909090909090909', 0, 'client.update', 'main', 'client', '7700123', 900, 950, '{"data":"planted!"}' FROM delivery;
    INSERT INTO write (delivery, digest, occurrence, call, account, kind, record, sent_at, answered_at, answer)
        VALUES (4, x'10101010101010101010101010101010', 0, 'safe client.update', 'main', 'client', '7700123', 900, 950, '["phone"]');
    INSERT INTO effect (delivery, digest, occurrence, account, name, record, added, choice, content, armed_at, arrivals, findings)
        SELECT seq, x'09090909090909090909090909090909', 0, 'main', 'client.edit', '7700123', 0, 0, 'planted!', 900, 1, 1 FROM delivery;
    INSERT INTO state VALUES (1, 'main', 'planted!:client:7700123', 'planted!', 1), (1, 'main', 'index', '{"clid": 7700123, "was":"planted!"}', 1),
        (1, 'main', 'client:77001234', 'stays!', 1), (1, 'main', 'over', 'planted!planted!planted!', 1);
    INSERT INTO polled VALUES ('main', 'deals', '2', '{"clid":"7700123","title":"planted!"}'), ('main', 'deals', '3', '{"title":"stays!"}');
    INSERT INTO audit (at, who, action, object, details) VALUES
        (5, 'anna', 'event.replay', 'record=client:7700123 outcome=dead', 'of client:7700123'), (5, 'anna', 'plugin.pause', 'alpha', '');
    -- A value that was overwritten, by a version that left the old one where it was.
    UPDATE state SET value = 'short' WHERE key = 'over';
"#;

#[tokio::test]
async fn every_column_that_may_hold_something_of_a_person_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = layout::file(folder.path());
    open(folder.path(), &Clock::manual(1_000)).close();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(PLANTED).unwrap();
    // Every column with text is either planted into, or known to hold nothing of a person.
    let mut listed = connection
        .prepare(
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
              WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND c.type = 'TEXT' AND m.name <> 'forgotten'",
        )
        .unwrap();
    let columns: Vec<(String, String)> =
        listed.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    let without: Vec<String> = columns
        .iter()
        .filter(|(table, column)| {
            let sql =
                format!("SELECT count(*) FROM {table} WHERE {column} LIKE '%planted!%' OR {column} LIKE '%7700123%'");
            connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() == 0
        })
        .map(|(table, column)| format!("{table} {column}"))
        .filter(|column| !NO_PERSONS.contains(&column.as_str()))
        .collect();
    assert_eq!(without, Vec::<String>::new(), "what becomes of it when a record is forgotten? Plant something there");
    drop(listed);
    drop(connection);

    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let record = Record { account: "main".to_owned(), kind: "client".to_owned(), id: "7700123".to_owned() };
    let proof = forgotten(&handle, &record, true).await;
    let counts: Vec<(&str, u64)> = proof.counts.iter().map(|(of, count)| (of.as_str(), *count)).collect();
    let expected = [
        ("attempts", 2),
        ("blanked", 2),
        ("calls", 2),
        ("deliveries", 2),
        ("events", 2),
        ("lists", 1),
        ("log", 1),
        ("state", 2),
        // Those of deliveries that are over. A dead letter's is needed: it must not be sent again.
        ("writes", 3),
    ];
    assert_eq!(counts, expected);
    let log = handle.audited(None, 9).unwrap();
    assert_eq!(
        log.iter().map(|line| (line.action.as_str(), line.object.as_str(), line.details.as_str())).collect::<Vec<_>>(),
        [
            ("record.erased", "main client:7700123", "proof 1"),
            ("plugin.pause", "alpha", ""),
            ("event.replay", "record=(forgotten) outcome=dead", "of (forgotten)"),
        ]
    );
    // While the host runs, and with nothing copied by a stop.
    for name in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("planted!") && !text.contains("record=client:7700123"), "{name}");
        assert_eq!(text.contains("stays!"), name == "journal.sqlite", "{name}");
    }
    drop(handle);
    journal.close();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let kept: Vec<String> = connection
        .prepare("SELECT answer FROM write ORDER BY digest")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(kept, ["\"forgotten\"", "[\"phone\"]"]);
    assert_eq!(connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}

#[tokio::test]
async fn what_runs_is_forgotten_when_it_is_over_and_what_comes_later_is_not_meant() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(0));
    let handle = journal.handle();
    store(&handle, event("deal.edit", Some(7))).await;
    let running = take(&handle, 1).await;
    let record = Record { account: "main".to_owned(), kind: "deal".to_owned(), id: "7".to_owned() };
    let (who, version) = ("anna".to_owned(), "1".to_owned());
    let number = handle.forget(Forget { record, mentions: false, who, version }).await.unwrap();
    let later = store(&handle, event("deal.edit", Some(7))).await;
    let keeper = tokio::spawn(keep_forgetting(handle.clone(), |_| ()));
    let until = async |done: &dyn Fn(&Proof) -> bool| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !done(&handle.proof(number).unwrap().unwrap()) {
            assert!(std::time::Instant::now() < end, "{:?}", handle.proof(number));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    until(&|proof| proof.walks > 0).await;
    let proof = handle.proof(number).unwrap().unwrap();
    assert_eq!((proof.left, proof.deleted_at, proof.erased_at), (1, None, None));
    for running in &running {
        handle.settle(settlement(running, Outcome::Done, Next::Done)).await.unwrap();
    }
    until(&|proof| proof.erased_at.is_some()).await;
    assert_eq!(handle.proof(number).unwrap().unwrap().counts["events"], 1);
    assert!(handle.path_of(running[0].event.id).unwrap().is_none() && handle.path_of(later).unwrap().is_some());
    keeper.abort();
    assert!(keeper.await.unwrap_err().is_cancelled());
    drop(handle);
    journal.close();
}
