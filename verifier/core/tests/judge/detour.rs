//! A route that is missing while its packets arrive: by a route that covers it, or by another node that sends them on.

use super::{
    change::value,
    golden::{Cluster, named},
    roots,
    weather::record,
};
use verifier_core::{
    names::NodeName,
    observed::{ConformanceCount, ConformanceKind, Direction, Hop, Leg},
    verdict::{CauseCode, ClusterReport, NodeSnapshot, Severity, Verdict},
};

fn node<'c>(cluster: &'c mut Cluster, name: &str) -> &'c mut NodeSnapshot {
    cluster.nodes.get_mut(&NodeName::from(name)).and_then(value).unwrap()
}

/// node-a without its route to the block of node-b, and the destination of a probe that is in there.
fn without_route() -> (Cluster, ipnet::IpNet) {
    let mut cluster = named("healthy");
    let a = node(&mut cluster, "node-a");
    let intent = a.intent.seen().unwrap();
    let there = intent.peers[&NodeName::from("node-b")].pods[0].addresses().next().unwrap();
    let block = intent
        .routes
        .iter()
        .find(|r| r.required && r.gateway.is_some() && r.dst.contains(&there))
        .unwrap()
        .dst;
    let state = value(&mut a.programmed).unwrap();
    value(&mut state.routes).unwrap().retain(|r| r.dst != block);
    (cluster, block)
}

/// The request of one of node-a's probes to that block, seen at node-c too by its own agent; `leg` and the place as asked.
fn seen(cluster: &mut Cluster, block: ipnet::IpNet, at: &str, leg: Leg) {
    let a = node(cluster, "node-a");
    let probe = a
        .probes
        .seen()
        .unwrap()
        .iter()
        .find(|r| r.outcome.passed() && block.contains(&r.probe.to.ip))
        .unwrap()
        .probe
        .clone();
    let hop = Hop {
        node: at.into(),
        probe: u32::try_from(probe.id & 0xffff_ffff).unwrap(),
        direction: Direction::Ingress,
        leg,
        ..record()
    };
    let remote = a.remote.get_mut(&NodeName::from(at)).and_then(value).unwrap();
    value(&mut remote.hops).unwrap().push(hop);
}

fn told(report: &ClusterReport) -> (Vec<(CauseCode, Severity)>, Verdict) {
    (roots(report).map(|root| (root.code, root.severity)).collect(), report.verdict)
}

#[test]
fn packets_that_arrive_by_another_node_do_not_make_a_missing_route_milder() {
    let (cluster, _) = without_route();
    let milder = (vec![(CauseCode::RouteMissing, Severity::Warning)], Verdict::Forwarding);
    assert_eq!(told(&cluster.judge().cluster), milder, "by a route that covers it");

    let (mut cluster, block) = without_route();
    seen(&mut cluster, block, "node-c", Leg::Request);
    let report = cluster.judge().cluster;
    assert_eq!(told(&report), (vec![(CauseCode::RouteMissing, Severity::Error)], Verdict::Degraded));
    let observed = roots(&report).next().unwrap().evidence.observed.clone().unwrap();
    assert!(
        observed.contains("1 of the probes to") && observed.contains("node-c/"),
        "{observed}"
    );

    // Nor does it go untold where the tunnel's taps saw it too.
    let a = node(&mut cluster, "node-a");
    value(&mut value(&mut a.observed).unwrap().conformance)
        .unwrap()
        .push(ConformanceCount {
            kind: ConformanceKind::WrongOwner,
            direction: Direction::Egress,
            peer: Some("node-b".into()),
            packets: 5,
            sample: None,
        });
    let report = cluster.judge().cluster;
    assert_eq!(told(&report), (vec![(CauseCode::RouteMissing, Severity::Error)], Verdict::Degraded));
    assert_eq!(roots(&report).next().unwrap().evidence.observed, Some(observed));

    // The reply's way is its own sender's; and what the receiver sees is no other node.
    for (at, leg) in [("node-c", Leg::Reply), ("node-b", Leg::Request)] {
        let (mut cluster, block) = without_route();
        seen(&mut cluster, block, at, leg);
        assert_eq!(told(&cluster.judge().cluster), milder, "{leg:?} at {at}");
    }
}

#[test]
fn a_detour_alone_is_no_fault() {
    let (_, block) = without_route();
    let mut cluster = named("healthy");
    seen(&mut cluster, block, "node-c", Leg::Request);
    assert_eq!(told(&cluster.judge().cluster), (Vec::new(), Verdict::Forwarding));
}
