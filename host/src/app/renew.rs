//! What is read again while the host runs: what is said of plugins, keys and tokens, who may come in.
//!
//! - It is read as at the start, and taken as a whole: where anything is wrong, everything stays as it was, and the log says why.
//! - Secrets in files are read again when the files change, whatever their section.
//!
//! Not here: noticing the change (`registry`, whose thread looks after the plugins as well).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::config::{Config, Source};
use crate::registry::{ReadAgain, Reread};
use crate::secret::{Renewable, Scrubber, Secret};
use crate::{console, crm, ingress, telemetry};

/// Where what was read again takes effect.
pub(super) struct Renewing {
    pub(super) clients: BTreeMap<String, crm::Client>,
    pub(super) doors: ingress::Doors,
    /// None where there is no console.
    pub(super) keys: Option<console::Keys>,
    /// What is kept out of everything that is recorded or told.
    pub(super) scrubber: Scrubber,
    /// None where nobody is told of anything.
    pub(super) hook: Option<Renewable<Secret>>,
}

impl Renewing {
    fn take(&self, config: &Config, known: &BTreeSet<String>) {
        self.scrubber.learn(config.known_secrets.iter().cloned());
        for (account, options) in &config.crm {
            if let Some(client) = self.clients.get(account) {
                client.renew(options.api_key.clone());
            }
        }
        // An account that the other rooms do not know yet waits for the restart; one that is gone is shut at once.
        let mut accounts = config.ingress.accounts.clone();
        accounts.retain(|account, _| known.contains(account));
        self.doors.renew(&accounts);
        if let (Some(keys), Some(console)) = (&self.keys, &config.console) {
            keys.renew(&console.access);
        }
        if let (Some(hook), Some(alerts)) = (&self.hook, &config.alerts) {
            hook.set((*alerts.hook.get()).clone());
        }
    }
}

/// How the configuration is read again while the host runs.
pub(super) fn reread(source: &Source, approvals: &Path, renewing: Arc<OnceLock<Renewing>>) -> Reread {
    let (source, approvals, fixed) = (source.clone(), approvals.to_owned(), source.fixed_part());
    let files = move |source: &Source| {
        let files = source.files()?;
        Some(files.into_iter().chain([approvals.clone()]).collect())
    };
    let known: BTreeSet<String> =
        source.read().map(|config| config.ingress.accounts.into_keys().collect()).unwrap_or_default();
    let first = files(&source).unwrap_or_default();
    let read = move || {
        let options = match source.read() {
            Ok(config) => {
                if let Some(renewing) = renewing.get() {
                    renewing.take(&config, &known);
                }
                telemetry::config_read_again(source.fixed_part() != fixed);
                Some(config.registry)
            }
            Err(problems) => {
                telemetry::config_not_read(&problems);
                None
            }
        };
        ReadAgain { options, files: files(&source) }
    };
    Reread { files: first, read: Box::new(read) }
}
