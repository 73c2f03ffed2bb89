//! A claim that failed as a whole, done in parts: what meets a damaged page holds back nothing else.
//!
//! - Events are routed in halves until the one that can't be is found. It is **kept aside** (`stuck`) and the cursor goes past it;
//!   the next start tries it again, after whoever mended the store. Its turn among its record's events is lost.
//! - Of a queue the oldest delivery that can't be claimed is **put off**, and given up in the end, as one that fails. A queue of
//!   which not even that can be stored rests for a while.
//! - What is found so is found once: the next claim goes well as a whole. And all of it is bounded in time, because everybody
//!   waits for the writer.
//!
//! Not here: faults of the disk, which are no event's.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use super::claim::take;
use super::condition::News;
use super::layout::{plugin_number, queue_number};
use super::settle::promote;
use super::write::{Batch, Failed, Writer};
use super::{Error, Queue, Subscriptions, Taken, route};

/// How long the writer works on one claim in parts.
const LONGEST: Duration = Duration::from_millis(100);
/// How long a delivery that can't be claimed is put off, in milliseconds.
const PUT_OFF: i64 = 600_000;
/// How often it is, before it is given up.
const MOST_FAILURES: u32 = 8;
/// How long a queue rests of which nothing can be put off.
const REST: Duration = Duration::from_secs(60);

impl Writer {
    /// Does what it can of a claim.
    pub(super) fn take_in_parts(
        &mut self,
        subscriptions: &Subscriptions,
        budgets: &[(Queue, usize)],
        why: Error,
    ) -> Result<Taken, Error> {
        let until = Instant::now() + LONGEST;
        let mut taken = Taken::default();
        let mut done = self.route_in_parts(subscriptions, until, &mut taken);
        for (queue, budget) in budgets {
            if done.is_err() || Instant::now() >= until {
                break;
            }
            if self.kept.rests(queue) {
                continue;
            }
            done = self.claim_in_parts(queue, *budget, until, &mut taken);
        }
        match done {
            Err(failed) if taken.claimed.is_empty() => Err(failed.error),
            // What was left for want of time is done the next time.
            _ => Ok(Taken { refused: Some(why), ..taken }),
        }
    }

    fn part(&mut self, routing: Option<(&Subscriptions, i64)>, budgets: &[(Queue, usize)]) -> Result<Taken, Failed> {
        let mut part = Taken::default();
        self.within(|connection, batch| take(connection, routing, budgets, batch).map(|taken| part = taken))?;
        Ok(part)
    }

    fn route_in_parts(
        &mut self,
        subscriptions: &Subscriptions,
        until: Instant,
        taken: &mut Taken,
    ) -> Result<(), Failed> {
        let mut most = super::write::MOST_ROUTED;
        while Instant::now() < until {
            match self.part(Some((subscriptions, most)), &[]) {
                Ok(part) => {
                    taken.opened.extend(part.opened);
                    taken.unrouted = part.unrouted;
                    if !part.unrouted {
                        break;
                    }
                    most = most.saturating_mul(2).min(super::write::MOST_ROUTED);
                }
                Err(failed) if !failed.concerns_one() => return Err(failed),
                Err(_) if most > 1 => most /= 2,
                Err(_) => {
                    let mut event = None;
                    self.within(|connection, batch| route::set_aside(connection, batch.now).map(|seq| event = seq))?;
                    match event {
                        Some(event) => self.condition().say(News::Stuck(event)),
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }

    fn claim_in_parts(
        &mut self,
        queue: &Queue,
        budget: usize,
        until: Instant,
        taken: &mut Taken,
    ) -> Result<(), Failed> {
        let (mut left, mut size) = (budget, budget);
        while left > 0 && Instant::now() < until {
            let asked = size.min(left);
            match self.part(None, &[(queue.clone(), asked)]) {
                Ok(part) => {
                    let claimed = part.claimed.len();
                    taken.claimed.extend(part.claimed);
                    taken.next_due = [taken.next_due, part.next_due].into_iter().flatten().min();
                    if claimed < asked {
                        break;
                    }
                    (left, size) = (left - claimed, size.saturating_mul(2));
                }
                Err(failed) if !failed.concerns_one() => return Err(failed),
                Err(_) if asked > 1 => size = asked / 2,
                Err(_) => {
                    let mut found = false;
                    let put = self.within(|connection, batch| put_off(connection, queue, batch).map(|put| found = put));
                    if put.is_err() || !found {
                        self.kept.rest(queue.clone(), Instant::now() + REST);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tries once more to route what was kept aside before the start.
    pub(super) fn route_stuck(&mut self, subscriptions: &Subscriptions) {
        let until = Instant::now() + LONGEST;
        while Instant::now() < until
            && let Some(event) = self.kept.next_stuck()
        {
            // One that fails again stays for the next start.
            drop(self.within(|connection, batch| route::again(connection, event, subscriptions, batch)));
        }
    }
}

/// Puts off a queue's oldest delivery that is due, or gives it up; tells whether there was one.
fn put_off(connection: &Connection, queue: &Queue, batch: &mut Batch<'_>) -> rusqlite::Result<bool> {
    const WHY: &str = "it can't be read from the journal, which is damaged: see `salesman-host journal check`";
    let plugin = plugin_number(connection, queue.plugin.as_str())?;
    let (number, _) = queue_number(connection, plugin, &queue.account)?;
    let oldest: Option<(i64, Option<String>, u32)> = connection
        .query_row(
            "SELECT seq, lane, failures FROM delivery INDEXED BY delivery_ready
              WHERE queue = ?1 AND state = 0 AND at <= ?2 ORDER BY at, seq LIMIT 1",
            params![number, batch.now],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((seq, lane, failures)) = oldest else { return Ok(false) };
    if failures + 1 < MOST_FAILURES {
        connection.execute(
            "UPDATE delivery SET at = ?2, failures = failures + 1, reason = ?3 WHERE seq = ?1",
            params![seq, batch.now.saturating_add(PUT_OFF), WHY],
        )?;
        return Ok(true);
    }
    connection.execute(
        "UPDATE delivery SET state = 5, at = ?2, failures = failures + 1, reason = ?3, code = 'journal.damaged' WHERE seq = ?1",
        params![seq, batch.now, WHY],
    )?;
    let tally = &mut batch.kept.statistics.tally;
    tally.open(number, -1);
    tally.dead(number, Some("journal.damaged"), 1);
    if let Some(lane) = lane {
        promote(connection, number, &lane)?;
    }
    Ok(true)
}
