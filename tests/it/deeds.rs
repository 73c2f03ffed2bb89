//! What can't be undone: shown first, asked for, done to just what was shown, and never told as done when it was not.

use std::process::{Output, Stdio};

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::wait_until;
use reqwest::Client;
use serde_json::{Value, json};

/// A command line with nobody at it.
async fn command(host: &Host, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    command.args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    command.args(["--host", host.base()]).stdin(Stdio::null());
    command.output().await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) async fn form((host, browser): (&Host, &Client), path: &str, body: &str) -> (u16, String) {
    let request = browser.post(format!("{}{path}", host.base()));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The hidden fields of a page's last form, as a browser sends them back.
fn hidden(page: &str) -> String {
    let (_, last) = page.rsplit_once("<form class=\"card\"").unwrap();
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    for part in last.split("<input type=\"hidden\" name=\"").skip(1) {
        let (name, rest) = part.split_once("\" value=\"").unwrap();
        body.append_pair(name, rest.split('"').next().unwrap());
    }
    body.finish()
}

pub(crate) async fn csrf((host, browser): (&Host, &Client)) -> String {
    let page = browser.get(format!("{}/console/dead", host.base())).send().await.unwrap();
    let page = page.text().await.unwrap();
    page.split_once("name=\"csrf\" value=\"").unwrap().1.split('"').next().unwrap().to_owned()
}

async fn dead(host: &Host, count: u64) {
    wait_until("dead letters", PATIENCE, async || {
        Ok((host.api("backlog").await?["dead"] == json!(count)).then_some(()))
    })
    .await
    .unwrap();
}

async fn rejected(host: &Host, ids: std::ops::Range<u32>) {
    for id in ids {
        host.accepted(&format!("event=a.b&id={id}&sin=reject")).await.unwrap();
    }
}

#[tokio::test]
async fn dead_letters_are_dropped_after_they_were_shown_and_no_others() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).more("[retry]\nattempts = 1").start().await.unwrap();
    rejected(&host, 0..3).await;
    dead(&host, 3).await;

    // On the command line: nobody is there to be asked.
    let refused = command(&host, &["dead", "drop", "--all"]).await;
    let said = text(&refused);
    assert!(!refused.status.success() && said.contains("3 dead letters") && said.contains("--yes"), "{said}");
    assert!(said.contains("delivery 1") && said.contains("a.b"), "{said}");
    for empty in [&["dead", "drop"][..], &["dead", "retry"]] {
        let said = text(&command(&host, empty).await);
        assert!(said.contains("`--all`"), "{said}");
    }
    dead(&host, 3).await;

    // On the pages: a step that shows how many and which; what dies meanwhile is not among them.
    let at = (&host, &host.browser().await.unwrap());
    let word = csrf(at).await;
    let (status, page) =
        form(at, "/console/dead/all", &format!("csrf={word}&do=drop&pace=1000&next=/console/dead")).await;
    assert!(status == 200 && page.contains(": 3</h1>") && page.contains("a.b"), "{status} {page}");
    let (refused, _) = form(at, "/console/dead/all", "do=drop&confirmed=1&before=9999999999999").await;
    assert_eq!(refused, 403, "without the session's word");
    rejected(&host, 3..5).await;
    dead(&host, 5).await;
    let (status, _) = form(at, "/console/dead/all", &hidden(&page)).await;
    assert!(status < 400, "{status}");
    dead(&host, 2).await;
    let left: Vec<Value> =
        host.api("dead").await.unwrap()["items"].as_array().unwrap().iter().map(|one| one["entity"].clone()).collect();
    assert_eq!(left, ["a:3", "a:4"]);

    // Several that were chosen by hand are shown as well; one is one.
    let (_, page) =
        form(at, "/console/dead/some", &format!("csrf={word}&do=drop&delivery=4&delivery=5&next=/console/dead")).await;
    assert!(page.contains(": 2</h1>"), "{page}");
    dead(&host, 2).await;
    form(at, "/console/dead/some", &hidden(&page)).await;
    dead(&host, 0).await;

    rejected(&host, 5..7).await;
    dead(&host, 2).await;
    assert!(text(&command(&host, &["dead", "drop", "--all", "--yes"]).await).contains("2 dead letters"));
    dead(&host, 0).await;
}

#[tokio::test]
async fn replaying_everything_needs_a_word_for_it_and_is_shown_first() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    for id in 1..=2 {
        let id = host.accepted(&format!("event=a.b&id={id}&sin=none")).await.unwrap();
        host.settled(&id).await.unwrap();
    }
    let (status, refused) = host.ask("events/replay", &json!({ "plugin": "one" })).await.unwrap();
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("\"all\": true"), "{refused}");
    let at = (&host, &host.browser().await.unwrap());
    let word = csrf(at).await;
    let (_, page) = form(at, "/console/events/replay", &format!("csrf={word}&plugin=one&pace=1000")).await;
    assert!(page.contains(": 2</h1>") && host.api("jobs").await.unwrap() == json!([]), "{page}");
    let (status, _) = form(at, "/console/events/replay", &hidden(&page)).await;
    assert!(status < 400);
    wait_until("the job's end", PATIENCE, async || {
        let jobs = host.api("jobs").await?;
        Ok((jobs[0]["state"] == "done" && jobs[0]["changed"] == 2).then_some(()))
    })
    .await
    .unwrap();
    let (status, _) = host.ask("events/replay", &json!({ "plugin": "one", "all": true })).await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_record_is_forgotten_after_it_was_shown_and_leaves_no_bare_row() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    for body in [
        "event=client.edit&clid=8&sin=none",
        "event=client.edit&clid=7&sin=none&n=1",
        "event=client.edit&clid=7&sin=none&n=2",
    ] {
        let id = host.accepted(body).await.unwrap();
        host.settled(&id).await.unwrap();
    }
    let refused = command(&host, &["forget", "--entity", "client:7"]).await;
    let said = text(&refused);
    assert!(
        !refused.status.success() && said.contains("2 events of client:7") && said.contains("client.edit"),
        "{said}"
    );
    assert_eq!(host.api("events?entity=client:7").await.unwrap()["items"].as_array().unwrap().len(), 2);
    assert!(text(&command(&host, &["forget", "--entity", "client:7", "--yes"]).await).contains("2 things forgotten"));
    // The newest among them as well: nothing of it stands in the list, and numbers go on.
    let left = host.api("events").await.unwrap();
    assert_eq!(
        left["items"].as_array().unwrap().iter().map(|event| &event["entity"]).collect::<Vec<_>>(),
        ["client:8"],
        "{left}"
    );
    let id = host.accepted("event=client.edit&clid=9&sin=none").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
    assert_eq!(host.api("backlog").await.unwrap()["unrouted"], 0);
}

