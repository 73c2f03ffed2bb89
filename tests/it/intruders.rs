//! Who may send, how slowly and how often; and that no secret ever shows.

use std::time::{Duration, Instant};

use integration_tests::host::{Host, PATIENCE, Setup, TOKEN, http_client};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) async fn connect(host: &Host) -> TcpStream {
    TcpStream::connect(host.base().strip_prefix("http://").unwrap()).await.unwrap()
}

/// Whether the host closes the connection within a time.
async fn closed(stream: &mut TcpStream, within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_sender_that_dawdles_is_cut_off_and_takes_no_others_place() {
    let mut setup = Setup::new().unwrap();
    setup.server = "head_timeout_ms = 300\nbody_timeout_ms = 300\nmax_connections = 20".to_owned();
    let host = setup.start().await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&host).await;
        stream.write_all(b"POST /events/").await.unwrap();
        slow.push(stream);
    }
    host.accepted("event=a.b").await.unwrap();
    let began = Instant::now();
    for stream in &mut slow {
        assert!(closed(stream, Duration::from_secs(5)).await, "a head that never ends keeps its connection");
    }
    assert!(began.elapsed() >= Duration::from_millis(100), "it was closed before its time");

    let mut body = connect(&host).await;
    let head = format!(
        "POST /events/{TOKEN} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    body.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(5), body.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).contains("ingress.incomplete"));
}

#[tokio::test]
async fn an_account_that_names_its_senders_takes_no_others() {
    let mut setup = Setup::new().unwrap();
    setup.server = "trust_proxies = [\"127.0.0.1\"]".to_owned();
    setup.crm_lines = "allow = [\"10.9.0.0/16\", \"2001:db8::1\"]".to_owned();
    let host = setup.start().await.unwrap();
    let cases = [
        (None, 403),
        (Some("10.9.8.7"), 202),
        (Some("2001:db8::1"), 202),
        (Some("10.8.8.7"), 403),
        // What stands before the trusted proxy's own entry is the sender's invention.
        (Some("10.9.8.7, 203.0.113.5"), 403),
        (Some("203.0.113.5, 10.9.8.7"), 202),
        (Some("203.0.113.5, 10.9.8.7, 127.0.0.1"), 202),
        (Some("nonsense"), 403),
    ];
    for (forwarded, expected) in cases {
        let mut request = http_client().unwrap().post(host.hook()).header("content-type", "application/json");
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        let response = request.body("{\"event\":\"a.b\"}").send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(status, expected, "{forwarded:?} {text}");
        assert!(status != 403 || text.contains("ingress.address"), "{text}");
    }
}

#[tokio::test]
async fn an_event_that_is_sent_again_under_its_name_is_the_same_event() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let send = async |key: &str| {
        let request = http_client().unwrap().post(host.hook()).header("content-type", "application/json");
        let response = request.header("idempotency-key", key).body("{\"event\":\"a.b\"}").send().await.unwrap();
        let status = response.status().as_u16();
        let answer: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        (status, answer["id"].clone(), answer["code"].clone())
    };
    let first = send("0123456789abcdef").await;
    assert_eq!(first.0, 202);
    assert_eq!(send("0123456789abcdef").await, first);
    assert_ne!(send("another").await.1, first.1);
    assert_eq!(host.api("events").await.unwrap()["items"].as_array().unwrap().len(), 2);
    assert_eq!(send(&"x".repeat(129)).await.2, "ingress.bad_key");
}

