//! Finding events and failures among millions, in bounded time.
//!
//! - An index leads where there is one: the record, the actor, the name. Among what it gives, the other conditions are
//!   compared row by row, the newest first.
//! - A search that has looked at enough says how far back it came, and goes on from there when it is asked to.
//! - Times lead to numbers by halving: events are numbered as they arrive.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};

use super::read::{DeliveryState, EVENT_COLUMNS, MORE_COLUMNS, summary_from_row};
use super::{Error, EventSummary, Handle};
use crate::event::{Entity, EventId};
use crate::plugin::PluginName;

/// How long one page may look.
const LONGEST_LOOK: Duration = Duration::from_millis(50);
/// Rows between two looks at the clock.
const ROWS_BETWEEN: usize = 64;
/// Deliveries that are gathered to lead to their events: where there are more of them, events lead.
const MOST_GATHERED: i64 = 20_000;
/// Failed attempts that are looked at for one plugin's.
const MOST_FAILED: usize = 2_000;

/// Which events are meant; an empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this name, or of a family: `deal.*`.
    pub name: Option<String>,
    /// About this record.
    pub entity: Option<Entity>,
    /// Caused by this employee.
    pub actor: Option<u64>,
    /// Of this CRM.
    pub account: Option<String>,
    /// Arrived at this time or later, in milliseconds since 1970-01-01 UTC.
    pub since: Option<i64>,
    /// Arrived before this time, in milliseconds since 1970-01-01 UTC.
    pub until: Option<i64>,
    /// With this text in its fields, upper and lower case alike.
    pub text: Option<String>,
    /// With a delivery to this plugin.
    pub plugin: Option<PluginName>,
    /// With a delivery that stands so; to that plugin, where one is named.
    pub outcome: Option<Wanted>,
}

/// How a delivery stands, as an operator looks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Over: handled.
    Done,
    /// Over: nothing to do.
    Skipped,
    /// Given up.
    Dead,
    /// An operator gave it up.
    Dropped,
    /// It waits for its time, a free place, or another.
    Waiting,
    /// It runs.
    Running,
    /// Given up, or waiting after a failure: the first thing that is wanted at night.
    Failed,
}

impl Wanted {
    /// All of them, as they are offered.
    pub const ALL: [Self; 7] =
        [Self::Failed, Self::Dead, Self::Waiting, Self::Running, Self::Done, Self::Skipped, Self::Dropped];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }

    /// Reads a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wanted| wanted.word() == word)
    }

    /// The condition on a delivery `d`.
    fn condition(self) -> &'static str {
        match self {
            Self::Done => "d.state = 3",
            Self::Skipped => "d.state = 4",
            Self::Dead => "d.state = 5",
            Self::Dropped => "d.state = 6",
            Self::Waiting => "d.state IN (0, 1)",
            Self::Running => "d.state = 2",
            Self::Failed => "(d.state = 5 OR d.state IN (0, 1) AND d.failures > 0)",
        }
    }

    /// The deliveries among which such ones are, where an index holds few: of dead ones, and of open ones.
    fn few(self) -> (bool, bool) {
        match self {
            Self::Done | Self::Skipped | Self::Dropped => (false, false),
            Self::Dead => (true, false),
            Self::Waiting | Self::Running => (false, true),
            Self::Failed => (true, true),
        }
    }
}

/// One page of events.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Found {
    /// The newest first.
    pub items: Vec<EventSummary>,
    /// What to ask with for the next page; none at the end.
    pub next: Option<String>,
    /// Where the search stopped before the page was full: the time of the last event that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_back_to: Option<i64>,
}

/// An attempt that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FailedAttempt {
    /// The delivery's number.
    pub delivery: i64,
    /// The attempt's number.
    pub attempt: u32,
    /// The event.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// Its CRM.
    pub account: String,
    /// Whose attempt.
    pub plugin: String,
    /// When it ended: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// What it came to.
    pub outcome: String,
    /// The fault's code.
    pub code: Option<String>,
    /// Why.
    pub reason: String,
}

/// What became of an event at one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fate {
    /// The delivery's number.
    pub delivery: i64,
    /// Whose.
    pub plugin: String,
    /// Where it stands.
    pub state: DeliveryState,
}

