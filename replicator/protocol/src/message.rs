//! Messages: what frames say. One encode and one decode per kind; `docs/PROTOCOL.md` draws them.
//!
//! Invariants:
//! * a `Hello` begins with the magic and the version range, in every version there will ever be,
//!   so that two releases without a common version can still tell each other so;
//! * later versions may append fields to `Hello`, `Welcome`, `Refused`, `Fetch` and `Offer`, which
//!   older releases ignore, and so may advice; every other message must end where its last field
//!   does;
//! * a batch record and a control record travel as they are stored; nothing here copies a batch;
//! * a control record of a kind this release does not know comes through untouched.
//!
//! A text is its length (u16) and UTF-8, an id its 16 bytes, an optional field a byte 0 or 1
//! followed, when it is 1, by the field. Integers are little-endian.

use std::fmt;

use bytes::Bytes;
use quicksilver_format::limits::NAME_MAX_BYTES;
use quicksilver_format::manifest::SnapshotHash;
use quicksilver_format::{
    ControlRecord, DbId, FormatError, Heartbeat, HistoryId, Index, NodeId, Position, ProcessId,
    RunningHash,
};

use crate::frame::{Frame, Kind};
use crate::wire::{Reader, put_text};

/// The newest protocol version this release speaks.
const NEWEST_VERSION: u16 = if cfg!(feature = "next-protocol") { 2 } else { 1 };
/// The first bytes of a session.
pub const MAGIC: [u8; 4] = *b"QSRP";
/// Longest path from the root, the node itself included. A tree of fifty downstreams a node has
/// more than 10^50 leaves long before; a path this long is a loop.
pub const PATH_MAX_HOPS: usize = 32;
/// Longest site name.
pub const SITE_MAX_BYTES: usize = NAME_MAX_BYTES;
/// Longest client address of the root.
pub const ROOT_CLIENT_MAX_BYTES: usize = 256;
/// Longest explanation of a refusal; a longer one is cut.
pub const REASON_MAX_BYTES: usize = 1024;

/// Protocol versions a release speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// What this release speaks: its own version and that of the release before it, so that either
    /// may be upgraded first. `docs/PROTOCOL.md` says how a new version is introduced.
    pub const OURS: VersionRange = VersionRange { min: 1, max: NEWEST_VERSION };

    /// The newest version that both speak.
    pub fn common(&self, other: &VersionRange) -> Option<u16> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// One node on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Its name.
    pub node_id: NodeId,
    /// Its run.
    pub process_id: ProcessId,
}

/// Who this end is. The database is part of it: a replicator serves exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    /// The database.
    pub db_id: DbId,
    /// Its past; `None` while this node has nothing and takes what its upstream has.
    pub history: Option<HistoryId>,
    /// The node's name.
    pub node_id: NodeId,
    /// Where it is.
    pub site: String,
    /// This run of it.
    pub process_id: ProcessId,
}

impl LocalNode {
    /// As a part of a path.
    pub fn hop(&self) -> Hop {
        Hop { node_id: self.node_id.clone(), process_id: self.process_id }
    }

    /// Where on `path` this node is met: its run, or another run under the same name.
    pub fn position_on(&self, path: &[Hop]) -> Option<usize> {
        path.iter().position(|hop| hop.process_id == self.process_id || hop.node_id == self.node_id)
    }
}

/// Where a node hangs in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    /// From the root (or from a relay that has no upstream at present) to the node itself.
    pub path: Vec<Hop>,
    /// Whether the path begins at the root.
    pub connected_to_root: bool,
    /// Where writers reach the root, for READONLY answers; empty when unknown. A relay that lost
    /// its upstream goes on naming the last one it knew.
    pub root_client: String,
}

impl Lineage {
    /// Of the root itself.
    pub fn root(me: &LocalNode, root_client: String) -> Self {
        Lineage { path: vec![me.hop()], connected_to_root: true, root_client }
    }

    /// Of a relay without upstream; `root_client` is the last one it knew.
    pub fn orphan(me: &LocalNode, root_client: String) -> Self {
        Lineage { path: vec![me.hop()], connected_to_root: false, root_client }
    }

