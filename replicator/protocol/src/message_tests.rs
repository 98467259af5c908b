#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use crate::frame::{Decoded, Decoder};
use crate::frame::{Frame, Kind};
use proptest::prelude::*;
use quicksilver_format::FormatError;

fn hop(name: &str, run: u8) -> Hop {
    Hop { node_id: NodeId::new(name).unwrap(), process_id: ProcessId::from_bytes([run; 16]) }
}

fn node(history: Option<u8>) -> LocalNode {
    LocalNode {
        db_id: DbId::from_bytes([0xdb; 16]),
        history: history.map(|byte| HistoryId::from_bytes([byte; 16])),
        node_id: NodeId::new("leaf-1").unwrap(),
        site: "ams".to_owned(),
        process_id: ProcessId::from_bytes([0xaa; 16]),
    }
}

fn position(index: u64) -> Position {
    Position { index: Index::new(index), hash: RunningHash::from_bytes([0x77; 32]) }
}

fn lineage() -> Lineage {
    Lineage {
        path: vec![hop("root", 1), hop("relay-1", 2)],
        connected_to_root: true,
        root_client: "root:6379".to_owned(),
    }
}

fn welcome(heartbeat: Option<Heartbeat>) -> Message {
    Message::Welcome(Box::new(Welcome {
        version: 1,
        db_id: DbId::from_bytes([0xdb; 16]),
        history: HistoryId::from_bytes([0x11; 16]),
        node_id: NodeId::new("relay-1").unwrap(),
        site: "fra".to_owned(),
        process_id: ProcessId::from_bytes([2; 16]),
        lineage: lineage(),
        position: position(9),
        oldest: Index::new(3),
        heartbeat,
        #[cfg(feature = "next-protocol")]
        release: String::new(),
    }))
}

fn hello(start: Start, stop: Option<u64>, history: Option<u8>) -> Message {
    Message::Hello(Hello {
        versions: VersionRange::OURS,
        node: node(history),
        path: vec![hop("leaf-1", 0xaa)],
        start,
        stop: stop.map(Index::new),
    })
}

fn refused(refusal: Refusal) -> Message {
    Message::Refused(Refused { refusal, explanation: "because".to_owned() })
}

fn snapshot() -> SnapshotHash {
    SnapshotHash::from_bytes([0x55; 32])
}

fn fetch(wanted: Option<Wanted>) -> Message {
    Message::Fetch(Fetch {
        versions: VersionRange::OURS,
        node: node(Some(0x11)),
        wanted,
        at_least: Index::new(9),
    })
}

fn offer(first_block: u32, manifest: Option<Bytes>) -> Message {
    Message::Offer(Offer { version: 1, identity: snapshot(), first_block, manifest })
}

/// One of each shape, with the name it has in the golden file.
fn samples() -> Vec<(&'static str, Message)> {
    let heartbeat = Heartbeat { root_clock_us: 0x0102, after: Index::new(9) };
    vec![
        ("hello-after", hello(Start::After(position(5)), Some(8), Some(0x11))),
        ("hello-newest", hello(Start::Newest, None, None)),
        ("welcome", welcome(Some(heartbeat))),
        ("welcome-without-heartbeat", welcome(None)),
        (
            "refused-wrong-database",
            refused(Refusal::WrongDatabase {
                yours: DbId::from_bytes([1; 16]),
                mine: DbId::from_bytes([2; 16]),
            }),
        ),
        ("refused-self", refused(Refusal::SelfConnection)),
        ("refused-cycle", refused(Refusal::Cycle)),
        ("refused-log-too-old", refused(Refusal::LogTooOld { oldest: Index::new(7) })),
        (
            "refused-diverged",
            refused(Refusal::Diverged {
                index: Index::new(7),
                mine: RunningHash::from_bytes([0x66; 32]),
            }),
        ),
        ("refused-behind", refused(Refusal::Behind { position: position(4) })),
        ("refused-busy", refused(Refusal::Busy { retry_after_ms: 2_000 })),
        ("refused-version", refused(Refusal::Version(VersionRange { min: 2, max: 3 }))),
        ("refused-malformed", refused(Refusal::Malformed)),
        ("batch", Message::Batch(Bytes::from_static(b"record"))),
        ("control", Message::Control(heartbeat.to_record())),
        ("path-update", Message::PathUpdate(lineage())),
        ("applied", Message::Applied(Index::new(9))),
        ("ping", Message::Ping),
        ("bye", Message::Bye(ByeReason::Restarting)),
        ("fetch", fetch(None)),
        ("fetch-again", fetch(Some(Wanted { identity: snapshot(), next_block: 3 }))),
        ("offer", offer(0, Some(Bytes::from_static(b"manifest")))),
        ("offer-again", offer(3, None)),
        ("block", Message::Block { number: 3, bytes: Bytes::from_static(b"block") }),
    ]
}

