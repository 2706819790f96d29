//! A network that is bad without being broken, and IPv6 of which no packet was sent: the healthy golden snapshot, made so.

use super::{
    change,
    golden::{Cluster, named},
    roots,
};
use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    names::NodeName,
    observed::{Checksum, Drop, DropStage, Hop, Inner, Leg, Outer, TapKind, Where},
    path::{Waypoint, itinerary},
    probe::{Outcome, ProbeResult},
    programmed::{Netconf, NetconfScope},
    verdict::{CauseCode, ClusterReport, RemoteEvidence, Severity, Verdict},
};

/// The healthy cluster with every probe result between two nodes changed.
fn with(mut work: impl FnMut(&mut ProbeResult)) -> ClusterReport {
    let mut cluster = named("healthy");
    for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
        let probes = change::value(&mut snapshot.probes).unwrap();
        for result in probes.iter_mut().filter(|r| r.probe.from.node != r.probe.to.node) {
            work(result);
        }
    }
    cluster.judge().cluster
}

/// What becomes of a packet that the network does not carry as it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody sees it again.
    Lost,
    /// It arrives with a bit turned. A pod's is seen with a wrong checksum; a host's is wrong where no tap looks (a tunnel header), and nobody
    /// says why it went no further.
    Damaged,
    /// It arrives damaged in what is around it: the receiver's kernel throws it away, and is seen to do so for the checksum.
    Refused,
    /// The same, and nobody sees why.
    Gone,
    /// It goes no further than the tunnel: nobody says where the other node is.
    Undiscovered,
}

/// Every `nth` probe meets its fate in the network, in an order that has nothing to do with what is probed: it was seen on every device of its
/// way until it left the node, and, if it was lost, by nobody beyond.
fn losing(nth: usize, fate: Fate) -> ClusterReport {
    let mut count = 0;
    losing_those(|_| {
        count += 7;
        (count % (nth * 7 + 3) < 7).then_some(fate)
    })
}

/// The same of the probes that `hit` says.
fn losing_those(hit: impl FnMut(&ProbeResult) -> Option<Fate>) -> ClusterReport {
    cluster_losing(hit).judge().cluster
}

