//! The vocabulary of the metrics: every name, once, with its meaning. `/metrics` shows them to Prometheus.
//!
//! - What happens is counted where the log hears of it; what stands (backlog, states) is asked for when somebody scrapes.
//! - Labels are accounts, plugins, codes and calls: few, and none of the outside's choosing.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::outcome::{Effects, Next, Outcome};

/// Seconds, from a quick answer to the longest delivery.
const SECONDS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// How long a gauge must not have been set until it is no longer told: two scrapes at the same time must not take each
/// other's for those of something that is gone.
const GONE: Duration = Duration::from_millis(200);

const EVENTS: &str = "salesman_events_accepted_total";
const REFUSED: &str = "salesman_events_refused_total";
const ACCEPT: &str = "salesman_event_accept_seconds";
const ATTEMPTS: &str = "salesman_attempts_total";
const ATTEMPT: &str = "salesman_attempt_seconds";
const CPU: &str = "salesman_attempt_cpu_seconds_total";
const DELIVERY: &str = "salesman_delivery_seconds";
const LETTERS: &str = "salesman_dead_letters_total";
const CALLS: &str = "salesman_crm_calls_total";
const CALL: &str = "salesman_crm_call_seconds";
const UNCERTAIN: &str = "salesman_crm_writes_uncertain_total";
const ALERTS: &str = "salesman_alerts_total";
const PARTS_FAILED: &str = "salesman_parts_failed_total";
const LINES_LOST: &str = "salesman_log_lines_lost_total";
const SPANS_LOST: &str = "salesman_trace_spans_lost_total";

const BACKLOG: &str = "salesman_backlog";
const OLDEST: &str = "salesman_oldest_unrouted_seconds";
const OPEN: &str = "salesman_deliveries_open";
const DEAD: &str = "salesman_dead_letters";
const MODE: &str = "salesman_plugin_mode";
const REACHABLE: &str = "salesman_crm_reachable";
const NOTICES: &str = "salesman_plugin_notices";
const STATE: &str = "salesman_state_bytes";
const PLUGIN_MEMORY: &str = "salesman_plugin_memory_bytes";
const WAITING: &str = "salesman_waiting_for_place";
const DISK: &str = "salesman_disk_free_bytes";
const STORE: &str = "salesman_journal_bytes";
const MEMORY: &str = "process_resident_memory_bytes";
const BUILD: &str = "salesman_build_info";

/// The CRM's methods that have a label of their own.
const METHODS: [&str; 17] = [
    "akt",
    "budget",
    "calls",
    "client",
    "currency",
    "deal",
    "document",
    "entry",
    "guides",
    "history",
    "lead",
    "metrika",
    "person",
    "price",
    "statistic",
    "task",
    "user",
];
/// The modes of a plugin's deliveries.
const MODES: [&str; 5] = ["flowing", "paused", "probing", "waiting_for_crm", "held"];

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Starts counting. There is one counter for a process, as there is one log.
///
/// # Errors
/// When somebody counts already.
pub(super) fn start() -> Result<Metrics, String> {
    // Every gauge is set whenever somebody scrapes: one that was not is of something that is gone.
    let builder = PrometheusBuilder::new()
        .idle_timeout(MetricKindMask::GAUGE, Some(GONE))
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .map_err(|error| error.to_string())?;
    let handle = builder.install_recorder().map_err(|error| error.to_string())?;
    describe_counter!(EVENTS, "Events that were stored, by account.");
    describe_counter!(REFUSED, "Events that were refused, by code.");
    describe_histogram!(ACCEPT, Unit::Seconds, "From a request's head to its answer, for stored events.");
    describe_counter!(ATTEMPTS, "Attempts that ended, by plugin, account and outcome.");
    describe_histogram!(ATTEMPT, Unit::Seconds, "How long attempts took, by plugin.");
    describe_counter!(CPU, Unit::Seconds, "Processor time of attempts, by plugin.");
    describe_histogram!(DELIVERY, Unit::Seconds, "From an event's arrival to the end of a delivery, by plugin.");
    describe_counter!(LETTERS, "Deliveries that became dead letters, by plugin and code.");
    describe_counter!(CALLS, "Calls to the CRM, by method, kind and outcome.");
    describe_histogram!(CALL, Unit::Seconds, "How long calls to the CRM took, by method and kind.");
    describe_counter!(UNCERTAIN, "Writes to the CRM whose answer was lost.");
    describe_counter!(ALERTS, "Alerts, by kind and whether they arrived.");
    describe_counter!(PARTS_FAILED, "Parts of the host that failed and were started again, by part.");
    describe_counter!(LINES_LOST, "Log lines that nobody read, or that could not be written.");
    describe_counter!(SPANS_LOST, "Spans that were not sent to the trace collector.");
    describe_gauge!(BACKLOG, "What waits: unrouted events, open deliveries, dead letters, uncertain writes.");
    describe_gauge!(OLDEST, Unit::Seconds, "Since the oldest event came that no plugin has been given yet.");
    describe_gauge!(OPEN, "Deliveries that wait or run, by plugin and account.");
    describe_gauge!(DEAD, "Dead letters, by plugin and account.");
    describe_gauge!(
        MODE,
        "1 for the mode in which a plugin's deliveries are, 0 for the others; by plugin and account."
    );
    describe_gauge!(REACHABLE, "1 where a CRM answers, 0 where it does not, by account.");
    describe_gauge!(NOTICES, "Plugin files, or versions, that are not served.");
    describe_gauge!(DISK, Unit::Bytes, "Free bytes on the disk with the data folder.");
    describe_gauge!(STATE, Unit::Bytes, "What plugins keep, by plugin and account.");
    describe_gauge!(
        PLUGIN_MEMORY,
        Unit::Bytes,
        "Memory for all plugins together: the most, and what those that run may need (taken)."
    );
    describe_gauge!(WAITING, "Deliveries that were claimed and wait for a place or for memory.");
    describe_gauge!(STORE, Unit::Bytes, "Bytes of the journal's files.");
    describe_gauge!(MEMORY, Unit::Bytes, "Resident memory.");
    describe_gauge!(BUILD, "1, with the version.");
    counter!(LINES_LOST).absolute(0);
    Ok(Metrics { handle })
}

