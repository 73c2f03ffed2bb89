//! The generated `developer/events.php` where others mean it ill: functions taken away, a planted spool, a forged name.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use integration_tests::host::PATIENCE;
use integration_tests::php::{Crm, Mode, Receiver};
use integration_tests::wait_until;
use salesman_host::events_php::{self, Options};
use serde_json::json;
use xtask::php::Php;

use crate::php::{count, file, options, php};

/// Prints the names of the functions that a file calls, and of those that it names in quotes.
const NAMES: &str = r#"
    $tokens = array_values(array_filter(token_get_all(file_get_contents($argv[1])),
        fn($t) => !is_array($t) || !in_array($t[0], [T_WHITESPACE, T_COMMENT])));
    foreach ($tokens as $i => $token) {
        if (!is_array($token)) { continue; }
        $before = $tokens[$i - 1][0] ?? '';
        $called = $token[0] === T_STRING && ($tokens[$i + 1] ?? '') === '(' && !in_array($before, [T_FUNCTION, T_NEW, T_OBJECT_OPERATOR, T_DOUBLE_COLON]);
        $quoted = $token[0] === T_CONSTANT_ENCAPSED_STRING ? trim($token[1], "'") : '';
        if ($called) { echo "$token[1] called\n"; }
        if ($quoted !== '' && function_exists($quoted)) { echo "$quoted quoted\n"; }
    }
"#;

