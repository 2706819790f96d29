//! Conformance on the running kernel: two nodes with a VXLAN device each, the tap on one node's underlay.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use verifier_core::{
    intent::Encapsulation,
    names::NodeName,
    observed::{ConformanceKind, Direction, TapKind},
};
use verifier_ebpf::{conformance::Conformance, record::Record};

use super::super::{
    Observer,
    loader::Options,
    ring::Ring,
    table::{Owned, Table},
    taps::Interface,
};
use super::{able, observer};
use crate::programmed::{netns::Netns, testing::TestNs};

const VNI: u32 = 4096;

struct Fabric {
    a: TestNs,
    _b: TestNs,
}

impl Fabric {
    /// Node a has pod address 10.244.1.2, node b 10.244.2.2; both hold them on `lo`, which is all that a tap on the underlay needs.
    fn new() -> Self {
        let (a, b) = (TestNs::new("conf-a"), TestNs::new("conf-b"));
        let b_name = b.path().file_name().unwrap().to_str().unwrap().to_owned();
        a.ip(&format!("link add eth0 type veth peer name eth0 netns {b_name}"));
        for (ns, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
            ns.ip("link set lo up");
            ns.ip(&format!("addr add 10.244.{own}.2/32 dev lo"));
            ns.ip(&format!("addr add 192.168.7.{own}/24 dev eth0"));
            ns.ip("link set eth0 up");
            ns.ip(&format!(
                "link add vx0 type vxlan id {VNI} dstport 4789 local 192.168.7.{own} remote 192.168.7.{other}"
            ));
            ns.ip("link set vx0 up");
            ns.ip(&format!("route add 10.244.{other}.0/26 dev vx0 src 10.244.{own}.2"));
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
    fn send(&self) {
        let socket = self.netns().open_in("a socket", || UdpSocket::bind("10.244.1.2:0")).unwrap();
        socket.send_to(b"ordinary traffic", "10.244.2.2:7777").unwrap();
    }
}

/// What a tap on node a should be told: b has 10.244.2.0/26 behind `vtep`.
fn table(vtep: [u8; 4], vni: u32, encapsulation: Encapsulation) -> Table {
    let owned = |peer: Option<&str>, vtep: [u8; 4], encapsulation| Owned {
        peer: peer.map(NodeName::from),
        vtep: Ipv4Addr::from(vtep),
        encapsulation,
    };
    Table {
        owners: [
            (
                "10.244.1.0/26".parse().unwrap(),
                owned(None, [192, 168, 7, 1], Encapsulation::Vxlan),
            ),
            ("10.244.2.0/26".parse().unwrap(), owned(Some("b"), vtep, encapsulation)),
        ]
        .into(),
        pools: vec!["10.244.0.0/16".parse().unwrap()],
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
fn counted(fabric: &Fabric, observer: &Observer, direction: Direction, kind: ConformanceKind) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(3);
    let before = count(observer, direction, kind);
    loop {
        fabric.send();
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

fn sampled(ring: &mut Ring, conformance: Conformance) -> bool {
    ring.drain(1000)
        .records
        .iter()
        .any(|record| matches!(record, Record::Sample(sample) if sample.conformance() == Some(conformance)))
}

#[test]
fn every_tunnel_packet_is_judged_against_intent() {
    if !able() {
        return;
    }
    let fabric = Fabric::new();
    let (mut observer, mut ring) = observer(Options::default(), None);
    let right = table([192, 168, 7, 2], VNI, Encapsulation::Vxlan);
    observer.set_table(&right).unwrap();
    let report = observer.sync_taps(&fabric.netns(), &[fabric.underlay()]);
    assert!(report.failed.is_empty(), "{:?}", report.failed);

    // Intent is young: nothing is judged.
    counted(&fabric, &observer, Direction::Egress, ConformanceKind::Unjudged);
    observer.settle().unwrap();
    counted(&fabric, &observer, Direction::Egress, ConformanceKind::Conforming);
    counted(&fabric, &observer, Direction::Ingress, ConformanceKind::Conforming);
    assert!(ring.drain(1000).records.is_empty(), "a sample of conforming traffic");

    observer.set_table(&table([192, 168, 7, 9], VNI, Encapsulation::Vxlan)).unwrap();
    observer.settle().unwrap();
    counted(&fabric, &observer, Direction::Egress, ConformanceKind::WrongOwner);
    counted(&fabric, &observer, Direction::Ingress, ConformanceKind::SpoofedSource);
    assert!(sampled(&mut ring, Conformance::WrongOwner));

    observer.set_table(&table([192, 168, 7, 2], 17, Encapsulation::Vxlan)).unwrap();
    observer.settle().unwrap();
    counted(&fabric, &observer, Direction::Egress, ConformanceKind::WrongVni);

    // Where intent wants it bare, and where it wants another tunnel.
    for encapsulation in [Encapsulation::None, Encapsulation::Ipip] {
        observer.set_table(&table([192, 168, 7, 2], VNI, encapsulation)).unwrap();
        observer.settle().unwrap();
        let before = count(&observer, Direction::Egress, ConformanceKind::UnexpectedEncapsulation);
        let after = counted(&fabric, &observer, Direction::Egress, ConformanceKind::UnexpectedEncapsulation);
        assert!(after > before, "{encapsulation:?}: {before} {after}");
    }

    observer.set_table(&right).unwrap();
    observer.settle().unwrap();
    fabric.a.ip("route replace 10.244.2.0/26 via 192.168.7.2 src 10.244.1.2");
    counted(&fabric, &observer, Direction::Egress, ConformanceKind::BareLeak);

    // Bare by intent.
    observer.set_table(&table([192, 168, 7, 2], VNI, Encapsulation::None)).unwrap();
    observer.settle().unwrap();
    let before = count(&observer, Direction::Egress, ConformanceKind::Conforming);
    let after = counted(&fabric, &observer, Direction::Egress, ConformanceKind::Conforming);
    assert!(after > before, "{before} {after}");

    // A borrowed address within the block outranks it.
    observer.set_table(&right).unwrap();
    let mut borrowed = right;
    borrowed.owners.insert(
        "10.244.2.2/32".parse().unwrap(),
        Owned {
            peer: Some("c".into()),
            vtep: Ipv4Addr::new(192, 168, 7, 3),
            encapsulation: Encapsulation::Vxlan,
        },
    );
    fabric.a.ip("route replace 10.244.2.0/26 dev vx0 src 10.244.1.2");
    observer.set_table(&borrowed).unwrap();
    observer.settle().unwrap();
    fabric.send();
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
