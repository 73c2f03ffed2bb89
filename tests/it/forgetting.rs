//! A record that is forgotten is in no byte of the data folder: with somebody reading the store, and after a kill. What stays
//! is a proof that names no person. And the data folder is nobody else's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Output;

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::wait_until;
use serde_json::{Value, json};

/// How often a text is in the files of a folder.
fn copies(folder: &Path, text: &str) -> usize {
    let count = |path: std::path::PathBuf| {
        // SQLite removes its log at the end.
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    };
    crate::files_below(folder).into_iter().map(count).sum()
}

async fn command(host: &Host, arguments: &[&str]) -> Output {
    let config = host.folder().join("host.toml");
    tokio::process::Command::new(Setup::new().unwrap().program)
        .args(arguments)
        .args(["--host", host.base(), "--config"])
        .arg(config)
        .output()
        .await
        .unwrap()
}

/// Events of a record, among others, with a text wherever a plugin can leave one; state is overwritten again and again.
async fn planted(host: &Host, record: &str, text: &str) {
    for round in 0..40 {
        for (clid, value) in [(record, text), ("999", "ordinary")] {
            let long = value.repeat([1, 3, 40, 900][round % 4]);
            host.accepted(&format!(
                "event=client.edit&clid={clid}&n={round}&sin=remember&key=seen:client:{clid}&value={long}"
            ))
            .await
            .unwrap();
        }
    }
    host.idle(PATIENCE).await.unwrap();
}

async fn proof(host: &Host, number: &Value) -> Value {
    host.api(&format!("forgotten/{number}")).await.unwrap()
}

