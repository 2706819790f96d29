//! Probes that arrived by another way than intent's: over a node that is neither of their ends. Nothing was lost, so they are no symptom;
//! what is wrong with the routes between the two ends is worth more for them.

use super::{Detour, symptom::Index};
use crate::{
    intent::NodeIntent,
    names::NodeName,
    observed::{Direction, Hop, Leg, TapKind},
    probe::ProbeResult,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

/// The detours of this node's answered probes, by destination.
///
/// Only their requests count: the way of a reply is the other node's choice, and its own probes tell of it.
pub(super) fn detours<'a>(index: &Index<'_>, intent: &NodeIntent, passed: impl IntoIterator<Item = &'a ProbeResult>) -> Vec<Detour> {
    let mut out: BTreeMap<(&NodeName, core::net::IpAddr), (u32, BTreeSet<String>)> = BTreeMap::new();
    for result in passed {
        let to = &result.probe.to;
        let by_others = |hop: &Hop| hop.leg == Leg::Request && hop.node != intent.node && hop.node != to.node;
        // The itinerary is made only where there is something to hold against it.
        if to.node == intent.node || !index.hops_of(result).iter().any(|hop| by_others(hop)) {
            continue;
        }
        let journey = index.journey(intent, result);
        let at: BTreeSet<String> = journey.off_path.iter().filter(|hop| by_others(hop)).map(|hop| place(hop)).collect();
        if !at.is_empty() {
            let entry = out.entry((&to.node, to.ip)).or_default();
            entry.0 += 1;
            entry.1.extend(at);
        }
    }
    out.into_iter()
        .map(|((to, ip), (probes, at))| Detour {
            to: to.clone(),
            ip,
            probes,
            at: at.into_iter().collect(),
        })
        .collect()
}

/// Where the lost ones of these probes were seen besides their way.
pub(super) fn off_path(index: &Index<'_>, intent: &NodeIntent, lost: &[&ProbeResult]) -> Vec<String> {
    let places: BTreeSet<String> = lost
        .iter()
        .flat_map(|result| index.journey(intent, result).off_path)
        .map(place)
        .collect();
    places.into_iter().collect()
}

/// `node-c/eth0/ingress (bare)`.
fn place(hop: &Hop) -> String {
    let bare = if hop.outer.is_none() && hop.tap == TapKind::Underlay {
        " (bare)"
    } else {
        ""
    };
    let direction = if hop.direction == Direction::Ingress { "ingress" } else { "egress" };
    format!("{}/{}/{direction}{bare}", hop.node, hop.device)
}
