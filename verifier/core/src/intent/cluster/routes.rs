//! Routes of one node to one prefix, by calico.md 3.8 steps 5, 6 and 11.

use super::{
    Cluster,
    facts::{Family, NodeFacts, PoolFacts, host_net, is_host_length, single_address},
    index::ClaimBy,
    settings::{Resolved, Version},
};
use crate::{
    intent::{
        derive::{self, PROTOCOL_BIRD, PROTOCOL_BOOT, PROTOCOL_FELIX},
        node::{Dataplane, Encapsulation, ExpectedDevice, ExpectedRoute, Owner, RouteClass},
    },
    names::NodeName,
};
use alloc::{collections::BTreeSet, string::ToString, vec::Vec};
use core::net::IpAddr;
use ipnet::IpNet;

/// One node as the place from which the cluster is looked at.
pub(super) struct View<'a> {
    pub(super) node: &'a NodeName,
    pub(super) facts: &'a NodeFacts,
    pub(super) resolved: Resolved,
    pub(super) vxlan4: bool,
    pub(super) vxlan6: bool,
    pub(super) ipip: bool,
}

impl View<'_> {
    pub(super) const fn vxlan(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.vxlan4,
            Family::V6 => self.vxlan6,
        }
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.resolved.settings.calico_version
    }

    /// Whether Felix programs routes. Where that cannot be told, none is demanded of it.
    fn felix_programs(&self) -> bool {
        self.resolved.settings.route_sync_disabled.value() == Some(&false)
    }

    /// `routeSource: WorkloadIPs`: routes lead to pods, not to blocks.
    pub(super) fn follows_pods(&self) -> bool {
        self.resolved.workload_ips.value() == Some(&true)
    }

    pub(super) fn is_bpf(&self) -> bool {
        self.resolved.settings.dataplane.value() == Some(&Dataplane::Bpf)
    }

    /// Protocol of tunnel and pod routes; none if the setting cannot be resolved.
    fn device_protocol(&self) -> Option<u8> {
        self.resolved.settings.device_route_protocol.value().copied()
    }

    /// Protocol of Felix's other routes: 80, or the device routes' if somebody chose one.
    fn felix_protocol(&self) -> Option<u8> {
        self.device_protocol().map(|p| if p == PROTOCOL_BOOT { PROTOCOL_FELIX } else { p })
    }

    fn source(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.resolved.route_source_v4,
            Family::V6 => self.resolved.route_source_v6,
        }
    }

    /// The `mtu` metric of tunnel routes: from 3.31 on, where the MTU is configured.
    fn route_mtu(&self, encapsulation: Encapsulation, family: Family) -> Option<u32> {
        self.version().filter(|v| *v >= (3, 31, 0))?;
        match (encapsulation, family) {
            (Encapsulation::Vxlan, Family::V4) => self.resolved.settings.vxlan_mtu.as_ref()?.value().copied(),
            (Encapsulation::Vxlan, Family::V6) => self.resolved.vxlan_mtu_v6,
            (Encapsulation::Ipip, _) => self.resolved.ipip_mtu,
            (Encapsulation::None, _) => None,
        }
    }

    pub(super) const fn vxlan_device(family: Family) -> &'static str {
        match family {
            Family::V4 => derive::VXLAN_DEVICE,
            Family::V6 => derive::VXLAN_DEVICE_V6,
        }
    }

    /// Who programs routes of a pool of this encapsulation on this node; none if nobody does, or nobody can tell.
    fn owner(&self, encapsulation: Encapsulation, family: Family) -> Option<Owner> {
        let of = |routes: &super::settings::ClusterRoutes| match encapsulation {
            Encapsulation::Ipip => routes.ipip,
            _ => routes.no_encap,
        };
        match encapsulation {
            Encapsulation::Vxlan => self.vxlan(family).then_some(Owner::Felix),
            _ => {
                let felix = self.resolved.felix_routes.value().map(of)?;
                let bird = self.resolved.bird_routes.value().map(of)?;
                match (felix, bird) {
                    (true, _) => Some(Owner::Felix),
                    (false, true) => Some(Owner::Bird),
                    (false, false) => None,
                }
            }
        }
    }
}

/// Who owns a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Nobody.
    None,
    /// One node.
    One(NodeName),
    /// Several, or what lies inside a block that several own: a contradiction, from which no demand on the kernel follows.
    Contested(BTreeSet<NodeName>),
}

