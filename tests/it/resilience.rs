//! One bad plugin, a CRM that is away, a CRM that repeats itself: nobody else is harmed, and nothing is lost.

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

use crate::plugins;

async fn queue(host: &Host, plugin: &str) -> Value {
    let queues = host.api("queues").await.unwrap();
    queues.as_array().unwrap().iter().find(|queue| queue["plugin"] == plugin).cloned().unwrap_or_default()
}

async fn in_mode(host: &Host, plugin: &str, mode: &str) {
    wait_until(mode, PATIENCE, async || Ok((queue(host, plugin).await["mode"] == mode).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn slow_deliveries_however_many_leave_the_other_plugin_its_place() {
    let folder = plugins(&[("slow", "slow.event"), ("quick", "quick.event")]);
    let more = "[plugins.slow]\nconcurrency = 100\n[plugins.slow.limits]\ntime_ms = 60000";
    let mut setup = Setup::new().unwrap().plugins(folder.path()).more(more);
    setup.server = "drain_ms = 0".to_owned();
    // As an administrator would have it who is short of memory.
    let host = setup.environment("SALESMAN_HOST__PLUGINS__INSTANCES", "4").start().await.unwrap();
    for n in 0..300 {
        host.accepted(&format!("event=slow.event&id={n}&sin=sleep")).await.unwrap();
    }
    let mut last = String::new();
    for n in 0..50 {
        last = host.accepted(&format!("event=quick.event&id={n}&sin=none")).await.unwrap();
    }
    host.settled(&last).await.unwrap();
    host.idle_but(300).await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_fails_on_many_events_is_paused_and_resumes_when_it_works_again() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = plugins(&[("bad", "bad.event"), ("good", "*")]);
    let more = "[breaker]\nfailures = 5\npause_ms = 200\nlongest_pause_ms = 400\n[retry]\nfirst_ms = 60000";
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    for n in 0..5 {
        host.accepted(&format!("event=bad.event&id={n}&sin=panic")).await.unwrap();
    }
    in_mode(&host, "bad", "paused").await;
    assert!(host.log().contains("Plugin paused"), "operators are told");
    // What waits is not dropped; the first that goes well opens the gate again for all.
    let mut waiting = Vec::new();
    for n in 10..30 {
        waiting.push(host.accepted(&format!("event=bad.event&id={n}&sin=none")).await.unwrap());
    }
    for id in &waiting {
        let path = host.api(&format!("events/{id}")).await.unwrap();
        let good = path["deliveries"].as_array().unwrap().iter().find(|d| d["plugin"] == "good");
        assert!(good.is_none_or(|good| good["state"] != "dead"), "{path}");
    }
    in_mode(&host, "bad", "flowing").await;
    for id in waiting {
        let path = host.settled(&id).await.unwrap();
        let states: Vec<_> = path["deliveries"].as_array().unwrap().iter().map(|d| d["state"].clone()).collect();
        assert_eq!(states, ["done", "done"], "{path}");
    }
    assert!(host.log().contains("Plugin resumed"));
}

#[tokio::test]
async fn a_crm_that_is_away_uses_up_no_attempts() {
    let options = Options { demo_data: true, ..Options::default() };
    let crm = StandIn::start(options.clone()).await.unwrap();
    let folder = plugins(&[("writer", "write.event"), ("other", "other.event")]);
    let more = "[retry]\nattempts = 2\nfirst_ms = 1";
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    let port = crm.base_url().rsplit_once(':').unwrap().1.parse().unwrap();
    drop(crm);
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(host.accepted(&format!("event=write.event&id={n}&sin=add-task")).await.unwrap());
    }
    in_mode(&host, "writer", "waiting_for_crm").await;
    assert!(host.log().contains("The CRM can't be used"), "operators are told");
    // Whoever does not need the CRM goes on.
    let other = host.accepted("event=other.event&id=1&sin=none").await.unwrap();
    host.settled(&other).await.unwrap();
    assert_eq!(host.api("backlog").await.unwrap()["dead"], 0);

    let crm = StandIn::start(Options { port, ..options }).await.unwrap();
    for id in ids {
        let path = host.settled(&id).await.unwrap();
        assert_eq!(path["deliveries"][0]["state"], "done", "{path}");
    }
    assert_eq!(crm.tasks().len(), 40);
    assert!(host.log().contains("The CRM answers again"));
}

/// What the CRM, its web server or a proxy was seen to say in place of an answer.
const INSTEAD: [(&str, Option<&str>, &str, &str); 9] = [
    ("200 OK", None, "Ошибка подключения к БД: Connection refused", "no connection to its database"),
    ("200 OK", None, "<!DOCTYPE html><html><body>Ведутся технические работы</body></html>", "a page, not JSON"),
    ("200 OK", None, "Site is under maintenance", "plain text"),
    ("200 OK", None, "", "empty"),
    ("200 OK", None, "{\"status\":\"maintenance\"}", "not the CRM's API's"),
    ("200 OK", None, "{\"result\":\"Error\",\"error\":{\"code\":401,\"text\":\"Неизвестный пользователь\"}}", "401"),
    ("403 Forbidden", None, "<h1>403 Forbidden</h1>", "answered 403"),
    ("404 Not Found", None, "<h1>404 Not Found</h1>", "rewrite rule"),
    ("301 Moved Permanently", None, "", "elsewhere (301)"),
];

#[tokio::test]
async fn whatever_answers_in_place_of_the_api_uses_up_no_attempts() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = plugins(&[("writer", "write.event")]);
    let more = "[retry]\nattempts = 1\nfirst_ms = 1";
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more);
    // A write that a page came back for is in doubt for as long as the CRM may still be at it.
    setup.crm_lines = "timeout_ms = 300\nlinger_ms = 1000".to_owned();
    let host = setup.start().await.unwrap();
    for (n, (status, retry_after, body, words)) in INSTEAD.into_iter().enumerate() {
        crm.fault_on(None, None, usize::MAX, Fault::Instead { status, retry_after, body });
        let id = host.accepted(&format!("event=write.event&id={n}&sin=add-task")).await.unwrap();
        in_mode(&host, "writer", "waiting_for_crm").await;
        let away = host.api("crm").await.unwrap()[0].clone();
        assert_eq!(away["reachable"], false, "{body}: {away}");
        assert!(away["why"].as_str().unwrap().contains(words), "{body}: {away}");
        let checkup = host.ask("crm/main/check", &json!({})).await.unwrap().1;
        assert!(checkup["problems"].to_string().contains(words), "{body}: {checkup}");
        crm.clear_faults();
        let path = host.settled(&id).await.unwrap();
        assert_eq!(path["deliveries"][0]["state"], "done", "{body}: {path}");
    }
    assert_eq!(crm.tasks().len(), INSTEAD.len());
    assert_eq!(host.api("backlog").await.unwrap()["dead"], 0);
}

