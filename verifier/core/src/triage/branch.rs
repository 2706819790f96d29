//! Which branches of the runbook apply, and why.

use super::{
    facts::{ClusterFacts, WebhookFacts, WorkloadFacts},
    health::{Ailment, Complaint},
};
use crate::names::NodeName;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// A branch of the runbook. Their order is the order in which they are worked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Branch {
    /// calico-node runs nowhere: its DaemonSet is gone, wants no node, or its pods are refused.
    NoCalicoNode,
    /// Kubelets lost contact with the control plane.
    KubeletLostContact,
    /// Nodes go from Ready to NotReady and back.
    ReadyToggling,
    /// The network plugin is not initialised.
    NetworkPluginNotInitialised,
    /// Calico said that it is down.
    CalicoIsDown,
    /// Most nodes, or all: what changed for all of them.
    MostNodes,
    /// One or a few: what they have that the others have not.
    FewNodes,
}

impl Branch {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCalicoNode => "no-calico-node",
            Self::KubeletLostContact => "kubelet-lost-contact",
            Self::ReadyToggling => "ready-toggling",
            Self::NetworkPluginNotInitialised => "network-plugin-not-initialised",
            Self::CalicoIsDown => "calico-is-down",
            Self::MostNodes => "most-nodes",
            Self::FewNodes => "few-nodes",
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NoCalicoNode => {
                "calico-node runs on no node: what programs the dataplane is gone, and pods that start now get no network"
            }
            Self::KubeletLostContact => {
                "the control plane has not heard of these kubelets: what it shows of their pods is old, and deleting pods there has no effect"
            }
            Self::ReadyToggling => {
                "these nodes lose and regain contact: the control plane's path to them, or their kubelet, is overloaded or lossy"
            }
            Self::NetworkPluginNotInitialised => {
                "the container runtime finds no usable CNI configuration: calico-node's install-cni did not run to its end, or its files went"
            }
            Self::CalicoIsDown => {
                "calico-node said at its end that it is down, and has not said since that it is up: it is stopped, restarting, or stuck before its start is complete"
            }
            Self::MostNodes => "what most nodes share is at fault: a change for all of them, Typha, the API server, the underlay",
            Self::FewNodes => "what these nodes have and the others have not is at fault",
        }
    }
}

/// A branch that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applies {
    /// Which.
    pub branch: Branch,
    /// The nodes that it concerns; none where it concerns the cluster.
    pub nodes: BTreeSet<NodeName>,
    /// Why, a line each.
    pub why: Vec<String>,
}

/// Branches that follow from one ailment.
const OF_AILMENTS: &[(Branch, Ailment)] = &[
    (Branch::KubeletLostContact, Ailment::LostContact),
    (Branch::ReadyToggling, Ailment::Toggling),
    (Branch::NetworkPluginNotInitialised, Ailment::PluginNotInitialised),
    (Branch::CalicoIsDown, Ailment::CalicoDown),
];
/// How many lines of why; the rest is counted.
const WHY_MAX: usize = 5;

/// The branches that apply, in the order in which they are worked through.
pub fn branches(facts: &ClusterFacts, complaints: &BTreeMap<NodeName, Vec<Complaint>>) -> Vec<Applies> {
    let mut out = Vec::new();
    let why = nowhere(facts);
    if !why.is_empty() {
        out.push(Applies {
            branch: Branch::NoCalicoNode,
            nodes: BTreeSet::new(),
            why,
        });
    }
    for (branch, ailment) in OF_AILMENTS {
        let of: Vec<(&NodeName, &Complaint)> = complaints
            .iter()
            .filter_map(|(name, all)| Some((name, all.iter().find(|c| c.ailment == *ailment)?)))
            .collect();
        if !of.is_empty() {
            out.push(Applies {
                branch: *branch,
                nodes: of.iter().map(|(name, _)| (*name).clone()).collect(),
                why: limited(of.iter().map(|(name, c)| format!("{name}: {}", c.why))),
            });
        }
    }
    let total = facts.known_nodes().count();
    if !complaints.is_empty() {
        let most = complaints.len() * 2 > total;
        let mut why = alloc::vec![format!("{} of {total} nodes are affected", complaints.len())];
        why.extend(limited(complaints.iter().filter_map(|(name, all)| {
            // What has a branch of its own stands there.
            let other = all.iter().find(|c| OF_AILMENTS.iter().all(|(_, ailment)| *ailment != c.ailment))?;
            Some(format!("{name}: {}", other.why))
        })));
        out.push(Applies {
            branch: if most { Branch::MostNodes } else { Branch::FewNodes },
            nodes: complaints.keys().cloned().collect(),
            why,
        });
    }
    out
}

fn limited(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = lines.collect();
    let more = all.len().saturating_sub(WHY_MAX);
    if more > 0 {
        all.truncate(WHY_MAX);
        all.push(format!("and {more} more"));
    }
    all
}

