//! How a node stands: what of a report leaves for the cluster's API, as an object, a condition and an event. Small, whatever is wrong.

use super::{CauseJson, claim_words, contradicts, headline_of};
use crate::{
    intent::Claim,
    names::{NodeName, PodRef, UnixNs},
    verdict::{ClusterReport, Finding, NodeReport, PodReport, PodVerdict, Severity, UnknownCheck, Verdict},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{Deserialize, Serialize};

/// How many causes, pods and unknown checks are written of each.
pub const LIST_MAX: usize = 20;
/// Longest sentence: the API takes 32 kB for a condition's message and 1 kB for an event's note.
const MESSAGE_MAX: usize = 900;

/// What was found, as the object and the condition have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Forwarding {
    /// All that was probed passes.
    True,
    /// It is not known.
    #[default]
    Unknown,
    /// Some of it fails.
    Degraded,
    /// In one direction every remote peer fails.
    False,
}

impl Forwarding {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::Unknown => "Unknown",
            Self::Degraded => "Degraded",
            Self::False => "False",
        }
    }

    /// The word, read. What nobody of us wrote is unknown.
    pub fn parse(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "Degraded" => Self::Degraded,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }

    /// As a condition has it, which knows no degrees: what forwards only in part cannot be relied on.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::Unknown => "Unknown",
            Self::Degraded | Self::False => "False",
        }
    }
}

impl From<Verdict> for Forwarding {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Forwarding => Self::True,
            Verdict::Unknown => Self::Unknown,
            Verdict::Degraded => Self::Degraded,
            Verdict::NotForwarding => Self::False,
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// The node's own agent.
    Agent,
    /// The controller, of a node whose agent does not say it.
    Controller,
}

impl Speaker {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The node.
    pub node: NodeName,
    /// What the cluster says of it, in short.
    pub claimed: String,
    /// What was found.
    pub forwarding: Forwarding,
    /// Whether the claim is healthy and the fact is not.
    pub contradicts_claim: bool,
    /// Code of the first root; where there is none, what the verdict rests on.
    pub cause: Option<String>,
    /// In one sentence; the contradiction first.
    pub message: String,
    /// Roots, worst first.
    pub causes: Vec<CauseJson>,
    /// Stale pods with the code of their first cause, at most [`LIST_MAX`].
    pub stale: Vec<(PodRef, String)>,
    /// How many there are.
    pub stale_count: usize,
    /// What could not be verified, at most [`LIST_MAX`].
    pub unknown: Vec<String>,
    /// When it was judged.
    pub judged_at: UnixNs,
    /// How old the objects of the cluster were then, in seconds.
    pub intent_age_seconds: u64,
    /// Who says so.
    pub speaker: Speaker,
    /// Version of the program that judged.
    pub version: String,
}

/// Reason of a condition that has no cause.
pub const FORWARDING: &str = "forwarding";
/// Reason where no answer could be had.
pub const NOT_VERIFIED: &str = "not-verified";
/// Reason where nobody speaks for the node.
pub const AGENT_SILENT: &str = "agent-silent";

impl Standing {
    /// What a node's own agent says of it.
    pub fn of_report(report: &NodeReport, intent_age_seconds: u64) -> Self {
        let why = report.unknown.first().map(|check| format!("{}: {}", check.check, check.why));
        Self::new(
            Said {
                node: &report.node,
                claim: &report.claim,
                verdict: report.verdict,
                why: why.as_deref(),
                causes: &report.causes,
                pods: &report.pods,
                unknown: &report.unknown,
            },
            report.calico,
            report.taken_at,
            intent_age_seconds,
            Speaker::Agent,
            &report.version,
        )
    }

    /// What all nodes together say of one of them; none of a node that the report does not have.
    pub fn of_cluster(
        report: &ClusterReport,
        node: &NodeName,
        claim: &Claim,
        at: UnixNs,
        intent_age_seconds: u64,
        version: &str,
    ) -> Option<Self> {
        let row = report.nodes.iter().find(|row| row.name == *node)?;
        let pods: Vec<PodReport> = report.pods.iter().filter(|pod| pod.node == *node).cloned().collect();
        let mut causes = row.causes.clone();
        causes.extend(report.causes.iter().cloned());
        let own = format!("{node}: ");
        let unknown: Vec<UnknownCheck> = report
            .unknown
            .iter()
            .filter(|check| check.check.starts_with(&own))
            .cloned()
            .collect();
        Some(Self::new(
            Said {
                node,
                claim,
                verdict: row.verdict,
                why: row.why.as_deref(),
                causes: &causes,
                pods: &pods,
                unknown: &unknown,
            },
            report.calico,
            at,
            intent_age_seconds,
            Speaker::Controller,
            version,
        ))
    }

    /// Of a node for which nobody speaks: whatever was said before does not stand any longer.
    pub fn silent(node: &NodeName, claim: &Claim, why: &str, at: UnixNs, version: &str) -> Self {
        Self {
            node: node.clone(),
            claimed: claim_words(claim),
            forwarding: Forwarding::Unknown,
            contradicts_claim: false,
            cause: Some(AGENT_SILENT.to_string()),
            message: cut(&format!("no agent speaks for this node: {why}")),
            causes: Vec::new(),
            stale: Vec::new(),
            stale_count: 0,
            unknown: Vec::new(),
            judged_at: at,
            intent_age_seconds: 0,
            speaker: Speaker::Controller,
            version: version.to_string(),
        }
    }

