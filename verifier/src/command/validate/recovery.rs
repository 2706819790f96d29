//! What `validate` does in a recovery: waits for calico-node, does an agent's work where there is none, leaves its report in the cluster, and
//! uncordons a node that passed.

use crate::{
    agent::{
        api::RoundRequest,
        keys::{KeyError, Keyring},
        run::{self, Start},
    },
    cli::{self, Output},
    clock,
    command::{Exit, Failure},
    config::{self, IntentSource},
    intent::FileSource,
    kubernetes::{kinds::Scope, nodes},
    report,
};
use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use serde_json::json;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use verifier_core::{
    evidence::Evidence,
    intent::Cluster,
    names::NodeName,
    report::rfc3339,
    verdict::{ClusterReport, NodeSnapshot, UnknownCheck},
};

/// The annotation of `--report-annotation`.
pub const ANNOTATION: &str = "dataplane-verifier.io/validated";
/// Longest value of a ConfigMap that is written: the API takes 1 MiB for all together.
const VALUE_BYTES_MAX: usize = 300_000;
/// How long an agent of our own may take to be ready.
const ALONE_PATIENCE: Duration = Duration::from_secs(30);

/// Waits until calico-node of the nodes in question is Running and ready, if that is wanted.
pub(super) fn wait(args: &cli::Validate) -> Result<(), Failure> {
    let Some(patience) = args.recovery.wait_for_running else {
        return Ok(());
    };
    let mut last = "nothing of it was read yet".to_owned();
    let waiting = async {
        let mut objects = match config::intent_source(&args.intent, Scope::Cluster).await? {
            IntentSource::Files(path) => FileSource::new(&path).watch().boxed(),
            IntentSource::Kubernetes(source) => source.watch().boxed(),
        };
        let waited = tokio::time::timeout(patience, async {
            while let Some(next) = objects.next().await {
                last = match next {
                    Evidence::Complete { value } | Evidence::Partial { value, .. } => {
                        match missing(&Cluster::compile(value), &args.nodes) {
                            None => return true,
                            Some(what) => what,
                        }
                    }
                    Evidence::Unavailable { gap } => gap.why,
                };
                tracing::info!(last, "waiting for calico-node");
            }
            false
        });
        match waited.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::internal(anyhow!("the source of objects ended"))),
            Err(_) => Err(Failure::unverified(anyhow!(
                "calico-node does not run after {} s: {last}: see its logs (`verifier logs`) before the dataplane",
                patience.as_secs()
            ))),
        }
    };
    config::runtime()?.block_on(waiting)
}

/// Which of the nodes has no calico-node that is Running and ready; none if all have.
fn missing(cluster: &Cluster, names: &[String]) -> Option<String> {
    let named = |node: &&NodeName| names.is_empty() || names.iter().any(|name| name == node.as_str());
    if let Some(name) = names.iter().find(|name| cluster.nodes().all(|node| node.as_str() != name.as_str())) {
        return Some(format!("there is no node {name:?}"));
    }
    cluster
        .nodes()
        .filter(named)
        .find_map(|node| match cluster.claim_of(node).calico_node {
            Some(phase) if phase == "Running" => None,
            Some(phase) => Some(format!("calico-node of {node} is {phase}")),
            None => Some(format!("{node} has no calico-node pod")),
        })
}

/// The key, and whether the agents could know it. Without a key file only an agent of our own can be asked, if it is wanted.
pub(super) fn keyring(args: &cli::Validate) -> Result<(Keyring, bool), Failure> {
    match Keyring::read(&args.peers.key_file) {
        Ok(keyring) => Ok((keyring, true)),
        Err(KeyError::Missing { .. }) if args.recovery.alone_on.is_some() => {
            let keyring = Keyring::generate().context("no randomness").map_err(Failure::internal)?;
            Ok((keyring, false))
        }
        Err(error) => Err(Failure::usage(error)),
    }
}

/// Every node, where nobody can be asked.
pub(super) fn unasked(cluster: &Cluster) -> BTreeMap<NodeName, Evidence<NodeSnapshot>> {
    let why = "there is no key file, so no agent can be asked: install deploy/base, or make one with `verifier keygen`";
    cluster
        .nodes()
        .map(|node| (node.clone(), Evidence::unavailable(format!("agent/{node}"), why)))
        .collect()
}

