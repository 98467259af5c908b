//! Latencies by the million: a histogram of fixed size, so that recording one allocates nothing.
//!
//! Every power of two is cut into 64 buckets, so what is read back is at most 1.6 % too high. The
//! peers in C count in the same buckets (`writers/lmdb.c`) and print them.

use crate::Result;

/// Buckets of one power of two, as a power of two.
const SUB_BITS: u32 = 6;
const SUBS: usize = 1 << SUB_BITS;
/// Longest latency that has a bucket of its own: 2^40 ns, 18 minutes.
const TOP_BITS: u32 = 40;
const BUCKETS: usize = (TOP_BITS - SUB_BITS + 1) as usize * SUBS;

/// Nanoseconds, counted.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], count: 0, max: 0 }
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUBS as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - SUB_BITS;
    let bucket = (shift as usize) * SUBS + (ns >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The highest latency that falls into a bucket.
fn top_of(bucket: usize) -> u64 {
    if bucket < SUBS {
        return bucket as u64;
    }
    let shift = bucket / SUBS - 1;
    (((bucket - shift * SUBS) as u64 + 1) << shift) - 1
}

impl Histogram {
    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket_of(ns)] += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    /// Counts everything that another one has.
    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// What [`parse`](Self::parse) reads, as text.
    pub fn to_line(&self) -> String {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let pairs = counts.map(|(bucket, count)| format!(" {bucket} {count}"));
        format!("{}{}", self.max, pairs.collect::<String>())
    }

    /// From what a peer in C prints: the longest, then pairs of a bucket and its count.
    pub fn parse(numbers: &[u64]) -> Result<Histogram> {
        let (&max, pairs) = numbers.split_first().ok_or("an empty histogram")?;
        let mut histogram = Histogram { max, ..Histogram::default() };
        for pair in pairs.chunks(2) {
            let &[bucket, count] = pair else { return Err("a bucket without a count".into()) };
            let at = usize::try_from(bucket)?;
            *histogram.counts.get_mut(at).ok_or("a bucket that does not exist")? += count;
            histogram.count += count;
        }
        Ok(histogram)
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The latency that a part `q` (0 to 1) does not exceed; 0 of none.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return top_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_a_narrow_bucket() {
        for ns in (0..200).chain([1_000, 4_095, 4_096, 123_456_789, (1 << 40) - 1]) {
            let top = top_of(bucket_of(ns));
            assert!(top >= ns && top - ns <= ns / 64, "{ns} is counted as {top}");
        }
        assert_eq!(bucket_of((1 << 40) - 1), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_what_was_recorded_added_and_parsed() {
        let mut histogram = Histogram::default();
        (1..=50).for_each(|ns| histogram.record(ns));
        let mut rest = Histogram::default();
        (51..=100).for_each(|ns| rest.record(ns));
        histogram.add(&rest);
        assert_eq!((histogram.count(), histogram.max()), (100, 100));
        assert_eq!(histogram.quantile(0.5), 50);
        assert_eq!(histogram.quantile(0.99), 99);
        assert_eq!(histogram.quantile(1.0), 100);
        assert_eq!(Histogram::default().quantile(0.5), 0);

        let numbers: Vec<u64> =
            histogram.to_line().split(' ').map(|n| n.parse().expect("a number")).collect();
        let again = Histogram::parse(&numbers).expect("it is well formed");
        assert_eq!((again.count(), again.quantile(0.99), again.max()), (100, 99, 100));

        let parsed = Histogram::parse(&[7, 3, 10, 7, 1]).expect("it is well formed");
        assert_eq!((parsed.count(), parsed.quantile(0.5), parsed.max()), (11, 3, 7));
        assert!(Histogram::parse(&[7, 3]).is_err());
    }
}
