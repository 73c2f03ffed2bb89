//! What no plugin gets beyond: limits are the administrator's, memory is bounded for all together, state has a quota, and one
//! instruction that takes seconds holds nothing up.

use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::guest::with_manifest;
use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Puts the hostile plugin into a folder under a name, with these lines of its manifest.
fn put(folder: &Path, name: &str, lines: &str) {
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let manifest = format!("name = \"{name}\"\nevents = [\"{name}.*\"]\n{lines}");
    // In one step: half of a file is looked into and told about.
    let beside = folder.join(format!("{name}.new"));
    std::fs::write(&beside, with_manifest(&module, &manifest).unwrap()).unwrap();
    std::fs::rename(beside, folder.join(format!("{name}.wasm"))).unwrap();
}

fn with(plugins: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    plugins.iter().for_each(|(name, lines)| put(folder.path(), name, lines));
    folder
}

async fn start(folder: &Path, dev: bool, more: &str) -> Host {
    start_with(folder, dev, more, "0").await
}

/// As [`start`], with so many MiB for all plugins together.
async fn start_with(folder: &Path, dev: bool, more: &str, mib: &str) -> Host {
    let mut setup = Setup::new().unwrap().plugins(folder).environment("SALESMAN_HOST__PLUGINS__MEMORY_MIB", mib);
    setup.dev = dev;
    setup.more("[retry]\nattempts = 1\n[breaker]\nfailures = 10000").more(more).start().await.unwrap()
}

async fn plugin(host: &Host, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        Ok(Some(plugins[0].clone()).filter(&wanted))
    })
    .await
    .unwrap()
}

/// Resident memory in MiB, the most that it ever was.
fn peak(host: &Host) -> u64 {
    host.memory("VmHWM").unwrap() >> 10
}

async fn attempt(host: &Host, event: &str) -> Value {
    let id = host.accepted(event).await.unwrap();
    let path = host.settled(&id).await.unwrap();
    path["deliveries"][0]["attempts"].as_array().unwrap().last().cloned().unwrap()
}

#[tokio::test]
async fn a_limit_above_the_default_is_had_only_by_whoever_was_granted_it() {
    let folder = with(&[("big", "[limits]\nmemory_mib = 256\nlog_kib = 8")]);
    let host = start(folder.path(), false, "").await;
    let waits = |plugin: &Value| plugin["notices"][0]["code"] == "registry.waits_for_approval";
    let waiting = plugin(&host, "the wish", waits).await;
    let notice = &waiting["notices"][0];
    assert_eq!(notice["asks"], json!({ "crm": [], "http": [], "state": false, "limits": limits(256) }));
    assert!(notice["message"].as_str().unwrap().contains("limit memory_mib = 256"), "{notice}");
    assert_eq!(waiting["version"], Value::Null, "nothing runs with limits that nobody granted: {waiting}");

    // Another version came since somebody looked: what was not shown is not granted.
    put(folder.path(), "big", "[limits]\nmemory_mib = 300");
    let other = |plugin: &Value| waits(plugin) && plugin["notices"][0]["hash"] != notice["hash"];
    let newer = plugin(&host, "the other version", other).await;
    let (status, told) = host.ask("plugins/big/grant", &json!({ "hash": notice["hash"] })).await.unwrap();
    assert_eq!((status, &told["code"]), (409, &json!("console.other_version")), "{told}");
    let (status, told) = host.ask("plugins/big/grant", &json!({})).await.unwrap();
    assert_eq!(status, 400, "{told}");
    let (status, told) = host.ask("plugins/big/grant", &json!({ "hash": newer["notices"][0]["hash"] })).await.unwrap();
    assert_eq!(status, 200, "{told}");
    let grants = || std::fs::read_to_string(host.folder().join("grants.toml")).unwrap();
    assert!(grants().contains("limits = { memory_mib = 300 }"), "{}", grants());
    let serves = |mib: u64| move |plugin: &Value| plugin["limits"]["memory"] == json!(mib << 20);
    plugin(&host, "the granted limit", serves(300)).await;

    // Less needs no new grant; more does, and what served goes on.
    put(folder.path(), "big", "version = \"2\"\n[limits]\nmemory_mib = 200");
    plugin(&host, "less", serves(200)).await;
    put(folder.path(), "big", "version = \"3\"\n[limits]\nmemory_mib = 301");
    let waiting = plugin(&host, "more", waits).await;
    assert_eq!((&waiting["limits"]["memory"], &waiting["version"]), (&json!(200 << 20), &json!("2")));
    let (status, _) = host.ask("plugins/big/revoke", &json!({})).await.unwrap();
    assert_eq!(status, 200);
    let lowered = plugin(&host, "the default", serves(64)).await;
    assert_eq!(lowered["not_granted"], json!(["limit memory_mib = 200"]), "{lowered}");
}

