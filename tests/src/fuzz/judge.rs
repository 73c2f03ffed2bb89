//! What must hold of every input, whatever it is.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use salesman_host::config::{Secrets, Source};
use salesman_host::crm::answer;
use salesman_host::plugin::Manifest;
use salesman_host::{ingress, sandbox};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Target;
use super::corpus::{SECRET, Way};
use crate::host::{Host, Setup, TOKEN};

/// Plugin files of which one goes through the process that compiles: it takes a while.
const COMPILED: u64 = 20;

pub(super) struct Judge {
    address: String,
    /// Of the running host's API.
    token: String,
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// An answer of the host.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Judge {
    pub(super) fn new(host: &Host) -> anyhow::Result<Self> {
        let address = host.base().strip_prefix("http://").context("the host has no address")?.to_owned();
        let token = std::fs::read_to_string(host.data().join("console.token")).context("the host has no token")?;
        let folder = tempfile::tempdir().context("failed to make a folder")?;
        Ok(Self { address, token: token.trim().to_owned(), program: Setup::new()?.program, folder })
    }

    /// Whether an input was accepted; or what is wrong.
    pub(super) async fn judge(&self, target: Target, way: &Way, bytes: &[u8], seed: u64) -> Result<bool, String> {
        match target {
            Target::Intake => self.intake(way, bytes).await,
            Target::Api => self.api(way, bytes).await,
            Target::Plugin => self.plugin(bytes, seed),
            Target::Manifest => manifest(bytes),
            Target::Answer => answer(bytes),
            Target::Config => self.config(bytes),
        }
    }

    async fn intake(&self, way: &Way, bytes: &[u8]) -> Result<bool, String> {
        let Some(Answer { status, body }) = self.ask(way, bytes).await? else { return Ok(false) };
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let text = |key: &str| said.as_ref().and_then(|said| said.get(key)?.as_str()).unwrap_or_default();
        if status != 202 {
            // A request that is none is answered before anybody looks at it.
            let bare = *way == Way::Request && (said.is_none() || text("code").is_empty());
            return refused(status, text("code"), text("message"))
                .map(|()| false)
                .or_else(|why| if bare && (200..500).contains(&status) { Ok(false) } else { Err(why) });
        }
        let path = format!("GET /api/v1/events/{} HTTP/1.1", text("id"));
        let Some(stored) = self.send(&self.request(&path, "", &[])).await? else { return Err("no answer".to_owned()) };
        let stored: Value = serde_json::from_slice(&stored.body).map_err(|error| format!("the event: {error}"))?;
        let (fields, event) = (stored.get("fields"), stored.get("event").unwrap_or(&stored));
        let fields = fields.and_then(Value::as_object).ok_or_else(|| format!("it is not stored: {stored}"))?;
        if fields.contains_key("ses") {
            return Err("the session's cookie is stored".to_owned());
        }
        if let Some(found) = fields.values().find_map(odd) {
            return Err(format!("`{found}` is no text"));
        }
        // In its normal form it is the same event.
        let mut again = fields.clone();
        let name = event.get("name").cloned().unwrap_or_default();
        again.insert("event".to_owned(), name);
        let event = ingress::event_of("main", Value::Object(again).to_string().as_bytes(), 0)
            .map_err(|problem| format!("its normal form is refused: {problem}"))?;
        let second: Value = serde_json::from_str(&event.fields).map_err(|error| error.to_string())?;
        if second.as_object() == Some(fields) { Ok(true) } else { Err(format!("{second} was {fields:?}")) }
    }

    async fn api(&self, way: &Way, bytes: &[u8]) -> Result<bool, String> {
        let Some(Answer { status, body }) = self.ask(way, bytes).await? else { return Ok(false) };
        let said: Value = serde_json::from_slice(&body)
            .map_err(|_| format!("{status} with what is not JSON: {:?}", String::from_utf8_lossy(&body)))?;
        let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
        if status == 200 { Ok(true) } else { refused(status, text("code"), text("message")).map(|()| false) }
    }

