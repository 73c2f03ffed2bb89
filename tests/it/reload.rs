//! Plugins come, change and go while events flow.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::guest::with_manifest;
use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The hostile plugin as a version of one that asks for `asks`.
pub(crate) fn version(name: &str, version: &str, asks: &str) -> Vec<u8> {
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let manifest =
        format!("name = \"{name}\"\nversion = \"{version}\"\nevents = [\"test.*\"]\n[permissions]\n{asks}\n");
    with_manifest(&module, &manifest).unwrap()
}

/// Puts a file in its place in one step.
pub(crate) fn place(folder: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(folder.join("beside"), bytes).unwrap();
    std::fs::rename(folder.join("beside"), folder.join(file)).unwrap();
}

/// Names and versions of what serves.
async fn serving(host: &Host) -> Value {
    let plugins = host.api("plugins").await.unwrap();
    // The list also tells of those that wait for approval, or have something waiting.
    let live = plugins.as_array().unwrap().iter().filter(|plugin| plugin["version"].is_string());
    live.map(|plugin| json!([plugin["name"], plugin["version"]])).collect()
}

pub(crate) async fn serves(host: &Host, expected: Value) {
    let what = format!("{expected} to serve");
    let found = wait_until(&what, PATIENCE, async || Ok((serving(host).await == expected).then_some(()))).await;
    assert!(
        found.is_ok(),
        "{expected}: {} {}\n{}",
        serving(host).await,
        host.api("notices").await.unwrap(),
        host.log()
    );
}

/// The codes of the notices.
pub(crate) async fn noticed(host: &Host, expected: Value) {
    let codes = async || {
        let notices = host.api("notices").await.unwrap();
        notices.as_array().unwrap().iter().map(|notice| notice["code"].clone()).collect::<Value>()
    };
    let found = wait_until("the notices", PATIENCE, async || Ok((codes().await == expected).then_some(()))).await;
    assert!(found.is_ok(), "{expected}: {}\n{}", codes().await, host.log());
}

/// The version that an event ran on.
pub(crate) async fn ran_on(host: &Host) -> String {
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    let path = host.settled(&id).await.unwrap();
    assert_eq!(path["deliveries"][0]["state"], "done", "{path}");
    let version = path["deliveries"][0]["attempts"][0]["version"].as_str().unwrap();
    version.split(' ').next().unwrap().to_owned()
}

pub(crate) async fn command(host: &Host, arguments: &[&str]) -> Output {
    let mut command = Command::new(Setup::new().unwrap().program);
    command.arg("plugin").args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) async fn start(folder: &TempDir, dev: bool, more: &str) -> Host {
    let mut setup = Setup::new().unwrap().plugins(folder.path()).more(more);
    setup.dev = dev;
    setup.start().await.unwrap()
}

#[tokio::test]
async fn a_file_is_taken_up_however_it_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let host = start(&folder, true, "").await;
    serves(&host, json!([])).await;

    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    serves(&host, json!([["alpha", "1"]])).await;
    assert_eq!(ran_on(&host).await, "1");

    // In place, as linkers do.
    std::fs::write(folder.path().join("a.wasm"), version("alpha", "2", "")).unwrap();
    serves(&host, json!([["alpha", "2"]])).await;

    // Slowly: half of a version is never loaded, nor called broken while the rest still comes.
    let bytes = version("alpha", "3", "");
    let mut written = 0;
    for part in bytes.chunks(bytes.len() / 4) {
        written += part.len();
        std::fs::write(folder.path().join("a.wasm"), &bytes[..written]).unwrap();
        // The copy's own pace is what is tested.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(host.api("notices").await.unwrap(), json!([]));
    }
    serves(&host, json!([["alpha", "3"]])).await;
    assert_eq!(ran_on(&host).await, "3");

    // A second file with the same plugin changes nothing, until the first is gone.
    place(folder.path(), "0.wasm", &version("alpha", "4", ""));
    noticed(&host, json!(["registry.twice"])).await;
    assert_eq!(ran_on(&host).await, "3");
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    serves(&host, json!([["alpha", "4"]])).await;
    noticed(&host, json!([])).await;

    std::fs::remove_file(folder.path().join("0.wasm")).unwrap();
    serves(&host, json!([])).await;
    noticed(&host, json!(["registry.missing"])).await;
}

