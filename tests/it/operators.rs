//! The operator's side over HTTP and on the command line: who comes in, what is shown, what is told.

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use integration_tests::host::{Host, PATIENCE, Setup, TOKEN, http_client};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// A password's hash, as the command makes it.
fn hash(password: &str) -> String {
    use std::io::Write as _;
    let mut command = std::process::Command::new(Setup::new().unwrap().program);
    let mut child = command.arg("password").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Two users, one token, and a plugin that does what events say.
pub(crate) fn with_users() -> Setup {
    let more = format!(
        "[console.users.anna]\nrole = \"admin\"\npassword = \"{}\"\n[console.users.viktor]\nrole = \"viewer\"\npassword = \"{}\"\n\
         [console.tokens.script]\nrole = \"admin\"\ntoken = \"a-token-of-a-script\"\n[retry]\nattempts = 1",
        hash("correct horse"),
        hash("battery staple"),
    );
    Setup::new().unwrap().more(&more)
}

async fn get(host: &Host, path: &str, headers: &[(&str, &str)]) -> Response {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = client.get(format!("{}{path}", host.base()));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn post(host: &Host, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = client.post(format!("{}{path}", host.base())).body(body.to_owned());
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("content-type", "application/json");

async fn login(host: &Host, name: &str, password: &str) -> String {
    let answer =
        post(host, "/console/login", &[FORM], &format!("name={name}&password={}", password.replace(' ', "+"))).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

/// The word that a session's forms bear.
async fn csrf(host: &Host, page: &str, cookie: &str) -> String {
    let text = get(host, page, &[("cookie", cookie)]).await.text().await.unwrap();
    let (_, rest) = text.split_once("name=\"csrf\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn nobody_gets_in_without_saying_who_they_are_and_a_viewer_changes_nothing() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = with_users().plugins(folder.path()).start().await.unwrap();
    let id = host.accepted("event=a.b&id=1&sin=reject").await.unwrap();
    // Not even from this machine.
    for path in ["/api/v1/events", "/api/v1/openapi.json", "/metrics", "/api/v1/live"] {
        assert_eq!(get(&host, path, &[]).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let turned = get(&host, "/console/events?name=a.b", &[]).await;
    let to = turned.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(
        (turned.status(), to.as_str()),
        (StatusCode::SEE_OTHER, "/console/login?next=%2Fconsole%2Fevents%3Fname%3Da.b")
    );
    for wrong in ["name=anna&password=wrong", "name=anna&password=", "name=nobody&password=correct+horse", ""] {
        assert_eq!(post(&host, "/console/login", &[FORM], wrong).await.status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let elsewhere = [FORM, ("origin", "http://evil.example")];
    let planted = post(&host, "/console/login", &elsewhere, "name=anna&password=correct+horse").await;
    assert_eq!(planted.status(), StatusCode::FORBIDDEN);
    // Nobody is sent to another host after logging in.
    let away = post(&host, "/console/login", &[FORM], "name=viktor&password=battery+staple&next=//evil.example").await;
    assert_eq!(away.headers()["location"], "/console");

    let viewer = login(&host, "viktor", "battery staple").await;
    let cookie = ("cookie", viewer.as_str());
    let page = get(&host, &format!("/console/events/{id}"), &[cookie]).await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["cache-control"], "no-store");
    let text = page.text().await.unwrap();
    assert!(text.contains("a.b") && !text.contains("/retry"), "{text}");
    let session = csrf(&host, "/console", &viewer).await;
    let body = format!("csrf={session}");
    assert_eq!(
        post(&host, "/console/deliveries/1/retry", &[FORM, cookie], &body).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        post(&host, "/api/v1/dead/drop", &[JSON, cookie], r#"{"all":true}"#).await.status(),
        StatusCode::FORBIDDEN
    );

    let admin = login(&host, "anna", "correct horse").await;
    let cookie = ("cookie", admin.as_str());
    let word = csrf(&host, "/console", &admin).await;
    assert_ne!(word, session);
    for body in [String::new(), "csrf=".to_owned(), format!("csrf={session}")] {
        let answer = post(&host, "/console/deliveries/1/retry", &[FORM, cookie], &body).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{body}");
    }
    // A page of another origin has the cookie at most, and can send neither JSON nor the word.
    for headers in [[FORM, cookie], [("content-type", "text/plain"), cookie]] {
        assert_eq!(
            post(&host, "/api/v1/dead/drop", &headers, r#"{"all":true}"#).await.status(),
            StatusCode::BAD_REQUEST
        );
    }
    let crossed = [JSON, cookie, ("sec-fetch-site", "cross-site")];
    assert_eq!(post(&host, "/api/v1/dead/drop", &crossed, r#"{"all":true}"#).await.status(), StatusCode::FORBIDDEN);
    let retried = post(&host, "/console/deliveries/1/retry", &[FORM, cookie], &format!("csrf={word}")).await;
    assert_eq!(retried.status(), StatusCode::SEE_OTHER);

    let bearer = [JSON, ("authorization", "Bearer a-token-of-a-script")];
    assert_eq!(post(&host, "/api/v1/plugins/one/pause", &bearer, "{}").await.status(), StatusCode::OK);
    let audit: Value = serde_json::from_str(&get(&host, "/api/v1/audit", &bearer).await.text().await.unwrap()).unwrap();
    let lines: Vec<(&str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["who"].as_str().unwrap(), line["action"].as_str().unwrap()))
        // They are told a moment later, together.
        .filter(|(_, action)| *action != "login.failed")
        .collect();
    assert_eq!(
        lines,
        [
            ("token script", "plugin.pause"),
            ("anna", "delivery.retry"),
            ("anna", "login"),
            ("viktor", "login"),
            ("viktor", "login"),
        ]
    );
    post(&host, "/console/logout", &[cookie], "").await;
    assert_eq!(get(&host, "/console", &[cookie]).await.status(), StatusCode::SEE_OTHER);
    let everything = host.log();
    for secret in ["correct horse", "battery", "a-token-of-a-script", TOKEN, &word] {
        assert!(!everything.contains(secret), "{secret}");
    }
}

/// The command line, against a host.
async fn command(host: &Host, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    command.args(arguments).args(["--host", host.base(), "--config"]).arg(host.folder().join("host.toml"));
    command.output().await.unwrap()
}

/// The same, where the configuration says where the host is.
async fn said_by(host: &Host, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    let output = command.args(arguments).arg("--config").arg(host.folder().join("host.toml")).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn said(host: &Host, arguments: &[&str]) -> String {
    let output = command(host, arguments).await;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

async fn told(host: &Host, arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let text = said(host, &arguments).await;
    serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text))
}

#[tokio::test]
async fn an_operators_night_on_the_command_line() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("one", "*")]);
    // The users' passwords are not known to whoever sits at the machine: the data folder is enough.
    let host = with_users().crm(&crm).plugins(folder.path()).start().await.unwrap();
    let good = told(&host, &["event", "send", "deal.edit", "did=1", "sin=none", "note=Ромашка"]).await;
    let good = good["id"].as_str().unwrap().to_owned();
    crm.fault_on(Some("task"), Some("add"), 1, Fault::HtmlFatal);
    for (did, sin) in [("2", "sin=add-task"), ("3", "sin=once"), ("4", "sin=once")] {
        said(&host, &["event", "send", "deal.edit", &format!("did={did}"), sin]).await;
    }
    let dead = wait_until("three dead letters", PATIENCE, async || {
        let dead = told(&host, &["dead", "list", "--plugin", "one"]).await;
        Ok((dead["items"].as_array().is_some_and(|items| items.len() == 3)).then_some(dead))
    })
    .await
    .unwrap();
    let found = told(&host, &["event", "list", "--text", "ромашка", "--since", "1h"]).await;
    assert_eq!(found["items"][0]["id"], good.as_str(), "{found}");
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let listed = said(&host, &["event", "list", "--entity", "deal:2"]).await;
    assert!(listed.starts_with("TIME ") && listed.contains("deal.edit") && listed.contains("one: dead"), "{listed}");
    let shown = said(&host, &["event", "show", dead["items"][0]["event"].as_str().unwrap()]).await;
    assert!(shown.contains("deal:2") && shown.contains("crm task.add FAILED"), "{shown}");
    let groups = said(&host, &["dead", "list", "--groups"]).await;
    assert!(groups.contains("one") && groups.lines().count() == 3, "{groups}");

    // A dead letter that is retried goes well, now that the CRM does; the rest goes by a job.
    let second = dead["items"].as_array().unwrap().iter().find(|letter| letter["entity"] == "deal:3").unwrap();
    said(&host, &["delivery", "retry", &second["delivery"].to_string()]).await;
    wait_until("its good end", PATIENCE, async || {
        let path = told(&host, &["event", "show", second["event"].as_str().unwrap()]).await;
        Ok((path["deliveries"][0]["state"] == "done").then_some(()))
    })
    .await
    .unwrap();
    let job = told(&host, &["dead", "retry", "--code", "rejected", "--pace", "50"]).await;
    assert_eq!(job["job"]["action"], "dead.retry", "{job}");
    wait_until("the end of the job", PATIENCE, async || {
        let jobs = told(&host, &["job", "list"]).await;
        Ok((jobs[0]["state"] == "done" && jobs[0]["changed"] == 1).then_some(()))
    })
    .await
    .unwrap();

    // Paused, replayed, resumed.
    said(&host, &["plugin", "pause", "one"]).await;
    let replayed = told(&host, &["event", "replay", &good, "--plugin", "one"]).await;
    let delivery = replayed["delivery"].to_string();
    assert!(said(&host, &["plugin", "list"]).await.contains("held"));
    assert_eq!(told(&host, &["event", "show", &good]).await["deliveries"][1]["state"], "ready");
    said(&host, &["plugin", "resume", "one"]).await;
    wait_until("the replay", PATIENCE, async || {
        let path = told(&host, &["event", "show", &good]).await;
        Ok((path["deliveries"][1]["state"] == "done" && path["deliveries"][1]["replay"] == true).then_some(()))
    })
    .await
    .unwrap();
    let range = told(&host, &["event", "replay", "--plugin", "one", "--name", "deal.edit", "--entity", "deal:1"]).await;
    assert_eq!(range["action"], "event.replay", "{range}");

    let checked = told(&host, &["crm", "check", "main"]).await;
    let checkup = &checked[0]["checkup"];
    assert_eq!((&checkup["key_accepted"], &checkup["problems"]), (&json!(true), &json!([])), "{checked}");
    assert!(checkup["user"].is_u64() && checkup["quirks"][0]["found"] == true, "{checked}");
    assert!(said(&host, &["audit"]).await.contains("plugin.resume"));
    assert!(said(&host, &["forget", "--entity", "deal:2", "--yes"]).await.contains("deal:2: 1 thing forgotten."));
    assert!(said(&host, &["event", "list", "--entity", "deal:2"]).await.contains("No such events."));

    // Each way of not being done has its code.
    let code = async |arguments: &[&str]| command(&host, arguments).await.status.code();
    assert_eq!(code(&["delivery", "retry", &delivery]).await, Some(5));
    assert_eq!(code(&["event", "show", "nonsense"]).await, Some(5));
    assert_eq!(code(&["plugin", "pause", "No-Name"]).await, Some(2));
    let nobody = tokio::process::Command::new(Setup::new().unwrap().program)
        .args(["event", "list", "--host", "http://127.0.0.1:9"])
        .output()
        .await
        .unwrap();
    assert_eq!(nobody.status.code(), Some(4));
    let stranger = tokio::process::Command::new(Setup::new().unwrap().program)
        .args(["event", "list", "--token", "not-the-token", "--host", host.base()])
        .output()
        .await
        .unwrap();
    assert_eq!(stranger.status.code(), Some(5));
}

#[tokio::test]
async fn a_tail_shows_attempts_as_they_end() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    let mut tail = tokio::process::Command::new(Setup::new().unwrap().program)
        .args(["tail", "--json", "--failed", "--config"])
        .arg(host.folder().join("host.toml"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // It may not listen yet: events come until the first is told.
    let first = async {
        let line = lines.next_line().await.unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let mut first = std::pin::pin!(first);
    let told = loop {
        host.accepted("event=a.b&id=1&sin=none").await.unwrap();
        host.accepted("event=a.b&id=2&sin=reject").await.unwrap();
        tokio::select! {
            told = &mut first => break told,
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    };
    assert_eq!(
        (&told["plugin"], &told["outcome"], &told["entity"]),
        (&json!("one"), &json!("rejected"), &json!("a:2"))
    );
}

#[tokio::test]
async fn an_open_page_does_not_hold_up_a_stop() {
    let mut host = Setup::new().unwrap().start().await.unwrap();
    let mut streams = Vec::new();
    let browser = host.browser().await.unwrap();
    for path in ["/console/live", "/api/v1/live"] {
        let stream = browser.get(format!("{}{path}", host.base())).send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream);
    }
    let began = std::time::Instant::now();
    assert_eq!(host.stop().await.unwrap(), Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |text: &str| {
        std::fs::write(folder.path().join("host.toml"), text).unwrap();
        let output = tokio::process::Command::new(Setup::new().unwrap().program)
            .args(["doctor", "--json", "--config"])
            .arg(folder.path().join("host.toml"))
            .output()
            .await
            .unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let bad: Vec<String> = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["state"] == "bad")
            .map(|finding| format!("{}: {}", finding["what"].as_str().unwrap(), finding["words"].as_str().unwrap()))
            .collect();
        (output.status.code(), bad)
    };
    let (code, bad) = run("[server]\nlisten = 5").await;
    assert_eq!((code, bad.len()), (Some(1), 1), "{bad:?}");
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/broken.wasm"), "no plugin").unwrap();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nmin_free_mib = 900000000\n[crm.main]\nurl = \"http://127.0.0.1:9\"\nlogin = \"x\"\napi_key = \"k\"\ntoken = \"{TOKEN}\""
    );
    let (code, bad) = run(&config).await;
    let named = |part: &str| bad.iter().any(|line| line.contains(part));
    assert_eq!(code, Some(1));
    for part in ["rights: everybody can read", "disk: ", "broken.wasm", "main: it does not answer"] {
        assert!(named(part), "{part}: {bad:?}");
    }
    assert!(!bad.iter().any(|line| line.contains(TOKEN)), "{bad:?}");
}

#[tokio::test]
async fn readiness_tells_why_not() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let ready = async |host: &Host| {
        let answer = get(host, "/readyz", &[]).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    assert_eq!(
        ready(&host).await,
        (200, json!({ "ready": true, "reasons": [], "remarks": [], "oldest_unrouted_s": null }))
    );
    let mut full = Setup::new().unwrap();
    full.server = "min_free_mib = 900000000".to_owned();
    let host = full.start().await.unwrap();
    let (status, answer) = ready(&host).await;
    assert_eq!((status, &answer["ready"]), (503, &json!(false)), "{answer}");
    assert!(answer["reasons"][0].as_str().unwrap().contains("server.min_free_mib"), "{answer}");
}

#[tokio::test]
async fn every_metric_that_is_documented_is_there_and_counts() {
    let crm = StandIn::start(Options::default()).await.unwrap();
    let folder = crate::plugins(&[("one", "*")]);
    let setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more("[retry]\nattempts = 1");
    let host = setup.start().await.unwrap();
    for body in ["event=a.b&id=1&sin=add-task", "event=a.b&id=2&sin=reject"] {
        host.accepted(body).await.unwrap();
    }
    host.post("event=").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let text = host.text("metrics").await.unwrap();
    for line in [
        "salesman_events_accepted_total{account=\"main\"} 2",
        "salesman_events_refused_total{code=\"ingress.no_event\"} 1",
        "salesman_attempts_total{plugin=\"one\",account=\"main\",outcome=\"done\"} 1",
        "salesman_dead_letters_total{plugin=\"one\",code=\"rejected\"} 1",
        "salesman_crm_calls_total{method=\"task\",kind=\"write\",outcome=\"answered\"} 1",
        "salesman_backlog{kind=\"dead\"} 1",
        "salesman_crm_reachable{account=\"main\"} 1",
        "salesman_plugin_mode{plugin=\"one\",account=\"main\",mode=\"flowing\"} 1",
        "salesman_event_accept_seconds_count 2",
        "salesman_delivery_seconds_count{plugin=\"one\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
    }
    let readme = std::fs::read_to_string(xtask::root().join("README.md")).unwrap();
    let source = std::fs::read_to_string(xtask::root().join("host/src/telemetry/metrics.rs")).unwrap();
    let dashboard = std::fs::read_to_string(xtask::root().join("host/grafana.json")).unwrap();
    let names: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("const ")?.split_once(": &str = \"")?.1.strip_suffix("\";"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
    }
    // The dashboard asks for nothing that is not there.
    for word in dashboard.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_')) {
        if word.starts_with("salesman_") {
            let plain = word.trim_end_matches("_bucket");
            assert!(names.contains(&plain), "{word}");
        }
    }
}

#[tokio::test]
async fn somebody_is_told_of_dead_letters_a_paused_plugin_and_a_crm_that_is_away() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let chat = StandIn::start(Options::default()).await.unwrap();
    let folder = crate::plugins(&[("one", "one.*"), ("two", "two.*")]);
    let more = format!(
        "[retry]\nattempts = 1\n[breaker]\nfailures = 3\npause_ms = 600000\n[alerts]\nhook = \"{}/botplanted-alert-token/sendMessage\"\nevery_s = 3600\nlanguage = \"ru\"",
        chat.base_url()
    );
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(&more).start().await.unwrap();
    let texts = || -> Vec<Value> { chat.messages().into_iter().map(|message| message.body).collect() };
    let kinds =
        || -> Vec<String> { texts().iter().map(|text| text["kind"].as_str().unwrap_or_default().to_owned()).collect() };
    for id in 0..3 {
        host.accepted(&format!("event=one.event&id={id}&sin=panic")).await.unwrap();
    }
    wait_until("letters and pause", PATIENCE, async || {
        let kinds = kinds();
        let both = kinds.iter().any(|kind| kind == "dead_letters") && kinds.iter().any(|kind| kind == "plugin_paused");
        Ok(both.then_some(()))
    })
    .await
    .unwrap();
    let letters: Vec<Value> = texts().into_iter().filter(|text| text["kind"] == "dead_letters").collect();
    // The first at once, the others together later.
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["plugin"], &letters[0]["code"]), (&json!("one"), &json!("plugin.trap")));
    assert!(letters[0]["text"].as_str().unwrap().starts_with("Недоставленные события"), "{letters:?}");
    crm.set_down(true);
    host.accepted("event=two.event&id=1&sin=add-task").await.unwrap();
    wait_until("the CRM's absence", PATIENCE, async || {
        Ok(kinds().iter().any(|kind| kind == "crm_unreachable").then_some(()))
    })
    .await
    .unwrap();
    crm.set_down(false);
    wait_until("the CRM's return", PATIENCE, async || {
        Ok(kinds().iter().any(|kind| kind == "crm_reachable").then_some(()))
    })
    .await
    .unwrap();
    std::fs::remove_file(folder.path().join("two.wasm")).unwrap();
    wait_until("the plugin's absence", PATIENCE, async || {
        let missing = texts().into_iter().find(|text| text["kind"] == "plugin_missing");
        Ok(missing.filter(|text| text["plugin"] == "two").map(drop))
    })
    .await
    .unwrap();
    assert!(!host.log().contains("planted-alert-token"));
}

/// Takes traces as a collector does.
async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
    let taken = Arc::clone(&spans);
    let take = async move |body: axum::body::Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        taken.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), spans)
}

#[tokio::test]
async fn one_trace_leads_from_the_hook_to_the_write_into_the_crm() {
    let crm = StandIn::start(Options::default()).await.unwrap();
    let (endpoint, spans) = collector().await;
    let folder = crate::plugins(&[("one", "*")]);
    let more = format!("[telemetry.traces]\nendpoint = \"{endpoint}\"");
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(&more).start().await.unwrap();
    let id = host.accepted("event=a.b&id=1&sin=add-task&title=planted-title").await.unwrap();
    let all = wait_until("three spans", PATIENCE, async || {
        let spans = spans.lock().unwrap();
        Ok((spans.len() >= 3).then(|| spans.clone()))
    })
    .await
    .unwrap();
    let named = |name: &str| all.iter().find(|span| span.name == name).unwrap();
    let (hook, attempt, call) = (named("hook a.b"), named("deliver one"), named("crm task.add"));
    let plain: String = hook.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(plain, id.replace('-', ""));
    assert!(all.iter().all(|span| span.trace_id == hook.trace_id));
    assert_eq!((&attempt.parent_span_id, &call.parent_span_id), (&hook.span_id, &attempt.span_id));
    assert!(hook.parent_span_id.is_empty() && call.start_time_unix_nano >= attempt.start_time_unix_nano);
    assert!(!format!("{all:?}").contains("planted-title"), "spans hold no arguments");
}

#[tokio::test]
async fn the_api_describes_itself_and_pages_by_cursor() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    for id in 0..5 {
        host.accepted(&format!("event=a.b&id={id}&sin=none")).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
    let description = host.api("openapi.json").await.unwrap();
    let bearer = format!("Bearer {}", host.token().unwrap());
    for (path, methods) in description["paths"].as_object().unwrap() {
        if methods.get("get").is_some() && !path.contains('{') {
            let answer = get(&host, path, &[("authorization", &bearer)]).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
        }
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = host.api(&format!("events?limit=2{cursor}")).await.unwrap();
        seen.extend(page["items"].as_array().unwrap().iter().map(|event| event["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    for wrong in ["events?cursor=x", "events?entity=client", "events?nonsense=1", "dead?cursor=x"] {
        let answer = get(&host, &format!("/api/v1/{wrong}"), &[("authorization", &bearer)]).await;
        let status = answer.status();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!((status, body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("console.bad_filter")), "{wrong}");
    }
}

#[tokio::test]
async fn the_console_can_have_an_address_of_its_own() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap();
    drop(free);
    let host = Setup::new().unwrap().more(&format!("[console]\nlisten = \"{own}\"")).start().await.unwrap();
    let page = async |base: String| http_client().unwrap().get(base).send().await.unwrap().status();
    assert_eq!(page(format!("http://{own}/console")).await, StatusCode::OK, "the page to log in");
    // The commands find it there.
    assert!(host.token().is_ok() && said_by(&host, &["audit", "--json"]).await.contains("[]"));
    assert_eq!(page(format!("{}/console", host.base())).await, StatusCode::NOT_FOUND);
    assert_eq!(page(format!("http://{own}/events/{TOKEN}")).await, StatusCode::NOT_FOUND);
}
