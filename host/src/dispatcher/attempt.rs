//! One attempt: a place, the plugin, the decision, the record.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::gate::{self, Change, Verdict};
use super::{Counted, STORE_AGAIN, Shared, Signal, retry};
use crate::capabilities::Reach;
use crate::event::Event;
use crate::journal::{self, Claimed, Settled, Settlement};
use crate::outcome::{Effects, Fault, FaultKind, Next, Outcome};
use crate::plugin::RAISE;
use crate::registry::Live;
use crate::telemetry;

/// Interruptions after which a delivery is under suspicion, and runs with no other such of its queue beside it.
const SUSPECT_AFTER: u32 = 2;
/// Ends of the process while it ran under suspicion, after which a delivery is given up.
const MOST_CRASHES: u32 = 3;
/// Attempts that may go uncounted: a delivery that itself brings the CRM down would come back for ever.
const MOST_EXCUSED: u32 = 20;
/// How often a large event is in memory while it is read and handed over: in the store's hands, in the host's, on its way.
const COPIES: u64 = 3;
/// Milliseconds before an event that could not be read from the store is read again.
const READ_AGAIN: i64 = 5_000;
/// Milliseconds before a write in doubt is looked for again.
const LOOK_AGAIN: i64 = 2_000;

/// Brings one delivery to its end, whatever fails on the way: a claimed delivery that nobody settles would run for ever.
pub(super) async fn deliver(shared: Arc<Shared>, claimed: Claimed, counted: Counted) {
    if AssertUnwindSafe(attempt(&shared, &claimed, &counted)).catch_unwind().await.is_ok() {
        return;
    }
    telemetry::host_fault("dispatcher", &"an attempt was broken off");
    let fault = Fault::new(FaultKind::Host, "the host failed beside the plugin: its log says more");
    let (outcome, now) = (Outcome::Failed(fault), shared.tools.clock.now());
    let next = retry::decide(&shared.options.retry, claimed.failures, &outcome, rand::random(), now);
    let (delivery, attempt) = (claimed.delivery, claimed.attempt);
    let (version, effects) = (String::new(), Effects::default());
    let settlement = Settlement { delivery, attempt, version, started_at: now, ended_at: now, outcome, effects, next };
    if AssertUnwindSafe(settle(&shared, &claimed, Arc::new(settlement))).catch_unwind().await.is_err() {
        // The next start finds it; until then this is told.
        shared.tools.parts.failed("deliveries");
    }
}

