//! Hostile plugins: each sin ends in its own named fault, and the host, its memory and its other events stay well.

use std::time::{Duration, Instant};

use integration_tests::host::{Host, Setup};
use serde_json::Value;

async fn host() -> Host {
    Setup::new().unwrap().plugins(crate::guests()).more("[retry]\nattempts = 1").start().await.unwrap()
}

/// Sends an event that names a sin; returns the last attempt at it.
async fn attempt(host: &Host, sin: &str) -> Value {
    let id = host.accepted(&format!("event=test.sin&sin={sin}")).await.unwrap();
    let path = host.settled(&id).await.unwrap();
    path["deliveries"][0]["attempts"].as_array().unwrap().last().cloned().unwrap()
}

fn lines(attempt: &Value) -> Vec<&str> {
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
        ("sleep", "plugin.time_limit", "3000 ms"),
        ("panic", "plugin.trap", "log line"),
        ("exit", "plugin.exit", "exit code"),
        ("long-reply", "plugin.reply_limit", "1048576 bytes"),
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
    let lines = lines(&attempt);
    assert!(lines[0].contains("the price list is empty") && lines[0].contains("src/lib.rs:"), "{lines:?}");
}

#[tokio::test]
async fn a_gigantic_log_is_cut_and_counted() {
    let host = host().await;
    let attempt = attempt(&host, "long-log").await;
    let kept = lines(&attempt).len() as u64;
    assert_eq!(attempt["outcome"], "done");
    assert_eq!(kept + attempt["lines_dropped"].as_u64().unwrap(), 10_000);
    assert!(kept < 70, "{kept} lines of 1,000 bytes are more than 64 KiB");
}

#[tokio::test]
async fn nothing_outside_can_be_seen_or_reached() {
    let host = host().await;
    let outside = attempt(&host, "outside").await;
    let seen = lines(&outside).join("\n");
    assert!(seen.contains("files Err") && seen.contains("written Err") && seen.contains("socket Err"), "{seen}");
    assert!(seen.contains("variables 0") && seen.contains("arguments 0") && seen.contains("clock true"), "{seen}");

    let private = attempt(&host, "private").await;
    let refusals = lines(&private);
    assert!(refusals[0].contains("NotGranted") && refusals[0].contains("http_private = [\\\"http://127.0.0.1:9\\\"]"), "{refusals:?}");
    assert!(refusals[1].contains("NotGranted") && refusals[1].contains("private address"), "{refusals:?}");
    assert!(refusals[2].contains("NotGranted") && refusals[2].contains("`plugin.toml`"), "{refusals:?}");

    let not_asked = attempt(&host, "not-asked").await;
    assert!(lines(&not_asked)[0].contains("add `crm = [\\\"client.delete\\\"]` under `[permissions]`"), "{not_asked}");
    assert_eq!(not_asked["calls"], serde_json::json!([]));
}

#[tokio::test]
async fn a_looping_plugin_does_not_hold_up_intake_or_other_records() {
    let host = host().await;
    for _ in 0..20 {
        host.accepted("event=test.sin&sin=loop").await.unwrap();
    }
    let began = Instant::now();
    for _ in 0..20 {
        host.accepted("event=other.event&id=1").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(3), "intake took {:?}", began.elapsed());
    host.idle(Duration::from_secs(60)).await.unwrap();
}
