//! The two sides of a wake, each a process of its own that answers one line for every line.

use std::io::stdin;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quicksilver::status_page::StatusWriter;
use quicksilver::{Index, Reader};
use quicksilver_bench::Result;
use quicksilver_bench::clock::monotonic_ns;
use quicksilver_bench::dataset::Rng;
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_format::status::Commit;
use quicksilver_lmdb::{Bucket, Env, EnvOptions, Transaction};

/// Between two wakes: long enough for the sleeper to sleep, and its core with it.
pub(crate) const SHORTEST_PAUSE_US: u64 = 2_000;
pub(crate) const LONGEST_PAUSE_US: u64 = 6_000;
/// For one wake.
const ARRIVAL: Duration = Duration::from_secs(10);

pub(crate) fn pause(rng: &mut Rng) {
    let us = SHORTEST_PAUSE_US + rng.below(LONGEST_PAUSE_US - SHORTEST_PAUSE_US);
    thread::sleep(Duration::from_micros(us));
}

fn wall_clock_us() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// `--watcher DIR`: every line is an index to sleep for. The answer is when it woke, by the
/// monotonic clock, and how old the commit on the status page then was, in nanoseconds.
pub(crate) fn watcher(dir: &Path) -> Result<()> {
    let reader = Reader::open(dir)?;
    for line in stdin().lines() {
        let index = Index::new(line?.parse()?);
        if reader.wait_for(index, ARRIVAL)? < index {
            return Err(format!("index {index} did not arrive").into());
        }
        let (woken, woken_us) = (monotonic_ns()?, wall_clock_us()?);
        let page = reader.status()?.page.ok_or("no status page")?;
        println!("{woken} {}", woken_us.saturating_sub(page.commit_time_us) * 1000);
    }
    Ok(())
}

/// `--committer DIR`: for every line it pauses, commits and publishes, as a replicator does. The
/// answer is the moment between the commit and its publication.
pub(crate) fn committer(dir: &Path) -> Result<()> {
    let options =
        EnvOptions { open_lock: Some(dir.join(layout::OPEN_LOCK)), ..EnvOptions::default() };
    let env = Env::open_writer(&dir.join(Generation::FIRST.to_string()), &options)?;
    let meta = env.create_bucket(layout::BUCKET_META)?;
    let (identity, mut applied) = bookkeeping(&env, meta)?;
    let page = StatusWriter::open_or_create(&dir.join(layout::STATUS), identity.db_id)?;
    let mut rng = Rng::new(5);
    for line in stdin().lines() {
        line?;
        pause(&mut rng);
        applied.position.index = applied.position.index.next();
        let mut txn = env.write()?;
        txn.put(meta, Applied::KEY, &applied.encode())?;
        txn.commit()?;
        let committed = monotonic_ns()?;
        let Applied { position, digest, keys, .. } = applied;
        page.publish(&Commit { position, digest, keys, time_us: wall_clock_us()? });
        println!("{committed}");
    }
    Ok(())
}

fn bookkeeping(env: &Env, meta: Bucket) -> Result<(Identity, Applied)> {
    let txn = env.read()?;
    let record = |key| txn.get(meta, key)?.ok_or_else(|| "no bookkeeping".into());
    let record = |key| -> Result<&[u8]> { record(key) };
    Ok((Identity::decode(record(Identity::KEY)?)?, Applied::decode(record(Applied::KEY)?)?))
}
