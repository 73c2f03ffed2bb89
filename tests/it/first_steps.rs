//! A newcomer's first hours: the README's own set-up, configurations that can't work, a plugin that nobody has granted yet.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::wait_until;
use serde_json::{Value, json};

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    run_with(folder, arguments, &[])
}

fn run_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(Setup::new().unwrap().program);
    command.args(arguments).current_dir(folder).env_remove("SALESMAN_HOST_CONFIG");
    let Output { status, stdout, stderr } = command.envs(variables.iter().copied()).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap()))
}

/// What the README says: the key comes from the service's variables, which an administrator's shell does not have.
const README: &str = "[server]\nlisten = \"127.0.0.1:9\"\n[crm.main]\nurl = \"http://127.0.0.1:9\"\nlogin = \"api@example.com\"\n\
                      api_key = { env = \"SALESMAN_NO_SUCH_KEY\" }\ntoken = { file = \"hook-token\" }\n";

#[test]
fn commands_do_without_the_secrets_that_they_do_not_need() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("host.toml"), README).unwrap();
    let secret = folder.path().join("hook-token");
    std::fs::write(&secret, "0123456789abcdef0123\n").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let plugin = crate::plugins(&[("one", "*")]);
    std::fs::copy(plugin.path().join("one.wasm"), folder.path().join("plugins/one.wasm")).unwrap();
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    for (arguments, code) in [
        (&["config", "check"][..], 0),
        (&["config", "show"], 0),
        (&["plugin", "grant", "one", "--yes"], 0),
        (&["events-php", "--url", "http://127.0.0.1:9"], 0),
        (&["doctor"], 0),
        // No host runs: that is what they say, not that a key is missing.
        (&["plugin", "list"], 4),
        (&["event", "list"], 4),
        (&["dead", "list"], 4),
        (&["tail"], 4),
    ] {
        let (ended, said) = run(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(said.contains("Configuration: `host.toml`."), "{arguments:?}: {said}");
    }
    let (_, said) = run(&["config", "check"]);
    assert!(
        said.contains("line 6: `crm.main.api_key` needs the environment variable `SALESMAN_NO_SUCH_KEY`"),
        "{said}"
    );
    let (_, said) = run(&["doctor"]);
    assert!(said.contains("SALESMAN_NO_SUCH_KEY") && said.contains("secrets.env") && said.contains("{ file"), "{said}");
    // Whoever needs it says so.
    let (code, said) = run(&["serve"]);
    assert!(code == Some(2) && said.contains("SALESMAN_NO_SUCH_KEY"), "{said}");
    std::fs::remove_file(folder.path().join("hook-token")).unwrap();
    let (code, said) = run(&["events-php", "--url", "http://127.0.0.1:9"]);
    assert!(code == Some(1) && said.contains("hook-token"), "{said}");
    assert_eq!(run(&["plugin", "list"]).0, Some(4));
    assert_eq!(run(&["config", "check"]).0, Some(2));
}

#[test]
fn a_configuration_is_found_and_the_one_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.toml");
    std::fs::write(&other, "[crm.main]\ntoken = 5").unwrap();
    std::fs::write(folder.path().join("host.toml"), "[server]\ncolour = 1").unwrap();
    let (_, said) = run(folder.path(), &["config", "check"]);
    assert!(said.contains("Configuration: `host.toml`.") && said.contains("server.colour"), "{said}");
    let variable = [("SALESMAN_HOST_CONFIG", other.to_str().unwrap())];
    let (_, said) = run_with(folder.path(), &["config", "check"], &variable);
    assert!(said.contains("other.toml`.") && said.contains("crm.main.token"), "{said}");
    let (_, said) = run_with(folder.path(), &["config", "check", "--config", "host.toml"], &variable);
    assert!(said.contains("server.colour") && !said.contains("other.toml"), "{said}");
}

