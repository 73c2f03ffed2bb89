//! Plugins whose file is missing or damaged, and the host's own records of them: nobody's events are lost.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use integration_tests::host::{Host, PATIENCE};
use integration_tests::wait_until;
use salesman_host::parts::Parts;
use salesman_host::registry::{self, Registry};
use salesman_host::sandbox::{self, Sandbox};
use serde_json::{Value, json};

use crate::reload::{command, noticed, place, ran_on, said, serves, start, version};

/// The delivery to `alpha`.
fn of_alpha(path: &Value) -> Value {
    let mut deliveries = path["deliveries"].as_array().unwrap().iter();
    deliveries.find(|delivery| delivery["plugin"] == "alpha").cloned().unwrap_or_default()
}

/// Events of one record, in order; each is kept.
async fn kept(host: &Host, numbers: std::ops::Range<u32>) -> Vec<String> {
    let mut ids = Vec::new();
    for number in numbers {
        let id = host.accepted(&format!("event=test.sin&sin=none&id=7&number={number}")).await.unwrap();
        wait_until("the event to be routed", PATIENCE, async || {
            let state = of_alpha(&host.api(&format!("events/{id}")).await?)["state"].clone();
            Ok((state == "ready" || state == "behind").then_some(()))
        })
        .await
        .unwrap();
        ids.push(id);
    }
    ids
}

/// They have run, in their order.
async fn ran_in_order(host: &Host, ids: &[String]) {
    let mut times = Vec::new();
    for id in ids {
        let path = host.settled(id).await.unwrap();
        assert_eq!(of_alpha(&path)["state"], "done", "{path}");
        times.push(of_alpha(&path)["attempts"][0]["started_at"].as_i64().unwrap());
    }
    assert!(times.is_sorted(), "{times:?}");
}

async fn remarks(host: &Host) -> String {
    let answer = integration_tests::host::http_client().unwrap().get(format!("{}/readyz", host.base())).send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap()["remarks"].to_string()
}

/// How a plugin's file comes to be missing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The file alone, or another file system in place of the folder.
    Emptied,
    /// The folder too.
    Removed,
    /// Something that is no folder stands there: it can't be read.
    Unreadable,
    /// Another plugin was put in its place.
    Replaced,
}

impl Way {
    fn take(self, folder: &Path, apart: &Path) {
        let file = folder.join("a.wasm");
        std::fs::copy(&file, apart).unwrap();
        std::fs::remove_file(&file).unwrap();
        match self {
            Self::Emptied => {}
            Self::Removed => std::fs::remove_dir_all(folder).unwrap(),
            Self::Unreadable => {
                std::fs::remove_dir_all(folder).unwrap();
                std::fs::write(folder, "").unwrap();
            }
            Self::Replaced => place(folder, "a.wasm", &version("beta", "1", "")),
        }
    }

    fn put_back(self, folder: &Path, apart: &Path) {
        if self == Self::Unreadable {
            std::fs::remove_file(folder).unwrap();
        }
        std::fs::create_dir_all(folder).unwrap();
        place(folder, "a.wasm", &std::fs::read(apart).unwrap());
    }
}

