//! Asking every node's agent for a round, all at once, with one deadline.

use super::{
    Failure,
    validate::{targets, wanted},
};
use crate::{
    agent::{
        api::{ROUND, RoundRequest},
        client::{AskError, Client},
        peers::one_line,
    },
    cli::IntentArgs,
    clock, config,
    kubernetes::kinds::Scope,
    report::snapshot::ClusterSnapshot,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};
use verifier_core::{
    evidence::Evidence,
    names::NodeName,
    verdict::{NodeSnapshot, Policy},
};

/// How long an agent that refuses the connection is asked again: as long as one takes to restart.
const NO_AGENT_PATIENCE: Duration = Duration::from_secs(4);
/// How often an agent is asked again whose connection broke, or that was silent.
const BROKEN_MAX: u32 = 1;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// One node to ask.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node.
    pub node: NodeName,
    /// Where its agent listens; why that is not known.
    pub address: Result<SocketAddr, String>,
    /// Which peers it is to probe; all if empty.
    pub peers: BTreeSet<NodeName>,
}

/// How the agents are asked by commands for which they are one source among others.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Where intent comes from.
    pub intent: &'a IntentArgs,
    /// The key that the agents share.
    pub key_file: &'a Path,
    /// The namespace from which they are reached.
    pub netns: Option<&'a Path>,
    /// Their port.
    pub port: u16,
    /// How long to wait for all of them.
    pub timeout: Duration,
}

impl Asking<'_> {
    /// A round of the named nodes among each other; of all if none are named.
    ///
    /// # Errors
    /// Intent or the key cannot be read, or a name is none of the cluster's.
    pub async fn snapshot(&self, nodes: &[String]) -> Result<ClusterSnapshot, Failure> {
        let cluster = config::load(&config::intent_source(self.intent, Scope::Cluster).await?).await?;
        let wanted = wanted(&cluster, nodes)?;
        let keyring = config::read_keys(self.key_file)?;
        let client = Client::new(keyring.signing(), config::open_netns(self.netns)?);
        let mut targets = targets(&cluster, &wanted, self.port);
        if !wanted.is_empty() {
            targets.retain(|target| wanted.contains(&target.node));
            for target in &mut targets {
                target.peers.clone_from(&wanted);
            }
        }
        Ok(ClusterSnapshot::new(
            Policy::default(),
            rounds(&client, targets, self.timeout).await,
        ))
    }
}

/// Asks all of them. Every one has an entry in the answer.
pub async fn rounds(client: &Client, targets: Vec<Target>, timeout: Duration) -> BTreeMap<NodeName, Evidence<NodeSnapshot>> {
    // indicatif draws on stderr, and only on a terminal.
    let bar = ProgressBar::new(targets.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len} nodes, {elapsed}: {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    let mut waiting: BTreeSet<NodeName> = targets.iter().map(|target| target.node.clone()).collect();
    let mut rounds: FuturesUnordered<_> = targets.into_iter().map(|target| one(client, target, timeout)).collect();
    let mut done = BTreeMap::new();
    bar.set_message(waiting_for(&waiting));
    while let Some((node, snapshot)) = rounds.next().await {
        waiting.remove(&node);
        done.insert(node, snapshot);
        bar.inc(1);
        bar.set_message(waiting_for(&waiting));
    }
    bar.finish_and_clear();
    done
}

fn waiting_for(nodes: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = nodes.iter().take(3).map(NodeName::as_str).collect();
    let more = if nodes.len() > names.len() { ", …" } else { "" };
    format!("waiting for {}{more}", names.join(", "))
}

async fn one(client: &Client, target: Target, timeout: Duration) -> (NodeName, Evidence<NodeSnapshot>) {
    let unavailable = |why: String| Evidence::unavailable(format!("agent/{}", target.node), why);
    let address = match &target.address {
        Ok(address) => *address,
        Err(why) => return (target.node.clone(), unavailable(why.clone())),
    };
    let began_ns = clock::monotonic_ns();
    let spent = || Duration::from_nanos(clock::monotonic_ns().saturating_sub(began_ns));
    let mut broken = 0;
    let evidence = loop {
        let patience = timeout.saturating_sub(spent());
        let request = RoundRequest {
            targets: target.peers.clone(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        let error = match client.post::<NodeSnapshot>(address, ROUND, &request, patience).await {
            Ok(answer) => break Evidence::complete(answer.value),
            Err(error) => error,
        };
        let again = match &error {
            // Not ready yet, or busy with a round that somebody else asked for.
            AskError::Refused { status: 503 | 409, .. } => true,
            AskError::NoAgent { .. } => spent() < NO_AGENT_PATIENCE,
            AskError::Broken { .. } | AskError::Silent { .. } | AskError::Unreachable { .. } => {
                broken += 1;
                broken <= BROKEN_MAX
            }
            _ => false,
        };
        if !again || spent() + PAUSE >= timeout {
            break unavailable(one_line(&error));
        }
        tracing::info!(node = %target.node, %error, "asking again");
        tokio::time::sleep(PAUSE).await;
    };
    (target.node.clone(), evidence)
}