    /// Of a relay whose upstream has this lineage.
    #[must_use]
    pub fn extended_to(&self, me: &LocalNode) -> Self {
        let mut path = self.path.clone();
        path.push(me.hop());
        Lineage { path, ..self.clone() }
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.connected_to_root { "" } else { "(no root) > " })?;
        for (n, hop) in self.path.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { " > " }, hop.node_id)?;
        }
        Ok(())
    }
}

/// How large the root lets the live data grow. It is told to every node, so that one whose map or
/// disk is smaller says so at once, and not when it is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// `limits.max_db_bytes` of the root.
    pub max_db_bytes: u64,
}

/// Where a follower wants to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the entry after this one.
    After(Position),
    /// With the next batch there will be: an observer without a store.
    Newest,
}

/// The follower's opening.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What it speaks.
    pub versions: VersionRange,
    /// Who it is.
    pub node: LocalNode,
    /// How it hung in the tree when it last did, itself included: for logs and status only.
    pub path: Vec<Hop>,
    /// Where to start.
    pub start: Start,
    /// Where to stop: at the last batch that ends at or before this index.
    pub stop: Option<Index>,
}

/// The source's consent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// What both speak from here on.
    pub version: u16,
    /// The source's database.
    pub db_id: DbId,
    /// Its past; a follower whose position fits takes it over.
    pub history: HistoryId,
    /// The source's name.
    pub node_id: NodeId,
    /// Where it is.
    pub site: String,
    /// This run of it.
    pub process_id: ProcessId,
    /// How it hangs in the tree.
    pub lineage: Lineage,
    /// Where its log ends at present.
    pub position: Position,
    /// The oldest entry it still has.
    pub oldest: Index,
    /// The newest heartbeat it has seen. It tells how fresh the source is; it does not count as
    /// received.
    pub heartbeat: Option<Heartbeat>,
    /// **For tests only**: the source's release, which version 2 of the tests appends.
    #[cfg(feature = "next-protocol")]
    pub release: String,
}

/// Why a source will not serve a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// They hold different databases.
    WrongDatabase {
        /// The follower's.
        yours: DbId,
        /// The source's.
        mine: DbId,
    },
    /// The follower is the source.
    SelfConnection,
    /// The source follows the follower, directly or through others.
    Cycle,
    /// The follower's position is older than the source's log.
    LogTooOld {
        /// The oldest entry the source has.
        oldest: Index,
    },
    /// The source has another past at the follower's position.
    Diverged {
        /// The follower's index.
        index: Index,
        /// The source's hash there.
        mine: RunningHash,
    },
    /// The source has not come as far as the follower. No divergence: wait, or try another.
    Behind {
        /// Where the source's log ends.
        position: Position,
    },
    /// The source has as many downstreams as it takes.
    Busy {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// No common protocol version.
    Version(VersionRange),
    /// The source could not make sense of what it received.
    Malformed,
    /// A reason of a later release.
    Other(u8),
}

const REFUSED_WRONG_DATABASE: u8 = 1;
const REFUSED_SELF: u8 = 2;
const REFUSED_CYCLE: u8 = 3;
const REFUSED_LOG_TOO_OLD: u8 = 4;
const REFUSED_DIVERGED: u8 = 5;
const REFUSED_BEHIND: u8 = 6;
const REFUSED_BUSY: u8 = 7;
const REFUSED_VERSION: u8 = 8;
const REFUSED_MALFORMED: u8 = 9;

impl Refusal {
    /// Its number on the wire.
    pub fn code(&self) -> u8 {
        match self {
            Refusal::WrongDatabase { .. } => REFUSED_WRONG_DATABASE,
            Refusal::SelfConnection => REFUSED_SELF,
            Refusal::Cycle => REFUSED_CYCLE,
            Refusal::LogTooOld { .. } => REFUSED_LOG_TOO_OLD,
            Refusal::Diverged { .. } => REFUSED_DIVERGED,
            Refusal::Behind { .. } => REFUSED_BEHIND,
            Refusal::Busy { .. } => REFUSED_BUSY,
            Refusal::Version(_) => REFUSED_VERSION,
            Refusal::Malformed => REFUSED_MALFORMED,
            Refusal::Other(code) => *code,
        }
    }

