//! Plugin files that were made to hurt: each is only its own fault, and the host, its intake and its other plugins stay well.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use integration_tests::guest::{MANIFEST, VERSION, custom_section, section, with_manifest};
use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::mutate::mutated;
use integration_tests::wait_until;
use salesman_host::parts::Parts;
use salesman_host::registry::{ReadAgain, Registry, Reread};
use salesman_host::sandbox::{self, LoadError, Sandbox};
use serde_json::{Value, json};

/// Mutants of each sample that are read when the tests run.
const MUTANTS: u64 = 500;
/// What a panic in a library is told as.
const FAILED: &str = "what reads it failed on it";

/// A good plugin.
fn good(name: &str, version: &str) -> Vec<u8> {
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    with_manifest(&module, &format!("name = \"{name}\"\nversion = \"{version}\"\nevents = [\"test.*\"]\n")).unwrap()
}

fn place(folder: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(folder.join("beside"), bytes).unwrap();
    std::fs::rename(folder.join("beside"), folder.join(file)).unwrap();
}

fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn part(id: u8, contents: &[u8]) -> Vec<u8> {
    [vec![id], number(contents.len()), contents.to_vec()].concat()
}

/// A component whose one module has so many functions of this body, and so many exports.
fn bomb(name: &str, functions: usize, exports: usize, body: &[u8]) -> Vec<u8> {
    let list =
        |count: usize, one: &dyn Fn(usize) -> Vec<u8>| [number(count), (0..count).flat_map(one).collect()].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        part(1, &[1, 0x60, 0, 0]),
        part(3, &list(functions, &|_| vec![0])),
        part(7, &list(exports, &|at| [number(5), format!("{at:05}").into_bytes(), vec![0, 0]].concat())),
        part(10, &list(functions, &|_| [number(body.len()), body.to_vec()].concat())),
    ];
    let manifest = format!("name = \"{name}\"\nversion = \"1\"\nevents = [\"bomb.*\"]\n");
    [
        b"\0asm\x0d\0\x01\0".to_vec(),
        part(1, &module.concat()),
        custom_section(MANIFEST, manifest.as_bytes()),
        custom_section(VERSION, b"1.0"),
    ]
    .concat()
}

/// So many loops, `deep` in each other.
fn loops(count: usize, deep: usize) -> Vec<u8> {
    let nest = [[0x03, 0x40].repeat(deep), vec![0x0b; deep]].concat();
    [vec![0], nest.repeat(count / deep), vec![0x0b]].concat()
}

/// The most memory, in MiB, that a process and its children have held, as far as this looked.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    fn of(pid: u32) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let (mut host, mut together) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let own = resident(pid);
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                // Children belong to the thread that started them.
                let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                let all = threads.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
                let all: String = all.chain([children]).collect();
                let mut pids: Vec<u32> = all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
                pids.sort_unstable();
                pids.dedup();
                (host, together) = (host.max(own), together.max(own + pids.into_iter().map(resident).sum::<u64>()));
                // The pace of the look.
                std::thread::sleep(Duration::from_millis(10));
            }
            (host, together)
        });
        Self { ended, thread }
    }

    fn end(self) -> (u64, u64) {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn resident(pid: u32) -> u64 {
    // One that has ended holds nothing.
    integration_tests::host::memory(pid, "VmRSS").unwrap_or(0) >> 10
}

/// The codes of the notices, by file.
async fn notices(host: &Host) -> BTreeMap<String, String> {
    let notices = host.api("notices").await.unwrap();
    let of = |notice: &Value| {
        let file = Path::new(notice["file"].as_str()?).file_name()?.to_str()?.to_owned();
        Some((file, notice["code"].as_str()?.to_owned()))
    };
    notices.as_array().unwrap().iter().filter_map(of).collect()
}

async fn serves(host: &Host, name: &str, version: &str) {
    let what = format!("{name} {version}");
    let found = wait_until(&what, PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        let is = |plugin: &Value| plugin["name"] == name && plugin["version"] == version;
        Ok(plugins.as_array().unwrap().iter().any(is).then_some(()))
    });
    let found = found.await;
    assert!(found.is_ok(), "{found:?} {}\n{}", host.api("notices").await.unwrap(), host.log());
}