    async fn ask(&self, way: &Way, bytes: &[u8]) -> Result<Option<Answer>, String> {
        let request = match way {
            Way::Request | Way::Bytes => bytes.to_vec(),
            Way::Body { path, head } => {
                self.request(&format!("POST {} HTTP/1.1", path.replace("TOKEN", TOKEN)), head, bytes)
            }
            Way::Query { path } => {
                let path = path.replace("TOKEN", TOKEN);
                self.request(&format!("GET {path}{} HTTP/1.1", sendable(bytes)), "", &[])
            }
        };
        self.send(&request).await
    }

    fn request(&self, line: &str, head: &str, body: &[u8]) -> Vec<u8> {
        let head = if head.is_empty() { String::new() } else { format!("{head}\r\n") };
        let token =
            if line.contains("/api/") { format!("authorization: Bearer {}\r\n", self.token) } else { String::new() };
        let (host, length) = (&self.address, body.len());
        let length = if body.is_empty() { String::new() } else { format!("content-length: {length}\r\n") };
        let start = format!("{line}\r\nhost: {host}\r\nconnection: close\r\n{token}{head}{length}\r\n");
        [start.as_bytes(), body].concat()
    }

    /// Sends bytes; none where the connection ended without an answer, which a request that is none may have.
    async fn send(&self, request: &[u8]) -> Result<Option<Answer>, String> {
        let mut stream =
            TcpStream::connect(&self.address).await.map_err(|error| format!("nobody listens any more: {error}"))?;
        // A host that has refused already need not read the rest.
        stream.write_all(request).await.ok();
        let mut answer = Vec::new();
        let end = loop {
            if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status: {head}"))?;
        let lower = head.to_ascii_lowercase();
        let chunked = lower.contains("transfer-encoding: chunked");
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        // A damaged request may have left the connection open.
        let whole_now = |answer: &[u8]| match length {
            Some(length) => answer.len() >= end + 4 + length,
            None => chunked && answer.ends_with(b"0\r\n\r\n"),
        };
        while !whole_now(&answer) && stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {}
        let mut body = answer.split_off(end + 4);
        body.truncate(length.unwrap_or(usize::MAX));
        Ok(Some(Answer { status, body: if chunked { whole(&body) } else { body } }))
    }

    fn plugin(&self, bytes: &[u8], seed: u64) -> Result<bool, String> {
        let inspected = sandbox::inspect(bytes);
        if let Ok(inspection) = &inspected
            && let Some(manifest) = &inspection.manifest
        {
            same(manifest)?;
        }
        if let Err(error) = &inspected
            && error.to_string().is_empty()
        {
            return Err("it is refused without a word".to_owned());
        }
        if seed.is_multiple_of(COMPILED) {
            self.compiled(bytes)?;
        }
        Ok(inspected.is_ok_and(|inspection| inspection.problems.is_empty()))
    }

    /// The process that compiles may end as it likes; what it answers has its form.
    fn compiled(&self, bytes: &[u8]) -> Result<(), String> {
        let mut child = Command::new(&self.program)
            .arg(sandbox::compiler::COMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("the compiler can't be started: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            let bytes = bytes.to_vec();
            // It may have ended before it read everything.
            std::thread::spawn(move || input.write_all(&bytes).ok());
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Ok(());
        }
        let length = output.stdout.first_chunk().map(|length| u32::from_le_bytes(*length) as usize);
        let header =
            length.and_then(|length| output.stdout.get(4..4 + length)).ok_or("the compiler's answer is cut")?;
        let header: Value =
            serde_json::from_slice(header).map_err(|error| format!("the compiler's answer: {error}"))?;
        let one = header.as_object().is_some_and(|header| header.contains_key("Ok") != header.contains_key("Err"));
        if one { Ok(()) } else { Err(format!("the compiler's answer is {header}")) }
    }

    fn config(&self, bytes: &[u8]) -> Result<bool, String> {
        let file = self.folder.path().join("host.toml");
        std::fs::write(&file, bytes).map_err(|error| error.to_string())?;
        let source = Source { file: Some(file), environment: Vec::new(), dev: false, secrets: Secrets::All };
        let quoted = |text: &str| text.contains(SECRET);
        match source.read() {
            Ok(_) => {
                let shown = source.show().map_err(|problems| format!("it is good and can't be shown: {problems}"))?;
                if quoted(&shown) { Err(format!("a secret is shown: {shown}")) } else { Ok(true) }
            }
            Err(problems) => match problems.0.iter().find(|problem| problem.trim().is_empty() || quoted(problem)) {
                _ if problems.0.is_empty() => Err("it is refused without a word".to_owned()),
                Some(problem) => Err(format!("a problem without words, or with a secret: `{problem}`")),
                None => Ok(false),
            },
        }
    }
}

/// Whether a refusal has a status of its sender's fault, or of a crowd, with a code and words.
fn refused(status: u16, code: &str, message: &str) -> Result<(), String> {
    let crowd = status == 503 && code.ends_with(".busy");
    if !(400..500).contains(&status) && !crowd {
        return Err(format!("{status} `{code}`: {message}"));
    }
    if code.split_once('.').is_none() || message.is_empty() {
        return Err(format!("{status} without a code or words: `{code}` {message}"));
    }
    Ok(())
}

/// What is neither a text nor made of texts.
fn odd(value: &Value) -> Option<&Value> {
    match value {
        Value::String(_) => None,
        Value::Array(items) => items.iter().find_map(odd),
        Value::Object(fields) => fields.values().find_map(odd),
        other => Some(other),
    }
}

/// Bytes as they can stand in a request's line; percent signs stay as they are.
fn sendable(bytes: &[u8]) -> String {
    let sent = |byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~%&=+:/?@!$'()*,;[]".contains(byte) => {
            char::from(*byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(sent).collect()
}

/// A body that came in pieces.
fn whole(body: &[u8]) -> Vec<u8> {
    let (mut rest, mut found) = (body, Vec::new());
    while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        let size = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(piece) = rest.get(end + 2..end + 2 + size).filter(|piece| !piece.is_empty()) else { break };
        found.extend_from_slice(piece);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
    found
}

fn same(manifest: &Manifest) -> Result<(), String> {
    let text = serde_json::to_string(manifest).map_err(|error| error.to_string())?;
    let again: Manifest =
        serde_json::from_str(&text).map_err(|error| format!("{text} can't be read again: {error}"))?;
    if again == *manifest { Ok(()) } else { Err(format!("{text} is another the second time")) }
}

fn manifest(bytes: &[u8]) -> Result<bool, String> {
    match Manifest::parse(bytes) {
        Ok(manifest) => {
            same(&manifest)?;
            // What people are asked about does nothing to their terminal.
            let words = salesman_host::workshop::permissions::in_words(&manifest.permissions).join("\n");
            let acts = |character: &char| character.is_control() && *character != '\n';
            match words.chars().find(acts) {
                Some(found) => Err(format!("{found:?} is printed")),
                None => Ok(true),
            }
        }
        Err(error) if error.to_string().is_empty() => Err("it is refused without a word".to_owned()),
        Err(_) => Ok(false),
    }
}

fn answer(bytes: &[u8]) -> Result<bool, String> {
    match answer::classify(bytes) {
        Ok(value) => match answer::classify(value.to_string().as_bytes()) {
            Ok(again) if again == value => Ok(true),
            other => Err(format!("{value} is {other:?} the second time")),
        },
        Err(error) if error.to_string().is_empty() => Err("it is refused without a word".to_owned()),
        Err(_) => Ok(false),
    }
}
