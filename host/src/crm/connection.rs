//! The connection to a CRM: its address as people write it, its certificate, and what is said when there is none.
//!
//! - A certificate is always verified. One of an authority that the machine does not know is taken with `ca_file` only.
//! - The library's errors quote addresses: only the kind and the cause are told.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use rustls::CertificateError;
use url::Url;

use super::{Error, Options, safe_words};

/// An authority's certificates, beside those of the machine.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Vec<reqwest::Certificate>);

impl Authorities {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads PEM text.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn read(pem: &[u8]) -> Result<Self, &'static str> {
        match reqwest::Certificate::from_pem_bundle(pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(Self(certificates)),
            _ => Err("holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)"),
        }
    }
}

/// Reads a CRM's address as people write it.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn address(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "must be the CRM's address, such as `https://crm.example.com`")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must be the CRM's address, such as `https://crm.example.com`");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user and no password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must hold no `?` and no `#`: only the address at which the CRM's first page opens");
    }
    if url.path().split('/').any(|part| part.eq_ignore_ascii_case("developer")) {
        return Err(
            "must not hold `/developer/v2`: the host adds it; write the address at which the CRM's first page opens",
        );
    }
    if url.path().ends_with(".php") {
        return Err("must be the CRM's folder, not one of its pages: leave the `.php` out");
    }
    Ok(url)
}

pub(super) fn connections(options: &Options) -> Result<reqwest::Client, Error> {
    let authorities = options.authorities.0.iter().cloned();
    crate::tls::client_builder()
        // The CRM's worker is needed for its own users: no connection is kept for long.
        .pool_idle_timeout(Duration::from_secs(5))
        .timeout(options.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_merge(authorities)
        .build()
        .map_err(|error| Error::Invalid(format!("failed to set up the HTTP client: {error}")))
}

/// The error of a request that brought no answer.
pub(super) fn unanswered(error: &reqwest::Error) -> Error {
    let words = match tls_trouble(error) {
        Some(words) => format!("no connection: {words}"),
        None => safe_words(error),
    };
    if error.is_connect() { Error::Unsent(words) } else { Error::Transport(words) }
}

/// What is wrong with the server's certificate, and what helps.
fn tls_trouble(error: &reqwest::Error) -> Option<&'static str> {
    let mut next: Option<&dyn StdError> = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(reason)) => return Some(certificate(reason)),
            Some(rustls::Error::InvalidMessage(_)) => {
                return Some("the server speaks no TLS at that address: it may be `http://`, or another port");
            }
            // An I/O error's own source is its cause's source: the cause itself would be missed.
            _ => match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(cause) => next = Some(cause),
                None => next = error.source(),
            },
        }
    }
    None
}

fn certificate(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::UnknownIssuer => {
            "this machine does not know who signed the server's certificate: name the authority's (or the self-signed) certificate with `ca_file` in `[crm.NAME]`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it, or set the machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: set the machine's clock"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name than `url` has: use the name that it names, or make one with `-addext subjectAltName=DNS:NAME`"
        }
        // The library of certificates has no stable name for it here.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the server's certificate is an authority's own, as `openssl req -x509` makes it, and no server's: make it anew with `-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:NAME`, and name the same file with `ca_file` in `[crm.NAME]`"
        }
        _ => "the server's certificate is refused: look at it with `openssl s_client -connect HOST:443`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_nowhere_is_refused_where_it_is_written() {
        for good in ["https://crm.example.com", "http://192.168.1.5:8080/", " https://example.com/crm "] {
            assert!(address(good).is_ok(), "{good}");
        }
        for wrong in [
            "crm.example.com",
            "ftp://crm.example.com",
            "https://",
            "https://user:secret@crm.example.com",
            "https://crm.example.com/developer/v2",
            "https://crm.example.com/developer/v2/",
            "https://crm.example.com/Developer/",
            "https://crm.example.com/index.php",
            "https://crm.example.com/?x=1",
            "https://crm.example.com/#login",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
