//! `plugin run`: what is rehearsed is what a host would do, and nothing of it gets out.

use std::path::{Path, PathBuf};

use integration_tests::guest::with_manifest;
use integration_tests::host::{Host, Setup};
use integration_tests::stand_in::{Options, StandIn};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a rehearsal printed, and how it ended.
struct Told {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Told {
    fn json(&self) -> Value {
        // Whether it was compiled before depends on what else this user rehearsed.
        let errors: Vec<&str> = self.errors.lines().filter(|line| !line.starts_with("Compil")).collect();
        assert_eq!(errors, Vec::<&str>::new(), "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    fn has(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.out.contains(part), "`{part}` is missing in:\n{}{}", self.out, self.errors);
        }
    }
}

async fn run(plugin: &Path, arguments: &[&str]) -> Told {
    let mut command = tokio::process::Command::new(Setup::new().unwrap().program);
    let output = command.args(["plugin", "run"]).arg(plugin).args(arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code(), out: text(output.stdout), errors: text(output.stderr) }
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A deal that moves to a step for which `step-tasks` has a rule.
fn moved(folder: &TempDir) -> String {
    file(folder, "moved", "event=deal.change.step&did=4&stepOld=20&stepNew=40&iduser1=2")
}

fn sample(name: &str) -> PathBuf {
    crate::samples().join(format!("{name}.wasm"))
}

fn sinner() -> PathBuf {
    crate::guests().join("guests.wasm")
}

#[tokio::test]
async fn with_answers_from_a_file_every_call_of_a_plugin_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let answers = json!([
        { "call": "deal.list", "answer": { "data": [{ "did": 4, "clid": 1, "title": "Поставка", "user": "ui@example.test" }] } },
        { "call": "task.add", "answer": { "result": "Успешно", "data": 9 } },
        { "call": "client.info", "answer": {} },
    ]);
    let answers = file(&folder, "answers.json", &answers.to_string());
    let settings = file(
        &folder,
        "settings.toml",
        "[[rules]]\nstep = \"40\"\ntitle = \"Звонок: {deal}\"\ndescription = \"\"\nkind = \"Звонок\"\ndays = 0\ntime = \"10:00\"",
    );
    let plugin = sample("step-tasks");
    let moved = moved(&folder);
    let event = ["--event", &moved, "--answers", &answers];
    let told = run(&plugin, &[&event[..], &["--json"]].concat()).await;
    let rehearsal = told.json()["rehearsal"].clone();
    assert_eq!(
        (told.code, &rehearsal["outcome"], &rehearsal["unused"]),
        (Some(0), &json!("done"), &json!(["client.info"]))
    );
    let calls: Vec<&str> =
        rehearsal["calls"].as_array().unwrap().iter().map(|call| call["call"].as_str().unwrap()).collect();
    assert_eq!(calls, ["crm deal.list", "crm task.add"]);
    let task: Value = serde_json::from_str(rehearsal["writes"][0]["request"].as_str().unwrap()).unwrap();
    assert_eq!(task["title"], "Позвонить по КП: Поставка");
    let told = run(&plugin, &[&event[..], &["--settings", &settings]].concat()).await;
    told.has(&["outcome done", "Звонок: Поставка", "task 9 added", "calls                3 of        1,000"]);
}

#[tokio::test]
async fn a_call_that_nobody_answers_says_so_and_what_to_do() {
    let plugin = sample("step-tasks");
    let folder = tempfile::tempdir().unwrap();
    let moved = moved(&folder);
    let told = run(&plugin, &["--event", &moved]).await;
    assert_eq!(told.code, Some(1));
    told.has(&["outcome retry", "crm deal.list  NO ANSWER", "give some with `--answers`"]);
    let answers = file(
        &folder,
        "answers.jsonl",
        "{\"call\":\"deal.list\",\"answer\":{\"error\":{\"code\":401,\"text\":\"ключ\"}}}",
    );
    let told = run(&plugin, &["--event", &moved, "--answers", &answers]).await;
    assert_eq!(told.code, Some(1));
    told.has(&["outcome retry: the CRM refused with code 401: ключ"]);
    // A sample by its name, and a name that is none.
    let told = run(&plugin, &["--event", "deal.change.step", "--json"]).await;
    assert_eq!(told.json()["rehearsal"]["event"], "deal.change.step");
    let told = run(&plugin, &["--event", "client.ad"]).await;
    assert_eq!(told.code, Some(1));
    assert!(told.errors.contains("samples are"), "{}", told.errors);
    assert_eq!(run(&plugin, &[]).await.code, Some(2));
}

#[tokio::test]
async fn a_limit_that_ends_a_plugin_is_named_with_its_amount_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for (sin, code, parts) in [
        ("loop", "plugin.cpu_limit", ["of       300 ms  ← the limit", "raise `cpu_ms`"]),
        ("memory", "plugin.memory_limit", ["of       16 MiB  ← the limit", "raise `memory_mib`"]),
        ("many-calls", "plugin.call_limit", ["50 of           50  ← the limit", "raise `calls`"]),
    ] {
        let event = file(&folder, "event", &format!("event=test.sin&sin={sin}"));
        let told = run(&sinner(), &["--event", &event]).await;
        assert_eq!(told.code, Some(1), "{}", told.out);
        told.has(&[code]);
        told.has(&parts);
    }
}

