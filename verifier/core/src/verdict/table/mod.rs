//! The cause table, by class. Data, not code: one entry per [`CauseCode`], and the only place where a cause is described. The pages
//! under `docs/causes` and `verifier explain` are printed from it.

mod datastore;
mod host;
mod not_forwarded;
mod not_programmed;
mod pods;
mod seen;

use super::{Cause, CauseCode};

/// The parts of the table, in the order in which they are printed.
pub const PARTS: &[&[Cause]] = &[
    not_programmed::CAUSES,
    pods::CAUSES,
    not_forwarded::CAUSES,
    seen::CAUSES,
    datastore::CAUSES,
    // Last: whatever stands nearer to the packets is taken as the nearer cause.
    host::CAUSES,
];

/// All causes, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Cause> {
    PARTS.iter().flat_map(|part| part.iter())
}

/// The entry of `code`. A unit test proves that every code has exactly one, so the fallback is never taken.
pub(super) fn lookup(code: CauseCode) -> &'static Cause {
    all().find(|c| c.code == code).unwrap_or(&not_forwarded::UNEXPLAINED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, vec::Vec};

    #[test]
    fn every_code_has_exactly_one_entry() {
        for code in CauseCode::ALL {
            assert_eq!(all().filter(|c| c.code == *code).count(), 1, "{code}");
        }
    }

    #[test]
    fn explains_has_no_cycle() {
        fn reach(code: CauseCode, seen: &mut BTreeSet<CauseCode>) {
            for next in code.cause().explains {
                if seen.insert(*next) {
                    reach(*next, seen);
                }
            }
        }
        for code in CauseCode::ALL {
            let mut seen = BTreeSet::new();
            reach(*code, &mut seen);
            assert!(
                !seen.contains(code),
                "{code} explains itself through {:?}",
                seen.iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn texts_are_written() {
        for cause in all() {
            for text in [cause.title, cause.meaning, cause.detected, cause.remedy, cause.verify] {
                assert!(text.len() > 10, "{}: {text:?}", cause.code);
            }
        }
    }
}
