//! An operator's word on writes of which nobody knows whether they were done.
//!
//! Not here: what the word does (`journal`), and which answer stands for the CRM's (`crm/target`).

use super::access::Operator;
use super::problem::Problem;
use super::{Console, blocking};
use crate::crm::target;
use crate::journal::{DeliveryId, DeliveryState, Word, WriteView};

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// They were done; the number of the record that was added.
    Done(Option<u64>),
    /// They are to be sent all the same.
    Send,
}

impl Console {
    /// Takes an operator's word on one write of a dead letter, or on all that are in doubt; tells on how many, and how many are
    /// left. With none left the delivery runs again.
    pub(super) async fn vouch(
        &self,
        who: &Operator,
        id: i64,
        key: Option<&str>,
        said: Said,
    ) -> Result<(usize, usize), Problem> {
        let journal = self.journal.clone();
        let found = blocking(move || journal.delivery(DeliveryId(id))).await?;
        let delivery =
            found.ok_or_else(|| Problem::not_found(format!("there is no delivery with the number {id}")))?.delivery;
        let words = words(delivery.state, &delivery.writes, key, &said).map_err(Problem::refused)?;
        let (action, object) = (if said == Said::Send { "delivery.send" } else { "delivery.done" }, id.to_string());
        let named: Vec<String> =
            delivery.writes.iter().filter(|write| words.iter().any(|(key, _)| *key == write.key)).map(named).collect();
        let record = if let Said::Done(Some(record)) = said { format!(": {record}") } else { String::new() };
        self.audit(who, action, &object, &format!("{}{record}", named.join(", "))).await?;
        let done = match self.journal.vouch(DeliveryId(id), words).await {
            Ok(operated) if operated.changed > 0 => Ok((operated.changed, operated.left)),
            Ok(_) => Err(Problem::refused("the delivery has changed meanwhile: look at it again".to_owned())),
            Err(error) => Err(error.into()),
        };
        self.not_done(who, (action, &object), done).await
    }
}

fn named(write: &WriteView) -> String {
    format!("{} {}", write.call, write.key)
}

/// The words for the journal, or why they can't be taken.
fn words(
    state: DeliveryState,
    writes: &[WriteView],
    key: Option<&str>,
    said: &Said,
) -> Result<Vec<(String, Word)>, String> {
    let uncertain: Vec<&WriteView> = writes.iter().filter(|write| write.uncertain).collect();
    if state != DeliveryState::Dead || uncertain.is_empty() {
        return Err("of none of this delivery's writes it is unknown whether it was done: it can be run again, or given up, and \
                    no word is needed"
            .to_owned());
    }
    let meant: Vec<&WriteView> =
        uncertain.iter().copied().filter(|write| key.is_none_or(|key| write.key == key)).collect();
    let list = || uncertain.iter().map(|write| named(write)).collect::<Vec<_>>().join(", ");
    if meant.is_empty() {
        return Err(format!("this delivery has no such write in doubt; there are: {}", list()));
    }
    let Said::Done(record) = said else {
        return Ok(meant.iter().map(|write| (write.key.clone(), Word::Send)).collect());
    };
    let adding = meant.iter().filter(|write| target::call_adds(&write.call)).count();
    match (adding, record) {
        (0, Some(_)) => return Err("none of these writes adds a record: leave out its number".to_owned()),
        (1, None | Some(0)) => {
            return Err("it adds a record, whose number the plugin gets: look it up in the CRM, and say it".to_owned());
        }
        (2.., _) => return Err(format!("several writes add a record each: name one, with its number: {}", list())),
        _ => {}
    }
    let done = |write: &WriteView| {
        let added = record.filter(|_| target::call_adds(&write.call));
        let about = write.record.as_ref().and_then(|record| record.rsplit(':').next()?.parse().ok());
        let answer = target::stands_for(&write.call, added.or(about));
        (write.key.clone(), Word::Done { answer, record: added.map(|number| number.to_string()) })
    };
    Ok(meant.into_iter().map(done).collect())
}
