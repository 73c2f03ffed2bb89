//! A record forgotten: everything about it is deleted, and then overwritten wherever the store's files still hold it.
//!
//! ```text
//! order ──steps──▶ deleted ──log cut off, file gone through──▶ erased: the proof is complete
//!            └─ what runs or has only just come is left, and looked for again ─┘
//! ```
//!
//! - **The order is on disk before anything is done**, so that the end of the process, or a reader who is in the way, delays
//!   it and nothing more. It means what was there when it came.
//! - In small steps, so that intake never waits behind one.
//! - **What stays is a proof without personal data**: which record, when, who, how many of what.
//! - A record is known by its number. What names another record's number only, or a person by name, is not found.

mod mention;
mod steps;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;
use tokio::sync::Notify;

use super::scrub::Scrubbed;
use super::{Change, Error, EventFilter, EventSummary, Handle};
use crate::event::Entity;
pub(super) use steps::apply;
use steps::field_of;
pub use steps::without;

/// How long what is left (it runs, or has only just come) is left alone.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest time between two tries while somebody is in the way of the log.
const LONGEST: Duration = Duration::from_secs(5);

/// A record, wherever its CRM keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which CRM.
    pub account: String,
    /// The family, such as `client`.
    pub kind: String,
    /// The number.
    pub id: String,
}

/// The order to forget a record.
#[derive(Debug, Clone)]
pub struct Forget {
    /// Which.
    pub record: Record,
    /// Whether events of other records that name it go too, and calls that name it are blanked.
    pub mentions: bool,
    /// Who wants it.
    pub who: String,
    /// The program's version, for the proof.
    pub version: String,
}

/// What forgetting a record would delete, with everything that became of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Forgettable {
    /// How many events of the record.
    pub events: u64,
    /// How many events of other records that name it.
    pub others: u64,
    /// The newest of its own.
    pub first: Vec<EventSummary>,
}

/// That a record was forgotten, by count: no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Proof {
    /// Its number.
    pub number: i64,
    /// When it was ordered: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// By whom.
    pub who: String,
    /// Of which CRM.
    pub account: String,
    /// The record, as `kind:id`.
    pub entity: String,
    /// Whether what names it was meant too.
    pub mentions: bool,
    /// The host's version.
    pub version: String,
    /// How many of what: `events`, `deliveries`, `attempts`, `calls`, `writes`, `state` (keys of plugins) were deleted;
    /// `blanked` (calls of other records' deliveries), `lists` (records of polled lists), `log` (lines of the operators' log)
    /// were emptied.
    pub counts: BTreeMap<String, u64>,
    /// Events that could not be deleted yet: they run, or have only just come.
    pub left: u64,
    /// How often all was gone through.
    pub walks: u64,
    /// When everything was deleted; null: not yet.
    pub deleted_at: Option<i64>,
    /// When no copy was left in the store's files; null: not yet.
    pub erased_at: Option<i64>,
}

/// What the orders' keeper tells.
#[derive(Debug)]
pub enum Forgetting<'a> {
    /// A record is gone for good.
    Erased(&'a Proof),
    /// What an earlier version had left in the file is overwritten.
    Cleaned,
    /// A reader of the store's file is in the way: it is tried again.
    HeldUp,
    /// The store refused: it is tried again.
    Refused(&'a Error),
}

/// Wakes up whoever carries out orders.
#[derive(Debug, Default)]
pub(super) struct Orders {
    came: Notify,
    held_up: AtomicBool,
}

pub(super) enum Work {
    Order(Forget),
    Step { number: i64, stage: Stage, left: u64 },
    Erased(Vec<i64>),
}

/// How far one walk through everything has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// What is found by an index.
    Indexed,
    /// Events, behind a number.
    Events(i64),
    /// Plugins' state, behind a key.
    State(i64, String),
}

/// What one change came to.
#[derive(Debug, Default)]
pub(super) struct Walked {
    number: i64,
    next: Option<Stage>,
    left: u64,
}

impl Handle {
    /// Orders a record to be forgotten; returns the number of its proof. [`keep_forgetting`] carries it out.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing will be done.
    pub async fn forget(&self, order: Forget) -> Result<i64, Error> {
        let number = self.work_on(Work::Order(order)).await?.number;
        self.forgetting.came.notify_one();
        Ok(number)
    }

