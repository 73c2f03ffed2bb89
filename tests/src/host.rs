//! A real host in a process of its own: port 0, a folder of its own, started, stopped and killed at will.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::stand_in::StandIn;
use crate::wait_until;

/// The token of the account `main`.
pub const TOKEN: &str = "test-token-0123456789";
/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a host may take until its plugins are ready, an interpreter of 20 MiB among them.
const START: Duration = Duration::from_secs(300);

/// What to start.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The host's program.
    pub program: PathBuf,
    /// Its plugin folder; an empty one where there is none.
    pub plugins: Option<PathBuf>,
    /// `url` of the CRM with login and key.
    pub crm: Option<(String, String, String)>,
    /// Lines for `[crm.main]`, besides token, address, login and key.
    pub crm_lines: String,
    /// More lines of configuration, for sections that are not written here: plugins, retry, telemetry.
    pub more: String,
    /// Lines for `[server]`, besides address and folder.
    pub server: String,
    /// Whether plugins are granted what they ask.
    pub dev: bool,
    /// The plugin's folder, for `dev` in place of `serve`.
    pub develop: Option<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Where its log goes; a file in its folder by default.
    pub log_to: Option<Arc<std::fs::File>>,
    /// Whether a start is over only when every plugin file is decided about.
    pub settled: bool,
    /// Bytes of a disk of its own for the data folder, in a name space of its own; none by default.
    pub disk: Option<u64>,
}

impl Setup {
    /// The program that was built beside the running one.
    ///
    /// # Errors
    /// When it is not there: `cargo build -p salesman-host` makes it.
    pub fn new() -> anyhow::Result<Self> {
        let mut folder = std::env::current_exe().context("the running program has no path")?;
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let program = folder.join("salesman-host");
        ensure!(program.exists(), "`{}` is not there: build it with `cargo build -p salesman-host`", program.display());
        let built = std::fs::metadata(&program)?.modified()?;
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
        ensure!(
            newest(&sources)? <= built,
            "`{}` is older than its sources: `cargo xtask test` builds it",
            program.display()
        );
        Ok(Self {
            program,
            plugins: None,
            crm: None,
            crm_lines: String::new(),
            more: String::new(),
            server: String::new(),
            dev: true,
            develop: None,
            environment: Vec::new(),
            log_to: None,
            settled: true,
            disk: None,
        })
    }

    /// With this CRM.
    #[must_use]
    pub fn crm(mut self, crm: &StandIn) -> Self {
        self.crm = Some((crm.base_url().to_owned(), crm.api_login().to_owned(), crm.api_key().to_owned()));
        self
    }

    /// With the plugins of this folder.
    #[must_use]
    pub fn plugins(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugins = Some(folder.into());
        self
    }

    /// With more sections of configuration.
    #[must_use]
    pub fn more(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a host in a fresh folder; returns when it listens.
    ///
    /// # Errors
    /// When it does not start; the error holds what it said.
    pub async fn start(self) -> anyhow::Result<Host> {
        self.start_in(tempfile::tempdir().context("failed to make a folder")?).await
    }

    /// Starts a host in this folder, which is empty; returns when it listens.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub async fn start_in(self, folder: TempDir) -> anyhow::Result<Host> {
        let plugins = match &self.plugins {
            Some(plugins) => std::path::absolute(plugins)?,
            None => folder.path().join("plugins"),
        };
        std::fs::create_dir_all(&plugins)?;
        let mut config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\n{}\n[plugins]\ndir = {plugins:?}\n[crm.main]\ntoken = \"{TOKEN}\"\n",
            self.server
        );
        if let Some((url, login, key)) = &self.crm {
            writeln!(config, "url = {url:?}\nlogin = {login:?}\napi_key = {key:?}")?;
        }
        config.push_str(&self.crm_lines);
        config.push('\n');
        config.push_str(&self.more);
        std::fs::write(folder.path().join("host.toml"), config)?;
        let mut host = Host { setup: self, folder, process: None, base: String::new(), http: http_client()? };
        host.start().await?;
        Ok(host)
    }
}

/// When the newest file below a folder was written.
fn newest(folder: &Path) -> anyhow::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        newest = newest.max(if metadata.is_dir() { self::newest(&entry.path())? } else { metadata.modified()? });
    }
    Ok(newest)
}

/// A client for tests and tools.
///
/// # Errors
/// When the TLS library can't be set up.
pub fn http_client() -> anyhow::Result<reqwest::Client> {
    // Fails only when a provider is installed already, which serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().context("failed to set up the HTTP client")
}

