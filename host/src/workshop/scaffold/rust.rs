//! A plugin in Rust: a crate with one handler, one test, and nothing to set up.
//!
//! - The code shows the typed event of the first name; every further name has an arm of its own.
//! - The crate is a workspace of its own, so a surrounding one does not capture it.

use std::path::{Component, Path, PathBuf};

use super::{Error, Sdk, Wanted, sdk};
use crate::plugin::{Pattern, PluginName};
use crate::workshop::samples;

/// Letters of a list that rustfmt leaves on one line.
const LINE: usize = 56;
/// What to do next.
pub(super) const NEXT: &[&str] = &["cargo test", "salesman-host plugin build"];

/// Names that the code below uses, or that mean something to the compiler.
const TAKEN_TYPES: [&str; 20] = [
    "Box",
    "Err",
    "Event",
    "EventData",
    "Exported",
    "FakeHost",
    "Host",
    "None",
    "Ok",
    "Option",
    "Plugin",
    "Reply",
    "Result",
    "Self",
    "Some",
    "String",
    "ToString",
    "Vec",
    "Drop",
    "Send",
];
/// Names of crates that cargo or the compiler refuse, or that would stand in their own way.
const TAKEN_CRATES: [&str; 8] = ["alloc", "core", "proc-macro", "std", "test", "salesman-plugin-sdk", "build", "deps"];
const KEYWORDS: [&str; 40] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait",
];
const MORE_KEYWORDS: [&str; 12] =
    ["true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "union"];

/// The crate's files besides `plugin.toml`.
pub(super) fn files(wanted: &Wanted, first: &Pattern) -> Result<Vec<(String, String)>, Error> {
    let mut files = vec![
        ("Cargo.toml".to_owned(), cargo_toml(wanted)?),
        ("src/lib.rs".to_owned(), code(wanted, first)),
        ("README.md".to_owned(), readme(wanted)),
        (".gitignore".to_owned(), "/target\n".to_owned()),
    ];
    if wanted.sdk == Sdk::Copy {
        files.extend(sdk::files()?.into_iter().map(|(path, contents)| (format!("sdk/{path}"), contents)));
    }
    Ok(files)
}

fn cargo_toml(wanted: &Wanted) -> Result<String, Error> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let dependency = match &wanted.sdk {
        Sdk::Copy => "{ path = \"sdk\" }".to_owned(),
        Sdk::Path(path) => format!("{{ path = {} }}", quoted(&sdk_path(path, &wanted.folder)?)),
        Sdk::Version(version) if is_version(version) => quoted(version),
        Sdk::Version(version) => return Err(Error::Version(version.clone())),
    };
    Ok(CARGO_TOML
        .replace("{name}", &crate_name(&wanted.name))
        .replace("{rust}", &sdk::rust_version()?)
        .replace("{sdk}", sdk::PACKAGE)
        .replace("{dependency}", &dependency))
}

const CARGO_TOML: &str = r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
rust-version = "{rust}"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]    # cdylib: the plugin's file; rlib: for tests

[dependencies]
{sdk} = {dependency}
serde = { version = "1", features = ["derive"] }
serde_json = "1"

# Small files, which load faster. Functions keep their names, so that a failure can be read.
[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
strip = "debuginfo"

# A workspace of its own: one further up does not capture this crate.
[workspace]
"#;

fn is_version(text: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || ".-+*^~=<>, ".contains(character);
    text.trim_start_matches(['^', '~', '=', '<', '>', ' ']).starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(allowed)
}

/// The SDK's folder as the crate names it: relative if it was given so.
fn sdk_path(path: &Path, folder: &Path) -> Result<String, Error> {
    let not_it = || Error::NotTheSdk(path.to_owned());
    let manifest = std::fs::read_to_string(path.join("Cargo.toml")).map_err(|_| not_it())?;
    let manifest: toml::Table = manifest.parse().map_err(|_| not_it())?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    if name != Some(sdk::PACKAGE) {
        return Err(not_it());
    }
    let named = if path.is_absolute() {
        path.to_owned()
    } else {
        let (to, from) = (std::path::absolute(path), std::path::absolute(folder));
        from_to(&plain(&from.map_err(|_| not_it())?), &plain(&to.map_err(|_| not_it())?))
    };
    named.to_str().map(str::to_owned).ok_or_else(not_it)
}

/// The path without `..`, as a shell's user means it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

fn from_to(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(left, right)| left == right).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// The package's name: the plugin's, unless cargo or the compiler would refuse it.
fn crate_name(name: &PluginName) -> String {
    let name = name.as_str();
    let is_taken = TAKEN_CRATES.contains(&name) || KEYWORDS.contains(&name) || MORE_KEYWORDS.contains(&name);
    if is_taken || name.starts_with(|first: char| first.is_ascii_digit()) {
        return format!("plugin-{name}");
    }
    name.to_owned()
}

/// `deal-watch` as `DealWatch`.
fn type_name(name: &PluginName) -> String {
    let name = camel(name.as_str());
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return format!("Plugin{name}");
    }
    if TAKEN_TYPES.contains(&name.as_str()) { format!("{name}Plugin") } else { name }
}

