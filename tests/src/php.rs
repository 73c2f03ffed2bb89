//! The CRM's side under a real PHP: a folder with the generated `developer/events.php`, and pages that fire events.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use salesman_host::events_php::Options;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use xtask::php::Php;

/// What the file is generated from: a host at `url`, nothing of the CRM's own.
pub fn options(url: String, token: &str) -> Options {
    Options {
        url,
        token: token.to_owned(),
        connect_ms: 300,
        total_ms: 1_000,
        relay: false,
        crm_url: String::new(),
        spool: String::new(),
    }
}

/// A CRM's folder.
pub struct Crm {
    folder: TempDir,
    php: Arc<Php>,
    serial: AtomicUsize,
}

/// A page that runs.
pub struct Page {
    child: std::process::Child,
    times: PathBuf,
}

impl Page {
    /// Waits for its end; returns the milliseconds that each event cost it.
    ///
    /// # Errors
    /// When it printed anything but its own words: the CRM's page is broken.
    pub fn end(self) -> anyhow::Result<Vec<f64>> {
        let output = self.child.wait_with_output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(printed == "HANDLER still mine PAGE-OK", "the page printed `{printed}`\n{complained}");
        Ok(serde_json::from_slice(&std::fs::read(&self.times)?)?)
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Crm {
    /// A folder with this `developer/events.php`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(php: &Arc<Php>, events_php: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["inc", "developer", "cash", "run"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/php");
        std::fs::copy(fixtures.join("event.php"), folder.path().join("inc/event.php"))?;
        for page in ["page.php", "bare.php"] {
            std::fs::copy(fixtures.join(page), folder.path().join("run").join(page))?;
        }
        std::fs::write(folder.path().join("developer/events.php"), events_php)?;
        Ok(Self { folder, php: Arc::clone(php), serial: AtomicUsize::new(0) })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder in which events wait.
    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("cash/salesman-host-spool")
    }

    /// The command line of a page that fires these events, and the file of its times.
    ///
    /// # Errors
    /// When the events can't be written down.
    pub fn command(&self, events: &Value, pause: Option<u32>) -> anyhow::Result<(Command, PathBuf)> {
        let run = self.folder.path().join("run");
        let n = self.serial.fetch_add(1, Ordering::SeqCst);
        let (file, times) = (run.join(format!("events-{n}.json")), run.join(format!("times-{n}.json")));
        std::fs::write(&file, events.to_string())?;
        let mut command = self.php.command();
        command.arg(run.join("page.php")).arg(self.folder.path()).arg(file).arg(&times);
        command.args(pause.map(|pause| pause.to_string()));
        Ok((command, times))
    }

    /// Runs a page that calls no function of PHP's own and fires two events, under PHP with these settings; returns what it
    /// printed and what it complained. `site`: the web server's root, for it to see.
    ///
    /// # Errors
    /// When PHP can't be started.
    pub async fn bare(&self, settings: &[String], site: &Path) -> anyhow::Result<(String, String)> {
        let mut command = self.php.command();
        command.args(["-d", "display_errors=1", "-d", "error_reporting=-1"]);
        for setting in settings {
            command.args(["-d", setting]);
        }
        command.arg(self.folder.path().join("run/bare.php")).arg(self.folder.path()).arg(site);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&output.stdout), text(&output.stderr)))
    }

    /// Starts a page that fires these events.
    ///
    /// # Errors
    /// When PHP can't be started.
    pub fn start(&self, events: &Value, pause: Option<u32>) -> anyhow::Result<Page> {
        let (mut command, times) = self.command(events, pause)?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("failed to start PHP")?;
        Ok(Page { child, times })
    }

    /// Runs a page to its end; returns the milliseconds that each event cost it.
    ///
    /// # Errors
    /// As [`Page::end`].
    pub async fn page(&self, events: &Value) -> anyhow::Result<Vec<f64>> {
        let page = self.start(events, None)?;
        tokio::task::spawn_blocking(move || page.end()).await?
    }

    /// Runs the file as cron does; returns its exit code and what it said.
    ///
    /// # Errors
    /// When PHP can't be started.
    pub async fn cron(&self, arguments: &str) -> anyhow::Result<(Option<i32>, String)> {
        let mut command = self.php.command();
        command.arg(self.folder.path().join("developer/events.php")).args(arguments.split(' '));
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Forgets that the host did not answer a moment ago, instead of waiting for it.
    pub fn forget_failure(&self) {
        // It need not be there.
        drop(std::fs::remove_file(self.spool().join("down")));
    }
}

/// How the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 202.
    Accept,
    /// This status, and nothing is taken.
    Refuse(u16),
    /// A proxy answers with a page of its own and this status, and nothing is taken.
    Page(u16),
    /// The same, for the event with this `n` alone; others are accepted.
    PageFor(u64, u16),
    /// No answer comes for the event with this `n`; others are accepted.
    SilentFor(u64),
    /// Takes the event, and answers only after this time.
    Late(Duration),
}

/// One request that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its `Idempotency-Key`.
    pub key: String,
    /// Its body.
    pub body: Value,
}

/// Plays the host, with answers that a test chooses.
pub struct Receiver {
    state: Arc<Mutex<(Mode, Vec<Taken>)>>,
    address: std::net::SocketAddr,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl Receiver {
    /// A receiver that accepts.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new((Mode::Accept, Vec::new())));
        let mut receiver = Self { state, address: ([127, 0, 0, 1], 0).into(), server: None };
        receiver.up().await?;
        Ok(receiver)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Listens, on the same port as before.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn up(&mut self) -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let state = Arc::clone(&self.state);
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let mode = lock(&state).0;
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
            let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!("not JSON"));
            let is = |n: u64| body.get("n").and_then(Value::as_str) == Some(n.to_string().as_str());
            match mode {
                Mode::Refuse(status) => return own(status),
                Mode::Page(status) => return page(status),
                Mode::PageFor(n, status) if is(n) => return page(status),
                Mode::SilentFor(n) if is(n) => std::future::pending().await,
                _ if body.get("event").is_none() => return own(400),
                _ => {}
            }
            lock(&state).1.push(Taken { key, body });
            if let Mode::Late(time) = mode {
                tokio::time::sleep(time).await;
            }
            own(202)
        };
        let take = axum::routing::post(take);
        let router = axum::Router::new().route("/events", take.clone()).route("/events/", take);
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        self.server = Some(tokio::spawn(axum::serve(listener, router).into_future()));
        Ok(())
    }

    /// Listens no more.
    pub async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // It ends as cancelled.
            drop(server.await);
        }
    }

    /// Chooses the answers.
    pub fn mode(&self, mode: Mode) {
        lock(&self.state).0 = mode;
    }

    /// What was taken, in order.
    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.state).1.clone()
    }
}

/// An answer of the host's own.
fn own(status: u16) -> Response {
    (code(status), [(salesman_host::ingress::OWN, "1")]).into_response()
}

/// An answer of a proxy's.
fn page(status: u16) -> Response {
    (code(status), Html("<html><body><h1>nginx</h1></body></html>")).into_response()
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
