//! The search for the largest packet that passes, when a small probe passes and one of the intended MTU does not.
//!
//! Each step sends three sizes that cut what is left into four parts, so a range of 1400 bytes is searched to the byte in six steps.
//! The answers may come in any order. It assumes that what passes at one size passes at every smaller one; where the answers deny that
//! (a lossy path rather than a narrow one) the search ends and says so.

use alloc::vec::Vec;

/// A search in progress. Sizes are inner IP packet lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeSearch {
    passes: u32,
    fails: u32,
    steps: u32,
    consistent: bool,
}

/// Sizes in one step.
const CUTS: u32 = 3;
/// More steps than any pair of sizes of IPv4 needs: a bound, not a limit.
const MAX_STEPS: u32 = 10;

impl SizeSearch {
    /// A search between a size that passes and a larger one that does not; none if they are not in that order.
    pub const fn new(passes: u32, fails: u32) -> Option<Self> {
        if passes < fails {
            Some(Self {
                passes,
                fails,
                steps: 0,
                consistent: true,
            })
        } else {
            None
        }
    }

    /// The sizes to try next, ascending; empty when the search has ended.
    pub fn next_sizes(&self) -> Vec<u32> {
        if self.finished() {
            return Vec::new();
        }
        let left = u64::from(self.fails - self.passes);
        let mut sizes: Vec<u32> = (1..=CUTS)
            .map(|cut| self.passes + (left * u64::from(cut) / u64::from(CUTS + 1)) as u32)
            .filter(|size| *size > self.passes && *size < self.fails)
            .collect();
        sizes.dedup();
        sizes
    }

    /// Takes the results of a step: sizes with whether any attempt of that size passed. A size without a result (not sent) is left out.
    pub fn record(&mut self, results: &[(u32, bool)]) {
        self.steps += 1;
        let passed = results.iter().filter(|(_, passed)| *passed).map(|(size, _)| *size).max();
        let failed = results.iter().filter(|(_, passed)| !*passed).map(|(size, _)| *size).min();
        let passes = passed.map_or(self.passes, |size| size.max(self.passes));
        let fails = failed.map_or(self.fails, |size| size.min(self.fails));
        if passes < fails {
            (self.passes, self.fails) = (passes, fails);
        } else {
            // Something larger passed than something that failed: not a question of size.
            self.consistent = false;
        }
    }

    /// Whether nothing is left to try.
    pub const fn finished(&self) -> bool {
        !self.consistent || self.fails - self.passes <= 1 || self.steps >= MAX_STEPS
    }

    /// Whether the limit is known to the byte.
    pub const fn exact(&self) -> bool {
        self.consistent && self.fails - self.passes <= 1
    }

    /// The largest size known to pass, if the answers were consistent.
    pub const fn largest_passing(&self) -> Option<u32> {
        if self.consistent { Some(self.passes) } else { None }
    }

    /// Steps taken.
    pub const fn steps(&self) -> u32 {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_the_limit_to_the_byte_in_few_steps(small in 40_u32..100, width in 1_u32..9_000, at in 0_u32..9_000) {
            let (limit, fails) = (small + at % width, small + width);
            let mut search = SizeSearch::new(small, fails).unwrap();
            while !search.finished() {
                let results: Vec<(u32, bool)> = search.next_sizes().into_iter().map(|size| (size, size <= limit)).collect();
                prop_assert!(!results.is_empty());
                search.record(&results);
            }
            prop_assert!(search.exact());
            prop_assert_eq!(search.largest_passing(), Some(limit));
            prop_assert!(search.steps() <= 7, "{} steps", search.steps());
        }

        #[test]
        fn ends_whatever_the_answers(answers in proptest::collection::vec(any::<bool>(), 64)) {
            let mut search = SizeSearch::new(68, 1_450).unwrap();
            let mut answers = answers.into_iter().cycle();
            for _ in 0..=MAX_STEPS {
                let sizes = search.next_sizes();
                if sizes.is_empty() {
                    break;
                }
                search.record(&sizes.into_iter().zip(&mut answers).collect::<Vec<_>>());
            }
            prop_assert!(search.finished());
        }
    }

    #[test]
    fn a_larger_size_that_passes_ends_the_search() {
        let mut search = SizeSearch::new(68, 1_450).unwrap();
        search.record(&[(400, false), (800, true)]);
        assert!(search.finished());
        assert_eq!(search.largest_passing(), None);
        assert_eq!(search.next_sizes(), Vec::<u32>::new());
        assert_eq!(SizeSearch::new(1_450, 1_450), None);
    }
}
