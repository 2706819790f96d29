//! The last case: a kernel was upgraded, its vxlan module stayed behind, calico-node shows Running, two pods are stale. From the claim over the
//! chain of causes to the remedy, the recovery and the proof of it.

use anyhow::{Context, Result, bail};
use verifier_tests::fabric::node::pod_route;
use verifier_tests::faults::{self, Cast, Outcome};
use verifier_tests::hosts;
use verifier_tests::lab::report::Report;

use crate::scene::Scene;

/// Its name, beside those of the catalogue.
pub(crate) const NAME: &str = "kernel-upgraded";
/// What is done.
pub(crate) const DESCRIPTION: &str = "a node was rebooted into a newer kernel whose package lacks the vxlan module: no tunnel device, and both its pods came up without a route";
/// The node it happens to.
const NODE: &str = "node-b";
/// The chain that must be found, root first.
const CHAIN: &[&str] = &["kernel-upgraded", "kernel-module-missing", "tunnel-device-missing"];

/// Plays it from the healthy fabric and back; everything that was not right.
pub(crate) fn play(scene: &mut Scene<'_>) -> Result<Vec<String>> {
    scene.show.busy("giving every node a host whose files are read");
    let names: Vec<String> = scene.stage.fabric().nodes().iter().map(|node| node.name.clone()).collect();
    for name in &names {
        hosts::healthy(&scene.stage.files().host_root(name), name)?;
        scene.stage.kill_agent(name)?;
    }
    scene.stage.start_agents()?;
    scene.healthy().context("with host accounts")?;

    scene.show.busy("rebooting into the newer kernel");
    scene.stage.kill_agent(NODE)?;
    hosts::upgrade_without_modules(&scene.stage.files().host_root(NODE))?;
    let fault = faults::find("tunnel-device-deleted").context("the catalogue lacks it")?;
    if let Outcome::Skipped(why) = fault.inject(scene.stage.fabric())? {
        bail!("the device cannot be deleted here: {why}");
    }
    let cast = Cast::of(scene.stage.fabric())?;
    let routes: Vec<_> = cast.pods_of(cast.b).iter().map(pod_route).collect();
    cast.on(cast.b, |nl| routes.iter().try_for_each(|route| nl.delete_route(route)))?;
    scene.stage.start_agents()?;
    scene.show.busy("asking: verifier validate");
    let (said, _) = scene.validate()?;
    scene.show.idle();
    let wrong = wrong(&said.report, said.status);
    scene.show.story(&said.report, NODE, CHAIN, &wrong);

    scene
        .show
        .busy("the remedy: the package with the modules, calico-node and the pods made anew");
    let cast = Cast::of(scene.stage.fabric())?;
    cast.on(cast.b, |nl| routes.iter().try_for_each(|route| nl.add_route(route)))?;
    faults::undo(scene.stage.fabric())?;
    scene.stage.kill_agent(NODE)?;
    hosts::healthy(&scene.stage.files().host_root(NODE), NODE)?;
    scene.stage.start_agents()?;
    let since = std::time::Instant::now();
    scene.healthy().context("after the remedy")?;
    scene.show.mended(since.elapsed());
    Ok(wrong)
}

/// In what the report differs from what is right.
fn wrong(report: &Report, status: Option<i32>) -> Vec<String> {
    let mut found = Vec::new();
    let mut want = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    want(status == Some(1), format!("exit status {status:?} instead of 1"));
    let roots: Vec<String> = report
        .roots()
        .iter()
        .map(|(blamed, cause)| format!("{} of {blamed}", cause.code))
        .collect();
    let Some(node) = report.nodes.iter().find(|node| node.name == NODE) else {
        return vec![format!("{NODE} is not in the report")];
    };
    want(
        node.claimed.ready == Some(true) && node.claimed.calico_node.as_deref() == Some("Running"),
        "the claim is not Ready and Running".to_owned(),
    );
    want(node.verdict == "not-forwarding", format!("{NODE} is {}", node.verdict));
    let codes: Vec<&str> = node.causes.iter().map(|cause| cause.code.as_str()).collect();
    want(codes == [CHAIN[0]], format!("the roots are {}", roots.join(", ")));
    let chain = node.causes.first().and_then(|cause| cause.chain.as_deref()).unwrap_or_default();
    want(chain.starts_with(&CHAIN.join(" > ")), format!("the chain is {chain:?}"));
    let follows: Vec<&str> = node
        .causes
        .iter()
        .flat_map(|c| &c.consequences)
        .filter_map(|c| c["code"].as_str())
        .collect();
    for link in &CHAIN[1..] {
        want(follows.contains(link), format!("{link} does not follow from the root"));
    }
    let stale: Vec<&str> = report
        .pods
        .iter()
        .filter(|pod| pod.verdict == "stale")
        .map(|pod| pod.node.as_str())
        .collect();
    want(stale == [NODE, NODE], format!("stale pods are on {stale:?}"));
    found
}
