//! "Files that a release wrote are read, written and followed on from by every release after it."
//! `tests/golden/v1` holds two databases that the release with format 1 wrote, a root's and its
//! relay's, with a manifest of what is in them. This release opens copies of them.
//!
//! A new format version gets a directory of its own: make it with
//! `cargo test -p quicksilver-replicator --test golden -- --ignored`, add it to `VERSIONS`, and
//! leave the others as they are. `SHA256SUMS` holds the hashes of every golden file of a version,
//! those of the wire among them, so that nobody changes one by mistake.
//!
//! LMDB's files are those of a machine: 64 bit, little-endian, pages of 4096 bytes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use quicksilver::{Reader, log, verify};
use quicksilver_format::{
    Batch, BatchBuilder, DbId, Entry, HistoryId, Index, NEW_DATABASE_FORMAT_VERSION, Position,
};
use quicksilver_replicator::store::{Retention, Sizes, Store, wall_clock_us};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Every version of which files are stored.
const VERSIONS: &[u32] = &[1];
const SIZES: Sizes = Sizes { map_bytes: 64 << 20, max_readers: 126 };
const PAGE_BYTES: u32 = 4096;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn golden(version: u32) -> PathBuf {
    repository().join(format!("tests/golden/v{version}"))
}

/// Whether this machine's LMDB has the files of the machine they were made on.
fn files_fit() -> bool {
    let pages = Command::new("getconf").arg("PAGESIZE").output().unwrap().stdout;
    let fits = cfg!(target_arch = "x86_64")
        && String::from_utf8_lossy(&pages).trim() == PAGE_BYTES.to_string();
    if !fits {
        println!("SKIPPED: the files are those of x86_64 with pages of {PAGE_BYTES} bytes");
    }
    fits
}

/// A copy of one of the stored databases, and what the manifest says of it.
struct Stored {
    dir: TempDir,
    manifest: Value,
    node: &'static str,
}

impl Stored {
    fn open(version: u32, node: &'static str) -> Stored {
        let dir = tempfile::tempdir().unwrap();
        let archive = golden(version).join(format!("{node}.tar.gz"));
        let mut tar = Command::new("tar");
        let status = tar.arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status().unwrap();
        assert!(status.success(), "tar ended with {status}");
        let manifest = fs::read_to_string(golden(version).join("manifest.json")).unwrap();
        Stored { dir, manifest: serde_json::from_str(&manifest).unwrap(), node }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn reader(&self) -> Reader {
        Reader::open(self.path()).unwrap()
    }

    fn store(&self) -> Store {
        let (db_id, history) = (self.text("db_id").parse().unwrap(), HistoryId::NONE);
        Store::open(self.path(), db_id, history, SIZES).unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.manifest[name].as_str().unwrap().to_owned()
    }

    /// Index, hash, digest, keys, bytes, oldest index, format, history.
    fn expected(&self) -> Value {
        let mut expected = self.manifest[self.node].clone();
        expected["format"] = self.manifest["format"].clone();
        expected["history"] = self.manifest["history"].clone();
        expected
    }

    /// The pairs that the manifest names; the relay has those of the last batch not yet.
    fn pairs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let all = self.manifest["pairs"].as_array().unwrap();
        let index = self.manifest[self.node]["index"].as_u64().unwrap();
        let here = all.iter().filter(|pair| pair["since"].as_u64().unwrap() <= index);
        here.map(|pair| {
            let (key, pattern) = (unhex(&pair["key_hex"]), unhex(&pair["pattern_hex"]));
            let bytes = usize::try_from(pair["bytes"].as_u64().unwrap()).unwrap();
            (key, pattern.iter().copied().cycle().take(bytes).collect())
        })
        .collect()
    }

    fn assert_is_whole(&self) {
        let reader = self.reader();
        assert_eq!(summary(&reader), self.expected());
        let report = verify::verify(&reader.environment().unwrap(), |_| ()).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        let snapshot = reader.snapshot().unwrap();
        let found = snapshot.iter().unwrap().map(|pair| {
            let (key, value) = pair.unwrap();
            (key.to_vec(), value.into_vec())
        });
        assert!(found.eq(self.pairs()), "the pairs are others");
        for (key, value) in self.pairs() {
            assert_eq!(reader.get(&key).unwrap(), Some(value));
        }
        for key in self.manifest["deleted_hex"].as_array().unwrap() {
            assert_eq!(reader.get(&unhex(key)).unwrap(), None);
        }
    }
}

