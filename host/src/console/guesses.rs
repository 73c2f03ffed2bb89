//! Wrong passwords: how many are looked at before their sender waits, and what operators are told of them.
//!
//! - A guess is counted before it is looked at, and taken back if it was right: a hundred at once are no more than one after
//!   the other.
//! - A sender is an address (of IPv6 its network of 64 bits), as a trusted proxy names it. What is locked is the pair of
//!   name and sender, so a guesser locks nobody else out; a sender that tries many names waits as a whole.
//! - A name that is guessed at from many senders slows down for senders that were never right, and for them alone.
//! - What is kept is bounded. Neither passwords nor names that are no user's are kept or told: somebody may have typed a
//!   password there.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::sender::network;

/// Guesses of one sender at one name that are looked at, before it waits.
const MOST_AT_A_NAME: u32 = 5;
/// The same at all names.
const MOST_OF_A_SENDER: u32 = 50;
/// The first wait in milliseconds; it doubles.
const FIRST_WAIT: i64 = 60_000;
/// The longest wait. Wrong passwords are forgotten after two of these.
const LONGEST_WAIT: i64 = 15 * 60_000;
/// Guesses at one name from all senders that were never right: so many at once, and then one in so many milliseconds.
const AT_ONCE: i64 = 50;
const ONE_IN: i64 = 10_000;
/// What is remembered of each kind.
const MOST_KEPT: usize = 10_000;

/// The lines that one telling has at most; what is beyond is one more.
const MOST_LINES: usize = 5;
/// Between two tellings.
const TELL_EVERY: i64 = 5 * 60_000;
/// How long the first is collected.
const TELL_FIRST: i64 = 1_000;

type Name = [u8; 32];

#[derive(Default)]
pub(super) struct Guesses {
    counts: Mutex<Counts>,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Counts {
    pairs: HashMap<(IpAddr, Name), Count>,
    senders: HashMap<IpAddr, Count>,
    /// When the next guess at a user's name would be due, if all came at their pace.
    names: HashMap<Name, i64>,
    /// Who was right before, and when.
    known: HashMap<(IpAddr, Name), i64>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    guesses: u32,
    last: i64,
    until: i64,
}

/// A guess that is being looked at.
pub(super) struct Guess {
    from: IpAddr,
    name: Name,
    paced: bool,
}

impl Guesses {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a guess; or says how many seconds its sender has to wait.
    pub(super) fn begin(&self, from: IpAddr, name: &str, is_user: bool, now: i64) -> Result<Guess, u64> {
        let (from, name) = (network(from), Sha256::digest(name.as_bytes()).into());
        let mut counts = self.counts();
        let pair = (from, name);
        let until = |count: Option<&Count>| count.map_or(0, |count| count.until);
        let until = until(counts.pairs.get(&pair)).max(until(counts.senders.get(&from)));
        // No wait is longer than the longest: what lies further ahead is from before the clock went back.
        if (now..=now.saturating_add(LONGEST_WAIT)).contains(&(until - 1)) {
            return Err(seconds(until - now));
        }
        let paced = is_user && !counts.known.contains_key(&pair);
        if paced {
            let due = counts.names.get(&name).copied().unwrap_or(0).max(now);
            let due = if due - now > (AT_ONCE + 1) * ONE_IN { now } else { due };
            if due - now > AT_ONCE * ONE_IN {
                return Err(seconds(due - now - AT_ONCE * ONE_IN));
            }
            counts.names.insert(name, due + ONE_IN);
        }
        count(&mut counts.pairs, pair, MOST_AT_A_NAME, now);
        count(&mut counts.senders, from, MOST_OF_A_SENDER, now);
        Ok(Guess { from, name, paced })
    }

    /// It was right: it counts for nothing. The sender's other guesses still do, or one right password would pay for many
    /// wrong ones at other names.
    pub(super) fn right(&self, guess: Guess, now: i64) {
        self.unlooked(&guess);
        let mut counts = self.counts();
        let pair = (guess.from, guess.name);
        counts.pairs.remove(&pair);
        make_room(&mut counts.known, |at| *at, now);
        counts.known.insert(pair, now);
    }

    /// It was not looked at, and counts for nothing either.
    pub(super) fn unlooked(&self, guess: &Guess) {
        let mut counts = self.counts();
        let back = |count: &mut Count, most: u32| {
            count.guesses = count.guesses.saturating_sub(1);
            count.until = if count.guesses < most { 0 } else { count.until };
        };
        if let Some(pair) = counts.pairs.get_mut(&(guess.from, guess.name)) {
            back(pair, MOST_AT_A_NAME);
        }
        if let Some(sender) = counts.senders.get_mut(&guess.from) {
            back(sender, MOST_OF_A_SENDER);
        }
        if guess.paced
            && let Some(due) = counts.names.get_mut(&guess.name)
        {
            *due -= ONE_IN;
        }
    }

    /// Notes for the operators' log that somebody did not get in; tells in how many milliseconds it is to be written, where
    /// nobody writes it yet. `user`: the name, where it is a user's.
    pub(super) fn failed(&self, user: Option<&str>, from: IpAddr, now: i64) -> Option<i64> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let line = (user.unwrap_or(NOBODY).to_owned(), network(from));
        if failures.lines.contains_key(&line) || failures.lines.len() < MOST_LINES {
            *failures.lines.entry(line).or_default() += 1;
        } else {
            failures.others += 1;
        }
        if failures.awaited {
            return None;
        }
        failures.awaited = true;
        Some((failures.told_at + TELL_EVERY - now).clamp(TELL_FIRST, TELL_EVERY))
    }

