//! One set-up of TLS for all outgoing connections.

use std::sync::Once;

/// A builder of HTTP clients: our TLS library, no proxy from the environment, no referer.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only when one is installed already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    reqwest::Client::builder()
        .no_proxy()
        .referer(false)
        .user_agent(concat!("salesman-host/", env!("CARGO_PKG_VERSION")))
}
