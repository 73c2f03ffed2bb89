//! What one attempt at a delivery came to, and what it leaves behind.
//!
//! - [`Outcome`] is a closed set. What happens next is a pure function of it (`dispatcher::retry`).
//! - Every [`Fault`] has a stable code, and a sentence that tells what to do.
//! - [`Effects`] are collected while the plugin runs and stored together with the outcome.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The plugin handled the event.
    Done,
    /// The plugin had nothing to do.
    Skipped {
        /// Why; may be empty.
        reason: String,
    },
    /// The plugin wants to be called again.
    Retry {
        /// Why.
        reason: String,
        /// The shortest wait.
        after: Option<Duration>,
    },
    /// The plugin says that it is never going to work.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The plugin did not answer.
    Failed(Fault),
}

impl Outcome {
    /// The word that is stored and shown.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped { .. } => "skipped",
            Self::Retry { .. } => "retry",
            Self::Rejected { .. } => "rejected",
            Self::Failed(_) => "failed",
        }
    }

    /// The stable code of a fault.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Failed(fault) => Some(fault.kind.code()),
            _ => None,
        }
    }

    /// The stable code by which its dead letter is found: a fault's, that of the host's own refusal, or the word.
    pub fn letter_code(&self, effects: &Effects) -> &'static str {
        match self {
            Self::Rejected { .. } => effects.refusal.unwrap_or(self.as_str()),
            other => other.code().unwrap_or(other.as_str()),
        }
    }

    /// The same with other words, such as without secrets.
    #[must_use]
    pub fn with_words(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Skipped { reason } => Self::Skipped { reason: change(&reason) },
            Self::Retry { reason, after } => Self::Retry { reason: change(&reason), after },
            Self::Rejected { reason } => Self::Rejected { reason: change(&reason) },
            Self::Failed(Fault { kind, detail }) => Self::Failed(Fault { kind, detail: change(&detail) }),
        }
    }

    /// Why, in words; empty where there is nothing to say.
    pub fn reason(&self) -> String {
        match self {
            Self::Done => String::new(),
            Self::Skipped { reason } | Self::Retry { reason, .. } | Self::Rejected { reason } => reason.clone(),
            Self::Failed(fault) => fault.to_string(),
        }
    }
}

/// Why a plugin did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// What happened, and what to do.
    pub detail: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.detail)
    }
}

/// The kinds of fault, each with a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The plugin panicked or hit an illegal instruction.
    Trap,
    /// It used up its processor time.
    CpuLimit,
    /// It took too long, waiting included.
    TimeLimit,
    /// It asked for more memory than it may have.
    MemoryLimit,
    /// It asked for larger tables than it may have.
    TableLimit,
    /// Its calls were nested too deep.
    StackOverflow,
    /// Its reply is larger than allowed.
    ReplyLimit,
    /// It made more host calls than it may.
    CallLimit,
    /// It would keep more state than it may.
    StateLimit,
    /// It handed over a text that is not UTF-8.
    Text,
    /// It handed over a pointer or a length that leads out of its memory.
    Pointer,
    /// It handed over a value that the contract does not know.
    Reply,
    /// It ended its own process.
    Exit,
    /// It could not be started.
    Start,
    /// The host's process ended while it ran, again and again.
    Ended,
    /// Whether something was sent to the outside before the store was restored can't be told.
    Uncertain,
    /// The host itself failed.
    Host,
}

impl FaultKind {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Trap => "plugin.trap",
            Self::CpuLimit => "plugin.cpu_limit",
            Self::TimeLimit => "plugin.time_limit",
            Self::MemoryLimit => "plugin.memory_limit",
            Self::TableLimit => "plugin.table_limit",
            Self::StateLimit => "plugin.state_limit",
            Self::Text => "plugin.bad_text",
            Self::Pointer => "plugin.bad_pointer",
            Self::Reply => "plugin.bad_value",
            Self::StackOverflow => "plugin.stack_overflow",
            Self::ReplyLimit => "plugin.reply_limit",
            Self::CallLimit => "plugin.call_limit",
            Self::Exit => "plugin.exit",
            Self::Start => "plugin.start",
            Self::Ended => "host.ended",
            Self::Uncertain => "uncertain",
            Self::Host => "host.internal",
        }
    }
}

