//! What the templates of other languages than Rust share: their gaps are filled here.

use crate::plugin::Pattern;

/// An event for the template's own test, where only families are named.
const ANY_EVENT: &str = "client.add";

/// Templates with their gaps filled. The host's own files have none.
pub(super) fn filled(templates: &[(&str, &str)], name: &str, events: &[Pattern]) -> Vec<(String, String)> {
    let quoted: Vec<String> = events.iter().map(|event| format!("\"{}\"", event.as_str())).collect();
    let event = events.iter().map(Pattern::as_str).find(|event| !event.contains('*')).unwrap_or(ANY_EVENT);
    let fill = |text: &str| {
        text.replace("{{name}}", name).replace("{{events}}", &quoted.join(", ")).replace("{{event}}", event)
    };
    templates.iter().map(|(path, text)| ((*path).to_owned(), fill(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gap_is_left_open_and_the_manifest_is_one() {
        let events = ["client.*", "deal.close"].map(|event| Pattern::try_from(event.to_owned()).unwrap());
        for files in
            [super::super::js::files("first-call", &events), super::super::python::files("first-call", &events)]
        {
            for (path, text) in &files {
                assert!(!text.contains("{{name") && !text.contains("{{event"), "{path}");
            }
            let manifest = &files.iter().find(|(path, _)| path == "plugin.toml").unwrap().1;
            let manifest = crate::plugin::Manifest::parse(manifest.as_bytes()).unwrap();
            assert_eq!(manifest.name.as_str(), "first-call");
            assert_eq!(manifest.events, events);
        }
    }
}