async fn delivered_to(host: &Host, name: &str) {
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    let path = host.settled(&id).await.unwrap();
    let deliveries = path["deliveries"].as_array().unwrap();
    assert!(deliveries.iter().any(|one| one["plugin"] == name && one["state"] == "done"), "{path}");
}

#[test]
fn no_mutant_of_a_plugin_is_more_than_a_bad_file() {
    let mut failed = BTreeMap::new();
    for name in xtask::plugins::SAMPLES {
        let plugin = std::fs::read(crate::samples().join(format!("{name}.wasm"))).unwrap();
        for seed in 0..MUTANTS {
            let mutant = mutated(seed, &plugin);
            // Whatever a library does, this returns; so does the look for a manifest, which uses none.
            if let Err(error) = sandbox::inspect(&mutant) {
                assert!(error.code().starts_with("registry."), "{name} {seed}");
                if matches!(&error, LoadError::Damaged(words) if words == FAILED) {
                    failed.insert((name, seed), mutant.clone());
                }
            }
            sandbox::manifest_of(&mutant);
        }
    }
    println!("libraries failed on {:?}", failed.keys());
}

/// The guest with one byte of its contract changed: what reads it panics.
fn panicking() -> Vec<u8> {
    let mut guest = good("broken", "1");
    let (_, contract) = section(&guest, |name| name.starts_with("component-type")).unwrap();
    let start = guest.windows(contract.len()).position(|window| window == contract).unwrap();
    let hit = (start..start + contract.len()).find(|at| {
        if guest[*at] != 6 {
            return false;
        }
        let mut mutant = guest.clone();
        mutant[*at] = 0;
        matches!(sandbox::inspect(&mutant), Err(LoadError::Damaged(words)) if words == FAILED)
    });
    guest[hit.unwrap()] = 0;
    guest
}

#[tokio::test]
async fn a_file_that_makes_its_reader_panic_is_its_own_notice_at_the_start_and_later() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "bad.wasm", &panicking());
    place(folder.path(), "alpha.wasm", &good("alpha", "1"));
    let mut host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    serves(&host, "alpha", "1").await;
    assert_eq!(notices(&host).await, BTreeMap::from([("bad.wasm".to_owned(), "registry.damaged".to_owned())]));
    // The version before goes on where its file becomes such a one.
    place(folder.path(), "alpha.wasm", &panicking());
    wait_until("the notice", PATIENCE, async || Ok((notices(&host).await.len() == 2).then_some(()))).await.unwrap();
    delivered_to(&host, "alpha").await;
    place(folder.path(), "beta.wasm", &good("beta", "1"));
    serves(&host, "beta", "1").await;
    host.stop().await.unwrap();
    host.start().await.unwrap();
    delivered_to(&host, "alpha").await;
    delivered_to(&host, "beta").await;
}

/// Puts everything into a folder that was made to hurt; returns the files with the codes of their notices.
fn hostile(folder: &Path) -> BTreeMap<String, String> {
    let too_much = "registry.too_much";
    let bombs = [
        ("deep.wasm", bomb("deep", 1, 0, &loops(17_000, 17_000)), too_much),
        ("deeper.wasm", bomb("deeper", 1, 0, &loops(51_000, 51_000)), too_much),
        ("wide.wasm", bomb("wide", 1, 0, &loops(50_000, 100)), too_much),
        ("functions.wasm", bomb("functions", 200_000, 0, &[0, 0x0b]), too_much),
        ("exports.wasm", bomb("exports", 1, 90_000, &[0, 0x0b]), "registry.imports"),
        ("manifest.wasm", with_manifest(&good("large", "1"), &"#".repeat(9 << 20)).unwrap(), too_much),
    ];
    let mut expected = BTreeMap::new();
    for (file, bytes, code) in bombs {
        place(folder, file, &bytes);
        expected.insert(file.to_owned(), code.to_owned());
    }
    std::fs::File::create(folder.join("sparse.wasm")).unwrap().set_len(3 << 30).unwrap();
    expected.insert("sparse.wasm".to_owned(), too_much.to_owned());
    std::fs::create_dir(folder.join("folder.wasm")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("fifo.wasm")).status().unwrap().success());
    for (file, to) in [("endless.wasm", "/dev/zero"), ("nowhere.wasm", "/no/such/file"), ("round.wasm", "round.wasm")] {
        std::os::unix::fs::symlink(to, folder.join(file)).unwrap();
    }
    for file in ["folder", "fifo", "endless", "nowhere", "round"] {
        expected.insert(format!("{file}.wasm"), "registry.file".to_owned());
    }
    expected
}

