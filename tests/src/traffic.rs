//! Captured traffic of the real CRM, as it lies in `fixtures/`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

/// One captured request of the CRM.
#[derive(Debug, Clone, Deserialize)]
pub struct Captured {
    /// The event's name.
    pub event: String,
    /// What caused it.
    pub trigger: String,
    /// `POST` or `GET`.
    pub method: String,
    /// Its path, with the query of a `GET`.
    pub path: String,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Captured {
    /// The query string of a `GET`.
    pub fn query(&self) -> &str {
        self.path.split_once('?').map_or("", |(_, query)| query)
    }

    /// The content type that it was sent with.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, value)| value.as_str())
    }
}

/// The folder with the captured files.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Reads one of the captured files: `events-form`, `events-get`, `webhooks-json`.
///
/// # Errors
/// When it is not there, or a line is not a captured request.
pub fn captured(name: &str) -> anyhow::Result<Vec<Captured>> {
    let path = fixtures().join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).context("a captured line can't be read")).collect()
}
