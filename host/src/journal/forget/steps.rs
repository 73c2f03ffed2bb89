//! The steps of forgetting a record: what is looked at, and what becomes of it.
//!
//! - What belongs to the record is deleted. What is another's and names it is emptied where the row is still needed.
//! - A step looks at a bounded number of rows, and says where the next one begins.
//!
//! Not here: orders and proofs, and the bytes that are left in the file.

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::{Forget, Record, Stage, Walked, Work, mention};
use crate::journal::minutes::Tally;
use crate::journal::retention;

/// Events, or keys of state, that one step looks at.
const STEP: i64 = 500;
/// What stands in place of what was forgotten, where the row itself is needed.
const FORGOTTEN: &str = "\"forgotten\"";

/// How many of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    events: usize,
    deliveries: usize,
    attempts: usize,
    calls: usize,
    writes: usize,
    blanked: usize,
    state: usize,
    lists: usize,
    log: usize,
}

pub(in crate::journal) fn apply(
    connection: &Connection,
    work: &Work,
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<Walked> {
    match work {
        Work::Order(Forget { record, mentions, who, version }) => {
            let number = connection
                .prepare_cached(
                    "INSERT INTO forgotten (at, who, account, kind, record, mentions, version, up_to)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT coalesce(max(seq), 0) FROM event)) RETURNING number",
                )?
                .query_row(params![now, who, record.account, record.kind, record.id, mentions, version], |row| {
                    row.get(0)
                })?;
            Ok(Walked { number, ..Walked::default() })
        }
        Work::Step { number, stage, left } => step(connection, *number, stage, *left, now, tally),
        Work::Erased(numbers) => erased(connection, numbers, now),
    }
}

fn erased(connection: &Connection, numbers: &[i64], now: i64) -> rusqlite::Result<Walked> {
    for number in numbers {
        connection
            .prepare_cached("UPDATE forgotten SET erased_at = ?2 WHERE number = ?1 AND erased_at IS NULL")?
            .execute(params![number, now])?;
        connection
            .prepare_cached(
                "INSERT INTO audit (at, who, action, object, details)
                 SELECT ?2, who, 'record.erased', account || ' ' || kind || ':' || record, 'proof ' || number
                   FROM forgotten WHERE number = ?1",
            )?
            .execute(params![number, now])?;
    }
    connection.prepare_cached("UPDATE cursor SET seq = 0 WHERE name = 'scrub'")?.execute([])?;
    Ok(Walked::default())
}

/// What one step works on.
struct Step<'a> {
    connection: &'a Connection,
    record: Record,
    mentions: bool,
    up_to: i64,
    counts: Counts,
}

fn step(
    connection: &Connection,
    number: i64,
    stage: &Stage,
    left: u64,
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<Walked> {
    let read = |row: &Row<'_>| {
        let record = Record { account: row.get(0)?, kind: row.get(1)?, id: row.get(2)? };
        let counts = serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default();
        Ok(Step { connection, record, mentions: row.get(3)?, up_to: row.get(4)?, counts })
    };
    let mut step = connection
        .prepare_cached("SELECT account, kind, record, mentions, up_to, counts FROM forgotten WHERE number = ?1")?
        .query_row([number], read)?;
    let mut walked = Walked { number, next: None, left };
    match stage {
        Stage::Indexed => {
            step.indexed()?;
            walked.next = Some(Stage::Events(0));
        }
        Stage::Events(after) => {
            let (next, more) = step.events(*after, tally)?;
            walked.left += more;
            let behind = step.mentions.then(|| Stage::State(0, String::new()));
            walked.next = next.map(Stage::Events).or(behind);
        }
        Stage::State(plugin, key) => walked.next = step.state(*plugin, key)?,
    }
    let counts = serde_json::to_string(&step.counts).unwrap_or_default();
    let (over, remaining) = (walked.next.is_none(), i64::try_from(walked.left).unwrap_or(i64::MAX));
    connection
        .prepare_cached(
            "UPDATE forgotten SET counts = ?2, walks = walks + ?3, remaining = iif(?3, ?4, remaining),
                    deleted_at = iif(?3 AND ?4 = 0, ?5, NULL) WHERE number = ?1",
        )?
        .execute(params![number, counts, over, remaining, now])?;
    Ok(walked)
}