    /// What is to be written: name, sender, how often.
    pub(super) fn told(&self, now: i64) -> Vec<(String, String, u64)> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Failures { lines, others, .. } =
            std::mem::replace(&mut *failures, Failures { told_at: now, ..Failures::default() });
        let others = Some(others).filter(|others| *others > 0);
        let others = others.map(|others| (NOBODY.to_owned(), "others".to_owned(), others));
        lines.into_iter().map(|((name, from), times)| (name, from.to_string(), times)).chain(others).collect()
    }
}

/// What stands in place of a name that is no user's.
const NOBODY: &str = "?";

#[derive(Default)]
struct Failures {
    lines: BTreeMap<(String, IpAddr), u64>,
    others: u64,
    told_at: i64,
    awaited: bool,
}

fn seconds(milliseconds: i64) -> u64 {
    u64::try_from(milliseconds).unwrap_or(0).div_ceil(1_000)
}

fn count<K: Eq + Hash + Clone>(counts: &mut HashMap<K, Count>, key: K, most: u32, now: i64) {
    let known = counts.get(&key).copied().filter(|count| now.abs_diff(count.last) < 2 * LONGEST_WAIT.unsigned_abs());
    if known.is_none() {
        make_room(counts, |count| count.last, now);
    }
    let mut count = known.unwrap_or_default();
    (count.guesses, count.last) = (count.guesses.saturating_add(1), now);
    if count.guesses >= most {
        count.until = now.saturating_add((FIRST_WAIT << (count.guesses - most).min(4)).min(LONGEST_WAIT));
    }
    counts.insert(key, count);
}

/// Drops what is old where there is no room, and else the older half: whoever fills it up is still slowed by name.
fn make_room<K: Eq + Hash + Clone, V>(kept: &mut HashMap<K, V>, last: impl Fn(&V) -> i64, now: i64) {
    if kept.len() < MOST_KEPT {
        return;
    }
    kept.retain(|_, value| now.abs_diff(last(value)) < 2 * LONGEST_WAIT.unsigned_abs());
    if kept.len() >= MOST_KEPT {
        let mut times: Vec<i64> = kept.values().map(&last).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or(now);
        kept.retain(|_, value| last(value) > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn guesses_that_come_at_once_are_no_more_than_guesses_one_by_one() {
        let (guesses, here) = (Guesses::default(), address("10.0.0.1"));
        let looked_at: Vec<_> = (0..100).filter_map(|_| guesses.begin(here, "anna", true, 0).ok()).collect();
        assert_eq!(looked_at.len(), 5);
        // One of them is right: whoever knows the password is not kept out by what came with it.
        let mut looked_at = looked_at.into_iter();
        guesses.right(looked_at.next().unwrap(), 0);
        assert!(guesses.begin(here, "anna", true, 0).is_ok());
    }

    #[test]
    fn a_guesser_locks_out_nobody_else_and_many_guessers_only_strangers() {
        let (guesses, anna) = (Guesses::default(), address("10.0.0.1"));
        let right = guesses.begin(anna, "anna", true, 0).unwrap();
        guesses.right(right, 0);
        // Of one network of IPv6, each time another address.
        let guess =
            |line: u32, host: u32| guesses.begin(address(&format!("2001:db8:0:{line:x}::{host:x}")), "anna", true, 0);
        assert_eq!((0..20).filter(|host| guess(1, *host).is_ok()).count(), 5);
        let looked_at = (2..1_000).filter(|line| guess(*line, 1).is_ok()).count();
        assert!(looked_at <= 50, "{looked_at}");
        assert_eq!(guess(1_001, 1).err(), Some(10), "a stranger waits for a moment");
        assert!(guesses.begin(anna, "anna", true, 0).is_ok(), "and who was right before does not");
        assert!(guesses.begin(address("10.0.0.9"), "viktor", true, 0).is_ok());
    }

    #[test]
    fn a_right_password_pays_for_no_wrong_ones_at_other_names() {
        let (guesses, here) = (Guesses::default(), address("10.0.0.1"));
        let mut looked_at = 0;
        for number in 0..500 {
            if let Ok(own) = guesses.begin(here, "own", true, 0) {
                guesses.right(own, 0);
            }
            looked_at += usize::from(guesses.begin(here, &format!("name {number}"), false, 0).is_ok());
        }
        assert_eq!(looked_at, 50);
    }

    #[test]
    fn what_is_kept_stays_small_whoever_comes() {
        let guesses = Guesses::default();
        for number in 0..30_000_u32 {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            drop(guesses.begin(from, &"x".repeat(100), false, i64::from(number)));
            guesses.failed(None, from, 0);
        }
        let counts = guesses.counts();
        assert!(counts.pairs.len() <= MOST_KEPT && counts.senders.len() <= MOST_KEPT && counts.names.is_empty());
    }

    #[test]
    fn operators_are_told_how_often_and_not_what() {
        let (guesses, here) = (Guesses::default(), address("10.0.0.1"));
        let now = 10 * TELL_EVERY;
        assert_eq!(guesses.failed(Some("anna"), here, now), Some(TELL_FIRST));
        assert_eq!(guesses.failed(Some("anna"), here, now), None);
        for number in 0..100 {
            guesses.failed(None, address(&format!("10.0.1.{number}")), now);
        }
        let told = guesses.told(now);
        assert_eq!(told.len(), MOST_LINES + 1);
        assert_eq!(told.iter().map(|(.., times)| times).sum::<u64>(), 102);
        assert!(told.contains(&("anna".to_owned(), "10.0.0.1".to_owned(), 2)), "{told:?}");
        assert_eq!(guesses.failed(None, here, now + 1_000), Some(TELL_EVERY - 1_000), "the next ones wait");
    }
}