#[tokio::test]
async fn a_bad_build_leaves_the_old_version_serving_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, true, "").await;
    place(folder.path(), "a.wasm", b"#!/bin/sh");
    noticed(&host, json!(["registry.not_wasm"])).await;
    assert_eq!(host.api("notices").await.unwrap()[0]["plugin"], "alpha");
    assert_eq!(ran_on(&host).await, "1");
    assert!(host.log().contains("registry.not_wasm"));

    host.stop().await.unwrap();
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");
    noticed(&host, json!(["registry.not_wasm"])).await;
    let listed = command(&host, &["list"]).await;
    let text = said(&listed);
    assert!(
        text.lines().any(|line| line.split_whitespace().take(2).eq(["alpha", "1"]))
            && text.contains("(registry.not_wasm)"),
        "{text}"
    );

    place(folder.path(), "a.wasm", &version("alpha", "2", ""));
    serves(&host, json!([["alpha", "2"]])).await;
    noticed(&host, json!([])).await;
}

#[tokio::test]
async fn a_version_that_asks_for_more_serves_only_after_it_was_granted() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", "state = true"));
    let mut host = start(&folder, false, "").await;
    serves(&host, json!([])).await;
    noticed(&host, json!(["registry.waits_for_approval"])).await;

    let unasked = command(&host, &["grant", "alpha"]).await;
    assert!(!unasked.status.success() && said(&unasked).contains("keep its own state"), "{}", said(&unasked));
    serves(&host, json!([])).await;
    let granted = command(&host, &["grant", "alpha", "--yes"]).await;
    assert!(granted.status.success(), "{}", said(&granted));
    serves(&host, json!([["alpha", "1"]])).await;
    noticed(&host, json!([])).await;

    place(folder.path(), "a.wasm", &version("alpha", "2", "state = true\ncrm = [\"deal.info\"]"));
    noticed(&host, json!(["registry.waits_for_approval"])).await;
    assert_eq!(ran_on(&host).await, "1");
    host.stop().await.unwrap();
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");

    // As a script would prepare it, without the command.
    let grants = "[alpha]\nstate = true\ncrm = [\"deal.*\"]\n";
    std::fs::write(host.folder().join("grants.toml"), grants).unwrap();
    serves(&host, json!([["alpha", "2"]])).await;
    // Less, or the same, just loads.
    place(folder.path(), "a.wasm", &version("alpha", "3", "crm = [\"deal.list\"]"));
    serves(&host, json!([["alpha", "3"]])).await;
    noticed(&host, json!([])).await;

    let revoked = command(&host, &["grant", "alpha", "--revoke", "--yes"]).await;
    assert!(revoked.status.success(), "{}", said(&revoked));
    wait_until("the grant to be gone", PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        Ok((plugins[0]["not_granted"] == json!(["crm deal.list"])).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_rollback_holds_until_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, true, "").await;
    for number in ["2", "3"] {
        place(folder.path(), "a.wasm", &version("alpha", number, ""));
        serves(&host, json!([["alpha", number]])).await;
    }
    for number in ["2", "1"] {
        let output = command(&host, &["rollback", "alpha"]).await;
        assert!(output.status.success(), "{}", said(&output));
        serves(&host, json!([["alpha", number]])).await;
    }
    noticed(&host, json!(["registry.rolled_back"])).await;
    let nothing = command(&host, &["rollback", "alpha"]).await;
    assert!(said(&nothing).contains("no version of `alpha` is older"), "{}", said(&nothing));
    host.stop().await.unwrap();
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");

    let listed = said(&command(&host, &["rollback", "alpha", "--list"]).await);
    assert_eq!((listed.lines().count(), listed.lines().filter(|line| line.ends_with("serves")).count()), (3, 1));
    let back = command(&host, &["rollback", "alpha", "--newest"]).await;
    assert!(back.status.success(), "{}", said(&back));
    serves(&host, json!([["alpha", "3"]])).await;
    assert!(command(&host, &["rollback", "alpha"]).await.status.success());
    serves(&host, json!([["alpha", "2"]])).await;
    place(folder.path(), "a.wasm", &version("alpha", "4", ""));
    serves(&host, json!([["alpha", "4"]])).await;
}

