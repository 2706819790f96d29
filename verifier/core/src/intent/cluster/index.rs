//! Keeping the indexes in step with the objects: who claims which prefix, which pods hold which address, which nodes have which.

use super::{
    Cluster, Effects,
    contradictions::Subject,
    facts::{AffinityFacts, AgentPod, BlockFacts, Family, NodeFacts, PodFacts, host_net},
};
use crate::names::{NodeName, PodRef};
use alloc::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// A node's claim to a prefix, with the object that makes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) node: NodeName,
    pub(crate) by: ClaimBy,
    /// Name of the object.
    pub(crate) object: String,
}

/// What makes a [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimBy {
    /// A block's own affinity.
    Block,
    /// An allocation of one address of a block to a node that does not own the block.
    Borrowed,
    /// A confirmed BlockAffinity. It makes no route by itself; it can contradict the block.
    Affinity,
}

/// The pods that hold an address: nearly always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    One(Arc<PodRef>),
    Many(BTreeSet<Arc<PodRef>>),
}

impl Holders {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PodRef>> {
        let (one, many) = match self {
            Self::One(pod) => (Some(pod), None),
            Self::Many(pods) => (None, Some(pods)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, pod: Arc<PodRef>) {
        match self {
            Self::One(held) if *held == pod => {}
            Self::One(held) => *self = Self::Many(BTreeSet::from([held.clone(), pod])),
            Self::Many(held) => {
                held.insert(pod);
            }
        }
    }

    /// What is left without `pod`; none if nothing.
    fn without(self, pod: &PodRef) -> Option<Self> {
        match self {
            Self::One(held) => (*held != *pod).then_some(Self::One(held)),
            Self::Many(mut held) => {
                held.remove(pod);
                match held.len() {
                    0 => None,
                    1 => held.pop_first().map(Self::One),
                    _ => Some(Self::Many(held)),
                }
            }
        }
    }
}

fn add<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}

fn take<K: Ord, V: Ord + core::borrow::Borrow<Q>, Q: Ord + ?Sized>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: &Q) {
    if let Entry::Occupied(mut slot) = map.entry(key) {
        slot.get_mut().remove(value);
        if slot.get().is_empty() {
            slot.remove();
        }
    }
}

impl Cluster {
    pub(super) fn set_node(&mut self, name: NodeName, new: Option<NodeFacts>, effects: &mut Effects) {
        let old = self.nodes.get(&name);
        if old == new.as_ref() {
            return;
        }
        if let (Some(old), Some(facts)) = (old, &new)
            && old.same_dataplane(facts)
        {
            effects.claims.insert(name.clone());
            self.nodes.extend(new.map(|facts| (name, facts)));
            return;
        }
        effects.whole.insert(name.clone());
        effects.peers.insert(name.clone());
        effects.recheck.insert(Subject::Tunnel(name.clone()));
        if let Some(old) = self.nodes.remove(&name) {
            self.index_node(&name, &old, false, effects);
        }
        if let Some(new) = new {
            self.index_node(&name, &new, true, effects);
            self.nodes.insert(name.clone(), new);
        }
        let claimed = self.nets_by_node.get(&name).into_iter().flat_map(BTreeMap::keys);
        effects.nets.extend(claimed);
        // With `routeSource: WorkloadIPs` routes lead to pods instead of blocks.
        let pods = self.pods_by_node.get(&name).into_iter().flatten();
        let addresses = pods.filter_map(|pod| self.pods.get(pod)).flat_map(|facts| &facts.addresses);
        effects.pod_nets.extend(addresses.map(|ip| host_net(*ip)));
    }

    fn index_node(&mut self, name: &NodeName, facts: &NodeFacts, present: bool, effects: &mut Effects) {
        for ip in facts.host_addresses() {
            if present {
                add(&mut self.nodes_by_host, ip, name.clone());
            } else {
                take(&mut self.nodes_by_host, ip, name);
            }
            effects.recheck.insert(Subject::NodeAddress(ip));
        }
        for ip in facts.tunnel_addresses() {
            // Whoever shares the address is seen otherwise than before, too.
            effects.peers.extend(self.nodes_by_tunnel.get(&ip).into_iter().flatten().cloned());
            if present {
                add(&mut self.nodes_by_tunnel, ip, name.clone());
            } else {
                take(&mut self.nodes_by_tunnel, ip, name);
            }
            effects.peers.extend(self.nodes_by_tunnel.get(&ip).into_iter().flatten().cloned());
            effects.nets.insert(host_net(ip));
            effects.recheck.insert(Subject::TunnelAddress(ip));
        }
        if present && !facts.unreadable.is_empty() {
            self.unreadable.insert(name.clone());
        } else {
            self.unreadable.remove(name);
        }
    }

