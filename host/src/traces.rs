//! One trace from hook to CRM write, sent to a collector by OTLP.
//!
//! - A trace is named by its event: the event's id is the trace's id, so nothing has to be stored, and an attempt after a
//!   restart or a week belongs to the trace of its hook.
//! - The hook is the root; below it one span per attempt; below that one per call to the CRM or the outside.
//! - Spans hold names, numbers and codes; no field, no argument and no answer.
//! - Nothing waits for the collector: what does not fit into the queue, or is not taken, is counted and lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::dispatcher::Delivered;
use crate::event::EventId;
use crate::ingress::Accepted;
use crate::outcome::Outcome;
use crate::secret::Secret;
use crate::{telemetry, tls};

/// Hooks that may wait to be told.
pub const MOST_WAITING: usize = 4_096;
/// Spans that are sent together at most, and the longest wait for more.
const MOST_TOGETHER: usize = 512;
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The collector's address, up to and without `/v1/traces`.
    pub endpoint: url::Url,
    /// Headers for the collector, such as `authorization`.
    pub headers: Vec<(String, Secret)>,
    /// The share of events that are traced: 0 to 1.
    pub share: f64,
}

/// The library's requests, over the host's own connections.
#[derive(Debug)]
struct Http(reqwest::Client);

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let sent = self.0.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await?;
        let status = sent.status();
        let mut answer = Response::new(sent.bytes().await?);
        *answer.status_mut() = status;
        Ok(answer)
    }
}

/// What sends spans.
///
/// # Errors
/// A sentence: the library can't be set up.
pub fn exporter(options: &Options) -> Result<SpanExporter, String> {
    let http = tls::client_builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    let http = http.map_err(|error| error.to_string())?;
    let headers: HashMap<String, String> =
        options.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http(http))
        .with_endpoint(format!("{}/v1/traces", options.endpoint.as_str().trim_end_matches('/')))
        .with_headers(headers)
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| format!("traces can't be sent: {error}"))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    exporter
        .set_resource(&Resource::builder_empty().with_service_name("salesman-host").with_attributes([version]).build());
    Ok(exporter)
}

/// Sends spans for as long as the host lives.
pub async fn run(
    share: f64,
    exporter: Arc<SpanExporter>,
    hooks: Arc<tokio::sync::Mutex<mpsc::Receiver<Accepted>>>,
    mut attempts: broadcast::Receiver<Arc<Delivered>>,
) {
    let mut hooks = hooks.lock().await;
    let scope = InstrumentationScope::builder("salesman-host").build();
    let mut batch: Vec<SpanData> = Vec::new();
    let mut tick = tokio::time::interval(LONGEST_WAIT);
    loop {
        let full = tokio::select! {
            hook = hooks.recv() => {
                let Some(hook) = hook else { return };
                if is_traced(hook.id, share) {
                    batch.push(hook_span(&hook, &scope));
                }
                batch.len() >= MOST_TOGETHER
            }
            attempt = attempts.recv() => {
                match attempt {
                    Ok(attempt) if is_traced(attempt.event.id, share) => attempt_spans(&attempt, &scope, &mut batch),
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => telemetry::spans_lost(missed, None),
                    Err(RecvError::Closed) => return,
                }
                batch.len() >= MOST_TOGETHER
            }
            _ = tick.tick() => !batch.is_empty(),
        };
        if full {
            let spans = std::mem::take(&mut batch);
            let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
            if let Err(error) = exporter.export(spans).await {
                telemetry::spans_lost(count, Some(&error));
            }
        }
    }
}

/// Whether an event is among the share; the same answer for all its spans, in every process.
fn is_traced(event: EventId, share: f64) -> bool {
    let [.., low, high] = *event.as_bytes();
    f64::from(u16::from_be_bytes([low, high])) < share * 65_536.0
}

fn trace_of(event: EventId) -> TraceId {
    TraceId::from_bytes(*event.as_bytes())
}

/// A span's id: always the same for the same thing.
fn span_of(event: EventId, delivery: i64, attempt: u32, ordinal: usize) -> SpanId {
    let mut hasher = Sha256::new();
    hasher.update(event.as_bytes());
    hasher.update(delivery.to_be_bytes());
    hasher.update(attempt.to_be_bytes());
    hasher.update(ordinal.to_be_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    SpanId::from_bytes([a, b, c, d, e, f, g, h | 1])
}

fn at(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

struct Span {
    event: EventId,
    id: SpanId,
    parent: SpanId,
    kind: SpanKind,
    name: Cow<'static, str>,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    fn data(self, scope: &InstrumentationScope) -> SpanData {
        let Self { event, id, parent, kind, name, start, end, attributes, status } = self;
        SpanData {
            span_context: SpanContext::new(trace_of(event), id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: kind,
            name,
            start_time: start,
            end_time: end.max(start),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: scope.clone(),
        }
    }
}

fn hook_span(hook: &Accepted, scope: &InstrumentationScope) -> SpanData {
    let end = at(hook.received_at) + hook.took;
    let attributes = vec![
        KeyValue::new("salesman.event", hook.name.clone()),
        KeyValue::new("salesman.event.id", hook.id.to_string()),
        KeyValue::new("salesman.account", hook.account.clone()),
    ];
    let (event, id, parent) = (hook.id, span_of(hook.id, 0, 0, 0), SpanId::INVALID);
    let (kind, name, start) = (SpanKind::Server, Cow::Owned(format!("hook {}", hook.name)), at(hook.received_at));
    Span { event, id, parent, kind, name, start, end, attributes, status: Status::Unset }.data(scope)
}

fn attempt_spans(delivered: &Delivered, scope: &InstrumentationScope, batch: &mut Vec<SpanData>) {
    let Delivered { queue, event, settlement, .. } = delivered;
    let (delivery, attempt) = (settlement.delivery.0, settlement.attempt);
    let id = span_of(event.id, delivery, attempt, 0);
    let status = match &settlement.outcome {
        Outcome::Done => Status::Ok,
        Outcome::Skipped { .. } => Status::Unset,
        other => Status::error(other.code().unwrap_or(other.as_str())),
    };
    let start = at(settlement.started_at);
    let span = Span {
        event: event.id,
        id,
        parent: span_of(event.id, 0, 0, 0),
        kind: SpanKind::Consumer,
        name: Cow::Owned(format!("deliver {}", queue.plugin)),
        start,
        end: at(settlement.ended_at),
        attributes: vec![
            KeyValue::new("salesman.event", event.name.clone()),
            KeyValue::new("salesman.account", queue.account.clone()),
            KeyValue::new("salesman.plugin", queue.plugin.as_str().to_owned()),
            KeyValue::new("salesman.plugin.version", settlement.version.clone()),
            KeyValue::new("salesman.delivery", delivery),
            KeyValue::new("salesman.attempt", i64::from(attempt)),
            KeyValue::new("salesman.outcome", settlement.outcome.as_str()),
        ],
        status,
    };
    batch.push(span.data(scope));
    for (ordinal, call) in (1..).zip(&settlement.effects.calls) {
        let begun = start + Duration::from_micros(call.at);
        let kind = if call.call.starts_with("state") { SpanKind::Internal } else { SpanKind::Client };
        let span = Span {
            event: event.id,
            id: span_of(event.id, delivery, attempt, ordinal),
            parent: id,
            kind,
            name: Cow::Owned(call.call.clone()),
            start: begun,
            end: begun + Duration::from_micros(call.took),
            attributes: Vec::new(),
            status: if call.good { Status::Ok } else { Status::error("failed") },
        };
        batch.push(span.data(scope));
    }
}
