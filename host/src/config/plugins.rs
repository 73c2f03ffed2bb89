//! `[plugins]`: each plugin's settings, limits and grants; what a grant may say, for the file of grants as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Value;

use super::approvals;
use super::findings::Findings;
use super::read::Section;
use crate::dispatcher;
use crate::plugin::{KINDS, LimitsPatch, Pattern, Permissions, PluginName, calls, origin};
use crate::registry::{self, PluginOptions};

pub(super) fn plugins(
    value: Option<Value>,
    base: &Path,
    dev: bool,
    findings: &mut Findings,
) -> (registry::Options, (u32, u64)) {
    let mut section = Section::new("plugins", value, findings);
    let dir: PathBuf = section.required("dir");
    let instances = u32::try_from(section.number("instances", 1, 1_000)).unwrap_or(1);
    let memory = match section.number("memory_mib", 0, 1 << 30) {
        0 => dispatcher::of_machine(),
        mib => mib << 20,
    };
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
        had_deliveries: std::collections::BTreeSet::new(),
    };
    (options, (instances, memory))
}

/// Puts secrets into the place of `{ env = "NAME" }` and `{ file = "path" }`, wherever they stand in a plugin's settings.
fn with_secrets(section: &mut Section<'_>, value: &mut Value, base: &Path) {
    match value {
        Value::Table(table) if table.len() == 1 && (table.contains_key("env") || table.contains_key("file")) => {
            let found = section.secret_of("settings", &Value::Table(table.clone()), base);
            *value = Value::String(found.map(|secret| secret.expose().to_owned()).unwrap_or_default());
        }
        Value::Table(table) => table.iter_mut().for_each(|(_, inner)| with_secrets(section, inner, base)),
        Value::Array(items) => items.iter_mut().for_each(|inner| with_secrets(section, inner, base)),
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
    if section.table.get("settings").is_some_and(|settings| !settings.is_table()) {
        // The value is not quoted: it may hold a secret.
        section.problem("settings", "must be a table: `{ key = \"value\" }`");
        section.table.remove("settings");
        section.known.insert("settings");
    }
    if let Some(mut settings) = section.table.get("settings").cloned() {
        with_secrets(&mut section, &mut settings, base);
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
        http_private: grants.as_ref().map(|(_, private)| private.clone()).unwrap_or_default(),
        grants: grants.map(|(grants, _)| grants),
    };
    section.end();
    options
}

/// The limits in a section's `limits`: a plugin's own, or those that were granted.
fn limits(section: &mut Section<'_>) -> LimitsPatch {
    section.known.insert("limits");
    let Some(table) = section.table.get("limits").cloned() else { return LimitsPatch::default() };
    let mut own = Section::new(format!("{}.limits", section.name), Some(table), section.findings);
    let limits = LimitsPatch::of(
        KINDS.map(|kind| own.optional_number(kind.key, u64::from(kind.key == "memory_mib"), kind.most)),
    );
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
    // By hand they stand in the plugin's own section.
    let limits = if by_hand { LimitsPatch::default() } else { limits(&mut section) };
    section.end();
    (Permissions { crm, http, state, limits }, private)
}