#[tokio::test]
async fn a_web_server_that_asks_to_be_left_alone_is_left_alone() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = plugins(&[("writer", "write.event")]);
    let more = "[retry]\nattempts = 1\nfirst_ms = 1";
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    for (n, status) in ["429 Too Many Requests", "503 Service Unavailable"].into_iter().enumerate() {
        crm.forget();
        let fault = Fault::Instead { status, retry_after: Some("3"), body: "<h1>Slow down</h1>" };
        crm.fault_on(Some("task"), Some("add"), 1, fault);
        let id = host.accepted(&format!("event=write.event&id={n}&sin=add-task")).await.unwrap();
        let path = host.settled(&id).await.unwrap();
        assert_eq!(path["deliveries"][0]["state"], "done", "{path}");
        let calls = crm.calls();
        let left_alone = calls[0].at.duration_until(calls[1].at).as_secs_f64();
        assert!((2.9..30.0).contains(&left_alone), "{status}: asked again after {left_alone} s: {calls:?}");
    }
    assert_eq!(crm.tasks().len(), 2, "what was turned away was not done, and is done once");
}

#[tokio::test]
async fn a_call_that_fails_at_a_crm_that_answers_does_use_up_attempts() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = plugins(&[("writer", "write.event")]);
    let host = Setup::new()
        .unwrap()
        .crm(&crm)
        .plugins(folder.path())
        .more("[retry]\nattempts = 2\nfirst_ms = 1")
        .start()
        .await
        .unwrap();
    crm.fault_on(Some("task"), Some("add"), 100, Fault::Down);
    let id = host.accepted("event=write.event&id=1&sin=add-task").await.unwrap();
    let path = host.settled(&id).await.unwrap();
    assert_eq!(path["deliveries"][0]["state"], "dead", "{path}");
    assert_eq!(path["deliveries"][0]["attempts"].as_array().unwrap().len(), 2, "{path}");
}

