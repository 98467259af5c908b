//! A root whose log reaches back to where its relays left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quicksilver::Index;
use quicksilver::status_page::StatusPage;
use quicksilver_bench::dataset::{self, VALUE_BYTES};
use quicksilver_bench::replica::{self, MAP_BYTES};
use quicksilver_bench::{Result, metrics, server};
use quicksilver_format::layout::STATUS;
use quicksilver_format::{BatchBuilder, Entry};
use quicksilver_replicator::store::{Store, wall_clock_us};
use quicksilver_tests::cluster::{Cluster, Status};
use quicksilver_tests::poll;

use crate::{Case, LARGE_BATCH};

/// For a relay to be where the root is.
const CATCH_UP: Duration = Duration::from_secs(300);
/// Of the log: all of it.
const LOG_BYTES: u64 = 8 << 30;
/// Between two looks at the relay's status page.
const LOOK: Duration = Duration::from_micros(200);
/// Of the root's own commits while its log is made.
const ENTRIES_PER_COMMIT: usize = 200_000;

/// The root, and what its relays had when they left.
pub(crate) struct Root {
    cluster: Cluster,
    end: Status,
    address: String,
    /// Whether there is something to begin with, in the directory `left`.
    held: bool,
}

/// One relay's way.
pub(crate) struct CaughtUp {
    /// From the start of its process.
    pub(crate) seconds: f64,
    /// In which it did it.
    pub(crate) commits: f64,
}

impl Root {
    /// Makes the data that relays have and the log that they have missed, and starts.
    pub(crate) fn start(case: &Case) -> Result<Root> {
        let mut cluster = Cluster::new();
        let left = cluster.path().join("left");
        let address = format!("127.0.0.1:{}", server::free_port()?);
        let root = cluster.root("root");
        let dir = root.data_dir();
        fs::create_dir_all(&dir)?;
        let mut store = replica::open(&dir, LOG_BYTES)?;
        if case.held > 0 {
            let mut held: Vec<_> = (0..case.held).collect();
            held.sort_unstable_by_key(|number| dataset::key(*number));
            write(&mut store, &held, 0, LARGE_BATCH)?;
            drop(store);
            copy(&dir, &left)?;
            store = replica::open(&dir, LOG_BYTES)?;
        }
        let missed: Vec<_> = (0..case.entries).collect();
        write(&mut store, &missed, 1, case.batch)?;
        drop(store);
        let root = cluster.node_mut("root");
        root.set("db_id", replica::db_id())
            .set("listen.replication", &address)
            .set_literal("retention.bytes", LOG_BYTES)
            .set_literal("limits.map_bytes", MAP_BYTES)
            .start();
        let end = cluster.node("root").status();
        let expected = case.held + case.entries;
        if end.index != expected {
            return Err(format!("the root is at {}, not at {expected}", end.index).into());
        }
        Ok(Root { cluster, end, address, held: case.held > 0 })
    }

    /// A relay as it left comes back.
    pub(crate) fn catch_up(&mut self, round: usize) -> Result<CaughtUp> {
        let name = format!("relay-{round}");
        let node = self.cluster.follower(&name, std::slice::from_ref(&self.address));
        node.set("db_id", replica::db_id())
            .set_literal("retention.bytes", LOG_BYTES)
            .set_literal("limits.map_bytes", MAP_BYTES);
        let dir = node.data_dir();
        if self.held {
            copy(&self.cluster.path().join("left"), &dir)?;
        }
        // Nobody pays for what others have left in the page cache.
        nix::unistd::sync();
        let began = Instant::now();
        self.cluster.node_mut(&name).spawn();
        let seconds = self.await_end(&dir.join(STATUS), began)?;
        let node = self.cluster.node(&name);
        let found = node.status();
        if !found.same_data(&self.end) {
            return Err(format!("root and relay differ\n{}", self.cluster.table()).into());
        }
        if found.json["generation"] != 1 {
            return Err(format!("it fetched a snapshot\n{}", node.log_tail()).into());
        }
        let (commits, _) = metrics::commits(node)?;
        self.cluster.node_mut(&name).term();
        fs::remove_dir_all(dir)?;
        Ok(CaughtUp { seconds, commits })
    }

    fn await_end(&self, page: &Path, began: Instant) -> Result<f64> {
        let page = poll(CATCH_UP, || StatusPage::open(page).ok()).ok_or("no status page")?;
        while page.index() < Index::new(self.end.index) {
            if began.elapsed() > CATCH_UP {
                return Err(format!("the relay stopped\n{}", self.cluster.table()).into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Seals batches of so many entries, and writes them with fewer commits.
fn write(store: &mut Store, numbers: &[u64], version: u64, batch: usize) -> Result<()> {
    for numbers in numbers.chunks(ENTRIES_PER_COMMIT.max(batch)) {
        let mut end = store.end();
        let mut batches = Vec::new();
        for numbers in numbers.chunks(batch) {
            let mut builder = BatchBuilder::new(end);
            for number in numbers {
                builder.push(Entry::set(&dataset::key(*number), &value(*number, version)));
            }
            let sealed = builder.seal(wall_clock_us()).ok_or("a batch without entries")?;
            end = sealed.after();
            batches.push(sealed);
        }
        store.apply(&batches)?;
    }
    Ok(())
}

/// What is written to a key: another value every time.
pub(crate) fn value(number: u64, version: u64) -> [u8; VALUE_BYTES] {
    dataset::value(number ^ (version << 40))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status()?;
    if copied.success() { Ok(()) } else { Err("cp failed".into()) }
}
