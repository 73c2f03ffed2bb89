//! A copy of the store is whole whenever it is made, and coming back from one repeats no write.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Options, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A plugin `writer` that does what events say.
pub(crate) fn writer() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let manifest = "name = \"writer\"\nversion = \"1\"\nevents = [\"write.event\"]\n[permissions]\ncrm = [\"task.*\", \"deal.*\"]\nhttp = [\"*\"]\nstate = true";
    let named = integration_tests::guest::with_manifest(&module, manifest).unwrap();
    std::fs::write(folder.path().join("writer.wasm"), named).unwrap();
    folder
}

async fn run(host: &Host, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    command.args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    command.env_remove("SALESMAN_HOST_CONFIG").stdin(Stdio::null()).output().await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn good(host: &Host, arguments: &[&str]) -> String {
    let output = run(host, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A machine on which nothing is left of the store.
fn lose_the_data(host: &mut Host) {
    host.kill().unwrap();
    std::fs::remove_dir_all(host.data()).unwrap();
}

async fn is_waiting(host: &Host) -> bool {
    let ready = host.text("readyz").await.unwrap();
    assert!(ready.contains("\"ready\":true"), "{ready}");
    ready.contains("waits for an operator")
}

async fn settled(host: &Host, id: &str) -> Value {
    host.settled(id).await.unwrap()["deliveries"][0].clone()
}

#[tokio::test]
async fn what_was_acknowledged_before_a_copy_under_traffic_is_in_it_and_ends_once() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let plugins = writer();
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(plugins.path()).more("[retry]\nfirst_ms = 100");
    setup.crm_lines = "timeout_ms = 2000\nlinger_ms = 1000".to_owned();
    let mut host = setup.start().await.unwrap();
    let send = async |host: &Host, n: usize| {
        host.accepted(&format!("event=write.event&id={n}&sin=add-task&title=t{n}")).await.unwrap()
    };
    // A task that is known to be older: a list without dates tells nothing else.
    settled(&host, &send(&host, 0).await).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let file = host.folder().join("backup.sqlite");
    let mut before = Vec::new();
    for n in 1..=30 {
        before.push(send(&host, n).await);
    }
    // The copy begins under way, and the host goes on during it.
    let n = 90;
    let arguments = ["backup", name(&file)];
    let going_on = async {
        for n in 31..=n {
            send(&host, n).await;
        }
    };
    let (copied, ()) = tokio::join!(run(&host, &arguments), going_on);
    assert!(copied.status.success(), "{}", text(&copied));
    host.idle(PATIENCE).await.unwrap();
    let tasks = |crm: &StandIn| crm.tasks().iter().map(|task| task.text("title")).collect::<Vec<_>>();
    assert_eq!(tasks(&crm).len(), n + 1);

    lose_the_data(&mut host);
    good(&host, &["restore", name(&file)]).await;
    host.start().await.unwrap();
    assert!(is_waiting(&host).await);
    let calls = crm.calls().len();
    let new = send(&host, 1_000).await;
    let status = good(&host, &["restore", "--status"]).await;
    assert!(status.contains("Waits"), "{status}");
    // That nothing happens can't be waited for.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(host.api(&format!("events/{new}")).await.unwrap()["routed"], json!(false));
    let writes = |from: usize| crm.calls().iter().skip(from).filter(|call| call.action == "add").count();
    assert_eq!(writes(calls), 0);
    good(&host, &["restore", "--go-on"]).await;
    assert!(!is_waiting(&host).await);
    assert_eq!(settled(&host, &new).await["state"], "done");
    let mut uncertain = 0;
    for id in &before {
        let delivery = settled(&host, id).await;
        let told = delivery["reason"].as_str().unwrap_or_default().contains("can't be told");
        assert!(delivery["state"] == "done" || told, "{delivery}");
        uncertain += usize::from(told);
    }
    let mut titles = tasks(&crm);
    assert_eq!(titles.len(), n + 2, "none is there twice, and none is missing: {titles:?}");
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), n + 2);
    println!("{uncertain} uncertain of {n}");
    let audit = host.api("audit").await.unwrap();
    assert!(audit["items"].as_array().unwrap().iter().any(|line| line["action"] == "restore.go_on"), "{audit}");
}

