//! What changed when: the difference of two looks at a table, and how long a route was absent.
//!
//! A journal is bounded. It lacks nothing since [`NodeState::journal_from`](super::NodeState), and nothing can be said of the time before.

use super::{Change, ChangeKind, ChangedObject, Link, Neighbor, Route};
use crate::names::UnixNs;
use alloc::{collections::BTreeMap, vec::Vec};
use ipnet::IpNet;

/// The difference between two looks at one table, both sorted, as changes of the time `at`. Removals stand before additions, so that a
/// change in place reads as one.
pub fn difference<T: Ord + Clone>(before: &[T], after: &[T], at: UnixNs, object: impl Fn(T) -> ChangedObject) -> Vec<Change> {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(one), Some(other)) if one == other => {
                old.next();
                new.next();
            }
            (Some(one), other) if other.is_none_or(|other| one < other) => {
                removed.extend(old.next().cloned());
            }
            (_, Some(_)) => added.extend(new.next().cloned()),
            (_, None) => break,
        }
    }
    let change = |change, what| Change { at, change, what };
    let mut changes = Vec::with_capacity(removed.len() + added.len());
    changes.extend(removed.into_iter().map(|t| change(ChangeKind::Removed, object(t))));
    changes.extend(added.into_iter().map(|t| change(ChangeKind::Added, object(t))));
    changes
}

/// A link as the journal compares it: its counters always change.
pub fn comparable_link(link: &Link) -> Link {
    Link {
        counters: BTreeMap::new(),
        ..link.clone()
    }
}

/// A neighbour as the journal compares it: an entry that is confirmed, grows stale and is confirmed again has not changed.
pub fn comparable_neighbor(neighbor: &Neighbor) -> Neighbor {
    /// `NUD_REACHABLE`, which stands for all states of an entry that was resolved.
    const RESOLVED: u16 = 0x02;
    /// `NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE`.
    const ANY_RESOLVED: u16 = 0x02 | 0x04 | 0x08 | 0x10;
    let state = if neighbor.state & ANY_RESOLVED == 0 {
        neighbor.state
    } else {
        neighbor.state & !ANY_RESOLVED | RESOLVED
    };
    Neighbor { state, ..neighbor.clone() }
}

/// A time in which no route to a prefix stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outage {
    /// When the last route went; none if that was before the journal begins.
    pub from: Option<UnixNs>,
    /// When one came back; none if none has.
    pub until: Option<UnixNs>,
}

impl Outage {
    /// How long, seen at `now`, in ns; at least that long if it began before the journal, whose beginning is `journal_from`.
    pub fn length_ns(&self, journal_from: UnixNs, now: UnixNs) -> u64 {
        self.until.unwrap_or(now).since_ns(self.from.unwrap_or(journal_from))
    }
}

