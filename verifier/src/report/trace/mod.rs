//! A trace: the hops of each probe in the order of the path that intent predicts, with what was missed, what strayed, and the drops.
//!
//! Times compare on one node only, so each row says how long after the previous hop *on that node* it came. What the far end itself took
//! (between a request going in at its door and the answer coming out) is measured on one clock and is taken off the round trip.

mod json;
mod rows;
mod stats;
mod text;

pub use json::json;
pub use rows::{Mark, Row};
pub use stats::{Spread, spread};
pub use text::text;

use crate::{agent::api::TraceAnswer, command::Exit};
use rows::rows;
use std::collections::BTreeMap;
use verifier_core::{
    intent::NodeIntent,
    names::NodeName,
    observed::{Direction, Leg, TapKind},
    path::{Journey, Taps, Waypoint, itinerary},
    probe::{Outcome, ProbeResult},
    verdict::Place,
};

/// One probe on its way.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The probe with its end.
    pub result: ProbeResult,
    /// Its rows.
    pub rows: Vec<Row>,
    /// Where it was lost, if it was.
    pub place: Option<Place>,
    /// Time at the far end, ns: from in at its door to out of it.
    pub residence_ns: Option<u64>,
}

impl Traced {
    /// Round trip, ns.
    pub const fn rtt_ns(&self) -> Option<u64> {
        match &self.result.outcome {
            Outcome::Answered { rtt_ns, .. } | Outcome::Delivered { rtt_ns } => Some(*rtt_ns),
            _ => None,
        }
    }

    /// Round trip without the time at the far end, ns.
    pub fn network_ns(&self) -> Option<u64> {
        Some(self.rtt_ns()?.saturating_sub(self.residence_ns?))
    }
}

/// All probes of a trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its probes, in the order in which they were sent.
    pub probes: Vec<Traced>,
    /// Nodes whose evidence is not complete, and why.
    pub gaps: BTreeMap<NodeName, String>,
    /// UDP port of the tunnel, for the capture line.
    pub tunnel_port: Option<u16>,
}

impl Trace {
    /// Sorts an answer onto the path that the sending node's intent predicts.
    pub fn new(intent: &NodeIntent, answer: &TraceAnswer) -> Self {
        let mut taps = Taps::new();
        for hop in &answer.hops {
            taps.entry(hop.node.clone()).or_default().insert(hop.device.clone(), hop.tap);
        }
        let mut results = answer.probes.clone();
        results.sort_by_key(|result| result.sent_mono_ns);
        let probes = results.into_iter().map(|result| traced(intent, answer, &taps, result)).collect();
        Self {
            probes,
            gaps: answer.gaps.clone(),
            tunnel_port: intent.settings.vxlan_port.value().copied(),
        }
    }

    /// 0 if every probe passed, 3 if none says anything, else 1.
    pub fn exit(&self) -> Exit {
        let failed = |traced: &Traced| !traced.result.outcome.passed() && !traced.result.outcome.inconclusive();
        if self.probes.iter().any(failed) {
            Exit::Findings
        } else if self.probes.iter().all(|traced| traced.result.outcome.passed()) && !self.probes.is_empty() {
            Exit::Verified
        } else {
            Exit::Unverified
        }
    }

    /// The first probe that was lost on its way, with the place.
    pub fn failing(&self) -> Option<(&Traced, &Place)> {
        self.probes.iter().find_map(|traced| Some((traced, traced.place.as_ref()?)))
    }
}

fn traced(intent: &NodeIntent, answer: &TraceAnswer, taps: &Taps, result: ProbeResult) -> Traced {
    let waypoints: Vec<Waypoint> = itinerary(intent, &result.probe, taps);
    let journey = Journey::assemble(&result.probe, waypoints, &answer.hops);
    let lost = matches!(result.outcome, Outcome::Lost | Outcome::Rejected { .. });
    // Evidence is judged by the judge; here the gaps are printed beside the table.
    let witness = journey
        .waypoints
        .iter()
        .map(|waypoint| (waypoint.node.clone(), Vec::new()))
        .collect();
    let place = lost.then(|| journey.divergence(&witness).0);
    Traced {
        rows: rows(&journey, answer, &result, lost),
        residence_ns: residence_ns(&journey),
        place,
        result,
    }
}

/// From the request's last tap to the reply's first one, at the far end's door.
fn residence_ns(journey: &Journey<'_>) -> Option<u64> {
    let at = |leg: Leg, direction: Direction| {
        let index = journey
            .waypoints
            .iter()
            .position(|waypoint| waypoint.leg == leg && waypoint.direction == direction && waypoint.tap == TapKind::Workload)?;
        (*journey.seen.get(index)?).map(|hop| hop.at_ns)
    };
    let (into, out) = (at(Leg::Request, Direction::Egress)?, at(Leg::Reply, Direction::Ingress)?);
    out.checked_sub(into)
}
