//! What the cluster's API has to say, for the archive: facts and triage, each node described, its events, the logs of calico-node's
//! containers, those of now and those before a restart. Without the API the same facts from manifests, as far as they go.

use super::super::triage::with_clues;
use crate::{
    cli, clock,
    command::Failure,
    config,
    kubernetes::logs::{self, Wanted},
    report::{archive::Archive, snapshot::ClusterSnapshot},
    triage,
};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use kube::Client;
use std::{collections::BTreeSet, io};
use verifier_core::{
    names::NodeName,
    triage::{ClusterFacts, describe, text, triage as decide},
};

/// Lines from the end of each log.
const LINES: i64 = 20_000;
/// Bytes of each log at most.
const BYTES_MAX: usize = 4 << 20;
/// What changed within this time is listed.
const WINDOW_NS: u64 = 86_400_000_000_000;

/// What was had.
#[derive(Debug)]
pub(super) struct ClusterPart {
    facts: ClusterFacts,
    nodes: BTreeSet<NodeName>,
    logs: Vec<(String, String, Vec<u8>)>,
    missing: Vec<(String, String)>,
    not_tried: Option<&'static str>,
}

/// Collects. What cannot be had is noted, not an error.
///
/// # Errors
/// A kubeconfig was named and cannot be used, or manifests cannot be read.
pub(super) async fn collect(args: &cli::Gather, snapshot: &ClusterSnapshot, nodes: &BTreeSet<NodeName>) -> Result<ClusterPart, Failure> {
    let now = clock::unix_now();
    let named = args.intent.kubernetes.kubeconfig.is_some() || args.intent.kubernetes.context.is_some();
    let client = match &args.intent.intent {
        Some(_) if !named => None,
        _ => Some(config::client(&args.intent.kubernetes).await?),
    };
    let mut facts = match (&client, &args.intent.intent) {
        (Some(client), _) => triage::from_api(client, now).await,
        (None, Some(path)) => triage::from_files(path, now).map_err(Failure::usage)?,
        (None, None) => ClusterFacts::unread(now),
    };
    triage::add_agents(&mut facts, &snapshot.judge(), &snapshot.nodes);
    with_clues(client.as_ref(), &mut facts, WINDOW_NS).await;
    let mut part = ClusterPart {
        nodes: if nodes.is_empty() {
            snapshot.nodes.keys().cloned().collect()
        } else {
            nodes.clone()
        },
        facts,
        logs: Vec::new(),
        missing: Vec::new(),
        not_tried: None,
    };
    match &client {
        Some(client) => {
            part.read_logs(client, usize::try_from(args.max_mib << 20).unwrap_or(usize::MAX))
                .await
        }
        None => {
            part.not_tried =
                Some("intent came from files and no kubeconfig was named: give --kubeconfig too, or take logs along with --log-file");
        }
    }
    Ok(part)
}

impl ClusterPart {
    /// The logs of calico-node on the wanted nodes, together at most `room` bytes.
    async fn read_logs(&mut self, client: &Client, room: usize) {
        let bar = ProgressBar::new(self.nodes.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} logs of {pos} of {len} nodes, {elapsed}: {msg}") {
            bar.set_style(style);
        }
        let mut had = 0;
        for node in self.nodes.clone() {
            bar.set_message(node.to_string());
            self.logs_of(client, &node, &mut had, room).await;
            bar.inc(1);
        }
        bar.finish_and_clear();
    }

    async fn logs_of(&mut self, client: &Client, node: &NodeName, had: &mut usize, room: usize) {
        let Some(pod) = self.facts.calico_node_on(node).cloned() else {
            let why = if self.facts.pods.is_complete() {
                "it has no calico-node"
            } else {
                "pods could not be read"
            };
            self.missing.push((format!("logs of calico-node on {node}"), why.to_owned()));
            return;
        };
        for wanted in logs::all_of(&pod) {
            let wanted = Wanted {
                lines: LINES,
                bytes_max: BYTES_MAX.min(room.saturating_sub(*had)),
                ..wanted
            };
            let name = wanted.name(&pod.pod);
            if wanted.bytes_max == 0 {
                self.missing.push((name, "there is no room left: raise --max-mib".to_owned()));
                continue;
            }
            match logs::read(client, &pod.pod, &wanted).await {
                Ok(log) => {
                    self.missing.extend(log.cut.map(|why| (format!("the rest of {name}"), why)));
                    *had += log.bytes.len();
                    let which = if wanted.previous { "-previous" } else { "" };
                    self.logs
                        .push((format!("nodes/{node}/logs/{}{which}.log", wanted.container), name, log.bytes));
                }
                Err(why) => self.missing.push((name, why)),
            }
        }
    }

    /// Puts all of it into the archive.
    pub(super) fn add_to(&self, archive: &mut Archive) -> Result<(), Failure> {
        let whole = |error: io::Error| Failure::usage(anyhow::Error::new(error).context("cannot write the archive"));
        let json = |error: serde_json::Error| Failure::internal(anyhow::Error::new(error).context("cannot write the facts of the cluster"));
        for (what, why) in &self.missing {
            archive.missing(what.clone(), why.clone());
        }
        let found = decide(&self.facts, WINDOW_NS);
        // An agent that did not answer is named where its snapshot is missing.
        for gap in found.unknown.iter().filter(|gap| !gap.source.starts_with("agent/")) {
            // What only the API has is not missing where the API was not asked.
            match self.not_tried {
                Some(_) => archive.not_tried(gap.source.clone(), gap.why.clone()),
                None => archive.missing(gap.source.clone(), gap.why.clone()),
            }
        }
        if let Some(why) = self.not_tried {
            archive.not_tried("logs of pods", why);
        }
        let facts = serde_json::to_vec_pretty(&self.facts).map_err(json)?;
        archive.add("cluster/facts.json", "what triage read", &facts).map_err(whole)?;
        archive
            .add_log("cluster/triage.txt", "what triage says", &mut text(&found).as_bytes())
            .map_err(whole)?;
        let mut events = String::new();
        for event in self.facts.events.seen().into_iter().flatten() {
            events.push_str(
                &serde_json::to_string(event)
                    .context("cannot write an event")
                    .map_err(Failure::internal)?,
            );
            events.push('\n');
        }
        // Their messages went through the filter when they were read.
        archive
            .add("cluster/events.jsonl", "events of all namespaces", events.as_bytes())
            .map_err(whole)?;
        for node in &self.nodes {
            let name = format!("nodes/{node}/describe.txt");
            let what = "the node and its calico-node, described, with their events";
            archive
                .add_log(&name, what, &mut describe(&self.facts, node).as_bytes())
                .map_err(whole)?;
        }
        for (name, what, bytes) in &self.logs {
            archive.add_log(name, what, &mut bytes.as_slice()).map_err(whole)?;
        }
        Ok(())
    }
}