impl Handle {
    /// Events of a filter behind a cursor, the newest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn events(&self, filter: &EventFilter, cursor: Option<i64>, limit: usize) -> Result<Found, Error> {
        self.readers.read(|connection| search(connection, filter, cursor, limit, None))
    }

    /// The same for somebody who is not shown everything: what is hidden from them is not found either.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn events_behind(
        &self,
        veil: &dyn Veil,
        filter: &EventFilter,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Found, Error> {
        self.readers.read(|connection| search(connection, filter, cursor, limit, Some(veil)))
    }

    /// The last attempts that did not end well, of one plugin or of all.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn failed_attempts(&self, plugin: Option<&PluginName>, limit: usize) -> Result<Vec<FailedAttempt>, Error> {
        self.readers.read(|connection| failed(connection, plugin, limit))
    }
}

fn search(
    connection: &Connection,
    filter: &EventFilter,
    cursor: Option<i64>,
    limit: usize,
    veil: Option<&dyn Veil>,
) -> rusqlite::Result<Found> {
    let before = match filter.until {
        Some(until) => number_at(connection, until)?.min(cursor.unwrap_or(i64::MAX)),
        None => cursor.unwrap_or(i64::MAX),
    };
    let from = filter.since.map_or(Ok(0), |since| number_at(connection, since))?;
    let began = Instant::now();
    let fate = fate(connection, filter)?;
    if fate.is_nothing {
        return Ok(Found { items: Vec::new(), next: None, looked_back_to: None });
    }
    let mut page = Page { items: Vec::new(), last: None, limit, began, rows: 0, fate, veil };
    let text = filter.text.as_ref().filter(|text| !text.is_empty()).map(|text| text.to_lowercase());
    for account in accounts(connection, filter)? {
        page.collect(connection, filter, account.as_deref(), text.as_deref(), (from, before))?;
    }
    // Several accounts were looked at one after the other.
    page.items.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let more = page.items.len() > limit || page.last.is_some();
    page.items.truncate(limit);
    let full = page.items.len() == limit;
    let last = if full { page.items.last().map(|(number, _)| *number) } else { page.last.map(|(number, _)| number) };
    let mut items: Vec<EventSummary> = Vec::with_capacity(page.items.len());
    for (number, mut event) in page.items {
        event.deliveries = fates(connection, number)?;
        items.push(event);
    }
    Ok(Found {
        items,
        next: last.filter(|_| more).map(|number| number.to_string()),
        looked_back_to: page.last.filter(|_| !full).map(|(_, at)| at),
    })
}

/// What somebody is not shown of events.
pub trait Veil: Sync {
    /// Hides in an event what is hidden; returns its fields as they are shown, where they are not shown whole.
    fn cover(&self, event: &mut EventSummary, fields: &str) -> Option<String>;
}

/// What has been found so far.
struct Page<'a> {
    items: Vec<(i64, EventSummary)>,
    /// The row at which the look was broken off.
    last: Option<(i64, i64)>,
    limit: usize,
    began: Instant,
    rows: usize,
    fate: FateSql,
    veil: Option<&'a dyn Veil>,
}

/// What is wanted of an event's deliveries, as conditions of SQL. They hold numbers and nothing from outside.
#[derive(Default)]
struct FateSql {
    /// On an event that is looked at.
    condition: String,
    /// Leads to the events, where few fit.
    source: Option<String>,
    /// The plugin never had a delivery.
    is_nothing: bool,
}

