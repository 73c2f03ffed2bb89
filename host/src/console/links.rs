//! Addresses that open the console once, for whoever holds the data folder's token and has a browser.
//!
//! - A word is good once and for a while; of those that wait only digests are kept, and the last few of them.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use subtle::ConstantTimeEq;

use super::access::{digest, random};

/// Words that wait to be used.
const MOST: usize = 16;

/// The words that are good now, each with the time in which it is.
#[derive(Default)]
pub(super) struct Links(Mutex<VecDeque<([u8; 32], RangeInclusive<i64>)>>);

impl Links {
    pub(super) fn make(&self, now: i64, milliseconds: i64) -> String {
        let word = random();
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == MOST {
            words.pop_front();
        }
        words.push_back((digest(&word), now..=now.saturating_add(milliseconds)));
        word
    }

    /// Whether a word is good; from then on it is not.
    pub(super) fn take(&self, word: &str, now: i64) -> bool {
        let given = digest(word);
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it was made it is not good: the clock went back.
        words.retain(|(_, good)| good.contains(&now));
        let before = words.len();
        words.retain(|(known, _)| !bool::from(known.ct_eq(&given)));
        words.len() < before
    }
}
