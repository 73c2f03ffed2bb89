//! What a plugin asks to be allowed, in words for whoever decides about it.
//!
//! - Reading, adding, changing and deleting are told apart by the call's name. A name that nobody knows counts as a change.
//! - The manifest's own line stands behind the words, because that is what is granted.

use crate::crm;
use crate::plugin::{Kind, Permissions};

/// The CRM's methods, and what they are about.
const RECORDS: [(&str, &str); 17] = [
    ("akt", "acts"),
    ("budget", "the budget"),
    ("calls", "phone calls"),
    ("client", "clients"),
    ("currency", "currencies"),
    ("deal", "deals"),
    ("document", "documents"),
    ("entry", "requests"),
    ("guides", "reference lists"),
    ("history", "activities"),
    ("lead", "leads"),
    ("metrika", "statistics"),
    ("person", "contacts"),
    ("price", "the price list"),
    ("statistic", "statistics"),
    ("task", "tasks"),
    ("user", "employees"),
];

/// One sentence's worth for each thing that is asked; empty where nothing is.
pub fn in_words(asked: &Permissions) -> Vec<String> {
    let calls = asked.crm.iter().map(|pattern| call_in_words(pattern.as_str()));
    let requests = asked.http.iter().map(|origin| match origin.as_str() {
        "*" => "send requests to an address that you choose (`*`)".to_owned(),
        origin => format!("send requests to {origin}"),
    });
    let state = asked.state.then(|| "keep its own state".to_owned());
    calls.chain(requests).chain(state).chain(asked.limits.set().map(limit_in_words)).collect()
}

fn limit_in_words((kind, limit): (Kind, u64)) -> String {
    format!("use up to {limit} {} instead of {} (`{} = {limit}`)", kind.words, kind.default, kind.key)
}

fn call_in_words(call: &str) -> String {
    let Some((method, action)) = call.split_once('.') else {
        return if call == "*" { "every call of the CRM (`*`)".to_owned() } else { format!("call `{call}`") };
    };
    let (what, action) = match action.strip_prefix("invoice.") {
        Some(rest) if method == "deal" => ("invoices".to_owned(), rest),
        _ => (records(method), action),
    };
    if action.ends_with('*') {
        return format!("every call about {what}, deleting included (`{call}`)");
    }
    match verb(action) {
        "send" => format!("send {what} by mail (`{call}`)"),
        verb => format!("{verb} {what} (`{call}`)"),
    }
}

fn records(method: &str) -> String {
    let known = RECORDS.iter().find(|(name, _)| *name == method);
    known.map_or_else(|| format!("`{method}`"), |(_, what)| (*what).to_owned())
}

fn verb(action: &str) -> &'static str {
    if crm::is_read(action) {
        return "read";
    }
    match action {
        "add" | "add.list" | "addlist" | "express" => "add",
        "delete" | "remove" => "delete",
        "mail" => "send",
        action if action.ends_with(".add") => "add",
        action if action.ends_with(".delete") => "delete",
        _ => "change",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{LimitsPatch, Pattern};

    #[test]
    fn a_call_that_deletes_or_changes_is_not_shown_as_one_that_reads() {
        let calls = [
            ("deal.list", "read deals (`deal.list`)"),
            ("task.add", "add tasks (`task.add`)"),
            ("client.add.list", "add clients (`client.add.list`)"),
            ("person.update", "change contacts (`person.update`)"),
            ("deal.change.step", "change deals (`deal.change.step`)"),
            ("client.delete", "delete clients (`client.delete`)"),
            ("price.category.delete", "delete the price list (`price.category.delete`)"),
            ("deal.invoice.add", "add invoices (`deal.invoice.add`)"),
            ("deal.invoice.info", "read invoices (`deal.invoice.info`)"),
            ("deal.invoice.mail", "send invoices by mail (`deal.invoice.mail`)"),
            ("thing.unheard", "change `thing` (`thing.unheard`)"),
            ("task.*", "every call about tasks, deleting included (`task.*`)"),
            ("*", "every call of the CRM (`*`)"),
        ];
        for (call, expected) in calls {
            assert_eq!(call_in_words(call), expected);
        }
    }

    #[test]
    fn nothing_that_is_asked_is_left_out() {
        let asked = Permissions {
            crm: vec![Pattern::try_from("lead.list".to_owned()).unwrap()],
            http: vec!["https://chat.example.com".to_owned(), "*".to_owned()],
            state: true,
            limits: LimitsPatch { memory_mib: Some(256), ..LimitsPatch::default() },
        };
        let expected = [
            "read leads (`lead.list`)",
            "send requests to https://chat.example.com",
            "send requests to an address that you choose (`*`)",
            "keep its own state",
            "use up to 256 MiB of memory instead of 64 (`memory_mib = 256`)",
        ];
        assert_eq!(in_words(&asked), expected);
        assert_eq!(in_words(&Permissions::default()), Vec::<String>::new());
    }
}
