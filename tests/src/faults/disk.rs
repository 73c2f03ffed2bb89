//! A disk that fails for a while: syncs, writes, half of a write, no room; on the store, its log, all other files.
//!
//! After it the host goes on by itself; what it acknowledged is there, and each event was handled once.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::sender::{Senders, Sent};
use super::shim::{Fault, LOG, OTHER, STORE};
use super::{Figures, Tools, last_words, look};
use crate::host::{Host, PATIENCE, Setup};
use crate::wait_until;

/// How long a fault stays.
const STAYS: Duration = Duration::from_millis(700);
/// Windows of trouble in a round.
const WINDOWS: usize = 4;

pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let mut random = StdRng::seed_from_u64(tools.seed);
    let setup = Setup::new()?.plugins(tools.guests).more("[retry]\nfirst_ms = 1\nlongest_ms = 20");
    let (setup, folder, steering) = tools.shim.load(setup, false)?;
    let mut host = setup.start_in(folder).await?;
    let mut all = Sent::default();
    let mut longest = Duration::ZERO;
    for window in 0..WINDOWS {
        let kinds = [Fault::SyncFails, Fault::WriteFails, Fault::WriteIsShort, Fault::NoRoom];
        let fault = kinds.get((window + usize::try_from(tools.seed % 4)?) % 4).copied().unwrap_or(Fault::SyncFails);
        let files = [STORE, LOG, STORE | LOG, OTHER, STORE | LOG | OTHER];
        let files = files.get(random.random_range(0..files.len())).copied().unwrap_or(LOG);
        // All of them, or some.
        let every = if random.random_bool(0.5) { 1 } else { random.random_range(2..6) };
        let words = || format!("window {window}: {fault:?} of each {every}. call on files {files}");
        let senders = Senders::start(&host.hook(), 4, Duration::from_millis(2), || 0)?;
        tokio::time::sleep(STAYS / 4).await;
        steering.fail(fault, files, every, random.random())?;
        tokio::time::sleep(STAYS).await;
        steering.fail(Fault::None, 0, 0, 0)?;
        let healed = std::time::Instant::now();
        // Nobody starts it again.
        goes_on(&host).await.with_context(|| format!("{}\n{}", words(), last_words(&host)))?;
        longest = longest.max(healed.elapsed());
        all.add(senders.stop().await.with_context(words)?);
        ensure!(all.codes.iter().all(|code| is_of_the_disk(code)), "{}: refused with {:?}", words(), all.codes);
    }
    host.idle(PATIENCE).await.context("what waits after the faults")?;
    ensure!(host.stop().await? == Some(0), "it did not stop in order:\n{}", host.log());
    let (data, acknowledged) = (host.data(), all.acknowledged);
    let count = acknowledged.len();
    tokio::task::spawn_blocking(move || look::over(&data.join("journal.sqlite"), &acknowledged)).await??;
    Ok(vec![
        ("acknowledged", u64::try_from(count)?),
        ("refused", all.refused),
        ("injected", steering.injected()?),
        ("longest_ms_until_it_goes_on", u64::try_from(longest.as_millis())?),
    ])
}

fn is_of_the_disk(code: &str) -> bool {
    ["ingress.not_stored", "ingress.disk_full"].contains(&code)
}

/// Events are taken again, and the host says that it is ready.
async fn goes_on(host: &Host) -> anyhow::Result<()> {
    wait_until("an event that is taken", PATIENCE, async || {
        let (status, _) = host.post("event=test.sin&sin=none&n=again").await?;
        Ok((status == 202).then_some(()))
    })
    .await?;
    wait_until("a host that is ready", PATIENCE, async || {
        let response = crate::host::http_client()?.get(format!("{}/readyz", host.base())).send().await?;
        Ok(response.status().is_success().then_some(()))
    })
    .await
}
