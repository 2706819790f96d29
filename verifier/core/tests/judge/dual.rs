//! The healthy golden snapshot made dual-stack: everything that names an IPv4 address once more with the IPv6 address that ends in it,
//! and `vxlan-v6.calico` beside `vxlan.calico`. What is wrong with one family must say nothing of the other.

use super::{
    change,
    golden::{Cluster, named},
    roots,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use verifier_core::{
    evidence::Evidence,
    intent::NodeIntent,
    names::NodeName,
    observed::TapKind,
    probe::{Outcome, ProbeResult, Size, Transport},
    programmed::{Address, FilterBackend, FilterRule, FilterVerdict, Netconf, NetconfScope, NodeState, Route, RouteKind},
    verdict::{CauseCode, ClusterReport, Consequence, NodeSnapshot, Severity, Verdict},
};

/// What the index of `vxlan-v6.calico` is above that of `vxlan.calico`.
const BESIDE: u32 = 1_000;

fn six(ip: Ipv4Addr) -> Ipv6Addr {
    if ip.is_unspecified() {
        Ipv6Addr::UNSPECIFIED
    } else if ip == Ipv4Addr::new(169, 254, 1, 1) {
        // The link-local address of every host-side veth.
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee)
    } else {
        Ipv6Addr::from_bits((0xfd00_0010_0244 << 80) | u128::from(ip.to_bits()))
    }
}

fn six_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => six(ip).into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

/// The text with its address or prefix, if it is one, of IPv6; none if it is none.
fn text(of: &str) -> Option<String> {
    if of == "vxlan.calico" {
        return Some("vxlan-v6.calico".to_owned());
    }
    if let Ok(ip) = of.parse::<Ipv4Addr>() {
        return Some(six(ip).to_string());
    }
    let (ip, length) = of.split_once('/')?;
    let (ip, length) = (ip.parse::<Ipv4Addr>().ok()?, length.parse::<u8>().ok()?);
    let length = if ip.is_unspecified() && length == 0 { 0 } else { length + 96 };
    Some(format!("{}/{length}", six(ip)))
}