#[tokio::test]
async fn where_the_version_that_was_chosen_is_damaged_the_newest_does_not_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, true, "").await;
    place(folder.path(), "a.wasm", &version("alpha", "2", ""));
    serves(&host, json!([["alpha", "2"]])).await;
    assert!(command(&host, &["rollback", "alpha"]).await.status.success());
    serves(&host, json!([["alpha", "1"]])).await;
    let live = host.data().join("plugins/live.json");
    let recorded = || serde_json::from_slice::<Value>(&std::fs::read(&live).unwrap()).unwrap()["alpha"].clone();
    let chosen = recorded();
    let kept = host.data().join(format!("plugins/versions/alpha/{}.wasm", chosen["hash"].as_str().unwrap()));
    host.stop().await.unwrap();
    for damaged in [true, false] {
        if damaged {
            std::fs::write(&kept, b"\0asm").unwrap()
        } else {
            std::fs::remove_file(&kept).unwrap()
        }
        host.start().await.unwrap();
        noticed(&host, json!(["registry.version_lost"])).await;
        assert_eq!((serving(&host).await, recorded()), (json!([]), chosen.clone()));
        host.stop().await.unwrap();
    }
    host.start().await.unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    let newest = command(&host, &["rollback", "alpha", "--newest"]).await;
    assert!(newest.status.success(), "{}", said(&newest));
    serves(&host, json!([["alpha", "2"]])).await;
    noticed(&host, json!([])).await;
    // What came meanwhile was kept for it.
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
}

#[tokio::test]
async fn what_the_configuration_says_of_a_plugin_takes_effect_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let host = start(&folder, true, "").await;
    let path = host.folder().join("host.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    serves(&host, json!([["alpha", "1"]])).await;

    let told = async |words: &str| {
        wait_until(words, PATIENCE, async || Ok(host.log().contains(words).then_some(()))).await.unwrap();
    };
    std::fs::write(&path, format!("{before}\n[plugins.alpha]\nlimits = {{ cpu_ms = 20, time_ms = 5000 }}\n")).unwrap();
    told("what it says of plugins is in force").await;
    let id = host.accepted("event=test.sin&sin=loop").await.unwrap();
    let attempt = wait_until("an attempt", PATIENCE, async || {
        let path = host.api(&format!("events/{id}")).await?;
        Ok(path["deliveries"][0]["attempts"].get(0).cloned())
    })
    .await
    .unwrap();
    assert!(attempt["reason"].as_str().unwrap().contains("20 ms"), "{attempt}");

    std::fs::write(&path, format!("{before}\n[plugins.alpha]\nenabled = false\n[server\n")).unwrap();
    told("the one before stays in force").await;
    serves(&host, json!([["alpha", "1"]])).await;
    std::fs::write(&path, format!("{before}\n[plugins.alpha]\nenabled = false\n")).unwrap();
    serves(&host, json!([])).await;
    std::fs::write(&path, before.replace("[crm.main]", "[retry]\nattempts = 9\n[crm.main]")).unwrap();
    serves(&host, json!([["alpha", "1"]])).await;
    told("the rest of its changes needs a restart").await;
}

