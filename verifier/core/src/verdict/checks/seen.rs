//! What packets themselves show, though every probe may pass: tunnel packets that intent does not allow, and a rewritten source.

use super::{Out, View};
use crate::{
    observed::{ConformanceCount, ConformanceKind, Direction, Hop, Leg},
    path::{Taps, itinerary},
    verdict::{CauseCode, Severity},
};
use alloc::{collections::BTreeMap, format, string::ToString, vec::Vec};

/// Packets of a kind that leave, below this number in the window, are taken for the tail of a change that intent has not settled on.
const LEAVING_MIN: u64 = 2;
/// The same of packets that arrive: the network may also have damaged them. What is sent against intent is sent again and again, and its
/// sender has seen it leave.
const ARRIVING_MIN: u64 = 5;

/// Probes with another source than theirs, below which nothing is said to rewrite.
const REWRITTEN_MIN: u32 = 2;

/// Tunnel packets against intent.
pub(super) fn conformance(view: &View<'_>, out: &mut Out) {
    let Some(observed) = view.snapshot.observed.seen() else { return };
    let Some(counts) = observed.conformance.seen() else { return };
    let enough = |count: &&ConformanceCount| match count.direction {
        Direction::Egress => count.packets >= LEAVING_MIN,
        Direction::Ingress => count.packets >= ARRIVING_MIN,
    };
    for count in counts.iter().filter(enough) {
        let code = match count.kind {
            ConformanceKind::Conforming | ConformanceKind::Unjudged => continue,
            ConformanceKind::WrongOwner => CauseCode::WrongOwnerSeen,
            ConformanceKind::WrongVni => CauseCode::VniMismatchSeen,
            ConformanceKind::SpoofedSource => CauseCode::SpoofedSourceSeen,
            ConformanceKind::BareLeak => CauseCode::UnencapsulatedLeak,
            ConformanceKind::UnexpectedEncapsulation => CauseCode::UnexpectedEncapsulation,
        };
        let direction = if count.direction == Direction::Egress { "out" } else { "in" };
        let subject = match &count.peer {
            Some(peer) => format!("{direction}, other end {peer}"),
            None => direction.to_string(),
        };
        let mut f = view.finding(code, subject);
        f.peer.clone_from(&count.peer);
        let sender = match count.direction {
            Direction::Egress => Some(&view.intent.node),
            Direction::Ingress => count.peer.as_ref(),
        };
        if let Some(sender) = sender {
            f.value("SENDER", sender);
        }
        // By itself it endangers nothing that was probed: a warning, unless a root takes it as its own evidence.
        f.severity = Severity::Warning;
        f.evidence.observed = Some(match count.sample {
            // A bare one has nothing around it.
            Some((os, od, is, id)) if os.is_unspecified() && od.is_unspecified() => {
                format!("{} packets, one from {is} to {id} without encapsulation", count.packets)
            }
            Some((os, od, is, id)) => format!("{} packets, one from {is} to {id} inside {os} to {od}", count.packets),
            None => format!("{} packets", count.packets),
        });
        out.findings.push(f);
    }
}

/// The source of our pods' probes is theirs at every tap.
pub(super) fn source_rewritten(view: &View<'_>, out: &mut Out) {
    let Some(probes) = view.snapshot.probes.seen() else { return };
    let own = view.snapshot.observed.seen().and_then(|o| o.hops.seen()).into_iter().flatten();
    let others = view
        .snapshot
        .remote
        .values()
        .filter_map(|e| e.seen())
        .filter_map(|r| r.hops.seen())
        .flatten();
    let mut by_probe: BTreeMap<u32, Vec<&Hop>> = BTreeMap::new();
    for hop in own.chain(others).filter(|h| h.leg == Leg::Request) {
        by_probe.entry(hop.probe).or_default().push(hop);
    }
    // Neither the order in which records arrived nor that of the results says anything.
    by_probe.values_mut().for_each(|hops| hops.sort());
    let mut results: Vec<_> = probes.iter().filter(|r| r.probe.from.pod.is_some()).collect();
    results.sort();
    let mut found: BTreeMap<(alloc::string::String, Option<alloc::string::String>), (u32, core::net::IpAddr)> = BTreeMap::new();
    for result in results {
        #[expect(clippy::cast_possible_truncation, reason = "taps carry the low 32 bits of a probe's identity")]
        let Some(hops) = by_probe.get(&(result.probe.id as u32)) else {
            continue;
        };
        let waypoints = itinerary(view.intent, &result.probe, &Taps::new());
        let mut before = None;
        for w in waypoints.iter().filter(|w| w.leg == Leg::Request) {
            let at = hops
                .iter()
                .find(|h| h.is_of(&result.probe) && h.node == w.node && h.tap == w.tap && h.direction == w.direction);
            match at {
                Some(h) if h.inner.src != result.probe.from.ip => {
                    if h.node == view.intent.node {
                        found
                            .entry((format!("{}/{}", h.node, h.device), before.clone()))
                            .or_insert((0, h.inner.src))
                            .0 += 1;
                    }
                    break;
                }
                Some(h) => {
                    before = Some(format!(
                        "{}/{}/{}",
                        h.node,
                        h.device,
                        if w.direction == Direction::Ingress { "ingress" } else { "egress" }
                    ))
                }
                None => {}
            }
        }
    }
    // One rule rewrites all of a node's traffic: one finding, by the place seen most. A single probe may share the half of its identity that
    // taps see, and its destination, with another node's.
    let most = found.into_iter().max_by_key(|(_, (n, _))| *n);
    let Some(((place, before), (count, to))) = most.filter(|(_, (n, _))| *n >= REWRITTEN_MIN) else {
        return;
    };
    let rule = view
        .state
        .filters
        .seen()
        .into_iter()
        .flatten()
        .filter(|r| {
            r.verdict == crate::programmed::FilterVerdict::SourceNat
                && r.moved.is_none_or(|m| m > 0)
                && !r.table.contains("calico")
                && !r.chain.starts_with("cali")
        })
        .map(|r| format!("{} {} {}", r.family, r.table, r.chain))
        .min();
    let mut f = view.finding(CauseCode::SourceRewritten, rule.clone().unwrap_or_else(|| place.clone()));
    f.hop = before;
    f.expected_next = Some(format!("{place}/egress"));
    f.evidence.intent = Some("pod to pod packets keep the pod's address as source".to_string());
    f.evidence.programmed = rule.map(|r| format!("a rule in {r} rewrites sources"));
    f.evidence.observed = Some(format!("{count} probes left {place} with source {to}"));
    out.findings.push(f);
}