fn fate(connection: &Connection, filter: &EventFilter) -> rusqlite::Result<FateSql> {
    let queues = match &filter.plugin {
        None => None,
        Some(plugin) => Some(
            connection
                .prepare_cached("SELECT q.number FROM queue q JOIN plugin p ON p.number = q.plugin WHERE p.name = ?1")?
                .query_map([plugin.as_str()], |row| row.get::<_, i64>(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?,
        ),
    };
    if queues.as_ref().is_some_and(Vec::is_empty) {
        return Ok(FateSql { is_nothing: true, ..FateSql::default() });
    }
    let list = queues.map(|queues| queues.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let of = |column: &str| list.as_ref().map_or("1".to_owned(), |list| format!("{column} IN ({list})"));
    let Some(state) = filter.outcome.map(Wanted::condition).or(list.as_ref().map(|_| "1")) else {
        return Ok(FateSql::default());
    };
    let its = of("d.queue");
    let condition = format!(
        "AND EXISTS (SELECT 1 FROM delivery d INDEXED BY delivery_event WHERE d.event = event.seq AND {its} AND {state})"
    );
    let (dead, open) = filter.outcome.map_or((false, false), Wanted::few);
    let mut few = Vec::new();
    if dead {
        few.push((format!("code <> '' AND {}", of("queue")), "delivery_dead", "d.state = 5"));
    }
    if open {
        few.push((format!("code = '' AND {}", of("queue")), "delivery_lane", "d.state IN (0, 1, 2)"));
    }
    let mut gathered = 0;
    for (tallied, ..) in &few {
        let sql = format!("SELECT coalesce(sum(deliveries), 0) FROM tally WHERE {tallied}");
        gathered += connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
    }
    let leads = !few.is_empty() && gathered <= MOST_GATHERED;
    let source = leads.then(|| {
        let parts = few.iter().map(|(_, index, these)| {
            format!("SELECT d.event FROM delivery d INDEXED BY {index} WHERE {these} AND {its} AND {state}")
        });
        format!("event WHERE seq IN ({}) AND", parts.collect::<Vec<_>>().join(" UNION "))
    });
    Ok(FateSql { condition, source, is_nothing: false })
}

impl Page<'_> {
    fn collect(
        &mut self,
        connection: &Connection,
        filter: &EventFilter,
        account: Option<&str>,
        text: Option<&str>,
        (from, before): (i64, i64),
    ) -> rusqlite::Result<()> {
        let kind = filter.entity.as_ref().map(|entity| &entity.kind);
        let id = filter.entity.as_ref().map(|entity| &entity.id);
        let actor = filter.actor.and_then(|actor| i64::try_from(actor).ok());
        let family = filter.name.as_deref().and_then(|name| name.strip_suffix('*'));
        let name = filter.name.as_deref().filter(|_| family.is_none());
        let source = match (kind, actor, name) {
            _ if self.fate.source.is_some() => self.fate.source.as_deref().unwrap_or_default(),
            (Some(_), ..) => {
                "event INDEXED BY event_entity WHERE account = ?1 AND entity_kind = ?2 AND entity_id = ?3 AND"
            }
            (None, Some(_), _) => "event INDEXED BY event_actor WHERE actor = ?4 AND",
            (None, None, Some(_)) => "event INDEXED BY event_name WHERE name = ?5 AND",
            (None, None, None) => "event NOT INDEXED WHERE",
        };
        let fate = &self.fate.condition;
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, {MORE_COLUMNS}, seq,
                    (?1 IS NULL OR account = ?1) AND (?4 IS NULL OR actor = ?4) AND (?5 IS NULL OR name = ?5)
                    AND (?8 IS NULL OR substr(name, 1, length(?8)) = ?8)
                    AND (?2 IS NULL OR entity_kind = ?2) AND (?3 IS NULL OR entity_id = ?3)
                    AND (?9 IS NULL OR received_at >= ?9) AND (?10 IS NULL OR received_at < ?10) {fate}
               FROM {source} seq < ?6 AND seq >= ?7 ORDER BY seq DESC"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let parameters: [&dyn ToSql; 10] =
            [&account, &kind, &id, &actor, &name, &before, &from, &family, &filter.since, &filter.until];
        let mut rows = statement.query(parameters)?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(14)?;
            if row.get::<_, bool>(15)?
                && let Some(event) = self.shown(row, filter, text)?
            {
                self.items.push((number, event));
                found += 1;
                // One more than asked tells that there is a next page.
                if found > self.limit {
                    break;
                }
            }
            self.rows += 1;
            if self.rows.is_multiple_of(ROWS_BETWEEN) && self.began.elapsed() > LONGEST_LOOK {
                let at: i64 = row.get(3)?;
                // The next page begins at the newest of these places: nothing is passed over, some of it is seen twice.
                if self.last.is_none_or(|(last, _)| number > last) {
                    self.last = Some((number, at));
                }
                break;
            }
        }
        Ok(())
    }
}

impl Page<'_> {
    /// The event as it is shown, where what is looked for is in what is shown. What is hidden takes no other way than what
    /// is not there, so neither counts nor times tell them apart.
    fn shown(&self, row: &Row<'_>, filter: &EventFilter, text: Option<&str>) -> rusqlite::Result<Option<EventSummary>> {
        let fields = row.get_ref(8)?.as_str()?;
        let holds =
            |fields: &str| text.is_none_or(|text| fields.contains(text) || fields.to_lowercase().contains(text));
        let Some(veil) = self.veil else {
            return if holds(fields) { summary_from_row(row).map(Some) } else { Ok(None) };
        };
        let mut event = summary_from_row(row)?;
        let (entity, actor) = (event.entity.clone(), event.actor);
        let covered = veil.cover(&mut event, fields);
        let guessed =
            filter.entity.is_some() && event.entity != entity || filter.actor.is_some() && event.actor != actor;
        Ok((!guessed && holds(covered.as_deref().unwrap_or(fields))).then_some(event))
    }
}

