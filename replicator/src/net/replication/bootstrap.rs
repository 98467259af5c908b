//! What a node does when following is not enough: it fetches a snapshot, and goes on in that.
//!
//! Invariants:
//! * it comes from an upstream that is connected to the root; from another one only when for a while
//!   none was ([`Chooser::snapshot_sources`]);
//! * while it comes, and when it does not, this node serves what it has.

use std::time::Duration;

use quicksilver_format::{Address, Index};
use quicksilver_protocol::{Chooser, UpstreamSlot};
use tokio::sync::watch;

use super::Clock;
use super::follow::FollowContext;
use super::upstream::{Dial, UpstreamState, Upstreams};

/// Between two questions of a node whose files are damaged, while nobody is connected to the root.
const REBUILD_ASK: Duration = Duration::from_secs(60);

impl<D: Dial> FollowContext<D> {
    /// Waits until this node, whose files are damaged, can have a snapshot to go on in: from whom.
    pub async fn rebuild_sources(
        &self,
        upstreams: &Upstreams,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Vec<UpstreamSlot> {
        loop {
            match self.connected_to_root(upstreams, shutdown).await {
                Some(sources) if sources.is_empty() => tracing::warn!(
                    node = %self.name.node_id,
                    "this node's files are damaged, and no upstream is connected to the root: it waits \
                     for one that is, and serves what verifies"
                ),
                Some(sources) => return sources,
                None => return Vec::new(),
            }
            tokio::time::sleep(REBUILD_ASK).await;
        }
    }

    /// Fetches a snapshot although the upstreams have the log: this node's files are damaged. True when
    /// it goes on in that.
    pub async fn rebuild(
        &self,
        upstreams: &Upstreams,
        sources: &[UpstreamSlot],
        shutdown: &mut watch::Receiver<bool>,
    ) -> bool {
        tracing::warn!(
            node = %self.name.node_id,
            "this node's files are damaged: it fetches a snapshot to go on in, and serves what verifies"
        );
        self.fetch(upstreams, sources, Index::ZERO, shutdown).await
    }

    /// No upstream has the log that this node needs: the longest of theirs, `first`'s, begins at
    /// `oldest`. Fetches a snapshot, if it may and there is one to be had.
    pub(super) async fn bootstrap(
        &self,
        upstreams: &Upstreams,
        chooser: &mut Chooser,
        clock: Clock,
        (oldest, first): (Index, UpstreamSlot),
        shutdown: &mut watch::Receiver<bool>,
    ) {
        let (node, upstream) = (&self.name.node_id, upstreams.at(first).map(Address::to_string));
        let upstream = upstream.unwrap_or_default();
        let state = UpstreamState::NeedsSnapshot { oldest };
        self.status.send_modify(|status| status.state = state);
        if self.fetching.is_none() {
            tracing::error!(
                %node, %oldest, upstream,
                "no upstream has the log this node needs: it needs a snapshot (qsctl snapshot). It \
                 keeps serving what it has"
            );
            return;
        }
        let Some(connected) = self.connected_to_root(upstreams, shutdown).await else { return };
        let sources = chooser.snapshot_sources(clock.now(), first, &connected);
        if sources.is_empty() {
            tracing::warn!(
                %node, %oldest, upstream,
                "no upstream has the log this node needs, and none says that it is connected to the \
                 root: what they have may be of a past that the root has left. This node waits for one \
                 that is, and in the end takes the snapshot of another; it serves what it has meanwhile"
            );
            return;
        }
        tracing::info!(
            %node, %oldest, upstream, connected_to_root = connected.len(),
            "no upstream has the log this node needs: it fetches a snapshot, and serves what it has \
             meanwhile"
        );
        self.fetch(upstreams, &sources, oldest, shutdown).await;
    }

    /// Fetches a snapshot from these upstreams, tried in turn. True when this node goes on in it.
    async fn fetch(
        &self,
        upstreams: &Upstreams,
        sources: &[UpstreamSlot],
        oldest: Index,
        shutdown: &mut watch::Receiver<bool>,
    ) -> bool {
        let Some(fetching) = &self.fetching else { return false };
        self.status.send_modify(|status| status.state = UpstreamState::Bootstrapping);
        let node = &self.name.node_id;
        let addresses: Vec<Address> =
            sources.iter().filter_map(|slot| upstreams.at(*slot)).cloned().collect();
        let run = fetching.run(&addresses, oldest, shutdown).await;
        let bootstrapped = run.is_ok();
        match run {
            Ok(()) => tracing::info!(%node, "bootstrapped from a snapshot"),
            Err(_) if *shutdown.borrow() => {}
            Err(reason) => {
                tracing::warn!(
                    %node, reason,
                    "no snapshot yet; it is tried again, and this node keeps serving what it has"
                );
                self.status.send_modify(|status| status.last_error = Some(reason));
            }
        }
        bootstrapped
    }
}
