//! Writes the seeds of the corpus, `seed-*`, from the golden files and the encoders:
//!
//! ```text
//! cargo test -p quicksilver-fuzz --test seeds -- --ignored
//! ```
//!
//! What fuzzing found lies beside them, and is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use quicksilver_format::manifest::{
    BlockEntry, Manifest, SnapshotHash, encode_pair, encode_trailer,
};
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_format::{BatchBuilder, DbId, Entry, HistoryId, NodeId, Position, StateDigest};
use quicksilver_protocol::Kind;
use quicksilver_replicator::config::{Config, Role};

const DB: DbId = DbId::from_bytes([0xdb; 16]);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn seed(target: &str, name: &str, parts: &[&[u8]]) {
    let dir = repository().join("fuzz/corpus").join(target);
    fs::create_dir_all(&dir).expect("the corpus can be written");
    fs::write(dir.join(format!("seed-{name}")), parts.concat()).expect("the corpus can be written");
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("golden files hold hex");
    (0..hex.trim().len()).step_by(2).map(byte).collect()
}

/// The lines of a golden file: names and bytes.
fn golden(path: &str) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(repository().join(path)).expect("the golden file is there");
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, hex)| (name.to_owned(), bytes_of_hex(hex)))
        .collect()
}

fn golden_batch(file: &str) -> Vec<u8> {
    let path = repository().join("reader-lib/format/golden").join(file);
    bytes_of_hex(&fs::read_to_string(path).expect("the golden file is there"))
}

#[test]
#[ignore = "writes fuzz/corpus/*/seed-*"]
fn write_seeds() {
    frames_and_handshakes();
    records();
    snapshots();
    config();
    resp();
}

fn frames_and_handshakes() {
    let mut messages = golden("replicator/protocol/golden/messages-v1.txt");
    messages.extend(golden("replicator/protocol/golden/advice-v1.txt"));
    let is_followers = |name: &str| {
        ["hello", "applied", "fetch", "ping", "bye"].iter().any(|own| name.starts_with(own))
    };
    for (name, frame) in &messages {
        let from_source = u8::from(!is_followers(name));
        seed("frames", name, &[&[2 | from_source, 7], frame]);
        // To the end that hears it: the follower, the source, the receiver, the server.
        let end = match name.as_str() {
            n if n.starts_with("offer") || n.starts_with("block") => 2,
            n if n.starts_with("fetch") => 3,
            n if is_followers(n) => 1,
            _ => 0,
        };
        let (header, payload) = frame.split_at(12);
        let kind = Kind::ALL.iter().position(|kind| *kind as u8 == header[4]);
        let kind = kind.expect("a golden kind") as u8;
        let bytes = (payload.len() as u16).to_le_bytes();
        seed("handshake", name, &[&[end, 0, kind << 3], &bytes, payload]);
    }
    let all = |from_source: bool| -> Vec<u8> {
        let of = messages.iter().filter(|(name, _)| is_followers(name) != from_source);
        of.flat_map(|(_, frame)| frame.clone()).collect()
    };
    seed("frames", "all-of-a-follower", &[&[0, 1], &all(false)]);
    seed("frames", "all-of-a-source", &[&[1, 99], &all(true)]);
    seed(
        "frames",
        "unknown-advice",
        &[&[3, 5], b"\x05\0\0\0\xc8\0\0\0\0\0\0\0later\0\0\0\0\x08\0\0\0\0\0\0\0"],
    );
    seed("frames", "too-long", &[&[1, 0], b"\xff\xff\xff\xff\x04\0\0\0\0\0\0\0"]);
    for (name, input) in told() {
        seed("handshake", name, &[&input]);
    }
}

