//! The end of an attempt: what is recorded, what takes effect, and what is next for its lane.

use rusqlite::{Connection, OptionalExtension, params};

use super::state::{self, WrittenState};
use super::write::Batch;
use super::{DeliveryId, Settled, Settlement};
use crate::outcome::{Next, Outcome};

pub(super) fn settle(
    connection: &Connection,
    settlement: &Settlement,
    batch: &mut Batch<'_>,
) -> rusqlite::Result<Settled> {
    let (DeliveryId(seq), now) = (settlement.delivery, batch.now);
    let running = connection
        .prepare_cached(
            "SELECT d.queue, d.lane, q.plugin, q.account, iif(d.replay, d.at, e.received_at)
               FROM delivery d JOIN queue q ON q.number = d.queue JOIN event e ON e.seq = d.event
              WHERE d.seq = ?1 AND d.state = 2 AND d.attempts = ?2",
        )?
        .query_row(params![seq, settlement.attempt], |row| {
            let lane: (i64, Option<String>, i64) = (row.get(0)?, row.get(1)?, row.get(4)?);
            Ok((lane, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
        })
        .optional()?;
    // Settled before: one terminal outcome per delivery, the first.
    let Some(((queue, lane, since), plugin, account)) = running else { return Ok(Settled::Applied) };

    let good = matches!(settlement.outcome, Outcome::Done | Outcome::Skipped { .. });
    if good && !settlement.effects.state.writes.is_empty() {
        if state::moved(connection, plugin, &account, &settlement.effects)? {
            record(connection, settlement, "conflict", "another delivery changed the plugin's state meanwhile")?;
            again(connection, seq, now, false, "the plugin's state changed meanwhile")?;
            return Ok(Settled::Conflict);
        }
        match state::write(connection, (plugin, &account), settlement, batch.most_state)? {
            WrittenState::Applied => {}
            WrittenState::Full => return Ok(Settled::StateFull { all: false }),
            WrittenState::AllFull => return Ok(Settled::StateFull { all: true }),
        }
    }
    let reason = settlement.outcome.reason();
    batch.kept.statistics.minutes.ended(queue, settlement, since);
    record(connection, settlement, settlement.outcome.as_str(), &reason)?;
    let over = match settlement.next {
        Next::Again { at, counts } => {
            again(connection, seq, at, counts, &reason)?;
            return Ok(Settled::Applied);
        }
        Next::Done => 3,
        Next::Skipped => 4,
        Next::Dead => 5,
    };
    let code = settlement.outcome.letter_code(&settlement.effects);
    connection
        .prepare_cached(
            "UPDATE delivery SET state = ?2, at = ?3, began = 0, reason = nullif(?4, ''), code = ?5 WHERE seq = ?1",
        )?
        .execute(params![seq, over, settlement.ended_at, reason, code])?;
    let tally = &mut batch.kept.statistics.tally;
    tally.open(queue, -1);
    tally.state(over, queue, Some(code), 1);
    if let Some(lane) = lane {
        promote(connection, queue, &lane)?;
    }
    Ok(Settled::Applied)
}

/// Makes the oldest of those that wait in a lane ready.
pub(super) fn promote(connection: &Connection, queue: i64, lane: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0 WHERE seq = (
                 SELECT min(seq) FROM delivery INDEXED BY delivery_lane
                  WHERE queue = ?1 AND lane = ?2 AND state IN (0, 1, 2)) AND state = 1",
        )?
        .execute(params![queue, lane])?;
    Ok(())
}

/// Says on disk that a delivery under suspicion is about to run.
pub(super) fn begin(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE delivery SET began = 1 WHERE seq = ?1 AND state = 2")?.execute([seq])?;
    Ok(())
}

/// Says on disk that what runs is cut off by an ordered end, so that the next start counts nothing against it.
pub(super) fn end_in_order(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE delivery INDEXED BY delivery_running SET began = -1 WHERE state = 2", [])?;
    Ok(())
}

/// Makes it ready again, as if it had not been claimed, and not before `until`.
pub(super) fn release(connection: &Connection, seq: i64, until: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0, began = 0, attempts = attempts - 1, at = max(at, ?2)
              WHERE seq = ?1 AND state = 2",
        )?
        .execute([seq, until])?;
    Ok(())
}

fn again(connection: &Connection, seq: i64, at: i64, counts: bool, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE delivery SET state = 0, began = 0, at = ?2, failures = failures + ?3, reason = ?4 WHERE seq = ?1",
        )?
        .execute(params![seq, at, counts, reason])?;
    Ok(())
}

fn record(connection: &Connection, settlement: &Settlement, outcome: &str, reason: &str) -> rusqlite::Result<()> {
    let DeliveryId(seq) = settlement.delivery;
    let effects = &settlement.effects;
    let code = settlement.outcome.code();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    // Lines are plain text and numbers: they always print.
    let lines = serde_json::to_string(&effects.lines).unwrap_or_else(|_| "[]".to_owned());
    connection
        .prepare_cached("INSERT INTO attempt VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")?
        .execute(params![
        seq,
        settlement.attempt,
        settlement.version,
        settlement.started_at,
        settlement.ended_at,
        outcome,
        reason,
        code,
        number(effects.usage.cpu),
        number(effects.usage.wall),
        number(effects.usage.memory),
        lines,
        number(effects.lines_dropped),
    ])?;
    for (ordinal, call) in (1_i64..).zip(&effects.calls) {
        connection.prepare_cached("INSERT INTO host_call VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
            params![
                seq,
                settlement.attempt,
                ordinal,
                number(call.at),
                number(call.took),
                call.call,
                call.request,
                call.answer,
                call.good,
            ],
        )?;
    }
    Ok(())
}