fn change_all(value: &mut Value) -> bool {
    match value {
        Value::String(old) => match text(old) {
            Some(new) => {
                *old = new;
                true
            }
            None => false,
        },
        // All of them, not only up to the first that changes.
        Value::Array(all) => all.iter_mut().map(change_all).fold(false, |any, one| any | one),
        Value::Object(all) => all.values_mut().map(change_all).fold(false, |any, one| any | one),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The same of IPv6; none if it says nothing of IPv4.
fn mirrored<T: Serialize + DeserializeOwned>(of: &T) -> Option<T> {
    let mut value = serde_json::to_value(of).unwrap();
    change_all(&mut value).then(|| serde_json::from_value(value).unwrap())
}

fn beside<T: Serialize + DeserializeOwned>(all: &mut Vec<T>) {
    beside_with(all, |_| {});
}

fn beside_with<T: Serialize + DeserializeOwned>(all: &mut Vec<T>, mut work: impl FnMut(&mut T)) {
    let mut more: Vec<T> = all.iter().filter_map(mirrored).collect();
    more.iter_mut().for_each(&mut work);
    all.extend(more);
}

pub(super) fn list<T>(evidence: &mut Evidence<Vec<T>>) -> &mut Vec<T> {
    change::value(evidence).unwrap()
}

fn intent(intent: &mut NodeIntent) {
    beside(&mut intent.pools);
    beside(&mut intent.blocks);
    beside(&mut intent.tunnels);
    beside(&mut intent.routes);
    beside(&mut intent.neighbors);
    beside(&mut intent.fdb);
    intent.host_ip6 = intent.host_ip.map(six_of);
    intent.workloads.values_mut().for_each(|w| beside(&mut w.addresses));
    for peer in intent.peers.values_mut() {
        beside(&mut peer.prefixes);
        peer.host_ip6 = peer.host_ip.map(six_of);
        peer.tunnel_ip6 = peer.tunnel_ip.map(six_of);
        peer.vtep_mac6 = peer.vtep_mac;
        peer.pods.iter_mut().for_each(|pod| pod.other_ip = Some(six_of(pod.ip)));
    }
}

fn state(state: &mut NodeState) {
    let links = list(&mut state.links);
    let tunnel = links.iter().find(|link| link.name == "vxlan.calico").unwrap().index;
    let veths: Vec<u32> = links.iter().filter(|l| l.name.starts_with("cali")).map(|l| l.index).collect();
    beside_with(links, |link| {
        if link.name.starts_with("vxlan") {
            link.index += BESIDE;
        }
    });
    // Only the tunnel's: what else names an address is not mirrored.
    links.sort_by_key(|link| link.index);
    links.dedup_by_key(|link| link.index);
    let moved = |index: &mut u32| {
        if *index == tunnel {
            *index += BESIDE;
        }
    };
    let moved_hops = |route: &mut Route| {
        route.next_hops.iter_mut().filter_map(|hop| hop.oif.as_mut()).for_each(moved);
        if route.kind == RouteKind::Blackhole {
            route.priority = 1_024;
        }
    };
    beside_with(list(&mut state.addresses), |address| moved(&mut address.index));
    list(&mut state.addresses).extend(veths.iter().map(|index| Address {
        index: *index,
        ip: "fe80::ecee:eeff:feee:eeee/64".parse().unwrap(),
        scope: 253,
    }));
    beside_with(list(&mut state.routes), moved_hops);
    beside_with(list(&mut state.neighbors), |neighbor| moved(&mut neighbor.index));
    // The entries of the tunnel alone have a destination.
    beside_with(list(&mut state.fdb), |entry| moved(&mut entry.index));
    let netconf = list(&mut state.netconf);
    netconf.retain(|n| !n.v6);
    let of_ipv6: Vec<Netconf> = netconf
        .iter()
        .map(|n| Netconf {
            v6: true,
            rp_filter: None,
            ..*n
        })
        .collect();
    netconf.extend(of_ipv6);
    for pod in state.pods.values_mut().filter_map(change::value) {
        beside(list(&mut pod.addresses));
        beside(list(&mut pod.routes));
    }
}

/// The healthy cluster with both families.
pub(super) fn healthy() -> Cluster {
    let mut cluster = named("healthy");
    for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
        intent(change::value(&mut snapshot.intent).unwrap());
        state(change::value(&mut snapshot.programmed).unwrap());
        beside_with(list(&mut snapshot.probes), |result| {
            // Another probe, of the same turn.
            result.probe.id ^= 1 << 31;
            result.probe.length_bytes += if result.probe.size == Size::Small { 20 } else { 0 };
        });
        let observed = change::value(&mut snapshot.observed).unwrap();
        observed.taps.insert("vxlan-v6.calico".to_owned(), TapKind::Tunnel);
        for remote in snapshot.remote.values_mut().filter_map(change::value) {
            remote.taps.insert("vxlan-v6.calico".to_owned(), TapKind::Tunnel);
        }
    }
    cluster
}

fn snapshots(cluster: &mut Cluster) -> impl Iterator<Item = &mut NodeSnapshot> {
    cluster.nodes.values_mut().filter_map(change::value)
}

pub(super) fn node<'c>(cluster: &'c mut Cluster, name: &str) -> &'c mut NodeSnapshot {
    cluster.nodes.get_mut(&NodeName::from(name)).and_then(change::value).unwrap()
}

pub(super) fn node_state<'c>(cluster: &'c mut Cluster, name: &str) -> &'c mut NodeState {
    change::value(&mut node(cluster, name).programmed).unwrap()
}

/// Loses the probes of a family for which `which` holds.
fn lose(cluster: &mut Cluster, v6: bool, which: impl Fn(&ProbeResult) -> bool) {
    for snapshot in snapshots(cluster) {
        for result in list(&mut snapshot.probes) {
            if result.probe.is_ipv6() == v6 && which(result) {
                result.outcome = Outcome::Lost;
            }
        }
    }
}

fn between_nodes(result: &ProbeResult) -> bool {
    result.probe.from.node != result.probe.to.node
}

fn at(result: &ProbeResult, node: &str) -> bool {
    let node = NodeName::from(node);
    between_nodes(result) && [&result.probe.from.node, &result.probe.to.node].contains(&&node)
}

fn told(report: &ClusterReport) -> Vec<(CauseCode, &str, Severity)> {
    roots(report)
        .map(|root| (root.code, root.subject.as_str(), root.severity))
        .collect()
}

/// Families of the probes that the report puts down to something: whether any is of IPv4, whether any is of IPv6.
fn explained(report: &ClusterReport) -> (bool, bool) {
    let of = |v6: bool| {
        let consequences = roots(report).flat_map(|root| &root.consequences);
        let mut probes = consequences.filter_map(|c| match c {
            Consequence::Probes { to, .. } => Some(to.ip),
            Consequence::Cause { .. } => None,
        });
        probes.any(|ip| ip.is_ipv6() == v6)
    };
    (of(false), of(true))
}

#[test]
fn a_healthy_cluster_of_two_families_is_healthy() {
    let mut cluster = healthy();
    let probes: usize = snapshots(&mut cluster).map(|s| list(&mut s.probes).len()).sum();
    assert!(probes > 600, "{probes}: not mirrored");
    let report = cluster.judge().cluster;
    assert_eq!(told(&report), []);
    assert_eq!((report.verdict, report.unknown), (Verdict::Forwarding, Vec::new()));
}

