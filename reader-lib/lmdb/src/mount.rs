//! On what kind of file system an environment lies.
//!
//! LMDB's reader table and mutexes are memory that processes share through a file. A network file
//! system gives every machine memory of its own under the same name: a writer there would reuse
//! pages that readers here still look at.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{FsType, statfs};

/// `f_type` of the file systems whose maps are not shared between machines (`linux/magic.h`, and
/// `statfs(2)` for those that are not in it).
const REMOTE: [(i64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0102_1997, "9P"),
];

/// The name of the remote file system that `path` is on; `None` for a local one.
pub(crate) fn remote_kind(path: &Path) -> Result<Option<&'static str>, Errno> {
    Ok(name_of(statfs(path)?.filesystem_type()))
}

fn name_of(FsType(found): FsType) -> Option<&'static str> {
    // The type's width differs between architectures; the magic numbers have 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "the type is i64 on some architectures only")]
    let found = found as i64 & 0xffff_ffff;
    REMOTE.iter().find(|(magic, _)| *magic == found).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_file_systems_are_told_from_local_ones() {
        assert_eq!(name_of(FsType(0x6969)), Some("NFS"));
        assert_eq!(name_of(nix::sys::statfs::NFS_SUPER_MAGIC), Some("NFS"));
        assert_eq!(name_of(nix::sys::statfs::EXT4_SUPER_MAGIC), None);
        assert_eq!(name_of(nix::sys::statfs::TMPFS_MAGIC), None);
        // As a 32-bit system would report CIFS.
        assert_eq!(name_of(FsType(0xff53_4d42_u32 as i32 as _)), Some("CIFS"));
        assert_eq!(remote_kind("/proc".as_ref()), Ok(None));
    }
}
