//! Puts the rooms together, in order, and takes them apart in the opposite order.
//!
//! Start: check everything that can be checked → journal → plugins → dispatcher → socket.
//! Stop: no new events → running plugins end, up to the drain time → journal closed → said whether it was graceful.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::capabilities::Outside;
use crate::clock::Clock;
use crate::config::{Config, Problems, Source};
use crate::dispatcher::{self, Dispatcher, Tools};
use crate::journal::{self, Journal};
use crate::registry::versions::Versions;
use crate::registry::{Registry, Reread};
use crate::sandbox::Sandbox;
use crate::telemetry::Metrics;
use crate::{alerts, console, crm, health, ingress, server, telemetry, traces};

/// A host that is up.
pub struct App {
    address: SocketAddr,
    stop_intake: watch::Sender<bool>,
    stop_dispatcher: watch::Sender<bool>,
    server: JoinHandle<()>,
    dispatcher: JoinHandle<bool>,
    queues: dispatcher::Handle,
    /// What goes on beside: forgetting, polling, asking for the host's own user.
    helpers: Vec<JoinHandle<()>>,
    journal: Journal,
    /// Held, because its handles see no change once it is gone.
    registry: Registry,
}

impl App {
    /// Starts everything. What `source` says of plugins is read again whenever it changes.
    ///
    /// # Errors
    /// [`Problems`] with all that keeps the host from starting.
    pub async fn start(config: Config, source: &Source, metrics: Metrics) -> Result<Self, Problems> {
        let listener = checked(&config)?;
        let one = |error: &dyn std::fmt::Display| Problems(vec![error.to_string()]);
        let clock = Clock::Wall;
        let journal = Journal::open(&config.journal, clock.clone()).map_err(|error| one(&error))?;
        let sandbox = Arc::new(Sandbox::new(&config.sandbox).map_err(|error| one(&error))?);
        if config.registry.dev {
            telemetry::dev_grants();
        }
        let (approvals_file, store) = (config.registry.approvals.clone(), config.registry.store.clone());
        let reread = reread(source, &approvals_file);
        let registry = {
            let (options, sandbox) = (config.registry, Arc::clone(&sandbox));
            let started = tokio::task::spawn_blocking(move || Registry::start(options, sandbox, Some(reread))).await;
            started.map_err(|error| one(&error))?.map_err(|error| one(&error))?
        };
        let mut clients = std::collections::BTreeMap::new();
        for (account, options) in config.crm {
            clients.insert(account, crm::Client::new(options).map_err(|error| one(&error))?);
        }
        let mut helpers = Vec::new();
        for (account, client) in &clients {
            let known = config.users.get(account).copied();
            helpers.push(tokio::spawn(know_user(account.clone(), client.clone(), known, journal.handle())));
            if let Some(options) = config.watches.get(account) {
                let watch = crate::watch::Watch::new(account.clone(), client.clone(), journal.handle(), clock.clone());
                helpers.push(tokio::spawn(watch.run(options.clone())));
            }
        }
        let tools = Tools {
            journal: journal.handle(),
            registry: registry.handle(),
            sandbox,
            crm: clients,
            outside: Outside::new().map_err(|error| one(&error))?,
            clock: clock.clone(),
        };
        let (stop_dispatcher, stopped) = watch::channel(false);
        let dispatcher = Dispatcher::new(config.dispatcher, tools);
        let queues = dispatcher.handle();
        let dispatcher = tokio::spawn(dispatcher.run(stopped));
        helpers.push(tokio::spawn(journal::keep(journal.handle(), config.retention, telemetry::forgotten)));

        let address = listener.local_addr().map_err(|error| one(&error))?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| one(&error))?;
        let accounts = config.ingress.accounts.len();
        helpers.push(tokio::spawn(metrics.clone().keep()));
        if let Some(options) = config.alerts {
            helpers.push(tokio::spawn(alerts::start(options, queues.signals()).map_err(|error| one(&error))?));
        }
        let mut intake = config.ingress;
        if let Some(options) = config.traces {
            let (told, hooks) = mpsc::channel(traces::MOST_WAITING);
            intake.told = Some(told);
            helpers.push(tokio::spawn(traces::start(options, hooks, queues.delivered()).map_err(|error| one(&error))?));
        }
        let mut router = health::routes(health::Tools { journal: journal.handle(), queues: queues.clone() });
        router = router.merge(ingress::routes(intake, journal.handle(), clock.clone()));
        let (stop_intake, stopped) = watch::channel(false);
        let mut own_listener = None;
        if let Some(options) = config.console {
            let listen = options.listen.clone();
            let approvals = approvals_file;
            let tools = console::Tools {
                journal: journal.handle(),
                registry: registry.handle(),
                queues: queues.clone(),
                clock: clock.clone(),
                metrics,
                stopping: stopped.clone(),
                versions: Versions::new(&store),
                approve: Arc::new(move |name, permissions| crate::config::approve(&approvals, name, permissions)),
                make_event: Arc::new(|account, body, now| {
                    ingress::event_of(account, body, now).map_err(|problem| problem.to_string())
                }),
            };
            let pages = console::routes(options, tools).map_err(|error| one(&error))?;
            match listen {
                None => router = router.merge(pages),
                Some(listen) => {
                    own_listener = Some((listening(&listen, "console.listen").map_err(|error| one(&error))?, pages))
                }
            }
        }
        if let Some((listener, pages)) = own_listener {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| one(&error))?;
            helpers.push(tokio::spawn(server::serve(listener, pages, config.server.clone(), stopped.clone())));
        }
        let server = tokio::spawn(server::serve(listener, router, config.server, stopped));
        telemetry::listening(address, registry.handle().snapshot().plugins.len(), accounts);
        Ok(Self { address, stop_intake, stop_dispatcher, server, dispatcher, queues, helpers, journal, registry })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The loop's view of itself.
    pub fn queues(&self) -> &dispatcher::Handle {
        &self.queues
    }

    /// Returns when a part of the host has ended by itself, which it must not: the rest would accept what nobody handles.
    pub async fn broken(&mut self) -> &'static str {
        let journal = self.journal.handle();
        tokio::select! {
            _ = &mut self.server => "the server",
            _ = &mut self.dispatcher => "the dispatcher",
            () = journal.closed() => "the journal",
        }
    }

    /// Stops everything in order; tells whether all that ran has ended.
    pub async fn stop(self) -> bool {
        telemetry::stopping();
        self.stop_intake.send_replace(true);
        // Open connections may finish what they send; keep-alive ones without a request are closed.
        let aborter = self.server.abort_handle();
        if tokio::time::timeout(std::time::Duration::from_secs(5), self.server).await.is_err() {
            // Somebody is still sending, slowly; nothing of it has been acknowledged.
            aborter.abort();
        }
        self.stop_dispatcher.send_replace(true);
        let drained = self.dispatcher.await.unwrap_or(false);
        self.helpers.iter().for_each(JoinHandle::abort);
        drop((self.registry, self.queues));
        let journal = self.journal;
        // Waits for the last handle; a delivery that was cut off, or a slow sender, may hold one until the runtime ends.
        if drained {
            let closed = tokio::task::spawn_blocking(move || journal.close());
            drop(tokio::time::timeout(std::time::Duration::from_secs(5), closed).await);
        }
        telemetry::stopped(drained);
        drained
    }
}