async fn attempt(shared: &Arc<Shared>, claimed: &Claimed, counted: &Counted) {
    let suspect = claimed.interruptions >= SUSPECT_AFTER;
    let line = Arc::clone(&counted.line);
    let alone = if suspect { Some(line.alone.lock().await) } else { None };
    // What is left in the store until now is held from now on.
    let needs = |live: &Live| live.limits.held().saturating_add(claimed.unread.saturating_mul(COPIES));
    let newest = || shared.tools.registry.snapshot().plugins.get(&claimed.queue.plugin).cloned();
    let (place, live) = loop {
        let Some(before) = newest() else { return release(shared, claimed, 0).await };
        let Some(place) = shared.places.take(counted.line.seat, needs(&before)).await else {
            // The queue is held back, or the host stops: what has not begun does not begin.
            return release(shared, claimed, 0).await;
        };
        // The newest version, however long it waited; one that was removed meanwhile runs when it returns.
        let Some(live) = newest() else { return release(shared, claimed, 0).await };
        if needs(&live) <= needs(&before) {
            break (place, live);
        }
    };
    let started_at = shared.tools.clock.now();
    let given_up = claimed.crashes >= MOST_CRASHES;
    let (outcome, effects) = if given_up {
        let words = "the host's process ended each time while this delivery ran: the system's log may say why";
        (Outcome::Failed(Fault::new(FaultKind::Ended, words)), Effects::default())
    } else {
        let event = match whole(shared, claimed).await {
            Ok(event) => Ok(event),
            // It is this event's page: tried as often as anything that fails, and given up then.
            Err(error @ (journal::Error::Damaged(_) | journal::Error::Store(_))) => {
                telemetry::store_refused("event", &error);
                Err(Fault::new(
                    FaultKind::Host,
                    "the event can't be read: the journal is damaged; see `salesman-host journal check`",
                ))
            }
            Err(error) => {
                telemetry::store_refused("event", &error);
                drop(place);
                let until = shared.tools.clock.now().saturating_add(READ_AGAIN);
                return release(shared, claimed, until).await;
            }
        };
        if suspect && let Err(error) = shared.tools.journal.begin(claimed.delivery).await {
            telemetry::store_refused("begin", &error);
            return release(shared, claimed, 0).await;
        }
        match event {
            Ok(event) => invoke(shared, &live, claimed, event).await,
            Err(fault) => (Outcome::Failed(fault), Effects::default()),
        }
    };
    // One at a time means that the next attempt sees this one's state. Else the place is free now, and what has yet to be
    // stored keeps the memory that it takes: on a store that refuses it would grow without end.
    let _kept = if live.concurrency == 1 { place } else { place.left_with(effects.weight()) };
    // Asked after the place is free again, where it is: it may take seconds.
    let unreachable = crm_is_away(shared, claimed, &outcome, &effects).await;
    let ended_at = shared.tools.clock.now();
    let uncounted = claimed.attempt.saturating_sub(claimed.failures);
    let in_doubt = !unreachable && effects.in_doubt && is_excusable(&outcome) && uncounted <= MOST_EXCUSED;
    let next = if given_up {
        Next::Dead
    } else if in_doubt {
        // Whether a write was done is looked for again: neither the plugin nor the event has failed.
        Next::Again { at: ended_at.saturating_add(LOOK_AGAIN), counts: false }
    } else if unreachable && uncounted <= MOST_EXCUSED {
        Next::Again { at: ended_at, counts: false }
    } else {
        retry::decide(&shared.options.retry, claimed.failures, &outcome, rand::random(), ended_at)
    };
    let (delivery, attempt, version) = (claimed.delivery, claimed.attempt, live.version());
    let settlement = Settlement { delivery, attempt, version, started_at, ended_at, outcome, effects, next };
    let settlement = Arc::new(settlement);
    let told = |settlement: &Settlement, unreachable: bool| {
        if !in_doubt {
            judge(shared, claimed, counted, gate::verdict(&settlement.outcome, unreachable), ended_at);
        }
        telemetry::delivered(claimed, &settlement.outcome, settlement.next, &settlement.effects, ended_at);
    };
    // What the gate has to know is known before the delivery can be claimed again; but whether there is room for state shows
    // only when it is stored.
    let may_find_no_room = !settlement.effects.state.writes.is_empty();
    if !may_find_no_room {
        told(&settlement, unreachable);
    }
    match settle(shared, claimed, Arc::clone(&settlement)).await {
        Some(all) => {
            let outcome = Outcome::Failed(Fault::new(FaultKind::StateLimit, state_full(&live, all)));
            let next = retry::decide(&shared.options.retry, claimed.failures, &outcome, rand::random(), ended_at);
            // Without success nothing of its state is stored: for this there is always room.
            let settlement = Arc::new(Settlement { outcome, next, ..(*settlement).clone() });
            told(&settlement, false);
            settle(shared, claimed, settlement).await;
        }
        None if may_find_no_room => told(&settlement, unreachable),
        None => {}
    }
    drop(alone);
}

fn state_full(live: &Live, all: bool) -> String {
    if all {
        return "the state of all plugins together has half of the journal's size: raise `retention.max_mib`, or have \
                what is no longer needed deleted"
            .to_owned();
    }
    format!(
        "the plugin would keep more than {} MiB or {} keys of state for this CRM: raise `state_mib` or `state_keys` \
         {RAISE} if it needs more",
        live.limits.state >> 20,
        live.limits.keys
    )
}

/// Stores an attempt; where its state has no room, tells whether that of all plugins has none.
async fn settle(shared: &Shared, claimed: &Claimed, settlement: Arc<Settlement>) -> Option<bool> {
    loop {
        match shared.tools.journal.settle(Arc::clone(&settlement)).await {
            Ok(Settled::Applied) => {
                show(shared, claimed, settlement);
                return None;
            }
            Ok(Settled::Conflict) => {
                telemetry::state_conflict(claimed);
                return None;
            }
            Ok(Settled::StateFull { all }) => return Some(all),
            // The journal ends after the dispatcher; what it no longer takes is run again at the next start.
            Err(journal::Error::Closed) => return None,
            Err(error) => {
                telemetry::store_refused("settle", &error);
                tokio::time::sleep(STORE_AGAIN).await;
            }
        }
    }
}

/// Costs nothing while nobody watches.
fn show(shared: &Shared, claimed: &Claimed, settlement: Arc<Settlement>) {
    if settlement.next == Next::Dead && shared.signals.receiver_count() > 0 {
        let (queue, delivery, event) = (claimed.queue.clone(), claimed.delivery, claimed.event.name.clone());
        let code = settlement.outcome.letter_code(&settlement.effects).to_owned();
        shared.signals.send(Signal::DeadLetter { queue, delivery, event, code }).ok();
    }
    shared.feed.show(claimed, settlement);
}

