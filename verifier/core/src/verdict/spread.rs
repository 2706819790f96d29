//! What all probes of a node to one peer say together: packets that are lost at random, whichever they are, and round trips that take long.
//!
//! A fault of state loses the same probes every time: all of them, all large ones, all of one port. A lossy network loses now this one and now
//! that one of the same kind, and a few lost probes of many are no fault at all. What tells the two apart is time: between two losses others of
//! the same kinds passed. Where a fault set in or was mended within the window they did so only before or after.

use super::{Policy, Share, Slow, symptom::Standing};
use crate::{
    names::NodeName,
    probe::{Endpoint, Outcome, PairKind, Probe, ProbeResult, Size, Transport},
};
use alloc::{collections::BTreeMap, vec::Vec};

/// Probes that passed between losses of their own kinds, below which losses are not called random.
const BETWEEN_MIN: usize = 3;
/// Round trips below which nothing is said of them.
const ROUND_TRIPS_MIN: usize = 8;
/// Of the small probes of one family to a slow peer, one of so many is sent again: answers to all of these are more than a tenth of all.
const AGAIN_OF_SLOW: usize = 4;

/// A result and what it says.
pub(super) type Sample<'a> = (&'a ProbeResult, Standing);
/// What one probe is a sample of.
type Kind<'a> = (PairKind, &'a Endpoint, &'a Endpoint, Transport, Size, u16);

/// How the losses towards one peer are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Not at random.
    Settled,
    /// At random, and fewer than the policy calls a fault.
    Sparse,
    /// At random, and so many.
    Lossy(Share),
}

/// How the losses of these samples, all towards one peer, are spread.
pub(super) fn spread(samples: &[Sample<'_>], policy: &Policy) -> Spread {
    let mut kinds: BTreeMap<Kind<'_>, Vec<(u64, bool)>> = BTreeMap::new();
    let mut share = Share { lost: 0, of: 0 };
    for (result, standing) in samples.iter().filter(|(_, standing)| *standing != Standing::Silent) {
        let lost = *standing == Standing::Failed;
        share.of += 1;
        share.lost += u32::from(lost);
        let p = &result.probe;
        // Each takes another port, and so it may be another path: that some are lost says nothing of chance.
        if p.transport == Transport::Tcp {
            continue;
        }
        let port = super::symptom::tallied_port(p);
        kinds
            .entry((p.pair, &p.from, &p.to, p.transport, p.size, port))
            .or_default()
            .push((result.sent_mono_ns, lost));
    }
    kinds.retain(|_, sent| sent.iter().any(|(_, lost)| *lost) && sent.iter().any(|(_, lost)| !*lost));
    let losses = || kinds.values().flatten().filter(|(_, lost)| *lost).map(|(at, _)| *at);
    let (Some(first), Some(last)) = (losses().min(), losses().max()) else {
        return Spread::Settled;
    };
    let between = kinds
        .values()
        .flatten()
        .filter(|(at, lost)| !*lost && first < *at && *at < last)
        .count();
    if between < BETWEEN_MIN {
        Spread::Settled
    } else if share.lost >= policy.random_loss_min
        && u64::from(share.lost) * 100 >= u64::from(policy.random_loss_percent) * u64::from(share.of)
    {
        Spread::Lossy(share)
    } else {
        Spread::Sparse
    }
}

/// The peers to whom round trips take long, measured against those within the node: a busy machine is slow to itself too.
pub(super) fn slow_peers<'r>(
    node: &NodeName,
    results: impl IntoIterator<Item = &'r ProbeResult>,
    policy: &Policy,
) -> BTreeMap<NodeName, Slow> {
    // The two families may take different ways: each by itself.
    let mut trips: BTreeMap<(&NodeName, bool), Vec<u64>> = BTreeMap::new();
    let mut within = Vec::new();
    for result in results.into_iter().filter(|r| r.probe.size == Size::Small) {
        if let Outcome::Answered { rtt_ns, .. } = result.outcome {
            let to = &result.probe.to.node;
            let trips = if to == node {
                &mut within
            } else {
                trips.entry((to, result.probe.is_ipv6())).or_default()
            };
            trips.push(rtt_ns / 1_000);
        }
    }
    let place = |trips: &mut Vec<u64>, of: usize| {
        trips.sort_unstable();
        trips.get(trips.len() / of).copied().unwrap_or(0)
    };
    let within_us = place(&mut within, 2);
    let mut slow: BTreeMap<NodeName, Slow> = BTreeMap::new();
    for ((peer, _), mut trips) in trips.into_iter().filter(|(_, trips)| trips.len() >= ROUND_TRIPS_MIN) {
        // What a busy machine delays are some of them, what a network delays are all.
        let most_us = place(&mut trips, 10);
        if most_us.saturating_sub(within_us) < u64::from(policy.latency_ms) * 1_000 {
            continue;
        }
        let found = Slow {
            most_us,
            within_us,
            probes: u32::try_from(trips.len()).unwrap_or(u32::MAX),
        };
        let worst = slow.entry(peer.clone()).or_insert(found);
        *worst = found.max(*worst);
    }
    slow
}