#[test]
fn the_check_says_what_serve_would_with_lines_and_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.toml");
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let start = "[crm.main]\ntoken = \"0123456789abcdef\"\n";
    let (_, defaults) = run(folder.path(), &["config", "default"]);
    for (text, part) in [
        (defaults, "add a section `[crm.main]`"),
        (format!("{start}[server]\nlisten = \"127.0.0.1\""), "line 4: `server.listen` must be an address with a port"),
        (format!("{start}[console]\nlisten = \"8788\""), "line 4: `console.listen` must be an address with a port"),
        (format!("{start}[telemetry]\nlevel = \"verbose\""), "line 4: `telemetry.level` must be `error`"),
        (format!("{start}[server]\n\nmax_body_kib = \"many\""), "line 5: `server.max_body_kib` must be a whole number"),
        (
            format!("{start}concurrency = -1"),
            "line 3: `crm.main.concurrency` must be a whole number, 0 or more, not a negative",
        ),
        (format!("{start}plugins = \"one\""), "line 3: `crm.main.plugins` must be a list of plugins' names"),
        (format!("{start}watch = [\"lead\"]"), "line 3: `crm.main.watch` must be a list"),
        (
            format!("{start}[plugins.one]\nlimits = {{ cpu_ms = 1.5 }}"),
            "line 4: `plugins.one.limits.cpu_ms` must be a whole",
        ),
        (
            format!("{start}[plugins.one.grants]\ncrm = [\"deal.lst\"]"),
            "line 4: `plugins.one.grants.crm` holds `deal.lst`",
        ),
        (
            format!("{start}[plugins.one.grants]\nstate = \"yes\""),
            "line 4: `plugins.one.grants.state` must be `true` or `false`",
        ),
        (format!("{start}[retry]\nattempts = 0"), "line 4: `retry.attempts` must be between"),
        (format!("{start}[crm.main.extra]"), "line 3: `crm.main.extra` is not a key"),
        (format!("{start}[server]\nlisten = \"x"), "line 4: "),
        (format!("{start}[plugins]\ndir = \"nowhere\""), "the plugin folder"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let (checked, said) = run(folder.path(), &["config", "check"]);
        assert!(checked == Some(2) && said.contains(part), "{text}\n{said}");
        for words in ["invalid type", "expected u64", "invalid value", "unknown variant", "missing field"] {
            assert!(!said.contains(words), "{said}");
        }
        let (served, told) = run(folder.path(), &["serve"]);
        assert!(served == Some(2) && told.contains(part), "{text}\n{told}");
    }
    std::fs::write(folder.path().join("grants.toml"), "\n[two]\nstate = 1\n").unwrap();
    std::fs::write(&path, start).unwrap();
    let (code, said) = run(folder.path(), &["config", "check"]);
    assert!(code == Some(2) && said.contains("line 3: `two.state` must be `true` or `false`"), "{said}");
    // What may be meant is told, and starts: a plugin may come tomorrow, and what a command wrote is no reason not to.
    std::fs::write(folder.path().join("grants.toml"), "[two]\ncrm = [\"deal.lst\"]\n").unwrap();
    std::fs::write(
        &path,
        format!("{start}[plugins.nofity.settings]\na = 1\n[plugins.one.grants]\ncrm = [\"deal.*\", \"*\"]"),
    )
    .unwrap();
    let plugin = crate::plugins(&[("notify", "*")]);
    std::fs::copy(plugin.path().join("notify.wasm"), folder.path().join("plugins/notify.wasm")).unwrap();
    let (code, said) = run(folder.path(), &["config", "check"]);
    assert_eq!(code, Some(0), "{said}");
    for part in ["`nofity`", "did you mean `notify`", "`deal.list`", "grants.toml", "remark(s)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("the configuration is good"), "{said}");
}

#[tokio::test]
async fn what_comes_before_the_first_approval_is_kept_and_delivered_with_it() {
    let folder = crate::plugins(&[("one", "*")]);
    let mut setup = Setup::new().unwrap().plugins(folder.path());
    setup.dev = false;
    let host = setup.start().await.unwrap();
    let mut ids = Vec::new();
    for id in 1..=3 {
        ids.push(host.accepted(&format!("event=a.b&id={id}&sin=none")).await.unwrap());
    }
    let waiting = wait_until("kept events", PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        Ok((plugins[0]["hour"][0]["open"] == 3).then_some(plugins))
    })
    .await
    .unwrap();
    assert_eq!((&waiting[0]["name"], &waiting[0]["waits_for_approval"]), (&json!("one"), &json!(true)));
    assert!(waiting[0]["notices"][0]["message"].as_str().unwrap().contains("kept for it"), "{waiting}");
    let (status, _) =
        host.ask("plugins/one/grant", &json!({ "hash": waiting[0]["notices"][0]["hash"] })).await.unwrap();
    assert_eq!(status, 200);
    for id in &ids {
        let path = host.settled(id).await.unwrap();
        let delivery: &Value = &path["deliveries"][0];
        assert_eq!((&delivery["plugin"], &delivery["state"]), (&json!("one"), &json!("done")));
    }
}

#[tokio::test]
async fn the_log_says_why_without_anybodys_words() {
    use integration_tests::stand_in::{Fault, Options, StandIn};
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("one", "*")]);
    let host =
        Setup::new().unwrap().crm(&crm).plugins(folder.path()).more("[retry]\nattempts = 1").start().await.unwrap();
    crm.fault_on(Some("task"), Some("add"), 1, Fault::HtmlFatal);
    for sin in ["add-task&title=planted-client-name", "reject"] {
        let id = host.accepted(&format!("event=a.b&id=1&sin={sin}")).await.unwrap();
        host.settled(&id).await.unwrap();
    }
    let log = host.log();
    assert!(log.contains("after `crm task.add` was answered with something that is not the API"), "{log}");
    assert!(log.contains("rejected: the attempt has the plugin's words") && !log.contains("planted"), "{log}");
}

