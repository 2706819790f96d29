//! A node that nobody reaches by any way. It takes three nodes to say so: with two, only the pair can be named.

use super::Reports;
use crate::{
    names::NodeName,
    verdict::{CauseCode, Finding, FindingEvidence, NodeReport, PeerContact, Severity},
};
use alloc::{collections::BTreeSet, format, string::ToString, vec::Vec};

/// Whether `report`'s node has lost `other` altogether: no agent, no answer, no probe.
fn lost(report: &NodeReport, other: &NodeName) -> bool {
    let silent = matches!(report.contacts.get(other), Some(PeerContact::Silent { .. }));
    let dead = report.pairs.get(other).is_none_or(|t| super::passed(t) == 0);
    let tried = report.pairs.get(other).is_some_and(|t| t.failed + t.host_failed > 0);
    silent && dead && tried
}

/// Nodes that are cut off.
pub(super) fn cut_off(reports: &Reports<'_>) -> Vec<Finding> {
    let all: BTreeSet<&NodeName> = reports.values().flat_map(|r| &r.nodes).collect();
    let mut out = Vec::new();
    for node in &all {
        let witnesses: Vec<&&NodeReport> = reports.values().filter(|r| r.node != **node).collect();
        if witnesses.len() < 2 || !witnesses.iter().all(|r| lost(r, node)) {
            continue;
        }
        // The witnesses reach each other: otherwise it is they, or everybody, who are cut off.
        let connected = witnesses.iter().any(|r| {
            witnesses
                .iter()
                .any(|o| o.node != r.node && r.pairs.get(&o.node).is_some_and(|t| super::passed(t) > 0))
        });
        if !connected {
            continue;
        }
        let names: Vec<_> = witnesses.iter().map(|r| r.node.to_string()).collect();
        out.push(Finding {
            code: CauseCode::NodeCutOff,
            node: Some((*node).clone()),
            peer: None,
            pod: None,
            subject: node.to_string(),
            hop: None,
            expected_next: None,
            severity: Severity::Error,
            evidence: FindingEvidence {
                intent: Some(format!("{node} is reachable from {}", names.join(", "))),
                programmed: None,
                observed: Some(format!(
                    "neither agent nor host of {node} answers {}, and every probe to it dies, while they reach each other",
                    names.join(" or ")
                )),
                ..FindingEvidence::default()
            },
            transient: false,
            since: None,
            consequences: Vec::new(),
            owner: None,
            recognised_by: None,
            values: Default::default(),
        });
    }
    out
}
