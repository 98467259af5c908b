//! Waiting in a tokio runtime (feature `tokio`).
//!
//! A futex blocks a thread, so each reader that is waited on asynchronously has one: the watcher. It
//! sleeps on the status page, tells everyone who waits, and ends when nobody does.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quicksilver_format::Index;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::changes::{Change, Changes};
use crate::error::{Error, Result};
use crate::reader::{LONGEST_SLEEP, Reader};
use crate::status_page::StatusPage;

/// The thread that sleeps for the tasks; there is one while somebody waits.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    /// Counts the times that it woke.
    wakes: Mutex<Option<watch::Sender<u64>>>,
}

impl Watcher {
    /// Something that changes whenever the database may have.
    fn subscribe(&self, reader: &Reader) -> Result<watch::Receiver<u64>> {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread ends under the lock, so a sender that is there has a thread.
        if let Some(sender) = &*wakes {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(0);
        *wakes = Some(sender);
        let reader = reader.clone();
        let spawned = std::thread::Builder::new()
            .name("quicksilver".to_owned())
            .spawn(move || watch_page(&reader));
        if let Err(source) = spawned {
            *wakes = None;
            return Err(Error::Io { path: "a thread to wait for changes".into(), source });
        }
        Ok(receiver)
    }

    /// Tells everyone; `false`, and the thread is to end, when there is nobody.
    fn wake(&self) -> bool {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let somebody = wakes.as_ref().is_some_and(|sender| sender.receiver_count() > 0);
        if !somebody {
            *wakes = None;
            return false;
        }
        if let Some(sender) = &*wakes {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
        true
    }
}

fn watch_page(reader: &Reader) {
    loop {
        let word = reader.followed().page().map(StatusPage::notify_word);
        if !reader.watcher().wake() {
            return;
        }
        // A failure shows itself to those who wait, when they look.
        let _ = reader.sleep_while(word, LONGEST_SLEEP);
    }
}

impl Reader {
    /// As [`wait_for`](Self::wait_for), without blocking the runtime (feature `tokio`).
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("hello", "world")])?;
    /// # let reader = db.reader();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(async {
    /// use std::time::Duration;
    ///
    /// let next = reader.index()?.next();
    /// # db.apply([("hello", Some("there"))])?;
    /// assert!(reader.wait_for_async(next, Duration::from_secs(5)).await? >= next);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn wait_for_async(&self, index: Index, timeout: Duration) -> Result<Index> {
        let deadline = Instant::now().checked_add(timeout);
        // Before the first look, so that no wake is missed.
        let mut wakes = self.watcher().subscribe(self)?;
        loop {
            let mut now = self.index()?;
            if now < index {
                // The page may trail LMDB, or be stuck.
                now = self.index_in_lmdb()?;
            }
            let is_over = deadline.is_some_and(|at| Instant::now() >= at);
            if now >= index || is_over {
                return Ok(now);
            }
            until(deadline, wakes.changed()).await;
        }
    }
}

impl Changes {
    /// As [`next_within`](Self::next_within), without blocking the runtime (feature `tokio`).
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn next_within_async(&mut self, timeout: Duration) -> Result<Option<Change>> {
        let deadline = Instant::now().checked_add(timeout);
        let mut wakes = self.reader().watcher().subscribe(self.reader())?;
        loop {
            if let Some(change) = self.poll()? {
                return Ok(Some(change));
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Ok(None);
            }
            until(deadline, wakes.changed()).await;
        }
    }
}

/// Waits for a wake or the deadline; a watcher that ended is one to look again.
async fn until<E>(deadline: Option<Instant>, woken: impl Future<Output = Result<(), E>>) {
    match deadline {
        Some(at) => drop(timeout_at(at, woken).await),
        None => drop(woken.await),
    }
}