/// Why calico-node runs nowhere; empty if it runs somewhere, or if that cannot be told.
fn nowhere(facts: &ClusterFacts) -> Vec<String> {
    if facts.known_nodes().next().is_none() || facts.calico_nodes().any(|pod| !pod.deleting && pod.phase != "Failed") {
        return Vec::new();
    }
    // That there is none can be said only where all pods were read.
    if !facts.pods.is_complete() {
        return Vec::new();
    }
    let mut why = alloc::vec!["there is no pod of calico-node".to_string()];
    match facts.workloads.all() {
        Err(_) => why.push("whether its DaemonSet exists could not be read".to_string()),
        Ok(_) => match facts.calico_daemon_set() {
            None => {
                why.push(
                    "there is no DaemonSet with the label k8s-app=calico-node: it was deleted, or Calico was never installed".to_string(),
                );
                why.extend(operator(facts));
            }
            Some(set) => why.extend(of_set(facts, set)),
        },
    }
    why
}

/// Why a DaemonSet has no pods.
fn of_set(facts: &ClusterFacts, set: &WorkloadFacts) -> Vec<String> {
    let mut why = Vec::new();
    let name = format!("DaemonSet {}/{}", set.namespace, set.name);
    if !set.observed {
        why.push(format!(
            "{name} was changed and no controller has looked at it since: is kube-controller-manager up?"
        ));
    }
    match set.desired {
        Some(0) if !set.node_selector.is_empty() => {
            let wanted: Vec<String> = set.node_selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
            why.push(format!(
                "{name} wants no node: none has the labels of its nodeSelector ({})",
                wanted.join(", ")
            ));
        }
        Some(0) => why.push(format!("{name} wants no node")),
        Some(n) => why.push(format!("{name} wants {n} pods and has {}", set.current)),
        None => why.push(format!(
            "{name} says nothing of how many pods it wants: is kube-controller-manager up?"
        )),
    }
    why.extend(refusals(facts, &set.namespace, &set.name));
    why.extend(dead_webhooks(facts).map(|hook| {
        format!(
            "{} {} (webhook {}) is asked about every pod, refuses where it does not answer, and nothing stands behind its Service",
            hook.kind, hook.configuration, hook.name
        )
    }));
    why
}

/// What the API server answered when the DaemonSet's pods were made.
pub(super) fn refusals(facts: &ClusterFacts, namespace: &str, name: &str) -> Vec<String> {
    let events = facts.events.seen().into_iter().flatten();
    let of = events.filter(|e| e.kind == "DaemonSet" && e.namespace == namespace && e.name == name && e.reason == "FailedCreate");
    limited(of.map(|event| match hook_named(&event.message) {
        Some(hook) => format!("its pods are refused by the admission webhook {hook:?}: {}", event.message),
        None => format!("its pods cannot be made: {}", event.message),
    }))
}

/// The webhook that a refusal names: `admission webhook "x" denied the request`, `failed calling webhook "x"`.
fn hook_named(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("webhook \"")?;
    rest.split('"').next().filter(|name| !name.is_empty())
}

/// Webhooks that refuse because nobody answers.
pub(super) fn dead_webhooks(facts: &ClusterFacts) -> impl Iterator<Item = &WebhookFacts> {
    // Endpoints that could not all be read prove no webhook dead; the gap is told by the notes.
    let endpoints = facts.endpoints.all().ok();
    facts.webhooks.seen().into_iter().flatten().filter(move |hook| {
        let Some((namespace, service)) = &hook.service else { return false };
        let ready = endpoints.map(|all| {
            let of = all.iter().filter(|e| e.namespace == *namespace && e.service == *service);
            of.map(|e| e.ready).sum::<u32>()
        });
        hook.fail_closed && ready == Some(0)
    })
}

/// What became of the operator that would make the DaemonSet anew.
fn operator(facts: &ClusterFacts) -> Option<String> {
    let all = facts.workloads.seen()?;
    let operator = all.iter().find(|w| w.kind == "Deployment" && w.name == "tigera-operator")?;
    Some(if operator.ready == 0 {
        format!(
            "the operator that would make it, {}/{}, has no ready pod",
            operator.namespace, operator.name
        )
    } else {
        format!(
            "the operator that should make it, {}/{}, runs: see its log and `kubectl get tigerastatus`",
            operator.namespace, operator.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_that_refuses_is_named() {
        let denied = "Error creating: admission webhook \"validate.kyverno.svc-fail\" denied the request: no";
        let away = "Internal error occurred: failed calling webhook \"gate.example.io\": failed to call webhook: Post …";
        assert_eq!(hook_named(denied), Some("validate.kyverno.svc-fail"));
        assert_eq!(hook_named(away), Some("gate.example.io"));
        assert_eq!(hook_named("pods is forbidden: exceeded quota"), None);
    }
}
