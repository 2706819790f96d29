//! The report as those read it who were promised `"schema": "dataplane-verifier/v1"`: its own types, written from the
//! promise and not from the verifier's code, so that a field that changes or disappears is noticed here.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The schema's name.
const SCHEMA: &str = "dataplane-verifier/v1";

/// One report.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Report {
    pub schema: String,
    pub verdict: String,
    pub causes: Vec<Cause>,
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    pub loss: Value,
    pub unknown: Vec<Unknown>,
}

/// One node in it.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Node {
    pub name: String,
    pub claimed: Claimed,
    pub verdict: String,
    pub causes: Vec<Cause>,
}

/// What the cluster claims of a node.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Claimed {
    pub ready: Option<bool>,
    pub calico_node: Option<String>,
    pub restarts: Option<u32>,
}

/// One pod in it.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub ip: Option<String>,
    pub verdict: String,
    pub causes: Vec<Cause>,
    pub controller: Option<String>,
    pub safe_to_delete: bool,
}

/// One cause, wherever it stands.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Cause {
    pub code: String,
    pub class: String,
    pub severity: String,
    pub node: Option<String>,
    pub peer: Option<String>,
    pub hop: Option<String>,
    pub expected_next: Option<String>,
    pub subject: Value,
    pub evidence: Evidence,
    pub consequences: Vec<Value>,
    pub chain: Option<String>,
    pub remedy: String,
    pub persist: Option<String>,
    pub calico_repairs: Value,
    pub since: Option<String>,
}

/// What each account says.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Evidence {
    pub intent: Option<String>,
    pub programmed: Option<String>,
    pub observed: Option<String>,
    pub host: Option<String>,
}

/// A check that could not be made.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the schema's, and documented with it")]
pub struct Unknown {
    pub check: String,
    pub why: String,
}

/// Whom a cause is said of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blamed {
    /// Nobody in particular.
    Cluster,
    /// A node.
    Node(String),
    /// A pod, `namespace/name`.
    Pod(String),
}

impl fmt::Display for Blamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Node(name) | Self::Pod(name) => f.write_str(name),
        }
    }
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// A promised field is missing or of another kind.
    pub fn read(value: Value) -> Result<Self> {
        let report: Self = serde_json::from_value(value).context("the report is not what the schema promises")?;
        ensure!(
            report.schema == SCHEMA,
            "the report's schema is {:?}, not {SCHEMA:?}",
            report.schema
        );
        Ok(report)
    }

    /// Every root with whom it blames, in the order of the report. What is of class `none` (a policy that denies) explains
    /// a pod's verdict and is no fault.
    #[must_use]
    pub fn roots(&self) -> Vec<(Blamed, &Cause)> {
        let cluster = self.causes.iter().map(|cause| (Blamed::Cluster, cause));
        let nodes = self
            .nodes
            .iter()
            .flat_map(|node| node.causes.iter().map(|cause| (Blamed::Node(node.name.clone()), cause)));
        let pods = self
            .pods
            .iter()
            .flat_map(|pod| pod.causes.iter().map(|cause| (Blamed::Pod(pod.key()), cause)));
        cluster
            .chain(nodes)
            .chain(pods)
            .filter(|(_, cause)| cause.class != "none")
            .collect()
    }

    /// What speaks against a clean bill of health; nothing on a healthy fabric. A check that could not be made is no finding.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .roots()
            .iter()
            .map(|(blamed, cause)| format!("{} blamed on {blamed}", cause.code))
            .collect();
        if self.verdict != "forwarding" {
            found.push(format!("the verdict is {}", self.verdict));
        }
        found.extend(
            self.nodes
                .iter()
                .filter(|node| node.verdict != "forwarding")
                .map(|node| format!("{} is {}", node.name, node.verdict)),
        );
        found.extend(
            self.pods
                .iter()
                .filter(|pod| pod.verdict != "fresh")
                .map(|pod| format!("{} is {}", pod.key(), pod.verdict)),
        );
        found
    }
}

/// Who is to blame, for a person: a cause of the cluster that names two nodes is one of the network between them.
#[must_use]
pub fn culprit(blamed: &Blamed, cause: &Cause) -> String {
    match (blamed, &cause.node, &cause.peer) {
        (Blamed::Cluster, Some(node), Some(peer)) => format!("the network, {node} to {peer}"),
        _ => blamed.to_string(),
    }
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
