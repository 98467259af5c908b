//! Snapshot files: the manifest, the pairs of a block, the trailer.

use quicksilver_format::manifest::{
    Manifest, Pairs, Section, SnapshotHash, TRAILER_BYTES, decode_trailer, encode_pair,
    encode_trailer, pair_bytes,
};

use crate::input::Input;

const HASH_BYTES: usize = 32;

/// The bytes as a manifest, as a block, and as the end of a file.
///
/// One byte: bit 0 says that the manifest's hash is to be put right first. The bytes.
pub fn snapshots(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let mut bytes = input.rest().to_vec();
    if choice & 1 != 0
        && let Some((content, hash)) = bytes.split_last_chunk_mut::<HASH_BYTES>()
    {
        *hash = *SnapshotHash::of(content).as_bytes();
    }
    manifest(&bytes);
    block(&bytes);
    if let Some(trailer) = bytes.last_chunk::<TRAILER_BYTES>()
        && let Ok(manifest_bytes) = decode_trailer(trailer)
    {
        assert_eq!(&encode_trailer(manifest_bytes), trailer);
    }
}

fn manifest(bytes: &[u8]) {
    let (manifest, identity) = match Manifest::decode(bytes) {
        Ok(decoded) => decoded,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(manifest.encode(), bytes);
    assert!(bytes.ends_with(identity.as_bytes()));
    assert!(manifest.blocks_bytes() >= manifest.blocks.len() as u64);
    let of = |wanted| manifest.blocks().filter(|(section, _)| *section == wanted).count();
    let counts = [of(Section::Data), of(Section::Chunks), of(Section::Log)];
    assert_eq!(counts, manifest.sections.map(|n| n as usize));
    assert!(manifest.blocks().is_sorted_by_key(|(section, _)| section));
}

fn block(bytes: &[u8]) {
    let (mut pairs, mut again) = (Pairs::new(bytes), Vec::new());
    let whole = loop {
        match pairs.take() {
            Ok(Some((key, value))) => {
                let before = again.len();
                encode_pair(key, value, &mut again).expect("what was decoded can be encoded");
                assert_eq!(again.len() - before, pair_bytes(key, value));
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert!(bytes.starts_with(&again));
    assert!(!whole || again.len() == bytes.len());
}
