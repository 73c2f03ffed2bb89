//! Just enough HTTP/1.1 on a plain socket, in both directions.
//!
//! - A library would lower-case header names, reorder them and answer politely; the CRM does none of that, and the
//!   scripted faults need a connection that ends without an answer.
//! - One request a connection, as the CRM's server answers: `Connection: close`, and the end of the body is the end of
//!   the connection.
//! - It doesn't do TLS, chunked request bodies, keep-alive or redirects.

use anyhow::Context as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A request line, header or body beyond these sizes is refused, so that a mistake can't eat the machine's memory.
const HEAD_LIMIT: u64 = 64 * 1024;
const BODY_LIMIT: u64 = 32 * 1024 * 1024;

/// One received request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A header's value; names are compared without case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// What the other side answered to one of our requests.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Reads one request; `None` when the caller closed without sending anything.
pub(super) async fn read_request(stream: &mut TcpStream) -> anyhow::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).await?;
    let Some((first, headers)) = head else { return Ok(None) };
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().context("a request line needs a target")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request { method, path: path.to_owned(), query: query.to_owned(), headers, body: Vec::new() };
    let length: u64 =
        request.header("content-length").map_or(Ok(0), str::parse).context("a content length must be a number")?;
    anyhow::ensure!(length <= BODY_LIMIT, "a body of {length} bytes is too long");
    let mut body = Vec::new();
    (&mut reader).take(length).read_to_end(&mut body).await?;
    request.body = body;
    Ok(Some(request))
}

/// Writes one answer and closes the sending side.
pub(super) async fn write_answer(
    stream: &mut TcpStream,
    status: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<()> {
    let mut out = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out.push_str(body);
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Sends a ready-made request and reads the whole answer.
pub(super) async fn exchange(authority: (&str, u16), request: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(authority).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut reader = BufReader::new(stream);
    let (first, headers) = read_head(&mut reader).await?.context("the connection was closed without an answer")?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).context("the answer has no status")?;
    let length = header(&headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    let ends_at_once = status == 204 || status == 304;
    let limit = if ends_at_once { 0 } else { length.unwrap_or(BODY_LIMIT).min(BODY_LIMIT) };
    let mut body = Vec::new();
    (&mut reader).take(limit).read_to_end(&mut body).await?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// Waits until the other side gives up.
pub(super) async fn wait_for_close(stream: &mut TcpStream) {
    let mut buffer = [0; 256];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

type Head = (String, Vec<(String, String)>);

async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<Head>> {
    let mut lines = reader.take(HEAD_LIMIT).lines();
    let Some(first) = lines.next_line().await? else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let line = lines.next_line().await?.context("the head ended too early")?;
        if line.is_empty() {
            return Ok(Some((first, headers)));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