fn limits(memory_mib: u64) -> Value {
    json!({
        "memory_mib": memory_mib, "cpu_ms": null, "time_ms": null, "calls": null, "log_kib": null, "reply_kib": null,
        "state_mib": null, "state_keys": null,
    })
}

#[tokio::test]
async fn the_administrators_own_limits_are_a_grant_and_approvals_without_limits_go_on() {
    let folder = with(&[("big", "[limits]\nmemory_mib = 256\n[permissions]\nstate = true")]);
    let mut setup = Setup::new().unwrap().plugins(folder.path());
    setup.dev = false;
    let mut host = setup.more("[plugins.big.limits]\nmemory_mib = 100").start().await.unwrap();
    plugin(&host, "the wish for state", |plugin| plugin["notices"][0]["code"] == "registry.waits_for_approval").await;
    host.stop().await.unwrap();
    // As an earlier host wrote it.
    std::fs::write(host.folder().join("grants.toml"), "[big]\ncrm = []\nhttp = []\nstate = true\n").unwrap();
    host.start().await.unwrap();
    plugin(&host, "the own limit", |plugin| plugin["limits"]["memory"] == json!(100 << 20)).await;
}

#[tokio::test]
async fn a_manifest_that_asks_for_more_than_anybody_gets_or_says_too_much_is_refused() {
    let long = format!("version = \"{}\"", "9".repeat(3 << 20));
    let list = format!("permissions.crm = [{}]", "\"deal.list\",".repeat(201));
    let cases = [
        ("log", "[limits]\nlog_kib = 1099511627776", "`log_kib` must be between 1 and 1024"),
        ("time", "[limits]\ncpu_ms = 60001", "`cpu_ms` must be between 1 and 60000"),
        ("shift", "[limits]\nmemory_mib = 9223372036854775807", "`memory_mib` must be between 1 and 512"),
        ("long", &long, "3145774 bytes"),
        ("version", &format!("version = \"{}\"", "9".repeat(65)), "`version` has 65 bytes, 64 are allowed"),
        ("list", &list, "`permissions.crm` has 201 entries"),
        ("terminal", "permissions.crm = [\"*\", \"deal.list\\u001b[1A\"]", "U+001B"),
        ("turned", "description = \"\\u202etxt.exe\"", "U+202E"),
        ("lines", "version = \"1\\nGranted\"", "U+000A"),
        ("origin", "permissions.http = [\"https://a.example\\u0007\"]", "U+0007"),
    ];
    let folder = with(&cases.map(|(name, lines, _)| (name, lines)));
    let host = start(folder.path(), true, "").await;
    let notices = host.api("notices").await.unwrap();
    for (name, _, words) in cases {
        let of_it = notices
            .as_array()
            .unwrap()
            .iter()
            .find(|notice| notice["file"].as_str().unwrap().ends_with(&format!("/{name}.wasm")));
        let notice = of_it.unwrap_or_else(|| panic!("{name}: {notices}"));
        let told = notice["message"].as_str().unwrap();
        let code = if name == "long" { "registry.too_much" } else { "registry.manifest" };
        assert!(notice["code"] == code && told.contains(words), "{name}: {notice}");
        assert!(told.len() < 2_000 && !told.contains('\u{1b}'), "{name}: {notice}");
    }
    assert_eq!(host.api("plugins").await.unwrap(), json!([]));
}

