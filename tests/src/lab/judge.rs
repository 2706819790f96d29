//! Whether a report is right: exactly the expected root, at exactly the expected place, and no other root anywhere.

use super::report::{Blamed, Cause, Report};
use crate::faults::{Blame, Class, Expectation, PodState, Verdict};

/// Exit statuses of `verifier validate` (the design's contract).
const ALL_FORWARDING: i32 = 0;
const SOMETHING_FAILS: i32 = 1;
const NOT_VERIFIED: i32 = 3;

/// Everything in which a report, and the exit status that came with it, differ from what is right. Empty: it is right.
#[must_use]
pub fn differences(expected: &Expectation, report: &Report, status: Option<i32>) -> Vec<String> {
    let mut found = Vec::new();
    roots(expected, report, &mut found);
    nodes(expected, report, &mut found);
    pods(expected, report, &mut found);
    let wanted = wanted_status(report);
    if status != Some(wanted) {
        found.push(format!("exit status {status:?}, and its own report means {wanted}"));
    }
    found
}

/// The root that the expectation speaks of, if the report has it.
#[must_use]
pub fn the_root<'r>(expected: &Expectation, report: &'r Report) -> Option<(Blamed, &'r Cause)> {
    report
        .roots()
        .into_iter()
        .find(|(blamed, cause)| is_expected(expected, blamed, &cause.code) && is_main(expected, blamed))
}

/// Whether a root is one that may stand there.
#[must_use]
pub fn is_expected(expected: &Expectation, blamed: &Blamed, code: &str) -> bool {
    if expected.code.as_deref() != Some(code) {
        return false;
    }
    match (&expected.blame, blamed) {
        (Blame::Node(node), Blamed::Node(name)) => node == name,
        // One cause may make several pods stale; each carries it.
        (Blame::Pod { .. }, Blamed::Pod(pod)) => expected.pods.contains_key(pod),
        (Blame::Between(..), Blamed::Cluster) => true,
        (Blame::Between(a, b), Blamed::Node(name)) => name == a || name == b,
        (Blame::EachNode, Blamed::Node(_)) => true,
        (Blame::Cluster, _) => true,
        _ => false,
    }
}

/// Whether it stands under whom the expectation names, and not under another pod with the same trouble.
fn is_main(expected: &Expectation, blamed: &Blamed) -> bool {
    match (&expected.blame, blamed) {
        (Blame::Pod { pod, .. }, Blamed::Pod(name)) => pod == name,
        // What contradicts itself in the datastore is the cluster's; the pods concerned may carry it beside that.
        (Blame::Cluster, Blamed::Pod(_)) => false,
        _ => true,
    }
}

fn roots(expected: &Expectation, report: &Report, found: &mut Vec<String>) {
    let mut main = 0;
    for (blamed, cause) in report.roots() {
        if !is_expected(expected, &blamed, &cause.code) {
            found.push(format!("`{}` is blamed on {blamed}, and should not be a root", cause.code));
        } else if is_main(expected, &blamed) {
            main += 1;
            the_cause(expected, cause, found);
        }
    }
    match (&expected.code, main) {
        (Some(code), 0) => found.push(format!("`{code}` is not blamed on {}", blame_text(&expected.blame))),
        (Some(_), many) if expected.blame == Blame::EachNode && many == report.nodes.len() => {}
        (Some(code), many) if many > 1 || expected.blame == Blame::EachNode => found.push(format!("`{code}` stands there {many} times")),
        _ => {}
    }
}

fn the_cause(expected: &Expectation, cause: &Cause, found: &mut Vec<String>) {
    let class = class_text(expected.class);
    if cause.class != class {
        found.push(format!("its class is {}, not {class}", cause.class));
    }
    if expected.warning_only != (cause.severity == "warning") && expected.class != Class::None {
        found.push(format!("its severity is {}", cause.severity));
    }
    if cause.remedy.trim().is_empty() {
        found.push("it has no remedy".to_owned());
    }
    if let Some(place) = &expected.place {
        one_of("hop", cause.hop.as_deref(), &place.hops, found);
        one_of("expected_next", cause.expected_next.as_deref(), &place.expected_next, found);
    }
    let evidence = [&cause.evidence.intent, &cause.evidence.programmed, &cause.evidence.observed];
    let said: Vec<String> = std::iter::once(cause.subject.to_string())
        .chain(evidence.into_iter().flatten().cloned())
        .collect();
    for word in expected
        .mentions
        .iter()
        .filter(|word| !said.iter().any(|text| text.contains(*word)))
    {
        found.push(format!("neither its subject nor its evidence mentions `{word}`"));
    }
}

fn one_of(what: &str, is: Option<&str>, accepted: &[String], found: &mut Vec<String>) {
    if !accepted.is_empty() && !is.is_some_and(|is| accepted.iter().any(|other| other == is)) {
        found.push(format!("its {what} is {}, not {}", is.unwrap_or("null"), accepted.join(" or ")));
    }
}

fn nodes(expected: &Expectation, report: &Report, found: &mut Vec<String>) {
    for (name, accepted) in &expected.verdicts {
        let accepted: Vec<&str> = accepted.iter().map(|verdict| verdict_text(*verdict)).collect();
        match report.nodes.iter().find(|node| node.name == *name) {
            None => found.push(format!("{name} is not in the report")),
            Some(node) if !accepted.contains(&node.verdict.as_str()) => {
                found.push(format!("{name} is {}, not {}", node.verdict, accepted.join(" or ")));
            }
            Some(_) => {}
        }
    }
}

