//! What surrounds every page: who looks, in which language, at which place; and how times and sizes are written.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Language, Operator, Role, Words, own_page};
use crate::console::{Console, blocking};

/// What a request brings to a page.
pub(super) struct Seen {
    operator: Option<Operator>,
    uri: String,
    query: Asked,
    headers: HeaderMap,
}

impl Seen {
    pub(super) fn of(parts: &Parts) -> Self {
        Self {
            operator: parts.extensions.get().cloned(),
            uri: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            query: Asked::of(parts.uri.query()),
            headers: parts.headers.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Seen {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

/// The fields of a query or a form; of several with one name the first, unless all are asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pairs: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn of(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { pairs }
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A page's address with the same fields, and another value for one.
    pub(super) fn with(&self, path: &str, name: &str, value: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let others = self.pairs.iter().filter(|(key, value)| key != name && key != "told" && !value.is_empty());
        query.extend_pairs(others).append_pair(name, value);
        format!("{path}?{}", query.finish())
    }
}

pub(super) struct Frame {
    pub(super) language: Language,
    pub(super) who: Option<Operator>,
    /// The place in the navigation.
    pub(super) place: &'static str,
    /// The page's own address.
    pub(super) here: String,
    pub(super) asked: Asked,
    /// What was done a moment ago.
    pub(super) told: Option<String>,
    /// Of a store that was restored and waits: when the copy was made, and how many deliveries were open.
    pub(super) restored: Option<(i64, u64)>,
    back: String,
    times: TimeZone,
}

impl Frame {
    pub(super) async fn new(console: &Console, seen: &Seen, place: &'static str) -> Self {
        let frame = Self::of(seen, place);
        if !console.journal.waits_for_go_on() {
            return frame;
        }
        let journal = console.journal.clone();
        // What can't be read now is told elsewhere.
        let restored = blocking(move || journal.waiting_since_copy()).await.ok().flatten();
        Self { restored, ..frame }
    }

    /// A page for somebody who is not in yet.
    pub(super) fn outside(seen: &Seen) -> Self {
        Self::of(seen, "")
    }

    fn of(seen: &Seen, place: &'static str) -> Self {
        let language = Language::of(&seen.headers);
        let told = seen.query.get("told");
        let told = match told {
            "" => None,
            "done" => Some(language.words().done_is.to_owned()),
            count => count
                .parse()
                .ok()
                .map(|count: u64| format!("{} {}: {count}", language.words().done_is, language.words().changed)),
        };
        let referer = seen.headers.get("referer").and_then(|value| value.to_str().ok()?.parse::<url::Url>().ok());
        let back = referer.map(|url| url.path().to_owned()).filter(|path| own_page(path) && *path != "/console/login");
        let here: String = {
            let kept = Asked { pairs: seen.query.pairs.iter().filter(|(key, _)| key != "told").cloned().collect() };
            let path = seen.uri.split('?').next().unwrap_or_default();
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            let query = query.extend_pairs(&kept.pairs).finish();
            if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
        };
        Self {
            language,
            who: seen.operator.clone(),
            place,
            here,
            asked: seen.query.clone(),
            told,
            restored: None,
            back: back.unwrap_or_else(|| "/console".to_owned()),
            times: TimeZone::system(),
        }
    }

    pub(super) fn words(&self) -> &'static Words {
        self.language.words()
    }

    pub(super) fn back(&self) -> String {
        self.back.clone()
    }

    pub(super) fn places(&self) -> [(&'static str, &'static str); 5] {
        let w = self.words();
        [
            ("/console", w.overview),
            ("/console/events", w.events),
            ("/console/plugins", w.plugins),
            ("/console/dead", w.dead_letters),
            ("/console/audit", w.operators_log),
        ]
    }

    pub(super) fn is_at(&self, place: &str) -> bool {
        self.place == place
    }

    pub(super) fn may_change(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.role == Role::Admin)
    }

    pub(super) fn csrf(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.csrf)
    }

    pub(super) fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    pub(super) fn zone(&self) -> String {
        let now = Timestamp::now();
        let offset = self.times.to_offset(now);
        match self.times.iana_name() {
            Some(name) if !matches!(name, "UTC" | "Etc/UTC") => format!("{name} (UTC{offset})"),
            _ => format!("UTC{}", if offset.seconds() == 0 { String::new() } else { offset.to_string() }),
        }
    }

    fn civil(&self, at: i64) -> Option<jiff::Zoned> {
        Some(Timestamp::from_millisecond(at).ok()?.to_zoned(self.times.clone()))
    }

    /// A time for people: without the day where it is today's.
    pub(super) fn time(&self, at: &i64) -> String {
        self.civil(*at).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
    }

    /// The hour and the minute, with the day where the span is long.
    pub(super) fn moment(&self, at: i64, with_day: bool) -> String {
        let form = if with_day { "%d.%m %H:%M" } else { "%H:%M" };
        self.civil(at).map(|time| time.strftime(form).to_string()).unwrap_or_default()
    }

    pub(super) fn iso(&self, at: &i64) -> String {
        Timestamp::from_millisecond(*at).map(|time| time.to_string()).unwrap_or_default()
    }

    /// A field's `datetime-local` in this host's time zone.
    pub(super) fn parse(&self, text: &str) -> Option<i64> {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(self.times.clone()).ok()?.timestamp().as_millisecond())
    }

    /// Microseconds for people.
    pub(super) fn took(&self, micros: &u64) -> String {
        let (ms, s) = if self.language == Language::Russian { ("мс", "с") } else { ("ms", "s") };
        match *micros {
            0..10_000 => format!("{}.{} {ms}", micros / 1_000, micros % 1_000 / 100),
            10_000..10_000_000 => format!("{} {ms}", micros / 1_000),
            _ => format!("{} {s}", micros / 1_000_000),
        }
    }

    /// Bytes for people.
    pub(super) fn size(&self, bytes: &u64) -> String {
        let (kib, mib) = if self.language == Language::Russian { ("КиБ", "МиБ") } else { ("KiB", "MiB") };
        if *bytes < 1 << 20 {
            format!("{} {kib}", bytes.div_ceil(1 << 10))
        } else {
            format!("{}.{} {mib}", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20)
        }
    }

    pub(super) fn short<'a>(&self, hash: &'a str) -> &'a str {
        hash.get(..12).unwrap_or(hash)
    }

    /// JSON with one field a line; other text as it is.
    pub(super) fn pretty(&self, text: &str) -> String {
        let parsed = serde_json::from_str::<serde_json::Value>(text).ok();
        parsed.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| text.to_owned())
    }
}
