//! What must not be seen: fields that are hidden, wherever an event is shown; secrets, whoever tries to have them recorded.

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};

const VIEWER: &str = "a-token-of-a-viewer";
/// What is hidden; it stands in the events in many ways.
const MARKER: &str = "79161234567";

async fn shown(host: &Host, path: &str, token: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client.get(format!("{}{path}", host.base())).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Whether the marker stands in a text, in whatever way its digits are written.
fn tells(text: &str) -> bool {
    let digits: String = text
        .chars()
        .filter(|character| !matches!(character, ' ' | '-' | '(' | ')'))
        .map(|character| if character.is_ascii_digit() { character } else { 'x' })
        .collect();
    digits.contains(MARKER.get(1..).unwrap_or_default())
}

/// Events that hold it, each in another way, worked on by a plugin that tells it on.
async fn told_events(host: &Host) -> Vec<String> {
    let inner = json!({ "client": { "phone": MARKER } }).to_string();
    let encoded: String = url::form_urlencoded::byte_serialize(inner.as_bytes()).collect();
    let mut ids = Vec::new();
    for more in [
        json!({ "phone": MARKER }),
        json!({ "newparam": { "Phone": [MARKER] } }),
        json!({ "data": inner }),
        json!({ "data": json!({ "data": inner }).to_string() }),
        json!({ "data": format!("a=1&phone={MARKER}") }),
        json!({ "data": format!("a=1&data={encoded}") }),
        json!({ "data": format!("<client><phone>{MARKER}</phone></client>") }),
        json!({ "fields": [{ "name": "phone", "value": MARKER }] }),
        json!({ "phone": MARKER, "title": format!("call {MARKER}") }),
        json!({ "phone": MARKER, "title": "call +7 (916) 123-45-67" }),
        json!({ "phone": MARKER, "id": MARKER }),
        json!({ "phone": MARKER, "sin": format!("no {MARKER}") }),
    ] {
        let mut event = json!({ "event": "call.add", "id": "5", "sin": "add-task" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = event.to_string().into_bytes();
        let (status, answer) = host.send("POST", "", Some("application/json"), body).await.unwrap();
        assert_eq!(status, 202, "{answer}");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test]
async fn a_viewer_sees_and_finds_nothing_that_is_hidden_on_any_route() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("one", "*")]);
    let more = format!(
        "[retry]\nattempts = 1\n[console]\nmask = [\"phone\"]\n[console.tokens.viewer]\nrole = \"viewer\"\ntoken = \"{VIEWER}\""
    );
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(&more).start().await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut live = client.get(format!("{}/api/v1/live", host.base())).bearer_auth(VIEWER).send().await.unwrap();
    let ids = told_events(&host).await;
    host.idle(PATIENCE).await.unwrap();

    let description = host.api("openapi.json").await.unwrap();
    let mut paths = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        if methods.get("get").is_none() {
            continue;
        }
        match path.as_str() {
            "/api/v1/events/{id}" => paths.extend(ids.iter().map(|id| path.replace("{id}", id))),
            "/api/v1/deliveries/{id}" => paths.extend((1..=ids.len()).map(|id| path.replace("{id}", &id.to_string()))),
            "/api/v1/plugins/{name}" => paths.push(path.replace("{name}", "one")),
            "/api/v1/forget/{account}/{entity}" => paths.push("/api/v1/forget/main/call:5?mentions=true".to_owned()),
            "/api/v1/forgotten/{number}" => {}
            path => {
                assert!(!path.contains('{'), "`{path}` is not tried here");
                paths.push(path.to_owned());
            }
        }
    }
    for page in ["", "/events", "/plugins", "/plugins/one", "/dead", "/audit"] {
        paths.push(format!("/console{page}"));
    }
    paths.extend(ids.iter().map(|id| format!("/console/events/{id}")));
    paths.push("/metrics".to_owned());
    for path in &paths {
        let (status, text) = shown(&host, path, VIEWER).await;
        assert!(status == 200 || path.contains("/forget/") && status == 403, "{path}: {status} {text}");
        assert!(!tells(&text), "{path}: {text}");
        // One must have asked for it, and be allowed to.
        if path.contains("/api/v1/events/") || path.contains("/api/v1/deliveries/") {
            let (_, text) = shown(&host, &format!("{path}?unmasked=true"), VIEWER).await;
            assert!(!tells(&text), "{path}: {text}");
        }
    }
    let mut told = String::new();
    while told.matches("event: attempt").count() < ids.len() {
        let chunk = tokio::time::timeout(PATIENCE, live.chunk()).await.unwrap().unwrap().unwrap();
        told.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!tells(&told), "{told}");

    let found = async |query: &str, token: &str| {
        let (status, text) = shown(&host, &format!("/api/v1/events?{query}"), token).await;
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{query}: {status} {text}"));
        found["items"].as_array().map_or(0, Vec::len)
    };
    for digits in 4..=MARKER.len() {
        for query in [format!("text={}", &MARKER[..digits]), format!("text={}", &MARKER[MARKER.len() - digits..])] {
            assert_eq!(found(&query, VIEWER).await, 0, "{query}");
            assert_eq!(found(&format!("{query}&unmasked=true"), VIEWER).await, 0, "{query}");
        }
    }
    assert_eq!(found(&format!("entity=call:{MARKER}"), VIEWER).await, 0);
    assert_eq!(found("entity=call:5", VIEWER).await, ids.len() - 1, "other records are found");
    // Whoever may see it finds it, when asked for, and that is in the operators' log.
    let token = host.token().unwrap();
    assert_eq!(found(&format!("text={MARKER}"), &token).await, 0);
    assert_eq!(found(&format!("text={MARKER}&unmasked=true"), &token).await, ids.len());
    assert!(tells(&shown(&host, &format!("/api/v1/events/{}?unmasked=true", ids[0]), &token).await.1));
    let audit = host.api("audit").await.unwrap();
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][1]["object"]),
        (&json!("event.unmasked"), &json!("search"))
    );
    nothing_hidden_is_counted_or_shown_before_a_change(&host, ids.len()).await;
}