    /// In one word, for metrics and logs; the same that its follower gives for the end.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::WrongDatabase { .. } => "wrong-database",
            Refusal::SelfConnection => "self",
            Refusal::Cycle => "cycle",
            Refusal::LogTooOld { .. } => "log-too-old",
            Refusal::Diverged { .. } => "diverged",
            Refusal::Behind { .. } => "behind",
            Refusal::Busy { .. } => "busy",
            Refusal::Version(_) => "version",
            Refusal::Malformed => "malformed",
            Refusal::Other(_) => "refused",
        }
    }
}

/// A refusal and its explanation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The reason.
    pub refusal: Refusal,
    /// The source's words for an operator.
    pub explanation: String,
}

/// Why an end leaves a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByeReason {
    /// The follower has everything up to where it wanted to stop.
    StopReached,
    /// The process goes away, or is about to be replaced by a newer one.
    Restarting,
    /// The source begins anew from what is on its disk: a commit failed, so that what it passed on
    /// last may not be in its log, or it has only now learnt its database's history.
    Reset,
    /// The follower reads so slowly that the source's log has left it behind.
    TooSlow,
    /// The other end was silent for too long.
    Silent,
    /// The other end sent something that the protocol does not allow here.
    Malformed,
    /// The follower met itself on the source's path.
    Cycle,
    /// The follower found another past than its own.
    Diverged,
    /// The follower goes to another upstream.
    Leaving,
    /// A reason of a later release.
    Other(u8),
}

impl ByeReason {
    const KNOWN: [ByeReason; 9] = [
        ByeReason::StopReached,
        ByeReason::Restarting,
        ByeReason::Reset,
        ByeReason::TooSlow,
        ByeReason::Silent,
        ByeReason::Malformed,
        ByeReason::Cycle,
        ByeReason::Diverged,
        ByeReason::Leaving,
    ];

    /// Its number on the wire.
    pub fn code(self) -> u8 {
        match self {
            ByeReason::StopReached => 1,
            ByeReason::Restarting => 2,
            ByeReason::Reset => 3,
            ByeReason::TooSlow => 4,
            ByeReason::Silent => 5,
            ByeReason::Malformed => 6,
            ByeReason::Cycle => 7,
            ByeReason::Diverged => 8,
            ByeReason::Leaving => 9,
            ByeReason::Other(code) => code,
        }
    }

    /// In one word, for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            ByeReason::StopReached => "done",
            ByeReason::Restarting => "restarting",
            ByeReason::Reset => "reset",
            ByeReason::TooSlow => "too-slow",
            ByeReason::Silent => "silent",
            ByeReason::Malformed => "malformed",
            ByeReason::Cycle => "cycle",
            ByeReason::Diverged => "diverged",
            ByeReason::Leaving | ByeReason::Other(_) => "left",
        }
    }

    fn from_code(code: u8) -> Self {
        let known = Self::KNOWN.into_iter().find(|reason| reason.code() == code);
        known.unwrap_or(ByeReason::Other(code))
    }
}

impl fmt::Display for ByeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ByeReason::StopReached => "the index to stop at is reached",
            ByeReason::Restarting => "it is restarting",
            ByeReason::Reset => "it begins anew from what is on its disk",
            ByeReason::TooSlow => "the follower was too slow",
            ByeReason::Silent => "the other end was silent",
            ByeReason::Malformed => "it was sent something the protocol does not allow",
            ByeReason::Cycle => "the follower is on the path of its source",
            ByeReason::Diverged => "the two ends have different pasts",
            ByeReason::Leaving => "it goes to another upstream",
            ByeReason::Other(code) => return write!(f, "reason {code} of a later release"),
        })
    }
}

/// A snapshot of which a part is here already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Which one.
    pub identity: SnapshotHash,
    /// The first block that is missing.
    pub next_block: u32,
}

/// The opening of a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// What the receiver speaks.
    pub versions: VersionRange,
    /// Who it is.
    pub node: LocalNode,
    /// What it has begun, if anything.
    pub wanted: Option<Wanted>,
    /// Where its log ends: what is older is of no use.
    pub at_least: Index,
}

