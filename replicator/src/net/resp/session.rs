//! What one connection's commands do, in order.
//!
//! Invariants:
//! * commands take effect in the order they were sent: a write has its place in the sequencer's
//!   queue before the next command is looked at; a read behind an outstanding write goes through
//!   the sequencer too, and so sees that write and none that was sent later; what cannot go
//!   through it waits until every write is answered;
//! * a read with nothing outstanding before it is answered here and now;
//! * inside MULTI only data commands are accepted; one that was not makes EXEC fail.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quicksilver_format::Index;
use tokio::io::AsyncWrite;

use super::Service;
use super::answer::{Shape, read_error, write_error};
use super::command::{self, DataCommand, SYNTAX_ERROR, Spec, Verb, shown};
use super::format;
use super::info::{self, Client};
use super::maintenance::{self, Asked};
use super::output::Output;
use super::reply::{Protocol, Reply};
use super::scan::Match;
use crate::net::node::{Node, ReadError, WriteLimits, WritePath};
use crate::net::{HEAVY_BYTES, heavy};
use crate::root::request::{OpAnswer, Transaction, TxOp};

/// Keys a SCAN step returns unless COUNT says otherwise, and at most.
const SCAN_DEFAULT_KEYS: usize = 10;
const SCAN_MAX_KEYS: usize = 10_000;
/// Entries QS.LOG returns at most.
const LOG_MAX_ENTRIES: usize = 10_000;

/// Reading more keys than this at once is heavy work, whatever they hold.
const MANY_KEYS: usize = 64;

/// What the connection does after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next command.
    Continue,
    /// Leave when everything is answered.
    Close,
    /// WAIT: settle, wait for this many replicas or milliseconds (0: for ever), and reply.
    Wait { replicas: usize, timeout_ms: u64 },
}

#[derive(Debug, Default)]
struct Queued {
    commands: Vec<DataCommand>,
    ops: usize,
    bytes: usize,
    failed: bool,
}

/// One connection's state.
pub(super) struct Session {
    service: Arc<Service>,
    client: Client,
    protocol: Protocol,
    multi: Option<Queued>,
}

impl Session {
    pub(super) fn new(service: Arc<Service>, id: u64, peer: String) -> Self {
        Session { service, client: Client::new(id, peer), protocol: Protocol::Resp2, multi: None }
    }

