//! Hostile plugins: each sin ends in its own named fault, and the host, its memory and its other events stay well.

use std::time::Duration;

use integration_tests::host::{Host, Setup};
use serde_json::Value;

async fn host() -> Host {
    Setup::new()
        .unwrap()
        .plugins(crate::guests())
        .more("[retry]\nattempts = 1\n[breaker]\nfailures = 10000")
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_secret_of_the_settings_is_sent_and_never_recorded() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let echo = move |body: String| async move {
        told.send(body.clone()).await.unwrap();
        body
    };
    let server =
        tokio::spawn(axum::serve(listener, axum::Router::new().route("/", axum::routing::post(echo))).into_future());
    let planted = "planted-secret-0123456789";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), planted).unwrap();
    let lines = format!(
        "[plugins.sinner]\nsettings = {{ key = {{ file = {:?} }} }}\n[plugins.sinner.grants]\nhttp_private = [\"{origin}\"]",
        file.path()
    );
    let host = Setup::new().unwrap().plugins(crate::guests()).more(&lines).start().await.unwrap();
    let attempt = attempt(&host, &format!("tell&url={origin}/")).await;
    assert_eq!(heard.recv().await.unwrap(), format!("{{\"key\":\"{planted}\"}}"));
    assert_eq!(lines_of(&attempt), ["the key is ***", "{\"key\":\"***\"}"]);
    assert!(!attempt.to_string().contains(planted) && !host.log().contains(planted), "{attempt}");
    server.abort();
}

/// Sends an event that names a sin; returns the last attempt at it.
async fn attempt(host: &Host, sin: &str) -> Value {
    let id = host.accepted(&format!("event=test.sin&sin={sin}")).await.unwrap();
    let path = host.settled(&id).await.unwrap();
    path["deliveries"][0]["attempts"].as_array().unwrap().last().cloned().unwrap()
}

