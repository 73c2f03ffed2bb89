//! Puts the rooms together, in order, and takes them apart in the opposite order.
//!
//! Start: check everything that can be checked → journal → plugins → dispatcher → socket.
//! Stop: no new events → running plugins end, up to the drain time → journal closed → said whether it was graceful.

pub mod check;
mod renew;
mod start;
mod starting;
mod steps;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::capabilities::Outside;
use crate::clock::Clock;
use crate::config::{Config, Problems, Source};
use crate::dispatcher::{self, Dispatcher, Tools};
use crate::files::may_pass;
use crate::journal::{self, Journal, Whereabouts};
use crate::parts::Parts;
use crate::registry::versions::Versions;
use crate::registry::{self, Bell, Registry};
use crate::sandbox::Sandbox;
use crate::secret::Scrubber;
use crate::telemetry::Metrics;
use crate::{alerts, console, crm, health, ingress, server, telemetry, traces};
use start::Doorsteps;
pub(crate) use start::{MARKS, OWN_FILES};
use starting::Door;

/// How often the store's place is looked at, besides before and after each commit.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    keys: Option<console::Keys>,
    /// Held, because its handles see no change once it is gone.
    registry: Registry,
}

/// Why a host did not start.
#[derive(Debug)]
pub struct NotStarted {
    /// All that keeps it from it.
    pub problems: Problems,
    /// Whether it may start later as it is: nothing in the configuration has to be changed.
    pub may_pass: bool,
}

/// An error of a part, with whether it may be gone later.
fn wrong(error: &dyn std::fmt::Display) -> NotStarted {
    NotStarted { problems: Problems(vec![error.to_string()]), may_pass: false }
}

fn passing(error: &dyn std::fmt::Display) -> NotStarted {
    NotStarted { may_pass: true, ..wrong(error) }
}

/// Who answers in place of the CRM and the outside, for an author without them.
pub struct Stand {
    /// In place of every CRM.
    pub crm: crm::Client,
    /// In place of the outside.
    pub outside: Outside,
}

