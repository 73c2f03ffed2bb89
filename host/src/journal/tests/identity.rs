//! The store's identity: what was swapped, cut or lost is noticed, at the start and while it is open, and nothing else is.

use std::path::PathBuf;

use super::*;

/// Something that happens to a store.
type Mishap = fn(&Folder);
/// The same, with another store at hand.
type Swap = fn(&Folder, &Folder);

struct Folder {
    folder: tempfile::TempDir,
    clock: Clock,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::manual(1) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("journal.sqlite")
    }

    fn open(&self) -> Result<Journal, Error> {
        Journal::open(&Options::in_folder(self.folder.path()), self.clock.clone())
    }

    fn strange(&self) -> Strange {
        match self.open() {
            Err(Error::Strange { what, .. }) => {
                assert!(matches!(examine(self.folder.path()), Err(Error::Strange { .. })) || what == Strange::Foreign);
                what
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was opened"),
        }
    }

    /// The same, where only the open store tells; none where it is taken.
    fn strange_inside(&self) -> Option<Strange> {
        match self.open() {
            Err(Error::Strange { what, .. }) => Some(what),
            Err(error) => panic!("{error}"),
            Ok(journal) => {
                journal.close();
                None
            }
        }
    }

    /// What a kill leaves behind: the files as they are.
    fn killed(&self, journal: &Journal) -> Self {
        let copy = Self::new();
        for name in ["journal.sqlite", "journal.sqlite-wal", "store.json"] {
            std::fs::copy(self.path(name), copy.path(name)).unwrap();
        }
        assert!(!journal.handle().is_closed());
        copy
    }
}

async fn append(journal: &Journal, count: usize) {
    let handle = journal.handle();
    for _ in 0..count {
        handle.append(event("deal.edit", None)).await.unwrap();
    }
}

fn count(journal: &Journal) -> i64 {
    journal.handle().readers.read(|store| store.query_row("SELECT count(*) FROM event", [], |row| row.get(0))).unwrap()
}

async fn closed(journal: Journal) {
    tokio::task::spawn_blocking(move || journal.close()).await.unwrap();
}

#[tokio::test]
async fn a_used_folder_whose_store_is_gone_emptied_or_anothers_is_refused_until_it_is_accepted() {
    let other = Folder::new();
    let journal = other.open().unwrap();
    append(&journal, 1).await;
    closed(journal).await;
    let swaps: [(Strange, Swap); 4] = [
        (Strange::Missing, |own, _| std::fs::remove_file(own.store()).unwrap()),
        (Strange::Empty, |own, _| std::fs::write(own.store(), "").unwrap()),
        (Strange::Foreign, |own, other| assert!(std::fs::copy(other.store(), own.store()).unwrap() > 0)),
        (Strange::Foreign, |own, _| {
            std::fs::remove_file(own.store()).unwrap();
            let made = rusqlite::Connection::open(own.store()).unwrap();
            made.execute_batch("CREATE TABLE event (seq INTEGER)").unwrap();
        }),
    ];
    for (expected, swap) in swaps {
        let own = Folder::new();
        let journal = own.open().unwrap();
        append(&journal, 3).await;
        closed(journal).await;
        closed(own.open().unwrap()).await;
        swap(&own, &other);
        assert_eq!(own.strange(), expected);
        // Nothing was made or changed by asking.
        assert_eq!(own.strange(), expected);
        if own.store().exists() && expected == Strange::Foreign && count_of(&own.store()) == 0 {
            continue;
        }
        let accepting = Accepting::new(own.folder.path()).unwrap();
        let lying = accepting.look().unwrap();
        assert_eq!(lying.strange, Some(expected));
        assert_eq!(lying.store.is_some(), expected == Strange::Foreign, "{lying:?}");
        assert_eq!(accepting.accept(true).unwrap(), None);
        let journal = own.open().unwrap();
        assert_eq!(count(&journal), i64::from(expected == Strange::Foreign));
        closed(journal).await;
        closed(own.open().unwrap()).await;
    }
}