#[tokio::test]
async fn bombs_hold_up_neither_intake_nor_other_plugins_and_are_made_ready_once() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "alpha.wasm", &good("alpha", "1"));
    let mut host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    serves(&host, "alpha", "1").await;
    let watch = Watch::of(host.pid().unwrap());
    let began = Instant::now();
    let expected = hostile(folder.path());
    wait_until("the bombs", PATIENCE, async || Ok((notices(&host).await.len() > 4).then_some(()))).await.unwrap();
    // Now that they are looked into, a new version of what serves, and a new plugin, do not wait for them.
    place(folder.path(), "alpha.wasm", &good("alpha", "2"));
    serves(&host, "alpha", "2").await;
    let served = began.elapsed();
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let sent = Instant::now();
        host.accepted("event=test.sin&sin=none").await.unwrap();
        slowest = slowest.max(sent.elapsed());
    }
    let all = wait_until("all notices", PATIENCE, async || Ok((notices(&host).await == expected).then_some(()))).await;
    assert!(all.is_ok(), "{:?}\n{expected:?}\n{}", notices(&host).await, host.log());
    let (alone, together) = watch.end();
    println!(
        "alpha after {served:?}, all told after {:?}, slowest event {slowest:?}, host {alone} MiB, with children {together} MiB",
        began.elapsed()
    );
    assert!(alone < 250 && together < 400, "{alone} MiB, with children {together} MiB");
    delivered_to(&host, "alpha").await;

    // What was found bad is not made ready again, also by the next process.
    let made = |host: &Host| host.log().matches("is being compiled").count();
    let before = made(&host);
    host.stop().await.unwrap();
    let began = Instant::now();
    host.start().await.unwrap();
    assert_eq!(notices(&host).await, expected);
    println!("started again after {:?}", began.elapsed());
    // `exports.wasm` is compiled, and found lacking when it is loaded.
    assert_eq!(made(&host), before, "{}", host.log());
    delivered_to(&host, "alpha").await;
}

#[tokio::test]
async fn events_that_come_before_any_plugin_is_ready_are_kept_for_them() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "alpha.wasm", &good("alpha", "1"));
    place(folder.path(), "deep.wasm", &bomb("deep", 1, 0, &loops(17_000, 17_000)));
    let mut setup = Setup::new().unwrap().plugins(folder.path());
    setup.settled = false;
    let mut host = setup.start().await.unwrap();
    let ready: Value = serde_json::from_str(&host.text("readyz").await.unwrap()).unwrap();
    assert_eq!(
        (&ready["ready"], &ready["remarks"]),
        (&json!(true), &json!(["plugins are being made ready: their events are kept"]))
    );
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push(host.accepted(&format!("event=test.sin&sin=none&number={number}")).await.unwrap());
    }
    for id in &sent {
        let path = host.settled(id).await.unwrap();
        let delivery = &path["deliveries"][0];
        let what = (&delivery["plugin"], &delivery["state"]);
        assert_eq!(what, (&json!("alpha"), &json!("done")), "{path}\n{}", host.log());
    }
    // Also where another program has to make all of them ready anew, and is stopped while it does.
    std::fs::remove_dir_all(host.data().join("plugins/compiled")).unwrap_or_default();
    for number in 20..22 {
        host.kill().unwrap();
        host.start().await.unwrap();
        let id = host.accepted(&format!("event=test.sin&sin=none&number={number}")).await.unwrap();
        sent.push(id);
    }
    for id in &sent {
        assert_eq!(host.settled(id).await.unwrap()["deliveries"][0]["plugin"], "alpha");
    }
}

