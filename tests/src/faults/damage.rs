//! Pages of the store are overwritten while the host is down: of statistics, or of an index that intake does not need.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};

use super::sender::Senders;
use super::{Figures, Tools};
use crate::host::Setup;

/// What is damaged, one of them a round; events go on all the same.
const DAMAGED: [&str; 4] = ["minute", "tally", "event_name", "event_actor"];
/// The share of events that may be refused, of a hundred.
const MOST_REFUSED: usize = 0;

pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let mut random = StdRng::seed_from_u64(tools.seed);
    let mut host = Setup::new()?.plugins(tools.guests).start().await?;
    for n in 0..300 {
        host.accepted(&format!("event=test.sin&iduser1={}&id={n}&sin=none&n={n}", n % 7)).await?;
    }
    host.idle(Duration::from_secs(60)).await?;
    host.stop().await?;
    let what = DAMAGED.get(usize::try_from(tools.seed)? % DAMAGED.len()).copied().unwrap_or("minute");
    let file = host.data().join("journal.sqlite");
    let pages = damage(&file, what, &mut random).with_context(|| format!("no page of `{what}` can be damaged"))?;
    host.start().await.with_context(|| format!("pages of `{what}` are damaged, and it does not start"))?;
    let senders = Senders::start(&host.hook(), 2, Duration::from_millis(5), || 0)?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let sent = senders.stop().await?;
    let (taken, refused) = (sent.acknowledged.len(), usize::try_from(sent.refused)?);
    ensure!(
        taken > 0 && refused * 100 <= MOST_REFUSED * (taken + refused),
        "pages of `{what}` are damaged, and {refused} of {} events are refused: {:?}",
        taken + refused,
        sent.codes
    );
    host.stop().await?;
    let store = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    for event in &sent.acknowledged {
        let id = salesman_host::event::EventId::parse(&event.id).context("no id")?;
        let there: i64 =
            store
                .query_row("SELECT count(*) FROM event NOT INDEXED WHERE id = ?1", [id.as_bytes()], |row| row.get(0))?;
        ensure!(there == 1, "event {} was acknowledged and is there {there} times", event.id);
    }
    Ok(vec![("acknowledged", u64::try_from(taken)?), ("pages", pages)])
}

/// Overwrites the pages of a table or an index with noise; tells how many.
fn damage(file: &Path, what: &str, random: &mut StdRng) -> anyhow::Result<u64> {
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let size: u64 = store.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?.try_into()?;
    let root: u64 = store
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [what], |row| row.get::<_, i64>(0))?
        .try_into()?;
    drop(store);
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(file)?;
    let mut noise = vec![0_u8; usize::try_from(size)?];
    random.fill(noise.as_mut_slice());
    // Its root: everything of it is reached by that.
    disk.write_all_at(&noise, (root - 1) * size)?;
    Ok(1)
}
