//! Many at once who mean it ill: none of them keeps the CRM's events out, and the host's memory and log stay small.

use std::time::{Duration, Instant};

use crate::intruders::connect;
use integration_tests::host::{Host, PATIENCE, Setup, TOKEN, http_client};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const LOGIN: &str =
    "POST /console/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: ";

/// Mebibytes that the host's process has held at most.
fn most_held(host: &Host) -> u64 {
    host.memory("VmHWM").unwrap() >> 10
}

/// The host's open files and connections.
fn open_files(host: &Host) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.pid().unwrap())).unwrap().count()
}

/// Lines of configuration for a user whose password nobody here knows.
fn a_user() -> String {
    let hash = salesman_host::console::hash_password("a long password").unwrap();
    format!("[console.users.anna]\npassword = {hash:?}\nrole = \"admin\"")
}

/// The head of an answer, and what came with it.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4_096];
    match tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap() {
        Ok(read) => String::from_utf8_lossy(&bytes[..read]).into_owned(),
        Err(_) => String::new(),
    }
}

/// The answer to an event on a connection of its own, as the CRM's.
async fn sent(host: &Host, n: usize) -> String {
    let mut stream = connect(host).await;
    let body = format!("event=a.b&id={n}");
    let head = "content-type: application/x-www-form-urlencoded";
    let length = body.len();
    let request =
        format!("POST /events/{TOKEN} HTTP/1.1\r\nhost: x\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    // A reset shows as an empty answer.
    drop(stream.write_all(request.as_bytes()).await);
    answer(&mut stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_hold_every_place_make_room_for_events() {
    let mut setup = Setup::new().unwrap();
    setup.server = "max_connections = 40".to_owned();
    let host = setup.start().await.unwrap();
    let mut floods = JoinSet::new();
    for silent in [true, false] {
        for _ in 0..100 {
            let address = host.base().strip_prefix("http://").unwrap().to_owned();
            // Whoever is closed comes again, for ever.
            floods.spawn(async move {
                loop {
                    let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
                    if silent {
                        // It ends with the connection.
                        drop(stream.read(&mut [0; 1]).await);
                    } else {
                        let asks = "GET /console/style.css HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
                        drop(stream.write_all(asks.as_bytes()).await);
                        // Nothing of an answer is read.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            });
        }
    }
    let full = "Connection closed to make room";
    wait_until("a full table", PATIENCE, async || Ok(host.log().contains(full).then_some(()))).await.unwrap();
    for n in 0..10 {
        let answer = sent(&host, n).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "event {n}: {answer}");
    }
    floods.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_of_somebody_known_make_room_for_events() {
    let mut setup = Setup::new().unwrap();
    setup.server = "max_connections = 40".to_owned();
    for role in ["viewer", "admin"] {
        let token = format!("{role}-token-0123456789abcdef");
        setup = setup.more(&format!("[console.tokens.{role}]\nrole = \"{role}\"\ntoken = \"{token}\""));
    }
    let host = setup.start().await.unwrap();
    for (role, asks) in [("viewer", "GET /api/v1/events"), ("admin", "POST /api/v1/events/replay")] {
        let mut held = Vec::new();
        for _ in 0..80 {
            let mut stream = connect(&host).await;
            let head = format!("host: x\r\nauthorization: Bearer {role}-token-0123456789abcdef\r\ncontent-length: 100");
            // Where it is refused already, that is well.
            drop(stream.write_all(format!("{asks} HTTP/1.1\r\n{head}\r\n\r\n{{").as_bytes()).await);
            held.push(stream);
        }
        for n in 0..5 {
            let answer = sent(&host, n).await;
            assert!(answer.starts_with("HTTP/1.1 202"), "event {n} beside a {role}'s: {answer}");
        }
    }
}

#[tokio::test]
async fn whoever_reads_no_answer_is_closed() {
    let mut setup = Setup::new().unwrap();
    setup.server = "answer_timeout_ms = 300\nhead_timeout_ms = 600000".to_owned();
    let host = setup.start().await.unwrap();
    let before = open_files(&host);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&host).await;
        let asks = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(400);
        stream.write_all(asks.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    wait_until("the end of their connections", PATIENCE, async || Ok((open_files(&host) <= before).then_some(())))
        .await
        .unwrap();
    // Somebody who reads is not closed.
    assert_eq!(http_client().unwrap().get(format!("{}/healthz", host.base())).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn logins_that_never_end_hold_little_and_not_for_long() {
    let host = Setup::new().unwrap().more(&a_user()).start().await.unwrap();
    let before = most_held(&host);
    let mut streams = Vec::new();
    for _ in 0..150 {
        let mut stream = connect(&host).await;
        stream.write_all(format!("{LOGIN}2000000\r\n\r\n").as_bytes()).await.unwrap();
        // It may be refused already.
        drop(stream.write_all(&vec![b'x'; 1 << 20]).await);
        streams.push(stream);
    }
    for stream in &mut streams {
        let answer = answer(stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 413") || answer.starts_with("HTTP/1.1 429"),
            "{answer}"
        );
    }
    assert!(most_held(&host) < before + 40, "{before} → {} MiB", most_held(&host));
    // Small ones that never end, too; whoever logs in meanwhile is heard.
    let began = Instant::now();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(&host).await;
        stream.write_all(format!("{LOGIN}100\r\n\r\nname=anna").as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let login = http_client().unwrap().post(format!("{}/console/login", host.base()));
    let login = login.header("content-type", "application/x-www-form-urlencoded").body("name=anna&password=wrong");
    assert_eq!(login.send().await.unwrap().status().as_u16(), 401);
    for stream in &mut streams {
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(60));

    let nobody = Setup::new().unwrap().start().await.unwrap();
    let mut stream = connect(&nobody).await;
    stream.write_all(format!("{LOGIN}100\r\n\r\n").as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 404"), "there is nobody to log in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_logins_at_once_take_the_memory_of_one() {
    let host = Setup::new().unwrap().more(&a_user()).start().await.unwrap();
    let before = most_held(&host);
    let mut logins = JoinSet::new();
    for n in 0..60 {
        let login = format!("{}/console/login", host.base());
        logins.spawn(async move {
            let request =
                http_client().unwrap().post(login).header("content-type", "application/x-www-form-urlencoded");
            request.body(format!("name=user{n}&password=wrong")).send().await.unwrap().status().as_u16()
        });
    }
    let mut looked_at = 0;
    while let Some(status) = logins.join_next().await {
        let status = status.unwrap();
        assert!(matches!(status, 401 | 429), "{status}");
        looked_at += usize::from(status == 401);
    }
    assert!(looked_at > 0);
    assert!(most_held(&host) < before + 45, "{before} → {} MiB for {looked_at}", most_held(&host));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_without_end_leave_a_few_lines_and_their_number() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let http = http_client().unwrap();
    for _ in 0..300 {
        let wrong = http.get(format!("{}/events/wrong", host.base())).send().await.unwrap();
        assert_eq!(wrong.status().as_u16(), 401);
    }
    // Another kind has its own lines.
    assert_eq!(http.get(format!("{}/events/wrong/path", host.base())).send().await.unwrap().status().as_u16(), 404);
    let lines = |log: &str, code: &str| {
        log.lines()
            .filter(|line| line.contains("Event refused.") && line.contains("reason=") && line.contains(code))
            .count()
    };
    wait_until("what was left out", PATIENCE, async || Ok(host.log().contains("were left out").then_some(())))
        .await
        .unwrap();
    let log = host.log();
    let told = lines(&log, "unknown_token");
    assert!((20..=60).contains(&told) && lines(&log, "ingress.path") == 1, "{told}\n{log}");
    let out: usize =
        log.lines().filter_map(|line| line.split_once("lines=")?.1.split(' ').next()?.parse::<usize>().ok()).sum();
    assert!(out <= 300 - told && out > 0, "{out} {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_taken_whole_and_silent_bodies_of_one_account_refuse_no_other() {
    let mut setup = Setup::new().unwrap().more("[crm.second]\ntoken = \"second-token-0123456789\"");
    setup.server = "max_senders = 20\nbody_timeout_ms = 60000".to_owned();
    let host = setup.start().await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..15 {
        let mut stream = connect(&host).await;
        let head = "host: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked";
        let request = format!("POST /events/second-token-0123456789 HTTP/1.1\r\n{head}\r\n\r\n5\r\n{{\"a\":\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    // Its own share is used up: five are told to come again.
    let mut refused = 0;
    for stream in &mut silent {
        let answer = tokio::time::timeout(Duration::from_secs(5), answer(stream)).await.unwrap_or_default();
        refused += usize::from(answer.starts_with("HTTP/1.1 429"));
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5);
    // More at once than there are places: the others wait a moment.
    let mut burst = JoinSet::new();
    for n in 0..60 {
        let url = format!("{}?event=a.b&id={n}", host.hook());
        let http = http_client().unwrap();
        burst.spawn(async move { http.get(url).send().await.unwrap().status().as_u16() });
    }
    let answers = burst.join_all().await;
    assert_eq!(answers, vec![202; 60]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_of_a_crm_are_held_one_at_a_time() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("asker", "*")]);
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more("[retry]\nattempts = 1");
    setup.crm_lines = "concurrency = 8".to_owned();
    let host = setup.start().await.unwrap();
    // What takes the most memory as values: very many of them.
    let body: &'static str = Box::leak(format!("{{\"data\":[{}1]}}", "1,".repeat(7_900_000)).into_boxed_str());
    crm.fault_on(Some("deal"), Some("list"), 100, Fault::Instead { status: "200 OK", retry_after: None, body });
    let before = most_held(&host);
    let mut asked = Vec::new();
    for n in 0..4 {
        asked.push(host.accepted(&format!("event=a.b&id={n}&sin=ask")).await.unwrap());
    }
    for id in asked {
        let path = host.settled(&id).await.unwrap();
        assert!(path.to_string().contains("deal.list"), "{path}");
    }
    let most = most_held(&host);
    eprintln!("four answers of 16 MiB: {before} → {most} MiB");
    assert!(most < before + 330, "{before} → {most} MiB");
}