#[tokio::test]
async fn what_comes_while_a_plugin_is_missing_waits_for_it_over_restarts_and_runs_in_order() {
    for at_start in [true, false] {
        for way in [Way::Emptied, Way::Removed, Way::Unreadable, Way::Replaced] {
            let above = tempfile::tempdir().unwrap();
            let folder = tempfile::tempdir_in(above.path()).unwrap();
            let (dir, apart) = (folder.path().to_owned(), above.path().join("apart"));
            place(&dir, "a.wasm", &version("alpha", "1", ""));
            let mut host = start(&folder, true, "").await;
            assert_eq!(ran_on(&host).await, "1");
            assert!(!remarks(&host).await.contains("missing"));
            if at_start {
                host.stop().await.unwrap();
                way.take(&dir, &apart);
                host.start().await.unwrap();
            } else {
                way.take(&dir, &apart);
                if way == Way::Unreadable {
                    // It says nothing about what runs.
                    noticed(&host, json!(["registry.file"])).await;
                    assert_eq!(ran_on(&host).await, "1");
                    host.stop().await.unwrap();
                    host.start().await.unwrap();
                }
            }
            let told = match way {
                Way::Emptied | Way::Replaced => json!(["registry.missing"]),
                Way::Removed | Way::Unreadable => json!(["registry.file", "registry.missing"]),
            };
            noticed(&host, told.clone()).await;
            assert!(remarks(&host).await.contains("missing"), "{way:?}");
            let mut ids = kept(&host, 0..3).await;
            let listed = said(&command(&host, &["list"]).await);
            assert!(listed.contains("missing") && listed.contains("salesman-host plugin drop alpha"), "{listed}");
            assert!(said(&command(&host, &["pause", "alpha"]).await).contains("alpha"));
            assert!(command(&host, &["resume", "alpha"]).await.status.success());
            assert!(command(&host, &["grant", "alpha", "--revoke", "--yes"]).await.status.success());
            host.kill().unwrap();
            host.start().await.unwrap();
            noticed(&host, told).await;
            ids.extend(kept(&host, 3..5).await);
            way.put_back(&dir, &apart);
            ran_in_order(&host, &ids).await;
            if way == Way::Replaced {
                // Now that one is missing.
                noticed(&host, json!(["registry.missing"])).await;
                assert!(command(&host, &["drop", "beta", "--yes"]).await.status.success());
            }
            wait_until("the remark to go", PATIENCE, async || {
                Ok((!remarks(&host).await.contains("missing")).then_some(()))
            })
            .await
            .unwrap();
        }
    }
}

#[tokio::test]
async fn once_an_operator_says_that_it_is_gone_nothing_is_kept_for_a_plugin_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, true, "").await;
    assert_eq!(ran_on(&host).await, "1");
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    noticed(&host, json!(["registry.missing"])).await;
    let ids = kept(&host, 0..2).await;
    let dropped = said(&command(&host, &["drop", "alpha", "--yes"]).await);
    assert!(dropped.contains("2 waiting deliveries of `alpha` were dropped; no more are kept"), "{dropped}");
    for id in ids {
        assert_eq!(host.api(&format!("events/{id}")).await.unwrap()["deliveries"][0]["state"], "dropped");
    }
    for _ in 0..2 {
        noticed(&host, json!([])).await;
        let id = host.accepted("event=test.sin&sin=none").await.unwrap();
        assert_eq!(host.settled(&id).await.unwrap()["deliveries"], json!([]));
        assert!(remarks(&host).await.contains("no plugin wants an event any more"));
        host.stop().await.unwrap();
        host.start().await.unwrap();
    }
    place(folder.path(), "a.wasm", &version("alpha", "2", ""));
    serves(&host, json!([["alpha", "2"]])).await;
    assert_eq!(ran_on(&host).await, "2");
    assert_eq!(remarks(&host).await, "[]");
    // Without a restart, too, it can be missing again.
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    noticed(&host, json!(["registry.missing"])).await;
    kept(&host, 0..1).await;
}

#[tokio::test]
async fn a_plugin_that_is_switched_off_keeps_nothing_and_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let host = start(&folder, true, "").await;
    assert_eq!(ran_on(&host).await, "1");
    let path = host.folder().join("host.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}\n[plugins.alpha]\nenabled = false\n")).unwrap();
    serves(&host, json!([])).await;
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"], json!([]));
    assert!(!host.log().contains("registry.missing"));
    // Switched on, it is missed.
    std::fs::write(&path, before).unwrap();
    noticed(&host, json!(["registry.missing"])).await;
}