    pub(super) fn set_agent(&mut self, key: &PodRef, new: Option<AgentPod>, effects: &mut Effects) {
        let old = self.agents.get(key);
        if old == new.as_ref() {
            return;
        }
        let claim_only = match (old, &new) {
            (Some(old), Some(new)) => old.node == new.node && old.container == new.container && old.host_ip == new.host_ip,
            _ => false,
        };
        let nodes = old.iter().map(|p| &p.node).chain(new.as_ref().map(|p| &p.node));
        // Which of several pods speaks for the node may change with readiness; the settings are then another container's.
        for node in nodes {
            if claim_only && self.agents_by_node.get(node).is_some_and(|all| all.len() == 1) {
                effects.claims.insert(node.clone());
            } else {
                effects.whole.insert(node.clone());
            }
        }
        if let Some(old) = self.agents.remove(key) {
            take(&mut self.agents_by_node, old.node, key);
        }
        if let Some(new) = new {
            add(&mut self.agents_by_node, new.node.clone(), key.clone());
            self.agents.insert(key.clone(), new);
        }
    }

    pub(super) fn set_pod(&mut self, key: PodRef, new: Option<PodFacts>, effects: &mut Effects) {
        let old = self.pods.get(&key);
        if old == new.as_ref() {
            return;
        }
        for facts in old.into_iter().chain(new.as_ref()) {
            effects.peer_pods.insert(facts.node.clone());
            effects.workloads.insert((facts.node.clone(), key.clone()));
            for ip in &facts.addresses {
                effects.nets.insert(host_net(*ip));
                effects.recheck.insert(Subject::PodAddress(*ip));
                effects.recheck.insert(Subject::Allocation(*ip));
                // Whoever shares the address is seen otherwise than before, too.
                let sharing = self.pods_by_ip.get(ip).into_iter().flat_map(Holders::iter);
                let nodes = sharing.filter_map(|pod| self.pods.get(pod)).map(|facts| facts.node.clone());
                effects.peer_pods.extend(nodes);
            }
        }
        if let Some((key, old)) = self.pods.remove_entry(&key) {
            for ip in &old.addresses {
                if let Some(holders) = self.pods_by_ip.remove(ip).and_then(|h| h.without(&key)) {
                    self.pods_by_ip.insert(*ip, holders);
                }
            }
            take(&mut self.pods_by_node, old.node, &key);
        }
        if let Some(new) = new {
            let key = Arc::new(key);
            for ip in &new.addresses {
                match self.pods_by_ip.entry(*ip) {
                    Entry::Vacant(slot) => {
                        slot.insert(Holders::One(key.clone()));
                    }
                    Entry::Occupied(mut slot) => slot.get_mut().insert(key.clone()),
                }
            }
            add(&mut self.pods_by_node, new.node.clone(), key.clone());
            self.pods.insert(key, new);
        }
    }

    /// Takes all pods at once, in order of namespace and name. Sorted input lets the maps be built instead of searched.
    pub(super) fn load_pods(&mut self, pods: Vec<(Arc<PodRef>, PodFacts)>) {
        let mut by_node: BTreeMap<NodeName, Vec<Arc<PodRef>>> = BTreeMap::new();
        let mut by_ip: Vec<(IpAddr, Arc<PodRef>)> = Vec::with_capacity(pods.len());
        for (key, facts) in &pods {
            by_ip.extend(facts.addresses.iter().map(|ip| (*ip, key.clone())));
            match by_node.get_mut(&facts.node) {
                Some(of_node) => of_node.push(key.clone()),
                None => {
                    by_node.insert(facts.node.clone(), Vec::from([key.clone()]));
                }
            }
        }
        self.pods = pods.into_iter().collect();
        self.pods_by_node = by_node.into_iter().map(|(node, pods)| (node, pods.into_iter().collect())).collect();
        by_ip.sort_by_key(|(ip, _)| *ip);
        self.pods_by_ip = by_ip
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(|group| match group {
                [] => None,
                [(ip, pod)] => Some((*ip, Holders::One(pod.clone()))),
                [(ip, _), ..] => {
                    let pods: BTreeSet<_> = group.iter().map(|(_, pod)| pod.clone()).collect();
                    // A pod that lists one address twice holds it once.
                    match pods.len() {
                        1 => pods.into_iter().next().map(|pod| (*ip, Holders::One(pod))),
                        _ => Some((*ip, Holders::Many(pods))),
                    }
                }
            })
            .collect();
    }

    pub(super) fn set_block(&mut self, name: String, new: Option<BlockFacts>, effects: &mut Effects) {
        if self.blocks.get(&name) == new.as_ref() {
            return;
        }
        if let Some(old) = self.blocks.remove(&name) {
            self.touch_inside(&old.cidr, effects);
            self.index_block(&name, &old, false, effects);
            self.touch_inside(&old.cidr, effects);
        }
        if let Some(new) = new {
            let cidr = new.cidr;
            self.touch_inside(&cidr, effects);
            self.index_block(&name, &new, true, effects);
            self.blocks.insert(name, new);
            self.touch_inside(&cidr, effects);
        }
    }