    /// Whether a reader of the store's file keeps what was forgotten from being overwritten.
    pub fn is_held_up(&self) -> bool {
        self.forgetting.held_up.load(Ordering::Relaxed)
    }

    /// The proofs, the newest first; before one's number where it is given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn proofs(&self, before: Option<i64>, limit: usize) -> Result<Vec<Proof>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {PROOF} FROM forgotten WHERE number < ?1 ORDER BY number DESC LIMIT ?2"
                ))?
                .query_map(
                    params![before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)],
                    proof_from_row,
                )?
                .collect()
        })
    }

    /// One proof.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn proof(&self, number: i64) -> Result<Option<Proof>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {PROOF} FROM forgotten WHERE number = ?1"))?
                .query_row([number], proof_from_row)
                .optional()
        })
    }

    /// What forgetting a record would delete.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forgettable(&self, record: &Record, mentions: bool, shown: usize) -> Result<Forgettable, Error> {
        let entity = Some(Entity { kind: record.kind.clone(), id: record.id.clone() });
        let filter = EventFilter { entity, account: Some(record.account.clone()), ..EventFilter::default() };
        let first = self.events(&filter, None, shown)?.items;
        let (events, others) = self.readers.read(|connection| {
            let Record { account, kind, id } = record;
            let count = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| {
                connection.prepare_cached(sql)?.query_row(parameters, |row| row.get::<_, i64>(0))
            };
            let about = "account = ?1 AND entity_kind = ?2 AND entity_id = ?3";
            let its = count(
                &format!("SELECT count(*) FROM event INDEXED BY event_entity WHERE {about}"),
                &[account, kind, id],
            )?;
            let mut others = 0_u64;
            if let Some(field) = field_of(kind).filter(|_| mentions) {
                let mut named = connection.prepare_cached(&format!(
                    "SELECT fields FROM event
                      WHERE account = ?1 AND instr(fields, ?4) > 0 AND instr(fields, ?5) > 0 AND NOT coalesce({about}, 0)"
                ))?;
                let mut rows = named.query(params![account, kind, id, field, mention::bare(id)])?;
                while let Some(row) = rows.next()? {
                    others += u64::from(mention::names(row.get_ref(0)?.as_str()?, field, id));
                }
            }
            Ok((u64::try_from(its).unwrap_or(0), others))
        })?;
        Ok(Forgettable { events, others, first })
    }

    async fn work_on(&self, work: Work) -> Result<Walked, Error> {
        self.ask(|reply| Change::Forget(Box::new(work), reply)).await
    }

    /// The orders that are not carried out, with whether everything was gone through before.
    fn undone(&self) -> Result<Vec<(i64, bool)>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT number, walks > 0 FROM forgotten INDEXED BY forgotten_unfinished
                      WHERE erased_at IS NULL AND deleted_at IS NULL ORDER BY number",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Orders of which everything is deleted and copies may be left; none where the file has nothing to be gone through for.
    fn unerased(&self) -> Result<Option<Vec<i64>>, Error> {
        self.readers.read(|connection| {
            let numbers: Vec<i64> = connection
                .prepare_cached(
                    "SELECT number FROM forgotten INDEXED BY forgotten_unfinished
                      WHERE erased_at IS NULL AND deleted_at IS NOT NULL ORDER BY number",
                )?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let of_old: bool = connection
                .prepare_cached("SELECT seq > 0 FROM cursor WHERE name = 'scrub'")?
                .query_row([], |row| row.get(0))
                .optional()?
                .unwrap_or_default();
            Ok((of_old || !numbers.is_empty()).then_some(numbers))
        })
    }
}

