//! The probes of a round, and of a full validation.
//!
//! [`plan_round`] is for an agent that probes all the time: few peers and few pods in a round, all of them in turn, and a bound on
//! probes per round that does not know the size of the cluster ([`PlanOptions::max_probes_per_round`]). [`plan_full`] is for
//! `validate`: every peer, every local pod, several attempts. Both are pure: the same intent, round and ids give the same probes.
//!
//! What goes where:
//!
//! | pair | continuous, per round | validate |
//! |---|---|---|
//! | pod to remote pod | one pod, k peers: UDP small from every pinned port, the rest once small and once at the MTU | every peer so, each port several times; every other pod to one peer; one pod to a pod by each of a peer's routes |
//! | host to remote pod (source = tunnel address) | k peers: UDP, ICMP, TCP small, ICMP at the MTU | every peer so |
//! | host to local pod (source = the node's address, as the kubelet) | a few pods in turn: UDP, ICMP, TCP small | every pod |
//! | pod to local pod | one pair in turn | each pod to the next |
//!
//! All of it in each family of which there are pools: of a pod with addresses of both, both are tested. Of IPv6 a continuous round sends
//! UDP from [`IPV6_PORTS_PER_ROUND`] of the pinned ports, which take turns; `validate` from all.

mod full;
mod pairs;

use super::{
    config::ProbeConfig,
    id::IdSource,
    result::{PairKind, Probe, Size, Transport},
    ring::{peers_of_round, rounds_to_cover},
};
use crate::{
    evidence::Gap,
    intent::NodeIntent,
    names::{NodeName, PodRef},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
pub use full::plan_full;
use pairs::{Builder, Shots};

/// Pinned UDP ports of which a round sends to a peer's pod by IPv6: which path of a network that spreads load is bad shows by IPv4 already,
/// and by IPv6 after some rounds.
pub const IPV6_PORTS_PER_ROUND: u16 = 2;

/// MTUs that intent does not know: read from the programmed account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MtuHints {
    /// MTU of `eth0` inside local pods (`PodState::links`). Pods keep the MTU that they were made with.
    pub pods: BTreeMap<PodRef, u32>,
    /// MTU of tunnel devices by name, used only where intent does not say.
    pub tunnels: BTreeMap<String, u32>,
    /// MTU of the underlay device, for paths without encapsulation.
    pub underlay_bytes: Option<u32>,
}

/// How much is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Ports and identifiers.
    pub config: ProbeConfig,
    /// Peers tested in a round.
    pub peers_per_round: u32,
    /// With no more peers than this, all are tested in every round.
    pub all_peers_up_to: u32,
    /// Local pods tested from the host in a round.
    pub local_pods_per_round: u32,
    /// For how many visits to a peer the choice of pods stays the same, so that the judge gets several samples of one pair.
    pub dwell_rounds: u32,
    /// How often [`plan_full`] sends each probe: the `m` of the judge's n of m (`Policy::port_loss_of`).
    pub attempts: u32,
    /// If set, [`plan_full`] tests these peers only.
    pub only_peers: Option<BTreeSet<NodeName>>,
    /// MTUs that intent does not know.
    pub mtus: MtuHints,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            config: ProbeConfig::default(),
            peers_per_round: 3,
            all_peers_up_to: 4,
            local_pods_per_round: 4,
            dwell_rounds: 10,
            attempts: 3,
            only_peers: None,
            mtus: MtuHints::default(),
        }
    }
}

impl PlanOptions {
    /// Bound on the probes that [`plan_round`] gives, whatever the size of the cluster and of the node.
    pub const fn max_probes_per_round(&self) -> u64 {
        let k = if self.peers_per_round > self.all_peers_up_to {
            self.peers_per_round
        } else {
            self.all_peers_up_to
        };
        let k = if k == 0 { 1 } else { k as u64 };
        // UDP from each port and once large; ICMP and TCP small and large. Of IPv6 from few ports.
        let ports = self.config.udp_sources.count;
        let ports6 = if ports < IPV6_PORTS_PER_ROUND {
            ports
        } else {
            IPV6_PORTS_PER_ROUND
        };
        let pod_to_remote = ports as u64 + ports6 as u64 + 2 * 5;
        let host_to_remote = 2 * 4;
        let local = self.local_pods_per_round as u64 * 3 + 4;
        k * (pod_to_remote + host_to_remote) + 2 * local
    }

