//! What is written: the same values in the same order for both sides.

use quicksilver_bench::dataset::{self, KEY_BYTES, Pool, Rng};
use quicksilver_format::Entry;

/// The shortest and the longest value; between them every factor is as likely as another.
pub(crate) const VALUE_BYTES: [usize; 2] = [1000, 1 << 20];

/// Keys whose values together have about so many bytes.
pub(crate) fn keys_of(live_bytes: u64) -> u64 {
    let [short, long] = VALUE_BYTES.map(|bytes| bytes as f64);
    let mean = (long - short) / (long / short).ln();
    ((live_bytes as f64 / mean) as u64).max(1)
}

/// A key, and where in the pool its new value is.
struct Change<'a> {
    key: [u8; KEY_BYTES],
    value: &'a [u8],
}

/// Overwrites random keys with values of other lengths, for ever.
pub(crate) struct Churn {
    pool: Pool,
    rng: Rng,
    /// Bytes of every key's value; 0 for one that was not written yet.
    lengths: Vec<usize>,
    live_bytes: u64,
}

impl Churn {
    pub(crate) fn new(keys: u64) -> Self {
        let pool = Pool::new(VALUE_BYTES[1], 1);
        Churn { pool, rng: Rng::new(2), lengths: vec![0; keys as usize], live_bytes: 0 }
    }

    /// Bytes of live keys and values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Every key once, `values` at a time.
    pub(crate) fn fill<E>(
        &mut self,
        values: usize,
        mut commit: impl FnMut(&[Entry<'_>]) -> Result<(), E>,
    ) -> Result<(), E> {
        let keys: Vec<u64> = (0..self.lengths.len() as u64).collect();
        for keys in keys.chunks(values) {
            self.write(keys, &mut commit)?;
        }
        Ok(())
    }

    /// The next `values` changes.
    pub(crate) fn next<T, E>(
        &mut self,
        values: usize,
        commit: impl FnOnce(&[Entry<'_>]) -> Result<T, E>,
    ) -> Result<T, E> {
        let all = self.lengths.len() as u64;
        let keys: Vec<u64> = (0..values).map(|_| self.rng.below(all)).collect();
        self.write(&keys, commit)
    }

    fn write<T, E>(
        &mut self,
        keys: &[u64],
        commit: impl FnOnce(&[Entry<'_>]) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut changes = Vec::with_capacity(keys.len());
        for &number in keys {
            let bytes = length(self.rng.unit());
            let before = std::mem::replace(&mut self.lengths[number as usize], bytes);
            let new_key = if before == 0 { KEY_BYTES } else { 0 };
            self.live_bytes += (new_key + bytes) as u64;
            self.live_bytes -= before as u64;
            let value = self.pool.cut(bytes, &mut self.rng);
            changes.push(Change { key: dataset::key(number), value });
        }
        let entries: Vec<_> = changes.iter().map(|c| Entry::set(&c.key, c.value)).collect();
        commit(&entries)
    }
}

/// The length that lies at this part (0 to 1) of all, on a scale of factors.
fn length(part: f64) -> usize {
    let [short, long] = VALUE_BYTES.map(|bytes| bytes as f64);
    (short * (long / short).powf(part)) as usize
}

#[cfg(test)]
mod tests {
    use quicksilver_format::Op;

    use super::*;

    #[test]
    fn live_bytes_are_those_of_the_last_values() {
        assert_eq!((length(0.0), length(1.0)), (VALUE_BYTES[0], VALUE_BYTES[1]));
        let mut churn = Churn::new(keys_of(50_000_000));
        let mut last = std::collections::HashMap::new();
        let mut take = |entries: &[Entry<'_>]| {
            for entry in entries {
                let Op::Set(value) = entry.op else { panic!("only values are written") };
                last.insert(entry.key.to_vec(), value.len() as u64);
            }
            Ok::<_, ()>(())
        };
        churn.fill(7, &mut take).expect("nothing fails");
        churn.next(500, &mut take).expect("nothing fails");
        let live: u64 = last.iter().map(|(key, bytes)| key.len() as u64 + bytes).sum();
        assert_eq!(churn.live_bytes(), live);
        assert!((25_000_000..100_000_000).contains(&live), "{live}");
    }
}
