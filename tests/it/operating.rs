//! What happens around a running host: signals, secrets that are changed, folders that are moved, parts that fail.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use integration_tests::host::{Host, PATIENCE, Setup, http_client};
use integration_tests::stand_in::{Options as StandInOptions, StandIn};
use integration_tests::wait_until;
use salesman_host::capabilities::Outside;
use salesman_host::clock::Clock;
use salesman_host::crm;
use salesman_host::dispatcher::{self, Dispatcher, Tools};
use salesman_host::event::Event;
use salesman_host::ingress;
use salesman_host::journal::{self, Journal};
use salesman_host::parts::Parts;
use salesman_host::registry::Registry;
use salesman_host::sandbox::{self, Sandbox};
use salesman_host::secret::Secret;
use serde_json::{Map, Value};

fn signal(host: &Host, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(host.pid().unwrap().to_string()).status().unwrap();
    assert!(sent.success());
}

async fn told(host: &Host, words: &str) {
    let found = wait_until(words, PATIENCE, async || Ok(host.log().contains(words).then_some(()))).await;
    assert!(found.is_ok(), "{words}:\n{}", host.log());
}

#[tokio::test]
async fn a_signal_that_means_something_else_elsewhere_does_not_end_the_host() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    for name in ["USR1", "USR2", "PIPE", "HUP"] {
        signal(&host, name);
        host.accepted("event=test.sin&sin=none").await.unwrap();
    }
    told(&host, "SIGUSR1").await;
    told(&host, "SIGHUP").await;
    told(&host, "Configuration read again").await;
    // A configuration that can't be used ends nothing either.
    let path = host.folder().join("host.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}\n[server\n")).unwrap();
    signal(&host, "HUP");
    told(&host, "the one before stays in force").await;
    host.accepted("event=test.sin&sin=none").await.unwrap();
    std::fs::write(&path, good).unwrap();
    host.idle(PATIENCE).await.unwrap();
    signal(&host, "QUIT");
    told(&host, "Stopped; everything that ran has ended").await;
    assert_eq!(host.stop().await.unwrap(), Some(0), "it ends in order");
}

/// Sends an event with a token; returns the status.
async fn sent(host: &Host, token: &str, body: &str) -> u16 {
    let request = http_client().unwrap().post(format!("{}/events/{token}", host.base()));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned());
    request.send().await.unwrap().status().as_u16()
}

