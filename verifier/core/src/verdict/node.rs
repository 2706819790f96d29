//! First step: one node, judged by itself.

use super::{
    Finding, FindingEvidence, NodeReport, NodeSnapshot, PeerContact, PodReport, PodVerdict, Policy, Severity, UnknownCheck, Verdict,
    checks::{self, Out, View},
    settle::{self, absorb},
    suspect::suspects,
    symptom::{Symptoms, symptoms},
};
use crate::{
    evidence::{Evidence, Gap},
    host::{HostContext, account_findings},
    intent::{Contradiction, NodeIntent, PodPhase},
    names::{PodRef, UnixNs},
    programmed::{NUD_FAILED, NUD_INCOMPLETE},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::ToString,
    vec,
    vec::Vec,
};

/// Judges one node from its snapshot alone: what deviates on it, which of its probes fail and where, what on it could lose packets.
///
/// `causes` and `verdict` are what this node can settle by itself; [`judge_cluster`](super::judge_cluster) has the last word.
pub fn judge_node(snapshot: &NodeSnapshot, policy: &Policy) -> NodeReport {
    let mut out = Out::default();
    let intent = snapshot.intent.seen();
    gaps_of(snapshot, &mut out);
    let probed = intent.map_or_else(Symptoms::default, |intent| symptoms(snapshot, intent, policy));
    let mut suspected = Vec::new();
    if let (Some(intent), Some(state)) = (intent, snapshot.programmed.seen()) {
        let view = View {
            snapshot,
            intent,
            state,
            fib: crate::programmed::Fib::new(state),
        };
        let checked = checks::run(&view);
        out.findings.extend(checked.findings);
        out.unknown.extend(checked.unknown);
        suspected = suspects(&view);
    }
    host(snapshot, &mut out);
    for finding in &mut out.findings {
        finding.transient = transient(finding, intent, snapshot.taken_at);
    }
    // A report is the same whatever the order in which the kernel listed what it was made from.
    out.findings.sort();
    out.unknown.sort();
    let mut report = NodeReport {
        node: snapshot.node.clone(),
        taken_at: snapshot.taken_at,
        version: snapshot.version.clone(),
        claim: intent.map(|i| i.claim.clone()).unwrap_or_default(),
        verdict: Verdict::Unknown,
        causes: Vec::new(),
        pods: intent.map(|i| pods(i, snapshot, &out.findings, &probed)).unwrap_or_default(),
        findings: out.findings,
        symptoms: probed.symptoms,
        suspects: suspected,
        unseen: unseen(snapshot),
        unseen_pods: unseen_pods(snapshot),
        unresolved: unresolved(snapshot),
        host_ips: intent.map(host_ips).unwrap_or_default(),
        host_ips6: intent.map(host_ips6).unwrap_or_default(),
        calico: intent.map_or((None, 90), |i| {
            (
                i.settings.calico_version,
                i.settings.route_refresh_seconds.value().copied().unwrap_or(90),
            )
        }),
        contradictions: intent
            .map(|i| i.contradictions.iter().map(contradiction).collect())
            .unwrap_or_default(),
        pairs: probed.pairs,
        pairs_ipv6: probed.pairs_ipv6,
        answering: probed.answering,
        slow: probed.slow,
        detours: probed.detours,
        unknown: out.unknown,
        contacts: snapshot.contacts.clone(),
        nodes: intent.map_or_else(
            || vec![snapshot.node.clone()],
            |i| {
                let mut all: Vec<_> = i.peers.keys().cloned().chain([i.node.clone()]).collect();
                all.sort();
                all
            },
        ),
        loss: snapshot.observed.seen().map(|o| o.loss.clone()).unwrap_or_default(),
    };
    let alone = BTreeMap::from([(report.node.clone(), &report)]);
    let settled = settle::settle(&alone);
    let verdict = settle::verdict_of(&report.node, &alone, &settled);
    report.causes = settled.roots;
    report.verdict = verdict;
    report
}

