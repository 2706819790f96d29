//! What is said where two programs write one route, and where a packet against intent was seen at both of its ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;

use verifier_core::{
    evidence::{Evidence, Gap},
    names::UnixNs,
    programmed::{Change, ChangeKind, ChangedObject, NodeState, Route, RouteKind, TABLE_MAIN},
    verdict::{CauseCode, Finding, FindingEvidence, NodeSnapshot, Policy, judge_node, roots},
};

const CP: &str = "kind-control-plane";
const BLOCK: &str = "10.244.110.128/26";

fn nothing<T>() -> Evidence<Vec<T>> {
    Evidence::complete(Vec::new())
}

fn state(journal: Vec<Change>) -> NodeState {
    NodeState {
        taken_at: UnixNs(100),
        links: nothing(),
        addresses: nothing(),
        routes: nothing(),
        rules: nothing(),
        neighbors: nothing(),
        fdb: nothing(),
        netconf: nothing(),
        conntrack: Evidence::Unavailable {
            gap: Gap::new("conntrack", "not asked"),
        },
        filters: nothing(),
        base_chains: nothing(),
        hooks: nothing(),
        offloads: None,
        pods: BTreeMap::new(),
        journal,
        journal_from: UnixNs(1),
    }
}

fn written(protocol: u8, at: u64) -> Change {
    Change {
        at: UnixNs(at),
        change: ChangeKind::Added,
        what: ChangedObject::Route(Route {
            table: TABLE_MAIN,
            dst: BLOCK.parse().unwrap(),
            src: None,
            tos: 0,
            priority: 0,
            kind: RouteKind::Unicast,
            next_hops: Vec::new(),
            prefsrc: None,
            protocol,
            scope: 0,
            mtu: None,
        }),
    }
}

/// What the node says of who writes its routes.
fn owners(journal: Vec<Change>) -> Vec<Finding> {
    let intent = support::cluster(&support::worked_example("Always"))
        .node_intent(&CP.into())
        .unwrap();
    let unavailable = || Gap::new("test", "not looked at");
    let snapshot = NodeSnapshot {
        schema: "dataplane-verifier/snapshot/v1".into(),
        version: "0".into(),
        node: CP.into(),
        taken_at: UnixNs(100),
        agent_started_at: UnixNs(0),
        intent: Evidence::complete(intent),
        programmed: Evidence::complete(state(journal)),
        observed: Evidence::Unavailable { gap: unavailable() },
        probes: Evidence::Unavailable { gap: unavailable() },
        remote: BTreeMap::new(),
        contacts: BTreeMap::new(),
        host: None,
    };
    let report = judge_node(&snapshot, &Policy::default());
    report
        .findings
        .into_iter()
        .filter(|f| f.code == CauseCode::RouteOwnerConflict)
        .collect()
}

#[test]
fn a_route_that_two_programs_write_in_turn_is_named_from_the_journal() {
    let found = owners(vec![written(12, 10), written(3, 20), written(12, 30), written(3, 40)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].subject.as_str(), found[0].since), (BLOCK, Some(UnixNs(40))));
    assert_eq!(
        found[0].evidence.programmed.as_deref(),
        Some("the journal has the route to 10.244.110.128/26 written by proto boot 2 times and by proto bird 2 times")
    );
    // Taken over once, as on an upgrade, and one program that writes often: nobody's fault.
    assert_eq!(owners(vec![written(12, 10), written(12, 20), written(3, 30)]), []);
    assert_eq!(owners(vec![written(3, 10), written(3, 20), written(3, 30)]), []);
}

fn seen(node: &str, peer: &str, subject: &str) -> Finding {
    Finding {
        code: CauseCode::UnexpectedEncapsulation,
        node: Some(node.into()),
        peer: Some(peer.into()),
        pod: None,
        subject: subject.to_owned(),
        hop: None,
        expected_next: None,
        severity: CauseCode::UnexpectedEncapsulation.cause().severity,
        evidence: FindingEvidence::default(),
        transient: false,
        since: None,
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: Default::default(),
    }
}

#[test]
fn who_sends_is_to_blame_and_not_who_receives() {
    let both = roots(vec![seen("b", "a", "in, other end a"), seen("a", "b", "out, other end b")]);
    assert_eq!(both.len(), 1, "{both:#?}");
    assert_eq!((both[0].node.as_ref().unwrap().as_str(), both[0].consequences.len()), ("a", 1));
    // What a third node sends is another matter.
    assert_eq!(
        roots(vec![seen("b", "a", "in, other end a"), seen("c", "b", "out, other end b")]).len(),
        2
    );
}