/// A host.
pub struct Host {
    setup: Setup,
    folder: TempDir,
    process: Option<Child>,
    base: String,
    http: reqwest::Client,
}

/// Kibibytes of a process's memory by this line of the system's.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32, line: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let told = status.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(':'));
    Ok(told.and_then(|told| told.split_whitespace().next()).context("the system tells no memory")?.parse()?)
}

impl Host {
    /// Starts it again, on the same folder, and kills it so much later, wherever it is then.
    ///
    /// # Errors
    /// When there is no such program.
    pub async fn start_and_kill(&mut self, after: Duration) -> anyhow::Result<()> {
        let mut process = self.spawn()?;
        tokio::time::sleep(after).await;
        // It may have ended by itself.
        drop(process.kill());
        process.wait()?;
        Ok(())
    }

    /// Starts it again, on the same folder; returns when it listens.
    ///
    /// # Errors
    /// When it does not start; the error holds what it said.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut process = self.spawn()?;
        let stdout = process.stdout.take().context("the host has no standard output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = tokio::time::timeout(START, line).await.context("the host did not listen in time")???;
        self.process = Some(process);
        match line.trim().strip_prefix("listening on ") {
            Some(base) => self.base = base.to_owned(),
            None => bail!("the host did not start:\n{}", self.log()),
        }
        if !self.setup.settled {
            return Ok(());
        }
        wait_until("plugins that are ready", START, async || {
            let response = self.http.get(format!("{}/readyz", self.base)).send().await?;
            Ok((!response.text().await?.contains("plugins are being made ready")).then_some(()))
        })
        .await
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = match &self.setup.log_to {
            Some(file) => file.try_clone()?,
            None => std::fs::OpenOptions::new().create(true).append(true).open(self.log_file())?,
        };
        let mut command = match self.setup.disk {
            None => Command::new(&self.setup.program),
            Some(bytes) => {
                std::fs::create_dir_all(self.data())?;
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
                command.arg(format!("mount -t tmpfs -o size={bytes} tmpfs \"$1\" && shift && exec \"$@\""));
                command.arg("sh").arg(self.data()).arg(&self.setup.program);
                command
            }
        };
        match &self.setup.develop {
            Some(folder) => {
                // What cargo told the test is not for the cargo that the host runs.
                ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"].iter().for_each(|name| {
                    command.env_remove(name);
                });
                command.arg("dev").arg(folder)
            }
            None => command.args(if self.setup.dev { &["serve", "--dev"][..] } else { &["serve"] }),
        };
        command.arg("--config").arg(self.folder.path().join("host.toml"));
        command.envs(self.setup.environment.iter().cloned());
        command.stdout(Stdio::piped()).stderr(log).spawn().context("failed to start the host")
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The address that the CRM calls.
    pub fn hook(&self) -> String {
        format!("{}/events/{TOKEN}", self.base)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The token of its data folder, which its commands use.
    ///
    /// # Errors
    /// When there is none: it does not run.
    pub fn token(&self) -> anyhow::Result<String> {
        let file = self.data().join("console.token");
        // A disk of the host's own is seen by its process alone.
        let seen = self.pid().map(|pid| {
            let below = file.strip_prefix("/").unwrap_or(&file);
            Path::new(&format!("/proc/{pid}/root")).join(below)
        });
        let token = std::fs::read_to_string(&file).or_else(|error| seen.map_or(Err(error), std::fs::read_to_string));
        token.context("the host has written no token")
    }

    /// An address that opens its console once.
    ///
    /// # Errors
    /// When it makes none.
    pub async fn link(&self) -> anyhow::Result<String> {
        let (_, made) = self.ask("console/link", &serde_json::json!({})).await?;
        made.get("link").and_then(Value::as_str).map(str::to_owned).context("the answer holds no link")
    }

    /// A client that looks at its pages as somebody who came in by such an address.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn browser(&self) -> anyhow::Result<reqwest::Client> {
        let client = |headers| {
            let builder = reqwest::Client::builder().no_proxy().default_headers(headers);
            builder.redirect(reqwest::redirect::Policy::none()).build()
        };
        let entered = client(reqwest::header::HeaderMap::new())?.get(self.link().await?).send().await?;
        let cookie = entered.headers().get("set-cookie").context("the link lets nobody in")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().parse()?;
        Ok(client([(reqwest::header::COOKIE, cookie)].into_iter().collect())?)
    }

    /// Its process's number.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Kibibytes of memory by this line of the system's: `VmRSS`, what it holds; `VmHWM`, the most that it ever held.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&self, line: &str) -> anyhow::Result<u64> {
        memory(self.pid().context("the host is not running")?, line)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Posts a form; returns status and answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, body: &str) -> anyhow::Result<(u16, Value)> {
        self.send("POST", "", Some("application/x-www-form-urlencoded"), body.as_bytes().to_vec()).await
    }

    /// Sends an event in any shape; returns status and answer.
    ///
    /// # Errors
    /// When there is no answer, or it is not JSON.
    pub async fn send(
        &self,
        method: &str,
        query: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> anyhow::Result<(u16, Value)> {
        let url = if query.is_empty() { self.hook() } else { format!("{}?{query}", self.hook()) };
        let mut request = self.http.request(method.parse()?, url);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        if !body.is_empty() {
            request = request.body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).with_context(|| format!("the answer is not JSON: {text}"))?))
    }

    /// Reads from the host's API.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn api(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}/api/v1/{path}", self.base)).bearer_auth(self.token()?);
        let response = request.send().await?;
        ensure!(response.status().is_success(), "`{path}` answered {}", response.status());
        Ok(serde_json::from_str(&response.text().await?)?)
    }

    /// Reads a text of the host, such as its metrics.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let request = self.http.get(format!("{}/{path}", self.base)).bearer_auth(self.token()?);
        let response = request.send().await?;
        ensure!(response.status().is_success(), "`{path}` answered {}", response.status());
        Ok(response.text().await?)
    }

    /// Asks the host's API to change something; returns status and answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let request = self.http.post(format!("{}/api/v1/{path}", self.base)).bearer_auth(self.token()?);
        let response = request.header("content-type", "application/json").body(body.to_string()).send().await?;
        Ok((response.status().as_u16(), serde_json::from_str(&response.text().await?)?))
    }

    /// Posts a form that must be accepted; returns the event's id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn accepted(&self, body: &str) -> anyhow::Result<String> {
        let (status, answer) = self.post(body).await?;
        ensure!(status == 202, "the event was not accepted: {status} {answer}");
        answer.get("id").and_then(Value::as_str).map(str::to_owned).context("the answer has no id")
    }

    /// Waits until all deliveries of an event are over; returns the event's path.
    ///
    /// # Errors
    /// When they are not over in time.
    pub async fn settled(&self, id: &str) -> anyhow::Result<Value> {
        wait_until(&format!("the deliveries of {id}"), PATIENCE, async || {
            let path = self.api(&format!("events/{id}")).await?;
            let over = |delivery: &Value| {
                matches!(delivery.get("state").and_then(Value::as_str), Some("done" | "skipped" | "dead" | "dropped"))
            };
            let deliveries = path.get("deliveries").and_then(Value::as_array).cloned().unwrap_or_default();
            let routed = path.get("routed").and_then(Value::as_bool).unwrap_or_default();
            Ok((routed && deliveries.iter().all(over)).then_some(path))
        })
        .await
    }

    /// Waits until nothing waits or runs any more.
    ///
    /// # Errors
    /// When something still does after `limit`.
    pub async fn idle(&self, limit: Duration) -> anyhow::Result<()> {
        wait_until("an empty backlog", limit, async || {
            let backlog = self.api("backlog").await?;
            let count = |key: &str| backlog.get(key).and_then(Value::as_u64).unwrap_or(1);
            Ok((count("unrouted") == 0 && count("open") == 0).then_some(()))
        })
        .await
    }

    /// Waits until no more than this many deliveries wait or run, of which none but these may.
    ///
    /// # Errors
    /// When more still do after the patience.
    pub async fn idle_but(&self, most: u64) -> anyhow::Result<()> {
        wait_until("a small backlog", PATIENCE, async || {
            let open = self.api("backlog").await?.get("open").and_then(Value::as_u64).unwrap_or(u64::MAX);
            Ok((open <= most).then_some(()))
        })
        .await
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the host is not running")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Asks it to stop, and does not wait for it.
    ///
    /// # Errors
    /// When it is not running.
    pub fn ask_to_stop(&self) -> anyhow::Result<()> {
        let pid = self.pid().context("the host is not running")?;
        let status = Command::new("kill").arg("-TERM").arg(pid.to_string()).status()?;
        ensure!(status.success(), "the signal could not be sent");
        Ok(())
    }

    /// Asks it to stop; returns its exit code.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub async fn stop(&mut self) -> anyhow::Result<Option<i32>> {
        self.ask_to_stop()?;
        let mut process = self.process.take().context("the host is not running")?;
        wait_until("the host's end", PATIENCE, async || Ok(process.try_wait()?.map(|status| status.code()))).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            drop(process.kill());
            drop(process.wait());
        }
    }
}
