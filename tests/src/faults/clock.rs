//! The wall clock goes back a year while deliveries wait, and comes back later; at last it stands before 1970.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::sender::Senders;
use super::{Figures, Tools, last_words, look};
use crate::host::Setup;

const YEAR: i64 = 365 * 24 * 3_600;
/// The longest wait that the configuration allows, in milliseconds.
const LONGEST_WAIT: u64 = 2_000;
/// How much longer than that all may take, on a machine that is busy with something else.
const SLACK: Duration = Duration::from_secs(20);

pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let more = format!("[retry]\nfirst_ms = {LONGEST_WAIT}\nlongest_ms = {LONGEST_WAIT}");
    let setup = Setup::new()?.plugins(tools.guests).more(&more);
    let (setup, folder, steering) = tools.shim.load(setup, false)?;
    // Half of the rounds begin on a machine that was a year ahead.
    let ahead = if tools.seed.is_multiple_of(2) { YEAR } else { 0 };
    steering.step_clock(ahead)?;
    let mut host = setup.start_in(folder).await?;
    let (mut acknowledged, mut longest) = (Vec::new(), Duration::ZERO);
    for (step, offset) in [(0_usize, ahead - YEAR), (1, ahead), (2, ahead - YEAR)] {
        let senders = Senders::start(&host.hook(), 2, Duration::from_millis(5), || 0)?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        if step == 2 {
            // While it is down.
            host.stop().await?;
            steering.step_clock(offset)?;
            host.start().await?;
        } else {
            steering.step_clock(offset)?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        acknowledged.extend(senders.stop().await?.acknowledged);
        let began = Instant::now();
        host.idle(Duration::from_millis(LONGEST_WAIT) + SLACK)
            .await
            .with_context(|| format!("step {step}, of the clock to {offset} s from now"))?;
        longest = longest.max(began.elapsed());
    }
    // Before all time, as of a machine without a battery: libraries panic there.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    steering.step_clock(-i64::try_from(now.as_secs())? - 100_000)?;
    let handled = async {
        let id = host.accepted("event=test.sin&sin=none&n=last").await?;
        host.settled(&id).await
    };
    handled.await.with_context(|| format!("with a clock before 1970\n{}", last_words(&host)))?;
    ensure!(host.stop().await? == Some(0), "it did not stop in order:\n{}", host.log());
    let (data, count) = (host.data(), acknowledged.len());
    tokio::task::spawn_blocking(move || look::over(&data.join("journal.sqlite"), &acknowledged)).await??;
    Ok(vec![
        ("acknowledged", u64::try_from(count)?),
        ("steps", 4),
        ("longest_ms_until_nothing_waits", u64::try_from(longest.as_millis())?),
    ])
}
