//! A fabric with an agent on every node: raised, attached as this kernel allows, and found healthy, again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use verifier_core::verdict::Verdict as NodeVerdict;
use verifier_tests::fabric::FabricSpec;
use verifier_tests::foreign::tc;
use verifier_tests::lab::report::Report;
use verifier_tests::lab::watch::Watch;
use verifier_tests::lab::{Files, LAB_PREFIX, Stage, program};
use verifier_tests::netns::Netns;
use verifier_tests::nl::Rtnl;

use crate::plan::Plan;
use crate::say::{Cases, Verdict};

/// How long the agents may take to call a fabric healthy that is.
const PATIENCE: Duration = Duration::from_secs(60);

/// No finding is right in any of the rounds.
pub(crate) fn play(plan: &Plan, rounds: usize, cases: &Cases) -> Result<()> {
    let Some(mut stage) = cases.make("raise", raise) else {
        return Ok(());
    };
    if cases.make("agents", || stage.start_agents()).is_none() {
        return Ok(());
    }
    cases.play("attached", || attached(&stage, plan.lacks("tcx")));
    let Some(watch) = cases.make("watch", || Watch::new(stage.fabric(), stage.files())) else {
        return Ok(());
    };
    cases.play("continuous", || continuous(&watch));
    for round in 1..=rounds {
        cases.play(&format!("healthy-{round}"), || healthy(&stage));
    }
    cases.make("strike", || {
        stage.stop_agents()?;
        stage.strike()
    });
    Ok(())
}

fn raise() -> Result<Stage> {
    Stage::raise(FabricSpec::default(), Files::of_lab(LAB_PREFIX)?)
}

/// Without tcx the taps are classifiers on a clsact qdisc, with it there are none.
fn attached(stage: &Stage, by_clsact: bool) -> Result<Verdict> {
    let mut filters = 0;
    for node in stage.fabric().nodes() {
        let found = Netns::open(&node.netns)?.run(|| {
            let mut nl = Rtnl::open()?;
            let index = nl.index("vxlan.calico")?;
            tc::classifiers(&mut nl, index)
        })?;
        ensure!(
            found == if by_clsact { 2 } else { 0 },
            "the tunnel device of {} has {found} classifiers",
            node.name
        );
        filters += found;
    }
    let how = if by_clsact { "clsact" } else { "tcx" };
    Ok(Verdict::Passed(Some(format!("by {how}: {filters} classifiers on tunnel devices"))))
}

/// The agents alone come to call it healthy.
fn continuous(watch: &Watch) -> Result<Verdict> {
    let well = |report: &verifier_core::verdict::ClusterReport| {
        !report.nodes.is_empty()
            && report.causes.is_empty()
            && report
                .nodes
                .iter()
                .all(|node| node.verdict == NodeVerdict::Forwarding && node.causes.is_empty())
    };
    match watch.wait_for(Instant::now(), PATIENCE, well) {
        Some(_) => Ok(Verdict::Passed(None)),
        None => bail!("not healthy after {} s: {:?}", PATIENCE.as_secs(), watch.now()),
    }
}

/// `validate` finds nothing at all. Checks that could not be made are shown.
fn healthy(stage: &Stage) -> Result<Verdict> {
    let said = program::validate(stage.files(), &stage.fabric().switch_netns()?.path(), &[])?;
    let report = Report::read(said.report)?;
    let complaints = report.complaints();
    ensure!(
        complaints.is_empty() && said.status == Some(0),
        "status {:?}: {}",
        said.status,
        complaints.join("; ")
    );
    let gaps: Vec<String> = report.unknown.iter().map(|gap| format!("{}: {}", gap.check, gap.why)).collect();
    Ok(Verdict::Passed(
        (!gaps.is_empty()).then(|| format!("not checked: {}", gaps.join("; "))),
    ))
}