fn cluster_losing(mut hit: impl FnMut(&ProbeResult) -> Option<Fate>) -> Cluster {
    let mut cluster = named("healthy");
    let template = record();
    // What the others answer when they are asked: nothing, from all their taps, until something arrives damaged.
    let mut arrived: BTreeMap<NodeName, (Vec<Hop>, Vec<Drop>)> = BTreeMap::new();
    let nothing: BTreeMap<NodeName, Evidence<RemoteEvidence>> = cluster
        .nodes
        .iter()
        .map(|(node, snapshot)| {
            let snapshot = snapshot.seen().unwrap();
            let remote = RemoteEvidence {
                hops: Evidence::complete(Vec::new()),
                drops: Evidence::complete(Vec::new()),
                taps: snapshot.observed.seen().unwrap().taps.clone(),
                taps_since: BTreeMap::new(),
                agent_started_at: snapshot.agent_started_at,
            };
            (node.clone(), Evidence::complete(remote))
        })
        .collect();
    for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
        let others = nothing.iter().filter(|(node, _)| **node != snapshot.node);
        snapshot.remote = others.map(|(node, evidence)| (node.clone(), evidence.clone())).collect();
        let intent = snapshot.intent.seen().unwrap().clone();
        let observed = change::value(&mut snapshot.observed).unwrap();
        let taps = [(snapshot.node.clone(), observed.taps.clone())].into();
        let hops = change::value(&mut observed.hops).unwrap();
        let probes = change::value(&mut snapshot.probes).unwrap();
        for result in probes.iter_mut().filter(|r| r.probe.from.node != r.probe.to.node) {
            let Some(fate) = hit(result) else { continue };
            result.outcome = Outcome::Lost;
            let until_the_network = itinerary(&intent, &result.probe, &taps)
                .into_iter()
                .take_while(|waypoint| waypoint.node == snapshot.node && waypoint.leg == Leg::Request)
                .take_while(|waypoint| fate != Fate::Undiscovered || waypoint.tap != TapKind::Underlay);
            let of = |waypoint: Waypoint| Hop {
                node: waypoint.node,
                device: waypoint.device,
                direction: waypoint.direction,
                tap: waypoint.tap,
                outer: template
                    .outer
                    .clone()
                    .filter(|_| waypoint.tap == TapKind::Underlay)
                    .map(|outer| Outer {
                        src: intent.host_ip.unwrap(),
                        dst: intent.peers[&result.probe.to.node].host_ip.unwrap(),
                        ..outer
                    }),
                at_ns: result.sent_mono_ns,
                probe: u32::try_from(result.probe.id & 0xffff_ffff).unwrap(),
                seq: result.probe.seq,
                inner: Inner {
                    src: result.probe.from.ip,
                    dst: result.probe.to.ip,
                    ..template.inner.clone()
                },
                ..template.clone()
            };
            hops.extend(until_the_network.map(of));
            if let Some(last) = hops.last().filter(|_| fate == Fate::Undiscovered) {
                change::value(&mut observed.drops).unwrap().push(undiscovered(last));
                continue;
            }
            let beyond = itinerary(&intent, &result.probe, &taps)
                .into_iter()
                .find(|waypoint| waypoint.node != snapshot.node && waypoint.leg == Leg::Request);
            if let Some(waypoint) = beyond.filter(|_| fate != Fate::Lost) {
                let seen = fate == Fate::Damaged && result.probe.from.pod.is_some();
                let checksum = if seen { Checksum::Bad } else { Checksum::Good };
                let (hops, drops) = arrived.entry(snapshot.node.clone()).or_default();
                let hop = Hop { checksum, ..of(waypoint) };
                if fate == Fate::Refused {
                    drops.push(refused(&hop));
                }
                hops.push(hop);
            }
        }
        for (node, evidence) in &mut snapshot.remote {
            let Some((hops, drops)) = arrived.get(&snapshot.node) else {
                continue;
            };
            let evidence = change::value(evidence).unwrap();
            let (into, dropped) = (&mut evidence.hops, &mut evidence.drops);
            change::value(into)
                .unwrap()
                .extend(hops.iter().filter(|hop| hop.node == *node).cloned());
            let here = drops.iter().filter(|drop| drop.node == *node).cloned();
            change::value(dropped).unwrap().extend(here);
        }
    }
    cluster
}

/// The kernel's record of what became of a packet that a tap had seen.
fn refused(hop: &Hop) -> Drop {
    Drop {
        node: hop.node.clone(),
        place: Where::Node,
        at_ns: hop.at_ns,
        probe: hop.probe,
        seq: hop.seq,
        leg: hop.leg,
        device: Some(hop.device.clone()),
        reason: Some("UDP_CSUM".to_owned()),
        location: Some("udp_queue_rcv_one_skb".to_owned()),
        stage: DropStage::Unknown,
        encapsulated: true,
    }
}

/// The same of what waited on the underlay device for the link-layer address of the other node.
fn undiscovered(hop: &Hop) -> Drop {
    Drop {
        device: Some("eth0".to_owned()),
        reason: Some("NOT_SPECIFIED".to_owned()),
        location: Some("neigh_invalidate".to_owned()),
        ..refused(hop)
    }
}

/// The record of some request that left through the tunnel, for the fields that do not matter.
pub fn record() -> Hop {
    let mut cluster = named("underlay-drops-tunnel");
    let a = cluster.nodes.get_mut(&NodeName::from("node-a")).and_then(change::value).unwrap();
    let observed = change::value(&mut a.observed).unwrap();
    let hops = change::value(&mut observed.hops).unwrap();
    let found = hops.iter().find(|hop| hop.leg == Leg::Request && hop.outer.is_some());
    found.unwrap().clone()
}

fn told(report: &ClusterReport) -> Vec<(CauseCode, Severity)> {
    roots(report).map(|root| (root.code, root.severity)).collect()
}

