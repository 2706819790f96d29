//! `verifier inspect`: intent against what one node's kernel was told. Sends nothing, attaches nothing.

use super::{Exit, Failure, Stdout};
use crate::{
    cli, clock, config, host,
    programmed::{
        pods::WantedPod,
        state::{Want, node_state},
    },
    report::{self, snapshot::ClusterSnapshot},
};
use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    names::NodeName,
    verdict::{NodeSnapshot, Policy},
};

/// Looks, judges, prints. Without probes the verdict of a healthy node is unknown, and its exit status 3: state that is as intended does not
/// prove that packets pass.
///
/// # Errors
/// The input is not usable, or the report cannot be written.
pub fn run(args: &cli::Inspect, color: bool) -> Result<Exit, Failure> {
    let cluster = config::read_intent(&args.intent)?;
    let node = NodeName::from(args.node.as_str());
    let intent = match cluster.node_intent(&node) {
        Ok(intent) => intent,
        Err(_) => return Err(config::unknown_node(&node, &cluster.nodes().cloned().collect())),
    };
    let netns = config::open_netns(args.netns.as_deref())?;
    let pods = intent
        .workloads
        .values()
        .map(|w| WantedPod {
            pod: w.pod.clone(),
            device: w.device.clone(),
            addresses: w.addresses.clone(),
        })
        .collect();
    let want = Want {
        pods,
        filters: true,
        conntrack: true,
    };
    let programmed = config::runtime()?.block_on(node_state(&netns, &want));
    let taken_at = clock::unix_now();
    let snapshot = NodeSnapshot {
        schema: report::snapshot::NODE_SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.clone(),
        taken_at,
        agent_started_at: taken_at,
        intent: Evidence::complete(intent),
        programmed,
        observed: Evidence::unavailable("observed", "inspect attaches nothing: run `verifier validate` for what packets do"),
        probes: Evidence::unavailable("probe", "inspect sends nothing: run `verifier validate` for what packets do"),
        remote: BTreeMap::new(),
        contacts: BTreeMap::new(),
        host: args.host_root.as_deref().map(|root| host::evidence(root, taken_at)),
    };
    let snapshot = ClusterSnapshot::new(Policy::default(), BTreeMap::from([(node.clone(), Evidence::complete(snapshot))]));
    if let Some(path) = &args.snapshot_out {
        report::write_file(path, &snapshot.text()?)?;
    }
    let mut report = snapshot.judge();
    // The other nodes were not asked; their rows would say no more than that.
    report.nodes.retain(|row| row.name == node);
    Stdout.write(&report::render(&report, args.output, color)?)?;
    Ok(report::exit(&report))
}