#[test]
fn forwarding_that_is_off_for_one_family_loses_that_ones_packets_and_is_no_warning() {
    for v6 in [false, true] {
        let mut cluster = healthy();
        for conf in list(&mut node_state(&mut cluster, "node-b").netconf) {
            if conf.v6 == v6 && conf.scope == NetconfScope::All {
                conf.forwarding = Some(false);
            }
        }
        lose(&mut cluster, v6, |result| at(result, "node-b"));
        let report = cluster.judge().cluster;
        let subject = if v6 {
            "net.ipv6.conf.all.forwarding"
        } else {
            "net.ipv4.ip_forward"
        };
        assert_eq!(told(&report), [(CauseCode::IpForwardDisabled, subject, Severity::Error)]);
        assert_eq!(explained(&report), (!v6, v6));
        assert_eq!(report.verdict, Verdict::Degraded, "the other family forwards");
    }
}

#[test]
fn a_tunnel_that_is_gone_takes_its_family_with_it_and_no_other() {
    for (v6, device) in [(false, "vxlan.calico"), (true, "vxlan-v6.calico")] {
        let mut cluster = healthy();
        let state = node_state(&mut cluster, "node-b");
        let index = state.links.seen().unwrap().iter().find(|l| l.name == device).unwrap().index;
        list(&mut state.links).retain(|l| l.index != index);
        list(&mut state.addresses).retain(|a| a.index != index);
        list(&mut state.routes).retain(|r| !r.next_hops.iter().any(|h| h.oif == Some(index)));
        list(&mut state.neighbors).retain(|n| n.index != index);
        list(&mut state.fdb).retain(|e| e.index != index);
        lose(&mut cluster, v6, |result| at(result, "node-b"));
        let report = cluster.judge().cluster;
        assert_eq!(told(&report), [(CauseCode::TunnelDeviceMissing, device, Severity::Error)]);
        assert_eq!(explained(&report), (!v6, v6));
    }
}

#[test]
fn what_is_wrong_with_one_family_is_softened_by_its_own_packets_and_blamed_for_its_own_alone() {
    for v6 in [false, true] {
        let missing = |cluster: &mut Cluster| {
            let own: Vec<_> = cluster.nodes[&NodeName::from("node-a")]
                .seen()
                .and_then(|s| s.intent.seen())
                .unwrap()
                .routes
                .iter()
                .filter(|r| r.dst.addr().is_ipv6() == v6 && r.required && r.gateway.is_some())
                .map(|r| r.dst)
                .collect();
            list(&mut node_state(cluster, "node-a").routes).retain(|r| r.dst != own[0]);
            own[0].to_string()
        };
        // Its packets pass, by a route that covers it for instance.
        let mut cluster = healthy();
        let subject = missing(&mut cluster);
        let report = cluster.judge().cluster;
        assert_eq!(told(&report), [(CauseCode::RouteMissing, subject.as_str(), Severity::Warning)]);

        // Nobody tried that family: that the other passes does not make it milder.
        for snapshot in snapshots(&mut cluster) {
            list(&mut snapshot.probes).retain(|r| r.probe.is_ipv6() != v6);
        }
        let report = cluster.judge().cluster;
        assert_eq!(told(&report), [(CauseCode::RouteMissing, subject.as_str(), Severity::Error)]);

        // Everything of the other family is lost: this route is not to blame, and still only a warning.
        let mut cluster = healthy();
        let subject = missing(&mut cluster);
        lose(&mut cluster, !v6, between_nodes);
        let report = cluster.judge().cluster;
        assert!(
            told(&report).contains(&(CauseCode::RouteMissing, subject.as_str(), Severity::Warning)),
            "{:?}",
            told(&report)
        );
        let blamed = roots(&report).find(|root| root.code == CauseCode::RouteMissing).unwrap();
        assert!(blamed.consequences.is_empty(), "{blamed:?}");
    }
}

#[test]
fn a_lossy_family_is_lossy_by_itself() {
    let mut cluster = healthy();
    let mut count = 0;
    for snapshot in snapshots(&mut cluster) {
        for result in list(&mut snapshot.probes) {
            if result.probe.is_ipv6() && between_nodes(result) {
                count += 1;
                if count % 50 == 0 {
                    result.outcome = Outcome::Lost;
                }
            } else if between_nodes(result) && at(result, "node-b") {
                // A fault of state of the other family, from which nothing follows for the few lost ones.
                result.outcome = Outcome::Lost;
            }
        }
    }
    for conf in list(&mut node_state(&mut cluster, "node-b").netconf) {
        if !conf.v6 && conf.scope == NetconfScope::All {
            conf.forwarding = Some(false);
        }
    }
    let report = cluster.judge().cluster;
    let errors: Vec<_> = told(&report).into_iter().filter(|(_, _, s)| *s == Severity::Error).collect();
    assert_eq!(errors, [(CauseCode::IpForwardDisabled, "net.ipv4.ip_forward", Severity::Error)]);
    assert_eq!(explained(&report), (true, false));
}

