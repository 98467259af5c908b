//! Asking another upstream whether it would serve this node, and how fresh it is; and before a snapshot
//! is fetched, who is connected to the root.
//!
//! It is a session that stops before its first batch: it ends with its `Welcome`, and nothing of it is
//! applied.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use quicksilver_format::{Address, Heartbeat, Index};
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::{
    Decoded, Decoder, FollowerAction, FollowerSession, SessionEnd, Start, UpstreamSlot, Welcome,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Clock;
use super::connection::{Connection, Moved};
use super::follow::FollowContext;
use super::upstream::{Dial, Upstreams};

/// When one upstream has said that it is connected to the root, the others are waited for so long.
const LATECOMERS: Duration = Duration::from_secs(1);

impl<D: Dial> FollowContext<D> {
    /// What `address` says to a node that stands where this one does: its newest heartbeat, or why it
    /// does not serve this node.
    pub(super) async fn ask(&self, address: &Address) -> Result<Option<Heartbeat>, SessionEnd> {
        let end = self.feed.state().end;
        match self.greet(address, Start::After(end), end.index).await {
            Ok(welcome) => Ok(welcome.heartbeat),
            Err(end) => Err(self.judge(end).await),
        }
    }

    /// Which upstreams are connected to the root at present, in their order; `None` when this node shuts down. All are
    /// asked at once, as an observer would: a node that needs a snapshot has no log that they could judge.
    pub(super) async fn connected_to_root(
        &self,
        upstreams: &Upstreams,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Option<Vec<UpstreamSlot>> {
        let mut questions: FuturesUnordered<_> = upstreams
            .slots()
            .map(|(slot, address)| async move {
                let answer = self.greet(address, Start::Newest, Index::ZERO).await;
                answer.is_ok_and(|welcome| welcome.lineage.connected_to_root).then_some(slot)
            })
            .collect();
        let mut connected = Vec::new();
        let mut until = None;
        loop {
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = questions.next() => match answer {
                    Some(Some(slot)) => {
                        connected.push(slot);
                        connected.sort_unstable();
                        until.get_or_insert(Instant::now() + LATECOMERS);
                    }
                    Some(None) => {}
                    None => return Some(connected),
                },
                () = late => return Some(connected),
                _ = shutdown.wait_for(|down| *down) => return None,
            }
        }
    }

    async fn greet(
        &self,
        address: &Address,
        start: Start,
        stop: Index,
    ) -> Result<Box<Welcome>, SessionEnd> {
        let patience = Duration::from_millis(self.deadlines.handshake_ms);
        let stream = match tokio::time::timeout(patience, self.dial.dial(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(SessionEnd::never_connected(e)),
            Err(_) => return Err(SessionEnd::never_connected("no connection in time")),
        };
        let mut connection = Connection::new(stream, Decoder::of_source_bytes());
        let answer = self.handshake(&mut connection, start, stop).await;
        // An upstream that is silent takes seconds to hear it.
        tokio::spawn(connection.finish());
        answer
    }

    async fn handshake<S>(
        &self,
        connection: &mut Connection<S>,
        start: Start,
        stop: Index,
    ) -> Result<Box<Welcome>, SessionEnd>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    {
        let clock = Clock::start();
        let options = FollowOptions {
            start,
            stop: Some(stop),
            path: self.lineage.borrow().path.clone(),
            deadlines: self.deadlines,
        };
        let me = self.name.local(self.log.identity());
        let mut session = FollowerSession::new(me, options, clock.now());
        loop {
            while let Some(action) = session.poll() {
                match action {
                    FollowerAction::Send(frame) => connection.send(&frame),
                    FollowerAction::Welcomed(welcome) => return Ok(welcome),
                    FollowerAction::Close(end) => return Err(end),
                    // They come after the Welcome.
                    FollowerAction::AdoptHistory(_)
                    | FollowerAction::Path(_)
                    | FollowerAction::Quota(_)
                    | FollowerAction::Deliver(_)
                    | FollowerAction::DeliverControl(_) => {}
                }
            }
            match connection.next_frame() {
                Ok(Decoded::Frame(frame)) => {
                    session.frame(clock.now(), &frame);
                    continue;
                }
                Ok(Decoded::Incomplete { .. }) => {}
                Err(e) => {
                    session.frame_error(e);
                    continue;
                }
            }
            tokio::select! {
                moved = connection.exchange(true) => match moved {
                    Ok(Moved::Read(_) | Moved::Wrote) => {}
                    Ok(Moved::Eof) => session.disconnected("closed by the upstream"),
                    Err(e) => session.disconnected(e),
                },
                () = tokio::time::sleep_until(clock.instant(session.next_deadline())) => {
                    session.tick(clock.now());
                }
            }
        }
    }
}
