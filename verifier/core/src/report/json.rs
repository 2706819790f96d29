//! The JSON others may rely on: one object, `"schema": "dataplane-verifier/v1"`, that changes only by addition. These types are that contract;
//! the judge's own may change.

use super::{rfc3339, text::chain};
use crate::{
    intent::Owner,
    names::{NodeName, PodRef},
    observed::Loss,
    verdict::{
        CauseCode, Class, ClusterReport, Consequence, Finding, FindingEvidence, PodReport, PodVerdict, Repair, Severity, UnknownCheck,
        Verdict,
    },
};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

/// Schema of the report.
pub const SCHEMA: &str = "dataplane-verifier/v1";

/// What no report of this program verifies.
pub(super) const NOT_VERIFIED: &[&str] = &["Services", "DNS", "egress from the cluster"];

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JsonReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// One sentence for each node whose claim is healthy and whose fact is not.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub headline: Vec<String>,
    /// `forwarding`, `unknown`, `degraded`, `not-forwarding`: the worst of the nodes'.
    pub verdict: Verdict,
    /// Causes that are the cluster's or the network's.
    pub causes: Vec<CauseJson>,
    /// Nodes of the expected set, in order of name.
    pub nodes: Vec<NodeJson>,
    /// Pods, in order of namespace and name.
    pub pods: Vec<PodJson>,
    /// Losses of the accounts, by node.
    pub loss: BTreeMap<NodeName, Loss>,
    /// What could not be verified, and why.
    pub unknown: Vec<UnknownCheck>,
    /// What this program never verifies.
    pub not_verified: Vec<String>,
}

/// What the cluster claims of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimJson {
    /// Condition Ready.
    pub ready: Option<bool>,
    /// Phase of the node's calico-node pod.
    pub calico_node: Option<String>,
    /// Restarts of calico-node.
    pub restarts: Option<u32>,
    /// Condition NetworkUnavailable.
    pub network_unavailable: Option<bool>,
    /// Reason of that: `CalicoIsUp`, `CalicoIsDown`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network_reason: Option<String>,
    /// How calico-node ended the last time: reason, exit code, when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_termination: Option<String>,
    /// How often Ready changed within the last hour, as far as it was watched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ready_toggles: Option<u32>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeJson {
    /// Name.
    pub name: NodeName,
    /// Claim.
    pub claimed: ClaimJson,
    /// Fact.
    pub verdict: Verdict,
    /// Causes for which this node is to blame.
    pub causes: Vec<CauseJson>,
    /// Why the verdict is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodJson {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node.
    pub node: NodeName,
    /// First address.
    pub ip: Option<String>,
    /// `fresh`, `stale`, `policy-blocked`, `unknown`.
    pub verdict: PodVerdict,
    /// Causes that are its own.
    pub causes: Vec<CauseJson>,
    /// Controller as `Kind/name`.
    pub controller: Option<String>,
    /// Whether its controller makes a new one when it is deleted.
    pub safe_to_delete: bool,
    /// Why the verdict is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseJson {
    /// Code.
    pub code: CauseCode,
    /// `datastore`, `not-programmed`, `not-forwarded`, `none`.
    pub class: Class,
    /// `info`, `warning`, `error`.
    pub severity: Severity,
    /// Node to blame.
    pub node: Option<NodeName>,
    /// The other node.
    pub peer: Option<NodeName>,
    /// Pod, for a pod's causes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<PodRef>,
    /// Last point where the packet was seen.
    pub hop: Option<String>,
    /// First point where it was missed.
    pub expected_next: Option<String>,
    /// What exactly.
    pub subject: String,
    /// One line of the cause table.
    pub title: String,
    /// What each account says.
    pub evidence: FindingEvidence,
    /// What follows from it.
    pub consequences: Vec<Consequence>,
    /// How it follows, root first, for a cause that lies in the machine: `kernel-upgraded > kernel-module-missing > …`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chain: Option<String>,
    /// What to do.
    pub remedy: String,
    /// How that survives a reboot, where it does not by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub persist: Option<String>,
    /// Whether and when Calico repairs it by itself.
    pub calico_repairs: Repair,
    /// Whether it may still clear by itself.
    pub transient: bool,
    /// Since when, RFC 3339.
    pub since: Option<String>,
}

impl CauseJson {
    /// A finding as others see it. `calico` is Calico's version and route refresh.
    pub fn new(f: &Finding, calico: (Option<(u16, u16, u16)>, u32)) -> Self {
        let cause = f.code.cause();
        let calico_repairs = repairs(f, calico);
        Self {
            code: f.code,
            class: cause.class,
            severity: f.severity,
            node: f.node.clone(),
            peer: f.peer.clone(),
            pod: f.pod.clone(),
            hop: f.hop.clone(),
            expected_next: f.expected_next.clone(),
            subject: f.subject.clone(),
            title: cause.title.to_string(),
            evidence: f.evidence.clone(),
            consequences: f.consequences.clone(),
            chain: chain(f),
            remedy: fill(cause.remedy, f, calico_repairs.automatic),
            persist: cause.persist.map(|persist| fill(persist, f, calico_repairs.automatic)),
            calico_repairs,
            transient: f.transient,
            since: f.since.map(rfc3339),
        }
    }
}

