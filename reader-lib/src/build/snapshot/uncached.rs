//! A file that is written from its beginning to its end, past the page cache.
//!
//! ```text
//! append ──▶ piece being filled ──▶ full pieces ──▶ thread: O_DIRECT ──▶ disk
//!                  │ flush                                 │
//!                  ▼                                       ▼
//!          the usual way, until it is full          empty pieces, back
//! ```
//!
//! A snapshot that is fetched is read by nobody soon. In the page cache it would cost a new page and
//! a copy for every 4 kB, several times the processor's time of handing the disk an aligned buffer,
//! and push out pages that are read. Where a file system cannot do that, the file is written the
//! usual way.
//!
//! Invariants:
//! * after [`flush`](UncachedFile::flush) everybody who reads the file finds all that was appended;
//! * at any time they find all but the last [`UNWRITTEN_MAX_BYTES`] of it, and of what is appended
//!   slowly all of it: what has come over a thin line in an hour is not lost with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc::{EINVAL, O_DIRECT};

/// Of buffers and of places in the file: what every disk and file system is content with.
const ALIGNMENT: usize = 4096;
/// So much is handed to the disk at a time.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces that there are: one is filled, one is being written, one waits.
const PIECES: usize = 3;
/// What was appended last, and may not be in the file yet.
pub(super) const UNWRITTEN_MAX_BYTES: usize = PIECES * PIECE_BYTES;
/// A piece that takes longer to fill is slow.
const SLOW: Duration = Duration::from_secs(1);

/// An aligned buffer, and where its bytes belong.
#[derive(Debug)]
struct Piece {
    memory: Vec<u8>,
    begin: usize,
    bytes: usize,
    at: u64,
}

impl Piece {
    fn new() -> Self {
        let memory = vec![0; PIECE_BYTES + ALIGNMENT];
        // It fails for no pointer to bytes; the usual way is there for one that is not aligned.
        let begin = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Piece { memory, begin, bytes: 0, at: 0 }
    }

    fn filled(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.bytes]
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin + self.bytes..self.begin + PIECE_BYTES]
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct UncachedFile {
    file: Arc<File>,
    piece: Piece,
    /// Since when a piece is being filled, or everything is in the file.
    since: Instant,
    /// Pieces that were handed to the thread and are not back.
    away: usize,
    full: Option<Sender<Piece>>,
    empty: Receiver<io::Result<Piece>>,
    thread: Option<JoinHandle<()>>,
}

impl UncachedFile {
    /// Goes on after the first `bytes` of a file that is opened for reading and writing, and cuts off
    /// what follows.
    pub(super) fn after(path: &Path, file: File, bytes: u64) -> io::Result<Self> {
        let direct = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(path).ok();
        Self::with(file, direct, bytes)
    }

    fn with(file: File, direct: Option<File>, bytes: u64) -> io::Result<Self> {
        file.set_len(bytes)?;
        let mut piece = Piece::new();
        piece.at = bytes - bytes % ALIGNMENT as u64;
        piece.bytes = (bytes % ALIGNMENT as u64) as usize;
        let (begin, end) = (piece.begin, piece.begin + piece.bytes);
        file.read_exact_at(&mut piece.memory[begin..end], piece.at)?;
        let file = Arc::new(file);
        let (full, pieces) = channel();
        let (back, empty) = channel();
        let usual = file.clone();
        let write = move || write_pieces(&pieces, &back, direct, &usual);
        let thread = thread::Builder::new().name("qs-uncached".to_owned()).spawn(write)?;
        let (full, thread) = (Some(full), Some(thread));
        Ok(UncachedFile { file, piece, since: Instant::now(), away: 0, full, empty, thread })
    }