/// The functions of PHP's own that the file calls, and those that it looks for before.
fn functions(php: &Php, crm: &Crm) -> (BTreeSet<String>, BTreeSet<String>) {
    let file = crm.folder().join("developer/events.php");
    let output = php.command().args(["-r", NAMES, "--"]).arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of = |how: &str| {
        let names = text.lines().filter_map(|line| line.strip_suffix(how)).map(|name| name.trim().to_owned());
        names.filter(|name| !name.starts_with("salesman_host_")).collect::<BTreeSet<String>>()
    };
    (of(" called"), of(" quoted"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_function_php_lacks_the_page_lives_and_the_event_comes_or_waits_or_is_told_of() {
    let Some(php) = php() else { return };
    let crm = Crm::new(&php, &file("http://127.0.0.1:1/events".to_owned())).unwrap();
    let (called, looked_for) = functions(&php, &crm);
    let unseen: Vec<_> = called.difference(&looked_for).filter(|name| *name != "function_exists").collect();
    assert_eq!(
        unseen,
        Vec::<&String>::new(),
        "each is looked for with `salesman_host_can`, or in the list of the needed"
    );
    let text = std::fs::read_to_string(crm.folder().join("developer/events.php")).unwrap();
    let needed = text.split("function salesman_host_missing").nth(1).unwrap().split("] as $name").next().unwrap();
    // Besides those that the file calls, what it called once.
    let others = ["curl_setopt_array", "file_get_contents", "opendir", "nothing_at_all"].map(str::to_owned);
    let all: BTreeSet<String> = called.union(&looked_for).cloned().chain(others).collect();
    assert!(all.len() > 60, "{all:?}");
    let mut tries = tokio::task::JoinSet::new();
    for name in all {
        let (php, needed) = (Arc::clone(&php), needed.contains(&format!("'{name}'")));
        while tries.len() >= 4 {
            tries.join_next().await.unwrap().unwrap();
        }
        tries.spawn(async move {
            let receiver = Receiver::start().await.unwrap();
            for up in [true, false] {
                receiver.mode(if up { Mode::Accept } else { Mode::Refuse(503) });
                let crm = Crm::new(&php, &file(receiver.url())).unwrap();
                let (printed, complained) =
                    crm.bare(&[format!("disable_functions={name}")], Path::new("")).await.unwrap();
                assert_eq!(printed, "PAGE-OK", "without {name}: {complained}");
                let came = receiver.taken().len();
                let arrived = if up { came + crate::files_in(&crm.spool().join("q")) } else { waiting(&crm) };
                let told = complained.contains("salesman-host: ") && complained.contains(&name);
                assert!(arrived >= 2 || needed && told, "without {name}, {up}: {arrived} {complained}");
            }
        });
    }
    while let Some(tried) = tries.join_next().await {
        tried.unwrap();
    }
}

/// How many events wait in the spool, whole.
fn waiting(crm: &Crm) -> usize {
    crate::files_in(&crm.spool().join("q")) + crate::files_in(&crm.spool().join("tmp"))
}

#[tokio::test]
async fn a_spool_that_somebody_planted_is_not_used_and_its_own_is_for_nobody_else() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let is_root = is_root_here();
    for foreign in [false, true] {
        if foreign && !is_root {
            eprintln!("SKIPPED in part: only root can make another user's folder");
            continue;
        }
        let crm = Crm::new(&php, &file(receiver.url())).unwrap();
        if foreign {
            std::fs::create_dir(crm.spool()).unwrap();
            std::fs::create_dir(crm.spool().join("q")).unwrap();
            std::fs::set_permissions(crm.spool(), std::fs::Permissions::from_mode(0o777)).unwrap();
            std::os::unix::fs::chown(crm.spool(), Some(65_534), None).unwrap();
        } else {
            std::os::unix::fs::symlink(elsewhere.path(), crm.spool()).unwrap();
        }
        receiver.mode(Mode::Accept);
        let before = receiver.taken().len();
        let (printed, complained) = crm.bare(&[], Path::new("")).await.unwrap();
        assert_eq!((printed.as_str(), receiver.taken().len() - before), ("PAGE-OK", 2), "{complained}");
        assert!(complained.contains("it is not used"), "{complained}");
        receiver.mode(Mode::Refuse(503));
        let (printed, complained) = crm.bare(&[], Path::new("")).await.unwrap();
        assert!(printed == "PAGE-OK" && complained.contains("AN EVENT IS LOST"), "{complained}");
        assert_eq!((crate::files_in(elsewhere.path()), crate::files_in(&crm.spool())), (0, 0));
    }
    // An own one that an earlier version left open is closed, and nothing in it is followed.
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    std::fs::create_dir(crm.spool()).unwrap();
    std::fs::set_permissions(crm.spool(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let victim = elsewhere.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    for name in ["state", "flush", "down", "tries", "said", "logged"] {
        std::os::unix::fs::symlink(&victim, crm.spool().join(name)).unwrap();
    }
    crm.bare(&[], Path::new("")).await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    for name in ["state", "flush", "down", "tries", "said", "logged"] {
        std::fs::remove_file(crm.spool().join(name)).unwrap();
    }
    crm.bare(&[], Path::new("")).await.unwrap();
    assert_eq!(waiting(&crm), 2);
    let mut open = vec![crm.spool()];
    let mut at = 0;
    while let Some(path) = open.get(at).cloned() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    assert!(at > 8, "{open:?}");
}

fn is_root_here() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The files of events below a folder.
fn events(folder: &Path) -> Vec<PathBuf> {
    let mut found = crate::files_below(folder);
    found.retain(|path| path.parent().and_then(Path::parent).is_some_and(|parent| parent.ends_with("q")));
    found.sort();
    found
}

// PHP is waited for on this thread, while the receiver answers on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_shows_to_no_browser_and_lies_outside_the_site_where_it_can() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    receiver.mode(Mode::Refuse(503));
    let inside = Crm::new(&php, &file(receiver.url())).unwrap();
    inside.bare(&[], Path::new("")).await.unwrap();
    let spooled = events(&inside.spool());
    assert_eq!(spooled.len(), 2);
    for path in &spooled {
        assert!(std::fs::read_to_string(path).unwrap().contains("client.edit"));
        // What a web server does with it.
        let output = php.command().arg(path).output().unwrap();
        assert!(path.extension().is_some_and(|extension| extension == "php"), "{}", path.display());
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0), "{output:?}");
    }
    // Beside the CRM's folder, where that is no part of the site.
    let outer = tempfile::tempdir().unwrap();
    let crm = outer.path().join("crm");
    for folder in ["developer", "cash"] {
        std::fs::create_dir_all(crm.join(folder)).unwrap();
    }
    std::fs::copy(inside.folder().join("developer/events.php"), crm.join("developer/events.php")).unwrap();
    let page = |site: &Path| {
        let mut command = php.command();
        command.arg(inside.folder().join("run/bare.php")).arg(&crm).arg(site).output().unwrap()
    };
    let places = || {
        let beside = std::fs::read_dir(outer.path()).unwrap().flatten().map(|entry| entry.path());
        let beside: Vec<_> = beside.filter(|path| *path != crm).collect();
        let within = crate::files_in(&crm.join("cash"));
        (beside, within)
    };
    page(&crm);
    let (beside, within) = places();
    assert_eq!((beside.len(), within), (1, 0), "{beside:?}");
    assert_eq!(events(&beside[0]).len(), 2);
    // Cron finds it, which is told nothing of the site.
    receiver.mode(Mode::Accept);
    let output = php.command().arg(crm.join("developer/events.php")).arg("--flush").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("sent 2") && receiver.taken().len() == 2, "{said}");
    // A site that begins higher up holds what lies beside as well.
    std::fs::remove_dir_all(&beside[0]).unwrap();
    receiver.mode(Mode::Refuse(503));
    page(outer.path());
    let (beside, within) = places();
    assert!(beside.is_empty() && within > 2, "{beside:?}");
}

