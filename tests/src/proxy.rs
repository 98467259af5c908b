//! A bad network between two nodes: a Unix socket whose bytes go to another one, or do not.
//!
//! Invariant: what it does to a connection is decided per piece of bytes, so that a change of
//! [`Weather`] counts at once, also for connections that live.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often a stalled direction looks whether it may go on.
const STALL_LOOK: Duration = Duration::from_millis(5);
/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 4096;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They arrive.
    Fair,
    /// Those from the upstream arrive when the weather changes; the others arrive.
    Silent,
    /// One bit of one piece in so many is flipped.
    Flips {
        /// Pieces.
        one_in: u32,
    },
    /// The connection ends within one piece in so many.
    Cuts {
        /// Pieces.
        one_in: u32,
    },
}

/// A proxy in front of one socket.
#[derive(Debug)]
pub struct Proxy {
    path: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: PathBuf,
    weather: Mutex<Weather>,
    rng: Mutex<StdRng>,
    closing: AtomicBool,
    faults: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromUpstream,
    ToUpstream,
}

impl Proxy {
    /// Listens at `path` and connects to `upstream`, in fair weather.
    pub fn start(path: &Path, upstream: &Path, seed: u64) -> Proxy {
        let listener =
            UnixListener::bind(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            weather: Mutex::new(Weather::Fair),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            closing: AtomicBool::new(false),
            faults: AtomicU64::new(0),
        });
        let for_thread = shared.clone();
        let accepting = std::thread::spawn(move || accept(&listener, &for_thread));
        Proxy { path: path.to_owned(), shared, accepting: Some(accepting) }
    }

    /// As the configuration of a follower has it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Changes the weather, for living connections too.
    pub fn set_weather(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Bits flipped and connections cut so far.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = UnixStream::connect(&self.path);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while let Ok((downstream, _)) = listener.accept() {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        // Without an upstream the follower finds its connection closed.
        let Ok(upstream) = UnixStream::connect(&shared.upstream) else { continue };
        let ends = (downstream.try_clone(), upstream.try_clone());
        let (Ok(to_downstream), Ok(to_upstream)) = ends else { continue };
        for (from, to, direction) in [
            (upstream, to_downstream, Direction::FromUpstream),
            (downstream, to_upstream, Direction::ToUpstream),
        ] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                shared.carry(&from, &to, direction);
                // The end of one direction is the end of both.
                let _ = from.shutdown(std::net::Shutdown::Both);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, mut from: &UnixStream, mut to: &UnixStream, direction: Direction) {
        let mut piece = [0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            while direction == Direction::FromUpstream && self.weather() == Weather::Silent {
                if self.closing.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(STALL_LOOK);
            }
            let kept = self.spoil(&mut piece[..length]);
            if to.write_all(&piece[..kept]).is_err() || kept < length {
                return;
            }
        }
    }

    /// Returns how many of the bytes are passed on; fewer than all ends the connection.
    fn spoil(&self, piece: &mut [u8]) -> usize {
        let weather = self.weather();
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        match weather {
            Weather::Flips { one_in } if rng.random_ratio(1, one_in) => {
                let at = rng.random_range(0..piece.len());
                piece[at] ^= 1 << rng.random_range(0..8);
                self.faults.fetch_add(1, Ordering::Relaxed);
                piece.len()
            }
            Weather::Cuts { one_in } if rng.random_ratio(1, one_in) => {
                self.faults.fetch_add(1, Ordering::Relaxed);
                rng.random_range(0..piece.len())
            }
            _ => piece.len(),
        }
    }
}
