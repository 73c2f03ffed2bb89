//! What has to outlive a loss of power is on disk before it is called by its name, and its name is too.
//!
//! A library that is loaded before the C library writes down what reaches the disk, in order.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::host::Setup;
use integration_tests::php::{Crm, Receiver};
use serde_json::json;

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void tell(const char *what, const char *one, const char *two) {
    const char *trace = getenv("TRACE");
    char line[3 * PATH_MAX];
    int file = trace ? open(trace, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file < 0) return;
    snprintf(line, sizeof line, "%s\t%s\t%s\n", what, one, two);
    if (write(file, line, strlen(line)) < 0) { }
    close(file);
}
static int synced(const char *name, int file) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) < 0) { }
    int done = ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
    if (done == 0) tell("sync", path, "");
    return done;
}
int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }
int rename(const char *from, const char *to) {
    int done = ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
    if (done == 0) tell("rename", from, to);
    return done;
}
"#;

/// The library, where there is a compiler.
fn shim(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    assert!(!crate::faults::able(), "`cc` can't make a library here: install a C compiler, which SQLite needs as well");
    None
}

/// What was written down: the word, one path, another.
fn trace(file: &Path) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let mut parts = line.split('\t').map(str::to_owned);
        [(); 3].map(|()| parts.next().unwrap_or_default())
    };
    text.lines().map(line).collect()
}

/// Where something is in it; `expected` must be there.
fn at(trace: &[[String; 3]], what: &str, fits: impl Fn(&str, &str) -> bool) -> usize {
    let found = trace.iter().position(|[word, one, two]| word == what && fits(one, two));
    assert!(found.is_some(), "no such {what}: {trace:#?}");
    found.unwrap()
}

#[tokio::test]
async fn the_hosts_own_files_are_on_disk_before_they_take_their_names_and_their_folders_afterwards() {
    let apart = tempfile::tempdir().unwrap();
    let Some(library) = shim(apart.path()) else { return };
    let plugins = tempfile::tempdir().unwrap();
    let module = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    let manifest = "name = \"alpha\"\nversion = \"1\"\nevents = [\"test.*\"]\n";
    let named = integration_tests::guest::with_manifest(&module, manifest).unwrap();
    std::fs::write(plugins.path().join("a.wasm"), named).unwrap();
    let file = apart.path().join("trace");
    let setup = Setup::new().unwrap().plugins(plugins.path());
    let setup = setup.environment("LD_PRELOAD", library.to_str().unwrap()).environment("TRACE", file.to_str().unwrap());
    let host = setup.start().await.unwrap();
    let versions = crate::files_below(&host.data().join("plugins/versions"));
    let records = ["live.json", "homes.json"].map(|name| host.data().join("plugins").join(name));
    let trace = trace(&file);
    for path in versions.iter().chain(&records) {
        let path = std::fs::canonicalize(path).unwrap();
        let renamed = at(&trace, "rename", |_, to| Path::new(to) == path);
        let beside = trace[renamed][1].clone();
        let written = at(&trace, "sync", |synced, _| synced == beside);
        let folder = path.parent().unwrap();
        let kept = trace.iter().skip(renamed).position(|[word, one, _]| word == "sync" && Path::new(one) == folder);
        assert!(written < renamed && kept.is_some(), "{}: {trace:#?}", path.display());
        // A folder that is new is known to the one above.
        at(&trace, "sync", |synced, _| Path::new(synced) == folder.parent().unwrap());
    }
}

#[tokio::test]
async fn an_event_of_the_spool_is_on_disk_before_it_joins_the_spool() {
    let Some(php) = crate::php::php() else { return };
    let apart = tempfile::tempdir().unwrap();
    let Some(library) = shim(apart.path()) else { return };
    let mut receiver = Receiver::start().await.unwrap();
    receiver.down().await;
    let crm = Crm::new(&php, &crate::php::file(receiver.url())).unwrap();
    if crm.cron("--status").await.unwrap().1.contains("written to disk: no") {
        eprintln!("SKIPPED: this PHP has no fsync");
        return;
    }
    let events = json!([["client.edit", { "clid": 1 }], ["client.edit", { "clid": 2 }]]);
    let (mut command, _) = crm.command(&events, None).unwrap();
    let file = apart.path().join("trace");
    command.env("LD_PRELOAD", library).env("TRACE", &file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = trace(&file);
    let joined: Vec<usize> =
        (0..trace.len()).filter(|n| trace[*n][0] == "rename" && trace[*n][2].contains("/q/")).collect();
    assert_eq!(joined.len(), 2, "{trace:#?}");
    for renamed in joined {
        let written = at(&trace, "sync", |synced, _| synced == trace[renamed][1]);
        assert!(written < renamed, "{trace:#?}");
    }
}
