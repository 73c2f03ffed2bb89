//! What was acknowledged is there after the process is killed, and every delivery ends.

use std::time::Duration;

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::{crash, wait_until};

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_host_is_killed_at_any_occasion() {
    let setup = Setup::new().unwrap().plugins(crate::guests());
    // Each occasion, and one more.
    let report = crash::rounds(setup, 5, |_| {}).await.unwrap();
    assert!(report.kills > report.rounds, "{report:?}");
    assert!(report.acknowledged > 50, "{report:?}");
    assert!(report.stored >= report.acknowledged, "{report:?}");
}

#[tokio::test]
async fn a_delivery_that_ends_the_process_each_time_is_given_up_and_its_neighbours_are_not() {
    let limits = "[plugins.sinner.limits]\ntime_ms = 600000\n[plugins.sinner]\nconcurrency = 8";
    let mut host = Setup::new().unwrap().plugins(crate::guests()).more(limits).start().await.unwrap();
    // The plugin sleeps for a minute: killing the host meanwhile is what a delivery that ends the process looks like.
    let deadly = host.accepted("event=test.sin&id=1&sin=sleep").await.unwrap();
    let mut kills = 0;
    loop {
        let delivery = wait_until("the deadly delivery", PATIENCE, async || {
            let path = host.api(&format!("events/{deadly}")).await?;
            let delivery = path["deliveries"][0].clone();
            let known = matches!(delivery["state"].as_str(), Some("running" | "dead"));
            Ok(known.then_some(delivery))
        })
        .await
        .unwrap();
        if delivery["state"] == "dead" {
            assert_eq!(delivery["code"], "host.ended", "{delivery}");
            break;
        }
        if kills >= 2 {
            // Under suspicion it runs only after the disk knows it: before that a kill would not count.
            let store = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
            let given_up = wait_until("the mark, or the end", PATIENCE, async || {
                let (began, state): (bool, i64) =
                    store.query_row("SELECT began, state FROM delivery", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok((began || state == 5).then_some(state == 5))
            })
            .await
            .unwrap();
            if given_up {
                continue;
            }
        }
        host.kill().unwrap();
        kills += 1;
        assert!(kills < 10, "it is never given up");
        host.start().await.unwrap();
    }
    assert_eq!(kills, 5);
    let neighbour = host.accepted("event=test.sin&id=2&sin=none").await.unwrap();
    assert_eq!(host.settled(&neighbour).await.unwrap()["deliveries"][0]["state"], "done");
    // An operator may want it all the same.
    let letters = host.api("dead?code=host.ended").await.unwrap()["items"].clone();
    let (status, changed) =
        host.ask("dead/drop", &serde_json::json!({ "deliveries": [letters[0]["delivery"]] })).await.unwrap();
    assert_eq!((status, &changed["changed"]), (200, &1.into()));
    host.idle(Duration::from_secs(10)).await.unwrap();
}

/// Ten deliveries that take a second and a half each, of which four run.
async fn busy(drain: u32) -> (integration_tests::host::Host, Vec<String>) {
    let more = "[plugins.sinner.limits]\ntime_ms = 1500\n[plugins.sinner]\nconcurrency = 4\n[retry]\nattempts = 1";
    let mut setup = Setup::new().unwrap().plugins(crate::guests()).more(more);
    setup.server = format!("drain_ms = {drain}");
    let host = setup.start().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(host.accepted(&format!("event=test.sin&id={n}&sin=sleep")).await.unwrap());
    }
    wait_until("four that run", PATIENCE, async || {
        let queues = host.api("queues").await?;
        Ok((queues[0]["claimed"] == 10).then_some(()))
    })
    .await
    .unwrap();
    (host, ids)
}

async fn attempts(host: &integration_tests::host::Host, ids: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for id in ids {
        let path = host.settled(id).await.unwrap();
        let attempts = path["deliveries"][0]["attempts"].as_array().unwrap().clone();
        all.extend(attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap().to_owned()));
    }
    all.sort();
    all
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_and_gives_back_what_has_not_begun() {
    let (mut host, ids) = busy(20_000).await;
    assert_eq!(host.stop().await.unwrap(), Some(0));
    assert!(host.log().contains("everything that ran has ended"), "{}", host.log());
    host.start().await.unwrap();
    // Each ran once: the six that waited for a place were given back untouched.
    assert_eq!(attempts(&host, &ids).await, ["failed"; 10]);
}

#[tokio::test]
async fn a_stop_that_takes_too_long_or_a_second_signal_cuts_off_and_loses_nothing() {
    for (drain, signals) in [(0, 1), (60_000, 2)] {
        let (mut host, ids) = busy(drain).await;
        let began = std::time::Instant::now();
        for _ in 1..signals {
            let pid = host.pid().unwrap().to_string();
            assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            wait_until("the first signal's effect", PATIENCE, async || {
                Ok(host.log().contains("Stopping").then_some(()))
            })
            .await
            .unwrap();
        }
        assert_eq!(host.stop().await.unwrap(), Some(3), "{}", host.log());
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        host.start().await.unwrap();
        let outcomes = attempts(&host, &ids).await;
        let failed = outcomes.iter().filter(|outcome| **outcome == "failed").count();
        let interrupted = outcomes.iter().filter(|outcome| **outcome == "interrupted").count();
        assert_eq!((failed, failed + interrupted), (10, outcomes.len()), "{outcomes:?}");
        assert!(interrupted >= 4, "{outcomes:?}");
    }
}
