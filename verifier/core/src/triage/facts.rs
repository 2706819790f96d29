//! What triage knows of a cluster, typed. Read by `verifier::triage`; nothing here decides.
//!
//! No secret can stand in these types: of a Secret only its name is kept, of a container neither environment nor arguments.

use crate::{
    evidence::Evidence,
    names::{NodeName, PodRef, UnixNs},
    verdict::Verdict,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A cluster as its API, and the agents if they were asked, describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// When, by the clock of whoever read.
    pub read_at: UnixNs,
    /// Nodes.
    pub nodes: Evidence<BTreeMap<NodeName, NodeFacts>>,
    /// Pods of all namespaces.
    pub pods: Evidence<Vec<PodFacts>>,
    /// DaemonSets and Deployments.
    pub workloads: Evidence<Vec<WorkloadFacts>>,
    /// Events; the API keeps them for an hour, unless told otherwise.
    pub events: Evidence<Vec<EventFacts>>,
    /// Admission webhooks that see pods.
    pub webhooks: Evidence<Vec<WebhookFacts>>,
    /// Addresses behind Services.
    pub endpoints: Evidence<Vec<EndpointFacts>>,
    /// Objects from which the dataplane follows, as far as it matters that they changed.
    pub objects: Evidence<Vec<ObjectFacts>>,
    /// BGP peers with a password, or that a readiness probe may name.
    pub bgp_peers: Evidence<Vec<BgpPeerFacts>>,
    /// Secrets beside Calico, by namespace and name. Their contents are never asked for.
    pub secrets: Evidence<BTreeSet<(String, String)>>,
    /// What was found of each node's dataplane; without an entry where no agent was asked.
    pub verdicts: BTreeMap<NodeName, Evidence<Verdict>>,
    /// Further facts of nodes, normalised so that healthy nodes agree in them: from the agents' accounts.
    pub accounts: BTreeMap<NodeName, BTreeMap<String, String>>,
    /// What the logs of calico-node say, on nodes whose logs were read.
    pub clues: Evidence<Vec<Clue>>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Calico's address of it with its subnet; Kubernetes' where that is missing.
    pub address: Option<IpNet>,
    /// When it was created.
    pub created_at: Option<UnixNs>,
    /// Conditions.
    pub conditions: Vec<ConditionFacts>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints, `KEY=VALUE:EFFECT`.
    pub taints: Vec<String>,
    /// `status.nodeInfo`, the parts of it that are the same on nodes of one making: `kernelVersion`, `osImage`, ….
    pub info: BTreeMap<String, String>,
    /// When its kubelet last renewed its Lease, by the node's own clock.
    pub renewed_at: Option<UnixNs>,
}

/// A condition of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionFacts {
    /// `Ready`, `NetworkUnavailable`, …
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Since when its status is this one.
    pub since: Option<UnixNs>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// Which.
    pub pod: PodRef,
    /// The node it is bound to.
    pub node: Option<NodeName>,
    /// Kind and name of its controller; of a ReplicaSet that a Deployment made, the Deployment.
    pub owner: Option<(String, String)>,
    /// Its `k8s-app` label.
    pub app: Option<String>,
    /// `Running`, `Pending`, …
    pub phase: String,
    /// Its Ready condition.
    pub ready: Option<bool>,
    /// Whether its deletion began.
    pub deleting: bool,
    /// Containers, those of initialisation first.
    pub containers: Vec<ContainerFacts>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Whether it runs before the others.
    pub init: bool,
    /// Whether it passes its readiness probe.
    pub ready: bool,
    /// Restarts.
    pub restarts: u32,
    /// `running`, `waiting: CrashLoopBackOff`, `terminated: Error (137)`.
    pub state: String,
    /// When the running one started.
    pub started_at: Option<UnixNs>,
    /// How the one before ended, in the words of `state`.
    pub last: Option<String>,
}

/// A DaemonSet or a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadFacts {
    /// `DaemonSet`, `Deployment`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its `k8s-app` label.
    pub app: Option<String>,
    /// How many pods there should be; none if its controller has not said yet.
    pub desired: Option<u32>,
    /// How many there are.
    pub current: u32,
    /// How many are ready.
    pub ready: u32,
    /// `spec.template.spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Whether the controller has seen its latest form.
    pub observed: bool,
}

