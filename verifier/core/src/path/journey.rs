//! What packets did, held against the itinerary.

use super::Waypoint;
use crate::{
    evidence::Gap,
    names::NodeName,
    observed::{Direction, Hop, Leg, TapKind},
    probe::{Endpoint, Probe},
    verdict::{Place, Segment},
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Whose records may be used for negative claims: the gaps of each node that took part, empty for complete evidence. A node that is not
/// here gave no evidence at all.
pub type Witness = BTreeMap<NodeName, Vec<Gap>>;

/// One probe's hops, sorted onto its itinerary.
#[derive(Clone, Debug)]
pub struct Journey<'a> {
    /// The itinerary.
    pub waypoints: Vec<Waypoint>,
    /// For each waypoint the earliest record of it.
    pub seen: Vec<Option<&'a Hop>>,
    /// Records that fit no waypoint: another node, another device, bare where encapsulated was expected.
    pub off_path: Vec<&'a Hop>,
    from: Endpoint,
    to: Endpoint,
}

impl<'a> Journey<'a> {
    /// Sorts `hops` (of any probe, from any node, in any order) onto the itinerary of `probe`.
    pub fn assemble(probe: &Probe, waypoints: Vec<Waypoint>, hops: impl IntoIterator<Item = &'a Hop>) -> Self {
        let mut seen: Vec<Option<&Hop>> = Vec::new();
        seen.resize(waypoints.len(), None);
        let mut off_path = Vec::new();
        for hop in hops.into_iter().filter(|h| h.is_of(probe) && h.leg != Leg::Error) {
            let index = waypoints.iter().position(|w| fits(w, hop, &waypoints));
            match index.and_then(|i| seen.get_mut(i)) {
                Some(slot) if slot.is_none_or(|old| old.at_ns > hop.at_ns) => *slot = Some(hop),
                Some(_) => {}
                None => off_path.push(hop),
            }
        }
        off_path.sort_by_key(|h| (h.node.clone(), h.at_ns));
        Self {
            waypoints,
            seen,
            off_path,
            from: probe.from.clone(),
            to: probe.to.clone(),
        }
    }

    /// Index of the last waypoint that was seen.
    pub fn last(&self) -> Option<usize> {
        self.seen.iter().rposition(Option::is_some)
    }

    /// The first waypoint that was missed; none if all were seen.
    pub fn missed(&self) -> Option<&Waypoint> {
        self.waypoints.get(self.last().map_or(0, |i| i + 1))
    }

    /// Where the packet of a probe that was not answered got lost, and what keeps that from being certain.
    pub fn divergence(&self, witness: &Witness) -> (Place, Vec<Gap>) {
        let last = self.last();
        let hop = match last.and_then(|i| self.waypoints.get(i)) {
            Some(w) => Some(w.to_string()),
            None => Some(sender(&self.from)),
        };
        let Some(missed) = self.missed() else {
            // The reply came back to the sender's door and the sender did not take it.
            let place = Place {
                node: self.from.node.clone(),
                towards: None,
                segment: Segment::InsideSender,
                leg: Leg::Reply,
                hop,
                expected_next: Some(sender(&self.from)),
            };
            return (place, gaps_of(witness, &self.from.node));
        };
        let previous = last.and_then(|i| self.waypoints.get(i));
        let segment = segment(previous, missed, self.to.pod.is_some());
        let (node, towards) = match (segment, previous) {
            (Segment::Underlay, Some(p)) => (p.node.clone(), Some(missed.node.clone())),
            (Segment::InsideReceiver, Some(p)) => (p.node.clone(), None),
            _ => (missed.node.clone(), None),
        };
        let expected_next = if segment == Segment::InsideReceiver {
            Some(sender(&self.to))
        } else {
            Some(missed.to_string())
        };
        let gaps = gaps_of(witness, &missed.node);
        (
            Place {
                node,
                towards,
                segment,
                leg: missed.leg,
                hop,
                expected_next,
            },
            gaps,
        )
    }
}

/// `NODE/pod:NS/NAME/eth0/egress`, or the host itself.
fn sender(end: &Endpoint) -> String {
    match &end.pod {
        Some(pod) => format!("{}/pod:{pod}/eth0/egress", end.node),
        None => format!("{}/host/egress", end.node),
    }
}

fn gaps_of(witness: &Witness, node: &NodeName) -> Vec<Gap> {
    match witness.get(node) {
        Some(gaps) => gaps.clone(),
        None => alloc::vec![Gap::new(format!("observed/hops of {node}"), "that node gave no evidence")],
    }
}

/// Whether a record is of this waypoint. On the underlay an encapsulated packet is expected wherever the itinerary has a tunnel.
fn fits(w: &Waypoint, hop: &Hop, all: &[Waypoint]) -> bool {
    let tunnelled = all.iter().any(|x| x.tap == TapKind::Tunnel && x.leg == w.leg);
    w.node == hop.node
        && w.tap == hop.tap
        && w.direction == hop.direction
        && w.leg == hop.leg
        && (w.tap == TapKind::Underlay || w.device == hop.device)
        && (w.tap != TapKind::Underlay || hop.outer.is_some() == tunnelled)
}

fn segment(previous: Option<&Waypoint>, missed: &Waypoint, to_pod: bool) -> Segment {
    let Some(previous) = previous else {
        // Nothing was seen. A pod's packet must show at its host-side veth first; a host's own packet starts in the node's routing.
        return match missed.tap {
            TapKind::Workload if missed.direction == Direction::Ingress => Segment::InsideSender,
            TapKind::Workload => Segment::ReceiverRouting,
            TapKind::Tunnel | TapKind::Underlay => Segment::SenderRouting,
        };
    };
    if previous.leg == Leg::Request && missed.leg == Leg::Reply {
        return if to_pod { Segment::InsideReceiver } else { Segment::Unknown };
    }
    if previous.node != missed.node {
        return Segment::Underlay;
    }
    match (previous.tap, missed.tap, missed.direction) {
        (TapKind::Workload, TapKind::Workload, _) => Segment::ReceiverRouting,
        (TapKind::Workload, _, _) => Segment::SenderRouting,
        (TapKind::Tunnel, TapKind::Underlay, _) => Segment::SenderEncap,
        (TapKind::Underlay, TapKind::Tunnel, _) => Segment::ReceiverDecap,
        (_, TapKind::Workload, _) => Segment::ReceiverRouting,
        _ => Segment::Unknown,
    }
}
