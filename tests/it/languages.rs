//! Plugins in JavaScript and Python: the scaffold's own folder, built by the product's own code, against a real host.
//!
//! The tools are installed below `target/languages`, by the build itself, and kept there. A plugin is built again only when
//! what it is made of has changed. Where node or Python is not installed, the test says so and ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::host::{Host, Setup};
use integration_tests::stand_in::{Options, StandIn};
use salesman_host::workshop::build::foreign;
use salesman_host::workshop::scaffold::{self, Language, Sdk, Wanted};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One language's side of the test.
struct Side {
    name: &'static str,
    language: Language,
    /// What has to be installed.
    programs: &'static [&'static str],
    /// Runs the tests that are part of the scaffold, and the helper's own.
    native: &'static [&'static str],
    /// The helper's own tests, and how five good ones are told.
    helper: (&'static str, &'static str),
    passed: &'static str,
    /// The author's file, and what the test puts in its place.
    handler: (&'static str, &'static str),
    /// How an exception is told, up to its place.
    told: &'static str,
    place: &'static str,
    /// How recursion without end is told.
    too_deep: &'static str,
}

const JS: Side = Side {
    name: "js",
    language: Language::Js,
    programs: &["node", "npm"],
    native: &["node", "--test", "--test-reporter=tap"],
    helper: ("salesman.test.js", include_str!("../../plugin-sdk/js/salesman.test.js")),
    passed: "# pass 6",
    handler: ("handler.js", include_str!("../fixtures/languages/handler.js")),
    told: "Error: the shelf is empty\n",
    place: "handler.js:27:",
    too_deep: "InternalError: too much recursion\n",
};

const PYTHON: Side = Side {
    name: "python",
    language: Language::Python,
    programs: &["python3"],
    native: &["python3", "-B", "-m", "unittest"],
    helper: ("test_salesman.py", include_str!("../../plugin-sdk/python/test_salesman.py")),
    passed: "Ran 5 tests",
    handler: ("handler.py", include_str!("../fixtures/languages/handler.py")),
    told: "ValueError: the shelf is empty\n",
    place: "handler.py\", line 28, in throw",
    too_deep: "RecursionError: maximum recursion depth exceeded",
};

