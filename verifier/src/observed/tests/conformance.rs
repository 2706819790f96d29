//! Conformance on the running kernel: two nodes with a VXLAN device each, the tap on one node's underlay.

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use verifier_core::{
    intent::Encapsulation,
    names::NodeName,
    observed::{ConformanceKind, Direction, TapKind},
};
use verifier_ebpf::{conformance::Conformance, record::Record};

use super::super::{
    Observer, convert,
    loader::Options,
    ring::Ring,
    table::{Owned, Table},
    taps::Interface,
};
use super::{able, observer};
use crate::programmed::{netns::Netns, testing::TestNs};

const VNI: u32 = 4096;

/// The addresses of one family: pods, blocks and nodes of a and b, and the device whose outer header is of that family.
#[derive(Clone, Copy)]
struct Net {
    pods: [&'static str; 2],
    blocks: [&'static str; 2],
    nodes: [&'static str; 2],
    pool: &'static str,
    tunnel: &'static str,
    single: u8,
}

const FOUR: Net = Net {
    pods: ["10.244.1.2", "10.244.2.2"],
    blocks: ["10.244.1.0/26", "10.244.2.0/26"],
    nodes: ["192.168.7.1", "192.168.7.2"],
    pool: "10.244.0.0/16",
    tunnel: "vx0",
    single: 32,
};
const SIX: Net = Net {
    pods: ["fd00:10:244:1::2", "fd00:10:244:2::2"],
    blocks: ["fd00:10:244:1::/122", "fd00:10:244:2::/122"],
    nodes: ["fd00:7::1", "fd00:7::2"],
    pool: "fd00:10:244::/48",
    tunnel: "vx6",
    single: 128,
};

struct Fabric {
    a: TestNs,
    _b: TestNs,
}

impl Fabric {
    /// Both nodes hold their pod addresses on `lo`, which is all that a tap on the underlay needs.
    fn new() -> Self {
        let (a, b) = (TestNs::new("conf-a"), TestNs::new("conf-b"));
        let b_name = b.path().file_name().unwrap().to_str().unwrap().to_owned();
        a.ip(&format!("link add eth0 type veth peer name eth0 netns {b_name}"));
        for (ns, own, other) in [(&a, 0, 1), (&b, 1, 0)] {
            ns.ip("link set lo up");
            for net in [FOUR, SIX] {
                // Without detecting duplicates, so that the addresses can be used at once.
                let (length, nodad) = if net.single == 128 { (64, "nodad") } else { (24, "") };
                ns.ip(&format!("addr add {}/{} dev lo {nodad}", net.pods[own], net.single));
                ns.ip(&format!("addr add {}/{length} dev eth0 {nodad}", net.nodes[own]));
                ns.ip("link set eth0 up");
                // Neighbours are set, as Calico sets them: IPv6 does not answer on one device for an address of another.
                let mac = |node: usize| format!("66:00:00:00:00:0{}", node + 1);
                ns.ip(&format!(
                    "link add {} address {} type vxlan id {VNI} dstport 4789 local {} remote {}",
                    net.tunnel,
                    mac(own),
                    net.nodes[own],
                    net.nodes[other]
                ));
                ns.ip(&format!("link set {} up", net.tunnel));
                for pods in [FOUR.pods, SIX.pods] {
                    ns.ip(&format!(
                        "neigh add {} lladdr {} dev {} nud permanent",
                        pods[other],
                        mac(other),
                        net.tunnel
                    ));
                }
                ns.ip(&format!("route add {} dev {} src {}", net.blocks[other], net.tunnel, net.pods[own]));
            }
        }
        Self { a, _b: b }
    }

    fn netns(&self) -> Netns {
        self.a.netns()
    }

    fn underlay(&self) -> Interface {
        Interface {
            index: self.netns().run_in(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap(),
            name: "eth0".to_owned(),
            kind: TapKind::Underlay,
            framed: true,
        }
    }

    /// From pod to pod, to a closed port: the answer is an ICMP error through the tunnel.
    fn send(&self, net: Net) {
        let [from, to] = net.pods.map(|pod| pod.parse::<IpAddr>().unwrap());
        let socket = self.netns().open_in("a socket", || UdpSocket::bind((from, 0))).unwrap();
        socket.send_to(b"ordinary traffic", (to, 7777)).unwrap();
    }
}

/// What a tap on node a should be told: b has its block behind `vtep`.
fn table(net: Net, vtep: &str, vni: u32, encapsulation: Encapsulation) -> Table {
    let owned = |peer: Option<&str>, vtep: &str, encapsulation| Owned {
        peer: peer.map(NodeName::from),
        vtep: vtep.parse().unwrap(),
        encapsulation,
    };
    Table {
        owners: [
            (net.blocks[0].parse().unwrap(), owned(None, net.nodes[0], Encapsulation::Vxlan)),
            (net.blocks[1].parse().unwrap(), owned(Some("b"), vtep, encapsulation)),
        ]
        .into(),
        arriving: std::collections::BTreeMap::new(),
        pools: vec![net.pool.parse().unwrap()],
        vni: Some(vni),
        vxlan_port: Some(4789),
        gaps: Vec::new(),
    }
}

/// How often a kind has been counted for node b.
fn count(observer: &Observer, direction: Direction, kind: ConformanceKind) -> u64 {
    let peer = Some(NodeName::from("b"));
    let counts = observer.counters().unwrap().conformance;
    let of = |count: &&verifier_core::observed::ConformanceCount| (count.direction, count.kind, &count.peer) == (direction, kind, &peer);
    counts.iter().find(of).map_or(0, |count| count.packets)
}

/// Sends until a kind has been counted once more, and returns how often.
fn counted(fabric: &Fabric, net: Net, observer: &Observer, direction: Direction, kind: ConformanceKind) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(3);
    let before = count(observer, direction, kind);
    loop {
        fabric.send(net);
        let now = count(observer, direction, kind);
        if now > before {
            return now;
        }
        assert!(
            Instant::now() < deadline,
            "no {kind:?} {direction:?}: {:?}",
            observer.counters().unwrap().conformance
        );
    }
}

/// The packet of a sample of this kind, once there is one.
fn sampled(ring: &mut Ring, conformance: Conformance) -> Option<(IpAddr, IpAddr, IpAddr, IpAddr)> {
    ring.drain(1000).records.iter().find_map(|record| match record {
        Record::Sample(sample) if sample.conformance() == Some(conformance) => Some(convert::sampled(sample)),
        _ => None,
    })
}

#[test]
fn every_tunnel_packet_is_judged_against_intent() {
    if able() {
        judges(FOUR, "192.168.7.9");
    }
}

#[test]
fn every_tunnel_packet_of_ipv6_is_judged_against_intent() {
    if able() {
        judges(SIX, "fd00:7::9");
    }
}

/// `elsewhere` is a node's address that is neither's.
fn judges(net: Net, elsewhere: &str) {
    let fabric = Fabric::new();
    let (mut observer, mut ring) = observer(Options::default(), None);
    let right = table(net, net.nodes[1], VNI, Encapsulation::Vxlan);
    observer.set_table(&right).unwrap();
    let report = observer.sync_taps(&fabric.netns(), &[fabric.underlay()]);
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let counted = |observer: &Observer, direction, kind| counted(&fabric, net, observer, direction, kind);

    // Intent is young: nothing is judged.
    counted(&observer, Direction::Egress, ConformanceKind::Unjudged);
    observer.settle().unwrap();
    counted(&observer, Direction::Egress, ConformanceKind::Conforming);
    counted(&observer, Direction::Ingress, ConformanceKind::Conforming);
    assert!(ring.drain(1000).records.is_empty(), "a sample of conforming traffic");

    observer.set_table(&table(net, elsewhere, VNI, Encapsulation::Vxlan)).unwrap();
    observer.settle().unwrap();
    counted(&observer, Direction::Egress, ConformanceKind::WrongOwner);
    counted(&observer, Direction::Ingress, ConformanceKind::SpoofedSource);
    let ends = |names: [&str; 2]| names.map(|name| name.parse::<IpAddr>().unwrap());
    let ([from, to], [pod, other]) = (ends(net.nodes), ends(net.pods));
    assert_eq!(sampled(&mut ring, Conformance::WrongOwner), Some((from, to, pod, other)));

    observer.set_table(&table(net, net.nodes[1], 17, Encapsulation::Vxlan)).unwrap();
    observer.settle().unwrap();
    counted(&observer, Direction::Egress, ConformanceKind::WrongVni);

    // Where intent wants it bare, and where it wants another tunnel.
    for encapsulation in [Encapsulation::None, Encapsulation::Ipip] {
        observer.set_table(&table(net, net.nodes[1], VNI, encapsulation)).unwrap();
        observer.settle().unwrap();
        let before = count(&observer, Direction::Egress, ConformanceKind::UnexpectedEncapsulation);
        let after = counted(&observer, Direction::Egress, ConformanceKind::UnexpectedEncapsulation);
        assert!(after > before, "{encapsulation:?}: {before} {after}");
    }

    observer.set_table(&right).unwrap();
    observer.settle().unwrap();
    let [block, tunnel] = [net.blocks[1], net.tunnel];
    let route = |way: &str| fabric.a.ip(&format!("route replace {block} {way} src {}", net.pods[0]));
    route(&format!("via {}", net.nodes[1]));
    counted(&observer, Direction::Egress, ConformanceKind::BareLeak);

    // Bare by intent.
    observer.set_table(&table(net, net.nodes[1], VNI, Encapsulation::None)).unwrap();
    observer.settle().unwrap();
    let before = count(&observer, Direction::Egress, ConformanceKind::Conforming);
    let after = counted(&observer, Direction::Egress, ConformanceKind::Conforming);
    assert!(after > before, "{before} {after}");

    // A borrowed address within the block outranks it.
    observer.set_table(&right).unwrap();
    let mut borrowed = right;
    borrowed.owners.insert(
        format!("{}/{}", net.pods[1], net.single).parse().unwrap(),
        Owned {
            peer: Some("c".into()),
            vtep: elsewhere.parse().unwrap(),
            encapsulation: Encapsulation::Vxlan,
        },
    );
    route(&format!("dev {tunnel}"));
    observer.set_table(&borrowed).unwrap();
    observer.settle().unwrap();
    fabric.send(net);
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let counts = observer.counters().unwrap().conformance;
        if counts
            .iter()
            .any(|count| count.peer == Some("c".into()) && count.kind == ConformanceKind::WrongOwner)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
    }
}

/// IPv4 through the tunnel of IPv6, and the reverse: counted for the owner, as in the other kind of tunnel.
#[test]
fn a_packet_in_the_tunnel_of_the_other_family_is_no_conforming_one() {
    if !able() {
        return;
    }
    for (net, other) in [(FOUR, SIX), (SIX, FOUR)] {
        let fabric = Fabric::new();
        let (mut observer, mut ring) = observer(Options::default(), None);
        observer.set_table(&table(net, net.nodes[1], VNI, Encapsulation::Vxlan)).unwrap();
        observer.settle().unwrap();
        let report = observer.sync_taps(&fabric.netns(), &[fabric.underlay()]);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        fabric
            .a
            .ip(&format!("route replace {} dev {} src {}", net.blocks[1], other.tunnel, net.pods[0]));
        counted(&fabric, net, &observer, Direction::Egress, ConformanceKind::UnexpectedEncapsulation);
        let (from, _, pod, _) = sampled(&mut ring, Conformance::UnexpectedEncapsulation).unwrap();
        assert_eq!(
            (from.to_string(), pod.to_string()),
            (other.nodes[0].to_owned(), net.pods[0].to_owned())
        );
    }
}
