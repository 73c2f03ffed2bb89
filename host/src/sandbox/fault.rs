//! What the engine reports, as a fault with a name.

use wasmtime::{Error, Trap};
use wasmtime_wasi::I32Exit;

use super::engine::{Refused, StoreLimits, TABLE_ELEMENTS};
use crate::capabilities::{LimitHit, shortened};
use crate::outcome::{Fault, FaultKind};
use crate::plugin::{Limits, RAISE};

/// Bytes of somebody else's words in a reason.
const MOST_TOLD: usize = 2_000;

/// Where an attempt failed.
pub(super) enum Stage {
    /// While the instance was made.
    Start(Error),
    /// In the handler.
    Handle(Error),
}

/// `told` is the attempt's last log line, where that is an error.
pub(super) fn of(stage: Stage, memory: &StoreLimits, limits: &Limits, told: Option<&str>) -> Fault {
    let (error, starting) = match stage {
        Stage::Start(error) => (error, true),
        Stage::Handle(error) => (error, false),
    };
    if let Some(limit) = error.downcast_ref::<LimitHit>() {
        return Fault::new(limit.kind, limit.detail.clone());
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Fault::new(
            FaultKind::Exit,
            format!("the plugin ended itself with exit code {code}: return a reply instead"),
        );
    }
    let trap = error.downcast_ref::<Trap>();
    if trap.is_none() && error.root_cause().to_string().contains("fuel allocated for hostcalls") {
        return Fault::new(
            FaultKind::CallLimit,
            "the plugin handed more than 4 MiB to the host in one call: send less at once",
        );
    }
    if trap == Some(&Trap::StackOverflow) {
        return Fault::new(
            FaultKind::StackOverflow,
            "the plugin's calls are nested too deep: it may call itself without end",
        );
    }
    if let Some((kind, what)) = broken_contract(trap, &error) {
        return Fault::new(kind, format!("{what}: {}; build the plugin with the SDK", words(&error)));
    }
    // A plugin that is refused memory usually panics or traps right after; the refusal is the cause.
    match memory.refused() {
        Some(Refused::Memory) => {
            return Fault::new(
                FaultKind::MemoryLimit,
                format!(
                    "the plugin wanted more than its {} MiB of memory: raise `memory_mib` {RAISE} if it needs more",
                    limits.memory >> 20
                ),
            );
        }
        Some(Refused::Table) => {
            return Fault::new(
                FaultKind::TableLimit,
                format!("the plugin wanted a table of more than {TABLE_ELEMENTS} elements: tell its author"),
            );
        }
        None => {}
    }
    if starting {
        return Fault::new(FaultKind::Start, format!("the plugin could not be started: {}", words(&error)));
    }
    // A panic or an exception is told by the SDK in the log, with its place; the engine knows the instruction alone.
    if let Some(told) = told {
        return Fault::new(FaultKind::Trap, format!("the plugin failed: {}", shortened(told, MOST_TOLD)));
    }
    let what = trap.map_or_else(|| error.root_cause().to_string(), ToString::to_string);
    Fault::new(FaultKind::Trap, format!("the plugin stopped: {what}\n{}", words(&error)))
}

/// What a plugin handed over that is not what it says.
fn broken_contract(trap: Option<&Trap>, error: &Error) -> Option<(FaultKind, &'static str)> {
    if trap.is_some() {
        return None;
    }
    let words = format!("{error:#}");
    let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if says(&["invalid utf-8", "incomplete utf-8"]) {
        return Some((FaultKind::Text, "the plugin handed over a text that is not UTF-8"));
    }
    if says(&["out of bounds", "not aligned", "beyond end of memory"]) {
        return Some((FaultKind::Pointer, "the plugin handed over a place that is not in its memory"));
    }
    if says(&["discriminant", "unknown handle", "invalid variant"]) {
        return Some((FaultKind::Reply, "the plugin handed over a value that the contract does not know"));
    }
    None
}

/// The engine's words with the plugin's own frames.
fn words(error: &Error) -> String {
    let text = format!("{error:#}");
    shortened(&text, MOST_TOLD).to_owned()
}
