//! A trace as one JSON object.

use super::{Row, Spread, Trace, spread, stats};
use serde::Serialize;
use std::collections::BTreeMap;
use verifier_core::{names::NodeName, probe::ProbeResult, verdict::Place};

#[derive(Serialize)]
struct TraceJson<'a> {
    schema: &'static str,
    probes: Vec<ProbeJson<'a>>,
    /// Over all probes: each hop, round trip, round trip without the time at the far end.
    hops: Vec<stats::HopSpread>,
    rtt: Option<Spread>,
    network: Option<Spread>,
    incomplete: &'a BTreeMap<NodeName, String>,
    capture: Option<super::text::Capture>,
}

#[derive(Serialize)]
struct ProbeJson<'a> {
    #[serde(flatten)]
    result: &'a ProbeResult,
    residence_ns: Option<u64>,
    network_ns: Option<u64>,
    place: Option<&'a Place>,
    rows: &'a [Row],
}

/// The trace as text of one JSON object.
///
/// # Errors
/// It cannot be written as JSON: a fault of this program.
pub fn json(trace: &Trace) -> serde_json::Result<String> {
    let whole = TraceJson {
        schema: "dataplane-verifier/trace/v1",
        probes: trace
            .probes
            .iter()
            .map(|traced| ProbeJson {
                result: &traced.result,
                residence_ns: traced.residence_ns,
                network_ns: traced.network_ns(),
                place: traced.place.as_ref(),
                rows: &traced.rows,
            })
            .collect(),
        hops: stats::hops(trace),
        rtt: spread(trace.probes.iter().filter_map(super::Traced::rtt_ns)),
        network: spread(trace.probes.iter().filter_map(super::Traced::network_ns)),
        incomplete: &trace.gaps,
        capture: super::text::capture(trace),
    };
    let mut text = serde_json::to_string_pretty(&whole)?;
    text.push('\n');
    Ok(text)
}
