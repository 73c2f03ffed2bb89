//! A door to the running host's API, for the commands.
//!
//! - Errors are sentences: nobody listens there, the API is off, the host's own code and message.
//! - Blocking, because commands do one thing after the other; not to be used within a runtime.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running host.
pub(super) struct Remote {
    base: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Remote {
    /// The host at an address such as `http://127.0.0.1:8787`. An address that means "every interface" (`0.0.0.0`, `[::]`)
    /// is taken for this machine: the API answers to loopback names only.
    pub(super) fn new(base: &str) -> anyhow::Result<Self> {
        let wrong = || format!("`{base}` is no address such as `http://127.0.0.1:8787`");
        let mut url = url::Url::parse(base).with_context(wrong)?;
        anyhow::ensure!(matches!(url.scheme(), "http" | "https") && url.has_host(), wrong());
        if matches!(url.host_str(), Some("0.0.0.0" | "[::]")) {
            url.set_host(Some("127.0.0.1")).with_context(wrong)?;
        }
        let http = crate::tls::client_builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("failed to set up the HTTP client")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime")?;
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), http, runtime })
    }

    /// Reads `/api/v1/PATH`.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.http.get(format!("{}/api/v1/{path}", self.base)))
    }

    /// Asks `/api/v1/PATH` to change something.
    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}/api/v1/{path}", self.base));
        self.answer(request.header("content-type", "application/json").body(body.to_string()))
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let base = &self.base;
        let (status, body) = self.runtime.block_on(async {
            let response = request.send().await.map_err(|error| self.silence(&error))?;
            let status = response.status();
            let body = response.bytes().await.map_err(|error| self.silence(&error))?;
            anyhow::Ok((status, body))
        })?;
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            Some(value) if value.get("code").is_some() => {
                let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                bail!("the host at `{base}` refused: {} (`{}`)", text("message"), text("code"))
            }
            _ if status.as_u16() == 404 => {
                bail!("`{base}` has no such API: is it this host, of this version, and is `console.enabled` on?")
            }
            _ => bail!("`{base}` answered {} with something that is not this host's API", status.as_u16()),
        }
    }

    fn silence(&self, error: &reqwest::Error) -> anyhow::Error {
        let base = &self.base;
        if error.is_connect() {
            return anyhow::anyhow!(
                "no host listens at `{base}`: start it with `salesman-host serve`, or say where it is with `--host`"
            );
        }
        if error.is_timeout() {
            return anyhow::anyhow!("the host at `{base}` did not answer within {} s", PATIENCE.as_secs());
        }
        anyhow::anyhow!("the answer of the host at `{base}` broke off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_there_is_told_in_a_sentence() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let remote = Remote::new(&format!("http://0.0.0.0:{port}/")).unwrap();
        let told = remote.post("dead/drop", &Value::Null).unwrap_err().to_string();
        assert!(told.starts_with(&format!("no host listens at `http://127.0.0.1:{port}`")), "{told}");
        for wrong in ["127.0.0.1:8787", "nonsense", "file:///x"] {
            assert!(Remote::new(wrong).is_err(), "{wrong}");
        }
    }
}
