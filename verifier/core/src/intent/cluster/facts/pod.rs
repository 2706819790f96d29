//! Pods: the workloads (calico.md 3.6), and calico-node's own.

use crate::{
    intent::{
        node::{LeftOut, PodPhase},
        objects::{self, OwnerReference},
    },
    names::{NodeName, PodRef, UnixNs},
};
use alloc::{boxed::Box, format, string::String};
use core::net::IpAddr;
use siphasher::sip::SipHasher13;

/// A pod on the pod network, bound to a node and not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) node: NodeName,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) phase: PodPhase,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) sandbox_ready: bool,
    pub(crate) created: Option<UnixNs>,
    /// Fingerprint of the UID: the text itself would be the largest part of what is kept of a pod.
    pub(crate) uid: u64,
    pub(crate) controller: Option<Box<str>>,
    pub(crate) safe_to_delete: bool,
}

impl PodFacts {
    /// None for pods that have no endpoint: hostNetwork, not yet bound, finished.
    pub(crate) fn of(pod: &objects::Pod) -> Option<Self> {
        let phase = match pod.status.phase.as_str() {
            "Pending" => PodPhase::Pending,
            "Running" => PodPhase::Running,
            "Succeeded" | "Failed" => PodPhase::Finished,
            _ => PodPhase::Unknown,
        };
        if pod.spec.host_network || pod.spec.node_name.is_empty() || phase == PodPhase::Finished {
            return None;
        }
        let owner = pod
            .metadata
            .owner_references
            .iter()
            .find(|o| o.controller)
            .or_else(|| pod.metadata.owner_references.first());
        Some(Self {
            node: NodeName(pod.spec.node_name.clone()),
            addresses: pod_addresses(pod),
            phase,
            ready: pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            // The kubelet says so while it makes a sandbox (anew); older ones do not have the condition.
            sandbox_ready: !pod
                .status
                .conditions
                .iter()
                .any(|c| c.kind == "PodReadyToStartContainers" && c.status == "False"),
            created: pod.metadata.creation_timestamp,
            uid: fingerprint(&pod.metadata.uid),
            controller: owner.map(|o| format!("{}/{}", o.kind, o.name).into_boxed_str()),
            safe_to_delete: owner.is_some_and(|o| makes_a_new_one(o, pod)),
        })
    }

    /// Whether it counts as holding its addresses.
    pub(crate) const fn is_live(&self) -> bool {
        !self.terminating
    }

    /// Whether another node may probe it.
    pub(crate) fn is_target(&self) -> bool {
        self.phase == PodPhase::Running && !self.terminating && !self.addresses.is_empty()
    }
}

fn fingerprint(uid: &str) -> u64 {
    if uid.is_empty() {
        0
    } else {
        SipHasher13::new().hash(uid.as_bytes())
    }
}

/// Whether a pod's controller replaces it when it is deleted. A static pod's mirror comes back, but deleting it does nothing.
fn makes_a_new_one(owner: &OwnerReference, pod: &objects::Pod) -> bool {
    !is_static(pod)
        && matches!(
            owner.kind.as_str(),
            "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job"
        )
}

/// Whether the object mirrors a static pod, whose manifest lies on the node.
fn is_static(pod: &objects::Pod) -> bool {
    pod.metadata.annotation("kubernetes.io/config.mirror").is_some()
}

/// Why nothing is said about a pod's network. A static pod on the pod network is an endpoint like any other, and left out only where pods
/// are listed in order to make them anew.
pub(crate) fn left_out(pod: &objects::Pod) -> Option<LeftOut> {
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        Some(LeftOut::Finished)
    } else if pod.spec.node_name.is_empty() {
        Some(LeftOut::NotScheduled)
    } else if is_static(pod) {
        Some(LeftOut::Static)
    } else {
        pod.spec.host_network.then_some(LeftOut::HostNetwork)
    }
}

/// Felix's order of sources (calico.md 3.6). Text that is not an address is passed over, as Felix does.
fn pod_addresses(pod: &objects::Pod) -> Box<[IpAddr]> {
    let parse = |texts: &mut dyn Iterator<Item = &str>| -> Box<[IpAddr]> { texts.filter_map(address_of).collect() };
    let listed = parse(&mut pod.status.pod_ips.iter().map(|p| p.ip.as_str()));
    if !listed.is_empty() {
        return listed;
    }
    let single = parse(&mut [pod.status.pod_ip.as_str()].into_iter());
    if !single.is_empty() {
        return single;
    }
    for key in [
        "cni.projectcalico.org/podIPs",
        "cni.projectcalico.org/podIP",
        "vpc.amazonaws.com/pod-ips",
    ] {
        if let Some(text) = pod.metadata.annotation(key) {
            let noted = parse(&mut text.split(',').map(str::trim));
            if !noted.is_empty() {
                return noted;
            }
        }
    }
    Box::default()
}

fn address_of(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// A calico-node pod: what it claims, and the container that runs Felix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentPod {
    pub(crate) node: NodeName,
    pub(crate) container: objects::Container,
    pub(crate) host_ip: String,
    pub(crate) phase: String,
    pub(crate) ready: bool,
    pub(crate) restarts: Option<u32>,
    pub(crate) last_termination: Option<String>,
    pub(crate) terminating: bool,
    pub(crate) created: Option<UnixNs>,
}

/// Name of Felix's container and of the DaemonSet, and the label of its pods.
pub(crate) const CALICO_NODE: &str = "calico-node";

/// Whether this is where Calico itself is installed: by manifest, or by its operator.
pub(crate) fn is_calico_namespace(namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "calico-system")
}

/// Felix's container among a pod's.
pub(crate) fn felix_container(spec: &objects::PodSpec) -> Option<&objects::Container> {
    spec.containers
        .iter()
        .find(|c| c.name == CALICO_NODE)
        .or_else(|| spec.containers.first())
}

impl AgentPod {
    /// None for any other pod.
    pub(crate) fn of(pod: &objects::Pod) -> Option<Self> {
        let labelled = pod.metadata.labels.get("k8s-app").is_some_and(|l| l == CALICO_NODE);
        if !labelled || !is_calico_namespace(&pod.metadata.namespace) || pod.spec.node_name.is_empty() {
            return None;
        }
        let container = felix_container(&pod.spec).cloned().unwrap_or_default();
        let status = pod.status.container_statuses.iter().find(|c| c.name == CALICO_NODE);
        Some(Self {
            node: NodeName(pod.spec.node_name.clone()),
            container,
            host_ip: pod.status.host_ip.clone(),
            phase: pod.status.phase.clone(),
            ready: match status {
                Some(status) => status.ready,
                None => pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
            },
            restarts: status.map(|s| s.restart_count),
            last_termination: status.and_then(|s| s.last_state.terminated.as_ref()).map(ended),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            created: pod.metadata.creation_timestamp,
        })
    }
}

/// How a container ended, in words.
fn ended(how: &objects::Terminated) -> String {
    let reason = if how.reason.is_empty() {
        "no reason given"
    } else {
        how.reason.as_str()
    };
    match how.finished_at {
        Some(at) => format!("{reason}, exit code {}, at {}", how.exit_code, crate::report::rfc3339(at)),
        None => format!("{reason}, exit code {}", how.exit_code),
    }
}

/// The pod an object is.
pub(crate) fn pod_ref(pod: &objects::Pod) -> PodRef {
    PodRef::new(pod.metadata.namespace.as_str(), pod.metadata.name.as_str())
}
