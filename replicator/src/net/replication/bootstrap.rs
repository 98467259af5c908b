//! What a node does when following is not enough: it fetches a snapshot, and goes on in that.
//!
//! Invariants:
//! * it comes from an upstream that is connected to the root; from another one only when for a while
//!   none was, and this node's files are not damaged;
//! * while it comes, and when it does not, this node serves what it has.

use quicksilver_format::{Address, Index};
use quicksilver_protocol::UpstreamSlot;
use tokio::sync::watch;

use super::follow::FollowContext;
use super::upstream::{Dial, UpstreamState, Upstreams};

impl<D: Dial> FollowContext<D> {
    /// Fetches a snapshot although the upstreams have the log: this node's files are damaged. True when
    /// it goes on in that.
    pub async fn rebuild(
        &self,
        upstreams: &Upstreams,
        shutdown: &mut watch::Receiver<bool>,
    ) -> bool {
        tracing::warn!(
            node = %self.name.node_id,
            "this node's files are damaged: it fetches a snapshot to go on in, and serves what verifies"
        );
        match self.connected_to_root(upstreams, shutdown).await {
            Some(sources) => self.bootstrap(upstreams, &sources, Index::ZERO, shutdown).await,
            None => false,
        }
    }

    /// Fetches a snapshot from these upstreams, tried in turn.
    pub(super) async fn bootstrap(
        &self,
        upstreams: &Upstreams,
        sources: &[UpstreamSlot],
        oldest: Index,
        shutdown: &mut watch::Receiver<bool>,
    ) -> bool {
        let Some(fetching) = &self.fetching else { return false };
        let node = &self.name.node_id;
        if sources.is_empty() {
            let reason = "no upstream is connected to the root: what they have may be of a past that \
                          the root has left, and this node waits for a while for one that is";
            tracing::warn!(%node, reason, "no snapshot yet");
            self.status.send_modify(|status| status.last_error = Some(reason.to_owned()));
            return false;
        }
        self.status.send_modify(|status| status.state = UpstreamState::Bootstrapping);
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

    pub(super) fn report_snapshot(&self, oldest: Index, address: Option<&Address>) {
        let upstream = address.map(ToString::to_string).unwrap_or_default();
        let node = &self.name.node_id;
        if self.fetching.is_some() {
            tracing::info!(
                %node, %oldest, upstream,
                "no upstream has the log this node needs: it fetches a snapshot, and serves what it \
                 has meanwhile"
            );
        } else {
            tracing::error!(
                %node, %oldest, upstream,
                "no upstream has the log this node needs: it needs a snapshot (qsctl snapshot). It \
                 keeps serving what it has"
            );
        }
        let state = UpstreamState::NeedsSnapshot { oldest };
        self.status.send_modify(|status| status.state = state);
    }
}
