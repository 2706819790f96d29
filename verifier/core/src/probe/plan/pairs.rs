//! The two ends of a probe, and what is sent between them.

use super::{MtuHints, Plan, PlanOptions, pick};
use crate::{
    evidence::Gap,
    intent::{Encapsulation, NodeIntent, Peer, PodPhase},
    names::NodeName,
    probe::{
        config::{SMALL_BYTES, SMALL_TCP_BYTES},
        id::IdSource,
        result::{Endpoint, PairKind, Probe, Size, Transport},
    },
};
use alloc::{format, string::String, vec::Vec};
use core::net::IpAddr;

const SOURCE: &str = "probe/plan";

/// What is sent between two ends.
#[derive(Clone, Copy)]
pub(super) struct Shots {
    /// UDP small from every pinned port, or from the first only.
    all_ports: bool,
    /// UDP and TCP at the MTU too.
    large: bool,
    /// ICMP at the MTU too.
    large_icmp: bool,
}

impl Shots {
    /// Everything.
    pub(super) const ALL_PORTS: Self = Self {
        all_ports: true,
        large: true,
        large_icmp: true,
    };
    /// Every transport small, from one port, and ICMP at the MTU.
    pub(super) const ONE_PORT: Self = Self {
        all_ports: false,
        large: false,
        large_icmp: true,
    };
    /// Every transport small, from one port.
    pub(super) const SMALL: Self = Self {
        all_ports: false,
        large: false,
        large_icmp: false,
    };
}

/// Collects the probes of a plan.
pub(super) struct Builder<'a> {
    pub(super) intent: &'a NodeIntent,
    options: &'a PlanOptions,
    ids: &'a mut IdSource,
    plan: Plan,
}