fn lines_of(attempt: &Value) -> Vec<&str> {
    attempt["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_sin_ends_in_its_own_fault_with_a_reason_that_helps() {
    let host = host().await;
    let cases = [
        ("loop", "plugin.cpu_limit", "300 ms of processor time"),
        ("loop-in-calls", "plugin.cpu_limit", "300 ms of processor time"),
        ("many-calls", "plugin.call_limit", "more than 50 host calls"),
        ("memory", "plugin.memory_limit", "16 MiB"),
        ("stack", "plugin.stack_overflow", "nested too deep"),
        ("sleep", "plugin.time_limit", "8000 ms"),
        ("panic", "plugin.trap", "the plugin failed: panicked at "),
        ("exit", "plugin.exit", "exit code 7"),
        ("long-reply", "plugin.reply_limit", "1048576 bytes"),
        ("gigantic-call", "plugin.call_limit", "4 MiB"),
    ];
    for (sin, code, words) in cases {
        let attempt = attempt(&host, sin).await;
        assert_eq!(attempt["code"], code, "{sin}: {attempt}");
        assert!(attempt["reason"].as_str().unwrap().contains(words), "{sin}: {attempt}");
        assert_eq!(attempt["outcome"], "failed", "{sin}");
    }
    let well = attempt(&host, "none").await;
    assert_eq!(well["outcome"], "done");
}

#[tokio::test]
async fn a_panic_shows_its_words_and_its_place() {
    let host = host().await;
    let attempt = attempt(&host, "panic").await;
    let line = &lines_of(&attempt)[0];
    assert!(line.contains("the price list is empty") && line.contains("src/lib.rs:"), "{line}");
    assert_eq!(attempt["reason"], format!("the plugin failed: {line}"));
    // A panic's words may hold what the CRM answered.
    assert!(!host.log().contains("the price list is empty"), "{}", host.log());
}

#[tokio::test]
async fn a_gigantic_log_is_cut_and_counted() {
    let host = host().await;
    let attempt = attempt(&host, "long-log").await;
    let kept = lines_of(&attempt).len() as u64;
    assert_eq!(attempt["outcome"], "done");
    assert_eq!(kept + attempt["lines_dropped"].as_u64().unwrap(), 10_000);
    assert!(kept < 70, "{kept} lines of 1,000 bytes are more than 64 KiB");
}

#[tokio::test]
async fn nothing_outside_can_be_seen_or_reached() {
    let host = host().await;
    let outside = attempt(&host, "outside").await;
    let seen = lines_of(&outside).join("\n");
    assert!(seen.contains("files Err") && seen.contains("written Err") && seen.contains("socket Err"), "{seen}");
    assert!(seen.contains("variables 0") && seen.contains("arguments 0") && seen.contains("clock true"), "{seen}");

    let mut granted = Setup::new().unwrap().plugins(crate::guests());
    granted.dev = false;
    let granted = granted
        .more("[plugins.sinner.grants]\nhttp = [\"http://127.0.0.1:9\", \"http://localhost:9\"]")
        .start()
        .await
        .unwrap();
    let private = attempt(&granted, "private").await;
    let refusals = lines_of(&private);
    assert!(
        refusals[0].contains("NotGranted") && refusals[0].contains("http_private = [\\\"http://127.0.0.1:9\\\"]"),
        "{refusals:?}"
    );
    assert!(refusals[1].contains("NotGranted") && refusals[1].contains("private address"), "{refusals:?}");
    assert!(
        refusals[2].contains("NotGranted") && refusals[2].contains("under `[plugins.sinner.grants]`"),
        "{refusals:?}"
    );

    let not_asked = attempt(&host, "not-asked").await;
    assert!(
        lines_of(&not_asked)[0].contains("add `crm = [\\\"client.delete\\\"]` under `[permissions]`"),
        "{not_asked}"
    );
    assert_eq!(
        (&not_asked["calls"][0]["call"], &not_asked["calls"][0]["good"]),
        (&"crm client.delete".into(), &false.into())
    );
}

#[tokio::test]
async fn a_looping_plugin_does_not_hold_up_intake_or_other_plugins() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(crate::guests().join("guests.wasm"), folder.path().join("guests.wasm")).unwrap();
    std::fs::copy(crate::samples().join("audit.wasm"), folder.path().join("audit.wasm")).unwrap();
    let host = Setup::new()
        .unwrap()
        .plugins(folder.path())
        .more("[retry]\nattempts = 1\n[breaker]\nfailures = 10000")
        .start()
        .await
        .unwrap();
    for _ in 0..20 {
        host.accepted("event=test.sin&sin=loop").await.unwrap();
    }
    let mut last = String::new();
    for n in 0..20 {
        last = host.accepted(&format!("event=other.event&id={n}")).await.unwrap();
    }
    let path = host.settled(&last).await.unwrap();
    assert_eq!((&path["deliveries"][0]["plugin"], &path["deliveries"][0]["state"]), (&"audit".into(), &"done".into()));
    // The other plugin did not wait for the loops: some of their seconds of work are still to come.
    let open = host.api("backlog").await.unwrap()["open"].as_u64().unwrap();
    assert!(open > 0, "the loops were over before the other plugin was called");
    host.idle(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_request_to_the_outside_stays_within_its_origin_size_and_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let elsewhere = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    let router = axum::Router::new()
        .route(
            "/echo",
            axum::routing::any(|method: axum::http::Method, body: String| async move { format!("{method} {body}") }),
        )
        .route(
            "/here",
            axum::routing::any(|| async { (axum::http::StatusCode::TEMPORARY_REDIRECT, [("location", "/echo")]) }),
        )
        .route("/see", axum::routing::any(|| async { (axum::http::StatusCode::SEE_OTHER, [("location", "/echo")]) }))
        .route("/round", axum::routing::any(|| async { (axum::http::StatusCode::FOUND, [("location", "/round")]) }))
        .route(
            "/away",
            axum::routing::any(move || async move { (axum::http::StatusCode::FOUND, [("location", elsewhere)]) }),
        )
        .route("/large", axum::routing::any(|| async { "z".repeat(2 << 20) }))
        .route("/never", axum::routing::any(|| async { std::future::pending::<&str>().await }));
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let host = Setup::new()
        .unwrap()
        .plugins(crate::guests())
        .more(&format!(
            "[retry]\nattempts = 1\n[plugins.sinner.limits]\ntime_ms = 20000\n[plugins.sinner.grants]\nhttp_private = [\"{origin}\"]"
        ))
        .start()
        .await
        .unwrap();
    let cases = [
        ("echo", "200 POST sent"),
        ("here", "200 POST sent"),
        ("see", "200 GET "),
        ("round", "Transport(\"there were more than 5 redirects\")"),
        ("away", "Transport(\"a redirect leads to another origin, `http://localhost:"),
        ("large", "Transport(\"the answer is larger than 1048576 bytes\")"),
        ("never", "Transport(\"no answer in time"),
    ];
    for (path, expected) in cases {
        let attempt = attempt(&host, &format!("fetch&url={origin}/{path}")).await;
        let line = lines_of(&attempt).first().copied().unwrap_or_default().to_owned();
        assert!(line.starts_with(expected), "{path}: {attempt}");
        // The path may hold a chat's token: only the origin is kept.
        assert_eq!(attempt["calls"][0]["call"], format!("http POST {origin}"));
    }
    server.abort();
}
