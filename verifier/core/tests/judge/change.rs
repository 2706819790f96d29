//! Changes to snapshots: evidence in another order, evidence that is missing, and dataplanes that are broken in more ways than the
//! catalogue knows.

use super::golden::Cluster;
use verifier_core::{
    evidence::{Evidence, Gap},
    names::{Mac, NodeName, UnixNs},
    observed::{ConformanceCount, ConformanceKind, Direction, Drop, Hop},
    probe::{Outcome, ProbeResult},
    programmed::{FilterBackend, FilterRule, FilterVerdict, ForeignHook, HookPoint, NUD_FAILED, NodeState, RouteKind},
    verdict::{NodeSnapshot, PeerContact, RemoteEvidence},
};

/// Numbers from a seed (`splitmix64`), so that a failing case is repeated by its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    /// Once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'v, T>(&mut self, of: &'v mut [T]) -> Option<&'v mut T> {
        let index = self.below(of.len());
        of.get_mut(index)
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }

    fn remove<T>(&mut self, all: &mut Vec<T>) {
        if !all.is_empty() {
            all.remove(self.below(all.len()));
        }
    }
}

pub fn value<T>(evidence: &mut Evidence<T>) -> Option<&mut T> {
    match evidence {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => Some(value),
        Evidence::Unavailable { .. } => None,
    }
}

fn snapshots(cluster: &mut Cluster) -> impl Iterator<Item = &mut NodeSnapshot> {
    cluster.nodes.values_mut().filter_map(value)
}

/// Every list of evidence in another order. What has an order of its own keeps it: policy rules, the journal, next hops.
pub fn shuffle(cluster: &mut Cluster, dice: &mut Dice) {
    fn one<T>(evidence: &mut Evidence<Vec<T>>, dice: &mut Dice) {
        if let Some(all) = value(evidence) {
            dice.shuffle(all);
        }
    }
    for snapshot in snapshots(cluster) {
        one(&mut snapshot.probes, dice);
        if let Some(seen) = value(&mut snapshot.observed) {
            one(&mut seen.hops, dice);
            one(&mut seen.drops, dice);
            one(&mut seen.conformance, dice);
        }
        for remote in snapshot.remote.values_mut().filter_map(value) {
            one(&mut remote.hops, dice);
            one(&mut remote.drops, dice);
        }
        if let Some(state) = value(&mut snapshot.programmed) {
            one(&mut state.links, dice);
            one(&mut state.addresses, dice);
            one(&mut state.routes, dice);
            one(&mut state.neighbors, dice);
            one(&mut state.fdb, dice);
            one(&mut state.netconf, dice);
            one(&mut state.filters, dice);
            one(&mut state.base_chains, dice);
            one(&mut state.hooks, dice);
            for pod in state.pods.values_mut().filter_map(value) {
                one(&mut pod.links, dice);
                one(&mut pod.addresses, dice);
                one(&mut pod.routes, dice);
            }
        }
    }
}

/// Records of taps and drops that arrive a second time: an agent was asked twice.
pub fn repeat(cluster: &mut Cluster, dice: &mut Dice) {
    fn again<T: Clone>(evidence: &mut Evidence<Vec<T>>, dice: &mut Dice) {
        if let Some(all) = value(evidence) {
            let twice: Vec<T> = all.iter().filter(|_| dice.once_in(3)).cloned().collect();
            all.extend(twice);
        }
    }
    for snapshot in snapshots(cluster) {
        if let Some(seen) = value(&mut snapshot.observed) {
            again(&mut seen.hops, dice);
            again(&mut seen.drops, dice);
        }
        for remote in snapshot.remote.values_mut().filter_map(value) {
            again(&mut remote.hops, dice);
            again(&mut remote.drops, dice);
        }
    }
}