/// What stands now, for whoever scrapes.
#[derive(Debug, Default)]
pub struct Standing {
    /// Kind and count.
    pub backlog: Vec<(&'static str, u64)>,
    /// Seconds since the oldest event came that no plugin has been given yet; 0 where none waits.
    pub oldest_unrouted: u64,
    /// Plugin, account, open deliveries, dead letters.
    pub queues: Vec<(String, String, i64, i64)>,
    /// Plugin, account, mode.
    pub modes: Vec<(String, String, &'static str)>,
    /// Account and whether it answers.
    pub crms: Vec<(String, bool)>,
    /// Files that are not served.
    pub notices: usize,
    /// Free bytes of the disk.
    pub disk_free: Option<u64>,
    /// What plugins keep: plugin, account, bytes.
    pub state: Vec<(String, String, u64)>,
    /// Bytes of memory for all plugins together, and those that are taken.
    pub plugin_memory: (u64, u64),
    /// Deliveries that were claimed and wait for a place or for memory.
    pub waiting: u64,
    /// Bytes of the store.
    pub store: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and none of these comes near 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

fn count(number: i64) -> f64 {
    float(u64::try_from(number).unwrap_or(0))
}

impl Metrics {
    /// Everything, in Prometheus' text format.
    pub fn render(&self, standing: &Standing) -> String {
        for (kind, count) in &standing.backlog {
            gauge!(BACKLOG, "kind" => *kind).set(float(*count));
        }
        gauge!(OLDEST).set(float(standing.oldest_unrouted));
        for (plugin, account, open, dead) in &standing.queues {
            gauge!(OPEN, "plugin" => plugin.clone(), "account" => account.clone()).set(count(*open));
            gauge!(DEAD, "plugin" => plugin.clone(), "account" => account.clone()).set(count(*dead));
        }
        for (plugin, account, mode) in &standing.modes {
            for known in MODES {
                let labels = [("plugin", plugin.clone()), ("account", account.clone()), ("mode", known.to_owned())];
                gauge!(MODE, &labels).set(if known == *mode { 1.0 } else { 0.0 });
            }
        }
        for (account, reachable) in &standing.crms {
            gauge!(REACHABLE, "account" => account.clone()).set(if *reachable { 1.0 } else { 0.0 });
        }
        gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!(NOTICES).set(float(u64::try_from(standing.notices).unwrap_or(0)));
        if let Some(free) = standing.disk_free {
            gauge!(DISK).set(float(free));
        }
        gauge!(STORE).set(float(standing.store));
        for (plugin, account, bytes) in &standing.state {
            gauge!(STATE, "plugin" => plugin.clone(), "account" => account.clone()).set(float(*bytes));
        }
        gauge!(PLUGIN_MEMORY, "kind" => "most").set(float(standing.plugin_memory.0));
        gauge!(PLUGIN_MEMORY, "kind" => "taken").set(float(standing.plugin_memory.1));
        gauge!(WAITING).set(float(standing.waiting));
        if let Some(bytes) = resident() {
            gauge!(MEMORY).set(float(bytes));
        }
        in_seconds(&self.handle.render())
    }

    /// Puts what was counted into its places, as long as the process lives: without it, it would pile up until somebody
    /// scrapes.
    pub async fn keep(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.handle.run_upkeep();
            super::bounded::tell();
        }
    }
}

/// What is counted in microseconds, in the seconds that its name says.
fn in_seconds(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for line in text.lines() {
        let counted = line.strip_prefix(CPU).filter(|rest| rest.starts_with(['{', ' ']));
        let micros = counted
            .and_then(|_| line.rsplit_once(' '))
            .and_then(|(name, value)| Some((name, value.parse::<u64>().ok()?)));
        match micros {
            Some((name, micros)) => {
                told.push_str(&format!("{name} {}.{:06}", micros / 1_000_000, micros % 1_000_000));
            }
            None => told.push_str(line),
        }
        told.push('\n');
    }
    told
}

/// Bytes of memory that this process holds; the system's own count.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

pub(super) fn accepted(account: &str, took: Duration) {
    counter!(EVENTS, "account" => account.to_owned()).increment(1);
    histogram!(ACCEPT).record(took.as_secs_f64());
}

pub(super) fn refused(code: &str) {
    counter!(REFUSED, "code" => code.to_owned()).increment(1);
}

pub(super) fn attempted(claimed: &crate::journal::Claimed, outcome: &Outcome, next: Next, effects: &Effects, now: i64) {
    let plugin = claimed.queue.plugin.as_str().to_owned();
    let account = claimed.queue.account.clone();
    counter!(ATTEMPTS, "plugin" => plugin.clone(), "account" => account, "outcome" => outcome.as_str()).increment(1);
    let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
    histogram!(ATTEMPT, "plugin" => plugin.clone()).record(seconds(effects.usage.wall));
    // The library's counters count whole things: microseconds, which are told as seconds.
    counter!(CPU, "plugin" => plugin.clone()).increment(effects.usage.cpu);
    if matches!(next, Next::Done | Next::Skipped | Next::Dead) {
        let waited = u64::try_from(now.saturating_sub(claimed.event.received_at)).unwrap_or(0);
        histogram!(DELIVERY, "plugin" => plugin.clone()).record(Duration::from_millis(waited).as_secs_f64());
    }
    if next == Next::Dead {
        let code = outcome.letter_code(effects);
        counter!(LETTERS, "plugin" => plugin, "code" => code).increment(1);
    }
}

pub(super) fn called(method: &str, reads: bool, took: Duration, outcome: &'static str) {
    // A plugin can make up names.
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
    let kind = if reads { "read" } else { "write" };
    counter!(CALLS, "method" => method, "kind" => kind, "outcome" => outcome).increment(1);
    histogram!(CALL, "method" => method, "kind" => kind).record(took.as_secs_f64());
}

pub(super) fn uncertain() {
    counter!(UNCERTAIN).increment(1);
}

pub(super) fn alerted(kind: &'static str, arrived: bool) {
    counter!(ALERTS, "kind" => kind, "arrived" => if arrived { "yes" } else { "no" }).increment(1);
}

pub(super) fn part_failed(part: &'static str) {
    counter!(PARTS_FAILED, "part" => part).increment(1);
}

pub(super) fn log_lines_lost(lines: u64) {
    counter!(LINES_LOST).increment(lines);
}

pub(super) fn spans_lost(spans: u64) {
    counter!(SPANS_LOST).increment(spans);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_in_seconds() {
        let text = format!("# TYPE {CPU} counter\n{CPU}{{plugin=\"a\"}} 1500042\n{CPU}_other 7\nsalesman_backlog 3\n");
        let expected =
            format!("# TYPE {CPU} counter\n{CPU}{{plugin=\"a\"}} 1.500042\n{CPU}_other 7\nsalesman_backlog 3\n");
        assert_eq!(in_seconds(&text), expected);
    }

    /// The rules of `promtool check metrics`.
    #[test]
    fn names_follow_the_rules_of_the_field() {
        let file = include_str!("metrics.rs");
        let own = file
            .split("const ")
            .filter_map(|part| part.split_once(": &str = \"")?.1.split_once('"'))
            .map(|(name, _)| name);
        let names: Vec<&str> = own.filter(|name| name.contains('_')).collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            let counter = file.contains(&format!("describe_counter!({},", constant(file, name)));
            assert_eq!(name.ends_with("_total"), counter, "{name}");
            for word in
                ["microsecond", "millisecond", "_ms", "_us", "minute", "_mib", "_kib", "percent", "counter", "gauge"]
            {
                assert!(!name.contains(word), "{name}");
            }
            assert!(!["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "{name}");
            assert!(name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'), "{name}");
        }
    }

    fn constant<'a>(file: &'a str, name: &str) -> &'a str {
        let (before, _) = file.split_once(&format!(": &str = \"{name}\"")).unwrap();
        before.rsplit_once("const ").unwrap().1
    }
}
