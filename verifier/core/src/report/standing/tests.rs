use super::*;
use crate::verdict::{CauseCode, FindingEvidence, NodeVerdict};
use alloc::{collections::BTreeMap, vec};

pub(super) fn healthy_claim() -> Claim {
    Claim {
        ready: Some(true),
        calico_node: Some("Running".to_string()),
        ..Claim::default()
    }
}

fn finding(code: CauseCode, node: Option<&str>, severity: Severity) -> Finding {
    Finding {
        code,
        node: node.map(NodeName::from),
        peer: None,
        pod: None,
        subject: "10.0.0.0/26".to_string(),
        hop: None,
        expected_next: None,
        severity,
        evidence: FindingEvidence::default(),
        transient: false,
        since: None,
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: BTreeMap::new(),
    }
}

fn cluster(verdict: Verdict, causes: Vec<Finding>) -> ClusterReport {
    ClusterReport {
        verdict,
        causes: Vec::new(),
        nodes: vec![NodeVerdict {
            name: "node-a".into(),
            claimed: healthy_claim(),
            verdict,
            causes,
            why: None,
        }],
        pods: Vec::new(),
        calico: (None, 90),
        loss: BTreeMap::new(),
        unknown: vec![UnknownCheck::new("node-b: routes", "no"), UnknownCheck::new("node-a: routes", "no")],
    }
}

fn standing(verdict: Verdict, causes: Vec<Finding>) -> Standing {
    let report = cluster(verdict, causes);
    Standing::of_cluster(&report, &"node-a".into(), &healthy_claim(), UnixNs(7), 0, "1").unwrap()
}

#[test]
fn what_contradicts_the_claim_is_said_first() {
    let bad = standing(
        Verdict::NotForwarding,
        vec![
            finding(CauseCode::FdbMissing, Some("node-a"), Severity::Warning),
            finding(CauseCode::RouteMissing, Some("node-b"), Severity::Error),
            finding(CauseCode::TunnelDeviceMissing, Some("node-a"), Severity::Error),
        ],
    );
    assert!(bad.contradicts_claim);
    assert!(
        bad.message
            .starts_with("node-a claims to be healthy (Ready, calico-node Running) and does not forward")
    );
    assert_eq!(bad.cause.as_deref(), Some("tunnel-device-missing"));
    let codes: Vec<&str> = bad.causes.iter().map(|cause| cause.code.as_str()).collect();
    assert_eq!(codes, ["tunnel-device-missing", "route-missing", "fdb-missing"]);
    assert_eq!((bad.forwarding.condition(), bad.reason()), ("False", "tunnel-device-missing"));
    assert_eq!(bad.unknown, ["node-a: routes: no"]);
}

#[test]
fn a_warning_is_no_cause_of_a_node_that_forwards() {
    let well = standing(
        Verdict::Forwarding,
        vec![finding(CauseCode::FdbMissing, Some("node-a"), Severity::Warning)],
    );
    assert_eq!((well.cause.as_deref(), well.reason(), well.causes.len()), (None, FORWARDING, 1));
    assert!(well.message.is_empty() && !well.condition_message().is_empty());
}

#[test]
fn a_condition_knows_no_degrees() {
    let words = |forwarding: Forwarding| (forwarding.as_str(), forwarding.condition(), Forwarding::parse(forwarding.as_str()));
    for forwarding in [Forwarding::True, Forwarding::Unknown, Forwarding::Degraded, Forwarding::False] {
        assert_eq!(words(forwarding).2, forwarding);
    }
    assert_eq!(Forwarding::Degraded.condition(), "False");
    assert_eq!(Forwarding::parse("anything"), Forwarding::Unknown);
}

#[test]
fn whatever_is_wrong_an_object_stays_small() {
    let mut report = cluster(Verdict::Degraded, Vec::new());
    report.unknown = (0..100)
        .map(|n| UnknownCheck::new(format!("node-a: check {n}"), "ä".repeat(4000)))
        .collect();
    report.pods = (0..100)
        .map(|n| PodReport {
            pod: PodRef::new("default", format!("pod-{n}")),
            node: "node-a".into(),
            ip: None,
            verdict: PodVerdict::Stale,
            causes: Vec::new(),
            controller: None,
            safe_to_delete: false,
            terminating: false,
            why: None,
        })
        .collect();
    let standing = Standing::of_cluster(&report, &"node-a".into(), &healthy_claim(), UnixNs(7), 0, "1").unwrap();
    assert_eq!(
        (standing.stale_count, standing.stale.len(), standing.unknown.len()),
        (100, LIST_MAX, LIST_MAX)
    );
    assert!(standing.unknown.iter().all(|line| line.len() <= MESSAGE_MAX + 3));
}

#[test]
fn when_it_was_judged_makes_no_difference() {
    let mut later = standing(Verdict::Forwarding, Vec::new());
    let key = later.key();
    later.judged_at = UnixNs(99);
    later.intent_age_seconds = 5;
    assert_eq!(later.key(), key);
    later.claimed = "not Ready".to_string();
    assert_ne!(later.key(), key);
}
