use super::*;
use crate::{
    intent::Claim,
    names::{NodeName, UnixNs},
    verdict::{Finding, FindingEvidence, NodeVerdict},
};
use alloc::{collections::BTreeMap, vec};
use proptest::prelude::*;

fn finding(code: CauseCode, transient: bool) -> Finding {
    Finding {
        code,
        node: Some(NodeName::from("node-a")),
        peer: None,
        pod: None,
        subject: String::new(),
        hop: None,
        expected_next: None,
        severity: Severity::Error,
        evidence: FindingEvidence::default(),
        transient,
        since: transient.then_some(UnixNs::default()),
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: BTreeMap::new(),
    }
}

fn pod(name: &str, code: CauseCode) -> PodReport {
    PodReport {
        pod: PodRef::new("default", name),
        node: NodeName::from("node-a"),
        ip: Some("10.1.0.1".parse().unwrap()),
        verdict: PodVerdict::Stale,
        causes: vec![finding(code, false)],
        controller: Some("ReplicaSet/web".to_string()),
        safe_to_delete: true,
        why: None,
        terminating: false,
    }
}

fn report(verdict: Verdict, pods: Vec<PodReport>) -> ClusterReport {
    ClusterReport {
        verdict,
        causes: Vec::new(),
        nodes: vec![NodeVerdict {
            name: NodeName::from("node-a"),
            claimed: Claim::default(),
            verdict,
            causes: Vec::new(),
            why: None,
        }],
        pods,
        calico: (None, 90),
        loss: BTreeMap::new(),
        unknown: Vec::new(),
    }
}

/// The action for one pod that is the same in two samples.
fn twice(verdict: Verdict, pod: PodReport) -> Action {
    let sample = report(verdict, vec![pod]);
    plan(&[sample.clone(), sample], &BTreeSet::new()).remove(0).action
}

fn why(action: Action) -> String {
    match action {
        Action::Recreate => "recreate".to_string(),
        Action::Wait { why } => format!("wait: {why}"),
        Action::ByHand { why } => format!("by hand: {why}"),
    }
}

#[test]
fn stale_twice_with_a_controller_on_a_node_that_forwards() {
    assert_eq!(
        twice(Verdict::Forwarding, pod("web-1", CauseCode::PodRouteMissing)),
        Action::Recreate
    );
}

#[test]
fn once_is_not_enough() {
    let stale = report(Verdict::Forwarding, vec![pod("web-1", CauseCode::PodRouteMissing)]);
    assert!(why(plan(core::slice::from_ref(&stale), &BTreeSet::new()).remove(0).action).starts_with("wait: one sample"));
    let mut fresh = stale.clone();
    fresh.pods[0].verdict = PodVerdict::Fresh;
    assert!(why(plan(&[fresh.clone(), stale.clone()], &BTreeSet::new()).remove(0).action).starts_with("wait: it was not stale"));
    assert!(plan(&[stale.clone(), fresh], &BTreeSet::new()).is_empty(), "fresh in the end");
    let mut another = stale.clone();
    another.pods[0].ip = Some("10.1.0.2".parse().unwrap());
    assert!(
        why(plan(&[another, stale], &BTreeSet::new()).remove(0).action).starts_with("wait"),
        "a successor of the same name is another pod"
    );
}

#[test]
fn a_person_must_decide_about() {
    let mut bare = pod("bare", CauseCode::PodRouteMissing);
    bare.controller = None;
    bare.safe_to_delete = false;
    assert!(why(twice(Verdict::Forwarding, bare)).contains("a bare pod"));
    let mut odd = pod("odd", CauseCode::PodRouteMissing);
    odd.controller = Some("Machine/x".to_string());
    odd.safe_to_delete = false;
    assert!(why(twice(Verdict::Forwarding, odd)).contains("Machine/x is not known"));
    assert!(why(twice(Verdict::NotForwarding, pod("web", CauseCode::PodRouteMissing))).contains("mend the node first"));
    assert!(why(twice(Verdict::Forwarding, pod("web", CauseCode::FilterDrop))).contains("the same cause: filter-drop"));
    let sample = report(Verdict::Forwarding, vec![pod("kube-x", CauseCode::PodRouteMissing)]);
    let statics = BTreeSet::from([PodRef::new("default", "kube-x")]);
    assert!(why(plan(&[sample.clone(), sample], &statics).remove(0).action).contains("static"));
}

#[test]
fn what_the_whole_node_lacks_no_new_pod_has() {
    let two = report(
        Verdict::Forwarding,
        vec![pod("a", CauseCode::PodGatewayUnanswered), pod("b", CauseCode::PodGatewayUnanswered)],
    );
    for planned in plan(&[two.clone(), two], &BTreeSet::new()) {
        assert!(why(planned.action).contains("mend the node"));
    }
    assert_eq!(
        twice(Verdict::Forwarding, pod("a", CauseCode::PodGatewayUnanswered)),
        Action::Recreate
    );
}