/// An admin who did not ask for it sees it in no question either.
async fn nothing_hidden_is_counted_or_shown_before_a_change(host: &Host, events: usize) {
    let at = (host, &host.browser().await.unwrap());
    let word = crate::deeds::csrf(at).await;
    let replay = async |text: &str| {
        let body = format!("csrf={word}&plugin=one&text={text}");
        let (status, page) = crate::deeds::form(at, "/console/events/replay", &body).await;
        assert_eq!(status, 200, "{page}");
        page
    };
    let part = &MARKER[..8];
    let page = replay(part).await;
    assert!(page.contains(": 0</h1>"), "{page}");
    let page = replay("").await;
    assert!(page.contains("call:5") && page.contains("•••") && !tells(&page), "{page}");
    let mut some = format!("csrf={word}&do=drop&next=/console/dead");
    (1..=events).for_each(|id| some.push_str(&format!("&delivery={id}")));
    let (status, page) = crate::deeds::form(at, "/console/dead/some", &some).await;
    assert!(status == 200 && page.contains("call:5") && page.contains("•••") && !tells(&page), "{status} {page}");
    let asked = |unmasked: bool| json!({ "plugin": "one", "filter": { "text": part, "unmasked": unmasked } });
    assert_eq!(host.ask("events/replay", &asked(false)).await.unwrap().0, 200);
    wait_until("the job's end", PATIENCE, async || {
        let jobs = host.api("jobs").await?;
        Ok((jobs[0]["state"] == "done").then(|| assert_eq!(jobs[0]["total"], 0)))
    })
    .await
    .unwrap();
    assert_eq!(host.ask("events/replay", &asked(true)).await.unwrap().0, 400);
}

