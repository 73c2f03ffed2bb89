//! Folders and files that are the host's alone: nobody else reads them, changes them, or holds a lock on them.
//!
//! - **From the beginning**: a folder is made with mode 0700 and a file with 0600, whatever the umask says. There is no moment
//!   in which somebody else could open one.
//! - What is there already is closed, where it belongs to the host's user. What belongs to somebody else, or is a link, may
//!   have been put there to be used: it is refused, and the error says what to do.
//! - Of a folder only the entries that the host names are its own: a disk's `lost+found` is nobody's fault.
//!
//! Not here: what was opened before it was closed stays open to whoever holds it.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{folder_of, make_folder};

/// Everybody but the owner.
const OTHERS: u32 = 0o077;

/// Why something can't be the host's alone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It leads elsewhere.
    #[error(
        "`{0}` is a symbolic link, and whoever made it decides where it leads: name what it leads to, or remove it"
    )]
    Link(PathBuf),
    /// It is somebody else's.
    #[error(
        "`{path}` belongs to user {owner}, and this runs as user {own}: `chown -R {own}` it, or run this as user {owner}"
    )]
    Foreign {
        /// What.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// It is a device, a pipe, a folder in place of a file.
    #[error("`{path}` is no {wanted}: remove it")]
    Kind {
        /// What.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// Others write to it through another name.
    #[error("`{0}` has another name elsewhere (a hard link): copy it, and put the copy in its place")]
    Linked(PathBuf),
    /// Programs of the whole machine use it.
    #[error("`{0}` is a folder of the system's: name a folder of its own, such as `/var/lib/salesman-host`")]
    Shared(PathBuf),
    /// What is in it is not the host's.
    #[error("`{folder}` holds `{found}` and nothing of the host's: name a folder of its own, empty or new")]
    Used {
        /// Which folder.
        folder: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The rights were taken and had no effect.
    #[error("`{0}` stays open to others: its file system knows no rights; mount it with `umask=077`, or use another")]
    Open(PathBuf),
    /// The system refused.
    #[error("`{path}`: {cause}")]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl Error {
    /// Whether the same may go well later, with nothing changed by an administrator.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::System { cause, .. } if super::may_pass(cause))
    }
}

fn system(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    |cause| Error::System { path: path.to_owned(), cause }
}

/// The system's own folders: whoever closes one closes the machine.
const SYSTEM: [&str; 20] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/opt",
    "/root",
    "/run",
    "/sbin",
    "/tmp",
    "/usr",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// Whether a folder may become, or is, the host's alone: it is not there, or empty, or holds one of `marks`, by which the
/// host knows its own. Nothing is changed.
///
/// # Errors
/// [`Error`]: it must not be used, and stays as it is.
pub fn fit(folder: &Path, marks: &[&str]) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(system(folder))?,
    };
    if metadata.is_symlink() {
        return Err(Error::Link(folder.to_owned()));
    }
    if !metadata.is_dir() {
        return Err(Error::Kind { path: folder.to_owned(), wanted: "folder" });
    }
    let whole = std::fs::canonicalize(folder).map_err(system(folder))?;
    let of_system =
        SYSTEM.iter().any(|own| whole == Path::new(own)) || whole.starts_with("/proc") || whole.starts_with("/sys");
    if of_system {
        return Err(Error::Shared(folder.to_owned()));
    }
    // A folder in which everybody may make files has what everybody put there; an empty one is a disk that was just mounted.
    let shared = metadata.mode() & 0o1002 == 0o1002;
    if !shared && marks.iter().any(|mark| std::fs::symlink_metadata(folder.join(mark)).is_ok()) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(system(folder))? {
        let name = entry.map_err(system(folder))?.file_name();
        // A disk's own, and what is left of a start that was cut short.
        if name == "lost+found" || name == ".write-test" {
            continue;
        }
        return Err(if shared {
            Error::Shared(folder.to_owned())
        } else {
            Error::Used { folder: folder.to_owned(), found: name.to_string_lossy().into_owned() }
        });
    }
    Ok(())
}

/// Makes a folder that is this user's alone, or closes one; with it what is in it under these names, and under those with
/// `-` and more behind. Returns what was open to others until now. Nothing is changed where something must not be used.
///
/// # Errors
/// [`Error`]: it must not be used.
pub fn close(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let own = rustix::process::geteuid().as_raw();
    make(folder)?;
    look(folder, names, own)?;
    let mut closed = Vec::new();
    // By its handle: nobody can put another folder in its place meanwhile. From then on nobody else gets at what is in it.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let handle = match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(folder) {
        Ok(handle) => handle,
        Err(cause) => {
            // Closed to its own user as well: by its path then.
            let metadata = std::fs::symlink_metadata(folder).map_err(system(folder))?;
            looked_at(folder, &metadata, own)?;
            return Err(system(folder)(cause));
        }
    };
    if shut(folder, &handle, own, "folder")? {
        closed.push(folder.to_owned());
    }
    for path in look(folder, names, own)?.into_iter().filter(|path| path != folder) {
        let mode = std::fs::symlink_metadata(&path).map_err(system(&path))?.mode();
        std::fs::set_permissions(&path, Permissions::from_mode(mode & 0o700)).map_err(system(&path))?;
        closed.push(path);
    }
    Ok(closed)
}

