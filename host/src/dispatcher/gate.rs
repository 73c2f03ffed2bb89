//! Whether a queue's deliveries may run: the breaker, and the wait for a CRM that can't be reached. Pure, without a clock.
//!
//! ```text
//! flowing ──many different events failed in a row──▶ paused ──its time is over──▶ probing (one delivery)
//!    ▲  ▲                                              ▲                             │  │
//!    │  └───────────────── it went well ───────────────┼─────────────────────────────┘  │
//!    │                                                 └──── it failed: twice as long ──┘
//!    └──the CRM answers again── waiting ◀── a delivery failed because the CRM can't be reached
//! ```
//!
//! - Nothing is lost meanwhile: the deliveries wait in the journal.
//! - After a pause or a wait the queue starts with one delivery, and twice as many after each that went well.

use std::time::Duration;

use serde::Serialize;

use crate::event::EventId;
use crate::outcome::{FaultKind, Outcome};

/// When a plugin is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Different events that fail in a row.
    pub failures: usize,
    /// The first pause.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(30), longest: Duration::from_secs(600) }
    }
}

/// What an attempt says about its plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works, whatever it thinks of this event.
    Well,
    /// It failed.
    Failed,
    /// It could not reach the CRM, and nobody can.
    Unreachable,
}

/// What an outcome says about the plugin.
pub(super) fn verdict(outcome: &Outcome, unreachable: bool) -> Verdict {
    match outcome {
        _ if unreachable => Verdict::Unreachable,
        // A wait that the plugin asked for is its plan, not its failure.
        Outcome::Done | Outcome::Skipped { .. } | Outcome::Rejected { .. } | Outcome::Retry { after: Some(_), .. } => {
            Verdict::Well
        }
        // The host would not have it sent.
        Outcome::Failed(fault) if fault.kind == FaultKind::Uncertain => Verdict::Well,
        Outcome::Retry { after: None, .. } | Outcome::Failed(_) => Verdict::Failed,
    }
}

/// Where a queue stands, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// Deliveries run.
    Flowing,
    /// It failed too often in a row; it is probed later.
    Paused {
        /// When it is probed: milliseconds since 1970-01-01 UTC.
        until: i64,
    },
    /// One delivery is to show whether it works again.
    Probing,
    /// Its CRM can't be reached.
    WaitingForCrm,
    /// An operator paused it.
    Held,
}

/// What changed, to be told to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Paused { until: i64 },
    Resumed,
}

#[derive(Debug)]
pub(super) struct Gate {
    breaker: Breaker,
    mode: Mode,
    pause: Duration,
    /// The events that failed since the last that went well.
    streak: Vec<EventId>,
    /// How many may run at once after a stop; grows until it no longer matters.
    most: usize,
    /// Whether an operator paused it.
    held: bool,
}

impl Gate {
    pub(super) fn new(breaker: Breaker) -> Self {
        let pause = breaker.pause;
        Self { breaker, mode: Mode::Flowing, pause, streak: Vec::new(), most: usize::MAX, held: false }
    }

    pub(super) fn mode(&self) -> Mode {
        if self.held { Mode::Held } else { self.mode }
    }

    /// An operator pauses it, or lets it go on: then what was before counts no more.
    pub(super) fn hold(&mut self, held: bool) {
        if self.held && !held {
            self.renewed();
        }
        self.held = held;
    }

    /// Different events that failed since the last that went well.
    pub(super) fn streak(&self) -> usize {
        self.streak.len()
    }

    /// The clock stepped by so much: a pause is no longer and no shorter for it.
    pub(super) fn clock_stepped(&mut self, step: i64) {
        if let Mode::Paused { until } = &mut self.mode {
            *until = until.saturating_add(step);
        }
    }

    /// When to look again by itself.
    pub(super) fn until(&self) -> Option<i64> {
        match self.mode {
            Mode::Paused { until } => Some(until),
            _ => None,
        }
    }

    /// How many may run at once, of a plugin that may run `size` at once.
    pub(super) fn places(&mut self, size: usize, now: i64) -> usize {
        if let Mode::Paused { until } = self.mode
            && until <= now
        {
            self.mode = Mode::Probing;
        }
        match self.mode() {
            Mode::Flowing => self.most.min(size),
            Mode::Probing => 1,
            Mode::Paused { .. } | Mode::WaitingForCrm | Mode::Held => 0,
        }
    }

    /// How many may be claimed beyond those that run: none while it is not known whether they can run.
    pub(super) fn ahead(&self, size: usize, ahead: usize) -> usize {
        if self.mode() == Mode::Flowing && self.most >= size { ahead } else { 0 }
    }

    /// Takes an attempt's end into account.
    pub(super) fn settled(&mut self, event: EventId, verdict: Verdict, now: i64) -> Option<Change> {
        match verdict {
            Verdict::Well => {
                let stopped = self.mode != Mode::Flowing;
                self.streak.clear();
                self.pause = self.breaker.pause;
                self.mode = Mode::Flowing;
                self.most = if stopped { 1 } else { self.most.saturating_mul(2) };
                stopped.then_some(Change::Resumed)
            }
            Verdict::Unreachable => {
                if self.mode != Mode::WaitingForCrm {
                    self.mode = Mode::WaitingForCrm;
                    self.most = 1;
                }
                None
            }
            Verdict::Failed => {
                if self.streak.len() < self.breaker.failures && !self.streak.contains(&event) {
                    self.streak.push(event);
                }
                let pause = match self.mode {
                    Mode::Flowing if self.streak.len() >= self.breaker.failures => self.pause,
                    Mode::Probing => self.pause.saturating_mul(2).min(self.breaker.longest),
                    _ => return None,
                };
                self.pause = pause;
                let until = now.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
                self.mode = Mode::Paused { until };
                Some(Change::Paused { until })
            }
        }
    }