/// What the machine under the node brings along, where somebody looked. A cause that the programmed account shows too stands once.
fn host(snapshot: &NodeSnapshot, out: &mut Out) {
    let Some(account) = &snapshot.host else { return };
    let mut context = snapshot.intent.seen().map_or_else(HostContext::default, HostContext::of);
    context.node = Some(snapshot.node.clone());
    if let Some(state) = snapshot.programmed.seen() {
        context = context.with_rules(state);
    }
    let found = account_findings(account, &context);
    let fresh: Vec<Finding> = found
        .findings
        .into_iter()
        .filter(|f| !out.findings.iter().any(|known| known.code == f.code && known.pod.is_none()))
        .collect();
    out.findings.extend(fresh);
    out.unknown.extend(found.unknown);
}

/// Sources that fell short as a whole.
fn gaps_of(snapshot: &NodeSnapshot, out: &mut Out) {
    out.cannot("all checks of intent", snapshot.intent.gaps());
    out.cannot("all checks of state", snapshot.programmed.gaps());
    out.cannot("place of losses", snapshot.observed.gaps());
    out.cannot("probes", snapshot.probes.gaps());
    if let Some(intent) = snapshot.intent.seen() {
        out.cannot("settings", &intent.gaps);
    }
    if let Some(observed) = snapshot.observed.seen() {
        out.cannot("place of losses", observed.hops.gaps());
        out.cannot("drop reasons", observed.drops.gaps());
        out.cannot("conformance", observed.conformance.gaps());
    }
    if let Some(state) = snapshot.programmed.seen() {
        out.cannot("filters", state.filters.gaps());
        out.cannot("base chains", state.base_chains.gaps());
        out.cannot("foreign programs", state.hooks.gaps());
        out.cannot("conntrack", state.conntrack.gaps());
    }
    for (peer, contact) in &snapshot.contacts {
        let why = match contact {
            PeerContact::Answered { .. } | PeerContact::NotAsked => continue,
            PeerContact::NoAgent => "its host answers, and no agent listens there".to_string(),
            PeerContact::Refused { why } => format!("it refused: {why}"),
            PeerContact::Silent { .. } => "nothing came back from it".to_string(),
        };
        out.cannot(&format!("evidence of {peer}"), &[Gap::new("agent", why)]);
    }
}

/// What the checks and the list of suspects rest on, as far as it fell short.
fn unseen(snapshot: &NodeSnapshot) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = snapshot.intent.gaps().iter().chain(snapshot.programmed.gaps()).cloned().collect();
    if let Some(state) = snapshot.programmed.seen() {
        let tables: [&[Gap]; 9] = [
            state.links.gaps(),
            state.addresses.gaps(),
            state.routes.gaps(),
            state.rules.gaps(),
            state.neighbors.gaps(),
            state.fdb.gaps(),
            state.netconf.gaps(),
            state.filters.gaps(),
            state.hooks.gaps(),
        ];
        gaps.extend(tables.into_iter().flatten().cloned());
    }
    gaps.sort();
    gaps.dedup();
    gaps
}

fn unseen_pods(snapshot: &NodeSnapshot) -> BTreeSet<PodRef> {
    let Some(intent) = snapshot.intent.seen() else {
        return BTreeSet::new();
    };
    let unseen = |pod: &PodRef| !snapshot.state_of(pod).is_some_and(Evidence::is_complete);
    intent.workloads.keys().filter(|pod| unseen(pod)).cloned().collect()
}

/// Whether Calico's own timers, or a known transient, may still clear it.
fn transient(finding: &Finding, intent: Option<&NodeIntent>, now: UnixNs) -> bool {
    let (Some(since), Some(intent)) = (finding.since, intent) else {
        return false;
    };
    let cause = finding.code.cause();
    let refresh = intent.settings.route_refresh_seconds.value().copied().unwrap_or(90);
    let repair = cause
        .repairs
        .by_owner(finding.owner, finding.recognised_by, intent.settings.calico_version, refresh)
        .within_seconds
        .unwrap_or(0);
    let hold = u64::from(repair.max(cause.hold_off_seconds)) * 1_000_000_000;
    now.since_ns(since) < hold
}

fn contradiction(c: &Contradiction) -> Finding {
    Finding {
        code: c.code,
        node: c.node.clone(),
        peer: None,
        pod: c.pods.first().cloned().filter(|_| c.pods.len() == 1),
        subject: c.subject.clone(),
        hop: None,
        expected_next: None,
        severity: c.code.cause().severity,
        evidence: FindingEvidence {
            intent: Some(c.evidence.clone()),
            ..FindingEvidence::default()
        },
        transient: false,
        since: None,
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: Default::default(),
    }
}