/// The event with all its fields.
async fn whole(shared: &Shared, claimed: &Claimed) -> Result<Event, journal::Error> {
    if claimed.unread == 0 {
        return Ok(claimed.event.clone());
    }
    let (journal, claimed) = (shared.tools.journal.clone(), claimed.clone());
    // A store that has gone is as one that is closed.
    tokio::task::spawn_blocking(move || journal.whole(&claimed)).await.unwrap_or(Err(journal::Error::Closed))
}

/// Gives it back, not to be tried before this time.
async fn release(shared: &Shared, claimed: &Claimed, until: i64) {
    loop {
        match shared.tools.journal.put_off(claimed.delivery, until).await {
            Ok(()) | Err(journal::Error::Closed) => return,
            Err(error) => {
                telemetry::store_refused("release", &error);
                tokio::time::sleep(STORE_AGAIN).await;
            }
        }
    }
}

/// Whether an attempt can have ended so because of its calls' answers.
fn is_excusable(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Retry { .. } => true,
        // A plugin that tries again by itself, while calls fail at once, meets its other limits.
        Outcome::Failed(fault) => {
            use FaultKind::{CallLimit, CpuLimit, Exit, TimeLimit, Trap};
            matches!(fault.kind, Trap | TimeLimit | Exit | CallLimit | CpuLimit)
        }
        Outcome::Done | Outcome::Skipped { .. } | Outcome::Rejected { .. } => false,
    }
}

/// Whether an attempt failed only because the CRM can't be reached by anybody.
async fn crm_is_away(shared: &Shared, claimed: &Claimed, outcome: &Outcome, effects: &Effects) -> bool {
    if !is_excusable(outcome) || !effects.crm_unanswered {
        return false;
    }
    match shared.tools.crm.get(&claimed.event.account) {
        Some(client) => client.is_away().await,
        None => false,
    }
}

fn judge(shared: &Shared, claimed: &Claimed, counted: &Counted, verdict: Verdict, now: i64) {
    let line = &counted.line;
    let mut gate = line.gate();
    let change = gate.settled(claimed.event.id, verdict, now);
    // The CRM may have come back between its last word and this one: nobody would open the gate then.
    if verdict == Verdict::Unreachable
        && let Some(client) = shared.tools.crm.get(&claimed.event.account)
        && *client.reachable().borrow()
    {
        gate.reachable();
    }
    let streak = gate.streak();
    drop(gate);
    match change {
        Some(Change::Paused { until }) => {
            telemetry::plugin_paused(&line.queue, streak, until.saturating_sub(now));
            shared.signals.send(Signal::Paused(line.queue.clone())).ok();
        }
        Some(Change::Resumed) => {
            telemetry::plugin_resumed(&line.queue);
            shared.signals.send(Signal::Resumed(line.queue.clone())).ok();
        }
        None => {}
    }
    if change.is_some() || verdict == Verdict::Unreachable {
        shared.places.limit(line.seat, if matches!(change, Some(Change::Resumed)) { 1 } else { 0 });
    }
}

async fn invoke(shared: &Arc<Shared>, live: &Arc<Live>, claimed: &Claimed, event: Event) -> (Outcome, Effects) {
    let tools = &shared.tools;
    let reach = Reach {
        grants: Arc::clone(&live.grants),
        crm: tools.crm.get(&claimed.event.account).cloned(),
        account: claimed.event.account.clone(),
        event: claimed.event.id,
        delivery: claimed.delivery,
        journal: tools.journal.clone(),
        state: tools.journal.state(&claimed.queue.plugin, &claimed.event.account),
        outside: tools.outside.clone(),
        settings: Arc::clone(&live.settings),
        scrubber: tools.scrubber.clone(),
    };
    let (sandbox, live) = (Arc::clone(&tools.sandbox), Arc::clone(live));
    let attempt = claimed.attempt;
    // A task of its own, so that a panic in the host's part ends as this attempt's fault.
    let running =
        tokio::spawn(async move { sandbox.invoke(&live.compiled, event, attempt, reach, &live.limits).await });
    let (outcome, effects) = running.await.unwrap_or_else(|error| {
        telemetry::host_fault("sandbox", &error);
        let fault = Fault::new(FaultKind::Host, "the host failed while it ran the plugin: its log says more");
        (Outcome::Failed(fault), Effects::default())
    });
    // Calls and lines were recorded without; the plugin's last words are recorded, logged and told from here on.
    (outcome.with_words(|words| tools.scrubber.scrub(words).into_owned()), effects)
}
