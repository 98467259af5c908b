//! The hard limits of the formats. Configuration may lower them, nothing may raise them.

/// Shortest key.
pub const KEY_MIN_BYTES: usize = 1;
/// Longest key: LMDB's default limit, compiled into the library of every distribution.
pub const KEY_MAX_BYTES: usize = 511;
/// Longest value that any configuration may allow.
pub const VALUE_HARD_MAX_BYTES: usize = 256 << 20;
/// Longest value unless the configuration says otherwise.
pub const VALUE_DEFAULT_MAX_BYTES: usize = 16 << 20;
/// Most entries in one batch, together with the chunks of the values that they replace or remove.
/// Every random key dirties a leaf page of its own, every freed chunk is a page to be read, and every
/// node has to do all of it in one commit.
pub const BATCH_MAX_ENTRIES: usize = 100_000;
const _: () = assert!(
    crate::chunk::count(VALUE_HARD_MAX_BYTES, 4096) < BATCH_MAX_ENTRIES,
    "the longest value can be removed"
);
/// Most bytes of canonical entries in one batch that any configuration may allow: the largest
/// value, its key and its framing fit, with room to spare.
pub const BATCH_HARD_MAX_BYTES: usize = VALUE_HARD_MAX_BYTES + (1 << 20);
/// Bytes of canonical entries in one batch unless the configuration says otherwise.
pub const BATCH_DEFAULT_MAX_BYTES: usize = 32 << 20;
/// Longest payload of a control record.
pub const CONTROL_MAX_BYTES: usize = 64 << 10;
/// Longest node id, site or database name.
pub const NAME_MAX_BYTES: usize = 64;

/// A key outside `KEY_MIN_BYTES..=KEY_MAX_BYTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key of {bytes} bytes: a key has 1 to {KEY_MAX_BYTES} bytes")]
pub struct KeyLengthError {
    /// Bytes the key has.
    pub bytes: usize,
}

/// Accepts keys of 1 to 511 bytes.
pub fn check_key(key: &[u8]) -> Result<(), KeyLengthError> {
    if (KEY_MIN_BYTES..=KEY_MAX_BYTES).contains(&key.len()) {
        Ok(())
    } else {
        Err(KeyLengthError { bytes: key.len() })
    }
}
