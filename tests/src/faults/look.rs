//! Whether a data folder holds what was acknowledged, once, and is in order with itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags};
use salesman_host::clock::Clock;
use salesman_host::event::EventId;
use salesman_host::journal::{Journal, Options};

use super::sender::Acknowledged;

/// What must never be in a store, whatever befell it: a query whose rows are faults.
const NEVER: [(&str, &str); 5] = [
    (
        "two deliveries of a lane are ready or running, or not the oldest",
        "SELECT d.seq FROM delivery d WHERE d.state IN (0, 2) AND d.lane IS NOT NULL AND d.seq <>
            (SELECT min(seq) FROM delivery o WHERE o.queue = d.queue AND o.lane = d.lane AND o.state IN (0, 1, 2))",
    ),
    (
        "a delivery waits behind nothing",
        "SELECT d.seq FROM delivery d WHERE d.state = 1 AND NOT EXISTS
            (SELECT 1 FROM delivery o WHERE o.queue = d.queue AND o.lane = d.lane AND o.state IN (0, 2))",
    ),
    (
        "an event has two deliveries to one plugin",
        "SELECT event FROM delivery WHERE replay = 0 GROUP BY event, queue HAVING count(*) > 1",
    ),
    (
        "a delivery ended well twice, or its end is not recorded",
        "SELECT d.seq FROM delivery d WHERE (d.state = 3) <>
            (SELECT count(*) FROM attempt a WHERE a.delivery = d.seq AND a.outcome = 'done')",
    ),
    (
        "what is counted is not what is there",
        "SELECT q.number FROM queue q WHERE
            (SELECT count(*) FROM delivery d WHERE d.queue = q.number AND d.state IN (0, 1, 2)) <>
            (SELECT coalesce(sum(deliveries), 0) FROM tally t WHERE t.queue = q.number AND t.code = '')",
    ),
];

/// Opens the store as a start of the host does, closes it, and looks. Tells how many events are stored.
pub(super) fn data(data: &Path, acknowledged: &[Acknowledged]) -> anyhow::Result<u64> {
    Journal::open(&Options::in_folder(data), Clock::Wall).context("the store can't be opened")?.close();
    for file in ["live.json", "homes.json"] {
        if let Ok(bytes) = std::fs::read(data.join("plugins").join(file)).or_else(|_| std::fs::read(data.join(file))) {
            serde_json::from_slice::<serde_json::Value>(&bytes).with_context(|| format!("`{file}` is no JSON"))?;
        }
    }
    store(&data.join("journal.sqlite"), acknowledged)
}

/// Looks at a store's file.
pub(super) fn store(file: &Path, acknowledged: &[Acknowledged]) -> anyhow::Result<u64> {
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sound: String = store.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    ensure!(sound == "ok", "the store is damaged: {sound}");
    let mut events = store.prepare("SELECT id, fields FROM event")?;
    let rows = events.query_map([], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, String>(1)?)))?;
    let mut stored: BTreeMap<EventId, (u64, String)> = BTreeMap::new();
    for row in rows {
        let (id, fields) = row?;
        let entry = stored.entry(EventId::from_bytes(id)).or_insert_with(|| (0, fields));
        entry.0 += 1;
    }
    for Acknowledged { id, sin, .. } in acknowledged {
        let known = EventId::parse(id).and_then(|id| stored.get(&id));
        let (times, fields) = known.with_context(|| format!("event {id} was acknowledged and is not there"))?;
        ensure!(*times == 1, "event {id} is there {times} times");
        ensure!(fields.contains(&format!("\"sin\":\"{sin}\"")), "event {id} holds {fields}");
    }
    for (what, query) in NEVER {
        let mut rows = store.prepare(query)?;
        if let Some(row) = rows.query([])?.next()? {
            anyhow::bail!("{what}: {}", row.get::<_, i64>(0)?);
        }
    }
    Ok(u64::try_from(stored.len())?)
}

/// As [`store`], when nothing waits any more: every acknowledged event was handled, and the plugin counted each once.
pub(super) fn over(file: &Path, acknowledged: &[Acknowledged]) -> anyhow::Result<u64> {
    let stored = store(file, acknowledged)?;
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let number = |query: &str| store.query_row(query, [], |row| row.get::<_, i64>(0));
    let left = number("SELECT count(*) FROM delivery WHERE state <> 3")?;
    ensure!(left == 0, "{left} deliveries did not end well");
    let missed = number(
        "SELECT count(*) FROM event e WHERE duplicate IS NULL AND NOT EXISTS (SELECT 1 FROM delivery WHERE event = e.seq)",
    )?;
    ensure!(missed == 0, "{missed} events reached no plugin");
    let counted = number("SELECT coalesce(sum(CAST(value AS INTEGER)), 0) FROM state WHERE key = 'count'")?;
    let wanted = number("SELECT count(*) FROM event WHERE fields LIKE '%\"sin\":\"count\"%' AND duplicate IS NULL")?;
    ensure!(counted == wanted, "the plugin counted {counted} of {wanted} events");
    Ok(stored)
}
