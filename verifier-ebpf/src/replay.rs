//! Which tags were answered of late: a request is answered once.
//!
//! The kernel's own LRU map does this too, at four times the price of everything else the reflector does. A tag here has a set of four
//! places. Each place holds half of the tag and the time of its use in one word, so that one compare-and-swap decides between two CPUs
//! that see the same request. The least recently used place of a set is taken, but never one whose tag is still fresh: then the request
//! is refused, as by a rate limit. So no valid request can be used twice, however many there are.

use crate::config::Config;

/// Places of a set.
pub const WAYS: usize = 4;
/// Sets; a power of two.
pub const SETS: u32 = 16_384;

/// The set of a tag, in the map `ANSWERED`.
#[inline(always)]
pub const fn set_of(tag: u64) -> u32 {
    (tag as u32) & (SETS - 1)
}

/// What a set says of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Answered before.
    Before,
    /// Not answered before, and no place is free.
    Full,
    /// Not answered before: `old` is to become `new` at `place`.
    New {
        /// Which place.
        place: usize,
        /// What stands there.
        old: u64,
        /// What is to stand there.
        new: u64,
    },
}

/// About a millisecond: a window of seconds must fit many times into 32 bits.
const TICK_SHIFT: u32 = 20;

/// Looks a tag up in its set at `now_ns`.
#[inline(always)]
pub const fn look_up(set: [u64; WAYS], tag: u64, now_ns: u64, config: &Config) -> Seen {
    let half = tag & 0xffff_ffff_0000_0000;
    let now = (now_ns >> TICK_SHIFT) as u32;
    // A request may be stamped with a time to come, and stays acceptable from there on. One tick more for what the division cut off.
    let window = (config.max_age_ns.saturating_add(config.max_ahead_ns) >> TICK_SHIFT) as u32 + 1;
    let (mut place, mut age) = (0, 0);
    let mut way = 0;
    while way < WAYS {
        let entry = set[way];
        if entry & 0xffff_ffff_0000_0000 == half && entry != 0 {
            return Seen::Before;
        }
        // The clock of a tick wraps after seven weeks; then an old tag looks fresh for a window at most.
        let its_age = if entry == 0 { u32::MAX } else { now.wrapping_sub(entry as u32) };
        if its_age > age {
            age = its_age;
            place = way;
        }
        way += 1;
    }
    if age <= window {
        return Seen::Full;
    }
    Seen::New {
        place,
        old: set[place],
        new: half | now as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: Config = Config {
        max_age_ns: 2_000_000_000,
        max_ahead_ns: 1_000_000_000,
        ..Config::NOTHING
    };
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_tag_is_new_once() {
        let mut set = [0; WAYS];
        let tag = 0xdead_beef_0000_0001;
        let Seen::New { place, old: 0, new } = look_up(set, tag, 5 * SECOND, &CONFIG) else {
            panic!("not new")
        };
        set[place] = new;
        assert_eq!(look_up(set, tag, 5 * SECOND, &CONFIG), Seen::Before);
        assert_eq!(look_up(set, tag, 8 * SECOND, &CONFIG), Seen::Before);
    }

    #[test]
    fn a_fresh_tag_is_never_displaced_and_an_old_one_is() {
        let mut set = [0; WAYS];
        for tag in 1..=4u64 {
            let Seen::New { place, new, .. } = look_up(set, tag << 32, tag * SECOND / 4, &CONFIG) else {
                panic!("not new")
            };
            set[place] = new;
        }
        assert_eq!(look_up(set, 9 << 32, SECOND, &CONFIG), Seen::Full);
        // The oldest goes first.
        let Seen::New { old, .. } = look_up(set, 9 << 32, 4 * SECOND, &CONFIG) else {
            panic!("not new")
        };
        assert_eq!(old >> 32, 1);
    }

    proptest! {
        #[test]
        fn within_its_window_no_tag_is_answered_twice(
            uses in prop::collection::vec((0u64..12, 0u64..400_000_000), 1..200),
        ) {
            let mut set = [0; WAYS];
            let mut now = SECOND;
            let mut answered: Vec<(u64, u64)> = Vec::new();
            for (tag, pause) in uses {
                now += pause;
                let tag = (tag + 1) << 32;
                if let Seen::New { place, old, new } = look_up(set, tag, now, &CONFIG) {
                    prop_assert_eq!(set[place], old);
                    set[place] = new;
                    prop_assert!(answered.iter().all(|(other, at)| *other != tag || now - at > 3 * SECOND));
                    answered.push((tag, now));
                }
            }
        }
    }
}
