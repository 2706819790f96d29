//! Who is meant: pods and nodes by what a person writes.

use super::Cluster;
use crate::names::{NodeName, PodRef};
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

    /// The node with this tunnel address or address of its own.
    pub fn node_of_address(&self, ip: IpAddr) -> Option<&NodeName> {
        let nodes = self.nodes_by_tunnel.get(&ip).or_else(|| self.nodes_by_host.get(&ip));
        nodes.and_then(|nodes| nodes.first())
    }
}
