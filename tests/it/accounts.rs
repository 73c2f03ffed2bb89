//! Several CRMs in one host: nothing of one shows in another.

use integration_tests::host::{Host, PATIENCE, Setup, http_client};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

async fn send(host: &Host, token: &str, body: &str) -> (u16, Value) {
    let request = http_client().unwrap().post(format!("{}/events/{token}", host.base()));
    let response =
        request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

async fn settled(host: &Host, token: &str, body: &str) -> Value {
    let (status, answer) = send(host, token, body).await;
    assert_eq!(status, 202, "{answer}");
    host.settled(answer["id"].as_str().unwrap()).await.unwrap()
}

#[tokio::test]
async fn accounts_share_neither_state_nor_writes_nor_plugins_nor_the_guard() {
    let options = Options { demo_data: true, ..Options::default() };
    let (one, two) = (StandIn::start(options.clone()).await.unwrap(), StandIn::start(options).await.unwrap());
    let folder = crate::plugins(&[("both", "both.event"), ("second-only", "second.event"), ("edits", "client.edit")]);
    let more = format!(
        "[crm.second]\nurl = {:?}\nlogin = {:?}\napi_key = {:?}\ntoken = [\"second-token-0123456789\", \"second-token-of-tomorrow\"]\nplugins = [\"both\", \"second-only\"]",
        two.base_url(),
        two.api_login(),
        two.api_key()
    );
    let mut setup = Setup::new().unwrap().crm(&one).plugins(folder.path()).more(&more);
    setup.crm_lines = "plugins = [\"both\", \"edits\"]\nuser_id = 99".to_owned();
    let host = setup.start().await.unwrap();
    let first = integration_tests::host::TOKEN;
    let (today, tomorrow) = ("second-token-0123456789", "second-token-of-tomorrow");

    let counted = |path: &Value| path["deliveries"][0]["attempts"][0]["lines"][0]["text"].clone();
    assert_eq!(counted(&settled(&host, first, "event=both.event&id=1&sin=count&n=1").await), "1");
    assert_eq!(counted(&settled(&host, today, "event=both.event&id=1&sin=count&n=1").await), "1");
    // Two tokens are valid while one is being changed.
    assert_eq!(counted(&settled(&host, tomorrow, "event=both.event&id=1&sin=count&n=2").await), "2");
    assert_eq!(counted(&settled(&host, first, "event=both.event&id=1&sin=count&n=2").await), "2");

    settled(&host, today, "event=both.event&id=5&sin=add-task").await;
    assert_eq!((one.tasks().len(), two.tasks().len()), (0, 1));
    assert_eq!(settled(&host, first, "event=second.event&id=1&sin=none").await["deliveries"], json!([]));
    let second = settled(&host, today, "event=second.event&id=1&sin=none").await;
    assert_eq!(second["deliveries"][0]["plugin"], "second-only");

    // The same number is the host's own user in one CRM and a person in the other.
    let mark = |path: &Value| path["event"]["same_login"].clone();
    wait_until("both users", PATIENCE, async || {
        Ok((host.log().matches("are the host's own").count() == 2).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(mark(&settled(&host, first, "event=client.edit&clid=1&iduser1=99&sin=none").await), json!(true));
    assert_eq!(mark(&settled(&host, first, "event=client.edit&clid=1&iduser1=1&sin=none&n=2").await), Value::Null);
    assert_eq!(mark(&settled(&host, today, "event=client.edit&clid=1&iduser1=1").await), json!(true));

    // One CRM is away: the other's deliveries go on.
    drop(one);
    send(&host, first, "event=both.event&id=9&sin=add-task").await;
    settled(&host, today, "event=both.event&id=9&sin=add-task&n=2").await;
    assert_eq!(two.tasks().len(), 2);
    let queues = host.api("queues").await.unwrap();
    let mode = |account: &str| {
        let own = queues.as_array().unwrap().iter().find(|q| q["plugin"] == "both" && q["account"] == account);
        own.unwrap()["mode"].clone()
    };
    assert_eq!(mode("second"), "flowing");
    two.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
}