impl Cluster {
    /// Who owns exactly this prefix.
    pub(super) fn ownership(&self, net: &IpNet) -> Ownership {
        let owners = self.claimants(net);
        let inherited = self.is_inside_contested(net);
        match owners.len() {
            0 => Ownership::None,
            1 if !inherited => owners.into_iter().next().map_or(Ownership::None, Ownership::One),
            _ => Ownership::Contested(owners),
        }
    }

    /// The nodes that some block or loan gives the prefix to. A BlockAffinity counts only beside a block.
    fn claimants(&self, net: &IpNet) -> BTreeSet<NodeName> {
        let Some(claims) = self.claims.get(net) else {
            return BTreeSet::new();
        };
        let of = |by: ClaimBy| claims.iter().filter(move |c| c.by == by).map(|c| c.node.clone());
        let loans: BTreeSet<NodeName> = of(ClaimBy::Borrowed).collect();
        if !loans.is_empty() {
            // Several refs on one prefix: the first by name wins (calico.md 3.8, step 5).
            return loans.into_iter().take(1).collect();
        }
        let mut owners: BTreeSet<NodeName> = of(ClaimBy::Block).collect();
        if !owners.is_empty() {
            owners.extend(of(ClaimBy::Affinity));
        }
        owners
    }

    /// Whether a shorter prefix that covers this one is claimed by several nodes.
    pub(super) fn is_inside_contested(&self, net: &IpNet) -> bool {
        let mut shorter = self.lengths_of(Family::of_net(net)).filter(|length| *length < net.prefix_len());
        shorter.any(|length| IpNet::new(net.addr(), length).is_ok_and(|cover| self.claimants(&cover.trunc()).len() > 1))
    }

    /// The pool a prefix lies in: of several the longest. Load-balancer pools count as none.
    pub(super) fn pool_of(&self, net: &IpNet) -> Option<&PoolFacts> {
        let covering = self.pools.values().filter(|pool| pool.cidr.contains(net));
        covering
            .max_by_key(|pool| pool.cidr.prefix_len())
            .filter(|pool| !pool.load_balancer_only)
    }

    /// How traffic from the node looked from travels to a prefix of `peer`.
    pub(super) fn encapsulation_towards(&self, view: &View<'_>, peer: &NodeFacts, net: &IpNet) -> Encapsulation {
        match self.pool_of(net) {
            None => Encapsulation::None,
            Some(pool) if is_same_subnet(view, peer, pool, Family::of_net(net)) => Encapsulation::None,
            Some(pool) => pool.encapsulation,
        }
    }

    /// Every route that the node must, or may, have to exactly this prefix.
    pub(super) fn routes_to(&self, view: &View<'_>, net: IpNet, out: &mut Vec<ExpectedRoute>) {
        let address = single_address(&net);
        if let Some(ip) = address {
            self.pod_routes(view, ip, out);
        }
        let local_pod = address.is_some_and(|ip| self.local_holders(view.node, ip).next().is_some());
        if local_pod {
            // LocalWorkload is the strongest class (calico.md 1.4).
            return;
        }
        if let Some(ip) = address
            && self.tunnel_route(view, ip, net, out)
        {
            return;
        }
        let owner = if view.follows_pods() {
            address.and_then(|ip| self.only_live_holder_node(ip))
        } else {
            match self.ownership(&net) {
                Ownership::One(owner) => Some(owner),
                Ownership::None | Ownership::Contested(_) => None,
            }
        };
        let (Some(owner), Some(pool)) = (owner, self.pool_of(&net)) else {
            return;
        };
        if owner == *view.node {
            self.blackhole(view, net, pool, out);
        } else {
            self.remote_route(view, net, pool, &owner, out);
        }
    }

    fn local_holders(&self, node: &NodeName, ip: IpAddr) -> impl Iterator<Item = (&crate::names::PodRef, &super::facts::PodFacts)> {
        let holders = self.pods_by_ip.get(&ip).into_iter().flat_map(super::index::Holders::iter);
        holders
            .filter_map(|pod| self.pods.get(pod).map(|facts| (&**pod, facts)))
            .filter(move |(_, facts)| facts.node == *node)
    }

    /// `routeSource: WorkloadIPs`: the node of the pod that holds the address, if it is one pod.
    pub(super) fn only_live_holder_node(&self, ip: IpAddr) -> Option<NodeName> {
        let holders = self.pods_by_ip.get(&ip)?.iter();
        let mut live = holders.filter_map(|pod| self.pods.get(pod)).filter(|facts| facts.is_live());
        match (live.next(), live.next()) {
            (Some(facts), None) => Some(facts.node.clone()),
            _ => None,
        }
    }

