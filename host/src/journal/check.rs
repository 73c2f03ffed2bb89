//! The whole store looked at from outside: its structure, and what its tables must agree on. Nothing is changed.
//!
//! - In a process and on a connection of its own, and in one read transaction: what is compared is of one moment, and whoever
//!   writes meanwhile waits for nobody. The log of changes grows for as long as it takes, so that is bounded, and ends where the
//!   disk has little room.
//! - What is said names tables, indexes and numbers, and nothing that is in them.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use serde::Serialize;

use super::damage::{self, Bound};
use super::{Error, layout, read};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub what: String,
    /// What that means.
    pub meaning: String,
    /// The way back.
    pub remedy: String,
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What is wrong.
    pub findings: Vec<Fault>,
    /// What was looked at.
    pub looked_at: Vec<String>,
    /// What was not, for want of time.
    pub left: Vec<String>,
}

/// Something on which tables must agree: a query for how many do not, and the first of them.
struct Rule {
    name: &'static str,
    query: &'static str,
    what: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

const COUNTED_ANEW: &str = "stop the host, run `salesman-host journal compact`, which counts anew, and start the host";
const BROUGHT_BACK: &str = "stop the host and bring back a copy with `salesman-host restore`";

const RULES: [Rule; 10] = [
    Rule {
        name: "lanes: one at a time",
        query: "SELECT count(*), min(first) FROM
                  (SELECT min(seq) AS first, sum(state <> 1) AS active FROM delivery INDEXED BY delivery_lane
                    WHERE state IN (0, 1, 2) AND lane IS NOT NULL GROUP BY queue, lane) WHERE active > 1",
        what: "of a record more than one delivery is ready or running",
        meaning: "events of one record may run at the same time, or out of order",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "lanes: none stands still",
        query: "SELECT count(*), min(first) FROM
                  (SELECT min(seq) AS first, sum(state <> 1) AS active FROM delivery INDEXED BY delivery_lane
                    WHERE state IN (0, 1, 2) GROUP BY queue, coalesce(lane, seq)) WHERE active = 0",
        what: "deliveries wait behind one that is over",
        meaning: "they would wait for ever",
        remedy: "drop the first with `salesman-host delivery drop`, and replay its event",
    },
    Rule {
        name: "deliveries have events",
        query: "SELECT count(*), min(seq) FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.seq = d.event)",
        what: "deliveries are of an event that is not there",
        meaning: "they can't run, or their event is lost",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "deliveries have queues",
        query:
            "SELECT count(*), min(seq) FROM delivery d
                 WHERE NOT EXISTS (SELECT 1 FROM queue q JOIN plugin p ON p.number = q.plugin WHERE q.number = d.queue)",
        what: "deliveries are of a plugin that is not known",
        meaning: "they never run",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "deliveries have a state",
        query: "SELECT count(*), min(seq) FROM delivery WHERE state NOT BETWEEN 0 AND 6",
        what: "deliveries are in a state that does not exist",
        meaning: "they never run",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "the cursor",
        query: "SELECT count(*) = 0, NULL FROM cursor WHERE name = 'routed'",
        what: "it is not known up to which event plugins were given theirs",
        meaning: "no event is given to plugins",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "nothing is given out twice",
        query: "SELECT count(*), min(seq) FROM delivery WHERE event > (SELECT seq FROM cursor WHERE name = 'routed')",
        what: "deliveries are of events that were not given to plugins yet",
        meaning: "plugins would get these events twice",
        remedy: BROUGHT_BACK,
    },
    Rule {
        name: "events that are kept aside",
        query: "SELECT count(*), NULL FROM stuck",
        what: "events could not be given to plugins",
        meaning: "no plugin has got them, and what is behind them went on",
        remedy: "stop the host, mend what is damaged (`salesman-host journal compact`), and start the host, which tries them again",
    },
    Rule {
        name: "tallies",
        query: "SELECT count(*), NULL FROM
                  (SELECT queue, code FROM
                     (SELECT queue, code, deliveries AS n FROM tally UNION ALL
                      SELECT queue, iif(state = 5, coalesce(code, '?'), ''), -count(*) FROM delivery
                       WHERE state IN (0, 1, 2, 5) GROUP BY 1, 2)
                    GROUP BY queue, code HAVING sum(n) <> 0)",
        what: "counts of what waits, or of dead letters, are wrong",
        meaning: "what is shown is wrong, and a bound on what waits holds too early or too late; no event is lost",
        remedy: COUNTED_ANEW,
    },
    Rule {
        name: "sums of plugins' state",
        query: "SELECT count(*), NULL FROM
                  (SELECT plugin, account FROM
                     (SELECT plugin, account, keys AS k, bytes AS b FROM state_use UNION ALL
                      SELECT plugin, account, -count(*), -sum(octet_length(key) + octet_length(value)) FROM state
                       GROUP BY plugin, account)
                    GROUP BY plugin, account HAVING sum(k) <> 0 OR sum(b) <> 0)",
        what: "sums of what plugins keep are wrong",
        meaning: "the bound on a plugin's state holds too early or too late; no state is lost",
        remedy: COUNTED_ANEW,
    },
];

/// Looks at the store in a folder, for a bounded time, and no longer than `least_free` bytes and some are free; a host may run.
///
/// # Errors
/// There is no store, or it can't be opened at all.
pub fn check(data_dir: &Path, most: Duration, least_free: u64) -> Result<Checked, Error> {
    let (bound, file) = (Bound::new(most, data_dir, least_free), layout::file(data_dir));
    let failed = |cause: &dyn std::fmt::Display| Error::Open {
        path: data_dir.to_owned(),
        cause: cause.to_string(),
        passes: false,
    };
    if std::fs::metadata(&file).map_err(|error| failed(&error))?.len() == 0 {
        return Err(failed(&"`journal.sqlite` is empty"));
    }
    let mut checked = Checked::default();
    let opened = read::reader(&file).and_then(|connection| {
        connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
        Ok(connection)
    });
    let connection = match opened.map_err(|error| (Error::from(&error), error)) {
        Ok(connection) => connection,
        Err((Error::Damaged(_), error)) => {
            let what =
                format!("the first pages of `journal.sqlite`, from which all others are found, are damaged: {error}");
            let (meaning, remedy) = ("nothing of it can be read".to_owned(), BROUGHT_BACK.to_owned());
            checked.findings.push(Fault { what, meaning, remedy });
            return Ok(checked);
        }
        Err((_, error)) => return Err(failed(&error)),
    };
    let looked = damage::look(&connection, &bound);
    for damage in &looked.damaged {
        let what = format!("{} is damaged: {}", damage.what(), damage.words.join("; "));
        let (meaning, remedy) = (damage.meaning().to_owned(), damage.remedy().to_owned());
        checked.findings.push(Fault { what, meaning, remedy });
    }
    let named = |table: String| format!("structure of `{table}`");
    checked.looked_at.extend(looked.looked_at.into_iter().map(named));
    checked.left.extend(looked.left.into_iter().map(named));
    for rule in &RULES {
        match held(&connection, rule, &bound) {
            Ok(found) => {
                checked.findings.extend(found);
                checked.looked_at.push(rule.name.to_owned());
            }
            // What is damaged is said already; a store of an earlier format may lack a table.
            Err(error) if error.sqlite_error_code() != Some(ErrorCode::OperationInterrupted) => {
                checked.left.push(format!("{} ({error})", rule.name));
            }
            Err(_) => checked.left.push(rule.name.to_owned()),
        }
    }
    Ok(checked)
}

fn held(connection: &Connection, rule: &Rule, bound: &Bound) -> rusqlite::Result<Option<Fault>> {
    let (count, first) = bound.within(connection, || {
        connection.query_row(rule.query, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))
    })?;
    let first = first.map_or(String::new(), |first| format!(", the first is delivery {first}"));
    let what = format!("{} ({count}{first})", rule.what);
    let (meaning, remedy) = (rule.meaning.to_owned(), rule.remedy.to_owned());
    Ok((count > 0).then_some(Fault { what, meaning, remedy }))
}
