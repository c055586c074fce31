//! Random numbers that a seed decides: a run can be repeated.

/// SplitMix64: small, and good enough to spread moments and sizes.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next one, from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        // As many bits as such a number has.
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next one, from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        match most.saturating_sub(least).checked_add(1) {
            Some(width) => least + self.draw() % width,
            None => self.draw(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            [(); 5].map(|()| random.between(3, 9))
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!(numbers(1).iter().all(|number| (3..=9).contains(number)));
        assert_eq!(Random::new(1).between(4, 4), 4);
        let mut random = Random::new(1);
        assert_ne!(random.between(0, u64::MAX), random.between(0, u64::MAX));
    }
}