fn count_of(store: &Path) -> i64 {
    let store = rusqlite::Connection::open(store).unwrap();
    store.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_older_copy_is_refused_however_little_came_since_and_so_is_a_lost_log() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 3).await;
    closed(journal).await;
    std::fs::copy(own.store(), own.path("copy")).unwrap();
    let journal = own.open().unwrap();
    append(&journal, 1).await;
    let killed = own.killed(&journal);
    let lost = own.killed(&journal);
    closed(journal).await;
    let whole = std::fs::read(own.store()).unwrap();
    std::fs::copy(own.path("copy"), own.store()).unwrap();
    assert_eq!(own.strange(), Strange::Older);
    std::fs::write(own.store(), whole).unwrap();
    let journal = own.open().unwrap();
    assert_eq!(count(&journal), 4);
    closed(journal).await;
    // The host was killed: with its log it goes on, and without it is refused.
    std::fs::remove_file(lost.path("journal.sqlite-wal")).unwrap();
    assert_eq!(lost.strange(), Strange::LogLost);
    Accepting::new(lost.folder.path()).unwrap().accept(true).unwrap();
    closed(lost.open().unwrap()).await;
    let journal = killed.open().unwrap();
    assert_eq!(count(&journal), 4);
    closed(journal).await;
    // After an orderly end there is none, and nothing is missed.
    assert!(!killed.path("journal.sqlite-wal").exists());
    closed(killed.open().unwrap()).await;
}

#[tokio::test]
async fn an_older_versions_store_and_a_folder_without_marker_are_taken_and_marked() {
    let own = Folder::new();
    closed(own.open().unwrap()).await;
    std::fs::remove_file(own.path("store.json")).unwrap();
    {
        let store = rusqlite::Connection::open(own.store()).unwrap();
        store.execute_batch("DROP TABLE store").unwrap();
        let steps = i64::try_from(layout::STEPS.iter().position(|step| step.contains("CREATE TABLE store")).unwrap());
        store.pragma_update(None, "user_version", steps.unwrap()).unwrap();
    }
    let journal = own.open();
    // Steps behind it may not be done twice.
    if layout::STEPS.last().is_some_and(|step| step.contains("CREATE TABLE store")) {
        closed(journal.unwrap()).await;
        assert!(own.path("store.json").exists());
        closed(own.open().unwrap()).await;
    }
}