/// An Event, or several alike that the API counts as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventFacts {
    /// When it was last seen.
    pub last_at: Option<UnixNs>,
    /// When it was first seen.
    pub first_at: Option<UnixNs>,
    /// Kind of what it is about.
    pub kind: String,
    /// Namespace of what it is about.
    pub namespace: String,
    /// Name of what it is about.
    pub name: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Whether it is a warning.
    pub warning: bool,
    /// How often.
    pub count: u32,
}

/// An admission webhook that is asked about pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookFacts {
    /// `ValidatingWebhookConfiguration` or `MutatingWebhookConfiguration`.
    pub kind: String,
    /// Name of the configuration.
    pub configuration: String,
    /// Name of the webhook.
    pub name: String,
    /// Whether a pod is refused when it does not answer.
    pub fail_closed: bool,
    /// The Service it is reached by; none if it is an address.
    pub service: Option<(String, String)>,
}

/// How many addresses stand behind a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFacts {
    /// Namespace.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Ready ones.
    pub ready: u32,
    /// Others.
    pub not_ready: u32,
}

/// An object from which the dataplane follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// Kind.
    pub kind: String,
    /// Namespace; empty if it has none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// When it was created.
    pub created_at: Option<UnixNs>,
    /// When it was last written to, status aside.
    pub changed_at: Option<UnixNs>,
    /// Who wrote then, by its field manager.
    pub changed_by: Option<String>,
    /// Whether its deletion began.
    pub deleting: bool,
}

/// A BGPPeer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeerFacts {
    /// Name.
    pub name: String,
    /// The peer's address, if it is given by one.
    pub address: Option<IpAddr>,
    /// Name of the Secret with the session's password.
    pub secret: Option<String>,
}

/// What a log says of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clue {
    /// The node.
    pub node: NodeName,
    /// Which log.
    pub source: String,
    /// Name of the known line (see `verifier logs`).
    pub signature: String,
    /// What it means.
    pub meaning: String,
    /// How often.
    pub count: u64,
}

impl ClusterFacts {
    /// Nothing is known yet: every part says so.
    pub fn unread(read_at: UnixNs) -> Self {
        fn none<T>(what: &str) -> Evidence<T> {
            Evidence::unavailable(alloc::format!("triage/{what}"), "was not read")
        }
        Self {
            read_at,
            nodes: none("nodes"),
            pods: none("pods"),
            workloads: none("workloads"),
            events: none("events"),
            webhooks: none("webhooks"),
            endpoints: none("endpoints"),
            objects: none("objects"),
            bgp_peers: none("bgp-peers"),
            secrets: none("secrets"),
            verdicts: BTreeMap::new(),
            accounts: BTreeMap::new(),
            clues: none("logs"),
        }
    }

    /// The nodes that are known.
    pub fn known_nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeFacts)> {
        self.nodes.seen().into_iter().flatten()
    }

    /// Pods of calico-node.
    pub fn calico_nodes(&self) -> impl Iterator<Item = &PodFacts> {
        let pods = self.pods.seen().into_iter().flatten();
        pods.filter(|pod| pod.app.as_deref() == Some("calico-node"))
    }

    /// The pod of calico-node on a node; the one that stays, while another goes.
    pub fn calico_node_on(&self, node: &NodeName) -> Option<&PodFacts> {
        let mut on = self.calico_nodes().filter(|pod| pod.node.as_ref() == Some(node));
        let first = on.next()?;
        if first.deleting {
            on.find(|pod| !pod.deleting).or(Some(first))
        } else {
            Some(first)
        }
    }

    /// The DaemonSet of calico-node.
    pub fn calico_daemon_set(&self) -> Option<&WorkloadFacts> {
        let all = self.workloads.seen()?;
        all.iter()
            .find(|w| w.kind == "DaemonSet" && w.app.as_deref() == Some("calico-node"))
    }

    /// The namespace that calico-node lives in.
    pub fn calico_namespace(&self) -> Option<&str> {
        let of_set = self.calico_daemon_set().map(|set| set.namespace.as_str());
        of_set.or_else(|| self.calico_nodes().next().map(|pod| pod.pod.namespace.as_str()))
    }
}

impl NodeFacts {
    /// A condition.
    pub fn condition(&self, kind: &str) -> Option<&ConditionFacts> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}
