//! Layers, and the reading of each key with its own message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::findings::{Expected, Findings, LISTEN, Places, is_listen, kind, line, secret_text};
use super::operators::{alerts, operators, traces};
use super::plugins::plugins;
use super::unseen;
use super::{Config, DEFAULT, Problems, Source};
use crate::files;
use crate::plugin::PluginName;
use crate::secret::Secret;
use crate::text;
use crate::{crm, dispatcher, ingress, journal, sandbox, server, telemetry, watch};

/// The longest time that can be configured: a week.
const MOST_MILLISECONDS: u64 = 7 * 24 * 3_600_000;
const PREFIX: &str = "SALESMAN_HOST__";

/// Defaults, file and environment in one table, and where its keys come from.
pub(super) fn merged(source: &Source) -> Result<(Table, Places), Problems> {
    let one = |problem: String| Problems(vec![problem]);
    let mut table: Table = toml::from_str(DEFAULT).map_err(|error| one(format!("the defaults: {error}")))?;
    let mut places = Places::default();
    if let Some(path) = &source.file {
        let text = text::read(path, text::MOST).map_err(|error| one(format!("`{}`: {error}", path.display())))?;
        // The library's message quotes the line, which may hold a secret: the place is enough.
        let file: Table = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| line(&text, span.start));
            one(format!("`{}`, line {at}: {}", path.display(), error.message()))
        })?;
        overlay(&mut table, file);
        places = Places::of(&text);
    }
    for (name, text) in &source.environment {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        // A key of digits must not be read as a number: `1_000` would lose its `_`.
        let secret = keys.last().is_some_and(|key| matches!(key.as_str(), "api_key" | "token"));
        let plain = secret && !text.starts_with(['{', '[', '"', '\'']);
        places.overridden(keys.join("."), name);
        set(&mut table, &keys, if plain { Value::String(text.clone()) } else { value_of(text) });
    }
    Ok((table, places))
}

/// The files that secrets are in, wherever `{ file = "path" }` stands.
pub(super) fn secret_files(table: &Table, base: &Path) -> Vec<PathBuf> {
    let mut waiting: Vec<&Value> = table.values().collect();
    let mut files = Vec::new();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Table(table) => match (table.len(), table.get("file")) {
                (1, Some(Value::String(path))) => files.push(base.join(path)),
                _ => waiting.extend(table.values()),
            },
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    files
}