#[test]
fn a_filter_of_one_family_is_no_suspect_of_the_other() {
    for (family, suspect) in [("ip", false), ("ip6", true), ("inet", true)] {
        let mut cluster = healthy();
        list(&mut node_state(&mut cluster, "node-b").filters).push(FilterRule {
            backend: FilterBackend::Nftables,
            family: family.to_owned(),
            table: "firewall".to_owned(),
            chain: "forward".to_owned(),
            handle: Some(7),
            verdict: FilterVerdict::Drop,
            packets: Some(90),
            moved: Some(90),
            comment: None,
        });
        // Seen at node-b's tunnel and not at its pods' doors.
        lose(&mut cluster, true, |result| {
            between_nodes(result) && result.probe.to.node == NodeName::from("node-b")
        });
        seen_until_decapsulated(&mut cluster, "node-b");
        let report = cluster.judge().cluster;
        let blamed = told(&report).iter().any(|(code, ..)| *code == CauseCode::FilterDrop);
        assert_eq!(blamed, suspect, "{family}: {:?}", told(&report));
    }
}

/// Records of every lost request to `name`, at each tap of its way up to the last before the receiving pod's.
fn seen_until_decapsulated(cluster: &mut Cluster, name: &str) {
    use verifier_core::{
        observed::{Checksum, Hop, Inner, Leg, Outer},
        path::itinerary,
    };
    let mac = "02:00:00:00:00:01".parse().unwrap();
    for snapshot in snapshots(cluster) {
        let intent = snapshot.intent.seen().unwrap().clone();
        let own = (snapshot.node.clone(), change::value(&mut snapshot.observed).unwrap().taps.clone());
        let remote = snapshot
            .remote
            .iter()
            .filter_map(|(n, e)| Some((n.clone(), e.seen()?.taps.clone())));
        let taps = remote.chain([own]).collect();
        let mut hops = Vec::new();
        for result in list(&mut snapshot.probes) {
            if result.outcome != Outcome::Lost || result.probe.to.node != NodeName::from(name) {
                continue;
            }
            let way = itinerary(&intent, &result.probe, &taps);
            let door = way.iter().rposition(|w| w.leg == Leg::Request).unwrap();
            for (step, waypoint) in (0..).zip(&way[..door]) {
                let protocol = match result.probe.transport {
                    Transport::Udp => 17,
                    Transport::Icmp => 58,
                    Transport::Tcp => 6,
                };
                hops.push(Hop {
                    node: waypoint.node.clone(),
                    at_ns: result.sent_mono_ns + step,
                    probe: u32::try_from(result.probe.id & 0xffff_ffff).unwrap(),
                    seq: result.probe.seq,
                    leg: Leg::Request,
                    device: waypoint.device.clone(),
                    ifindex: 1,
                    direction: waypoint.direction,
                    tap: waypoint.tap,
                    outer: (waypoint.tap == TapKind::Underlay).then_some(Outer {
                        src_mac: mac,
                        dst_mac: mac,
                        src: result.probe.from.ip,
                        dst: result.probe.to.ip,
                        protocol: 17,
                        src_port: 50_000,
                        dst_port: 4_789,
                        vni: Some(4_096),
                        ttl: 64,
                        length_bytes: 200,
                    }),
                    inner: Inner {
                        src: result.probe.from.ip,
                        dst: result.probe.to.ip,
                        protocol,
                        src_port: result.probe.src_port,
                        dst_port: result.probe.dst_port,
                        ttl: 64,
                        length_bytes: result.probe.length_bytes,
                        dont_fragment: true,
                    },
                    checksum: Checksum::Good,
                    mark: 0,
                    cpu: 0,
                    gso_size: 0,
                    gso_segs: 0,
                });
            }
        }
        let (own, others): (Vec<Hop>, Vec<Hop>) = hops.into_iter().partition(|hop| hop.node == snapshot.node);
        list(&mut change::value(&mut snapshot.observed).unwrap().hops).extend(own);
        for hop in others {
            let remote = snapshot.remote.get_mut(&hop.node).and_then(change::value).unwrap();
            list(&mut remote.hops).push(hop);
        }
    }
}
