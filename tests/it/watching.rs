//! What the CRM never sends is found by reading its lists, once, and without what did arrive.

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

async fn events(host: &Host) -> Vec<Value> {
    let mut events = host.api("events?limit=200").await.unwrap()["items"].as_array().cloned().unwrap();
    events.reverse();
    events
}

fn names(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {}", event["name"].as_str().unwrap(), event["via"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_record_that_nobody_told_about_becomes_an_event_and_one_that_was_told_does_not() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("audit-all", "*")]);
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more("[telemetry]\nlevel = \"debug\"");
    setup.crm_lines = "watch = [\"leads\", \"deals\"]\nwatch_ms = 150".to_owned();
    let mut host = setup.start().await.unwrap();
    let passes = |host: &Host, list: &str| {
        host.log()
            .lines()
            .filter(|line| line.contains("List polled") && line.contains(&format!("list=\"{list}\"")))
            .count()
    };
    let next_pass = async |host: &Host| {
        let before = (passes(host, "deals"), passes(host, "leads"));
        wait_until("two more passes", PATIENCE, async || {
            Ok((passes(host, "deals") > before.0 + 1 && passes(host, "leads") > before.1 + 1).then_some(()))
        })
        .await
        .unwrap();
    };
    next_pass(&host).await;
    assert_eq!(names(&events(&host).await), [""; 0], "what was there before is no news");

    let did = crm.seed_deal(json!({ "clid": 1, "title": "Тихая", "step": "20", "iduser": 2 })).unwrap();
    next_pass(&host).await;
    let found = events(&host).await;
    assert_eq!(names(&found), ["deal.add poll"]);
    assert_eq!(found[0]["entity"], format!("deal:{did}"));
    let path = host.settled(found[0]["id"].as_str().unwrap()).await.unwrap();
    assert_eq!(
        (path["deliveries"].as_array().unwrap().len(), &path["fields"]),
        (1, &json!({ "did": did.to_string() }))
    );

    // With the hook at work the CRM tells by itself, and the watcher only remembers.
    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
    crm.ui_move_deal(did, "40", 2).await.unwrap();
    next_pass(&host).await;
    assert_eq!(names(&events(&host).await), ["deal.add poll", "deal.change.step form"]);

    // Without it the change is found, also over a restart in between.
    crm.set_hooks(Vec::new());
    host.kill().unwrap();
    crm.ui_move_deal(did, "60", 2).await.unwrap();
    host.start().await.unwrap();
    wait_until("the change", PATIENCE, async || Ok((events(&host).await.len() > 2).then_some(()))).await.unwrap();
    next_pass(&host).await;
    let found = events(&host).await;
    assert_eq!(names(&found), ["deal.add poll", "deal.change.step form", "deal.change.step poll"]);
    let last = host.api(&format!("events/{}", found[2]["id"].as_str().unwrap())).await.unwrap();
    assert_eq!(last["fields"], json!({ "did": did.to_string(), "stepOld": "40", "stepNew": "60" }));
}

#[tokio::test]
async fn an_enquiry_that_is_given_away_on_its_page_is_told_as_that_and_by_whom_it_is_held() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("audit-all", "*")]);
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more("[telemetry]\nlevel = \"debug\"");
    setup.crm_lines = "watch = [\"leads\"]\nwatch_ms = 100".to_owned();
    let mut host = setup.start().await.unwrap();
    wait_until("the first pass", PATIENCE, async || Ok(host.log().contains("List polled").then_some(())))
        .await
        .unwrap();
    let told = async |host: &Host, most: usize| {
        wait_until("the events", PATIENCE, async || Ok((events(host).await.len() >= most).then_some(())))
            .await
            .unwrap();
        let mut told = Vec::new();
        for event in events(host).await {
            let path = host.api(&format!("events/{}", event["id"].as_str().unwrap())).await.unwrap();
            told.push(json!([event["name"], event["via"], path["fields"]]));
        }
        told
    };
    let id = crm.seed_lead(json!({ "title": "Заявка", "phone": "84957770011" })).unwrap().to_string();
    let added = json!(["lead.add", "poll", { "id": id, "clid": "0", "pid": "0", "did": "0" }]);
    assert_eq!(told(&host, 1).await, std::slice::from_ref(&added));
    let given = |user: &str| json!(["lead.setuser", "poll", { "id": id, "iduser": user }]);
    crm.ui_give_lead(id.parse().unwrap(), 2).unwrap();
    assert_eq!(told(&host, 2).await, [added.clone(), given("2")]);
    // Nothing of this one is in the list, and the host was away.
    host.kill().unwrap();
    crm.ui_give_lead(id.parse().unwrap(), 3).unwrap();
    host.start().await.unwrap();
    let all = [added, given("2"), given("3")];
    assert_eq!(told(&host, 3).await, all);
    // What the CRM says late has been told.
    let late = host.accepted(&format!("event=lead.setuser&id={id}&iduser=3&coordinator=1&iduser1=2")).await.unwrap();
    let path = host.settled(&late).await.unwrap();
    let found = events(&host).await[2]["id"].clone();
    assert_eq!(
        (&path["event"]["duplicate"], &path["deliveries"]),
        (&json!({ "how": "found", "of": found }), &json!([])),
        "{path}"
    );
}
