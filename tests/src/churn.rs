//! Pods that come and go while something else is tested. Which, and in what order, follows from a
//! seed: a round that found something can be repeated.

use anyhow::Result;

use crate::fabric::{Fabric, Pod};

/// How many pods each node may have beyond those it began with.
const EXTRA_PER_NODE: usize = 3;

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// a pod came
    Added(Pod),
    /// the API says that a pod is being deleted; the next step takes its network
    Terminating(Pod),
    /// a pod went
    Removed(Pod),
}

/// The state between steps.
#[derive(Debug, Clone)]
pub struct Churn {
    seed: u64,
    going: Option<Pod>,
}

impl Churn {
    /// Begins; equal seeds make equal changes on equal fabrics.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self {
            seed: seed.max(1),
            going: None,
        }
    }

    /// xorshift64 (Marsaglia): good enough to choose a pod.
    fn below(&mut self, limit: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % (limit.max(1) as u64)).unwrap_or(0)
    }

    /// Adds a pod somewhere, or begins to delete one that an earlier step added, or takes away the network of one whose
    /// deletion has begun: a kubelet lets a pod's containers end before that. The pods a fabric began with stay.
    pub fn step(&mut self, fabric: &Fabric) -> Result<Change> {
        if let Some(pod) = self.going.take() {
            fabric.remove_pod(&pod)?;
            return Ok(Change::Removed(pod));
        }
        let began_with = fabric.spec().pods_per_node;
        let extra: Vec<Pod> = fabric.pods().into_iter().filter(|pod| pod.number > began_with).collect();
        let nodes = fabric.nodes();
        let node = &nodes[self.below(nodes.len())];
        let full = extra.iter().filter(|pod| pod.node == node.index).count() >= EXTRA_PER_NODE;
        let remove = !extra.is_empty() && (full || self.below(2) == 0);
        if remove {
            let pod = extra[self.below(extra.len())].clone();
            fabric.terminate_pod(&pod)?;
            self.going = Some(pod.clone());
            Ok(Change::Terminating(pod))
        } else {
            Ok(Change::Added(fabric.add_pod(node)?))
        }
    }

    /// Removes every pod that steps have added.
    pub fn finish(&mut self, fabric: &Fabric) -> Result<()> {
        self.going = None;
        for pod in fabric.pods() {
            if pod.number > fabric.spec().pods_per_node {
                fabric.remove_pod(&pod)?;
            }
        }
        Ok(())
    }
}
