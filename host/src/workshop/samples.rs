//! Sample events, as the CRM sends them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::event::{Event, Via};
use crate::ingress::normal_event;

const SAMPLES: &str = include_str!("samples.json");

fn all() -> BTreeMap<String, Map<String, Value>> {
    serde_json::from_str(SAMPLES).unwrap_or_default()
}

/// The names of the events that there is a sample of.
pub fn names() -> Vec<String> {
    all().into_keys().collect()
}

/// A sample of the event of this name.
pub fn event(name: &str) -> Option<Event> {
    let mut fields = all().remove(name)?;
    fields.insert("event".to_owned(), name.into());
    normal_event("main".to_owned(), Via::Json, fields, Clock::Wall.now()).ok()
}
