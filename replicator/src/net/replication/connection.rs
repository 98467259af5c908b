//! One stream: frames in, frames out.
//!
//! Invariants:
//! * memory for what comes in grows with what has arrived, never with what a header promises;
//! * what goes out is queued only by the session, which queues a bounded amount; the queue is
//!   emptied at the pace of the socket;
//! * [`Connection::exchange`] loses nothing when it is dropped half-way.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quicksilver_protocol::{Decoded, Decoder, EncodedFrame, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

/// The input buffer grows by so much when it is nearly full.
const READ_BYTES: usize = 64 << 10;
/// Nearly full. Small frames share a piece of memory until it is used up, so that a frame that
/// is kept for long keeps little more than itself.
const READ_LEAST_BYTES: usize = 4 << 10;
/// A payload up to this size is copied next to its header, so that one write takes both.
const COALESCE_BYTES: usize = 16 << 10;
/// A socket that has taken so many bytes, or all there were, has made progress; less is a trickle,
/// with which nobody gets anywhere.
const PROGRESS_BYTES: usize = 256 << 10;
/// For the last words of a session.
const GOODBYE: Duration = Duration::from_secs(5);

/// What [`Connection::exchange`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes came.
    Read(usize),
    /// Bytes went.
    Wrote,
    /// The other end will send no more.
    Eof,
}

/// See the module.
#[derive(Debug)]
pub struct Connection<S> {
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    decoder: Decoder,
    input: BytesMut,
    output: VecDeque<Bytes>,
    last_progress: Instant,
    /// What was taken since then.
    taken_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Around a stream whose bytes `decoder` understands.
    pub fn new(stream: S, decoder: Decoder) -> Self {
        let (read, write) = tokio::io::split(stream);
        let last_progress = Instant::now();
        Connection {
            read,
            write,
            decoder,
            input: BytesMut::new(),
            output: VecDeque::new(),
            last_progress,
            taken_bytes: 0,
        }
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &EncodedFrame) {
        if self.output.is_empty() {
            self.progressed();
        }
        let payload = frame.payload();
        if payload.len() <= COALESCE_BYTES {
            let mut whole = BytesMut::with_capacity(frame.wire_bytes());
            frame.write_to(&mut whole);
            self.output.push_back(whole.freeze());
        } else {
            self.output.push_back(Bytes::copy_from_slice(frame.header()));
            self.output.push_back(payload.clone());
        }
    }

    /// Whether everything queued is with the kernel.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Since when the socket has taken nothing, or next to nothing, of what is queued.
    pub fn stalled_since(&self) -> Option<Instant> {
        (!self.output.is_empty()).then_some(self.last_progress)
    }

    /// The kind of the first frame, as soon as it has come; `None` when the other end is gone before.
    pub async fn first_kind(&mut self) -> io::Result<Option<u8>> {
        loop {
            if let Some(kind) = self.decoder.kind_of_first(&self.input) {
                return Ok(Some(kind));
            }
            if self.exchange(true).await? == Moved::Eof {
                return Ok(None);
            }
        }
    }

    /// The next frame among the bytes that have come.
    pub fn next_frame(&mut self) -> Result<Decoded, FrameError> {
        self.decoder.decode(&mut self.input)
    }

    /// Reads (if `reading`) or writes (if something is queued), whichever is possible first; waits
    /// for ever when there is nothing to do.
    pub async fn exchange(&mut self, reading: bool) -> io::Result<Moved> {
        if reading && self.input.capacity() - self.input.len() < READ_LEAST_BYTES {
            self.input.reserve(READ_BYTES);
        }
        let front = self.output.front().cloned().unwrap_or_default();
        tokio::select! {
            read = self.read.read_buf(&mut self.input), if reading => {
                Ok(match read? {
                    0 => Moved::Eof,
                    bytes => Moved::Read(bytes),
                })
            }
            written = self.write.write(&front), if !front.is_empty() => {
                self.written(written?)?;
                Ok(Moved::Wrote)
            }
            else => std::future::pending().await,
        }
    }

    fn written(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(front) = self.output.front_mut() {
            front.advance(bytes.min(front.len()));
            if front.is_empty() {
                self.output.pop_front();
            }
        }
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
        if self.output.is_empty() || self.taken_bytes >= PROGRESS_BYTES {
            self.progressed();
        }
        Ok(())
    }

    fn progressed(&mut self) {
        self.last_progress = Instant::now();
        self.taken_bytes = 0;
    }

    /// Writes what is queued and closes. What the other end still sends is read and dropped for a
    /// moment: closing a socket with unread bytes would reset it and lose the last words.
    pub async fn finish(mut self) {
        let goodbye = async {
            while !self.output.is_empty() {
                if self.exchange(false).await.is_err() {
                    return;
                }
            }
            if self.write.shutdown().await.is_err() {
                return;
            }
            let mut dropped_bytes = 0;
            self.input = BytesMut::with_capacity(READ_LEAST_BYTES);
            while dropped_bytes < READ_BYTES {
                self.input.clear();
                match self.read.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => dropped_bytes += n,
                }
            }
        };
        // Whoever does not listen now has been told nothing, and finds out from the socket.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}