/// What of a folder, and of the named things in it, is open to others than `owner`; nothing is changed.
///
/// # Errors
/// [`Error`]: something in it is a link, or somebody else's.
pub fn look(folder: &Path, names: &[&str], owner: u32) -> Result<Vec<PathBuf>, Error> {
    let mut open = Vec::new();
    let metadata = std::fs::symlink_metadata(folder).map_err(system(folder))?;
    looked_at(folder, &metadata, owner)?;
    if metadata.mode() & OTHERS != 0 {
        open.push(folder.to_owned());
    }
    for entry in std::fs::read_dir(folder).map_err(system(folder))? {
        let entry = entry.map_err(system(folder))?;
        let name = entry.file_name();
        let behind = |own: &&str| name.as_encoded_bytes().strip_prefix(own.as_bytes());
        if names.iter().filter_map(behind).any(|rest| rest.is_empty() || rest.starts_with(b"-")) {
            look_below(&entry.path(), owner, &mut open)?;
        }
    }
    Ok(open)
}

fn look_below(path: &Path, owner: u32, open: &mut Vec<PathBuf>) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(path) {
        // The host that runs removes its files as well.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(system(path))?,
    };
    looked_at(path, &metadata, owner)?;
    if metadata.mode() & OTHERS != 0 {
        open.push(path.to_owned());
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(system(path))? {
            look_below(&entry.map_err(system(path))?.path(), owner, open)?;
        }
    }
    Ok(())
}

/// Opens a file of a closed folder for reading and writing, or makes it.
///
/// # Errors
/// [`Error`]: it must not be used.
pub fn open(path: &Path) -> Result<File, Error> {
    let own = rustix::process::geteuid().as_raw();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        looked_at(path, &metadata, own)?;
        // Opening a pipe or a device does something already.
        if !metadata.is_file() {
            return Err(Error::Kind { path: path.to_owned(), wanted: "file" });
        }
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path).map_err(system(path))?;
    shut(path, &file, own, "file")?;
    Ok(file)
}

/// A folder above in which others may rename what is not theirs, and so put another folder in the place of this one.
pub fn replaceable(folder: &Path) -> Option<PathBuf> {
    let whole = std::fs::canonicalize(folder).ok()?;
    let open = |above: &&Path| std::fs::metadata(above).is_ok_and(|metadata| metadata.mode() & 0o1002 == 0o002);
    whole.ancestors().skip(1).find(open).map(Path::to_owned)
}

fn make(folder: &Path) -> Result<(), Error> {
    if std::fs::symlink_metadata(folder).is_ok() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folder(above, super::Readers::Folder).map_err(system(above))?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(system(folder)(error)),
        // All that is stored in it is gone with its name.
        _ => super::keep_names(above).map_err(system(above)),
    }
}

fn looked_at(path: &Path, metadata: &Metadata, own: u32) -> Result<(), Error> {
    let (path, owner) = (path.to_owned(), metadata.uid());
    if metadata.is_symlink() {
        Err(Error::Link(path))
    } else if owner != own {
        Err(Error::Foreign { path, owner, own })
    } else if metadata.is_file() && metadata.nlink() > 1 {
        Err(Error::Linked(path))
    } else {
        Ok(())
    }
}

