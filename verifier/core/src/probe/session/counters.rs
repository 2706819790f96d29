//! What a session heard and could not use.

use serde::{Deserialize, Serialize};

/// Counts of a session. All zero when nothing strange happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionCounters {
    /// Packets on a probe's socket too short for a probe.
    pub truncated: u64,
    /// Replies with a wrong tag, or of an unknown key or version.
    pub forged: u64,
    /// Replies whose ICMP or TCP checksum does not hold: something corrupts packets on the way.
    pub bad_checksum: u64,
    /// Replies to a probe that was answered already: duplicated on the way, or replayed.
    pub duplicates: u64,
    /// Well-signed replies of another start of this program: late or replayed.
    pub other_incarnation: u64,
    /// Replies to no probe of this batch: of an earlier batch, or with a wrong sequence.
    pub unknown: u64,
    /// ICMP errors that quote no probe of this batch, or not enough to say which.
    pub unmatched_errors: u64,
}

impl SessionCounters {
    /// The sum with another session's.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            truncated: self.truncated + other.truncated,
            forged: self.forged + other.forged,
            bad_checksum: self.bad_checksum + other.bad_checksum,
            duplicates: self.duplicates + other.duplicates,
            other_incarnation: self.other_incarnation + other.other_incarnation,
            unknown: self.unknown + other.unknown,
            unmatched_errors: self.unmatched_errors + other.unmatched_errors,
        }
    }

    /// Each count with its name.
    pub const fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("truncated", self.truncated),
            ("forged", self.forged),
            ("bad-checksum", self.bad_checksum),
            ("duplicate", self.duplicates),
            ("other-incarnation", self.other_incarnation),
            ("unknown", self.unknown),
            ("unmatched-error", self.unmatched_errors),
        ]
    }

    /// Everything, to ask whether there was anything at all.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }
}
