//! An operator's word on writes of which nobody knows whether they were done: they count as done, or are sent again.
//!
//! - Only of a dead letter, and only of writes without an answer. All words of one order take effect, or none does.
//! - Once none of its writes is in doubt any more, the delivery runs again: the plugin goes on from the answer that it is given.
//!
//! Not here: which answer stands for the CRM's (`crm/target`).

use rusqlite::{Connection, OptionalExtension as _, params};

use super::minutes::Tally;
use super::operate::Operation;
use super::writes::{self, WriteView};
use super::{DeliveryId, Error, Handle, Operated, Write, Written, effects, letters};

/// What an operator says of a write in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It was done.
    Done {
        /// What stands for its answer.
        answer: String,
        /// The number of the record that was added.
        record: Option<String>,
    },
    /// It is to be sent, whether or not it was.
    Send,
}

impl Handle {
    /// Takes an operator's word on writes of a dead letter, by their keys ([`WriteView::key`]); tells how many it was taken on,
    /// and how many are still in doubt. Nothing is changed where the letter is none, or one of the writes is not in doubt.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: nothing is changed.
    pub async fn vouch(&self, delivery: DeliveryId, words: Vec<(String, Word)>) -> Result<Operated, Error> {
        self.operate(Operation::Vouch(delivery, words)).await
    }
}

pub(super) fn vouch(
    connection: &Connection,
    DeliveryId(seq): DeliveryId,
    words: &[(String, Word)],
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<Operated> {
    let dead = connection
        .prepare_cached("SELECT 1 FROM delivery WHERE seq = ?1 AND state = 5")?
        .query_row([seq], |_| Ok(()))
        .optional()?;
    let of_it = writes::of_delivery(connection, seq)?;
    let meant = |key: &String| of_it.iter().find(|write| write.uncertain && write.key == *key);
    let meant: Vec<(&WriteView, &Word)> = words.iter().filter_map(|(key, word)| Some((meant(key)?, word))).collect();
    if dead.is_none() || meant.len() < words.len() {
        return Ok(Operated::default());
    }
    for (view, word) in &meant {
        let write = view.write(seq);
        match word {
            Word::Done { answer, record } => {
                let written = Written::Answered { answer: answer.clone(), record: record.clone() };
                writes::written(connection, &write, &written, now)?;
            }
            Word::Send => may_send(connection, &write)?,
        }
    }
    let left = writes::of_delivery(connection, seq)?.iter().filter(|write| write.uncertain).count();
    if left == 0 {
        letters::retry(connection, seq, now, tally)?;
    }
    Ok(Operated { changed: meant.len(), left, delivery: None })
}

/// The row stays: of a delivery that was open when its store was copied, a write without one counts as sent.
fn may_send(connection: &Connection, write: &Write) -> rusqlite::Result<()> {
    // What is sent now has events of its own.
    effects::withdrawn(connection, write)?;
    let Write { delivery: DeliveryId(delivery), digest, occurrence } = write;
    connection
        .prepare_cached("UPDATE write SET may_send = 1 WHERE delivery = ?1 AND digest = ?2 AND occurrence = ?3")?
        .execute(params![delivery, digest, occurrence])?;
    Ok(())
}
