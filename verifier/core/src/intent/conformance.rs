//! Which outer address may carry which inner addresses: what the taps on the underlay check every tunnel packet against.
//!
//! Outgoing, the outer destination must be the node that owns the inner destination; incoming, the inner source must be one that the outer
//! source may send: its blocks, addresses it borrowed, its tunnel address. What several nodes claim is nobody's here and stays unjudged,
//! because the objects contradict each other and the packet cannot be blamed for it.

use super::node::{Encapsulation, NodeIntent, RouteClass};
use crate::names::NodeName;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// A prefix and who has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owned {
    /// A block, a borrowed address, or a tunnel address.
    pub prefix: IpNet,
    /// The node; none is the one the table is for.
    pub peer: Option<NodeName>,
    /// Its address on the underlay: the other end of the tunnel.
    pub host_ip: IpAddr,
    /// How traffic with it is meant to travel.
    pub encapsulation: Encapsulation,
}

/// Who has which addresses, as one node's taps need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConformanceTable {
    /// The node it is for.
    pub node: NodeName,
    /// By prefix, each once.
    pub owners: Vec<Owned>,
    /// Prefixes that several nodes claim: not judged.
    pub contested: Vec<IpNet>,
    /// [`Peer::arriving`](super::Peer::arriving), of the peers where it is not empty: how what they send is meant to come here.
    pub arriving: BTreeMap<NodeName, Vec<(IpNet, Encapsulation)>>,
    /// Pools: where pods' addresses come from.
    pub pools: Vec<IpNet>,
    /// VXLAN network identifier, if it can be resolved.
    pub vni: Option<u32>,
    /// Port of the tunnel, if it can be resolved.
    pub port: Option<u16>,
    /// Generation of the intent it was made from.
    pub generation: u64,
}

impl ConformanceTable {
    /// The table of one node.
    pub fn of(intent: &NodeIntent) -> Self {
        let mut claims: BTreeMap<IpNet, BTreeSet<Owned>> = BTreeMap::new();
        let mut claim = |prefix: IpNet, peer: Option<&NodeName>, hosts: (Option<IpAddr>, Option<IpAddr>), encapsulation| {
            let of_family = match prefix {
                IpNet::V4(_) => hosts.0.filter(IpAddr::is_ipv4),
                IpNet::V6(_) => hosts.1,
            };
            if let Some(host_ip) = of_family {
                claims.entry(prefix).or_default().insert(Owned {
                    prefix,
                    peer: peer.cloned(),
                    host_ip,
                    encapsulation,
                });
            }
        };
        let own = (intent.host_ip, intent.host_ip6);
        let default = intent.tunnels.first().map_or(Encapsulation::None, |t| t.encapsulation);
        for block in &intent.blocks {
            claim(*block, None, own, default);
        }
        for tunnel in &intent.tunnels {
            if let Some(ip) = tunnel.address {
                claim(IpNet::from(ip), None, own, tunnel.encapsulation);
            }
        }
        for route in &intent.routes {
            // A pod outside the node's own blocks: its address is borrowed.
            let borrowed = !intent.blocks.iter().any(|block| block.contains(&route.dst));
            if matches!(route.class, RouteClass::LocalPod { .. }) && route.required && borrowed {
                claim(route.dst, None, own, default);
            }
        }
        for (name, peer) in &intent.peers {
            let hosts = (peer.host_ip, peer.host_ip6);
            for (prefix, encapsulation) in &peer.prefixes {
                claim(*prefix, Some(name), hosts, *encapsulation);
            }
            let vxlan = |ip: IpAddr| peer.vtep_mac.is_some() || ip.is_ipv6();
            for ip in [peer.tunnel_ip, peer.tunnel_ip6].into_iter().flatten() {
                // As the block it was taken from: within a subnet even a tunnel's address is reached without the tunnel.
                let of_block = peer
                    .prefixes
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&ip))
                    .max_by_key(|(prefix, _)| prefix.prefix_len())
                    .map(|(_, encapsulation)| *encapsulation);
                let of_tunnel = if vxlan(ip) { Encapsulation::Vxlan } else { Encapsulation::Ipip };
                let encapsulation = of_block.unwrap_or(of_tunnel);
                claim(IpNet::from(ip), Some(name), hosts, encapsulation);
            }
        }
        let mut table = Self {
            node: intent.node.clone(),
            owners: Vec::with_capacity(claims.len()),
            contested: Vec::new(),
            arriving: intent
                .peers
                .iter()
                .filter(|(_, peer)| !peer.arriving.is_empty())
                .map(|(name, peer)| (name.clone(), peer.arriving.clone()))
                .collect(),
            pools: intent.pools.iter().map(|(cidr, _)| *cidr).collect(),
            vni: intent.settings.vxlan_vni.value().copied(),
            port: intent.settings.vxlan_port.value().copied(),
            generation: intent.generation,
        };
        for (prefix, mut owned) in claims {
            let nodes: BTreeSet<&Option<NodeName>> = owned.iter().map(|o| &o.peer).collect();
            if nodes.len() > 1 {
                table.contested.push(prefix);
            } else if let Some(one) = owned.pop_first() {
                table.owners.push(one);
            }
        }
        table
    }

    /// Who has an address: by the longest prefix. None if nobody, or if that is contested.
    pub fn owner_of(&self, ip: IpAddr) -> Option<&Owned> {
        let owned = self
            .owners
            .iter()
            .filter(|o| o.prefix.contains(&ip))
            .max_by_key(|o| o.prefix.prefix_len());
        let contested = self.contested.iter().filter(|net| net.contains(&ip)).map(IpNet::prefix_len).max();
        owned.filter(|o| contested.is_none_or(|length| length < o.prefix.prefix_len()))
    }
}