#[test]
fn a_few_lost_packets_are_no_fault_and_many_are_named_with_their_share() {
    for nth in [100, 60, 40] {
        let report = losing(nth, Fate::Lost);
        assert_eq!(told(&report), [], "every {nth}th");
        assert_eq!(report.verdict, Verdict::Forwarding);
    }
    for (nth, fate) in [5, 4, 3].into_iter().flat_map(|nth| [(nth, Fate::Lost), (nth, Fate::Damaged)]) {
        let report = losing(nth, fate);
        assert_eq!(told(&report), [(CauseCode::PartialLoss, Severity::Error)], "every {nth}th");
        let root = roots(&report).next().unwrap();
        assert!(root.subject.contains('%') && root.subject.contains("whichever"), "{}", root.subject);
    }
}

/// A third of what crosses the way to one node is lost, or damaged: whichever packets those are, and whatever is seen of them, it is one cause.
#[test]
fn chance_never_looks_like_a_fault_of_its_own() {
    let (b, c) = (NodeName::from("node-b"), NodeName::from("node-c"));
    // The last two are of those in which a direction lost what looked like large packets only, and like one from a moment on.
    for seed in (0..240u64).chain([201, 551]) {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let report = losing_those(|result| {
            // Marsaglia's xorshift: the same packets in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (from, to) = (&result.probe.from.node, &result.probe.to.node);
            let fate = match seed % 4 {
                0 => Fate::Lost,
                1 => Fate::Damaged,
                2 => Fate::Refused,
                // Only between it and one other node is it known why.
                _ if *from == c || *to == c => Fate::Damaged,
                _ if *to != b => return None,
                _ => Fate::Gone,
            };
            ((*from == b || *to == b) && (state >> 20) % 100 < 30).then_some(fate)
        });
        assert_eq!(
            told(&report),
            [(CauseCode::PartialLoss, Severity::Error)],
            "seed {seed}: {report:?}"
        );
    }
}

/// The network that loses a third of the probes loses questions to agents as well: node-c could not ask node-b what arrived.
#[test]
fn a_node_that_could_not_be_asked_over_a_lossy_network_is_no_second_cause() {
    let (b, c) = (NodeName::from("node-b"), NodeName::from("node-c"));
    let mut count = 0;
    let mut cluster = cluster_losing(|result| {
        count += 5;
        (result.probe.to.node == b && count % 17 < 5).then_some(Fate::Lost)
    });
    let snapshot = cluster.nodes.get_mut(&c).and_then(change::value).unwrap();
    let silent = Evidence::unavailable("remote/node-b", "no answer within 3 s");
    snapshot.remote.insert(b, silent);
    assert_eq!(told(&cluster.judge().cluster), [(CauseCode::PartialLoss, Severity::Error)]);
}

/// Neighbour discovery failed while some of the probes waited for it, and works again when the neighbours are looked at: what was lost before
/// was lost by that, and is neither a path that some ports take nor a riddle.
#[test]
fn what_waited_in_vain_for_a_neighbour_is_told_though_it_answers_again() {
    let (a, b) = (NodeName::from("node-a"), NodeName::from("node-b"));
    // All that was sent, or the first of each pair only.
    for early in [u64::MAX, 6] {
        let mut sent: BTreeMap<_, u64> = BTreeMap::new();
        let report = losing_those(|result| {
            let count = sent.entry((result.probe.from.clone(), result.probe.to.clone())).or_default();
            *count += 1;
            let between = result.probe.from.node == a && result.probe.to.node == b;
            (between && *count <= early).then_some(Fate::Undiscovered)
        });
        assert_eq!(told(&report), [(CauseCode::UnderlayDropsTunnel, Severity::Error)], "{report:?}");
        let root = roots(&report).next().unwrap();
        let programmed = root.evidence.programmed.as_deref().unwrap();
        assert_eq!(
            programmed,
            "node-a had no link-layer address of 172.18.0.3 (node-b) when the probes were sent, and waits for none now: ARP was not answered"
        );
    }
}

