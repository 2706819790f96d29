//! Where the objects contradict each other: causes of class datastore, each found by a function of its own that looks at one
//! [`Subject`]. A change of the objects names the subjects to look at again; nothing else is searched.

use super::{
    Cluster, Effects,
    facts::{AffinityFacts, BlockFacts, Family, NodeFacts, PodFacts, TunnelAddress},
};
use crate::{
    intent::node::{Contradiction, Encapsulation, PodPhase, Setting},
    names::{NodeName, PodRef},
    verdict::CauseCode,
};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// What may contradict itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// An address of pods.
    PodAddress(IpAddr),
    /// The allocation of a pod's address.
    Allocation(IpAddr),
    /// A block.
    Block(IpNet),
    /// The tunnel of a node.
    Tunnel(NodeName),
    /// A tunnel address.
    TunnelAddress(IpAddr),
    /// A node's address.
    NodeAddress(IpAddr),
    /// Who programs routes: by the settings that all nodes share, or on a node that has its own.
    RouteOwners(Option<NodeName>),
    /// VNI and port of a node's tunnel, beside those of the others.
    TunnelSettings(NodeName),
}

impl Cluster {
    /// Looks at everything. For a whole set of objects.
    pub(super) fn find_all_contradictions(&mut self) {
        let mut subjects: BTreeSet<Subject> = BTreeSet::new();
        for (ip, holders) in &self.pods_by_ip {
            if holders.iter().nth(1).is_some() {
                subjects.insert(Subject::PodAddress(*ip));
            }
            // An address that is allocated to the pod's own node is the rule; only the exceptions are worth a subject.
            if self.not_allocated(*ip).is_some() {
                subjects.insert(Subject::Allocation(*ip));
            }
        }
        subjects.extend(self.claims.keys().map(|net| Subject::Block(*net)));
        subjects.extend(self.blocks_by_cidr.keys().map(|net| Subject::Block(*net)));
        subjects.extend(self.nodes.keys().cloned().map(Subject::Tunnel));
        subjects.extend(self.route_owner_subjects());
        subjects.extend(self.nodes_by_tunnel.keys().map(|ip| Subject::TunnelAddress(*ip)));
        subjects.extend(self.nodes_by_host.keys().map(|ip| Subject::NodeAddress(*ip)));
        self.contradictions.clear();
        subjects.extend(self.note_tunnel_settings(None));
        let mut effects = Effects {
            recheck: subjects,
            ..Effects::default()
        };
        self.settle(&mut effects);
    }

    /// Looks at what a change put in doubt.
    pub(super) fn settle(&mut self, effects: &mut Effects) {
        let mut subjects = core::mem::take(&mut effects.recheck);
        // Which nodes need a tunnel follows from pools and settings.
        if effects.everyone {
            subjects.extend(self.nodes.keys().cloned().map(Subject::Tunnel));
            subjects.extend(self.route_owner_subjects());
            subjects.extend(self.note_tunnel_settings(None));
        } else {
            subjects.extend(effects.whole.iter().cloned().map(Subject::Tunnel));
            subjects.extend(effects.whole.iter().cloned().map(|name| Subject::RouteOwners(Some(name))));
            if !effects.whole.is_empty() {
                subjects.extend(self.note_tunnel_settings(Some(&effects.whole)));
            }
        }
        for subject in subjects {
            let found = self.examine(&subject);
            let before = self.contradictions.get(&subject);
            if before != found.as_ref() {
                effects.contradictions = true;
                match found {
                    Some(found) => {
                        self.contradictions.insert(subject, found);
                    }
                    None => {
                        self.contradictions.remove(&subject);
                    }
                }
            }
        }
    }

    fn examine(&self, subject: &Subject) -> Option<Contradiction> {
        match subject {
            Subject::PodAddress(ip) => duplicate_pod_ip(*ip, &self.live_holders(*ip)),
            Subject::Allocation(ip) => self.not_allocated(*ip),
            Subject::Block(cidr) => {
                let blocks = self.blocks_by_cidr.get(cidr).into_iter().flatten();
                let blocks: Vec<_> = blocks.filter_map(|name| self.blocks.get_key_value(name)).collect();
                let claims = self.claims.get(cidr).into_iter().flatten();
                let affinities: Vec<_> = claims
                    .filter(|c| c.by == super::index::ClaimBy::Affinity)
                    .filter_map(|c| self.affinities.get_key_value(&c.object))
                    .collect();
                block_two_owners(*cidr, &blocks, &affinities)
            }
            Subject::Tunnel(name) => {
                let facts = self.nodes.get(name)?;
                tunnel_address_missing(name, facts, &self.lacking_tunnels(name, facts))
            }
            Subject::TunnelAddress(ip) => {
                let nodes = self.nodes_by_tunnel.get(ip)?;
                let allocated = self.blocks_covering(*ip).find_map(|(_, names)| {
                    let block = names.first().and_then(|name| self.blocks.get(name))?;
                    block.allocation(*ip).flatten()
                });
                duplicate_tunnel_address(*ip, nodes, allocated)
            }
            Subject::TunnelSettings(node) => self.tunnel_settings_conflict(node),
            Subject::RouteOwners(node) => self.route_owner_conflict(node.as_ref()),
            Subject::NodeAddress(ip) => duplicate_node_address(*ip, self.nodes_by_host.get(ip)?),
        }
    }

