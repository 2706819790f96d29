//! The two ends of a probe, and what is sent between them.

use super::{MtuHints, Plan, PlanOptions, pick};
use crate::{
    evidence::Gap,
    intent::{Encapsulation, ExpectedTunnel, NodeIntent, PodPhase},
    names::NodeName,
    probe::{
        config::smallest_bytes,
        id::IdSource,
        result::{Endpoint, PairKind, Probe, Size, Transport},
    },
};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use core::net::IpAddr;

const SOURCE: &str = "probe/plan";

/// What is sent between two ends.
#[derive(Clone, Copy)]
pub(super) struct Shots {
    /// UDP small from this many pinned ports, or from all.
    ports: u16,
    /// The first of them, counted round and round.
    first_port: u64,
    /// UDP and TCP at the MTU too.
    large: bool,
    /// ICMP at the MTU too.
    large_icmp: bool,
}

impl Shots {
    /// Everything.
    pub(super) const ALL_PORTS: Self = Self {
        ports: u16::MAX,
        first_port: 0,
        large: true,
        large_icmp: true,
    };
    /// Everything, but UDP small from a few ports, which take turns.
    pub(super) const fn few_ports(ports: u16, turn: u64) -> Self {
        Self {
            ports,
            first_port: turn.wrapping_mul(ports as u64),
            ..Self::ALL_PORTS
        }
    }

    /// Every transport small, from one port, and ICMP at the MTU.
    pub(super) const ONE_PORT: Self = Self {
        ports: 1,
        first_port: 0,
        large: false,
        large_icmp: true,
    };
    /// Every transport small, from one port.
    pub(super) const SMALL: Self = Self {
        ports: 1,
        first_port: 0,
        large: false,
        large_icmp: false,
    };
}

/// Collects the probes of a plan, one family after the other.
pub(super) struct Builder<'a> {
    pub(super) intent: &'a NodeIntent,
    /// Whether the family under way is IPv6.
    v6: bool,
    options: &'a PlanOptions,
    ids: &'a mut IdSource,
    plan: Plan,
}

impl<'a> Builder<'a> {
    pub(super) fn new(intent: &'a NodeIntent, options: &'a PlanOptions, ids: &'a mut IdSource) -> Self {
        Self {
            intent,
            v6: false,
            options,
            ids,
            plan: Plan::default(),
        }
    }

    /// The families of which there are pools. IPv4 first.
    pub(super) fn families(&self) -> impl Iterator<Item = bool> + use<> {
        let probed = [false, true].map(|v6| self.intent.has_pool_of(v6).then_some(v6));
        probed.into_iter().flatten()
    }

    /// Goes on with a family.
    pub(super) const fn family(&mut self, v6: bool) {
        self.v6 = v6;
    }

    const fn family_name(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }

    /// Whether an address is one to probe: of the family under way, and of IPv6 one of a pool. A pod may have others beside, by a second
    /// CNI plugin for instance.
    fn fits(&self, ip: IpAddr) -> bool {
        let of_pool = || self.intent.pools.iter().any(|(pool, _)| pool.contains(&ip));
        ip.is_ipv6() == self.v6 && (!self.v6 || of_pool())
    }

    pub(super) fn finish(mut self) -> Plan {
        // Stable: within an attempt the order of planning stays.
        self.plan.probes.sort_by_key(|probe| probe.seq);
        self.plan.gaps.sort();
        self.plan.gaps.dedup();
        self.plan
    }

    fn gap(&mut self, why: String) {
        self.plan.gaps.push(Gap::new(SOURCE, why));
    }

    pub(super) fn gap_no_local_pod(&mut self) {
        let (node, family) = (&self.intent.node, self.family_name());
        self.gap(format!(
            "{node} has no running pod with an {family} address: only the host itself can be a source"
        ));
    }

