//! Asking every node's agent for a round, all at once, with one deadline.

use crate::{
    agent::{
        api::{ROUND, RoundRequest},
        client::{AskError, Client},
        peers::one_line,
    },
    clock,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use verifier_core::{evidence::Evidence, names::NodeName, verdict::NodeSnapshot};

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
