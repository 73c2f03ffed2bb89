//! A store that is swapped, cut, emptied or lost, under a running host and between two starts: what was acknowledged is never
//! replaced by something else without a word. And a host that starts slowly says so.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use integration_tests::host::{Host, PATIENCE, Setup, TOKEN, http_client};
use integration_tests::wait_until;

fn shell(folder: &Path, script: &str) {
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(folder).status().unwrap();
    assert!(status.success(), "{script}");
}

fn command(host: &Host, arguments: &[&str]) -> Output {
    // A host that starts where it must not would stay.
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(Setup::new().unwrap().program)
        .args(arguments)
        .arg("--config")
        .arg(host.folder().join("host.toml"))
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn ready(host: &Host) -> String {
    http_client().unwrap().get(format!("{}/readyz", host.base())).send().await.unwrap().text().await.unwrap()
}

/// Sends events until one is refused; at most for some seconds, in which a swap has to be noticed.
async fn refused(host: &Host, how: &str) -> String {
    wait_until(how, PATIENCE, async || {
        let (status, answer) = host.post("event=test.sin&sin=none&n=x").await?;
        Ok((status == 503).then(|| answer.to_string()))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_copy_that_is_put_over_the_running_hosts_store_takes_nothing_in_and_is_refused_afterwards() {
    for (how, script) in [
        ("copied over", "cp copy data/journal.sqlite"),
        ("moved over", "mv copy data/journal.sqlite"),
        ("emptied", ": > data/journal.sqlite"),
        ("cut", "truncate -s 8192 data/journal.sqlite"),
    ] {
        let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
        let id = host.accepted("event=test.sin&sin=none&n=0").await.unwrap();
        host.settled(&id).await.unwrap();
        let store = host.data().join("journal.sqlite");
        // A copy of a while ago, when the host was down.
        host.stop().await.unwrap();
        shell(host.folder(), "cp data/journal.sqlite copy");
        host.start().await.unwrap();
        let mut later = Vec::new();
        for n in 0..300 {
            later.push(host.accepted(&format!("event=test.sin&sin=none&n={n}&m=1")).await.unwrap());
        }
        host.settled(later.last().unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        shell(host.folder(), script);
        let answer = refused(&host, how).await;
        assert!(answer.contains("ingress.not_stored"), "{how}: {answer}");
        let words = if how == "moved over" { "moved or replaced" } else { "was overwritten" };
        assert!(ready(&host).await.contains(words), "{how}: {}", ready(&host).await);
        wait_until("the log", PATIENCE, async || Ok(host.log().contains(words).then_some(()))).await.unwrap();
        let before = std::fs::read(&store).unwrap();
        host.stop().await.unwrap();
        assert!(std::fs::read(&store).unwrap() == before, "{how}: it was written into the foreign file");

        // The next start does not take it for its own, nor does doctor; but for one that its log makes whole again.
        let served = command(&host, &["serve"]);
        assert_eq!(served.status.code(), Some(2), "{how}: {}", said(&served));
        assert!(said(&served).contains("was used with another store"), "{how}: {}", said(&served));
        assert!(said(&command(&host, &["doctor"])).contains("was used with another store"), "{how}");
        // The log beside it is another's: whoever accepts says what becomes of it.
        let accepted = command(&host, &["journal", "accept", "--yes", "--log", "aside"]);
        assert!(accepted.status.success(), "{how}: {}", said(&accepted));
        if how.starts_with("co") || how.starts_with("mo") {
            host.start().await.unwrap();
            assert!(host.path_is_there(&id).await, "{how}");
            host.accepted("event=test.sin&sin=none&n=last").await.unwrap();
        }
    }
}

#[tokio::test]
async fn events_that_another_program_takes_out_of_the_running_hosts_store_are_missed() {
    let host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    for n in 0..20 {
        host.accepted(&format!("event=test.sin&sin=none&n={n}")).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
    let other = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    // What changes nothing of this is told, and no more.
    other.execute("INSERT INTO audit (at, who, action, object, details) VALUES (0, 'x', 'x', 'x', 'x')", []).unwrap();
    host.accepted("event=test.sin&sin=none&n=more").await.unwrap();
    wait_until("the log", PATIENCE, async || Ok(host.log().contains("Another program changed").then_some(())))
        .await
        .unwrap();
    other.execute("DELETE FROM event WHERE seq > 5", []).unwrap();
    refused(&host, "deleted").await;
    assert!(ready(&host).await.contains("was overwritten"));
}

#[tokio::test]
async fn a_used_folder_without_its_store_or_its_log_is_refused_until_somebody_says_that_it_is_meant() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    // Copied into the file a moment after it came: without the log nothing would be missing.
    let reader = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    host.settled(&id).await.unwrap();
    host.kill().unwrap();
    // It closes last, and leaves the log.
    reader.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(reader);
    // After a kill the log is there, and the host goes on.
    assert!(host.data().join("journal.sqlite-wal").exists());
    shell(host.folder(), "cp -a data whole");
    host.start().await.unwrap();
    host.stop().await.unwrap();
    host.start().await.unwrap();
    assert!(host.path_is_there(&id).await);
    host.stop().await.unwrap();
    for (script, words, code_of_accept) in [
        (
            "rm -r data; cp -a whole data; rm data/journal.sqlite-wal data/journal.sqlite-shm",
            "`journal.sqlite-wal` is missing",
            0,
        ),
        ("rm -r data; cp -a whole data; rm data/journal.sqlite*", "`journal.sqlite` is missing", 0),
        (
            "rm -r data; cp -a whole data; rm data/journal.sqlite*; : > data/journal.sqlite",
            "`journal.sqlite` is empty",
            0,
        ),
    ] {
        shell(host.folder(), script);
        let served = command(&host, &["serve"]);
        assert!(served.status.code() == Some(2) && said(&served).contains(words), "{script}: {}", said(&served));
        // Nobody is there to be asked.
        assert_eq!(command(&host, &["journal", "accept"]).status.code(), Some(1));
        let accepted = command(&host, &["journal", "accept", "--yes"]);
        assert_eq!(accepted.status.code(), Some(code_of_accept), "{script}: {}", said(&accepted));
        host.start().await.unwrap();
        let refused = command(&host, &["journal", "accept", "--yes"]);
        assert!(said(&refused).contains("in use by another host"), "{}", said(&refused));
        host.accepted("event=test.sin&sin=none&n=1").await.unwrap();
        host.stop().await.unwrap();
    }
    let nothing = command(&host, &["journal", "accept"]);
    assert!(nothing.status.success() && said(&nothing).contains("nothing has to be accepted"), "{}", said(&nothing));
}

#[tokio::test]
async fn a_reader_that_outlives_the_host_and_closes_last_keeps_no_host_from_starting() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    for killed in [false, true] {
        let id = host.accepted("event=test.sin&sin=none").await.unwrap();
        host.settled(&id).await.unwrap();
        let reader = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM event", [], |_| Ok(())).unwrap();
        let last = host.accepted("event=test.sin&sin=none&n=last").await.unwrap();
        if killed {
            host.kill().unwrap();
        } else {
            assert_eq!(host.stop().await.unwrap(), Some(0));
        }
        let log = host.data().join("journal.sqlite-wal");
        assert!(log.exists(), "the reader keeps it");
        // SQLite brings the log into the file with the last connection, and removes it.
        drop(reader);
        assert!(!log.exists());
        host.start().await.unwrap();
        assert!(host.path_is_there(&last).await);
    }
}

#[tokio::test]
async fn a_data_folder_that_was_moved_is_not_made_anew_and_serves_again_when_it_is_back() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    host.settled(&id).await.unwrap();
    shell(host.folder(), "mv data away");
    refused(&host, "a refusal after the move").await;
    // The plugins' loader has seen it by now, and has nowhere to record anything.
    wait_until("a look of the loader", PATIENCE, async || Ok(host.log().contains("moved").then_some(())))
        .await
        .unwrap();
    assert!(!host.data().exists());
    shell(host.folder(), "mv away data");
    wait_until("events that are taken again", PATIENCE, async || {
        Ok((host.post("event=test.sin&sin=none&n=2").await?.0 == 202).then_some(()))
    })
    .await
    .unwrap();
    // In its place a folder without anything: a volume that was taken away.
    shell(host.folder(), "mv data away; mkdir -m 700 data");
    refused(&host, "a refusal after the second move").await;
    wait_until("a word in the empty folder", PATIENCE, async || {
        Ok(host.data().join("store.json").exists().then_some(()))
    })
    .await
    .unwrap();
    host.kill().unwrap();
    let served = command(&host, &["serve"]);
    assert_eq!(served.status.code(), Some(2), "{}", said(&served));
    shell(host.folder(), "rm -r data; mv away data");
    host.start().await.unwrap();
    assert!(host.path_is_there(&id).await);
}

#[tokio::test]
async fn a_copy_that_is_put_in_place_by_hand_waits_for_an_operator_also_in_a_used_folder() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    host.settled(&id).await.unwrap();
    let copy = host.folder().join("copy");
    let copied = command(&host, &["backup", copy.to_str().unwrap()]);
    assert!(copied.status.success(), "{}", said(&copied));
    host.stop().await.unwrap();
    shell(host.folder(), "cp copy data/journal.sqlite");
    host.start().await.unwrap();
    assert!(host.path_is_there(&id).await);
    assert!(ready(&host).await.contains("restored"), "{}", ready(&host).await);
    // After a kill the log of the one before lies there.
    host.kill().unwrap();
    shell(host.folder(), "cp copy data/journal.sqlite");
    let served = command(&host, &["serve"]);
    assert_eq!(served.status.code(), Some(2), "{}", said(&served));
    assert!(command(&host, &["journal", "accept", "--yes", "--log", "aside"]).status.success());
    host.start().await.unwrap();
    assert!(ready(&host).await.contains("restored"), "{}", ready(&host).await);
}

#[tokio::test]
async fn a_host_whose_store_is_not_open_yet_answers_and_takes_events_when_it_is() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    host.settled(&id).await.unwrap();
    host.stop().await.unwrap();
    // As long as somebody holds it, opening it waits: two seconds at most, like a long change of its format.
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let config = host.folder().join("host.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(&config, text).unwrap();
    let holder = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut process = Command::new(Setup::new().unwrap().program)
        .args(["serve", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let http = http_client().unwrap();
    let base = format!("http://127.0.0.1:{port}");
    wait_until("an answer", PATIENCE, async || {
        let alive = http.get(format!("{base}/healthz")).send().await;
        Ok(alive.is_ok_and(|answer| answer.status() == 200).then_some(()))
    })
    .await
    .unwrap();
    let event = async |n: u32| {
        let sent =
            http.post(format!("{base}/events/{TOKEN}")).header("content-type", "application/x-www-form-urlencoded");
        sent.body(format!("event=test.sin&sin=none&n={n}")).send().await.unwrap()
    };
    let ready = http.get(format!("{base}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("the host is starting"));
    // What comes meanwhile is answered when it is over; more than are held where a start takes long.
    let events = futures::future::join_all((0..150).map(event));
    let (answers, ()) = tokio::join!(events, async { holder.execute_batch("ROLLBACK").unwrap() });
    let taken = answers.iter().filter(|answer| answer.status() == 202).count();
    assert_eq!(taken, answers.len(), "{:?}", answers.iter().find(|answer| answer.status() != 202));
    assert_eq!(http.get(format!("{base}/readyz")).send().await.unwrap().status(), 200);
    process.kill().unwrap();
    process.wait().unwrap();
    // Where nobody lets go of it, the host ends, and may be started again.
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let ended = command(&host, &["serve"]);
    assert!(ended.status.code() == Some(6) && said(&ended).contains("another program holds"), "{}", said(&ended));
}

#[tokio::test]
async fn a_machine_without_memory_or_descriptors_is_no_fault_of_the_configuration() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let (program, config) = (host_program(), host.folder().join("host.toml"));
    // No room for what plugins run in; no descriptor for the runtime.
    for limit in ["ulimit -v 2000000", "ulimit -n 6"] {
        let script = format!("{limit}; exec \"$0\" serve --config \"$1\"");
        let output = Command::new("sh").arg("-c").arg(script).arg(&program).arg(&config).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{limit}: {}", said(&output));
    }
}

fn host_program() -> std::path::PathBuf {
    Setup::new().unwrap().program
}

/// Whether a host still has an event.
trait Has {
    async fn path_is_there(&self, id: &str) -> bool;
}

impl Has for Host {
    async fn path_is_there(&self, id: &str) -> bool {
        self.api(&format!("events/{id}")).await.is_ok()
    }
}
