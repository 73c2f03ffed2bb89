//! The generated `developer/events.php` under a real PHP: nothing is lost, nobody waits, no page breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::php::{Crm, Mode, Receiver};
use integration_tests::wait_until;
use salesman_host::events_php::{self, Options};
use serde_json::{Value, json};
use xtask::php::Php;

const TOKEN: &str = "to'k\\en-0123456789abcdef";

/// PHP, found or unpacked; where neither works the test says why it is skipped.
pub(crate) fn php() -> Option<Arc<Php>> {
    static PHP: OnceLock<Option<Arc<Php>>> = OnceLock::new();
    let found = PHP.get_or_init(|| match xtask::php::ensure(&xtask::root()) {
        Ok(php) => Some(Arc::new(php)),
        Err(error) => {
            eprintln!("SKIPPED: {error:#}");
            None
        }
    });
    found.clone()
}

pub(crate) fn options(url: String) -> Options {
    integration_tests::php::options(url, TOKEN)
}

/// The marks "did not answer a moment ago" are short here, so that sending is tried often.
pub(crate) fn file(url: String) -> String {
    let text = events_php::file(&options(url)).unwrap();
    assert!(text.contains("'down_seconds' => 5"), "the setting has another name now");
    text.replace("'down_seconds' => 5", "'down_seconds' => 0.2")
}

fn edits(numbers: std::ops::Range<u64>) -> Value {
    numbers.map(|n| json!(["client.edit", { "clid": n, "n": n }])).collect()
}

fn numbers(receiver: &Receiver) -> Vec<u64> {
    receiver.taken().iter().map(|taken| taken.body["n"].as_str().unwrap().parse().unwrap()).collect()
}

