//! Sends events to whoever listens, with the CRM's own timing: the user waits.
//!
//! - Every target gets one attempt; a failure is neither retried nor shown to the user who saved.
//! - Direct targets (form, query) are called one after another by the page itself, 5 s at most each.
//! - Webhook rows go through the CRM's own relay script: it needs a worker of its own, calls the rows one after another
//!   in the order of their titles, and goes on when the page gives up after 5 s.
//! - It doesn't follow redirects and speaks plain HTTP only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::event::Event;
use super::http::{self, Answer};
use super::{Shared, php};

/// PHP's `default_socket_timeout`, the relay's only limit.
const RELAY_PATIENCE: Duration = Duration::from_secs(60);

/// The column that holds a webhook's address is this long; more is cut off silently.
const WEBHOOK_URL_BYTES: usize = 255;

/// How an event looks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The direct event: a form post, with the browser's session cookie in `ses`.
    Form,
    /// An administrator's own variant: the same pairs in the query of a GET.
    Query,
    /// A row of the webhook panel: JSON in which every scalar is a string, without `ses`.
    Webhook,
}

/// One target of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where to send; `{HOME}` stands for the CRM's own address.
    pub url: String,
    /// How it looks on the wire.
    pub shape: Shape,
    /// The only event this target wants; `None` stands for a row per event.
    pub event: Option<String>,
    /// The row's title, which decides the order among webhooks.
    pub title: String,
}

impl Hook {
    /// A target for every event.
    #[must_use]
    pub fn new(url: impl Into<String>, shape: Shape) -> Self {
        Self { url: url.into(), shape, event: None, title: String::new() }
    }

    /// The same target for one event only.
    #[must_use]
    pub fn only(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// The same target with a title.
    #[must_use]
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    fn wants(&self, event: &Event) -> bool {
        self.event.as_deref().is_none_or(|wanted| wanted == event.name)
    }
}

/// One finished attempt to deliver an event.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The event's name.
    pub event: String,
    /// The target's address.
    pub url: String,
    /// How it was sent.
    pub shape: Shape,
    /// The form body, the query string or the JSON.
    pub sent: String,
    /// The answer's status; `None` when there was no answer.
    pub status: Option<u16>,
    /// The answer's body, which the CRM keeps in its webhook log.
    pub answer: String,
    /// Why there was no answer.
    pub error: Option<String>,
    /// How long the CRM waited.
    pub elapsed: Duration,
    /// When the attempt ended.
    pub at: Timestamp,
}

/// Fires one event and returns when the page would go on.
pub(super) async fn fire(shared: &Arc<Shared>, event: Event) {
    let hooks = shared.hooks();
    shared.note_event(event.clone());
    let query = php::build_query(&event.pairs(&shared.cookie));
    for hook in hooks.iter().filter(|hook| hook.shape != Shape::Webhook && hook.wants(&event)) {
        attempt(shared, hook, &event.name, &query, shared.patience).await;
    }
    let mut rows: Vec<Hook> = hooks.into_iter().filter(|hook| hook.shape == Shape::Webhook).collect();
    if rows.is_empty() {
        return;
    }
    // The relay is asked even when no row wants this event; it finds that out by itself.
    rows.retain(|row| row.wants(&event));
    rows.sort_by(|left, right| left.title.cmp(&right.title));
    relay(shared, event, rows).await;
}

async fn relay(shared: &Arc<Shared>, event: Event, rows: Vec<Hook>) {
    let (done, finished) = oneshot::channel::<()>();
    let task_shared = Arc::clone(shared);
    shared.spawn(async move {
        let Ok(_worker) = task_shared.workers.acquire().await else { return };
        if let Some(body) = event.webhook_body(&task_shared.cookie) {
            for row in &rows {
                attempt(&task_shared, row, &event.name, &body, RELAY_PATIENCE).await;
            }
        }
        drop(done);
    });
    // Both ways out are fine for the page: the relay has finished, or the page has lost its patience.
    drop(tokio::time::timeout(shared.patience, finished).await);
}

async fn attempt(shared: &Shared, hook: &Hook, event: &str, payload: &str, patience: Duration) {
    let started = Instant::now();
    let url = hook.url.replace("{HOME}", &shared.base_url);
    let outcome = tokio::time::timeout(patience, send(&url, hook.shape, payload)).await;
    let (status, answer, error) = match outcome {
        Ok(Ok(answer)) => (Some(answer.status), answer.body, None),
        Ok(Err(error)) => (None, String::new(), Some(format!("{error:#}"))),
        Err(_) => (None, String::new(), Some("no answer in time".to_owned())),
    };
    shared.note_delivery(Delivered {
        event: event.to_owned(),
        url: hook.url.clone(),
        shape: hook.shape,
        sent: payload.to_owned(),
        status,
        answer,
        error,
        elapsed: started.elapsed(),
        at: Timestamp::now(),
    });
}

async fn send(url: &str, shape: Shape, payload: &str) -> anyhow::Result<Answer> {
    let url = if shape == Shape::Webhook { cut(url, WEBHOOK_URL_BYTES) } else { url };
    let url = reqwest::Url::parse(url).with_context(|| format!("`{url}` is no address"))?;
    anyhow::ensure!(url.scheme() == "http", "only plain HTTP targets are supported");
    let name = url.host_str().context("the address names no host")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let path = url.path();
    let target = url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let length = payload.len();
    let request = match shape {
        Shape::Form => format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nContent-Length: {length}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n{payload}"
        ),
        Shape::Query => {
            let joint = if url.query().is_some() { '&' } else { '?' };
            format!("GET {target}{joint}{payload} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n")
        }
        Shape::Webhook => format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\nContent-Type: application/json\r\n\r\n{payload}"
        ),
    };
    http::exchange((name.trim_matches(['[', ']']), port), &request).await
}

fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or(text)
}
