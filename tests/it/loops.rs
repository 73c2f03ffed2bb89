//! The loop guard: a CRM that tells plugins about their own writes never makes them run for ever.

use std::time::Duration;

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

use crate::with_settings;

/// A CRM with the host at its hook, and plugins that rewrite the client of every edit.
async fn rewriting(plugins: &[&str], more: &str) -> (StandIn, Host) {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let names: Vec<(&str, &str)> = plugins.iter().map(|name| (*name, "client.edit")).collect();
    let folder = with_settings(&names, "sin = \"rewrite\"");
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    wait_until("the host's own user", PATIENCE, async || Ok(host.log().contains("are the host's own").then_some(())))
        .await
        .unwrap();
    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
    (crm, host)
}

async fn edit(crm: &StandIn, user: i64) {
    crm.ui_edit_client(1, json!({ "phone": "84951112233" }), user).await.unwrap();
}

/// The events of the host, the oldest first, each with its whole path.
async fn paths(host: &Host) -> Vec<Value> {
    let mut paths = Vec::new();
    for event in host.api("events?limit=200").await.unwrap()["items"].as_array().unwrap().iter().rev() {
        paths.push(host.api(&format!("events/{}", event["id"].as_str().unwrap())).await.unwrap());
    }
    paths
}

#[tokio::test]
async fn without_the_guard_one_edit_runs_for_ever() {
    let lines = "[plugins.echo]\nown_events = true\nmost_depth = 60";
    let (crm, host) = rewriting(&["echo"], lines).await;
    edit(&crm, 2).await;
    wait_until("thirty events out of one", PATIENCE, async || Ok((crm.events().len() > 30).then_some(())))
        .await
        .unwrap();
    crm.set_hooks(Vec::new());
    host.idle(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_event_that_a_plugin_caused_is_not_delivered_to_it_again() {
    let (crm, host) = rewriting(&["echo"], "").await;
    edit(&crm, 2).await;
    wait_until("the event of the write", PATIENCE, async || Ok((crm.events().len() == 2).then_some(()))).await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let paths = paths(&host).await;
    let [first, second] = &paths[..] else { panic!("{paths:?}") };
    assert_eq!(first["deliveries"][0]["state"], "done", "{first}");
    assert_eq!(first["deliveries"][0]["caused"][0]["event"], second["event"]["id"]);
    assert_eq!(second["event"]["depth"], 1);
    let delivery = &second["deliveries"][0];
    assert_eq!((&delivery["state"], &delivery["code"]), (&json!("skipped"), &json!("loop.own_event")), "{second}");
    assert!(delivery["reason"].as_str().unwrap().contains("own_events = true"), "{delivery}");
    assert_eq!(
        second["caused_by"],
        json!([{ "delivery": first["deliveries"][0]["id"], "plugin": "echo", "event": first["event"]["id"],
            "name": "client.edit", "entity": "client:1" }])
    );
    // A person's next edit of the same record is somebody else's again.
    edit(&crm, 2).await;
    tokio::time::timeout(Duration::from_secs(10), host.idle(PATIENCE)).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_plugins_that_rewrite_each_others_field_are_stopped_by_the_depth_and_the_operator_sees_why() {
    let (crm, host) = rewriting(&["left", "right"], "").await;
    edit(&crm, 2).await;
    wait_until("a parked chain", PATIENCE, async || {
        Ok((host.api("backlog").await?["dead"].as_u64() > Some(0)).then_some(()))
    })
    .await
    .unwrap();
    host.idle(PATIENCE).await.unwrap();
    let letters = host.api("dead?code=loop.too_deep").await.unwrap()["items"].clone();
    let letters = letters.as_array().unwrap();
    assert!(!letters.is_empty());
    for letter in letters {
        let reason = letter["reason"].as_str().unwrap();
        let (one, other) = if letter["plugin"] == "left" { ("left", "right") } else { ("right", "left") };
        let path = format!("client.edit → {one} → client.edit → {other} → ");
        assert!(reason.contains("6 in a row") && reason.contains(&path), "{reason}");
    }
    // Each write causes one event: the user's, and five links of the two chains, the sixth of which is parked.
    let deepest = paths(&host).await.iter().map(|path| path["event"]["depth"].as_u64().unwrap_or(0)).max();
    assert_eq!(deepest, Some(6));
    let events = crm.events().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(crm.events().len(), events, "nothing goes on");
}

#[tokio::test]
async fn another_program_under_the_same_login_is_marked_and_delivered() {
    let (crm, host) = rewriting(&["echo"], "").await;
    // Number 1 is the API login's user.
    crm.ui_edit_client(2, json!({ "phone": "84951112233" }), 1).await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let first = paths(&host).await.remove(0);
    assert_eq!(
        (&first["event"]["same_login"], &first["deliveries"][0]["state"]),
        (&json!(true), &json!("done")),
        "{first}"
    );
}

#[tokio::test]
async fn another_program_that_writes_something_else_just_after_a_plugin_is_no_echo_of_it() {
    let (crm, host) = rewriting(&["echo"], "").await;
    edit(&crm, 2).await;
    wait_until("the plugin's own event", PATIENCE, async || Ok((crm.events().len() == 2).then_some(()))).await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    // The API login's user, the same record, another field; then the plugin's field with another value.
    for changes in [json!({ "phone": "84959998877" }), json!({ "address": "Казань" })] {
        crm.ui_edit_client(1, changes, 1).await.unwrap();
        host.idle(PATIENCE).await.unwrap();
    }
    let told: Vec<Value> = paths(&host)
        .await
        .iter()
        .map(|path| json!([path["event"]["same_login"], path["event"]["depth"], path["deliveries"][0]["state"]]))
        .collect();
    let somebody = json!([null, null, "done"]);
    let (own, other) = (json!([null, 1, "skipped"]), json!([true, null, "done"]));
    assert_eq!(told, [somebody, own.clone(), other.clone(), own.clone(), other, own]);
}

#[tokio::test]
async fn who_had_no_part_in_a_chain_goes_on_getting_its_events() {
    let still = "[plugins.still.settings]\nsin = \"none\"";
    let (crm, host) = rewriting(&["left", "right", "still"], still).await;
    edit(&crm, 2).await;
    wait_until("a parked chain", PATIENCE, async || {
        Ok((host.api("backlog").await?["dead"].as_u64() > Some(0)).then_some(()))
    })
    .await
    .unwrap();
    host.idle(PATIENCE).await.unwrap();
    let paths = paths(&host).await;
    let mut deepest = 0;
    for path in &paths {
        let state = |name: &str| {
            let all = path["deliveries"].as_array().unwrap().iter();
            all.filter(|delivery| delivery["plugin"] == name)
                .map(|delivery| delivery["state"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(state("still"), [json!("done")], "{path}");
        deepest = deepest.max(path["event"]["depth"].as_u64().unwrap_or(0));
    }
    assert_eq!(deepest, 6);
}

#[tokio::test]
async fn an_addition_says_whether_the_record_is_new_known_or_the_same_again() {
    let folder = crate::plugins(&[("all", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    let mut told = Vec::new();
    for body in [
        // An express form on a client that is there already.
        "event=client.edit&clid=8&autor=3&user=3&newparam[address]=x",
        "event=client.add&clid=8&did=0&autor=3&user=0",
        // All new: twice, the second time with what was made with it.
        "event=client.add&clid=9&autor=3&user=3",
        "event=client.add&clid=9&did=5&autor=3&user=0",
        "event=client.edit&clid=9&autor=3&user=3&newparam[address]=x",
        "event=client.add&clid=9&did=6&autor=3&user=0",
        // The number is given again, once after a deletion that was told and once after one that was not.
        "event=client.delete&clid=9&autor=3",
        "event=client.add&clid=9&autor=3&user=3",
        "event=client.add&clid=9&autor=4&user=4",
        "event=client.add&clid=9&autor=4&user=4",
        // What a sender says about it counts for nothing.
        "event=client.add&clid=10&%40known=1",
    ] {
        let id = host.accepted(&format!("{body}&sin=none&iduser1=3")).await.unwrap();
        let path = host.settled(&id).await.unwrap();
        let event = &path["event"];
        told.push(json!([event["known"], event["duplicate"]["how"], path["deliveries"].as_array().unwrap().len()]));
    }
    let (new, known, again) = (json!([null, null, 1]), json!([true, null, 1]), json!([null, "repeated", 0]));
    let expected = [&new, &known, &new, &again, &new, &again, &new, &new, &new, &again, &new];
    assert_eq!(told, expected.map(Clone::clone));
}
