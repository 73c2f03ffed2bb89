//! What the integration tests, the demo and the benchmark share: a CRM to talk to, and a host to start and kill.
//!
//! Not here: the tests themselves (`it/`), and anything that the product uses.

pub mod crash;
pub mod faults;
pub mod fuzz;
pub mod guest;
pub mod host;
pub mod load;
pub mod mutate;
pub mod php;
pub mod stand_in;
pub mod traffic;

use std::time::{Duration, Instant};

/// Waits until `found` gives something, at most `limit`.
///
/// # Errors
/// After `limit`, with `what` was waited for.
pub async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut found: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = found().await? {
            return Ok(value);
        }
        anyhow::ensure!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