/// The plugin's file; none where the language's tools are not installed.
fn built(side: &Side) -> Option<PathBuf> {
    for program in side.programs {
        if Command::new(program).arg("--version").output().is_err() {
            let line = format!("\nSKIPPED: `{program}` is not installed, plugins in {} are not tested\n", side.name);
            // Written past the test's capture: a test that ran nothing must not look as if it had.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
    }
    let folder = xtask::root().join("target/languages").join(side.name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();

    let scaffold = scaffolded(side);
    put(&folder, &scaffold);
    put(&folder, &[(side.helper.0.to_owned(), side.helper.1.to_owned())]);
    passes(&folder, side);

    let mut own = scaffold;
    for (path, text) in &mut own {
        if path == side.handler.0 {
            side.handler.1.clone_into(text);
        }
        if path == "plugin.toml" {
            *text =
                text.replace("crm = []", "crm = [\"client.*\", \"deal.list\"]").replace("http = []", "http = [\"*\"]");
        }
    }
    let file = folder.join(format!("dist/spoken-{}.wasm", side.name));
    let stamp = folder.join("dist/inputs");
    let inputs = own.iter().map(|(path, text)| format!("{path}\n{text}\n")).collect::<String>();
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&inputs) || !file.exists() {
        put(&folder, &own);
        let language = foreign::recognise(&folder).unwrap();
        assert_eq!(foreign::build(&folder, language).map_err(|error| error.to_string()).unwrap(), file);
        std::fs::write(stamp, inputs).unwrap();
    }
    Some(file)
}

/// The files of the scaffold.
fn scaffolded(side: &Side) -> Vec<(String, String)> {
    let parent = tempfile::tempdir().unwrap();
    let wanted = Wanted {
        name: format!("spoken-{}", side.name).try_into().unwrap(),
        events: ["client.add", "test.*"].map(|event| event.to_owned().try_into().unwrap()).to_vec(),
        folder: parent.path().join("plugin"),
        language: side.language,
        sdk: Sdk::Copy,
    };
    let written = scaffold::scaffold(&wanted).unwrap().files;
    let read = |path: String| (path.clone(), std::fs::read_to_string(wanted.folder.join(path)).unwrap());
    written.into_iter().map(read).collect()
}

fn put(folder: &Path, files: &[(String, String)]) {
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// The scaffold's own tests and the helper's, as the README says to run them.
fn passes(folder: &Path, side: &Side) {
    let output = Command::new(side.native[0]).args(&side.native[1..]).current_dir(folder).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(side.passed), "{said}");
}

async fn host(crm: &StandIn, side: &Side, file: &Path) -> (Host, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("spoken-{}", side.name);
    std::fs::copy(file, folder.path().join(format!("{name}.wasm"))).unwrap();
    let outside = format!("http://{}", crm.address());
    let mut setup = Setup::new().unwrap().crm(crm).plugins(folder.path());
    setup.dev = false;
    let more = format!(
        "[retry]\nfirst_ms = 1\nlongest_ms = 2\nattempts = 2\n\
         [plugins.{name}.settings]\ngreeting = \"Hello\"\nurl = \"{outside}\"\n\
         [plugins.{name}.grants]\ncrm = [\"client.*\"]\nhttp = [\"{outside}\"]\nhttp_private = [\"{outside}\"]\nstate = true"
    );
    (setup.more(&more).start().await.unwrap(), folder)
}

/// What an event's one delivery came to: state, reason, and each attempt's outcome, code, lines and calls.
async fn delivered(host: &Host, body: &str) -> Value {
    let id = host.accepted(body).await.unwrap();
    let path = host.settled(&id).await.unwrap();
    assert_eq!(path["deliveries"].as_array().map(Vec::len), Some(1), "{path}");
    let delivery = &path["deliveries"][0];
    let attempts = delivery["attempts"].as_array().unwrap().iter().map(|attempt| {
        let texts = |list: &str, text: &dyn Fn(&Value) -> String| {
            attempt[list].as_array().unwrap().iter().map(text).collect::<Vec<_>>()
        };
        let line = |line: &Value| format!("{}: {}", line["level"].as_str().unwrap(), line["text"].as_str().unwrap());
        let call = |call: &Value| call["call"].as_str().unwrap().to_owned();
        json!({
            "outcome": attempt["outcome"], "code": attempt["code"], "lines": texts("lines", &line), "calls": texts("calls", &call),
        })
    });
    json!({ "state": delivery["state"], "reason": delivery["reason"], "attempts": attempts.collect::<Vec<_>>() })
}

/// An attempt without a line or a call.
fn quiet(outcome: &str) -> Value {
    json!({ "outcome": outcome, "code": null, "lines": [], "calls": [] })
}

async fn works(side: &Side, host: &Host, crm: &StandIn) {
    let everything = delivered(host, "event=client.add&clid=1&way=everything").await;
    let expected = json!({
        "state": "done", "reason": null,
        "attempts": [{
            "outcome": "done", "code": null,
            "lines": [
                "info: Hello Ромашка, ООО, number 2", "debug: Ромашка, ООО, none, client.7", "warn: phone",
                "error: 200 true true", "info: refused 404",
            ],
            // An update reads the record first.
            "calls": [
                "crm client.info", "state read (no such key)", "state read (no such key)", "state keys",
                "crm client.info", "crm client.update", format!("http POST http://{}", crm.address()),
                "crm client.info",
            ],
        }],
    });
    assert_eq!(everything, expected, "{}", side.name);
    assert_eq!(crm.client(1).unwrap().text("phone"), "+74950000000");
    assert_eq!(
        crm.messages().iter().map(|message| message.body.clone()).collect::<Vec<_>>(),
        [json!({ "text": "Привет" })]
    );

    let facts = delivered(host, "event=client.add&clid=2&way=facts&word=слово&iduser1=2").await;
    assert_eq!(facts["attempts"][0]["lines"], json!(["info: client.add main form 2 client 1 слово true"]));
    let facts = delivered(host, "event=test.none&way=facts&word=w").await;
    let nobody = if side.name == "js" { "null" } else { "None" };
    assert_eq!(facts["attempts"][0]["lines"], json!([format!("info: test.none main form {nobody} none 1 w true")]));
}

async fn replies(side: &Side, host: &Host) {
    let no_grant = "`deal.list` is not granted by the administrator";
    for (way, state, reason, attempts) in [
        ("skip", "skipped", "nothing new", vec![quiet("skipped")]),
        ("retry", "dead", "not yet", vec![quiet("retry"); 2]),
        ("reject", "dead", "no such thing", vec![quiet("rejected")]),
    ] {
        let delivery = delivered(host, &format!("event=test.reply&way={way}")).await;
        assert_eq!(delivery, json!({ "state": state, "reason": reason, "attempts": attempts }), "{}", side.name);
    }
    for (way, outcomes, reason) in
        [("refused", vec!["rejected"], "the CRM refused with code 404: "), ("ungranted", vec!["retry"; 2], no_grant)]
    {
        let delivery = delivered(host, &format!("event=test.reply&way={way}")).await;
        let attempts = delivery["attempts"].as_array().unwrap();
        assert_eq!(attempts.iter().map(|attempt| &attempt["outcome"]).collect::<Vec<_>>(), outcomes, "{delivery}");
        assert!(delivery["reason"].as_str().unwrap().contains(reason), "{delivery}");
    }
}

async fn failures(side: &Side, host: &Host) {
    for (way, told, place) in [("throw", side.told, side.place), ("deep", side.too_deep, side.handler.0)] {
        let delivery = delivered(host, &format!("event=test.fails&way={way}")).await;
        assert_eq!(
            (&delivery["state"], delivery["attempts"].as_array().unwrap().len()),
            (&json!("dead"), 2),
            "{delivery}"
        );
        for attempt in delivery["attempts"].as_array().unwrap() {
            assert_eq!(
                (&attempt["outcome"], &attempt["code"]),
                (&json!("failed"), &json!("plugin.trap")),
                "{delivery}"
            );
            assert_eq!(attempt["lines"].as_array().map(Vec::len), Some(1), "{delivery}");
            let line = attempt["lines"][0].as_str().unwrap();
            assert!(line.starts_with(&format!("error: {told}")) && line.contains(place), "{line}");
        }
    }
    // The next one is not touched by it.
    let well = delivered(host, "event=test.reply&way=skip&after=all").await;
    assert_eq!(well["state"], "skipped");
}

async fn check(side: &Side) {
    let Some(file) = built(side) else { return };
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let (host, _folder) = host(&crm, side, &file).await;
    works(side, &host, &crm).await;
    replies(side, &host).await;
    failures(side, &host).await;
}

#[tokio::test]
async fn a_plugin_in_javascript_reads_writes_replies_and_tells_its_exceptions() {
    check(&JS).await;
}

#[tokio::test]
async fn a_plugin_in_python_reads_writes_replies_and_tells_its_exceptions() {
    check(&PYTHON).await;
}