/// What an attempt leaves behind, besides its outcome.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// The state that it read and wrote; takes effect only when the outcome is good.
    pub state: StateEffects,
    /// Its log.
    pub lines: Vec<LogLine>,
    /// Lines that did not fit.
    pub lines_dropped: u64,
    /// Every call to the CRM and to the outside with its answer, and the stored state that it saw.
    pub calls: Vec<HostCall>,
    /// How many calls to the host count against its limit: reads of state and settings as well.
    pub counted: u32,
    /// Bytes of log, as they count against its limit.
    pub logged: u64,
    /// The code by which the host itself refused its last safe update, or could not tell whether a write was done.
    pub refusal: Option<&'static str>,
    /// Whether its last call to the CRM brought no answer, or was still waiting for one.
    pub crm_unanswered: bool,
    /// Whether it ended while nobody could tell whether a write was done: the next attempt looks, which is no failure.
    pub in_doubt: bool,
    /// What it used.
    pub usage: Usage,
}

impl Effects {
    /// Bytes of memory that all of it takes until it is stored, about.
    pub fn weight(&self) -> u64 {
        /// What a value takes besides its text.
        const EACH: usize = 64;
        let lines: usize = self.lines.iter().map(|line| line.text.len() + EACH).sum();
        let of_call = |call: &HostCall| call.call.len() + call.request.len() + call.answer.len() + 2 * EACH;
        let calls: usize = self.calls.iter().map(of_call).sum();
        let seen: usize = self.state.seen.iter().map(|(key, _)| key.len() + EACH).sum();
        let value = |write: &StateWrite| if let StateWrite::Set(value) = write { value.len() } else { 0 };
        let writes: usize = self.state.writes.iter().map(|(key, write)| key.len() + value(write) + EACH).sum();
        u64::try_from(lines + calls + seen + writes).unwrap_or(u64::MAX)
    }
}

/// What an attempt did to its plugin's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateEffects {
    /// Keys whose stored value the plugin saw, with the version seen (`None`: there was no such key). Where one has
    /// changed by the time of settling and something was written, the attempt is run again.
    pub seen: Vec<(String, Option<u64>)>,
    /// The last word on each key, in order of the keys.
    pub writes: Vec<(String, StateWrite)>,
    /// What its plugin may keep; `None`: it is not looked at.
    pub quota: Option<Quota>,
}

/// What a plugin may keep of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How many keys.
    pub keys: u64,
}

/// The last word on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateWrite {
    /// The key has this value.
    Set(String),
    /// The key is gone.
    Delete,
    /// The number at the key grows by this much.
    Add(i64),
}

/// One line of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// Microseconds since the attempt began.
    pub at: u64,
    /// `debug`, `info`, `warn`, `error`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// One call that a plugin made through the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostCall {
    /// Microseconds since the attempt began.
    pub at: u64,
    /// How long it took, in microseconds.
    pub took: u64,
    /// What was called: `crm deal.list`, `http POST https://chat.example.com`.
    pub call: String,
    /// What was sent, without credentials; cut where it is long.
    pub request: String,
    /// What came back, or the error's words; cut where it is long.
    pub answer: String,
    /// Whether it brought a good answer.
    pub good: bool,
}

/// What an attempt used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Processor time in microseconds, the host's part of it included.
    pub cpu: u64,
    /// Time from start to end in microseconds.
    pub wall: u64,
    /// The largest size of its memories in bytes.
    pub memory: u64,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Over: handled.
    Done,
    /// Over: nothing to do.
    Skipped,
    /// Over until an operator looks: a dead letter.
    Dead,
    /// To be run again.
    Again {
        /// When, in milliseconds since 1970-01-01 UTC.
        at: i64,
        /// Whether the attempt counts towards giving up.
        counts: bool,
    },
}
