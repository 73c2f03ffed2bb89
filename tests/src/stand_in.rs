//! An in-process imitation of SalesMan CRM: REST API v2, events, pages, and a chat to notify.
//!
//! It is built from measured behaviour, the inconvenient part included: every failure is a status 200, some reads lie,
//! some writes destroy data, and whoever saves waits for every listener.
//!
//! - A record is stored before its events are fired, and events are fired before the answer is sent.
//! - The program has a fixed number of workers, as PHP has; a request, a page save and an event relay hold one each.
//! - Everything is in memory and gone with the value; ids start at 1, so tests can name them.
//! - It doesn't imitate documents, acts, budgets, prices, statistics or mail.
//!
//! Reading order: [`StandIn`] below, then `service` (a request's path), `crm` (the tables and the way to a handler), one
//! file per method, `event` and `hooks` (what goes out), `browser` (users at work), `fault` (scripted trouble).

mod administer;
mod browser;
mod client;
mod client_read;
mod clock;
mod crm;
mod deal;
mod deal_read;
mod event;
mod fault;
mod guide;
mod history;
mod hooks;
mod http;
mod invoice;
mod lead;
mod listing;
mod person;
mod php;
mod row;
mod seed;
mod service;
mod task;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::crm::Crm;
use self::fault::Faults;

pub use self::event::Event;
pub use self::fault::Fault;
pub use self::hooks::{Delivered, Hook, Shape};
pub use self::row::Row;

/// How a stand-in is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that every login of the account shares.
    pub api_key: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// How many requests are worked on at once.
    pub workers: usize,
    /// How long a page waits for one target of an event; curl's limit in the real program is 5 s.
    pub patience: Duration,
    /// Targets of events from the start.
    pub hooks: Vec<Hook>,
    /// Whether a few clients, contacts and deals exist from the start.
    pub demo_data: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_key: "stand-in-key".to_owned(),
            port: 0,
            workers: 4,
            patience: Duration::from_secs(5),
            hooks: Vec::new(),
            demo_data: false,
        }
    }
}

/// One REST call as it was received.
#[derive(Clone, Debug)]
pub struct Call {
    /// The REST method, such as `deal`.
    pub method: String,
    /// The action, such as `change.step`; empty when none was sent.
    pub action: String,
    /// The parameters without credentials and action.
    pub params: Map<String, Value>,
    /// The login that was sent, right or wrong.
    pub login: String,
    /// The HTTP verb.
    pub verb: String,
    /// Whether the request was understood as JSON.
    pub json: bool,
    /// The request's headers without the key.
    pub headers: Vec<(String, String)>,
    /// When it arrived.
    pub at: Timestamp,
}

/// One message the chat received.
#[derive(Clone, Debug)]
pub struct Message {
    /// The path it was posted to, which for a bot holds its token.
    pub path: String,
    /// The body: JSON if it is any, otherwise text.
    pub body: Value,
    /// When it arrived.
    pub at: Timestamp,
}

/// A running stand-in; dropping it closes everything at once.
#[derive(Debug)]
pub struct StandIn {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl StandIn {
    /// Starts listening on 127.0.0.1.
    ///
    /// # Errors
    /// When the port can't be bound.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port))
            .await
            .with_context(|| format!("failed to listen on port {}", options.port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            base_url: format!("http://{address}"),
            api_key: options.api_key,
            cookie: random_cookie(),
            workers: Semaphore::new(options.workers.max(1)),
            patience: options.patience,
            down: AtomicBool::new(false),
            crm: Mutex::new(Crm::new()),
            hooks: Mutex::new(options.hooks),
            faults: Mutex::default(),
            notes: Mutex::default(),
            tasks: Mutex::default(),
        });
        let stand_in = Self { shared: Arc::clone(&shared), address };
        if options.demo_data {
            stand_in.seed_demo()?;
        }
        shared.spawn(service::serve(Arc::clone(&shared), listener));
        Ok(stand_in)
    }

