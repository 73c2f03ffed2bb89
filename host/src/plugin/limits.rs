//! The bounds of a plugin: what every plugin has, what one asks for beyond that, and what none can have.
//!
//! - **A limit above the host's default is a wish** like any permission: it is granted, or not had.
//! - **Nobody raises a limit beyond its maximum**: manifest, grant and configuration are all measured by [`KINDS`].
//! - The configuration's own `[plugins.NAME.limits]` is the administrator's word: such a key is nothing to ask for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a limit is raised, for the words of faults.
pub const RAISE: &str =
    "under `[limits]` of `plugin.toml`, or under `[plugins.NAME.limits]` of the host's configuration";

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its key under `[limits]`.
    pub key: &'static str,
    /// What every plugin has.
    pub default: u64,
    /// What none can have more of.
    pub most: u64,
    /// What is counted, in words behind the number.
    pub words: &'static str,
}

const fn kind(key: &'static str, default: u64, most: u64, words: &'static str) -> Kind {
    Kind { key, default, most, words }
}

/// How many limits there are.
const COUNT: usize = 8;

/// All limits, in the order of [`LimitsPatch::values`].
pub const KINDS: [Kind; COUNT] = [
    kind("memory_mib", 64, 512, "MiB of memory"),
    kind("cpu_ms", 1_000, 60_000, "ms of processor time for an event"),
    kind("time_ms", 30_000, 600_000, "ms from start to end of an event"),
    kind("calls", 1_000, 20_000, "calls to the host for an event"),
    kind("log_kib", 64, 1_024, "KiB of log for an event"),
    kind("reply_kib", 16, 256, "KiB of a reply's text"),
    kind("state_mib", 64, 1_024, "MiB of its own state for each CRM"),
    kind("state_keys", 100_000, 1_000_000, "keys of its own state for each CRM"),
];

/// The bounds of one attempt, and of what a plugin keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, all memories of the plugin together.
    pub memory: u64,
    /// Processor time.
    pub cpu: Duration,
    /// Time from start to end, waiting for the CRM included.
    pub time: Duration,
    /// Calls to the CRM, to the outside and to state, together.
    pub calls: u32,
    /// Bytes of log.
    pub log: u64,
    /// Bytes of the reply's text.
    pub reply: u64,
    /// Bytes of state, keys and values, for each account.
    pub state: u64,
    /// Keys of state for each account.
    pub keys: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(KINDS.map(|kind| kind.default))
    }
}

impl Limits {
    /// The largest memory that any plugin can be given; the instance pool is made for it.
    pub const MOST_MEMORY: u64 = 512 << 20;
    /// Bytes that one attempt may write to state: all of it waits in memory for the outcome.
    pub const STATE_WRITES: u64 = 4 << 20;
    /// What an attempt holds in the host's memory besides its own, its log and its reply: recorded calls, written state,
    /// what is on its way from and to the plugin.
    const HELD_BESIDES: u64 = Self::STATE_WRITES + (4 << 20);

    fn of([memory, cpu, time, calls, log, reply, state, keys]: [u64; COUNT]) -> Self {
        Self {
            memory: memory << 20,
            cpu: Duration::from_millis(cpu),
            time: Duration::from_millis(time),
            calls: u32::try_from(calls).unwrap_or(u32::MAX),
            log: log << 10,
            reply: reply << 10,
            state: state << 20,
            keys,
        }
    }

    /// These limits with the patch's own in their place, none of them beyond its maximum.
    #[must_use]
    pub fn with(&self, patch: &LimitsPatch) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut values = [
            self.memory >> 20,
            millis(self.cpu),
            millis(self.time),
            self.calls.into(),
            self.log >> 10,
            self.reply >> 10,
            self.state >> 20,
            self.keys,
        ];
        for ((value, own), kind) in values.iter_mut().zip(patch.values()).zip(KINDS) {
            *value = own.unwrap_or(*value).min(kind.most);
        }
        Self::of(values)
    }

    /// Bytes of memory that an attempt may take at most, in its instance and in the host.
    pub fn held(&self) -> u64 {
        // A line of the log costs its place in a list and, at the end, its form in the store.
        self.memory + 2 * self.log + self.reply + Self::HELD_BESIDES
    }
}

/// Some limits; the others stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsPatch {
    /// Mebibytes of memory.
    pub memory_mib: Option<u64>,
    /// Milliseconds of processor time.
    pub cpu_ms: Option<u64>,
    /// Milliseconds from start to end.
    pub time_ms: Option<u64>,
    /// Host calls.
    pub calls: Option<u64>,
    /// Kibibytes of log.
    pub log_kib: Option<u64>,
    /// Kibibytes of the reply's text.
    pub reply_kib: Option<u64>,
    /// Mebibytes of state for each CRM.
    #[serde(default)]
    pub state_mib: Option<u64>,
    /// Keys of state for each CRM.
    #[serde(default)]
    pub state_keys: Option<u64>,
}