impl App {
    /// Starts everything. What `source` says is read again whenever it changes, as far as that can be changed under way. With a
    /// `stand` nothing is sent to a CRM or to the outside.
    ///
    /// # Errors
    /// [`NotStarted`] with all that keeps the host from starting.
    pub async fn start(
        config: Config,
        source: &Source,
        (metrics, scrubber): (Metrics, Scrubber),
        stand: Option<Stand>,
    ) -> Result<Self, NotStarted> {
        let Doorsteps { intake: listener, console: own_listener } = start::checked(&config).await?;
        let clock = Clock::Wall;
        let address = listener.local_addr().map_err(|error| passing(&error))?;
        let (stop_intake, stopped) = watch::channel(false);
        let (door, own_door) = (Door::new(), Door::new());
        let listening = |listener: std::net::TcpListener| {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| passing(&error))?;
            Ok::<_, NotStarted>(Arc::new(listener))
        };
        // Whoever connects is answered from now on, however long the rest takes.
        let own_address = own_listener.as_ref().map(std::net::TcpListener::local_addr).transpose();
        let own_address = own_address.map_err(|error| passing(&error))?;
        let server = server::serve(listening(listener)?, door.routes(), config.server.clone(), stopped.clone());
        let server = Serving(Some(tokio::spawn(server)));
        let parts = Parts::default();
        let mut helpers = Helpers { parts: parts.clone(), running: Vec::new() };
        if let Some(listener) = own_listener {
            let (listener, door, options) = (listening(listener)?, own_door.clone(), config.server.clone());
            let stopped = stopped.clone();
            helpers.keep("console", move || {
                server::serve(Arc::clone(&listener), door.routes(), options.clone(), stopped.clone())
            });
        }
        let journal = start::opened(&config.journal, &clock).await?;
        if journal.handle().waits_for_go_on()
            && let Ok(Some(restored)) = journal.handle().restored()
        {
            telemetry::waits_for_go_on(&restored);
        }
        let sandbox = Arc::new(Sandbox::new(&config.sandbox).map_err(|error| passing(&error))?);
        if config.registry.dev {
            telemetry::dev_grants();
        }
        config.remarks.iter().for_each(|remark| telemetry::config_remark(remark));
        check::medium(&config.journal.data_dir).iter().for_each(|remark| telemetry::config_remark(remark));
        let own = rustix::process::geteuid().as_raw();
        check::changeable(&config.registry, own).iter().for_each(|(_, remark)| telemetry::config_remark(remark));
        let said_of_plugins = config.registry.clone();
        let (approvals_file, store) = (config.registry.approvals.clone(), config.registry.store.clone());
        let renewing = Arc::new(OnceLock::new());
        let reread = renew::reread(source, &approvals_file, Arc::clone(&renewing));
        let had_deliveries = journal.handle().queues().map_err(|error| passing(&error))?;
        let had_deliveries = had_deliveries.into_iter().map(|queue| queue.plugin).collect();
        let options = registry::Options { had_deliveries, ..config.registry };
        let registry = Registry::start(options, Arc::clone(&sandbox), Some(reread), parts.clone());
        let registry = registry.map_err(|error| match &error {
            registry::Error::Thread(_) | registry::Error::File { .. } => passing(&error),
            registry::Error::Folder { cause, .. } if may_pass(cause) => passing(&error),
            _ => wrong(&error),
        })?;
        let mut clients = BTreeMap::new();
        for (account, options) in config.crm {
            // Its certificates were read before, with the rest of the configuration.
            clients.insert(account, crm::Client::new(options).map_err(|error| passing(&error))?);
        }
        let scripted = stand.is_some();
        let outside = match stand {
            None => Outside::new().map_err(|error| passing(&error))?,
            Some(Stand { crm, outside }) => {
                clients = config.ingress.accounts.keys().map(|account| (account.clone(), crm.clone())).collect();
                outside
            }
        };
        // A script is asked what plugins ask, and nothing else.
        for (account, client) in clients.iter().filter(|_| !scripted) {
            let known = config.users.get(account).copied();
            let (name, handle) = (account.clone(), journal.handle());
            let asked = client.clone();
            helpers.keep_of(account, "user", move || know_user(name.clone(), asked.clone(), known, handle.clone()));
            if let Some(options) = config.watches.get(account).cloned() {
                let (name, client) = (account.clone(), client.clone());
                let (journal, clock) = (journal.handle(), clock.clone());
                helpers.keep_of(account, "watch", move || {
                    let (account, client) = (name.clone(), client.clone());
                    crate::watch::Watch::new(account, client, journal.clone(), clock.clone()).run(options.clone())
                });
            }
        }
        let tools = Tools {
            journal: journal.handle(),
            registry: registry.handle(),
            sandbox,
            crm: clients.clone(),
            outside,
            clock: clock.clone(),
            parts: parts.clone(),
            scrubber: scrubber.clone(),
        };
        let (stop_dispatcher, dispatcher_stopped) = watch::channel(false);
        let longest_wait = config.dispatcher.retry.longest_wait();
        let dispatcher = Dispatcher::new(config.dispatcher, tools);
        let queues = dispatcher.handle();
        let dispatcher = tokio::spawn(dispatcher.run(dispatcher_stopped));
        let (handle, retention) = (journal.handle(), config.retention);
        let kept = clock.clone();
        helpers.keep("retention", move || {
            journal::keep(handle.clone(), kept.clone(), retention, telemetry::forgotten, telemetry::clock_doubted)
        });
        let (handle, told, kept) = (journal.handle(), queues.clone(), clock.clone());
        helpers.keep("clock", move || steps::keep(handle.clone(), told.clone(), kept.clone(), longest_wait));
        let handle = journal.handle();
        helpers.keep("forgetting", move || journal::keep_forgetting(handle.clone(), telemetry::forgetting));
        let handle = journal.handle();
        helpers.keep("journal", move || journal::watch_over(handle.clone(), telemetry::journal));
        let handle = journal.handle();
        helpers.keep("place", move || watch_place(handle.clone()));
        let handle = registry.handle();
        helpers.keep("remarks", move || unknown_plugins(said_of_plugins.clone(), handle.clone()));