    fn index_block(&mut self, name: &str, block: &BlockFacts, present: bool, effects: &mut Effects) {
        let length = (Family::of_net(&block.cidr), block.cidr.prefix_len());
        if present {
            *self.block_lengths.entry(length).or_default() += 1;
            add(&mut self.blocks_by_cidr, block.cidr, String::from(name));
        } else {
            if let Entry::Occupied(mut slot) = self.block_lengths.entry(length) {
                *slot.get_mut() -= 1;
                if *slot.get() == 0 {
                    slot.remove();
                }
            }
            take(&mut self.blocks_by_cidr, block.cidr, name);
        }
        if let Some(node) = &block.node {
            self.claim(block.cidr, node, ClaimBy::Block, name, present);
        }
        if !block.is_virtual {
            for (ip, node) in block.borrowed() {
                effects.nets.insert(host_net(ip));
                self.claim(host_net(ip), node, ClaimBy::Borrowed, name, present);
            }
        }
        effects.recheck.insert(Subject::Block(block.cidr));
    }

    pub(super) fn set_affinity(&mut self, name: String, new: Option<AffinityFacts>, effects: &mut Effects) {
        if self.affinities.get(&name) == new.as_ref() {
            return;
        }
        let old = self.affinities.remove(&name);
        for (facts, present) in old.iter().map(|f| (f, false)).chain(new.iter().map(|f| (f, true))) {
            self.touch_inside(&facts.cidr, effects);
            if facts.confirmed {
                self.claim(facts.cidr, &facts.node, ClaimBy::Affinity, &name, present);
            }
            self.touch_inside(&facts.cidr, effects);
            effects.recheck.insert(Subject::Block(facts.cidr));
        }
        if let Some(new) = new {
            self.affinities.insert(name, new);
        }
    }

    fn claim(&mut self, net: IpNet, node: &NodeName, by: ClaimBy, object: &str, present: bool) {
        let claim = Claim {
            node: node.clone(),
            by,
            object: String::from(object),
        };
        if present {
            add(&mut self.claims, net, claim);
            *self.nets_by_node.entry(node.clone()).or_default().entry(net).or_default() += 1;
            return;
        }
        take(&mut self.claims, net, &claim);
        if let Entry::Occupied(mut nets) = self.nets_by_node.entry(node.clone()) {
            if let Entry::Occupied(mut count) = nets.get_mut().entry(net) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if nets.get().is_empty() {
                nets.remove();
            }
        }
    }

    /// Everything inside a block that may be seen otherwise once its owner changes: what is claimed there and by whom, tunnel addresses,
    /// pods.
    fn touch_inside(&self, cidr: &IpNet, effects: &mut Effects) {
        effects.nets.insert(*cidr);
        let inside = self.claims.range(*cidr..).take_while(|(net, _)| cidr.contains(*net));
        for (net, claims) in inside {
            effects.nets.insert(*net);
            effects.peers.extend(claims.iter().map(|c| c.node.clone()));
        }
        // The range above starts at the block itself; an address range covers what has no prefix of its own.
        let addresses = cidr.network()..=last_address(cidr);
        for (ip, nodes) in self.nodes_by_tunnel.range(addresses.clone()) {
            effects.nets.insert(host_net(*ip));
            effects.peers.extend(nodes.iter().cloned());
            effects.recheck.insert(Subject::TunnelAddress(*ip));
        }
        for (ip, _) in self.pods_by_ip.range(addresses) {
            effects.recheck.insert(Subject::Allocation(*ip));
        }
    }

    /// The blocks that hold an address, the longest prefix first.
    pub(super) fn blocks_covering(&self, ip: IpAddr) -> impl Iterator<Item = (IpNet, &BTreeSet<String>)> {
        self.lengths_of(Family::of(&ip)).filter_map(move |length| {
            let net = IpNet::new(ip, length).ok()?.trunc();
            self.blocks_by_cidr.get_key_value(&net).map(|(net, names)| (*net, names))
        })
    }

    /// Prefix lengths of blocks in a family, the longest first.
    pub(super) fn lengths_of(&self, family: Family) -> impl Iterator<Item = u8> {
        self.block_lengths
            .range((family, 0)..=(family, u8::MAX))
            .rev()
            .map(|((_, length), _)| *length)
    }
}

pub(super) fn last_address(cidr: &IpNet) -> IpAddr {
    // Of a network, not of an address: `broadcast` is the last address for both families.
    cidr.broadcast()
}