/// Whether and when Calico repairs this.
fn repairs(f: &Finding, calico: (Option<(u16, u16, u16)>, u32)) -> Repair {
    let repair = f.code.cause().repairs.by_owner(f.owner, f.recognised_by, calico.0, calico.1);
    let of_ipv6 = f.subject.parse::<Ipv6Net>().is_ok();
    // BIRD's gateways are nodes' addresses, which no block covers.
    if f.code == CauseCode::RouteWrong && of_ipv6 && repair.automatic && f.owner != Some(Owner::Bird) {
        // ip6_route_check_nh_onlink, net/ipv6/route.c: seen with iproute2. What Felix does then was not tried.
        return Repair {
            automatic: false,
            within_seconds: None,
            note: "unknown: Felix notices it, but the kernel refuses to replace an IPv6 route that leads out of another device and covers the \
                   gateway of the right one (EINVAL)"
                .to_string(),
        };
    }
    repair
}

/// Puts the names at hand into a remedy of the table.
fn fill(remedy: &str, f: &Finding, repaired: bool) -> String {
    let mut text = remedy.to_string();
    if let Some(pod) = &f.pod {
        text = text
            .replace("NAMESPACE", &pod.namespace)
            .replace("pod NAME", &alloc::format!("pod {}", pod.name));
    }
    if let Some(node) = &f.node {
        text = text
            .replace("--node NODE", &alloc::format!("--node {node}"))
            .replace("`node.NODE`", &alloc::format!("`node.{node}`"));
    }
    if f.owner == Some(Owner::Bird) {
        text = text
            .replace(
                "Wait for Felix's refresh, or delete the node's calico-node pod.",
                "Wait for BIRD's next scan. If it stays missing, BIRD has not learned it: see whether the BGP sessions stand \
                 (`calicoctl node status` on both nodes), or delete the node's calico-node pod.",
            )
            .replace("Felix's refresh", "BIRD's next scan")
            .replace("proto 80", "proto bird");
    }
    if repaired || f.owner == Some(Owner::Bird) {
        // This version notices; and BIRD, started anew, leaves what another wrote where it stands as it did before.
        text = text.replace(" On the versions that do not notice, restarting calico-node repairs it too.", "");
    }
    for (word, value) in &f.values {
        text = replace_word(&text, word, value);
    }
    text
}

/// `MAC`, but not the one in `DERIVED_MAC`.
fn replace_word(text: &str, word: &str, value: &str) -> String {
    let of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(word) {
        out.push_str(before);
        let whole = !before.ends_with(of_a_word) && !after.starts_with(of_a_word);
        out.push_str(if whole { value } else { word });
        rest = after;
    }
    out.push_str(rest);
    out
}

impl JsonReport {
    /// The report as others see it.
    pub fn new(report: &ClusterReport) -> Self {
        let causes = |all: &[Finding]| all.iter().map(|f| CauseJson::new(f, report.calico)).collect();
        Self {
            schema: SCHEMA.to_string(),
            headline: super::headlines(report),
            verdict: report.verdict,
            causes: causes(&report.causes),
            nodes: report
                .nodes
                .iter()
                .map(|n| NodeJson {
                    name: n.name.clone(),
                    claimed: ClaimJson {
                        ready: n.claimed.ready,
                        calico_node: n.claimed.calico_node.clone(),
                        restarts: n.claimed.restarts,
                        network_unavailable: n.claimed.network_unavailable,
                        network_reason: n.claimed.network_reason.clone(),
                        last_termination: n.claimed.last_termination.clone(),
                        ready_toggles: n.claimed.ready_toggles,
                        unschedulable: n.claimed.unschedulable,
                    },
                    verdict: n.verdict,
                    causes: causes(&n.causes),
                    why: n.why.clone(),
                })
                .collect(),
            pods: report.pods.iter().map(|p| pod(p, causes(&p.causes))).collect(),
            loss: report.loss.clone(),
            unknown: report.unknown.clone(),
            not_verified: NOT_VERIFIED.iter().map(ToString::to_string).collect(),
        }
    }
}

fn pod(p: &PodReport, causes: Vec<CauseJson>) -> PodJson {
    PodJson {
        namespace: p.pod.namespace.clone(),
        name: p.pod.name.clone(),
        node: p.node.clone(),
        ip: p.ip.map(|ip| ip.to_string()),
        verdict: p.verdict,
        causes,
        controller: p.controller.clone(),
        safe_to_delete: p.safe_to_delete,
        why: p.why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::replace_word;

    #[test]
    fn only_whole_words_are_replaced() {
        let remedy = "`bridge fdb append MAC dev vxlan.calico`, not DERIVED_MAC or MACS, MAC";
        assert_eq!(
            replace_word(remedy, "MAC", "02:00:00:00:00:01"),
            "`bridge fdb append 02:00:00:00:00:01 dev vxlan.calico`, not DERIVED_MAC or MACS, 02:00:00:00:00:01"
        );
        assert_eq!(replace_word(remedy, "vxlan.calico", "vxlan-v6.calico").matches("-v6").count(), 1);
    }
}