/// Takes out what is read again while the host runs: what is said of plugins but for their folders, secrets, users.
pub(super) fn without_live_parts(table: &mut Table) {
    let section = |table: &mut Table, name: &str, act: &dyn Fn(&mut Table)| {
        if let Some(Value::Table(section)) = table.get_mut(name) {
            act(section);
        }
    };
    section(table, "plugins", &|plugins| {
        plugins.retain(|key, _| matches!(key, "dir" | "grants" | "instances" | "memory_mib"))
    });
    section(table, "crm", &|crm| {
        for (_, account) in crm.iter_mut() {
            if let Value::Table(account) = account {
                account.retain(|key, _| !matches!(key, "token" | "api_key" | "allow"));
            }
        }
    });
    section(table, "console", &|console| console.retain(|key, _| !matches!(key, "users" | "tokens")));
    // Whether anybody is told at all is settled at the start.
    section(table, "alerts", &|alerts| {
        if let Some(hook) = alerts.get_mut("hook") {
            *hook = Value::Boolean(true);
        }
    });
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// A variable's text as TOML where it is TOML (`5`, `true`, `["a"]`), as text otherwise.
fn value_of(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn set(table: &mut Table, keys: &[String], value: Value) {
    let Some((key, rest)) = keys.split_first() else { return };
    if rest.is_empty() {
        table.insert(key.clone(), value);
        return;
    }
    let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
    if !inner.is_table() {
        *inner = Value::Table(Table::new());
    }
    if let Value::Table(inner) = inner {
        set(inner, rest, value);
    }
}

/// One section while it is read: what it holds, what was asked for, what is wrong.
pub(super) struct Section<'a> {
    pub(super) name: String,
    pub(super) table: Table,
    pub(super) known: BTreeSet<&'static str>,
    pub(super) findings: &'a mut Findings,
}

impl<'a> Section<'a> {
    pub(super) fn new(name: impl Into<String>, table: Option<Value>, findings: &'a mut Findings) -> Self {
        let name = name.into();
        let table = match table {
            Some(Value::Table(table)) => table,
            None => Table::new(),
            Some(_) => {
                findings.problem(&name, format!("must be a table: write `[{name}]`"));
                Table::new()
            }
        };
        Self { name, table, known: BTreeSet::new(), findings }
    }

    pub(super) fn problem(&mut self, key: &str, words: impl std::fmt::Display) {
        self.findings.problem(&format!("{}.{key}", self.name), words);
    }

    /// A secret, or what goes with one, is not there: a problem for whoever needs it.
    fn lacks(&mut self, key: &str, words: &str) {
        self.findings.lacks(&format!("{}.{key}", self.name), words);
    }

    pub(super) fn optional<T: Expected>(&mut self, key: &'static str) -> Option<T> {
        self.known.insert(key);
        let value = self.table.get(key)?.clone();
        let words = format!("must be {}, not {}", T::WORDS, kind(&value));
        // The library's own words are for programmers.
        let read = value.try_into().ok();
        if read.is_none() {
            self.problem(key, words);
        }
        read
    }

    /// A key that has a default in the embedded file.
    pub(super) fn required<T: Expected + Default>(&mut self, key: &'static str) -> T {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.optional(key).unwrap_or_default()
    }

    pub(super) fn number(&mut self, key: &'static str, least: u64, most: u64) -> u64 {
        self.optional_number(key, least, most).unwrap_or(least)
    }

    /// A number that has no default in the embedded file.
    pub(super) fn optional_number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let value: u64 = self.optional(key)?;
        if !(least..=most).contains(&value) {
            self.problem(key, format!("must be between {least} and {most}, not {value}"));
        }
        Some(value.clamp(least, most))
    }

    pub(super) fn milliseconds(&mut self, key: &'static str, least: u64) -> Duration {
        Duration::from_millis(self.number(key, least, MOST_MILLISECONDS))
    }

    pub(super) fn secret(&mut self, key: &'static str, base: &Path) -> Option<Secret> {
        self.known.insert(key);
        let value = self.table.get(key)?.clone();
        self.secret_of(key, &value, base)
    }

    pub(super) fn secret_of(&mut self, key: &str, value: &Value, base: &Path) -> Option<Secret> {
        match secret_text(value, base, key == "settings") {
            Ok(text) => {
                let secret = Secret::new(text);
                self.findings.known_secrets.push(secret.clone());
                Some(secret)
            }
            Err(why) => {
                self.findings.unreadable(&format!("{}.{key}", self.name), &why);
                None
            }
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn end(self) {
        for key in self.table.keys().filter(|key| !self.known.contains(key.as_str())) {
            let known: Vec<&str> = self.known.iter().copied().collect();
            let words = format!("is not a key of the configuration: known here are {}", known.join(", "));
            self.findings.problem(&format!("{}.{key}", self.name), words);
        }
    }
}

pub(super) fn config(table: &Table, places: Places, base: &Path, source: &Source) -> Result<Config, Problems> {
    let mut findings = Findings { secrets: source.secrets, places, ..Findings::default() };
    unseen::look("", table, &mut findings.problems);
    let mut sections = table.clone();

    let mut server = Section::new("server", sections.remove("server"), &mut findings);
    let listen: String = server.required("listen");
    if !listen.is_empty() && !is_listen(&listen) {
        server.problem("listen", LISTEN);
    }
    let data_dir: PathBuf = server.required("data_dir");
    let max_body = server.number("max_body_kib", 1, 1 << 20) << 10;
    let body_timeout = server.milliseconds("body_timeout_ms", 1);
    let least_free = server.number("min_free_mib", 0, 1 << 30) << 20;
    let max_senders = server.number("max_senders", 1, 1 << 20);
    let drain = server.milliseconds("drain_ms", 0);
    let server_options = server::Options {
        head_timeout: server.milliseconds("head_timeout_ms", 1),
        answer_timeout: server.milliseconds("answer_timeout_ms", 1),
        most_connections: usize::try_from(server.number("max_connections", 1, 1 << 20)).unwrap_or(1),
        most_per_address: usize::try_from(server.number("max_connections_per_address", 1, 1 << 20)).unwrap_or(1),
    };
    let proxies: Vec<ipnet::IpNet> = networks(&mut server, "trust_proxies");
    server.end();

    let Accounts { clients: crm, intake: accounts, plugins: own_plugins, users, watches } =
        accounts(sections.remove("crm"), base, &mut findings);
    let (mut registry, (instances, memory)) = plugins(sections.remove("plugins"), base, source.dev, &mut findings);
    registry.store = base.join(&data_dir).join("plugins");

    registry.accounts = own_plugins;

    let mut retry = Section::new("retry", sections.remove("retry"), &mut findings);
    let policy = dispatcher::retry::Policy {
        first: retry.milliseconds("first_ms", 1),
        longest: retry.milliseconds("longest_ms", 1),
        attempts: u32::try_from(retry.number("attempts", 1, 1_000)).unwrap_or(1),
    };
    retry.end();

    let mut section = Section::new("breaker", sections.remove("breaker"), &mut findings);
    let breaker = dispatcher::gate::Breaker {
        failures: usize::try_from(section.number("failures", 1, 10_000)).unwrap_or(1),
        pause: section.milliseconds("pause_ms", 1),
        longest: section.milliseconds("longest_pause_ms", 1),
    };
    section.end();

    let mut section = Section::new("duplicates", sections.remove("duplicates"), &mut findings);
    let duplicates =
        journal::Duplicates { fold: section.required("fold"), repeated_add: section.required("repeated_add") };
    section.end();

    let mut section = Section::new("retention", sections.remove("retention"), &mut findings);
    let retention = journal::Retention {
        age: Duration::from_secs(section.number("days", 1, 36_500) * 24 * 3_600),
        size: section.number("max_mib", 16, 1 << 30) << 20,
    };
    section.end();

    let console = Section::new("console", sections.remove("console"), &mut findings);
    let mut console = operators(console, base, &base.join(&data_dir));
    if let Some(console) = &mut console {
        console.access.proxies.clone_from(&proxies);
    }

    let mut log = Section::new("telemetry", sections.remove("telemetry"), &mut findings);
    let level: String = log.required("level");
    let format: String = log.required("format");
    if !telemetry::is_level(&level) {
        log.problem("level", "must be `error`, `warn`, `info`, `debug` or `trace`");
    }
    if !matches!(format.as_str(), "human" | "json") {
        log.problem("format", "must be `human` or `json`");
    }
    let traces = traces(&mut log, base);
    log.end();
    let alerts = alerts(Section::new("alerts", sections.remove("alerts"), &mut findings), base);

    for name in sections.keys() {
        findings.problem(name, "is not a section of the configuration: known are server, plugins, crm, retry, breaker, duplicates, retention, console, telemetry, alerts");
    }
    let own_listen = console.as_ref().and_then(|console| console.listen.as_ref());
    if own_listen == Some(&listen) && !listen.ends_with(":0") {
        findings.problem("console.listen", "is where events come in: leave it out, or name another port");
    }
    if !findings.problems.is_empty() {
        return Err(Problems(findings.problems));
    }
    Ok(Config {
        listen,
        console,
        ingress: ingress::Options {
            accounts: accounts.clone(),
            proxies,
            max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
            body_timeout,
            max_senders: usize::try_from(max_senders).unwrap_or(usize::MAX),
            told: None,
        },
        journal: journal::Options {
            data_dir: base.join(&data_dir),
            duplicates,
            least_free,
            most_state: retention.size / 2,
            told: |_| (),
        },
        retention,
        dispatcher: dispatcher::Options {
            retry: policy,
            breaker,
            instances: usize::try_from(instances).unwrap_or(1),
            memory,
            drain,
            accounts: accounts.keys().cloned().collect(),
        },
        sandbox: sandbox::Options {
            instances,
            cache: Some(base.join(&data_dir).join("plugins/compiled")),
            compiler: sandbox::compiler::Compiler::own_process(),
        },
        registry,
        crm,
        users,
        watches,
        server: server_options,
        telemetry: telemetry::Options { level, json: format == "json" },
        alerts,
        traces,
        remarks: findings.remarks,
        known_secrets: findings.known_secrets,
        unread: findings.unread,
    })
}

/// What is said about the CRMs, sorted by who needs it.
#[derive(Default)]
struct Accounts {
    clients: BTreeMap<String, crm::Options>,
    intake: BTreeMap<String, ingress::Account>,
    plugins: BTreeMap<String, BTreeSet<PluginName>>,
    users: BTreeMap<String, u64>,
    watches: BTreeMap<String, watch::Options>,
}

/// Addresses and networks: `10.0.0.5`, `192.168.0.0/16`.
fn networks(section: &mut Section<'_>, key: &'static str) -> Vec<ipnet::IpNet> {
    let texts: Vec<String> = section.optional(key).unwrap_or_default();
    let mut networks = Vec::new();
    for text in texts {
        match text.parse::<ipnet::IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into)) {
            Ok(network) => networks.push(network),
            Err(_) => section.problem(
                key,
                format!("holds `{text}`, which is neither an address nor a network such as `192.168.0.0/16`"),
            ),
        }
    }
    networks
}