#[tokio::test]
async fn events_that_an_earlier_version_left_go_too() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let crm = Crm::new(&php, &file(receiver.url())).unwrap();
    receiver.mode(Mode::Refuse(503));
    crm.bare(&[], Path::new("")).await.unwrap();
    for path in events(&crm.spool()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, body) = text.split_once('\n').unwrap();
        std::fs::write(path.with_extension("json"), body).unwrap();
        std::fs::remove_file(path).unwrap();
    }
    receiver.mode(Mode::Accept);
    let (code, said) = crm.cron("--flush").await.unwrap();
    assert!(code == Some(0) && said.contains("sent 2"), "{said}");
    assert_eq!((count(&crm, "q"), receiver.taken().len()), (0, 2));
}

#[tokio::test]
async fn the_relay_goes_to_the_crms_own_address_whatever_name_a_visitor_sent_and_without_the_session() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let crm_url = format!("http://{}", listener.local_addr().unwrap());
    let route = axum::routing::post(move |body: String| async move { told.send(body).unwrap() });
    let server =
        tokio::spawn(axum::serve(listener, axum::Router::new().route("/developer/webhooks.php", route)).into_future());
    let strangers = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = events_php::file(&Options { relay: true, crm_url, ..options(receiver.url()) }).unwrap();
    let crm = Crm::new(&php, &text).unwrap();
    let fired = json!([["client.edit", { "clid": 1, "ses": "planted", "newparam": { "title": "Ы", "SES": "planted", "api_key": "planted" }, "Password": "planted" }], ["task.remove", { "id": 1 }]]);
    let (mut command, _) = crm.command(&fired, None).unwrap();
    command.env("HTTP_HOST", strangers.local_addr().unwrap().to_string());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_until("both events", PATIENCE, async || Ok((receiver.taken().len() == 2).then_some(()))).await.unwrap();
    let body = heard.recv().await.unwrap();
    assert_eq!(body, "clid=1&newparam%5Btitle%5D=%D0%AB&event=client.edit&identity=1&iduser1=7");
    assert!(heard.try_recv().is_err(), "the stock file does not relay this one");
    let visited = tokio::time::timeout(std::time::Duration::from_millis(100), strangers.accept()).await;
    assert!(visited.is_err(), "the event went where a visitor wanted it");
    server.abort();
}

#[tokio::test]
async fn a_relay_that_does_not_answer_costs_a_page_its_sum_once_and_what_is_left_out_is_told() {
    let Some(php) = php() else { return };
    let receiver = Receiver::start().await.unwrap();
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let crm_url = format!("http://{}", silent.local_addr().unwrap());
    let text = events_php::file(&Options { relay: true, crm_url, ..options(receiver.url()) }).unwrap();
    let crm = Crm::new(&php, &text.replace("'relay_ms' => 1000", "'relay_ms' => 400")).unwrap();
    let fired: Vec<_> = (1..=20).map(|number| json!(["client.edit", { "clid": number }])).collect();
    let (mut command, _) = crm.command(&json!(fired), None).unwrap();
    let began = std::time::Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let took = began.elapsed();
    assert!(output.status.success(), "{output:?}");
    assert!(took < std::time::Duration::from_secs(4), "20 events of 200 ms and more: {took:?}");
    wait_until("all events", PATIENCE, async || Ok((receiver.taken().len() == 20).then_some(()))).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("an event is not relayed") && said.matches("webhooks.php").count() < 6, "{said}");
}
