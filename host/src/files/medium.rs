//! What a folder lies on: a disk of this machine, or another machine's.
//!
//! SQLite's log is shared by memory, and its locks are those of the system: on a network file system neither holds, and a store is
//! damaged without a word. Who only passes files on (FUSE, 9p) may hold them, or not.

use std::path::Path;

/// What a folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// This machine's own.
    Local,
    /// Another machine's, by this file system.
    Network(&'static str),
    /// It can't be told what is behind this one.
    Unclear(&'static str),
}

/// The file system of a folder, or of the nearest one above that is there. What can't be asked counts as local.
pub fn of(folder: &Path) -> Medium {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    // The number has 32 bits; what the system makes of it differs between machines.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the lower 32 bits are the number")]
    rustix::fs::statfs(there).map_or(Medium::Local, |system| of_kind(system.f_type as u32))
}

/// By the number that Linux gives a file system (`man 2 statfs`).
fn of_kind(kind: u32) -> Medium {
    match kind {
        0x0000_6969 => Medium::Network("NFS"),
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => Medium::Network("SMB"),
        0x0000_564c => Medium::Network("NCP"),
        0x5346_414f | 0x6b41_4653 => Medium::Network("AFS"),
        0x7375_7245 => Medium::Network("Coda"),
        0x00c3_6400 => Medium::Network("Ceph"),
        0x0bd0_0bd0 => Medium::Network("Lustre"),
        0x0116_1970 => Medium::Network("GFS2"),
        0x7461_636f => Medium::Network("OCFS2"),
        0x4750_4653 => Medium::Network("GPFS"),
        0x1983_0326 => Medium::Network("BeeGFS"),
        0x2003_0528 => Medium::Network("OrangeFS"),
        0xaad7_aaea => Medium::Network("PanFS"),
        0x6573_5546 => Medium::Unclear("FUSE"),
        0x0102_1997 => Medium::Unclear("9p"),
        0x786f_4256 => Medium::Unclear("VirtualBox's shared folders"),
        0xbacb_acbc => Medium::Unclear("VMware's shared folders"),
        _ => Medium::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_another_machine_is_told_from_what_may_and_from_what_does_not() {
        assert_eq!(of_kind(0x6969), Medium::Network("NFS"));
        // CIFS has its highest bit set, and some systems extend that.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as in `of`")]
        let extended = i64::from(0xff53_4d42_u32.cast_signed()) as u32;
        assert_eq!(of_kind(extended), Medium::Network("SMB"));
        assert_eq!(of_kind(0x6573_5546), Medium::Unclear("FUSE"));
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs.
        for own in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e] {
            assert_eq!(of_kind(own), Medium::Local, "{own:x}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of(&folder.path().join("not/there/yet")), of(folder.path()));
    }
}