#[tokio::test]
async fn a_plugin_that_tells_a_secret_and_a_crm_that_sends_back_the_key_put_nothing_into_the_records() {
    const KEY: &str = "planted-api-key-0123456789";
    const SETTING: &str = "planted-setting-0123456789";
    let crm = StandIn::start(Options { api_key: KEY.to_owned(), demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("writer", "*")]);
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(
        "[retry]\nfirst_ms = 1\nattempts = 2\n[telemetry]\nlevel = \"debug\"\n[plugins.writer]\nsettings = { password = { env = \"PLANTED\" } }",
    );
    setup.dev = true;
    let mut host = setup.environment("PLANTED", SETTING).start().await.unwrap();
    host.accepted("event=a.b&id=1&sin=leak").await.unwrap();
    // The CRM sends back what it was sent, as an error and as an answer.
    for (id, body) in [
        (2, r#"{"error":{"code":"404","text":"no task for planted-api-key-0123456789"}}"#),
        (
            3,
            r#"{"result":"ok","data":7,"sent":{"apikey":"planted-api-key-0123456789","x":"planted%2Dapi%2Dkey%2D0123456789"}}"#,
        ),
        (4, "<b>Notice</b>: apikey=planted-api-key-0123456789"),
    ] {
        host.idle(PATIENCE).await.unwrap();
        crm.fault_on(Some("task"), Some("add"), 1, Fault::Instead { status: "200 OK", retry_after: None, body });
        host.accepted(&format!("event=a.b&id={id}&sin=add-task")).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
    let events = host.api("events").await.unwrap();
    let mut everything = String::new();
    for event in events["items"].as_array().unwrap() {
        everything.push_str(&host.api(&format!("events/{}", event["id"].as_str().unwrap())).await.unwrap().to_string());
    }
    for path in ["events", "plugins", "dead", "dead/groups", "overview", "failures", "audit", "crm", "notices"] {
        everything.push_str(&host.api(path).await.unwrap().to_string());
    }
    assert!(
        everything.contains("because of *** and ***") && everything.contains("holds a secret of the configuration")
    );
    assert!(everything.contains("no task for ***"), "{everything}");
    let data = host.data();
    host.kill().unwrap();
    everything.push_str(&host.log());
    for file in crate::files_below(&data) {
        everything.push_str(&String::from_utf8_lossy(&std::fs::read(file).unwrap()));
    }
    let lower = everything.to_lowercase();
    for secret in [KEY, SETTING, "planted-setting", "planted-set", "planted-api", "706c616e7465642d736574"] {
        let at = lower.find(secret);
        let around = at.map(|at| lower.get(at.saturating_sub(80)..at + 60));
        assert_eq!(at, None, "{secret}: {around:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_changed_under_way_is_kept_out_too() {
    let folder = crate::plugins(&[("writer", "*")]);
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, "planted-first-0123456789").unwrap();
    let more = format!("[plugins.writer]\nsettings = {{ password = {{ file = {file:?} }} }}");
    let mut setup = Setup::new().unwrap().plugins(folder.path()).more(&more);
    setup.dev = true;
    let host = setup.start().await.unwrap();
    std::fs::write(&file, "planted-other-0123456789").unwrap();
    wait_until("the new secret", PATIENCE, async || Ok(host.log().contains("Configuration read again").then_some(())))
        .await
        .unwrap();
    let id = host.accepted("event=a.b&id=1&sin=leak").await.unwrap();
    let path = host.settled(&id).await.unwrap().to_string();
    assert!(path.contains("because of ***") && !path.contains("planted"), "{path}");
}

#[tokio::test]
async fn what_the_crm_says_of_a_record_is_in_the_attempt_and_not_in_the_log() {
    const SAID: &str =
        r#"{"error":{"code":400,"text":"\u041d\u0435\u0432\u0435\u0440\u043d\u044b\u0439 phone 79161234567"}}"#;
    const REFUSED: &str = r#"{"error":{"code":79161234567,"text":"phone 79161234567"}}"#;
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("one", "*")]);
    let more = "[retry]\nattempts = 1\n[telemetry]\nlevel = \"debug\"\n[console]\nmask = [\"phone\"]";
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    let refused = Fault::Instead { status: "200 OK", retry_after: None, body: REFUSED };
    crm.fault_on(Some("task"), Some("add"), 1, refused);
    let id = host.accepted("event=a.b&id=1&sin=add-task").await.unwrap();
    host.settled(&id).await.unwrap();
    // The attempt has it, for whoever may see it.
    let path = host.api(&format!("events/{id}?unmasked=true")).await.unwrap().to_string();
    assert!(tells(&path), "{path}");
    // The call breaks off, and whoever looks at the CRM then is refused.
    crm.fault_on(Some("task"), Some("add"), 1, Fault::Down);
    crm.fault_on(None, None, 10_000, Fault::Instead { status: "200 OK", retry_after: None, body: SAID });
    host.accepted("event=a.b&id=2&sin=add-task").await.unwrap();
    wait_until("what the log says of the CRM", PATIENCE, async || {
        let log = host.log();
        Ok(["The CRM can't be used", "CRM call failed"].iter().all(|line| log.contains(line)).then_some(()))
    })
    .await
    .unwrap();
    let log = host.log();
    assert!(log.contains("the CRM refused with code 400") && !tells(&log), "{log}");
    let overview = host.api("overview").await.unwrap().to_string();
    assert!(overview.contains("the CRM refused with code 400") && !tells(&overview), "{overview}");
}