/// Waits until the log was copied into the store.
async fn copied(own: &Folder, journal: &Journal, beat: i64) -> i64 {
    for _ in 0..1_000 {
        append(journal, 1).await;
        let stamp = page::stamp(journal.handle.place.store()).unwrap();
        if let Some(stamp) = stamp.filter(|stamp| stamp.beat > beat) {
            assert!(own.store().exists());
            return stamp.beat;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the log is never copied")
}

/// A copy as SQLite makes it, with what the log holds.
fn copied_by_sqlite(from: &Path, to: &Path) {
    let source = rusqlite::Connection::open(from).unwrap();
    let mut target = rusqlite::Connection::open(to).unwrap();
    let copying = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
    assert_eq!(copying.step(-1).unwrap(), rusqlite::backup::StepResult::Done);
    drop(copying);
    // Closing them would end the locks of this process: another program has its own.
    std::mem::forget((source, target));
}

/// What was done since the copy would be done again: nobody would know of it, though no event came.
#[tokio::test]
async fn a_copy_that_sqlite_made_is_noticed_where_only_deliveries_moved_since() {
    for running in [true, false] {
        let own = Folder::new();
        let journal = own.open().unwrap();
        append(&journal, 3).await;
        let claimed = journal.handle().take(subscriptions(), budgets(9)).await.unwrap().claimed;
        copied_by_sqlite(&own.store(), &own.path("copy"));
        for one in &claimed {
            journal.handle().settle(settlement(one, Outcome::Done, Next::Done)).await.unwrap();
        }
        if running {
            copied_by_sqlite(&own.path("copy"), &own.store());
            let refused = journal.handle().take(subscriptions(), budgets(9)).await.map(drop);
            assert!(matches!(refused, Err(Error::Replaced)), "{refused:?}");
            closed(journal).await;
            assert_eq!(own.strange(), Strange::Replaced);
        } else {
            closed(journal).await;
            for name in ["journal.sqlite-wal", "journal.sqlite-shm"] {
                std::fs::remove_file(own.path(name)).unwrap_or_default();
            }
            std::fs::copy(own.path("copy"), own.store()).unwrap();
            assert_eq!(own.strange(), Strange::Older);
        }
    }
}

#[tokio::test]
async fn a_store_that_is_overwritten_cut_or_changed_by_others_takes_nothing_more_in() {
    let swaps: [(&str, Mishap); 5] = [
        ("copied over", |own| {
            let copy = std::fs::read(own.path("copy")).unwrap();
            std::fs::write(own.store(), copy).unwrap();
        }),
        ("emptied", |own| std::fs::write(own.store(), "").unwrap()),
        ("cut", |own| {
            let file = std::fs::File::options().write(true).open(own.store()).unwrap();
            let half = file.metadata().unwrap().len() / 2;
            file.set_len(half).unwrap();
        }),
        ("events deleted", |own| {
            let store = rusqlite::Connection::open(own.store()).unwrap();
            store.execute_batch("DELETE FROM event WHERE seq > 2").unwrap();
            // Closing it would end the locks of this process: another program has its own.
            std::mem::forget(store);
        }),
        ("put back by SQLite", |own| {
            let store = rusqlite::Connection::open(own.store()).unwrap();
            store.execute_batch("UPDATE store SET beat = 1").unwrap();
            std::mem::forget(store);
        }),
    ];
    for (how, swap) in swaps {
        let own = Folder::new();
        let journal = own.open().unwrap();
        append(&journal, 3).await;
        let beat = copied(&own, &journal, 0).await;
        std::fs::write(own.path("copy"), read_past(&journal)).unwrap();
        let beat = copied(&own, &journal, beat).await;
        copied(&own, &journal, beat).await;
        assert_eq!(journal.handle().look_after(), (Whereabouts::Here, 0));
        swap(&own);
        // One that comes while the log is being copied may be taken yet.
        let mut refused = Ok(());
        for _ in 0..100 {
            refused = journal.handle().append(event("deal.edit", None)).await;
            if refused.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(matches!(refused, Err(Error::Replaced)), "{how}: {refused:?}");
        assert_eq!(journal.handle().look_after().0, Whereabouts::Replaced, "{how}");
        let refused = journal.handle().take(subscriptions(), budgets(1)).await.map(drop);
        assert!(matches!(refused, Err(Error::Replaced)), "{how}: {refused:?}");
        let left = std::fs::read(own.store()).unwrap();
        closed(journal).await;
        assert!(std::fs::read(own.store()).unwrap() == left, "{how}: it was written to");
        assert_eq!(own.strange(), Strange::Replaced, "{how}");
    }
}

#[tokio::test]
async fn a_disk_that_fails_in_the_midst_of_a_copying_leaves_no_replaced_store() {
    use std::os::unix::fs::FileExt as _;
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 3).await;
    copied(&own, &journal, 0).await;
    let (place, whole) = (Arc::clone(&journal.handle.place), read_past(&journal));
    let lay = |bytes: &[u8]| place.store().write_all_at(bytes, 0).unwrap();
    // The first page says more pages than are there yet, or has only its first half.
    let longer = [&whole[..28], &u32::MAX.to_be_bytes()[..], &whole[32..]].concat();
    let half = [&whole[..100], &vec![0; 3_996][..], &whole[4_096..]].concat();
    for torn in [longer, half] {
        place.copying(|| (lay(&torn), place::Extent::Part)).unwrap();
        assert_eq!(journal.handle().look_after().0, Whereabouts::Here);
        place.copying(|| (lay(&whole), place::Extent::Part)).unwrap();
        assert_eq!(journal.handle().look_after().0, Whereabouts::Here);
    }
    // By somebody else it is what it was.
    lay(&vec![0; 4_096]);
    assert_eq!(journal.handle().look_after().0, Whereabouts::Replaced);
    closed(journal).await;
}

#[tokio::test]
async fn an_older_copy_that_took_the_stores_name_is_not_taken_at_the_next_start() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 3).await;
    copied(&own, &journal, 0).await;
    std::fs::write(own.path("copy"), read_past(&journal)).unwrap();
    append(&journal, 3).await;
    // As `mv` puts one in place, and back again.
    let swap = |from: &str, to: &str| std::fs::rename(own.path(from), own.path(to)).unwrap();
    swap("journal.sqlite", "away");
    swap("copy", "journal.sqlite");
    assert_eq!(journal.handle().look_after().0, Whereabouts::Moved);
    swap("journal.sqlite", "copy");
    swap("away", "journal.sqlite");
    assert_eq!(journal.handle().look_after().0, Whereabouts::Here);
    append(&journal, 1).await;
    closed(journal).await;
    let journal = own.open().unwrap();
    swap("journal.sqlite", "away");
    swap("copy", "journal.sqlite");
    // Nobody looked before it stops.
    closed(journal).await;
    assert_eq!(own.strange(), Strange::Replaced);
}