/// Every event name that the SDK knows.
fn catalogue() -> BTreeSet<String> {
    let text = std::fs::read_to_string(xtask::root().join("plugin-sdk/src/event/catalogue.rs")).unwrap();
    let quoted = text.lines().filter_map(|line| line.strip_prefix("    \"")?.split_once("\" ").map(|(name, _)| name));
    quoted.filter(|name| name.contains('.')).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_event_reaches_the_host_whole_and_without_the_session() {
    let Some(php) = php() else { return };
    let mut setup = Setup::new().unwrap();
    setup.crm_lines = "allow = [\"127.0.0.1\"]".to_owned();
    let host = setup.start().await.unwrap();
    let printed = Command::new(Setup::new().unwrap().program)
        .args(["events-php", "--url", host.base(), "--config"])
        .arg(host.folder().join("host.toml"))
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let crm = Crm::new(&php, &String::from_utf8(printed.stdout).unwrap()).unwrap();

    let names = catalogue();
    assert!(names.len() >= 50, "{names:?}");
    let ids: Vec<u64> = (1..=5_000).collect();
    let mut events: Vec<Value> = names
        .iter()
        .map(|name| json!([name, { "id": 3, "ses": "planted", "newparam": { "ses": "planted" } }]))
        .collect();
    events.push(json!(["client.import", { "clids": ids, "pids": ids, "autor": 1 }]));
    crm.page(&Value::Array(events)).await.unwrap();
    let mut arrived = BTreeSet::new();
    let mut cursor = String::new();
    let mut import = Value::Null;
    loop {
        let page = host.api(&format!("events?limit=200{cursor}")).await.unwrap();
        for event in page["items"].as_array().unwrap() {
            let path = host.api(&format!("events/{}", event["id"].as_str().unwrap())).await.unwrap();
            assert_eq!((&event["via"], &event["actor"]), (&json!("json"), &json!(7)), "{path}");
            assert!(!path.to_string().contains("planted"), "{path}");
            arrived.insert(event["name"].as_str().unwrap().to_owned());
            if path["fields"]["clids"].is_array() {
                import = path["fields"].clone();
            }
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    // The express form's own name is never sent: it stands for three others.
    let expected: BTreeSet<String> = names.into_iter().filter(|name| name != "client.expressadd").collect();
    assert_eq!(arrived, expected);
    assert_eq!(import["pids"].as_array().map(Vec::len), Some(5_000));
    assert!(!crm.spool().exists(), "nothing had to wait");
}

#[tokio::test]
async fn a_slow_host_costs_one_page_a_second_and_the_next_ones_nothing() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &events_php::file(&options(receiver.url())).unwrap()).unwrap();
    receiver.mode(Mode::Late(Duration::from_secs(3)));
    let first: f64 = crm.page(&edits(0..6)).await.unwrap().iter().sum();
    assert!((900.0..1_600.0).contains(&first), "the user waited {first} ms");
    let next: f64 = crm.page(&edits(6..12)).await.unwrap().iter().sum();
    assert!(next < 300.0, "the user waited {next} ms");
    receiver.mode(Mode::Accept);
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    // The first was taken when its sender had gone: it came twice, under one name.
    assert_eq!(numbers(&receiver), [&[0], &(0..12).collect::<Vec<_>>()[..]].concat());
    let taken = receiver.taken();
    assert_eq!(taken[0].key, taken[1].key);
    assert_eq!(taken.iter().map(|taken| &taken.key).collect::<BTreeSet<_>>().len(), 12);
}

#[tokio::test]
async fn what_comes_while_the_host_is_down_is_delivered_in_order_once_it_is_back() {
    let Some(php) = php() else { return };
    let mut receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.down().await;
    crm.page(&edits(0..10)).await.unwrap();
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert_eq!(code, Some(1), "{said}");
    let (_, status) = crm.cron("--status").await.unwrap();
    assert!(status.contains("waiting: 10 events") && !status.contains(TOKEN), "{status}");
    receiver.up().await.unwrap();
    crm.forget_failure();
    // The next event takes the others with it, in order.
    crm.page(&edits(10..11)).await.unwrap();
    assert_eq!(numbers(&receiver), (0..11).collect::<Vec<_>>());

    // What will never be accepted is put aside; the rest goes on.
    receiver.mode(Mode::Refuse(400));
    crm.page(&edits(11..12)).await.unwrap();
    receiver.mode(Mode::Refuse(503));
    crm.page(&edits(12..14)).await.unwrap();
    receiver.mode(Mode::Accept);
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    assert_eq!(numbers(&receiver)[11..], [12, 13]);
    assert_eq!(std::fs::read_dir(crm.spool().join("refused")).unwrap().count(), 1);
}

/// How many files lie in a folder of the spool.
pub(crate) fn count(crm: &Crm, folder: &str) -> usize {
    std::fs::read_dir(crm.spool().join(folder)).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_proxys_own_page_decides_nothing_about_an_event() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    for (n, status) in (0..).zip([400, 413, 415, 422, 403, 404, 301, 502, 200, 202]) {
        receiver.mode(Mode::Page(status));
        crm.page(&edits(n..n + 1)).await.unwrap();
        // However often it is tried: the host is not there for any event.
        for _ in 0..4 {
            let (code, said) = crm.cron("--flush").await.unwrap();
            let words =
                format!("sent 0, refused 0, set aside 0, not empty: a proxy answered {status} in place of the host");
            assert!(code == Some(1) && said.contains(&words), "{said}");
        }
        assert_eq!((count(&crm, "refused"), count(&crm, "aside")), (0, 0), "{status}");
    }
    receiver.mode(Mode::Accept);
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(numbers(&receiver), (0..10).collect::<Vec<_>>());
    // The host's own answers do decide.
    for (n, status) in (10..).zip([400, 413, 415, 422]) {
        receiver.mode(Mode::Refuse(status));
        crm.page(&edits(n..n + 1)).await.unwrap();
    }
    assert_eq!((count(&crm, "refused"), crm.cron("--flush").await.unwrap().0), (4, Some(0)));
    let (code, status) = crm.cron("--status").await.unwrap();
    assert!(code == Some(0) && status.contains("set aside: 0\nrefused: 4"), "{status}");
    receiver.mode(Mode::Accept);
    assert_eq!(crm.cron("--retry refused").await.unwrap().0, Some(0));
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    let mut again = numbers(&receiver)[10..].to_vec();
    again.sort_unstable();
    assert_eq!(again, [10, 11, 12, 13]);
}

#[tokio::test]
async fn one_event_that_can_not_go_is_set_aside_and_kept_and_the_others_go_on_in_order() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.mode(Mode::Page(502));
    crm.page(&edits(0..6)).await.unwrap();
    receiver.mode(Mode::PageFor(2, 403));
    for tries in 1..3 {
        let (code, said) = crm.cron("--flush").await.unwrap();
        assert!(code == Some(1) && said.contains("proxy answered 403"), "{said}");
        // Until it is known to be the event itself, nothing overtakes it.
        assert_eq!((numbers(&receiver), count(&crm, "aside")), (vec![0, 1], 0), "after {tries}");
    }
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert!(code == Some(0) && said.contains("sent 3, refused 0, set aside 1, the spool is empty"), "{said}");
    assert_eq!(numbers(&receiver), [0, 1, 3, 4, 5]);
    let (code, status) = crm.cron("--status").await.unwrap();
    assert!(code == Some(1) && status.contains("waiting: 0 events") && status.contains("set aside: 1 ("), "{status}");
    // Later ones go at once, and what was set aside comes back when it is told to, under its own name.
    crm.page(&edits(6..7)).await.unwrap();
    assert_eq!(numbers(&receiver).last(), Some(&6));
    receiver.mode(Mode::Accept);
    let (code, said) = crm.cron("--retry").await.unwrap();
    assert!(code == Some(0) && said.contains("put back into the spool: 1, left: 0"), "{said}");
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    assert_eq!(numbers(&receiver), [0, 1, 3, 4, 5, 6, 2]);
    assert_eq!(crm.cron("--status").await.unwrap().0, Some(0));
}

