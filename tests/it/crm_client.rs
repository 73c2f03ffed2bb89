//! The host's client against the stand-in: where credentials go, what is repeated, how much runs at once.

use std::time::Duration;

use integration_tests::stand_in::{Fault, Options, StandIn};
use salesman_host::crm::{self, Client, Error};
use serde_json::{Map, Value, json};

async fn stand_in() -> StandIn {
    StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap()
}

fn client(crm: &StandIn, timeout: Duration) -> Client {
    configured(crm.base_url(), crm, &format!("timeout_ms = {}", timeout.as_millis()))
}

pub(crate) fn configured(url: &str, crm: &StandIn, lines: &str) -> Client {
    // The secret's type is the host's own: it is made by reading a configuration.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.toml");
    std::fs::write(
        &file,
        format!(
            "[crm.main]\nurl = {url:?}\nlogin = {:?}\napi_key = {:?}\ntoken = \"0123456789abcdef\"\n{lines}",
            crm.api_login(),
            crm.api_key(),
        ),
    )
    .unwrap();
    let source = salesman_host::config::Source { file: Some(file), ..Default::default() };
    let options: crm::Options = source.read().unwrap().crm.remove("main").unwrap();
    Client::new(options).unwrap()
}

fn arguments(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn credentials_travel_in_the_body_and_dots_in_names_survive() {
    let crm = stand_in().await;
    let client = client(&crm, Duration::from_secs(5));
    client.call("deal", "list", &arguments(json!({ "filter": { "clid": 1 } }))).await.unwrap();
    client.call("client", "list", &arguments(json!({ "client.send": "yes" }))).await.unwrap();
    let calls = crm.calls();
    assert_eq!(
        calls.iter().map(|call| (call.verb.as_str(), call.json)).collect::<Vec<_>>(),
        [("POST", false), ("POST", true)]
    );
    assert_eq!(calls[0].params["filter"]["clid"], "1");
    assert_eq!(calls[1].params["client.send"], "yes");
    for call in &calls {
        assert!(
            !call.headers.iter().any(|(name, _)| ["apikey", "login"].contains(&name.to_lowercase().as_str())),
            "{call:?}"
        );
    }
}

#[tokio::test]
async fn a_read_is_repeated_after_a_transport_fault_and_a_write_never() {
    let crm = stand_in().await;
    let client = client(&crm, Duration::from_secs(5));
    crm.fault_on(Some("client"), Some("info"), 2, Fault::Down);
    assert!(client.call("client", "info", &arguments(json!({ "clid": 1 }))).await.is_ok());
    crm.fault_on(Some("task"), Some("add"), 1, Fault::CloseAfterWrite);
    let added = client.call("task", "add", &arguments(json!({ "title": "z", "datum": "2026-11-23" }))).await;
    assert!(matches!(added, Err(Error::Transport(_))), "{added:?}");
    assert_eq!(crm.tasks().len(), 1);
}

#[tokio::test]
async fn a_slow_crm_ends_in_time_and_no_error_tells_a_secret() {
    let crm = stand_in().await;
    let client = client(&crm, Duration::from_millis(200));
    let mut errors = Vec::new();
    crm.fault_on(Some("task"), Some("add"), 1, Fault::Hang);
    errors.push(client.call("task", "add", &arguments(json!({ "title": "z" }))).await.unwrap_err());
    assert_eq!(errors[0], Error::Transport("no answer in time: operation timed out".to_owned()));
    crm.set_down(true);
    errors.push(client.call("task", "add", &arguments(json!({ "title": "z" }))).await.unwrap_err());
    crm.set_down(false);
    crm.fault_on(Some("task"), Some("add"), 1, Fault::HtmlFatal);
    errors.push(client.call("task", "add", &arguments(json!({ "title": "z" }))).await.unwrap_err());
    errors.push(client.call("nosuch", "list", &Map::new()).await.unwrap_err());
    errors.push(client.call("task", "add", &arguments(json!({ "apikey": "x" }))).await.unwrap_err());
    errors.push(client.call("../../admin", "add", &Map::new()).await.unwrap_err());
    for error in errors {
        let text = format!("{error} {error:?}");
        assert!(!text.contains(crm.api_key()) && !text.contains("/var/www") && !text.contains("127.0.0.1"), "{text}");
    }
}

#[tokio::test]
async fn no_more_workers_of_the_crm_are_taken_than_configured() {
    let crm = stand_in().await;
    let client = client(&crm, Duration::from_secs(20));
    crm.fault_on(Some("client"), Some("list"), 8, Fault::Slow(Duration::from_millis(300)));
    let began = std::time::Instant::now();
    let nothing = Map::new();
    let calls = futures::future::join_all((0..8).map(|_| client.call("client", "list", &nothing))).await;
    assert!(calls.iter().all(Result::is_ok));
    // Two at once is the default: eight calls of 300 ms take four turns, one at a time would take eight.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_200) && took < Duration::from_millis(2_300), "{took:?}");
}

/// A proxy with this certificate before the stand-in; returns its port.
async fn behind_tls(crm: &StandIn, certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> u16 {
    use tokio_rustls::rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
    // Fails only when a provider is installed already, which serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, crm) = (listener.local_addr().unwrap().port(), crm.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that refuses the certificate goes away.
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let mut far = tokio::net::TcpStream::connect(crm).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    port
}

#[tokio::test]
async fn a_certificate_that_is_not_taken_is_told_with_what_helps() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    let crm = stand_in().await;
    let key = KeyPair::generate().unwrap();
    // As `openssl req -x509` makes it, and as its advice makes it.
    let params = |name: &str, is_ca| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = is_ca;
        params
    };
    let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
    let past = {
        let mut params = params("localhost", IsCa::ExplicitNoCa);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        params
    };
    let folder = tempfile::tempdir().unwrap();
    for (params, with_file, expected) in [
        (params("localhost", IsCa::ExplicitNoCa), true, None),
        (params("localhost", IsCa::ExplicitNoCa), false, Some("`ca_file`")),
        (params("localhost", authority()), true, Some("`-addext basicConstraints=critical,CA:FALSE")),
        (params("elsewhere", IsCa::ExplicitNoCa), true, Some("for another name")),
        (past, true, Some("has expired")),
    ] {
        let certificate = params.self_signed(&key).unwrap();
        let port = behind_tls(&crm, &certificate, &key).await;
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        let lines = if with_file { format!("ca_file = {file:?}") } else { String::new() };
        let client = configured(&format!("https://localhost:{port}"), &crm, &lines);
        let result = client.call("client", "fields", &Map::new()).await;
        match expected {
            None => assert!(result.is_ok(), "{result:?}"),
            Some(words) => {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Unsent(_)) && error.to_string().contains(words), "{words}: {error}");
            }
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = configured(&format!("https://{}", listener.local_addr().unwrap()), &crm, "");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
        }
    });
    let error = plain.call("client", "fields", &Map::new()).await.unwrap_err();
    assert!(error.to_string().contains("speaks no TLS"), "{error}");
}
