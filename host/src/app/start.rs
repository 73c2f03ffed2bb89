//! What is looked at before anything starts: folders, accounts, addresses. All problems are told together.
//!
//! - An address that the machine does not have yet (at boot, before the network is up) is waited for, for a minute.
//! - What may be gone at the next try is told from what somebody has to change: the one is worth starting again, the other is not.

use std::io::{Error, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{NotStarted, check, passing, wrong};
use crate::clock::Clock;
use crate::config::{Config, Problems};
use crate::files::{may_pass, private};
use crate::journal::{self, Journal};
use crate::telemetry;

/// How long an address is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Where the host listens.
pub(super) struct Doorsteps {
    pub(super) intake: TcpListener,
    /// None: the console is where events come in, or there is none.
    pub(super) console: Option<TcpListener>,
}

/// Everything that can be checked before anything starts.
pub(super) async fn checked(config: &Config) -> Result<Doorsteps, NotStarted> {
    let mut found = Found::default();
    let data = &config.journal.data_dir;
    // Nothing of a folder that must not be used is changed: it is among the problems below.
    if check::data_folder(data).is_none() {
        found.closed(data);
    }
    for (problem, passes) in check::found(config) {
        found.add(problem, passes);
    }
    // Whoever has to change something anyway need not wait.
    let until = Instant::now() + if found.problems.is_empty() { PATIENCE } else { Duration::ZERO };
    let intake = found.listening(&config.listen, "server.listen", until).await;
    let own = config.console.as_ref().and_then(|console| console.listen.as_ref());
    let console = match own {
        Some(address) => found.listening(address, "console.listen", until).await,
        None => None,
    };
    match intake {
        Some(intake) if found.problems.is_empty() => Ok(Doorsteps { intake, console }),
        _ => Err(NotStarted { problems: Problems(found.problems), may_pass: !found.lasting }),
    }
}

/// What is wrong, and whether any of it lasts.
#[derive(Default)]
struct Found {
    problems: Vec<String>,
    lasting: bool,
}

impl Found {
    fn add(&mut self, problem: String, may_pass: bool) {
        self.problems.push(problem);
        self.lasting |= !may_pass;
    }

    fn closed(&mut self, data: &Path) {
        match closed(data) {
            Ok(closed) => telemetry::closed_to_others(&closed),
            Err(error) => {
                let passes = error.may_pass();
                self.add(format!("the data folder can't be used: {error}; or set `server.data_dir`"), passes);
            }
        }
        if let Some(above) = private::replaceable(data) {
            telemetry::replaceable(data, &above);
        }
    }

    async fn listening(&mut self, address: &str, key: &str, until: Instant) -> Option<TcpListener> {
        let mut told = false;
        loop {
            match bound(address) {
                Ok(listener) => return Some(listener),
                Err(error) if is_not_there(&error) && Instant::now() < until => {
                    if !std::mem::replace(&mut told, true) {
                        telemetry::address_not_there(address, PATIENCE);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    let words = format!("`{address}` can't be listened on: {error}; set `{key}`");
                    self.add(words, is_not_there(&error) || may_pass(&error));
                    return None;
                }
            }
        }
    }
}

fn bound(address: &str) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// An address that the machine does not have, or a name that nobody can resolve yet.
fn is_not_there(error: &Error) -> bool {
    let unresolved = error.raw_os_error().is_none() && error.kind() != ErrorKind::InvalidInput;
    unresolved || matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::NetworkDown)
}

/// Opens the journal, which may take long, beside what is answered meanwhile.
pub(super) async fn opened(options: &journal::Options, clock: &Clock) -> Result<Journal, NotStarted> {
    let (options, clock) = (journal::Options { told: telemetry::migrating, ..options.clone() }, clock.clone());
    let opened = tokio::task::spawn_blocking(move || Journal::open(&options, clock)).await;
    let journal = opened.map_err(|error| passing(&error))?;
    journal.map_err(|error| if error.may_pass() { passing(&error) } else { wrong(&error) })
}

/// What the host keeps in its data folder.
pub(crate) const OWN_FILES: [&str; 8] =
    ["journal.sqlite", "store.json", "host.lock", "console.token", "console.address", "plugins", PROBE, journal::ASIDE];
/// By which of them it knows a folder for its own: nobody else's `plugins` looks like this.
pub(crate) const MARKS: [&str; 7] = [
    "journal.sqlite",
    "host.lock",
    "plugins/versions",
    "plugins/compiled",
    // Commands may have been here before the first start.
    "plugins/homes.json",
    "plugins/live.json",
    "plugins/pins.json",
];
const PROBE: &str = ".write-test";

/// Closes the data folder to others, and tries whether it can be written; tells what others could see until now.
fn closed(folder: &Path) -> Result<Vec<PathBuf>, private::Error> {
    let closed = private::close(folder, &OWN_FILES)?;
    let probe = folder.join(PROBE);
    drop(private::open(&probe)?);
    std::fs::remove_file(&probe).map_err(|cause| private::Error::System { path: probe, cause })?;
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_somebody_has_to_change() {
        use rustix::io::Errno;
        let passes = |errno: Errno| may_pass(&Error::from_raw_os_error(errno.raw_os_error()));
        for errno in [Errno::ADDRINUSE, Errno::NOSPC, Errno::ROFS, Errno::IO, Errno::DQUOT, Errno::MFILE, Errno::NOMEM]
        {
            assert!(passes(errno), "{errno:?}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::NOTDIR, Errno::NOENT, Errno::NAMETOOLONG] {
            assert!(!passes(errno), "{errno:?}");
        }
        for (address, there) in [("192.0.2.1:1", false), ("no.such.host.invalid:1", false)] {
            assert_eq!(bound(address).is_err_and(|error| is_not_there(&error)), !there, "{address}");
        }
        for wrong in ["nonsense", "127.0.0.1", "127.0.0.1:99999", "[::1]"] {
            assert!(bound(wrong).is_err_and(|error| !is_not_there(&error) && !may_pass(&error)), "{wrong}");
        }
    }
}