    /// This node's pods that can be an end of a probe, in order of name.
    pub(super) fn local_pods(&self) -> Vec<Endpoint> {
        self.intent
            .workloads
            .values()
            .filter(|workload| workload.phase == PodPhase::Running && !workload.terminating)
            .filter_map(|workload| {
                Some(Endpoint {
                    node: self.intent.node.clone(),
                    pod: Some(workload.pod.clone()),
                    ip: workload.addresses.iter().copied().find(|ip| self.fits(*ip))?,
                })
            })
            .collect()
    }

    /// A pod of `peer` that can be an end of a probe: the one whose turn it is.
    pub(super) fn remote_pod(&mut self, peer: &NodeName, turn: u64) -> Option<Endpoint> {
        let pods = self.remote_pods(peer);
        let chosen = pick(&pods, turn).cloned();
        if chosen.is_none() {
            let family = self.family_name();
            self.gap(format!(
                "{peer} has no running pod with an {family} address of its own: traffic to it cannot be probed; a DaemonSet on the pod network gives every node one"
            ));
        }
        chosen
    }

    fn remote_pods(&self, peer: &NodeName) -> Vec<Endpoint> {
        self.intent
            .peers
            .get(peer)
            .into_iter()
            .flat_map(|p| &p.pods)
            // An address that a pod of this node has too would be answered here (duplicate-pod-ip is the datastore's cause).
            .filter(|pod| pod.phase == PodPhase::Running)
            .filter_map(|pod| {
                Some(Endpoint {
                    node: peer.clone(),
                    pod: Some(pod.pod.clone()),
                    ip: pod.addresses().find(|ip| self.fits(*ip) && !self.is_local(*ip))?,
                })
            })
            .collect()
    }

    /// A pod of `peer` for every route to it but the one that leads to `known`: a probe says nothing of the way to pods in another block of
    /// the peer's, which may even travel in another way, nor to those with borrowed addresses, to each of which a route of its own leads.
    pub(super) fn pods_by_other_routes(&self, peer: &NodeName, known: IpAddr) -> Vec<Endpoint> {
        let prefixes = self.intent.peers.get(peer).map(|p| p.prefixes.as_slice()).unwrap_or_default();
        let route = |ip: IpAddr| {
            let holding = prefixes.iter().map(|(net, _)| net).filter(|net| net.contains(&ip));
            holding.max_by_key(|net| net.prefix_len())
        };
        let mut told = BTreeSet::from([route(known)]);
        let mut pods = self.remote_pods(peer);
        pods.retain(|pod| told.insert(route(pod.ip)));
        pods
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        self.intent.workloads.values().any(|workload| workload.addresses.contains(&ip))
    }

    /// The host as a source towards a pod of `peer`: with the address that the kernel would choose, the tunnel's where there is one.
    pub(super) fn host_towards(&mut self, peer: &NodeName, to: IpAddr) -> Option<Endpoint> {
        let ip = match self.intent.encapsulation_to(peer, to) {
            Encapsulation::None => self.intent.host_ip_of(self.v6),
            tunnel => {
                let mut ours = self.intent.tunnels.iter().filter(|t| t.encapsulation == tunnel);
                ours.find_map(|t| t.address.filter(|ip| ip.is_ipv6() == self.v6))
            }
        };
        self.host(ip, "tunnel address")
    }

    /// The host as the kubelet sees the node's pods: with the node's own address.
    pub(super) fn host_local(&mut self, needed: bool) -> Option<Endpoint> {
        if needed {
            self.host(self.intent.host_ip_of(self.v6), "address")
        } else {
            None
        }
    }

    fn host(&mut self, ip: Option<IpAddr>, what: &str) -> Option<Endpoint> {
        let node = self.intent.node.clone();
        let Some(ip) = ip else {
            let family = self.family_name();
            self.gap(format!("{node} has no {family} {what}: the host cannot be a source"));
            return None;
        };
        Some(Endpoint { node, pod: None, ip })
    }