#[tokio::test]
async fn thousands_of_files_and_one_that_never_rests_are_told_about_and_cost_the_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "zeta.wasm", &good("zeta", "1"));
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    serves(&host, "zeta", "1").await;
    for number in 0..3_000 {
        std::fs::write(folder.path().join(format!("{number}.wasm")), b"\0asm").unwrap();
    }
    let (ended, path) = (Arc::new(AtomicBool::new(false)), folder.path().join("zz.wasm"));
    let over = Arc::clone(&ended);
    let (one, other) = (good("restless", "1"), good("restless", "2"));
    let restless = std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            for bytes in [&one, &other] {
                std::fs::write(&path, bytes).unwrap();
                // The file's own pace is what is tested.
                std::thread::sleep(Duration::from_millis(40));
            }
        }
    });
    let folder_name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    wait_until("the notice of the folder", PATIENCE, async || {
        Ok((notices(&host).await.get(&folder_name).map(String::as_str) == Some("registry.too_many")).then_some(()))
    })
    .await
    .unwrap();
    place(folder.path(), "zeta.wasm", &good("zeta", "2"));
    serves(&host, "zeta", "2").await;
    delivered_to(&host, "zeta").await;
    for number in 0..3_000 {
        std::fs::remove_file(folder.path().join(format!("{number}.wasm"))).unwrap();
    }
    wait_until("the notice of the file", PATIENCE, async || {
        Ok((notices(&host).await == BTreeMap::from([("zz.wasm".to_owned(), "registry.restless".to_owned())]))
            .then_some(()))
    })
    .await
    .unwrap();
    place(folder.path(), "zeta.wasm", &good("zeta", "3"));
    serves(&host, "zeta", "3").await;
    ended.store(true, Ordering::SeqCst);
    restless.join().unwrap();
    serves(&host, "restless", "2").await;
}

#[tokio::test]
async fn a_file_that_takes_another_plugins_name_gets_nothing_of_it_before_an_approval() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "notify.wasm", &good("notify", "1"));
    let mut setup = Setup::new().unwrap().plugins(folder.path());
    setup.dev = false;
    let mut host = setup.start().await.unwrap();
    serves(&host, "notify", "1").await;
    place(folder.path(), "0.wasm", &good("notify", "2"));
    let twice = BTreeMap::from([("0.wasm".to_owned(), "registry.twice".to_owned())]);
    wait_until("the notice", PATIENCE, async || Ok((notices(&host).await == twice).then_some(()))).await.unwrap();
    host.stop().await.unwrap();
    host.start().await.unwrap();
    serves(&host, "notify", "1").await;
    assert_eq!(notices(&host).await, twice);
    // A home that is bad for a while is still one, and also one that cannot be read at a start.
    place(folder.path(), "notify.wasm", b"#!/bin/sh");
    wait_until("both notices", PATIENCE, async || Ok((notices(&host).await.len() == 2).then_some(()))).await.unwrap();
    host.stop().await.unwrap();
    host.start().await.unwrap();
    serves(&host, "notify", "1").await;
    // Once it is gone, the other waits.
    std::fs::remove_file(folder.path().join("notify.wasm")).unwrap();
    let waits = BTreeMap::from([("0.wasm".to_owned(), "registry.waits_for_approval".to_owned())]);
    wait_until("the wait", PATIENCE, async || Ok((notices(&host).await == waits).then_some(()))).await.unwrap();
    let kept = host.accepted("event=test.sin&sin=none").await.unwrap();
    host.stop().await.unwrap();
    host.start().await.unwrap();
    assert_eq!(notices(&host).await, waits);
    let told = host.api("notices").await.unwrap();
    assert!(told[0]["message"].as_str().unwrap().contains("the place of `notify.wasm`"), "{told}");
    let (status, answer) = host.ask("plugins/notify/grant", &json!({ "hash": told[0]["hash"] })).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    serves(&host, "notify", "2").await;
    assert_eq!(host.settled(&kept).await.unwrap()["deliveries"][0]["state"], "done");
    // What is known by its bytes may be called anything.
    std::fs::rename(folder.path().join("0.wasm"), folder.path().join("1.wasm")).unwrap();
    wait_until("another name", PATIENCE, async || {
        let homes = std::fs::read_to_string(host.data().join("plugins/homes.json")).unwrap_or_default();
        Ok(homes.contains("1.wasm").then_some(()))
    })
    .await
    .unwrap();
    serves(&host, "notify", "2").await;
}