/// Which snapshot comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// What both speak from here on.
    pub version: u16,
    /// Which one.
    pub identity: SnapshotHash,
    /// The first block that will be sent.
    pub first_block: u32,
    /// Its manifest; `None` when the receiver has begun this very one.
    pub manifest: Option<Bytes>,
}

/// Everything that can be said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Box<Welcome>),
    /// See [`Refused`].
    Refused(Refused),
    /// A batch record, not yet looked into.
    Batch(Bytes),
    /// A control record.
    Control(ControlRecord),
    /// The source's place in the tree has changed.
    PathUpdate(Lineage),
    /// The follower has this on disk.
    Applied(Index),
    /// Still here.
    Ping,
    /// The session ends.
    Bye(ByeReason),
    /// See [`Fetch`].
    Fetch(Fetch),
    /// See [`Offer`].
    Offer(Offer),
    /// A block of the snapshot.
    Block {
        /// Its number, over the whole file.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// How large the data may grow.
    Quota(Quota),
}

impl Message {
    /// Which frame carries it.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Welcome(_) => Kind::Welcome,
            Message::Refused(_) => Kind::Refused,
            Message::Batch(_) => Kind::Batch,
            Message::Control(_) => Kind::Control,
            Message::PathUpdate(_) => Kind::PathUpdate,
            Message::Applied(_) => Kind::Applied,
            Message::Ping => Kind::Ping,
            Message::Bye(_) => Kind::Bye,
            Message::Fetch(_) => Kind::Fetch,
            Message::Offer(_) => Kind::Offer,
            Message::Block { .. } => Kind::Block,
            Message::Quota(_) => Kind::Quota,
        }
    }

    /// As a frame.
    pub fn into_frame(self) -> Frame {
        let kind = self.kind();
        let mut out = Vec::new();
        match self {
            Message::Batch(record) => return Frame { kind, payload: record },
            Message::Hello(hello) => encode_hello(&hello, &mut out),
            Message::Welcome(welcome) => encode_welcome(&welcome, &mut out),
            Message::Refused(refused) => encode_refused(&refused, &mut out),
            Message::Control(record) => record.encode(&mut out),
            Message::PathUpdate(lineage) => encode_lineage(&lineage, &mut out),
            Message::Applied(index) => out.extend_from_slice(&index.get().to_le_bytes()),
            Message::Ping => {}
            Message::Bye(reason) => out.push(reason.code()),
            Message::Fetch(fetch) => encode_fetch(&fetch, &mut out),
            Message::Offer(offer) => encode_offer(&offer, &mut out),
            Message::Block { number, bytes } => {
                out.reserve_exact(4 + bytes.len());
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&bytes);
            }
            Message::Quota(quota) => out.extend_from_slice(&quota.max_db_bytes.to_le_bytes()),
        }
        Frame { kind, payload: out.into() }
    }

    /// From a frame.
    ///
    /// A `Hello` of a release without a common version is [`FormatError::Version`].
    pub fn from_frame(frame: &Frame) -> Result<Self, FormatError> {
        let payload = &frame.payload;
        match frame.kind {
            Kind::Hello => decode_hello(payload).map(Message::Hello),
            Kind::Welcome => decode_welcome(payload).map(|w| Message::Welcome(Box::new(w))),
            Kind::Refused => decode_refused(payload).map(Message::Refused),
            Kind::Batch => Ok(Message::Batch(payload.clone())),
            Kind::Control => ControlRecord::decode(payload).map(Message::Control),
            Kind::PathUpdate => {
                let mut r = Reader::new("PathUpdate", payload);
                let lineage = decode_lineage(&mut r)?;
                r.end()?;
                Ok(Message::PathUpdate(lineage))
            }
            Kind::Applied => {
                let mut r = Reader::new("Applied", payload);
                let index = Index::new(r.u64()?);
                r.end()?;
                Ok(Message::Applied(index))
            }
            Kind::Fetch => decode_fetch(payload).map(Message::Fetch),
            Kind::Offer => decode_offer(payload).map(Message::Offer),
            Kind::Block => {
                let mut r = Reader::new("Block", payload);
                let number = r.u32()?;
                Ok(Message::Block { number, bytes: r.rest() })
            }
            Kind::Ping => Reader::new("Ping", payload).end().map(|()| Message::Ping),
            Kind::Bye => {
                let mut r = Reader::new("Bye", payload);
                let reason = ByeReason::from_code(r.u8()?);
                r.end()?;
                Ok(Message::Bye(reason))
            }
            Kind::Quota => {
                let max_db_bytes = Reader::new("Quota", payload).u64()?;
                Ok(Message::Quota(Quota { max_db_bytes }))
            }
        }
    }
}

