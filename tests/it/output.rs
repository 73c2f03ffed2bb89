//! Nobody has to read what is said: output into `head`, a full disk behind it, a log that nobody takes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use clap::CommandFactory as _;
use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::stand_in::{Fault, Options, StandIn};
use integration_tests::wait_until;

/// Every command with arguments that bring output, or at least a refusal; `DIR` is a folder of the test's own. One for each
/// leaf of the command line.
const COMMANDS: &[&str] = &[
    "serve --config DIR/missing.toml",
    "dev --config DIR/missing.toml DIR",
    "config default",
    "config show --config DIR/host.toml",
    "config check --config DIR/host.toml",
    "events-php --config DIR/host.toml --url http://127.0.0.1:8787",
    "plugin new tried --dir DIR/N",
    "plugin build DIR/missing",
    "plugin inspect DIR/plugins/audit.wasm",
    "plugin pack DIR/plugins/audit.wasm --manifest DIR/missing.toml",
    "plugin run DIR/plugins/audit.wasm --event deal.close",
    "plugin grant notify --http https://chat.example.com --yes --config DIR/host.toml",
    "plugin rollback notify --list --config DIR/host.toml",
    "plugin pause audit AT",
    "plugin resume audit AT",
    "plugin list AT",
    "plugin drop nobody AT",
    "event list AT",
    "event show ID AT",
    "event send client.add clid=7 AT",
    "event replay ID --plugin audit AT",
    "delivery retry 999999 AT",
    "delivery drop 999999 AT",
    "dead list AT",
    "dead retry --plugin audit AT",
    "dead drop --plugin audit AT",
    "dead show 999999 AT",
    "dead done 999999 AT",
    "dead send 999999 AT",
    "backup DIR/N.sqlite --config DIR/host.toml",
    "restore DIR/missing.sqlite --config DIR/host.toml",
    "journal check --config DIR/host.toml",
    "journal compact --config DIR/host.toml",
    "journal accept --config DIR/host.toml",
    "job list AT",
    "job stop 1 AT",
    "crm check AT",
    "tail --host http://127.0.0.1:1",
    "doctor --config DIR/host.toml",
    "forget --entity client:7 AT",
    "audit AT",
    "console AT",
    "password",
    "completions bash",
    "grafana",
];

/// The words of every command that does something; those that the host alone gives are hidden.
fn leaves(command: &clap::Command, before: &str, found: &mut Vec<String>) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set()) {
        let name = format!("{before}{} ", inner.get_name());
        if inner.has_subcommands() {
            leaves(inner, &name, found);
        } else {
            found.push(name);
        }
    }
}

