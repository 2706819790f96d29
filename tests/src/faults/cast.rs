//! Who plays which part in a fault: two nodes, a third one, their first pods.

use anyhow::{Context, Result};

use super::{Outcome, Step, Undo};
use crate::{
    fabric::{
        Fabric, Node, Pod,
        plan::{NodeV6, TUNNEL_DEVICE, TUNNEL_DEVICE_V6, UNDERLAY_DEVICE},
    },
    nl::Rtnl,
};

/// The parts. `a` and `b` are the first two nodes, `c` is the last one (which is `b` when there
/// are only two).
#[derive(Debug)]
pub struct Cast<'f> {
    /// the fabric
    pub fabric: &'f Fabric,
    /// the node on whose way to `b` things go wrong
    pub a: &'f Node,
    /// the node that is wrong in itself
    pub b: &'f Node,
    /// a third node
    pub c: &'f Node,
    /// first pod of `a`
    pub pod_a: Pod,
    /// first pod of `b`
    pub pod_b: Pod,
}

impl<'f> Cast<'f> {
    /// Chooses them.
    pub fn of(fabric: &'f Fabric) -> Result<Self> {
        let nodes = fabric.nodes();
        let (a, b, c) = match nodes {
            [a, b, ..] => (a, b, nodes.last().unwrap_or(b)),
            _ => anyhow::bail!("a fault needs two nodes"),
        };
        let pods = fabric.pods();
        let first = |node: &Node| {
            pods.iter()
                .find(|pod| pod.node == node.index)
                .cloned()
                .with_context(|| format!("{} has no pod", node.name))
        };
        Ok(Self {
            pod_a: first(a)?,
            pod_b: first(b)?,
            fabric,
            a,
            b,
            c,
        })
    }

    /// What a node has of IPv6.
    ///
    /// # Errors
    /// The fabric has none.
    pub fn v6(node: &Node) -> Result<&NodeV6> {
        node.v6.as_ref().with_context(|| format!("{} has no IPv6", node.name))
    }

    /// Whether there is a third node.
    #[must_use]
    pub fn has_third(&self) -> bool {
        self.c.index != self.b.index
    }

    /// Runs `work` with a netlink client inside a node.
    pub fn on<T: Send>(&self, node: &Node, work: impl FnOnce(&mut Rtnl) -> Result<T> + Send) -> Result<T> {
        self.fabric.node_netns(node)?.run(|| work(&mut Rtnl::open()?))
    }

    /// Runs `work` with a netlink client inside a pod.
    pub fn inside<T: Send>(&self, pod: &Pod, work: impl FnOnce(&mut Rtnl) -> Result<T> + Send) -> Result<T> {
        self.fabric.pod_netns(pod)?.run(|| work(&mut Rtnl::open()?))
    }

    /// Runs `work` with a netlink client inside the switch.
    pub fn on_switch<T: Send>(&self, work: impl FnOnce(&mut Rtnl) -> Result<T> + Send) -> Result<T> {
        self.fabric.switch_netns()?.run(|| work(&mut Rtnl::open()?))
    }

    /// Other nodes than `node`, by name.
    #[must_use]
    pub fn others(&self, node: &Node) -> Vec<String> {
        self.fabric
            .nodes()
            .iter()
            .filter(|other| other.index != node.index)
            .map(|other| other.name.clone())
            .collect()
    }

    /// Pods of a node.
    #[must_use]
    pub fn pods_of(&self, node: &Node) -> Vec<Pod> {
        self.fabric.pods().into_iter().filter(|pod| pod.node == node.index).collect()
    }
}

/// `NODE/eth0/DIRECTION`
#[must_use]
pub fn underlay(node: &Node, direction: &str) -> String {
    format!("{}/{UNDERLAY_DEVICE}/{direction}", node.name)
}

/// `NODE/vxlan.calico/DIRECTION`
#[must_use]
pub fn tunnel(node: &Node, direction: &str) -> String {
    format!("{}/{TUNNEL_DEVICE}/{direction}", node.name)
}

/// `NODE/vxlan-v6.calico/DIRECTION`
#[must_use]
pub fn tunnel_v6(node: &Node, direction: &str) -> String {
    format!("{}/{TUNNEL_DEVICE_V6}/{direction}", node.name)
}

/// `NODE/caliXXXXXXXXXXX/DIRECTION` of every pod of the node.
#[must_use]
pub fn workloads(cast: &Cast<'_>, node: &Node, direction: &str) -> Vec<String> {
    cast.pods_of(node)
        .iter()
        .map(|pod| format!("{}/{}/{direction}", node.name, pod.host_device))
        .collect()
}

/// The usual end of an injection.
pub fn injected(steps: Vec<Step>) -> Result<Outcome> {
    Ok(Outcome::Injected(Undo { steps }))
}

/// The end of an injection that needs three nodes and has two.
pub fn needs_third() -> Result<Outcome> {
    Ok(Outcome::Skipped("it takes three nodes".to_owned()))
}
