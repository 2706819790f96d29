//! The continuous verdict: what all agents say at this moment, judged together.
//!
//! Detection time is measured on it, from outside, as a dashboard would see it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use verifier::agent::api::{REPORT, ReportAnswer};
use verifier::agent::client::Client;
use verifier::agent::keys::Keyring;
use verifier::programmed::netns::Netns as Visited;
use verifier_core::evidence::Evidence;
use verifier_core::names::NodeName;
use verifier_core::verdict::{ClusterReport, NodeReport, Policy, Verdict, judge_cluster};

use super::Files;
use super::agents::PORT;
use crate::fabric::Fabric;

/// How often the agents are asked. Small against what is measured, and far from what an agent would refuse.
const POLL: Duration = Duration::from_millis(10);

/// How long one agent may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks the agents of a fabric for their reports.
#[derive(Debug)]
pub struct Watch {
    runtime: Runtime,
    client: Client,
    agents: BTreeMap<String, Ipv4Addr>,
    policy: Policy,
}

impl Watch {
    /// Over the underlay, from the switch, which no fault of a node touches.
    ///
    /// # Errors
    /// No key, or no fabric.
    pub fn new(fabric: &Fabric, files: &Files) -> Result<Self> {
        Self::with_key(fabric, &files.key())
    }

    /// The same, with the key of another file.
    ///
    /// # Errors
    /// No key, or no fabric.
    pub fn with_key(fabric: &Fabric, key: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting a runtime")?;
        let keyring = Keyring::read(key).context("reading the key")?;
        let switch = Visited::open(fabric.switch_netns()?.path()).context("opening the switch's namespace")?;
        Ok(Self {
            runtime,
            client: Client::new(keyring.signing(), Arc::new(switch)),
            agents: fabric.nodes().iter().map(|node| (node.name.clone(), node.host_ip)).collect(),
            // The continuous verdict holds back what may still be a transient. Here the question is when it was first seen.
            policy: Policy::default(),
        })
    }

    /// What the agents say now. An agent that does not answer is part of the answer.
    #[must_use]
    pub fn now(&self) -> ClusterReport {
        judge_cluster(&self.reports(), &self.policy)
    }

    /// The reports that the verdict is made of.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<NodeName, Evidence<NodeReport>> {
        self.runtime.block_on(async {
            let asked = self.agents.iter().map(|(node, address)| async move {
                let address = SocketAddr::from((*address, PORT));
                let report = match self.client.get::<ReportAnswer>(address, REPORT, PATIENCE).await {
                    Ok(answer) => answer.value.report,
                    Err(error) => Evidence::unavailable(format!("agent/{node}"), error.to_string()),
                };
                (NodeName::from(node.as_str()), report)
            });
            futures_util::future::join_all(asked).await.into_iter().collect()
        })
    }

    /// Waits until the verdict satisfies a condition; the time it took since `since`, or none if it never did.
    pub fn wait_for(&self, since: Instant, deadline: Duration, mut wanted: impl FnMut(&ClusterReport) -> bool) -> Option<Duration> {
        loop {
            if wanted(&self.now()) {
                return Some(since.elapsed());
            }
            if since.elapsed() > deadline {
                return None;
            }
            sleep(POLL);
        }
    }
}

/// Whether a verdict is about all nodes, and nothing is wrong with any.
#[must_use]
pub fn is_healthy(report: &ClusterReport) -> bool {
    let quiet = report.causes.is_empty() && report.nodes.iter().all(|node| node.causes.is_empty());
    quiet && !report.nodes.is_empty() && report.nodes.iter().all(|node| node.verdict == Verdict::Forwarding)
}
