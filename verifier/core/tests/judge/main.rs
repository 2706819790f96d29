//! What must hold of every judgement, tried on what was seen of real faults on a real kernel (the golden snapshots), on the same
//! with further faults beside the first, and with evidence that is missing, disordered or repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod change;
mod detour;
mod dual;
mod golden;
mod remedy;
mod weather;

use change::Dice;
use golden::{ALL, Cluster, Judged, named};
use proptest::prelude::*;
use std::collections::BTreeSet;
use verifier_core::{
    evidence::Evidence,
    intent::Contradiction,
    names::{NodeName, PodRef},
    probe::{Outcome, ProbeResult, Transport},
    report::JsonReport,
    verdict::{CauseCode, Class, ClusterReport, Consequence, Finding, PeerContact, Scope, Severity, Verdict},
};

/// A golden snapshot, with more faults in it if asked for. A failing case is named by three numbers, not by megabytes of evidence.
fn case((index, seed, more): (usize, u64, bool)) -> (&'static str, Cluster, Dice) {
    let golden = &ALL[index];
    let mut cluster = golden.cluster().clone();
    let mut dice = Dice(seed);
    if more {
        change::mutate(&mut cluster, &mut dice);
    }
    (&golden.name, cluster, dice)
}

fn cases() -> impl Strategy<Value = (usize, u64, bool)> {
    (0..ALL.len(), any::<u64>(), any::<bool>())
}

fn bytes(report: &ClusterReport) -> String {
    serde_json::to_string_pretty(&JsonReport::new(report)).unwrap()
}

/// Every root of a report, wherever it stands.
fn roots(report: &ClusterReport) -> impl Iterator<Item = &Finding> {
    let nodes = report.nodes.iter().flat_map(|node| &node.causes);
    let pods = report.pods.iter().flat_map(|pod| &pod.causes);
    report.causes.iter().chain(nodes).chain(pods)
}

/// What a root claims, without the words in which it does.
type Claim = (
    CauseCode,
    Option<NodeName>,
    Option<NodeName>,
    Option<PodRef>,
    String,
    Option<String>,
    Option<String>,
);

fn claim(root: &Finding) -> Claim {
    let r = root.clone();
    (r.code, r.node, r.peer, r.pod, r.subject, r.hop, r.expected_next)
}

/// Everything a report says is there: roots, and what they explain.
fn said(report: &ClusterReport) -> BTreeSet<(CauseCode, Option<NodeName>, String)> {
    let mut out = BTreeSet::new();
    for root in roots(report) {
        out.insert((root.code, root.node.clone(), root.subject.clone()));
        for consequence in &root.consequences {
            if let Consequence::Cause { code, node, subject } = consequence {
                out.insert((*code, node.clone(), subject.clone()));
            }
        }
    }
    out
}

/// Whether a root was known before. What follows from packets may be told less exactly: fewer of them were seen. What is told of state
/// may not.
fn is_known(known: &BTreeSet<(CauseCode, Option<NodeName>, String)>, root: &Finding) -> bool {
    let cause = root.code.cause();
    let mut same = known.iter().filter(|(code, _, _)| *code == root.code);
    match (cause.class, cause.scope) {
        // It says that it cannot be told.
        _ if root.code == CauseCode::UnexplainedLoss => true,
        // With one witness less it is not told of a node what is still told of its way to the other.
        _ if root.code == CauseCode::PairCutOff => {
            let ends = [&root.node, &root.peer];
            same.next().is_some()
                || known
                    .iter()
                    .any(|(code, node, _)| *code == CauseCode::NodeCutOff && ends.contains(&node))
        }
        (_, Scope::Fabric) => same.next().is_some(),
        // Of nobody in particular is less exact, and not wrong.
        (Class::NotForwarded, _) => same.any(|(_, node, _)| root.node.is_none() || *node == root.node),
        _ => same.any(|(_, node, subject)| *node == root.node && *subject == root.subject),
    }
}