/// The one version of `alpha` that is kept.
fn only_version(host: &Host) -> PathBuf {
    let mut files = crate::files_below(&host.data().join("plugins/versions/alpha"));
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

#[tokio::test]
async fn of_a_plugins_file_and_the_version_that_is_kept_either_restores_the_other_and_without_both_events_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (file, good) = (folder.path().join("a.wasm"), version("alpha", "1", ""));
    place(folder.path(), "a.wasm", &good);
    let mut host = start(&folder, true, "").await;
    assert_eq!(ran_on(&host).await, "1");
    let kept_file = only_version(&host);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for harm in [Some(&b""[..]), Some(&good[..good.len() / 2]), Some(&flipped), None] {
        host.stop().await.unwrap();
        match harm {
            Some(harm) => std::fs::write(&kept_file, harm).unwrap(),
            None => std::fs::remove_file(&kept_file).unwrap(),
        }
        host.start().await.unwrap();
        assert_eq!(ran_on(&host).await, "1");
        assert!(std::fs::read(&kept_file).unwrap() == good, "the version that is kept is whole again");
    }
    // The file is damaged: what is kept serves, and the notice says where it is.
    host.stop().await.unwrap();
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");
    let told = host.api("notices").await.unwrap();
    assert!(told[0]["message"].as_str().unwrap().contains(kept_file.to_str().unwrap()), "{told}");
    // Both: it is said, and events wait.
    host.stop().await.unwrap();
    std::fs::write(&kept_file, &flipped).unwrap();
    host.start().await.unwrap();
    serves(&host, json!([])).await;
    let told = host.api("notices").await.unwrap();
    let codes: Vec<&str> = told.as_array().unwrap().iter().map(|notice| notice["code"].as_str().unwrap()).collect();
    assert!(codes.len() == 2 && codes.contains(&"registry.version_lost"), "{told}");
    assert!(remarks(&host).await.contains("can't be loaded"));
    let ids = kept(&host, 0..3).await;
    place(folder.path(), "a.wasm", &good);
    ran_in_order(&host, &ids).await;
    assert!(std::fs::read(&kept_file).unwrap() == good);
    noticed(&host, json!([])).await;
}

#[tokio::test]
async fn a_damaged_record_of_the_hosts_own_is_told_set_aside_and_restored_and_lets_nobody_take_a_place() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, false, "").await;
    assert_eq!(ran_on(&host).await, "1");
    let data = host.data();
    let own = |name: &str| data.join("plugins").join(name);
    let (live, homes) = (own("live.json"), own("homes.json"));
    host.stop().await.unwrap();
    for record in [&live, &homes] {
        let bytes = std::fs::read(record).unwrap();
        std::fs::write(record, &bytes[..bytes.len() / 2]).unwrap();
    }
    // Its file is bad, and another comes by its name.
    place(folder.path(), "a.wasm", b"#!/bin/sh");
    place(folder.path(), "0.wasm", &version("alpha", "2", ""));
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");
    for name in ["live.json", "homes.json"] {
        assert!(own(&format!("{name}.damaged")).exists() && own(name).exists(), "{name}");
    }
    assert_eq!(host.log().matches("its copy is in its place").count(), 2);
    // Of neither anything is left: no file serves under a name that is known.
    host.stop().await.unwrap();
    for record in [&live, &homes, &own("live.json.copy"), &own("homes.json.copy")] {
        std::fs::write(record, "{").unwrap();
    }
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    host.start().await.unwrap();
    serves(&host, json!([])).await;
    noticed(&host, json!(["registry.record_lost", "registry.record_lost", "registry.waits_for_approval"])).await;
    assert!(host.log().contains("what they said is lost"));
}

#[tokio::test]
async fn what_an_earlier_host_recorded_without_what_plugins_want_is_missed_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, true, "").await;
    assert_eq!(ran_on(&host).await, "1");
    host.stop().await.unwrap();
    let live = host.data().join("plugins/live.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&live).unwrap()).unwrap();
    record.as_object_mut().unwrap().retain(|name, _| name == "alpha");
    record["alpha"].as_object_mut().unwrap().remove("events");
    std::fs::write(&live, record.to_string()).unwrap();
    std::fs::remove_file(host.data().join("plugins/live.json.copy")).unwrap();
    let bytes = std::fs::read(folder.path().join("a.wasm")).unwrap();
    std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
    host.start().await.unwrap();
    noticed(&host, json!(["registry.missing"])).await;
    let ids = kept(&host, 0..2).await;
    place(folder.path(), "a.wasm", &bytes);
    ran_in_order(&host, &ids).await;
}

