//! What agents, `validate` and `trace` say to each other over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process runs; no authentication |
//! | `GET /readyz` | 200 once the first accounts are complete, else 503 with what is missing; no authentication |
//! | `GET /readiness` | 200 while the node forwards, else 503 with why: for what polled Felix's; no authentication |
//! | `GET /metrics` | Prometheus text; no authentication |
//! | `GET /v1/report` | the continuous [`ReportAnswer`] |
//! | `GET /v1/evidence?probes=1a2b,…` | [`RemoteEvidence`] of these probe ids |
//! | `POST /v1/round` | runs a full round as [`RoundRequest`] says, answers with a [`NodeSnapshot`] |
//! | `POST /v1/trace` | sends probes as [`TraceRequest`] says, answers with a [`TraceAnswer`] |

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
};
use verifier_core::{
    evidence::Evidence,
    names::{NodeName, PodRef, UnixNs},
    observed::{Drop, Hop},
    probe::{ProbeResult, Transport},
    verdict::{NodeReport, NodeSnapshot, RemoteEvidence},
};

/// Path of the report.
pub const REPORT: &str = "/v1/report";
/// Path of the evidence.
pub const EVIDENCE: &str = "/v1/evidence";
/// Path of a round.
pub const ROUND: &str = "/v1/round";
/// Path of a trace.
pub const TRACE: &str = "/v1/trace";
/// Largest TCP segment between agents. What asks for evidence about a network that swallows large packets must itself do without them:
/// small enough for every MTU that IPv6 allows (1280), less the headers of a tunnel that the underlay may be.
pub const SEGMENT_BYTES: u32 = 1100;
/// How many probe ids one request for evidence may name.
pub const EVIDENCE_IDS_MAX: usize = 4096;

/// Order for a full round of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRequest {
    /// Only these nodes as targets; all if empty.
    pub targets: BTreeSet<NodeName>,
    /// How long the asker waits, ms.
    pub patience_ms: u64,
}

/// Order to follow probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// From this pod of the asked node; from the node itself if none.
    pub from: Option<PodRef>,
    /// To this address.
    pub to: IpAddr,
    /// Transport.
    pub transport: Transport,
    /// Length of the inner IP packet; as small as it gets if none.
    pub length_bytes: Option<u32>,
    /// How many.
    pub count: u32,
}

/// What came of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The probes with their results.
    pub probes: Vec<ProbeResult>,
    /// Hops that any node saw of them.
    pub hops: Vec<Hop>,
    /// Drops that any node saw of them.
    pub drops: Vec<Drop>,
    /// Nodes whose evidence is not complete, and why.
    pub gaps: BTreeMap<NodeName, String>,
}

/// The continuous verdict of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// When this agent started.
    pub agent_started_at: UnixNs,
    /// The report; unavailable until the first has been made.
    pub report: Evidence<NodeReport>,
}

/// What an agent does for those who ask. The HTTP server knows nothing else of it.
pub trait Backend: Send + Sync + 'static {
    /// What is still missing until the agent is ready; empty when it is.
    fn missing(&self) -> Vec<String>;
    /// Whether the node forwards; else what it does instead, and why.
    ///
    /// # Errors
    /// It does not, or it is not known.
    fn forwarding(&self) -> Result<(), String>;
    /// Metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// The continuous report.
    fn report(&self) -> ReportAnswer;
    /// Evidence about these probes.
    fn evidence(&self, probes: &BTreeSet<u32>) -> impl Future<Output = RemoteEvidence> + Send;
    /// A full round.
    fn round(&self, request: RoundRequest) -> impl Future<Output = Result<NodeSnapshot, Declined>> + Send;
    /// A trace.
    fn trace(&self, request: TraceRequest) -> impl Future<Output = Result<TraceAnswer, Declined>> + Send;
    /// Somebody with the key spoke to this agent.
    fn heard_from(&self, version: &str);
}

/// Why an agent does not do what it was asked. Travels as the body of a 4xx or 5xx.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It is not ready.
    #[error("the agent is not ready yet: {why}")]
    NotReady {
        /// What is missing.
        why: String,
    },
    /// It is doing too much already.
    #[error("the agent is busy with another round: ask again in a few seconds")]
    Busy,
    /// The request makes no sense there.
    #[error("{why}")]
    Unfit {
        /// Why, with the remedy.
        why: String,
    },
    /// A fault of the agent.
    #[error("the agent failed: {why}")]
    Failed {
        /// How.
        why: String,
    },
}

/// Probe ids as they stand in the query of [`EVIDENCE`].
pub fn write_ids(ids: &BTreeSet<u32>) -> String {
    let mut out = String::with_capacity(ids.len() * 9);
    for id in ids {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&format!("{id:x}"));
    }
    out
}

/// The ids of such a query.
///
/// # Errors
/// Something in it is no id, or there are too many.
pub fn read_ids(text: &str) -> Result<BTreeSet<u32>, Declined> {
    let mut ids = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let id = u32::from_str_radix(part, 16).map_err(|_| Declined::Unfit {
            why: "probes must be hexadecimal ids separated by commas".to_owned(),
        })?;
        ids.insert(id);
        if ids.len() > EVIDENCE_IDS_MAX {
            return Err(Declined::Unfit {
                why: format!("at most {EVIDENCE_IDS_MAX} probes can be asked for at once"),
            });
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_query() {
        let ids = BTreeSet::from([0, 1, 0xdead_beef, u32::MAX]);
        assert_eq!(read_ids(&write_ids(&ids)).unwrap(), ids);
        assert_eq!(read_ids("").unwrap(), BTreeSet::new());
        assert!(read_ids("1,xyz").is_err());
        let many: BTreeSet<u32> = (0..5000).collect();
        assert!(read_ids(&write_ids(&many)).is_err());
    }
}