    /// The largest packet that the path between two ends is meant to carry, as far as it is known.
    fn path_mtu(&self, from: &Endpoint, to: &Endpoint) -> Option<u32> {
        let MtuHints {
            pods,
            tunnels,
            underlay_bytes,
        } = &self.options.mtus;
        let of_pod = |end: &Endpoint| end.pod.as_ref().and_then(|pod| pods.get(pod)).copied();
        let of_tunnel = |t: &ExpectedTunnel| t.mtu.or_else(|| tunnels.get(&t.device).copied());
        // What a pod of another node carries is not known here, but all pods are made for the smallest of the cluster's ways
        // (Felix writes it to `/var/lib/calico/mtu`): no more than any of this node's tunnels, of either family. Of a tunnel that is not
        // there nothing is known: then what this node's own pods were made for.
        let of_tunnels = || self.intent.tunnels.iter().map(of_tunnel);
        let beside = of_tunnels()
            .any(|mtu| mtu.is_none())
            .then(|| pods.values().copied().min())
            .flatten();
        let smallest_tunnel = of_tunnels().flatten().chain(beside).min();
        let between = if from.node == to.node {
            None
        } else {
            match self.intent.encapsulation_to(&to.node, to.ip) {
                Encapsulation::None => underlay_bytes.and_then(|underlay| {
                    let made_for = smallest_tunnel.into_iter().chain(pods.values().copied());
                    made_for.chain([underlay]).min()
                }),
                tunnel => {
                    let own = self.intent.tunnel_to(tunnel, to.ip).and_then(of_tunnel);
                    own.map(|own| smallest_tunnel.map_or(own, |smallest| smallest.min(own)))
                }
            }
        };
        [of_pod(from), of_pod(to), between].into_iter().flatten().min()
    }

    /// Plans all shots from one end to the other, `attempts` times.
    pub(super) fn shoot(&mut self, from: &Endpoint, to: &Endpoint, pair: PairKind, shots: Shots, attempts: u32) {
        let config = self.options.config;
        let mtu = self.path_mtu(from, to);
        if mtu.is_none() && (shots.large || shots.large_icmp) && pair != PairKind::PodToLocalPod {
            self.gap(format!(
                "the MTU intended between {} and {} is not known: large packets are not probed",
                from.node, to.node
            ));
        }
        let ports = shots.ports.min(config.udp_sources.count);
        let identifier = config.icmp_identifier(from.pod.is_none(), to.ip);
        for attempt in 0..attempts {
            let mut shot = |transport: Transport, size: Size, src_port: u16| {
                let dst_port = match transport {
                    Transport::Udp => config.udp_port,
                    Transport::Icmp => 0,
                    Transport::Tcp => config.tcp_port,
                };
                let length_bytes = match (size, mtu) {
                    (Size::Small, _) => smallest_bytes(transport, to.ip),
                    (_, Some(mtu)) if mtu > smallest_bytes(Transport::Udp, to.ip) => mtu,
                    _ => return,
                };
                let src_port = if transport == Transport::Tcp {
                    config.tcp_sources.pick(self.ids.next_tcp_turn())
                } else {
                    src_port
                };
                self.plan.probes.push(Probe {
                    id: self.ids.next_id(),
                    seq: attempt,
                    from: from.clone(),
                    to: to.clone(),
                    pair,
                    transport,
                    size,
                    src_port,
                    dst_port,
                    length_bytes,
                });
            };
            for index in 0..ports {
                let place = shots.first_port.wrapping_add(u64::from(index));
                shot(Transport::Udp, Size::Small, config.udp_sources.pick(place));
            }
            if shots.large {
                shot(Transport::Udp, Size::Mtu, config.udp_sources.first);
            }
            shot(Transport::Icmp, Size::Small, identifier);
            if shots.large_icmp {
                shot(Transport::Icmp, Size::Mtu, identifier);
            }
            shot(Transport::Tcp, Size::Small, 0);
            if shots.large {
                shot(Transport::Tcp, Size::Mtu, 0);
            }
        }
    }
}
