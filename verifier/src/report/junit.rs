//! A report as JUnit XML: nodes and pods are test cases, causes are failures, what could not be verified is an error and never a pass.

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use verifier_core::report::headline_of;
use verifier_core::verdict::{ClusterReport, Finding, NodeVerdict, PodReport, PodVerdict, Severity, Verdict};

/// The whole report.
///
/// # Errors
/// The XML writer fails.
pub fn render(report: &ClusterReport) -> Result<String, SerializeError> {
    let mut junit = Report::new("dataplane-verifier");
    // The headline case first: the claim is healthy and the fact is not.
    let contradicted: Vec<TestCase> = report.nodes.iter().filter_map(claim).collect();
    if !contradicted.is_empty() {
        let mut claims = TestSuite::new("claims");
        claims.add_test_cases(contradicted);
        junit.add_test_suite(claims);
    }
    let mut cluster = TestSuite::new("cluster");
    if report.causes.is_empty() {
        cluster.add_test_case(TestCase::new("no cluster-wide cause", TestCaseStatus::success()));
    }
    cluster.add_test_cases(
        report
            .causes
            .iter()
            .map(|cause| case("cluster", &cause.subject, status_of(std::slice::from_ref(cause), None))),
    );
    junit.add_test_suite(cluster);
    let mut nodes = TestSuite::new("nodes");
    nodes.add_test_cases(report.nodes.iter().map(node));
    junit.add_test_suite(nodes);
    let mut pods = TestSuite::new("pods");
    pods.add_test_cases(report.pods.iter().map(pod));
    junit.add_test_suite(pods);
    junit.to_string()
}

fn case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

/// A claim that is contradicted; none where claim and fact agree.
fn claim(node: &NodeVerdict) -> Option<TestCase> {
    let said = headline_of(&node.name, &node.claimed, node.verdict)?;
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_type("claim-contradicted").set_message(said);
    Some(case("claim", node.name.as_str(), status))
}

fn node(node: &NodeVerdict) -> TestCase {
    let status = match node.verdict {
        Verdict::Forwarding => status_of(&[], None),
        Verdict::Unknown => status_of(&[], Some(node.why.as_deref().unwrap_or("could not be verified"))),
        Verdict::Degraded | Verdict::NotForwarding => failure(&node.causes),
    };
    let mut case = case("node", node.name.as_str(), status);
    let warnings: Vec<String> = node
        .causes
        .iter()
        .filter(|cause| cause.severity != Severity::Error)
        .map(line)
        .collect();
    if !warnings.is_empty() {
        case.set_system_out(warnings.join("\n"));
    }
    case
}

fn pod(pod: &PodReport) -> TestCase {
    let status = match pod.verdict {
        PodVerdict::Fresh => TestCaseStatus::success(),
        PodVerdict::PolicyBlocked => {
            let mut status = TestCaseStatus::skipped();
            status.set_message("a policy denies the probe: not a fault");
            status
        }
        PodVerdict::Stale => failure(&pod.causes),
        PodVerdict::Unknown => status_of(&[], Some(pod.why.as_deref().unwrap_or("could not be verified"))),
    };
    case("pod", &pod.pod.to_string(), status)
}

fn status_of(causes: &[Finding], unknown: Option<&str>) -> TestCaseStatus {
    if let Some(why) = unknown {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_type("unknown").set_message(why);
        return status;
    }
    if causes.iter().any(|cause| cause.severity == Severity::Error) {
        return failure(causes);
    }
    TestCaseStatus::success()
}

fn failure(causes: &[Finding]) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    let codes: Vec<&str> = causes.iter().map(|cause| cause.code.as_str()).collect();
    status.set_type(codes.first().copied().unwrap_or("unexplained"));
    status.set_message(codes.join(", "));
    status.set_description(causes.iter().map(line).collect::<Vec<_>>().join("\n"));
    status
}

fn line(cause: &Finding) -> String {
    let remedy = cause.code.cause().remedy;
    format!("{}: {}: {} Remedy: {remedy}", cause.code, cause.subject, cause.code.cause().title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use verifier_core::{
        intent::Claim,
        verdict::{CauseCode, FindingEvidence},
    };

    #[test]
    fn what_fails_and_what_is_unknown_is_never_a_pass() {
        let cause = Finding {
            code: CauseCode::TunnelDeviceMissing,
            node: Some("node-a".into()),
            peer: None,
            pod: None,
            subject: "vxlan.calico".to_owned(),
            hop: None,
            expected_next: None,
            severity: Severity::Error,
            evidence: FindingEvidence::default(),
            transient: false,
            since: None,
            consequences: Vec::new(),
            owner: None,
            recognised_by: None,
            values: Default::default(),
        };
        let node = |name: &str, verdict, causes| NodeVerdict {
            name: name.into(),
            claimed: Claim::default(),
            verdict,
            causes,
            why: None,
        };
        let report = ClusterReport {
            calico: (None, 90),
            verdict: Verdict::NotForwarding,
            causes: Vec::new(),
            nodes: vec![
                node("node-a", Verdict::NotForwarding, vec![cause]),
                node("node-b", Verdict::Unknown, Vec::new()),
                node("node-c", Verdict::Forwarding, Vec::new()),
            ],
            pods: Vec::new(),
            loss: BTreeMap::new(),
            unknown: Vec::new(),
        };
        let xml = render(&report).unwrap();
        assert!(xml.contains(r#"tests="4" skipped="0" failures="1" errors="1""#), "{xml}");
        assert!(xml.contains("tunnel-device-missing"));
        assert!(!xml.contains("claim-contradicted"));
        let mut contradicted = report;
        contradicted.nodes[0].claimed.ready = Some(true);
        let xml = render(&contradicted).unwrap();
        let first = xml.find("<testsuite ").unwrap();
        assert!(xml[first..].starts_with(r#"<testsuite name="claims""#), "{xml}");
        assert!(xml.contains("node-a claims to be healthy"), "{xml}");
    }
}