fn encode_fetch(fetch: &Fetch, out: &mut Vec<u8>) {
    encode_opening(&fetch.versions, &fetch.node, out);
    match &fetch.wanted {
        None => out.push(0),
        Some(wanted) => {
            out.push(1);
            out.extend_from_slice(wanted.identity.as_bytes());
            out.extend_from_slice(&wanted.next_block.to_le_bytes());
        }
    }
    out.extend_from_slice(&fetch.at_least.get().to_le_bytes());
}

fn decode_fetch(payload: &Bytes) -> Result<Fetch, FormatError> {
    let mut r = Reader::new("Fetch", payload);
    let (versions, node) = decode_opening(&mut r)?;
    let wanted = match r.flag("wanted")? {
        true => {
            Some(Wanted { identity: SnapshotHash::from_bytes(r.array()?), next_block: r.u32()? })
        }
        false => None,
    };
    let at_least = Index::new(r.u64()?);
    Ok(Fetch { versions, node, wanted, at_least })
}

fn encode_offer(offer: &Offer, out: &mut Vec<u8>) {
    out.extend_from_slice(&offer.version.to_le_bytes());
    out.extend_from_slice(offer.identity.as_bytes());
    out.extend_from_slice(&offer.first_block.to_le_bytes());
    match &offer.manifest {
        None => out.push(0),
        Some(manifest) => {
            out.push(1);
            out.extend_from_slice(&(manifest.len() as u32).to_le_bytes());
            out.extend_from_slice(manifest);
        }
    }
}

fn decode_offer(payload: &Bytes) -> Result<Offer, FormatError> {
    let mut r = Reader::new("Offer", payload);
    let version = r.u16()?;
    let identity = SnapshotHash::from_bytes(r.array()?);
    let first_block = r.u32()?;
    let manifest = match r.flag("manifest")? {
        true => {
            let manifest_bytes = r.u32()? as usize;
            Some(r.take(manifest_bytes)?)
        }
        false => None,
    };
    Ok(Offer { version, identity, first_block, manifest })
}

/// What a `Hello` and a `Fetch` begin with.
fn encode_opening(versions: &VersionRange, node: &LocalNode, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    encode_versions(versions, out);
    out.extend_from_slice(node.db_id.as_bytes());
    match &node.history {
        None => out.push(0),
        Some(history) => {
            out.push(1);
            out.extend_from_slice(history.as_bytes());
        }
    }
    put_text(out, node.node_id.as_str(), NAME_MAX_BYTES);
    put_text(out, &node.site, SITE_MAX_BYTES);
    out.extend_from_slice(node.process_id.as_bytes());
}

fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    encode_opening(&hello.versions, &hello.node, out);
    encode_path(&hello.path, out);
    match &hello.start {
        Start::Newest => out.push(0),
        Start::After(position) => {
            out.push(1);
            position.encode(out);
        }
    }
    match hello.stop {
        None => out.push(0),
        Some(index) => {
            out.push(1);
            out.extend_from_slice(&index.get().to_le_bytes());
        }
    }
}