#[tokio::test]
async fn an_endless_log_costs_no_more_memory_than_its_bound() {
    let limits = "[limits]\nlog_kib = 1024\ncpu_ms = 1500\ntime_ms = 60000\ncalls = 20000";
    let folder = with(&[("log", limits)]);
    let host = start(folder.path(), true, "").await;
    for bytes in [0, 1, 1_000] {
        for _ in 0..2 {
            host.accepted(&format!("event=log.x&sin=log-loop&bytes={bytes}")).await.unwrap();
        }
    }
    host.idle(PATIENCE).await.unwrap();
    let peak = peak(&host);
    eprintln!("endless logs: {peak} MiB");
    assert!(peak < 400, "the host took {peak} MiB");
}

#[tokio::test]
async fn all_plugins_together_hold_no_more_memory_than_the_bound() {
    let lines = "[limits]\nmemory_mib = 512\ncpu_ms = 60000\ntime_ms = 60000";
    let folder = with(&[("one", lines), ("two", lines), ("three", lines), ("small", "")]);
    let host = start_with(folder.path(), true, "", "700").await;
    for n in 0..6 {
        let name = ["one", "two", "three"][n % 3];
        host.accepted(&format!("event={name}.x&sin=hold&mib=450&id={n}")).await.unwrap();
    }
    // Those that need little do not wait for those that need much.
    let began = Instant::now();
    let small = host.accepted("event=small.x&sin=none").await.unwrap();
    assert_eq!(host.settled(&small).await.unwrap()["deliveries"][0]["state"], "done");
    let waited = began.elapsed();
    let open = host.api("backlog").await.unwrap()["open"].as_u64().unwrap();
    assert!(open > 0, "the large ones were over before the small one was looked at, after {waited:?}");
    let places = host.api("overview").await.unwrap()["places"].clone();
    assert!(places["memory_taken"].as_u64() <= places["memory"].as_u64(), "{places}");
    assert_eq!(places["memory"], json!(700 << 20));
    host.idle(PATIENCE).await.unwrap();
    assert_eq!(host.api("backlog").await.unwrap()["dead"], 0, "each had its turn");
    let peak = peak(&host);
    eprintln!("six times 450 MiB: {peak} MiB at most, a small one took {waited:?}");
    assert!(peak < 700, "the host took {peak} MiB");
}

#[tokio::test]
async fn one_instruction_that_takes_seconds_holds_no_event_up() {
    let folder = with(&[("fill", "[limits]\nmemory_mib = 512\ncpu_ms = 60000\ntime_ms = 60000")]);
    let host = start_with(folder.path(), true, "[plugins.fill]\nconcurrency = 12", "6500").await;
    for n in 0..48 {
        host.accepted(&format!("event=fill.x&sin=fill&mib=500&times=1&id={n}")).await.unwrap();
    }
    let mut took = Vec::new();
    let began = Instant::now();
    let waits = async || {
        let backlog = host.api("backlog").await.unwrap();
        backlog["open"].as_u64().unwrap() + backlog["unrouted"].as_u64().unwrap() > 0
    };
    while waits().await && began.elapsed() < PATIENCE {
        for n in 0..20 {
            let sent = Instant::now();
            host.accepted(&format!("event=other.event&id={n}")).await.unwrap();
            took.push(sent.elapsed());
        }
    }
    took.sort();
    let (p99, most) = (took[took.len() * 99 / 100], took[took.len() - 1]);
    eprintln!(
        "in {:?}: intake beside 500 MiB fills: {} events, p99 {p99:?}, longest {most:?}",
        began.elapsed(),
        took.len()
    );
    assert!(p99 < Duration::from_millis(500), "p99 {p99:?}, longest {most:?}");
    // How long the longest takes is the machine's: what runs plugins must only not be what takes events in.
    let threads = threads(host.pid().unwrap());
    let nice = |name: &str| threads.iter().filter(|(of, _)| of == name).map(|(_, nice)| *nice).collect::<Vec<_>>();
    let (plugins, others) = (nice("plugin"), nice("host"));
    let own = others.iter().max().copied().unwrap_or_default();
    assert!(plugins.len() > 1 && plugins.iter().all(|nice| *nice > own || own > 0), "{threads:?}");
    assert_eq!(host.api("backlog").await.unwrap()["dead"], 0);
}