/// Takes the rights of all others from what is open; tells whether they had some.
fn shut(path: &Path, handle: &File, own: u32, wanted: &'static str) -> Result<bool, Error> {
    let metadata = handle.metadata().map_err(system(path))?;
    looked_at(path, &metadata, own)?;
    if metadata.is_dir() != (wanted == "folder") {
        return Err(Error::Kind { path: path.to_owned(), wanted });
    }
    let rights = if metadata.is_dir() { 0o700 } else { 0o600 };
    if metadata.mode() & 0o777 == rights {
        return Ok(false);
    }
    handle.set_permissions(Permissions::from_mode(rights)).map_err(system(path))?;
    if handle.metadata().map_err(system(path))?.mode() & OTHERS != 0 {
        return Err(Error::Open(path.to_owned()));
    }
    Ok(metadata.mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_open_is_closed_and_what_is_new_is_so_from_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("above/data");
        assert_eq!(close(&data, &["store", "store.d"]).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(mode(&data), 0o700);
        let file = open(&data.join("store")).unwrap();
        assert_eq!((mode(&data.join("store")), file.metadata().unwrap().len()), (0o600, 0));
        // As an earlier version, a copy or a generous umask left it.
        std::fs::create_dir_all(data.join("store.d/inner")).unwrap();
        for (name, rights) in [
            ("store", 0o644),
            ("store-log", 0o666),
            ("other", 0o644),
            ("store.d/inner/a", 0o640),
            ("store.d/run", 0o755),
        ] {
            std::fs::write(data.join(name), "kept").unwrap();
            set(&data.join(name), rights);
        }
        for name in ["store.d", "store.d/inner"] {
            set(&data.join(name), 0o755);
        }
        set(&data, 0o777);
        assert_eq!(close(&data, &["store", "store.d"]).unwrap().len(), 7);
        for (name, rights) in [("", 0o700), ("store", 0o600), ("store-log", 0o600), ("other", 0o644)]
            .into_iter()
            .chain([("store.d", 0o700), ("store.d/inner", 0o700), ("store.d/inner/a", 0o600), ("store.d/run", 0o700)])
        {
            assert_eq!(mode(&data.join(name)), rights, "{name}");
        }
        assert_eq!(std::fs::read_to_string(data.join("store")).unwrap(), "kept");
        assert_eq!(close(&data, &["store", "store.d"]).unwrap(), Vec::<PathBuf>::new(), "there is nothing left to do");
    }

    #[test]
    fn what_somebody_may_have_put_there_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [data, elsewhere, link] = ["data", "elsewhere", "link"].map(|name| folder.path().join(name));
        close(&data, &[]).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        set(&elsewhere, 0o755);
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(matches!(close(&link, &[]), Err(Error::Link(_))));
        // A link in place of a file of the host's would have it written elsewhere.
        std::os::unix::fs::symlink(elsewhere.join("victim"), data.join("host.lock")).unwrap();
        assert!(matches!(open(&data.join("host.lock")), Err(Error::Link(_))));
        assert!(matches!(close(&data, &["host.lock"]), Err(Error::Link(_))));
        assert!(!elsewhere.join("victim").exists() && mode(&elsewhere) == 0o755);
        std::fs::remove_file(data.join("host.lock")).unwrap();
        std::fs::create_dir(data.join("host.lock")).unwrap();
        assert!(matches!(open(&data.join("host.lock")), Err(Error::Kind { wanted: "file", .. })));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(close(&folder.path().join("file"), &[]).is_err());
        if rustix::process::geteuid().is_root() {
            for name in ["", "host.lock"] {
                std::os::unix::fs::chown(data.join(name), Some(1_234), None).unwrap();
                let refused = close(&data, &["host.lock"]).unwrap_err();
                assert!(matches!(refused, Error::Foreign { owner: 1_234, .. }), "{refused}");
                assert_eq!(close(&data, &[]).is_ok(), !name.is_empty(), "what has no name of the host's is left alone");
                std::os::unix::fs::chown(data.join(name), Some(0), None).unwrap();
            }
        }
    }

    #[test]
    fn a_folder_that_others_use_and_a_file_with_another_name_are_refused_and_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert!(fit(&data, &["host.lock"]).is_ok(), "it is not there yet");
        std::fs::create_dir_all(data.join("plugins")).unwrap();
        for name in ["plugins/mine", "plugins.so"] {
            std::fs::write(data.join(name), "").unwrap();
            set(&data.join(name), 0o644);
        }
        set(&data, 0o755);
        assert!(matches!(fit(&data, &["host.lock"]), Err(Error::Used { .. })));
        std::fs::write(data.join("host.lock"), "").unwrap();
        assert!(fit(&data, &["host.lock"]).is_ok());
        // Refused for what is looked at last: nothing was changed before.
        set(&data.join("host.lock"), 0o644);
        std::fs::hard_link(data.join("host.lock"), folder.path().join("planted")).unwrap();
        assert!(matches!(close(&data, &["host.lock"]), Err(Error::Linked(_))));
        assert_eq!((mode(&data), mode(&data.join("host.lock"))), (0o755, 0o644));
        std::fs::remove_file(folder.path().join("planted")).unwrap();
        close(&data, &["host.lock", "plugins"]).unwrap();
        assert_eq!((mode(&data.join("plugins/mine")), mode(&data.join("plugins.so"))), (0o600, 0o644));
        set(&data, 0o1777);
        assert!(matches!(fit(&data, &["host.lock"]), Err(Error::Shared(_))));
        let mounted = folder.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        set(&mounted, 0o1777);
        assert!(fit(&mounted, &[]).is_ok(), "a disk that was just mounted is empty");
        for shared in ["/", "/etc", "/tmp", "/proc/self", "/var/lib/../"] {
            assert!(matches!(fit(Path::new(shared), &["passwd"]), Err(Error::Shared(_) | Error::Link(_))), "{shared}");
        }
    }

    #[test]
    fn a_place_that_others_may_replace_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        close(&data, &[]).unwrap();
        assert_eq!(replaceable(&data), None);
        set(folder.path(), 0o777);
        assert_eq!(replaceable(&data), Some(std::fs::canonicalize(folder.path()).unwrap()));
        // As `/tmp` is.
        set(folder.path(), 0o1777);
        assert_eq!(replaceable(&data), None);
    }
}