#[test]
fn a_rehearsal_compiles_once_says_so_and_reaches_private_addresses_of_a_script() {
    let folder = tempfile::tempdir().unwrap();
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let manifest = "name = \"one\"\nversion = \"1\"\nevents = [\"*\"]\n[permissions]\nhttp = [\"http://127.0.0.1:9\"]";
    let file = folder.path().join("one.wasm");
    std::fs::write(&file, integration_tests::guest::with_manifest(&module, manifest).unwrap()).unwrap();
    let event = "{\"event\": \"a.b\", \"sin\": \"fetch\", \"url\": \"http://127.0.0.1:9/hook\"}";
    std::fs::write(folder.path().join("event.json"), event).unwrap();
    let answers = "{\"call\": \"POST http://127.0.0.1:9\", \"status\": 200, \"body\": \"from the script\"}";
    std::fs::write(folder.path().join("answers.json"), answers).unwrap();
    let cache = folder.path().join("cache");
    let arguments = ["plugin", "run", "one.wasm", "--event", "event.json", "--answers", "answers.json"];
    let run = || run_with(folder.path(), &arguments, &[("XDG_CACHE_HOME", cache.to_str().unwrap())]);
    let (code, said) = run();
    assert!(code == Some(0) && said.contains("200 from the script"), "{said}");
    assert!(said.contains("Compiling") && said.contains("Compiled in"), "{said}");
    let (code, said) = run();
    assert!(code == Some(0) && said.contains("200 from the script") && !said.contains("Compil"), "{said}");
}

#[tokio::test]
async fn a_developers_host_listens_where_it_is_told_and_answers_from_a_file() {
    use std::io::{BufRead as _, BufReader};
    let folder = crate::plugins(&[("one", "*")]);
    let root = tempfile::tempdir().unwrap();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:1\"\n[plugins]\ndir = {:?}\n[crm.main]\nurl = \"http://127.0.0.1:9\"\nlogin = \"x\"\napi_key = \"x\"\ntoken = \"0123456789abcdef\"\n",
        folder.path()
    );
    std::fs::write(root.path().join("host.toml"), config).unwrap();
    std::fs::write(root.path().join("answers.json"), "{\"call\": \"task.add\", \"answer\": {\"data\": 4711}}").unwrap();
    let mut host = Command::new(Setup::new().unwrap().program)
        .args(["dev", ".", "--listen", "127.0.0.1:0", "--answers", "answers.json"])
        .current_dir(root.path())
        .env_remove("SALESMAN_HOST_CONFIG")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let base = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    // The author needs no user: the link that is printed opens the console.
    let mut errors = BufReader::new(host.stderr.take().unwrap());
    let link = loop {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "no link was printed");
        if let Some((_, link)) = line.split_once("(this link is good once): ") {
            break link.trim().to_owned();
        }
    };
    // What else it says is taken, so that it can go on.
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let entered = http.get(&link).send().await.unwrap();
    assert_eq!((entered.status().as_u16(), &entered.headers()["location"]), (303, &"/console".parse().unwrap()));
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let sent = http.post(format!("{base}/events/0123456789abcdef")).body("event=a.b&id=1&sin=add-task");
    let sent = sent.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    let id = serde_json::from_str::<Value>(&sent.text().await.unwrap()).unwrap()["id"].as_str().unwrap().to_owned();
    let done = wait_until("the delivery", PATIENCE, async || {
        let request = http.get(format!("{base}/api/v1/events/{id}")).header("cookie", &cookie);
        let text = request.send().await?.text().await?;
        Ok(Some(text).filter(|text| text.contains("\"done\"") && text.contains("task 4711")))
    })
    .await;
    drop((host.kill(), host.wait()));
    done.unwrap();
}

#[tokio::test]
async fn a_plugin_that_is_being_compiled_is_listed_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let host = Setup::new().unwrap().plugins(folder.path()).start().await.unwrap();
    let new = crate::plugins(&[("one", "*")]);
    // In one step, as a careful copy does it.
    std::fs::copy(new.path().join("one.wasm"), folder.path().join("one.new")).unwrap();
    std::fs::rename(folder.path().join("one.new"), folder.path().join("one.wasm")).unwrap();
    wait_until("the plugin that compiles", PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        Ok((plugins[0]["name"] == "one" && plugins[0]["compiling"] == true && plugins[0].get("version").is_none())
            .then_some(()))
    })
    .await
    .unwrap();
    wait_until("the plugin that serves", PATIENCE, async || {
        let plugins = host.api("plugins").await?;
        Ok((plugins[0]["compiling"] == false && plugins[0]["version"] == "1").then_some(()))
    })
    .await
    .unwrap();
}
