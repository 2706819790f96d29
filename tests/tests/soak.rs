//! A healthy fabric in the worst of moods: under load, pods coming and going, agents rolling, and round after round of `validate` and of the
//! continuous verdict. Nothing may be found, ever: a false alarm costs more trust than a missed fault.
//!
//! `SOAK_ROUNDS` says how many rounds; without it a few, so that every run of the tests has them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use support::{can_run, unique_prefix};
use verifier_core::verdict::{ClusterReport, Finding};
use verifier_tests::{
    churn::Churn,
    fabric::FabricSpec,
    lab::{Files, Stage, program, report::Report, watch::Watch},
    load::{Load, LoadSpec},
};

/// Rounds of a run that nobody asked to be long.
const FEW: usize = 15;
/// Time between two changes of the fabric, so that they fall into the middle of rounds. Not shorter than it takes the agents to notice
/// that manifests in files have changed (two looks, half a second apart): a cluster's API tells within milliseconds, and a kubelet leaves
/// a pod longer than that between the first word of its deletion and the end of its network.
const PACE: Duration = Duration::from_millis(1300);
/// After so many changes one agent is restarted, in turn.
const ROLL_EVERY: usize = 3;
/// Longest that all rounds may take together.
const AT_MOST: Duration = Duration::from_secs(1500);

fn rounds() -> usize {
    std::env::var("SOAK_ROUNDS")
        .ok()
        .map_or(FEW, |text| text.parse().expect("SOAK_ROUNDS is a number"))
}

#[test]
fn nothing_is_found_on_a_healthy_fabric_that_never_rests() {
    if !can_run("nothing_is_found_on_a_healthy_fabric_that_never_rests") {
        return;
    }
    if let Err(error) = program::path() {
        eprintln!("skipped: {error:#}");
        return;
    }
    let prefix = unique_prefix();
    let files = Files::new(&format!("test-{prefix}")).unwrap();
    let spec = FabricSpec {
        prefix,
        ..FabricSpec::default()
    };
    let mut stage = Stage::raise(spec, files.clone()).unwrap();
    stage.start_agents().unwrap();
    let watch = Watch::new(stage.fabric(), &files).unwrap();
    let switch = stage.fabric().switch_netns().unwrap().path();
    let load = Load::start(
        stage.fabric(),
        LoadSpec {
            at_most: AT_MOST,
            ..LoadSpec::default()
        },
    )
    .unwrap();
    let over = AtomicBool::new(false);
    let (tally, unrest) = std::thread::scope(|scope| {
        let mover = scope.spawn(|| unrest(&mut stage, &over));
        // Also when a round panics, so that the mover ends and everything is taken down.
        let _ends = Ends(&over);
        let tally = ask(&files, &switch, &watch, rounds());
        over.store(true, Ordering::Relaxed);
        (tally, mover.join().unwrap())
    });
    let carried = load.stop().unwrap();
    eprintln!("{tally:?}, {unrest:?}, {carried:?}");
    // The pods' own traffic passes, so the fabric was healthy while nothing was found.
    assert!(carried.transfers > 0 && carried.failed_transfers == 0, "{carried:?}");
    assert!(unrest.changes > 0, "{unrest:?}");
    // A node is unknown only where its agent was being restarted: not in most rounds.
    assert!(tally.nodes_unknown * 2 < tally.rounds * 3, "{tally:?}");
    let directory = files.directory().to_path_buf();
    stage.strike().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was asked, and what could not be told.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    looks: usize,
    nodes_unknown: usize,
}

fn ask(files: &Files, switch: &Path, watch: &Watch, rounds: usize) -> Tally {
    let began = Instant::now();
    let mut tally = Tally::default();
    while tally.rounds < rounds {
        assert!(began.elapsed() < AT_MOST, "{tally:?} after {:?}", began.elapsed());
        let said = program::validate(files, switch, &[]).unwrap();
        let status = said.status;
        let report = Report::read(said.report).unwrap();
        let which = tally.rounds;
        let roots = report.roots();
        assert!(roots.is_empty(), "round {which}: {roots:#?}");
        for node in &report.nodes {
            assert!(
                ["forwarding", "unknown"].contains(&node.verdict.as_str()),
                "round {which}: {} is {}",
                node.name,
                node.verdict
            );
            tally.nodes_unknown += usize::from(node.verdict == "unknown");
        }
        let stale = report.pods.iter().find(|pod| pod.verdict == "stale");
        assert!(stale.is_none(), "round {which}: {stale:#?}");
        assert!([Some(0), Some(3)].contains(&status), "round {which}: status {status:?}");
        let continuous = watch.now();
        let raised = raised(&continuous);
        assert!(raised.is_empty(), "the continuous verdict after round {which}: {raised:#?}");
        tally.looks += 1;
        tally.rounds += 1;
    }
    tally
}

/// Roots of the continuous verdict. One that is marked transient (a pod that is being made) is no alarm.
fn raised(report: &ClusterReport) -> Vec<&Finding> {
    let nodes = report.nodes.iter().flat_map(|node| &node.causes);
    let pods = report.pods.iter().flat_map(|pod| &pod.causes);
    report
        .causes
        .iter()
        .chain(nodes)
        .chain(pods)
        .filter(|finding| !finding.transient)
        .collect()
}

/// What happened to the fabric meanwhile.
#[derive(Debug, Default)]
struct Unrest {
    changes: usize,
    restarts: usize,
}

/// Pods come and go, and agents are killed and started again in turn.
fn unrest(stage: &mut Stage, over: &AtomicBool) -> Unrest {
    let mut done = Unrest::default();
    let mut churn = Churn::new(20_261_128);
    let nodes: Vec<String> = stage.fabric().nodes().iter().map(|node| node.name.clone()).collect();
    while !over.load(Ordering::Relaxed) {
        churn.step(stage.fabric()).unwrap();
        done.changes += 1;
        if done.changes.is_multiple_of(ROLL_EVERY) {
            stage.kill_agent(&nodes[done.restarts % nodes.len()]).unwrap();
            stage.start_agents().unwrap();
            done.restarts += 1;
        }
        std::thread::sleep(PACE);
    }
    churn.finish(stage.fabric()).unwrap();
    done
}
