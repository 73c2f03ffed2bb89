//! A reader that keeps its view of the store while events come in.

use std::time::Duration;

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags};

use super::sender::Senders;
use super::{Figures, Tools, look};
use crate::host::{PATIENCE, Setup};
use crate::wait_until;

/// Bytes of an event, so that the log passes every mark within seconds.
const BYTES: usize = 900 << 10;
/// Bytes of the log that it passes: beyond them the writer itself once waited for readers.
const PASSES: u64 = 80 << 20;
/// Bytes of the log that may stay when nobody reads any more.
const STAYS: u64 = 20 << 20;
/// How long an acknowledgement may take, on a machine that is busy with something else; it was 2 s, again and again.
const LONGEST: Duration = Duration::from_millis(1_500);

pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let setup = Setup::new()?.plugins(tools.guests).more("[retry]\nfirst_ms = 1\nlongest_ms = 20");
    let mut host = setup.start().await?;
    let log = host.data().join("journal.sqlite-wal");
    let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
    host.accepted("event=test.sin&sin=none&n=first").await?;
    let reader = Connection::open_with_flags(host.data().join("journal.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    reader.execute_batch("BEGIN")?;
    let seen: i64 = reader.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    let senders = Senders::start(&host.hook(), 2, Duration::from_millis(5), || 0)?;
    let text = "x".repeat(BYTES);
    let (mut large, mut most) = (0_u64, 0);
    while most < PASSES {
        host.accepted(&format!("event=other.event&n={large}&text={text}")).await?;
        (large, most) = (large + 1, most.max(length()));
        ensure!(large < 4 * PASSES / u64::try_from(BYTES)?, "the log has {most} bytes: does the reader hold it?");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = senders.stop().await?;
    ensure!(sent.refused == 0, "{} events were refused: {:?}", sent.refused, sent.codes);
    ensure!(sent.longest < LONGEST, "an acknowledgement took {:?} beside a reader", sent.longest);
    let still: i64 = reader.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    ensure!(seen == still, "the reader's view has changed");
    reader.execute_batch("COMMIT")?;
    drop(reader);
    let cut = wait_until("a log that is cut off when nobody reads any more", PATIENCE, async || {
        Ok(Some(length()).filter(|length| *length <= STAYS))
    })
    .await
    .with_context(|| format!("it had {most} bytes"))?;
    host.idle(PATIENCE).await?;
    host.stop().await?;
    let (data, acknowledged) = (host.data(), sent.acknowledged);
    let count = acknowledged.len();
    tokio::task::spawn_blocking(move || look::store(&data.join("journal.sqlite"), &acknowledged)).await??;
    Ok(vec![
        ("acknowledged", u64::try_from(count)? + large),
        ("longest_ms_of_an_acknowledgement", u64::try_from(sent.longest.as_millis())?),
        ("longest_log_bytes", most),
        ("longest_log_bytes_after", cut),
    ])
}
