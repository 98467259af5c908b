//! The replying half of a connection: replies leave in the order of their requests.
//!
//! Invariants:
//! * a reply whose write is not durable yet holds back every reply after it, and nothing else:
//!   whatever the connection waits for, it waits in [`Output::drive`], which goes on collecting
//!   answers and writing replies;
//! * while no write is outstanding, replies go straight into the output buffer;
//! * what is held for a client that does not read is bounded: [`Output::relieve`]; what is held for
//!   all of them is, too: a large reply for which there is no share is replaced by an error;
//! * a client that takes nothing of its replies within the deadline ends the connection.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;

use bytes::BytesMut;
use quicksilver_format::Index;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, sleep_until};

use super::answer::{Shape, write_error};
use super::budget::{OutOfBudget, Share};
use super::reply::{Protocol, Reply};
use crate::net::node::Promise;
use crate::root::request::{Answer, WriteError};

/// Encoded replies that may wait for the socket before no more requests are executed.
const MAX_ENCODED_BYTES: usize = 256 << 10;
/// Bytes of replies that may wait behind an outstanding write.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// Outstanding writes and the replies behind them.
const MAX_WAITING: usize = 16_384;
/// A buffer that has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;
/// A reply up to this size is worth no refusal, which would be as long.
const SMALL_BYTES: usize = 256;

enum Waiting {
    Reply(Reply, Protocol),
    Answer(Promise, Shape, Protocol),
}

/// Replies on their way out.
pub(super) struct Output<W> {
    writer: W,
    encoded: BytesMut,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Most bytes encoded since the buffer was empty: it does not shrink before that.
    buffer_bytes: usize,
    share: Share,
    /// Whether a reply was replaced.
    refused: bool,
    stall_deadline: Duration,
    /// Since when the client has taken nothing of what is encoded.
    stalled_since: Option<Instant>,
    /// The log's end that covers every write answered so far.
    written: Index,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub(super) fn new(writer: W, share: Share, stall_deadline: Duration) -> Self {
        Output {
            writer,
            encoded: BytesMut::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            buffer_bytes: 0,
            share,
            refused: false,
            stall_deadline,
            stalled_since: None,
            written: Index::ZERO,
        }
    }

    /// Whether writes of this connection are not answered yet.
    pub(super) fn has_outstanding(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The log's end that covers this connection's answered writes.
    pub(super) fn written(&self) -> Index {
        self.written
    }

    /// The next reply.
    pub(super) fn push(&mut self, reply: Reply, protocol: Protocol) {
        let reply =
            self.admit(reply, |refusal| Reply::Error(format!("TRYAGAIN {refusal}; try again")));
        if self.waiting.is_empty() {
            self.encode(&reply, protocol);
        } else {
            self.waiting_bytes += reply.held_bytes();
            self.waiting.push_back(Waiting::Reply(reply, protocol));
        }
    }

    /// The next reply, not known yet.
    pub(super) fn push_promise(&mut self, promise: Promise, shape: Shape, protocol: Protocol) {
        self.waiting.push_back(Waiting::Answer(promise, shape, protocol));
    }

    /// Waits until so little is held that another request may be executed.
    pub(super) async fn relieve(&mut self) -> io::Result<()> {
        while self.encoded.len() > MAX_ENCODED_BYTES
            || self.waiting_bytes > MAX_WAITING_BYTES
            || self.waiting.len() >= MAX_WAITING
        {
            self.step().await?;
        }
        Ok(())
    }

    /// Waits until every write so far is answered.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        while self.has_outstanding() {
            self.step().await?;
        }
        Ok(())
    }

    /// Waits until everything is answered and written.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while self.has_outstanding() || !self.encoded.is_empty() {
            self.step().await?;
        }
        self.writer.flush().await
    }

    /// Says that nothing more will come.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    /// Waits for something else, and meanwhile collects answers and writes replies.
    pub(super) async fn drive<F: Future>(&mut self, other: F) -> io::Result<F::Output> {
        let mut other = pin!(other);
        loop {
            let idle = self.waiting.is_empty() && self.encoded.is_empty();
            tokio::select! {
                biased;
                stepped = self.step(), if !idle => stepped?,
                output = &mut other => return Ok(output),
            }
        }
    }

    /// One answer or one write to the socket. Cancelling it loses nothing.
    async fn step(&mut self) -> io::Result<()> {
        let answer = match self.waiting.front_mut() {
            Some(Waiting::Answer(promise, ..)) => Some(promise),
            _ => None,
        };
        let room = self.encoded.len() <= MAX_ENCODED_BYTES;
        let stalled = match self.stalled_since {
            _ if self.encoded.is_empty() => None,
            Some(since) => Some(since),
            None => Some(Instant::now()),
        };
        self.stalled_since = stalled;
        let deadline = stalled.map(|since| since + self.stall_deadline);
        let answered = tokio::select! {
            biased;
            // Answers first: those that are ready leave in one write.
            result = async { match answer {
                Some(promise) => promise.await,
                None => std::future::pending().await,
            } }, if room => Some(result),
            written = self.writer.write_buf(&mut self.encoded), if !self.encoded.is_empty() => {
                if written? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.stalled_since = None;
                None
            }
            () = async { match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            } } => {
                let what = "the client takes nothing of its replies";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
        };
        match answered {
            Some(result) => self.answered(result),
            None => {
                if self.encoded.is_empty() && self.encoded.capacity() > KEPT_BUFFER_BYTES {
                    self.encoded = BytesMut::new();
                }
                self.release();
            }
        }
        Ok(())
    }

    /// The promise at the front was kept or broken.
    fn answered(&mut self, result: Result<Answer, WriteError>) {
        if let Some(Waiting::Answer(_, shape, protocol)) = self.waiting.pop_front() {
            let reply = match result {
                Ok(answer) => {
                    self.written = self.written.max(answer.index);
                    shape.reply(&answer.ops)
                }
                Err(error) => write_error(&error),
            };
            let reply = self.admit(reply, |refusal| {
                Reply::Error(format!(
                    "UNKNOWN the commands were done, their reply is lost: {refusal}"
                ))
            });
            self.encode(&reply, protocol);
        }
        self.release();
    }

    /// Encodes the replies that nothing holds back any more.
    fn release(&mut self) {
        while self.encoded.len() <= MAX_ENCODED_BYTES
            && let Some(Waiting::Reply(..)) = self.waiting.front()
        {
            if let Some(Waiting::Reply(reply, protocol)) = self.waiting.pop_front() {
                self.waiting_bytes -= reply.held_bytes();
                self.encode(&reply, protocol);
            }
        }
        if self.encoded.is_empty() {
            self.buffer_bytes = 0;
        }
        // What was refused stays uncharged.
        let _ = self.share.hold(self.held_bytes());
    }

    fn encode(&mut self, reply: &Reply, protocol: Protocol) {
        reply.encode(protocol, &mut self.encoded);
        self.buffer_bytes = self.buffer_bytes.max(self.encoded.len());
    }

    fn held_bytes(&self) -> usize {
        self.buffer_bytes + self.waiting_bytes
    }

    /// Charges for a reply, or replaces it.
    fn admit(&mut self, reply: Reply, refused: impl FnOnce(OutOfBudget) -> Reply) -> Reply {
        let bytes = reply.held_bytes();
        match self.share.hold(self.held_bytes() + bytes) {
            Ok(()) => reply,
            Err(_) if bytes <= SMALL_BYTES => reply,
            Err(refusal) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(bytes, error = %refusal, "a client was refused a reply");
                }
                refused(refusal)
            }
        }
    }
}
