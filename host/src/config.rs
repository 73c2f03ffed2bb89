//! Gathers every room's options: embedded defaults, then the file, then the environment.
//!
//! - `default.toml` is the documentation and the source of the defaults.
//! - An unknown key is a problem. All problems are reported together.
//! - Secrets are read here and never shown again.
//!
//! Not here: whether a port is free or a folder can be written (`app` tries it).

mod approvals;
mod findings;
mod operators;
mod plugins;
mod read;
mod show;
mod unseen;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::secret::Secret;
use crate::{alerts, console, crm, dispatcher, ingress, journal, registry, sandbox, server, telemetry, traces, watch};

pub use approvals::approve;
pub use findings::Secrets;

/// The defaults, as they are documented.
pub const DEFAULT: &str = include_str!("../default.toml");

/// Everything that the host needs to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where events come in.
    pub listen: String,
    /// The operator's side; none: it is not there.
    pub console: Option<console::Options>,
    /// The intake's options.
    pub ingress: ingress::Options,
    /// The store's options.
    pub journal: journal::Options,
    /// What the store keeps of what is over.
    pub retention: journal::Retention,
    /// The loop's options.
    pub dispatcher: dispatcher::Options,
    /// The engine's options.
    pub sandbox: sandbox::Options,
    /// The plugins' options.
    pub registry: registry::Options,
    /// One client per CRM that has an address.
    pub crm: BTreeMap<String, crm::Options>,
    /// The number of the host's own user, for the accounts that name it.
    pub users: BTreeMap<String, u64>,
    /// What is polled, for the accounts that want it.
    pub watches: BTreeMap<String, watch::Options>,
    /// The listener's options.
    pub server: server::Options,
    /// The log's options.
    pub telemetry: telemetry::Options,
    /// Who is told at night; none: nobody.
    pub alerts: Option<alerts::Options>,
    /// Where traces go; none: nowhere.
    pub traces: Option<traces::Options>,
    /// What is not wrong, and an administrator should know.
    pub remarks: Vec<String>,
    /// All secrets that it holds, wherever they stand: what they are taken out of everything that is recorded or shown by.
    pub known_secrets: Vec<Secret>,
    /// The secrets that could not be read, by their keys, and why: only where they are not all needed.
    pub unread: BTreeMap<String, String>,
}