    pub(super) fn node(&self) -> Arc<dyn Node> {
        Arc::clone(&self.service.node)
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bytes that are queued in MULTI.
    pub(super) fn queued_bytes(&self) -> usize {
        self.multi.as_ref().map_or(0, Queued::held_bytes)
    }

    /// Leaves MULTI, if it is in it.
    pub(super) fn forget_queue(&mut self) {
        self.multi = None;
    }

    /// Runs one command. An error is one of the connection's.
    pub(super) async fn execute<W: AsyncWrite + Unpin>(
        &mut self,
        arguments: Vec<Bytes>,
        output: &mut Output<W>,
    ) -> io::Result<Flow> {
        let spec = match command::resolve(&arguments) {
            Ok(spec) => spec,
            Err(error) => {
                self.refuse(error, output);
                return Ok(Flow::Continue);
            }
        };
        if self.multi.is_some() && !leaves_multi(spec.verb) {
            let reply = self.queue(spec, &arguments);
            output.push(reply, self.protocol);
            return Ok(Flow::Continue);
        }
        match command::parse_data(spec.verb, &arguments, self.service.limits.max_value_bytes) {
            Ok(Some(command)) => {
                self.run_data(command, output).await?;
                Ok(Flow::Continue)
            }
            Ok(None) => self.run_other(spec.verb, &arguments, output).await,
            Err(error) => {
                self.refuse(error, output);
                Ok(Flow::Continue)
            }
        }
    }

    /// An error; inside MULTI it also spoils the transaction.
    fn refuse<W: AsyncWrite + Unpin>(&mut self, error: String, output: &mut Output<W>) {
        if let Some(queued) = &mut self.multi {
            queued.failed = true;
        }
        output.push(Reply::Error(error), self.protocol);
    }

    /// Sends a transaction to the sequencer or, when nothing forces it there, reads locally.
    async fn run_data<W: AsyncWrite + Unpin>(
        &mut self,
        command: DataCommand,
        output: &mut Output<W>,
    ) -> io::Result<()> {
        let DataCommand { ops, shape, writes } = command;
        let service = Arc::clone(&self.service);
        if service.node.loading() {
            output.push(loading(), self.protocol);
            return Ok(());
        }
        let path = match service.node.writes() {
            Some(path) if writes || output.has_outstanding() => path,
            None if writes => {
                output.push(read_only(&service), self.protocol);
                return Ok(());
            }
            _ => {
                let reply = match service.read(&ops) {
                    Ok(answers) => shape.reply(&answers),
                    Err(error) => read_error(&error),
                };
                output.push(reply, self.protocol);
                return Ok(());
            }
        };
        match output.drive(path.submit(Transaction { ops })).await? {
            Ok(promise) => output.push_promise(promise, shape, self.protocol),
            Err(error) => output.push(write_error(&error), self.protocol),
        }
        Ok(())
    }

    fn queue(&mut self, spec: &Spec, arguments: &[Bytes]) -> Reply {
        let max_value_bytes = self.service.limits.max_value_bytes;
        let parsed = match spec.verb {
            Verb::Multi => return Reply::error("MULTI calls can not be nested"),
            Verb::Watch => return watch_refused(),
            Verb::Type | Verb::Ttl | Verb::PTtl => Ok(None),
            verb => command::parse_data(verb, arguments, max_value_bytes),
        };
        let writes = self.service.node.writes().map(WritePath::limits);
        let result = match parsed {
            Ok(Some(command)) if command.writes && writes.is_none() => {
                Err(read_only(&self.service))
            }
            Ok(Some(command)) => {
                let limits = writes.unwrap_or(self.service.read_limits());
                self.multi.get_or_insert_default().push(command, limits).map_err(Reply::Error)
            }
            Ok(None) => Err(Reply::error(format_args!("{} is not accepted in MULTI", spec.name))),
            Err(error) => Err(Reply::Error(error)),
        };
        result.map_or_else(
            |error| {
                self.multi.get_or_insert_default().failed = true;
                error
            },
            |()| Reply::Simple("QUEUED"),
        )
    }

    async fn exec<W: AsyncWrite + Unpin>(&mut self, output: &mut Output<W>) -> io::Result<()> {
        let Some(queued) = self.multi.take() else {
            output.push(Reply::error("EXEC without MULTI"), self.protocol);
            return Ok(());
        };
        if queued.failed {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            output.push(Reply::Error(text.to_owned()), self.protocol);
            return Ok(());
        }
        let writes = queued.commands.iter().any(|command| command.writes);
        let mut ops = Vec::with_capacity(queued.ops);
        let mut shapes = Vec::with_capacity(queued.commands.len());
        for command in queued.commands {
            shapes.push((command.shape, command.ops.len()));
            ops.extend(command.ops);
        }
        self.run_data(DataCommand { ops, shape: Shape::Exec(shapes), writes }, output).await
    }

    async fn run_other<W: AsyncWrite + Unpin>(
        &mut self,
        verb: Verb,
        arguments: &[Bytes],
        output: &mut Output<W>,
    ) -> io::Result<Flow> {
        let rest = arguments.get(1..).unwrap_or_default();
        if looks_at_the_node(verb) {
            output.settle().await?;
        }
        let reply = match verb {
            Verb::Quit => {
                output.push(Reply::OK, self.protocol);
                return Ok(Flow::Close);
            }
            Verb::Wait => match self.wait(rest) {
                Ok(flow) => return Ok(flow),
                Err(reply) => reply,
            },
            Verb::Exec => {
                self.exec(output).await?;
                return Ok(Flow::Continue);
            }
            Verb::Hello => self.hello(rest),
            Verb::QsFormat => match rest {
                [] => format::status(&self.service.node.status()),
                [order] if order.eq_ignore_ascii_case(b"FINALIZE") => {
                    format::answer(&output.drive(self.service.node.finalize_format()).await?)
                }
                _ => Reply::Error(SYNTAX_ERROR.to_owned()),
            },
            Verb::Multi => {
                self.multi = Some(Queued::default());
                Reply::OK
            }
            Verb::Discard => match self.multi.take() {
                Some(_) => Reply::OK,
                None => Reply::error("DISCARD without MULTI"),
            },
            Verb::Reset => {
                let (id, peer) = (self.client.id, std::mem::take(&mut self.client.peer));
                self.client = Client::new(id, peer);
                (self.multi, self.protocol) = (None, Protocol::Resp2);
                Reply::Simple("RESET")
            }
            Verb::Client => self.client.command(rest, self.protocol),
            other => match maintenance::parse(other, rest) {
                Some(asked) => self.maintain(asked, output).await?,
                None => self.service.answer(other, rest),
            },
        };
        output.push(reply, self.protocol);
        Ok(Flow::Continue)
    }

    async fn maintain<W: AsyncWrite + Unpin>(
        &self,
        asked: Result<Asked, Reply>,
        output: &mut Output<W>,
    ) -> io::Result<Reply> {
        let node = &self.service.node;
        Ok(match asked {
            Ok(Asked::Begin(kind)) => maintenance::begun(output.drive(node.begin_job(kind)).await?),
            Ok(Asked::List) => maintenance::list(&**node),
            Ok(Asked::Remove(name)) => maintenance::remove(&**node, &name),
            Err(refused) => refused,
        })
    }

    fn hello(&mut self, arguments: &[Bytes]) -> Reply {
        let mut protocol = self.protocol;
        let mut rest = arguments;
        if let [version, after @ ..] = arguments {
            protocol = match &version[..] {
                b"2" => Protocol::Resp2,
                b"3" => Protocol::Resp3,
                _ => {
                    return Reply::Error(
                        "NOPROTO unsupported protocol version; it is 2 or 3".to_owned(),
                    );
                }
            };
            rest = after;
        }
        let mut name = None;
        while let [option, after @ ..] = rest {
            rest = match (&option.to_ascii_uppercase()[..], after) {
                (b"AUTH", [_user, _password, ..]) => return no_password(),
                (b"SETNAME", [text, after @ ..]) => {
                    name = match info::client_name(text) {
                        Ok(name) => Some(name),
                        Err(reply) => return reply,
                    };
                    after
                }
                _ => {
                    let option = shown(option);
                    return Reply::error(format_args!("Syntax error in HELLO option '{option}'"));
                }
            };
        }
        self.protocol = protocol;
        if let Some(name) = name {
            self.client.name = name;
        }
        info::hello(protocol, self.client.id, self.service.role())
    }

    fn wait(&self, arguments: &[Bytes]) -> Result<Flow, Reply> {
        let [replicas, timeout_ms] = arguments else {
            return Err(Reply::Error(SYNTAX_ERROR.to_owned()));
        };
        if self.service.node.writes().is_none() {
            return Err(Reply::error(
                "WAIT asks about this connection's writes, and a relay has none; ask the root",
            ));
        }
        let replicas = number(replicas).ok_or_else(not_a_number)?;
        let timeout_ms = number(timeout_ms)
            .ok_or_else(|| Reply::error("timeout is not an integer or out of range"))?;
        Ok(Flow::Wait { replicas: usize::try_from(replicas).unwrap_or(usize::MAX), timeout_ms })
    }
}

impl Queued {
    fn held_bytes(&self) -> usize {
        let commands = self.commands.len() * size_of::<DataCommand>();
        self.bytes + self.ops * size_of::<TxOp>() + commands
    }

