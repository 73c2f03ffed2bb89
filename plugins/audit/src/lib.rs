//! Counts every event: by its name, and by the employee who caused it.
//!
//! `increment` adds up correctly however many events are counted at once.

use salesman_plugin_sdk::{Event, Host, Plugin, Reply, Result};

struct Audit;

impl Plugin for Audit {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
        let actor = event.actor.map_or("unknown".to_owned(), |actor| actor.to_string());
        host.state().increment(&format!("event.{}", event.name), 1)?;
        host.state().increment(&format!("actor.{actor}.{}", event.name), 1)?;
        Reply::done()
    }
}

salesman_plugin_sdk::export!(Audit);

#[cfg(test)]
mod tests {
    use salesman_plugin_sdk::testing::{FakeHost, event};

    use super::*;

    #[test]
    fn an_event_without_an_actor_is_counted_too() {
        let fake = FakeHost::new();
        let mut nobody = event("task.edit", &[]);
        nobody.actor = None;
        for event in [event("deal.add", &[("did", "1")]), event("deal.add", &[("did", "2")]), nobody] {
            assert_eq!(Audit.handle(event, &fake.host()), Reply::done());
        }
        let counted: Vec<_> = fake.state().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            counted,
            ["actor.1.deal.add=2", "actor.unknown.task.edit=1", "event.deal.add=2", "event.task.edit=1"]
        );
    }
}
