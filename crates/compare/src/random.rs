//! Repeatable random choices: SplitMix64, whose whole state is one word.

/// A generator of choices.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for one case of a run.
    pub fn new(seed: u64, stream: u64, case: u64) -> Self {
        let mut random = Self(seed);
        for word in [stream, case] {
            random.0 = random.word() ^ word;
        }
        random
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which are not none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
