//! `verifier pods`: every pod with what its network is worth, and on request those made anew that run without one.

mod list;
mod recreate;

use super::{
    Exit, Failure, Stdout, collect,
    validate::{only, targets, wanted},
};
use crate::{agent::client::Client, cli, config, report::snapshot::ClusterSnapshot};
use list::Listing;
pub(super) use list::table;
use std::{collections::BTreeSet, time::Duration};
use verifier_core::{
    intent::Cluster,
    names::NodeName,
    verdict::{ClusterReport, Policy},
};

/// Asks, judges, lists.
///
/// # Errors
/// The input is not usable, or the list cannot be written.
pub fn run(args: &cli::Pods) -> Result<Exit, Failure> {
    recreate::check(args)?;
    let asking = Asking {
        client: Client::new(
            config::read_keys(&args.peers.key_file)?.signing(),
            config::open_netns(args.peers.netns.as_deref())?,
        ),
        port: args.peers.agent_port,
        timeout: args.timeout,
    };
    if args.recreate.recreate {
        return config::runtime()?.block_on(recreate::run(args, &asking));
    }
    let cluster = config::read_intent(&args.intent)?;
    let wanted = wanted(&cluster, &args.nodes)?;
    let report = config::runtime()?.block_on(asking.round(&cluster, &wanted));
    let listing = Listing::new(&report, &cluster, &wanted, args.stale);
    Stdout.write(&listing.render(args.output)?)?;
    Ok(exit(&report))
}

/// How the agents are asked.
struct Asking {
    client: Client,
    port: u16,
    timeout: Duration,
}

impl Asking {
    /// One round of these nodes, judged.
    async fn round(&self, cluster: &Cluster, wanted: &BTreeSet<NodeName>) -> ClusterReport {
        let snapshots = collect::rounds(&self.client, targets(cluster, wanted, self.port), self.timeout).await;
        only(ClusterSnapshot::new(Policy::default(), snapshots).judge(), wanted)
    }
}

/// 1 if a pod is stale; 3 if a node said nothing of its pods, or not enough is known of one; else 0. What a policy blocks is no fault.
fn exit(report: &ClusterReport) -> Exit {
    use verifier_core::verdict::PodVerdict::{Stale, Unknown};
    let any = |verdict| report.pods.iter().any(|pod| pod.verdict == verdict);
    let silent = report
        .nodes
        .iter()
        .any(|node| node.why.is_some() && !report.pods.iter().any(|pod| pod.node == node.name));
    if any(Stale) {
        Exit::Findings
    } else if any(Unknown) || silent || report.nodes.is_empty() {
        Exit::Unverified
    } else {
        Exit::Verified
    }
}
