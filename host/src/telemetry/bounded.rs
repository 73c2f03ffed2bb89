//! Lines that others can cause at will: a few of each kind in a while, and how many were left out.
//!
//! - A kind is one line of the vocabulary with one code: strangers can't make new kinds.
//! - What was left out is told with its number when the while is over, whether or not more comes ([`tell`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// Lines of one kind in [`WHILE`]; more are counted.
const MOST: u32 = 20;
const WHILE: Duration = Duration::from_secs(10);

/// A line and its code.
type Kind = (&'static str, &'static str);

#[derive(Default)]
struct Bounded(BTreeMap<Kind, Window>);

struct Window {
    began: Instant,
    told: u32,
    left_out: u64,
}

impl Bounded {
    /// Whether a line may be written, and of how many the count is due before it.
    fn may(&mut self, kind: Kind, now: Instant) -> (bool, u64) {
        let window = self.0.entry(kind).or_insert(Window { began: now, told: 0, left_out: 0 });
        let mut due = 0;
        if now.saturating_duration_since(window.began) >= WHILE {
            due = window.left_out;
            *window = Window { began: now, told: 0, left_out: 0 };
        }
        let may = window.told < MOST;
        if may {
            window.told += 1;
        } else {
            window.left_out += 1;
        }
        (may, due)
    }

    /// What was left out and is due; kinds that are over are forgotten.
    fn over(&mut self, now: Instant) -> Vec<(Kind, u64)> {
        let mut due = Vec::new();
        self.0.retain(|kind, window| {
            let over = now.saturating_duration_since(window.began) >= WHILE;
            if over && window.left_out > 0 {
                due.push((*kind, window.left_out));
            }
            !over
        });
        due
    }
}

static LINES: Mutex<Bounded> = Mutex::new(Bounded(BTreeMap::new()));

/// Whether a line of this kind may be written now.
pub(super) fn may(line: &'static str, code: &'static str) -> bool {
    let (may, due) = LINES.lock().unwrap_or_else(PoisonError::into_inner).may((line, code), Instant::now());
    if due > 0 {
        left_out((line, code), due);
    }
    may
}

/// Tells what was left out, of kinds whose while is over. To be called now and then.
pub(super) fn tell() {
    let due = LINES.lock().unwrap_or_else(PoisonError::into_inner).over(Instant::now());
    due.into_iter().for_each(|(kind, lines)| left_out(kind, lines));
}

fn left_out((line, code): Kind, lines: u64) {
    let code = Some(code).filter(|code| !code.is_empty());
    warn!(line, code, lines, "Lines like this were left out: there were too many.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_takes_no_line_of_another() {
        let (mut lines, began) = (Bounded::default(), Instant::now());
        let told = (0..50_000).filter(|_| lines.may(("refused", "a"), began).0).count();
        assert_eq!(told, 20);
        assert_eq!(lines.may(("refused", "b"), began), (true, 0));
        assert_eq!(lines.over(began + WHILE / 2), []);
        // Told once: with the next line of the kind, or when nothing more comes.
        let later = began + WHILE;
        assert_eq!(lines.may(("refused", "a"), later), (true, 49_980));
        assert_eq!(lines.over(later), []);
        for _ in 0..30 {
            lines.may(("refused", "a"), later);
        }
        assert_eq!(lines.over(later + WHILE), [(("refused", "a"), 11)]);
        assert_eq!(lines.over(later + 9 * WHILE), []);
    }
}