/// Advice, which came within a protocol version and has a golden file of its own.
fn advice() -> Vec<(&'static str, Message)> {
    vec![("quota", Message::Quota(Quota { max_db_bytes: 0x0102 }))]
}

fn golden_line(name: &str, message: Message) -> String {
    let frame = message.into_frame().encode();
    let bytes = [&frame.header()[..], frame.payload()].concat();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{name} {hex}\n")
}

fn golden_text(messages: Vec<(&str, Message)>) -> String {
    messages.into_iter().map(|(name, message)| golden_line(name, message)).collect()
}

/// What protocol version 1 sends, byte for byte, frame headers included. When this test fails,
/// the protocol has changed: give it a new version instead of changing the bytes.
#[test]
#[cfg(not(feature = "next-protocol"))]
fn golden_bytes() {
    assert_eq!(golden_text(samples()), include_str!("../golden/messages-v1.txt"));
}

/// What advice says, byte for byte. A later release may append fields to it, and changes none.
#[test]
fn golden_advice() {
    assert_eq!(golden_text(advice()), include_str!("../golden/advice-v1.txt"));
}

/// Every frame that a release before this one sends is read, and what was read is sent the same
/// way to a node that speaks that version. For each version, its file.
#[test]
fn frames_of_every_version_are_understood() {
    for golden in [include_str!("../golden/messages-v1.txt")] {
        let lines: Vec<&str> = golden.lines().collect();
        for (line, (name, _)) in lines.iter().zip(samples()) {
            let (found, hex) = line.split_once(' ').unwrap();
            assert_eq!(found, name);
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
                .collect();
            let mut bytes = bytes::BytesMut::from(&bytes[..]);
            let decoder = match name {
                _ if name.starts_with("hello") => Decoder::of_follower_bytes(),
                "applied" | "fetch" | "fetch-again" => Decoder::of_follower_bytes(),
                _ => Decoder::of_source_bytes(),
            };
            let Decoded::Frame(frame) = decoder.decode(&mut bytes).unwrap() else { panic!() };
            let message = Message::from_frame(&frame).unwrap();
            assert_eq!(golden_line(name, message), format!("{line}\n"));
        }
        assert_eq!(lines.len(), samples().len());
    }
}

/// Prints the golden file; run it by hand when a new protocol version is introduced.
#[test]
#[ignore = "prints golden bytes for a new protocol version"]
fn print_golden() {
    print!("{}", golden_text(samples()));
}

#[test]
fn samples_round_trip() {
    for (name, message) in samples().into_iter().chain(advice()) {
        let frame = message.clone().into_frame();
        assert_eq!(Message::from_frame(&frame).unwrap(), message, "{name}");
    }
}

#[test]
fn every_cut_is_found() {
    for (name, message) in samples().into_iter().chain(advice()) {
        let frame = message.into_frame();
        if matches!(frame.kind, Kind::Batch | Kind::Block) {
            continue; // a batch is looked into by its own decoder, a block by its hash
        }
        for end in 0..frame.payload.len() {
            let cut = Frame { kind: frame.kind, payload: frame.payload.slice(..end) };
            assert!(Message::from_frame(&cut).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn the_handshake_and_advice_may_grow_and_nothing_else_may() {
    for (name, message) in samples().into_iter().chain(advice()) {
        let frame = message.clone().into_frame();
        let longer = [&frame.payload[..], b"x"].concat();
        let found = Message::from_frame(&Frame { kind: frame.kind, payload: longer.into() });
        match frame.kind {
            Kind::Hello
            | Kind::Welcome
            | Kind::Refused
            | Kind::Fetch
            | Kind::Offer
            | Kind::Quota => assert_eq!(found.unwrap(), message),
            Kind::Batch | Kind::Block => {}
            _ => assert!(found.is_err(), "{name}"),
        }
    }
}

#[test]
fn a_hello_of_a_far_release_is_a_version_error_whatever_follows() {
    let mut payload = MAGIC.to_vec();
    payload.extend_from_slice(&[9, 0, 12, 0]);
    payload.extend_from_slice(b"a layout nobody here knows");
    let found = Message::from_frame(&Frame { kind: Kind::Hello, payload: payload.into() });
    assert!(matches!(found, Err(FormatError::Version { found: 12, .. })), "{found:?}");
}

#[test]
fn versions_meet_at_the_newest_common_one() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(1, 3).common(&range(2, 5)), Some(3));
    assert_eq!(range(1, 1).common(&range(1, 1)), Some(1));
    assert_eq!(range(1, 2).common(&range(3, 4)), None);
    assert_eq!(range(3, 4).common(&range(1, 2)), None);
}

#[test]
fn later_reasons_are_no_error() {
    let refused = Frame { kind: Kind::Refused, payload: Bytes::from_static(b"\x63\x02\0xy\0\0") };
    let Message::Refused(found) = Message::from_frame(&refused).unwrap() else { panic!() };
    assert_eq!(found.refusal, Refusal::Other(0x63));
    let bye = Frame { kind: Kind::Bye, payload: Bytes::from_static(&[99]) };
    assert_eq!(Message::from_frame(&bye).unwrap(), Message::Bye(ByeReason::Other(99)));
}

#[test]
fn a_path_over_the_limit_is_refused() {
    let mut lineage = lineage();
    lineage.path = vec![hop("r", 1); PATH_MAX_HOPS];
    let mut payload = Message::PathUpdate(lineage).into_frame().payload.to_vec();
    payload[0] += 1;
    let found = Message::from_frame(&Frame { kind: Kind::PathUpdate, payload: payload.into() });
    assert!(matches!(found, Err(FormatError::Field { field: "path", .. })), "{found:?}");
}

fn names() -> impl Strategy<Value = NodeId> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|name| NodeId::new(name).unwrap())
}

