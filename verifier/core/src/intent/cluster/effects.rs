//! What a change of the objects touches: enough to bring a node's intent up to date without computing it anew.

use super::contradictions::Subject;
use crate::names::{NodeName, PodRef};
use alloc::{collections::BTreeSet, string::String};
use ipnet::IpNet;

/// What a change touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Every node's whole intent.
    pub(super) everyone: bool,
    /// These nodes' whole intent.
    pub(super) whole: BTreeSet<NodeName>,
    /// What every node knows of these peers, and their tunnels' neighbours and forwarding entries.
    pub(super) peers: BTreeSet<NodeName>,
    /// Only the pods that every node knows of these peers.
    pub(super) peer_pods: BTreeSet<NodeName>,
    /// Every node's routes to these prefixes.
    pub(super) nets: BTreeSet<IpNet>,
    /// The same, where routes follow the pods.
    pub(super) pod_nets: BTreeSet<IpNet>,
    /// Local pods of these nodes.
    pub(super) workloads: BTreeSet<(NodeName, PodRef)>,
    /// What is claimed about these nodes.
    pub(super) claims: BTreeSet<NodeName>,
    /// Every node's list of contradictions.
    pub(super) contradictions: bool,
    /// What must be looked at again for contradictions; empty when `apply` returns.
    pub(super) recheck: BTreeSet<Subject>,
}

impl Effects {
    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The nodes whose intent may differ now; none for every node.
    pub fn nodes(&self) -> Option<BTreeSet<NodeName>> {
        let shared = self.everyone || self.contradictions || !self.peers.is_empty() || !self.peer_pods.is_empty() || !self.nets.is_empty();
        if shared {
            return None;
        }
        let local = self.workloads.iter().map(|(node, _)| node);
        Some(self.whole.iter().chain(local).chain(&self.claims).cloned().collect())
    }

    /// Adds what another change touches.
    pub fn merge(&mut self, other: Self) {
        self.everyone |= other.everyone;
        self.contradictions |= other.contradictions;
        self.whole.extend(other.whole);
        self.peers.extend(other.peers);
        self.peer_pods.extend(other.peer_pods);
        self.nets.extend(other.nets);
        self.pod_nets.extend(other.pod_nets);
        self.workloads.extend(other.workloads);
        self.claims.extend(other.claims);
        self.recheck.extend(other.recheck);
    }

    /// A configuration object of this name changed: `node.<name>` is one node's, any other everybody's.
    pub(super) fn configuration(&mut self, name: &str) {
        match name.strip_prefix("node.") {
            Some(node) => {
                self.whole.insert(NodeName(String::from(node)));
            }
            None => self.everyone = true,
        }
    }
}
