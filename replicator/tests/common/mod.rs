//! What the tests of store, writer and sequencer share.

use quicksilver_format::cell::Body;
use quicksilver_replicator::store::Store;

/// The chunks that [`make_very_long`] gives each value: two fit one commit, three free too much.
const VERY_LONG_CHUNKS: u32 = 40_000;

/// Makes long values very long without writing them: their cells say so.
pub(crate) fn make_very_long(store: &Store, keys: &[&str]) {
    let environment = store.environment();
    let mut txn = environment.env.write().unwrap();
    for key in keys {
        let mut cell = environment.cell(&txn, key.as_bytes()).unwrap().unwrap();
        cell.body = Body::Chunked { value_bytes: cell.value_bytes(), chunks: VERY_LONG_CHUNKS };
        let mut stored = Vec::new();
        cell.encode(&mut stored);
        txn.put(environment.data, key.as_bytes(), &stored).unwrap();
    }
    txn.commit().unwrap();
}