    fn push(&mut self, command: DataCommand, limits: WriteLimits) -> Result<(), String> {
        let ops = self.ops + command.ops.len();
        let carried = command.ops.iter().map(|op| match op {
            TxOp::Set { key, value, .. } => key.len() + value.len(),
            TxOp::Del { key } | TxOp::Get { key } | TxOp::Length { key } => key.len(),
        });
        let bytes = self.bytes + carried.sum::<usize>();
        let WriteLimits { max_ops, max_bytes, .. } = limits;
        if ops > max_ops || bytes > max_bytes {
            return Err(format!(
                "ERR transaction of {ops} steps and {bytes} bytes: at most {max_ops} steps and \
                 {max_bytes} bytes; split it"
            ));
        }
        (self.ops, self.bytes) = (ops, bytes);
        self.commands.push(command);
        Ok(())
    }
}

impl Service {
    /// Answers reads from the node's own data.
    fn read(&self, reads: &[TxOp]) -> Result<Vec<OpAnswer>, ReadError> {
        let bytes = self.weight(reads)?;
        heavy(bytes, || self.read_now(reads))
    }

    /// Bytes that these reads will copy, roughly, as far as it matters to [`heavy`].
    fn weight(&self, reads: &[TxOp]) -> Result<usize, ReadError> {
        if reads.len() > MANY_KEYS {
            return Ok(HEAVY_BYTES);
        }
        let mut bytes = 0_u64;
        for read in reads {
            if let TxOp::Get { key } = read {
                bytes += self.node.value_length(key)?.unwrap_or(0);
            }
        }
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn read_now(&self, reads: &[TxOp]) -> Result<Vec<OpAnswer>, ReadError> {
        match reads {
            [TxOp::Get { key }] => Ok(vec![OpAnswer::Value(self.node.get(key)?.map(Bytes::from))]),
            [TxOp::Length { key }] => Ok(vec![OpAnswer::Length(self.node.value_length(key)?)]),
            reads => self.node.read_many(reads, self.limits.max_request_bytes),
        }
    }

    fn read_limits(&self) -> WriteLimits {
        WriteLimits {
            max_value_bytes: self.limits.max_value_bytes,
            max_bytes: self.limits.max_request_bytes,
            max_ops: super::decode::MAX_ARGUMENTS,
        }
    }

    pub(super) fn role(&self) -> &'static str {
        if self.node.writes().is_some() { "master" } else { "slave" }
    }

