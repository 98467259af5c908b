//! The way out of the process, in two steps: first all doors close, and only then is everybody who
//! is inside asked to leave.
//!
//! In that order, because somebody who was asked to leave comes back at once: through a door that is
//! still open they would meet the same process again, and not the next one.

use tokio::sync::watch;

/// Whoever decides that the process leaves.
#[derive(Debug)]
pub struct Leaving {
    close: watch::Sender<bool>,
    leave: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

impl Leaving {
    /// Nobody leaves yet.
    pub fn new() -> Self {
        let channel = || watch::Sender::new(false);
        Leaving { close: channel(), leave: channel(), open: watch::Sender::new(0) }
    }

    /// A door for one listener, open from now on.
    pub fn door(&self) -> Door {
        self.open.send_modify(|open| *open += 1);
        Door {
            close: self.close.subscribe(),
            leave: self.leave.subscribe(),
            open: self.open.clone(),
        }
    }

    /// Becomes true when whoever is inside is to leave.
    pub fn inside(&self) -> watch::Receiver<bool> {
        self.leave.subscribe()
    }

    /// Closes all doors; when it returns, nobody comes in any more.
    pub async fn close_doors(&self) {
        self.close.send_replace(true);
        // The sender is in here, so it cannot be gone.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Asks everybody to leave.
    pub fn leave(&self) {
        self.leave.send_replace(true);
    }
}

impl Default for Leaving {
    fn default() -> Self {
        Leaving::new()
    }
}

/// One listener's door. Dropping it closes it.
#[derive(Debug)]
pub struct Door {
    close: watch::Receiver<bool>,
    leave: watch::Receiver<bool>,
    open: watch::Sender<usize>,
}

impl Door {
    /// Waits until it is to be closed: then nobody is accepted any more, and it is dropped.
    pub async fn closing(&mut self) {
        // Whoever could close it has gone: so does the process.
        let _ = self.close.wait_for(|close| *close).await;
    }

    /// For those who came in: becomes true when they are to leave.
    pub fn inside(&self) -> watch::Receiver<bool> {
        self.leave.clone()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}
