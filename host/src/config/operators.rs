//! `[console]`: who may come in, where, and what nobody is shown. `[alerts]` and `[telemetry.traces]`: who is told.

use std::path::Path;
use std::time::Duration;

use toml::Value;

use super::findings::{LISTEN, is_listen};
use super::read::Section;
use crate::console::{AccessOptions, Options, Role, Token, User, is_hash};
use crate::secret::Renewable;
use crate::{alerts, traces};

/// The file with the token that the commands use.
pub(super) const TOKEN_FILE: &str = "console.token";

/// The section, or nothing where it is turned off.
pub(super) fn operators(mut section: Section<'_>, base: &Path, data_dir: &Path) -> Option<Options> {
    let enabled: bool = section.required("enabled");
    let session = Duration::from_secs(section.number("session_hours", 1, 24 * 365) * 3_600);
    let mask = section.required("mask");
    let listen: Option<String> = section.optional("listen");
    if listen.as_ref().is_some_and(|listen| !is_listen(listen)) {
        section.problem("listen", LISTEN);
    }
    let url: Option<String> = section.optional("url");
    let url = url.and_then(|text| match url::Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            section.problem("url", "must be the address that browsers use, such as `https://host.example.com`");
            None
        }
    });
    let mut access =
        AccessOptions { session, url, token_file: Some(data_dir.join(TOKEN_FILE)), ..AccessOptions::default() };
    each(&mut section, "users", |name, mut user| {
        let password = user.secret("password", base);
        let role = role(&mut user);
        if password.as_ref().is_some_and(|password| !is_hash(password.expose())) {
            user.problem("password", "is not a password's hash: `salesman-host password` makes one");
        }
        match password {
            Some(password) => drop(access.users.insert(name, User { password, role })),
            None if !user.table.contains_key("password") => {
                user.problem("password", "is missing: `salesman-host password` makes its hash");
            }
            None => {}
        }
        user.end();
    });
    each(&mut section, "tokens", |name, mut token| {
        let secret = token.secret("token", base);
        let role = role(&mut token);
        if secret.as_ref().is_some_and(|secret| secret.expose().len() < 16) {
            token.problem("token", "must have at least 16 characters");
        }
        match secret {
            Some(secret) => drop(access.tokens.insert(name, Token { token: secret, role })),
            None if !token.table.contains_key("token") => token.problem("token", "is missing"),
            None => {}
        }
        token.end();
    });
    section.end();
    enabled.then_some(Options { listen, access, mask })
}

/// Who is told at night.
pub(super) fn alerts(mut section: Section<'_>, base: &Path) -> Option<alerts::Options> {
    let hook = section.secret("hook", base);
    let every = Duration::from_secs(section.number("every_s", 1, 24 * 3_600));
    let language: String = section.required("language");
    if !matches!(language.as_str(), "en" | "ru") {
        section.problem("language", "must be `en` or `ru`");
    }
    if hook.as_ref().is_some_and(|hook| !is_address(hook.expose())) {
        // The address is not quoted: it may hold a token.
        section.problem("hook", "must be an address such as `https://chat.example.com/hooks/abc`");
    }
    section.end();
    hook.map(|hook| alerts::Options { hook: Renewable::new(hook), every, russian: language == "ru" })
}

/// Where traces go.
pub(super) fn traces(log: &mut Section<'_>, base: &Path) -> Option<traces::Options> {
    let mut found = None;
    log.known.insert("traces");
    let table = log.table.get("traces")?.clone();
    let mut section = Section::new("telemetry.traces", Some(table), &mut *log.findings);
    let endpoint: Option<String> = section.optional("endpoint");
    let share: f64 = section.optional("share").unwrap_or(1.0);
    if !(0.0..=1.0).contains(&share) {
        section.problem("share", "must be between 0 and 1");
    }
    let mut headers = Vec::new();
    section.known.insert("headers");
    if let Some(Value::Table(table)) = section.table.get("headers").cloned() {
        for (name, value) in table {
            if let Some(secret) = section.secret_of("headers", &value, base) {
                headers.push((name, secret));
            }
        }
    }
    match endpoint.as_deref().filter(|text| is_address(text)).and_then(|text| url::Url::parse(text).ok()) {
        Some(endpoint) => found = Some(traces::Options { endpoint, headers, share }),
        None => section.problem("endpoint", "must be the collector's address, such as `http://127.0.0.1:4318`"),
    }
    section.end();
    found
}

fn is_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn role(section: &mut Section<'_>) -> Role {
    section.optional("role").unwrap_or_else(|| {
        if !section.table.contains_key("role") {
            section.problem("role", "is missing: `viewer` or `admin`");
        }
        Role::Viewer
    })
}

/// Reads each of the tables below a key.
fn each(section: &mut Section<'_>, key: &'static str, mut read: impl FnMut(String, Section<'_>)) {
    section.known.insert(key);
    let name = format!("{}.{key}", section.name);
    match section.table.get(key) {
        Some(Value::Table(table)) => {
            for (one, value) in table.clone() {
                let inner = Section::new(format!("{name}.{one}"), Some(value), &mut *section.findings);
                read(one, inner);
            }
        }
        Some(_) => section.problem(key, format!("must be tables: write `[{name}.NAME]`")),
        None => {}
    }
}
