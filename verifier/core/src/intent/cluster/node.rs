//! One node's intent, whole and brought up to date.

use super::{
    Cluster, UnknownNode,
    facts::{Family, NodeFacts, PodFacts, host_net},
    refresh::by_order,
    routes::{Ownership, View},
};
use crate::{
    evidence::Gap,
    intent::{
        derive,
        node::{
            Claim, Encapsulation, ExpectedFdb, ExpectedNeighbor, ExpectedSet, ExpectedTunnel, ExpectedWorkload, NodeIntent, Peer,
            RemotePod, Setting,
        },
    },
    names::{NodeName, PodRef},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use ipnet::IpNet;

/// Felix's set of the other nodes whose VXLAN packets are let in.
pub(super) const VXLAN_SET: &str = "all-vxlan-net";
/// Felix's set of all nodes.
const HOSTS_SET: &str = "all-hosts-net";

/// How many of a peer's running pods a node knows, the first by name: enough to probe, bounded in a cluster of any size.
pub const PODS_PER_PEER: usize = 8;

impl Cluster {
    /// The intent of one node.
    ///
    /// # Errors
    /// If there is no such Node object.
    pub fn node_intent(&self, node: &NodeName) -> Result<NodeIntent, UnknownNode> {
        let view = self.view(node)?;
        let mut nets: Vec<IpNet> = self
            .claims
            .keys()
            .copied()
            .chain(self.nodes_by_tunnel.keys().map(|ip| host_net(*ip)))
            .chain(
                self.local_pods(node)
                    .flat_map(|(_, facts)| facts.addresses.iter().map(|ip| host_net(*ip))),
            )
            .collect();
        if view.follows_pods() {
            nets.extend(self.pods_by_ip.keys().map(|ip| host_net(*ip)));
        }
        nets.sort_unstable();
        nets.dedup();
        let mut routes = Vec::with_capacity(nets.len());
        for net in nets {
            self.routes_to(&view, net, &mut routes);
        }
        routes.sort_by(by_order);

        let mut intent = NodeIntent {
            node: node.clone(),
            host_ip: view.facts.host4.as_ref().or(view.facts.host6.as_ref()).map(|h| h.ip),
            host_ip6: view.facts.host6.as_ref().map(|h| h.ip),
            pools: self.pools.values().map(|pool| (pool.cidr, pool.mode())).collect(),
            blocks: self.own_blocks(node),
            tunnels: self.tunnels(&view),
            routes,
            neighbors: Vec::new(),
            fdb: Vec::new(),
            sets: self.sets(&view),
            workloads: self
                .local_pods(node)
                .map(|(pod, facts)| (pod.clone(), workload(&view, pod, facts)))
                .collect(),
            peers: BTreeMap::new(),
            claim: self.claim_about(node),
            contradictions: self.contradictions.values().cloned().collect(),
            gaps: self.gaps_of(&view),
            settings: view.resolved.settings.clone(),
            generation: self.generation,
            read_at: self.read_at,
        };
        for (name, facts) in self.nodes.iter().filter(|(name, _)| *name != node) {
            intent.peers.insert(name.clone(), self.peer(&view, name, facts));
            self.layer2(&view, name, facts, &mut intent.neighbors, &mut intent.fdb);
        }
        Ok(intent)
    }

    pub(super) fn view<'a>(&'a self, node: &NodeName) -> Result<View<'a>, UnknownNode> {
        let Some((node, facts)) = self.nodes.get_key_value(node) else {
            return Err(self.unknown(node));
        };
        let resolved = self.settings(node);
        let has = |encapsulation: Encapsulation, family: Family| {
            let mut pools = self.pools.values();
            pools.any(|pool| pool.encapsulation == encapsulation && Family::of_net(&pool.cidr) == family)
        };
        let by = |setting: &Setting<Option<bool>>, pools: bool| match setting.value() {
            Some(Some(forced)) => *forced,
            Some(None) => pools,
            None => false,
        };
        Ok(View {
            node,
            facts,
            vxlan4: by(&resolved.vxlan_enabled, has(Encapsulation::Vxlan, Family::V4)),
            vxlan6: has(Encapsulation::Vxlan, Family::V6),
            ipip: by(&resolved.ipip_enabled, has(Encapsulation::Ipip, Family::V4)),
            resolved,
        })
    }

    fn unknown(&self, node: &NodeName) -> UnknownNode {
        let mut known: Vec<&str> = self.nodes.keys().take(6).map(NodeName::as_str).collect();
        if self.nodes.len() > known.len() {
            known.push("…");
        }
        UnknownNode {
            node: node.clone(),
            known: if known.is_empty() {
                String::from("there is none")
            } else {
                known.join(", ")
            },
        }
    }

    fn local_pods(&self, node: &NodeName) -> impl Iterator<Item = (&PodRef, &PodFacts)> {
        let pods = self.pods_by_node.get(node).into_iter().flatten();
        pods.filter_map(|pod| self.pods.get(pod).map(|facts| (&**pod, facts)))
    }

    pub(super) fn own_blocks(&self, node: &NodeName) -> Vec<IpNet> {
        self.prefixes_of(node).filter(|net| self.blocks_by_cidr.contains_key(net)).collect()
    }

    /// Prefixes that a node owns or has borrowed; a contested one counts as each claimant's.
    fn prefixes_of(&self, node: &NodeName) -> impl Iterator<Item = IpNet> {
        let nets = self.nets_by_node.get(node).into_iter().flat_map(BTreeMap::keys);
        nets.copied().filter(move |net| match self.ownership(net) {
            Ownership::None => false,
            Ownership::One(owner) => owner == *node,
            Ownership::Contested(owners) => owners.contains(node),
        })
    }

    fn tunnels(&self, view: &View<'_>) -> Vec<ExpectedTunnel> {
        let settings = &view.resolved.settings;
        let vxlan = |family: Family, mac, mtu: Option<u32>| {
            let host = view.facts.host(family).filter(|h| h.annotated);
            let address = view.facts.vxlan(family).ip();
            // In eBPF mode the device is flow-based: no VNI, no local address, and its MTU is left alone (calico.md 8).
            let classic = !view.is_bpf();
            ExpectedTunnel {
                device: View::vxlan_device(family).to_string(),
                encapsulation: Encapsulation::Vxlan,
                mac: Some(mac),
                address,
                local: host.filter(|_| classic).map(|h| h.ip),
                vni: settings.vxlan_vni.value().copied().filter(|_| classic),
                port: settings.vxlan_port.value().copied(),
                mtu: mtu.filter(|_| classic),
                required: host.is_some() && address.is_some(),
            }
        };
        let mut tunnels = Vec::new();
        if view.vxlan4 {
            let mtu = settings.vxlan_mtu.as_ref().and_then(|m| m.value().copied());
            tunnels.push(vxlan(Family::V4, view.facts.mac4, mtu));
        }
        if view.vxlan6 {
            tunnels.push(vxlan(Family::V6, view.facts.mac6, view.resolved.vxlan_mtu_v6));
        }
        if view.ipip {
            let address = view.facts.ipip4.ip();
            tunnels.push(ExpectedTunnel {
                device: derive::IPIP_DEVICE.to_string(),
                encapsulation: Encapsulation::Ipip,
                mac: None,
                address,
                local: None,
                vni: None,
                port: None,
                mtu: view.resolved.ipip_mtu,
                required: address.is_some(),
            });
        }
        tunnels
    }

    /// Neighbour and forwarding entry of one peer's VTEPs (calico.md 3.8, step 7), in order of address.
    pub(super) fn layer2(
        &self,
        view: &View<'_>,
        peer: &NodeName,
        facts: &NodeFacts,
        neighbors: &mut Vec<ExpectedNeighbor>,
        fdb: &mut Vec<ExpectedFdb>,
    ) {
        for family in [Family::V4, Family::V6] {
            let (Some(_), Some(vtep), true) = (view.facts.vtep(family), facts.vtep(family), view.vxlan(family)) else {
                continue;
            };
            let device = View::vxlan_device(family).to_string();
            // Of two nodes with one tunnel address one overrides the other silently, and nobody can tell which (calico.md 1.5).
            if self.nodes_by_tunnel.get(&vtep.tunnel_ip).is_none_or(|nodes| nodes.len() < 2) {
                neighbors.push(ExpectedNeighbor {
                    device: device.clone(),
                    ip: vtep.tunnel_ip,
                    mac: vtep.mac,
                    peer: peer.clone(),
                });
            }
            if !view.is_bpf() {
                fdb.push(ExpectedFdb {
                    device,
                    mac: vtep.mac,
                    dst: vtep.host_ip,
                    peer: peer.clone(),
                });
            }
        }
    }

    pub(super) fn sets(&self, view: &View<'_>) -> Vec<ExpectedSet> {
        let of_kind = |(name, family): (&'static str, Family)| {
            let external = view.resolved.external_nodes.iter().copied().filter(|n| Family::of_net(n) == family);
            let own = |node: &NodeName| name == VXLAN_SET && node == view.node;
            let others = self.nodes.iter().filter(|(node, _)| !own(node));
            let hosts = others.filter_map(|(_, facts)| match name {
                VXLAN_SET => facts.vtep(family).map(|vtep| vtep.host_ip),
                _ => facts.host4.as_ref().map(|h| h.ip),
            });
            let mut members: Vec<IpNet> = hosts.map(host_net).chain(external).collect();
            members.sort_unstable();
            members.dedup();
            ExpectedSet {
                name: String::from(name),
                members,
            }
        };
        set_kinds(view).map(of_kind).collect()
    }

    pub(super) fn peer(&self, view: &View<'_>, name: &NodeName, facts: &NodeFacts) -> Peer {
        let ip = |family: Family| facts.host(family).map(|h| h.ip);
        let vtep = |family: Family| facts.vtep(family).filter(|_| view.vxlan(family));
        let (vtep4, vtep6) = (vtep(Family::V4), vtep(Family::V6));
        Peer {
            host_ip: ip(Family::V4).or_else(|| ip(Family::V6)),
            tunnel_ip: vtep4.map(|v| v.tunnel_ip).or_else(|| facts.ipip4.ip().filter(|_| view.ipip)),
            vtep_mac: vtep4.map(|v| v.mac),
            host_ip6: ip(Family::V6),
            tunnel_ip6: vtep6.map(|v| v.tunnel_ip),
            vtep_mac6: vtep6.map(|v| v.mac),
            prefixes: self.peer_prefixes(view, name, facts),
            arriving: self.arriving(view, facts),
            pods: self.pods_of_peer(name),
            agent_port: None,
        }
    }

    /// How packets from a peer to each pool travel, where pools of one family differ in that. Both nodes are in one subnet or neither is, so
    /// that it is as from here to there.
    fn arriving(&self, view: &View<'_>, facts: &NodeFacts) -> Vec<(IpNet, Encapsulation)> {
        let modes = |family: Family| {
            let of_family = self.pools.values().filter(move |pool| Family::of_net(&pool.cidr) == family);
            of_family
                .filter(|pool| !pool.load_balancer_only)
                .map(|pool| (pool.encapsulation, pool.cross_subnet))
                .collect::<BTreeSet<_>>()
                .len()
        };
        if modes(Family::V4) < 2 && modes(Family::V6) < 2 {
            return Vec::new();
        }
        let mut all: Vec<(IpNet, Encapsulation)> = self
            .pools
            .values()
            .map(|pool| (pool.cidr, self.encapsulation_towards(view, facts, &pool.cidr)))
            .collect();
        all.sort();
        all
    }

    /// What a peer owns, with the encapsulation towards it.
    fn peer_prefixes(&self, view: &View<'_>, name: &NodeName, facts: &NodeFacts) -> Vec<(IpNet, Encapsulation)> {
        let towards = |net: IpNet| (net, self.encapsulation_towards(view, facts, &net));
        if !view.follows_pods() {
            return self.prefixes_of(name).map(towards).collect();
        }
        let addresses = self.local_pods(name).flat_map(|(_, facts)| &facts.addresses);
        let nets: BTreeSet<IpNet> = addresses
            .filter(|ip| self.only_live_holder_node(**ip).as_ref() == Some(name))
            .map(|ip| host_net(*ip))
            .collect();
        nets.into_iter().map(towards).collect()
    }

    pub(super) fn pods_of_peer(&self, name: &NodeName) -> Vec<RemotePod> {
        self.local_pods(name)
            .filter(|(_, facts)| facts.is_target())
            .filter_map(|(pod, facts)| {
                let ip = *facts.addresses.first()?;
                Some(RemotePod {
                    pod: pod.clone(),
                    ip,
                    other_ip: facts.addresses.iter().copied().find(|other| other.is_ipv4() != ip.is_ipv4()),
                    phase: facts.phase,
                    uid: facts.uid,
                    known_since: None,
                })
            })
            .take(PODS_PER_PEER)
            .collect()
    }

    pub(super) fn claim_about(&self, node: &NodeName) -> Claim {
        let facts = self.nodes.get(node);
        let agent = self.agent_of(node).map(|(_, pod)| pod);
        Claim {
            ready: facts.and_then(|f| f.ready),
            network_unavailable: facts.and_then(|f| f.network_unavailable),
            network_reason: facts.and_then(|f| f.network_reason.clone()),
            calico_node: agent.map(|pod| {
                let phase = if pod.terminating { "Terminating" } else { pod.phase.as_str() };
                if pod.ready {
                    phase.to_string()
                } else {
                    format!("{phase} (not ready)")
                }
            }),
            restarts: agent.and_then(|pod| pod.restarts),
            last_termination: agent.and_then(|pod| pod.last_termination.clone()),
            ready_toggles: None,
            unschedulable: facts.is_some_and(|f| f.unschedulable),
            kubernetes: facts.and_then(|f| f.kubernetes),
        }
    }

    pub(super) fn gaps_of(&self, view: &View<'_>) -> Vec<Gap> {
        let mut gaps = self.gaps.clone();
        gaps.extend(view.resolved.gaps.iter().cloned());
        let unreadable = self.unreadable.iter().filter_map(|name| self.nodes.get(name));
        gaps.extend(
            unreadable
                .flat_map(|facts| &facts.unreadable)
                .map(|why| Gap::new("intent/node-annotations", why.as_str())),
        );
        gaps.extend(self.overlapping_pools());
        if view.resolved.use_pod_cidr {
            gaps.push(Gap::new(
                "intent/blocks",
                "addresses come from the Nodes' podCIDRs (USE_POD_CIDR): routes to them are not computed",
            ));
        }
        gaps.dedup();
        gaps
    }

    /// Pools that overlap. Calico's own validation refuses them; where the objects hold some anyway, the longer prefix decides.
    fn overlapping_pools(&self) -> Vec<Gap> {
        let pools: Vec<_> = self.pools.iter().collect();
        let pairs = pools
            .iter()
            .enumerate()
            .flat_map(|(at, one)| pools.iter().skip(at + 1).map(move |other| (one, other)));
        pairs
            .filter(|((_, a), (_, b))| a.cidr.contains(&b.cidr) || b.cidr.contains(&a.cidr))
            .map(|((name, a), (other, b))| {
                Gap::new(
                    "intent/pools",
                    format!(
                        "IPPools {name} ({}) and {other} ({}) overlap: delete one, or expect the longer prefix to decide",
                        a.cidr, b.cidr
                    ),
                )
            })
            .collect()
    }
}

/// The sets that Felix keeps on a node.
pub(super) fn set_kinds(view: &View<'_>) -> impl Iterator<Item = (&'static str, Family)> {
    let kinds = [
        (view.vxlan4, VXLAN_SET, Family::V4),
        (view.vxlan6, VXLAN_SET, Family::V6),
        (view.ipip, HOSTS_SET, Family::V4),
    ];
    kinds.into_iter().filter(|(kept, ..)| *kept).map(|(_, name, family)| (name, family))
}

pub(super) fn workload(view: &View<'_>, pod: &PodRef, facts: &PodFacts) -> ExpectedWorkload {
    ExpectedWorkload {
        pod: pod.clone(),
        addresses: facts.addresses.to_vec(),
        device: derive::veth_name(&view.resolved.veth_prefix, pod),
        phase: facts.phase,
        ready: facts.ready,
        terminating: facts.terminating,
        sandbox_pending: !facts.sandbox_ready,
        created: facts.created,
        uid: facts.uid,
        known_since: None,
        controller: facts.controller.as_deref().map(ToString::to_string),
        safe_to_delete: facts.safe_to_delete,
    }
}