async fn erased(host: &Host, number: &Value) -> Value {
    wait_until("the end of forgetting", PATIENCE, async || {
        let proof = proof(host, number).await;
        Ok((!proof["erased_at"].is_null()).then_some(proof))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn nothing_of_a_forgotten_record_is_in_any_file_whoever_reads_and_whenever_the_host_is_killed() {
    let folder = crate::plugins(&[("one", "*")]);
    let mut host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    let order = |clid: &str| json!({ "account": "main", "entity": format!("client:{clid}") });
    planted(&host, "71", "Planted-One").await;
    assert!(copies(&host.data(), "Planted-One") > 1_000, "nothing was planted");

    // Killed right after the answer.
    let (status, forgot) = host.ask("forget", &order("71")).await.unwrap();
    assert_eq!((status, &forgot["erased"], &forgot["left"]), (200, &json!(true), &json!(0)), "{forgot}");
    host.kill().unwrap();
    assert_eq!(copies(&host.data(), "Planted-One"), 0);
    host.start().await.unwrap();
    assert_eq!(proof(&host, &forgot["proof"]["number"]).await, forgot["proof"]);
    assert_eq!(forgot["proof"]["counts"]["events"], 40, "{forgot}");

    // Somebody reads meanwhile: the answer says so, and it is done when they are through.
    planted(&host, "72", "Planted-Two").await;
    let reader = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let (_, forgot) = host.ask("forget", &order("72")).await.unwrap();
    assert_eq!((&forgot["erased"], &forgot["held_up"]), (&json!(false), &json!(true)), "{forgot}");
    assert!(copies(&host.data(), "Planted-Two") > 0, "nobody was in the way");
    assert!(host.api("events?entity=client:72").await.unwrap()["items"].as_array().unwrap().is_empty());
    host.accepted("event=client.edit&clid=999&sin=none").await.unwrap();
    reader.execute_batch("ROLLBACK").unwrap();
    let end = erased(&host, &forgot["proof"]["number"]).await;
    assert_eq!((copies(&host.data(), "Planted-Two"), &end["left"]), (0, &json!(0)));

    // The same across a kill: the order is on disk.
    planted(&host, "73", "Planted-Three").await;
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let (_, forgot) = host.ask("forget", &order("73")).await.unwrap();
    assert_eq!(forgot["erased"], false, "{forgot}");
    host.kill().unwrap();
    drop(reader);
    host.start().await.unwrap();
    erased(&host, &forgot["proof"]["number"]).await;
    assert_eq!(copies(&host.data(), "Planted-Three"), 0);
    let log = host.api("audit").await.unwrap().to_string();
    assert_eq!(log.matches("record.erased").count(), 3, "{log}");
    assert!(copies(&host.data(), "ordinary") > 0, "others stay");
    assert_eq!(host.stop().await.unwrap(), Some(0));
    assert_eq!(["One", "Two", "Three"].map(|name| copies(&host.data(), &format!("Planted-{name}"))), [0, 0, 0]);
}

#[tokio::test]
async fn the_proof_is_a_document_in_two_languages_that_can_be_printed_again() {
    let folder = crate::plugins(&[("one", "*")]);
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    host.accepted("event=client.edit&clid=7&sin=none&phone=%2B79991234567").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let first = command(&host, &["forget", "--entity", "client:7", "--yes", "--language", "en"]).await;
    let document = said(&first);
    assert!(first.status.success() && document.contains("PROOF OF DELETION № 1"), "{document}");
    let again = said(&command(&host, &["forget", "--proof", "1", "--language", "en"]).await);
    assert!(document.ends_with(&again) && again.contains("client:7") && !again.contains("999"), "{document}\n{again}");
    let russian = said(&command(&host, &["forget", "--proof", "1", "--language", "ru"]).await);
    assert!(russian.starts_with("АКТ ОБ УДАЛЕНИИ ДАННЫХ № 1") && russian.contains("удалено событий"), "{russian}");
    let json: Value =
        serde_json::from_str(&said(&command(&host, &["forget", "--proof", "1", "--json"]).await)).unwrap();
    assert_eq!(json["counts"]["events"], 1, "{json}");
    assert!(said(&command(&host, &["forget", "--list"]).await).contains("client:7"));
    assert_eq!(command(&host, &["forget", "--proof", "2"]).await.status.code(), Some(5));
    assert_eq!(host.api("forgotten").await.unwrap()["items"].as_array().unwrap().len(), 1);
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn other_users_of_the_machine_get_at_nothing_in_the_data_folder() {
    let folder = crate::plugins(&[("one", "*")]);
    let mut host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    host.accepted("event=client.edit&clid=7&sin=none").await.unwrap();
    host.idle(PATIENCE).await.unwrap();
    let open = |host: &Host| -> Vec<_> {
        let below = crate::files_below(&host.data());
        below.into_iter().filter(|path| mode(path) & 0o077 != 0).collect()
    };
    // Its log and its lock among them.
    assert!(host.data().join("journal.sqlite-wal").exists() && host.data().join("host.lock").exists());
    assert_eq!((mode(&host.data()), open(&host)), (0o700, Vec::new()));
    assert_eq!((mode(&host.data().join("plugins")), mode(&host.data().join("plugins/versions"))), (0o700, 0o700));
    // As an earlier version left it, and a careless hand.
    host.kill().unwrap();
    for path in crate::files_below(&host.data()).iter().chain([&host.data(), &host.data().join("plugins/versions")]) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 }))
            .unwrap();
    }
    host.start().await.unwrap();
    assert_eq!((mode(&host.data()), open(&host)), (0o700, Vec::new()));
    assert!(host.log().contains("It was open to other users of this machine"), "{}", host.log());
    host.stop().await.unwrap();

    // What somebody may have put there is not used.
    let (real, lock) = (host.folder().join("real"), host.data().join("host.lock"));
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(&real, &lock).unwrap();
    let refused = host.start().await.unwrap_err().to_string();
    assert!(refused.contains("host.lock` is a symbolic link") && !real.exists(), "{refused}");
    std::fs::remove_file(&lock).unwrap();
    std::fs::rename(host.data(), &real).unwrap();
    std::os::unix::fs::symlink(&real, host.data()).unwrap();
    assert!(host.start().await.unwrap_err().to_string().contains("is a symbolic link"));
}
