//! What becomes of an event: order, retries, state, grants, the CRM's faults.

use std::time::Duration;

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Fault, Hook, Options, Shape, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

const QUICK: &str = "[retry]\nfirst_ms = 1\nlongest_ms = 20\nattempts = 4";

async fn sinner() -> Host {
    Setup::new().unwrap().plugins(crate::guests()).more(QUICK).start().await.unwrap()
}

async fn only_delivery(host: &Host, id: &str) -> Value {
    let path = host.settled(id).await.unwrap();
    assert_eq!(path["deliveries"].as_array().map(Vec::len), Some(1), "{path}");
    path["deliveries"][0].clone()
}

fn outcomes(delivery: &Value) -> Vec<&str> {
    delivery["attempts"].as_array().unwrap().iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_plugin_that_asks_for_time_is_called_again() {
    let host = sinner().await;
    let id = host.accepted("event=test.sin&sin=retry").await.unwrap();
    let delivery = only_delivery(&host, &id).await;
    assert_eq!((delivery["state"].as_str(), outcomes(&delivery)), (Some("done"), vec!["retry", "retry", "done"]));
}

#[tokio::test]
async fn a_failing_delivery_ends_as_a_dead_letter_with_every_attempt() {
    let host = sinner().await;
    let id = host.accepted("event=test.sin&sin=panic").await.unwrap();
    let delivery = only_delivery(&host, &id).await;
    assert_eq!((delivery["state"].as_str(), outcomes(&delivery)), (Some("dead"), vec!["failed"; 4]));
    let rejected = host.accepted("event=test.sin&sin=reject").await.unwrap();
    let delivery = only_delivery(&host, &rejected).await;
    assert_eq!((delivery["state"].as_str(), outcomes(&delivery)), (Some("dead"), vec!["rejected"]));
    assert_eq!(
        host.api("backlog").await.unwrap(),
        json!({ "unrouted": 0, "open": 0, "dead": 2, "uncertain_writes": 0 })
    );
}

#[tokio::test]
async fn events_of_one_record_are_never_overtaken_even_by_retries() {
    let host = sinner().await;
    host.accepted("event=test.sin&id=5&sin=retry").await.unwrap();
    let mut last = String::new();
    for n in 1..=40 {
        last = host.accepted(&format!("event=test.sin&id=5&sin=order&n={n}")).await.unwrap();
    }
    let delivery = only_delivery(&host, &last).await;
    let expected: Vec<String> = (1..=40).map(|n| n.to_string()).collect();
    assert_eq!(delivery["attempts"][0]["lines"][0]["text"], expected.join(","));
}

#[tokio::test]
async fn counting_at_once_loses_nothing_and_a_failed_attempt_leaves_no_trace() {
    let host = sinner().await;
    let mut ids = Vec::new();
    for n in 1..=60 {
        // Different records, so that nothing but the state's own check keeps them apart.
        ids.push(host.accepted(&format!("event=test.sin&id={n}&sin=count")).await.unwrap());
    }
    host.accepted("event=test.sin&id=999&sin=state-then-panic").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let mut counted = Vec::new();
    for id in ids {
        let delivery = only_delivery(&host, &id).await;
        assert_eq!(delivery["state"], "done");
        let good = delivery["attempts"].as_array().unwrap().last().unwrap();
        counted.push(good["lines"][0]["text"].as_str().unwrap().parse::<u64>().unwrap());
    }
    counted.sort_unstable();
    assert_eq!(counted, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_grants_a_plugin_can_do_nothing_and_is_told_which_line_to_add() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(crate::samples());
    setup.dev = false;
    let host = setup
        .more(QUICK)
        .more("[plugins.audit.grants]\nstate = true\n[plugins.step-tasks.grants]\n")
        .start()
        .await
        .unwrap();
    let id = host.accepted("event=deal.change.step&did=1&stepNew=40&iduser1=2").await.unwrap();
    let path = host.settled(&id).await.unwrap();
    let states: Vec<_> =
        path["deliveries"].as_array().unwrap().iter().map(|d| (d["plugin"].clone(), d["state"].clone())).collect();
    assert_eq!(states, [(json!("audit"), json!("done")), (json!("step-tasks"), json!("dead"))]);
    let reason = path["deliveries"][1]["reason"].as_str().unwrap();
    assert!(reason.contains("add `crm = [\"deal.list\"]` under `[plugins.step-tasks.grants]`"), "{reason}");
    // The host asks for its own user.
    assert!(crm.calls().iter().all(|call| call.method == "user"), "{:?}", crm.calls());
}

#[tokio::test]
async fn a_crm_that_fails_in_its_many_ways_costs_a_retry_and_not_the_event() {
    // A read is repeated by the client itself after a transport fault, twice.
    for (fault, times) in [(Fault::Down, 4), (Fault::HtmlFatal, 2), (Fault::Status500, 2), (Fault::InvalidJson, 2)] {
        let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
        let host = Setup::new().unwrap().crm(&crm).plugins(crate::samples()).more(QUICK).start().await.unwrap();
        crm.fault_on(Some("deal"), Some("list"), times, fault);
        let id = host.accepted("event=deal.change.step&did=1&stepNew=40&iduser1=2").await.unwrap();
        let path = host.settled(&id).await.unwrap();
        let delivery = &path["deliveries"][1];
        assert_eq!(delivery["state"], "done", "{fault:?}: {path}");
        assert!(outcomes(delivery).len() > 1, "{fault:?}: {path}");
        assert_eq!(crm.tasks().len(), 1, "{fault:?}");
        assert!(!path.to_string().contains(crm.api_key()) && !host.log().contains(crm.api_key()));
    }
}

#[tokio::test]
async fn a_plugin_that_writes_while_the_crm_waits_for_the_hook_does_not_stall_it() {
    let crm = StandIn::start(Options { demo_data: true, workers: 2, ..Options::default() }).await.unwrap();
    let host = Setup::new().unwrap().crm(&crm).plugins(crate::samples()).start().await.unwrap();
    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
    crm.ui_add_client(json!({ "title": "Вектор", "phone": "8 495 765-43-21" }), 2).await.unwrap();
    wait_until("the formatted phone", PATIENCE, async || {
        Ok(crm.client(4).filter(|client| client.text("phone") == "+74957654321").map(drop))
    })
    .await
    .unwrap();
    host.idle(PATIENCE).await.unwrap();
    let slowest = crm.hooks().iter().map(|hook| hook.elapsed).max().unwrap();
    assert!(slowest < Duration::from_secs(1), "the CRM's user waited {slowest:?}");
    assert_eq!(crm.events().iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["client.add", "client.edit"]);
}
