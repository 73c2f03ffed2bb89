//! A door to the running host's API, for the commands.
//!
//! - Errors are sentences: nobody listens there, the API is off, the host's own code and message.
//! - Blocking, because commands do one thing after the other; not to be used within a runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::config::{Secrets, Source};
use crate::console::address_file;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows that the API gives at once.
const MOST_ROWS: usize = 200;

/// Why the running host did not do it, with an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody answered.
    #[error("{0}")]
    Silent(String),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Where the running host is, and who asks.
#[derive(clap::Args, Debug)]
pub(super) struct At {
    /// The running host's address; the configuration's by default.
    #[arg(long, value_name = "URL")]
    pub(super) host: Option<String>,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// A token of `[console.tokens.NAME]`; by default the one in the data folder, which only the host that wrote it gets.
    #[arg(long, value_name = "TOKEN", env = "SALESMAN_HOST_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

impl At {
    /// A door to it. Whoever may read the data folder needs no token of their own.
    pub(super) fn remote(&self) -> anyhow::Result<Remote> {
        if self.host.is_some() && self.config.is_none() {
            // Another host's configuration says nothing of this one, and its token is not for it.
            return self.remote_of(&Source { secrets: Secrets::Spared, ..Source::default() });
        }
        self.remote_of(&super::spared(self.config.clone()))
    }

    fn remote_of(&self, source: &Source) -> anyhow::Result<Remote> {
        let config = source.read();
        let config = match (&self.host, config) {
            (None, Err(problems)) => return Err(problems.into()),
            (_, config) => config.ok(),
        };
        let console = config.as_ref().and_then(|config| config.console.as_ref());
        let file = console.and_then(|console| console.access.token_file.clone());
        let file = file.filter(|_| self.host.is_none() || self.config.is_some());
        let (mut hint, mut own) = (String::new(), None);
        if let Some(file) = &file {
            match read_own(file) {
                Ok(read) => own = Some(read),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    hint = format!("; `{}` can't be read: run this as the host's user", file.display());
                }
                Err(_) => {}
            }
        }
        let listen = config
            .as_ref()
            .map(|config| console.and_then(|console| console.listen.clone()).unwrap_or_else(|| config.listen.clone()));
        let base = match (&self.host, &own) {
            (Some(host), _) => host.clone(),
            // Where it listens, whatever the configuration says by now.
            (None, Some(own)) => own.address.clone(),
            (None, None) => listen.map(|listen| format!("http://{listen}")).unwrap_or_default(),
        };
        let mut remote = Remote::new(&base)?;
        remote.hint = hint;
        remote.token.clone_from(&self.token);
        if let (None, Some(own)) = (&self.token, own) {
            let writer = Remote::new(&own.address)?;
            anyhow::ensure!(
                remote.means(&writer),
                "`{}` is not the host that this configuration is of, which listens at `{}`: its token is not sent there. \
                 Give one of that host's `[console.tokens.NAME]` with `--token` or `SALESMAN_HOST_TOKEN`",
                remote.base,
                writer.base
            );
            // The very address: another one of this machine may be somebody else's.
            remote = Remote { token: Some(own.token), hint: remote.hint, ..writer };
        }
        Ok(remote)
    }
}

/// The token in the data folder, and the address of the host that wrote it: it goes nowhere else.
struct Own {
    token: String,
    address: String,
}

fn read_own(file: &Path) -> std::io::Result<Own> {
    let address = std::fs::read_to_string(address_file(file))?;
    Ok(Own { token: std::fs::read_to_string(file)?, address })
}

/// Tells the running host's log what a command is about to do to its files. A host that does not run has no log.
///
/// # Errors
/// [`Failure::Refused`]: it must not be done.
pub(super) fn note(source: &Source, action: &str, object: &str, details: &str) -> anyhow::Result<()> {
    let at = At { host: None, config: source.file.clone(), token: None };
    let body = serde_json::json!({ "action": action, "object": object, "details": details });
    match at.remote_of(source).and_then(|remote| remote.post("audit", &body)) {
        Err(error) if matches!(error.downcast_ref::<Failure>(), Some(Failure::Refused(_))) => Err(error),
        _ => Ok(()),
    }
}

