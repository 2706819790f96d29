//! Facts for triage: from the cluster's API or from what kubectl printed into files, and from the agents. What follows from them is
//! decided in `verifier_core::triage`.

mod changes;
pub mod clues;
mod lists;
pub mod read;

use kube::Client;
use lists::Lists;
use std::{collections::BTreeMap, path::Path};
use verifier_core::{
    compare,
    evidence::Evidence,
    names::{NodeName, UnixNs},
    triage::ClusterFacts,
    verdict::{ClusterReport, NodeSnapshot},
};

/// Facts that separate nodes because of what they are, not because of what is wrong with them.
const ACCOUNTS: &[&str] = &["host/", "programmed/underlay/", "intent/setting/"];

/// The cluster from its API.
pub async fn from_api(client: &Client, now: UnixNs) -> ClusterFacts {
    let mut facts = facts(&lists::from_api(client).await, now);
    facts.secrets = changes::secrets(client, &facts).await;
    facts
}

/// The cluster from files.
///
/// # Errors
/// Nothing can be read there.
pub fn from_files(path: &Path, now: UnixNs) -> anyhow::Result<ClusterFacts> {
    let (lists, secrets) = lists::from_files(path)?;
    let mut facts = facts(&lists, now);
    facts.secrets = if secrets.is_empty() && facts.bgp_peers.seen().into_iter().flatten().any(|peer| peer.secret.is_some()) {
        Evidence::unavailable(
            "triage/secrets",
            "a BGPPeer has a password, and no Secret is in the files: add the output of `kubectl get secrets -n NAMESPACE -o json`; only names are read of it",
        )
    } else {
        Evidence::complete(secrets)
    };
    facts.nodes.seen().ok_or_else(|| {
        anyhow::anyhow!(
            "no Node objects in {}: add the output of `kubectl get nodes -o json`",
            path.display()
        )
    })?;
    Ok(facts)
}

fn facts(lists: &Lists, now: UnixNs) -> ClusterFacts {
    ClusterFacts {
        nodes: read::nodes(lists),
        pods: read::pods(lists),
        workloads: read::workloads(lists),
        events: read::events(lists),
        webhooks: read::webhooks(lists),
        endpoints: read::endpoints(lists),
        objects: changes::objects(lists),
        bgp_peers: changes::bgp_peers(lists),
        ..ClusterFacts::unread(now)
    }
}

/// Adds what the agents found.
pub fn add_agents(facts: &mut ClusterFacts, report: &ClusterReport, snapshots: &BTreeMap<NodeName, Evidence<NodeSnapshot>>) {
    for node in &report.nodes {
        let verdict = match snapshots.get(&node.name) {
            Some(Evidence::Unavailable { gap }) => Evidence::Unavailable { gap: gap.clone() },
            _ => Evidence::complete(node.verdict),
        };
        facts.verdicts.insert(node.name.clone(), verdict);
    }
    for (name, snapshot) in snapshots {
        let Some(snapshot) = snapshot.seen() else { continue };
        let all = compare::profile(snapshot).facts.into_iter();
        let kept = all.filter(|(key, _)| ACCOUNTS.iter().any(|start| key.starts_with(start)));
        facts
            .accounts
            .insert(name.clone(), kept.map(|(key, fact)| (key, fact.value)).collect());
    }
}