fn config(folder: &TempDir, crm: &StandIn, more: &str) -> String {
    let (url, login, key) = (crm.base_url(), crm.api_login(), crm.api_key());
    let text = format!(
        "[crm.main]\ntoken = \"test-token-0123456789\"\nurl = {url:?}\nlogin = {login:?}\napi_key = {key:?}\n{more}"
    );
    file(folder, "host.toml", &text)
}

#[tokio::test]
async fn a_dry_run_reads_the_crm_and_writes_nothing() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clid = crm.seed_client(json!({ "title": "Ромашка", "phone": "8 (495) 111-22-33" })).unwrap();
    let event = file(&folder, "event.json", &json!({ "event": "client.add", "clid": clid, "iduser1": 2 }).to_string());
    let grants = "[plugins.phone-format.grants]\ncrm = [\"client.info\", \"client.update\"]";
    let host = config(&folder, &crm, grants);
    let before = crm.client(clid).unwrap();
    let dry = ["--event", &event, "--dry-run", "--config", &host];
    let told = run(&sample("phone-format"), &dry).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.errors);
    told.has(&["crm client.update  NOT SENT", "+74951112233", "not granted: crm person.info", "phone formatted"]);
    let calls: Vec<String> = crm.calls().iter().map(|call| format!("{}.{}", call.method, call.action)).collect();
    assert!(!calls.is_empty() && calls.iter().all(|call| call == "client.info"), "{calls:?}");
    assert_eq!(crm.client(clid).unwrap(), before);

    // To the outside as well; a grant that is missing is missing here too.
    let settings = file(&folder, "settings.json", &json!({ "url": format!("{}/chat", crm.base_url()) }).to_string());
    let notify = sample("notify");
    let event =
        file(&folder, "closed.json", &json!({ "event": "deal.close", "did": 1, "summa": 5, "iduser1": 2 }).to_string());
    let dry = ["--event", &event, "--dry-run", "--config", &host, "--settings", &settings];
    let told = run(&notify, &dry).await;
    assert_eq!(told.code, Some(1));
    told.has(&["not granted by the administrator", "under `[plugins.notify.grants]`"]);
    let private = format!(
        "[plugins.notify.grants]\ncrm = [\"deal.list\"]\nhttp = [{0:?}]\nhttp_private = [{0:?}]",
        crm.base_url()
    );
    config(&folder, &crm, &private);
    let told = run(&notify, &dry).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.errors);
    told.has(&["http POST http://127.0.0.1", "NOT SENT"]);
    assert!(crm.messages().is_empty());
}

async fn delivered(host: &Host, body: &str) -> String {
    let id = host.accepted(body).await.unwrap();
    host.settled(&id).await.unwrap()["deliveries"][0]["id"].to_string()
}

