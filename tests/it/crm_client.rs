//! The host's client against the stand-in: where credentials go, what is repeated, how much runs at once.

use std::time::Duration;

use integration_tests::stand_in::{Fault, Options, StandIn};
use salesman_host::crm::{self, Client, Error};
use serde_json::{Map, Value, json};

async fn stand_in() -> StandIn {
    StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap()
}

fn client(crm: &StandIn, timeout: Duration) -> Client {
    // The secret's type is the host's own: it is made by reading a configuration.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.toml");
    std::fs::write(
        &file,
        format!(
            "[crm.main]\nurl = {:?}\nlogin = {:?}\napi_key = {:?}\ntoken = \"0123456789abcdef\"\ntimeout_ms = {}",
            crm.base_url(),
            crm.api_login(),
            crm.api_key(),
            timeout.as_millis()
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
