//! Files that the host and its commands write over: whoever reads one sees the old contents or the new, also after a loss of
//! power, and whoever could read it before still can.
//!
//! - A file that is replaced keeps its owner, its group and its mode. A file that is new belongs to the owner of its folder: a
//!   command run by root must not lock the service out of its own files.
//! - What can't be kept is refused before anything is changed.
//! - A symbolic link stays one: what it leads to is replaced.
//! - What others wrote is read only where it is a regular file of a size that makes sense ([`read`]).
//!
//! Not here: the journal, whose file is SQLite's; compiled plugins, which are made anew when they are lost.

pub mod medium;
pub mod private;

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use std::sync::{Mutex, PoisonError};

use rustix::fs::{Gid, OFlags, Uid};

/// Two threads of this process would use the same name beside a file.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Who may read a file that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Those who may enter its folder.
    Folder,
    /// Those who may enter its folder by its group; nobody else.
    Group,
    /// Its owner alone. A mode that was changed by hand is kept, except that others never get in.
    Owner,
}

/// Reads a regular file of at most so many bytes. Nothing is waited for: a pipe or a device may never end, and does things
/// when it is opened.
///
/// # Errors
/// As reading a file has them. What is larger has an error of the kind [`ErrorKind::FileTooLarge`], and is not read.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let looked_at = |metadata: &Metadata| {
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file: put one in its place"));
        }
        if metadata.len() > most { Err(too_large(most)) } else { Ok(()) }
    };
    looked_at(&std::fs::metadata(path)?)?;
    // Another may have been put in its place since.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    looked_at(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    // It grew meanwhile, or told no length.
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) { Ok(bytes) } else { Err(too_large(most)) }
}

/// Whether the same may go well later, with nothing changed by an administrator: another process, a disk, the network, the machine's
/// own bounds were in the way.
pub fn may_pass(error: &Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::IO, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::AGAIN, Errno::ADDRINUSE];
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::StaleNetworkFileHandle,
        ErrorKind::ResourceBusy,
        ErrorKind::TimedOut,
    ];
    kinds.contains(&error.kind()) || Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

fn too_large(most: u64) -> Error {
    let words = format!(
        "it has more than {most} bytes, and no such file is that large: put the one that is meant in its place"
    );
    Error::new(ErrorKind::FileTooLarge, words)
}

/// Puts a path into JSON. A name that is no UTF-8 is told as far as it is one: it must not keep the rest from being told.
///
/// # Errors
/// Those of the serializer.
pub fn told<P: AsRef<Path>, S: serde::Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}

/// Writes a file in one step.
///
/// # Errors
/// What was there stays: the folder can't be written, or the file belongs to somebody who could not read it afterwards.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // A link is followed, also one whose file is not there yet.
    let path = &followed(path)?;
    let folder = folder_of(path);
    let rights = Rights::of(path, folder, readers)?;
    let beside = beside(path);
    // One that a crash left behind.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write(&beside, bytes, &rights).and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        // What failed is told; a rest of it that can't be removed changes nothing.
        std::fs::remove_file(&beside).ok();
        return Err(error);
    }
    keep_names(folder)
}

/// Returns when the names in a folder are on disk: what was made, renamed or removed stays so after a loss of power.
///
/// # Errors
/// The disk failed.
pub fn keep_names(folder: &Path) -> Result<(), Error> {
    // Some file systems can't do that, and need not.
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied) => Err(error),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it, for these readers; the new ones belong to the owner of the folder that they are in.
///
/// # Errors
/// When one can't be made.
pub fn make_folder(path: &Path, readers: Readers) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder_of(path);
    make_folder(above, readers)?;
    let mode = if readers == Readers::Owner { 0o700 } else { 0o777 };
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    let owner = std::fs::metadata(above)?;
    if is_root() && owner.uid() != 0 {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    keep_names(above)
}

/// Who a file belongs to and who may read it.
struct Rights {
    /// Owner and group, where they are not those that a new file has by itself.
    owner: Option<(Uid, Gid)>,
    mode: u32,
}

impl Rights {
    fn of(path: &Path, folder: &Path, readers: Readers) -> Result<Self, Error> {
        match std::fs::metadata(path) {
            Ok(old) if !old.is_file() => Err(Error::new(ErrorKind::InvalidInput, "it is no file")),
            Ok(old) => Ok(Self::kept(&old, readers)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::fresh(&std::fs::metadata(folder)?, readers)),
            Err(error) => Err(error),
        }
    }

    fn kept(old: &Metadata, readers: Readers) -> Self {
        let mode = old.mode() & 0o777;
        let mode = if readers == Readers::Folder { mode } else { mode & 0o770 | 0o600 };
        Self { owner: Some((Uid::from_raw(old.uid()), Gid::from_raw(old.gid()))), mode }
    }

    /// Whoever may enter the folder may read the file, where it is not its owner's alone.
    fn fresh(folder: &Metadata, readers: Readers) -> Self {
        let classes = match readers {
            Readers::Folder => (folder.mode() & 0o011) << 2,
            Readers::Group => (folder.mode() & 0o010) << 2,
            Readers::Owner => 0,
        };
        let owner = is_root().then(|| (Uid::from_raw(folder.uid()), Gid::from_raw(folder.gid())));
        Self { owner, mode: 0o600 | classes }
    }

