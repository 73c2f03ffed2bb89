//! The one check of what a plugin may do.

use std::collections::BTreeSet;
use std::fmt;

use super::{Pattern, Permissions, PluginName, origin};

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

/// Why what a manifest asks can't be granted as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unchosen {
    /// Addresses were named for a plugin that names its own.
    #[error("addresses are for plugins that leave the choice to you (`http = [\"*\"]`)")]
    NoChoice,
    /// It leaves the choice of addresses, and none was named.
    #[error("it leaves the choice of addresses to you: name each, as `https://host`")]
    Nothing,
    /// What was named is no origin.
    #[error("{0}")]
    Named(String),
    /// What the manifest asks is no origin.
    #[error("its manifest asks for what can't be granted, its author has to change it: {0}")]
    Asked(String),
}

impl Permissions {
    /// What is granted of what is asked here: all of it, with real addresses in place of `*`, each origin in its one form.
    ///
    /// # Errors
    /// [`Unchosen`].
    pub fn chosen(&self, origins: &[String]) -> Result<Self, Unchosen> {
        let open = self.http.iter().any(|origin| origin == "*");
        match (open, origins.is_empty()) {
            (false, false) => return Err(Unchosen::NoChoice),
            (true, true) => return Err(Unchosen::Nothing),
            _ => {}
        }
        let named: Vec<String> = self.http.iter().filter(|origin| *origin != "*").cloned().collect();
        let mut http = origin::all_normal(&named).map_err(Unchosen::Asked)?;
        for chosen in origin::all_normal(origins).map_err(Unchosen::Named)? {
            if !http.contains(&chosen) {
                http.push(chosen);
            }
        }
        Ok(Self { http, ..self.clone() })
    }

    /// With each origin in its one form; what is none stays as it is, and matches nothing.
    fn normal(mut self) -> Self {
        self.http.iter_mut().for_each(make_normal);
        self
    }
}

fn make_normal(text: &mut String) {
    if let Ok(normal) = origin::normal(text) {
        *text = normal;
    }
}

impl Grants {
    /// Everything that the manifest asks, as `--dev` gives it. Private addresses still have to be named.
    pub fn as_asked(name: PluginName, asked: Permissions, private: impl IntoIterator<Item = String>) -> Self {
        Self { name, asked: asked.normal(), given: Given::Asked, private: all_normal(private) }
    }

    /// What both the manifest asks and the configuration gives. `private` are the origins that may lead to private
    /// addresses.
    pub fn new(
        name: PluginName,
        asked: Permissions,
        given: Permissions,
        private: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { name, asked: asked.normal(), given: Given::These(given.normal()), private: all_normal(private) }
    }

    /// What was given, of what was asked or beyond it; `None`: all that was asked, as `--dev` gives it.
    pub fn given(&self) -> Option<&Permissions> {
        match &self.given {
            Given::Asked => None,
            Given::These(given) => Some(given),
        }
    }

    /// What was asked.
    pub fn asked(&self) -> &Permissions {
        &self.asked
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
        // One form on both sides: who calls may not have brought its own into it.
        let wanted = &origin::normal(origin).unwrap_or_else(|_| origin.to_owned());
        if !self.asked.http.iter().any(|asked| asked == "*" || asked == wanted) {
            return Err(self.not_asked(origin, &line));
        }
        match &self.given {
            Given::These(given) if !given.http.contains(wanted) => Err(self.not_given(origin, &line)),
            _ => Ok(()),
        }
    }

    /// Whether `origin` may lead to a loopback or private address.
    pub fn private(&self, origin: &str) -> bool {
        origin::normal(origin).is_ok_and(|origin| self.private.contains(&origin))
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
                .filter(|asked| *asked != "*" && !given.http.contains(asked))
                .map(|origin| format!("http {origin}")),
        );
        if self.asked.http.iter().any(|asked| asked == "*") && given.http.is_empty() {
            missing.push("http, an origin of your choice".to_owned());
        }
        if self.asked.state && !given.state {
            missing.push("state".to_owned());
        }
        missing.extend(self.asked.limits.missing(&given.limits));
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

fn all_normal(origins: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let normal = |mut text: String| {
        make_normal(&mut text);
        text
    };
    origins.into_iter().map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(crm: &[&str], http: &[&str], state: bool) -> Permissions {
        Permissions {
            crm: crm.iter().map(|text| Pattern::try_from((*text).to_owned()).unwrap()).collect(),
            http: http.iter().map(|text| (*text).to_owned()).collect(),
            state,
            ..Permissions::default()
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
    fn an_origin_is_the_same_however_each_side_writes_it() {
        let written = ["https://Чат.рф", "https://xn--80a0bn.xn--p1ai:443/", "https://ЧАТ.РФ"];
        for asked in written {
            for given in written {
                let (asks, gives) = (permissions(&[], &[asked], false), permissions(&[], &[given], false));
                let grants = Grants::new(name(), asks, gives, [given.to_owned()]);
                assert_eq!(grants.missing(), Vec::<String>::new());
                for called in written {
                    assert!(grants.http(called).is_ok() && grants.private(called), "{asked} {given} {called}");
                }
                for other in ["https://xn--80a0bn.xn--p1ai:8443", "http://чат.рф", "https://чат.рф.example"] {
                    assert!(grants.http(other).is_err() && !grants.private(other), "{other}");
                }
            }
        }
    }

    #[test]
    fn what_is_granted_has_one_form_and_what_can_not_be_is_refused() {
        let http = |asked: &[&str], chosen: &[&str]| {
            let chosen: Vec<String> = chosen.iter().map(|&text| text.to_owned()).collect();
            permissions(&[], asked, true).chosen(&chosen).map(|granted| granted.http)
        };
        let one = vec!["https://a.example".to_owned()];
        assert_eq!(http(&["HTTPS://A.example:443/"], &[]), Ok(one.clone()));
        assert_eq!(http(&["*"], &["https://a.example/", "https://A.example"]), Ok(one));
        assert_eq!(http(&["*"], &[]), Err(Unchosen::Nothing));
        assert_eq!(http(&["https://a.example"], &["https://b.example"]), Err(Unchosen::NoChoice));
        assert!(
            matches!(http(&["*"], &["https://a.example/x"]), Err(Unchosen::Named(words)) if words.contains("write `https://a.example`"))
        );
        assert!(
            matches!(http(&["https://*.example"], &[]), Err(Unchosen::Asked(words)) if words.contains("name each host"))
        );
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