/// Whole lives of the four ends; what the numbers mean is in the `tell` of each.
fn told() -> Vec<(&'static str, Vec<u8>)> {
    const FOLLOWER: u8 = 0;
    const SOURCE: u8 = 1;
    const FETCHER: u8 = 2;
    const OFFERER: u8 = 3;
    let tell = |what: u8| what << 3 | 4;
    let five_seconds = [5 << 3 | 3, 160];
    let life = |end: u8, choice: u8, things: &[&[u8]]| -> Vec<u8> {
        [&[end, choice], things.concat().as_slice()].concat()
    };
    let (welcome, batch) = ([tell(0)], |entries: u8, salt: u8| [tell(5), entries, salt]);
    let (hello, look_up) = (|start: u8, stop: u8| [tell(0), start, stop], [tell(2)]);
    let (next, block) = (|entries: u8| [tell(4), entries], [tell(5)]);
    let (fetch, found) = (|next: u8| [tell(0), next, 5], [tell(3)]);
    let send = [tell(6), 1, 0, 9];
    vec![
        (
            "follows",
            life(
                FOLLOWER,
                2,
                &[&welcome, &batch(3, 0), &five_seconds, &[tell(10)], &[tell(11), 7], &batch(1, 0)],
            ),
        ),
        ("observes", life(FOLLOWER, 0, &[&welcome, &batch(3, 0), &batch(2, 1), &[tell(13)]])),
        ("meets-another-past", life(FOLLOWER, 2, &[&welcome, &batch(1, 0), &[tell(9), 1, 0]])),
        ("is-sent-no-frame", life(FOLLOWER, 1, &[&welcome, &batch(3, 1), &[tell(12), tell(14)]])),
        (
            "is-followed",
            life(
                SOURCE,
                1,
                &[
                    &hello(1, 255),
                    &look_up,
                    &next(1),
                    &next(1),
                    &[tell(9), 0, tell(10), 5, tell(11), 9],
                    &five_seconds,
                    &next(1),
                    &[tell(13)],
                ],
            ),
        ),
        ("is-followed-to-a-stop", life(SOURCE, 0, &[&hello(1, 5), &look_up, &next(0), &next(0)])),
        (
            "is-observed",
            life(SOURCE, 0, &[&hello(0, 255), &look_up, &next(1), &[tell(8), 2, 0, 9, 9, 1]]),
        ),
        ("has-no-such-log", life(SOURCE, 4, &[&hello(1, 255), &look_up])),
        ("fetches", life(FETCHER, 5, &[&[tell(0)], &block, &block, &[tell(12)], &block])),
        ("goes-on", life(FETCHER, 0x1d, &[&[tell(3), 1], &block, &five_seconds, &block])),
        ("is-turned-away", life(FETCHER, 0, &[&[tell(11)]])),
        ("is-behind", life(FETCHER, 7, &[&[tell(0)]])),
        ("serves", life(OFFERER, 0, &[&fetch(7), &found, &send, &send, &send, &[tell(12)]])),
        ("serves-the-rest", life(OFFERER, 0, &[&fetch(2), &found, &send, &[tell(12)]])),
        ("is-busy", life(OFFERER, 0, &[&fetch(7), &[tell(10)]])),
    ]
}

fn records() {
    for (name, record) in golden("reader-lib/format/golden/records-v1.txt") {
        seed("records", &name, &[&[0], &record]);
    }
    for (name, file) in [("batch", "batch-v1.hex"), ("batch-snappy", "batch-v1-snappy.hex")] {
        seed("records", name, &[&[1], &golden_batch(file)]);
    }
    let mut builder = BatchBuilder::new(Position::genesis(DB));
    for n in 0..20_u8 {
        match n % 4 {
            3 => builder.push(Entry::del(&[n, n])),
            _ => builder.push(Entry::set(&[n], &vec![n; usize::from(n)])),
        };
    }
    let batch = builder.seal(5).expect("it has entries");
    seed("records", "batch-of-twenty", &[&[1], batch.record()]);
    seed("records", "generation", &[&[0], b"gen-000017\n"]);
}