    /// Commands that need nothing of the connection.
    fn answer(&self, verb: Verb, rest: &[Bytes]) -> Reply {
        match verb {
            Verb::Ping => match rest {
                [] => Reply::Simple("PONG"),
                [text] => Reply::Bulk(text.clone()),
                _ => Reply::error("wrong number of arguments for 'ping' command"),
            },
            Verb::Echo => rest.first().map_or(Reply::Nil, |text| Reply::Bulk(text.clone())),
            Verb::Select => match rest.first().and_then(|text| number(text)) {
                Some(0) => Reply::OK,
                _ => Reply::error("DB index is out of range: there is only database 0"),
            },
            Verb::ReadOnly | Verb::Unwatch => Reply::OK,
            Verb::Watch => watch_refused(),
            Verb::Auth => no_password(),
            Verb::Keys => Reply::error(
                "KEYS is not supported: it would read the whole database at once; use SCAN 0 \
                 MATCH prefix*",
            ),
            Verb::Config => info::config(rest, &self.limits),
            Verb::Command => info::command(rest),
            Verb::Info => info::info(rest, &self.node.status(), &self.figures()),
            Verb::QsStatus => match serde_json::to_string(&self.node.status()) {
                Ok(json) => Reply::text(json),
                Err(error) => Reply::error(error),
            },
            Verb::QsIndex => Reply::count(self.node.index().get()),
            _ if self.node.loading() => loading(),
            Verb::DbSize => Reply::count(self.node.key_count()),
            Verb::QsLog => self.log(rest),
            Verb::Scan => self.scan(rest).unwrap_or_else(|reply| reply),
            _ => Reply::error("internal error: a command without an answer; report it"),
        }
    }

    fn log(&self, rest: &[Bytes]) -> Reply {
        let [from, count] = rest else { return Reply::Error(SYNTAX_ERROR.to_owned()) };
        let (Some(from), Some(count)) = (number(from), number(count)) else {
            return not_a_number();
        };
        let limit = usize::try_from(count).unwrap_or(usize::MAX).min(LOG_MAX_ENTRIES);
        let from = Index::new(from).max(Index::FIRST);
        // Whole batches are read and decompressed for a single entry of theirs.
        let read = || self.node.log(from, limit, self.limits.max_request_bytes);
        match heavy(HEAVY_BYTES, read) {
            Err(error) => read_error(&error),
            Ok(lines) => Reply::Array(
                lines
                    .into_iter()
                    .map(|line| {
                        let verb = if line.value.is_some() { "SET" } else { "DEL" };
                        let mut fields = vec![
                            Reply::count(line.index.get()),
                            Reply::text(verb),
                            Reply::Bulk(line.key.into()),
                        ];
                        fields.extend(line.value.map(|value| Reply::Bulk(value.into())));
                        Reply::Array(fields)
                    })
                    .collect(),
            ),
        }
    }

