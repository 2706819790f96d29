//! Every branch of the runbook: states of a cluster as objects, and what `verifier triage` must say of each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use verifier_core::{
    intent::objects::rfc3339,
    triage::{Branch, ClusterFacts, Triage, triage},
};
use verifier_tests::{
    lab::program,
    runbook::{self, CASES, Case, Cluster, NOW},
};

const DAY_NS: u64 = 86_400_000_000_000;

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("verifier-runbook-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn facts(directory: &Path) -> ClusterFacts {
    let mut facts = verifier::triage::from_files(directory, rfc3339(NOW).unwrap()).unwrap();
    facts.clues = verifier_core::evidence::Evidence::complete(Vec::new());
    facts
}

fn check(case: &Case, found: &Triage) {
    let differences = runbook::differences(case, found, 0);
    assert!(differences.is_empty(), "{}: {}", case.name, differences.join("\n"));
    // What is gathered and read again says the same.
    let again: Triage = serde_json::from_str(&serde_json::to_string(found).unwrap()).unwrap();
    assert_eq!(again, *found, "{}", case.name);
}

#[test]
fn every_branch_from_files() {
    for case in CASES {
        let mut cluster = Cluster::healthy();
        (case.change)(&mut cluster);
        let scratch = Scratch::new("case");
        runbook::write(&cluster, &scratch.0).unwrap();
        check(case, &triage(&facts(&scratch.0), DAY_NS));
    }
    let seen: std::collections::BTreeSet<Branch> = CASES.iter().flat_map(|case| case.branches.iter().copied()).collect();
    assert_eq!(seen.len(), 7, "a branch without a case: {seen:?}");
}

#[test]
fn uncordon_is_the_last_thing_done_to_a_node_and_gather_comes_before_whatever_deletes() {
    for case in CASES {
        let mut cluster = Cluster::healthy();
        (case.change)(&mut cluster);
        let scratch = Scratch::new("order");
        runbook::write(&cluster, &scratch.0).unwrap();
        let found = triage(&facts(&scratch.0), DAY_NS);
        let commands: Vec<&str> = found.steps.iter().flat_map(|s| s.commands.iter().map(String::as_str)).collect();
        let at = |words: &str| commands.iter().position(|command| command.contains(words));
        if let Some(uncordon) = at("kubectl uncordon") {
            assert!(
                commands[uncordon].starts_with("verifier validate --node"),
                "{}: {commands:?}",
                case.name
            );
            let cordon = at("kubectl cordon").unwrap();
            let gather = at("verifier gather").unwrap();
            for deletes in ["delete pod", "kubectl drain", "systemctl reboot", "kubectl delete node"] {
                if let Some(deletes) = at(deletes) {
                    assert!(
                        cordon < gather && gather < deletes && deletes < uncordon,
                        "{}: {commands:?}",
                        case.name
                    );
                }
            }
        }
        // Whatever changes something says what must hold before.
        for step in &found.steps {
            let changes = step.commands.iter().any(|c| {
                ["cordon", "delete", "drain", "reboot", "apply", "edit", "restart"]
                    .iter()
                    .any(|w| c.contains(w))
            });
            assert!(!changes || step.only_if.is_some(), "{}: {step:?}", case.name);
        }
    }
}

fn verifier(arguments: &[&str]) -> Option<Output> {
    match program::path() {
        Ok(path) => Some(Command::new(path).args(arguments).env_remove("VERIFIER_KEY_FILE").output().unwrap()),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

#[test]
fn the_command_and_its_exit_statuses() {
    let scratch = Scratch::new("command");
    let directory = scratch.0.to_str().unwrap();
    runbook::write(&Cluster::healthy(), &scratch.0).unwrap();
    let Some(output) = verifier(&["triage", "--intent", directory, "--at", NOW]) else {
        return;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said} {}", String::from_utf8_lossy(&output.stderr));

    let case = CASES
        .iter()
        .find(|case| case.branches == [Branch::CalicoIsDown, Branch::FewNodes])
        .unwrap();
    let mut cluster = Cluster::healthy();
    (case.change)(&mut cluster);
    runbook::write(&cluster, &scratch.0).unwrap();
    let output = verifier(&["triage", "--intent", directory, "--at", NOW, "--output", "json"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["schema"], &value["branches"][0]["branch"]),
        (&"dataplane-verifier/triage/v1".into(), &"calico-is-down".into())
    );

    // Half of the kinds: healthy as far as it goes is not healthy.
    for file in ["event-v1.json", "pod-v1.json"] {
        fs::remove_file(scratch.0.join(file)).unwrap();
    }
    runbook::write(
        &Cluster {
            pods: Vec::new(),
            events: Vec::new(),
            ..Cluster::healthy()
        },
        &scratch.0,
    )
    .unwrap();
    for file in ["event-v1.json", "pod-v1.json"] {
        fs::remove_file(scratch.0.join(file)).unwrap();
    }
    let output = verifier(&["triage", "--intent", directory, "--at", NOW]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("as far as could be read")
            && said.contains("kubectl get events -A")
            && said.contains("kubectl get --raw /api/v1/events"),
        "{said}"
    );

    // Bad input is one line.
    for (arguments, words) in [
        (vec!["triage", "--intent", "/no/such/directory"], "/no/such/directory"),
        (vec!["triage", "--intent", directory, "--at", "yesterday"], "2026-01-31T12:00:00Z"),
        (vec!["triage", "--kubeconfig", "/no/such/kubeconfig"], "/no/such/kubeconfig"),
    ] {
        let output = verifier(&arguments).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(64), 1), "{error}");
        assert!(error.contains(words) && output.stdout.is_empty(), "{error}");
    }
    fs::write(scratch.0.join("node-v1.json"), "{\"apiVersion\": \"v1\", \"kind\":").unwrap();
    let output = verifier(&["triage", "--intent", directory]).unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn an_object_that_cannot_be_read_is_named_and_the_rest_stands() {
    let scratch = Scratch::new("object");
    let mut cluster = Cluster::healthy();
    cluster.pods[3]["status"]["containerStatuses"] = serde_json::json!("none");
    cluster
        .events
        .push(serde_json::json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": "odd" }, "involvedObject": 7 }));
    runbook::write(&cluster, &scratch.0).unwrap();
    let found = triage(&facts(&scratch.0), DAY_NS);
    let gaps: Vec<&str> = found.unknown.iter().map(|gap| gap.why.as_str()).collect();
    assert!(gaps.iter().any(|why| why.contains("calico-node-03 cannot be read")), "{gaps:?}");
    assert!(gaps.iter().any(|why| why.contains("odd cannot be read")), "{gaps:?}");
    // That node's calico-node is not known to be missing.
    assert!(found.affected.is_empty(), "{:?}", found.affected);
    assert_eq!(found.exit_status(), 3);
}
