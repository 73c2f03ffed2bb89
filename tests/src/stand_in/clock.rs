//! The CRM's wall clock, in the forms its columns and answers use.
//!
//! - The account's time zone is three hours ahead of UTC, as on the measured box.
//! - It only tells the time; nothing waits for it.

use jiff::civil::Date;
use jiff::tz::{TimeZone, offset};
use jiff::{Span, Timestamp, Zoned};

/// `2026-11-23 22:24:37`.
pub(super) fn stamp() -> String {
    now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The same with the seconds cut off, as activities store it.
pub(super) fn minute_stamp() -> String {
    now().strftime("%Y-%m-%d %H:%M:00").to_string()
}

/// Today, or a day that many days later.
pub(super) fn day(later: i32) -> String {
    let date: Date = now().date();
    date.saturating_add(Span::new().days(later)).to_string()
}

/// The hour after this one, the default of a new task.
pub(super) fn next_hour() -> String {
    let later = Timestamp::now().as_second().saturating_add(3600);
    Timestamp::from_second(later).map(zoned).unwrap_or_else(|_| now()).strftime("%H:%M").to_string()
}

/// `23.11.26,  22:24` from a stored stamp; empty from an empty one.
pub(super) fn short(stamp: &str) -> String {
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    if stamp.len() < 16 {
        return String::new();
    }
    format!("{}.{}.{},  {}", part(8, 10), part(5, 7), part(2, 4), part(11, 16))
}

fn now() -> Zoned {
    zoned(Timestamp::now())
}

fn zoned(moment: Timestamp) -> Zoned {
    moment.to_zoned(TimeZone::fixed(offset(3)))
}