#[tokio::test]
async fn no_secret_shows_in_the_log_the_store_or_the_api() {
    let key = "planted-api-key-0123456789";
    let crm = StandIn::start(Options { api_key: key.to_owned(), demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("writer", "*")]);
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(
        "[retry]\nfirst_ms = 1\nattempts = 2\n[telemetry]\nlevel = \"debug\"\n[plugins.writer]\nsettings = { password = { env = \"PLANTED\" } }",
    );
    setup.dev = true;
    let mut host = setup.environment("PLANTED", "planted-setting-0123456789").start().await.unwrap();
    crm.fault_on(Some("task"), Some("add"), 1, Fault::HtmlFatal);
    for body in [
        "event=a.b&id=1&sin=add-task&ses=planted-session-0123456789",
        "event=a.b&id=2&sin=panic&ses[x]=planted-session-0123456789",
        "event=a.b&id=3&sin=tell&url=http://127.0.0.1:1/",
        "event=%FF&ses=planted-session-0123456789",
    ] {
        host.post(body).await.unwrap();
    }
    let wrong = format!("{}/events/planted-wrong-token-0123456789", host.base());
    assert_eq!(http_client().unwrap().get(wrong).send().await.unwrap().status().as_u16(), 401);
    // Before the CRM goes away: its queue would wait with all that is in it.
    wait_until("those that end", PATIENCE, async || {
        let backlog = host.api("backlog").await?;
        Ok((backlog["unrouted"] == 0 && backlog["open"].as_u64() <= Some(1)).then_some(()))
    })
    .await
    .unwrap();
    crm.set_down(true);
    let (_, last) = host.post("event=a.b&id=4&sin=add-task").await.unwrap();
    wait_until("an attempt without the CRM", PATIENCE, async || {
        let path = host.api(&format!("events/{}", last["id"].as_str().unwrap_or_default())).await?;
        Ok(path["deliveries"][0]["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty()).then_some(()))
    })
    .await
    .unwrap();
    let mut everything = host.log();
    let browser = host.browser().await.unwrap();
    for page in ["", "/events", "/plugins", "/dead", "/audit", "/login"] {
        let page = browser.get(format!("{}/console{page}", host.base())).send().await.unwrap();
        assert_eq!(page.status().as_u16(), 200, "{}", page.url());
        everything.push_str(&page.text().await.unwrap());
    }
    for path in ["events", "plugins", "queues", "backlog", "dead", "overview", "failures", "audit", "crm", "me"] {
        everything.push_str(&host.api(path).await.unwrap().to_string());
    }
    for event in host.api("events").await.unwrap()["items"].as_array().unwrap() {
        everything.push_str(&host.api(&format!("events/{}", event["id"].as_str().unwrap())).await.unwrap().to_string());
    }
    let data = host.data();
    host.kill().unwrap();
    for file in crate::files_below(&data) {
        everything.push_str(&String::from_utf8_lossy(&std::fs::read(file).unwrap()));
    }
    assert!(everything.contains("add-task"), "the search looks into the right place");
    for secret in [key, TOKEN, "planted-session", "planted-wrong-token", "planted-setting"] {
        let at = everything.find(secret);
        let around = at.map(|at| everything.get(at.saturating_sub(80)..at + 40));
        assert_eq!(at, None, "{secret}: {around:?}");
    }
}

/// A request as a proxy sends it on that was told nothing but where to.
async fn through_a_plain_proxy(host: &Host, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = client.get(format!("{}{path}", host.base())).version(reqwest::Version::HTTP_10);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A request of the API as a program of the host's user sends it, or with a token.
async fn asked(
    host: &Host,
    method: &str,
    path: &str,
    body: Option<(&str, &str)>,
    token: Option<&str>,
) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", host.base()));
    if let Some((kind, body)) = body {
        request = request.header("content-type", kind).body(body.to_owned());
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// What a row of the CRM's webhooks makes it send to wherever it says.
const AS_A_WEBHOOK: &[(&str, &str)] = &[
    ("application/x-www-form-urlencoded", "event=client.edit&clid=5&iduser1=3"),
    ("application/json", "{\"event\":\"client.edit\",\"clid\":\"5\",\"iduser1\":\"3\"}"),
];

#[tokio::test]
async fn nothing_is_changed_for_being_on_the_hosts_machine_and_nothing_read_for_others() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    host.accepted("event=client.edit&clid=5&phone=planted-phone&sin=none").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let description = host.api("openapi.json").await.unwrap();
    let token = host.token().unwrap();
    let before = host.api("audit").await.unwrap();
    let (mut reads, mut changes) = (0, 0);
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.replace("{name}", "one").replace("{account}", "main").replace("{entity}", "client:5");
        let path = path.replace("{id}", "1");
        if methods.get("get").is_some() {
            reads += 1;
            assert_eq!(through_a_plain_proxy(&host, &path).await.0, 401, "{path}");
        }
        if methods.get("post").is_some() {
            changes += 1;
            for body in AS_A_WEBHOOK.iter().copied().chain([("application/json", "{}")]) {
                assert_eq!(asked(&host, "POST", &path, Some(body), None).await.0, 401, "{path} {body:?}");
            }
            // Not even with the token: an event is no wish, whatever it is sent to.
            for body in AS_A_WEBHOOK {
                let (status, answer) = asked(&host, "POST", &path, Some(*body), Some(&token)).await;
                assert_eq!(status, 400, "{path} {body:?}: {answer}");
            }
        }
    }
    assert!(reads > 15 && changes > 15, "{reads} {changes}");
    for (path, expected) in [("/metrics", 401), ("/api/v1/live", 401), ("/console", 303), ("/console/events", 303)] {
        let (status, text) = through_a_plain_proxy(&host, path).await;
        assert!(status == expected && !text.contains("planted"), "{path}: {status} {text}");
    }
    // Without users there is no login at all.
    for (path, expected) in [("/console/plugins/one/revoke", 401), ("/console/dead/all", 401), ("/console/login", 404)]
    {
        let (status, _) = asked(&host, "POST", path, Some(AS_A_WEBHOOK[0]), None).await;
        assert_eq!(status, expected, "{path}");
    }
    assert_eq!(host.api("audit").await.unwrap(), before, "nothing was done, and nothing announced");
    // What is open to everybody tells nothing of anybody.
    for path in ["/healthz", "/readyz", "/console/login"] {
        let (status, text) = asked(&host, "GET", path, None, None).await;
        assert!(status == 200 && !text.contains("planted") && !text.contains("one\""), "{path}: {text}");
    }
}

#[tokio::test]
async fn who_could_read_the_data_folder_anyway_may_look_while_nobody_is_named_and_change_nothing() {
    let open = Setup::new().unwrap().more("[console]\nmask = [\"phone\"]\n").start().await.unwrap();
    open.accepted("event=client.edit&clid=5&phone=planted-phone").await.unwrap();
    open.idle(PATIENCE).await.unwrap();
    let (status, text) = asked(&open, "GET", "/api/v1/events", None, None).await;
    assert!(status == 200 && text.contains("client.edit") && !text.contains("planted"), "{status} {text}");
    let (_, me) = asked(&open, "GET", "/api/v1/me", None, None).await;
    assert!(me.contains("viewer"), "{me}");
    let (status, page) = asked(&open, "GET", "/console/events", None, None).await;
    assert!(status == 200 && !page.contains("planted") && !page.contains("log_out"), "{status} {page}");
    let pause = ("application/json", "{\"plugin\":\"one\",\"account\":\"main\"}");
    for path in ["/api/v1/plugins/one/pause", "/api/v1/plugins/one/revoke", "/api/v1/queues/drop"] {
        assert_eq!(asked(&open, "POST", path, Some(pause), None).await.0, 401, "{path}");
    }
    let named = "[console.tokens.board]\nrole = \"viewer\"\ntoken = \"board-token-0123456789abcdef\"\n";
    let closed = Setup::new().unwrap().more(named).start().await.unwrap();
    assert_eq!(asked(&closed, "GET", "/api/v1/events", None, None).await.0, 401);
}

#[tokio::test]
async fn a_link_opens_the_console_once_and_the_token_ends_with_the_host() {
    let mut host = Setup::new().unwrap().start().await.unwrap();
    let config = host.folder().join("host.toml");
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    let printed = command.args(["console", "--config"]).arg(&config).output().await.unwrap();
    let link = String::from_utf8(printed.stdout).unwrap().trim().to_owned();
    let path = link.strip_prefix(host.base()).unwrap().to_owned();
    // A program that looks at links before people open them uses nothing up.
    assert_eq!(asked(&host, "HEAD", &path, None, None).await.0, 403);
    assert_eq!(asked(&host, "GET", &path, None, None).await.0, 303);
    let (status, text) = asked(&host, "GET", &path, None, None).await;
    assert!(status == 403 && text.contains("console.link"), "{text}");
    let page = host.browser().await.unwrap().get(format!("{}/console/audit", host.base())).send().await.unwrap();
    let text = page.text().await.unwrap();
    assert!(text.contains("console.link") && text.contains("this machine"), "{text}");
    assert!(!host.log().contains(path.rsplit('=').next().unwrap()), "the word is in no log");
    let token = host.token().unwrap();
    host.stop().await.unwrap();
    assert!(host.token().is_err());
    host.start().await.unwrap();
    assert_eq!(asked(&host, "GET", "/api/v1/me", None, Some(&token)).await.0, 401);
}

#[tokio::test]
async fn of_a_hundred_guesses_at_once_five_are_looked_at_and_nobody_else_waits() {
    let mut setup = crate::operators::with_users();
    setup.server = "trust_proxies = [\"127.0.0.1\"]".to_owned();
    let host = setup.start().await.unwrap();
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let login = |password: String, from: &str| {
        let request = client.post(format!("{}/console/login", host.base())).header("x-forwarded-for", from);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(format!("name=anna&password={password}"));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..100 {
        guesses.spawn(login(format!("planted-guess-{number}"), "198.51.100.66"));
    }
    let statuses = guesses.join_all().await;
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    assert!((1..=5).contains(&looked_at) && statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    assert_eq!(login("correct+horse".to_owned(), "198.51.100.66").await, 429, "the guesser waits");
    assert_eq!(login("correct+horse".to_owned(), "198.51.100.10").await, 303, "and nobody else does");
    // Operators are told how often, by one line; of what was typed nothing.
    let told = wait_until("the operators' log", PATIENCE, async || {
        let audit = host.api("audit").await?;
        let lines: Vec<serde_json::Value> = audit["items"].as_array().cloned().unwrap_or_default();
        let lines: Vec<_> = lines.into_iter().filter(|line| line["action"] == "login.failed").collect();
        Ok((!lines.is_empty()).then_some(lines))
    });
    let told = told.await.unwrap();
    let expected = ("anna", "198.51.100.66", "101 times");
    let line = |key: &str| told[0][key].as_str().unwrap_or_default().to_owned();
    assert_eq!((told.len(), (line("who").as_str(), line("object").as_str(), line("details").as_str())), (1, expected));
    let log = host.log();
    assert!(!log.contains("planted-guess") && log.matches("Somebody could not log in").count() == 1, "{log}");
}
