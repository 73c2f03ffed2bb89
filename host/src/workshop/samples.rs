//! A sample of every event that the CRM knows, built in: for rehearsals, new plugins, and to know an event's name.
//!
//! - Each is a body as the CRM's webhooks send it: captured where one was, else made of the fields that its source has.
//! - It becomes an event by the same door as a real one, so a rehearsal sees what a delivery would.
//! - The order is the catalogue's: family by family.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::event::Event;
use crate::ingress;

/// The account that samples come from.
const ACCOUNT: &str = "main";

static SAMPLES: LazyLock<Vec<(String, Map<String, Value>)>> = LazyLock::new(|| {
    // The tests prove that the file can be read and that every entry has a name.
    let bodies: Vec<Map<String, Value>> = serde_json::from_str(include_str!("samples.json")).unwrap_or_default();
    let named = |body: Map<String, Value>| Some((body.get("event")?.as_str()?.to_owned(), body));
    bodies.into_iter().filter_map(named).collect()
});

/// The names of the CRM's events.
pub fn names() -> Vec<&'static str> {
    SAMPLES.iter().map(|(name, _)| name.as_str()).collect()
}

/// The body of the sample of this name, as the CRM would send it.
pub fn body(name: &str) -> Option<&'static Map<String, Value>> {
    SAMPLES.iter().find(|(known, _)| known == name).map(|(_, body)| body)
}

/// The sample of this name as an event that came in now.
pub fn event(name: &str) -> Option<Event> {
    let body = serde_json::to_vec(body(name)?).ok()?;
    ingress::event_of(ACCOUNT, &body, Clock::Wall.now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Via;

    #[test]
    fn a_sample_is_not_lost_on_its_way_to_an_event() {
        let entries: Vec<Value> = serde_json::from_str(include_str!("samples.json")).unwrap();
        assert_eq!(names().len(), entries.len());
        for name in names() {
            assert_eq!(event(name).unwrap_or_else(|| panic!("{name}")).name, name);
        }
        assert_eq!(event("deal.chnage.step"), None);
    }

    #[test]
    fn a_sample_holds_what_a_delivery_would() {
        let event = event("deal.change.step").unwrap();
        assert_eq!((event.account.as_str(), event.via, event.actor), ("main", Via::Json, Some(1)));
        assert_eq!(event.entity.unwrap().to_string(), "deal:1");
        let fields = r#"{"did":"1","autor":"1","stepOld":"20","stepNew":"40","reason":"Отправили КП","comment":"Отправили КП","identity":"1"}"#;
        assert_eq!(event.fields, fields);
    }

    #[test]
    fn no_sample_holds_a_session() {
        assert!(!include_str!("samples.json").contains("\"ses\""));
    }
}
