//! `forget`: a record is shown, asked about and forgotten; the proof of it as a document for people.
//!
//! The document names the record by its number, and holds no other personal data.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::ensure;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::remote::At;
use super::table::{Table, list, printable, text, time};

#[derive(clap::Args, Debug)]
pub(super) struct Forget {
    /// The record, such as `client:123`.
    #[arg(long, value_name = "KIND:ID", required_unless_present_any = ["list", "proof"])]
    entity: Option<String>,
    /// Of which CRM: the name of a `[crm.NAME]` section.
    #[arg(long, value_name = "NAME", default_value = "main")]
    account: String,
    /// Events of other records that name it go too, calls that name it are blanked, and what plugins keep is deleted where it
    /// names it.
    #[arg(long)]
    mentions: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Show what was forgotten, and whether all of it is gone.
    #[arg(long, conflicts_with_all = ["entity", "proof"])]
    list: bool,
    /// Print one proof again, by its number.
    #[arg(long, value_name = "NUMBER", conflicts_with = "entity")]
    proof: Option<u64>,
    /// The document's language; by default the environment's (`LC_ALL`, `LC_MESSAGES`, `LANG`).
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<Language>,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    En,
    Ru,
}

impl Language {
    fn of_environment() -> Self {
        let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().find_map(set).unwrap_or_default();
        if locale.starts_with("ru") { Self::Ru } else { Self::En }
    }
}

