//! Roots and consequences among findings, by the `explains` columns of the cause table.

use super::family::only_ipv6;
use crate::{
    names::NodeName,
    probe::PairKind,
    verdict::{CauseCode, Class, Consequence, Finding, Scope, Severity, Symptom, table},
};
use alloc::{string::ToString, vec::Vec};

/// Splits findings into roots and what they explain; the latter stand under their root as consequences.
pub(in crate::verdict) fn absorb(mut all: Vec<Finding>) -> Vec<Finding> {
    all.sort();
    all.dedup();
    let parents: Vec<Option<usize>> = all
        .iter()
        .enumerate()
        .map(|(i, finding)| {
            all.iter()
                .enumerate()
                .filter(|(j, root)| *j != i && explains(root, finding))
                .min_by_key(|(j, root)| (rank(root.code), *j))
                .map(|(j, _)| j)
        })
        .collect();
    let root_of = |start: usize| {
        let mut at = start;
        // The explains graph has no cycle on one node; across nodes the number of steps bounds it.
        for _ in 0..parents.len() {
            match parents.get(at).copied().flatten() {
                Some(next) => at = next,
                None => return at,
            }
        }
        at
    };
    let mut consequences: Vec<(usize, Consequence)> = Vec::new();
    let mut worst: Vec<(usize, Severity)> = Vec::new();
    for (i, finding) in all.iter().enumerate() {
        let root = root_of(i);
        if root != i {
            worst.push((root, finding.severity));
            consequences.push((
                root,
                Consequence::Cause {
                    code: finding.code,
                    node: finding.node.clone(),
                    subject: finding.subject.clone(),
                },
            ));
        }
    }
    let mut roots = Vec::new();
    for (i, mut finding) in all.into_iter().enumerate() {
        if root_of(i) != i {
            continue;
        }
        finding
            .consequences
            .extend(consequences.iter().filter(|(r, _)| *r == i).map(|(_, c)| c.clone()));
        finding.consequences.sort();
        finding.consequences.dedup();
        if finding.code.cause().scope == Scope::Host {
            // What a machine merely risked has happened.
            let happened = worst.iter().filter(|(r, _)| *r == i).map(|(_, severity)| *severity);
            finding.severity = happened.fold(finding.severity, Severity::max);
        }
        roots.push(finding);
    }
    roots
}

/// Datastore causes come first, then the order of the table, in which devices stand before routes.
fn rank(code: CauseCode) -> (bool, usize) {
    let cause = code.cause();
    (
        cause.class != Class::Datastore,
        table::all().position(|c| c.code == code).unwrap_or(usize::MAX),
    )
}

const fn seen_by_conformance(code: CauseCode) -> bool {
    matches!(
        code,
        CauseCode::WrongOwnerSeen
            | CauseCode::SpoofedSourceSeen
            | CauseCode::VniMismatchSeen
            | CauseCode::UnencapsulatedLeak
            | CauseCode::UnexpectedEncapsulation
    )
}

/// Whether one finding follows from another.
fn explains(root: &Finding, finding: &Finding) -> bool {
    let same_node = root.node.is_none() || finding.node.is_none() || root.node == finding.node;
    if root.code == finding.code {
        return sent_and_received(root, finding);
    }
    if let (Some(root), Some(finding)) = (only_ipv6(root), only_ipv6(finding))
        && root != finding
    {
        return false;
    }
    let cause = root.code.cause();
    let listed = if same_node { cause.explains } else { cause.explains_at_peers };
    let listed = listed.contains(&finding.code) || (cause.class == Class::Datastore && cause.explains_at_peers.contains(&finding.code));
    listed && related(root, finding)
}

/// What a peer receives against intent is what this node was seen to send.
fn sent_and_received(root: &Finding, finding: &Finding) -> bool {
    seen_by_conformance(root.code)
        && root.subject.starts_with("out")
        && finding.subject.starts_with("in")
        && root.node.is_some()
        && root.node == finding.peer
        && root.peer == finding.node
}

/// Whether two findings are about the same thing, the table having said that the one can follow from the other.
fn related(root: &Finding, finding: &Finding) -> bool {
    if seen_by_conformance(finding.code) {
        return true;
    }
    let cause = root.code.cause();
    match (cause.class, cause.scope) {
        (Class::Datastore, _) => match root.code {
            CauseCode::DuplicatePodIp | CauseCode::BlockTwoOwners => mentions(finding, &root.subject),
            // Whoever is not bound to one node is everybody's.
            CauseCode::RouteOwnerConflict => root.node.is_none() || root.node == finding.node || root.node == finding.peer,
            CauseCode::TunnelAddressMissing => root.node == finding.node || (root.node.is_some() && root.node == finding.peer),
            _ => concerns(root, finding.node.as_ref()) || concerns(root, finding.peer.as_ref()),
        },
        (_, Scope::Pod) => root.pod == finding.pod,
        (_, Scope::Pair) => root.peer == finding.peer,
        // A tunnel device takes with it what names it; forwarding takes the pods' gateways.
        (_, Scope::Node) => finding.pod.is_some() || finding.subject == root.subject || mentions(finding, &root.subject),
        (_, Scope::Host) => host_related(root, finding),
        (_, Scope::Fabric | Scope::Cluster) => true,
    }
}

/// Whether a machine's cause and what may follow from it are about the same thing.
fn host_related(root: &Finding, finding: &Finding) -> bool {
    match root.code {
        // A missing module takes with it what is made of it, and nothing else.
        CauseCode::KernelModuleMissing | CauseCode::KernelModuleBlocked | CauseCode::KernelLacksSupport => {
            let about = |text: &str| text.to_ascii_lowercase().contains(root.subject.as_str());
            about(&finding.subject) || finding.evidence.intent.as_deref().is_some_and(about)
        }
        _ => true,
    }
}