    fn new(
        said: Said<'_>,
        calico: (Option<(u16, u16, u16)>, u32),
        judged_at: UnixNs,
        intent_age_seconds: u64,
        speaker: Speaker,
        version: &str,
    ) -> Self {
        let mut roots: Vec<&Finding> = said.causes.iter().filter(|cause| cause.pod.is_none()).collect();
        // What this node is to blame for before what it suffers from, the bad before the less bad; else in the judge's order.
        roots.sort_by_key(|cause| (cause.severity != Severity::Error, cause.node.as_ref() != Some(said.node)));
        let forwarding = Forwarding::from(said.verdict);
        let first = roots.iter().find(|cause| cause.severity == Severity::Error);
        let concerned = first.filter(|cause| forwarding != Forwarding::True || cause.node.is_none());
        let stale: Vec<(PodRef, String)> = said
            .pods
            .iter()
            .filter(|pod| pod.verdict == PodVerdict::Stale)
            .map(|pod| {
                let code = pod.causes.first().map_or(NOT_VERIFIED, |cause| cause.code.as_str());
                (pod.pod.clone(), code.to_string())
            })
            .collect();
        let headline = headline_of(said.node, said.claim, said.verdict);
        let reason = match (concerned, forwarding) {
            (Some(cause), _) => describe(cause, said.node),
            (None, Forwarding::True) => String::new(),
            (None, Forwarding::Unknown) => said.why.unwrap_or("no probe gave an answer that counts").to_string(),
            (None, _) => "some of its probes fail, and no cause of its own was found".to_string(),
        };
        let sentence = [headline.unwrap_or_default(), reason]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        Self {
            node: said.node.clone(),
            claimed: claim_words(said.claim),
            forwarding,
            contradicts_claim: contradicts(said.claim, said.verdict),
            cause: concerned.map(|cause| cause.code.as_str().to_string()),
            message: cut(&sentence),
            causes: roots.iter().take(LIST_MAX).map(|cause| CauseJson::new(cause, calico)).collect(),
            stale_count: stale.len(),
            stale: stale.into_iter().take(LIST_MAX).collect(),
            unknown: said
                .unknown
                .iter()
                .take(LIST_MAX)
                .map(|check| cut(&format!("{}: {}", check.check, check.why)))
                .collect(),
            judged_at,
            intent_age_seconds,
            speaker,
            version: version.to_string(),
        }
    }

    /// What makes two of them the same: not when they were judged, nor words with numbers that move.
    pub fn key(&self) -> Key {
        Key {
            claimed: self.claimed.clone(),
            forwarding: self.forwarding,
            cause: self.cause.clone(),
            causes: self
                .causes
                .iter()
                .map(|cause| format!("{} {}", cause.code.as_str(), cause.subject))
                .collect(),
            stale: self.stale.clone(),
            stale_count: self.stale_count,
            speaker: self.speaker.as_str(),
        }
    }

    /// Reason of the condition: the cause's code.
    pub fn reason(&self) -> &str {
        match (&self.cause, self.forwarding) {
            (_, Forwarding::True) => FORWARDING,
            (Some(cause), _) => cause,
            (None, _) => NOT_VERIFIED,
        }
    }

    /// Message of the condition.
    pub fn condition_message(&self) -> &str {
        if self.message.is_empty() {
            "every peer that was probed is reached, and every probe passes"
        } else {
            &self.message
        }
    }
}

/// What somebody says of a node.
struct Said<'a> {
    node: &'a NodeName,
    claim: &'a Claim,
    verdict: Verdict,
    why: Option<&'a str>,
    causes: &'a [Finding],
    pods: &'a [PodReport],
    unknown: &'a [UnknownCheck],
}

/// See [`Standing::key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    claimed: String,
    forwarding: Forwarding,
    cause: Option<String>,
    causes: Vec<String>,
    stale: Vec<(PodRef, String)>,
    stale_count: usize,
    speaker: &'static str,
}

impl Key {
    /// The part of it whose change is written at once.
    pub fn verdict(&self) -> (Forwarding, Option<&str>, &'static str) {
        (self.forwarding, self.cause.as_deref(), self.speaker)
    }
}

/// A cause in one sentence, with the node to blame where it is another one.
fn describe(cause: &Finding, node: &NodeName) -> String {
    let blamed = match &cause.node {
        Some(other) if other != node => format!(" (to blame: {other})"),
        _ => String::new(),
    };
    let title = cause.code.cause().title;
    match &cause.hop {
        Some(hop) => format!("{}: {}: {title}{blamed}; last seen at {hop}", cause.code, cause.subject),
        None => format!("{}: {}: {title}{blamed}", cause.code, cause.subject),
    }
}

/// No longer than the API takes.
fn cut(text: &str) -> String {
    if text.len() <= MESSAGE_MAX {
        return text.to_string();
    }
    let mut end = MESSAGE_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or(""))
}

#[cfg(test)]
mod tests;
