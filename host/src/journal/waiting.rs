//! Deliveries that wait for a plugin which is gone: dropped when an operator says so.
//!
//! - In steps of bounded size, so that intake never waits behind a large queue.
//! - The newest first: within a lane the oldest goes last, so whatever ends the steps early, the rest of a lane still has
//!   its head.

use rusqlite::{Connection, params};

use super::minutes::Tally;
use super::{Change, Error, Handle};
use crate::plugin::PluginName;

/// Numbers of deliveries that one step looks at.
const STEP: i64 = 5_000;
const REASON: &str = "the plugin is gone, and an operator dropped what waited for it";

impl Handle {
    /// Drops what waits for a plugin, in every account; tells how many. What runs is left alone.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: the steps before were done.
    pub async fn drop_waiting(&self, plugin: &PluginName) -> Result<usize, Error> {
        let (mut dropped, mut below) = (0, i64::MAX);
        while below > 0 {
            let plugin = plugin.clone();
            let step = self.ask(|reply| Change::DropWaiting { plugin, below, reply }).await?;
            dropped += step.0;
            below = step.1;
        }
        Ok(dropped)
    }
}

/// One step below a number; tells how many were dropped, and the number for the next step.
pub(super) fn drop_step(
    connection: &Connection,
    plugin: &PluginName,
    below: i64,
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<(usize, i64)> {
    let highest: i64 = connection.query_row("SELECT coalesce(max(seq), 0) FROM delivery", [], |row| row.get(0))?;
    let below = below.min(highest.saturating_add(1));
    let from = below.saturating_sub(STEP);
    let queues: Vec<i64> = connection
        .prepare_cached(
            "UPDATE delivery SET state = 6, at = ?4, reason = ?5
              WHERE seq >= ?1 AND seq < ?2 AND state IN (0, 1)
                AND queue IN (SELECT q.number FROM queue q JOIN plugin p ON p.number = q.plugin WHERE p.name = ?3)
          RETURNING queue",
        )?
        .query_map(params![from, below, plugin.as_str(), now, REASON], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    queues.iter().for_each(|queue| tally.open(*queue, -1));
    Ok((queues.len(), from))
}
