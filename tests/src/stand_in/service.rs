//! The path of one request: socket, credentials, planned fault, handler, events, answer.
//!
//! - Every answer of the CRM has status 200 and calls itself JSON, whatever it is; only an unknown path gets a 404.
//! - JSON mode needs the exact content type; a `charset` behind it makes the request a form without credentials.
//! - A worker is held from the first byte of handling to the answer, the waiting for event targets included.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::crm::{Reply, unknown_action};
use super::event::Actor;
use super::fault::{FATAL_PAGE, Fault};
use super::http::{self, Request};
use super::row::Params;
use super::{Call, Message, Shared, hooks, lock, php};

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=UTF-8";

/// Accepts connections until the stand-in is dropped.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if shared.is_down() {
            continue;
        }
        let task_shared = Arc::clone(&shared);
        shared.spawn(async move {
            // A broken connection is the caller's affair; there is nobody to tell.
            drop(converse(&task_shared, stream).await);
        });
    }
}

async fn converse(shared: &Arc<Shared>, mut stream: TcpStream) -> anyhow::Result<()> {
    let Some(request) = http::read_request(&mut stream).await? else { return Ok(()) };
    let path = request.path.trim_end_matches('/');
    if path == "/chat" || (path.starts_with("/bot") && path.ends_with("/sendMessage")) {
        return chat(shared, stream, &request).await;
    }
    match path.strip_prefix("/developer/v2/") {
        Some(method) if !method.contains('/') => {
            let method = method.strip_suffix(".php").unwrap_or(method).to_owned();
            rest(shared, stream, &request, &method).await
        }
        _ => answer(&mut stream, "404 Not Found", HTML, "<h1>Not Found</h1>").await,
    }
}

/// One REST call.
async fn rest(shared: &Arc<Shared>, mut stream: TcpStream, request: &Request, method: &str) -> anyhow::Result<()> {
    let received = Received::of(request);
    shared.note_call(received.call(method, request));
    let fault = shared.take_fault(method, &received.action);
    let _worker = shared.workers.acquire().await?;
    match fault {
        Some(Fault::Down) => return Ok(()),
        Some(Fault::Hang) => {
            http::wait_for_close(&mut stream).await;
            return Ok(());
        }
        Some(Fault::Status500) => {
            return answer(&mut stream, "500 Internal Server Error", HTML, "<h1>Internal Server Error</h1>").await;
        }
        Some(Fault::Instead { status, retry_after, body }) => {
            let headers = [("Content-Type", JSON), ("Retry-After", retry_after.unwrap_or_default())];
            let headers = if retry_after.is_some() { &headers[..] } else { &headers[..1] };
            return http::write_answer(&mut stream, status, headers, body).await;
        }
        Some(Fault::HtmlFatal) => return answer(&mut stream, "200 OK", JSON, FATAL_PAGE).await,
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Impatient(delay)) => {
            answer(&mut stream, "504 Gateway Time-out", HTML, "<h1>504 Gateway Time-out</h1>").await?;
            tokio::time::sleep(delay).await;
        }
        _ => {}
    }
    let Some(reply) = received.handle(shared, method) else {
        return answer(&mut stream, "404 Not Found", HTML, "<h1>Not Found</h1>").await;
    };
    for event in reply.events {
        hooks::fire(shared, event).await;
    }
    let body = match fault {
        Some(Fault::CloseAfterWrite | Fault::Impatient(_)) => return Ok(()),
        Some(Fault::HtmlAfterWrite) => FATAL_PAGE.to_owned(),
        Some(Fault::JsonThenHtml) => format!("{}{FATAL_PAGE}", reply.body),
        Some(Fault::InvalidJson) => reply.body.chars().take(reply.body.chars().count() / 2).collect(),
        _ => reply.body,
    };
    answer(&mut stream, "200 OK", JSON, &body).await
}