/// Where the way back loses by chance, large packets that never pass on the way there are still a cause of their own.
#[test]
fn what_chance_cannot_do_is_not_put_down_to_it() {
    let mut cluster = named("mtu-blackhole");
    let (a, b) = (NodeName::from("node-a"), NodeName::from("node-b"));
    let snapshot = cluster.nodes.get_mut(&b).and_then(change::value).unwrap();
    let probes = change::value(&mut snapshot.probes).unwrap().iter_mut();
    let passed = probes.filter(|r| r.probe.to.node == a && r.probe.from.node == b && r.outcome.passed());
    for result in passed.step_by(3) {
        result.outcome = Outcome::Lost;
    }
    let report = cluster.judge().cluster;
    assert_eq!(
        told(&report),
        [
            (CauseCode::MtuBlackhole, Severity::Error),
            (CauseCode::PartialLoss, Severity::Error)
        ]
    );
    let narrow = &roots(&report).next().unwrap().subject;
    assert!(narrow.contains("between node-a and node-b"), "{narrow}");
}

#[test]
fn a_slow_network_is_a_warning_with_its_figure() {
    let slow = |ms: u64| {
        with(|result| {
            if let Outcome::Answered { rtt_ns, .. } = &mut result.outcome {
                *rtt_ns += ms * 1_000_000;
            }
        })
    };
    assert_eq!(told(&slow(40)), []);
    let report = slow(400);
    assert_eq!(told(&report), [(CauseCode::LatencyDegraded, Severity::Warning)]);
    assert_eq!(report.verdict, Verdict::Forwarding);
    assert!(roots(&report).next().unwrap().subject.contains(" 4"), "{report:?}");
}

/// Two of thousands of probes share the half of their identity that taps see.
#[test]
fn another_probe_of_the_same_half_identity_is_not_this_one() {
    let mut cluster = named("healthy");
    let own = NodeName::from("node-a");
    let a = cluster.nodes.get_mut(&own).and_then(change::value).unwrap();
    let probes = a.probes.seen().unwrap();
    let remote = probes
        .iter()
        .filter(|r| r.probe.from.pod.is_some() && r.probe.to.node != own && r.outcome.passed());
    // Packets of others, sent from this node's devices, with another source and another destination; and one with the same destination.
    let mut alien: Vec<Hop> = remote
        .map(|result| {
            let mut hop = record();
            hop.node = own.clone();
            hop.probe = verifier_core::probe::low(result.probe.id);
            hop.inner.src = "10.244.99.1".parse().unwrap();
            hop.inner.dst = "10.244.99.2".parse().unwrap();
            hop
        })
        .collect();
    assert!(alien.len() > 10);
    let to = probes
        .iter()
        .find(|r| alien[0].probe == verifier_core::probe::low(r.probe.id))
        .unwrap()
        .probe
        .to
        .ip;
    alien[0].inner.dst = to;
    let observed = change::value(&mut a.observed).unwrap();
    change::value(&mut observed.hops).unwrap().extend(alien);
    let report = cluster.judge().cluster;
    assert_eq!(told(&report), []);
}

#[test]
fn ipv6_that_nobody_probed_is_not_made_milder_by_ipv4() {
    let mut cluster = named("healthy");
    let b = NodeName::from("node-b");
    for (name, snapshot) in &mut cluster.nodes {
        let snapshot = change::value(snapshot).unwrap();
        let intent = change::value(&mut snapshot.intent).unwrap();
        intent.pools.push(("fd00:244::/48".parse().unwrap(), "VXLAN Always".to_owned()));
        let state = change::value(&mut snapshot.programmed).unwrap();
        let netconf = change::value(&mut state.netconf).unwrap();
        netconf.retain(|n| !(n.v6 && n.scope == NetconfScope::All));
        netconf.push(Netconf {
            scope: NetconfScope::All,
            v6: true,
            forwarding: Some(*name != b),
            rp_filter: None,
            proxy_neigh: None,
        });
    }
    let report = cluster.judge().cluster;
    // That every probe of IPv4 passes makes nothing of it milder.
    assert_eq!(told(&report), [(CauseCode::IpForwardDisabled, Severity::Error)]);
    let root = roots(&report).next().unwrap();
    assert_eq!(
        (root.node.as_ref(), root.subject.as_str()),
        (Some(&b), "net.ipv6.conf.all.forwarding")
    );
    assert!(root.consequences.is_empty(), "{:?}", root.consequences);
}
