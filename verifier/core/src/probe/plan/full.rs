//! The plan of a full validation.

use super::{
    IdSource, NodeIntent, PairKind, Plan, PlanOptions,
    pairs::{Builder, Shots},
    pick,
};
use crate::names::NodeName;
use alloc::vec::Vec;

/// Routes to each peer that are tested, beside the one to the pod whose turn it is.
const ROUTES_PER_PEER: usize = 4;

/// The probes of a full validation: every peer that `options` allows, every local pod, each probe `options.attempts` times.
///
/// Every local pod is tested from the host, towards a remote pod and in both directions with a neighbouring pod, so that each can be
/// told fresh or stale; one pod for each peer gets the full set of ports and sizes. Of a peer with several blocks, or with pods that borrowed
/// their addresses, a pod by each of its routes is tested, up to a few.
pub fn plan_full(intent: &NodeIntent, options: &PlanOptions, ids: &mut IdSource) -> Plan {
    let peers: Vec<&NodeName> = intent
        .peers
        .keys()
        .filter(|peer| options.only_peers.as_ref().is_none_or(|only| only.contains(*peer)))
        .collect();
    // Each node begins with another pod of a peer, so that together they reach many of its pods.
    let own_place = intent.peers.keys().take_while(|peer| **peer < intent.node).count() as u64;
    let attempts = options.attempts.max(1);

    let mut builder = Builder::new(intent, options, ids);
    for v6 in builder.families() {
        builder.family(v6);
        one_family(&mut builder, &peers, own_place, attempts);
    }
    builder.finish()
}

fn one_family(builder: &mut Builder<'_>, peers: &[&NodeName], own_place: u64, attempts: u32) {
    let local = builder.local_pods();
    if local.is_empty() && !peers.is_empty() {
        builder.gap_no_local_pod();
    }
    let mut reachable = Vec::new();
    for (rank, peer) in (0..).zip(peers) {
        let Some(to) = builder.remote_pod(peer, own_place) else { continue };
        if let Some(from) = pick(&local, rank) {
            builder.shoot(from, &to, PairKind::PodToRemotePod, Shots::ALL_PORTS, attempts);
            for to in builder.pods_by_other_routes(peer, to.ip).into_iter().take(ROUTES_PER_PEER) {
                builder.shoot(from, &to, PairKind::PodToRemotePod, Shots::ONE_PORT, attempts);
            }
        }
        if let Some(host) = builder.host_towards(peer, to.ip) {
            builder.shoot(&host, &to, PairKind::HostToRemotePod, Shots::ONE_PORT, attempts);
        }
        reachable.push((rank, *peer));
    }
    for (index, from) in (0_u64..).zip(&local) {
        // Pods that the loop above used as a source have reached a remote pod already.
        let used = reachable.iter().any(|(rank, _)| rank % local.len() as u64 == index);
        if !used
            && let Some((_, peer)) = pick(&reachable, index)
            && let Some(to) = builder.remote_pod(peer, own_place.wrapping_add(index))
        {
            builder.shoot(from, &to, PairKind::PodToRemotePod, Shots::ONE_PORT, attempts);
        }
    }
    if let Some(host) = builder.host_local(!local.is_empty()) {
        for to in &local {
            builder.shoot(&host, to, PairKind::HostToLocalPod, Shots::SMALL, attempts);
        }
    }
    if local.len() > 1 {
        for (from, to) in local.iter().zip(local.iter().cycle().skip(1)) {
            builder.shoot(from, to, PairKind::PodToLocalPod, Shots::ONE_PORT, attempts);
        }
    }
}
