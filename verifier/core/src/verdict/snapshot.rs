//! What the judge looks at: one node's three accounts and the probes it was an end of.
//!
//! A snapshot serialises. A bug report is a snapshot; a regression test is a snapshot with its expected report.

use crate::{
    evidence::Evidence,
    host::HostAccount,
    intent::NodeIntent,
    names::{NodeName, UnixNs},
    observed::{Drop, Hop, Observations, TapKind},
    probe::ProbeResult,
    programmed::NodeState,
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// What another node saw of the probes this node was an end of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEvidence {
    /// Its hops of our probes. Complete only if its taps were all attached and it lost nothing in the window.
    pub hops: Evidence<Vec<Hop>>,
    /// Its drops of our probes.
    pub drops: Evidence<Vec<Drop>>,
    /// Taps it had in force: device name and kind.
    pub taps: BTreeMap<String, TapKind>,
    /// Since when each of them is; one that is not here always was. A tap cannot have seen or answered what came before it.
    #[serde(default)]
    pub taps_since: BTreeMap<String, UnixNs>,
    /// When its agent started. An agent that started within the window cannot have reflected what was sent before.
    pub agent_started_at: UnixNs,
}

/// Whether and how another agent answered over the underlay in the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "agent", rename_all = "kebab-case")]
pub enum PeerContact {
    /// It answered.
    Answered {
        /// Its program version.
        version: String,
    },
    /// The underlay reaches the host, but nobody listens (connection refused).
    NoAgent,
    /// It answered with a refusal (key, version).
    Refused {
        /// Why.
        why: String,
    },
    /// Nothing came back.
    Silent {
        /// Since when.
        since: UnixNs,
    },
    /// It was not asked.
    NotAsked,
}

/// One node, at one moment, as the judge sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// `dataplane-verifier/snapshot/v1`.
    pub schema: String,
    /// Version of the program that made it.
    pub version: String,
    /// The node.
    pub node: NodeName,
    /// When.
    pub taken_at: UnixNs,
    /// When this agent started.
    pub agent_started_at: UnixNs,
    /// This node's slice of intent.
    pub intent: Evidence<NodeIntent>,
    /// What its kernel was told. Unavailable if the namespace could not be entered at all.
    pub programmed: Evidence<NodeState>,
    /// What its taps saw. Unavailable where eBPF cannot be used.
    pub observed: Evidence<Observations>,
    /// Probes this node sent in the window, each with its result.
    pub probes: Evidence<Vec<ProbeResult>>,
    /// What the other nodes saw of them.
    pub remote: BTreeMap<NodeName, Evidence<RemoteEvidence>>,
    /// Contact with the other agents.
    pub contacts: BTreeMap<NodeName, PeerContact>,
    /// What the machine brings along; none if nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Evidence<HostAccount>>,
}

/// Thresholds and timers of the judge. The defaults are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// A port whose probes are lost at least this often …
    pub port_loss_min: u32,
    /// … out of this many is a failing port.
    pub port_loss_of: u32,
    /// Of the probes to one peer, lost ones that are spread at random are a fault from this many percent on. Of what two nodes exchange in one
    /// `validate` (50 probes and more) 2 % lost on the way never come to that, 20 % always do …
    #[serde(default = "random_loss_percent")]
    pub random_loss_percent: u32,
    /// … and from this many lost probes on.
    #[serde(default = "random_loss_min")]
    pub random_loss_min: u32,
    /// By how many milliseconds nine in ten round trips to a peer must exceed half of those within the node for the network to be called slow.
    #[serde(default = "latency_ms")]
    pub latency_ms: u32,
    /// Report all, transient or not, as `validate` does. The continuous verdict holds transients back.
    pub report_transients: bool,
    /// Two samples before a change of state.
    pub confirm_samples: u32,
}

const fn random_loss_percent() -> u32 {
    10
}

const fn random_loss_min() -> u32 {
    6
}

const fn latency_ms() -> u32 {
    250
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            port_loss_min: 2,
            port_loss_of: 3,
            random_loss_percent: random_loss_percent(),
            random_loss_min: random_loss_min(),
            latency_ms: latency_ms(),
            report_transients: true,
            confirm_samples: 2,
        }
    }
}
