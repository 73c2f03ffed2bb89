//! Pages of the store are overwritten while the host is down.
//!
//! - **Of statistics**: nothing is refused, they mend themselves, and a backup can be made of what is left.
//! - **Of an index that each event needs**: events are refused, the host says that it is not ready and what to do; after
//!   `journal compact` it goes on.
//! - **Of an index that routing needs**, and **of the fields of one event**: intake goes on, and the neighbours are delivered.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};

use super::sender::{Acknowledged, Senders, Sent};
use super::{Figures, Tools, last_words};
use crate::host::{Host, PATIENCE, Setup};
use crate::wait_until;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Statistics(&'static str),
    Index(&'static str),
    Event,
}

/// One of them a round.
const DAMAGED: [What; 7] = [
    What::Statistics("minute"),
    What::Statistics("tally"),
    What::Index("event_name"),
    What::Index("event_actor"),
    What::Index("event_entity"),
    What::Index("delivery_ready"),
    What::Event,
];

/// How many kinds of damage there are: so many seeds in a row bring each.
pub const COUNT: u64 = DAMAGED.len() as u64;

pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let mut random = StdRng::seed_from_u64(tools.seed);
    // What can't be read is given up after as many tries as anything that fails.
    let setup = Setup::new()?.plugins(tools.guests).more("[retry]\nfirst_ms = 1\nlongest_ms = 20");
    let mut host = setup.start().await?;
    for n in 0..300 {
        host.accepted(&format!("event=test.sin&iduser1={}&id={n}&sin=none&n={n}", n % 7)).await?;
    }
    host.idle(PATIENCE).await?;
    let what = DAMAGED.get(usize::try_from(tools.seed % COUNT)?).copied().unwrap_or(What::Event);
    let file = host.data().join("journal.sqlite");
    let mut waiting = None;
    if what == What::Event {
        // It waits, with more fields than fit on a page.
        let paused = host.ask("plugins/sinner/pause", &serde_json::json!({})).await?;
        ensure!(paused.0 == 200, "{paused:?}");
        waiting =
            Some(host.accepted(&format!("event=test.sin&id=1&sin=none&n=large&text={}", "y".repeat(40_000))).await?);
    }
    host.stop().await?;
    let pages = match what {
        What::Statistics(name) | What::Index(name) => damage_root(&file, name, &mut random),
        What::Event => damage_fields(&file, &mut random),
    };
    let pages = pages.with_context(|| format!("{what:?}: no page can be damaged"))?;
    host.start().await.with_context(|| format!("{what:?} is damaged, and it does not start"))?;
    if waiting.is_some() {
        host.ask("plugins/sinner/resume", &serde_json::json!({})).await?;
    }
    let senders = Senders::start(&host.hook(), 2, Duration::from_millis(5), || 0)?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let sent = senders.stop().await?;
    let words = |host: &Host| {
        format!("{what:?}: {} taken, {} refused\n{}", sent.acknowledged.len(), sent.refused, last_words(host))
    };
    if sent.refused > 0 {
        ensure!(matches!(what, What::Index(_)), "{}", words(&host));
        let told = ready(&host).await?;
        ensure!(told.0 == 503 && told.1.contains("journal compact"), "{}\nreadiness says {told:?}", words(&host));
    }
    match what {
        What::Statistics(_) => backed_up(&host).await.with_context(|| words(&host))?,
        What::Index(_) => {
            host.stop().await?;
            command(&host, &["journal", "compact"])?;
            host.start().await?;
            let taken = host.accepted("event=test.sin&id=1&sin=none&n=after").await.with_context(|| words(&host))?;
            host.settled(&taken).await?;
            command(&host, &["journal", "check"]).with_context(|| words(&host))?;
        }
        What::Event => neighbours(&host, &sent).await.with_context(|| words(&host))?,
    }
    host.stop().await?;
    there(&file, &sent.acknowledged)?;
    let count = u64::try_from(sent.acknowledged.len())?;
    Ok(vec![("acknowledged", count), ("refused", sent.refused), ("pages", pages)])
}

async fn ready(host: &Host) -> anyhow::Result<(u16, String)> {
    let response = crate::host::http_client()?.get(format!("{}/readyz", host.base())).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

/// Runs a command of the host's program on its configuration; it must succeed.
fn command(host: &Host, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(&Setup::new()?.program);
    command.args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    let output = command.output()?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    ensure!(output.status.success(), "`{}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&said));
    Ok(())
}

/// A backup is made, once they have mended themselves.
async fn backed_up(host: &Host) -> anyhow::Result<()> {
    host.idle(PATIENCE).await?;
    let copy = host.folder().join("copy.sqlite");
    let copy = copy.to_str().context("no name")?;
    wait_until("a backup after statistics have mended themselves", Duration::from_secs(15), async || {
        match command(host, &["backup", copy, "--replace"]) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                eprintln!("{error:#}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(None)
            }
        }
    })
    .await?;
    command(host, &["journal", "check"])
}

/// All that was taken beside the damaged event is delivered.
async fn neighbours(host: &Host, sent: &Sent) -> anyhow::Result<()> {
    for Acknowledged { id, .. } in &sent.acknowledged {
        host.settled(id).await.context("a neighbour of an event that can't be read is never delivered")?;
    }
    Ok(())
}

fn there(file: &Path, acknowledged: &[Acknowledged]) -> anyhow::Result<()> {
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    for event in acknowledged {
        let id = salesman_host::event::EventId::parse(&event.id).context("no id")?;
        let query = "SELECT count(*) FROM event NOT INDEXED WHERE id = ?1";
        let there: i64 = store.query_row(query, [id.as_bytes()], |row| row.get(0))?;
        ensure!(there == 1, "event {} was acknowledged and is there {there} times", event.id);
    }
    Ok(())
}

/// Overwrites the first page of a table or an index with noise: all of it is reached by that.
fn damage_root(file: &Path, what: &str, random: &mut StdRng) -> anyhow::Result<u64> {
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let number = |query: &str, what: &[&str]| {
        let one = store.query_row(query, rusqlite::params_from_iter(what), |row| row.get::<_, i64>(0));
        Ok::<_, anyhow::Error>(u64::try_from(one?)?)
    };
    let size = number("PRAGMA page_size", &[])?;
    let root = number("SELECT rootpage FROM sqlite_schema WHERE name = ?1", &[what])?;
    drop(store);
    let mut noise = vec![0_u8; usize::try_from(size)?];
    random.fill(noise.as_mut_slice());
    std::fs::OpenOptions::new().write(true).open(file)?.write_all_at(&noise, (root - 1) * size)?;
    Ok(1)
}

/// Overwrites the pages on which the large event's fields go on, but for the first: their chain is broken.
fn damage_fields(file: &Path, random: &mut StdRng) -> anyhow::Result<u64> {
    let bytes = std::fs::read(file)?;
    let disk = std::fs::OpenOptions::new().write(true).open(file)?;
    let is_of_it = |page: &&[u8]| page.get(4..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'y'));
    let mut damaged = 0;
    for (number, page) in (0_u64..).zip(bytes.chunks(4_096)) {
        if is_of_it(&page) {
            let mut noise = vec![0_u8; page.len()];
            random.fill(noise.as_mut_slice());
            disk.write_all_at(&noise, number * 4_096)?;
            damaged += 1;
        }
    }
    ensure!(damaged > 0, "the large event has no page of its own");
    Ok(damaged)
}
