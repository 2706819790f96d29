//! What intent predicts: the list of taps that a probe must pass.

use crate::{
    intent::{Encapsulation, NodeIntent},
    names::{NodeName, PodRef},
    observed::{Direction, Leg, TapKind},
    probe::{PairKind, Probe},
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use sha1::{Digest, Sha1};

/// Taps in force on each node, as far as known: device name to kind.
pub type Taps = BTreeMap<NodeName, BTreeMap<String, TapKind>>;

/// One tap a packet must pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waypoint {
    /// Node.
    pub node: NodeName,
    /// Kind of tap.
    pub tap: TapKind,
    /// Device name.
    pub device: String,
    /// Direction.
    pub direction: Direction,
    /// Request or reply.
    pub leg: Leg,
}

impl fmt::Display for Waypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        write!(f, "{}/{}/{direction}", self.node, self.device)
    }
}

/// The taps a probe must pass, request first, then reply, according to the sending node's intent.
///
/// For pods on two nodes with encapsulation: workload ingress, tunnel egress, underlay egress here; underlay ingress, tunnel ingress,
/// workload egress there; then the same backwards. Without encapsulation the tunnel taps fall away, on one node the underlay too. A host's
/// own packets start at the tunnel device.
pub fn itinerary(intent: &NodeIntent, probe: &Probe, taps: &Taps) -> Vec<Waypoint> {
    let there = intent.encapsulation_to(&probe.to.node, probe.to.ip);
    let back = intent.encapsulation_back(&probe.to.node, probe.from.ip, probe.to.ip);
    let forward = one_way(intent, probe, there, taps);
    // The answer's way is the same, backwards, but for what it travels in.
    let backward = one_way(intent, probe, back, taps);
    let back = backward.into_iter().rev().map(|w| Waypoint {
        direction: match w.direction {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        },
        leg: Leg::Reply,
        ..w
    });
    forward.into_iter().chain(back).collect()
}

fn one_way(intent: &NodeIntent, probe: &Probe, encapsulation: Encapsulation, taps: &Taps) -> Vec<Waypoint> {
    let (from, to) = (&probe.from, &probe.to);
    let mut out = Vec::new();
    let mut push = |node: &NodeName, tap, device: String, direction| {
        out.push(Waypoint {
            node: node.clone(),
            tap,
            device,
            direction,
            leg: Leg::Request,
        });
    };
    if let Some(pod) = &from.pod {
        push(&from.node, TapKind::Workload, workload_device(intent, pod), Direction::Ingress);
    }
    if matches!(probe.pair, PairKind::PodToRemotePod | PairKind::HostToRemotePod) {
        let tunnel = match encapsulation {
            Encapsulation::None => None,
            encapsulation => intent.tunnel_to(encapsulation, to.ip).map(|t| t.device.clone()),
        };
        if let Some(device) = &tunnel {
            push(&from.node, TapKind::Tunnel, device.clone(), Direction::Egress);
        }
        push(
            &from.node,
            TapKind::Underlay,
            underlay_device(&from.node, &intent.node, taps),
            Direction::Egress,
        );
        push(
            &to.node,
            TapKind::Underlay,
            underlay_device(&to.node, &intent.node, taps),
            Direction::Ingress,
        );
        if let Some(device) = tunnel {
            push(&to.node, TapKind::Tunnel, device, Direction::Ingress);
        }
    }
    if let Some(pod) = &to.pod {
        push(&to.node, TapKind::Workload, workload_device(intent, pod), Direction::Egress);
    }
    out
}

/// The underlay device of `node` by its taps, else by ours (nodes of a cluster mostly look alike), else `eth0`.
fn underlay_device(node: &NodeName, own: &NodeName, taps: &Taps) -> String {
    let of = |n: &NodeName| {
        taps.get(n)
            .and_then(|t| t.iter().find(|(_, kind)| **kind == TapKind::Underlay))
            .map(|(device, _)| device.clone())
    };
    of(node).or_else(|| of(own)).unwrap_or_else(|| "eth0".to_string())
}

/// Host-side device of a pod: by intent where the pod is ours, by Calico's formula where not (calico.md 2.1).
fn workload_device(intent: &NodeIntent, pod: &PodRef) -> String {
    if let Some(w) = intent.workloads.get(pod) {
        return w.device.clone();
    }
    let prefix = intent
        .settings
        .interface_prefixes
        .value()
        .and_then(|p| p.first())
        .map_or("cali", String::as_str);
    let digest = Sha1::digest(format!("{}.{}", pod.namespace, pod.name).as_bytes());
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{prefix}{}", hex.get(..11).unwrap_or(&hex))
}