    fn pod_routes(&self, view: &View<'_>, ip: IpAddr, out: &mut Vec<ExpectedRoute>) {
        let shared = self
            .pods_by_ip
            .get(&ip)
            .is_some_and(|holders| holders.iter().filter_map(|p| self.pods.get(p)).filter(|f| f.is_live()).count() > 1);
        for (pod, facts) in self.local_holders(view.node, ip) {
            out.push(ExpectedRoute {
                dst: host_net(ip),
                class: RouteClass::LocalPod { pod: pod.clone() },
                device: Some(ExpectedDevice::Named(derive::veth_name(&view.resolved.veth_prefix, pod))),
                gateway: None,
                onlink: false,
                protocol: view.device_protocol(),
                src: view.source(Family::of(&ip)),
                mtu: None,
                owner: Owner::Cni,
                // While it terminates the route goes; of two pods with one address only one can have it.
                required: !facts.terminating && !shared,
            });
        }
    }

    /// The route to a peer's tunnel address, if `ip` is one that Felix routes apart. True if nothing else is to be said of the prefix.
    ///
    /// Required from 3.29.2 on where the peer's own block does not cover it; 3.30 and 3.31 leave spurious ones behind; earlier there is
    /// none (calico.md 1.4).
    fn tunnel_route(&self, view: &View<'_>, ip: IpAddr, net: IpNet, out: &mut Vec<ExpectedRoute>) -> bool {
        let family = Family::of(&ip);
        let owners = self.nodes_by_tunnel.get(&ip).into_iter().flatten();
        let peers: Vec<_> = owners
            .filter_map(|name| self.nodes.get_key_value(name))
            .filter(|(_, facts)| facts.vxlan(family).ip() == Some(ip))
            .collect();
        let &[(peer, facts)] = peers.as_slice() else {
            return !peers.is_empty();
        };
        let Some(pool) = self.pool_of(&net).filter(|pool| pool.encapsulation == Encapsulation::Vxlan) else {
            return false;
        };
        if peer == view.node || !view.vxlan(family) || view.facts.vtep(family).is_none() || facts.vtep(family).is_none() {
            return true;
        }
        let block = self.blocks_covering(ip).next();
        let own_block = block
            .is_some_and(|(cidr, _)| !is_host_length(&cidr) && matches!(self.ownership(&cidr), Ownership::One(owner) if owner == *peer));
        let contested = self.is_inside_contested(&net);
        let version = view.version();
        let (possible, required) = match version {
            None => (true, false),
            Some(v) if own_block || block.is_none() => (((3, 30, 0)..(3, 32, 0)).contains(&v), false),
            Some(v) => (v >= (3, 29, 2), v >= (3, 29, 2) && !contested && view.felix_programs()),
        };
        if !possible {
            return true;
        }
        let host = facts.host(family);
        let direct = is_same_subnet(view, facts, pool, family);
        out.push(ExpectedRoute {
            dst: net,
            class: RouteClass::RemoteTunnelAddress { peer: peer.clone() },
            device: Some(if direct {
                ExpectedDevice::Parent
            } else {
                ExpectedDevice::Named(View::vxlan_device(family).to_string())
            }),
            gateway: host.filter(|_| direct).map(|h| h.ip),
            onlink: direct,
            protocol: if direct { view.felix_protocol() } else { view.device_protocol() },
            src: view.source(family),
            mtu: if direct {
                None
            } else {
                view.route_mtu(Encapsulation::Vxlan, family)
            },
            owner: Owner::Felix,
            required,
        });
        true
    }

    /// The blackhole of an own block: none for a single address.
    fn blackhole(&self, view: &View<'_>, net: IpNet, pool: &PoolFacts, out: &mut Vec<ExpectedRoute>) {
        let family = Family::of_net(&net);
        let Some(owner) = view.owner(pool.encapsulation, family).filter(|_| !is_host_length(&net)) else {
            return;
        };
        let felix = owner == Owner::Felix;
        out.push(ExpectedRoute {
            dst: net,
            class: RouteClass::LocalBlock,
            device: None,
            gateway: None,
            onlink: false,
            protocol: if felix { view.felix_protocol() } else { Some(PROTOCOL_BIRD) },
            src: None,
            mtu: None,
            owner,
            required: !felix || (view.felix_programs() && !self.blackholes_get_lost(view)),
        });
    }

