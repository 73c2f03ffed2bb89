//! Layers, and the reading of each key with its own message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::approvals;
use super::findings::{Expected, Findings, LISTEN, Places, is_listen, kind, line, secret_text};
use super::operators::{alerts, operators, traces};
use super::unseen;
use super::{Config, DEFAULT, Problems, Source};
use crate::plugin::{LimitsPatch, Pattern, Permissions, PluginName, calls, origin};
use crate::registry::PluginOptions;
use crate::secret::Secret;
use crate::text;
use crate::{crm, dispatcher, ingress, journal, registry, sandbox, server, telemetry, watch};

/// The longest time that can be configured: a week.
const MOST_MILLISECONDS: u64 = 7 * 24 * 3_600_000;
const PREFIX: &str = "SALESMAN_HOST__";

/// Defaults, file and environment in one table, and where its keys come from.
pub(super) fn merged(source: &Source) -> Result<(Table, Places), Problems> {
    let one = |problem: String| Problems(vec![problem]);
    let mut table: Table = toml::from_str(DEFAULT).map_err(|error| one(format!("the defaults: {error}")))?;
    let mut places = Places::default();
    if let Some(path) = &source.file {
        let text = text::read(path).map_err(|error| one(format!("`{}`: {error}", path.display())))?;
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
    section(table, "plugins", &|plugins| plugins.retain(|key, _| matches!(key, "dir" | "grants" | "instances")));
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
            Ok(text) => Some(Secret::new(text)),
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
        most_connections: usize::try_from(server.number("max_connections", 1, 1 << 20)).unwrap_or(1),
        most_per_address: usize::try_from(server.number("max_connections_per_address", 1, 1 << 20)).unwrap_or(1),
    };
    let proxies: Vec<ipnet::IpNet> = networks(&mut server, "trust_proxies");
    server.end();

    let Accounts { clients: crm, intake: accounts, plugins: own_plugins, users, watches } =
        accounts(sections.remove("crm"), base, &mut findings);
    let (mut registry, instances) = plugins(sections.remove("plugins"), base, source.dev, &mut findings);
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
    let console = operators(console, base, &base.join(&data_dir));

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
        journal: journal::Options { data_dir: base.join(&data_dir), duplicates, least_free },
        retention,
        dispatcher: dispatcher::Options {
            retry: policy,
            breaker,
            instances: usize::try_from(instances).unwrap_or(1),
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
    let read = std::fs::read(&path).map_err(|error| format!("can't be read: `{}`: {error}", path.display()));
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
                    let options = crm::Options { url, login, api_key, concurrency, timeout, linger, authorities };
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

fn plugins(value: Option<Value>, base: &Path, dev: bool, findings: &mut Findings) -> (registry::Options, u32) {
    let mut section = Section::new("plugins", value, findings);
    let dir: PathBuf = section.required("dir");
    let instances = u32::try_from(section.number("instances", 1, 1_000)).unwrap_or(1);
    let concurrency = usize::try_from(section.number("concurrency", 1, 1_000)).unwrap_or(1);
    let grants_file = base.join(section.required::<PathBuf>("grants"));
    let own: Vec<(String, Value)> = section
        .table
        .iter()
        .filter(|(key, _)| !section.known.contains(key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut plugins = BTreeMap::new();
    for (name, value) in own {
        match PluginName::try_from(name.clone()) {
            Ok(parsed) if value.is_table() => {
                plugins.insert(parsed, plugin(&name, value, base, findings));
            }
            Ok(_) => {
                findings.problem(&format!("plugins.{name}"), "is neither a key of `[plugins]` nor a plugin's table")
            }
            Err(error) => findings.problem(&format!("plugins.{name}"), format!("is no plugin's section: {error}")),
        }
    }
    let approved = match approvals::read(&grants_file) {
        Ok((approved, remarks)) => {
            findings.remarks.extend(remarks);
            approved
        }
        Err(problem) => {
            findings.problems.push(problem);
            BTreeMap::new()
        }
    };
    let options = registry::Options {
        dir: base.join(dir),
        store: PathBuf::new(),
        approvals: grants_file,
        approved,
        dev,
        concurrency,
        plugins,
        accounts: BTreeMap::new(),
    };
    (options, instances)
}

/// Puts secrets into the place of `{ env = "NAME" }` and `{ file = "path" }`, wherever they stand in a plugin's settings.
fn with_secrets(section: &mut Section<'_>, value: &mut Value, base: &Path, secrets: &mut Vec<Secret>) {
    match value {
        Value::Table(table) if table.len() == 1 && (table.contains_key("env") || table.contains_key("file")) => {
            let found = section.secret_of("settings", &Value::Table(table.clone()), base);
            *value = Value::String(found.as_ref().map(|secret| secret.expose().to_owned()).unwrap_or_default());
            secrets.extend(found);
        }
        Value::Table(table) => table.iter_mut().for_each(|(_, inner)| with_secrets(section, inner, base, secrets)),
        Value::Array(items) => items.iter_mut().for_each(|inner| with_secrets(section, inner, base, secrets)),
        _ => {}
    }
}

fn plugin(name: &str, value: Value, base: &Path, findings: &mut Findings) -> PluginOptions {
    let mut section = Section::new(format!("plugins.{name}"), Some(value), findings);
    let order: Option<String> = section.optional("order");
    if order.as_deref().is_some_and(|order| !matches!(order, "entity" | "none")) {
        section.problem("order", "must be `entity` or `none`");
    }
    let limits = limits(&mut section);
    section.known.insert("grants");
    let table = section.table.get("grants").cloned();
    let grants =
        table.map(|table| grants(Section::new(format!("plugins.{name}.grants"), Some(table), section.findings), true));
    let mut secrets = Vec::new();
    if section.table.get("settings").is_some_and(|settings| !settings.is_table()) {
        // The value is not quoted: it may hold a secret.
        section.problem("settings", "must be a table: `{ key = \"value\" }`");
        section.table.remove("settings");
        section.known.insert("settings");
    }
    if let Some(mut settings) = section.table.get("settings").cloned() {
        with_secrets(&mut section, &mut settings, base, &mut secrets);
        section.table.insert("settings".to_owned(), settings);
    }
    let concurrency = section.optional_number("concurrency", 1, 1_000);
    let most_depth = section.optional_number("most_depth", 0, 60);
    let options = PluginOptions {
        own_events: section.optional("own_events").unwrap_or_default(),
        most_depth: most_depth.and_then(|depth| u32::try_from(depth).ok()),
        disabled: !section.optional("enabled").unwrap_or(true),
        settings: section.optional("settings").unwrap_or_default(),
        limits,
        unordered: order.as_deref() == Some("none"),
        concurrency: concurrency.and_then(|concurrency| usize::try_from(concurrency).ok()),
        secrets,
        http_private: grants.as_ref().map(|(_, private)| private.clone()).unwrap_or_default(),
        grants: grants.map(|(grants, _)| grants),
    };
    section.end();
    options
}

/// A plugin's own limits.
fn limits(section: &mut Section<'_>) -> LimitsPatch {
    section.known.insert("limits");
    let Some(table) = section.table.get("limits").cloned() else { return LimitsPatch::default() };
    let mut own = Section::new(format!("{}.limits", section.name), Some(table), section.findings);
    let calls = own.optional_number("calls", 0, u32::MAX.into());
    let limits = LimitsPatch {
        memory_mib: own.optional_number("memory_mib", 1, 512),
        cpu_ms: own.optional("cpu_ms"),
        time_ms: own.optional("time_ms"),
        calls: calls.and_then(|calls| u32::try_from(calls).ok()),
        log_kib: own.optional("log_kib"),
        reply_kib: own.optional("reply_kib"),
    };
    if limits.time_ms.zip(limits.cpu_ms).is_some_and(|(time, cpu)| time < cpu) {
        own.problem("time_ms", "is shorter than `cpu_ms`: the processor time could never be used up");
    }
    own.end();
    limits
}

/// What a plugin may do, and the origins that may lead to private addresses. `by_hand`: a call that was written wrong is a
/// problem; what a command wrote must not keep a host from starting.
pub(super) fn grants(mut section: Section<'_>, by_hand: bool) -> (Permissions, Vec<String>) {
    let mut crm = Vec::new();
    for text in section.optional::<Vec<String>>("crm").unwrap_or_default() {
        let pattern = match Pattern::try_from(text.clone()) {
            Ok(pattern) => pattern,
            Err(_) => {
                section.problem("crm", format!("holds `{text}`: write `deal.list`, `deal.*` or `*`"));
                continue;
            }
        };
        match calls::unknown(&pattern).as_deref() {
            None => {}
            Some([]) => {
                let words = format!("holds `{text}`, which is no call of the CRM's API that this host knows");
                section.findings.remark(&format!("{}.crm", section.name), words);
            }
            Some(near) => {
                let words =
                    format!("holds `{text}`, which is no call of the CRM's API: did you mean {}?", near.join(" or "));
                if by_hand {
                    section.problem("crm", words);
                } else {
                    section.findings.remark(&format!("{}.crm", section.name), words);
                }
            }
        }
        crm.push(pattern);
    }
    let mut origins = |key| {
        let origins: Vec<String> = section.optional(key).unwrap_or_default();
        origin::all_normal(&origins).unwrap_or_else(|words| {
            section.problem(key, format!("holds {words}"));
            Vec::new()
        })
    };
    let http = origins("http");
    let private = if by_hand { origins("http_private") } else { Vec::new() };
    let state = section.optional("state").unwrap_or_default();
    section.end();
    (Permissions { crm, http, state }, private)
}
