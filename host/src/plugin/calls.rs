//! The calls of the CRM's REST API by name, so that a slip of the pen in a grant is noticed.
//!
//! What the program itself has, version 2 and 3 (measured, and read in its source), refused ones left out. A CRM may know
//! more than this list: what is not in it is told, and works.

use super::Pattern;
use super::near::similar;

/// Method, and its actions.
const CALLS: &[(&str, &[&str])] = &[
    (
        "akt",
        &["add", "delete", "html", "info", "list", "mail", "pdf", "status.change", "statuses", "templates", "update"],
    ),
    (
        "budget",
        &[
            "add",
            "addCategory",
            "category.list",
            "delete",
            "deleteCategory",
            "doit",
            "editCategory",
            "fields",
            "info",
            "list",
            "move",
            "undoit",
            "unmove",
            "update",
        ],
    ),
    ("calls", &["add", "addlist", "list"]),
    ("client", &["add", "add.list", "change.user", "delete", "fields", "info", "list", "update"]),
    ("currency", &["add", "delete", "history", "info", "list", "update"]),
    (
        "deal",
        &[
            "add",
            "change.close",
            "change.freeze",
            "change.step",
            "change.user",
            "close",
            "delete",
            "direction",
            "fields",
            "funnel",
            "info",
            "invoice.add",
            "invoice.do",
            "invoice.express",
            "invoice.html",
            "invoice.info",
            "invoice.mail",
            "invoice.pdf",
            "invoice.templates",
            "list",
            "statusclose",
            "steplist",
            "type",
            "update",
        ],
    ),
    ("document", &["add", "delete", "info", "list", "mail", "status.change", "statuses", "tips", "update"]),
    ("entry", &["info", "list", "status"]),
    (
        "guides",
        &[
            "category",
            "clientpath",
            "company.bank",
            "company.list",
            "company.listfull",
            "company.signers",
            "relations",
            "territory",
        ],
    ),
    ("history", &["add", "add.list", "delete", "fields", "info", "list", "tips"]),
    ("invoice", &["add", "do", "express", "html", "info", "list", "mail", "pdf", "templates"]),
    ("lead", &["add", "info", "list", "stat"]),
    ("metrika", &["clients", "dealsClose", "dealsNew", "invoices", "list", "payments"]),
    ("person", &["add", "add.list", "delete", "fields", "info", "list", "update"]),
    (
        "price",
        &[
            "add",
            "category.add",
            "category.delete",
            "category.list",
            "category.update",
            "delete",
            "fields",
            "info",
            "list",
            "update",
        ],
    ),
    ("statistic", &["clients", "dealsClose", "dealsNew", "invoices", "list", "payments"]),
    ("task", &["add", "delete", "doit", "fields", "history", "info", "list", "tips", "update"]),
    ("user", &["add", "info", "list", "user", "user.add", "user.list"]),
];

/// Nothing where a pattern means a known call; else those that it may have been meant for.
pub fn unknown(pattern: &Pattern) -> Option<Vec<String>> {
    let known: Vec<String> = CALLS
        .iter()
        .flat_map(|(method, actions)| actions.iter().map(move |action| format!("{method}.{action}")))
        .collect();
    if known.iter().any(|call| pattern.matches(call)) {
        return None;
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Some(similar(pattern.as_str(), &known).into_iter().map(|name| format!("`{name}`")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_told_from_a_call() {
        let told = |text: &str| unknown(&Pattern::try_from(text.to_owned()).unwrap());
        for known in ["deal.list", "deal.*", "*", "deal.change.*", "deal.invoice.do", "guides.company.list"] {
            assert_eq!(told(known), None, "{known}");
        }
        assert_eq!(told("deal.lst"), Some(vec!["`deal.list`".to_owned()]));
        assert_eq!(told("deals.*"), Some(vec!["`deal.*`".to_owned()]));
        assert_eq!(told("weather.today"), Some(Vec::new()));
    }
}