/// The drops without the kernel's reasons, and without the functions that dropped.
pub fn erase_reasons(cluster: &mut Cluster, locations_too: bool) {
    let erase = |drops: &mut Evidence<Vec<Drop>>| {
        for drop in value(drops).into_iter().flatten() {
            drop.reason = None;
            if locations_too {
                drop.location = None;
            }
        }
    };
    for snapshot in snapshots(cluster) {
        if let Some(seen) = value(&mut snapshot.observed) {
            erase(&mut seen.drops);
        }
        for remote in snapshot.remote.values_mut().filter_map(value) {
            erase(&mut remote.drops);
        }
    }
}

/// One look that failed, or fell short, somewhere in the cluster. Its name, for the message of a failing case.
pub fn degrade(cluster: &mut Cluster, dice: &mut Dice) -> String {
    let index = dice.below(cluster.nodes.len());
    let (name, node) = cluster.nodes.iter_mut().nth(index).unwrap();
    let name = name.clone();
    if dice.once_in(24) {
        *node = Evidence::unavailable(format!("agent/{name}"), "it did not answer");
        return format!("{name}: all of it");
    }
    let Some(snapshot) = value(node) else { return String::new() };
    let what = in_snapshot(snapshot, dice);
    format!("{name}: {what}")
}

/// Nothing was seen, or something is known to be missing: either all that was seen still is, or part of it is gone.
fn worse<T: Clone>(evidence: &mut Evidence<T>, dice: &mut Dice, lose: impl Fn(&mut T, &mut Dice)) -> &'static str {
    let gap = Gap::new("test", "the look failed");
    let Some(seen) = value(evidence) else { return "still unavailable" };
    let mut seen = seen.clone();
    match dice.below(3) {
        0 => {
            *evidence = Evidence::Unavailable { gap };
            "unavailable"
        }
        1 => {
            *evidence = Evidence::partial(seen, vec![gap]);
            "partial, nothing lost"
        }
        _ => {
            lose(&mut seen, dice);
            *evidence = Evidence::partial(seen, vec![gap]);
            "partial"
        }
    }
}

fn some_of<T>(all: &mut Vec<T>, dice: &mut Dice) {
    let one_in = 1 + dice.below(3);
    all.retain(|_| !dice.once_in(one_in));
}

fn nothing<T>(_: &mut T, _: &mut Dice) {}

fn in_snapshot(snapshot: &mut NodeSnapshot, dice: &mut Dice) -> String {
    let how = match dice.below(8) {
        0 => worse(&mut snapshot.intent, dice, nothing),
        1 => worse(&mut snapshot.programmed, dice, nothing),
        2 => worse(&mut snapshot.observed, dice, nothing),
        3 => worse(&mut snapshot.probes, dice, nothing),
        4 => {
            let Some(seen) = value(&mut snapshot.observed) else {
                return "observed".to_owned();
            };
            return match dice.below(3) {
                0 => format!("observed/hops {}", worse(&mut seen.hops, dice, some_of)),
                1 => format!("observed/drops {}", worse(&mut seen.drops, dice, some_of)),
                _ => format!("observed/conformance {}", worse(&mut seen.conformance, dice, some_of)),
            };
        }
        5 => {
            let mut remotes: Vec<_> = snapshot.remote.values_mut().collect();
            let Some(remote) = dice.pick(&mut remotes) else {
                return "no peer".to_owned();
            };
            return format!("remote {}", in_remote(remote, dice));
        }
        _ => {
            let Some(state) = value(&mut snapshot.programmed) else {
                return "programmed".to_owned();
            };
            return in_state(state, dice);
        }
    };
    how.to_owned()
}

fn in_remote(remote: &mut Evidence<RemoteEvidence>, dice: &mut Dice) -> &'static str {
    match (dice.below(3), value(remote)) {
        (0, Some(seen)) => worse(&mut seen.hops, dice, some_of),
        (1, Some(seen)) => worse(&mut seen.drops, dice, some_of),
        _ => worse(remote, dice, nothing),
    }
}