/// The case that was found: 5 tasks and 5 invoices that were written after the copy.
#[tokio::test]
async fn what_was_written_after_the_copy_is_not_written_again() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let plugins = writer();
    let outside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", outside.local_addr().unwrap());
    let more = format!("[retry]\nfirst_ms = 100\n[plugins.writer.grants]\nhttp_private = [\"{origin}\"]");
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(plugins.path()).more(&more);
    setup.crm_lines = "timeout_ms = 2000\nlinger_ms = 1000".to_owned();
    let mut host = setup.start().await.unwrap();
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    let count = move || async move { counted.fetch_add(1, Ordering::SeqCst).to_string() };
    let answering = axum::Router::new().route("/x", axum::routing::post(count));
    let server = tokio::spawn(axum::serve(outside, answering).into_future());
    let older = host.accepted("event=write.event&id=1&sin=add-task&title=older").await.unwrap();
    settled(&host, &older).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let ask = async |host: &Host, path: &str| assert_eq!(host.ask(path, &json!({})).await.unwrap().0, 200, "{path}");
    ask(&host, "plugins/writer/pause").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let task = format!("event=write.event&id=1{n}&sin=add-task&title=t{n}");
        let with = json!({ "did": 1, "summa": 100 + n, "date.plan": "2031-01-02" });
        let invoice = format!("event=write.event&id=2{n}&sin=call&call=deal.invoice.add&with={with}");
        ids.push(host.accepted(&task).await.unwrap());
        ids.push(host.accepted(&invoice).await.unwrap());
    }
    let told = host.accepted(&format!("event=write.event&id=30&sin=fetch&url={origin}/x")).await.unwrap();
    wait_until("deliveries", PATIENCE, async || {
        Ok((host.api("backlog").await?["open"] == 11 && host.api("backlog").await?["unrouted"] == 0).then_some(()))
    })
    .await
    .unwrap();
    let file = host.folder().join("backup.sqlite");
    good(&host, &["backup", name(&file)]).await;
    ask(&host, "plugins/writer/resume").await;
    for id in ids.iter().chain([&told]) {
        assert_eq!(settled(&host, id).await["state"], "done");
    }
    let invoices = || crm.calls().iter().filter(|call| call.action == "invoice.add").count();
    assert_eq!((crm.tasks().len(), invoices()), (6, 5));
    assert_eq!(posts.load(Ordering::SeqCst), 1);

    // As somebody does who knows no command: the file is the store.
    lose_the_data(&mut host);
    std::fs::create_dir(host.data()).unwrap();
    std::fs::copy(&file, host.data().join("journal.sqlite")).unwrap();
    host.start().await.unwrap();
    assert!(is_waiting(&host).await && host.log().contains("restored from a backup"));
    let status = run(&host, &["restore", "--status", "--json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        status["restored"]["open"],
        json!([{ "plugin": "writer", "account": "main", "waiting": 11, "dead": 0 }])
    );
    assert_eq!(status["deliveries"].as_array().unwrap().len(), 11);
    // Whoever has one run is told that it does not yet.
    let number = status["deliveries"][0]["delivery"].to_string();
    assert!(good(&host, &["delivery", "retry", &number]).await.contains("nothing runs before"));
    ask(&host, "plugins/writer/resume").await;
    good(&host, &["restore", "--go-on"]).await;
    let (mut found, mut uncertain) = (0, 0);
    for id in &ids {
        let delivery = settled(&host, id).await;
        found += usize::from(delivery["state"] == "done");
        uncertain += usize::from(delivery["state"] == "dead");
    }
    assert_eq!((crm.tasks().len(), invoices()), (6, 5), "nothing was sent again");
    assert_eq!((found, uncertain), (5, 5));
    // Nobody can be asked about what went elsewhere.
    let (elsewhere, told) = (told.clone(), settled(&host, &told).await);
    assert_eq!((&told["state"], &told["code"]), (&json!("dead"), &json!("uncertain")), "{told}");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    // An operator's word settles it: the first three invoices were written, and the others are sent all the same.
    let mut said = 0;
    for id in ids.iter().chain([&elsewhere]) {
        let delivery = settled(&host, id).await;
        if delivery["state"] == "dead" {
            let number = delivery["id"].to_string();
            said += 1;
            let record = said.to_string();
            let (done, send) = (["dead", "done", &number, "--record", &record], ["dead", "send", &number]);
            good(&host, if said <= 3 { &done[..] } else { &send[..] }).await;
            assert_eq!(settled(&host, id).await["state"], "done");
        }
    }
    assert_eq!((said, crm.tasks().len(), invoices(), posts.load(Ordering::SeqCst)), (6, 6, 7, 2));
    assert_eq!(host.api("backlog").await.unwrap()["uncertain_writes"], 0, "what was sent on a word is answered");
    server.abort();
    // A new event is not doubted.
    let new = host.accepted("event=write.event&id=40&sin=add-task&title=new").await.unwrap();
    assert_eq!(settled(&host, &new).await["state"], "done");
    // Once it went on, it goes on at the next start as well.
    host.kill().unwrap();
    host.start().await.unwrap();
    assert!(!is_waiting(&host).await);
}