/// A consequence by which a whole node, or its way to a peer, loses packets.
fn loses_packets(consequence: &Consequence) -> bool {
    matches!(consequence, Consequence::Cause { code, .. }
        if matches!(code.cause().scope, Scope::Node | Scope::Pair) && !seen_by_conformance(*code))
}

fn mentions(finding: &Finding, text: &str) -> bool {
    finding.subject.contains(text) || finding.evidence.intent.as_deref().is_some_and(|e| e.contains(text))
}

fn concerns(root: &Finding, node: Option<&NodeName>) -> bool {
    node.is_some_and(|n| root.node.as_ref() == Some(n) || root.evidence.intent.as_deref().is_some_and(|e| e.contains(n.as_str())))
}

/// Whether a root explains failing probes.
pub(super) fn explains_symptom(root: &Finding, symptom: &Symptom) -> bool {
    if seen_by_conformance(root.code) || root.severity != Severity::Error {
        return false;
    }
    // Packets of one family do not suffer from what is wrong with the other.
    if only_ipv6(root).is_some_and(|v6| v6 != symptom.to.ip.is_ipv6()) {
        return false;
    }
    let (a, b) = (&symptom.from.node, &symptom.to.node);
    let touches = |n: Option<&NodeName>| n.is_some_and(|n| n == a || n == b);
    match root.code {
        CauseCode::DuplicatePodIp => [symptom.from.ip, symptom.to.ip].iter().any(|ip| ip.to_string() == root.subject),
        CauseCode::BlockTwoOwners => match root.subject.parse::<ipnet::IpNet>() {
            Ok(block) => block.contains(&symptom.from.ip) || block.contains(&symptom.to.ip),
            Err(_) => false,
        },
        CauseCode::DuplicateTunnelAddress | CauseCode::DuplicateNodeAddress => concerns(root, Some(a)) || concerns(root, Some(b)),
        // Only the host's own packets carry the tunnel address; and a host whose address another node took is refused there as a martian.
        CauseCode::TunnelAddressWrong => symptom.pair == PairKind::HostToRemotePod && touches(root.node.as_ref()),
        // Without forwarding nobody answers for the pods' gateway either: once that entry is cold a pod cannot answer its own host.
        CauseCode::IpForwardDisabled => touches(root.node.as_ref()),
        // What passes between a host and its own pods is tracked too.
        CauseCode::ConntrackFull => touches(root.node.as_ref()),
        // Pod traffic that passes is what this one is about.
        CauseCode::SourceRewritten => false,
        CauseCode::RpFilterDrop => a != b && touches(root.node.as_ref()) && root.peer.as_ref().is_none_or(|p| touches(Some(p))),
        _ => match root.code.cause().scope {
            Scope::Pod => root.pod.is_some() && (root.pod == symptom.from.pod || root.pod == symptom.to.pod),
            Scope::Node => a != b && touches(root.node.as_ref()),
            Scope::Pair | Scope::Fabric => a != b && touches(root.node.as_ref()) && root.peer.as_ref().is_none_or(|p| touches(Some(p))),
            Scope::Cluster => touches(root.node.as_ref()),
            // A machine's cause says nothing about packets: what follows from it does.
            Scope::Host => a != b && touches(root.node.as_ref()) && root.consequences.iter().any(loses_packets),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::FindingEvidence;
    use alloc::string::String;
    use proptest::prelude::*;

    /// Any cause of the table, on any of three nodes, about any of a few things.
    fn finding() -> impl Strategy<Value = Finding> {
        let node = || proptest::option::of(prop_oneof![Just("node-a"), Just("node-b"), Just("node-c")]);
        let subject = prop_oneof![Just("vxlan.calico"), Just("10.244.1.0/26"), Just("10.244.1.7"), Just("vxlan")];
        (0..table::all().count(), node(), node(), subject, any::<bool>()).prop_map(|(code, node, peer, subject, error)| {
            let cause = table::all().nth(code).unwrap();
            Finding {
                code: cause.code,
                node: node.map(NodeName::from),
                peer: peer.map(NodeName::from),
                pod: None,
                subject: String::from(subject),
                hop: None,
                expected_next: None,
                severity: if error { Severity::Error } else { Severity::Warning },
                evidence: FindingEvidence {
                    intent: Some(String::from("vxlan.calico leads to 10.244.1.0/26 of node-b")),
                    ..FindingEvidence::default()
                },
                transient: false,
                since: None,
                consequences: Vec::new(),
                owner: None,
                recognised_by: None,
                values: Default::default(),
            }
        })
    }

    proptest! {
        #[test]
        fn absorbing_again_changes_nothing_and_loses_nothing(found in proptest::collection::vec(finding(), 0..12)) {
            let once = absorb(found.clone());
            prop_assert_eq!(&absorb(once.clone()), &once);
            // Whatever was found is a root or stands under one.
            for finding in &found {
                let told = once.iter().any(|root| {
                    let same = |code: CauseCode, node: &Option<NodeName>, subject: &str| {
                        code == finding.code && *node == finding.node && subject == finding.subject
                    };
                    same(root.code, &root.node, &root.subject)
                        || root.consequences.iter().any(|c| matches!(c, Consequence::Cause { code, node, subject } if same(*code, node, subject)))
                });
                prop_assert!(told, "{:?} is gone", finding.code);
            }
        }

        #[test]
        fn the_order_of_findings_and_their_repetition_do_not_matter(found in proptest::collection::vec(finding(), 0..12)) {
            let mut other: Vec<Finding> = found.iter().rev().chain(&found).cloned().collect();
            other.rotate_left(found.len() / 2);
            prop_assert_eq!(absorb(other), absorb(found));
        }
    }
}
