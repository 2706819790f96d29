//! How often a claim changed of late. A Node that is Ready now and was not twice within the hour claims less than one that always was.

use crate::names::UnixNs;
use alloc::collections::VecDeque;

/// What counts as of late.
pub const WINDOW_NS: u64 = 3_600_000_000_000;
/// Changes that are remembered.
const CHANGES_MAX: usize = 256;

/// The changes of one condition.
#[derive(Clone, Debug, Default)]
pub struct Toggles {
    now: Option<bool>,
    changes: VecDeque<UnixNs>,
}

impl Toggles {
    /// What the condition is at this moment; how often it changed within the window. That it is not known (the object says so, or is away)
    /// is no change.
    pub fn note(&mut self, holds: Option<bool>, at: UnixNs) -> u32 {
        if holds.is_some() {
            if self.now.is_some() && self.now != holds {
                self.changes.push_back(at);
            }
            self.now = holds;
        }
        while self.changes.len() > CHANGES_MAX || self.changes.front().is_some_and(|change| at.since_ns(*change) > WINDOW_NS) {
            self.changes.pop_front();
        }
        u32::try_from(self.changes.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_count_for_an_hour() {
        let mut toggles = Toggles::default();
        let at = |minutes: u64| UnixNs(1 + minutes * 60_000_000_000);
        assert_eq!(toggles.note(Some(true), at(0)), 0);
        assert_eq!(toggles.note(Some(true), at(1)), 0);
        assert_eq!(toggles.note(Some(false), at(2)), 1);
        assert_eq!(toggles.note(None, at(3)), 1);
        assert_eq!(toggles.note(Some(true), at(4)), 2);
        assert_eq!(toggles.note(Some(true), at(62)), 2);
        assert_eq!(toggles.note(Some(true), at(63)), 1);
        assert_eq!(toggles.note(Some(true), at(65)), 0);
    }
}
