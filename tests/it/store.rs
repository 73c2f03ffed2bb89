//! The store under trouble, seen from outside: readers that stay, programs that hold it, damaged pages; and its commands.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::host::{Host, PATIENCE, Setup, http_client};
use integration_tests::stand_in::{Options, StandIn};
use integration_tests::wait_until;
use serde_json::Value;

/// Where the helper finds the store.
const STORE: &str = "STORE_THAT_IS_READ";
/// Events each second.
const RATE: u32 = 300;
/// Below this a longer wait is the machine's.
const FLOOR: Duration = Duration::from_millis(250);

fn run(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Setup::new().unwrap().program);
    command.args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

async fn ready(host: &Host) -> (u16, Value) {
    let answer = http_client().unwrap().get(format!("{}/readyz", host.base())).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Sends events at a steady rate while `goes_on`; returns how long each waited for its 202, in order of length.
async fn waits(host: &Host, filler: &str, mut goes_on: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let (http, hook, began) = (http_client().unwrap(), host.hook(), Instant::now());
    let mut sent = Vec::new();
    while goes_on(sent.len()) {
        let due = Duration::from_secs(1) / RATE * u32::try_from(sent.len()).unwrap();
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        let body = format!("event=nobody.wants&id={}&x={filler}", sent.len());
        let request = http.post(&hook).header("content-type", "application/x-www-form-urlencoded").body(body);
        sent.push(tokio::spawn(async move {
            let began = Instant::now();
            let status = request.send().await.unwrap().status().as_u16();
            (status, began.elapsed())
        }));
    }
    let mut all = Vec::new();
    for one in sent {
        let (status, wait) = one.await.unwrap();
        assert_eq!(status, 202);
        all.push(wait);
    }
    all.sort();
    all
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() - 1) * 99 / 100]
}

#[tokio::test]
async fn a_reader_that_stays_holds_up_no_acknowledgement_and_the_log_is_cut_off_when_it_leaves() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let log = host.data().join("journal.sqlite-wal");
    let bytes = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let filler = "x".repeat(20_000);
    let before = waits(&host, &filler, |sent| sent < 600).await;
    let reader = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let seen: i64 = reader.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
    // Past the size from which on the log would be cut off, and well beyond.
    let most = Instant::now() + Duration::from_secs(60);
    let with = waits(&host, &filler, |sent| (sent < 900 || bytes() < 100 << 20) && Instant::now() < most).await;
    let grown = bytes();
    assert_eq!(reader.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0)).unwrap(), seen);
    drop(reader);
    wait_until("a log that is cut off", PATIENCE, async || Ok((bytes() <= 64 << 20).then_some(()))).await.unwrap();
    let after = waits(&host, &filler, |sent| sent < 600).await;
    let without = p99(&before).max(p99(&after));
    println!(
        "p99 at {RATE}/s: without a reader {:?} and {:?}, with one {:?} ({} events, slowest {:?}, log {} MiB)",
        p99(&before),
        p99(&after),
        p99(&with),
        with.len(),
        with.last().unwrap(),
        grown >> 20
    );
    assert!(grown > 64 << 20, "{grown}");
    assert!(p99(&with) <= (without * 2).max(FLOOR), "{:?} with a reader, {without:?} without", p99(&with));
}

/// Holds a read transaction until standard input ends: run in a host's own view of its disk.
#[test]
#[ignore = "a helper of the test below"]
fn a_reader_in_a_view_of_its_own() {
    let Ok(store) = std::env::var(STORE) else { return };
    let reader = rusqlite::Connection::open(store).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count: i64 = reader.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
    println!("reads {count}");
    std::io::read_to_string(std::io::stdin()).unwrap();
}

