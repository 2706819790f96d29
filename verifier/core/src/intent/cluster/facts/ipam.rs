//! Pools, blocks and affinities (calico.md 3.2 to 3.4).

use crate::{
    intent::{
        node::Encapsulation,
        objects::{self, EncapsulationMode},
    },
    names::NodeName,
};
use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::net::IpAddr;
use ipnet::IpNet;

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolFacts {
    pub(crate) cidr: IpNet,
    pub(crate) encapsulation: Encapsulation,
    pub(crate) cross_subnet: bool,
    /// For load balancers only: it counts as no pool for routes.
    pub(crate) load_balancer_only: bool,
    /// Whether every node gets a tunnel address from it, as far as can be told without evaluating selectors.
    pub(crate) gives_tunnel_addresses: bool,
}

impl PoolFacts {
    pub(crate) fn of(pool: &objects::IpPool) -> Self {
        let spec = &pool.spec;
        let (encapsulation, mode) = if spec.vxlan_mode != EncapsulationMode::Never {
            (Encapsulation::Vxlan, spec.vxlan_mode)
        } else if spec.ipip_mode != EncapsulationMode::Never {
            (Encapsulation::Ipip, spec.ipip_mode)
        } else {
            (Encapsulation::None, EncapsulationMode::Never)
        };
        let uses = |what: &str| spec.allowed_uses.is_empty() || spec.allowed_uses.iter().any(|u| u == what);
        let selector = spec.node_selector.trim();
        Self {
            cidr: spec.cidr.trunc(),
            encapsulation,
            cross_subnet: mode == EncapsulationMode::CrossSubnet,
            load_balancer_only: !uses("Workload") && !uses("Tunnel"),
            gives_tunnel_addresses: encapsulation != Encapsulation::None
                && !spec.disabled
                && uses("Tunnel")
                && (selector.is_empty() || selector == "all()"),
        }
    }

    /// As people write it.
    pub(crate) fn mode(&self) -> String {
        let name = match self.encapsulation {
            Encapsulation::Vxlan => "VXLAN",
            Encapsulation::Ipip => "IPIP",
            Encapsulation::None => return String::from("no encapsulation"),
        };
        format!("{name} {}", if self.cross_subnet { "CrossSubnet" } else { "Always" })
    }
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockFacts {
    pub(crate) cidr: IpNet,
    /// The node of a `host:` affinity.
    pub(crate) node: Option<NodeName>,
    /// Of a virtual owner (load balancers): nobody routes it.
    pub(crate) is_virtual: bool,
    /// By position in the block: none where the address is free, else whom it is allocated to.
    allocations: Box<[Option<Allocated>]>,
    /// The nodes that [`Allocated::Node`] numbers.
    allocated_to: Vec<NodeName>,
}

/// Whom an address is allocated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allocated {
    /// The allocation does not say.
    Unknown,
    /// A node, by its place in [`BlockFacts::allocated_to`].
    Node(u32),
}

impl BlockFacts {
    pub(crate) fn of(block: &objects::IpamBlock) -> Self {
        let spec = &block.spec;
        let affinity = spec.affinity.as_deref().unwrap_or_default();
        let mut allocated_to: Vec<NodeName> = Vec::new();
        let mut allocate = |index: usize| {
            let named = spec.attributes.get(index).and_then(|a| a.secondary.get("node"));
            let Some(name) = named else { return Allocated::Unknown };
            let at = allocated_to.iter().position(|held| held.0 == *name).unwrap_or_else(|| {
                allocated_to.push(NodeName(name.clone()));
                allocated_to.len() - 1
            });
            u32::try_from(at).map_or(Allocated::Unknown, Allocated::Node)
        };
        let allocations = spec.allocations.iter().map(|slot| slot.map(&mut allocate)).collect();
        Self {
            cidr: spec.cidr.trunc(),
            node: affinity.strip_prefix("host:").map(NodeName::from),
            is_virtual: affinity.starts_with("virtual:"),
            allocations,
            allocated_to,
        }
    }

    /// Addresses that belong to another node than the block does.
    pub(crate) fn borrowed(&self) -> impl Iterator<Item = (IpAddr, &NodeName)> {
        let taken = (0_u32..).zip(&self.allocations);
        let own = self.allocated_to.len() == 1 && self.allocated_to.first() == self.node.as_ref();
        taken
            .filter(move |_| !own)
            .filter_map(|(at, slot)| Some((nth(&self.cidr, at)?, self.name((*slot)?)?)))
            .filter(|(_, node)| self.node.as_ref() != Some(*node))
    }

    fn name(&self, allocated: Allocated) -> Option<&NodeName> {
        match allocated {
            Allocated::Unknown => None,
            Allocated::Node(at) => self.allocated_to.get(at as usize),
        }
    }

    /// How `ip` is allocated: none if it is free, else the node it is allocated to, where that is recorded.
    pub(crate) fn allocation(&self, ip: IpAddr) -> Option<Option<&NodeName>> {
        let at = position(&self.cidr, ip)?;
        let slot = self.allocations.get(at as usize).copied().flatten();
        slot.map(|allocated| self.name(allocated))
    }
}

/// The address at a position of a block.
fn nth(cidr: &IpNet, at: u32) -> Option<IpAddr> {
    match cidr.network() {
        IpAddr::V4(base) => u32::from(base).checked_add(at).map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(base) => u128::from(base).checked_add(u128::from(at)).map(|a| IpAddr::V6(a.into())),
    }
    .filter(|ip| cidr.contains(ip))
}

/// The position of an address in a block.
fn position(cidr: &IpNet, ip: IpAddr) -> Option<u32> {
    match (cidr.network(), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => u32::from(ip).checked_sub(u32::from(base)),
        (IpAddr::V6(base), IpAddr::V6(ip)) => u128::from(ip).checked_sub(u128::from(base)).and_then(|d| u32::try_from(d).ok()),
        _ => None,
    }
}

/// A node's claim to a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AffinityFacts {
    pub(crate) cidr: IpNet,
    pub(crate) node: NodeName,
    pub(crate) confirmed: bool,
}

impl AffinityFacts {
    /// None for those of virtual owners and those being deleted.
    pub(crate) fn of(affinity: &objects::BlockAffinity) -> Option<Self> {
        let spec = &affinity.spec;
        let of_host = spec.kind.is_empty() || spec.kind == "host";
        (of_host && spec.deleted.0 != "true" && !spec.node.is_empty()).then(|| Self {
            cidr: spec.cidr.trunc(),
            node: NodeName(spec.node.clone()),
            confirmed: spec.state == "confirmed",
        })
    }
}