/// The first difference, so that a failing case can be read.
fn differs(one: &Judged, other: &Judged) -> Option<String> {
    for (name, report) in &one.reports {
        let (a, b) = (format!("{report:#?}"), format!("{:#?}", other.reports[name]));
        if let Some((x, y)) = a.lines().zip(b.lines()).find(|(x, y)| x != y) {
            return Some(format!("{name}: {x} / {y}"));
        }
    }
    let (a, b) = (bytes(&one.cluster), bytes(&other.cluster));
    let line = a.lines().zip(b.lines()).find(|(x, y)| x != y);
    line.map(|(x, y)| format!("cluster: {x} / {y}"))
        .or_else(|| (one != other).then(|| "length".to_owned()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_evidence_arrived_does_not_matter(of in cases()) {
        let (name, cluster, mut dice) = case(of);
        let mut shuffled = cluster.clone();
        change::shuffle(&mut shuffled, &mut dice);
        prop_assert_eq!(differs(&cluster.judge(), &shuffled.judge()), None, "{}", name);
    }

    #[test]
    fn records_that_arrive_twice_count_once(of in cases()) {
        let (name, cluster, mut dice) = case(of);
        let mut repeated = cluster.clone();
        change::repeat(&mut repeated, &mut dice);
        prop_assert_eq!(differs(&cluster.judge(), &repeated.judge()), None, "{}", name);
    }

    #[test]
    fn without_any_reason_for_a_drop_what_was_not_programmed_is_the_same(of in cases(), locations in any::<bool>()) {
        let (name, cluster, _) = case(of);
        let claims = |report: &ClusterReport| -> BTreeSet<Claim> {
            roots(report).filter(|r| matches!(r.code.cause().class, Class::NotProgrammed | Class::Datastore)).map(claim).collect()
        };
        let mut erased = cluster.clone();
        change::erase_reasons(&mut erased, locations);
        let (before, after) = (cluster.judge(), erased.judge());
        prop_assert_eq!(claims(&before.cluster), claims(&after.cluster), "{}", name);
    }

    #[test]
    fn a_gap_never_becomes_an_absence(of in cases(), gaps in 1..5) {
        let (name, cluster, mut dice) = case(of);
        let mut degraded = cluster.clone();
        let what: Vec<String> = (0..gaps).map(|_| change::degrade(&mut degraded, &mut dice)).collect();
        let (before, after) = (cluster.judge().cluster, degraded.judge().cluster);
        let known = said(&before);
        for root in roots(&after).filter(|r| r.severity == Severity::Error) {
            prop_assert!(is_known(&known, root), "{} with {:?}: {:?}", name, what, root);
        }
        for node in &before.nodes {
            let now = after.nodes.iter().find(|n| n.name == node.name).map(|n| n.verdict);
            prop_assert!(
                node.verdict != Verdict::NotForwarding || now != Some(Verdict::Forwarding),
                "{} with {:?}: {} is forwarding", name, what, node.name
            );
        }
    }

    #[test]
    fn judging_again_gives_the_same_bytes(of in cases()) {
        let (name, cluster, _) = case(of);
        let (one, other) = (cluster.judge(), cluster.judge());
        prop_assert_eq!(bytes(&one.cluster), bytes(&other.cluster), "{}", name);
        prop_assert_eq!(one, other);
    }
}

/// The healthy fabric, as it shows when the agent of `node-b` will not talk to the others.
fn without_the_agent_of_b(contact: &PeerContact, udp: &Outcome) -> Cluster {
    let mut cluster = named("healthy");
    let b = NodeName::from("node-b");
    cluster
        .nodes
        .insert(b.clone(), Evidence::unavailable("agent/node-b", "it was not to be had"));
    for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
        snapshot.contacts.insert(b.clone(), contact.clone());
        snapshot
            .remote
            .insert(b.clone(), Evidence::unavailable("agent/node-b", "it was not to be had"));
        for result in change::value(&mut snapshot.probes).into_iter().flatten() {
            if result.probe.to.node == b && result.probe.transport == Transport::Udp {
                result.outcome = udp.clone();
            }
        }
    }
    cluster
}

#[test]
fn an_agent_of_another_version_or_none_is_no_fault_of_forwarding() {
    let version = PeerContact::Refused {
        why: "it speaks protocol 2".to_owned(),
    };
    let refused = Outcome::Refused {
        reason: "version".to_owned(),
    };
    for (contact, udp) in [
        (&version, &refused),
        (&version, &Outcome::Lost),
        (&PeerContact::NoAgent, &Outcome::Lost),
    ] {
        let report = without_the_agent_of_b(contact, udp).judge().cluster;
        let errors: Vec<_> = roots(&report).filter(|r| r.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{contact:?} {udp:?}: {errors:?}");
        for node in &report.nodes {
            let expected = if node.name.as_str() == "node-b" {
                node.verdict
            } else {
                Verdict::Forwarding
            };
            assert_eq!(node.verdict, expected, "{contact:?} {udp:?}: {}", node.name);
            assert!(!matches!(node.verdict, Verdict::Degraded | Verdict::NotForwarding), "{}", node.name);
        }
        assert!(
            report.unknown.iter().any(|u| u.check.contains("node-b")),
            "nothing says that node-b was not asked: {:?}",
            report.unknown
        );
    }
}

#[test]
fn a_node_without_intent_does_not_hide_that_packets_to_it_are_lost() {
    let mut cluster = named("tunnel-device-down");
    let b = cluster.nodes.get_mut(&NodeName::from("node-b")).and_then(change::value).unwrap();
    b.intent = Evidence::unavailable("intent", "the API did not answer");
    let report = cluster.judge().cluster;
    // Why cannot be told without its intent; that it is, and where, can.
    let told: Vec<_> = roots(&report)
        .filter(|r| r.severity == Severity::Error)
        .map(|r| (r.code, r.hop.as_deref()))
        .collect();
    assert_eq!(told, [(CauseCode::UnexplainedLoss, Some("node-b/eth0/ingress"))]);
    let b = report.nodes.iter().find(|node| node.name.as_str() == "node-b").unwrap();
    assert_eq!(b.verdict, Verdict::NotForwarding);
}

/// The bad path between `node-a` and `node-b`, with those probes left out that `left_out` says.
fn bad_path_without(left_out: impl Fn(&ProbeResult) -> bool) -> Vec<(CauseCode, Option<NodeName>)> {
    let mut cluster = named("partial-loss");
    let mut gone = 0;
    for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
        let probes = change::value(&mut snapshot.probes).unwrap();
        let before = probes.len();
        probes.retain(|result| result.probe.from.node == result.probe.to.node || !left_out(result));
        gone += before - probes.len();
    }
    assert!(gone > 0, "nothing was left out");
    let report = cluster.judge().cluster;
    roots(&report)
        .filter(|root| root.severity == Severity::Error)
        .map(|root| (root.code, root.node.clone()))
        .collect()
}

#[test]
fn a_bad_path_is_no_underlay_that_drops_the_tunnel() {
    let expected = [(CauseCode::PartialLoss, Some(NodeName::from("node-a")))];
    // Every UDP port that was tried happened to take it, and ICMP and TCP did not.
    let udp_passed = |result: &ProbeResult| result.probe.transport == Transport::Udp && result.outcome.passed();
    assert_eq!(bad_path_without(udp_passed), expected);
    // Everything of the pairs of a host happened to take it; those of pods show that it is a path.
    let of_host_passed = |result: &ProbeResult| result.probe.from.pod.is_none() && result.outcome.passed();
    assert_eq!(bad_path_without(of_host_passed), expected);
}

/// A contradiction of the objects is an error of the cluster's, also where it names a node: packets lost by it count against no node, and
/// the whole is not well.
#[test]
fn a_contradiction_that_names_a_node_is_not_passed_over() {
    for lost in [false, true] {
        let mut cluster = named("healthy");
        let b = NodeName::from("node-b");
        for snapshot in cluster.nodes.values_mut().filter_map(change::value) {
            let intent = change::value(&mut snapshot.intent).unwrap();
            intent.contradictions.push(Contradiction {
                code: CauseCode::DuplicateTunnelAddress,
                node: Some(b.clone()),
                pods: Vec::new(),
                subject: "10.244.20.128".to_owned(),
                evidence: "nodes node-b and node-c have tunnel address 10.244.20.128".to_owned(),
            });
            let probes = change::value(&mut snapshot.probes).unwrap().iter_mut();
            for result in probes.filter(|r| lost && r.probe.from.node != r.probe.to.node && r.probe.to.node == b) {
                result.outcome = Outcome::Lost;
            }
        }
        let report = cluster.judge().cluster;
        let told: Vec<_> = roots(&report).map(|root| (root.code, root.severity)).collect();
        assert_eq!(told, [(CauseCode::DuplicateTunnelAddress, Severity::Error)], "{lost}");
        assert_eq!(report.verdict, Verdict::Degraded, "{lost}");
    }
}