#[tokio::test]
async fn pages_alone_get_past_an_event_that_can_not_go() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.mode(Mode::PageFor(0, 413));
    for n in 0..6 {
        let took: f64 = crm.page(&edits(n..n + 1)).await.unwrap().iter().sum();
        assert!(took < 1_600.0, "the user waited {took} ms");
        crm.forget_failure();
    }
    assert_eq!((numbers(&receiver), count(&crm, "aside")), ((1..6).collect(), 1));
}

#[tokio::test]
async fn an_event_for_which_no_answer_comes_blocks_the_others_no_longer_than_one_with_a_bad_answer() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    // Cron waits ten times as long as a page.
    let text = events_php::file(&Options { total_ms: 200, ..options(receiver.url()) }).unwrap();
    let crm = Crm::new(&php, &text).unwrap();
    receiver.mode(Mode::Page(502));
    crm.page(&edits(0..2)).await.unwrap();
    receiver.mode(Mode::SilentFor(0));
    for _ in 0..2 {
        let (code, said) = crm.cron("--flush").await.unwrap();
        assert!(code == Some(1) && said.contains("no answer"), "{said}");
    }
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    assert_eq!((numbers(&receiver), count(&crm, "aside")), (vec![1], 1));
}

#[tokio::test]
async fn fifty_workers_at_once_lose_nothing_repeat_nothing_and_keep_their_order() {
    const WORKERS: u64 = 50;
    const EVENTS: u64 = 20;
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    let mut pages = Vec::new();
    for worker in 0..WORKERS {
        let events: Value =
            (0..EVENTS).map(|n| json!(["client.edit", { "clid": 1, "worker": worker, "n": n }])).collect();
        pages.push(crm.start(&events, Some(rand::random_range(0..15_000))).unwrap());
        // The host comes and goes meanwhile.
        let modes = [Mode::Accept, Mode::Refuse(503), Mode::Accept, Mode::Refuse(429)];
        receiver.mode(modes[usize::try_from(worker).unwrap() / 4 % modes.len()]);
    }
    for page in pages {
        tokio::task::spawn_blocking(move || page.end()).await.unwrap().unwrap();
    }
    receiver.mode(Mode::Accept);
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    let mut of_worker: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for taken in receiver.taken() {
        if keys.insert(taken.key) {
            let worker = taken.body["worker"].as_str().unwrap().to_owned();
            of_worker.entry(worker).or_default().push(taken.body["n"].as_str().unwrap().parse().unwrap());
        }
    }
    assert_eq!(of_worker.len(), 50);
    for (worker, numbers) in of_worker {
        assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>(), "worker {worker}");
    }
}

