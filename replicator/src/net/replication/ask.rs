//! Asking another upstream whether it would serve this node, and how fresh it is.
//!
//! It is a session that stops where this node is: it ends with its `Welcome`, and nothing of it is
//! applied.

use std::time::Duration;

use quicksilver_format::{Address, Heartbeat};
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::{Decoded, Decoder, FollowerAction, FollowerSession, SessionEnd, Start};

use super::Clock;
use super::connection::{Connection, Moved};
use super::follow::FollowContext;
use super::upstream::Dial;

impl<D: Dial> FollowContext<D> {
    /// What `address` says to a node that stands where this one does: its newest heartbeat, or why it
    /// does not serve this node.
    pub(super) async fn ask(&self, address: &Address) -> Result<Option<Heartbeat>, SessionEnd> {
        let patience = Duration::from_millis(self.deadlines.handshake_ms);
        let stream = match tokio::time::timeout(patience, self.dial.dial(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(SessionEnd::never_connected(e)),
            Err(_) => return Err(SessionEnd::never_connected("no connection in time")),
        };
        let mut connection = Connection::new(stream, Decoder::of_source_bytes());
        let answer = self.handshake(&mut connection).await;
        connection.finish().await;
        match answer {
            Err(end) => Err(self.judge(end).await),
            heartbeat => heartbeat,
        }
    }

    async fn handshake<S>(
        &self,
        connection: &mut Connection<S>,
    ) -> Result<Option<Heartbeat>, SessionEnd>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    {
        let clock = Clock::start();
        let end = self.feed.state().end;
        let options = FollowOptions {
            start: Start::After(end),
            stop: Some(end.index),
            path: self.lineage.borrow().path.clone(),
            deadlines: self.deadlines,
        };
        let me = self.name.local(self.log.identity());
        let mut session = FollowerSession::new(me, options, clock.now());
        loop {
            while let Some(action) = session.poll() {
                match action {
                    FollowerAction::Send(frame) => connection.send(&frame),
                    FollowerAction::Welcomed(welcome) => return Ok(welcome.heartbeat),
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
