//! The rows of one probe.

use crate::agent::api::TraceAnswer;
use serde::Serialize;
use std::collections::BTreeMap;
use verifier_core::{
    names::NodeName,
    observed::{Direction, Drop, DropStage, Hop, Inner, Leg, Outer, TapKind, Where},
    path::{Journey, Waypoint},
    probe::{ProbeResult, low},
};

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Seen where it was expected.
    Seen,
    /// Seen where it was not expected.
    Strayed,
    /// An ICMP error about it was seen.
    Error,
    /// The kernel dropped it.
    Dropped,
    /// Expected here next, and not seen.
    Missed,
    /// Not seen, and yet passed: a later hop was.
    Unseen,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it stands for.
    pub mark: Mark,
    /// Node.
    pub node: NodeName,
    /// Device; with the pod for what happened inside one.
    pub device: String,
    /// Kind of the tap.
    pub tap: Option<TapKind>,
    /// Direction.
    pub direction: Option<Direction>,
    /// Request, reply or error.
    pub leg: Leg,
    /// Outer header.
    pub outer: Option<Outer>,
    /// Inner header.
    pub inner: Option<Inner>,
    /// GSO segment size and segments.
    pub gso: Option<(u32, u32)>,
    /// `skb->mark`.
    pub fwmark: Option<u32>,
    /// CPU.
    pub cpu: Option<u32>,
    /// Time since the previous record on this node, ns.
    pub since_previous_ns: Option<u64>,
    /// Reason and place of a drop.
    pub drop: Option<String>,
}

/// The rows of one probe, in the order of the path; what strayed and the drops stand after the last hop on the path.
pub fn rows(journey: &Journey<'_>, answer: &TraceAnswer, result: &ProbeResult, lost: bool) -> Vec<Row> {
    let id = low(result.probe.id);
    let last = journey.last();
    let mut rows = Vec::new();
    for (index, (waypoint, seen)) in journey.waypoints.iter().zip(&journey.seen).enumerate() {
        match seen {
            Some(hop) => rows.push((Some(hop.at_ns), of_hop(hop, Mark::Seen))),
            None if last.is_some_and(|last| index < last) => rows.push((None, of_waypoint(waypoint, Mark::Unseen))),
            None => {}
        }
    }
    for hop in &journey.off_path {
        rows.push((Some(hop.at_ns), of_hop(hop, Mark::Strayed)));
    }
    for hop in answer.hops.iter().filter(|hop| hop.probe == id && hop.leg == Leg::Error) {
        rows.push((Some(hop.at_ns), of_hop(hop, Mark::Error)));
    }
    // A healthy probe leaves drop records too (a raw socket's copy, a SYN to a closed port): they count only for one that was lost.
    if lost {
        for drop in answer.drops.iter().filter(|drop| drop.probe == id) {
            rows.push((Some(drop.at_ns), of_drop(drop)));
        }
        let next = last.map_or(0, |last| last + 1);
        if let Some(waypoint) = journey.waypoints.get(next) {
            rows.push((None, of_waypoint(waypoint, Mark::Missed)));
        }
    }
    let mut previous: BTreeMap<NodeName, u64> = BTreeMap::new();
    rows.into_iter()
        .map(|(at_ns, mut row)| {
            if let Some(at_ns) = at_ns {
                let before = previous.insert(row.node.clone(), at_ns);
                row.since_previous_ns = before.and_then(|before| at_ns.checked_sub(before));
            }
            row
        })
        .collect()
}

fn of_hop(hop: &Hop, mark: Mark) -> Row {
    Row {
        mark,
        node: hop.node.clone(),
        device: hop.device.clone(),
        tap: Some(hop.tap),
        direction: Some(hop.direction),
        leg: hop.leg,
        outer: hop.outer.clone(),
        inner: Some(hop.inner.clone()),
        gso: (hop.gso_segs > 0).then_some((hop.gso_size, hop.gso_segs)),
        fwmark: Some(hop.mark),
        cpu: Some(hop.cpu),
        since_previous_ns: None,
        drop: None,
    }
}

fn of_waypoint(waypoint: &Waypoint, mark: Mark) -> Row {
    Row {
        mark,
        node: waypoint.node.clone(),
        device: waypoint.device.clone(),
        tap: Some(waypoint.tap),
        direction: Some(waypoint.direction),
        leg: waypoint.leg,
        outer: None,
        inner: None,
        gso: None,
        fwmark: None,
        cpu: None,
        since_previous_ns: None,
        drop: None,
    }
}

fn of_drop(drop: &Drop) -> Row {
    let device = drop.device.as_deref().unwrap_or("?");
    let reason = drop.reason.as_deref().unwrap_or("no reason told");
    let location = drop.location.as_deref().unwrap_or("unknown place");
    Row {
        mark: Mark::Dropped,
        node: drop.node.clone(),
        device: match &drop.place {
            Where::Node => device.to_owned(),
            Where::Pod(pod) => format!("pod:{pod}/{device}"),
        },
        tap: None,
        direction: None,
        leg: drop.leg,
        outer: None,
        inner: None,
        gso: None,
        fwmark: None,
        cpu: None,
        since_previous_ns: None,
        drop: Some(match stage(drop.stage) {
            Some(stage) => format!("{reason}@{location} ({stage})"),
            None => format!("{reason}@{location}"),
        }),
    }
}

const fn stage(stage: DropStage) -> Option<&'static str> {
    match stage {
        DropStage::Prerouting => Some("prerouting"),
        DropStage::Input => Some("input"),
        DropStage::Forward => Some("forward"),
        DropStage::Output => Some("output"),
        DropStage::Postrouting => Some("postrouting"),
        DropStage::Unknown => None,
    }
}