/// The certificates of the file that `ca_file` names.
fn authorities(section: &mut Section<'_>, base: &Path) -> crm::connection::Authorities {
    let Some(file) = section.optional::<PathBuf>("ca_file") else { return crm::connection::Authorities::default() };
    let path = base.join(file);
    let read = files::read(&path, text::MOST).map_err(|error| format!("can't be read: `{}`: {error}", path.display()));
    let read =
        read.and_then(|pem| crm::connection::Authorities::read(text::unmarked_bytes(&pem)).map_err(str::to_owned));
    read.unwrap_or_else(|words| {
        section.problem("ca_file", &words);
        crm::connection::Authorities::default()
    })
}

fn accounts(value: Option<Value>, base: &Path, findings: &mut Findings) -> Accounts {
    let mut all = Accounts::default();
    let root = Section::new("crm", value, findings).table;
    // All clients share it.
    let large = crm::Large::default();
    for (name, value) in root {
        let mut section = Section::new(format!("crm.{name}"), Some(value), findings);
        let token = section.table.get("token").cloned();
        section.known.insert("token");
        let own: Vec<String> = match &token {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|token| section.secret_of("token", token, base)).collect()
            }
            Some(token) => section.secret_of("token", token, base).into_iter().collect::<Vec<_>>(),
            None => Vec::new(),
        }
        .into_iter()
        .map(|secret| secret.expose().to_owned())
        .collect();
        if own.is_empty() && token.as_ref().is_none_or(|token| token.as_array().is_some_and(Vec::is_empty)) {
            section.lacks("token", "is missing: it is the secret in the address that the CRM calls");
        }
        if own.iter().any(|token| token.len() < 16 || token.contains(['/', '?', '#', '%', ' '])) {
            section.problem("token", "must have at least 16 characters, and none of `/ ? # %` or spaces");
        }
        let taken = all.intake.values().flat_map(|account| &account.tokens).any(|token| own.contains(token));
        if taken {
            section.problem("token", "is another account's token too: the host could not tell their events apart");
        }
        let allow = networks(&mut section, "allow");
        all.intake.insert(name.clone(), ingress::Account { tokens: own, allow });
        if let Some(plugins) = section.optional::<BTreeSet<PluginName>>("plugins") {
            all.plugins.insert(name.clone(), plugins);
        }
        if let Some(user) = section.optional::<u64>("user_id") {
            all.users.insert(name.clone(), user);
        }
        if let Some(lists) = section.optional::<BTreeSet<watch::List>>("watch") {
            let pace =
                Duration::from_millis(section.optional_number("watch_ms", 100, MOST_MILLISECONDS).unwrap_or(60_000));
            all.watches.insert(name.clone(), watch::Options { lists, pace });
        } else if section.optional::<u64>("watch_ms").is_some() {
            section.problem("watch_ms", "is of no use without `watch`");
        }

        let url: Option<String> = section.optional("url");
        let login: Option<String> = section.optional("login");
        let api_key = section.secret("api_key", base);
        let concurrency = section.optional_number("concurrency", 1, 64).unwrap_or(2);
        let timeout =
            Duration::from_millis(section.optional_number("timeout_ms", 1, MOST_MILLISECONDS).unwrap_or(20_000));
        let has_key = section.table.contains_key("api_key");
        let linger =
            Duration::from_millis(section.optional_number("linger_ms", 1, MOST_MILLISECONDS).unwrap_or(30_000));
        let authorities = authorities(&mut section, base);
        if let Some(url) = url {
            match (crm::connection::address(&url), login, api_key) {
                (Ok(url), Some(login), Some(api_key)) => {
                    let concurrency = usize::try_from(concurrency).unwrap_or(2);
                    let large = large.clone();
                    let options =
                        crm::Options { url, login, api_key, concurrency, timeout, linger, authorities, large };
                    all.clients.insert(name, options);
                }
                (Ok(_), login, _) => {
                    if login.is_none() {
                        section.lacks("login", "is missing: calls need the API user's login");
                    }
                    if !has_key {
                        section.lacks("api_key", "is missing: calls need the account's key");
                    }
                }
                (Err(words), _, _) => section.problem("url", words),
            }
        }
        section.end();
    }
    all
}