/// How what is said of plugins is read again while the host runs.
fn reread(source: &Source, approvals: &Path) -> Reread {
    let (source, fixed) = (source.clone(), source.fixed_part());
    let files = source.file.iter().cloned().chain([approvals.to_owned()]).collect();
    let read = move || match source.read() {
        Ok(config) => {
            telemetry::config_read_again(source.fixed_part() != fixed);
            Some(config.registry)
        }
        Err(problems) => {
            telemetry::config_not_read(&problems);
            None
        }
    };
    Reread { files, read: Box::new(read) }
}

/// Learns which user of a CRM the host is, and remembers it: the last known number serves while the CRM can't say.
async fn know_user(account: String, client: crm::Client, known: Option<u64>, journal: journal::Handle) {
    let mut wait = std::time::Duration::from_secs(1);
    loop {
        let user = match known {
            Some(user) => Ok(user),
            None => client.own_user().await,
        };
        match user {
            Ok(user) => match journal.know_user(&account, user).await {
                Ok(()) => return telemetry::own_user(&account, user),
                Err(journal::Error::Closed) => return,
                Err(error) => telemetry::store_refused("user", &error),
            },
            Err(error) => telemetry::own_user_unknown(&account, &error),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(std::time::Duration::from_secs(300));
    }
}

/// Everything that can be checked before anything starts; all problems together.
fn checked(config: &Config) -> Result<std::net::TcpListener, Problems> {
    let mut problems = Vec::new();
    if let Err(error) = writable(&config.journal.data_dir) {
        problems.push(format!(
            "the data folder `{}` can't be written: {error}; set `server.data_dir`",
            config.journal.data_dir.display()
        ));
    }
    if !config.registry.dir.is_dir() {
        problems.push(format!(
            "the plugin folder `{}` is not there: make it, or set `plugins.dir`",
            config.registry.dir.display()
        ));
    }
    if config.ingress.accounts.is_empty() {
        problems
            .push("there is no CRM: add a section `[crm.main]` with `token`, `url`, `login` and `api_key`".to_owned());
    }
    match listening(&config.listen, "server.listen") {
        Ok(listener) if problems.is_empty() => Ok(listener),
        Ok(_) => Err(Problems(problems)),
        Err(problem) => {
            problems.push(problem);
            Err(Problems(problems))
        }
    }
}

fn listening(address: &str, key: &str) -> Result<std::net::TcpListener, String> {
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| format!("`{address}` can't be listened on: {error}; set `{key}`"))
}

fn writable(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let probe = folder.join(".write-test");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(probe)
}