fn host_ips(intent: &NodeIntent) -> BTreeMap<crate::names::NodeName, core::net::IpAddr> {
    let own = intent.host_ip.map(|ip| (intent.node.clone(), ip));
    intent
        .peers
        .iter()
        .filter_map(|(n, p)| p.host_ip.map(|ip| (n.clone(), ip)))
        .chain(own)
        .collect()
}

fn host_ips6(intent: &NodeIntent) -> BTreeMap<crate::names::NodeName, core::net::IpAddr> {
    let own = intent.host_ip_of(true).map(|ip| (intent.node.clone(), ip));
    let peers = intent.peers.iter().filter_map(|(n, p)| Some((n.clone(), p.host_ip_of(true)?)));
    peers.chain(own).collect()
}

fn unresolved(snapshot: &NodeSnapshot) -> Vec<(alloc::string::String, core::net::IpAddr)> {
    let Some(state) = snapshot.programmed.seen() else {
        return Vec::new();
    };
    let tunnels = snapshot.intent.seen().map(|i| i.tunnels.as_slice()).unwrap_or_default();
    let name = |index| {
        state
            .links
            .seen()
            .and_then(|l| l.iter().find(|l| l.index == index))
            .map(|l| l.name.clone())
    };
    let mut out: Vec<_> = state
        .neighbors
        .seen()
        .into_iter()
        .flatten()
        .filter(|n| n.state & (NUD_FAILED | NUD_INCOMPLETE) != 0)
        .filter_map(|n| Some((name(n.index)?, n.ip)))
        .filter(|(device, _)| !tunnels.iter().any(|t| t.device == *device))
        .collect();
    out.sort();
    out
}

/// This node's pods, on what it alone knows.
fn pods(intent: &NodeIntent, snapshot: &NodeSnapshot, findings: &[Finding], probed: &Symptoms) -> Vec<PodReport> {
    intent
        .workloads
        .values()
        .filter(|w| w.phase != PodPhase::Finished)
        .map(|w| {
            let own = findings.iter().filter(|f| f.pod.as_ref() == Some(&w.pod)).cloned().collect();
            let causes: Vec<Finding> = absorb(own);
            let answering = w.addresses.iter().any(|ip| probed.answering.contains(ip));
            let failing = probed
                .symptoms
                .iter()
                .any(|s| s.from.pod.as_ref() == Some(&w.pod) || s.to.pod.as_ref() == Some(&w.pod));
            let (verdict, why) = if w.terminating {
                (PodVerdict::Unknown, Some("it is being deleted".to_string()))
            } else if w.sandbox_pending {
                (PodVerdict::Unknown, Some("its sandbox is being made".to_string()))
            } else if w.phase != PodPhase::Running {
                (PodVerdict::Unknown, Some("it is not running".to_string()))
            } else if w.addresses.is_empty() {
                (PodVerdict::Unknown, Some("the API has no address for it".to_string()))
            } else if causes.iter().any(|f| f.severity == Severity::Error) {
                (PodVerdict::Stale, None)
            } else if answering && !failing {
                (PodVerdict::Fresh, None)
            } else if failing {
                (
                    PodVerdict::Unknown,
                    Some("some of its probes fail, and the cause is not its own".to_string()),
                )
            } else if let Some(Evidence::Unavailable { gap }) = snapshot.state_of(&w.pod) {
                (PodVerdict::Unknown, Some(format!("{}: {}", gap.source, gap.why)))
            } else {
                (PodVerdict::Unknown, Some("it was not probed".to_string()))
            };
            PodReport {
                pod: w.pod.clone(),
                node: intent.node.clone(),
                ip: w.addresses.first().copied(),
                verdict,
                causes,
                controller: w.controller.clone(),
                safe_to_delete: w.safe_to_delete,
                why,
                terminating: w.terminating,
            }
        })
        .collect()
}

impl NodeSnapshot {
    fn state_of(&self, pod: &crate::names::PodRef) -> Option<&Evidence<crate::programmed::PodState>> {
        self.programmed.seen()?.pods.get(pod)
    }
}

impl UnknownCheck {
    /// A check that could not be made, and why.
    pub fn new(check: impl Into<alloc::string::String>, why: impl Into<alloc::string::String>) -> Self {
        Self {
            check: check.into(),
            why: why.into(),
        }
    }
}
