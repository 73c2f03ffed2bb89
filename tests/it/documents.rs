//! What the documents tell people to type exists: commands and flags of the host, of `cargo xtask`, of the PHP file. And the
//! tests exist that hold what is promised.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory as _};
use salesman_host::cli::Cli;

/// The documents that people type from.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "README.ru.md",
    "SECURITY.md",
    "plugin-sdk/README.md",
    "plugin-sdk/js/README.md",
    "plugin-sdk/python/README.md",
    "host/ARCHITECTURE.md",
];

/// What is set as code: the lines of blocks, and the spans between backticks, each without its comment.
fn code(document: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            pieces.push(line.split(" # ").next().unwrap().trim().to_owned());
        } else {
            pieces.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    pieces
}

/// The flags that a command takes, those of all its parents' that reach it included.
fn flags(command: &Command) -> BTreeSet<String> {
    let long = command.get_arguments().filter_map(|argument| argument.get_long());
    long.chain(["help", "version"]).map(|name| format!("--{name}")).collect()
}

/// Every flag of a command and of all below it.
fn all_flags(command: &Command) -> BTreeSet<String> {
    command.get_subcommands().flat_map(all_flags).chain(flags(command)).collect()
}

/// The words of a command line, up to where the shell goes on with something else.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().take_while(|word| !matches!(*word, "|" | ">" | ">>" | "&&" | ";" | "#" | "…")).collect()
}

/// Walks the words down the tree of commands; `retry|drop` stands for both.
fn walk(command: &Command, words: &[&str]) -> Result<(), String> {
    let Some((first, rest)) = words.split_first() else { return Ok(()) };
    let first = first.trim_matches([',', '.', ':', '[', ']', '(', ')']);
    if let Some(flag) = first.strip_prefix("--") {
        let flag = format!("--{}", flag.split('=').next().unwrap());
        let alternatives: Vec<&str> = flag.split('|').collect();
        for name in &alternatives {
            let name = format!("--{}", name.trim_start_matches("--"));
            if !flags(command).contains(&name) {
                return Err(format!("`{}` takes no `{name}`", command.get_name()));
            }
        }
        return walk(command, rest);
    }
    if !command.has_subcommands() {
        return walk(command, rest);
    }
    for name in first.split('|') {
        match command.find_subcommand(name) {
            Some(next) => walk(next, rest)?,
            None => return Err(format!("`{}` has no `{name}`", command.get_name())),
        }
    }
    Ok(())
}

/// What is wrong with one piece of code.
fn wrong(piece: &str, host: &Command, tool: &str, elsewhere: &BTreeSet<String>) -> Option<String> {
    if let Some((before, line)) = piece.split_once("salesman-host ") {
        // An argument of another command, or a user of the same name, is no command line.
        let typed = matches!(before.trim(), "" | "sudo") || before.starts_with("ExecStart=");
        return typed.then(|| walk(host, &words(line)).err()).flatten();
    }
    if let Some((_, line)) = piece.split_once("cargo xtask ") {
        let unknown = |word: &&&str| word.chars().next().is_some_and(|c| c == '-' || c.is_ascii_lowercase());
        let missing = words(line).iter().filter(unknown).flat_map(|word| word.split('|')).find_map(|word| {
            let known = tool.split(|c: char| c.is_whitespace() || "[],:()".contains(c)).any(|known| known == word);
            (!known).then(|| format!("`cargo xtask` knows no `{word}`"))
        });
        return missing;
    }
    let mut typed = piece.split_whitespace();
    let (first, second) = (typed.next()?, typed.next());
    // A key of the configuration, or a room, may have a command's name.
    if second.is_some_and(|word| !matches!(word, "=" | "→")) && host.find_subcommand(first).is_some() {
        return walk(host, &words(piece)).err();
    }
    (first.starts_with("--") && first.len() > 2)
        .then(|| first.split('=').next().unwrap_or(first))
        .filter(|flag| !elsewhere.contains(*flag))
        .map(|flag| format!("nothing takes `{flag}`"))
}

#[test]
fn no_document_names_a_command_or_a_flag_that_does_not_exist() {
    let root = xtask::root();
    let host = Cli::command();
    let flags_in = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
    };
    let php = std::fs::read_to_string(root.join("host/src/events_php/events.php")).unwrap();
    let mut elsewhere = all_flags(&host);
    elsewhere.extend(flags_in(&php));
    elsewhere.extend(flags_in(xtask::USAGE));
    // What `cargo build` itself takes.
    elsewhere.extend(["--release", "--target"].map(str::to_owned));
    let mut found = Vec::new();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        found.extend(code(&text).iter().filter_map(|piece| {
            wrong(piece, &host, xtask::USAGE, &elsewhere).map(|what| format!("{document}: {piece}: {what}"))
        }));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_command_that_does_not_exist_is_found_out() {
    let host = Cli::command();
    let elsewhere = all_flags(&host);
    for piece in [
        "salesman-host plugin destroy notify",
        "sudo salesman-host serve --fast",
        "dead retry|burn --plugin notify",
        "event list --colour red",
        "cargo xtask polish",
        "cargo xtask demo --twice",
        "--colour",
    ] {
        assert!(wrong(piece, &host, xtask::USAGE, &elsewhere).is_some(), "{piece}");
    }
    for piece in [
        "salesman-host serve --config host.toml",
        "salesman-host dead retry|drop --plugin notify",
        "cargo xtask demo --once",
        "plugin rollback NAME",
        "--json",
        "event",
        "useradd --system salesman-host",
    ] {
        assert_eq!(wrong(piece, &host, xtask::USAGE, &elsewhere), None, "{piece}");
    }
}

/// The sources of a folder, as one text.
fn sources(folder: &std::path::Path) -> String {
    let files = crate::files_below(folder);
    let rust = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_line_of_the_threat_model_names_tests_that_exist() {
    let root = xtask::root();
    let document = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let sources = sources(&root.join("host/src")) + &sources(&root.join("tests/it"));
    let lines: Vec<&str> = document.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(lines.len() > 10, "the table is not there");
    let mut missing = Vec::new();
    for line in lines {
        let tests: Vec<&str> =
            line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap().split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            missing.push(line.to_owned());
        }
        missing.extend(
            tests.iter().filter(|test| !sources.contains(&format!("fn {test}("))).map(|test| (*test).to_owned()),
        );
    }
    assert_eq!(missing, Vec::<String>::new());
}
