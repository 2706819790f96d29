//! Who is meant: pods and nodes by what a person writes.

use super::{Cluster, facts::Family};
use crate::{
    intent::Claim,
    names::{NodeName, PodRef},
};
use alloc::{sync::Arc, vec::Vec};
use core::net::IpAddr;

/// A pod, as far as a person has to know it to talk about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The pod.
    pub pod: PodRef,
    /// Its node.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Cluster {
    /// The pods that `wanted` says yes to, in order of name. Only pods that have an endpoint: bound, not finished, not on the host's network.
    pub fn find_pods(&self, wanted: impl Fn(&PodRef, &[IpAddr]) -> bool) -> Vec<Located> {
        self.pods
            .iter()
            .filter(|(pod, facts)| wanted(pod, &facts.addresses))
            .map(|(pod, facts)| Located {
                pod: PodRef::clone(Arc::as_ref(pod)),
                node: facts.node.clone(),
                addresses: facts.addresses.to_vec(),
            })
            .collect()
    }

    /// What the cluster claims of a node.
    pub fn claim_of(&self, node: &NodeName) -> Claim {
        self.claim_about(node)
    }

    /// Where a node is reached; none of a node that has no address, or that is not there.
    pub fn host_address(&self, node: &NodeName) -> Option<IpAddr> {
        let facts = self.nodes.get(node)?;
        facts.host(Family::V4).or_else(|| facts.host(Family::V6)).map(|host| host.ip)
    }

    /// The node with this tunnel address or address of its own.
    pub fn node_of_address(&self, ip: IpAddr) -> Option<&NodeName> {
        let nodes = self.nodes_by_tunnel.get(&ip).or_else(|| self.nodes_by_host.get(&ip));
        nodes.and_then(|nodes| nodes.first())
    }
}
