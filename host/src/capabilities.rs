//! What a plugin can reach: the CRM, its state, the outside, its settings, its log. Nothing else exists for it.
//!
//! - Each call does the same: count → check the grant → act → record on the attempt.
//! - What an attempt may collect in the host's memory is bounded, whatever the plugin does.
//! - No write to the CRM is sent twice (`writes`).
//! - State is read as it is stored, and written to the attempt's [`Effects`] only.
//!
//! Not here: instances and their limits of memory and time (`sandbox`), and what becomes of the effects (`journal`).

mod crm;
mod doubt;
mod expected;
mod http;
mod log;
mod state;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::contract;
use crate::journal::{self, DeliveryId, StateUse, StateView};
use crate::outcome::{Effects, FaultKind, HostCall, Quota};
use crate::plugin::{Grants, Limits, RAISE};
use crate::secret::Scrubber;
pub use http::{Outside, OutsideAnswer, OutsideAnswers, OutsideRequest};
pub use state::{STATE_KEYS, STATE_READ, STATE_READ_NONE};
pub use writes::{digest, safe};

/// Bytes of a call's request or answer that are kept for the operator.
const MOST_KEPT: usize = 64 << 10;
/// Bytes of requests and answers that one attempt keeps together.
const MOST_KEPT_TOGETHER: usize = 512 << 10;

/// Random bytes of one call: they are made in the host, while nothing interrupts it.
const MOST_RANDOM: u64 = 1 << 20;
/// Bytes of a recorded call's name.
const MOST_CALL: usize = 300;

/// What one attempt may reach.
pub struct Reach {
    /// What is allowed.
    pub grants: Arc<Grants>,
    /// The CRM that the event came from; `None` where none is configured.
    pub crm: Option<crate::crm::Client>,
    /// That CRM's name.
    pub account: String,
    /// Which event it is about, for the log.
    pub event: crate::event::EventId,
    /// Which delivery this is an attempt at: its writes are known by it.
    pub delivery: DeliveryId,
    /// Where writes are recorded.
    pub journal: journal::Handle,
    /// The plugin's state for that CRM.
    pub state: StateView,
    /// The way to the outside.
    pub outside: Outside,
    /// The settings, as JSON.
    pub settings: Arc<str>,
    /// What takes the configuration's secrets out of what is recorded.
    pub scrubber: Scrubber,
}

/// A limit that ended an attempt, as it travels through the engine.
#[derive(Debug)]
pub(crate) struct LimitHit {
    pub(crate) kind: FaultKind,
    pub(crate) detail: String,
}

impl fmt::Display for LimitHit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.detail)
    }
}

impl std::error::Error for LimitHit {}

/// What an instance carries: its reach, and what it has done so far.
pub(crate) struct Attempt {
    reach: Reach,
    began: Instant,
    /// How long it may take.
    time: Duration,
    calls_left: u32,
    calls: u32,
    log_left: u64,
    log: u64,
    kept: usize,
    effects: Effects,
    /// How often each write was asked for, by its digest.
    asked: BTreeMap<[u8; 16], u32>,
    /// The plugin's own writes, which its reads must see.
    overlay: BTreeMap<String, state::Pending>,
    /// What its plugin may keep, and what it kept when that was looked at.
    quota: Quota,
    kept_state: Option<StateUse>,
    /// Bytes of keys and values in `overlay`.
    written: u64,
    /// Keys whose stored value is recorded.
    state_read: BTreeSet<String>,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Attempt {
    pub(crate) fn new(reach: Reach, limits: &Limits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(1_024);
        Self {
            reach,
            began: Instant::now(),
            time: limits.time,
            calls_left: limits.calls,
            calls: limits.calls,
            log_left: limits.log,
            log: limits.log,
            kept: 0,
            effects: Effects::default(),
            asked: BTreeMap::new(),
            overlay: BTreeMap::new(),
            quota: Quota { bytes: limits.state, keys: limits.keys },
            kept_state: None,
            written: 0,
            state_read: BTreeSet::new(),
            // No folder, no variable, no argument, no socket; standard output and error go nowhere.
            wasi: WasiCtx::builder().max_random_size(MOST_RANDOM).build(),
            table,
        }
    }

    /// The last line of the log, where it is an error: a panic's or an exception's words stand there.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.effects.lines.last().filter(|line| line.level == "error").map(|line| line.text.as_str())
    }

    /// What the attempt leaves behind.
    pub(crate) fn into_effects(mut self) -> Effects {
        self.effects.state.writes = state::writes(self.overlay);
        self.effects.state.quota = Some(self.quota);
        self.effects.counted = self.calls.saturating_sub(self.calls_left);
        self.effects.logged = self.log.saturating_sub(self.log_left);
        self.effects
    }

    fn count(&mut self) -> Result<(), LimitHit> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or_else(|| LimitHit {
            kind: FaultKind::CallLimit,
            detail: format!(
                "the plugin made more than {} host calls: it may be in a loop, or needs `calls` raised {RAISE}",
                self.calls
            ),
        })?;
        Ok(())
    }

    fn since_start(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A text as it may be recorded, shortened only after nothing is left in it that could be cut in half.
    fn label(&self, text: &str, most: usize) -> String {
        shortened(&self.reach.scrubber.scrub(text), most).to_owned()
    }

    fn record(&mut self, at: u64, call: String, request: &str, answer: Result<&str, &str>) {
        let (text, good) = match answer {
            Ok(text) => (text, true),
            Err(text) => (text, false),
        };
        let call = HostCall {
            at,
            took: self.since_start().saturating_sub(at),
            // A host's name can be as long as a plugin likes.
            call: shortened(&call, MOST_CALL).to_owned(),
            request: self.cut(request),
            answer: self.cut(text),
            good,
        };
        self.effects.calls.push(call);
    }

    fn cut(&mut self, text: &str) -> String {
        let text = self.reach.scrubber.scrub(text);
        let room = MOST_KEPT.min(MOST_KEPT_TOGETHER.saturating_sub(self.kept));
        let kept = shortened(&text, room);
        self.kept += kept.len();
        if kept.len() < text.len() { format!("{kept}… ({} bytes)", text.len()) } else { kept.to_owned() }
    }
}

/// Whether a recorded request or answer is only the start of what it was.
pub fn is_cut(recorded: &str) -> bool {
    let Some((kept, bytes)) = recorded.strip_suffix(" bytes)").and_then(|text| text.rsplit_once("… (")) else {
        return false;
    };
    bytes.parse::<usize>().is_ok_and(|bytes| bytes > kept.len())
}

/// The longest start of `text` that fits into `most` bytes.
pub(crate) fn shortened(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

impl WasiView for Attempt {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl contract::types::Host for Attempt {}

impl contract::settings::Host for Attempt {
    async fn get(&mut self) -> wasmtime::Result<String> {
        self.count()?;
        Ok(self.reach.settings.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_only_looks_cut_is_not_taken_for_one() {
        for whole in ["", "{}", "a… (1 bytes)", "… (0 bytes)", "10 bytes)", "a… (many bytes)"] {
            assert!(!is_cut(whole), "{whole}");
        }
        assert!(is_cut("a… (70000 bytes)"));
        assert!(is_cut("… (1 bytes)"));
    }
}