/// The opposite of [`encode_opening`].
fn decode_opening(r: &mut Reader) -> Result<(VersionRange, LocalNode), FormatError> {
    let magic = r.array::<4>()?;
    if magic != MAGIC {
        return Err(r.field("magic", magic.escape_ascii(), "QSRP"));
    }
    let versions = decode_versions(r)?;
    if VersionRange::OURS.common(&versions).is_none() {
        return Err(FormatError::Version {
            what: "replication protocol",
            found: versions.max.into(),
            oldest: VersionRange::OURS.min.into(),
            newest: VersionRange::OURS.max.into(),
        });
    }
    let db_id = DbId::from_bytes(r.array()?);
    let history = match r.flag("history")? {
        true => Some(HistoryId::from_bytes(r.array()?)),
        false => None,
    };
    let node_id = r.node_id()?;
    let site = r.text("site", SITE_MAX_BYTES)?;
    let process_id = ProcessId::from_bytes(r.array()?);
    Ok((versions, LocalNode { db_id, history, node_id, site, process_id }))
}

fn decode_hello(payload: &Bytes) -> Result<Hello, FormatError> {
    let mut r = Reader::new("Hello", payload);
    let (versions, node) = decode_opening(&mut r)?;
    let path = decode_path(&mut r)?;
    let start = match r.flag("start")? {
        true => Start::After(decode_position(&mut r)?),
        false => Start::Newest,
    };
    let stop = match r.flag("stop")? {
        true => Some(Index::new(r.u64()?)),
        false => None,
    };
    Ok(Hello { versions, node, path, start, stop })
}

fn encode_welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    out.extend_from_slice(&welcome.version.to_le_bytes());
    out.extend_from_slice(welcome.db_id.as_bytes());
    out.extend_from_slice(welcome.history.as_bytes());
    put_text(out, welcome.node_id.as_str(), NAME_MAX_BYTES);
    put_text(out, &welcome.site, SITE_MAX_BYTES);
    out.extend_from_slice(welcome.process_id.as_bytes());
    encode_lineage(&welcome.lineage, out);
    welcome.position.encode(out);
    out.extend_from_slice(&welcome.oldest.get().to_le_bytes());
    match &welcome.heartbeat {
        None => out.push(0),
        Some(heartbeat) => {
            out.push(1);
            out.extend_from_slice(&heartbeat.root_clock_us.to_le_bytes());
            out.extend_from_slice(&heartbeat.after.get().to_le_bytes());
        }
    }
    #[cfg(feature = "next-protocol")]
    if welcome.version >= 2 {
        put_text(out, &welcome.release, NAME_MAX_BYTES);
    }
}

fn decode_welcome(payload: &Bytes) -> Result<Welcome, FormatError> {
    let mut r = Reader::new("Welcome", payload);
    let version = r.u16()?;
    let db_id = DbId::from_bytes(r.array()?);
    let history = HistoryId::from_bytes(r.array()?);
    let node_id = r.node_id()?;
    let site = r.text("site", SITE_MAX_BYTES)?;
    let process_id = ProcessId::from_bytes(r.array()?);
    let lineage = decode_lineage(&mut r)?;
    let position = decode_position(&mut r)?;
    let oldest = Index::new(r.u64()?);
    let heartbeat = match r.flag("heartbeat")? {
        true => Some(Heartbeat { root_clock_us: r.u64()?, after: Index::new(r.u64()?) }),
        false => None,
    };
    #[cfg(feature = "next-protocol")]
    let release = match version {
        ..2 => String::new(),
        2.. => r.text("release", NAME_MAX_BYTES)?,
    };
    Ok(Welcome {
        version,
        db_id,
        history,
        node_id,
        site,
        process_id,
        lineage,
        position,
        oldest,
        heartbeat,
        #[cfg(feature = "next-protocol")]
        release,
    })
}

fn encode_refused(refused: &Refused, out: &mut Vec<u8>) {
    let mut details = Vec::new();
    match &refused.refusal {
        Refusal::WrongDatabase { yours, mine } => {
            details.extend_from_slice(yours.as_bytes());
            details.extend_from_slice(mine.as_bytes());
        }
        Refusal::LogTooOld { oldest } => details.extend_from_slice(&oldest.get().to_le_bytes()),
        Refusal::Diverged { index, mine } => {
            Position { index: *index, hash: *mine }.encode(&mut details);
        }
        Refusal::Behind { position } => position.encode(&mut details),
        Refusal::Busy { retry_after_ms } => {
            details.extend_from_slice(&retry_after_ms.to_le_bytes());
        }
        Refusal::Version(versions) => encode_versions(versions, &mut details),
        Refusal::SelfConnection | Refusal::Cycle | Refusal::Malformed | Refusal::Other(_) => {}
    }
    out.push(refused.refusal.code());
    out.extend_from_slice(&(details.len() as u16).to_le_bytes());
    out.extend_from_slice(&details);
    put_text(out, &refused.explanation, REASON_MAX_BYTES);
}

