//! Seeded chance: the same seed tells the same story again. SplitMix64.

/// A source of numbers.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Of `DOGWATCH_TEST_SEED`, else of the clock; said on stderr, so that a failure can be had again.
    pub fn of_environment(what: &str) -> Self {
        let given = std::env::var("DOGWATCH_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| u64::try_from(dogwatch::clock::wall_ns()).unwrap_or(1));
        eprintln!("{what}: DOGWATCH_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.number() % (to - from + 1)
    }

    /// Whether it happens, `percent` times in a hundred.
    pub fn happens(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// `n` bytes that do not compress.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(n + 8);
        while out.len() < n {
            out.extend_from_slice(&self.number().to_le_bytes());
        }
        out.truncate(n);
        out
    }
}