#[tokio::test]
async fn dead_letters_are_found_retried_and_dropped_by_what_they_are() {
    let folder = plugins(&[("one", "one.*"), ("two", "two.event")]);
    let host = Setup::new()
        .unwrap()
        .plugins(folder.path())
        .more("[retry]\nattempts = 1\n[breaker]\nfailures = 10000")
        .start()
        .await
        .unwrap();
    for (event, sin) in
        [("one.first", "panic"), ("one.second", "panic"), ("one.second", "reject"), ("two.event", "exit")]
    {
        for n in 0..3 {
            host.accepted(&format!("event={event}&id={n}&sin={sin}")).await.unwrap();
        }
    }
    host.idle(PATIENCE).await.unwrap();
    let count =
        async |query: &str| host.api(&format!("dead?{query}")).await.unwrap()["items"].as_array().unwrap().len();
    let cases = [
        ("", 12),
        ("plugin=one", 9),
        ("plugin=two", 3),
        ("event=one.second", 6),
        ("code=plugin.trap", 6),
        ("code=plugin.exit&plugin=one", 0),
        ("event=one.second&code=rejected", 3),
        ("account=other", 0),
        ("until=1000", 0),
        ("since=1000", 12),
        ("limit=5", 5),
        ("cursor=11", 1),
    ];
    for (query, expected) in cases {
        assert_eq!(count(query).await, expected, "{query}");
    }
    let refused = [json!({}), json!({ "deliveries": [1], "plugin": "one" }), json!({ "plugins": "one" }), json!([])];
    for choice in refused {
        let (status, answer) = host.ask("dead/drop", &choice).await.unwrap();
        assert_eq!((status, &answer["code"]), (400, &"console.bad_filter".into()), "{choice}");
    }
    assert_eq!(count("").await, 12);
    let changed = async |path: &str, choice: Value| host.ask(path, &choice).await.unwrap().1["changed"].clone();
    assert_eq!(changed("dead/drop", json!({ "code": "rejected" })).await, 3);
    assert_eq!(changed("dead/drop", json!({ "plugin": "two", "until": 1000 })).await, 0);
    assert_eq!(count("").await, 9);
    // They fail again, and are letters again, with one attempt more.
    assert_eq!(changed("dead/retry", json!({ "event": "one.first" })).await, 3);
    host.idle(PATIENCE).await.unwrap();
    let letters = host.api("dead?event=one.first").await.unwrap()["items"].clone();
    assert_eq!(
        letters.as_array().unwrap().iter().map(|letter| letter["attempts"].clone()).collect::<Vec<_>>(),
        [2, 2, 2]
    );
    let one = letters[0]["delivery"].clone();
    assert_eq!(changed("dead/drop", json!({ "deliveries": [one, one, 999] })).await, 1);
    assert_eq!(changed("dead/drop", json!({ "all": true })).await, 8);
    assert_eq!(
        host.api("backlog").await.unwrap(),
        json!({ "unrouted": 0, "open": 0, "dead": 0, "uncertain_writes": 0 })
    );
}

#[tokio::test]
async fn what_the_crm_sends_twice_is_delivered_once() {
    let folder = plugins(&[("late", "*")]);
    // One at a time, and the first takes its time: the others wait untouched.
    let more = "[plugins.late]\nconcurrency = 1\n[plugins.late.limits]\ntime_ms = 1000\n[retry]\nattempts = 1";
    let host = Setup::new().unwrap().plugins(folder.path()).more(more).start().await.unwrap();
    let busy = host.accepted("event=client.edit&clid=5&sin=sleep").await.unwrap();
    wait_until("the start", PATIENCE, async || {
        let path = host.api(&format!("events/{busy}")).await?;
        Ok((path["deliveries"][0]["state"] == "running").then_some(()))
    })
    .await
    .unwrap();
    // The same as the one that runs: what has started is never folded into.
    let same = host.accepted("event=client.edit&clid=5&sin=sleep").await.unwrap();
    let first = host.accepted("event=client.edit&clid=5&sin=none").await.unwrap();
    let folded = host.accepted("event=client.edit&clid=5&sin=none").await.unwrap();
    let other = host.accepted("event=client.edit&clid=5&sin=none&x=1").await.unwrap();
    let after = host.accepted("event=client.edit&clid=5&sin=none").await.unwrap();
    // The express form's two (facts, section 4).
    let added = host.accepted("event=client.add&clid=9&autor=1&user=1&sin=none").await.unwrap();
    let again = host.accepted("event=client.add&clid=9&did=4&autor=1&user=1&pid=2&tid=1&sin=none").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let mut seen = Vec::new();
    for id in [&busy, &same, &first, &folded, &other, &after, &added, &again] {
        let path = host.api(&format!("events/{id}")).await.unwrap();
        let duplicate = &path["event"]["duplicate"];
        seen.push((
            path["deliveries"].as_array().unwrap().len(),
            duplicate["how"].as_str().unwrap_or_default().to_owned(),
            duplicate["of"].as_str().unwrap_or_default().to_owned(),
        ));
    }
    let own = || (1, String::new(), String::new());
    let twice = |how: &str, of: &String| (0, how.to_owned(), of.clone());
    assert_eq!(seen, [own(), own(), own(), twice("folded", &first), own(), own(), own(), twice("repeated", &added)]);

    let more = "[duplicates]\nfold = false\nrepeated_add = false";
    let host = Setup::new().unwrap().plugins(folder.path()).more(more).start().await.unwrap();
    for _ in 0..2 {
        let id = host.accepted("event=client.add&clid=9&sin=none").await.unwrap();
        assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
    }
}