fn summary(reader: &Reader) -> Value {
    let status = reader.status().unwrap();
    json!({
        "index": status.position.index.get(),
        "hash": status.position.hash.to_string(),
        "digest": status.digest.to_string(),
        "keys": status.keys,
        "bytes": status.bytes,
        "oldest_index": status.oldest_index.get(),
        "format": status.format,
        "history": status.history.to_string(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn files_of_every_version_are_read() {
    if !files_fit() {
        return;
    }
    for version in VERSIONS {
        for node in ["root", "relay"] {
            Stored::open(*version, node).assert_is_whole();
        }
    }
}

/// This release goes on where the other one stopped, in its format; the relay takes what it has not
/// from the root's log; and both can then be raised.
#[test]
fn files_of_every_version_are_followed_on_from() {
    if !files_fit() {
        return;
    }
    for version in VERSIONS {
        let (root, relay) = (Stored::open(*version, "root"), Stored::open(*version, "relay"));
        let (mut upstream, mut downstream) = (root.store(), relay.store());
        let mut more = BatchBuilder::new(upstream.end());
        more.push(Entry::set(b"later", &[b'x'; 9000]));
        more.push(Entry::del(b"zone/00"));
        let more = more.seal(wall_clock_us()).unwrap();
        upstream.apply(&[more]).unwrap();

        let batches: Vec<Batch> = {
            let environment = upstream.environment();
            let txn = environment.env.read().unwrap();
            let records = log::read_after(environment, &txn, downstream.end().index, 1 << 20);
            records.unwrap().into_iter().map(|record| record.decode().unwrap()).collect()
        };
        assert_eq!(batches.len(), 2, "the root's last one, and the new one");
        downstream.apply(&batches).unwrap();

        let readers = [root.reader(), relay.reader()];
        for reader in &readers {
            assert_eq!(reader.status().unwrap().format, *version);
            assert_eq!(reader.get(b"later").unwrap().unwrap(), [b'x'; 9000]);
            assert_eq!(reader.get(b"zone/00").unwrap(), None);
            let report = verify::verify(&reader.environment().unwrap(), |_| ()).unwrap();
            assert!(report.is_clean(), "{:?}", report.problems);
        }
        let [one, two] = readers.map(|reader| reader.status().unwrap());
        assert_eq!(
            (one.position, one.digest, one.history),
            (two.position, two.digest, two.history)
        );
        for store in [&mut upstream, &mut downstream] {
            assert_eq!(store.raise_format().unwrap().from, *version);
        }
        assert_eq!(root.reader().status().unwrap().position, one.position);
    }
}

/// A stored file that changes is no longer what that release wrote.
#[test]
fn golden_files_of_a_stored_version_never_change() {
    for version in VERSIONS {
        let dir = golden(*version);
        let mut check = Command::new("sha256sum");
        check.args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&dir);
        let said = check.output().unwrap();
        assert!(
            said.status.success(),
            "golden files of format {version} have changed. They are what that release wrote: take \
             the change back, and give a new format its own files.\n{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
        let listed = fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
        let listed: BTreeSet<&str> =
            listed.lines().filter_map(|line| Some(line.split_once("  ")?.1)).collect();
        for file in golden_files(*version) {
            assert!(listed.contains(&*file), "{file} is not in {}/SHA256SUMS", dir.display());
        }
    }
}

/// The golden files of a version, those of the codecs and of the wire too, as seen from its directory.
fn golden_files(version: u32) -> Vec<String> {
    let suffix = format!("-v{version}");
    let mut files = Vec::new();
    for (dir, all) in [
        (format!("tests/golden/v{version}"), true),
        ("reader-lib/format/golden".to_owned(), false),
        ("reader-lib/golden".to_owned(), false),
        ("replicator/protocol/golden".to_owned(), false),
    ] {
        for entry in fs::read_dir(repository().join(&dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let stem = name.split('.').next().unwrap();
            if name == "SHA256SUMS"
                || !(all || stem.ends_with(&suffix) || stem.contains(&format!("{suffix}-")))
            {
                continue;
            }
            files.push(if all { name } else { format!("../../../{dir}/{name}") });
        }
    }
    files.sort();
    files
}

/// One entry of what the stored databases are made of: a key, and a pattern that is repeated up to so
/// many bytes; or none, for a DEL.
type Change = (Vec<u8>, Option<(Vec<u8>, usize)>);

fn set(key: impl AsRef<[u8]>, pattern: impl AsRef<[u8]>, bytes: usize) -> Change {
    (key.as_ref().to_vec(), Some((pattern.as_ref().to_vec(), bytes)))
}

fn del(key: impl AsRef<[u8]>) -> Change {
    (key.as_ref().to_vec(), None)
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Batches with every kind of cell and record: in the leaf, on a page of its own, in chunks, empty;
/// changed from one into another, removed, written twice in a batch; records that compress and that
/// do not, in one piece and in several.
fn contents() -> Vec<Vec<Change>> {
    let zone = |n: u32| format!("zone/{n:02}");
    let address = |n: u32| format!("192.0.2.{n}");
    let short = (0..20).map(|n| set(zone(n), address(n), address(n).len())).collect();
    let text = "a line of a page rule\n";
    vec![
        short,
        vec![
            set("value/leaf", text, 1_900),
            set("value/page", text, 2_500),
            set("value/full-page", text, 4_067),
            set("value/one-chunk", text, 4_068),
            set("value/chunks", text, 9_000),
            set("value/gone-chunks", text, 9_000),
            set("value/empty", "", 0),
            set([b'k'; 511], "the longest key", 15),
            set(b"\x00\xff binary\n", b"\xff\x00", 7),
        ],
        vec![set("noise", noise(9_000), 9_000)],
        vec![
            set("value/chunks", "short now", 9),
            set("value/leaf", text, 20_000),
            del("value/gone-chunks"),
            del("noise"),
            del(zone(19)),
            set("twice", "first", 5),
            set("twice", "last", 4),
            set("back", "here", 4),
            del("back"),
            set("back", "again", 5),
        ],
        vec![set("last", "of the root's log", 17)],
    ]
}

/// Old batches: the root's retention of a day collects them.
const OLD_BATCHES: usize = 2;
const DAY: Retention = Retention { max_age_us: 86_400_000_000, ..Retention::UNLIMITED };

/// Makes the files of the format that this release gives a new database. Run it by hand when that is
/// a new one: never for a version that is stored.
#[test]
#[ignore = "makes the stored files of a new format version"]
fn make_golden() {
    assert!(files_fit());
    let version = NEW_DATABASE_FORMAT_VERSION;
    let dir = golden(version);
    assert!(!dir.join("manifest.json").exists(), "{} is stored already", dir.display());
    fs::create_dir_all(&dir).unwrap();
    let db_id = DbId::from_bytes(*b"golden database\0");
    let history = HistoryId::from_bytes(*b"golden history\0\0");
    let nodes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [root, relay] = &nodes;
    let mut upstream = Store::open(root.path(), db_id, history, SIZES).unwrap();
    let mut downstream = Store::open(relay.path(), db_id, HistoryId::NONE, SIZES).unwrap();
    upstream.set_retention(DAY);
    downstream.adopt_history(history).unwrap();
    let (mut pairs, mut deleted) = (BTreeMap::new(), BTreeSet::new());
    let batches = contents();
    for (n, changes) in batches.iter().enumerate() {
        let batch = seal(upstream.end(), changes, n < OLD_BATCHES);
        for (index, (key, value)) in (batch.first().get()..).zip(changes) {
            match value {
                Some((pattern, bytes)) => {
                    deleted.remove(key);
                    pairs.insert(key, (index, pattern, bytes));
                }
                None => {
                    deleted.insert(key);
                    pairs.remove(key);
                }
            }
        }
        upstream.apply(std::slice::from_ref(&batch)).unwrap();
        upstream.set_heartbeat(wall_clock_us());
        if n + 1 < batches.len() {
            downstream.apply(&[batch]).unwrap();
        }
    }
    let mut manifest = json!({
        "format": version,
        "written_by": env!("CARGO_PKG_VERSION"),
        "machine": format!("x86_64, pages of {PAGE_BYTES} bytes"),
        "db_id": db_id.to_string(),
        "history": history.to_string(),
        "deleted_hex": deleted.iter().map(|key| hex(key)).collect::<Vec<_>>(),
        "pairs": pairs.iter().map(|(key, (since, pattern, bytes))| json!({
            "key_hex": hex(key), "pattern_hex": hex(pattern), "bytes": bytes, "since": since,
        })).collect::<Vec<_>>(),
    });
    for (store, name) in [(upstream, "root"), (downstream, "relay")] {
        let mut said = summary(&store.reader().unwrap());
        for common in ["format", "history"] {
            said.as_object_mut().unwrap().remove(common);
        }
        manifest[name] = said;
    }
    assert!(manifest["root"]["oldest_index"].as_u64() > Some(Index::FIRST.get()), "collected");
    fs::write(dir.join("manifest.json"), format!("{manifest:#}\n")).unwrap();
    for (node, name) in nodes.iter().zip(["root", "relay"]) {
        pack(node.path(), &dir.join(format!("{name}.tar.gz")));
    }
    write_hashes(version);
}

/// Writes the hashes of a version's files. Run it by hand when a golden file was *added* to a version
/// that is not released yet.
#[test]
#[ignore = "writes the hashes of the newest version's golden files"]
fn write_golden_hashes() {
    write_hashes(NEW_DATABASE_FORMAT_VERSION);
}

fn write_hashes(version: u32) {
    let dir = golden(version);
    let sums = Command::new("sha256sum").args(golden_files(version)).current_dir(&dir).output();
    fs::write(dir.join("SHA256SUMS"), sums.unwrap().stdout).unwrap();
}

fn seal(before: Position, changes: &[Change], old: bool) -> Batch {
    let mut batch = BatchBuilder::new(before);
    for (key, value) in changes {
        match value {
            Some((pattern, bytes)) => {
                let value: Vec<u8> = pattern.iter().copied().cycle().take(*bytes).collect();
                batch.push(Entry::set(key, &value));
            }
            None => {
                batch.push(Entry::del(key));
            }
        }
    }
    batch.seal(if old { 1 } else { wall_clock_us() }).unwrap()
}

fn pack(dir: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    tar.args(["-I", "gzip -9n", "-cf"]).arg(archive).arg("-C").arg(dir).arg(".");
    assert!(tar.status().unwrap().success());
}
