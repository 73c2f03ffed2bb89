//! What is due, after the machine's clock went back.
//!
//! Times of deliveries are those of the wall clock, which may have been wrong when they were written: a machine boots a year ahead,
//! works, and its clock is put right. Then all that was to be tried again would stand still for a year, and their lanes with them.
//!
//! - **The wait that was meant is known**: from the end of the last attempt to its next. Where that end lies in the future, the
//!   wait begins anew now. So nothing is held up for longer than it would have been, and no wait that a plugin asked for is cut.
//! - **No size of the step has to be known**, and doing it twice does no harm: it is done at each start, and at each step back that
//!   is noticed.
//! - In parts, so that intake never waits long.
//!
//! Not here: noticing a step (`app`).

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{Change, Error, Handle};

/// Deliveries that are looked at in one change.
const STEP: usize = 256;
/// Expected events, from the newest on, that are looked at.
const EFFECTS: i64 = 10_000;

impl Handle {
    /// Brings what waits for a time that the clock no longer comes near to a time that it does: at most `longest` from now. Tells
    /// how many deliveries those were.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: some may be brought forward, and the rest not.
    pub async fn bring_forward(&self, now: i64, longest: Duration) -> Result<usize, Error> {
        let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        let journal = self.clone();
        let late = tokio::task::spawn_blocking(move || journal.readers.read(|connection| late(connection, now)));
        let late = late.await.map_err(|_| Error::Closed)??;
        let mut brought = 0;
        // Once even where nothing waits: writes have times as well.
        for part in late.chunks(STEP).chain(late.is_empty().then_some(&[][..])) {
            let part = part.to_vec();
            brought += self.ask(|reply| Change::Retime(part, longest, reply)).await?;
        }
        Ok(brought)
    }
}

/// What is open and not due.
fn late(connection: &Connection, now: i64) -> rusqlite::Result<Vec<i64>> {
    // The indexes of what is open; for one of both states none would be taken.
    let ready = "SELECT seq FROM queue q JOIN delivery d INDEXED BY delivery_ready ON d.queue = q.number WHERE d.state = 0 AND d.at > ?1";
    let behind = "SELECT seq FROM delivery INDEXED BY delivery_lane WHERE state IN (0, 1, 2) AND state = 1 AND at > ?1";
    let mut late = Vec::new();
    for question in [ready, behind] {
        let mut found = connection.prepare(question)?;
        for seq in found.query_map([now], |row| row.get(0))? {
            late.push(seq?);
        }
    }
    Ok(late)
}

/// Brings these deliveries forward where the clock went back since their last attempt, and the times of writes that are in doubt.
pub(super) fn retime(connection: &Connection, late: &[i64], longest: i64, now: i64) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "UPDATE write INDEXED BY write_uncertain SET sent_at = ?1 WHERE answered_at IS NULL AND sent_at > ?1",
        )?
        .execute([now])?;
    connection
        .prepare_cached(
            "UPDATE effect SET armed_at = ?1 WHERE number > (SELECT coalesce(max(number), 0) FROM effect) - ?2 AND armed_at > ?1",
        )?
        .execute(params![now, EFFECTS])?;
    let mut look = connection.prepare_cached(
        "SELECT d.at, d.state = 0 AND d.attempts > 0,
                (SELECT a.ended_at FROM attempt a WHERE a.delivery = d.seq ORDER BY a.number DESC LIMIT 1)
           FROM delivery d WHERE d.seq = ?1 AND d.state IN (0, 1) AND d.at > ?2",
    )?;
    let mut brought = 0;
    for seq in late {
        let found = look.query_map(params![seq, now], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.next();
        let Some((at, tried, ended)) = found.transpose()? else { continue };
        let wait = wait(at, tried, ended, now).min(longest);
        let due = now.saturating_add(wait);
        if due < at {
            connection.prepare_cached("UPDATE delivery SET at = ?2 WHERE seq = ?1")?.execute(params![seq, due])?;
            brought += 1;
        }
    }
    Ok(brought)
}

/// How long a delivery still has to wait that is due `at`.
fn wait(at: i64, tried: bool, ended: Option<i64>, now: i64) -> i64 {
    match ended.filter(|_| tried) {
        // The wait that was meant, from now on.
        Some(ended) if ended > now => at.saturating_sub(ended).max(0),
        Some(_) => at.saturating_sub(now),
        // Nobody asked for a wait: it was due when it was made.
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_what_was_meant_whatever_the_clock_did_since() {
        let (now, year) = (1_000_000_000_000, 365 * 24 * 3_600_000);
        // Tried a year ahead, to be tried again 30 s later.
        assert_eq!(wait(now + year + 30_000, true, Some(now + year), now), 30_000);
        assert_eq!(wait(now + year, true, Some(now + year + 5), now), 0);
        // All is well: nothing changes.
        assert_eq!(wait(now + 30_000, true, Some(now - 1_000), now), 30_000);
        // Never tried.
        assert_eq!(wait(now + year, false, None, now), 0);
        assert_eq!(wait(now + year, true, None, now), 0);
    }
}