pub(super) fn run(args: &Forget) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    let language = args.language.unwrap_or_else(Language::of_environment);
    if args.list {
        let page = remote.list("forgotten", &[], None, usize::MAX)?;
        if args.json {
            outln!("{page:#}");
        } else {
            print_list(&page);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(number) = args.proof {
        let proof = remote.get(&format!("forgotten/{number}"))?;
        if args.json {
            outln!("{proof:#}");
        } else {
            out!("{}", document(&proof, language));
        }
        return Ok(if is_erased(&proof) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let entity = args.entity.as_deref().unwrap_or_default();
    if !args.yes {
        let part =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let path = format!("forget/{}/{}", part(&args.account), part(entity));
        let meant = remote.ask(&path, &[("mentions", Some(args.mentions.to_string()))])?;
        let others =
            if args.mentions { format!(", and {} of other records", text(&meant, "others")) } else { String::new() };
        let what = format!(
            "{} of {}{others} would be deleted, with all that became of them, and what plugins keep of it:",
            counted(&text(&meant, "events"), "event"),
            printable(entity)
        );
        let line = |event: &Value| format!("{} {}", time(event, "received_at"), printable(&text(event, "name")));
        let first: Vec<String> = list(&meant, "first").map(line).collect();
        if !super::confirm::agreed(&what, &first, false)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let body = json!({ "account": args.account, "entity": entity, "mentions": args.mentions });
    let forgot = remote.post("forget", &body)?;
    let proof = forgot.get("proof").cloned().unwrap_or_default();
    ensure!(proof.is_object(), "the host is of an older version, which gives no proof");
    let erased = is_erased(&proof);
    if args.json {
        outln!("{forgot:#}");
    } else {
        outln!("{}: {} forgotten.", printable(entity), counted(&text(&forgot, "forgotten"), "thing"));
        if forgot.get("held_up") == Some(&Value::Bool(true)) {
            outln!("Somebody reads the journal's file: copies in it are overwritten as soon as that ends.");
        }
        if !erased {
            let number = text(&proof, "number");
            outln!(
                "It is not finished, and goes on by itself, after a restart as well: `forget --proof {number}` tells."
            );
        }
        out!("\n{}", document(&proof, language));
    }
    Ok(if erased { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// So many of something.
fn counted(number: &str, what: &str) -> String {
    format!("{number} {what}{}", if number == "1" { "" } else { "s" })
}

fn is_erased(proof: &Value) -> bool {
    proof.get("erased_at").is_some_and(Value::is_i64)
}

fn print_list(page: &Value) {
    let mut table = Table::new(&["number", "time", "who", "CRM", "record", "erased"]);
    for proof in list(page, "items") {
        let [number, who, account, entity] = ["number", "who", "account", "entity"].map(|key| text(proof, key));
        let erased = if is_erased(proof) { time(proof, "erased_at") } else { "not yet".to_owned() };
        table.row([number, time(proof, "at"), who, account, entity, erased]);
    }
    table.print("Nothing was forgotten yet.");
}

/// What was counted, in both languages.
const COUNTED: [(&str, &str, &str); 9] = [
    ("events", "events deleted", "удалено событий"),
    ("deliveries", "their deliveries to plugins deleted", "удалено их доставок плагинам"),
    ("attempts", "attempts deleted, with their logs", "удалено попыток вместе с журналами"),
    ("calls", "requests and answers deleted", "удалено запросов и ответов"),
    ("writes", "records of changes in the CRM deleted", "удалено записей об изменениях в CRM"),
    ("state", "values kept by plugins deleted", "удалено значений, хранимых плагинами"),
    ("blanked", "requests and answers about other records emptied", "очищено запросов и ответов о других записях"),
    ("lists", "entries of watched lists emptied", "очищено строк опрашиваемых списков"),
    ("log", "lines of the operators' log emptied", "очищено строк журнала операторов"),
];

/// The proof as a document.
fn document(proof: &Value, language: Language) -> String {
    let russian = language == Language::Ru;
    let of = |english: &'static str, other: &'static str| if russian { other } else { english };
    let [number, who, account, entity, version] =
        ["number", "who", "account", "entity", "version"].map(|key| printable(&text(proof, key)));
    let when = |key: &str| {
        if proof.get(key).is_some_and(Value::is_i64) {
            time(proof, key)
        } else {
            of("not yet", "ещё нет").to_owned()
        }
    };
    let mentions = proof.get("mentions") == Some(&Value::Bool(true));
    let scope = if mentions {
        of("the record, and what names it", "запись и всё, где она упомянута")
    } else {
        of("the record", "запись")
    };
    let mut lines = vec![
        (of("Record", "Запись"), format!("{entity} ({} {account})", of("CRM", "CRM"))),
        (of("Scope", "Объём"), scope.to_owned()),
        (of("Ordered", "Поручено"), time(proof, "at")),
        (of("By", "Кем"), who),
        (of("Deleted", "Удалено"), when("deleted_at")),
        (of("Erased from the files", "Стёрто из файлов"), when("erased_at")),
        (of("Program", "Программа"), format!("SalesMan Plugin Host {version}")),
    ];
    let counted = COUNTED.iter().filter_map(|(key, english, other)| {
        let count = proof.get("counts")?.get(*key)?.as_u64().filter(|count| *count > 0)?;
        Some((if russian { *other } else { *english }, count.to_string()))
    });
    lines.extend(counted);
    let left = text(proof, "left");
    if left != "0" {
        lines.push((of("events not deleted yet", "ещё не удалено событий"), left));
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut document = format!("{} № {number}\n\n", of("PROOF OF DELETION", "АКТ ОБ УДАЛЕНИИ ДАННЫХ"));
    for (name, value) in lines {
        let space = " ".repeat(width - name.chars().count());
        // Writing to memory does not fail.
        writeln!(document, "  {name}{space}  {value}").unwrap_or_default();
    }
    let end = of(
        "This is what the host kept of the record. Copies of its data folder, the host's log and what plugins sent to other\nprograms are not in its hands, nor is the record in the CRM.",
        "Речь о том, что о записи хранил хост. Копии его папки данных, его системный журнал и отправленное плагинами в другие\nпрограммы ему неподвластны, как и сама запись в CRM.",
    );
    document.push('\n');
    document.push_str(end);
    document.push('\n');
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_says_the_same_in_both_languages_and_when_it_is_not_finished() {
        let mut proof = json!({
            "number": 3, "at": 0, "who": "anna", "account": "main", "entity": "client:7\u{1b}[1A", "mentions": true,
            "version": "1.0.0", "counts": { "events": 2, "calls": 0, "state": 1 }, "left": 0, "walks": 1,
            "deleted_at": 0, "erased_at": null,
        });
        for (language, parts) in [
            (Language::En, ["PROOF OF DELETION № 3", "not yet", "and what names it"]),
            (Language::Ru, ["АКТ ОБ УДАЛЕНИИ ДАННЫХ № 3", "ещё нет", "где она упомянута"]),
        ] {
            let said = document(&proof, language);
            assert!(parts.iter().all(|part| said.contains(part)) && !said.contains('\u{1b}'), "{said}");
            assert_eq!(
                said.lines().filter(|line| line.starts_with("  ")).count(),
                9,
                "what is none is not told: {said}"
            );
        }
        proof["erased_at"] = 0.into();
        proof["left"] = 2.into();
        let said = document(&proof, Language::En);
        assert!(!said.contains("not yet\n") && said.contains("events not deleted yet"), "{said}");
    }
}