    /// The CRM's own address, such as `http://127.0.0.1:40123`, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// The address as a socket's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that REST calls need.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.shared.api_key
    }

    /// The login that REST calls use unless a test wants another user's.
    #[must_use]
    pub fn api_login(&self) -> &str {
        seed::API_LOGIN
    }

    /// The session cookie that direct events carry in `ses`; it must not turn up anywhere.
    #[must_use]
    pub fn session_cookie(&self) -> &str {
        &self.shared.cookie
    }

    /// Replaces the targets of events.
    pub fn set_hooks(&self, hooks: Vec<Hook>) {
        *lock(&self.shared.hooks) = hooks;
    }

    /// Plans one fault for the next REST call, whichever it is.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(fault, None, None, (0, 1));
    }

    /// Plans a fault for the next `times` calls of a method and action; `None` fits any. The chat is the method `chat`.
    pub fn fault_on(&self, method: Option<&str>, action: Option<&str>, times: usize, fault: Fault) {
        self.fault_after(method, action, (0, times), fault);
    }

    /// As [`StandIn::fault_on`], after a number of fitting calls that go well.
    pub fn fault_after(
        &self,
        method: Option<&str>,
        action: Option<&str>,
        skip_and_times: (usize, usize),
        fault: Fault,
    ) {
        lock(&self.shared.faults).add(fault, method, action, skip_and_times);
    }

    /// Forgets all planned faults.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Takes the whole program off or back on: while it is down, connections are closed unanswered.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// A client as stored.
    #[must_use]
    pub fn client(&self, clid: i64) -> Option<Row> {
        lock(&self.shared.crm).clients.get(clid).cloned()
    }

    /// A contact as stored.
    #[must_use]
    pub fn person(&self, pid: i64) -> Option<Row> {
        lock(&self.shared.crm).persons.get(pid).cloned()
    }

    /// A deal as stored; its step is in `idcategory`, see [`StandIn::deal_step`].
    #[must_use]
    pub fn deal(&self, did: i64) -> Option<Row> {
        lock(&self.shared.crm).deals.get(did).cloned()
    }

    /// The percent title of a deal's step; `None` without a deal or a step.
    #[must_use]
    pub fn deal_step(&self, did: i64) -> Option<&'static str> {
        let deal = self.deal(did)?;
        guide::step(deal.int("idcategory")).map(|step| step.title)
    }

    /// A task as stored.
    #[must_use]
    pub fn task(&self, id: i64) -> Option<Row> {
        lock(&self.shared.crm).tasks.get(id).cloned()
    }

    /// All tasks, done ones included.
    #[must_use]
    pub fn tasks(&self) -> Vec<Row> {
        lock(&self.shared.crm).tasks.rows().cloned().collect()
    }

    /// All activities, those included that the CRM adds by itself.
    #[must_use]
    pub fn activities(&self) -> Vec<Row> {
        lock(&self.shared.crm).history.rows().cloned().collect()
    }

    /// All enquiries.
    #[must_use]
    pub fn leads(&self) -> Vec<Row> {
        lock(&self.shared.crm).leads.rows().cloned().collect()
    }

    /// An invoice as stored.
    #[must_use]
    pub fn invoice(&self, id: i64) -> Option<Row> {
        lock(&self.shared.crm).invoices.get(id).cloned()
    }

    /// Every REST call so far, refused ones included.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.notes).calls.clone()
    }

    /// Every event fired so far, whether or not anybody listened.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.shared.notes).events.clone()
    }

    /// Every finished attempt to deliver an event.
    #[must_use]
    pub fn hooks(&self) -> Vec<Delivered> {
        lock(&self.shared.notes).deliveries.clone()
    }

    /// Every message the chat has received.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.shared.notes).messages.clone()
    }

    /// Forgets calls, events, deliveries and messages, but no record.
    pub fn forget(&self) {
        *lock(&self.shared.notes) = Notes::default();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        lock(&self.shared.tasks).abort_all();
    }
}

/// What happened so far, for assertions.
#[derive(Debug, Default)]
struct Notes {
    calls: Vec<Call>,
    events: Vec<Event>,
    deliveries: Vec<Delivered>,
    messages: Vec<Message>,
}

/// What the listening side, the pages and the tests share.
#[derive(Debug)]
struct Shared {
    base_url: String,
    api_key: String,
    cookie: String,
    workers: Semaphore,
    patience: Duration,
    down: AtomicBool,
    crm: Mutex<Crm>,
    hooks: Mutex<Vec<Hook>>,
    faults: Mutex<Faults>,
    notes: Mutex<Notes>,
    /// Every running task, so that dropping the stand-in ends them all.
    tasks: Mutex<JoinSet<()>>,
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        // Finished tasks are let go here, or a long run would collect them.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn hooks(&self) -> Vec<Hook> {
        lock(&self.hooks).clone()
    }

    fn take_fault(&self, method: &str, action: &str) -> Option<Fault> {
        lock(&self.faults).take(method, action)
    }

    fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    fn note_call(&self, call: Call) {
        lock(&self.notes).calls.push(call);
    }

    fn note_event(&self, event: Event) {
        lock(&self.notes).events.push(event);
    }

    fn note_delivery(&self, delivered: Delivered) {
        lock(&self.notes).deliveries.push(delivered);
    }

    /// Notes a message and returns its number.
    fn note_message(&self, message: Message) -> usize {
        let mut notes = lock(&self.notes);
        notes.messages.push(message);
        notes.messages.len()
    }
}

/// A panic elsewhere must not turn every later assertion into another panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_cookie() -> String {
    let keys = RandomState::new();
    let seed = Timestamp::now().as_duration().unsigned_abs().max(Duration::from_nanos(1)).as_nanos();
    format!("{:016x}{:016x}", keys.hash_one(seed), keys.hash_one(seed.wrapping_add(1)))
}
