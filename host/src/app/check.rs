//! What can be told of a configuration without starting or changing anything: `serve` and `config check` say the same.
//!
//! Not here: what shows only when it is tried, such as an address that is taken (`start`).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{MARKS, OWN_FILES};
use crate::config::Config;
use crate::files::medium::{self, Medium};
use crate::files::private;
use crate::plugin::PluginName;
use crate::plugin::near::similar;
use crate::registry::versions::Versions;
use crate::{crm, registry, sandbox};

/// Files of others that are told one by one.
const MOST_TOLD: usize = 10;

/// What would keep the host from starting, as far as it can be told without changing anything. `config check` says the same.
pub fn problems(config: &Config) -> Vec<String> {
    found(config).into_iter().map(|(problem, _)| problem).collect()
}

/// The same, each with whether it may pass.
pub(super) fn found(config: &Config) -> Vec<(String, bool)> {
    let mut problems = Vec::new();
    problems.extend(data_folder(&config.journal.data_dir));
    // Where plugins served before, the folder may come: its events wait for it.
    let served = Versions::new(&config.registry.store).serving();
    let served = served.map_or_else(|_| config.journal.data_dir.is_dir(), |serving| !serving.is_empty());
    if !config.registry.dir.is_dir() && !served {
        problems.push(format!(
            "the plugin folder `{}` is not there: make it, or set `plugins.dir`",
            config.registry.dir.display()
        ));
    }
    if config.ingress.accounts.is_empty() {
        problems.push(
            "there is no CRM: add a section `[crm.main]` with `token`, `url`, `login` and `api_key`; the output of \
             `config default` holds one behind `#`, to be filled in"
                .to_owned(),
        );
    }
    let lasting = problems.into_iter().map(|problem| (problem, false));
    lasting.chain(crms(config)).collect()
}

/// CRMs whose client can't be set up; whether that may pass: with no certificates of its own it is the machine that refuses.
fn crms(config: &Config) -> Vec<(String, bool)> {
    let wrong = |(account, options): (&String, &crm::Options)| {
        let error = crm::Client::new(options.clone()).err()?;
        Some((format!("`[crm.{account}]` can't be used: {error}"), options.authorities.is_empty()))
    };
    config.crm.iter().filter_map(wrong).collect()
}

/// Why a folder can't be the data folder, as far as it can be told without changing anything.
pub(crate) fn data_folder(data: &Path) -> Option<String> {
    if data.exists() && !data.is_dir() {
        return Some(format!("the data folder `{}` is a file: set `server.data_dir`", data.display()));
    }
    if let Medium::Network(name) = medium::of(data) {
        return Some(format!(
            "the data folder can't be used: `{}` is on a network file system ({name}), where a store is damaged without a word: set \
             `server.data_dir` to a folder on a disk of this machine",
            data.display()
        ));
    }
    // Root may ask for the user that the host will run as.
    let own = rustix::process::geteuid();
    let owner = std::fs::metadata(data).ok().filter(|_| own.is_root()).map_or(own.as_raw(), |metadata| metadata.uid());
    let looked = || private::look(data, &OWN_FILES, owner).map(drop);
    match private::fit(data, &MARKS).and_then(|()| looked()) {
        // What the system refuses shows when it is tried.
        Ok(()) | Err(private::Error::System { .. }) => None,
        Err(error) => Some(format!("the data folder can't be used: {error}; or set `server.data_dir`")),
    }
}

/// What may be wrong with the file system of the data folder.
pub fn medium(data: &Path) -> Option<String> {
    let Medium::Unclear(name) = medium::of(data) else { return None };
    Some(format!(
        "the data folder `{}` is on {name}: where that leads to another machine, or keeps no locks, the store can be damaged; a \
         folder on a disk of this machine is safe (`server.data_dir`)",
        data.display()
    ))
}

/// What is said of plugins that are not there.
pub fn unknown_plugins(config: &registry::Options, known: &BTreeSet<PluginName>) -> Vec<String> {
    let named = config.plugins.keys().map(|name| (name, format!("`[plugins.{name}]`")));
    let granted = config.approved.keys().map(|name| (name, format!("`[{name}]` of `{}`", config.approvals.display())));
    let chosen = config.accounts.iter().flat_map(|(account, plugins)| {
        plugins.iter().map(move |name| (name, format!("`plugins` of `[crm.{account}]`")))
    });
    let words: Vec<&str> = known.iter().map(PluginName::as_str).collect();
    let told = |(name, place): (&PluginName, String)| {
        let near = similar(name.as_str(), &words);
        let hint = if near.is_empty() { String::new() } else { format!(": did you mean `{}`?", near.join("` or `")) };
        format!("{place} is about a plugin `{name}` that is not in `{}`{hint}", config.dir.display())
    };
    named.chain(granted).chain(chosen).filter(|(name, _)| !known.contains(*name)).map(told).collect()
}

/// Who may change what plugins are and may do, besides `owner` and root: `true` for what everybody may, or for grants. The
/// host serves nevertheless.
pub fn changeable(config: &registry::Options, owner: u32) -> Vec<(bool, String)> {
    let mut open = Vec::new();
    let mut look = |path: &Path, closed: u32| {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        let (path, mode, user) = (path.display(), metadata.mode(), metadata.uid());
        if mode & 0o022 != 0 {
            open.push((
                mode & closed != 0,
                format!("others than its owner may change `{path}`, and so what plugins do: `chmod go-w`"),
            ));
        }
        if user != owner && user != 0 {
            let words = "and may change what plugins do: `chown` it to root, or to the host's user";
            open.push((
                closed == 0o022,
                format!("`{path}` belongs to user {user}, who is neither root nor the host's, {words}"),
            ));
        }
    };
    look(&config.approvals, 0o022);
    look(&config.dir, 0o002);
    files_in(&config.dir).for_each(|file| look(&file, 0o002));
    let more = open.len().saturating_sub(MOST_TOLD);
    // What everybody may change comes first.
    open.sort_by_key(|(bad, _)| !bad);
    open.truncate(MOST_TOLD);
    if more > 0 {
        open.push((false, format!("so it is with {more} more in `{}`", config.dir.display())));
    }
    open
}

/// The plugins' files of a folder.
pub(crate) fn files_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}

/// The plugins of the folder, by name; files that are none are left out.
pub fn plugins_in(folder: &Path) -> BTreeSet<PluginName> {
    let name = |path: PathBuf| Some(sandbox::manifest_of(&sandbox::read_file(&path).ok()?)?.name);
    files_in(folder).filter_map(name).collect()
}
