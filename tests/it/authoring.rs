//! The author's commands as an author runs them: from nothing to a file that a host loads, and what they say when
//! something is missing.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::wait_until;
use salesman_host::plugin::{Pattern, PluginName};
use salesman_host::workshop::samples;
use salesman_host::workshop::scaffold::{Language, Sdk, Wanted, scaffold};
use salesman_plugin_sdk::{EventData, catalogue, testing};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The host's program, without what cargo told this test.
pub(super) fn program() -> Command {
    let mut command = Command::new(Setup::new().unwrap().program);
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").current_dir(xtask::root());
    command
}

/// Standard output, standard error and exit code.
fn ends(output: Output) -> (String, String, Option<i32>) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn run(arguments: &[&str]) -> (String, String, Option<i32>) {
    ends(program().arg("plugin").args(arguments).output().unwrap())
}

/// Where plugins are made and built: kept, so that a second run compiles little.
pub(super) fn workplace() -> PathBuf {
    xtask::root().join("target/authoring")
}

/// A new crate in the workspace's folder, whose `Cargo.toml` would capture one that is no workspace of its own.
pub(super) fn new_crate(name: &str, arguments: &[&str]) -> PathBuf {
    let folder = workplace().join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let path = folder.to_str().unwrap();
    let (_, said, code) = run(&[&["new", name, "--dir", path], arguments].concat());
    assert_eq!(code, Some(0), "{said}");
    // The workspace's versions: nothing has to be fetched.
    std::fs::copy(xtask::root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    folder
}

/// `plugin build` with the compiler that has the target.
pub(super) fn build(folder: &Path, arguments: &[&str]) -> (String, String, Option<i32>) {
    let toolchain = xtask::wasm_target::ensure(&xtask::root()).unwrap();
    let mut command = program();
    for (name, value) in toolchain.cargo().get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.env("CARGO_TARGET_DIR", workplace().join("target"));
    ends(command.args(["plugin", "build"]).arg(folder).args(arguments).output().unwrap())
}

/// A program with this script in a folder of its own.
fn script(name: &str, lines: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_new_plugin_tests_and_builds_without_an_edit() {
    let folder = new_crate("first-watch", &["--on", "deal.change.step", "--on", "client.*", "--on", "my.own"]);
    let tested = Command::new("cargo")
        .args(["test", "--quiet", "--offline"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", workplace().join("target"))
        .output()
        .unwrap();
    let (told, said, code) = ends(tested);
    assert_eq!((code, told.contains("1 passed")), (Some(0), true), "{told}{said}");
    assert!(!said.contains("warning"), "{said}");

    let (told, said, code) = build(&folder, &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Finished `release` profile"), "cargo is not heard: {said}");
    let built: Value = serde_json::from_str(&told).unwrap();
    let file = built["file"].as_str().unwrap();
    assert_eq!((&built["built"], &built["problems"]), (&json!(true), &json!([])));
    assert!(std::fs::metadata(file).unwrap().len() < 400 << 10, "{built}");

    let (told, said, code) = run(&["inspect", file, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let inspected: Value = serde_json::from_str(&told).unwrap();
    let expected = json!({
        "name": "first-watch", "version": "0.1.0", "description": "Says what came.",
        "events": [
            { "pattern": "deal.change.step", "known": true },
            { "pattern": "client.*", "known": true },
            { "pattern": "my.own", "known": false },
        ],
        "permissions": { "crm": [], "http": [], "state": false },
        "permissions_in_words": [],
        "limits": {
            "memory_mib": null, "cpu_ms": null, "time_ms": null, "calls": null, "log_kib": null, "reply_kib": null,
            "state_mib": null, "state_keys": null,
        },
        "settings": [],
    });
    assert_eq!((&inspected["plugin"], &inspected["kind"]), (&expected, &json!("core module")));
    assert_eq!((&inspected["sha256"], &inspected["api_version"]), (&built["sha256"], &json!("1.0")));
}

#[test]
fn a_crate_that_makes_no_plugin_is_told_what_it_lacks() {
    let folder = new_crate("second-watch", &["--on", "deal.close", "--sdk-path", "plugin-sdk"]);
    let source = folder.join("src/lib.rs");
    let code = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, code.replace("salesman_plugin_sdk::export!(SecondWatch);", "")).unwrap();
    let (told, said, code) = build(&folder, &["--debug", "--json"]);
    assert_eq!(code, Some(1), "{said}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["built"], &told["problems"][0]["code"]),
        (&json!(false), &json!("registry.no_manifest")),
        "{told}"
    );

    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("[\"cdylib\", \"rlib\"]", "[\"rlib\"]")).unwrap();
    let (_, said, code) = build(&folder, &["--debug"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("add `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]`"), "{said}");
}

/// What `plugin build` says beside this cargo, in the folder of a crate that pins a toolchain.
fn said_with(cargo: &Path, path: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"x\"\n").unwrap();
    std::fs::write(folder.path().join("rust-toolchain.toml"), "[toolchain]\nchannel = \"1.95.0\"\n").unwrap();
    let mut command = program();
    command.args(["plugin", "build"]).arg(folder.path()).env("CARGO", cargo).env("PATH", path);
    let (told, said, code) = ends(command.output().unwrap());
    assert_eq!((told.as_str(), code), ("", Some(1)), "{said}");
    said
}

#[test]
fn a_missing_target_or_cargo_is_told_with_the_command_that_mends_it() {
    let (_kept, cargo) = script(
        "cargo",
        "echo 'error[E0463]: can not find crate for `core`' >&2\n\
         echo '  = note: the `wasm32-wasip1` target may not be installed' >&2\nexit 101",
    );
    let (rustup, _) = script("rustup", "exit 0");
    let said = said_with(&cargo, &format!("{}:/usr/bin:/bin", rustup.path().display()));
    assert!(said.starts_with("error[E0463]"), "the compiler is not heard: {said}");
    let remedy = "run `rustup target add --toolchain 1.95.0 wasm32-wasip1`\n";
    assert!(said.ends_with(remedy), "{said}");
    let said = said_with(&cargo, "/nowhere");
    assert!(said.contains("install Rust with rustup (https://rustup.rs)"), "{said}");
    let said = said_with(Path::new("/nowhere/cargo"), "/nowhere");
    assert!(said.contains("`/nowhere/cargo` can't be found: install Rust with rustup"), "{said}");
    let (_kept, cargo) = script("cargo", "echo 'error: no such thing' >&2\nexit 7");
    let said = said_with(&cargo, "/usr/bin:/bin");
    assert_eq!(said, "error: no such thing\nfailed: cargo failed (exit status: 7): its last lines say why\n");
}

#[tokio::test]
async fn an_interrupted_build_leaves_nothing_running() {
    let (_kept, cargo) = script("cargo", "sleep 600 &\necho $! >&2\nwait");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"x\"\n").unwrap();
    let mut command = program();
    command.args(["plugin", "build"]).arg(folder.path()).env("CARGO", cargo).stderr(Stdio::piped());
    let mut host = command.spawn().unwrap();
    let mut said = BufReader::new(host.stderr.take().unwrap());
    let mut compiler = String::new();
    said.read_line(&mut compiler).unwrap();
    let compiler = PathBuf::from(format!("/proc/{}/stat", compiler.trim()));
    assert!(compiler.exists());
    Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap();
    assert_eq!(host.wait().unwrap().code(), Some(1));
    let mut last = String::new();
    said.read_to_string(&mut last).unwrap();
    assert_eq!(last, "failed: interrupted\n");
    let ended = async || {
        let stat = std::fs::read_to_string(&compiler);
        Ok(stat.map_or(true, |stat| stat.contains(") Z ")).then_some(()))
    };
    wait_until("the compiler ends", PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn a_component_of_another_tool_runs_once_it_is_packed() {
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
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("built.wasm"), &component).unwrap();
    std::fs::write(path("plugin.toml"), "name = \"packed\"\nevents = [\"test.sin\"]\n").unwrap();

    let (told, said, code) = run(&["inspect", &path("built.wasm")]);
    assert_eq!(code, Some(1), "{told}");
    assert!(said.contains("(registry.no_manifest)\n  hint: "), "{said}");
    assert!(told.contains("component\n"), "{told}");

    let plugins = tempfile::tempdir().unwrap();
    let packed = plugins.path().join("packed.wasm");
    let arguments = ["pack", &path("built.wasm"), "--manifest", &path("plugin.toml"), "-o", packed.to_str().unwrap()];
    let (told, said, code) = run(&arguments);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{told}");
    let names: Vec<_> = std::fs::read_dir(plugins.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["packed.wasm"]);
    assert_eq!(std::fs::read(path("built.wasm")).unwrap(), component);

    let host = Setup::new().unwrap().plugins(plugins.path()).start().await.unwrap();
    let id = host.accepted("event=test.sin&sin=none").await.unwrap();
    let event = host.settled(&id).await.unwrap();
    assert_eq!(
        (&event["deliveries"][0]["plugin"], &event["deliveries"][0]["state"]),
        (&json!("packed"), &json!("done")),
        "{event}"
    );

    std::fs::write(path("plugin.toml"), "name = \"packed\"\nevent = [\"test.sin\"]\n").unwrap();
    let (_, said, code) = run(&["pack", &path("built.wasm"), "--manifest", &path("plugin.toml")]);
    assert_eq!(code, Some(1));
    assert!(said.contains("unknown field `event`"), "{said}");
    assert_eq!(std::fs::read(path("built.wasm")).unwrap(), component);
}

#[test]
fn every_event_of_the_catalogue_has_one_sample_of_its_type() {
    let names: Vec<&str> = catalogue().iter().map(|entry| entry.name).collect();
    assert_eq!(samples::names(), names);
    for entry in catalogue() {
        let event = samples::event(entry.name).unwrap();
        let fields = object(&event.fields);
        let strange: Vec<&String> =
            fields.keys().filter(|key| *key != "identity" && !entry.fields.contains(&key.as_str())).collect();
        assert_eq!(strange, Vec::<&String>::new(), "{}", entry.name);
        let typed = testing::event_with(entry.name, fields);
        assert_ne!(typed.data().unwrap(), EventData::Other, "{}", entry.name);
        assert_eq!(typed.entity.map(|entity| entity.to_string()), event.entity.map(|entity| entity.to_string()));
        assert!(event.actor.is_some(), "{}", entry.name);
    }
}

#[test]
fn a_new_plugin_names_the_type_that_the_sdk_has_for_its_event() {
    let parent = tempfile::tempdir().unwrap();
    for entry in catalogue() {
        let fields = object(&samples::event(entry.name).unwrap().fields);
        let typed = format!("{:?}", testing::event_with(entry.name, fields).data().unwrap());
        let variant = typed.split('(').next().unwrap();
        let folder = parent.path().join(entry.name);
        scaffold(&Wanted {
            name: PluginName::try_from("watch".to_owned()).unwrap(),
            events: vec![Pattern::try_from(entry.name.to_owned()).unwrap()],
            folder: folder.clone(),
            language: Language::Rust,
            sdk: Sdk::Version("0.1".to_owned()),
        })
        .unwrap();
        let code = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        assert!(code.contains(&format!("let EventData::{variant}(data) = event.data()? else {{\n")), "{code}");
        // Its test's fields, as pairs: enough for the type.
        let fields = code.lines().find_map(|line| line.trim().strip_prefix("let fields = ")).unwrap();
        let pairs = fields.trim_end_matches(';').replace('(', "[").replace(')', "]");
        let pairs: Vec<(String, String)> = serde_json::from_str(&pairs).unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        testing::event(entry.name, &pairs).data().unwrap();
    }
}