impl Step<'_> {
    /// What indexes lead to, and the operators' log.
    fn indexed(&mut self) -> rusqlite::Result<()> {
        let Record { account, kind, id } = &self.record;
        let change =
            |sql: &str, parameters: &[&dyn rusqlite::ToSql]| self.connection.prepare_cached(sql)?.execute(parameters);
        // The events that other records' deliveries expected of it hold digests of what they say.
        change(
            "DELETE FROM effect WHERE account = ?1 AND name >= ?2 || '.' AND name < ?2 || '/' AND record = ?3",
            &[account, kind, id],
        )?;
        // A write of a delivery that may run again must not be sent again: its answer alone goes, but for names of fields.
        let about = "write INDEXED BY write_about WHERE account = ?1 AND kind = ?2 AND record = ?3";
        let over = "AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = write.delivery AND d.state IN (0, 1, 2, 5))";
        self.counts.writes += change(&format!("DELETE FROM {about} {over}"), &[account, kind, id])?;
        change(
            "UPDATE write INDEXED BY write_about SET answer = ?4
              WHERE account = ?1 AND kind = ?2 AND record = ?3 AND answer LIKE '{%'",
            &[account, kind, id, &FORGOTTEN],
        )?;
        // The list is taken for known from now on: its next reading tells nothing of this record.
        if let Some(list) = list_of(kind) {
            let sql = "UPDATE polled SET says = '{}' WHERE account = ?1 AND list = ?2 AND record = ?3 AND says <> '{}'";
            self.counts.lists += change(sql, &[account, &list, id])?;
        }
        if let Some(named) = named(kind, id).filter(|_| self.mentions) {
            let sql = "UPDATE polled SET says = '{}' WHERE account = ?1 AND instr(says, ?2) > 0";
            self.counts.lists += change(sql, &[account, &named])?;
        }
        self.counts.state += self.state_by_key()?;
        self.counts.log += self.log()?;
        Ok(())
    }

    fn name(&self) -> String {
        format!("{}:{}", self.record.kind, self.record.id)
    }

    /// What plugins keep under keys that name the record as `kind:id`.
    fn state_by_key(&self) -> rusqlite::Result<usize> {
        let name = self.name();
        let mut keys = self
            .connection
            .prepare_cached("SELECT plugin, key FROM state WHERE account = ?1 AND instr(key, ?2) > 0")?;
        let found: Vec<(i64, String)> = keys
            .query_map(params![self.record.account, name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut forgotten = 0;
        for (plugin, key) in found.iter().filter(|(_, key)| names(key, &name)) {
            forgotten += self.remove_state(*plugin, key)?;
        }
        Ok(forgotten)
    }

    fn remove_state(&self, plugin: i64, key: &str) -> rusqlite::Result<usize> {
        self.connection
            .prepare_cached("DELETE FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
            .execute(params![plugin, self.record.account, key])
    }

    /// The record's number in what operators asked for. That it was forgotten, and by whom, stays.
    fn log(&self) -> rusqlite::Result<usize> {
        let name = self.name();
        let mut lines = self.connection.prepare_cached(
            "SELECT seq, object, details FROM audit WHERE action NOT IN ('record.forget', 'record.erased')
                AND (instr(object, ?1) > 0 OR instr(details, ?1) > 0)",
        )?;
        let found: Vec<(i64, String, String)> = lines
            .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut changed = 0;
        for (seq, object, details) in found {
            if names(&object, &name) || names(&details, &name) {
                let [object, details] = [object, details].map(|text| without(&text, &name));
                changed += self
                    .connection
                    .prepare_cached("UPDATE audit SET object = ?2, details = ?3 WHERE seq = ?1")?
                    .execute(params![seq, object, details])?;
            }
        }
        Ok(changed)
    }

    /// Some events behind a number: where to go on, and how many of them could not be deleted now.
    fn events(&mut self, after: i64, tally: &mut Tally) -> rusqlite::Result<(Option<i64>, u64)> {
        let Record { account, kind, id } = &self.record;
        let about = "account = ?1 AND entity_kind = ?2 AND entity_id = ?3";
        let source = if self.mentions {
            format!("(SELECT *, {about} AS its FROM event WHERE seq > ?4 AND seq <= ?7 ORDER BY seq LIMIT ?5)")
        } else {
            format!(
                "(SELECT *, 1 AS its FROM event INDEXED BY event_entity WHERE {about} AND seq > ?4 AND seq <= ?7
                   ORDER BY seq LIMIT ?5)"
            )
        };
        let mut candidates = self.connection.prepare_cached(&format!(
            "SELECT seq, coalesce(its, 0),
                    iif(account = ?1 AND instr(fields, ?6) > 0 AND instr(fields, ?8) > 0, fields, NULL),
                    seq > (SELECT seq FROM cursor WHERE name = 'routed')
                      OR EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.seq AND d.state = 2), account = ?1
               FROM {source} e"
        ))?;
        let (field, number) = (field_of(kind), mention::bare(id));
        let rows: Vec<(i64, bool, bool, bool)> = candidates
            .query_map(params![account, kind, id, after, STEP, field, self.up_to, number], |row| {
                let named = row.get_ref(2)?.as_str_or_null()?.zip(field);
                let meant = row.get(1)? || named.is_some_and(|(fields, field)| mention::names(fields, field, id));
                Ok((row.get(0)?, meant, row.get(3)?, row.get(4)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        drop(candidates);
        let mut left = 0;
        for (seq, meant, busy, of_account) in &rows {
            match (meant, busy) {
                (true, true) => left += 1,
                (true, false) => {
                    uncount(self.connection, *seq, tally)?;
                    let [calls, _, writes, attempts, deliveries] = retention::remove(self.connection, *seq)?;
                    let counts = &mut self.counts;
                    counts.events += 1;
                    counts.calls += calls;
                    counts.writes += writes;
                    counts.attempts += attempts;
                    counts.deliveries += deliveries;
                }
                (false, _) if *of_account => self.counts.blanked += self.blank_calls(*seq)?,
                (false, _) => {}
            }
        }
        let more = rows.len() == usize::try_from(STEP).unwrap_or(0);
        Ok((rows.last().filter(|_| more).map(|row| row.0), left))
    }

    /// Calls of an event's deliveries that name the record lose what was sent and answered; with them go what the plugin
    /// logged and said in that attempt, and what was kept of the write.
    fn blank_calls(&self, event: i64) -> rusqlite::Result<usize> {
        let Record { kind, id, .. } = &self.record;
        // In calls of its own family a record is named by `id` as well.
        let fields = [field_of(kind), Some("id")];
        let mut changed = 0;
        for (field, family) in fields.iter().zip(["%".to_owned(), format!("crm {kind}.%")]) {
            let Some(field) = field else { continue };
            let [text, number] = [format!("\"{field}\":\"{id}\""), format!("\"{field}\":{id}")];
            let names = |column: &str| {
                format!("instr({column}, ?2) > 0 OR instr({column}, ?3 || ',') > 0 OR instr({column}, ?3 || '}}') > 0")
            };
            let (request, answer) = (names("request"), names("answer"));
            let blanked: Vec<(i64, i64)> = self
                .connection
                .prepare_cached(&format!(
                    "UPDATE host_call SET request = '{FORGOTTEN}', answer = '{FORGOTTEN}'
                      WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1) AND call LIKE ?4 AND ({request} OR {answer})
                  RETURNING delivery, attempt"
                ))?
                .query_map(params![event, text, number, family], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            changed += blanked.len();
            for (delivery, attempt) in blanked {
                self.connection
                    .prepare_cached("UPDATE attempt SET lines = '[]', reason = '' WHERE delivery = ?1 AND number = ?2")?
                    .execute([delivery, attempt])?;
                self.connection
                    .prepare_cached("UPDATE delivery SET reason = '' WHERE seq = ?1 AND reason IS NOT NULL")?
                    .execute([delivery])?;
                self.connection
                    .prepare_cached("UPDATE write SET answer = ?2 WHERE delivery = ?1 AND answer LIKE '{%'")?
                    .execute(params![delivery, FORGOTTEN])?;
            }
        }
        Ok(changed)
    }

    /// Some keys of plugins' state whose values name the record; where to go on.
    fn state(&mut self, plugin: i64, key: &str) -> rusqlite::Result<Option<Stage>> {
        let mut keys = self.connection.prepare_cached(
            "SELECT plugin, key, value FROM state WHERE account = ?1 AND (plugin, key) > (?2, ?3) ORDER BY plugin, key LIMIT ?4",
        )?;
        let rows: Vec<(i64, String, String)> = keys
            .query_map(params![self.record.account, plugin, key, STEP], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        drop(keys);
        let (name, id) = (self.name(), &self.record.id);
        let field = field_of(&self.record.kind).map(|field| format!("\"{field}\":"));
        let says = |value: &str| {
            let value: String = value.chars().filter(|character| !character.is_whitespace()).collect();
            let by_field =
                |field: &String| names(&value, &format!("{field}{id}")) || value.contains(&format!("{field}\"{id}\""));
            names(&value, &name) || field.as_ref().is_some_and(by_field)
        };
        for (plugin, key, _) in rows.iter().filter(|(_, _, value)| says(value)) {
            self.counts.state += self.remove_state(*plugin, key)?;
        }
        let more = rows.len() == usize::try_from(STEP).unwrap_or(0);
        Ok(rows.into_iter().next_back().filter(|_| more).map(|(plugin, key, _)| Stage::State(plugin, key)))
    }
}

/// Takes an event's deliveries out of what is counted, before they go.
fn uncount(connection: &Connection, event: i64, tally: &mut Tally) -> rusqlite::Result<()> {
    let mut counted = connection.prepare_cached("SELECT state, queue, code FROM delivery WHERE event = ?1")?;
    let mut rows = counted.query([event])?;
    while let Some(row) = rows.next()? {
        tally.state(row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?.as_deref(), -1);
    }
    Ok(())
}

/// The field by which records of other families name one of this; none where they don't.
pub(super) fn field_of(kind: &str) -> Option<&'static str> {
    match kind {
        "client" => Some("clid"),
        "person" => Some("pid"),
        "deal" => Some("did"),
        "contract" => Some("deid"),
        _ => None,
    }
}

/// How a record of a polled list names this one.
fn named(kind: &str, id: &str) -> Option<String> {
    field_of(kind).map(|field| format!("\"{field}\":\"{id}\""))
}

/// The polled list that holds records of a family.
fn list_of(kind: &str) -> Option<&'static str> {
    match kind {
        "deal" => Some("deals"),
        "lead" => Some("leads"),
        "contract" => Some("documents"),
        "akt" => Some("acts"),
        _ => None,
    }
}

/// Where a text names something, as a whole: `client:7` is not in `client:71`.
fn places(text: &str, name: &str) -> Vec<usize> {
    let edge = |character: Option<char>| character.is_none_or(|character| !character.is_alphanumeric());
    let whole = |at: &usize| {
        let (before, behind) = (text.get(..*at), text.get(*at + name.len()..));
        edge(before.and_then(|text| text.chars().next_back())) && edge(behind.and_then(|text| text.chars().next()))
    };
    text.match_indices(name).map(|(at, _)| at).filter(whole).collect()
}

fn names(text: &str, name: &str) -> bool {
    !places(text, name).is_empty()
}

/// A text with a name, such as `client:7`, taken out.
pub fn without(text: &str, name: &str) -> String {
    let mut text = text.to_owned();
    for at in places(&text, name).into_iter().rev() {
        text.replace_range(at..at + name.len(), "(forgotten)");
    }
    text
}
