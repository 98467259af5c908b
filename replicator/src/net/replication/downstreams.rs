//! Everyone who follows this node: admission, and numbers for status, metrics and WAIT.
//!
//! Invariants:
//! * a downstream is listed exactly as long as its [`Registration`] lives, and there are never more
//!   of them than the limit;
//! * connections that have no such place, because they have not said who they are yet or are being
//!   sent away, are never more than `MOST_ARRIVALS`: silent ones take no follower's place, and
//!   nobody can open connections without end.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use quicksilver_format::{Index, NodeId, ProcessId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Connections that have no place among the downstreams. About 9 kB each.
const MOST_ARRIVALS: usize = 1024;

/// One downstream.
#[derive(Debug, Clone)]
pub struct Downstream {
    /// Its address.
    pub peer: String,
    /// Since when it is connected.
    pub connected_since: SystemTime,
    /// Its name, once it has said it and was welcome.
    pub node_id: Option<NodeId>,
    /// Where it is.
    pub site: String,
    /// Its run.
    pub process_id: Option<ProcessId>,
    /// The last entry it was sent.
    pub sent: Index,
    /// The last entry it has on disk.
    pub applied: Index,
}

/// See the module.
#[derive(Debug)]
pub struct Downstreams {
    limit: usize,
    arrivals: Arc<Semaphore>,
    list: Mutex<(u64, BTreeMap<u64, Downstream>)>,
    progress: watch::Sender<u64>,
}

impl Downstreams {
    /// A registry that takes at most `limit` downstreams.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Downstreams {
            limit,
            arrivals: Arc::new(Semaphore::new(MOST_ARRIVALS)),
            list: Mutex::default(),
            progress: watch::Sender::new(0),
        })
    }

    /// Everyone who is connected, oldest connection first.
    pub fn list(&self) -> Vec<Downstream> {
        self.lock().1.values().cloned().collect()
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.lock().1.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many nodes have everything up to `index` on disk.
    pub fn count_with(&self, index: Index) -> usize {
        let list = self.lock();
        let there = list.1.values().filter(|downstream| downstream.applied >= index);
        // A node whose former connection is still half open counts once.
        there.filter_map(|downstream| downstream.node_id.as_ref()).collect::<HashSet<_>>().len()
    }

    /// Wakes up whenever a downstream has made progress, came or went.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Room for a connection that has no place among the downstreams yet, or no more; `None` when
    /// there are enough of those: it is closed at once.
    pub fn arrive(&self) -> Option<Arrival> {
        self.arrivals.clone().try_acquire_owned().ok().map(Arrival)
    }

    /// Lists a new downstream; `None` when there are enough.
    pub fn register(self: &Arc<Self>, peer: String) -> Option<Registration> {
        let mut list = self.lock();
        if list.1.len() >= self.limit {
            return None;
        }
        list.0 += 1;
        let id = list.0;
        let downstream = Downstream {
            peer,
            connected_since: SystemTime::now(),
            node_id: None,
            site: String::new(),
            process_id: None,
            sent: Index::ZERO,
            applied: Index::ZERO,
        };
        list.1.insert(id, downstream);
        drop(list);
        self.wake();
        Some(Registration { id, registry: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Downstream>)> {
        // Nothing in a critical section here panics half-way through a change.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.progress.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

/// Room for a connection, given up when this is dropped.
#[derive(Debug)]
pub struct Arrival(#[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit);

/// A place in the list, given up when this is dropped.
#[derive(Debug)]
pub struct Registration {
    id: u64,
    registry: Arc<Downstreams>,
}

impl Registration {
    /// Changes what is listed. Whoever waits for progress is woken only when it was made.
    pub fn update(&self, change: impl FnOnce(&mut Downstream)) {
        let mut list = self.registry.lock();
        let Some(downstream) = list.1.get_mut(&self.id) else { return };
        let applied = downstream.applied;
        change(downstream);
        let progress = downstream.applied != applied;
        drop(list);
        if progress {
            self.registry.wake();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().1.remove(&self.id);
        self.registry.wake();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn a_place_is_taken_as_long_as_its_registration_lives() {
        let downstreams = Downstreams::new(2);
        let first = downstreams.register("a".to_owned()).unwrap();
        let second = downstreams.register("b".to_owned()).unwrap();
        assert!(downstreams.register("c".to_owned()).is_none());
        drop(first);
        assert_eq!(downstreams.list()[0].peer, "b");
        assert!(downstreams.register("c".to_owned()).is_some());
        drop(second);
        assert!(downstreams.is_empty());
    }

    #[test]
    fn a_node_counts_once() {
        let downstreams = Downstreams::new(10);
        let places: Vec<_> = ["a", "a", "b"]
            .iter()
            .zip([5, 7, 6])
            .map(|(name, applied)| {
                let place = downstreams.register((*name).to_owned()).unwrap();
                place.update(|downstream| {
                    downstream.node_id = NodeId::new(*name).ok();
                    downstream.applied = Index::new(applied);
                });
                place
            })
            .collect();
        let counts = [5, 6, 7, 8].map(|index| downstreams.count_with(Index::new(index)));
        assert_eq!(counts, [2, 2, 1, 0]);
        drop(places);
    }
}
