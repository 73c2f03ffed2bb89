//! Who wants what: what routing is told of the plugins.

use std::collections::BTreeSet;

use crate::plugin::{Pattern, PluginName};

/// Which plugin wants which events.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(pub Vec<Subscription>);

/// One plugin's wishes.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Whose.
    pub plugin: PluginName,
    /// Which events.
    pub events: Vec<Pattern>,
    /// Whether events of one entity are kept in order.
    pub ordered: bool,
    /// Whether events that the plugin caused itself are delivered to it.
    pub own_events: bool,
    /// How many events in a row plugins may cause before this one no longer gets them.
    pub most_depth: u32,
    /// The accounts whose events it does not get.
    pub not_from: BTreeSet<String>,
    /// How many deliveries of one CRM may wait: it can't take them yet, and what comes beyond is not kept for it.
    pub most_waiting: Option<u32>,
}

impl Subscription {
    /// A subscription with everything else as it is by default.
    pub fn new(plugin: PluginName, events: Vec<Pattern>) -> Self {
        Self {
            plugin,
            events,
            ordered: true,
            own_events: false,
            most_depth: 5,
            not_from: BTreeSet::new(),
            most_waiting: None,
        }
    }

    pub(super) fn wants(&self, account: &str, name: &str) -> bool {
        self.events.iter().any(|pattern| pattern.matches(name)) && !self.not_from.contains(account)
    }
}