    /// The CRM answers again.
    pub(super) fn reachable(&mut self) {
        if self.mode == Mode::WaitingForCrm {
            // A breaker that was open before has still to be closed by a delivery that goes well.
            self.mode = if self.streak.len() >= self.breaker.failures { Mode::Probing } else { Mode::Flowing };
        }
    }

    /// Another version of the plugin: what the last one did says nothing about it.
    pub(super) fn renewed(&mut self) {
        self.streak.clear();
        self.pause = self.breaker.pause;
        if matches!(self.mode, Mode::Paused { .. } | Mode::Probing) {
            self.mode = Mode::Flowing;
            self.most = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let second = Duration::from_secs(1);
        Gate::new(Breaker { failures: 3, pause: second, longest: second * 3 })
    }

    #[test]
    fn a_pause_is_no_longer_for_a_clock_that_went_back() {
        let mut gate = gate();
        let year = 365 * 24 * 3_600_000;
        let paused = (0..3).find_map(|_| gate.settled(EventId::new(), Verdict::Failed, year));
        assert_eq!(paused, Some(Change::Paused { until: year + 1_000 }));
        gate.clock_stepped(400 - year);
        assert_eq!((gate.places(4, 1_399), gate.places(4, 1_400)), (0, 1));
    }

    #[test]
    fn a_plugin_that_fails_on_many_events_is_paused_probed_and_resumed() {
        let (mut gate, events) = (gate(), [EventId::new(), EventId::new(), EventId::new()]);
        // The same event again and again says something about the event.
        for _ in 0..20 {
            assert_eq!(gate.settled(events[0], Verdict::Failed, 0), None);
        }
        assert_eq!(gate.settled(events[1], Verdict::Failed, 0), None);
        assert_eq!((gate.places(4, 0), gate.ahead(4, 64)), (4, 64));
        assert_eq!(gate.settled(events[2], Verdict::Failed, 0), Some(Change::Paused { until: 1_000 }));
        // What still ran when it was paused changes nothing.
        assert_eq!(gate.settled(EventId::new(), Verdict::Failed, 5), None);
        assert_eq!((gate.places(4, 999), gate.until()), (0, Some(1_000)));
        let mut pauses = Vec::new();
        let mut now = 1_000;
        for _ in 0..3 {
            assert_eq!((gate.places(4, now), gate.ahead(4, 64)), (1, 0));
            let Some(Change::Paused { until }) = gate.settled(EventId::new(), Verdict::Failed, now) else { panic!() };
            pauses.push(until - now);
            now = until;
        }
        assert_eq!(pauses, [2_000, 3_000, 3_000]);
        assert_eq!(gate.places(4, now), 1);
        assert_eq!(gate.settled(events[0], Verdict::Well, now), Some(Change::Resumed));
        let mut places = vec![gate.places(4, now)];
        for _ in 0..3 {
            assert_eq!(gate.settled(events[0], Verdict::Well, now), None);
            places.push(gate.places(4, now));
        }
        assert_eq!(places, [1, 2, 4, 4]);
        assert_eq!(gate.ahead(4, 64), 64);
    }

    #[test]
    fn waiting_for_the_crm_ends_when_it_answers_and_starts_with_one() {
        let mut gate = gate();
        assert_eq!(gate.settled(EventId::new(), Verdict::Unreachable, 0), None);
        assert_eq!((gate.places(4, i64::MAX), gate.until(), gate.mode()), (0, None, Mode::WaitingForCrm));
        gate.reachable();
        assert_eq!((gate.places(4, 0), gate.ahead(4, 64), gate.mode()), (1, 0, Mode::Flowing));
    }

    #[test]
    fn what_an_operator_paused_runs_again_only_when_an_operator_says_so() {
        let mut gate = gate();
        gate.hold(true);
        gate.renewed();
        gate.reachable();
        assert_eq!(gate.settled(EventId::new(), Verdict::Well, 0), None);
        assert_eq!((gate.places(4, i64::MAX), gate.ahead(4, 64), gate.mode()), (0, 0, Mode::Held));
        for _ in 0..3 {
            gate.settled(EventId::new(), Verdict::Failed, 0);
        }
        gate.hold(false);
        assert_eq!((gate.places(4, 0), gate.streak(), gate.mode()), (1, 0, Mode::Flowing));
    }

    #[test]
    fn a_new_version_gets_its_chance_at_once() {
        let mut gate = gate();
        for _ in 0..3 {
            gate.settled(EventId::new(), Verdict::Failed, 0);
        }
        assert_eq!(gate.places(4, 0), 0);
        gate.renewed();
        assert_eq!((gate.places(4, 0), gate.streak()), (1, 0));
    }
}
