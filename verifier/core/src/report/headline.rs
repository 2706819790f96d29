//! The claim beside the fact. That the claim is healthy and the fact is not is the first thing that every output says.

use crate::{
    intent::Claim,
    names::NodeName,
    verdict::{ClusterReport, Verdict},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Whether the cluster says that a node is well, and it is not.
pub fn contradicts(claim: &Claim, verdict: Verdict) -> bool {
    claim.ready == Some(true) && matches!(verdict, Verdict::Degraded | Verdict::NotForwarding)
}

/// What the cluster claims of a node, in one line.
pub fn claim_words(c: &Claim) -> String {
    if *c == Claim::default() {
        // Nobody reported of this node: that is not the same as a node without a calico-node pod.
        return "not known".to_string();
    }
    let mut parts = Vec::new();
    match c.ready {
        Some(true) => parts.push("Ready".to_string()),
        Some(false) => parts.push("not Ready".to_string()),
        None => parts.push("readiness unknown".to_string()),
    }
    match c.ready_toggles {
        Some(1) => parts.push("Ready toggled once within the hour".to_string()),
        Some(n) if n > 1 => parts.push(format!("Ready toggled {n} times within the hour")),
        _ => {}
    }
    if let Some(reason) = &c.network_reason {
        parts.push(reason.clone());
    }
    match &c.calico_node {
        Some(phase) => parts.push(format!("calico-node {phase}")),
        None => parts.push("no calico-node pod".to_string()),
    }
    if let Some(n) = c.restarts {
        parts.push(format!("{n} restarts"));
    }
    if let Some(last) = &c.last_termination {
        parts.push(format!("last ended: {last}"));
    }
    if c.unschedulable {
        parts.push("cordoned".to_string());
    }
    parts.join(", ")
}

/// The sentence about one node; none where claim and fact agree.
pub fn headline_of(name: &NodeName, claim: &Claim, verdict: Verdict) -> Option<String> {
    let fact = match verdict {
        _ if !contradicts(claim, verdict) => return None,
        Verdict::NotForwarding => "does not forward pod traffic",
        _ => "forwards pod traffic only in part",
    };
    Some(format!("{name} claims to be healthy ({}) and {fact}.", claim_words(claim)))
}

/// The sentences about all nodes, in order of name.
pub fn headlines(report: &ClusterReport) -> Vec<String> {
    let nodes = report.nodes.iter();
    nodes.filter_map(|n| headline_of(&n.name, &n.claimed, n.verdict)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_healthy_claim_is_contradicted() {
        let mut claim = Claim {
            ready: Some(true),
            calico_node: Some("Running".to_string()),
            ..Claim::default()
        };
        let name = NodeName::from("node-b");
        assert_eq!(headline_of(&name, &claim, Verdict::Forwarding), None);
        assert_eq!(headline_of(&name, &claim, Verdict::Unknown), None);
        let said = headline_of(&name, &claim, Verdict::NotForwarding);
        assert_eq!(
            said.as_deref(),
            Some("node-b claims to be healthy (Ready, calico-node Running) and does not forward pod traffic.")
        );
        claim.ready = Some(false);
        assert_eq!(headline_of(&name, &claim, Verdict::NotForwarding), None);
    }

    #[test]
    fn a_claim_says_how_steady_it_is() {
        let claim = Claim {
            ready: Some(true),
            ready_toggles: Some(3),
            network_reason: Some("CalicoIsUp".to_string()),
            calico_node: Some("Running".to_string()),
            restarts: Some(7),
            last_termination: Some("OOMKilled, exit code 137, at 2026-11-28T10:00:00.000Z".to_string()),
            ..Claim::default()
        };
        assert_eq!(
            claim_words(&claim),
            "Ready, Ready toggled 3 times within the hour, CalicoIsUp, calico-node Running, 7 restarts, last ended: OOMKilled, exit code \
             137, at 2026-11-28T10:00:00.000Z"
        );
    }
}
