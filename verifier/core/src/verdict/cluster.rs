//! Second step: all nodes' reports together.

use super::{
    CauseCode, ClusterReport, Finding, NodeReport, NodeVerdict, PodReport, PodVerdict, Policy, Scope, Severity, UnknownCheck, Verdict,
    settle::{self, Reports, Settled},
};
use crate::{evidence::Evidence, intent::Claim, names::NodeName};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Judges the cluster from its nodes' reports. The keys are the expected set, the Node objects: a node without a report stands in it as
/// unavailable, never as an absent row. Nodes that a report's intent knows and the keys do not are added as unknown.
pub fn judge_cluster(reports: &BTreeMap<NodeName, Evidence<NodeReport>>, _policy: &Policy) -> ClusterReport {
    let present: Reports<'_> = reports.iter().filter_map(|(n, e)| e.seen().map(|r| (n.clone(), r))).collect();
    let settled = settle::settle(&present);
    let mut names: BTreeSet<NodeName> = reports.keys().cloned().collect();
    names.extend(present.values().flat_map(|r| r.nodes.iter().cloned()));
    let nodes: Vec<NodeVerdict> = names.iter().map(|name| node(name, reports, &present, &settled)).collect();
    let causes: Vec<Finding> = settled
        .roots
        .iter()
        .filter(|r| !stands_under_a_node(r, &names) && r.pod.is_none())
        .cloned()
        .collect();
    let pods = pods(&present, &settled);
    let mut verdict = nodes.iter().map(|n| n.verdict).max().unwrap_or(Verdict::Unknown);
    // What is everybody's counts against no node, also where it stands under the one that it names.
    let shared = settled
        .roots
        .iter()
        .filter(|r| r.pod.is_none() && r.code.cause().scope == Scope::Cluster);
    if causes.iter().chain(shared).any(|c| c.severity == Severity::Error) {
        verdict = verdict.max(Verdict::Degraded);
    }
    let mut unknown: BTreeSet<UnknownCheck> = settled.unknown.iter().cloned().collect();
    for (name, evidence) in reports {
        for gap in evidence.gaps() {
            unknown.insert(UnknownCheck::new(format!("{name}: report"), format!("{}: {}", gap.source, gap.why)));
        }
    }
    for report in present.values() {
        unknown.extend(
            report
                .unknown
                .iter()
                .map(|u| UnknownCheck::new(format!("{}: {}", report.node, u.check), u.why.clone())),
        );
    }
    ClusterReport {
        verdict,
        causes,
        nodes,
        pods,
        calico: present.values().next().map_or((None, 90), |r| r.calico),
        loss: present.iter().map(|(n, r)| (n.clone(), r.loss.clone())).collect(),
        unknown: unknown.into_iter().collect(),
    }
}

/// Causes of the fabric are nobody's; a pod's stand under the pod.
fn stands_under_a_node(root: &Finding, names: &BTreeSet<NodeName>) -> bool {
    root.code.cause().scope != Scope::Fabric && root.node.as_ref().is_some_and(|n| names.contains(n))
}

fn node(name: &NodeName, reports: &BTreeMap<NodeName, Evidence<NodeReport>>, present: &Reports<'_>, settled: &Settled) -> NodeVerdict {
    let verdict = settle::verdict_of(name, present, settled);
    let why = match (verdict, reports.get(name)) {
        (Verdict::Unknown, Some(Evidence::Unavailable { gap })) => Some(format!("{}: {}", gap.source, gap.why)),
        (Verdict::Unknown, Some(_)) => Some("no probe between it and a peer gave an answer that counts".to_string()),
        (Verdict::Unknown, None) => Some("no report: nobody asked its agent".to_string()),
        _ => None,
    };
    NodeVerdict {
        name: name.clone(),
        claimed: present.get(name).map_or_else(Claim::default, |r| r.claim.clone()),
        verdict,
        causes: settled
            .roots
            .iter()
            .filter(|r| r.node.as_ref() == Some(name) && r.pod.is_none() && r.code.cause().scope != Scope::Fabric)
            .cloned()
            .collect(),
        why,
    }
}

/// Pods as their nodes see them, corrected by what all together know.
fn pods(present: &Reports<'_>, settled: &Settled) -> Vec<PodReport> {
    let mut out: Vec<PodReport> = Vec::new();
    for pod in present.values().flat_map(|r| &r.pods) {
        let mut pod = pod.clone();
        let own: Vec<Finding> = settled.roots.iter().filter(|r| r.pod.as_ref() == Some(&pod.pod)).cloned().collect();
        let stale = own.iter().any(|f| f.severity == Severity::Error);
        let denied = settled.policy_blocked.get(&pod.pod);
        let shared = settled
            .roots
            .iter()
            .find(|r| r.code == CauseCode::DuplicatePodIp && pod.ip.is_some_and(|ip| ip.to_string() == r.subject));
        pod.causes = own;
        if stale {
            (pod.verdict, pod.why) = (PodVerdict::Stale, None);
        } else if let Some(shared) = shared {
            // Of two pods with one address the one whose own network deviates is the stale one; the other may well be reached.
            pod.causes.push(shared.clone());
            if pod.verdict != PodVerdict::Stale && works(present, &pod) {
                (pod.verdict, pod.why) = (PodVerdict::Fresh, None);
            } else if pod.verdict != PodVerdict::Stale {
                let why = format!("its address is another pod's too: {}", shared.code);
                (pod.verdict, pod.why) = (PodVerdict::Unknown, Some(why));
            }
        } else if let Some(finding) = denied {
            (pod.verdict, pod.why) = (PodVerdict::PolicyBlocked, None);
            pod.causes.push(finding.clone());
        } else if pod.verdict == PodVerdict::Stale && !works(present, &pod) {
            // Its own node took for its fault what is somebody else's.
            (pod.verdict, pod.why) = (PodVerdict::Unknown, Some(elsewhere(settled, &pod)));
        } else if settled.suffering.contains(&pod.pod) && !works(present, &pod) {
            (pod.verdict, pod.why) = (PodVerdict::Unknown, Some(elsewhere(settled, &pod)));
        } else if matches!(pod.verdict, PodVerdict::Unknown | PodVerdict::Stale) && works(present, &pod) {
            (pod.verdict, pod.why) = (PodVerdict::Fresh, None);
        }
        out.push(pod);
    }
    out.sort_by(|a, b| (&a.pod, &a.node).cmp(&(&b.pod, &b.node)));
    out
}

/// Whether the pod itself was proven to answer: by its own node's host, or by a peer.
fn works(present: &Reports<'_>, pod: &PodReport) -> bool {
    let Some(ip) = pod.ip else { return false };
    !pod.terminating && present.values().any(|r| r.answering.contains(&ip))
}

fn elsewhere(settled: &Settled, pod: &PodReport) -> String {
    let root = settled
        .roots
        .iter()
        .find(|r| r.node.as_ref() == Some(&pod.node) && r.pod.is_none() && r.severity == Severity::Error);
    match root {
        Some(root) => format!("its node does not forward: {}", root.code),
        None => "some of its probes fail, and the cause is not its own".to_string(),
    }
}
