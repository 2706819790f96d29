//! Who leads, by a Lease: the rules of client-go's election. A Lease counts from when its last change was *seen*, on the observer's own clock, so
//! that clocks need not agree. No API here.

use alloc::string::{String, ToString};

/// How long a Lease holds without being renewed, s.
pub const DURATION_SECONDS: u32 = 15;
/// How long its holder may fail to renew before it stops leading: shorter, so that there are never two.
pub const RENEW_DEADLINE_MS: u64 = 10_000;
/// Time between two attempts.
pub const RETRY_MS: u64 = 2_000;

/// A Lease, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it; empty if nobody does.
    pub holder: String,
    /// When it was renewed, as its holder wrote it: only compared.
    pub renewed: String,
    /// How long it holds, s.
    pub duration_seconds: u32,
    /// How often the holder changed.
    pub transitions: u32,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody else leads.
    Wait,
    /// Take it: nobody holds it, or its holder is gone.
    Take {
        /// How often the holder changed, this time included.
        transitions: u32,
    },
    /// Go on.
    Renew {
        /// Unchanged.
        transitions: u32,
    },
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    seen: Option<(Lease, u64)>,
    renewed_ms: Option<u64>,
}

impl Election {
    /// A candidate of this name.
    pub fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_string(),
            seen: None,
            renewed_ms: None,
        }
    }

    /// What to do about the Lease as it was just read; none if there is none.
    pub fn step(&mut self, lease: Option<Lease>, now_ms: u64) -> Step {
        let Some(lease) = lease else {
            return Step::Take { transitions: 0 };
        };
        if self.seen.as_ref().is_none_or(|(known, _)| *known != lease) {
            self.seen = Some((lease.clone(), now_ms));
        }
        if lease.holder == self.identity {
            return Step::Renew {
                transitions: lease.transitions,
            };
        }
        let seen_ms = self.seen.as_ref().map_or(now_ms, |(_, at)| *at);
        let holds_ms = u64::from(lease.duration_seconds).saturating_mul(1000);
        if lease.holder.is_empty() || now_ms.saturating_sub(seen_ms) > holds_ms {
            return Step::Take {
                transitions: lease.transitions.saturating_add(1),
            };
        }
        Step::Wait
    }

    /// It was written, at the latest at `began_ms`, when the request was sent.
    pub fn won(&mut self, began_ms: u64) {
        self.renewed_ms = Some(began_ms);
    }

    /// Somebody else was quicker, or it was given up.
    pub fn lost(&mut self) {
        self.renewed_ms = None;
    }

    /// Whether this candidate leads.
    pub fn leads(&self, now_ms: u64) -> bool {
        self.renewed_ms.is_some_and(|at| now_ms.saturating_sub(at) < RENEW_DEADLINE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: &str) -> Lease {
        Lease {
            holder: holder.to_string(),
            renewed: renewed.to_string(),
            duration_seconds: DURATION_SECONDS,
            transitions: 4,
        }
    }

    #[test]
    fn a_lease_that_is_not_there_is_taken() {
        assert_eq!(Election::new("a").step(None, 0), Step::Take { transitions: 0 });
    }

    #[test]
    fn another_ones_lease_is_taken_only_when_it_was_not_renewed_while_we_watched() {
        let mut a = Election::new("a");
        assert_eq!(a.step(Some(lease("b", "1")), 100_000), Step::Wait);
        assert_eq!(a.step(Some(lease("b", "2")), 114_000), Step::Wait);
        assert_eq!(a.step(Some(lease("b", "2")), 129_000), Step::Wait);
        assert_eq!(a.step(Some(lease("b", "2")), 129_001), Step::Take { transitions: 5 });
    }

    #[test]
    fn a_lease_that_was_given_up_is_taken_at_once() {
        assert_eq!(Election::new("a").step(Some(lease("", "1")), 5), Step::Take { transitions: 5 });
    }

    #[test]
    fn who_cannot_renew_stops_leading_before_another_may_take_it() {
        let mut a = Election::new("a");
        assert_eq!(a.step(Some(lease("a", "1")), 0), Step::Renew { transitions: 4 });
        a.won(0);
        assert!(a.leads(RENEW_DEADLINE_MS - 1));
        assert!(!a.leads(RENEW_DEADLINE_MS));
        assert!(RENEW_DEADLINE_MS < u64::from(DURATION_SECONDS) * 1000);
        a.won(20_000);
        a.lost();
        assert!(!a.leads(20_001));
    }
}
