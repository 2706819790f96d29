//! From one judgement after another to a continuous verdict that neither flutters nor waits without need.
//!
//! What Calico may still repair, and what a known transient looks like, stands in the report at once and is marked transient; it is raised
//! when it outlives its hold-off (the cause table's). What Calico never repairs is never held back: the judge does not mark it. Findings
//! from before are remembered, so that a report can say since when.
//!
//! Samples of probes are not smoothed here: the judge asks for n of m of each kind, and the window holds those m.

use std::collections::{BTreeMap, BTreeSet};
use verifier_core::{
    names::{NodeName, PodRef, UnixNs},
    verdict::{CauseCode, Finding, NodeReport},
};

/// What makes two findings the same one at different times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    code: CauseCode,
    node: Option<NodeName>,
    peer: Option<NodeName>,
    pod: Option<PodRef>,
    subject: String,
}

impl Identity {
    fn of(finding: &Finding) -> Self {
        Self {
            code: finding.code,
            node: finding.node.clone(),
            peer: finding.peer.clone(),
            pod: finding.pod.clone(),
            subject: finding.subject.clone(),
        }
    }
}

/// Memory of what was found.
#[derive(Debug, Default)]
pub struct Steady {
    first_seen: BTreeMap<Identity, UnixNs>,
}

impl Steady {
    /// Marks what is old enough as no transient any more, and fills in since when. `now` is the time of the judgement.
    pub fn settle(&mut self, report: &mut NodeReport, now: UnixNs) {
        let mut present = BTreeSet::new();
        let pods = report.pods.iter_mut().flat_map(|pod| &mut pod.causes);
        for finding in report
            .findings
            .iter_mut()
            .chain(&mut report.contradictions)
            .chain(pods)
            .chain(&mut report.causes)
        {
            let identity = Identity::of(finding);
            let first = *self.first_seen.entry(identity.clone()).or_insert(now);
            // The journal may know an earlier time than that of the first judgement.
            let since = finding.since.map_or(first, |known| known.min(first));
            finding.since = Some(since);
            if finding.transient && now.since_ns(since) >= hold_off_ns(finding.code) {
                finding.transient = false;
            }
            present.insert(identity);
        }
        self.first_seen.retain(|identity, _| present.contains(identity));
    }

    /// When the next transient outlives its hold-off, if one is pending: the time for another judgement.
    pub fn next_raise(&self, now: UnixNs) -> Option<UnixNs> {
        let due = self
            .first_seen
            .iter()
            .map(|(identity, first)| UnixNs(first.0.saturating_add(hold_off_ns(identity.code))));
        due.filter(|due| *due > now).min()
    }
}

fn hold_off_ns(code: CauseCode) -> u64 {
    u64::from(code.cause().hold_off_seconds) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use verifier_core::{
        intent::Claim,
        observed::Loss,
        verdict::{FindingEvidence, Severity, Verdict},
    };

    const SECOND: u64 = 1_000_000_000;

    fn report(findings: Vec<Finding>) -> NodeReport {
        NodeReport {
            node: "node-a".into(),
            taken_at: UnixNs(0),
            version: String::new(),
            claim: Claim::default(),
            verdict: Verdict::Forwarding,
            causes: Vec::new(),
            findings,
            symptoms: Vec::new(),
            suspects: Vec::new(),
            unseen: Vec::new(),
            unseen_pods: BTreeSet::new(),
            contradictions: Vec::new(),
            pods: Vec::new(),
            unresolved: Vec::new(),
            answering: BTreeSet::new(),
            host_ips: BTreeMap::new(),
            host_ips6: BTreeMap::new(),
            pairs_ipv6: BTreeMap::new(),
            calico: (None, 90),
            pairs: BTreeMap::new(),
            slow: BTreeMap::new(),
            detours: Vec::new(),
            unknown: Vec::new(),
            contacts: BTreeMap::new(),
            nodes: Vec::new(),
            loss: Loss::default(),
        }
    }

    fn transient(code: CauseCode) -> Finding {
        Finding {
            code,
            node: Some("node-a".into()),
            peer: None,
            pod: None,
            subject: "x".to_owned(),
            hop: None,
            expected_next: None,
            severity: Severity::Error,
            evidence: FindingEvidence::default(),
            transient: true,
            since: None,
            consequences: Vec::new(),
            owner: None,
            recognised_by: None,
            values: Default::default(),
        }
    }

    fn held() -> CauseCode {
        *CauseCode::ALL.iter().find(|code| code.cause().hold_off_seconds > 1).unwrap()
    }

    #[test]
    fn a_transient_is_raised_when_it_outlives_its_hold_off() {
        let code = held();
        let hold_off = u64::from(code.cause().hold_off_seconds) * SECOND;
        let mut steady = Steady::default();
        for (at, is_transient) in [(SECOND, true), (hold_off, true), (SECOND + hold_off, false)] {
            let mut report = report(vec![transient(code)]);
            steady.settle(&mut report, UnixNs(at));
            assert_eq!(report.findings[0].transient, is_transient, "at {at}");
            assert_eq!(report.findings[0].since, Some(UnixNs(SECOND)));
        }
    }

    #[test]
    fn what_was_gone_in_between_begins_anew() {
        let code = held();
        let mut steady = Steady::default();
        steady.settle(&mut report(vec![transient(code)]), UnixNs(SECOND));
        steady.settle(&mut report(Vec::new()), UnixNs(2 * SECOND));
        let mut again = report(vec![transient(code)]);
        steady.settle(&mut again, UnixNs(1000 * SECOND));
        assert!(again.findings[0].transient);
        assert_eq!(again.findings[0].since, Some(UnixNs(1000 * SECOND)));
    }

    #[test]
    fn the_journal_may_know_better_since_when() {
        let code = held();
        let mut known = transient(code);
        known.since = Some(UnixNs(5));
        let mut report = report(vec![known]);
        Steady::default().settle(&mut report, UnixNs(1000 * SECOND));
        assert_eq!(report.findings[0].since, Some(UnixNs(5)));
        assert!(!report.findings[0].transient);
    }
}