    fn live_holders(&self, ip: IpAddr) -> Vec<(&PodRef, &PodFacts)> {
        let holders = self.pods_by_ip.get(&ip).into_iter().flat_map(super::index::Holders::iter);
        holders
            .filter_map(|pod| self.pods.get(pod).map(|facts| (&**pod, facts)))
            .filter(|(_, facts)| facts.is_live())
            .collect()
    }

    fn not_allocated(&self, ip: IpAddr) -> Option<Contradiction> {
        let (_, names) = self.blocks_covering(ip).next()?;
        let mut names = names.iter();
        let (block, None) = (self.blocks.get_key_value(names.next()?)?, names.next()) else {
            // Two blocks for one prefix are a contradiction of their own.
            return None;
        };
        let holders = self.pods_by_ip.get(&ip)?;
        if let super::index::Holders::One(pod) = holders
            && let Some(facts) = self.pods.get(pod)
            && block.1.allocation(ip) == Some(Some(&facts.node))
        {
            // The rule, and worth a short cut.
            return None;
        }
        pod_address_not_allocated(ip, block, &self.live_holders(ip))
    }

    /// Tunnels that a node must have by the pools that every node takes its tunnel address from, and for which it lacks something.
    fn lacking_tunnels(&self, name: &NodeName, facts: &NodeFacts) -> Vec<(Encapsulation, Family)> {
        let mut needed: Vec<_> = self
            .pools
            .values()
            .filter(|pool| pool.gives_tunnel_addresses)
            .map(|pool| (pool.encapsulation, Family::of_net(&pool.cidr)))
            .filter(|(encapsulation, family)| lacks(name, facts, *encapsulation, *family).is_some())
            .collect();
        needed.sort();
        needed.dedup();
        if needed.is_empty() {
            return needed;
        }
        let resolved = self.settings(name);
        let off = |setting: &Setting<Option<bool>>| !matches!(setting.value(), Some(None | Some(true)));
        needed.retain(|(encapsulation, family)| match (encapsulation, family) {
            (Encapsulation::Vxlan, Family::V4) => !off(&resolved.vxlan_enabled),
            (Encapsulation::Ipip, Family::V4) => !off(&resolved.ipip_enabled),
            (Encapsulation::Vxlan, Family::V6) => true,
            _ => false,
        });
        needed
    }
}

/// Two live pods with one address. Terminating and finished pods do not hold theirs any more.
fn duplicate_pod_ip(ip: IpAddr, holders: &[(&PodRef, &PodFacts)]) -> Option<Contradiction> {
    let [(_, first), rest @ ..] = holders else { return None };
    if rest.is_empty() {
        return None;
    }
    let one_node = rest.iter().all(|(_, facts)| facts.node == first.node);
    let who: Vec<String> = holders.iter().map(|(pod, facts)| format!("pod {pod} on {}", facts.node)).collect();
    Some(Contradiction {
        code: CauseCode::DuplicatePodIp,
        node: one_node.then(|| first.node.clone()),
        pods: holders.iter().map(|(pod, _)| (*pod).clone()).collect(),
        subject: ip.to_string(),
        evidence: format!("{} all hold {ip}", who.join(" and ")),
    })
}

/// The address of a running pod that its block has free, or allocated to another node. Nothing is said where the block is not known.
fn pod_address_not_allocated(ip: IpAddr, (name, block): (&String, &BlockFacts), holders: &[(&PodRef, &PodFacts)]) -> Option<Contradiction> {
    let [(pod, facts)] = holders else { return None };
    if facts.phase != PodPhase::Running || block.is_virtual {
        return None;
    }
    let what = match block.allocation(ip) {
        None => String::from("has it free"),
        Some(Some(node)) if *node != facts.node => format!("has it allocated to node {node}"),
        Some(_) => return None,
    };
    Some(Contradiction {
        code: CauseCode::PodAddressNotAllocated,
        node: Some(facts.node.clone()),
        pods: alloc::vec![(*pod).clone()],
        subject: ip.to_string(),
        evidence: format!("pod {pod} on {} holds {ip}, but IPAMBlock {name} {what}", facts.node),
    })
}

