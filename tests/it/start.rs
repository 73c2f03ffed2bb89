//! What is wrong at the start is said at the start: files that are no plugins, configurations that can't work.

use std::net::TcpListener;
use std::process::Command;

use integration_tests::host::Setup;

const MANIFEST: &str = "name = \"odd\"\nevents = [\"*\"]";

/// A module of text form with the plugin's sections behind it.
fn module(text: &str, manifest: Option<&str>, version: Option<&str>) -> Vec<u8> {
    with_sections(wat::parse_str(text).unwrap(), manifest, version)
}

fn with_sections(mut bytes: Vec<u8>, manifest: Option<&str>, version: Option<&str>) -> Vec<u8> {
    for (name, content) in [("salesman:manifest", manifest), ("salesman:api-version", version)] {
        if let Some(content) = content {
            let mut section = vec![u8::try_from(name.len()).unwrap()];
            section.extend(name.bytes().chain(content.bytes()));
            bytes.push(0);
            bytes.push(u8::try_from(section.len()).unwrap());
            bytes.extend(section);
        }
    }
    bytes
}

#[tokio::test]
async fn a_file_that_is_no_plugin_is_named_with_its_reason_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let good = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    write("good.wasm", &good);
    write("twice.wasm", &good);
    write("empty.wasm", b"");
    write("text.wasm", b"#!/bin/sh\necho no\n");
    write("cut.wasm", &good[..good.len() / 2]);
    write("bare.wasm", &module("(module)", None, None));
    write("unversioned.wasm", &module("(module)", Some(MANIFEST), None));
    write("newer.wasm", &module("(module)", Some(MANIFEST), Some("2.0")));
    write("key.wasm", &module("(module)", Some("name = \"odd\"\nevents = [\"*\"]\ncolour = 1"), Some("1.0")));
    write("needy.wasm", &module("(module (import \"env\" \"shell\" (func)))", Some(MANIFEST), Some("1.0")));
    write("notes.txt", b"not looked at");
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    let log = host.log();
    for (file, code) in [
        ("twice.wasm", "another file holds the plugin `sinner` too"),
        ("empty.wasm", "registry.empty"),
        ("text.wasm", "registry.not_wasm"),
        ("cut.wasm", "registry.damaged"),
        ("bare.wasm", "registry.no_manifest"),
        ("unversioned.wasm", "registry.api_version"),
        ("newer.wasm", "registry.api_version"),
        ("key.wasm", "registry.manifest"),
        ("needy.wasm", "registry.shape"),
    ] {
        // A reason may run over several lines: what belongs together stands between two entries.
        let entry = log.split("Plugin ").any(|entry| entry.contains(file) && entry.contains(code));
        assert!(
            entry,
            "{file} {code}:
{log}"
        );
    }
    assert!(!log.contains("notes.txt"));
    let plugins = host.api("plugins").await.unwrap();
    assert_eq!(
        plugins.as_array().unwrap().iter().map(|plugin| plugin["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["sinner"]
    );
}

#[tokio::test]
async fn a_ready_component_of_any_language_is_taken_as_well_as_a_module() {
    use wasi_preview1_component_adapter_provider::{
        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let component = wit_component::ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        .unwrap()
        .encode()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The inner module's own manifest is not the component's.
    std::fs::write(folder.path().join("bare.wasm"), &component).unwrap();
    std::fs::write(folder.path().join("packed.wasm"), with_sections(component, Some(MANIFEST), Some("1.0"))).unwrap();
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    assert!(host.log().contains("registry.no_manifest"), "{}", host.log());
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    let path = host.settled(&id).await.unwrap();
    assert_eq!((&path["deliveries"][0]["plugin"], &path["deliveries"][0]["state"]), (&"odd".into(), &"done".into()));
}

/// Runs `serve` with a configuration that can't work; returns its exit code and what it said.
fn refused(config: &str, folder: &std::path::Path) -> (Option<i32>, String) {
    let path = folder.join("host.toml");
    std::fs::write(&path, config).unwrap();
    let output = Command::new(Setup::new().unwrap().program).args(["serve", "--config"]).arg(&path).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn every_problem_of_a_start_is_told_together_before_the_socket_opens() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(folder.path().join("blocked"), "a file, not a folder").unwrap();
    let (code, said) = refused(
        &format!(
            "[server]\nlisten = \"{}\"\ndata_dir = \"blocked\"\n[plugins]\ndir = \"nowhere\"",
            taken.local_addr().unwrap()
        ),
        folder.path(),
    );
    assert_eq!(code, Some(2), "{said}");
    for part in ["blocked", "nowhere", "server.listen", "there is no CRM", "4 problem(s)"] {
        assert!(said.contains(part), "{part}:\n{said}");
    }

    let (code, said) =
        refused("[server]\ncolour = 1\n[crm.main]\ntoken = { env = \"SALESMAN_NO_SUCH\" }", folder.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("server.colour") && said.contains("SALESMAN_NO_SUCH"), "{said}");

    let (code, said) = refused("[crm.main]\napi_key = \"planted-secret\" \"", folder.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("line 2") && !said.contains("planted-secret"), "{said}");
}

#[tokio::test]
async fn two_hosts_never_share_a_data_folder() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let second = Command::new(Setup::new().unwrap().program)
        .args(["serve", "--config"])
        .arg(host.folder().join("host.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    // That one may end: it is worth starting again.
    assert_eq!(second.status.code(), Some(6), "{said}");
    assert!(said.contains("in use by another host"), "{said}");
}
