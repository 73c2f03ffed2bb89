//! An operator's word on writes of which nobody knows whether they were done; and what is surely not done, which needs none.

use std::process::{Output, Stdio};

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

use crate::backup::writer;
use crate::deeds::{csrf, form};

async fn both() -> (StandIn, Host, tempfile::TempDir) {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = writer();
    let more = "[retry]\nfirst_ms = 100\nattempts = 1";
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more);
    setup.crm_lines = "timeout_ms = 500\nlinger_ms = 1000".to_owned();
    let host = setup.start().await.unwrap();
    (crm, host, folder)
}

async fn command(host: &Host, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    command.args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    let Output { stdout, stderr, .. } = command.stdin(Stdio::null()).output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

/// A delivery whose write is in doubt: its event and its number.
async fn doubted(crm: &StandIn, host: &Host, call: &str, body: &str) -> (String, String) {
    let (method, action) = call.split_once('.').unwrap();
    crm.fault_on(Some(method), Some(action), 1, Fault::CloseAfterWrite);
    let id = host.accepted(body).await.unwrap();
    let delivery = host.settled(&id).await.unwrap()["deliveries"][0].clone();
    let told = [&delivery["state"], &delivery["code"], &delivery["writes"][0]["uncertain"]];
    assert_eq!(told, [&json!("dead"), &json!("uncertain"), &json!(true)], "{delivery}");
    let number = delivery["id"].to_string();
    (id, number)
}

async fn ended(host: &Host, id: &str) -> Value {
    wait_until("a good end", PATIENCE, async || {
        let delivery = host.api(&format!("events/{id}")).await?["deliveries"][0].clone();
        Ok((delivery["state"] == "done").then_some(delivery))
    })
    .await
    .unwrap()
}

fn invoice(id: u32) -> String {
    let with = json!({ "did": 1, "summa": 100 + id, "date.plan": "2031-01-02" });
    format!("event=write.event&id={id}&sin=call&call=deal.invoice.add&with={with}")
}

fn sent(crm: &StandIn, action: &str) -> usize {
    crm.calls().iter().filter(|call| call.action == action).count()
}

#[tokio::test]
async fn a_write_of_which_an_operator_says_that_it_was_done_is_not_sent_again_and_the_plugin_goes_on() {
    let (crm, host, _folder) = both().await;
    let (id, number) = doubted(&crm, &host, "task.add", "event=write.event&id=1&sin=add-task").await;
    let shown = command(&host, &["dead", "show", &number]).await;
    for words in ["task.add", "unknown whether it was done", "dead done", "--record NUMBER", "dead send"] {
        assert!(shown.contains(words), "{shown}");
    }
    // What the plugin would go on with has to be said, and has to fit.
    for (arguments, words) in [
        (vec!["dead", "done", &number], "whose number the plugin gets"),
        (vec!["dead", "done", &number, "--record", "7", "--write", "none"], "no such write"),
        (vec!["dead", "done", "999999", "--record", "7"], "no delivery with the number"),
    ] {
        let said = command(&host, &arguments).await;
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(host.api(&format!("deliveries/{number}")).await.unwrap()["delivery"]["state"], "dead");
    let said = command(&host, &["dead", "done", &number, "--record", "4711"]).await;
    assert!(said.contains("runs again"), "{said}");
    let delivery = ended(&host, &id).await;
    let last = delivery["attempts"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["calls"][0]["call"], &last["lines"][0]["text"]),
        (&json!("crm task.add (done before)"), &json!("task 4711"))
    );
    assert_eq!(
        (&delivery["writes"][0]["record"], delivery["writes"][0]["uncertain"].as_bool()),
        (&json!("task:4711"), Some(false))
    );
    assert_eq!((sent(&crm, "add"), crm.tasks().len()), (1, 1));
    assert_eq!(host.api("backlog").await.unwrap()["uncertain_writes"], 0);
    let audit = host.api("audit").await.unwrap();
    let line =
        audit["items"].as_array().unwrap().iter().find(|line| line["action"] == "delivery.done").unwrap().clone();
    assert!(line["details"].as_str().unwrap().contains("4711") && line["object"] == number, "{line}");
    // It is over: there is nothing left to say.
    for wish in ["done", "send"] {
        let said = command(&host, &["dead", wish, &number]).await;
        assert!(said.contains("no word is needed"), "{said}");
    }
}

#[tokio::test]
async fn a_write_that_an_operator_has_sent_all_the_same_is_sent_just_once_more() {
    let (crm, host, _folder) = both().await;
    let (task, number) = doubted(&crm, &host, "task.add", "event=write.event&id=1&sin=add-task").await;
    let (with_invoice, other) = doubted(&crm, &host, "deal.invoice.add", &invoice(2)).await;
    for number in [&number, &other] {
        let said = command(&host, &["dead", "send", number]).await;
        assert!(said.contains("runs again"), "{said}");
    }
    for id in [&task, &with_invoice] {
        let delivery = ended(&host, id).await;
        assert_eq!(delivery["writes"].as_array().unwrap().len(), 1, "{delivery}");
        assert_eq!(delivery["writes"][0]["uncertain"], false);
    }
    assert_eq!((sent(&crm, "add"), sent(&crm, "invoice.add")), (2, 2));
    // In doubt again, it is asked about again: one word holds for one time.
    let (again, number) = doubted(&crm, &host, "deal.invoice.add", &invoice(3)).await;
    crm.fault_on(Some("deal"), Some("invoice.add"), 1, Fault::CloseAfterWrite);
    command(&host, &["dead", "send", &number]).await;
    wait_until("a doubt", PATIENCE, async || {
        let delivery = host.api(&format!("events/{again}")).await?["deliveries"][0].clone();
        let attempts = delivery["attempts"].as_array().map(Vec::len);
        Ok((delivery["state"] == "dead" && attempts == Some(2)).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(sent(&crm, "invoice.add"), 4);
    assert!(command(&host, &["dead", "done", &number, "--record", "9"]).await.contains("runs again"));
    ended(&host, &again).await;
    assert_eq!(sent(&crm, "invoice.add"), 4);
}

#[tokio::test]
async fn the_page_of_an_event_tells_what_is_in_doubt_and_takes_the_word_in_both_languages() {
    let (crm, host, _folder) = both().await;
    let (id, number) = doubted(&crm, &host, "deal.invoice.add", &invoice(1)).await;
    let browser = host.browser().await.unwrap();
    let page = async |language: &str| {
        let request = browser.get(format!("{}/console/events/{id}", host.base())).header("accept-language", language);
        request.send().await.unwrap().text().await.unwrap()
    };
    let english = page("en").await;
    assert!(english.contains("It was done…") && english.contains("name=\"record\""), "{english}");
    assert!(page("ru").await.contains("Всё равно отправить…"));
    let delivery = host.api(&format!("deliveries/{number}")).await.unwrap()["delivery"].clone();
    let key = delivery["writes"][0]["key"].as_str().unwrap();
    let word = csrf((&host, &browser)).await;
    let path = format!("/console/deliveries/{number}/done");
    let (status, _) = form((&host, &browser), &path, &format!("csrf={word}&write={key}&record=none")).await;
    assert_eq!(status, 400);
    let (status, _) = form((&host, &browser), &path, &format!("write={key}&record=5")).await;
    assert_eq!(status, 403, "only from this session's own page");
    form((&host, &browser), &path, &format!("csrf={word}&write={key}&record=5")).await;
    ended(&host, &id).await;
    assert_eq!(sent(&crm, "invoice.add"), 1);
    assert!(!page("en").await.contains("It was done…"));
}

/// What rate limits say, as the API's neighbours and proxies do.
const LIMITS: [(&str, Option<&str>, &str); 5] = [
    ("429 Too Many Requests", None, "<h1>Slow down</h1>"),
    ("429 Too Many Requests", Some("1"), ""),
    ("429 Too Many Requests", None, "{\"error\":{\"code\":\"429\",\"text\":\"Too many requests\"}}"),
    ("503 Service Unavailable", Some("1"), "busy"),
    (
        "503 Service Temporarily Unavailable",
        None,
        "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n",
    ),
];

#[tokio::test]
async fn what_a_rate_limit_turned_away_was_surely_not_done_also_of_writes_that_nobody_can_look_for() {
    let (crm, host, _folder) = both().await;
    for (n, (status, retry_after, body)) in (0..).zip(LIMITS) {
        crm.forget();
        crm.fault_on(Some("deal"), Some("invoice.add"), 2, Fault::Instead { status, retry_after, body });
        let id = host.accepted(&invoice(n)).await.unwrap();
        let path = host.settled(&id).await.unwrap();
        assert_eq!(path["deliveries"][0]["state"], "done", "{status} {retry_after:?} {body}: {path}");
        assert_eq!(sent(&crm, "invoice.add"), 3, "{status} {body}");
    }
    assert_eq!(host.api("backlog").await.unwrap()["uncertain_writes"], 0);
}
