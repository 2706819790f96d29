//! What a verifier must say about a fault, in the words of its JSON report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Cast;
use crate::fabric::{Node, Pod};

/// A cause's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// objects contradict each other
    Datastore,
    /// the kernel was not told
    NotProgrammed,
    /// the kernel was told and packets do not pass
    NotForwarded,
    /// no fault at all
    None,
}

/// Under whom the cause must stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// this node
    Node(String),
    /// this pod of this node
    Pod {
        /// `namespace/name`
        pod: String,
        /// its node
        node: String,
    },
    /// the network between two nodes: either may be named, or the cluster
    Between(String, String),
    /// every node, each with a cause of its own
    EachNode,
    /// the cluster's objects; a node may be named, but need not
    Cluster,
    /// nobody
    Nobody,
}

/// Where the packet was seen last and where it was missed first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// acceptable last points
    pub hops: Vec<String>,
    /// acceptable first points missing
    pub expected_next: Vec<String>,
}

/// A node's or the cluster's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// all passes
    Forwarding,
    /// something fails
    Degraded,
    /// in one direction everything fails
    NotForwarding,
    /// could not be verified
    Unknown,
}

/// A pod's verdict. Pods that are not named must be fresh, or unknown where their node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// runs without a network
    Stale,
    /// a policy denies the probe
    PolicyBlocked,
    /// nothing reaches it, through no fault of its own
    Unknown,
    /// fresh as long as its neighbour table is warm, else unknown
    FreshOrUnknown,
}

/// What is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// the one root cause; none where a report without causes is right
    pub code: Option<String>,
    /// its class
    pub class: Class,
    /// under whom it stands
    pub blame: Blame,
    /// where; none where nothing is sent, or where it does not matter
    pub place: Option<Place>,
    /// acceptable verdicts of each node
    pub verdicts: BTreeMap<String, Vec<Verdict>>,
    /// pods that are not fresh
    pub pods: BTreeMap<String, PodState>,
    /// nothing fails yet: a warning, and every verdict stays forwarding
    pub warning_only: bool,
    /// words that must stand in the cause's subject or evidence
    pub mentions: Vec<String>,
}

impl Expectation {
    /// One cause; all nodes forwarding until said otherwise.
    #[must_use]
    pub fn cause(cast: &Cast<'_>, code: &str, class: Class, blame: Blame) -> Self {
        let verdicts = cast
            .fabric
            .nodes()
            .iter()
            .map(|node| (node.name.clone(), vec![Verdict::Forwarding]))
            .collect();
        Self {
            code: Some(code.to_owned()),
            class,
            blame,
            place: None,
            verdicts,
            pods: BTreeMap::new(),
            warning_only: false,
            mentions: Vec::new(),
        }
    }

    /// A cause under a node whose verdict is one of those.
    #[must_use]
    pub fn node(cast: &Cast<'_>, code: &str, class: Class, node: &Node, verdicts: &[Verdict]) -> Self {
        Self::cause(cast, code, class, Blame::Node(node.name.clone())).verdict(node, verdicts)
    }

    /// A cause that makes a pod stale and leaves every node's verdict alone.
    #[must_use]
    pub fn stale(cast: &Cast<'_>, code: &str, pod: &Pod) -> Self {
        let blame = Blame::Pod {
            pod: pod.key(),
            node: cast.fabric.nodes()[pod.node].name.clone(),
        };
        let mut expectation = Self::cause(cast, code, Class::NotProgrammed, blame);
        expectation.pods.insert(pod.key(), PodState::Stale);
        expectation
    }

    /// Acceptable verdicts of a node.
    #[must_use]
    pub fn verdict(mut self, node: &Node, verdicts: &[Verdict]) -> Self {
        self.verdicts.insert(node.name.clone(), verdicts.to_vec());
        self
    }

    /// Where.
    #[must_use]
    pub fn at(mut self, hops: Vec<String>, expected_next: Vec<String>) -> Self {
        self.place = Some(Place { hops, expected_next });
        self
    }

    /// A word that must be in the evidence.
    #[must_use]
    pub fn mentioning(mut self, word: &str) -> Self {
        self.mentions.push(word.to_owned());
        self
    }

    /// A pod that is not fresh.
    #[must_use]
    pub fn pod(mut self, pod: &Pod, state: PodState) -> Self {
        self.pods.insert(pod.key(), state);
        self
    }

    /// Nothing fails yet.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.warning_only = true;
        self
    }
}