fn pods(expected: &Expectation, report: &Report, found: &mut Vec<String>) {
    for pod in &report.pods {
        let node_unknown = report.nodes.iter().any(|node| node.name == pod.node && node.verdict == "unknown");
        let wanted = match expected.pods.get(&pod.key()) {
            Some(PodState::Stale) => "stale",
            Some(PodState::PolicyBlocked) => "policy-blocked",
            Some(PodState::Unknown) => "unknown",
            Some(PodState::FreshOrUnknown) if pod.verdict == "unknown" => "unknown",
            Some(PodState::FreshOrUnknown) => "fresh",
            None => "fresh",
        };
        if pod.verdict != wanted && !(wanted == "fresh" && node_unknown && pod.verdict == "unknown") {
            found.push(format!("{} is {}, not {wanted}", pod.key(), pod.verdict));
        }
    }
    for pod in expected
        .pods
        .keys()
        .filter(|pod| !report.pods.iter().any(|other| other.key() == **pod))
    {
        found.push(format!("{pod} is not in the report"));
    }
}

/// The exit status that follows from the report itself: 1 wins over 3.
#[must_use]
pub fn wanted_status(report: &Report) -> i32 {
    let node = |verdict: &str| report.nodes.iter().any(|node| node.verdict == verdict);
    let stale = report.pods.iter().any(|pod| pod.verdict == "stale");
    let of_the_cluster = report.causes.iter().any(|cause| cause.severity == "error");
    if node("degraded") || node("not-forwarding") || stale || of_the_cluster {
        SOMETHING_FAILS
    } else if node("unknown") || report.nodes.is_empty() {
        NOT_VERIFIED
    } else {
        ALL_FORWARDING
    }
}

/// Whom an expectation blames, in words.
#[must_use]
pub fn blame_text(blame: &Blame) -> String {
    match blame {
        Blame::Node(node) => node.clone(),
        Blame::Pod { pod, node } => format!("{pod} on {node}"),
        Blame::Between(a, b) => format!("the way between {a} and {b}"),
        Blame::EachNode => "every node".to_owned(),
        Blame::Cluster => "the cluster".to_owned(),
        Blame::Nobody => "nobody".to_owned(),
    }
}

/// A class as reports write it.
fn class_text(class: Class) -> &'static str {
    match class {
        Class::Datastore => "datastore",
        Class::NotProgrammed => "not-programmed",
        Class::NotForwarded => "not-forwarded",
        Class::None => "none",
    }
}

fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Forwarding => "forwarding",
        Verdict::Degraded => "degraded",
        Verdict::NotForwarding => "not-forwarding",
        Verdict::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn expectation() -> Expectation {
        Expectation {
            code: Some("route-missing".to_owned()),
            class: Class::NotProgrammed,
            blame: Blame::Node("node-a".to_owned()),
            place: None,
            verdicts: BTreeMap::from([
                ("node-a".to_owned(), vec![Verdict::Degraded]),
                ("node-b".to_owned(), vec![Verdict::Forwarding]),
            ]),
            pods: BTreeMap::new(),
            warning_only: false,
            mentions: vec!["10.244.1.0/26".to_owned()],
        }
    }

    fn cause(code: &str) -> Value {
        json!({"code": code, "class": "not-programmed", "severity": "error", "node": "node-a", "peer": null, "hop": null,
            "expected_next": null, "subject": "10.244.1.0/26", "evidence": {"intent": null, "programmed": null, "observed": null},
            "consequences": [], "remedy": "put it back", "calico_repairs": null, "since": null})
    }

    fn report(verdict: &str, causes: Vec<Value>) -> Report {
        let claimed = json!({"ready": true, "calico_node": "Running", "restarts": 0});
        Report::read(
            json!({"schema": "dataplane-verifier/v1", "verdict": verdict, "causes": [], "loss": {}, "unknown": [],
            "nodes": [{"name": "node-a", "claimed": claimed, "verdict": verdict, "causes": causes},
                      {"name": "node-b", "claimed": claimed, "verdict": "forwarding", "causes": []}],
            "pods": [{"namespace": "default", "name": "pod-a1", "node": "node-a", "ip": null, "verdict": "fresh", "causes": [],
                      "controller": null, "safe_to_delete": false}]}),
        )
        .unwrap()
    }

    #[test]
    fn the_right_report_is_right() {
        assert_eq!(
            differences(&expectation(), &report("degraded", vec![cause("route-missing")]), Some(1)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_second_root_is_wrong_even_beside_the_right_one() {
        let found = differences(
            &expectation(),
            &report("degraded", vec![cause("route-missing"), cause("fdb-missing")]),
            Some(1),
        );
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn silence_a_wrong_status_and_a_wrong_verdict_are_each_named() {
        let found = differences(&expectation(), &report("forwarding", vec![]), Some(1));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn the_evidence_must_mention_what_it_is_about() {
        let mut wanted = expectation();
        wanted.mentions = vec!["10.9.9.9".to_owned()];
        assert_eq!(
            differences(&wanted, &report("degraded", vec![cause("route-missing")]), Some(1)).len(),
            1
        );
    }

    #[test]
    fn the_right_cause_under_the_wrong_node_counts_twice() {
        let mut wanted = expectation();
        wanted.blame = Blame::Node("node-b".to_owned());
        let found = differences(&wanted, &report("degraded", vec![cause("route-missing")]), Some(1));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