/// Files of events in the spool, in order.
fn spooled(crm: &Crm) -> Vec<std::path::PathBuf> {
    let mut files = crate::files_below(&crm.spool().join("q"));
    files.sort();
    files
}

#[tokio::test]
async fn what_a_loss_of_power_left_of_an_event_is_set_aside_and_counted_and_never_sent() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.mode(Mode::Refuse(503));
    crm.page(&edits(0..8)).await.unwrap();
    let files = spooled(&crm);
    let whole = std::fs::read(&files[4]).unwrap();
    // Names without contents, blocks that were never written, the half that was.
    std::fs::write(&files[0], "").unwrap();
    std::fs::write(&files[2], vec![0; whole.len()]).unwrap();
    std::fs::write(&files[4], &whole[..whole.len() - 9]).unwrap();
    receiver.mode(Mode::Accept);
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert!(
        code == Some(0) && said.contains("sent 5, refused 0, set aside 0, damaged 3, the spool is empty"),
        "{said}"
    );
    assert_eq!(numbers(&receiver), [1, 3, 5, 6, 7]);
    let (_, status) = crm.cron("--status").await.unwrap();
    assert!(status.contains("refused: 3 (3 of them damaged"), "{status}");
    // Half an event is no event, however often somebody asks for it.
    crm.cron("--retry refused").await.unwrap();
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    assert_eq!((receiver.taken().len(), count(&crm, "refused")), (5, 3));
}