fn decode_refused(payload: &Bytes) -> Result<Refused, FormatError> {
    let mut r = Reader::new("Refused", payload);
    let code = r.u8()?;
    let details_bytes = usize::from(r.u16()?);
    let mut d = Reader::new("Refused details", &r.take(details_bytes)?);
    let refusal = match code {
        REFUSED_WRONG_DATABASE => Refusal::WrongDatabase {
            yours: DbId::from_bytes(d.array()?),
            mine: DbId::from_bytes(d.array()?),
        },
        REFUSED_SELF => Refusal::SelfConnection,
        REFUSED_CYCLE => Refusal::Cycle,
        REFUSED_LOG_TOO_OLD => Refusal::LogTooOld { oldest: Index::new(d.u64()?) },
        REFUSED_DIVERGED => {
            let position = decode_position(&mut d)?;
            Refusal::Diverged { index: position.index, mine: position.hash }
        }
        REFUSED_BEHIND => Refusal::Behind { position: decode_position(&mut d)? },
        REFUSED_BUSY => Refusal::Busy { retry_after_ms: d.u64()? },
        REFUSED_VERSION => Refusal::Version(decode_versions(&mut d)?),
        REFUSED_MALFORMED => Refusal::Malformed,
        other => Refusal::Other(other),
    };
    Ok(Refused { refusal, explanation: r.text("explanation", REASON_MAX_BYTES)? })
}

fn encode_lineage(lineage: &Lineage, out: &mut Vec<u8>) {
    encode_path(&lineage.path, out);
    out.push(lineage.connected_to_root.into());
    put_text(out, &lineage.root_client, ROOT_CLIENT_MAX_BYTES);
}

fn decode_lineage(r: &mut Reader) -> Result<Lineage, FormatError> {
    let path = decode_path(r)?;
    if path.is_empty() {
        return Err(r.field("path", "empty", "at least the source itself"));
    }
    let connected_to_root = r.flag("connected to root")?;
    let root_client = r.text("root client address", ROOT_CLIENT_MAX_BYTES)?;
    Ok(Lineage { path, connected_to_root, root_client })
}

/// A path longer than [`PATH_MAX_HOPS`] travels without its beginning. It never gets that far:
/// a follower refuses an upstream whose path is at the limit.
fn encode_path(path: &[Hop], out: &mut Vec<u8>) {
    let path = &path[path.len().saturating_sub(PATH_MAX_HOPS)..];
    out.push(path.len() as u8);
    for hop in path {
        put_text(out, hop.node_id.as_str(), NAME_MAX_BYTES);
        out.extend_from_slice(hop.process_id.as_bytes());
    }
}

fn decode_path(r: &mut Reader) -> Result<Vec<Hop>, FormatError> {
    let hops = r.u8()?;
    if usize::from(hops) > PATH_MAX_HOPS {
        return Err(r.field("path", format!("{hops} hops"), "at most 32"));
    }
    (0..hops)
        .map(|_| {
            let node_id = r.node_id()?;
            Ok(Hop { node_id, process_id: ProcessId::from_bytes(r.array()?) })
        })
        .collect()
}

fn encode_versions(versions: &VersionRange, out: &mut Vec<u8>) {
    out.extend_from_slice(&versions.min.to_le_bytes());
    out.extend_from_slice(&versions.max.to_le_bytes());
}

fn decode_versions(r: &mut Reader) -> Result<VersionRange, FormatError> {
    let versions = VersionRange { min: r.u16()?, max: r.u16()? };
    if versions.min > versions.max {
        return Err(r.field("version range", versions, "the older one first"));
    }
    Ok(versions)
}

fn decode_position(r: &mut Reader) -> Result<Position, FormatError> {
    Position::decode(&r.take(Position::BYTES)?)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