fn hops() -> impl Strategy<Value = Hop> {
    (names(), any::<[u8; 16]>())
        .prop_map(|(node_id, run)| Hop { node_id, process_id: ProcessId::from_bytes(run) })
}

fn positions() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<[u8; 32]>()).prop_map(|(index, hash)| Position {
        index: Index::new(index),
        hash: RunningHash::from_bytes(hash),
    })
}

fn lineages() -> impl Strategy<Value = Lineage> {
    (prop::collection::vec(hops(), 1..PATH_MAX_HOPS), any::<bool>(), "[a-zäß:.]{0,64}").prop_map(
        |(path, connected_to_root, root_client)| Lineage { path, connected_to_root, root_client },
    )
}

fn nodes() -> impl Strategy<Value = LocalNode> {
    (any::<[u8; 16]>(), any::<Option<[u8; 16]>>(), names(), "[a-zä]{0,32}", any::<[u8; 16]>())
        .prop_map(|(db, history, node_id, site, run)| LocalNode {
            db_id: DbId::from_bytes(db),
            history: history.map(HistoryId::from_bytes),
            node_id,
            site,
            process_id: ProcessId::from_bytes(run),
        })
}

fn hellos() -> impl Strategy<Value = Message> {
    let start = prop_oneof![Just(Start::Newest), positions().prop_map(Start::After)];
    let path = prop::collection::vec(hops(), 0..PATH_MAX_HOPS);
    (0u16..=1, 1u16..9, nodes(), path, start, any::<Option<u64>>()).prop_map(
        |(min, max, node, path, start, stop)| {
            let versions = VersionRange { min, max };
            Message::Hello(Hello { versions, node, path, start, stop: stop.map(Index::new) })
        },
    )
}

fn welcomes() -> impl Strategy<Value = Message> {
    let heartbeat = any::<Option<(u64, u64)>>();
    (nodes(), any::<[u8; 16]>(), lineages(), positions(), any::<u64>(), heartbeat).prop_map(
        |(node, history, lineage, position, oldest, heartbeat)| {
            Message::Welcome(Box::new(Welcome {
                version: 1,
                db_id: node.db_id,
                history: HistoryId::from_bytes(history),
                node_id: node.node_id,
                site: node.site,
                process_id: node.process_id,
                lineage,
                position,
                oldest: Index::new(oldest),
                heartbeat: heartbeat.map(|(root_clock_us, after)| Heartbeat {
                    root_clock_us,
                    after: Index::new(after),
                }),
                #[cfg(feature = "next-protocol")]
                release: String::new(),
            }))
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        hellos(),
        welcomes(),
        (positions(), "[a-zä ]{0,200}").prop_map(|(position, explanation)| {
            Message::Refused(Refused { refusal: Refusal::Behind { position }, explanation })
        }),
        (any::<u16>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..99)).prop_map(
            |(kind, version, payload)| {
                Message::Control(ControlRecord { kind, version, payload: payload.into() })
            }
        ),
        lineages().prop_map(Message::PathUpdate),
        any::<u64>().prop_map(|n| Message::Applied(Index::new(n))),
        (1u8..255).prop_map(|code| Message::Bye(ByeReason::from_code(code))),
        any::<u64>().prop_map(|max_db_bytes| Message::Quota(Quota { max_db_bytes })),
    ]
}

proptest! {
    #[test]
    fn round_trip(message in messages()) {
        let frame = message.clone().into_frame();
        prop_assert!(frame.payload.len() <= frame.kind.max_bytes());
        prop_assert_eq!(Message::from_frame(&frame).unwrap(), message);
    }

    #[test]
    fn any_bytes_decode_or_err(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in Kind::ALL {
            let mut payload = payload.clone();
            if kind == Kind::Hello && payload.len() > 8 {
                payload[..8].copy_from_slice(b"QSRP\x01\0\x01\0");
            }
            let _ = Message::from_frame(&Frame { kind, payload: payload.into() });
        }
    }
}
