//! Attempts that ended, for whoever watches: pages, traces, an author at work.
//!
//! - Costs nothing while nobody watches.
//! - Who reads too slowly misses the oldest, which are in the journal; what waits for all of them is bounded by number and by
//!   bytes. Beyond the bytes an attempt comes without its log, calls and long words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

use crate::event::Event;
use crate::journal::{Claimed, Queue, Settlement};
use crate::outcome::Effects;

/// Attempts that somebody who watches may lag behind.
const MOST: usize = 4_096;
/// Bytes that those may take before they come without what is long.
const MOST_BYTES: u64 = 8 << 20;
/// Bytes of a reason that stay then.
const MOST_WORDS: usize = 512;

/// An attempt that has ended and was stored.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The plugin.
    pub queue: Queue,
    /// The event, without its fields where it is a large one.
    pub event: Event,
    /// What came of it.
    pub settlement: Arc<Settlement>,
    /// Held for as long as somebody has yet to see it.
    _weight: Arc<Weight>,
}

/// Bytes that are counted for as long as this lives.
#[derive(Debug)]
struct Weight {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(super) struct Feed {
    sender: broadcast::Sender<Arc<Delivered>>,
    bytes: Arc<AtomicU64>,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(MOST).0, bytes: Arc::default() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Delivered>> {
        self.sender.subscribe()
    }

    pub(super) fn show(&self, claimed: &Claimed, settlement: Arc<Settlement>) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let (queue, mut event) = (claimed.queue.clone(), claimed.event.clone());
        let (bytes, settlement) = match weight(&event, &settlement) {
            bytes if self.bytes.load(Ordering::Relaxed) + bytes <= MOST_BYTES => (bytes, settlement),
            _ => {
                event.fields = String::new();
                (0, Arc::new(short(&settlement)))
            }
        };
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let weight = Arc::new(Weight { bytes, all: Arc::clone(&self.bytes) });
        self.sender.send(Arc::new(Delivered { queue, event, settlement, _weight: weight })).ok();
    }
}

fn weight(event: &Event, settlement: &Settlement) -> u64 {
    let words = event.fields.len() + settlement.outcome.reason().len();
    settlement.effects.weight().saturating_add(u64::try_from(words).unwrap_or(u64::MAX))
}

fn short(settlement: &Settlement) -> Settlement {
    let Effects { lines, lines_dropped, usage, refusal, .. } = &settlement.effects;
    let dropped = lines_dropped.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
    let effects = Effects { lines_dropped: dropped, usage: *usage, refusal: *refusal, ..Effects::default() };
    let outcome = settlement
        .outcome
        .clone()
        .with_words(|words| words.get(..words.floor_char_boundary(MOST_WORDS)).unwrap_or_default().to_owned());
    let Settlement { delivery, attempt, version, started_at, ended_at, next, .. } = settlement;
    Settlement {
        delivery: *delivery,
        attempt: *attempt,
        version: version.clone(),
        started_at: *started_at,
        ended_at: *ended_at,
        outcome,
        effects,
        next: *next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, Via};
    use crate::journal::DeliveryId;
    use crate::outcome::{LogLine, Next, Outcome};

    #[test]
    fn a_watcher_that_does_not_read_holds_no_more_than_the_bound() {
        let feed = Feed::new();
        let queue = Queue { plugin: "alpha".to_owned().try_into().unwrap(), account: "main".into() };
        let (name, account, fields) = ("a.b".into(), "main".into(), "x".repeat(10_000));
        let via = Via::Form;
        let event = Event { id: EventId::new(), account, name, received_at: 1, via, actor: None, entity: None, fields };
        let (delivery, attempt) = (DeliveryId(1), 1);
        let (failures, interruptions, crashes, unread) = (0, 0, 0, 0);
        let claimed = Claimed { delivery, queue, attempt, failures, interruptions, crashes, event, unread };
        let line = LogLine { at: 0, level: "info".into(), text: "x".repeat(60_000) };
        let effects = Effects { lines: vec![line], ..Effects::default() };
        let outcome = Outcome::Skipped { reason: "я".repeat(100_000) };
        let (version, started_at, ended_at, next) = (String::new(), 1, 2, Next::Skipped);
        let settlement = Settlement { delivery, attempt, version, started_at, ended_at, outcome, effects, next };
        let settlement = Arc::new(settlement);
        feed.show(&claimed, Arc::clone(&settlement));
        assert_eq!(feed.bytes.load(Ordering::Relaxed), 0, "nobody watches");

        let mut watcher = feed.subscribe();
        for _ in 0..2 * MOST {
            feed.show(&claimed, Arc::clone(&settlement));
        }
        let held = feed.bytes.load(Ordering::Relaxed);
        assert!(held <= MOST_BYTES, "{held}");
        // The oldest are missed; of the others each comes, the later ones without what is long.
        assert!(watcher.try_recv().is_err());
        let (mut seen, mut bytes) = (0, 0);
        while let Ok(delivered) = watcher.try_recv() {
            seen += 1;
            bytes += delivered.settlement.outcome.reason().len() + delivered.event.fields.len();
        }
        assert_eq!(seen, MOST);
        assert!(u64::try_from(bytes).unwrap() <= MOST_BYTES + 512 * 4_096, "{bytes}");
        assert_eq!(feed.bytes.load(Ordering::Relaxed), 0);
        feed.show(&claimed, settlement);
        let next = watcher.try_recv().unwrap();
        assert_eq!((next.event.fields.len(), next.settlement.effects.lines.len()), (10_000, 1));
    }
}
