//! Writes the CRM's `developer/events.php`: the file that hands its events to this host.
//!
//! - The file is `events_php/events.php` with the host's address and token put in; it is tried under a real PHP by the
//!   integration tests.
//! - It holds a secret: whoever prints it keeps it as a password.
//!
//! Not here: what becomes of the events (`ingress`).

use std::fmt::Write as _;

const FILE: &str = include_str!("events_php/events.php");

/// What the file is to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host's address with `/events`, as the CRM's machine reaches it.
    pub url: String,
    /// The account's token.
    pub token: String,
    /// Milliseconds for the connection.
    pub connect_ms: u32,
    /// Milliseconds that one page of the CRM may wait, all its events together.
    pub total_ms: u32,
    /// Whether events also go to the CRM's own `developer/webhooks.php`.
    pub relay: bool,
    /// The CRM's own address, which no visitor chooses; empty: not known.
    pub crm_url: String,
    /// The folder in which events wait; empty: beside the CRM's cache.
    pub spool: String,
}

/// Reads the host's address as people write it.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn address(text: &str) -> Result<url::Url, String> {
    // What the parser would mend silently is somebody's slip.
    let read = url::Url::parse(text).ok().filter(|_| !text.contains(['\\', ' ']) && text.contains("://"));
    match read {
        Some(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(url)
        }
        _ => Err(format!("`{text}` is no address such as `http://127.0.0.1:8787`")),
    }
}

/// The file.
///
/// # Errors
/// When a text can't stand in it; the words say which.
pub fn file(options: &Options) -> Result<String, String> {
    for (name, text) in [
        ("url", &options.url),
        ("token", &options.token),
        ("spool", &options.spool),
        ("CRM's address", &options.crm_url),
    ] {
        if text.chars().any(char::is_control) {
            return Err(format!("the {name} holds a control character"));
        }
    }
    if options.relay && options.crm_url.is_empty() {
        return Err(
            "the relay needs the CRM's own address: set `url` of its `[crm.NAME]`, or give `--crm-url`".to_owned()
        );
    }
    let relative = !options.spool.is_empty() && !options.spool.starts_with('/') && !options.spool.contains(":\\");
    if relative {
        return Err(format!("the spool folder `{}` must be given with its whole path", options.spool));
    }
    let values = [
        ("URL", quoted(&options.url)),
        ("TOKEN", quoted(&options.token)),
        ("CONNECT_MS", options.connect_ms.to_string()),
        ("TOTAL_MS", options.total_ms.to_string()),
        ("RELAY", options.relay.to_string()),
        ("CRM_URL", quoted(&options.crm_url)),
        ("SPOOL", quoted(&options.spool)),
        ("VERSION", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    // In one pass, so that a value is never taken for a place.
    let mut text = String::with_capacity(FILE.len() + 256);
    let mut rest = FILE;
    while let Some((before, after)) = rest.split_once("@@") {
        text.push_str(before);
        let Some((name, behind)) = after.split_once("@@") else {
            text.push_str("@@");
            rest = after;
            continue;
        };
        match values.iter().find(|(key, _)| *key == name) {
            Some((_, value)) => text.push_str(value),
            // Nothing else in the file looks like this.
            None => drop(write!(text, "@@{name}@@")),
        }
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

/// A text as it stands between single quotes in PHP.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_to_no_host_is_refused() {
        for wrong in [
            "javascript:alert(1)",
            "file:///etc/passwd",
            "ftp://x",
            "http://x\\",
            "http:x",
            "http://",
            "http://u:p@x",
            "http://x/?a",
            "http://x/#a",
            "127.0.0.1:8787",
            "",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        for good in ["http://127.0.0.1:8787", "https://host.example/events/", "http://[::1]:1"] {
            assert!(address(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn nothing_that_is_put_in_can_leave_its_quotes_or_be_taken_for_a_place() {
        let options = Options {
            url: "http://127.0.0.1:8787/events".to_owned(),
            token: "a'b\\@@URL@@0123456789".to_owned(),
            connect_ms: 300,
            total_ms: 1_000,
            relay: false,
            crm_url: String::new(),
            spool: String::new(),
        };
        let text = file(&options).unwrap();
        assert!(text.contains(r"'token' => 'a\'b\\@@URL@@0123456789',"), "{text}");
        assert!(text.contains("'url' => 'http://127.0.0.1:8787/events',") && text.contains("'relay' => false,"));
        assert_eq!(text.matches("@@").count(), 2, "only the token's own");
        assert!(file(&Options { token: "a\nb".to_owned(), ..options.clone() }).is_err());
        assert!(file(&Options { relay: true, ..options.clone() }).is_err(), "a visitor would choose where events go");
        assert!(file(&Options { spool: "relative".to_owned(), ..options }).is_err());
    }
}