/// The times without a route to `prefix` in `table`, oldest first, as far as the journal reaches. `now` are the routes at its end.
///
/// The journal is read backwards from what stands now, so a second route to the same prefix, or a change in place, is no outage.
pub fn outages(journal: &[Change], now: &[Route], table: u32, prefix: IpNet) -> Vec<Outage> {
    let concerns = |route: &Route| route.table == table && route.dst == prefix;
    let mut standing = i64::try_from(now.iter().filter(|route| concerns(route)).count()).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    let mut open = (standing == 0).then_some(Outage { from: None, until: None });
    for together in journal.chunk_by(|a, b| a.at == b.at).rev() {
        let Some(at) = together.first().map(|change| change.at) else {
            continue;
        };
        let after = standing;
        for change in together {
            if let ChangedObject::Route(route) = &change.what
                && concerns(route)
            {
                standing += match change.change {
                    ChangeKind::Added => -1,
                    ChangeKind::Removed => 1,
                };
            }
        }
        match (standing > 0, after > 0) {
            (true, false) => found.extend(open.take().map(|outage| Outage { from: Some(at), ..outage })),
            (false, true) => {
                open = Some(Outage {
                    from: None,
                    until: Some(at),
                });
            }
            _ => {}
        }
    }
    found.extend(open);
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programmed::{RouteKind, TABLE_MAIN};
    use alloc::vec;
    use proptest::prelude::*;

    fn route(dst: &str, priority: u32) -> Route {
        Route {
            table: TABLE_MAIN,
            dst: dst.parse().unwrap(),
            src: None,
            tos: 0,
            priority,
            kind: RouteKind::Unicast,
            next_hops: vec![],
            prefsrc: None,
            protocol: 3,
            scope: 0,
            mtu: None,
        }
    }

    fn change(at: u64, change: ChangeKind, route: Route) -> Change {
        Change {
            at: UnixNs(at),
            change,
            what: ChangedObject::Route(route),
        }
    }

    const BLOCK: &str = "10.244.1.0/26";

    #[test]
    fn an_outage_has_a_beginning_and_an_end() {
        let r = route(BLOCK, 0);
        let other = route("10.244.2.0/26", 0);
        let journal = [
            change(10, ChangeKind::Removed, r.clone()),
            change(11, ChangeKind::Removed, other),
            change(17, ChangeKind::Added, r.clone()),
            change(30, ChangeKind::Removed, r.clone()),
        ];
        let found = outages(&journal, &[], TABLE_MAIN, r.dst);
        let outage = |from, until: Option<u64>| Outage {
            from: Some(UnixNs(from)),
            until: until.map(UnixNs),
        };
        assert_eq!(found, [outage(10, Some(17)), outage(30, None)]);
        assert_eq!(found[0].length_ns(UnixNs(0), UnixNs(99)), 7);
        assert_eq!(found[1].length_ns(UnixNs(0), UnixNs(99)), 69);
    }

    #[test]
    fn a_change_in_place_and_a_second_route_are_none() {
        let (r, better) = (route(BLOCK, 0), route(BLOCK, 5));
        let in_place = [
            change(10, ChangeKind::Removed, r.clone()),
            change(10, ChangeKind::Added, better.clone()),
        ];
        assert_eq!(outages(&in_place, core::slice::from_ref(&better), TABLE_MAIN, r.dst), []);
        let second = [change(10, ChangeKind::Removed, r.clone()), change(20, ChangeKind::Added, r.clone())];
        assert_eq!(outages(&second, &[r.clone(), better], TABLE_MAIN, r.dst), []);
    }

    #[test]
    fn what_began_before_the_journal_has_no_beginning() {
        let r = route(BLOCK, 0);
        let journal = [change(17, ChangeKind::Added, r.clone())];
        let found = outages(&journal, core::slice::from_ref(&r), TABLE_MAIN, r.dst);
        assert_eq!(
            found,
            [Outage {
                from: None,
                until: Some(UnixNs(17))
            }]
        );
        assert_eq!(found[0].length_ns(UnixNs(5), UnixNs(99)), 12);
        assert_eq!(outages(&[], &[], TABLE_MAIN, r.dst).len(), 1);
    }

    proptest! {
        #[test]
        fn a_difference_applied_to_before_gives_after(
            before in proptest::collection::btree_set(0u32..40, 0..30),
            after in proptest::collection::btree_set(0u32..40, 0..30),
        ) {
            let routes = |set: &alloc::collections::BTreeSet<u32>| set.iter().map(|p| route(BLOCK, *p)).collect::<Vec<_>>();
            let mut state = routes(&before);
            for change in difference(&routes(&before), &routes(&after), UnixNs(1), ChangedObject::Route) {
                let ChangedObject::Route(r) = change.what else { unreachable!() };
                match change.change {
                    ChangeKind::Added => state.push(r),
                    ChangeKind::Removed => state.retain(|have| *have != r),
                }
            }
            state.sort();
            prop_assert_eq!(state, routes(&after));
        }
    }
}
