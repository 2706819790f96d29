//! A pod that comes again under its name is another one, and only what was sent after it became known was meant for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::worked_example;
use verifier_core::{
    intent::{Acquaintance, NodeIntent},
    names::{PodRef, UnixNs},
};

const ME: &str = "kind-control-plane";

fn intent(change: impl Fn(&mut Value)) -> NodeIntent {
    let mut all = worked_example("Always");
    for value in all.iter_mut().filter(|v| v["kind"] == "Pod") {
        value["metadata"]["uid"] = json!(format!("first {}", value["metadata"]["name"]));
        change(value);
    }
    support::cluster(&all).node_intent(&ME.into()).unwrap()
}

fn same(_: &mut Value) {}

/// Every pod with since when it is known: those of the other nodes, then the own.
fn known(intent: &NodeIntent) -> Vec<(PodRef, Option<u64>)> {
    let remote = intent
        .peers
        .values()
        .flat_map(|peer| &peer.pods)
        .map(|p| (p.pod.clone(), p.known_since.map(|t| t.0)));
    remote
        .chain(intent.workloads.values().map(|w| (w.pod.clone(), w.known_since.map(|t| t.0))))
        .collect()
}

#[test]
fn only_what_changed_is_new() {
    let mut acquaintance = Acquaintance::default();
    let mut stamped = |mut intent: NodeIntent, now| {
        acquaintance.stamp(&mut intent, UnixNs(now));
        known(&intent)
    };
    let first = stamped(intent(same), 10);
    assert!(first.len() > 1 && first.iter().all(|(_, since)| since.is_none()), "{first:?}");
    assert_eq!(stamped(intent(same), 20), first);
    let (victim, _) = first[0].clone();
    let recreated = |value: &mut Value| {
        if value["metadata"]["name"] == victim.name {
            value["metadata"]["uid"] = json!("second");
        }
    };
    for now in [30, 40] {
        for (pod, since) in stamped(intent(recreated), now) {
            assert_eq!(since, (pod == victim).then_some(30), "{pod} at {now}");
        }
    }
}

#[test]
fn what_was_away_is_new_when_it_comes_back() {
    let mut acquaintance = Acquaintance::default();
    let mut first = intent(same);
    acquaintance.stamp(&mut first, UnixNs(10));
    let own = first.workloads.keys().next().unwrap().clone();
    let mut going = intent(|value| {
        if value["metadata"]["name"] == own.name {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
    });
    acquaintance.stamp(&mut going, UnixNs(20));
    let mut back = intent(same);
    acquaintance.stamp(&mut back, UnixNs(30));
    assert_eq!(back.workloads[&own].known_since, Some(UnixNs(30)));
}