#[tokio::test]
async fn a_replay_is_equal_with_the_same_build_and_names_what_another_one_changes() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plugin = sample("step-tasks");
    std::fs::copy(&plugin, folder.path().join("step-tasks.wasm")).unwrap();
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).start().await.unwrap();
    let delivery = delivered(&host, "event=deal.change.step&did=1&stepOld=20&stepNew=40&iduser1=2").await;
    let (calls, tasks) = (crm.calls().len(), crm.tasks().len());
    let token = &host.token().unwrap();
    let replay = ["--from-delivery", &delivery, "--token", token, "--host", host.base()];
    let told = run(&plugin, &replay).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.errors);
    told.has(&["equal: the same outcome and the same writes", "writes  1 as then, 0 that differ"]);

    let manifest = std::fs::read_to_string(xtask::root().join("plugins/step-tasks/plugin.toml")).unwrap();
    let renamed = manifest.replace("Позвонить по КП: {deal}", "Спросить о КП: {deal}");
    let other = folder.path().join("other.file");
    std::fs::write(&other, with_manifest(&std::fs::read(&plugin).unwrap(), &renamed).unwrap()).unwrap();
    let told = run(&other, &replay).await;
    assert_eq!(told.code, Some(1));
    told.has(&["~ crm task.add", "- title: \"Позвонить по КП: ", "+ title: \"Спросить о КП: ", "  different"]);
    let told = run(&other, &[&replay[..], &["--json"]].concat()).await;
    let writes = told.json()["comparison"]["writes"].clone();
    let names: Vec<&Value> =
        writes[0]["arguments"].as_array().unwrap().iter().map(|argument| &argument["name"]).collect();
    assert_eq!((writes[0]["how"].as_str(), names), (Some("changed"), vec![&json!("title")]));

    // A rule less: the write is gone, and the outcome is another.
    let fewer = manifest.replace("step = \"40\"", "step = \"41\"");
    std::fs::write(&other, with_manifest(&std::fs::read(&plugin).unwrap(), &fewer).unwrap()).unwrap();
    let told = run(&other, &replay).await;
    assert_eq!(told.code, Some(1));
    told.has(&["- outcome done", "+ outcome skipped", "- crm task.add"]);
    assert_eq!((crm.calls().len(), crm.tasks().len()), (calls, tasks));

    let told = run(&plugin, &["--from-delivery", "4711", "--token", token, "--host", host.base()]).await;
    assert_eq!(told.code, Some(5));
    assert!(told.errors.contains("there is no delivery with this number (`console.not_found`)"), "{}", told.errors);
    let told =
        run(&plugin, &["--from-delivery", &delivery, "--attempt", "9", "--token", token, "--host", host.base()]).await;
    assert!(told.errors.contains("no attempt 9; recorded are [1]"), "{}", told.errors);
}

#[tokio::test]
async fn a_replay_finds_the_state_and_the_done_writes_of_then() {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("writer", "write.event")]);
    let more = "[retry]\nfirst_ms = 1\nlongest_ms = 20";
    let host = Setup::new().unwrap().crm(&crm).plugins(folder.path()).more(more).start().await.unwrap();
    let plugin = folder.path().join("writer.wasm");
    let token = &host.token().unwrap();
    delivered(&host, "event=write.event&id=1&sin=count").await;
    let second = delivered(&host, "event=write.event&id=2&sin=count").await;
    let told = run(&plugin, &["--from-delivery", &second, "--token", token, "--host", host.base(), "--json"]).await;
    let told_json = told.json();
    assert_eq!((told.code, &told_json["rehearsal"]["lines"][0]["text"]), (Some(0), &json!("2")), "{told_json}");
    assert_eq!(told_json["rehearsal"]["state"], json!([{ "key": "count", "how": "set", "value": "2" }]));

    // Another build that reads more than was read then is told so.
    let first = delivered(&host, "event=write.event&id=4").await;
    let manifest = "name = \"writer\"\nversion = \"2\"\nevents = [\"*\"]\n[permissions]\nstate = true\n[settings]\nsin = \"count\"";
    let other = folder.path().join("other.file");
    std::fs::write(&other, with_manifest(&std::fs::read(&plugin).unwrap(), manifest).unwrap()).unwrap();
    let told = run(&other, &["--from-delivery", &first, "--token", token, "--host", host.base()]).await;
    assert_eq!(told.code, Some(1), "{}", told.out);
    told.has(&["- outcome skipped", "+ outcome done", "the stored value of `count` was not read then"]);

    let again = delivered(&host, "event=write.event&id=3&sin=add-task&then=panic").await;
    let told = run(&plugin, &["--from-delivery", &again, "--token", token, "--host", host.base(), "--json"]).await;
    let told_json = told.json();
    assert_eq!(told.code, Some(0), "{told_json}");
    assert_eq!(
        (&told_json["rehearsal"]["attempt"], &told_json["rehearsal"]["calls"][0]["call"]),
        (&json!(2), &json!("crm task.add (done before)"))
    );
    let first =
        run(&plugin, &["--from-delivery", &again, "--attempt", "1", "--token", token, "--host", host.base()]).await;
    assert_eq!(first.code, Some(0), "{}", first.out);
    first.has(&["outcome failed", "equal:"]);
    assert_eq!(crm.tasks().len(), 1);
}