/// The variant of the SDK's `EventData` for a name of the catalogue: `deal.change.step` is `DealChangeStep`.
fn variant(event: &str) -> String {
    camel(event)
}

fn camel(name: &str) -> String {
    name.split(['.', '_', '-'])
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<Vec<_>>()
        })
        .collect()
}

/// What the handler is made of.
struct Handler {
    /// Names of the catalogue that get an arm.
    typed: Vec<&'static str>,
    /// Whether others come as well: unknown names, or the rest of a family.
    others: bool,
}

impl Handler {
    fn new(events: &[Pattern]) -> Self {
        let known = samples::names();
        let mut handler = Self { typed: Vec::new(), others: false };
        for event in events {
            let mut meant = known.iter().copied().filter(|name| event.matches(name));
            // Of a family the first is shown, the others may follow its example; of `*` none.
            let shown = if event.as_str() == "*" { None } else { meant.next() };
            handler.others |= shown.is_none() || meant.next().is_some();
            handler.typed.extend(shown.filter(|name| !handler.typed.contains(name)));
        }
        handler
    }

    fn body(&self) -> String {
        match (self.typed.as_slice(), self.others) {
            ([], _) => UNTYPED.to_owned(),
            ([only], false) => ONE.replace("{variant}", &variant(only)),
            (several, others) => {
                let mut body = "        match event.data()? {\n".to_owned();
                for name in several {
                    body.push_str(&ARM.replace("{variant}", &variant(name)));
                }
                body.push_str(if others { OTHER_ARM } else { "            _ => Reply::skip(),\n" });
                body.push_str("        }\n");
                body
            }
        }
    }
}

const ONE: &str = r#"        let EventData::{variant}(data) = event.data()? else {
            return Reply::skip();
        };
        host.info(format!("{} came: {data:?}", event.name));
        Reply::done()
"#;
const ARM: &str = r#"            EventData::{variant}(data) => {
                host.info(format!("{} came: {data:?}", event.name));
                Reply::done()
            }
"#;
const OTHER_ARM: &str = r#"            // The fields are text: `event.field("did")`, `event.number("did")`.
            _ => {
                host.info(format!("{} came: {:?}", event.name, event.fields));
                Reply::done()
            }
"#;
const UNTYPED: &str = r#"        // The fields are text: `event.field("did")`, `event.number("did")`. An event that the CRM knows
        // has a type: `event.data()`.
        host.info(format!("{} came: {:?}", event.name, event.fields));
        Reply::done()
"#;

fn code(wanted: &Wanted, first: &Pattern) -> String {
    let handler = Handler::new(&wanted.events);
    let example = example(first);
    let imports = if handler.typed.is_empty() { "" } else { "EventData, " };
    CODE.replace("{imports}", imports)
        .replace("{plugin}", &type_name(&wanted.name))
        .replace("{body}", &handler.body())
        .replace("{fields}", &fields(&example))
        .replace("{event}", &example)
}

const CODE: &str = r#"//! What the plugin does with an event. The host calls `handle` in a fresh instance each time.

use salesman_plugin_sdk::{Event, {imports}Host, Plugin, Reply, Result};

struct {plugin};

impl Plugin for {plugin} {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
{body}    }
}

salesman_plugin_sdk::export!({plugin});

#[cfg(test)]
mod tests {
    use salesman_plugin_sdk::testing::{FakeHost, event};

    use super::*;

    #[test]
    fn the_event_is_told() {
        let fake = FakeHost::new();
        let fields = [{fields}];
        let came = event("{event}", &fields);
        assert_eq!({plugin}.handle(came, &fake.host()), Reply::done());
        assert!(fake.lines()[0].starts_with("info: {event} came: "));
    }
}
"#;

/// A name that the first pattern means.
fn example(first: &Pattern) -> String {
    let known = samples::names();
    match first.as_str() {
        "*" => "deal.change.step".to_owned(),
        family if family.ends_with('*') => {
            let member = known.iter().find(|name| first.matches(name));
            member.map_or_else(|| format!("{}happened", family.trim_end_matches('*')), |name| (*name).to_owned())
        }
        name => name.to_owned(),
    }
}