impl Config {
    /// Why a secret below this key, such as `crm.main`, could not be read.
    pub fn unread_of(&self, key: &str) -> Option<&str> {
        let below = |path: &str| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.unread.iter().find(|(path, _)| below(path)).map(|(_, why)| why.as_str())
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl std::fmt::Display for Problems {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "the host can't start, {} problem(s):", self.0.len())?;
        for problem in &self.0 {
            writeln!(formatter, "  - {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file; without one the defaults and the environment stand alone. Relative paths in it start at its folder.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Whether every plugin is granted what it asks.
    pub dev: bool,
    /// Which secrets are needed.
    pub secrets: Secrets,
}

impl Source {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`Problems`] with all that is wrong.
    pub fn read(&self) -> Result<Config, Problems> {
        let (table, places) = read::merged(self)?;
        read::config(&table, places, &self.base(), self)
    }

    /// A number that is another when anything has changed that is not read again while the host runs; `None` where nothing
    /// can be read.
    pub fn fixed_part(&self) -> Option<u64> {
        let (mut table, _) = read::merged(self).ok()?;
        read::without_live_parts(&mut table);
        let mut hasher = DefaultHasher::new();
        table.to_string().hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The files that it comes from: its own, and those with secrets. `None` where its own can't be read.
    pub fn files(&self) -> Option<Vec<PathBuf>> {
        let (table, _) = read::merged(self).ok()?;
        Some(self.file.iter().cloned().chain(read::secret_files(&table, &self.base())).collect())
    }

    fn base(&self) -> PathBuf {
        self.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned()
    }

    /// The configuration as it is in force, secrets hidden.
    ///
    /// # Errors
    /// [`Problems`] when it can't be read at all.
    pub fn show(&self) -> Result<String, Problems> {
        Ok(show::without_secrets(read::merged(self)?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Source { file: Some(path), environment, ..Source::default() }.read()
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let config = check("", &[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:8787");
        assert_eq!(config.dispatcher.retry, dispatcher::retry::Policy::default());
        assert_eq!(config.dispatcher.breaker, dispatcher::gate::Breaker::default());
        assert_eq!(config.ingress.max_body, 1 << 20);
        assert_eq!(config.registry.concurrency, 4);
        assert!(config.registry.dir.ends_with("plugins"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let problems = check(
            "[server]\nlisten = 5\nport = 80\n[crm.main]\nurl = \"nonsense\"\ntoken = { env = \"SALESMAN_NO_SUCH_VARIABLE\" }\n\
             [plugins.Notify]\n[plugins.audit]\norder = \"random\"\n[retry]\nattempts = 0\n[extra]\n[telemetry]\nformat = \"xml\"",
            &[("SALESMAN_HOST__SERVER__MAX_BODY_KIB", "many")],
        )
        .unwrap_err();
        let text = problems.to_string();
        for part in [
            "server.port",
            "server.listen",
            "server.max_body_kib",
            "crm.main.url",
            "SALESMAN_NO_SUCH_VARIABLE",
            "Notify",
            "plugins.audit.order",
            "retry.attempts",
            "extra",
            "telemetry.format",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_token_that_opens_two_doors_or_none_is_refused() {
        let account = |name: &str, token: &str| format!("[crm.{name}]\ntoken = {token}\n");
        let same = "\"0123456789abcdef\"";
        let twice = check(&(account("a", same) + &account("b", same)), &[]).unwrap_err().to_string();
        assert!(twice.contains("another account's token"), "{twice}");
        let none = check(&account("a", "[]"), &[]).unwrap_err().to_string();
        assert!(none.contains("is missing"), "{none}");
        assert!(check(&account("a", "1234567890123456"), &[]).is_ok());
    }

    #[test]
    fn a_plugins_settings_take_secrets_from_elsewhere_and_grants_must_be_origins() {
        let config =
            check("[plugins.notify.settings]\nurl = { file = \"host.toml\" }\nlist = [{ env = \"PATH\" }]", &[])
                .unwrap();
        let settings = config.registry.plugins.values().next().unwrap().settings.clone();
        assert!(settings["url"].as_str().unwrap().starts_with("[plugins.notify"), "{settings:?}");
        assert!(settings["list"][0].is_string(), "{settings:?}");
        for wrong in ["api.telegram.org", "https://a.example/path", "https://*.example", "ftp://a.example", "*"] {
            let problems = check(&format!("[plugins.notify.grants]\nhttp = [\"{wrong}\"]"), &[]).unwrap_err();
            assert!(problems.to_string().contains("`plugins.notify.grants.http` holds"), "{wrong}: {problems}");
        }
        let config = check(
            "[plugins.notify.grants]\nhttp = [\"HTTPS://a.example:443/\"]\nhttp_private = [\"http://Чат.рф\"]",
            &[],
        );
        let own = config.unwrap().registry.plugins.into_values().next().unwrap();
        assert_eq!(own.grants.unwrap().http, ["https://a.example"]);
        assert_eq!(own.http_private, ["http://xn--80a0bn.xn--p1ai"]);
    }

    #[test]
    fn a_door_that_would_stand_open_or_open_to_nobody_is_a_problem() {
        let hash = console::hash_password("correct horse").unwrap();
        for (wrong, part) in [
            (
                "[console.users.anna]\npassword = \"plain text\"\nrole = \"admin\"".to_owned(),
                "is not a password's hash",
            ),
            (format!("[console.users.anna]\npassword = \"{hash}\""), "role` is missing"),
            (format!("[console.users.anna]\npassword = \"{hash}\"\nrole = \"root\""), "role` must be `\"viewer\"`"),
            ("[console.users.anna]\nrole = \"admin\"".to_owned(), "password` is missing"),
            ("[console.tokens.x]\nrole = \"viewer\"\ntoken = \"short\"".to_owned(), "at least 16"),
            ("[console]\nurl = \"host\"".to_owned(), "console.url"),
            ("[console]\nusers = 5".to_owned(), "must be tables"),
            ("[alerts]\nhook = \"planted-no-address\"".to_owned(), "alerts.hook"),
            ("[alerts]\nlanguage = \"de\"".to_owned(), "alerts.language"),
            ("[telemetry.traces]\nshare = 2.0".to_owned(), "telemetry.traces.share"),
        ] {
            let told = check(&wrong, &[]).unwrap_err().to_string();
            assert!(told.contains(part) && !told.contains("planted"), "{wrong}: {told}");
        }
        let good = format!(
            "[console]\nmask = [\"phone\"]\n[console.users.anna]\npassword = \"{hash}\"\nrole = \"admin\"\n\
             [telemetry.traces]\nendpoint = \"http://127.0.0.1:4318\"\nheaders = {{ authorization = \"planted\" }}"
        );
        let config = check(&good, &[]).unwrap();
        let shown = format!("{:?} {:?}", config.console, config.traces);
        assert!(!shown.contains("planted") && !shown.contains(&hash), "{shown}");
        assert!(check("[console]\nenabled = false", &[]).unwrap().console.is_none());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = check(
            "[server]\nlisten = \"127.0.0.1:1\"",
            &[("SALESMAN_HOST__SERVER__LISTEN", "127.0.0.1:2"), ("SALESMAN_HOST__RETRY__ATTEMPTS", "3")],
        )
        .unwrap();
        assert_eq!((config.listen.as_str(), config.dispatcher.retry.attempts), ("127.0.0.1:2", 3));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.toml");
        let key = "planted-secret-0123";
        let elsewhere = "planted.file";
        std::fs::write(&path, format!("[crm.main]\nurl=\"https://a.example\"\nlogin=\"x\"\napi_key=\"{key}\"\ntoken=[\"{key}\"]\n[plugins.notify.settings]\ntoken=\"{key}\"\nchats=[{{token=\"{key}\"}}]\nmore = {{ file = \"{elsewhere}\" }}\n\
             [console.tokens.file]\nrole=\"viewer\"\ntoken=\"{key}\"\n[console.tokens.env]\nrole=\"viewer\"\ntoken=\"{key}\"\n\
             [telemetry.traces]\nendpoint=\"http://x:{key}@a.example\"\nheaders={{x-tenant=\"{key}\"}}")).unwrap();
        std::fs::write(dir.path().join(elsewhere), "planted-elsewhere").unwrap();
        let source = Source { file: Some(path), ..Source::default() };
        let shown = source.show().unwrap();
        assert!(!shown.contains(key) && shown.contains(elsewhere) && shown.contains("viewer"), "{shown}");
        let known = source.read().unwrap().known_secrets;
        assert!(["planted-elsewhere", key].iter().all(|text| known.iter().any(|known| known.expose() == *text)));
        assert!(!format!("{:?}", source.read().unwrap().crm).contains(key));
    }
}