/// The chat is another program: it needs none of the CRM's workers, and its bad days are its own.
async fn chat(shared: &Arc<Shared>, mut stream: TcpStream, request: &Request) -> anyhow::Result<()> {
    match shared.take_fault("chat", "") {
        Some(Fault::Down) => return Ok(()),
        Some(Fault::Hang) => {
            http::wait_for_close(&mut stream).await;
            return Ok(());
        }
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::HtmlFatal | Fault::HtmlAfterWrite | Fault::JsonThenHtml) => {
            return answer(&mut stream, "200 OK", HTML, "<h1>Maintenance</h1>").await;
        }
        Some(Fault::Status500) => {
            return answer(&mut stream, "500 Internal Server Error", HTML, "<h1>Internal Server Error</h1>").await;
        }
        _ => {}
    }
    let body = serde_json::from_slice(&request.body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&request.body).into_owned()));
    let number = shared.note_message(Message { path: request.path.clone(), body, at: Timestamp::now() });
    let reply = if request.path.starts_with("/bot") {
        json!({ "ok": true, "result": { "message_id": number } })
    } else {
        json!({ "ok": true })
    };
    answer(&mut stream, "200 OK", "application/json", &reply.to_string()).await
}

async fn answer(stream: &mut TcpStream, status: &str, content_type: &str, body: &str) -> anyhow::Result<()> {
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = [
        ("Date", date.as_str()),
        ("Connection", "close"),
        ("X-Powered-By", "PHP/8.2.36"),
        ("Access-Control-Allow-Origin", "*"),
        ("Content-Type", content_type),
    ];
    http::write_answer(stream, status, &headers, body).await
}

/// A request after PHP's decoding.
struct Received {
    action: String,
    login: String,
    key: String,
    params: Params,
    /// JSON that can't be parsed leaves nothing, and breaks the CRM's log after the answer.
    malformed: bool,
}

impl Received {
    fn of(request: &Request) -> Self {
        let json = request.header("content-type") == Some("application/json");
        let mut fields = php::decode_form(request.query.as_bytes());
        let mut malformed = false;
        if json {
            match serde_json::from_slice::<Map<String, Value>>(&request.body) {
                Ok(body) => fields.extend(body),
                Err(_) => malformed = true,
            }
        } else if is_form(request) {
            fields.extend(php::decode_form(&request.body));
        }
        let mut credential = |name: &str| {
            let sent = fields.shift_remove(name).map(|value| php::text_of(&value));
            // Only JSON mode looks at the headers, and it prefers them.
            let header = request.header(name).filter(|_| json).map(ToOwned::to_owned);
            header.or(sent).unwrap_or_default()
        };
        let (login, key) = (credential("login"), credential("apikey"));
        let action = fields.shift_remove("action").map(|value| php::text_of(&value)).unwrap_or_default();
        Self { action, login, key, params: Params::new(fields, json), malformed }
    }

    fn call(&self, method: &str, request: &Request) -> Call {
        let headers =
            request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("apikey")).cloned().collect();
        Call {
            method: method.to_owned(),
            action: self.action.clone(),
            params: self.params.map().clone(),
            login: self.login.clone(),
            verb: request.method.clone(),
            json: self.params.json,
            headers,
            at: Timestamp::now(),
        }
    }

    fn handle(&self, shared: &Shared, method: &str) -> Option<Reply> {
        let mut crm = lock(&shared.crm);
        let user = crm.user_by_login(&self.login).filter(|_| self.key == shared.api_key);
        let Some(iduser) = user else {
            // The method decides first: an unknown one is the web server's 404, not the program's answer.
            crm.handle(Actor::api(0), method, "", &Params::default())?;
            return Some(Reply::error(401, "Неизвестный пользователь"));
        };
        if self.malformed {
            let mut reply = unknown_action(method);
            reply.body.push_str(FATAL_PAGE);
            return Some(reply);
        }
        crm.handle(Actor::api(iduser), method, &self.action, &self.params)
    }
}

/// PHP reads variables from the body of a form post and from nothing else.
fn is_form(request: &Request) -> bool {
    let kind = request.header("content-type").unwrap_or_default();
    request.method == "POST" && kind.starts_with("application/x-www-form-urlencoded")
}