/// Carries out what was ordered, for as long as the journal is open.
pub async fn keep_forgetting(journal: Handle, told: impl Fn(Forgetting<'_>)) {
    let mut keeper = Keeper { journal, told, pass: None, looked: None, refused: 0 };
    loop {
        let pause = match keeper.round().await {
            Ok(pause) => pause,
            Err(Error::Closed) => return,
            Err(error) => {
                (keeper.told)(Forgetting::Refused(&error));
                Some(LONGEST)
            }
        };
        let came = keeper.journal.forgetting.came.notified();
        match pause {
            None => came.await,
            // An order that comes meanwhile does not wait.
            Some(pause) => drop(tokio::time::timeout(pause, came).await),
        }
    }
}

struct Keeper<T> {
    journal: Handle,
    told: T,
    /// The orders for which the file is gone through, and the page at which to go on.
    pass: Option<(Vec<i64>, u32)>,
    /// When orders of which something was left were looked at last.
    looked: Option<Instant>,
    /// How often in a row somebody was in the way.
    refused: u32,
}

impl<T: Fn(Forgetting<'_>)> Keeper<T> {
    /// Deletes what can be deleted, and goes through some pages of the file. Returns how long to wait; none: for an order.
    async fn round(&mut self) -> Result<Option<Duration>, Error> {
        let left = self.delete().await?.then_some(AGAIN);
        if self.pass.is_none() {
            self.pass = self.journal.unerased()?.map(|numbers| (numbers, 1));
        }
        let Some((numbers, from)) = self.pass.take() else { return Ok(left) };
        let began = Instant::now();
        let scrubbed = self.journal.ask(|reply| Change::Scrub(from, reply)).await;
        if let Ok(Scrubbed::Next(_) | Scrubbed::End) = scrubbed {
            self.refused = 0;
            self.journal.forgetting.held_up.store(false, Ordering::Relaxed);
        }
        match scrubbed {
            Ok(Scrubbed::Next(next)) => {
                self.pass = Some((numbers, next));
                // The writer's time is everybody's.
                Ok(Some(began.elapsed().max(Duration::from_millis(1))))
            }
            Ok(Scrubbed::End) => {
                self.journal.work_on(Work::Erased(numbers.clone())).await?;
                if numbers.is_empty() {
                    (self.told)(Forgetting::Cleaned);
                }
                for number in numbers {
                    if let Some(proof) = self.journal.proof(number)? {
                        (self.told)(Forgetting::Erased(&proof));
                    }
                }
                Ok(Some(Duration::ZERO))
            }
            Ok(Scrubbed::InTheWay) => {
                self.pass = Some((numbers, from));
                self.refused = self.refused.saturating_add(1);
                // The copying of the log is in the way now and then, for a moment.
                if self.refused == 6 {
                    self.journal.forgetting.held_up.store(true, Ordering::Relaxed);
                    (self.told)(Forgetting::HeldUp);
                }
                Ok(Some(Duration::from_millis(10).saturating_mul(2_u32.saturating_pow(self.refused)).min(LONGEST)))
            }
            Err(error) => {
                self.pass = Some((numbers, from));
                Err(error)
            }
        }
    }

    /// Tells whether something is left.
    async fn delete(&mut self) -> Result<bool, Error> {
        let undone = self.journal.undone()?;
        let again = self.looked.is_none_or(|looked| looked.elapsed() >= AGAIN);
        for (number, _) in undone.iter().filter(|(_, before)| again || !before) {
            let mut walked = Walked { number: *number, next: Some(Stage::Indexed), left: 0 };
            while let Some(stage) = walked.next {
                let (number, left) = (*number, walked.left);
                walked = self.journal.work_on(Work::Step { number, stage, left }).await?;
            }
        }
        if again {
            self.looked = Some(Instant::now());
        }
        Ok(!undone.is_empty())
    }
}

const PROOF: &str = "number, at, who, account, kind || ':' || record, mentions, version, counts, remaining, walks, deleted_at, erased_at";

fn proof_from_row(row: &Row<'_>) -> rusqlite::Result<Proof> {
    Ok(Proof {
        number: row.get(0)?,
        at: row.get(1)?,
        who: row.get(2)?,
        account: row.get(3)?,
        entity: row.get(4)?,
        mentions: row.get(5)?,
        version: row.get(6)?,
        counts: serde_json::from_str(&row.get::<_, String>(7)?).unwrap_or_default(),
        left: row.get::<_, i64>(8)?.try_into().unwrap_or_default(),
        walks: row.get::<_, i64>(9)?.try_into().unwrap_or_default(),
        deleted_at: row.get(10)?,
        erased_at: row.get(11)?,
    })
}