#[tokio::test]
async fn a_record_that_one_write_added_is_not_taken_for_that_of_another_with_the_same_words() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let plugins = writer();
    let mut setup = Setup::new().unwrap().crm(&crm).plugins(plugins.path()).more("[retry]\nfirst_ms = 100");
    setup.crm_lines = "timeout_ms = 2000\nlinger_ms = 1000".to_owned();
    let mut host = setup.start().await.unwrap();
    let send = async |host: &Host, id: u64, title: &str| {
        host.accepted(&format!("event=write.event&id={id}&sin=add-task&title={title}")).await.unwrap()
    };
    settled(&host, &send(&host, 1, "older").await).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let ask = async |host: &Host, path: &str| assert_eq!(host.ask(path, &json!({})).await.unwrap().0, 200, "{path}");
    ask(&host, "plugins/writer/pause").await;
    let (one, other) = (send(&host, 2, "same").await, send(&host, 3, "same").await);
    wait_until("deliveries", PATIENCE, async || Ok((host.api("backlog").await?["open"] == 2).then_some(())))
        .await
        .unwrap();
    let file = host.folder().join("backup.sqlite");
    good(&host, &["backup", name(&file)]).await;
    // After the copy, one of the two was done.
    let given_up = host.api(&format!("events/{other}")).await.unwrap()["deliveries"][0]["id"].clone();
    ask(&host, &format!("deliveries/{given_up}/drop")).await;
    ask(&host, "plugins/writer/resume").await;
    settled(&host, &one).await;
    assert_eq!(crm.tasks().len(), 2);
    lose_the_data(&mut host);
    good(&host, &["restore", name(&file)]).await;
    host.start().await.unwrap();
    ask(&host, "plugins/writer/resume").await;
    good(&host, &["restore", "--go-on"]).await;
    let states = [settled(&host, &one).await["state"].clone(), settled(&host, &other).await["state"].clone()];
    // Which of the two it was, nobody knows; that there are to be two, is known.
    assert_eq!(states, [json!("done"), json!("done")]);
    assert_eq!(crm.tasks().len(), 3);
}

#[tokio::test]
async fn a_copy_of_a_host_that_was_killed_leaves_its_folder_as_it_was() {
    let plugins = writer();
    let mut host = with_events(&plugins, 3).await;
    host.kill().unwrap();
    let there = |host: &Host| {
        let mut files = crate::files_below(&host.data());
        files.sort();
        files
    };
    let before = there(&host);
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let given_to = |host: &Host, owner: &str| {
        let given = std::process::Command::new("chown").args(["-R", owner, name(&host.data())]).status().unwrap();
        assert!(given.success());
    };
    // As the service's user has it, and root copies it by night.
    let owner = if own == 0 { 1_234 } else { own };
    if own == 0 {
        given_to(&host, "1234:1234");
    }
    let file = host.folder().join("backup.sqlite");
    good(&host, &["backup", name(&file)]).await;
    assert_eq!(there(&host), before);
    for path in there(&host) {
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
    }
    if own == 0 {
        given_to(&host, "0:0");
    }
    host.start().await.unwrap();
    assert!(!is_waiting(&host).await);
    assert_eq!(events_of(&host).await, 3);
}

