//! What do snapshots and compactions of 2 GB cost, and whom do they disturb?
//!
//! `bench-snapshot [--mb N] [--rounds N] [--quick]`
//!
//! * A snapshot is made and restored, in turns with a program in C (`snapshot/peer.c`) that makes a
//!   compact copy of a plain LMDB environment with the same pairs and syncs it, and that loads the same
//!   pairs from a file with `MDB_APPEND`. Ours checks every CRC, hashes every block, and reads the file
//!   again before it counts; a restore checks all of it again. Nothing is throttled here.
//! * A `quicksilverd` compacts its database while another process reads.
//! * A snapshot is made of a database that is being written, and the file's growth is compared with
//!   that of plain LMDB under the same load, of which `mdb_env_copy` makes a copy at the same rate.

mod busy;
mod compaction;
mod copies;

use std::time::Duration;

use quicksilver_bench::{Result, flag, option, peer};

/// Bytes of a value, where it does not matter.
const VALUE_BYTES: usize = 1000;
const POOL_SEED: u64 = 1;
/// Log that is kept: what is written in half a minute, and in a snapshot's time.
const LOG_BYTES: u64 = 256 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, dir, keys] = &arguments[..]
        && what == "--reader"
    {
        return compaction::reader(dir, keys);
    }
    let quick = flag("--quick");
    let data_bytes = option("--mb", if quick { 100 } else { 2000 })? * 1_000_000;
    let rounds = option("--rounds", if quick { 1 } else { 5 })?;
    let pause = Duration::from_secs(if quick { 1 } else { 5 });
    let programs = tempfile::tempdir()?;
    let peer = peer::compile("snapshot/peer.c", programs.path())?;
    copies::measure(&peer, data_bytes, rounds)?;
    compaction::measure(data_bytes, rounds, pause)?;
    busy::measure(&peer, data_bytes, 3 * pause)
}
