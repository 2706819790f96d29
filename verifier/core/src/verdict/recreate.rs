//! Which stale pods may be made anew, and what a person must do about the others. Pure: reports in, a list out.
//!
//! A pod is taken away from somebody who runs it; so every doubt speaks against it. It must be stale in every sample, for a reason that a new
//! sandbox cures, on a node that forwards, and somebody must be there who makes a new one.

use super::{CauseCode, ClusterReport, PodReport, PodVerdict, Severity, Verdict};
use crate::names::PodRef;
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

mod schedule;

pub use schedule::{Answer, Limits, Outcome, Recreations, Step};

/// What is to be done about a stale pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Evict it: its controller makes a new one.
    Recreate,
    /// Not now: it may still be cleared by itself, or was not stale each time.
    Wait {
        /// Why.
        why: String,
    },
    /// A person must decide.
    ByHand {
        /// Why.
        why: String,
    },
}

/// A stale pod and what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The pod as the last sample has it.
    pub report: PodReport,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
}

/// The plan for every pod that is stale in the last of the samples, in order of name. The samples are whole rounds, oldest first; with fewer
/// than two nothing is recreated.
pub fn plan(samples: &[ClusterReport], static_pods: &BTreeSet<PodRef>) -> Vec<Planned> {
    let Some((last, before)) = samples.split_last() else {
        return Vec::new();
    };
    last.pods
        .iter()
        .filter(|pod| pod.verdict == PodVerdict::Stale)
        .map(|pod| Planned {
            report: pod.clone(),
            action: action(pod, last, before, static_pods.contains(&pod.pod)),
        })
        .collect()
}

fn action(pod: &PodReport, last: &ClusterReport, before: &[ClusterReport], is_static: bool) -> Action {
    let by_hand = |why: &str| Action::ByHand { why: why.to_string() };
    if is_static {
        return by_hand("a static pod: move its manifest out of the node's directory and back");
    }
    let Some(controller) = &pod.controller else {
        return by_hand("a bare pod: nobody makes a new one when it is deleted");
    };
    if !pod.safe_to_delete {
        return Action::ByHand {
            why: format!("{controller} is not known to make a new one"),
        };
    }
    let errors: Vec<_> = pod.causes.iter().filter(|c| c.severity == Severity::Error).collect();
    if let Some(cause) = errors.iter().find(|c| !cured(c.code)) {
        return Action::ByHand {
            why: format!("a new pod would have the same cause: {}", cause.code),
        };
    }
    if errors.iter().any(|c| c.code == CauseCode::PodGatewayUnanswered) && neighbours_share(pod, last) {
        return by_hand("other pods of its node lack an answer for their gateway too, so a new one would: mend the node");
    }
    match last.nodes.iter().find(|n| n.name == pod.node).map(|n| n.verdict) {
        Some(Verdict::Forwarding | Verdict::Degraded) => {}
        Some(Verdict::NotForwarding) => return by_hand("its node does not forward: mend the node first"),
        Some(Verdict::Unknown) | None => {
            return Action::Wait {
                why: "whether its node forwards is not known".to_string(),
            };
        }
    }
    if before.is_empty() {
        return Action::Wait {
            why: "one sample is not enough".to_string(),
        };
    }
    let each_time = before.iter().all(|sample| {
        sample
            .pods
            .iter()
            .any(|p| p.pod == pod.pod && p.ip == pod.ip && p.verdict == PodVerdict::Stale)
    });
    if !each_time {
        return Action::Wait {
            why: "it was not stale in every sample".to_string(),
        };
    }
    if !errors.is_empty() && errors.iter().all(|c| c.transient) {
        return Action::Wait {
            why: "Calico may still repair it by itself".to_string(),
        };
    }
    Action::Recreate
}

/// Whether a new sandbox, with a new veth and a new address, is rid of the cause.
const fn cured(code: CauseCode) -> bool {
    matches!(
        code,
        CauseCode::PodRouteMissing
            | CauseCode::PodVethMissing
            | CauseCode::PodVethDown
            | CauseCode::PodIpMismatch
            | CauseCode::PodGatewayMissing
            | CauseCode::PodGatewayUnanswered
            | CauseCode::PodUnresponsive
            | CauseCode::PodAddressNotAllocated
            | CauseCode::DuplicatePodIp
    )
}

/// Whether another pod of the node has no answer for its gateway either: then the node is at fault.
fn neighbours_share(pod: &PodReport, report: &ClusterReport) -> bool {
    report.pods.iter().any(|other| {
        other.pod != pod.pod && other.node == pod.node && other.causes.iter().any(|c| c.code == CauseCode::PodGatewayUnanswered)
    })
}

#[cfg(test)]
mod tests;