#[test]
fn what_may_clear_by_itself_is_left_to_do_so() {
    let mut young = pod("web-1", CauseCode::PodRouteMissing);
    young.causes[0].transient = true;
    assert!(why(twice(Verdict::Forwarding, young)).contains("repair it by itself"));
    assert!(why(twice(Verdict::Unknown, pod("web-1", CauseCode::PodRouteMissing))).starts_with("wait"));
}

fn limits(in_flight_max: usize) -> Limits {
    Limits {
        in_flight_max,
        eviction_ms: 10_000,
        replacement_ms: 60_000,
        failures_max: 1,
    }
}

fn budget() -> Answer {
    Answer::NotNow {
        retry_after_ms: None,
        why: "web needs 2 healthy pods".to_string(),
    }
}

#[test]
fn a_budget_is_waited_for_with_growing_pauses_and_given_up_at_the_deadline() {
    let web = PodRef::new("default", "web");
    let mut all = Recreations::new(limits(1), [web.clone()]);
    let (mut now, mut asked_at) = (0, Vec::new());
    while !all.finished() {
        for step in all.steps(now) {
            assert_eq!(step, Step::Evict(web.clone()));
            asked_at.push(now);
            all.answered(&web, budget(), now);
        }
        now += 500;
        assert!(now < 100_000, "it must come to an end");
    }
    assert_eq!(asked_at, [0, 1_000, 3_000, 7_000, 15_000]);
    assert_eq!(
        all.outcomes(),
        [(
            web,
            Outcome::RefusedUntilDeadline {
                why: "web needs 2 healthy pods".to_string(),
                asked: 5
            }
        )]
    );
}

#[test]
fn after_a_budget_gives_way_the_replacement_is_verified() {
    let (web, next) = (PodRef::new("default", "web"), PodRef::new("default", "web-2"));
    let mut all = Recreations::new(limits(1), [web.clone()]);
    assert_eq!(all.steps(0), [Step::Evict(web.clone())]);
    all.answered(&web, budget(), 0);
    assert_eq!(all.steps(500), []);
    assert_eq!(all.steps(1_000), [Step::Evict(web.clone())]);
    all.answered(&web, Answer::Accepted, 1_000);
    assert_eq!(all.steps(1_100), [Step::Verify(web.clone())]);
    all.not_yet(&web, "it is not running".to_string());
    assert!(!all.finished());
    all.fresh(&web, next.clone());
    assert_eq!(all.outcomes(), [(web, Outcome::Replaced { by: next })]);
    assert!(all.finished());
}

#[test]
fn one_that_does_not_come_back_stops_the_rest() {
    let pods = ["a", "b"].map(|n| PodRef::new("default", n));
    let mut all = Recreations::new(limits(1), pods.clone());
    all.steps(0);
    all.answered(&pods[0], Answer::Accepted, 0);
    assert_eq!(all.steps(59_999), [Step::Verify(pods[0].clone())]);
    assert_eq!(all.steps(60_000), []);
    assert!(all.finished());
    assert!(matches!(all.outcomes()[0].1, Outcome::NotReplaced { .. }));
    assert_eq!(all.outcomes()[1].1, Outcome::NotTouched);
}

proptest! {
    /// Whatever the API server answers: never more in flight than allowed, and it ends.
    #[test]
    fn never_more_than_allowed_and_always_an_end(max in 1_usize..4, count in 1_usize..8, answers in proptest::collection::vec(0_u8..5, 1..40)) {
        let pods: Vec<PodRef> = (0..count).map(|i| PodRef::new("default", format!("p{i}"))).collect();
        let mut all = Recreations::new(Limits { failures_max: 100, ..limits(max) }, pods);
        let mut answers = answers.into_iter().cycle();
        let mut now = 0;
        let mut rounds = 0;
        while !all.finished() {
            rounds += 1;
            prop_assert!(rounds < 10_000);
            let steps = all.steps(now);
            prop_assert!(steps.len() <= max);
            for step in steps {
                match (step, answers.next().unwrap()) {
                    (Step::Evict(pod), 0) => all.answered(&pod, budget(), now),
                    (Step::Evict(pod), 1) => all.answered(&pod, Answer::Gone, now),
                    (Step::Evict(pod), 2) => all.answered(&pod, Answer::Refused { why: String::new() }, now),
                    (Step::Evict(pod), _) => all.answered(&pod, Answer::Accepted, now),
                    (Step::Verify(pod), 0) => all.fresh(&pod, pod.clone()),
                    (Step::Verify(pod), _) => all.not_yet(&pod, String::new()),
                }
            }
            now += 700;
        }
        prop_assert_eq!(all.outcomes().len(), count);
    }
}