#[tokio::test]
async fn fifty_reloads_under_load_fail_and_lose_no_event() {
    const RELOADS: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "0", ""));
    let host = start(&folder, true, "").await;
    let client = integration_tests::host::http_client().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let hook = host.hook();
    let sender = tokio::spawn(async move {
        // 500 events a second, whatever the answers do.
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut sent = tokio::task::JoinSet::new();
        while !*stopped.borrow() {
            tick.tick().await;
            for _ in 0..10 {
                let request = client.post(&hook).header("content-type", "application/x-www-form-urlencoded");
                let number = sent.len();
                let request = request.body(format!("event=test.sin&sin=none&id={number}"));
                sent.spawn(async move {
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 202);
                    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
                    answer["id"].as_str().unwrap().to_owned()
                });
            }
        }
        sent.join_all().await
    });
    let mut placed = Vec::new();
    for number in 1..=RELOADS {
        let bytes = version("alpha", &number.to_string(), "");
        place(folder.path(), "a.wasm", &bytes);
        placed.push(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
        serves(&host, json!([["alpha", number.to_string()]])).await;
        // Until an event has run on it.
        ran_on(&host).await;
    }
    stop.send_replace(true);
    let ids = sender.await.unwrap();
    host.idle(PATIENCE * 4).await.unwrap();
    assert!(ids.len() >= 1_000, "{}", ids.len());
    let mut first_run = std::collections::BTreeMap::<usize, u128>::new();
    for id in &ids {
        let path = host.api(&format!("events/{id}")).await.unwrap();
        let delivery = &path["deliveries"][0];
        assert_eq!(
            (&delivery["state"], delivery["attempts"].as_array().map(Vec::len)),
            (&json!("done"), Some(1)),
            "{path}"
        );
        let attempt = &delivery["attempts"][0];
        let version = attempt["version"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
        let at = u128::from(attempt["started_at"].as_u64().unwrap());
        first_run.entry(version).and_modify(|first| *first = at.min(*first)).or_insert(at);
    }
    let mut times: Vec<u128> =
        placed.iter().enumerate().filter_map(|(index, at)| Some(first_run.get(&(index + 1))? - at)).collect();
    times.sort_unstable();
    assert_eq!(times.len(), RELOADS, "every version ran");
    eprintln!("{} events; write to first delivery: p50 {} ms, slowest {} ms", ids.len(), times[25], times[49]);
}

#[tokio::test]
async fn a_restart_does_not_compile_what_was_compiled() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..50 {
        place(folder.path(), &format!("{number}.wasm"), &version(&format!("p{number}"), "1", ""));
    }
    let began = Instant::now();
    let mut host = start(&folder, true, "").await;
    let first = began.elapsed();
    host.stop().await.unwrap();
    let began = Instant::now();
    host.start().await.unwrap();
    let again = began.elapsed();
    assert_eq!(serving(&host).await.as_array().map(Vec::len), Some(50));
    eprintln!("start of 50 plugins: {first:?}, with the cache {again:?}");
    assert!(again * 3 < first, "{first:?} {again:?}");
}

#[tokio::test]
async fn what_waits_for_a_removed_plugin_is_kept_until_it_returns_or_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    // It answers `retry` for a long time.
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let host = start(&folder, true, "[retry]\nfirst_ms = 600000000\nlongest_ms = 600000000\n").await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(host.accepted(&format!("event=test.sin&sin=retry&clid=7&number={number}")).await.unwrap());
    }
    let states = async || {
        let mut states = Vec::new();
        for id in &ids {
            states.push(host.api(&format!("events/{id}")).await?["deliveries"][0]["state"].clone());
        }
        anyhow::Ok(json!(states))
    };
    let tried = async || {
        let path = host.api(&format!("events/{}", ids[0])).await?;
        Ok((path["deliveries"][0]["attempts"].as_array().map(Vec::len) == Some(1)
            && path["deliveries"][0]["state"] == "ready")
            .then_some(()))
    };
    wait_until("the first attempt", PATIENCE, tried).await.unwrap();
    let (status, refused) = host.ask("queues/drop", &json!({ "plugin": "alpha" })).await.unwrap();
    assert_eq!((status, &refused["code"]), (409, &json!("console.plugin_is_live")));

    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    serves(&host, json!([])).await;
    let waiting = states().await.unwrap();
    assert!(!waiting.to_string().contains("dropped"), "{waiting}");
    let dropped = command(&host, &["drop", "alpha", "--yes"]).await;
    assert!(said(&dropped).contains("3 waiting deliveries of `alpha` were dropped"), "{}", said(&dropped));
    assert_eq!(states().await.unwrap(), json!(["dropped", "dropped", "dropped"]));

    // What comes after its return is delivered as if nothing had been.
    place(folder.path(), "a.wasm", &version("alpha", "2", ""));
    serves(&host, json!([["alpha", "2"]])).await;
    let id = host.accepted("event=test.sin&sin=none&clid=7").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
}