#[tokio::test]
async fn what_is_no_file_is_told_by_its_name_and_what_was_cut_off_is_removed() {
    let own = Folder::new();
    closed(own.open().unwrap()).await;
    for name in ["journal.sqlite-wal", "journal.sqlite-shm"] {
        drop(std::fs::remove_file(own.path(name)));
        std::fs::create_dir(own.path(name)).unwrap();
        let error = own.open().map(drop).unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains(name), "{error}");
        std::fs::remove_dir(own.path(name)).unwrap();
    }
    let left = ["store.json.4711.new", "store.json.new", "store.json.x.new"].map(|name| own.path(name));
    left.iter().for_each(|path| std::fs::write(path, "{").unwrap());
    closed(own.open().unwrap()).await;
    assert_eq!(left.map(|path| path.exists()), [false, true, true]);
}

/// The store's file, past SQLite and without opening it anew.
fn read_past(journal: &Journal) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let store = journal.handle.place.store();
    let mut bytes = vec![0; usize::try_from(store.metadata().unwrap().len()).unwrap()];
    store.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test]
async fn a_log_that_is_cut_before_it_was_copied_is_noticed_before_the_next_event_is_acknowledged() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 200).await;
    // Somebody reads: nothing is copied beyond what he sees.
    let reader = rusqlite::Connection::open(own.store()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    append(&journal, 200).await;
    std::fs::File::options().write(true).open(own.path("journal.sqlite-wal")).unwrap().set_len(0).unwrap();
    let refused = journal.handle().append(event("deal.edit", None)).await;
    assert!(matches!(refused, Err(Error::Replaced)), "{refused:?}");
    std::mem::forget(reader);
    closed(journal).await;
    assert_eq!(own.strange(), Strange::Replaced);
}

#[tokio::test]
async fn what_others_may_do_is_no_replacement() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 10).await;
    let other = rusqlite::Connection::open(own.store()).unwrap();
    other.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    for round in 0..5 {
        append(&journal, 150).await;
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        append(&journal, 1).await;
        other
            .execute_batch(
                "BEGIN IMMEDIATE; DELETE FROM audit; INSERT INTO audit VALUES (1, 0, 'x', 'x', 'x', 'x'); COMMIT",
            )
            .unwrap();
        append(&journal, 1).await;
        assert_eq!(journal.handle().look_after().0, Whereabouts::Here, "{round}");
        other.execute_batch("VACUUM").unwrap();
        append(&journal, 1).await;
    }
    let file = std::fs::File::options().write(true).open(own.store()).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    std::mem::forget((file, other));
    append(&journal, 1).await;
    let (is, strangers) = journal.handle().look_after();
    assert_eq!(is, Whereabouts::Here);
    assert!((5..=15).contains(&strangers), "{strangers} changes by others");
    closed(journal).await;
}

/// Changes a store without being the one that brings its log back.
fn changed(store: &Path, statement: &str) {
    let connection = rusqlite::Connection::open(store).unwrap();
    layout::keep_log(&connection, true).unwrap();
    connection.execute_batch(statement).unwrap();
}

