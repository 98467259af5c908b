#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use crate::frame::{Decoded, Decoder};
use bytes::BytesMut;
use quicksilver_format::manifest::BlockEntry;
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_format::{DbId, HistoryId, NodeId, Position, ProcessId, RunningHash, StateDigest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DEADLINES: Deadlines = Deadlines {
    handshake_ms: 200,
    idle_ms: 600,
    ping_ms: 100,
    report_ms: 100,
    least_bytes_per_second: 100,
    stale_ms: 1_000,
    ask_preferred_ms: 30_000,
};

/// Where the receiver's log ends.
const OWN: Position = Position { index: Index::new(5), hash: RunningHash::from_bytes([9; 32]) };

fn me(name: &str, run: u8) -> LocalNode {
    LocalNode {
        db_id: DbId::from_bytes([7; 16]),
        history: None,
        node_id: NodeId::new(name).unwrap(),
        site: String::new(),
        process_id: ProcessId::from_bytes([run; 16]),
    }
}

/// A snapshot that a source serves.
struct Snapshot {
    offered: Offered,
    blocks: Vec<Bytes>,
}

impl Snapshot {
    fn new(index: u64, blocks: Vec<Bytes>) -> Snapshot {
        let position =
            Position { index: Index::new(index), hash: RunningHash::from_bytes([1; 32]) };
        let entry =
            |block: &Bytes| BlockEntry { bytes: block.len() as u32, hash: SnapshotHash::of(block) };
        let manifest = Manifest {
            database_format: 1,
            page_bytes: 4096,
            identity: Identity {
                db_id: DbId::from_bytes([7; 16]),
                history: HistoryId::from_bytes([8; 16]),
            },
            start: position,
            end: Applied { position, digest: StateDigest::EMPTY, keys: 0, bytes: 0 },
            sealed_at_us: 0,
            created_us: index,
            sections: [blocks.len() as u32, 0, 0],
            blocks: blocks.iter().map(entry).collect(),
        };
        let encoded = Bytes::from(manifest.encode());
        let (_, identity) = Manifest::decode(&encoded).unwrap();
        let offered = Offered { identity, manifest: encoded, blocks: blocks.len() as u32 };
        Snapshot { offered, blocks }
    }

    fn random(rng: &mut StdRng, index: u64) -> Snapshot {
        let blocks = (0..rng.random_range(0..30)).map(|_| {
            (0..rng.random_range(1..200)).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into()
        });
        Snapshot::new(index, blocks.collect())
    }
}

/// What the receiver has on its disk.
#[derive(Default)]
struct Disk {
    begun: Option<(SnapshotHash, Manifest)>,
    blocks: Vec<Bytes>,
}

impl Disk {
    fn partial(&self) -> Option<Partial> {
        let (identity, manifest) = self.begun.clone()?;
        Some(Partial { identity, manifest, next_block: self.blocks.len() as u32 })
    }
}

struct Link {
    receiver: FetchSession,
    source: OfferSession,
    down: BytesMut,
    up: BytesMut,
}

/// One connection; its end, once it has one. Misfortune comes with `chance` in a thousand, for every
/// frame.
fn transfer(
    rng: &mut StdRng,
    disk: &mut Disk,
    snapshot: &Snapshot,
    now: &mut Millis,
    chance: u32,
) -> FetchEnd {
    let partial = disk.partial();
    let mut link = Link {
        receiver: FetchSession::new(me("leaf", 1), OWN, Index::FIRST, partial, DEADLINES, *now),
        source: OfferSession::new(me("root", 2), DEADLINES, *now),
        down: BytesMut::new(),
        up: BytesMut::new(),
    };
    loop {
        *now = now.plus_ms(rng.random_range(0..10));
        while let Ok(Decoded::Frame(frame)) = Decoder::of_follower_bytes().decode(&mut link.up) {
            link.source.frame(*now, &frame);
        }
        while let Some(action) = link.source.poll() {
            match action {
                OfferAction::LookUp { .. } => link.source.found(*now, &snapshot.offered),
                OfferAction::Send(frame) => frame.write_to(&mut link.down),
                OfferAction::Close(_) => {}
            }
        }
        if let Some(n) = link.source.wants_block() {
            link.source.block(snapshot.blocks[n as usize].clone());
        }
        if rng.random_range(0..1000) < chance {
            match rng.random_range(0..3) {
                0 => link.receiver.disconnected("cut"),
                1 if !link.down.is_empty() => {
                    let at = rng.random_range(0..link.down.len());
                    link.down[at] ^= 1 << rng.random_range(0..8);
                }
                // Silence.
                _ => *now = now.plus_ms(1_000),
            }
        }
        loop {
            match Decoder::of_source_bytes().decode(&mut link.down) {
                Ok(Decoded::Frame(frame)) => link.receiver.frame(*now, &frame),
                Ok(Decoded::Incomplete { .. }) => break,
                Err(e) => {
                    link.receiver.frame_error(*now, &e);
                    break;
                }
            }
        }
        link.receiver.tick(*now);
        link.source.tick(*now);
        while let Some(action) = link.receiver.poll() {
            match action {
                FetchAction::Send(frame) => frame.write_to(&mut link.up),
                FetchAction::Begin { identity, manifest, .. } => {
                    *disk = Disk { begun: Some((identity, *manifest)), blocks: Vec::new() };
                }
                FetchAction::Block { number, bytes } => {
                    assert_eq!(number as usize, disk.blocks.len());
                    disk.blocks.push(bytes);
                }
                FetchAction::Close(end) => return end,
            }
        }
    }
}

/// Whatever cuts, damages and delays, and when another source comes in with the same snapshot or a
/// newer one: what is complete is one snapshot, block for block, and nothing was fetched twice that
/// needed not be.
#[test]
fn a_snapshot_arrives_whole_whatever_happens() {
    let env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match env("QS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env("QS_SEEDS").unwrap_or(1_000),
    };
    let (mut resumed, mut replaced, mut cut) = (0, 0, 0);
    for seed in seeds {
        println!("QS_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut disk, mut now) = (Disk::default(), Millis::ZERO);
        let mut index = 10;
        let mut snapshot = Snapshot::random(&mut rng, index);
        let mut tries = 0;
        loop {
            tries += 1;
            let before = disk.partial();
            let chance = if tries < 50 { 150 } else { 0 };
            let end = transfer(&mut rng, &mut disk, &snapshot, &mut now, chance);
            if let Some(before) = before.filter(|before| before.next_block > 0) {
                let same = disk.begun.as_ref().map(|begun| begun.0) == Some(before.identity);
                resumed += u32::from(same && disk.blocks.len() as u32 > before.next_block);
                replaced += u32::from(!same);
            }
            match end {
                FetchEnd::Complete => break,
                FetchEnd::Lost(_)
                | FetchEnd::NoAnswer(_)
                | FetchEnd::Silent(_)
                | FetchEnd::Bad(_)
                | FetchEnd::Left(_) => cut += 1,
                other => panic!("{other}"),
            }
            if rng.random_range(0..10) == 0 {
                index += 1;
                snapshot = Snapshot::random(&mut rng, index);
            }
        }
        assert_eq!(disk.begun.unwrap().0, snapshot.offered.identity);
        assert_eq!(disk.blocks, snapshot.blocks);
    }
    assert!(resumed > 10 && replaced > 10 && cut > 10, "{resumed} {replaced} {cut}");
}

fn answer(receiver: &mut FetchSession, message: Message) -> Vec<FetchAction> {
    receiver.frame(Millis::ZERO, &message.into_frame());
    std::iter::from_fn(|| receiver.poll()).collect()
}

fn fetching() -> FetchSession {
    let mut receiver =
        FetchSession::new(me("leaf", 1), OWN, Index::FIRST, None, DEADLINES, Millis::ZERO);
    receiver.poll();
    receiver
}

fn end_of(actions: Vec<FetchAction>) -> FetchEnd {
    match actions.into_iter().last() {
        Some(FetchAction::Close(end)) => end,
        other => panic!("{other:?}"),
    }
}

fn offer_of(snapshot: &Snapshot) -> Message {
    Message::Offer(Offer {
        version: 1,
        identity: snapshot.offered.identity,
        first_block: 0,
        manifest: Some(snapshot.offered.manifest.clone()),
    })
}

#[test]
fn nothing_is_begun_that_would_not_help() {
    let snapshot = Snapshot::new(4, vec![Bytes::from_static(b"a")]);
    let end = end_of(answer(&mut fetching(), offer_of(&snapshot)));
    assert_eq!(end, FetchEnd::Behind { theirs: Index::new(4), at_least: Index::new(5) });

    let snapshot = Snapshot::new(5, vec![Bytes::from_static(b"a")]);
    let end = end_of(answer(&mut fetching(), offer_of(&snapshot)));
    assert!(matches!(end, FetchEnd::Diverged { index, .. } if index == OWN.index), "{end}");

    let snapshot = Snapshot::new(8, vec![Bytes::from_static(b"a")]);
    let log_from = Index::new(10);
    let mut receiver =
        FetchSession::new(me("leaf", 1), OWN, log_from, None, DEADLINES, Millis::ZERO);
    let end = end_of(answer(&mut receiver, offer_of(&snapshot)));
    assert_eq!(end, FetchEnd::Behind { theirs: Index::new(8), at_least: Index::new(9) });

    let snapshot = Snapshot::new(9, vec![Bytes::from_static(b"a")]);
    let mut stranger = me("leaf", 1);
    stranger.db_id = DbId::from_bytes([9; 16]);
    let mut receiver =
        FetchSession::new(stranger, OWN, Index::FIRST, None, DEADLINES, Millis::ZERO);
    let actions = answer(&mut receiver, offer_of(&snapshot));
    assert!(!actions.iter().any(|action| matches!(action, FetchAction::Begin { .. })));
    assert!(matches!(end_of(actions), FetchEnd::WrongDatabase { .. }));

    let other = Snapshot::new(10, Vec::new());
    let lie = Message::Offer(Offer {
        version: 1,
        identity: other.offered.identity,
        first_block: 0,
        manifest: Some(snapshot.offered.manifest.clone()),
    });
    assert!(matches!(end_of(answer(&mut fetching(), lie)), FetchEnd::Bad(_)));
    let never_begun = Message::Offer(Offer {
        version: 1,
        identity: snapshot.offered.identity,
        first_block: 1,
        manifest: None,
    });
    assert!(matches!(end_of(answer(&mut fetching(), never_begun)), FetchEnd::Bad(_)));
}

#[test]
fn a_block_that_is_not_the_next_or_not_the_one_is_refused() {
    let blocks = vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")];
    let snapshot = Snapshot::new(9, blocks.clone());
    for (number, bytes) in [
        (1, blocks[1].clone()),
        (0, Bytes::from_static(b"firsT")),
        (0, Bytes::from_static(b"fir")),
        (7, blocks[0].clone()),
    ] {
        let mut receiver = fetching();
        answer(&mut receiver, offer_of(&snapshot));
        let actions = answer(&mut receiver, Message::Block { number, bytes });
        assert!(!actions.iter().any(|action| matches!(action, FetchAction::Block { .. })));
        assert!(matches!(end_of(actions), FetchEnd::Bad(_)));
    }
}

#[test]
fn who_asks_the_wrong_node_is_told() {
    let ask = |node: LocalNode| {
        let mut source = OfferSession::new(me("root", 2), DEADLINES, Millis::ZERO);
        let at_least = Index::new(5);
        let fetch = Fetch { versions: VersionRange::OURS, node, wanted: None, at_least };
        source.frame(Millis::ZERO, &Message::Fetch(fetch).into_frame());
        std::iter::from_fn(move || source.poll()).collect::<Vec<_>>()
    };
    let mut stranger = me("leaf", 1);
    stranger.db_id = DbId::from_bytes([9; 16]);
    for node in [stranger, me("leaf", 2)] {
        let actions = ask(node);
        assert!(matches!(actions.last(), Some(OfferAction::Close(SourceEnd::Refused(_)))));
    }
    let actions = ask(me("leaf", 1));
    let asked = matches!(
        actions[..],
        [OfferAction::LookUp { at_least }] if at_least == Index::new(5)
    );
    assert!(asked, "{actions:?}");
}