    /// Gives a file these rights. Where its group can't be kept, another gets no more than everybody: whoever may write the
    /// folder is not kept from it by a group that is not theirs.
    fn give(&self, file: &File) -> Result<(), Error> {
        let mut mode = self.mode;
        if let Some((owner, group)) = self.owner {
            let now = file.metadata()?;
            let is = (now.uid(), now.gid());
            if is != (owner.as_raw(), group.as_raw()) && rustix::fs::fchown(file, Some(owner), Some(group)).is_err() {
                let group_kept = rustix::fs::fchown(file, None, Some(group)).is_ok();
                self.do_without(now.uid(), owner, group_kept)?;
                if !group_kept {
                    mode = mode & !0o070 | (mode & 0o007) << 3;
                }
            }
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }

    /// Only root gives files away. Root reads everything, others read by the group or as everybody; else the file's owner
    /// would be locked out.
    fn do_without(&self, now: u32, owner: Uid, group_kept: bool) -> Result<(), Error> {
        if now == owner.as_raw() || owner.is_root() || self.mode & 0o004 != 0 || group_kept && self.mode & 0o040 != 0 {
            return Ok(());
        }
        let words = format!(
            "it belongs to user {}, who could not read it any more: do this as that user, or as root",
            owner.as_raw()
        );
        Err(Error::new(ErrorKind::PermissionDenied, words))
    }
}

fn write(path: &Path, bytes: &[u8], rights: &Rights) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    rights.give(&file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn followed(path: &Path) -> Result<PathBuf, Error> {
    match std::fs::canonicalize(path) {
        Ok(whole) => Ok(whole),
        Err(error) if error.kind() == ErrorKind::NotFound => match std::fs::read_link(path) {
            Ok(to) => Ok(folder_of(path).join(to)),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(error),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Removes what was being written beside a file when its writer was cut off. Only whoever knows that nobody writes it now may.
pub fn remove_unfinished(path: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    let entries = std::fs::read_dir(folder_of(path)).into_iter().flatten().flatten();
    for entry in entries {
        let found = entry.file_name();
        let number = found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".new"));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            // What can't be removed takes some bytes and does no harm.
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// A name that no other process uses, and that is none of a plugin's or a configuration's.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!("{name}.{}.new", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_or_is_too_large_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("link")).unwrap();
        for endless in [path("pipe"), path("link"), PathBuf::from("/dev/zero"), folder.path().to_owned()] {
            let error = read(&endless, 1 << 10).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{}: {error}", endless.display());
        }
        File::create(path("large")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path("large"), 1 << 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
        std::fs::write(path("all"), "1234").unwrap();
        assert_eq!(read(&path("all"), 4).unwrap(), b"1234");
        assert_eq!(read(&path("all"), 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // It says that it has no bytes.
        assert_eq!(read(Path::new("/proc/self/maps"), 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    fn rights(path: &Path) -> (u32, u32, u32) {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
    }

    fn set(path: &Path, owner: u32, group: u32, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        if is_root() {
            std::os::unix::fs::chown(path, Some(owner), Some(group)).unwrap();
        }
    }

    /// Whom a test can give files to.
    fn others() -> (u32, u32) {
        if is_root() {
            (1_234, 4_321)
        } else {
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        }
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_owner_and_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, group) = others();
        for (name, mode) in [("a", 0o600), ("b", 0o640), ("c", 0o664), ("d", 0o444)] {
            let path = folder.path().join(name);
            std::fs::write(&path, "old").unwrap();
            set(&path, owner, group, mode);
            replace(&path, b"new", Readers::Folder).unwrap();
            assert_eq!(
                (rights(&path), std::fs::read(&path).unwrap()),
                ((owner, group, mode), b"new".to_vec()),
                "{name}"
            );
        }
        let private = folder.path().join("token");
        std::fs::write(&private, "old").unwrap();
        set(&private, owner, group, 0o644);
        replace(&private, b"new", Readers::Owner).unwrap();
        assert_eq!(rights(&private), (owner, group, 0o640), "others are kept out of what is private");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5, "nothing is left beside them");
    }

    #[test]
    fn a_new_file_can_be_read_by_those_who_may_enter_its_folder_and_belongs_to_its_owner() {
        let (owner, group) = others();
        for (of_folder, readers, expected) in [
            (0o750, Readers::Folder, 0o640),
            (0o755, Readers::Folder, 0o644),
            (0o700, Readers::Folder, 0o600),
            (0o711, Readers::Folder, 0o644),
            (0o755, Readers::Owner, 0o600),
            (0o755, Readers::Group, 0o640),
        ] {
            let folder = tempfile::tempdir().unwrap();
            set(folder.path(), owner, group, of_folder);
            let path = folder.path().join("grants.toml");
            replace(&path, b"new", readers).unwrap();
            assert_eq!(rights(&path), (owner, group, expected), "{of_folder:o} {readers:?}");
            let inner = folder.path().join("plugins/versions");
            make_folder(&inner, readers).unwrap();
            assert_eq!((rights(&inner).0, rights(&inner).1), (owner, group));
            assert_eq!(rights(&inner).2 & 0o077 == 0, readers == Readers::Owner);
        }
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_no_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, odd] = ["real", "link", "odd"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("real", &link).unwrap();
        for contents in ["first", "second"] {
            replace(&link, contents.as_bytes(), Readers::Folder).unwrap();
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(std::fs::read_to_string(&real).unwrap(), contents);
        }
        std::fs::create_dir(&odd).unwrap();
        assert!(replace(&odd, b"x", Readers::Folder).is_err() && odd.is_dir());
        assert!(replace(&folder.path().join("nowhere/file"), b"x", Readers::Folder).is_err());
        // What a crash left behind is in nobody's way.
        std::fs::write(beside(&real), "half").unwrap();
        replace(&real, b"third", Readers::Folder).unwrap();
        assert_eq!((std::fs::read_to_string(&real).unwrap().as_str(), beside(&real).exists()), ("third", false));
    }
}
