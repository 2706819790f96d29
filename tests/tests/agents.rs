//! Agents on a real fabric, from outside: healthy is forwarding without a cause, a dead agent is no fault, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use support::staged::{strike, validate};
use verifier_tests::{
    fabric::Encapsulation,
    lab::{Stage, program},
};

fn stage(test: &str) -> Option<Stage> {
    support::staged::stage(test, Encapsulation::Vxlan)
}

#[test]
fn a_healthy_fabric_is_forwarding_without_a_cause() {
    let Some(stage) = stage("a_healthy_fabric_is_forwarding_without_a_cause") else {
        return;
    };
    let snapshot = stage.files().directory().join("snapshot.json");
    let (status, report) = validate(&stage, &["--snapshot-out", snapshot.to_str().unwrap()]);
    assert_eq!(report.complaints(), Vec::<String>::new());
    assert_eq!(status, 0);
    assert_eq!(report.nodes.len(), 3);
    assert_eq!(report.pods.len(), 6);
    replays_the_same(&snapshot);
    // A second round meets warm neighbour tables and used ports.
    let (status, report) = validate(&stage, &["--node", "node-b"]);
    assert_eq!(
        (status, report.nodes.len(), report.complaints().len()),
        (0, 1, 0),
        "{:?}",
        report.complaints()
    );
    strike(stage);
}

fn replays_the_same(snapshot: &Path) {
    let replay = || {
        let mut command = std::process::Command::new(program::path().unwrap());
        command.args(["replay", "--output", "json"]).arg(snapshot).output().unwrap()
    };
    let (first, second) = (replay(), replay());
    assert_eq!(first.status.code(), Some(0));
    assert!(first.stdout == second.stdout, "same snapshot, same bytes");
}

#[test]
fn a_dead_agent_is_no_fault_and_a_restarted_one_is_nothing() {
    let Some(mut stage) = stage("a_dead_agent_is_no_fault_and_a_restarted_one_is_nothing") else {
        return;
    };
    stage.kill_agent("node-b").unwrap();
    let (_, report) = validate(&stage, &["--timeout", "30s"]);
    assert!(report.roots().is_empty(), "{:?}", report.roots());
    for node in &report.nodes {
        let expected: &[&str] = if node.name == "node-b" {
            &["unknown", "forwarding"]
        } else {
            &["forwarding"]
        };
        assert!(expected.contains(&node.verdict.as_str()), "{} is {}", node.name, node.verdict);
    }
    stage.start_agents().unwrap();
    let (status, report) = validate(&stage, &[]);
    assert_eq!(report.complaints(), Vec::<String>::new());
    assert_eq!(status, 0);
    strike(stage);
}

#[test]
fn an_agent_stops_within_its_deadline_and_detaches_everything() {
    let Some(mut stage) = stage("an_agent_stops_within_its_deadline_and_detaches_everything") else {
        return;
    };
    // `stop` fails unless the agent ends by itself with status 0; the deadline is its own.
    stage.stop_agents().unwrap();
    let hooks = stage.fabric().nodes()[0].netns.clone();
    assert!(Path::new("/run/netns").join(hooks).exists());
    strike(stage);
}