fn snapshots() {
    let mut block = Vec::new();
    for (key, value) in [(&b"hello"[..], &b"world"[..]), (b"k", b""), (&[7; 511], &[9; 300])] {
        encode_pair(key, value, &mut block).expect("short ones");
    }
    seed("snapshots", "block", &[&[0], &block]);
    let manifest = |sections: [u32; 3]| {
        let position = Position::genesis(DB);
        let entry = BlockEntry { bytes: block.len() as u32, hash: SnapshotHash::of(&block) };
        Manifest {
            database_format: 1,
            page_bytes: 4096,
            identity: Identity { db_id: DB, history: HistoryId::from_bytes([0x11; 16]) },
            start: position,
            end: Applied { position, digest: StateDigest::EMPTY, keys: 3, bytes: 900 },
            sealed_at_us: 1,
            created_us: 2,
            sections,
            blocks: vec![entry; sections.iter().sum::<u32>() as usize],
        }
        .encode()
    };
    for (name, sections) in [("empty", [0; 3]), ("of-one", [1, 0, 0]), ("of-all", [2, 1, 3])] {
        let manifest = manifest(sections);
        seed("snapshots", &format!("manifest-{name}"), &[&[1], &manifest]);
        let trailer = encode_trailer(manifest.len());
        seed("snapshots", &format!("file-{name}"), &[&[0], &block, &manifest, &trailer]);
    }
}

fn config() {
    let example = |role| {
        let node_id = NodeId::new("ams-1").expect("a name");
        Config::example("dns", DB, Path::new("/var/lib/quicksilver/dns"), node_id, role)
    };
    seed("config", "root", &[example(Role::Root).to_toml().as_bytes()]);
    let mut relay = example(Role::Relay);
    let address = |text: &str| text.parse().expect("an address");
    relay.upstream.primary = vec![address("127.0.0.1:7000"), address("unix:/run/q.sock")];
    relay.upstream.secondary = vec![address("[::1]:7000"), address("root.example:7000")];
    relay.listen.client = Some(address("localhost:6379"));
    relay.insecure.plaintext = true;
    relay.logging.level = "info,quicksilver_replicator::net=debug".to_owned();
    seed("config", "relay", &[relay.to_toml().as_bytes()]);
    let short = format!(
        "name = \"dns\"\ndb_id = \"{DB}\"\ndata_dir = \"/d\"\nnode_id = \"n\"\nrole = \"root\"\n"
    );
    for (name, more) in [
        ("short", ""),
        (
            "inline-table",
            "batch = { window_ms = 0, max_bytes = 40_000_000 }\nlimits.max_clients = 5\n",
        ),
        ("unknown-key", "[batch]\nwindow_sm = 1\n"),
        ("wrong-kind", "[limits]\nmax_clients = \"many\"\n"),
        ("out-of-bounds", "[limits]\nmax_value_bytes = 0x7fff_ffff_ffff_ffff\n"),
        ("array-over-lines", "[upstream]\nprimary = [\n  \"a\",\n]\n"),
        (
            "strings",
            "site = '''ams'''\nlisten.http = \"unix:/\\u00e4\\n\"\n[logging]\nlevel = \"a[b]=warn\"\n",
        ),
        ("deep", "site = [[[[[[[[{a={b=[]}}]]]]]]]]\n"),
    ] {
        seed("config", name, &[short.as_bytes(), more.as_bytes()]);
    }
}

fn resp() {
    // The limits, and how it is cut.
    const WIDE: [u8; 2] = [15, 9];
    for (name, head, text) in [
        ("set", WIDE, &b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\0\xff\r\n"[..]),
        ("pipeline", WIDE, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nEX"),
        ("inline", WIDE, b"PING\r\n  SET a 'b \\'c' \"d\\x41\\n\"\n\r\n"),
        ("quotes", WIDE, b"ECHO \"a\"b\r\nECHO 'a\r\n"),
        ("empty", WIDE, b"*0\r\n*-1\r\n\r\n*00001\r\n$-0\r\n\r\n"),
        ("limits", [0, 9], b"*2\r\n$8\r\n12345678\r\n$1\r\n1\r\n"),
        ("too-long", [4, 9], b"*1\r\n$9\r\n123456789\r\n"),
        ("too-many", WIDE, b"*131072\r\n$0\r\n\r\n*131073\r\n"),
        ("numbers", WIDE, b"*+1\r\n*9223372036854775808\r\n*1\n$1\na\r\n"),
        ("no-line", WIDE, b"*1\r\n$111111111111111111111111111111111111111111"),
        ("nested", WIDE, b"*1\r\n*1\r\n"),
        ("http", WIDE, b"GET / HTTP/1.1\r\nhost: x\r\n"),
        ("no-end", WIDE, b"*1\r\n$1\r\nabc"),
    ] {
        seed("resp", name, &[&head, text]);
    }
}
