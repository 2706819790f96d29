//! The file of `--snapshot-out`: everything a verdict was made from. `replay` makes the same verdict from it again.

use super::archive;
use crate::command::Failure;
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};
use verifier_core::{
    evidence::Evidence,
    names::NodeName,
    verdict::{ClusterReport, NodeSnapshot, Policy, judge_cluster, judge_node},
};

/// Schema of the file.
pub const SCHEMA: &str = "dataplane-verifier/cluster-snapshot/v1";
/// Schema of one node's snapshot.
pub const NODE_SCHEMA: &str = "dataplane-verifier/snapshot/v1";

/// What a verdict on a cluster is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSnapshot {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program that made it.
    pub version: String,
    /// How it was judged.
    pub policy: Policy,
    /// Every node of the expected set; one that did not answer says why.
    pub nodes: BTreeMap<NodeName, Evidence<NodeSnapshot>>,
}

impl ClusterSnapshot {
    /// A snapshot of these nodes.
    pub fn new(policy: Policy, nodes: BTreeMap<NodeName, Evidence<NodeSnapshot>>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy,
            nodes,
        }
    }

    /// The verdict: each node by itself, then all together.
    pub fn judge(&self) -> ClusterReport {
        let reports = self.nodes.iter().map(|(name, snapshot)| {
            let report = snapshot.clone().map(|snapshot| judge_node(&snapshot, &self.policy));
            (name.clone(), report)
        });
        judge_cluster(&reports.collect(), &self.policy)
    }

    /// Reads a file, or the snapshot inside an archive of `gather`; either may be compressed. One node's snapshot is taken for a cluster of which only that node was looked at.
    ///
    /// # Errors
    /// It cannot be read, or is of another schema.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let read = || Self::parse(&fs::read(path)?);
        read().map_err(|error| Failure::usage(error.context(format!("cannot replay {}", path.display()))))
    }

    /// The same of the bytes of such a file.
    ///
    /// # Errors
    /// They are none, or of another schema.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let bytes = match archive::snapshot_in(bytes).context("it is a damaged archive")? {
            Ok(snapshot) => snapshot,
            Err(plain) => plain,
        };
        let head: Head = serde_json::from_slice(&bytes).context("it is no snapshot")?;
        match head.schema.as_str() {
            SCHEMA => serde_json::from_slice(&bytes).context("it is damaged"),
            NODE_SCHEMA => {
                let node: NodeSnapshot = serde_json::from_slice(&bytes).context("it is damaged")?;
                let nodes = BTreeMap::from([(node.node.clone(), Evidence::complete(node))]);
                Ok(Self::new(Policy::default(), nodes))
            }
            other => Err(anyhow!(
                "its schema is {other:?}, this program reads {SCHEMA:?}: use the version that wrote it"
            )),
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// It cannot be written as JSON: a fault of this program.
    pub fn text(&self) -> Result<String, Failure> {
        let mut text = serde_json::to_string(self)
            .context("cannot write the snapshot")
            .map_err(Failure::internal)?;
        text.push('\n');
        Ok(text)
    }
}

#[derive(Deserialize)]
struct Head {
    schema: String,
}
