//! Keys, values and the orders in which they are asked for: made from numbers, so that every run
//! and every program sees the same.

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 100;

/// SplitMix64: a small generator with a seed, and a bijection that scatters numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is far below 2^32: the bias is not worth a loop.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.next_u64() >> 32) * end) >> 32
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key with this number: neighbours in number lie far apart in key order.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let scattered = mix(number.wrapping_add(1));
    std::array::from_fn(|at| DIGITS[(scattered >> (60 - 4 * at)) as usize & 15])
}

/// A value that does not compress to nothing: random letters, different for every number.
pub fn value(number: u64) -> [u8; VALUE_BYTES] {
    let mut rng = Rng::new(number ^ 0x5eed);
    let mut bits = 0;
    std::array::from_fn(|at| {
        if at % 8 == 0 {
            bits = rng.next_u64();
        }
        let byte = bits as u8;
        bits >>= 8;
        // Printable, so that text formats carry it unescaped.
        b'!' + byte % 64
    })
    .map(|byte| if byte == b'"' || byte == b'\\' || byte == b'\'' { b'z' } else { byte })
}

/// How often which key is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// Zipf with exponent 0.99, as YCSB has it.
    Zipf,
}

impl Distribution {
    /// For the tables.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipf => "Zipf",
        }
    }
}

/// `picks` key numbers below `keys`.
pub fn sequence(distribution: Distribution, keys: u64, picks: usize, seed: u64) -> Vec<u64> {
    let mut rng = Rng::new(seed);
    match distribution {
        Distribution::Uniform => (0..picks).map(|_| rng.below(keys)).collect(),
        Distribution::Zipf => {
            let zipf = Zipf::new(keys);
            (0..picks).map(|_| zipf.rank(rng.unit())).collect()
        }
    }
}

/// Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994).
struct Zipf {
    keys: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(keys: u64) -> Self {
        let zeta_of = |n: u64| (1..=n).map(|i| (i as f64).powf(-Self::THETA)).sum::<f64>();
        let zeta = zeta_of(keys);
        let keys = keys as f64;
        let eta = (1.0 - (2.0 / keys).powf(1.0 - Self::THETA)) / (1.0 - zeta_of(2) / zeta);
        Zipf { keys, zeta, eta }
    }

    fn rank(&self, u: f64) -> u64 {
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(Self::THETA) {
            return 1;
        }
        let rank = self.keys * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - Self::THETA));
        (rank as u64).min(self.keys as u64 - 1)
    }
}

/// Random bytes from which values are cut at random places: none is like another, none can be
/// compressed, and making one costs nothing.
#[derive(Debug)]
pub struct Pool(Vec<u8>);

impl Pool {
    /// Places at which a value can begin.
    const PLACES: usize = 1 << 20;

    /// For values of up to `longest` bytes.
    pub fn new(longest: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let words = (Self::PLACES + longest).div_ceil(8);
        Pool((0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect())
    }

    /// One value.
    ///
    /// # Panics
    /// When it is longer than the longest.
    pub fn cut(&self, bytes: usize, rng: &mut Rng) -> &[u8] {
        let at = rng.below(Self::PLACES as u64) as usize;
        &self.0[at..at + bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_anywhere_and_are_as_long_as_they_should() {
        let (pool, mut rng) = (Pool::new(1000, 1), Rng::new(2));
        let values: std::collections::HashSet<_> =
            (0..1000).map(|_| pool.cut(1000, &mut rng)).collect();
        assert!(values.len() > 990);
        assert!(values.iter().all(|value| value.len() == 1000));
    }

    #[test]
    fn keys_differ_and_zipf_prefers_the_first() {
        let keys: std::collections::HashSet<_> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        let picks = sequence(Distribution::Zipf, 1000, 100_000, 7);
        let first = picks.iter().filter(|&&pick| pick == 0).count();
        let tenth = picks.iter().filter(|&&pick| pick == 9).count();
        assert!((10_000..18_000).contains(&first), "{first}");
        assert!((800..1_800).contains(&tenth), "{tenth}");
        assert!(picks.iter().all(|&pick| pick < 1000));
    }
}

/// What a database holds.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The keys 0 to this.
    pub keys: u64,
    /// Bytes of every value.
    pub value_bytes: usize,
}

impl Shape {
    /// Some 20 MB.
    pub const SMALL: Shape = Shape { keys: 100_000, value_bytes: VALUE_BYTES };
    /// Over 10 GB.
    pub const LARGE: Shape = Shape { keys: 10_000_000, value_bytes: 1000 };
}
