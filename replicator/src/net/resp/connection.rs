//! One connection: reads, decodes, executes, replies.
//!
//! Invariants:
//! * everything runs in one task: what the connection waits for is waited for in
//!   [`Output::drive`], so replies keep leaving meanwhile;
//! * a request that was begun and not completed within its deadline closes the connection;
//! * what the client has sent and is kept (an incomplete request, a MULTI queue) has a share of
//!   the memory for all clients; without one the connection is closed;
//! * when the process leaves, requests that have arrived are answered first; a connection that was
//!   just accepted is given a moment to send its first, so that whoever was asked to leave by one
//!   process and came to this one is not sent away twice.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Unsettled;
use super::budget::{OutOfBudget, Share};
use super::decode::{Decoder, ProtocolError};
use super::output::Output;
use super::reply::Reply;
use super::session::{Flow, Session};

/// Room for one read.
const READ_BYTES: usize = 32 << 10;
/// An empty buffer that has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 128 << 10;
/// Bytes that may arrive while WAIT waits: enough to notice the end.
const AHEAD_BYTES: usize = 64 << 10;
/// After a protocol error the client is still sending: listen on for so long and so much, since
/// closing at once would discard the error on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;

/// For the first request of a new connection, when the process leaves.
const FRESH: Duration = Duration::from_millis(100);

struct Connection<S> {
    reader: ReadHalf<S>,
    input: BytesMut,
    decoder: Decoder,
    session: Session,
    output: Output<WriteHalf<S>>,
    /// Of what was sent and is kept.
    share: Share,
    /// The client sends nothing more.
    ended: bool,
    /// The process is leaving.
    leaving: bool,
    /// Until its last write is answered.
    unsettled: Option<Unsettled>,
    /// Until when it waits for its first request although the process leaves; none after that one.
    fresh_until: Option<Instant>,
    request_began: Option<Instant>,
    request_deadline: Duration,
}

enum End {
    Done,
    Protocol(ProtocolError),
    OutOfBudget(OutOfBudget),
}