    /// Appends. Waits for the disk when it is too far behind.
    ///
    /// # Errors
    /// What the system says, also of what was appended before; nothing can be appended any more then.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.piece.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.piece.bytes += now.len();
            bytes = later;
            if self.piece.bytes == PIECE_BYTES {
                self.hand_over()?;
            }
        }
        if self.since.elapsed() >= SLOW { self.flush() } else { Ok(()) }
    }

    /// Has everything in the file. More may be appended after it.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.away > 0 {
            self.take_back()?;
        }
        self.since = Instant::now();
        self.file.write_all_at(self.piece.filled(), self.piece.at)
    }

    /// Gives a full piece away, for an empty one.
    fn hand_over(&mut self) -> io::Result<()> {
        let at = self.piece.at + PIECE_BYTES as u64;
        let mut next = if self.away + 1 < PIECES { Piece::new() } else { self.take_back()? };
        (next.at, next.bytes) = (at, 0);
        self.since = Instant::now();
        let piece = std::mem::replace(&mut self.piece, next);
        let handed = self.full.as_ref().is_some_and(|full| full.send(piece).is_ok());
        self.away += 1;
        if handed { Ok(()) } else { Err(self.take_back().err().unwrap_or_else(gone)) }
    }

    fn take_back(&mut self) -> io::Result<Piece> {
        let piece = self.empty.recv().unwrap_or_else(|_| Err(gone()))?;
        self.away -= 1;
        Ok(piece)
    }
}

impl Drop for UncachedFile {
    fn drop(&mut self) {
        self.full = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until nobody hands over any more, or something fails.
fn write_pieces(
    pieces: &Receiver<Piece>,
    back: &Sender<io::Result<Piece>>,
    mut direct: Option<File>,
    usual: &File,
) {
    for piece in pieces {
        let written = write(&mut direct, usual, &piece);
        let failed = written.is_err();
        if back.send(written.map(|()| piece)).is_err() || failed {
            return;
        }
    }
}

fn write(direct: &mut Option<File>, usual: &File, piece: &Piece) -> io::Result<()> {
    if let Some(file) = direct {
        match file.write_all_at(piece.filled(), piece.at) {
            // It wants another alignment, or cannot do it at all.
            Err(e) if e.raw_os_error() == Some(EINVAL) => *direct = None,
            other => return other,
        }
    }
    usual.write_all_at(piece.filled(), piece.at)
}

fn gone() -> io::Error {
    io::Error::other("writing has failed before")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn usual(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    /// What happens to the file after so many bytes were appended.
    #[derive(Debug, Clone)]
    enum Then {
        Nothing,
        Flush,
        /// Its process is killed, and of what is there only this share is right.
        Kill(f64),
    }

    fn then() -> impl Strategy<Value = Then> {
        prop_oneof![
            3 => Just(Then::Nothing),
            1 => Just(Then::Flush),
            1 => (0.0..=1.0).prop_map(Then::Kill),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// However it is appended to, flushed and taken up again, it has what was appended: past the
        /// page cache, and where a file system cannot do that.
        #[test]
        fn what_was_appended_is_in_the_file(
            steps in prop::collection::vec((0_usize..3 << 20, then()), 1..12),
            can in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let open = |bytes| match can {
                true => UncachedFile::after(&path, usual(&path), bytes).unwrap(),
                false => UncachedFile::with(usual(&path), None, bytes).unwrap(),
            };
            let (mut file, mut expected) = (open(0), Vec::new());
            for (n, (bytes, then)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..bytes).map(|at| (at * 31 + n) as u8).collect();
                file.append(&bytes).unwrap();
                expected.extend_from_slice(&bytes);
                match then {
                    Then::Nothing => {}
                    Then::Flush => {
                        file.flush().unwrap();
                        prop_assert!(std::fs::read(&path).unwrap() == expected);
                    }
                    Then::Kill(share) => {
                        drop(file);
                        let here = std::fs::metadata(&path).unwrap().len() as usize;
                        prop_assert!(here + UNWRITTEN_MAX_BYTES >= expected.len());
                        prop_assert!(here <= expected.len());
                        expected.truncate((here as f64 * share) as usize);
                        file = open(expected.len() as u64);
                    }
                }
            }
            file.flush().unwrap();
            prop_assert!(std::fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn what_is_appended_slowly_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = UncachedFile::after(&path, usual(&path), 0).unwrap();
        file.append(b"one").unwrap();
        // As if it had taken so long.
        file.since -= SLOW;
        file.append(b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
    }

    #[test]
    fn a_failure_is_told_and_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let usual = usual(&dir.path().join("file"));
        let mut file = UncachedFile::with(usual, Some(full), 0).unwrap();
        let piece = vec![1; PIECE_BYTES];
        let told = (0..2 * PIECES).find_map(|_| file.append(&piece).err());
        assert_eq!(told.unwrap().raw_os_error(), Some(nix::libc::ENOSPC));
        assert!((0..2 * PIECES).any(|_| file.append(&piece).is_err()));
        assert!(file.flush().is_err());
    }
}