/// Does the work of the agent that does not answer on this node. The node, if it was done.
pub(super) fn alone(
    args: &cli::Validate,
    cluster: &Cluster,
    keyring: Keyring,
    snapshots: &mut BTreeMap<NodeName, Evidence<NodeSnapshot>>,
) -> Result<Option<NodeName>, Failure> {
    let Some(name) = &args.recovery.alone_on else {
        return Ok(None);
    };
    let node = NodeName::from(name.as_str());
    let Some(asked) = snapshots.get(&node) else {
        return Err(config::unknown_node(&node, &cluster.nodes().cloned().collect()));
    };
    if asked.seen().is_some() {
        return Ok(None);
    }
    crate::preflight::essentials(true).map_err(|missing| Failure::unverified(anyhow!(missing)))?;
    let ip = cluster.host_address(&node).ok_or_else(|| {
        Failure::usage(anyhow!(
            "intent has no address of {node}: its Node lacks the annotation projectcalico.org/IPv4Address"
        ))
    })?;
    // It probes from the pods of this node and asks nobody: one round needs more than one thread, as the agent does.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::internal)?;
    let snapshot = runtime.block_on(async {
        let start = Start {
            node: node.clone(),
            netns: config::open_netns(args.peers.netns.as_deref())?,
            address: SocketAddr::new(ip, args.peers.agent_port),
            intent: config::intent_source(&args.intent, Scope::Cluster).await?,
            key_file: args.peers.key_file.clone(),
            keyring,
            // One round is all it is for.
            probe_interval: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(5),
            host_root: None,
            ebpf: true,
            results: None,
        };
        let request = RoundRequest {
            targets: Default::default(),
            patience_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        run::alone(start, &request, ALONE_PATIENCE).await.map_err(Failure::unverified)
    })?;
    snapshots.insert(node.clone(), Evidence::complete(snapshot));
    Ok(Some(node))
}

/// What one node cannot tell.
pub(super) fn say_what_is_missing(report: &mut ClusterReport, alone: Option<&NodeName>) {
    let Some(node) = alone else { return };
    let mut say = |check: &str, why: &str| report.unknown.push(UnknownCheck::new(format!("{node}: {check}"), why));
    say(
        "probes from other nodes",
        "no agent answers there, so only ways that begin on this node were tested, and their answers: install the agents for the rest",
    );
    say(
        "UDP to pods of other nodes",
        "it is answered at a pod's door by the agent there: ICMP and TCP, which the pods answer themselves, were tested",
    );
    say(
        "what other nodes saw",
        "no agent answers there, so a place beyond this node's underlay device is not known",
    );
}

/// Leaves the report where it was asked for, uncordons if everything passed, and says how it ended.
pub(super) fn finish(args: &cli::Validate, report: &ClusterReport, alone: bool) -> Result<Exit, Failure> {
    let mut exit = report::exit(report);
    if alone && exit == Exit::Verified && !args.recovery.alone_suffices {
        // What was verified passes, and something was not: never a full pass.
        exit = Exit::Unverified;
    }
    let recovery = &args.recovery;
    if !recovery.uncordon && !recovery.report_annotation && recovery.report_configmap.is_none() {
        return Ok(exit);
    }
    config::runtime()?.block_on(async {
        let client = config::client(&args.intent.kubernetes).await?;
        if let Some((namespace, name)) = &recovery.report_configmap {
            let mut data = BTreeMap::new();
            for (key, output) in [
                ("report.json", Output::Json),
                ("report.txt", Output::Text),
                ("junit.xml", Output::Junit),
            ] {
                data.insert(key, fitting(report::render(report, output, false)?));
            }
            let written = nodes::write_config_map(&client, namespace, name, &data).await;
            written.map_err(Failure::unverified)?;
        }
        for name in &args.nodes {
            if recovery.report_annotation {
                let value = annotation(report, name, exit);
                let written = nodes::annotate(&client, name, ANNOTATION, &value).await;
                written.map_err(Failure::unverified)?;
            }
            if recovery.uncordon && exit == Exit::Verified {
                let done = nodes::uncordon(&client, name).await.map_err(Failure::unverified)?;
                eprintln!("verifier: {name}: {}", if done { "uncordoned" } else { "was not cordoned" });
            }
        }
        if recovery.uncordon && exit != Exit::Verified {
            eprintln!("verifier: nothing was uncordoned: not everything was verified and passes");
        }
        Ok(exit)
    })
}

/// One node's verdict in a few words.
fn annotation(report: &ClusterReport, name: &str, exit: Exit) -> String {
    let row = report.nodes.iter().find(|row| row.name.as_str() == name);
    json!({
        "at": rfc3339(clock::unix_now()),
        "exit_status": exit.code(),
        "verdict": row.map(|row| row.verdict),
        "causes": row.map(|row| row.causes.iter().map(|cause| cause.code).collect::<Vec<_>>()),
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string()
}

/// What does not fit is named, and never cut to something that looks whole.
fn fitting(text: String) -> String {
    if text.len() <= VALUE_BYTES_MAX {
        return text;
    }
    format!(
        "this report has {} bytes, and a ConfigMap takes {VALUE_BYTES_MAX} of each: use --json-file or --junit-file\n",
        text.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use verifier_core::intent::objects::{Group, Node, Object, Objects, Pod};

    fn cluster(phase: &str, ready: bool) -> Cluster {
        let mut objects = Objects::default();
        let mut node = Node::default();
        node.metadata.name = "node-a".to_owned();
        let mut pod = Pod::default();
        pod.metadata.name = "calico-node-x".to_owned();
        pod.metadata.namespace = "kube-system".to_owned();
        pod.metadata.labels.insert("k8s-app".to_owned(), "calico-node".to_owned());
        pod.spec.node_name = "node-a".to_owned();
        pod.spec.host_network = true;
        pod.status.phase = phase.to_owned();
        if ready {
            pod.status.conditions.push(verifier_core::intent::objects::Condition {
                kind: "Ready".to_owned(),
                status: "True".to_owned(),
                reason: String::new(),
            });
        }
        objects.insert(Group::Stored, Object::Node(node)).unwrap();
        objects.insert(Group::Stored, Object::Pod(pod)).unwrap();
        Cluster::compile(objects)
    }

    #[test]
    fn running_is_not_enough_it_must_be_ready() {
        let named = vec!["node-a".to_owned()];
        assert_eq!(missing(&cluster("Running", true), &named), None);
        assert_eq!(
            missing(&cluster("Running", false), &[]).as_deref(),
            Some("calico-node of node-a is Running (not ready)")
        );
        assert_eq!(
            missing(&cluster("Pending", false), &named).as_deref(),
            Some("calico-node of node-a is Pending (not ready)")
        );
        let other = vec!["node-x".to_owned()];
        assert!(missing(&cluster("Running", true), &other).is_some_and(|what| what.contains("node-x")));
    }

    #[test]
    fn a_report_that_does_not_fit_is_named_and_not_cut() {
        assert_eq!(fitting("x".to_owned()), "x");
        assert!(fitting("x".repeat(VALUE_BYTES_MAX + 1)).contains("--json-file"));
    }
}
