//! A file system whose power can be cut: ext4 on a file, mounted through a loop device.
//!
//! It is mounted in a mount namespace of its own, that of the thread which makes it and of what that
//! starts afterwards. A namespace that another program makes meanwhile, which is a copy of its own,
//! would else have the mount too, and keep it when it is unmounted here. When the last process of the
//! namespace ends, however it ends, nothing is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::replay::scratch;
use super::trace::compile;

/// Room for a few generations of a small database, and for the 64 MiB that a compaction wants to leave
/// free beside its copy; the file is sparse.
const DISK_BYTES: u64 = 256 << 20;

/// The file system. It is unmounted and gone when this is dropped.
#[derive(Debug)]
pub struct Disk {
    place: TempDir,
    cut_power: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes one and mounts it, for this thread and what it starts from here on.
    ///
    /// # Errors
    /// Why that cannot be done on this machine.
    pub fn new() -> Result<Disk, String> {
        if !geteuid().is_root() {
            return Err("only root may mount a file system".to_owned());
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("no mount namespace: {e}"))?;
        done(Command::new("mount").args(["--make-rprivate", "/"]))?;
        let cut_power = compile("cut_power.c", &[]);
        let mut disk = Disk { place: scratch(), cut_power, mounted: false };
        let image = File::create(disk.image()).and_then(|file| file.set_len(DISK_BYTES));
        image.map_err(|e| format!("{}: {e}", disk.image().display()))?;
        fs::create_dir(disk.path()).map_err(|e| format!("{}: {e}", disk.path().display()))?;
        done(Command::new("mkfs.ext4").args(["-q", "-F", "-J", "size=4"]).arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.place.path().join("mounted")
    }

    fn mount(&mut self) -> Result<(), String> {
        done(
            Command::new("mount")
                .args(["-t", "ext4", "-o", "loop"])
                .arg(self.image())
                .arg(self.path()),
        )?;
        self.mounted = true;
        Ok(())
    }

    /// From now on nothing reaches it, and every call fails.
    ///
    /// # Panics
    /// With what the system says.
    pub fn cut_power(&self) {
        done(Command::new(&self.cut_power).arg(self.path())).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The power comes back. Nobody has a file open on it.
    ///
    /// # Panics
    /// With what the system says.
    pub fn restore_power(&mut self) {
        done(Command::new("umount").arg(self.path())).unwrap_or_else(|e| panic!("{e}"));
        self.mounted = false;
        self.mount().unwrap_or_else(|e| panic!("{e}"));
    }

    /// A directory on it, made anew, in the place of `instead_of`, which may not be there.
    ///
    /// # Panics
    /// With what the system says.
    pub fn fresh_dir(&self, name: &str, instead_of: &Path) -> PathBuf {
        let _ = fs::remove_dir_all(instead_of);
        let dir = self.path().join(name);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        dir
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Also under processes that still use it, which a failed test may have left for a moment.
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let Output { status, stderr, .. } = command.output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}: {said}")) }
}
