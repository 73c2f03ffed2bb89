//! Somebody's first day: from nothing to a plugin that runs, changes, breaks and is mended; through the commands alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use integration_tests::host::{Host, PATIENCE, Setup};
use integration_tests::wait_until;
use salesman_host::workshop::samples;
use serde_json::{Value, json};

use crate::authoring::{build, new_crate, program, workplace};

/// The built-in sample of an event, as a form.
fn sample(event: &str) -> String {
    let plain = samples::body(event).unwrap().iter().filter_map(|(key, value)| Some((key, value.as_str()?)));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(plain).finish()
}

/// What the plugin logged about an event sent now.
async fn lines(host: &Host) -> Vec<String> {
    let id = host.accepted(&sample("deal.close")).await.unwrap();
    let path = host.settled(&id).await.unwrap();
    let lines = path["deliveries"][0]["attempts"][0]["lines"].as_array();
    assert!(lines.is_some(), "{path}");
    lines.unwrap().iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

async fn hash_is(host: &Host, expected: &Value) {
    let served = async || Ok((host.api("plugins").await?[0]["hash"] == *expected).then_some(()));
    let found = wait_until("the version to serve", PATIENCE, served).await;
    assert!(found.is_ok(), "{}\n{}", host.api("notices").await.unwrap(), host.log());
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// `plugin build`: the file and its hash.
async fn built(folder: &Path) -> Result<(PathBuf, Value), String> {
    let folder = folder.to_owned();
    let (told, said, code) = tokio::task::spawn_blocking(move || build(&folder, &["--json", "--debug"])).await.unwrap();
    if code != Some(0) {
        return Err(said);
    }
    let built: Value = serde_json::from_str(&told).unwrap();
    Ok((built["file"].as_str().unwrap().into(), built["sha256"].clone()))
}

fn plugin(host: &Host, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("plugin").args(arguments).arg("--config").arg(host.folder().join("host.toml"));
    command
}

#[tokio::test]
async fn a_newcomer_gets_from_nothing_to_a_plugin_that_is_mended_while_it_serves() {
    let folder = new_crate("newcomer", &["--on", "deal.close"]);
    edit(&folder.join("plugin.toml"), "state = false", "state = true");
    let (file, hash) = built(&folder).await.unwrap();

    // Before any host: the same event, in the real sandbox.
    let run = program().args(["plugin", "run"]).arg(&file).args(["--event", "deal.close"]).output().unwrap();
    let told = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success() && told.contains("deal.close came: "), "{told}");

    let plugins = tempfile::tempdir().unwrap();
    let mut setup = Setup::new().unwrap().plugins(plugins.path());
    setup.dev = false;
    let host = setup.start().await.unwrap();
    let drop_in = |file: &Path| {
        std::fs::copy(file, plugins.path().join("copied")).unwrap();
        std::fs::rename(plugins.path().join("copied"), plugins.path().join("newcomer.wasm")).unwrap();
    };
    drop_in(&file);
    wait_until("the host to ask for approval", PATIENCE, async || {
        let waits = host.api("notices").await?[0]["code"] == json!("registry.waits_for_approval");
        Ok(waits.then_some(()))
    })
    .await
    .unwrap();
    let granted = plugin(&host, &["grant", "newcomer", "--yes"]).output().unwrap();
    let told = String::from_utf8(granted.stdout).unwrap();
    assert!(granted.status.success() && told.contains("keep its own state"), "{told}");
    hash_is(&host, &hash).await;
    assert!(lines(&host).await[0].starts_with("deal.close came: "));

    let source = folder.join("src/lib.rs");
    edit(&source, "came: ", "was seen: ");
    let (file, hash) = built(&folder).await.unwrap();
    drop_in(&file);
    hash_is(&host, &hash).await;
    assert!(lines(&host).await[0].starts_with("deal.close was seen: "));

    edit(&source, "Reply::done()", "Reply::dome()");
    let said = built(&folder).await.unwrap_err();
    assert!(said.contains("dome") && said.contains("src/lib.rs"), "{said}");
    assert!(lines(&host).await[0].starts_with("deal.close was seen: "));

    edit(&source, "Reply::dome()", "Reply::done()");
    edit(&source, "was seen: ", "is understood: ");
    let (file, hash) = built(&folder).await.unwrap();
    drop_in(&file);
    hash_is(&host, &hash).await;
    assert!(lines(&host).await[0].starts_with("deal.close is understood: "));
}

#[tokio::test]
async fn saving_a_source_file_is_all_that_an_author_has_to_do() {
    let folder = new_crate("saved", &["--on", "deal.close"]);
    let toolchain = xtask::wasm_target::ensure(&xtask::root()).unwrap();
    let mut setup = Setup::new().unwrap();
    for (name, value) in toolchain.cargo().get_envs() {
        if let Some(value) = value {
            setup = setup.environment(name.to_str().unwrap(), value.to_str().unwrap());
        }
    }
    setup = setup.environment("CARGO_TARGET_DIR", workplace().join("target").to_str().unwrap());
    setup.develop = Some(folder.clone());
    let host = setup.start().await.unwrap();
    let served = async || Ok(host.api("plugins").await?[0]["hash"].as_str().map(str::to_owned));
    let first = wait_until("the first build", PATIENCE * 4, served).await;
    assert!(first.is_ok(), "{}", host.log());
    let first = first.unwrap();
    assert!(lines(&host).await[0].starts_with("deal.close came: "));

    let source = folder.join("src/lib.rs");
    let saved = Instant::now();
    edit(&source, "came: ", "was seen: ");
    wait_until("the next build", PATIENCE, async || Ok(served().await?.filter(|hash| *hash != first))).await.unwrap();
    assert!(lines(&host).await[0].starts_with("deal.close was seen: "));
    let took = saved.elapsed();
    let log = host.log();
    let cargo = log.rsplit("Built `").next().unwrap().lines().next().unwrap().to_owned();
    eprintln!("saved to handled: {took:?}; {cargo}");
    // The delivery is shown, with what the plugin said.
    assert!(log.contains("deal.close (deal:") && log.contains("  info: deal.close was seen: "), "{log}");

    edit(&source, "Reply::done()", "Reply::dome()");
    wait_until("the broken build", PATIENCE, async || Ok(host.log().contains("Not built").then_some(())))
        .await
        .unwrap();
    assert!(lines(&host).await[0].starts_with("deal.close was seen: "));
    edit(&source, "Reply::dome()", "Reply::done()");
    edit(&source, "was seen: ", "is mended: ");
    wait_until("the mended build", PATIENCE, async || {
        Ok(lines(&host).await.first().filter(|line| line.contains("is mended: ")).map(drop))
    })
    .await
    .unwrap();
}