        let accounts = config.ingress.accounts.len();
        let kept = metrics.clone();
        helpers.keep("metrics", move || kept.clone().keep());
        let hook = config.alerts.as_ref().map(|options| options.hook.clone());
        if let Some(options) = config.alerts {
            let http = alerts::client().map_err(|error| wrong(&error))?;
            let (queues, handle, plugins) = (queues.clone(), journal.handle(), registry.handle());
            helpers.keep("alerts", move || {
                let (queues, journal, plugins) = (queues.signals(), handle.alarm(), plugins.changes());
                alerts::run(options.clone(), http.clone(), queues, journal, plugins)
            });
        }
        let doors = ingress::Doors::new(&config.ingress.accounts);
        let mut intake = config.ingress;
        if let Some(options) = config.traces {
            let (told, hooks) = mpsc::channel(traces::MOST_WAITING);
            intake.told = Some(told);
            let exporter = Arc::new(traces::exporter(&options).map_err(|error| wrong(&error))?);
            let (hooks, queues) = (Arc::new(tokio::sync::Mutex::new(hooks)), queues.clone());
            helpers.keep("traces", move || {
                traces::run(options.share, Arc::clone(&exporter), Arc::clone(&hooks), queues.delivered())
            });
        }
        let tools = health::Tools {
            journal: journal.handle(),
            queues: queues.clone(),
            registry: registry.handle(),
            parts,
            clock: clock.clone(),
        };
        let mut router = health::routes(tools);
        router = router.merge(ingress::routes(intake, doors.clone(), journal.handle(), clock.clone()));
        let mut keys = None;
        if let Some(mut options) = config.console {
            options.access.address = Some(own_address.unwrap_or(address));
            let approvals = approvals_file;
            let tools = console::Tools {
                journal: journal.handle(),
                registry: registry.handle(),
                queues: queues.clone(),
                clock: clock.clone(),
                metrics,
                stopping: stopped.clone(),
                scrubber: scrubber.clone(),
                versions: Versions::held(&store),
                approve: Arc::new(move |name, permissions| crate::config::approve(&approvals, name, permissions)),
                make_event: Arc::new(|account, body, now| {
                    ingress::event_of(account, body, now).map_err(|problem| problem.to_string())
                }),
            };
            let (pages, own_keys) = console::routes(options, tools).map_err(|error| passing(&error))?;
            keys = Some(own_keys);
            match own_address {
                None => router = router.merge(pages),
                Some(_) => own_door.opens(pages),
            }
        }
        door.opens(router);
        let own_keys = keys.clone();
        drop(renewing.set(renew::Renewing { clients, doors, keys, scrubber, hook }));
        telemetry::listening(address, accounts);
        let helpers = helpers.running;
        Ok(Self {
            address,
            stop_intake,
            stop_dispatcher,
            server: server.kept(),
            dispatcher,
            queues,
            helpers,
            journal,
            keys: own_keys,
            registry,
        })
    }

    /// Has configuration, grants, secrets and plugins read again.
    pub fn bell(&self) -> Bell {
        self.registry.bell()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address that opens the console, once; none where there is no console.
    pub fn console_link(&self, for_milliseconds: i64) -> Option<String> {
        self.keys.as_ref().map(|keys| keys.link(Clock::Wall.now(), for_milliseconds))
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
        if tokio::time::timeout(Duration::from_secs(5), self.server).await.is_err() {
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
            drop(tokio::time::timeout(Duration::from_secs(5), closed).await);
        }
        telemetry::stopped(drained);
        drained
    }
}

/// The task that serves, ended with a start that fails.
struct Serving(Option<JoinHandle<()>>);

impl Serving {
    fn kept(mut self) -> JoinHandle<()> {
        self.0.take().unwrap_or_else(|| tokio::spawn(std::future::pending()))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            server.abort();
        }
    }
}

/// What goes on beside, each made anew where it fails.
struct Helpers {
    parts: Parts,
    running: Vec<JoinHandle<()>>,
}

impl Helpers {
    fn keep<F>(&mut self, part: &'static str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.keep_of("", part, make);
    }

    /// One of several of this name: that of a CRM.
    fn keep_of<F>(&mut self, account: &str, part: &'static str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.push(tokio::spawn(self.parts.of(account).keep(part, make)));
    }
}

/// Tells of settings for plugins that are not there, once all that are there are known.
async fn unknown_plugins(said: registry::Options, registry: registry::Handle) {
    registry.started().await;
    let snapshot = registry.snapshot();
    let waiting = snapshot.notices.iter().filter_map(|notice| notice.plugin.clone());
    let known = snapshot.plugins.keys().cloned().chain(waiting).collect();
    check::unknown_plugins(&said, &known).iter().for_each(|remark| telemetry::config_remark(remark));
    telemetry::plugins_ready(snapshot.plugins.len());
}

/// Tells when the store's files are no longer where they were, or no longer the same, and when they are back.
async fn watch_place(journal: journal::Handle) {
    let (mut was, mut told) = (Whereabouts::Here, 0);
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let handle = journal.clone();
        // A file system that hangs must not hang the rest.
        let looked = tokio::task::spawn_blocking(move || handle.look_after()).await;
        let (is, strangers) = looked.unwrap_or((was, told));
        if is != was {
            telemetry::whereabouts(is);
        }
        if strangers > told {
            telemetry::strangers_commits(strangers - told);
        }
        (was, told) = (is, strangers);
    }
}

/// Learns which user of a CRM the host is, and remembers it: the last known number serves while the CRM can't say.
async fn know_user(account: String, client: crm::Client, known: Option<u64>, journal: journal::Handle) {
    let mut wait = Duration::from_secs(1);
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
        wait = (wait * 2).min(Duration::from_secs(300));
    }
}