    /// After how many rounds [`plan_round`] has tested every ordered pair of `nodes` nodes.
    pub const fn rounds_to_cover(&self, nodes: usize) -> u64 {
        rounds_to_cover(nodes, self.peers_per_round, self.all_peers_up_to)
    }
}

/// Probes to send, and what could not be planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which to send them: attempts of one kind lie apart, so that one short disturbance does not hit them all.
    pub probes: Vec<Probe>,
    /// What is not probed although it should be, and why.
    pub gaps: Vec<Gap>,
}

/// The probes of one round of continuous probing.
pub fn plan_round(intent: &NodeIntent, round: u64, options: &PlanOptions, ids: &mut IdSource) -> Plan {
    let others: Vec<&NodeName> = intent.peers.keys().collect();
    let peers = peers_of_round(&intent.node, &others, round, options.peers_per_round, options.all_peers_up_to);
    let visits = round / options.rounds_to_cover(others.len() + 1);
    let turn = visits / u64::from(options.dwell_rounds.max(1));

    let mut builder = Builder::new(intent, options, ids);
    for v6 in builder.families() {
        builder.family(v6);
        let shots = if v6 {
            Shots::few_ports(IPV6_PORTS_PER_ROUND, visits)
        } else {
            Shots::ALL_PORTS
        };
        one_family(&mut builder, &peers, shots, round, turn, options);
    }
    builder.finish()
}

fn one_family(builder: &mut Builder<'_>, peers: &[&NodeName], shots: Shots, round: u64, turn: u64, options: &PlanOptions) {
    let local = builder.local_pods();
    if local.is_empty() && !builder.intent.peers.is_empty() {
        builder.gap_no_local_pod();
    }
    for (rank, peer) in (0..).zip(peers) {
        let Some(to) = builder.remote_pod(peer, turn) else { continue };
        if let Some(from) = pick(&local, turn.wrapping_add(rank)) {
            builder.shoot(from, &to, PairKind::PodToRemotePod, shots, 1);
        }
        if let Some(host) = builder.host_towards(peer, to.ip) {
            builder.shoot(&host, &to, PairKind::HostToRemotePod, Shots::ONE_PORT, 1);
        }
    }
    if let Some(host) = builder.host_local(!local.is_empty()) {
        let wanted = u64::from(options.local_pods_per_round);
        let count = wanted.min(local.len() as u64);
        for place in 0..count {
            if let Some(to) = pick(&local, (round % local.len() as u64).wrapping_mul(wanted).wrapping_add(place)) {
                builder.shoot(&host, to, PairKind::HostToLocalPod, Shots::SMALL, 1);
            }
        }
    }
    if local.len() > 1
        && let (Some(from), Some(to)) = (pick(&local, turn), pick(&local, turn.wrapping_add(1)))
    {
        builder.shoot(from, to, PairKind::PodToLocalPod, Shots::ONE_PORT, 1);
    }
}

/// Each of these probes again, `attempts` times with new ids: for a failure that was seen once. At most `limit` probes.
pub fn plan_confirm(failed: &[Probe], attempts: u32, limit: usize, config: &ProbeConfig, ids: &mut IdSource) -> Vec<Probe> {
    (0..attempts)
        .flat_map(|attempt| failed.iter().map(move |probe| (attempt, probe)))
        .take(limit)
        .map(|(attempt, probe)| again(probe, attempt, config, ids))
        .collect()
}

/// The probe of one step of the search for the largest size that passes: like `probe`, of `bytes` bytes.
pub fn resized(probe: &Probe, bytes: u32, attempt: u32, config: &ProbeConfig, ids: &mut IdSource) -> Probe {
    Probe {
        size: Size::Bytes(bytes),
        length_bytes: bytes,
        ..again(probe, attempt, config, ids)
    }
}

fn again(probe: &Probe, attempt: u32, config: &ProbeConfig, ids: &mut IdSource) -> Probe {
    Probe {
        id: ids.next_id(),
        seq: attempt,
        src_port: match probe.transport {
            Transport::Tcp => config.tcp_sources.pick(ids.next_tcp_turn()),
            Transport::Udp | Transport::Icmp => probe.src_port,
        },
        ..probe.clone()
    }
}

/// The element at `index`, counted round and round.
fn pick<T>(list: &[T], index: u64) -> Option<&T> {
    let count = list.len() as u64;
    if count == 0 { None } else { list.get((index % count) as usize) }
}

#[cfg(test)]
mod tests;