fn rotate(file: &std::path::Path, secret: &str) {
    let beside = file.with_extension("next");
    std::fs::write(&beside, secret).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

#[tokio::test]
async fn a_secret_that_is_changed_in_its_file_is_taken_up_wherever_it_stands() {
    let crm = StandIn::start(StandInOptions { demo_data: true, ..StandInOptions::default() }).await.unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = |name: &str| secrets.path().join(name);
    for (name, secret) in [
        ("token", "first-token-0123456789"),
        ("key", "wrong"),
        ("console", "first-door-0123456789"),
        ("setting", "first"),
    ] {
        std::fs::write(file(name), secret).unwrap();
    }
    let more = format!(
        "[crm.other]\nurl = {:?}\nlogin = {:?}\napi_key = {{ file = {:?} }}\ntoken = {{ file = {:?} }}\n\
         [console.tokens.script]\nrole = \"viewer\"\ntoken = {{ file = {:?} }}\n\
         [plugins.sinner.settings]\nkey = {{ file = {:?} }}\n",
        crm.base_url(),
        crm.api_login(),
        file("key"),
        file("token"),
        file("console"),
        file("setting")
    );
    let host = Setup::new().unwrap().plugins(crate::guests()).more(&more).start().await.unwrap();
    assert_eq!(sent(&host, "first-token-0123456789", "event=test.sin&sin=none").await, 202);
    assert_eq!(sent(&host, "other-token-0123456789", "event=test.sin&sin=none").await, 401);
    let reads = async |token: &str| {
        let request = http_client().unwrap().get(format!("{}/api/v1/backlog", host.base())).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((reads("first-door-0123456789").await, reads("other-door-0123456789").await), (200, 401));

    rotate(&file("token"), "other-token-0123456789\n");
    rotate(&file("key"), crm.api_key());
    rotate(&file("console"), "other-door-0123456789");
    rotate(&file("setting"), "second");
    signal(&host, "HUP");
    wait_until("the new token", PATIENCE, async || {
        Ok((sent(&host, "other-token-0123456789", "event=test.sin&sin=none").await == 202).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(sent(&host, "first-token-0123456789", "event=test.sin&sin=none").await, 401, "the old one is shut");
    assert_eq!((reads("first-door-0123456789").await, reads("other-door-0123456789").await), (401, 200));
    // The CRM takes only the new key.
    sent(&host, "other-token-0123456789", "event=test.sin&sin=add-task&title=rotated").await;
    let task = async || Ok(crm.calls().iter().any(|call| format!("{call:?}").contains("rotated")).then_some(()));
    wait_until("a call with the new key", PATIENCE, task).await.unwrap();
    assert!(!host.log().contains("needs a restart"), "{}", host.log());

    // Without a signal the same, after a few seconds: the file alone is watched.
    rotate(&file("token"), "third-token-0123456789");
    wait_until("the third token", PATIENCE, async || {
        Ok((sent(&host, "third-token-0123456789", "event=test.sin&sin=none").await == 202).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_data_folder_that_is_moved_away_takes_no_events_and_goes_on_when_it_is_back() {
    let host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let before = host.accepted("event=test.sin&sin=none&n=0").await.unwrap();
    host.settled(&before).await.unwrap();
    let (data, away) = (host.data(), host.folder().join("away"));
    let ready =
        async || http_client().unwrap().get(format!("{}/readyz", host.base())).send().await.unwrap().status().as_u16();
    let refused = async || host.post("event=test.sin&sin=none&n=1").await.unwrap().0 == 503;

    std::fs::rename(&data, &away).unwrap();
    assert!(refused().await, "the very next event is refused");
    assert_eq!(ready().await, 503);
    told(&host, "The data folder was moved or replaced").await;
    std::fs::rename(&away, &data).unwrap();
    let after = host.accepted("event=test.sin&sin=none&n=2").await.unwrap();
    assert_eq!(ready().await, 200);
    told(&host, "The data folder is where it was").await;
    for id in [&before, &after] {
        host.settled(id).await.unwrap();
    }

    // A copy in its place is another store.
    std::fs::rename(&data, &away).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&away).arg(&data).status().unwrap().success());
    for _ in 0..3 {
        assert!(refused().await);
    }
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    host.accepted("event=test.sin&sin=none&n=3").await.unwrap();
    // One file of it is enough to lose what is acknowledged.
    std::fs::remove_file(data.join("journal.sqlite-wal")).unwrap();
    assert!(refused().await);
}

#[tokio::test]
async fn the_gauges_of_a_plugin_that_is_gone_go_too() {
    let plugins = crate::plugins(&[("one", "one.*"), ("two", "two.*")]);
    let host = Setup::new().unwrap().plugins(plugins.path()).start().await.unwrap();
    for body in ["event=one.a&sin=none", "event=two.a&sin=none"] {
        let id = host.accepted(body).await.unwrap();
        host.settled(&id).await.unwrap();
    }
    let gauges = async |plugin: &str| {
        let text = host.text("metrics").await.unwrap();
        let of_it = format!("plugin=\"{plugin}\"");
        let gauge = |line: &&str| {
            ["salesman_deliveries_open", "salesman_dead_letters{", "salesman_plugin_mode"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        text.lines().filter(gauge).filter(|line| line.contains(&of_it)).count()
    };
    assert!(gauges("one").await >= 7 && gauges("two").await >= 7, "{}", host.text("metrics").await.unwrap());
    std::fs::remove_file(plugins.path().join("one.wasm")).unwrap();
    wait_until("the gauges to go", PATIENCE, async || Ok((gauges("one").await == 0).then_some(()))).await.unwrap();
    assert!(gauges("two").await >= 7, "the others stay");
}

#[tokio::test]
async fn what_a_command_writes_over_keeps_its_owner_and_the_service_can_read_what_is_new() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::copy(crate::samples().join("notify.wasm"), plugins.path().join("notify.wasm")).unwrap();
    let mut setup = Setup::new().unwrap().plugins(plugins.path());
    setup.dev = false;
    let host = setup.start().await.unwrap();
    let own = std::fs::metadata("/proc/self").unwrap();
    let root = own.uid() == 0;
    let (owner, group) = if root { (1_234, 4_321) } else { (own.uid(), own.gid()) };
    if root {
        std::os::unix::fs::chown(host.folder(), Some(owner), Some(group)).unwrap();
    }
    std::fs::set_permissions(host.folder(), std::fs::Permissions::from_mode(0o750)).unwrap();
    let grants = host.folder().join("grants.toml");
    let grant = || {
        let done = Command::new(Setup::new().unwrap().program)
            .args(["plugin", "grant", "notify", "--yes", "--http", "https://chat.example.com:443/", "--config"])
            .arg(host.folder().join("host.toml"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let metadata = std::fs::metadata(&grants).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
    };
    assert_eq!(grant(), (owner, group, 0o640), "a new file is for the folder's owner");
    std::fs::set_permissions(&grants, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(grant(), (owner, group, 0o600), "one that is there stays as it is");
    assert!(std::fs::read_to_string(&grants).unwrap().contains("[\"https://chat.example.com\"]"));
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for_and_what_may_pass_has_a_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let config = folder.path().join("host.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = |listen: &str, more: &str| {
        let text = format!("[server]\nlisten = \"{listen}\"\n{more}\n[crm.main]\ntoken = \"0123456789abcdef\"\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(Setup::new().unwrap().program);
        command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let port = taken.local_addr().unwrap().to_string();
    // A folder of somebody's, which a slip in `data_dir` must not close to them.
    let foreign = folder.path().join("foreign");
    std::fs::create_dir_all(foreign.join("plugins")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    for path in [&foreign, &foreign.join("plugins")] {
        std::fs::set_permissions(path, open(0o755)).unwrap();
    }
    for (listen, more, code, words) in [
        (port.as_str(), "", 6, "can't be listened on"),
        (port.as_str(), "data_dir = \"host.toml\"", 2, "is a file"),
        (port.as_str(), "data_dir = \"foreign\"", 2, "name a folder of its own"),
        (port.as_str(), "data_dir = \"/etc\"", 2, "name a folder of its own"),
        ("127.0.0.1:http", "", 2, "listen"),
    ] {
        let ended = serve(listen, more).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(
            ended.status.code() == Some(code) && said.contains(words),
            "{listen} {more}: {:?} {said}",
            ended.status
        );
    }
    for path in [&foreign, &foreign.join("plugins")] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o755, "{}", path.display());
    }
    // Of the block that is kept for documents: no machine has it.
    let mut waits = serve("192.0.2.1:8787", "").spawn().unwrap();
    let mut log = std::io::BufReader::new(waits.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("is not there yet") {
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut said).unwrap(), 0, "{said}");
    }
    assert!(waits.try_wait().unwrap().is_none(), "it waits: {said}");
    waits.kill().unwrap();
    waits.wait().unwrap();
}

/// A CRM that can't be reached, and whose look-up fails in the host's own code.
struct Panics;

impl crm::scripted::Answers for Panics {
    fn answer(&self, method: &str, _: &str, _: &Map<String, Value>) -> Result<String, crm::Error> {
        assert_eq!(method, "task", "planted");
        Err(crm::Error::Unsent("no connection".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_beside_the_plugin_leaves_no_delivery_running() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&journal::Options::in_folder(folder.path().join("data")), Clock::Wall).unwrap();
    let options = crate::granting_all(crate::guests(), folder.path());
    let sandbox = Arc::new(
        Sandbox::new(&sandbox::Options { instances: 4, cache: None, compiler: sandbox::compiler::Compiler::Here })
            .unwrap(),
    );
    let (own, parts) = (Arc::clone(&sandbox), Parts::default());
    let started = tokio::task::spawn_blocking(move || Registry::start(options, own, None, Parts::default()));
    let registry = started.await.unwrap().unwrap();
    let client = crm::Client::scripted(
        crm::Options {
            url: "http://127.0.0.1:1".parse().unwrap(),
            login: "x".to_owned(),
            api_key: Secret::new("x".to_owned()),
            concurrency: 1,
            timeout: Duration::from_secs(1),
            linger: Duration::from_secs(1),
            authorities: crm::connection::Authorities::default(),
            large: crm::Large::default(),
        },
        Arc::new(Panics),
    );
    let tools = Tools {
        journal: journal.handle(),
        registry: registry.handle(),
        sandbox,
        crm: BTreeMap::from([("main".to_owned(), client)]),
        outside: Outside::new().unwrap(),
        clock: Clock::Wall,
        parts: parts.clone(),
        scrubber: salesman_host::secret::Scrubber::default(),
    };
    let options = dispatcher::Options {
        retry: dispatcher::retry::Policy {
            attempts: 2,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
        },
        breaker: dispatcher::gate::Breaker::default(),
        instances: 4,
        memory: 1 << 30,
        drain: Duration::from_secs(5),
        accounts: vec!["main".to_owned()],
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(Dispatcher::new(options, tools).run(stopped));
    let event: Event =
        ingress::event_of("main", br#"{"event":"test.sin","sin":"add-task"}"#, Clock::Wall.now()).unwrap();
    let id = event.id;
    journal.handle().append(event).await.unwrap();
    let path = wait_until("the end of the delivery", PATIENCE, async || {
        let path = journal.handle().path_of(id)?.unwrap();
        Ok(path
            .deliveries
            .first()
            .is_some_and(|delivery| delivery.state == journal::DeliveryState::Dead)
            .then_some(path))
    })
    .await
    .unwrap();
    let codes: Vec<_> = path.deliveries[0].attempts.iter().map(|attempt| attempt.code.clone()).collect();
    assert_eq!(codes, [Some("host.internal".to_owned()), Some("host.internal".to_owned())]);
    assert_eq!(parts.down(), Vec::<&str>::new(), "it cost the attempt and nothing else");
    stop.send_replace(true);
    assert!(running.await.unwrap(), "nothing runs any more");
}