impl LimitsPatch {
    /// A patch of these values, in the order of [`KINDS`].
    pub fn of(values: [Option<u64>; COUNT]) -> Self {
        let [memory_mib, cpu_ms, time_ms, calls, log_kib, reply_kib, state_mib, state_keys] = values;
        Self { memory_mib, cpu_ms, time_ms, calls, log_kib, reply_kib, state_mib, state_keys }
    }

    /// Its values, in the order of [`KINDS`].
    pub fn values(&self) -> [Option<u64>; COUNT] {
        let Self { memory_mib, cpu_ms, time_ms, calls, log_kib, reply_kib, state_mib, state_keys } = *self;
        [memory_mib, cpu_ms, time_ms, calls, log_kib, reply_kib, state_mib, state_keys]
    }

    /// What it sets, with its value.
    pub fn set(&self) -> impl Iterator<Item = (Kind, u64)> + use<> {
        KINDS.into_iter().zip(self.values()).filter_map(|(kind, value)| Some((kind, value?)))
    }

    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        self.set().next().is_none()
    }

    fn combined(&self, other: &Self, how: impl Fn(Kind, Option<u64>, Option<u64>) -> Option<u64>) -> Self {
        let mut values = [None; COUNT];
        for (((value, kind), own), other) in values.iter_mut().zip(KINDS).zip(self.values()).zip(other.values()) {
            *value = how(kind, own, other);
        }
        Self::of(values)
    }

    /// What of it lies above the host's defaults, and is not decided already: that has to be granted.
    #[must_use]
    pub fn raised(&self, decided: &Self) -> Self {
        self.combined(decided, |kind, own, decided| own.filter(|own| *own > kind.default && decided.is_none()))
    }

    /// The larger of both, key by key.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.combined(other, |_, own, other| own.max(other))
    }

    /// These limits, as far as they are not above the defaults, or granted.
    #[must_use]
    pub fn within(&self, granted: &Self) -> Self {
        self.combined(granted, |kind, own, granted| {
            own.map(|own| own.min(granted.unwrap_or(kind.default).max(kind.default)))
        })
    }

    /// What of these wishes was not granted, in the manifest's own words.
    pub fn missing(&self, granted: &Self) -> Vec<String> {
        let beyond = self.combined(granted, |_, own, granted| own.filter(|own| granted.is_none_or(|had| had < *own)));
        beyond.set().map(|(kind, value)| format!("limit {} = {value}", kind.key)).collect()
    }

    /// Whether each is within what a plugin can have at all.
    ///
    /// # Errors
    /// A sentence about the first that is not.
    pub fn check(&self) -> Result<(), String> {
        match self.set().find(|(kind, value)| *value > kind.most || *value == 0 && kind.key == "memory_mib") {
            None => Ok(()),
            Some((kind, value)) => {
                Err(format!("`{}` must be between 1 and {}, no plugin gets more: not {value}", kind.key, kind.most))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_whatever_its_size_leads_beyond_a_maximum() {
        let most = Limits::default().with(&LimitsPatch::of([Some(u64::MAX); COUNT]));
        assert_eq!(most, Limits::of(KINDS.map(|kind| kind.most)));
        assert_eq!((most.memory, most.calls), (Limits::MOST_MEMORY, 20_000));
        for (at, kind) in KINDS.iter().enumerate() {
            let mut values = [None; COUNT];
            values[at] = Some(kind.most);
            assert_eq!(LimitsPatch::of(values).check(), Ok(()));
            values[at] = Some(kind.most + 1);
            assert!(LimitsPatch::of(values).check().unwrap_err().contains(kind.key));
        }
        assert_eq!(Limits::default().with(&LimitsPatch::default()), Limits::default());
    }

    #[test]
    fn what_was_not_granted_is_not_had_and_what_lies_below_the_default_needs_no_grant() {
        let asked = LimitsPatch { memory_mib: Some(256), cpu_ms: Some(300), log_kib: Some(512), ..Default::default() };
        let none = LimitsPatch::default();
        let wish = asked.raised(&none);
        assert_eq!(wish, LimitsPatch { cpu_ms: None, ..asked.clone() });
        assert_eq!(wish.missing(&none), ["limit memory_mib = 256", "limit log_kib = 512"]);
        let granted = LimitsPatch { memory_mib: Some(256), log_kib: Some(100), ..Default::default() };
        assert_eq!(wish.missing(&granted), ["limit log_kib = 512"]);
        let had = Limits::default().with(&asked.within(&granted));
        assert_eq!((had.memory >> 20, had.cpu.as_millis(), had.log >> 10), (256, 300, 100));
        let had = Limits::default().with(&asked.within(&none));
        assert_eq!((had.memory >> 20, had.cpu.as_millis(), had.log >> 10), (64, 300, 64));
        // The administrator's own word leaves nothing to ask for.
        assert_eq!(asked.raised(&granted), none);
    }
}