#[tokio::test]
async fn a_start_or_a_command_that_fails_takes_no_log_away_that_is_missed_later() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 5).await;
    let killed = [own.killed(&journal), own.killed(&journal), own.killed(&journal)];
    closed(journal).await;
    let [newer, broken, compacted] = &killed;

    // An older program by mistake.
    let known = layout::STEPS.len();
    changed(&newer.store(), "PRAGMA user_version = 999");
    assert!(matches!(newer.open(), Err(Error::Newer { .. })));
    changed(&newer.store(), &format!("PRAGMA user_version = {known}"));

    // A start that fails after the marker says that it is open.
    changed(&broken.store(), "ALTER TABLE polled RENAME TO away");
    assert!(broken.open().is_err());
    changed(&broken.store(), "ALTER TABLE away RENAME TO polled");

    // A compaction that fails.
    std::fs::create_dir(compacted.path("journal.sqlite.compact")).unwrap();
    assert!(compact(compacted.folder.path(), |_| ()).is_err());
    std::fs::remove_dir(compacted.path("journal.sqlite.compact")).unwrap();

    for own in [newer, broken, compacted] {
        let journal = own.open().unwrap();
        assert_eq!(count(&journal), 5);
        // An end whose word can't be written.
        let blocked = own.path(&format!("store.json.{}.new", std::process::id()));
        std::fs::create_dir(&blocked).unwrap();
        closed(journal).await;
        std::fs::remove_dir(&blocked).unwrap();
        let journal = own.open().unwrap();
        assert_eq!(count(&journal), 5);
        closed(journal).await;
        assert!(!own.path("journal.sqlite-wal").exists(), "an orderly end leaves one file");
        closed(own.open().unwrap()).await;
    }
}

#[tokio::test]
async fn a_copy_that_is_put_to_the_log_of_a_killed_host_is_refused_where_changes_lie_between() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 3).await;
    let beat = copied(&own, &journal, 0).await;
    std::fs::write(own.path("copy"), read_past(&journal)).unwrap();
    // The log begins anew, so that it no longer leads on from the copy.
    let mut beat = beat;
    let began = journal.handle.place.log_head();
    while journal.handle.place.log_head() == began {
        beat = copied(&own, &journal, beat).await;
    }
    append(&journal, 2).await;
    let events = count(&journal);
    let (killed, older) = (own.killed(&journal), own.killed(&journal));
    closed(journal).await;
    let journal = killed.open().unwrap();
    assert_eq!(count(&journal), events, "its own log fits");
    closed(journal).await;
    std::fs::copy(own.path("copy"), older.store()).unwrap();
    assert_eq!(older.strange(), Strange::Older);
}

#[tokio::test]
async fn a_log_that_is_older_cut_or_anothers_takes_nothing_back() {
    let own = Folder::new();
    let journal = own.open().unwrap();
    append(&journal, 3).await;
    let (old, began) = (std::fs::read(own.path("journal.sqlite-wal")).unwrap(), journal.handle.place.log_head());
    let mut beat = copied(&own, &journal, 0).await;
    while journal.handle.place.log_head() == began {
        beat = copied(&own, &journal, beat).await;
    }
    append(&journal, 20).await;
    let events = count(&journal);
    journal.handle.place.mark(marker::State::Open).unwrap();
    let older = own.killed(&journal);
    let cut = [own.killed(&journal), own.killed(&journal), own.killed(&journal)];
    closed(journal).await;

    std::fs::write(older.path("journal.sqlite-wal"), &old).unwrap();
    assert_eq!(older.strange(), Strange::LogOlder);
    let whole = std::fs::read(cut[0].path("journal.sqlite-wal")).unwrap();
    let zeroed = [&[0; 32][..], &whole[32..]].concat();
    for (own, log) in cut.iter().zip([&whole[..0], &whole[..whole.len() / 2], &zeroed]) {
        std::fs::write(own.path("journal.sqlite-wal"), log).unwrap();
        // What was in the store's file already is not missed.
        if own.strange_inside().is_none() {
            let journal = own.open().unwrap();
            assert_eq!(count(&journal), events);
            closed(journal).await;
        }
    }
    // A store that was closed in order has none.
    std::fs::write(own.path("journal.sqlite-wal"), &old).unwrap();
    assert_eq!(own.strange(), Strange::LogOlder);
    Accepting::new(own.folder.path()).unwrap().accept(false).unwrap();
    let journal = own.open().unwrap();
    assert_eq!(count(&journal), events);
    closed(journal).await;
}
