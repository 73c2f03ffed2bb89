//! Lines that are kept with the attempt, up to its limit.

use super::{Attempt, shortened};
use crate::contract::log::{Host, Level};
use crate::outcome::LogLine;

/// Bytes that a line costs besides its text, so that empty lines are bounded too.
const LINE_COST: u64 = 64;
/// Bytes of one line.
const MOST_LINE: usize = 8 << 10;

impl Host for Attempt {
    async fn write(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        let message = self.reach.scrubber.scrub(&message);
        let text = shortened(&message, MOST_LINE);
        let cost = LINE_COST + u64::try_from(text.len()).unwrap_or(u64::MAX);
        if cost > self.log_left {
            self.effects.lines_dropped += 1;
            return Ok(());
        }
        self.log_left -= cost;
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let line = LogLine { at: self.since_start(), level: level.to_owned(), text: text.to_owned() };
        self.effects.lines.push(line);
        Ok(())
    }
}