#[tokio::test]
async fn a_count_that_a_loss_of_power_made_older_than_the_spool_costs_no_order() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.mode(Mode::Refuse(503));
    crm.page(&edits(0..3)).await.unwrap();
    let state = crm.spool().join("state");
    let older = std::fs::read(&state).unwrap();
    crm.page(&edits(3..6)).await.unwrap();
    for lost in [older, b"".to_vec(), vec![0; 37]] {
        let next = u64::try_from(spooled(&crm).len()).unwrap();
        std::fs::write(&state, lost).unwrap();
        // The machine has started anew.
        std::fs::write(crm.spool().join("boot"), "another").unwrap();
        crm.page(&edits(next..next + 2)).await.unwrap();
    }
    receiver.mode(Mode::Accept);
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    assert_eq!(numbers(&receiver), (0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_is_on_disk_before_it_joins_the_spool_where_php_can_and_the_page_waits_no_longer_for_it() {
    let Some(php) = php() else { return };
    let mut receiver = Receiver::start().await.unwrap();
    receiver.down().await;
    let text = file(receiver.url());
    let crm = Crm::new(&php, &text).unwrap();
    let (_, status) = crm.cron("--status").await.unwrap();
    if status.contains("written to disk: no") {
        eprintln!("SKIPPED: {status}");
        return;
    }
    let mut costs = Vec::new();
    for on in [true, false] {
        let text = text.replace("'spool_sync' => true", &format!("'spool_sync' => {on}"));
        let crm = Crm::new(&php, &text).unwrap();
        let mut times = crm.page(&edits(0..200)).await.unwrap();
        let whole: f64 = times.iter().sum();
        assert!(whole < 2_500.0, "the user waited {whole} ms");
        assert_eq!(spooled(&crm).len(), 200);
        times.sort_by(f64::total_cmp);
        costs.push((times[100], whole));
    }
    println!("an event in the spool: synced {:?}, not synced {:?} (median, all of 200; ms)", costs[0], costs[1]);
    // What PHP was deprived of is got round, and told.
    let without =
        Crm::new(&php, &text.replace("salesman_host_can('fsync')", "salesman_host_can('no_such_function')")).unwrap();
    without.page(&edits(0..3)).await.unwrap();
    assert_eq!(spooled(&without).len(), 3);
    let (_, status) = without.cron("--status").await.unwrap();
    assert!(status.contains("written to disk: no: fsync needs PHP 8.1"), "{status}");
}

#[tokio::test]
async fn workers_that_are_killed_leave_no_half_event_and_lose_none_that_was_handed_over() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    for round in 0..20_u64 {
        receiver.mode(if round % 3 == 0 { Mode::Accept } else { Mode::Refuse(503) });
        let handed_over = || receiver.taken().len() + crate::files_in(&crm.spool().join("q"));
        let before = handed_over();
        let page = crm.start(&edits(round * 1_000..round * 1_000 + 500), Some(300)).unwrap();
        // However slowly PHP starts here.
        let begun = async || Ok((handed_over() > before).then_some(()));
        wait_until("the worker's first event", PATIENCE, begun).await.unwrap();
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..150))).await;
        page.kill().unwrap();
    }
    receiver.mode(Mode::Accept);
    assert_eq!(crm.cron("--flush").await.unwrap().0, Some(0));
    let mut of_round: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for n in numbers(&receiver) {
        of_round.entry(n / 1_000).or_default().insert(n % 1_000);
    }
    assert!(of_round.len() > 5, "the workers were killed before they sent anything");
    for (round, numbers) in of_round {
        // All that it handed over before its end, without a gap.
        let last = *numbers.last().unwrap();
        let missing: Vec<u64> = (0..last).filter(|n| !numbers.contains(n)).collect();
        assert_eq!(missing, [0; 0], "round {round}");
    }
}

// The shell is waited for on this thread, while the receiver answers on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_disk_breaks_no_page_and_keeps_what_fitted() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    std::fs::create_dir(crm.spool()).unwrap();
    // A shell that has a small disk of its own, and runs what it is told.
    let script = format!(
        "mount -t tmpfs -o size=64k,mode=700 tmpfs {} && echo ready && while read -r line; do sh -c \"$line\" 2>&1; echo; echo end; done",
        crm.spool().display()
    );
    let mut shell = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut orders, mut said) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    if line.trim() != "ready" {
        eprintln!("SKIPPED: this machine does not let a test mount a small disk (`unshare --user --mount`)");
        shell.wait().unwrap();
        return;
    }
    let mut page = |events: &Value| -> String {
        let (command, _) = crm.command(events, None).unwrap();
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let variables: Vec<String> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}='{}'", name.to_str()?, value?.to_str()?)))
            .collect();
        writeln!(orders, "{} {}", variables.join(" "), words.join(" ")).unwrap();
        let mut all = String::new();
        loop {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            if line.trim() == "end" {
                return all;
            }
            all.push_str(&line);
        }
    };
    receiver.mode(Mode::Refuse(503));
    let events: Value = (0..30).map(|n| json!(["client.edit", { "n": n, "x": "y".repeat(5_000) }])).collect();
    let printed = page(&events);
    assert!(printed.contains("HANDLER still mine PAGE-OK"), "{printed}");
    assert!(printed.contains("AN EVENT IS LOST"), "the log tells: {printed}");
    receiver.mode(Mode::Accept);
    tokio::time::sleep(Duration::from_millis(250)).await;
    page(&edits(100..101));
    let kept = numbers(&receiver);
    let (last, fitted) = kept.split_last().unwrap();
    assert_eq!(*last, 100);
    assert!(!fitted.is_empty() && fitted.len() < 30, "{kept:?}");
    assert_eq!(*fitted, (0..fitted.len() as u64).collect::<Vec<_>>());
    drop(orders);
    shell.wait().unwrap();
}
