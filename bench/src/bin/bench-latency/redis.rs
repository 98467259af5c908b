//! A Redis master, its replica, and the replica's replica: the same three tiers, in memory only.

use std::thread;

use quicksilver_bench::connection::Address;
use quicksilver_bench::server::redis::Redis;
use quicksilver_bench::{Result, server::resp};
use quicksilver_replicator::store::wall_clock_us;
use quicksilver_tests::resp::{Client, Reply};

use crate::schedule::{self, Schedule};
use crate::{ARRIVAL, KEY, Seen};

pub(crate) struct Chain {
    /// The first and the last of them.
    master: Redis,
    last: Redis,
    _middle: Redis,
    writer: resp::Client,
    /// Hears of every change of the key on the last one.
    subscriber: Client,
    written: usize,
}

impl Chain {
    pub(crate) fn start() -> Result<Chain> {
        let master = Redis::in_memory(&[])?;
        let middle = Redis::in_memory(&[])?;
        let last = Redis::in_memory(&["--notify-keyspace-events", "K$"])?;
        middle.follow(&master)?;
        last.follow(&middle)?;
        let Address::Unix(socket) = &last.unix else { return Err("a Redis without socket".into()) };
        let mut subscriber = Client::connect(socket)?;
        subscriber.set_deadline(ARRIVAL)?;
        subscriber.call(&[&b"SUBSCRIBE"[..], &[b"__keyspace@0__:", KEY].concat()])?;
        let writer = resp::Client::connect(&master.unix)?;
        let mut chain = Chain { master, last, _middle: middle, writer, subscriber, written: 0 };
        // A master begins to send when it looks after its replicas, once a second.
        chain.lone_write()?;
        Ok(chain)
    }

    /// What was written last is what the last one has.
    fn check(&self) -> Result<()> {
        let found = self.last.call(&["GET", std::str::from_utf8(KEY)?])?;
        let expected = schedule::value(self.written - 1);
        let right = found == Reply::Bulk(expected.into_bytes());
        if right { Ok(()) } else { Err(format!("the last Redis has {found:?}").into()) }
    }
}

impl Seen for Chain {
    fn lone_write(&mut self) -> Result<f64> {
        let start = wall_clock_us();
        self.writer.send_set(KEY, schedule::value(self.written).as_bytes())?;
        self.subscriber.reply()?;
        let took = wall_clock_us() - start;
        self.writer.take_ok()?;
        self.written += 1;
        self.check()?;
        Ok(took as f64 / 1e3)
    }

    fn scheduled_writes(&mut self, schedule: &Schedule) -> Result<Vec<f64>> {
        let due = schedule.begin();
        let (subscriber, written) = (&mut self.subscriber, self.written);
        let seen = thread::scope(|scope| {
            let watch = scope.spawn(|| -> Result<Vec<u64>> {
                let one = |_| Ok(subscriber.reply().map(|_| wall_clock_us())?);
                (0..schedule.len()).map(one).collect()
            });
            schedule::send_sets(&self.master.unix, &due, written)?;
            watch.join().map_err(|_| "the watcher panicked")?
        })?;
        self.written += schedule.len();
        self.check()?;
        Ok(schedule::latencies(&due, &seen))
    }
}
