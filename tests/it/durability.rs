//! What was acknowledged is there after the process is killed, and every delivery ends.

use std::time::Duration;

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::{crash, wait_until};

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_host_is_killed_under_load() {
    let setup = Setup::new().unwrap().plugins(crate::guests());
    let report = crash::rounds(setup, 5, |_| {}).await.unwrap();
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
            wait_until("the mark", PATIENCE, async || {
                let began: bool = store.query_row("SELECT max(began) FROM delivery", [], |row| row.get(0))?;
                Ok(began.then_some(()))
            })
            .await
            .unwrap();
        }
        host.kill().unwrap();
        kills += 1;
        assert!(kills < 10, "it is never given up");
        host.start().await.unwrap();
    }
    assert_eq!(kills, 4);
    let neighbour = host.accepted("event=test.sin&id=2&sin=none").await.unwrap();
    assert_eq!(host.settled(&neighbour).await.unwrap()["deliveries"][0]["state"], "done");
    // An operator may want it all the same.
    let letters = host.api("dead?code=host.ended").await.unwrap();
    let (status, changed) =
        host.ask("dead/drop", &serde_json::json!({ "deliveries": [letters[0]["delivery"]] })).await.unwrap();
    assert_eq!((status, &changed["changed"]), (200, &1.into()));
    host.idle(Duration::from_secs(10)).await.unwrap();
}