impl<'a> Builder<'a> {
    pub(super) fn new(intent: &'a NodeIntent, options: &'a PlanOptions, ids: &'a mut IdSource) -> Self {
        Self {
            intent,
            options,
            ids,
            plan: Plan::default(),
        }
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
        let node = &self.intent.node;
        self.gap(format!(
            "{node} has no running pod with an IPv4 address: only the host itself can be a source"
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
                    ip: *workload.addresses.iter().find(|ip| ip.is_ipv4())?,
                })
            })
            .collect()
    }

    /// A pod of `peer` that can be an end of a probe: the one whose turn it is.
    pub(super) fn remote_pod(&mut self, peer: &NodeName, turn: u64) -> Option<Endpoint> {
        let pods: Vec<Endpoint> = self
            .intent
            .peers
            .get(peer)
            .into_iter()
            .flat_map(|p| &p.pods)
            // An address that a pod of this node has too would be answered here (duplicate-pod-ip is the datastore's cause).
            .filter(|pod| pod.phase == PodPhase::Running && pod.ip.is_ipv4() && !self.is_local(pod.ip))
            .map(|pod| Endpoint {
                node: peer.clone(),
                pod: Some(pod.pod.clone()),
                ip: pod.ip,
            })
            .collect();
        let chosen = pick(&pods, turn).cloned();
        if chosen.is_none() {
            self.gap(format!(
                "{peer} has no running pod with an IPv4 address of its own: traffic to it cannot be probed; a DaemonSet on the pod network gives every node one"
            ));
        }
        chosen
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        self.intent.workloads.values().any(|workload| workload.addresses.contains(&ip))
    }

    /// The host as a source towards a pod of `peer`: with the address that the kernel would choose, the tunnel's where there is one.
    pub(super) fn host_towards(&mut self, peer: &NodeName, to: IpAddr) -> Option<Endpoint> {
        let encapsulation = self.encapsulation(peer, to);
        let ip = match encapsulation {
            Encapsulation::None => self.intent.host_ip,
            tunnel => self
                .intent
                .tunnels
                .iter()
                .filter(|t| t.encapsulation == tunnel)
                .find_map(|t| t.address.filter(IpAddr::is_ipv4)),
        };
        self.host(ip, "tunnel address")
    }

    /// The host as the kubelet sees the node's pods: with the node's own address.
    pub(super) fn host_local(&mut self, needed: bool) -> Option<Endpoint> {
        if needed { self.host(self.intent.host_ip, "address") } else { None }
    }

    fn host(&mut self, ip: Option<IpAddr>, what: &str) -> Option<Endpoint> {
        let node = self.intent.node.clone();
        match ip {
            Some(ip) if ip.is_ipv4() => Some(Endpoint { node, pod: None, ip }),
            _ => {
                self.gap(format!("{node} has no IPv4 {what}: the host cannot be a source"));
                None
            }
        }
    }

    /// How traffic to `to` on `peer` is meant to travel: by the longest of the peer's prefixes that holds it.
    fn encapsulation(&self, peer: &NodeName, to: IpAddr) -> Encapsulation {
        let of_prefix = |p: &Peer| {
            p.prefixes
                .iter()
                .filter(|(prefix, _)| prefix.contains(&to))
                .max_by_key(|(prefix, _)| prefix.prefix_len())
                .map(|(_, encapsulation)| *encapsulation)
        };
        self.intent
            .peers
            .get(peer)
            .and_then(of_prefix)
            .or_else(|| self.intent.tunnels.first().map(|tunnel| tunnel.encapsulation))
            .unwrap_or(Encapsulation::None)
    }

    /// The largest packet that the path between two ends is meant to carry, as far as it is known.
    fn path_mtu(&self, from: &Endpoint, to: &Endpoint) -> Option<u32> {
        let MtuHints {
            pods,
            tunnels: hints,
            underlay_bytes,
        } = &self.options.mtus;
        let of_pod = |end: &Endpoint| end.pod.as_ref().and_then(|pod| pods.get(pod)).copied();
        // What a pod of another node carries is not known here, but all pods are made for the smallest of the cluster's ways
        // (Felix writes it to `/var/lib/calico/mtu`): no more than this node's tunnels and its own pods.
        let of_tunnels = || {
            let tunnels = self.intent.tunnels.iter();
            tunnels.filter_map(|t| t.mtu.or_else(|| hints.get(&t.device).copied()))
        };
        let smallest_way = || of_tunnels().chain(pods.values().copied()).chain(*underlay_bytes).min();
        let is_foreign_pod = |end: &Endpoint| end.pod.as_ref().is_some_and(|pod| !pods.contains_key(pod));
        let between = if from.node == to.node {
            None
        } else {
            match self.encapsulation(&to.node, to.ip) {
                Encapsulation::None => underlay_bytes.and_then(|_| smallest_way()),
                tunnel => {
                    let way = self
                        .intent
                        .tunnels
                        .iter()
                        .find(|t| t.encapsulation == tunnel && t.local.or(t.address).is_none_or(|ip| ip.is_ipv4() == to.ip.is_ipv4()))
                        .and_then(|t| t.mtu.or_else(|| hints.get(&t.device).copied()));
                    // With a tunnel of each family IPv6's is the narrower, and pods are made for it.
                    let pods_of = if is_foreign_pod(to) { of_tunnels().min() } else { None };
                    way.map(|way| pods_of.map_or(way, |pods| way.min(pods)))
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
        let ports = if shots.all_ports { config.udp_sources.count } else { 1 };
        let identifier = config.icmp_identifier(from.pod.is_none());
        for attempt in 0..attempts {
            let mut shot = |transport: Transport, size: Size, src_port: u16| {
                let (smallest, dst_port) = match transport {
                    Transport::Udp => (SMALL_BYTES, config.udp_port),
                    Transport::Icmp => (SMALL_BYTES, 0),
                    Transport::Tcp => (SMALL_TCP_BYTES, config.tcp_port),
                };
                let length_bytes = match (size, mtu) {
                    (Size::Small, _) => smallest,
                    (_, Some(mtu)) if mtu > SMALL_BYTES => mtu,
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
                shot(Transport::Udp, Size::Small, config.udp_sources.pick(u64::from(index)));
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
