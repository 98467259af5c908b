//! How a message becomes a frame, and back.

use bytes::Bytes;
use quicksilver_format::limits::NAME_MAX_BYTES;
use quicksilver_format::manifest::SnapshotHash;
use quicksilver_format::{
    ControlRecord, DbId, FormatError, Heartbeat, HistoryId, Index, Position, ProcessId,
};

use super::*;
use crate::frame::{Frame, Kind};
use crate::wire::{Reader, put_text};

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