#[tokio::test]
async fn a_group_that_can_not_be_kept_keeps_nobody_from_their_own_files() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), "a.wasm", &good("alpha", "1"));
    let mut host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    serves(&host, "alpha", "1").await;
    host.stop().await.unwrap();
    let given = Command::new("chown").args(["-R", "65534"]).arg(host.folder()).status();
    let program = Setup::new().unwrap().program;
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    };
    let possible = given.is_ok_and(|done| done.success())
        && as_nobody().arg("--version").output().is_ok_and(|done| done.status.success());
    if !possible {
        eprintln!("SKIPPED: only root can be somebody else here");
        return;
    }
    // `chown -R USER`, without the group: what is written over keeps its owner, and nobody new may read it.
    let mut command = as_nobody();
    command.args(["plugin", "grant", "alpha", "--revoke", "--yes", "--config"]).arg(host.folder().join("host.toml"));
    let grants = host.folder().join("grants.toml");
    std::fs::write(&grants, "[alpha]\nstate = true\n").unwrap();
    std::fs::set_permissions(&grants, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&grants, Some(65_534), Some(0)).unwrap();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(&grants).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (65_534, 65_534, 0o600));
    assert!(!std::fs::read_to_string(&grants).unwrap().contains("alpha"));
}

/// A registry whose reading of the configuration panics so many times.
fn failing(times: usize) -> (tempfile::TempDir, Registry, Parts) {
    let folder = tempfile::tempdir().unwrap();
    let (dir, config) = (folder.path().join("plugins"), folder.path().join("host.toml"));
    std::fs::create_dir(&dir).unwrap();
    let options = crate::granting_all(dir, folder.path());
    let compiler = sandbox::compiler::Compiler::Here;
    let sandbox = Sandbox::new(&sandbox::Options { instances: 1, cache: None, compiler }).unwrap();
    let left = AtomicUsize::new(times);
    let read = move || {
        let panics = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(panics.is_err(), "planted");
        ReadAgain::default()
    };
    let (parts, reread) = (Parts::default(), Reread { files: vec![config], read: Box::new(read) });
    let registry = Registry::start(options, Arc::new(sandbox), Some(reread), parts.clone()).unwrap();
    (folder, registry, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_that_loads_plugins_is_made_anew_after_a_panic_and_what_it_can_not_heed_is_not_called_done() {
    let (folder, registry, parts) = failing(1);
    registry.handle().started().await;
    assert!(registry.handle().looks_again().await);
    registry.bell().reread();
    wait_until("the panic", PATIENCE, async || Ok((parts.down() == ["plugins"]).then_some(()))).await.unwrap();
    std::fs::write(folder.path().join("plugins/alpha.wasm"), good("alpha", "1")).unwrap();
    wait_until("a plugin", PATIENCE, async || Ok((registry.handle().snapshot().plugins.len() == 1).then_some(())))
        .await
        .unwrap();
    assert_eq!(parts.down(), Vec::<&str>::new());

    let (folder, registry, parts) = failing(1_000);
    registry.handle().started().await;
    std::fs::write(folder.path().join("host.toml"), "").unwrap();
    wait_until("the panic", PATIENCE, async || Ok((parts.down() == ["plugins"]).then_some(()))).await.unwrap();
    assert!(!registry.handle().looks_again().await, "it panics again and again");
}
