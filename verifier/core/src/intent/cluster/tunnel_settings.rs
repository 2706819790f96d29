//! Whether the nodes agree on the VNI and the UDP port of their VXLAN tunnels.
//!
//! A node may have its own, by a FelixConfiguration `node.NAME` or by its calico-node's environment. Felix builds the device by them without a
//! word, and no other node can then talk to it: VXLAN knows one VNI per device and one port per tunnel (drivers/net/vxlan). What most nodes have
//! is taken for right.

use super::{
    Cluster,
    contradictions::Subject,
    facts::Family,
    settings::{vxlan_port, vxlan_vni},
};
use crate::{
    intent::{
        node::{Contradiction, Encapsulation},
        parameters::Parameters,
    },
    names::NodeName,
    verdict::CauseCode,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// VNI and port.
type Pair = (u32, u16);

/// What each node with a VXLAN tunnel has, and who has it.
#[derive(Clone, Debug, Default)]
pub(super) struct TunnelSettings {
    by_node: BTreeMap<NodeName, Pair>,
    nodes: BTreeMap<Pair, BTreeSet<NodeName>>,
}

impl TunnelSettings {
    fn set(&mut self, node: &NodeName, new: Option<Pair>) {
        if self.by_node.get(node).copied() == new {
            return;
        }
        if let Some(old) = self.by_node.remove(node)
            && let Some(holders) = self.nodes.get_mut(&old)
        {
            holders.remove(node);
            if holders.is_empty() {
                self.nodes.remove(&old);
            }
        }
        if let Some(new) = new {
            self.by_node.insert(node.clone(), new);
            self.nodes.entry(new).or_default().insert(node.clone());
        }
    }

    /// What most nodes have. Where two have it equally often nobody is right by number, and the smaller is taken.
    fn usual(&self) -> Option<(&Pair, &BTreeSet<NodeName>)> {
        self.nodes
            .iter()
            .max_by_key(|(pair, nodes)| (nodes.len(), core::cmp::Reverse(**pair)))
    }
}

impl Cluster {
    /// Takes note of what these nodes have; of all where none are named. Returns the nodes that must be looked at again.
    pub(super) fn note_tunnel_settings(&mut self, of: Option<&BTreeSet<NodeName>>) -> Vec<Subject> {
        let known = self
            .contradictions
            .keys()
            .filter(|s| matches!(s, Subject::TunnelSettings(_)))
            .cloned();
        let mut subjects: Vec<Subject> = known.collect();
        let names: Vec<NodeName> = match of {
            Some(some) => some.iter().cloned().collect(),
            None => {
                self.tunnel_settings = TunnelSettings::default();
                self.nodes.keys().cloned().collect()
            }
        };
        for name in names {
            let pair = self.tunnel_settings_of(&name);
            self.tunnel_settings.set(&name, pair);
        }
        let usual = self.tunnel_settings.usual().map(|(pair, _)| *pair);
        let others = self.tunnel_settings.nodes.iter().filter(|(pair, _)| Some(**pair) != usual);
        subjects.extend(others.flat_map(|(_, nodes)| nodes.iter().cloned().map(Subject::TunnelSettings)));
        subjects
    }

    /// None where the node has no VXLAN tunnel, or its settings are not known.
    fn tunnel_settings_of(&self, name: &NodeName) -> Option<Pair> {
        let facts = self.nodes.get(name)?;
        let mut pools = self.pools.values();
        if !pools.any(|pool| pool.encapsulation == Encapsulation::Vxlan)
            || [Family::V4, Family::V6].iter().all(|f| facts.vtep(*f).is_none())
        {
            return None;
        }
        let agent = self.agent_of(name).map(|(_, pod)| pod);
        if agent.is_none() && self.daemon_set().is_none() {
            // Its environment outranks every object, and nobody told it: a pod that is being made anew would make its node the odd one.
            return None;
        }
        let environment = self.environment(name, agent);
        let own = format!("node.{name}");
        let parameters = Parameters {
            environment: &environment,
            node: self.felix.get(&own),
            default: self.felix.get("default"),
        };
        Some((*vxlan_vni(&parameters).value()?, *vxlan_port(&parameters).value()?))
    }

    /// The contradiction of a node whose tunnel is not like most others'.
    pub(super) fn tunnel_settings_conflict(&self, name: &NodeName) -> Option<Contradiction> {
        let own = self.tunnel_settings.by_node.get(name)?;
        let (usual, others) = self.tunnel_settings.usual()?;
        if own == usual {
            return None;
        }
        let one = others.first()?;
        let more = match others.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let text = |(vni, port): &Pair| format!("VNI {vni} and UDP port {port}");
        Some(Contradiction {
            code: CauseCode::TunnelSettingsConflict,
            node: Some(name.clone()),
            pods: Vec::new(),
            subject: name.to_string(),
            evidence: format!("{name} is to have {}, {one}{more} {}", text(own), text(usual)),
        })
    }
}