/// Serves a connection to its end.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    peer: &str,
    unsettled: Unsettled,
    mut shutdown: watch::Receiver<bool>,
) {
    let service = Arc::clone(&unsettled.0);
    let (reader, writer) = tokio::io::split(stream);
    let decoder = Decoder::new(service.limits.decode());
    let super::ClientLimits { request_deadline, stall_deadline, .. } = service.limits;
    let [share, of_output] = [(); 2].map(|()| Share::new(&service.budget));
    let id = service.next_client_id();
    let session = Session::new(service, id, peer.to_owned());
    let mut connection = Connection {
        reader,
        input: BytesMut::new(),
        decoder,
        session,
        output: Output::new(writer, of_output, stall_deadline),
        share,
        ended: false,
        leaving: false,
        unsettled: Some(unsettled),
        fresh_until: Some(Instant::now() + FRESH),
        request_began: None,
        request_deadline,
    };
    // A dropped sender means that the process is leaving, too.
    let leaving = pin!(async move {
        let _ = shutdown.wait_for(|leaving| *leaving).await;
    });
    let result = match connection.serve(leaving).await {
        Ok(end) => connection.close(end, peer).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => tracing::debug!(peer, "client left"),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            tracing::warn!(peer, %error, "client connection closed");
        }
        Err(error) => tracing::debug!(peer, %error, "client connection ended"),
    }
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    async fn serve<L>(&mut self, mut leaving: Pin<&mut L>) -> io::Result<End>
    where
        L: Future<Output = ()>,
    {
        loop {
            match self.decoder.next(&mut self.input) {
                Err(error) => return Ok(End::Protocol(error)),
                Ok(Some(arguments)) => {
                    self.request_began = None;
                    self.fresh_until = None;
                    match self.session.execute(arguments, &mut self.output).await? {
                        Flow::Continue => {}
                        Flow::Close => return Ok(End::Done),
                        Flow::Wait { replicas, timeout_ms } => {
                            self.wait(replicas, timeout_ms, leaving.as_mut()).await?;
                        }
                    }
                    self.output.relieve().await?;
                    continue;
                }
                Ok(None) => {}
            }
            let held = self.decoder.held_bytes(&self.input) + self.session.queued_bytes();
            if let Err(refusal) = self.share.hold(held) {
                return Ok(End::OutOfBudget(refusal));
            }
            let within_request = self.decoder.is_within_request(&self.input);
            let fresh_until = self.fresh_until.filter(|until| *until > Instant::now());
            if self.ended || (self.leaving && !within_request && fresh_until.is_none()) {
                return Ok(End::Done);
            }
            let deadline = within_request.then(|| {
                *self.request_began.get_or_insert_with(Instant::now) + self.request_deadline
            });
            let Connection { reader, input, output, leaving: asked_to_leave, .. } = self;
            make_room(input);
            let reading = async {
                tokio::select! {
                    biased;
                    read = reader.read_buf(input) => read.map(Some),
                    () = leaving.as_mut(), if !*asked_to_leave => Ok(None),
                    () = until(fresh_until), if *asked_to_leave => Ok(None),
                    () = until(deadline) => Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "a request was begun and not completed in time",
                    )),
                }
            };
            match output.drive(reading).await?? {
                Some(0) => self.ended = true,
                Some(_) => {}
                None => self.leaving = true,
            }
        }
    }

    /// WAIT: replies with the number of replicas that have this connection's writes.
    async fn wait<L: Future<Output = ()>>(
        &mut self,
        replicas: usize,
        timeout_ms: u64,
        leaving: Pin<&mut L>,
    ) -> io::Result<()> {
        self.output.settle().await?;
        let written = self.output.written();
        let node = self.session.node();
        let Connection { reader, input, output, ended, leaving: asked_to_leave, .. } = self;
        let enough = async {
            let mut progress = node.progress();
            loop {
                progress.borrow_and_update();
                if node.replicas_at(written) >= replicas || progress.changed().await.is_err() {
                    return io::Result::Ok(());
                }
            }
        };
        let expire = async {
            match timeout_ms {
                0 => std::future::pending().await,
                timeout_ms => tokio::time::sleep(Duration::from_millis(timeout_ms)).await,
            }
        };
        let hang_up = async {
            if *ended {
                return Ok(());
            }
            while input.len() < AHEAD_BYTES {
                make_room(input);
                if reader.read_buf(input).await? == 0 {
                    *ended = true;
                    return Ok(());
                }
            }
            std::future::pending().await
        };
        let waiting = async {
            tokio::select! {
                biased;
                result = enough => result,
                result = hang_up => result,
                () = expire => Ok(()),
                () = leaving, if !*asked_to_leave => {
                    *asked_to_leave = true;
                    Ok(())
                }
            }
        };
        output.drive(waiting).await??;
        let count = node.replicas_at(written);
        self.output.push(Reply::count(count), self.session.protocol());
        Ok(())
    }

    /// Gives back what is kept of what the client has sent, and its share. A smaller share is
    /// never refused.
    fn forget(&mut self) {
        self.session.forget_queue();
        self.decoder.forget();
        self.input = BytesMut::new();
        let _ = self.share.hold(0);
    }

    async fn close(&mut self, end: End, peer: &str) -> io::Result<()> {
        let refusal = match end {
            End::Done => None,
            End::Protocol(error) => Some(format!("ERR {error}")),
            End::OutOfBudget(refusal) => Some(format!("TRYAGAIN {refusal}; try again")),
        };
        if let Some(error) = &refusal {
            tracing::warn!(peer, error, "client connection closed");
            self.output.push(Reply::Error(error.clone()), self.session.protocol());
        }
        self.forget();
        self.output.settle().await?;
        // The rest is between this client and its socket.
        self.unsettled = None;
        self.output.finish().await?;
        self.output.shutdown().await?;
        if refusal.is_some() {
            // Whatever this ends with, the connection is closed.
            let _ = timeout(LINGER, discard(&mut self.reader, &mut self.input)).await;
        }
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn make_room(input: &mut BytesMut) {
    if input.is_empty() && input.capacity() > KEPT_BUFFER_BYTES {
        *input = BytesMut::new();
    }
    if input.capacity() - input.len() < READ_BYTES / 2 {
        input.reserve(READ_BYTES);
    }
}

async fn discard<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut BytesMut) -> io::Result<()> {
    let mut left = LINGER_BYTES;
    while left > 0 {
        buffer.clear();
        make_room(buffer);
        match reader.read_buf(buffer).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}
