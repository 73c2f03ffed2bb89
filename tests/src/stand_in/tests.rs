//! Tests of the stand-in itself, named after what a caller would be told wrongly without them.
//!
//! - Expected bodies are the measured ones; only times are left out of the comparison.
//! - Nothing here waits for a fixed time.

mod events;
mod losses;
mod reads;
mod trouble;
mod writes;

use serde_json::Value;

use super::http::{self, Answer};
use super::{Options, StandIn, php};

/// The answer to every wrong login or key.
const REFUSED: &str = r#"{"result":"Error","error":{"code":401,"text":"Неизвестный пользователь"}}"#;

async fn start() -> anyhow::Result<StandIn> {
    StandIn::start(Options::default()).await
}

/// A form call of the API login; returns the body as it came.
async fn form(stand_in: &StandIn, method: &str, pairs: &[(&str, &str)]) -> anyhow::Result<String> {
    form_as(stand_in, "api@example.test", method, pairs).await
}

async fn form_as(stand_in: &StandIn, login: &str, method: &str, pairs: &[(&str, &str)]) -> anyhow::Result<String> {
    let credentials = [("login", login), ("apikey", stand_in.api_key())];
    let all: Vec<(String, String)> =
        credentials.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let answer =
        post(stand_in, method, &[("Content-Type", "application/x-www-form-urlencoded")], &php::build_query(&all))
            .await?;
    anyhow::ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.body)
}

/// A JSON call with the credentials in the headers.
async fn json_call(stand_in: &StandIn, method: &str, body: &Value) -> anyhow::Result<String> {
    let headers = [("Content-Type", "application/json"), ("login", "api@example.test"), ("apikey", stand_in.api_key())];
    Ok(post(stand_in, method, &headers, &body.to_string()).await?.body)
}

async fn post(stand_in: &StandIn, method: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    let address = stand_in.address();
    let mut request =
        format!("POST /developer/v2/{method} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    http::exchange(("127.0.0.1", address.port()), &request).await
}

/// The answer as a value, and one place in it.
fn at(body: &str, pointer: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(body)?;
    value.pointer(pointer).cloned().ok_or_else(|| anyhow::anyhow!("no {pointer} in {body}"))
}

fn is_fatal(body: &str) -> bool {
    body.starts_with("<br />\n<b>Fatal error</b>")
}