fn in_state(state: &mut NodeState, dice: &mut Dice) -> String {
    let (what, how) = match dice.below(12) {
        0 => ("links", worse(&mut state.links, dice, some_of)),
        1 => ("addresses", worse(&mut state.addresses, dice, some_of)),
        2 => ("routes", worse(&mut state.routes, dice, some_of)),
        3 => ("rules", worse(&mut state.rules, dice, some_of)),
        4 => ("neighbors", worse(&mut state.neighbors, dice, some_of)),
        5 => ("fdb", worse(&mut state.fdb, dice, some_of)),
        6 => ("netconf", worse(&mut state.netconf, dice, some_of)),
        7 => ("filters", worse(&mut state.filters, dice, some_of)),
        8 => ("base chains", worse(&mut state.base_chains, dice, some_of)),
        9 => ("hooks", worse(&mut state.hooks, dice, some_of)),
        10 => ("conntrack", worse(&mut state.conntrack, dice, nothing)),
        _ => {
            let mut pods: Vec<_> = state.pods.values_mut().collect();
            let Some(pod) = dice.pick(&mut pods) else {
                return "no pod".to_owned();
            };
            ("a pod", worse(pod, dice, nothing))
        }
    };
    format!("{what} {how}")
}

/// Another fault beside the one the snapshot shows, as far as state, packets and probes tell of it.
pub fn mutate(cluster: &mut Cluster, dice: &mut Dice) {
    for _ in 0..dice.below(4) {
        let index = dice.below(cluster.nodes.len());
        let Some(snapshot) = cluster.nodes.values_mut().nth(index).and_then(value) else {
            continue;
        };
        match dice.below(6) {
            0 => probes(snapshot, dice),
            1 => records(snapshot, dice),
            2 => contacts(snapshot, dice),
            _ => {
                if let Some(state) = value(&mut snapshot.programmed) {
                    programmed(state, dice);
                }
            }
        }
    }
}

fn probes(snapshot: &mut NodeSnapshot, dice: &mut Dice) {
    let Some(all) = value(&mut snapshot.probes) else { return };
    let one_in = 1 + dice.below(4);
    let to = dice.pick(all).map(|r| r.probe.to.clone());
    let from = dice.pick(all).map(|r| r.probe.from.clone());
    let lost = dice.once_in(2);
    let concerned = |r: &ProbeResult| Some(&r.probe.to) == to.as_ref() || Some(&r.probe.from) == from.as_ref();
    for result in all.iter_mut().filter(|r| concerned(r)) {
        if dice.once_in(one_in) {
            result.outcome = if lost {
                Outcome::Lost
            } else {
                Outcome::Answered {
                    rtt_ns: 1,
                    answered_by: result.probe.to.ip,
                }
            };
        }
    }
}

fn records(snapshot: &mut NodeSnapshot, dice: &mut Dice) {
    fn fewer(hops: &mut Evidence<Vec<Hop>>, dice: &mut Dice) {
        if let Some(all) = value(hops) {
            some_of(all, dice);
        }
    }
    if let Some(seen) = value(&mut snapshot.observed) {
        match dice.below(3) {
            0 => fewer(&mut seen.hops, dice),
            1 => {
                // A tap that saw a packet with another source, or a broken checksum, or at the same moment twice.
                let Some(hop) = value(&mut seen.hops).and_then(|all| dice.pick(all).cloned()) else {
                    return;
                };
                let mut other = hop;
                other.mark ^= 1;
                other.inner.ttl = other.inner.ttl.wrapping_sub(1);
                if let Some(all) = value(&mut seen.hops) {
                    all.push(other);
                }
            }
            _ => {
                let kinds = [
                    ConformanceKind::WrongOwner,
                    ConformanceKind::SpoofedSource,
                    ConformanceKind::BareLeak,
                ];
                let count = ConformanceCount {
                    kind: kinds[dice.below(kinds.len())],
                    direction: if dice.once_in(2) { Direction::Egress } else { Direction::Ingress },
                    peer: snapshot.remote.keys().next().cloned(),
                    packets: 5,
                    sample: None,
                };
                if let Some(all) = value(&mut seen.conformance) {
                    all.push(count);
                }
            }
        }
    }
    if let Some(remote) = snapshot.remote.values_mut().next().and_then(value) {
        fewer(&mut remote.hops, dice);
    }
}