/// A running host.
pub(super) struct Remote {
    base: String,
    token: Option<String>,
    /// What may be the cause of a refusal.
    hint: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Remote {
    /// The host at an address such as `http://127.0.0.1:8787`. An address that means "every interface" (`0.0.0.0`, `[::]`)
    /// is taken for this machine.
    pub(super) fn new(base: &str) -> anyhow::Result<Self> {
        let wrong = || format!("`{base}` is no address such as `http://127.0.0.1:8787`");
        let mut url = url::Url::parse(base).with_context(wrong)?;
        anyhow::ensure!(matches!(url.scheme(), "http" | "https") && url.has_host(), wrong());
        let here = match url.host_str() {
            Some("0.0.0.0") => Some("127.0.0.1"),
            Some("[::]") => Some("[::1]"),
            _ => None,
        };
        if here.is_some() {
            url.set_host(here).with_context(wrong)?;
        }
        let http = crate::tls::client_builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("failed to set up the HTTP client")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime")?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base, token: None, hint: String::new(), http, runtime })
    }

    /// Whether this is another's address, as people write it.
    fn means(&self, other: &Self) -> bool {
        let parts = |base: &str| {
            let url = url::Url::parse(base).ok()?;
            let host = url.host_str()?.to_owned();
            let here = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]");
            Some((
                url.scheme().to_owned(),
                if here { "localhost".to_owned() } else { host },
                url.port_or_known_default()?,
            ))
        };
        parts(&self.base).is_some() && parts(&self.base) == parts(&other.base)
    }

    fn with_token(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.trim()),
            None => request,
        }
    }

    /// Reads `/api/v1/PATH` with a query.
    pub(super) fn ask(&self, path: &str, query: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        let said = query.iter().filter_map(|(key, value)| value.as_ref().map(|value| (*key, value.as_str())));
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(said).finish();
        self.get(&format!("{path}?{query}"))
    }

    /// Reads page after page of a list, up to so many rows: the rows, and where to go on.
    pub(super) fn list(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
        cursor: Option<String>,
        limit: usize,
    ) -> anyhow::Result<Value> {
        let (mut items, mut cursor) = (Vec::new(), cursor);
        loop {
            let rows = limit.saturating_sub(items.len()).clamp(1, MOST_ROWS);
            let mut query = query.to_vec();
            query.extend([("limit", Some(rows.to_string())), ("cursor", cursor)]);
            let mut page = self.ask(path, &query)?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            // A search that looked at enough says how far it came: whoever asked decides whether it goes on.
            let broke_off = page.get("looked_back_to").is_some();
            if cursor.is_none() || broke_off || items.len() >= limit {
                if let Some(page) = page.as_object_mut() {
                    page.insert("items".to_owned(), Value::Array(items));
                }
                return Ok(page);
            }
        }
    }

    /// Reads a stream of `/api/v1/PATH` for as long as it lasts, or until `told`, which is given each event's name and data,
    /// has had enough.
    pub(super) fn listen(&self, path: &str, mut told: impl FnMut(&str, &str) -> bool) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let request = self.with_token(self.http.get(format!("{}/api/v1/{path}", self.base)));
            let mut response = request.send().await.map_err(|error| self.silence(&error))?;
            if !response.status().is_success() {
                let status = response.status();
                let body = response.bytes().await.map_err(|error| self.silence(&error))?;
                return self.judge(status, &body).map(drop);
            }
            let (mut rest, mut name) = (Vec::new(), String::new());
            while let Some(chunk) = response.chunk().await.map_err(|error| self.silence(&error))? {
                rest.extend_from_slice(&chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    let line = line.trim_end();
                    if let Some(event) = line.strip_prefix("event:") {
                        event.trim().clone_into(&mut name);
                    } else if let Some(data) = line.strip_prefix("data:")
                        && !told(&name, data.trim())
                    {
                        return Ok(());
                    }
                }
            }
            anyhow::Ok(())
        })
    }

    /// Reads `/api/v1/PATH`.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.http.get(format!("{}/api/v1/{path}", self.base)))
    }

    /// Asks `/api/v1/PATH` to change something.
    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}/api/v1/{path}", self.base));
        self.answer(request.header("content-type", "application/json").body(body.to_string()))
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let request = self.with_token(request).timeout(PATIENCE);
        let (status, body) = self.runtime.block_on(async {
            let response = request.send().await.map_err(|error| self.silence(&error))?;
            let status = response.status();
            let body = response.bytes().await.map_err(|error| self.silence(&error))?;
            anyhow::Ok((status, body))
        })?;
        self.judge(status, &body)
    }

    fn judge(&self, status: reqwest::StatusCode, body: &[u8]) -> anyhow::Result<Value> {
        let (base, hint) = (&self.base, &self.hint);
        let value: Option<Value> = serde_json::from_slice(body).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            Some(value) if value.get("code").is_some() => {
                let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let (message, code) = (text("message"), text("code"));
                bail!(Failure::Refused(format!("the host at `{base}` refused: {message} (`{code}`){hint}")))
            }
            _ if status.as_u16() == 404 => {
                bail!("`{base}` has no such API: is it this host, of this version, and is `console.enabled` on?")
            }
            _ => bail!("`{base}` answered {} with something that is not this host's API", status.as_u16()),
        }
    }

    fn silence(&self, error: &reqwest::Error) -> anyhow::Error {
        let base = &self.base;
        let words = if error.is_connect() {
            format!(
                "no host listens at `{base}`: start it with `salesman-host serve`, or say where it is with `--host`"
            )
        } else if error.is_timeout() {
            format!("the host at `{base}` did not answer within {} s", PATIENCE.as_secs())
        } else {
            format!("the answer of the host at `{base}` broke off")
        };
        Failure::Silent(words).into()
    }
}

