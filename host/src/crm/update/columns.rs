//! What an update does to each kind of record, as data: what is sent along, what can't be changed, what is lost.
//!
//! Measured on version 2025.4 by comparing whole rows of the tables before and after (`SELECT *`).

use super::Kind;
use super::same::Cleaning;

/// A column that the CRM overwrites on each update, and that is sent along as it reads.
pub(super) struct Kept {
    pub(super) field: &'static str,
    /// How the CRM cleans it on the way.
    pub(super) cleaning: Cleaning,
}

/// A field that an update does not write, whatever is sent.
pub(super) struct Fixed {
    pub(super) field: &'static str,
    /// What to do in its place.
    pub(super) advice: &'static str,
}

/// A column that an update overwrites, and that can't be sent along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The column, by its name in the CRM's table.
    pub column: String,
    /// What becomes of it, and why.
    pub why: &'static str,
}

impl Loss {
    pub(super) fn new(column: &str, why: &'static str) -> Self {
        Self { column: column.to_owned(), why }
    }
}

/// What a task's update keeps only when it is sent. All else of it is kept when it is *not* sent: `clid` without `pid`
/// would even put the client's main contact into the task.
pub(super) const OF_TASK: [Kept; 7] = [
    Kept { field: "des", cleaning: Cleaning::Bare },
    Kept { field: "priority", cleaning: Cleaning::Field },
    Kept { field: "speed", cleaning: Cleaning::Field },
    Kept { field: "active", cleaning: Cleaning::Bare },
    Kept { field: "readonly", cleaning: Cleaning::Bare },
    Kept { field: "day", cleaning: Cleaning::Bare },
    Kept { field: "status", cleaning: Cleaning::Field },
];

/// What `person.info` shows and `person.update` does not write.
pub(super) const PERSON_SHOWS_ONLY: [&str; 6] = ["pid", "date_create", "date_edit", "client", "socials", "user"];

pub(super) const ALERT: &str = "the API neither shows nor takes it: it becomes `no`";
pub(super) const COPIES: &str = "the copies of a task for several employees are deleted; the API does not show them";
pub(super) const RESPONSIBLE: &str = "the task goes to the API's own user";
pub(super) const MAIN_CONTACT: &str = "the main contact of the client is put in";
pub(super) const COMPETITORS: &str = "the API does not show it, and empties it unless the changes name it";
pub(super) const MAIN_PERSON: &str = "the API does not show it, and sets it to 0 unless the changes name it";
pub(super) const APPLICATION: &str = "the field is switched off, and a title's change empties it";
pub(super) const STAGE: &str = "type and direction together move the deal to a stage of the other funnel";
pub(super) const MARGIN: &str = "the field is switched off, and an update sets it to 0";
pub(super) const LOYALTY: &str = "its number can't be found out: it becomes 0";
pub(super) const OWNER: &str =
    "the contact's responsible employee is 0, dismissed without a trace, or out of the API user's sight: it becomes 0";
pub(super) const REWRITTEN: &str = "its text has signs that the CRM rewrites when it is sent again";

/// The fields that an update of this kind never writes.
pub(super) fn fixed(kind: Kind) -> &'static [Fixed] {
    const STEP: &str = "call `deal.change.step`";
    const CLOSE: &str = "call `deal.change.close`";
    const BY_CRM: &str = "the CRM sets it by itself";
    match kind {
        Kind::Client => &[
            Fixed { field: "user", advice: "send `iduser`, a number" },
            Fixed { field: "date_create", advice: BY_CRM },
            Fixed { field: "date_edit", advice: BY_CRM },
            Fixed { field: "person", advice: "send `pid`, a number" },
        ],
        Kind::Person => &[
            Fixed { field: "user", advice: "send `iduser`, a number" },
            Fixed { field: "client", advice: "send `clid`, a number" },
            Fixed { field: "date_create", advice: BY_CRM },
            Fixed { field: "date_edit", advice: BY_CRM },
        ],
        Kind::Deal => &[
            Fixed { field: "user", advice: "call `deal.change.user`, or send `iduser`, a number" },
            Fixed { field: "step", advice: STEP },
            Fixed { field: "stepID", advice: STEP },
            Fixed { field: "idcategory", advice: STEP },
            Fixed { field: "close", advice: CLOSE },
            Fixed { field: "datum_close", advice: CLOSE },
            Fixed { field: "status_close", advice: CLOSE },
            Fixed { field: "kol_fact", advice: CLOSE },
            Fixed { field: "des_fact", advice: CLOSE },
            Fixed { field: "datum", advice: BY_CRM },
            Fixed { field: "datum_izm", advice: BY_CRM },
        ],
        Kind::Task => &[
            Fixed { field: "user", advice: "the CRM gives the task to the API's own user, whatever is sent" },
            Fixed { field: "iduser", advice: "the CRM gives the task to the API's own user, whatever is sent" },
            Fixed { field: "status", advice: "call `task.doit`" },
        ],
    }
}

/// Fields that the CRM takes and never shows: its answer is all that tells of them.
pub(super) fn unseen(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Deal => &["coid1", "pid"],
        Kind::Client | Kind::Person | Kind::Task => &[],
    }
}

/// Fields that read as a title and are written by number: whether a number was there already, only the CRM knows.
pub(super) fn by_title(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Client => &["head_clid", "clientpath"],
        Kind::Person => &["loyalty", "clientpath"],
        Kind::Deal | Kind::Task => &[],
    }
}