/// A block whose own affinity and whose confirmed BlockAffinity name different nodes, or two of either for one prefix.
fn block_two_owners(cidr: IpNet, blocks: &[(&String, &BlockFacts)], affinities: &[(&String, &AffinityFacts)]) -> Option<Contradiction> {
    let by_block = blocks
        .iter()
        .filter_map(|(name, block)| block.node.as_ref().map(|node| (node, format!("IPAMBlock {name} names {node}"))));
    let by_affinity = affinities
        .iter()
        .map(|(name, affinity)| (&affinity.node, format!("BlockAffinity {name} names {}", affinity.node)));
    let all: Vec<(&NodeName, String)> = by_block.chain(by_affinity).collect();
    let owners: BTreeSet<&NodeName> = all.iter().map(|(node, _)| *node).collect();
    (owners.len() > 1).then(|| Contradiction {
        code: CauseCode::BlockTwoOwners,
        node: None,
        pods: Vec::new(),
        subject: cidr.to_string(),
        evidence: all.into_iter().map(|(_, says)| says).collect::<Vec<_>>().join(", "),
    })
}

/// A node that must have a tunnel, without what it takes: its address or its tunnel address.
fn tunnel_address_missing(name: &NodeName, facts: &NodeFacts, needed: &[(Encapsulation, Family)]) -> Option<Contradiction> {
    let lacking = needed
        .iter()
        .filter_map(|(encapsulation, family)| lacks(name, facts, *encapsulation, *family));
    let mut lacking: Vec<String> = lacking.collect();
    lacking.dedup();
    if lacking.is_empty() {
        return None;
    }
    let what = lacking.join(", ");
    Some(Contradiction {
        code: CauseCode::TunnelAddressMissing,
        node: Some(name.clone()),
        pods: Vec::new(),
        subject: name.to_string(),
        evidence: format!("{what}, though a pool with encapsulation gives every node a tunnel"),
    })
}

/// What a node lacks for a tunnel, in words.
fn lacks(name: &NodeName, facts: &NodeFacts, encapsulation: Encapsulation, family: Family) -> Option<String> {
    let (key, address) = match (encapsulation, family) {
        (Encapsulation::Ipip, _) => ("projectcalico.org/IPv4IPIPTunnelAddr", &facts.ipip4),
        (_, Family::V4) => ("projectcalico.org/IPv4VXLANTunnelAddr", &facts.vxlan4),
        (_, Family::V6) => ("projectcalico.org/IPv6VXLANTunnelAddr", &facts.vxlan6),
    };
    match address {
        TunnelAddress::Missing => Some(format!("node {name} has no annotation {key}")),
        TunnelAddress::Unreadable(text) => Some(format!("annotation {key} of node {name} is {text:?}, which is not an address")),
        TunnelAddress::At(_) if facts.host(family).is_none_or(|h| !h.annotated) => {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            Some(format!(
                "node {name} has no annotation projectcalico.org/{family}Address, so it makes no VTEP"
            ))
        }
        TunnelAddress::At(_) => None,
    }
}

/// Two nodes with one tunnel address. Where IPAM records whom it is allocated to, the other one is to blame.
fn duplicate_tunnel_address(ip: IpAddr, nodes: &BTreeSet<NodeName>, allocated_to: Option<&NodeName>) -> Option<Contradiction> {
    if nodes.len() < 2 {
        return None;
    }
    let others: Vec<&NodeName> = nodes.iter().filter(|n| Some(*n) != allocated_to).collect();
    let blamed = match others.as_slice() {
        [one] => Some((*one).clone()),
        _ => None,
    };
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let ipam = allocated_to.map_or_else(String::new, |node| format!("; IPAM has it allocated to {node}"));
    Some(Contradiction {
        code: CauseCode::DuplicateTunnelAddress,
        node: blamed,
        pods: Vec::new(),
        subject: ip.to_string(),
        evidence: format!("nodes {} have tunnel address {ip}{ipam}", names.join(" and ")),
    })
}

/// Two nodes with one address.
fn duplicate_node_address(ip: IpAddr, nodes: &BTreeSet<NodeName>) -> Option<Contradiction> {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    (names.len() > 1).then(|| Contradiction {
        code: CauseCode::DuplicateNodeAddress,
        node: None,
        pods: Vec::new(),
        subject: ip.to_string(),
        evidence: format!("nodes {} have address {ip}", names.join(" and ")),
    })
}