/// Whether the host at an address takes events: yes, with remarks; or no, with reasons.
pub(super) fn readiness(listen: &str) -> anyhow::Result<(bool, Vec<String>)> {
    let remote = Remote::new(&format!("http://{listen}"))?;
    let request = remote.http.get(format!("{}/readyz", remote.base)).timeout(Duration::from_secs(5));
    let body = remote.runtime.block_on(async {
        let answer = request.send().await.map_err(|error| remote.silence(&error))?;
        answer.bytes().await.map_err(|error| remote.silence(&error))
    })?;
    let value: Value = serde_json::from_slice(&body).context("it says nothing of its readiness")?;
    let ready = value.get("ready") == Some(&Value::Bool(true));
    let words = super::table::list(&value, if ready { "remarks" } else { "reasons" });
    Ok((ready, words.filter_map(|word| word.as_str().map(str::to_owned)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folders_token_goes_to_the_address_that_wrote_it_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("host.toml");
        std::fs::write(&config, "[server]\ndata_dir = \"data\"\nlisten = \"127.0.0.1:1\"").unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let at = |host: Option<&str>, token: Option<&str>| {
            let (host, token) = (host.map(str::to_owned), token.map(str::to_owned));
            At { host, config: Some(config.clone()), token }.remote()
        };
        // No host has written one: nothing is sent, and the configuration says where one would be.
        let none = at(None, None).unwrap();
        assert_eq!((none.base.as_str(), none.token), ("http://127.0.0.1:1", None));
        std::fs::write(folder.path().join("data/console.token"), "planted").unwrap();
        std::fs::write(folder.path().join("data/console.address"), "http://0.0.0.0:8123").unwrap();
        for own in [None, Some("http://127.0.0.1:8123/"), Some("http://localhost:8123"), Some("http://[::1]:8123")] {
            let remote = at(own, None).unwrap();
            assert_eq!((remote.base.as_str(), remote.token.as_deref()), ("http://127.0.0.1:8123", Some("planted")));
        }
        for other in [
            "http://127.0.0.1:8124",
            "http://evil.example:8123",
            "https://127.0.0.1:8123",
            "http://127.0.0.1.evil.example:8123",
        ] {
            let told = at(Some(other), None).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains("its token is not sent there") && told.contains("--token"), "{other}: {told}");
            let given = at(Some(other), Some("theirs")).unwrap();
            assert_eq!((given.base.as_str(), given.token.as_deref()), (other, Some("theirs")));
        }
    }

    #[test]
    fn a_host_that_is_not_there_is_told_in_a_sentence() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let remote = Remote::new(&format!("http://0.0.0.0:{port}/")).unwrap();
        let told = remote.post("dead/drop", &Value::Null).unwrap_err().to_string();
        assert!(told.starts_with(&format!("no host listens at `http://127.0.0.1:{port}`")), "{told}");
        for wrong in ["127.0.0.1:8787", "nonsense", "file:///x"] {
            assert!(Remote::new(wrong).is_err(), "{wrong}");
        }
    }
}
