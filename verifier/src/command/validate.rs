//! `verifier validate`: every node against every other, once, and a verdict.

mod recovery;

use super::{
    Exit, Failure, Stdout,
    collect::{self, Target},
};
use crate::{
    agent::{client::Client, peers::agent_address},
    cli::{self, Output},
    config,
    report::{self, snapshot::ClusterSnapshot},
};
use anyhow::anyhow;
use std::collections::BTreeSet;
use verifier_core::{
    intent::Cluster,
    names::NodeName,
    verdict::{ClusterReport, Policy},
};

/// Asks, judges, prints.
///
/// # Errors
/// The input is not usable, or the report cannot be written.
pub fn run(args: &cli::Validate, color: bool) -> Result<Exit, Failure> {
    recovery::wait(args)?;
    let cluster = config::read_intent(&args.intent)?;
    let wanted = wanted(&cluster, &args.nodes)?;
    let (keyring, has_key) = recovery::keyring(args)?;
    let netns = config::open_netns(args.peers.netns.as_deref())?;
    let mut snapshots = if has_key {
        let client = Client::new(keyring.signing(), netns);
        let targets = targets(&cluster, &wanted, args.peers.agent_port);
        config::runtime()?.block_on(collect::rounds(&client, targets, args.timeout))
    } else {
        recovery::unasked(&cluster)
    };
    let alone = recovery::alone(args, &cluster, keyring, &mut snapshots)?;
    let snapshot = ClusterSnapshot::new(Policy::default(), snapshots);
    if let Some(path) = &args.snapshot_out {
        report::write_file(path, &snapshot.text()?)?;
    }
    let mut report = only(snapshot.judge(), &wanted);
    recovery::say_what_is_missing(&mut report, alone.as_ref());
    for (path, output) in [(&args.json_file, Output::Json), (&args.junit_file, Output::Junit)] {
        if let Some(path) = path {
            report::write_file(path, &report::render(&report, output, false)?)?;
        }
    }
    Stdout.write(&report::render(&report, args.output, color)?)?;
    recovery::finish(args, &report, alone.is_some())
}

/// The nodes that were named; empty for all.
pub(super) fn wanted(cluster: &Cluster, names: &[String]) -> Result<BTreeSet<NodeName>, Failure> {
    let known: BTreeSet<NodeName> = cluster.nodes().cloned().collect();
    if known.is_empty() {
        return Err(Failure::usage(anyhow!(
            "intent names no Node: with --intent, add the output of `kubectl get nodes -o json`"
        )));
    }
    let mut wanted = BTreeSet::new();
    for name in names {
        let name = NodeName::from(name.as_str());
        if !known.contains(&name) {
            return Err(config::unknown_node(&name, &known));
        }
        wanted.insert(name);
    }
    Ok(wanted)
}

/// Whom to ask for what. A restriction is to pairs with a named node at one end: the others are asked too, for their half.
pub(super) fn targets(cluster: &Cluster, wanted: &BTreeSet<NodeName>, port: u16) -> Vec<Target> {
    let target = |name: &NodeName| Target {
        node: name.clone(),
        address: match cluster.node_intent(name) {
            Ok(intent) => intent
                .host_ip
                .map(|ip| agent_address(ip, port))
                .ok_or_else(|| "intent has no address of this node (annotation projectcalico.org/IPv4Address)".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        peers: if wanted.contains(name) { BTreeSet::new() } else { wanted.clone() },
    };
    cluster.nodes().map(target).collect()
}

/// The part of a report that concerns these nodes; all of it if none are named.
pub(super) fn only(mut report: ClusterReport, wanted: &BTreeSet<NodeName>) -> ClusterReport {
    if wanted.is_empty() {
        return report;
    }
    report.nodes.retain(|node| wanted.contains(&node.name));
    report.pods.retain(|pod| wanted.contains(&pod.node));
    report.loss.retain(|node, _| wanted.contains(node));
    if let Some(worst) = report.nodes.iter().map(|node| node.verdict).max() {
        report.verdict = worst;
    }
    report
}
