//! A new plugin's folder.

mod foreign;
mod js;
mod python;

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// JavaScript, by componentize-js.
    Js,
    /// Python, by componentize-py.
    Python,
}

/// The files of a new plugin: path in its folder, contents.
pub fn files(language: Language, name: &str, events: &[String]) -> Vec<(String, String)> {
    match language {
        Language::Js => js::files(name, events),
        Language::Python => python::files(name, events),
    }
}