/// Runs a command with its output to `stdout` and its errors to `stderr`; returns the code and what it said of errors.
fn run(command: &str, folder: &Path, turn: &str, stdout: Stdio, stderr: Stdio) -> (Option<i32>, Vec<u8>, String) {
    let folder = folder.to_str().unwrap();
    let arguments = command.split(' ').map(|word| word.replace("DIR", folder).replace("/N", &format!("/{turn}")));
    let mut child = Command::new(Setup::new().unwrap().program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    // A command that does not read has closed it already.
    drop(child.stdin.take().unwrap().write_all(b"a password of some length\n"));
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn nobody() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_minds_a_reader_that_has_gone_and_each_tells_of_a_full_disk() {
    let plugins = tempfile::tempdir().unwrap();
    for name in ["audit.wasm", "notify.wasm"] {
        std::fs::copy(crate::samples().join(name), plugins.path().join(name)).unwrap();
    }
    let host = Setup::new().unwrap().plugins(plugins.path()).start().await.unwrap();
    let id = host.accepted("event=client.add&clid=5").await.unwrap();
    host.settled(&id).await.unwrap();
    let folder = host.folder().to_owned();
    std::os::unix::fs::symlink(plugins.path(), folder.join("plugins")).unwrap();
    let at = format!("--host {} --config DIR/host.toml", host.base());
    let known: Vec<String> = COMMANDS.iter().map(|command| command.replace("AT", &at).replace("ID", &id)).collect();

    let mut leaves_of_it = Vec::new();
    leaves(&salesman_host::cli::Cli::command(), "", &mut leaves_of_it);
    for leaf in &leaves_of_it {
        assert!(known.iter().any(|command| format!("{command} ").starts_with(leaf)), "`{leaf}` is not tried here");
    }
    let mut silent = 0;
    let mut versions: Vec<String> = vec!["--version".into(), "--help".into(), "help event list".into()];
    versions.extend(known);
    for command in &versions {
        let (plain, said, words) = run(command, &folder, "plain", Stdio::piped(), Stdio::piped());
        assert!(!words.contains("panicked") && plain != Some(101), "{command}: {words}");
        let (code, _, words) = run(command, &folder, "gone", nobody(), Stdio::piped());
        assert!(
            code == plain && !words.contains("panicked"),
            "{command} into `head`: {code:?}, not {plain:?}: {words}"
        );
        let (code, _, words) = run(command, &folder, "full", full(), Stdio::piped());
        let expected = if plain == Some(0) && !said.is_empty() { Some(1) } else { plain };
        assert!(code == expected && !words.contains("panicked"), "{command} on a full disk: {code:?}: {words}");
        assert_eq!(words.contains("standard output can't be written"), !said.is_empty(), "{command}: {words}");
        for (stderr, turn) in [(nobody(), "quiet"), (full(), "mute")] {
            let (code, _, _) = run(command, &folder, turn, Stdio::null(), stderr);
            assert_eq!(code, plain, "{command} with its errors to nobody");
        }
        silent += usize::from(said.is_empty());
    }
    assert!(silent < versions.len() / 2, "most of the commands print: {silent} of {}", versions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_when_its_reader_has_gone() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::copy(crate::samples().join("audit.wasm"), plugins.path().join("audit.wasm")).unwrap();
    let host = Setup::new().unwrap().plugins(plugins.path()).start().await.unwrap();
    for (stdout, expected) in [(nobody(), Some(0)), (full(), Some(1))] {
        let mut tail = Command::new(Setup::new().unwrap().program)
            .args(["tail", "--config"])
            .arg(host.folder().join("host.toml"))
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = wait_until("tail's end", PATIENCE, async || {
            host.accepted("event=client.add&clid=5").await?;
            Ok(tail.try_wait()?)
        });
        let ended = ended.await;
        drop(tail.kill());
        assert_eq!(ended.unwrap().code(), expected);
    }
}

/// Starts a host that logs much, to a pipe or file that takes nothing, and has it work.
async fn works_with_its_log_to(log: impl Into<OwnedFd>) -> Host {
    let mut setup = Setup::new().unwrap().plugins(crate::guests()).more("[telemetry]\nlevel = \"debug\"");
    setup.log_to = Some(Arc::new(log.into().into()));
    let host = setup.start().await.unwrap();
    for number in 0..300 {
        // Refused events are logged as well.
        host.accepted(&format!("event=test.sin&sin=none&clid={number}&pad={}", "x".repeat(200))).await.unwrap();
    }
    host.idle(PATIENCE).await.unwrap();
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_takes_costs_no_work() {
    let (reader, unread) = std::io::pipe().unwrap();
    let (gone, closed) = std::io::pipe().unwrap();
    drop(gone);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let logs: [(&str, OwnedFd, bool); 3] =
        [("closed", closed.into(), true), ("full", full.into(), true), ("unread", unread.into(), false)];
    for (name, log, lost) in logs {
        let mut host = works_with_its_log_to(log).await;
        // The thread that writes them may be behind.
        let what = format!("{name}: the lines that are lost");
        let counted = wait_until(&what, PATIENCE, async || {
            let text = host.text("metrics").await?;
            let line = text.lines().find(|line| line.starts_with("salesman_log_lines_lost_total"));
            let count: Option<u64> = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
            Ok(count.filter(|count| !lost || *count > 300))
        });
        counted.await.unwrap();
        assert_eq!(host.stop().await.unwrap(), Some(0), "{name}: it ends in order, and does not wait for a reader");
    }
    drop(reader);
}

/// What moves a cursor, reads backwards, or is not seen.
const HOSTILE: [&str; 4] = ["\u{1b}[1A\u{1b}[2K", "\u{202e}tsil", "\u{200b}", "\u{9b}31m"];

/// Whether a text holds a character that a terminal heeds or nobody sees.
fn is_hostile(text: &str) -> Option<char> {
    text.chars().find(|character| salesman_host::text::is_invisible(*character) || *character == '\r')
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_and_no_line_of_the_log_shows_what_moves_a_cursor_or_reads_backwards() {
    let hostile = HOSTILE.concat();
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let plugins = crate::plugins(&[("one", "*")]);
    let module = std::fs::read(plugins.path().join("one.wasm")).unwrap();
    // A file whose manifest can't be used is told about by the words that it holds.
    let manifest = format!(
        "name = \"two\"\nversion = \"1\"\nevents = [\"*\"]\n[permissions]\ncrm = {:?}",
        [format!("deal.list{hostile}")]
    );
    let broken = integration_tests::guest::with_manifest(&module, &manifest).unwrap();
    std::fs::write(plugins.path().join("two.wasm"), &broken).unwrap();
    std::fs::write(plugins.path().join(format!("three{hostile}.wasm")), b"no plugin").unwrap();
    let setup = Setup::new().unwrap().crm(&crm).plugins(plugins.path());
    let host = setup.more("[retry]\nattempts = 1\n[telemetry]\nlevel = \"debug\"").start().await.unwrap();
    let mut ids = Vec::new();
    for sin in ["add-task", "reject", &hostile] {
        let event = serde_json::json!({ "event": "call.add", "id": format!("5{hostile}"), "title": hostile, "note": hostile, "sin": sin });
        let sent = host.send("POST", "", Some("application/json"), event.to_string().into_bytes()).await.unwrap();
        ids.extend(sent.1["id"].as_str().map(str::to_owned));
    }
    crm.fault_on(
        Some("task"),
        Some("add"),
        1,
        Fault::Instead {
            status: "200 OK",
            retry_after: None,
            body: r#"{"error":{"code":"404\u001b[1A","text":"no \u001b[2K task \u202e\u200b"}}"#,
        },
    );
    ids.push(host.accepted("event=client.edit&clid=7&sin=add-task").await.unwrap());
    host.post(&format!("event=a{hostile}")).await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let folder = host.folder().to_owned();
    let at = format!("--host {} --config DIR/host.toml", host.base());
    let mut commands =
        vec!["config show --config DIR/host.toml".to_owned(), "doctor --config DIR/host.toml".to_owned()];
    for command in ["event list", "dead list", "dead list --groups", "plugin list", "job list", "audit", "crm check"] {
        commands.extend([format!("{command} {at}"), format!("{command} --json {at}")]);
    }
    for id in &ids {
        commands.extend([format!("event show {id} {at}"), format!("event show {id} --json {at}")]);
    }
    for command in ["plugin inspect", "plugin inspect --json", "plugin run --event deal.close"] {
        commands.push(format!("{command} {}", plugins.path().join("two.wasm").display()));
    }
    commands.push("plugin grant two --config DIR/host.toml --yes".to_owned());
    let mut escaped = 0;
    for command in &commands {
        let (_, said, words) = run(command, &folder, "hostile", Stdio::piped(), Stdio::piped());
        let said = String::from_utf8(said).unwrap();
        for text in [&said, &words] {
            assert_eq!(is_hostile(text), None, "{command}: {text:?}");
            escaped += usize::from(text.contains("\\u001b") || text.contains("\\u202e"));
        }
        if command.contains("--json") && !command.contains("inspect") {
            let read: Result<serde_json::Value, _> = serde_json::from_str(&said);
            assert!(read.is_ok(), "{command}: {said}");
        }
    }
    assert!(escaped > 5, "the texts were printed: {escaped}");
    let log = host.log();
    assert_eq!(is_hostile(&log), None);
    assert!(
        log.contains("Event refused") && log.lines().all(|line| line.starts_with("20")),
        "each entry is a line:\n{log}"
    );
}