    fn scan(&self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        let [cursor, options @ ..] = arguments else {
            return Err(Reply::Error(SYNTAX_ERROR.to_owned()));
        };
        let cursor = number(cursor).ok_or_else(|| Reply::error("invalid cursor; begin with 0"))?;
        let mut wanted = Match::Prefix(Bytes::new());
        let mut rest = options;
        let (mut limit, mut nothing) = (SCAN_DEFAULT_KEYS, false);
        while let [option, value, after @ ..] = rest {
            match &option.to_ascii_uppercase()[..] {
                b"MATCH" => wanted = Match::parse(value).ok_or_else(glob_refused)?,
                b"COUNT" => {
                    let count = number(value).ok_or_else(not_a_number)?;
                    limit = usize::try_from(count).unwrap_or(usize::MAX).min(SCAN_MAX_KEYS);
                }
                b"TYPE" => nothing = !value.eq_ignore_ascii_case(b"string"),
                _ => return Err(Reply::Error(SYNTAX_ERROR.to_owned())),
            }
            rest = after;
        }
        if !rest.is_empty() || limit == 0 {
            return Err(Reply::Error(SYNTAX_ERROR.to_owned()));
        }
        let after = match cursor {
            0 => None,
            cursor => Some(self.cursors.resume(cursor).ok_or_else(|| {
                Reply::error(
                    "this SCAN cursor is not known (any more, or to this node); start again with 0",
                )
            })?),
        };
        if nothing {
            return Ok(scanned(0, Vec::new()));
        }
        let failed = |error: ReadError| read_error(&error);
        match wanted {
            Match::Exactly(key) => {
                let found =
                    !key.is_empty() && self.node.value_length(&key).map_err(failed)?.is_some();
                Ok(scanned(0, if found { vec![key.to_vec()] } else { Vec::new() }))
            }
            Match::Prefix(prefix) => {
                let keys = self.node.scan(&prefix, after.as_deref(), limit).map_err(failed)?;
                let next = match keys.last() {
                    Some(last) if keys.len() >= limit => self.cursors.keep(cursor, last.clone()),
                    _ => 0,
                };
                Ok(scanned(next, keys))
            }
        }
    }
}

fn scanned(cursor: u64, keys: Vec<Vec<u8>>) -> Reply {
    let keys = keys.into_iter().map(|key| Reply::Bulk(key.into())).collect();
    Reply::Array(vec![Reply::text(cursor.to_string()), Reply::Array(keys)])
}

/// Commands that do what they always do, also after MULTI.
fn leaves_multi(verb: Verb) -> bool {
    matches!(verb, Verb::Exec | Verb::Discard | Verb::Quit | Verb::Reset)
}

/// Commands whose answer depends on which writes are done.
fn looks_at_the_node(verb: Verb) -> bool {
    use Verb::{
        DbSize, Info, QsCompact, QsFormat, QsIndex, QsLog, QsSnapshot, QsStatus, QsVerify, Scan,
    };
    matches!(
        verb,
        DbSize
            | Info
            | QsCompact
            | QsFormat
            | QsIndex
            | QsLog
            | QsSnapshot
            | QsStatus
            | QsVerify
            | Scan
    )
}

/// A decimal number without a sign.
fn number(text: &[u8]) -> Option<u64> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn not_a_number() -> Reply {
    Reply::error("value is not an integer or out of range")
}

fn loading() -> Reply {
    Reply::Error(
        "LOADING the node is fetching its first copy of the database; try again, or another node"
            .to_owned(),
    )
}

fn no_password() -> Reply {
    Reply::error("AUTH was sent, but no password is set: who may connect decides; leave AUTH out")
}

fn watch_refused() -> Reply {
    Reply::error("WATCH is not supported: use SET NX or SET XX, or decide in MULTI")
}

fn glob_refused() -> Reply {
    Reply::error("MATCH supports a literal key or prefix*, no other pattern")
}

fn read_only(service: &Service) -> Reply {
    Reply::Error(match service.node.root_client() {
        Some(root) => format!("READONLY this node is a relay; write to the root at {root}"),
        None => "READONLY this node is a relay and has not learned where its root is; write to \
                 the root, or set listen.client there and try again"
            .to_owned(),
    })
}