/// A host with so many events, and a plugin that has seen them.
async fn with_events(plugins: &TempDir, events: usize) -> Host {
    let host = Setup::new().unwrap().plugins(plugins.path()).start().await.unwrap();
    send(&host, 0..events).await;
    host
}

async fn send(host: &Host, numbers: std::ops::Range<usize>) {
    for n in numbers {
        host.accepted(&format!("event=write.event&id={n}&sin=none")).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
}

async fn events_of(host: &Host) -> usize {
    host.api("events?limit=200").await.unwrap()["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn what_is_no_whole_backup_of_this_host_is_refused_and_nothing_changes() {
    let plugins = writer();
    let mut host = with_events(&plugins, 3).await;
    let file = host.folder().join("backup.sqlite");
    good(&host, &["backup", name(&file)]).await;
    let refused = async |host: &Host, arguments: &[&str], words: &str| {
        let output = run(host, arguments).await;
        assert!(!output.status.success() && text(&output).contains(words), "{arguments:?}: {}", text(&output));
    };
    // Nobody writes over what somebody keeps, or where the copy would be lost with the store.
    refused(&host, &["backup", name(&file)], "is there already").await;
    let mine = host.folder().join("mine");
    std::fs::write(&mine, "mine").unwrap();
    refused(&host, &["backup", name(&mine), "--replace"], "it is not replaced").await;
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    refused(&host, &["backup", name(&host.data().join("journal.sqlite")), "--replace"], "data folder").await;
    refused(&host, &["backup", name(&plugins.path().join("copy"))], "plugin folder").await;
    good(&host, &["backup", name(&file), "--replace"]).await;
    refused(&host, &["restore", name(&file), "--replace"], "in use by another host").await;
    host.stop().await.unwrap();
    refused(&host, &["restore", name(&file)], "has a store with events already").await;

    let whole = std::fs::read(&file).unwrap();
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let (path, mut bytes) = (host.folder().join("damaged.sqlite"), whole.clone());
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let middle = whole.len() / 2;
    let flipped = damaged(&|bytes| bytes[middle] ^= 1);
    refused(&host, &["restore", name(&flipped), "--replace"], "is damaged").await;
    for cut in [4_096, 1, middle] {
        let cut = damaged(&|bytes| bytes.truncate(whole.len() - cut));
        refused(&host, &["restore", name(&cut), "--replace"], "damaged").await;
    }
    refused(&host, &["restore", name(&mine), "--replace"], "no file of SQLite's").await;
    refused(&host, &["restore", name(&host.data().join("journal.sqlite")), "--replace"], "no backup of this host")
        .await;
    let newer = damaged(&|_| ());
    let store = rusqlite::Connection::open(&newer).unwrap();
    store.execute_batch("UPDATE backup SET format = 99, version = '9.9.9'").unwrap();
    store.close().unwrap();
    refused(&host, &["restore", name(&newer), "--replace"], "written by version 9.9.9").await;
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        // What the service's user can change is not what root writes.
        let theirs = damaged(&|_| ());
        std::os::unix::fs::chown(&theirs, Some(1_234), None).unwrap();
        refused(&host, &["restore", name(&theirs), "--files"], "can be changed by others than root").await;
        std::fs::remove_file(&theirs).unwrap();
    }
    let pipe = host.folder().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&host, &["restore", name(&pipe), "--replace"], "it is no file").await;

    host.start().await.unwrap();
    assert!(!is_waiting(&host).await);
    assert_eq!(events_of(&host).await, 3);
    let left = std::fs::read_dir(host.data()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("before-restore")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_restore_that_is_cut_short_leaves_the_old_store_or_the_new_one() {
    let plugins = writer();
    let mut host = with_events(&plugins, 3).await;
    let file = host.folder().join("backup.sqlite");
    good(&host, &["backup", name(&file)]).await;
    send(&host, 3..8).await;
    // With a log beside the store that is not in it.
    host.kill().unwrap();
    let program = Setup::new().unwrap().program;
    let config = host.folder().join("host.toml");
    let mut outcomes = (0, 0);
    for round in 0..24_u64 {
        let mut restoring = std::process::Command::new(&program);
        restoring.args(["restore", name(&file), "--replace", "--config", name(&config)]);
        let mut restoring = restoring.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(5 + round * 5)).await;
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let store = rusqlite::Connection::open_with_flags(host.data().join("journal.sqlite"), flags).unwrap();
        let events: i64 = store.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
        let sound: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        match events {
            8 => outcomes.0 += 1,
            3 => outcomes.1 += 1,
            other => panic!("{other} events"),
        }
        if events == 3 {
            break;
        }
    }
    println!("{} times the old, {} times the new", outcomes.0, outcomes.1);
    assert!(outcomes.0 > 0);
    good(&host, &["restore", name(&file), "--replace"]).await;
    host.start().await.unwrap();
    assert!(is_waiting(&host).await);
    assert_eq!(events_of(&host).await, 3);
    // The old one is kept, for its owner alone.
    let aside: Vec<_> = std::fs::read_dir(host.data()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let aside = aside.iter().filter(|path| path.to_string_lossy().contains("before-restore"));
    let mode = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let modes: Vec<_> = aside.map(mode).collect();
    assert!(!modes.is_empty() && modes.iter().all(|mode| *mode == 0o700), "{modes:?}");
}

/// What the README says about it, done as it stands there.
#[tokio::test]
async fn the_way_back_that_the_readme_describes_leads_back() {
    let readme = std::fs::read_to_string(xtask::root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("### Backup and restore").unwrap();
    let section = section.split("\n## ").next().unwrap();
    // The copy that the timer makes, then the way back.
    let block = section.lines().filter_map(|line| match line.strip_prefix("    ")?.split_once("/usr/local/bin/") {
        Some((_, by_timer)) => Some(by_timer),
        None => Some(line).filter(|line| line.starts_with("    sudo ")),
    });
    let plugins = writer();
    let mut host = with_events(&plugins, 3).await;
    std::fs::write(host.folder().join("grants.toml"), "[writer]\nstate = true\n").unwrap();
    let mut ran = 0;
    let [copy, of_root] = ["b.sqlite", "root.sqlite"].map(|name| host.folder().join(name));
    for line in block {
        let line = line.replace("/var/backups/salesman-host/host-$(date +\\%H).sqlite", name(&copy));
        let line = line.replace("/var/backups/salesman-host/host-03.sqlite", name(&copy));
        let line = line.replace("/root/salesman-host.sqlite", name(&of_root));
        let line = line.replace(" --config /etc/salesman-host/host.toml", "");
        let words = line.split_whitespace().filter(|word| *word != "sudo");
        // The user's name comes first.
        let words: Vec<String> = words.skip(if line.contains("sudo -u") { 2 } else { 0 }).map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            // The machine is lost here.
            ["systemctl", "stop", _] => {
                lose_the_data(&mut host);
                std::fs::remove_file(host.folder().join("grants.toml")).unwrap();
                std::fs::remove_file(plugins.path().join("writer.wasm")).unwrap();
            }
            ["systemctl", "start", _] => host.start().await.unwrap(),
            ["install", arguments @ ..] => {
                assert!(std::process::Command::new("install").args(arguments).status().unwrap().success());
            }
            ["salesman-host", arguments @ ..] => drop(good(&host, arguments).await),
            other => panic!("`{other:?}` is not known here"),
        }
        ran += 1;
    }
    assert!(ran >= 7, "{section}");
    assert!(!is_waiting(&host).await);
    assert_eq!(events_of(&host).await, 3);
    send(&host, 3..4).await;
    let path = host.api("events?limit=1").await.unwrap();
    assert_eq!(path["items"][0]["deliveries"][0]["state"], "done", "{path}");
    assert!(std::fs::read_to_string(host.folder().join("grants.toml")).unwrap().contains("[writer]"));
}
