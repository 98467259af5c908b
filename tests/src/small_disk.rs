//! A node's data on a small file system of its own, which a test can fill.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Node;
use crate::skipped;

/// Puts a node's data there from its next start on, in a mount namespace of its own. False, with the
/// reason printed, where that cannot be done.
pub fn put(node: &mut Node, mebibytes: u32) -> bool {
    let probe = ["-rm", "sh", "-c", "mount -t tmpfs none /mnt"];
    let unshare = Command::new("unshare").args(probe).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        skipped("a file system of its own cannot be mounted here");
        return false;
    }
    let mount = format!("mount -t tmpfs -o size={mebibytes}m none \"$0\" && exec \"$@\"");
    let data = node.data_dir();
    std::fs::create_dir(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    node.wrap(["unshare", "-rm", "sh", "-c", &mount, &data.display().to_string()]);
    true
}

/// Where a test finds the data of such a node, while it runs.
pub fn seen_from_here(node: &Node) -> PathBuf {
    let namespace = Path::new("/proc").join(node.pid().to_string()).join("root");
    let data = node.data_dir();
    namespace.join(data.strip_prefix("/").unwrap_or(&data))
}

/// Takes all the room there is; removing the file gives it back.
pub fn fill(path: &Path) {
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let piece = [0; 4096];
    let full = std::iter::repeat_with(|| file.write_all(&piece)).find_map(Result::err);
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::StorageFull));
}
