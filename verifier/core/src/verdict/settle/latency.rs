//! Round trips that take long: one cause, however many pairs of nodes it hits; and how much a lossy network loses, in words.

use super::{Reports, network::across};
use crate::{
    names::NodeName,
    verdict::{CauseCode, Finding, FindingEvidence, Share, Slow, Symptom},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};

/// The cause, if any node has peers that answer late.
pub(super) fn latency(reports: &Reports<'_>) -> Option<Finding> {
    let found: BTreeMap<(NodeName, NodeName), Slow> = reports
        .iter()
        .flat_map(|(node, report)| report.slow.iter().map(|(peer, slow)| ((node.clone(), peer.clone()), *slow)))
        .collect();
    let worst = found.values().max()?;
    let edges: BTreeSet<(NodeName, NodeName)> = found.keys().cloned().collect();
    let pairs: BTreeSet<(&NodeName, &NodeName)> = edges.iter().map(|(a, b)| if a < b { (a, b) } else { (b, a) }).collect();
    let (node, peer, between) = match pairs.first() {
        Some((a, b)) if pairs.len() == 1 => (Some((*a).clone()), Some((*b).clone()), format!("between {a} and {b}")),
        _ => (None, None, across(reports, &edges, &pairs)),
    };
    let code = CauseCode::LatencyDegraded;
    Some(Finding {
        code,
        node,
        peer,
        pod: None,
        subject: format!("nine in ten round trips take {} ms or more; {between}", worst.most_us / 1_000),
        hop: None,
        expected_next: None,
        severity: code.cause().severity,
        evidence: FindingEvidence {
            observed: Some(format!(
                "nine in ten of {} small probes took {} or more, half of those within the node that sent them {}",
                worst.probes,
                milliseconds(worst.most_us),
                milliseconds(worst.within_us)
            )),
            ..FindingEvidence::default()
        },
        transient: false,
        since: None,
        consequences: Default::default(),
        owner: None,
        recognised_by: None,
        values: Default::default(),
    })
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

/// `23 of 96 probes (24 %), whichever they are; between node-a and node-b`.
pub(super) fn lossy_text(symptoms: &[&Symptom], between: &str) -> String {
    // Every symptom of one direction has the same share.
    let shares: BTreeMap<(&NodeName, &NodeName), Share> = symptoms
        .iter()
        .filter_map(|s| Some(((&s.from.node, &s.to.node), s.lossy?)))
        .collect();
    let (lost, of) = shares.values().fold((0, 0), |(lost, of), share| (lost + share.lost, of + share.of));
    let percent = (lost * 100).checked_div(of).unwrap_or(0);
    format!("{lost} of {of} probes ({percent} %), whichever they are; {between}")
}