fn contacts(snapshot: &mut NodeSnapshot, dice: &mut Dice) {
    let peers: Vec<NodeName> = snapshot.contacts.keys().cloned().collect();
    let Some(peer) = peers.get(dice.below(peers.len())) else { return };
    let contact = match dice.below(3) {
        0 => PeerContact::NoAgent,
        1 => PeerContact::Silent { since: UnixNs(1) },
        _ => PeerContact::Refused {
            why: "another version".to_owned(),
        },
    };
    snapshot.contacts.insert(peer.clone(), contact);
}

fn programmed(state: &mut NodeState, dice: &mut Dice) {
    let (links, routes) = (value(&mut state.links), value(&mut state.routes));
    match dice.below(12) {
        0 => {
            if let Some(link) = links.and_then(|all| dice.pick(all)) {
                link.up = !link.up;
            }
        }
        1 => links.into_iter().for_each(|all| dice.remove(all)),
        2 => {
            if let Some(link) = links.and_then(|all| dice.pick(all)) {
                link.mac = Some(Mac([2, 0, 0, 0, 0, 9]));
            }
        }
        3 => routes.into_iter().for_each(|all| dice.remove(all)),
        4 => {
            // The same destination by another way, which may come first or last.
            let Some(all) = routes else { return };
            let Some(mut route) = dice.pick(all).cloned() else { return };
            // Two of one priority would mean something by their order.
            route.priority += 1 + u32::try_from(dice.below(1 << 20)).unwrap();
            route.kind = if dice.once_in(2) { RouteKind::Unreachable } else { route.kind };
            for hop in &mut route.next_hops {
                hop.oif = Some(1);
            }
            all.push(route);
        }
        5 => {
            if let Some(all) = value(&mut state.neighbors) {
                if dice.once_in(2) {
                    dice.remove(all);
                } else if let Some(neighbor) = dice.pick(all) {
                    neighbor.state = NUD_FAILED;
                }
            }
        }
        6 => {
            if let Some(neighbor) = value(&mut state.neighbors).and_then(|all| dice.pick(all)) {
                neighbor.mac = Some(Mac([2, 0, 0, 0, 0, 7]));
            }
        }
        7 => value(&mut state.fdb).into_iter().for_each(|all| dice.remove(all)),
        8 => {
            let Some(all) = value(&mut state.fdb) else { return };
            let Some(mut entry) = dice.pick(all).cloned() else { return };
            entry.dst = Some([192, 0, 2, 1].into());
            all.push(entry);
        }
        9 => {
            if let Some(netconf) = value(&mut state.netconf).and_then(|all| dice.pick(all)) {
                netconf.forwarding = netconf.forwarding.map(|on| !on);
                netconf.rp_filter = Some(1);
            }
        }
        10 => {
            let chains = ["FORWARD", "INPUT", "custom", "cali-FORWARD"];
            let verdicts = [FilterVerdict::Drop, FilterVerdict::Reject, FilterVerdict::SourceNat];
            let rule = |dice: &mut Dice| FilterRule {
                backend: FilterBackend::Nftables,
                family: "ip".to_owned(),
                table: "filter".to_owned(),
                chain: chains[dice.below(chains.len())].to_owned(),
                verdict: verdicts[dice.below(verdicts.len())].clone(),
                handle: None,
                packets: Some(9),
                moved: [None, Some(3), Some(9)][dice.below(3)],
                comment: None,
            };
            let rules = [rule(dice), rule(dice)];
            value(&mut state.filters).into_iter().for_each(|all| all.extend(rules.clone()));
        }
        _ => {
            let hook = ForeignHook {
                device: ["eth0", "vxlan.calico"][dice.below(2)].to_owned(),
                pod: None,
                point: [HookPoint::TcIngress, HookPoint::TcEgress, HookPoint::Xdp][dice.below(3)],
                program: "someone".to_owned(),
                id: Some(7),
            };
            value(&mut state.hooks).into_iter().for_each(|all| all.push(hook.clone()));
        }
    }
}