/// The probes to send once more where answers came late. A machine that stood still for a moment delayed whatever was on its way, all of it,
/// and answers these quickly: then no longer nine in ten are late. A network is slow to these too.
pub fn ask_again<'r>(node: &NodeName, results: &'r [ProbeResult], policy: &Policy) -> Vec<&'r Probe> {
    let slow = slow_peers(node, results, policy);
    let mut small: BTreeMap<(&NodeName, bool), Vec<&Probe>> = BTreeMap::new();
    for probe in results.iter().map(|r| &r.probe).filter(|probe| probe.size == Size::Small) {
        if slow.contains_key(&probe.to.node) {
            small.entry((&probe.to.node, probe.is_ipv6())).or_default().push(probe);
        }
    }
    small
        .into_values()
        .flat_map(|probes| probes.into_iter().step_by(AGAIN_OF_SLOW))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::UnixNs;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn result(to: &str, port: u16, size: Size, at: u64, outcome: Outcome) -> ProbeResult {
        let end = |node: &str| Endpoint {
            node: NodeName::from(node),
            pod: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        ProbeResult {
            probe: Probe {
                id: at,
                seq: 0,
                from: end("node-a"),
                to: end(to),
                pair: PairKind::PodToRemotePod,
                transport: Transport::Udp,
                size,
                src_port: port,
                dst_port: 1,
                length_bytes: 84,
            },
            sent_at: UnixNs(at),
            sent_mono_ns: at,
            outcome,
            provisional: false,
        }
    }

    /// Three probes from each of twelve ports and one kind of large ones, sent in rounds; `lost` says which are.
    fn of(lost: impl Fn(u16, u64) -> bool) -> Spread {
        let mut results = Vec::new();
        for attempt in 0..3 {
            for port in 0..13 {
                let size = if port == 12 { Size::Mtu } else { Size::Small };
                results.push((
                    result("node-b", port, size, attempt * 100 + u64::from(port), Outcome::Lost),
                    lost(port, attempt),
                ));
            }
        }
        let samples: Vec<Sample<'_>> = results
            .iter()
            .map(|(r, lost)| (r, if *lost { Standing::Failed } else { Standing::Passed }))
            .collect();
        spread(&samples, &Policy::default())
    }

    #[test]
    fn what_is_lost_every_time_is_not_lost_at_random() {
        assert_eq!(of(|_, _| false), Spread::Settled);
        assert_eq!(of(|_, _| true), Spread::Settled);
        // One path of several, and large packets only.
        assert_eq!(of(|port, _| port % 4 == 1), Spread::Settled);
        assert_eq!(of(|port, _| port == 12), Spread::Settled);
        // A fault that sets in, and one that is mended, in the middle of a round.
        assert_eq!(of(|port, attempt| attempt * 100 + u64::from(port) > 105), Spread::Settled);
        assert_eq!(of(|port, attempt| attempt * 100 + u64::from(port) < 205), Spread::Settled);
    }

    #[test]
    fn losses_here_and_there_are_named_from_a_tenth_on() {
        assert_eq!(of(|port, attempt| port % 5 == 0 && u64::from(port / 5) == attempt), Spread::Sparse);
        assert_eq!(
            of(|port, attempt| (u64::from(port) + attempt) % 4 == 0),
            Spread::Lossy(Share { lost: 10, of: 39 })
        );
    }

    proptest! {
        #[test]
        fn three_in_a_hundred_lost_are_no_fault(places in proptest::collection::btree_set((0..13u16, 0..3u64), 0..4)) {
            let spread = of(|port, attempt| places.contains(&(port, attempt)));
            prop_assert!(!matches!(spread, Spread::Lossy(_)), "{:?}", spread);
        }
    }

    /// Two in ten of the remote ones are quick.
    fn starved() -> Option<u64> {
        slow_among(|n| if n % 5 == 0 { 20 } else { 900 }, 5)
    }

    fn slow_with(remote_ms: u64, local_ms: u64) -> Option<u64> {
        slow_among(|_| remote_ms, local_ms)
    }

    fn slow_among(remote_ms: impl Fn(u16) -> u64, local_ms: u64) -> Option<u64> {
        let answered = |ms: u64| Outcome::Answered {
            rtt_ns: ms * 1_000_000,
            answered_by: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let all: Vec<ProbeResult> = (0..20)
            .flat_map(|n| {
                [
                    result("node-b", n, Size::Small, 0, answered(remote_ms(n))),
                    result("node-a", n, Size::Small, 0, answered(local_ms)),
                ]
            })
            .collect();
        let found = slow_peers(&NodeName::from("node-a"), &all, &Policy::default());
        found.get(&NodeName::from("node-b")).map(|slow| slow.most_us / 1_000)
    }

    /// Answers from both families of node-b by turns, four probes and one in each turn, so that no stride over all of them hits both; and
    /// once more those that are to be asked again.
    fn asked_again(first_ms: u64, again_ms: u64) -> (usize, usize, Option<u64>) {
        let node = NodeName::from("node-a");
        let answered = |ms: u64| Outcome::Answered {
            rtt_ns: ms * 1_000_000,
            answered_by: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let mut all = Vec::new();
        for n in 0..40 {
            let mut remote = result("node-b", n, Size::Small, 0, answered(first_ms));
            if n % 4 == 3 {
                remote.probe.from.ip = IpAddr::V6(Ipv6Addr::LOCALHOST);
                remote.probe.to.ip = remote.probe.from.ip;
            }
            all.extend([
                remote,
                result("node-a", n, Size::Small, 0, answered(1)),
                result("node-c", n, Size::Small, 0, answered(1)),
            ]);
            all.push(result("node-b", n, Size::Mtu, 0, answered(first_ms)));
        }
        let again: Vec<Probe> = ask_again(&node, &all, &Policy::default()).into_iter().cloned().collect();
        let six = again.iter().filter(|probe| probe.is_ipv6()).count();
        assert!(
            again
                .iter()
                .all(|probe| probe.to.node == "node-b".into() && probe.size == Size::Small)
        );
        let count = again.len();
        all.extend(again.into_iter().map(|probe| ProbeResult {
            probe,
            ..result("node-b", 0, Size::Small, 1, answered(again_ms))
        }));
        let found = slow_peers(&node, &all, &Policy::default());
        (
            count - six,
            six,
            found.get(&NodeName::from("node-b")).map(|slow| slow.most_us / 1_000),
        )
    }

    #[test]
    fn a_machine_that_stood_still_once_is_quick_when_asked_again_and_a_network_is_not() {
        assert_eq!(asked_again(1, 1), (0, 0, None));
        assert_eq!(asked_again(900, 2), (8, 3, None));
        assert_eq!(asked_again(300, 310), (8, 3, Some(300)));
    }

    #[test]
    fn a_network_is_slow_and_a_machine_that_is_busy_is_not() {
        assert_eq!(slow_with(100, 1), None);
        assert_eq!(slow_with(300, 1), Some(300));
        assert_eq!(slow_with(300, 250), None);
        assert_eq!(starved(), None);
    }
}
