//! Redis, which replicates what it is told.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quicksilver_bench::server::Get;
use quicksilver_bench::server::redis::Redis;
use quicksilver_bench::server::resp::Client;
use quicksilver_bench::{Result, dataset};
use quicksilver_tests::poll;
use quicksilver_tests::resp::{self, Reply};

use crate::{Case, ours};

/// For a replica to have everything.
const SOON: Duration = Duration::from_secs(300);

/// Between two keys that are looked at in the end.
const EVERY: usize = 997;

/// What a replica does before it takes more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Replica {
    /// Nothing: all is in memory.
    InMemory,
    /// It appends what it has taken to a file, and syncs that, as ours does.
    Synced,
}

/// A master, in memory, and its replica.
pub(crate) struct Pair {
    master: Redis,
    replica: Redis,
    held: u64,
    entries: u64,
}

impl Pair {
    /// Starts them, with what is there before.
    pub(crate) fn start(case: &Case, replica: Replica) -> Result<Pair> {
        // No bound makes the replica begin anew.
        let no_bound = ["--client-output-buffer-limit", "replica 0 0 0"];
        let master = Redis::in_memory(&no_bound)?;
        let replica = match replica {
            Replica::InMemory => Redis::in_memory(&[])?,
            Replica::Synced => Redis::start(&["--appendfsync", "always"])?,
        };
        replica.follow(&master)?;
        let held = (0..case.held).map(|n| (dataset::key(n), ours::value(n, 0)));
        Client::connect(&master.unix)?.set_all(held)?;
        let mut commands = BufWriter::new(File::create(master.server.dir().join("commands"))?);
        for number in 0..case.entries {
            let (key, value) = (dataset::key(number), ours::value(number, 1));
            commands.write_all(&resp::encode(&[b"SET", &key[..], &value]))?;
        }
        commands.flush()?;
        Ok(Pair { master, replica, held: case.held, entries: case.entries })
    }

    /// Seconds from the first SET until the replica has all.
    pub(crate) fn replicate(&self) -> Result<f64> {
        if self.held == 0 {
            self.master.call(&["FLUSHALL"])?;
        }
        self.await_replica()?;
        let began = Instant::now();
        let load = Command::new("redis-cli")
            .arg("-s")
            .arg(self.master.server.dir().join("s"))
            .arg("--pipe")
            .stdin(File::open(self.master.server.dir().join("commands"))?)
            .stdout(Stdio::null())
            .status()?;
        self.await_replica()?;
        let seconds = began.elapsed().as_secs_f64();
        if !load.success() {
            return Err("redis-cli failed".into());
        }
        self.check()?;
        Ok(seconds)
    }

    /// The replica has as many keys as it should, and among many the new values.
    fn check(&self) -> Result<()> {
        let keys = Reply::Integer(i64::try_from(self.held.max(self.entries))?);
        let mut client = Client::connect(&self.replica.unix)?;
        let mut found = Vec::new();
        let mut are_new = true;
        for number in (0..self.entries).step_by(EVERY) {
            client.get(&dataset::key(number), &mut found)?;
            are_new &= found == ours::value(number, 1);
        }
        if are_new && self.replica.call(&["DBSIZE"])? == keys {
            return Ok(());
        }
        Err("the Redis replica has not what its master was told".into())
    }

    fn await_replica(&self) -> Result<()> {
        let wanted = offset(&self.master, "master_repl_offset")?;
        let there = || {
            let reached = offset(&self.replica, "slave_repl_offset").ok()?;
            (reached >= wanted).then_some(())
        };
        poll(SOON, there).ok_or_else(|| "the Redis replica stopped".into())
    }
}

fn offset(redis: &Redis, field: &str) -> Result<u64> {
    let info = redis.call(&["INFO", "replication"])?;
    let lines = info.text().ok_or("no INFO")?.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(values.next().ok_or_else(|| format!("no {field}"))?.trim().parse()?)
}
