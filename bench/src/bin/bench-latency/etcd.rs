//! A watch of one etcd: it syncs every put, and tells who watches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quicksilver_bench::Result;
use quicksilver_bench::server::etcd::{Client, Etcd, Watch};
use quicksilver_replicator::store::wall_clock_us;

use crate::schedule::{self, Schedule};
use crate::{KEY, Seen};

/// Who write on schedule, each waiting for its answer: more than are ever under way.
const WRITERS: usize = 16;

pub(crate) struct Watched {
    etcd: Etcd,
    client: Client,
    watch: Watch,
}

impl Watched {
    pub(crate) fn start() -> Result<Watched> {
        let etcd = Etcd::start()?;
        let (client, watch) = (Client::connect(&etcd.tcp)?, Watch::begin(&etcd.tcp, KEY)?);
        Ok(Watched { etcd, client, watch })
    }
}

impl Seen for Watched {
    fn lone_write(&mut self) -> Result<f64> {
        let start = wall_clock_us();
        self.client.send_put(KEY, start.to_string().as_bytes())?;
        let values = self.watch.changes()?;
        let took = wall_clock_us() - start;
        self.client.take_put()?;
        if values != [start.to_string().into_bytes()] {
            return Err(format!("the watch of etcd told {values:?}").into());
        }
        Ok(took as f64 / 1e3)
    }

    fn scheduled_writes(&mut self, schedule: &Schedule) -> Result<Vec<f64>> {
        let clients: Vec<_> =
            (0..WRITERS).map(|_| Client::connect(&self.etcd.tcp)).collect::<Result<_, _>>()?;
        let (due, next) = (schedule.begin(), AtomicUsize::new(0));
        let mut seen = vec![0; due.len()];
        thread::scope(|scope| -> Result<()> {
            let write = |mut client: Client| -> Result<()> {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(due_us) = due.get(n) else { return Ok(()) };
                    schedule::await_due(*due_us);
                    client.send_put(KEY, n.to_string().as_bytes())?;
                    client.take_put()?;
                }
            };
            let writers: Vec<_> =
                clients.into_iter().map(|client| scope.spawn(move || write(client))).collect();
            // Two puts that are under way at once may change places: each says which it is.
            let mut missing = seen.len();
            while missing > 0 {
                let values = self.watch.changes()?;
                let now = wall_clock_us();
                for value in &values {
                    let n: usize = std::str::from_utf8(value)?.parse()?;
                    *seen.get_mut(n).ok_or("a value that was not written")? = now;
                }
                missing = missing.saturating_sub(values.len());
            }
            for writer in writers {
                writer.join().map_err(|_| "a writer panicked")??;
            }
            Ok(())
        })?;
        Ok(schedule::latencies(&due, &seen))
    }
}
