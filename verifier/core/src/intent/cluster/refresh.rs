//! One node's intent brought up to date after a change, without computing the rest again.

use super::{
    Cluster, Effects, UnknownNode,
    facts::{Family, host_net},
    node::{VXLAN_SET, set_kinds, workload},
    routes::View,
};
use crate::{
    intent::node::{ExpectedRoute, NodeIntent, RouteClass},
    names::NodeName,
};
use alloc::{collections::BTreeSet, vec::Vec};
use core::{cmp::Ordering, net::IpAddr};
use ipnet::IpNet;

impl Cluster {
    /// Brings `intent` up to date after a change, by what the change touches.
    ///
    /// # Errors
    /// If there is no such Node object any more.
    pub fn refresh(&self, intent: &mut NodeIntent, effects: &Effects) -> Result<(), UnknownNode> {
        let node = intent.node.clone();
        if effects.everyone || effects.whole.contains(&node) || !self.nodes.contains_key(&node) {
            *intent = self.node_intent(&node)?;
            return Ok(());
        }
        intent.generation = self.generation;
        intent.read_at = self.read_at;
        if effects.contradictions {
            intent.contradictions = self.contradictions.values().cloned().collect();
        }
        if effects.claims.contains(&node) {
            intent.claim = self.claim_about(&node);
        }
        for peer in effects.peer_pods.difference(&effects.peers) {
            if let Some(known) = intent.peers.get_mut(peer) {
                known.pods = self.pods_of_peer(peer);
            }
        }
        if effects.nets.is_empty() && effects.peers.is_empty() && effects.workloads.iter().all(|(n, _)| *n != node) {
            return Ok(());
        }
        let view = self.view(&node)?;
        for (_, pod) in effects.workloads.iter().filter(|(n, _)| *n == node) {
            match self.pods.get(pod).filter(|facts| facts.node == node) {
                Some(facts) => {
                    intent.workloads.insert(pod.clone(), workload(&view, pod, facts));
                }
                None => {
                    intent.workloads.remove(pod);
                }
            }
        }
        let of_pods = effects.pod_nets.iter().filter(|_| view.follows_pods());
        for net in effects.nets.iter().chain(of_pods) {
            self.refresh_routes(&view, *net, &mut intent.routes);
        }
        if view.follows_pods() {
            let peers = effects.peers.union(&effects.peer_pods).cloned().collect();
            self.refresh_peers(&view, &peers, intent);
        } else if !effects.peers.is_empty() {
            self.refresh_peers(&view, &effects.peers, intent);
        }
        Ok(())
    }

    fn refresh_routes(&self, view: &View<'_>, net: IpNet, routes: &mut Vec<ExpectedRoute>) {
        let mut fresh = Vec::new();
        self.routes_to(view, net, &mut fresh);
        fresh.sort_by(by_order);
        for rank in 0..RANKS {
            let start = routes.partition_point(|r| route_key(r) < (rank, net));
            let end = routes.partition_point(|r| route_key(r) <= (rank, net));
            let mut new = fresh.iter().filter(|r| rank_of(r) == rank).cloned().peekable();
            if start != end || new.peek().is_some() {
                routes.splice(start..end, new);
            }
        }
    }

    fn refresh_peers(&self, view: &View<'_>, peers: &BTreeSet<NodeName>, intent: &mut NodeIntent) {
        if peers.contains(view.node) {
            intent.blocks = self.own_blocks(view.node);
        }
        let mut moved: BTreeSet<IpAddr> = BTreeSet::new();
        for name in peers.iter().filter(|name| *name != view.node) {
            let (mut neighbors, mut fdb) = (Vec::new(), Vec::new());
            let fresh = self.nodes.get(name).map(|facts| {
                self.layer2(view, name, facts, &mut neighbors, &mut fdb);
                self.peer(view, name, facts)
            });
            for peer in intent.peers.get(name).into_iter().chain(&fresh) {
                moved.extend([peer.host_ip, peer.host_ip6].into_iter().flatten());
            }
            let from = intent.neighbors.partition_point(|n| n.peer < *name);
            let to = intent.neighbors.partition_point(|n| n.peer <= *name);
            intent.neighbors.splice(from..to, neighbors);
            let from = intent.fdb.partition_point(|f| f.peer < *name);
            let to = intent.fdb.partition_point(|f| f.peer <= *name);
            intent.fdb.splice(from..to, fdb);
            match fresh {
                Some(peer) => {
                    intent.peers.insert(name.clone(), peer);
                }
                None => {
                    intent.peers.remove(name);
                }
            }
        }
        for (set, (name, family)) in intent.sets.iter_mut().zip(set_kinds(view)) {
            for ip in moved.iter().filter(|ip| Family::of(ip) == family) {
                let member = host_net(*ip);
                match (set.members.binary_search(&member), self.is_member(view, name, *ip)) {
                    (Err(at), true) => set.members.insert(at, member),
                    (Ok(at), false) => {
                        set.members.remove(at);
                    }
                    _ => {}
                }
            }
        }
        // A node's annotations may have become readable, or no longer be so.
        intent.gaps = self.gaps_of(view);
    }

    /// Whether an address belongs into the set of that name and of the address's family.
    fn is_member(&self, view: &View<'_>, set: &str, ip: IpAddr) -> bool {
        let family = Family::of(&ip);
        let holders = self.nodes_by_host.get(&ip).into_iter().flatten();
        let mut nodes = holders.filter_map(|name| self.nodes.get_key_value(name));
        let of_node = match set {
            VXLAN_SET => nodes.any(|(name, facts)| name != view.node && facts.vtep(family).is_some_and(|v| v.host_ip == ip)),
            _ => nodes.any(|(_, facts)| facts.host4.as_ref().is_some_and(|h| h.ip == ip)),
        };
        of_node || view.resolved.external_nodes.contains(&host_net(ip))
    }
}

/// The order in which routes are kept.
pub(super) fn by_order(a: &ExpectedRoute, b: &ExpectedRoute) -> Ordering {
    route_key(a).cmp(&route_key(b)).then_with(|| a.cmp(b))
}

const RANKS: u8 = 4;

/// Routes are kept in the order of class and destination: what changes most, local pods, is at the end.
const fn rank_of(route: &ExpectedRoute) -> u8 {
    match route.class {
        RouteClass::RemoteBlock { .. } => 0,
        RouteClass::RemoteTunnelAddress { .. } => 1,
        RouteClass::LocalBlock => 2,
        RouteClass::LocalPod { .. } => 3,
    }
}

const fn route_key(route: &ExpectedRoute) -> (u8, IpNet) {
    (rank_of(route), route.dst)
}
