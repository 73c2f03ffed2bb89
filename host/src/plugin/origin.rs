//! Origins: `https://host` or `https://host:port`, as grants name where a plugin may send requests.
//!
//! - One form: lower case, other alphabets in ASCII (`xn--…`), no port where it is the scheme's own, no slash behind.
//! - What people write for the same is understood; what means something else is refused, with what to write instead.

use url::Url;

/// The one form of an origin.
///
/// # Errors
/// Words to follow the text that was read: why it is none, and what to write.
pub fn normal(text: &str) -> Result<String, String> {
    let text = text.trim();
    let shown = || "write `https://host` or `https://host:port`".to_owned();
    if text.contains(|character: char| character.is_control() || character.is_whitespace()) {
        return Err(format!("is no origin, it holds spaces: {}", shown()));
    }
    if text == "*" {
        return Err("leaves the choice to you: name each address, as `https://host`".to_owned());
    }
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(url) if text.contains("://") => {
            return Err(format!("is no origin that can be reached, `{}` is neither `https` nor `http`", url.scheme()));
        }
        Err(error) if text.contains("://") => return Err(format!("is no origin, {error}: {}", shown())),
        // `host` or `host:port`, which reads as a scheme.
        _ => {
            let meant = Url::parse(&format!("https://{text}")).ok().filter(|_| !text.contains("//"));
            let meant = meant.map(|url| format!("write `{}`", url.origin().ascii_serialization()));
            return Err(format!("is no origin, the scheme is missing: {}", meant.unwrap_or_else(shown)));
        }
    };
    let origin = url.origin().ascii_serialization();
    let host = url.host_str().unwrap_or_default();
    if host.contains('*') {
        return Err(
            "is no origin, no part of a host can be left open: name each host, as `https://a.example.com`".into()
        );
    }
    if host.ends_with('.') || url.port() == Some(0) {
        return Err(format!("is no origin that can be reached: {}", shown()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("is no origin, it holds credentials, which belong into a setting: write `{origin}`"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("is no origin, a grant is for a whole host, without a path: write `{origin}`"));
    }
    Ok(origin)
}

/// All of these in their one form.
///
/// # Errors
/// A sentence about the first that is none.
pub fn all_normal(texts: &[String]) -> Result<Vec<String>, String> {
    texts.iter().map(|text| normal(text).map_err(|words| format!("`{}` {words}", text.escape_debug()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_for_an_origin_is_understood_or_refused_with_what_to_write() {
        let understood = [
            ("https://chat.example.com", "https://chat.example.com"),
            ("https://chat.example.com/", "https://chat.example.com"),
            ("https://chat.example.com:443", "https://chat.example.com"),
            ("http://chat.example.com:80/", "http://chat.example.com"),
            ("HTTPS://Chat.Example.COM", "https://chat.example.com"),
            (" https://chat.example.com\n", "https://chat.example.com"),
            ("https://chat.example.com:8443", "https://chat.example.com:8443"),
            ("https://чат.рф", "https://xn--80a0bn.xn--p1ai"),
            ("https://ЧАТ.рф:443/", "https://xn--80a0bn.xn--p1ai"),
            ("https://xn--80a0bn.xn--p1ai", "https://xn--80a0bn.xn--p1ai"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://127.0.0.1:8065", "http://127.0.0.1:8065"),
            ("http://0x7f.1", "http://127.0.0.1"),
            ("https://[::1]:8443/", "https://[::1]:8443"),
            ("https://[2001:DB8::0001]", "https://[2001:db8::1]"),
        ];
        for (text, expected) in understood {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(normal(expected).as_deref(), Ok(expected), "the form itself: {expected}");
        }
        let refused = [
            ("*", "name each address"),
            ("https://*", "name each host"),
            ("https://*.example.com", "name each host"),
            ("chat.example.com", "write `https://chat.example.com`"),
            ("chat.example.com:8443", "write `https://chat.example.com:8443`"),
            ("localhost:8065", "write `https://localhost:8065`"),
            ("//chat.example.com", "the scheme is missing"),
            ("https://chat.example.com/hooks/abc", "write `https://chat.example.com`"),
            ("https://chat.example.com//", "without a path"),
            ("https://chat.example.com?a=b", "without a path"),
            ("https://chat.example.com#a", "without a path"),
            ("https://user:planted@chat.example.com", "write `https://chat.example.com`"),
            ("https://chat.example.com.", "write `https://host`"),
            ("https://chat.example.com:0", "write `https://host`"),
            ("https://chat.example.com:99999", "invalid port"),
            ("ftp://chat.example.com", "neither `https` nor `http`"),
            ("wss://chat.example.com", "neither `https` nor `http`"),
            ("file:///etc/passwd", "neither `https` nor `http`"),
            ("https://", "empty host"),
            ("https://chat example.com", "spaces"),
            ("https://chat.example.com\u{1b}[2J", "spaces"),
            ("", "the scheme is missing"),
        ];
        for (text, advice) in refused {
            let told = normal(text).unwrap_err();
            assert!(told.contains(advice) && !told.contains("planted"), "{text}: {told}");
        }
    }
}