/// The accounts to look into one by one: a record's index begins with them.
fn accounts(connection: &Connection, filter: &EventFilter) -> rusqlite::Result<Vec<Option<String>>> {
    if filter.account.is_some() || filter.entity.is_none() {
        return Ok(vec![filter.account.clone()]);
    }
    connection
        .prepare_cached(
            "WITH RECURSIVE known (name) AS (
                 SELECT min(account) FROM event
                 UNION ALL SELECT (SELECT min(account) FROM event WHERE account > known.name) FROM known WHERE name IS NOT NULL)
             SELECT name FROM known WHERE name IS NOT NULL",
        )?
        .query_map([], |row| row.get::<_, Option<String>>(0))?
        .collect()
}

/// The number of the first event that arrived at a time or later.
fn number_at(connection: &Connection, time: i64) -> rusqlite::Result<i64> {
    let mut next =
        connection.prepare_cached("SELECT seq, received_at FROM event WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
    let ends: (Option<i64>, Option<i64>) = connection
        .prepare_cached("SELECT (SELECT min(seq) FROM event), (SELECT max(seq) FROM event)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(mut low), Some(last)) = ends else { return Ok(0) };
    let mut high = last + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> = next.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((number, at)) if at < time => low = number + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

fn fates(connection: &Connection, event: i64) -> rusqlite::Result<Vec<Fate>> {
    connection
        .prepare_cached(
            "SELECT d.seq, p.name, d.state FROM delivery d INDEXED BY delivery_event
               JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin WHERE d.event = ?1 ORDER BY d.seq",
        )?
        .query_map([event], |row| {
            Ok(Fate { delivery: row.get(0)?, plugin: row.get(1)?, state: DeliveryState::from_number(row.get(2)?) })
        })?
        .collect()
}

fn failed(connection: &Connection, plugin: Option<&PluginName>, limit: usize) -> rusqlite::Result<Vec<FailedAttempt>> {
    let rows = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "SELECT a.delivery, a.number, e.id, e.name, e.account, p.name, a.ended_at, a.outcome, a.code, a.reason
               FROM (SELECT delivery, number, ended_at, outcome, code, reason FROM attempt INDEXED BY attempt_failed
                      WHERE outcome NOT IN ('done', 'skipped', 'conflict') ORDER BY ended_at DESC LIMIT ?2) a
               JOIN delivery d ON d.seq = a.delivery JOIN queue q ON q.number = d.queue
               JOIN plugin p ON p.number = q.plugin JOIN event e ON e.seq = d.event
              WHERE ?1 IS NULL OR p.name = ?1 ORDER BY a.ended_at DESC LIMIT ?3",
        )?
        .query_map(params![plugin.map(PluginName::as_str), rows(MOST_FAILED), rows(limit)], |row| {
            Ok(FailedAttempt {
                delivery: row.get(0)?,
                attempt: row.get(1)?,
                event: EventId::from_bytes(row.get(2)?),
                name: row.get(3)?,
                account: row.get(4)?,
                plugin: row.get(5)?,
                at: row.get(6)?,
                outcome: row.get(7)?,
                code: row.get(8)?,
                reason: row.get(9)?,
            })
        })?
        .collect()
}