#[tokio::test]
async fn what_did_not_come_about_is_not_in_the_operators_log_as_done() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    for (arguments, part) in [
        (&["delivery", "retry", "999999"][..], "no delivery with the number 999999"),
        (&["delivery", "drop", "999999"], "no delivery with the number 999999"),
        (&["job", "stop", "7"], "no such job"),
    ] {
        let output = command(&host, arguments).await;
        assert!(output.status.code() == Some(5) && text(&output).contains(part), "{arguments:?}: {}", text(&output));
    }
    for (path, body) in [
        ("plugins/nobody/rollback", json!({})),
        ("plugins/nobody/rollback", json!({ "newest": true })),
        ("plugins/one/rollback", json!({ "to": "ffff" })),
        ("plugins/one/rollback", json!({})),
    ] {
        let (status, refused) = host.ask(path, &body).await.unwrap();
        assert_eq!(status, 409, "{path} {refused}");
    }
    let program = Setup::new().unwrap().program;
    for more in [&[][..], &["--list"], &["--newest"]] {
        let mut command = tokio::process::Command::new(&program);
        command.args(["plugin", "rollback", "nobody", "--config"]).arg(host.folder().join("host.toml")).args(more);
        let output = command.output().await.unwrap();
        assert!(output.status.code() == Some(1) && text(&output).contains("`nobody`"), "{more:?}: {}", text(&output));
    }
    assert_eq!(host.api("audit").await.unwrap()["items"], json!([]));
    // What fails after it was announced is told as that.
    let (status, _) =
        host.ask("events/01900000-0000-7000-8000-000000000000/replay", &json!({ "plugin": "one" })).await.unwrap();
    assert_eq!(status, 404);
    let audit = host.api("audit").await.unwrap();
    assert!(audit["items"][0]["details"].as_str().unwrap().starts_with("not done"), "{audit}");
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page_to_its_end() {
    let folder = crate::plugins(&[]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    for id in 0..230 {
        host.accepted(&format!("event=a.b&id={id}")).await.unwrap();
    }
    let output = command(&host, &["event", "list", "--limit", "500", "--json"]).await;
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((found["items"].as_array().unwrap().len(), &found["next"]), (230, &Value::Null));
    let some = command(&host, &["event", "list", "--limit", "210"]).await;
    assert_eq!(text(&some).lines().filter(|line| line.contains("a.b")).count(), 210);
    assert!(text(&some).contains("--cursor"));
}

#[tokio::test]
async fn events_are_found_by_what_became_of_them() {
    let folder = crate::plugins(&[("one", "*"), ("two", "b.*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).more("[retry]\nattempts = 1").start().await.unwrap();
    for body in
        ["event=a.b&id=1&sin=none", "event=a.b&id=2&sin=reject", "event=b.c&id=3&sin=none", "event=b.c&id=4&sin=reject"]
    {
        let id = host.accepted(body).await.unwrap();
        host.settled(&id).await.unwrap();
    }
    let found = async |query: &str| -> Vec<String> {
        let found = host.api(&format!("events?{query}")).await.unwrap();
        found["items"].as_array().unwrap().iter().map(|event| event["entity"].as_str().unwrap().to_owned()).collect()
    };
    for (query, expected) in [
        ("outcome=dead", vec!["b:4", "a:2"]),
        ("outcome=failed", vec!["b:4", "a:2"]),
        ("outcome=done", vec!["b:3", "a:1"]),
        ("outcome=waiting", vec![]),
        ("plugin=two", vec!["b:4", "b:3"]),
        ("plugin=two&outcome=dead", vec!["b:4"]),
        ("plugin=two&outcome=done&name=b.*", vec!["b:3"]),
        ("outcome=dead&entity=a:2", vec!["a:2"]),
        ("outcome=dead&name=a.b", vec!["a:2"]),
        ("plugin=nobody", vec![]),
        ("outcome=dead&limit=1", vec!["b:4"]),
    ] {
        assert_eq!(found(query).await, expected, "{query}");
    }
    let next = host.api("events?outcome=dead&limit=1").await.unwrap()["next"].as_str().unwrap().to_owned();
    assert_eq!(found(&format!("outcome=dead&limit=1&cursor={next}")).await, ["a:2"]);
    let page = host.browser().await.unwrap().get(format!("{}/console/events?outcome=dead&plugin=two", host.base()));
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(page.contains("b:4") && !page.contains(">a:2<"), "{page}");
    let listed = text(&command(&host, &["event", "list", "--outcome", "dead", "--plugin", "two"]).await);
    assert!(listed.contains("b:4") && !listed.contains("a:2"), "{listed}");
    let wrong = text(&command(&host, &["event", "list", "--outcome", "nonsense"]).await);
    assert!(wrong.contains("failed|dead"), "{wrong}");
}