#[tokio::test]
async fn on_a_small_disk_events_are_taken_again_when_a_reader_leaves() {
    if !crate::overload::disks() {
        eprintln!("SKIPPED: this machine does not let a test mount a small disk (`unshare --user --mount`)");
        return;
    }
    let mut setup = Setup::new().unwrap();
    setup.disk = Some(32 << 20);
    setup.server = "min_free_mib = 6".to_owned();
    let host = setup.start().await.unwrap();
    host.accepted("event=nobody.wants&id=0").await.unwrap();
    let mut reader = Command::new("nsenter")
        .args(["--preserve-credentials", "--user", "--mount", "--target", &host.pid().unwrap().to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", "store::a_reader_in_a_view_of_its_own"])
        .env(STORE, host.data().join("journal.sqlite"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(reader.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("reads 1") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "the reader did not begin");
    }
    let filler = "x".repeat(20_000);
    let mut taken = 0;
    let refused = loop {
        let (status, answer) = host.post(&format!("event=nobody.wants&id={taken}&x={filler}")).await.unwrap();
        if status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 5_000, "the log does not fill the disk");
    };
    assert_eq!(refused["code"], "ingress.disk_full", "after {taken}");
    // Readiness is judged by the same measure.
    let (status, readiness) = ready(&host).await;
    assert_eq!(status, 503, "{readiness}");
    drop(reader.stdin.take());
    assert!(reader.wait().unwrap().success());
    let again = async || {
        let (status, _) = host.post("event=nobody.wants&id=last").await?;
        Ok((status == 202).then_some(()))
    };
    let taken = wait_until("an event that is taken again", PATIENCE, again).await;
    assert!(taken.is_ok(), "{:?} {}", ready(&host).await, host.log());
    let is_ready = async || Ok((ready(&host).await.0 == 200).then_some(()));
    wait_until("a host that is ready", PATIENCE, is_ready).await.unwrap();
}

#[tokio::test]
async fn readiness_tells_that_nothing_can_be_stored_and_that_it_is_over_without_an_event() {
    let chat = StandIn::start(Options::default()).await.unwrap();
    let more = format!("[alerts]\nhook = \"{}/bottoken/sendMessage\"\nlanguage = \"ru\"", chat.base_url());
    let host = Setup::new().unwrap().plugins(crate::guests()).more(&more).start().await.unwrap();
    let id = host.accepted("event=test.sin&id=1&sin=none&n=1").await.unwrap();
    host.settled(&id).await.unwrap();
    let (status, before) = ready(&host).await;
    assert_eq!((status, &before["oldest_unrouted_s"]), (200, &Value::Null), "{before}");
    let other = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, answer) = host.post("event=test.sin&id=1&sin=none&n=2").await.unwrap();
    assert_eq!((status, &answer["code"]), (503, &"ingress.not_stored".into()));
    let (status, during) = ready(&host).await;
    assert!(status == 503 && during["reasons"][0].as_str().unwrap().contains("another program"), "{during}");
    other.execute_batch("ROLLBACK").unwrap();
    let is_ready = async || Ok((ready(&host).await.0 == 200).then_some(()));
    wait_until("a host that is ready", PATIENCE, is_ready).await.unwrap();
    assert!(host.log().contains("The journal fails"), "{}", host.log());
    let told = async || Ok(chat.messages().into_iter().find(|message| message.body["kind"] == "journal_failing"));
    let alert = wait_until("an alert", PATIENCE, told).await.unwrap().body;
    assert_eq!((&alert["code"], &alert["account"]), (&"locked".into(), &Value::Null), "{alert}");
    assert!(alert["text"].as_str().unwrap().starts_with("Журнал не может хранить события"), "{alert}");
}

#[tokio::test]
async fn a_claim_that_is_refused_waits_whatever_comes_meanwhile_and_its_lines_are_few() {
    let host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let other = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER planted BEFORE UPDATE OF state ON delivery WHEN NEW.state = 2
             BEGIN SELECT RAISE(ABORT, 'planted'); END",
        )
        .unwrap();
    let began = Instant::now();
    for n in 0..100 {
        host.accepted(&format!("event=test.sin&id={n}&sin=none&n={n}")).await.unwrap();
    }
    // Once more than its pause, so that it was refused at all.
    let refused = || host.log().matches("The journal refused").count();
    wait_until("a refused claim", PATIENCE, async || Ok((refused() > 1).then_some(()))).await.unwrap();
    let most = 4 * usize::try_from(began.elapsed().as_secs() + 1).unwrap();
    assert!(refused() <= most, "{} lines, {most} pauses", refused());
    other.execute_batch("DROP TRIGGER planted").unwrap();
    // Those that were tried one by one are put off for longer.
    let id = host.accepted("event=test.sin&id=last&sin=none&n=last").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
}

#[tokio::test]
async fn a_check_names_what_is_damaged_and_compacting_heals_an_index() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    for n in 0..20 {
        host.accepted(&format!("event=test.sin&id={n}&sin=none&n={n}")).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
    let (code, said) = run(&host, &["journal", "check"]);
    assert!(code == Some(0) && said.contains("nothing wrong was found"), "while it runs: {code:?} {said}");
    let (code, said) = run(&host, &["journal", "compact"]);
    assert!(code == Some(1) && said.contains(&format!("process {}", host.pid().unwrap())), "{code:?} {said}");
    assert_eq!(host.stop().await.unwrap(), Some(0));
    damage(&host.data().join("journal.sqlite"), "delivery_ready");
    // A kept version that is not what it was.
    let kept = crate::files_below(&host.data().join("plugins/versions")).pop().unwrap();
    std::fs::write(&kept, "something else").unwrap();
    let (code, said) = run(&host, &["journal", "check", "--json"]);
    let checked: Value = serde_json::from_str(&said).unwrap();
    let findings = checked["findings"].as_array().unwrap();
    assert_eq!((code, findings.len()), (Some(1), 2), "{said}");
    assert!(findings[0]["what"].as_str().unwrap().contains("`delivery_ready`"), "{said}");
    assert!(findings[0]["remedy"].as_str().unwrap().contains("journal compact"), "{said}");
    assert!(findings[1]["what"].as_str().unwrap().contains("kept version"), "{said}");
    let (code, said) = run(&host, &["journal", "compact"]);
    assert!(code == Some(0) && said.contains("compacted"), "{code:?} {said}");
    std::fs::remove_file(&kept).unwrap();
    let (code, said) = run(&host, &["journal", "check"]);
    assert!(code == Some(1) && !said.contains("is damaged"), "of the version that serves: {code:?} {said}");
    host.start().await.unwrap();
    let id = host.accepted("event=test.sin&id=1&sin=none&n=last").await.unwrap();
    assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
}

/// Overwrites the first page of a table or index in a store that nobody has open.
fn damage(store: &Path, name: &str) {
    let connection = rusqlite::Connection::open(store).unwrap();
    let ask = |words: &str| connection.query_row(words, [], |row| row.get::<_, u32>(0)).unwrap();
    let size = ask("PRAGMA page_size");
    let root = ask(&format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'"));
    drop(connection);
    let file = std::fs::File::options().write(true).open(store).unwrap();
    file.write_all_at(&vec![0xaa; usize::try_from(size).unwrap()], u64::from(root - 1) * u64::from(size)).unwrap();
}