    /// 3.31 and 3.32: with pools of several kinds programmed by Felix, the last manager to write removes the others' blackholes
    /// (calico.md 1.9).
    fn blackholes_get_lost(&self, view: &View<'_>) -> bool {
        let affected = view.version().is_none_or(|v| ((3, 31, 0)..(3, 33, 0)).contains(&v));
        let kinds: BTreeSet<Encapsulation> = self
            .pools
            .values()
            .filter(|pool| view.owner(pool.encapsulation, Family::of_net(&pool.cidr)) == Some(Owner::Felix))
            .map(|pool| pool.encapsulation)
            .collect();
        affected && kinds.len() > 1
    }

    fn remote_route(&self, view: &View<'_>, net: IpNet, pool: &PoolFacts, peer: &NodeName, out: &mut Vec<ExpectedRoute>) {
        let family = Family::of_net(&net);
        let Some(facts) = self.nodes.get(peer) else { return };
        let Some(owner) = view.owner(pool.encapsulation, family) else {
            return;
        };
        let direct = is_same_subnet(view, facts, pool, family);
        let encapsulation = if direct { Encapsulation::None } else { pool.encapsulation };
        let Some(shape) = shape(view, facts, encapsulation, owner, family) else {
            return;
        };
        out.push(ExpectedRoute {
            dst: net,
            class: RouteClass::RemoteBlock {
                peer: peer.clone(),
                encapsulation,
            },
            device: shape.device,
            gateway: shape.gateway,
            onlink: shape.onlink,
            protocol: match owner {
                Owner::Bird => Some(PROTOCOL_BIRD),
                _ if encapsulation == Encapsulation::Vxlan => view.device_protocol(),
                _ => view.felix_protocol(),
            },
            src: if owner == Owner::Bird { None } else { view.source(family) },
            mtu: if owner == Owner::Bird {
                None
            } else {
                view.route_mtu(encapsulation, family)
            },
            owner,
            required: match owner {
                Owner::Bird => self.is_exported(&net, peer),
                _ => view.felix_programs(),
            },
        });
    }

    /// Whether BIRD exports a prefix: loans always, blocks with a confirmed affinity, or with none at all (calico.md 1.7).
    fn is_exported(&self, net: &IpNet, peer: &NodeName) -> bool {
        let of_block = |affinity: &super::facts::AffinityFacts| affinity.cidr == *net;
        let claims = self.claims.get(net).into_iter().flatten();
        let confirmed = claims.clone().any(|c| c.by == ClaimBy::Affinity && c.node == *peer);
        let loan = claims.clone().any(|c| c.by == ClaimBy::Borrowed);
        loan || confirmed || !self.affinities.values().any(of_block)
    }
}

/// Device and gateway of a route.
struct Shape {
    device: Option<ExpectedDevice>,
    gateway: Option<IpAddr>,
    onlink: bool,
}

fn shape(view: &View<'_>, peer: &NodeFacts, encapsulation: Encapsulation, owner: Owner, family: Family) -> Option<Shape> {
    let host = peer.host(family);
    match encapsulation {
        Encapsulation::Vxlan => {
            view.facts.vtep(family)?;
            Some(Shape {
                device: Some(ExpectedDevice::Named(View::vxlan_device(family).to_string())),
                gateway: Some(peer.vtep(family)?.tunnel_ip),
                onlink: true,
            })
        }
        Encapsulation::Ipip => {
            // From 3.31 on a node without a tunnel address of its own gets no device (calico.md 1.6).
            view.facts.ipip4.ip()?;
            Some(Shape {
                device: Some(ExpectedDevice::Named(derive::IPIP_DEVICE.to_string())),
                gateway: Some(host?.ip),
                onlink: true,
            })
        }
        Encapsulation::None if owner == Owner::Felix => Some(Shape {
            device: Some(ExpectedDevice::Parent),
            gateway: Some(host?.ip),
            onlink: true,
        }),
        Encapsulation::None => {
            // BIRD goes by the BGP next hop: the peer itself where it is directly connected, else whatever that resolves to.
            let host = host?;
            let connected = view.facts.host(family).is_some_and(|own| own.net.contains(&host.ip));
            Some(Shape {
                device: connected.then_some(ExpectedDevice::Parent),
                gateway: connected.then_some(host.ip),
                onlink: false,
            })
        }
    }
}

/// Whether a pool's traffic to `peer` stays bare because both are in one subnet, by *this* node's mask: an annotation without one never
/// matches (calico.md 3.8, step 5).
fn is_same_subnet(view: &View<'_>, peer: &NodeFacts, pool: &PoolFacts, family: Family) -> bool {
    let (Some(own), Some(host)) = (view.facts.host(family), peer.host(family)) else {
        return false;
    };
    pool.cross_subnet && own.net.contains(&host.ip)
}