/// The first plain fields of the event's sample, as pairs in Rust: as many as fit a line.
fn fields(event: &str) -> String {
    let mut list = String::new();
    let body = samples::body(event).into_iter().flatten();
    // `autor` is not reliable: no example to follow.
    let plain = body.filter(|(key, _)| !matches!(key.as_str(), "autor" | "event" | "identity" | "iduser1"));
    let mut plain: Vec<(&String, &str)> = plain.filter_map(|(key, value)| Some((key, value.as_str()?))).collect();
    // Without its own numbers an event has no type.
    plain.sort_by_key(|(key, _)| !matches!(key.as_str(), "clid" | "deid" | "did" | "id" | "pid"));
    for (key, value) in plain {
        let separator = if list.is_empty() { "" } else { ", " };
        let pair = format!("{separator}({key:?}, {value:?})");
        if list.chars().count() + pair.chars().count() > LINE {
            break;
        }
        list.push_str(&pair);
    }
    if list.is_empty() { "(\"id\", \"1\")".to_owned() } else { list }
}

fn readme(wanted: &Wanted) -> String {
    let more = match &wanted.sdk {
        Sdk::Copy => {
            "`sdk/README.md` lists the events, the calls, the limits, and recipes. `sdk` is a copy of the SDK: leave it as it is."
        }
        _ => "The SDK's README lists the events, the calls, the limits, and recipes.",
    };
    README
        .replace("{name}", wanted.name.as_str())
        .replace("{file}", &crate_name(&wanted.name).replace('-', "_"))
        .replace("{more}", more)
}

const README: &str = r#"# {name}

A plugin for SalesMan Plugin Host. `src/lib.rs` holds what it does, `plugin.toml` its name, its events and what it asks to be allowed.

    cargo test                        # natively, against a fake host
    rustup target add wasm32-wasip1   # once
    salesman-host plugin build        # the file that the host loads
    salesman-host plugin inspect target/wasm32-wasip1/release/{file}.wasm

Copy the file into the host's plugin folder. Grants and settings go into the host's configuration, under `[plugins.{name}]`.

{more}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::try_from(text.to_owned()).unwrap()
    }

    fn patterns(events: &[&str]) -> Vec<Pattern> {
        events.iter().map(|event| Pattern::try_from((*event).to_owned()).unwrap()).collect()
    }

    #[test]
    fn no_name_of_a_plugin_makes_a_crate_that_cargo_refuses() {
        let names = [
            ("deal-watch", "deal-watch", "DealWatch"),
            ("2fa", "plugin-2fa", "Plugin2fa"),
            ("event", "event", "EventPlugin"),
            ("fn", "plugin-fn", "Fn"),
            ("self", "plugin-self", "SelfPlugin"),
            ("salesman-plugin-sdk", "plugin-salesman-plugin-sdk", "SalesmanPluginSdk"),
            ("a--b-", "a--b-", "AB"),
        ];
        for (plugin, package, kind) in names {
            assert_eq!((crate_name(&name(plugin)).as_str(), type_name(&name(plugin)).as_str()), (package, kind));
        }
    }

    #[test]
    fn every_wish_for_events_has_its_handler() {
        let body = |events: &[&str]| Handler::new(&patterns(events)).body();
        assert_eq!(body(&["deal.close"]), ONE.replace("{variant}", "DealClose"));
        assert_eq!(body(&["*"]), UNTYPED);
        assert_eq!(body(&["my.own"]), UNTYPED);
        let arms = |names: &[&str]| names.iter().map(|name| ARM.replace("{variant}", name)).collect::<String>();
        let whole = |arms: String, last: &str| format!("        match event.data()? {{\n{arms}{last}        }}\n");
        assert_eq!(body(&["client.*"]), whole(arms(&["ClientAdd"]), OTHER_ARM));
        assert_eq!(body(&["client.*", "client.add", "*"]), whole(arms(&["ClientAdd"]), OTHER_ARM));
        assert_eq!(
            body(&["deal.change.datum_plan", "lead.setuser"]),
            whole(arms(&["DealChangeDatumPlan", "LeadSetuser"]), "            _ => Reply::skip(),\n")
        );
        assert_eq!(body(&["deal.close", "my.own"]), whole(arms(&["DealClose"]), OTHER_ARM));
    }

    #[test]
    fn a_path_to_the_sdk_leads_there_from_the_crate() {
        let path = |from: &str, to: &str| from_to(&plain(Path::new(from)), &plain(Path::new(to)));
        assert_eq!(path("/home/a/work/new", "/home/a/salesman/plugin-sdk"), Path::new("../../salesman/plugin-sdk"));
        assert_eq!(path("/home/a/new", "/home/a/x/../plugin-sdk"), Path::new("../plugin-sdk"));
        assert_eq!(path("/new", "/new/sdk"), Path::new("sdk"));
    }
}