#[tokio::test]
async fn where_the_records_are_lost_as_well_the_store_knows_whose_events_are_kept() {
    for lost in ["plugins", "plugins/live.json"] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = version("alpha", "1", "");
        place(folder.path(), "a.wasm", &bytes);
        let mut host = start(&folder, true, "").await;
        assert_eq!(ran_on(&host).await, "1");
        host.stop().await.unwrap();
        let path = host.data().join(lost);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            for path in [&path, &path.with_extension("json.copy")] {
                std::fs::write(path, "{").unwrap();
            }
        }
        std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
        let mut ids = Vec::new();
        for n in 0..2 {
            host.start().await.unwrap();
            wait_until("the notice", PATIENCE, async || {
                Ok(host.api("notices").await?.to_string().contains("registry.missing").then_some(()))
            })
            .await
            .unwrap();
            assert!(remarks(&host).await.contains("missing"), "{lost}");
            ids.extend(kept(&host, n..n + 1).await);
            host.stop().await.unwrap();
        }
        host.start().await.unwrap();
        // Under whichever name it comes back: nothing is known of where it was.
        place(folder.path(), "b.wasm", &bytes);
        ran_in_order(&host, &ids).await;
    }
    // Where the folder is as it was, nobody is asked anything.
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &version("alpha", "1", ""));
    let mut host = start(&folder, false, "").await;
    assert_eq!(ran_on(&host).await, "1");
    host.stop().await.unwrap();
    std::fs::remove_dir_all(host.data().join("plugins")).unwrap();
    host.start().await.unwrap();
    assert_eq!(ran_on(&host).await, "1");
    assert_eq!((host.api("notices").await.unwrap(), remarks(&host).await), (json!([]), "[]".to_owned()));
}

#[test]
fn a_record_that_can_not_be_read_at_the_start_stops_it_with_what_may_pass_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("plugins");
    std::fs::create_dir(&dir).unwrap();
    let options = crate::granting_all(dir, folder.path());
    std::fs::create_dir_all(&options.store).unwrap();
    let own = ["live.json", "live.json.copy"].map(|name| options.store.join(name));
    // Whoever opens a link to itself fails, and it is there.
    own.iter().for_each(|path| std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap());
    let compiler = sandbox::compiler::Compiler::Here;
    let sandbox = Sandbox::new(&sandbox::Options { instances: 1, cache: None, compiler }).unwrap();
    let refused = Registry::start(options, Arc::new(sandbox), None, Parts::default()).map(drop);
    assert!(matches!(refused, Err(registry::Error::File { .. })), "{refused:?}");
    assert!(own.iter().all(|path| std::fs::symlink_metadata(path).unwrap().is_symlink()), "nothing is set aside");
}

#[tokio::test]
async fn nothing_is_missed_where_nothing_ever_served() {
    let folder = tempfile::tempdir().unwrap();
    let host = start(&folder, true, "").await;
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"], json!([]));
    assert_eq!((remarks(&host).await, host.api("notices").await.unwrap()), ("[]".to_owned(), json!([])));
    // A folder that was never there is still a fault of the configuration.
    let config = host.folder().join("other.toml");
    let text = std::fs::read_to_string(host.folder().join("host.toml")).unwrap();
    std::fs::write(&config, text.replace(folder.path().to_str().unwrap(), "/nowhere").replace("\"data\"", "\"other\""))
        .unwrap();
    let program = integration_tests::host::Setup::new().unwrap().program;
    let mut serve = std::process::Command::new(program);
    serve.args(["serve", "--config"]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || serve.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