/// Names and priorities of a process's threads.
fn threads(pid: u32) -> Vec<(String, i64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let one = |stat: String| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    stats.filter_map(one).collect()
}

#[tokio::test]
async fn state_has_a_bound_for_an_attempt_for_a_plugin_and_for_all() {
    let folder = with(&[("keep", "[permissions]\nstate = true"), ("other", "[permissions]\nstate = true")]);
    let more = "[plugins.keep.limits]\nstate_mib = 1\n[retention]\nmax_mib = 16";
    let host = start(folder.path(), true, more).await;
    // A thousand values of 64 KiB: an attempt may write 4 MiB.
    for n in 0..3 {
        let attempt = attempt(&host, &format!("event=other.x&sin=hoard-state&keys=1000&bytes=64000&n={n}")).await;
        assert_ne!(attempt["outcome"], "done", "{attempt}");
        assert!(attempt["reason"].as_str().unwrap().contains("plugin.state_limit"), "{attempt}");
    }
    // Up to its own bound, and no further, attempt by attempt.
    let mut refused = Value::Null;
    for n in 0..40 {
        refused = attempt(&host, &format!("event=keep.x&sin=hoard-state&keys=1&bytes=60000&n={n}")).await;
        if refused["outcome"] != "done" {
            break;
        }
    }
    assert!(refused["reason"].as_str().unwrap().contains("plugin.state_limit"), "{refused}");
    let plugins = host.api("plugins").await.unwrap();
    let state = &plugins.as_array().unwrap().iter().find(|plugin| plugin["name"] == "keep").unwrap()["state"][0];
    let bytes = state["bytes"].as_u64().unwrap();
    assert!((900_000..=1 << 20).contains(&bytes), "{state}");
    let metrics = host.text("metrics").await.unwrap();
    assert!(
        metrics.contains(&format!("salesman_state_bytes{{plugin=\"keep\",account=\"main\"}} {bytes}")),
        "{metrics}"
    );
    // What is deleted makes room.
    assert_eq!(attempt(&host, "event=keep.x&sin=clear-state").await["outcome"], "done");
    assert_eq!(attempt(&host, "event=keep.x&sin=hoard-state&keys=1&bytes=60000&n=0").await["outcome"], "done");

    // All together have half of `max_mib`, and who did not ask learns it when the outcome is stored.
    let mut last = Value::Null;
    for n in 0..200 {
        last = attempt(&host, &format!("event=other.x&sin=hoard-state-blindly&bytes=64000&n={n}")).await;
        if last["outcome"] != "done" {
            break;
        }
    }
    assert_eq!((&last["outcome"], &last["code"]), (&json!("failed"), &json!("plugin.state_limit")), "{last}");
    assert!(last["reason"].as_str().unwrap().contains("retention.max_mib"), "{last}");
    let store = std::fs::metadata(host.data().join("journal.sqlite")).unwrap().len();
    eprintln!("state flood: the store has {store} bytes");
    assert!(store < 24 << 20, "{store}");
}

#[tokio::test]
async fn large_events_that_wait_take_no_memory() {
    let names = ["one", "two", "three", "four"];
    let folder = crate::plugins(&names.map(|name| (name, "large.*")));
    let host = start_with(folder.path(), true, "", "1024").await;
    for name in names {
        let (status, told) = host.ask(&format!("plugins/{name}/pause"), &json!({})).await.unwrap();
        assert_eq!(status, 200, "{told}");
    }
    let text = "x".repeat((1 << 20) - 100);
    for n in 0..70 {
        host.accepted(&format!("event=large.x&sin=none&n={n}&text={text}")).await.unwrap();
    }
    // All at once, as after an outage.
    for name in names {
        let (status, told) = host.ask(&format!("plugins/{name}/resume"), &json!({})).await.unwrap();
        assert_eq!(status, 200, "{told}");
    }
    host.idle(PATIENCE).await.unwrap();
    assert_eq!(host.api("backlog").await.unwrap()["dead"], 0);
    let peak = peak(&host);
    eprintln!("70 events of 1 MiB for four plugins: {peak} MiB at most");
    assert!(peak < 250, "the host took {peak} MiB");
}
