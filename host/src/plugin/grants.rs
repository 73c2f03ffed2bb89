//! The one check of what a plugin may do.

use std::collections::BTreeSet;
use std::fmt;

use super::{Pattern, Permissions, PluginName};

/// What a plugin asked for, and what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    name: PluginName,
    asked: Permissions,
    given: Given,
    private: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Asked,
    These(Permissions),
}

/// Why a call is not allowed, and which line to add where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Grants {
    /// Everything that the manifest asks, as `--dev` gives it. Private addresses still have to be named.
    pub fn as_asked(name: PluginName, asked: Permissions, private: impl IntoIterator<Item = String>) -> Self {
        Self { name, asked, given: Given::Asked, private: private.into_iter().collect() }
    }

    /// What both the manifest asks and the configuration gives. `private` are the origins that may lead to private
    /// addresses.
    pub fn new(
        name: PluginName,
        asked: Permissions,
        given: Permissions,
        private: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { name, asked, given: Given::These(given), private: private.into_iter().collect() }
    }

    /// What was given, of what was asked or beyond it; `None`: all that was asked, as `--dev` gives it.
    pub fn given(&self) -> Option<&Permissions> {
        match &self.given {
            Given::Asked => None,
            Given::These(given) => Some(given),
        }
    }

    /// Whether `call` (as `deal.list`) is allowed.
    ///
    /// # Errors
    /// [`Refusal`] names the missing key.
    pub fn crm(&self, call: &str) -> Result<(), Refusal> {
        if !self.asked.crm.iter().any(|pattern| pattern.matches(call)) {
            return Err(self.not_asked(call, &format!("crm = [\"{call}\"]")));
        }
        match &self.given {
            Given::These(given) if !given.crm.iter().any(|pattern| pattern.matches(call)) => {
                Err(self.not_given(call, &format!("crm = [\"{call}\"]")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the plugin may keep state.
    ///
    /// # Errors
    /// [`Refusal`] names the missing key.
    pub fn state(&self) -> Result<(), Refusal> {
        if !self.asked.state {
            return Err(self.not_asked("state", "state = true"));
        }
        match &self.given {
            Given::These(given) if !given.state => Err(self.not_given("state", "state = true")),
            _ => Ok(()),
        }
    }

    /// Whether a request to `origin` (`https://host` or `https://host:port`) is allowed.
    ///
    /// # Errors
    /// [`Refusal`] names the missing key.
    pub fn http(&self, origin: &str) -> Result<(), Refusal> {
        let line = format!("http = [\"{origin}\"]");
        if !self.asked.http.iter().any(|asked| asked == "*" || same_origin(asked, origin)) {
            return Err(self.not_asked(origin, &line));
        }
        match &self.given {
            Given::These(given) if !given.http.iter().any(|given| same_origin(given, origin)) => {
                Err(self.not_given(origin, &line))
            }
            _ => Ok(()),
        }
    }

    /// Whether `origin` may lead to a loopback or private address.
    pub fn private(&self, origin: &str) -> bool {
        self.private.iter().any(|given| same_origin(given, origin))
    }

    /// What to add so that `origin` may lead to a private address.
    pub fn private_refusal(&self, origin: &str) -> Refusal {
        Refusal(format!(
            "`{origin}` leads to a private address: add `http_private = [\"{origin}\"]` under \
             `[plugins.{}.grants]` of the host's configuration if that is meant",
            self.name
        ))
    }

    /// What was asked and not given, in the manifest's own words.
    pub fn missing(&self) -> Vec<String> {
        let Given::These(given) = &self.given else { return Vec::new() };
        let crm_given =
            |asked: &str| given.crm.iter().any(|pattern| pattern.as_str() == asked || pattern.matches(asked));
        let mut missing: Vec<String> = self
            .asked
            .crm
            .iter()
            .map(Pattern::as_str)
            .filter(|asked| !crm_given(asked))
            .map(|call| format!("crm {call}"))
            .collect();
        missing.extend(
            self.asked
                .http
                .iter()
                .filter(|asked| *asked != "*" && !given.http.iter().any(|given| same_origin(given, asked)))
                .map(|origin| format!("http {origin}")),
        );
        if self.asked.http.iter().any(|asked| asked == "*") && given.http.is_empty() {
            missing.push("http, an origin of your choice".to_owned());
        }
        if self.asked.state && !given.state {
            missing.push("state".to_owned());
        }
        missing
    }

    fn not_asked(&self, what: &str, line: &str) -> Refusal {
        Refusal(format!(
            "`{what}` is not asked for by the plugin: add `{line}` under `[permissions]` of its `plugin.toml`"
        ))
    }

    fn not_given(&self, what: &str, line: &str) -> Refusal {
        Refusal(format!(
            "`{what}` is not granted by the administrator: add `{line}` under `[plugins.{0}.grants]` of the host's \
             configuration, or run `salesman-host plugin grant {0}`",
            self.name
        ))
    }
}

fn same_origin(left: &str, right: &str) -> bool {
    left.trim_end_matches('/').eq_ignore_ascii_case(right.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(crm: &[&str], http: &[&str], state: bool) -> Permissions {
        Permissions {
            crm: crm.iter().map(|text| Pattern::try_from((*text).to_owned()).unwrap()).collect(),
            http: http.iter().map(|text| (*text).to_owned()).collect(),
            state,
        }
    }

    fn name() -> PluginName {
        PluginName::try_from("notify".to_owned()).unwrap()
    }

    #[test]
    fn a_call_needs_both_keys_and_the_refusal_names_the_missing_one() {
        let grants = Grants::new(
            name(),
            permissions(&["deal.list", "task.add"], &["*"], true),
            permissions(&["deal.*", "client.list"], &["https://chat.example.com"], false),
            [],
        );
        let text = |result: Result<(), Refusal>| result.map_err(|refusal| refusal.to_string());
        assert_eq!(text(grants.crm("deal.list")), Ok(()));
        assert_eq!(
            text(grants.crm("client.list")),
            Err("`client.list` is not asked for by the plugin: add `crm = [\"client.list\"]` under `[permissions]` of its `plugin.toml`".to_owned())
        );
        assert_eq!(
            text(grants.crm("task.add")),
            Err("`task.add` is not granted by the administrator: add `crm = [\"task.add\"]` under `[plugins.notify.grants]` of the host's configuration, or run `salesman-host plugin grant notify`".to_owned())
        );
        assert!(grants.state().is_err());
        assert_eq!(text(grants.http("https://chat.example.com")), Ok(()));
        assert!(grants.http("https://other.example.com").is_err());
        assert!(!grants.private("https://chat.example.com"));
        assert_eq!(grants.missing(), ["crm task.add", "state"]);
    }

    #[test]
    fn dev_grants_what_is_asked_and_nothing_more() {
        let grants = Grants::as_asked(name(), permissions(&["deal.list"], &["https://a.example"], false), []);
        assert!(grants.crm("deal.list").is_ok());
        assert!(grants.crm("deal.add").is_err());
        assert!(grants.http("https://a.example").is_ok());
        assert!(grants.http("https://b.example").is_err());
        assert!(grants.state().is_err());
    }
}
