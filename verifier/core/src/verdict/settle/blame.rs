//! The verdict of a node: only what it is to blame for, or what nobody is, counts against it.

use super::{Reports, Settled, passed};
use crate::{
    names::NodeName,
    verdict::{CauseCode, Scope, Severity, Verdict},
};
use alloc::collections::BTreeSet;

/// The verdict of one node.
pub(in crate::verdict) fn verdict_of(node: &NodeName, reports: &Reports<'_>, settled: &Settled) -> Verdict {
    let own = |index: usize| {
        settled
            .roots
            .get(index)
            .is_some_and(|r| r.node.as_ref() == Some(node) && !matches!(r.code.cause().scope, Scope::Fabric | Scope::Cluster))
    };
    if settled
        .roots
        .iter()
        .any(|r| r.code == CauseCode::NodeCutOff && r.node.as_ref() == Some(node))
    {
        return Verdict::NotForwarding;
    }
    let Some(report) = reports.get(node) else { return Verdict::Unknown };
    // Peers with whom something fails for which this node is to blame, by direction of the probe.
    let mut outbound: BTreeSet<&NodeName> = BTreeSet::new();
    let mut inbound: BTreeSet<&NodeName> = BTreeSet::new();
    let mut nobodys = false;
    for (from, to, root) in &settled.blamed {
        if from != node && to != node {
            continue;
        }
        match root {
            Some(index) if own(*index) => {
                let pods_own = settled.roots.get(*index).is_some_and(|r| r.code.cause().scope == Scope::Pod);
                if from != to && !pods_own {
                    if from == node {
                        outbound.insert(to)
                    } else {
                        inbound.insert(from)
                    };
                }
            }
            // Another node's fault, a pod's or the datastore's does not count; the fabric's and the unexplained do, for both ends.
            Some(index) => {
                nobodys |= settled
                    .roots
                    .get(*index)
                    .is_some_and(|r| r.code.cause().scope == Scope::Fabric || (r.code == CauseCode::UnexplainedLoss && r.node.is_none()));
            }
            None => {}
        }
    }
    let dead_out = |peer: &NodeName| report.pairs.get(peer).is_some_and(|t| t.passed == 0 && t.failed > 0);
    let dead_in = |peer: &NodeName| {
        reports
            .get(peer)
            .and_then(|r| r.pairs.get(node))
            .is_some_and(|t| t.passed == 0 && t.failed > 0)
    };
    let tried_out: BTreeSet<&NodeName> = report
        .pairs
        .iter()
        .filter(|(_, t)| t.passed + t.failed > 0)
        .map(|(n, _)| n)
        .collect();
    let tried_in: BTreeSet<&NodeName> = reports
        .values()
        .filter(|r| r.node != *node && r.pairs.get(node).is_some_and(|t| t.passed + t.failed > 0))
        .map(|r| &r.node)
        .collect();
    // One dead peer is not all of them, where there are others that nothing was learned of.
    let others = report.host_ips.keys().filter(|other| *other != node).count();
    let enough = |tried: &BTreeSet<&NodeName>| !tried.is_empty() && tried.len() >= others.min(2);
    let all_out = enough(&tried_out) && tried_out.iter().all(|p| dead_out(p) && outbound.contains(*p));
    let all_in = enough(&tried_in) && tried_in.iter().all(|p| dead_in(p) && inbound.contains(*p));
    if all_out || all_in {
        return Verdict::NotForwarding;
    }
    let guilty = settled.roots.iter().any(|r| {
        let dataplane = match r.code.cause().scope {
            Scope::Node | Scope::Pair => true,
            // What is wrong with a machine counts where something of the dataplane follows from it.
            Scope::Host => !r.consequences.is_empty(),
            Scope::Pod | Scope::Fabric | Scope::Cluster => false,
        };
        r.node.as_ref() == Some(node) && r.severity == Severity::Error && dataplane
    });
    if guilty || nobodys || !outbound.is_empty() || !inbound.is_empty() {
        return Verdict::Degraded;
    }
    let works = report.pairs.values().any(|t| passed(t) > 0) || reports.values().any(|r| r.pairs.get(node).is_some_and(|t| passed(t) > 0));
    if works { Verdict::Forwarding } else { Verdict::Unknown }
}
