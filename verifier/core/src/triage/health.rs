//! What is wrong with each node, as far as the API and the agents say.

use super::facts::{ClusterFacts, NodeFacts, PodFacts};
use crate::{
    names::{NodeName, UnixNs},
    verdict::Verdict,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// One thing that is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ailment {
    /// The node controller has not heard of its kubelet.
    LostContact,
    /// Its kubelet says that the network plugin is not initialised.
    PluginNotInitialised,
    /// It is not Ready, for another reason.
    NotReady,
    /// It goes from Ready to NotReady and back.
    Toggling,
    /// NetworkUnavailable, because Calico said so when it stopped.
    CalicoDown,
    /// NetworkUnavailable for another reason.
    NetworkUnavailable,
    /// No pod of calico-node on it, though there should be one.
    CalicoNodeMissing,
    /// Its calico-node keeps ending.
    CalicoNodeRestarting,
    /// Its calico-node runs, or should, and is not ready.
    CalicoNodeNotReady,
    /// Its agent finds that it does not forward, whatever is claimed.
    NotForwarding,
    /// Its agent finds that it forwards in part.
    Degraded,
}

/// One ailment of a node, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// What.
    pub ailment: Ailment,
    /// In words.
    pub why: String,
    /// Since when, where that is known.
    pub since: Option<UnixNs>,
}

/// How often a node must have become NotReady within what the API remembers (an hour) to be called toggling.
const TOGGLES_MIN: u32 = 3;
/// How often a container must have ended to be called restarting, if it is not in back-off anyway.
const RESTARTS_MIN: u32 = 3;
/// … and how long ago the last time may be.
const RESTART_RECENT_NS: u64 = 3600 * 1_000_000_000;
/// What kubelets of different ages write about a network plugin that is not there.
const NO_PLUGIN: &[&str] = &[
    "cni plugin not initialized",
    "network plugin is not ready",
    "NetworkPluginNotReady",
    "cni config uninitialized",
];

/// The complaints of every node that has one.
pub fn complaints(facts: &ClusterFacts) -> BTreeMap<NodeName, Vec<Complaint>> {
    facts
        .known_nodes()
        .map(|(name, node)| (name.clone(), of_node(facts, name, node)))
        .filter(|(_, all)| !all.is_empty())
        .collect()
}

fn of_node(facts: &ClusterFacts, name: &NodeName, node: &NodeFacts) -> Vec<Complaint> {
    let mut out = Vec::new();
    let mut add = |ailment, why: String, since| out.push(Complaint { ailment, why, since });
    if let Some(ready) = node.condition("Ready").filter(|ready| ready.status != "True") {
        let ailment = if ready.status == "Unknown" {
            Ailment::LostContact
        } else if NO_PLUGIN.iter().any(|words| ready.message.contains(words)) || ready.reason == "NetworkPluginNotReady" {
            Ailment::PluginNotInitialised
        } else {
            Ailment::NotReady
        };
        add(
            ailment,
            format!("Ready is {} ({}: {})", ready.status, ready.reason, ready.message),
            ready.since,
        );
    }
    let toggles = toggles(facts, name);
    if toggles >= TOGGLES_MIN {
        add(
            Ailment::Toggling,
            format!("it became NotReady {toggles} times within what the API remembers"),
            None,
        );
    }
    if let Some(down) = node.condition("NetworkUnavailable").filter(|c| c.status == "True") {
        let ailment = if down.reason == "CalicoIsDown" {
            Ailment::CalicoDown
        } else {
            Ailment::NetworkUnavailable
        };
        add(
            ailment,
            format!("NetworkUnavailable is True ({}: {})", down.reason, down.message),
            down.since,
        );
    }
    match facts.calico_node_on(name) {
        Some(pod) => {
            if let Some(complaint) = of_pod(pod, facts.read_at) {
                out.push(complaint);
            }
        }
        None if facts.pods.is_complete() && is_wanted(facts, node) => {
            add(Ailment::CalicoNodeMissing, "no pod of calico-node is bound to it".to_string(), None)
        }
        None => {}
    }
    match facts.verdicts.get(name).and_then(|verdict| verdict.seen()) {
        Some(Verdict::NotForwarding) => out.push(complaint(
            Ailment::NotForwarding,
            "its agent finds that it does not forward (`verifier validate`)",
        )),
        Some(Verdict::Degraded) => out.push(complaint(
            Ailment::Degraded,
            "its agent finds that it forwards in part (`verifier validate`)",
        )),
        _ => {}
    }
    out
}

fn complaint(ailment: Ailment, why: &str) -> Complaint {
    Complaint {
        ailment,
        why: why.to_string(),
        since: None,
    }
}

fn of_pod(pod: &PodFacts, now: UnixNs) -> Option<Complaint> {
    let troubled = pod.containers.iter().find(|c| {
        let again = c.restarts >= RESTARTS_MIN && c.started_at.is_some_and(|at| now.since_ns(at) < RESTART_RECENT_NS);
        c.state.contains("CrashLoopBackOff") || again
    });
    if let Some(c) = troubled {
        let last = c.last.as_ref().map_or_else(String::new, |last| format!(", before that {last}"));
        return Some(Complaint {
            ailment: Ailment::CalicoNodeRestarting,
            why: format!(
                "{}: container {} restarted {} times, is {}{last}",
                pod.pod, c.name, c.restarts, c.state
            ),
            since: c.started_at,
        });
    }
    if pod.ready == Some(true) && !pod.deleting {
        return None;
    }
    let states: Vec<String> = pod
        .containers
        .iter()
        .filter(|c| !(c.ready || c.init && c.state.starts_with("terminated: Completed")))
        .map(|c| format!("{} {}", c.name, c.state))
        .collect();
    let going = if pod.deleting { ", being deleted" } else { "" };
    Some(Complaint {
        ailment: Ailment::CalicoNodeNotReady,
        why: format!("{} is {} and not ready{going}: {}", pod.pod, pod.phase, states.join("; ")),
        since: None,
    })
}

/// Whether the DaemonSet wants a pod there. Without it every Linux node is meant to have one.
fn is_wanted(facts: &ClusterFacts, node: &NodeFacts) -> bool {
    let linux = node.labels.get("kubernetes.io/os").is_none_or(|os| os == "linux");
    // A selector that no node fits is the fault of the DaemonSet, not what excuses the nodes.
    let fits = |labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| wanted.iter().all(|(k, v)| labels.get(k) == Some(v));
    let selector = facts.calico_daemon_set().map(|set| &set.node_selector);
    let used = selector.filter(|wanted| facts.known_nodes().any(|(_, other)| fits(&other.labels, wanted)));
    linux && used.is_none_or(|wanted| fits(&node.labels, wanted))
}

/// How often the node became NotReady, by the events.
fn toggles(facts: &ClusterFacts, name: &NodeName) -> u32 {
    let events = facts.events.seen().into_iter().flatten();
    events
        .filter(|event| event.kind == "Node" && event.name == name.as_str() && event.reason == "NodeNotReady")
        .map(|event| event.count.max(1))
        .fold(0, u32::saturating_add)
}
