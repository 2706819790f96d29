//! All objects of a cluster, indexed, and from them one node's intent.
//!
//! [`Cluster::compile`] takes a whole set of objects, [`Cluster::apply`] one change; either way the state is the same. What a change means
//! for one node's [`NodeIntent`](super::NodeIntent) is an [`Effects`], and [`Cluster::refresh`] brings that intent up to date by it without
//! computing the rest again: a cluster of 5,000 nodes sees changes all the time, and nearly none concerns this node.
//!
//! | file | what |
//! |---|---|
//! | `facts` | what is kept of each object |
//! | `index` | who claims which prefix, which pods hold which address |
//! | `settings` | Felix's settings on one node |
//! | `routes`, `node` | one node's intent, in full |
//! | `refresh` | the same, after a change |
//! | `contradictions` | where the objects contradict each other |
//! | `owners` | whether Felix and BIRD agree on who programs routes |
//! | `effects` | what a change touches |
//! | `lookup` | who is meant by a name or an address |

mod contradictions;
mod effects;
mod facts;
mod index;
mod lookup;
mod node;
mod owners;
mod refresh;
mod routes;
mod settings;
mod tunnel_settings;

pub use effects::Effects;
pub use lookup::Located;

use super::{
    node::{Contradiction, LeftOut},
    objects::{BgpConfiguration, Change, ClusterInformation, ConfigMap, Container, FelixConfiguration, Object, ObjectKey, Objects},
};
use crate::{
    evidence::Gap,
    names::{NodeName, PodRef, UnixNs},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use contradictions::Subject;
use core::net::IpAddr;
use facts::{AffinityFacts, AgentPod, BlockFacts, CALICO_NODE, Family, NodeFacts, PodFacts, PoolFacts};
use index::{Claim, Holders};
use ipnet::IpNet;

/// A node that is not among the Node objects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is not among the Node objects ({known}): use the name that `kubectl get nodes` prints")]
pub struct UnknownNode {
    /// The node.
    pub node: NodeName,
    /// Some that are.
    pub known: String,
}

/// All objects of a cluster, indexed.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    generation: u64,
    read_at: UnixNs,
    gaps: Vec<Gap>,

    nodes: BTreeMap<NodeName, NodeFacts>,
    pools: BTreeMap<String, PoolFacts>,
    blocks: BTreeMap<String, BlockFacts>,
    affinities: BTreeMap<String, AffinityFacts>,
    felix: BTreeMap<String, FelixConfiguration>,
    bgp: BTreeMap<String, BgpConfiguration>,
    information: Option<ClusterInformation>,
    config_maps: BTreeMap<(String, String), ConfigMap>,
    daemon_sets: BTreeMap<String, Container>,
    agents: BTreeMap<PodRef, AgentPod>,
    pods: BTreeMap<Arc<PodRef>, PodFacts>,
    left_out: BTreeMap<PodRef, (NodeName, LeftOut)>,

    // Indexes over the above.
    agents_by_node: BTreeMap<NodeName, BTreeSet<PodRef>>,
    pods_by_node: BTreeMap<NodeName, BTreeSet<Arc<PodRef>>>,
    pods_by_ip: BTreeMap<IpAddr, Holders>,
    nodes_by_host: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    nodes_by_tunnel: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    blocks_by_cidr: BTreeMap<IpNet, BTreeSet<String>>,
    block_lengths: BTreeMap<(Family, u8), usize>,
    claims: BTreeMap<IpNet, BTreeSet<Claim>>,
    nets_by_node: BTreeMap<NodeName, BTreeMap<IpNet, usize>>,
    unreadable: BTreeSet<NodeName>,
    tunnel_settings: tunnel_settings::TunnelSettings,
    contradictions: BTreeMap<Subject, Contradiction>,
}

impl Cluster {
    /// Indexes a set of objects. What the source could not read comes along in [`Objects::gaps`].
    pub fn compile(mut objects: Objects) -> Self {
        let mut cluster = Self {
            generation: 1,
            read_at: objects.read_at,
            gaps: core::mem::take(&mut objects.gaps),
            ..Self::default()
        };
        // One allocation for what is nearly all pods; growing it step by step would copy them all several times.
        let mut pods = Vec::with_capacity(objects.len());
        for object in objects.into_objects() {
            match object {
                // Nearly all objects are pods; their indexes are built at once.
                Object::Pod(pod) => {
                    cluster.note_left_out(&pod);
                    if let Some(agent) = AgentPod::of(&pod) {
                        cluster.set_agent(&facts::pod_ref(&pod), Some(agent), &mut Effects::default());
                    }
                    if let Some(facts) = PodFacts::of(&pod) {
                        let key = PodRef::new(pod.metadata.namespace, pod.metadata.name);
                        pods.push((Arc::new(key), facts));
                    }
                }
                other => cluster.set(other, &mut Effects::default()),
            }
        }
        cluster.load_pods(pods);
        cluster.find_all_contradictions();
        cluster
    }

    /// Takes another full set of objects in place of this one, as its successor: the generation rises if anything differs.
    pub fn replace(&mut self, objects: Objects) {
        let generation = self.generation + 1;
        *self = Self::compile(objects);
        self.generation = generation;
    }

    /// Applies one change, and says what it touches. A change that concerns no node's intent (a Pod's heartbeat) touches nothing and
    /// leaves the generation as it is.
    pub fn apply(&mut self, change: Change, at: UnixNs) -> Effects {
        let mut effects = Effects::default();
        match change {
            Change::Upsert(object) => self.set(object, &mut effects),
            Change::Delete(key) => self.remove(&key, &mut effects),
        }
        self.settle(&mut effects);
        self.read_at = at;
        if !effects.is_empty() {
            self.generation += 1;
        }
        effects
    }

    /// Rises with every change of intent.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Every node, in order of name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// What the source could not read.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The calico-node pod that speaks for a node: of several (a rollout) one that is not terminating, the newest, the first by name.
    fn agent_of(&self, node: &NodeName) -> Option<(&PodRef, &AgentPod)> {
        let of_node = self.agents_by_node.get(node)?;
        of_node
            .iter()
            .filter_map(|key| self.agents.get_key_value(key))
            .min_by_key(|(key, pod)| (pod.terminating, core::cmp::Reverse(pod.created), *key))
    }

    /// The calico-node DaemonSet: its namespace and Felix's container.
    fn daemon_set(&self) -> Option<(&str, &Container)> {
        self.daemon_sets.iter().next().map(|(namespace, c)| (namespace.as_str(), c))
    }

    /// Pods about whose network nothing is said, each with its node (empty while it has none) and the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (&PodRef, &NodeName, LeftOut)> {
        self.left_out.iter().map(|(pod, (node, why))| (pod, node, *why))
    }

    fn note_left_out(&mut self, pod: &super::objects::Pod) {
        let key = facts::pod_ref(pod);
        match facts::left_out(pod) {
            Some(why) => self.left_out.insert(key, (NodeName(pod.spec.node_name.clone()), why)),
            None => self.left_out.remove(&key),
        };
    }

    fn set(&mut self, object: Object, effects: &mut Effects) {
        match object {
            Object::Node(node) => {
                let name = NodeName(node.metadata.name.clone());
                let facts = NodeFacts::of(&name, &node);
                self.set_node(name, Some(facts), effects);
            }
            Object::Pod(pod) => {
                let key = facts::pod_ref(&pod);
                self.note_left_out(&pod);
                self.set_agent(&key, AgentPod::of(&pod), effects);
                self.set_pod(key, PodFacts::of(&pod), effects);
            }
            Object::IpPool(pool) => {
                let facts = PoolFacts::of(&pool);
                if self.pools.get(&pool.metadata.name) != Some(&facts) {
                    self.pools.insert(pool.metadata.name, facts);
                    effects.everyone = true;
                }
            }
            Object::IpamBlock(block) => {
                let facts = (!block.spec.deleted).then(|| BlockFacts::of(&block));
                self.set_block(block.metadata.name, facts, effects);
            }
            Object::BlockAffinity(affinity) => {
                let facts = AffinityFacts::of(&affinity);
                self.set_affinity(affinity.metadata.name, facts, effects);
            }
            Object::FelixConfiguration(felix) => {
                let name = felix.metadata.name.clone();
                let same = self.felix.get(&name).is_some_and(|held| held.spec == felix.spec);
                self.felix.insert(name.clone(), felix);
                if !same {
                    effects.configuration(&name);
                }
            }
            Object::BgpConfiguration(bgp) => {
                let name = bgp.metadata.name.clone();
                let same = self.bgp.get(&name).is_some_and(|held| held.spec == bgp.spec);
                self.bgp.insert(name.clone(), bgp);
                if !same {
                    effects.configuration(&name);
                }
            }
            Object::ClusterInformation(information) => {
                let same = self.information.as_ref().is_some_and(|held| held.spec == information.spec);
                self.information = Some(information);
                effects.everyone |= !same;
            }
            Object::ConfigMap(map) => {
                if facts::is_calico_namespace(&map.metadata.namespace) {
                    let key = (map.metadata.namespace.clone(), map.metadata.name.clone());
                    let same = self.config_maps.get(&key).is_some_and(|held| held.data == map.data);
                    self.config_maps.insert(key, map);
                    effects.everyone |= !same;
                }
            }
            Object::DaemonSet(set) => {
                if set.metadata.name == CALICO_NODE && facts::is_calico_namespace(&set.metadata.namespace) {
                    let container = facts::felix_container(&set.spec.template.spec).cloned().unwrap_or_default();
                    let same = self.daemon_sets.get(&set.metadata.namespace) == Some(&container);
                    self.daemon_sets.insert(set.metadata.namespace, container);
                    effects.everyone |= !same;
                }
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, effects: &mut Effects) {
        use super::objects::Kind;
        match key.kind {
            Kind::Node => self.set_node(NodeName(key.name.clone()), None, effects),
            Kind::Pod => {
                let pod = PodRef::new(key.namespace.as_str(), key.name.as_str());
                self.left_out.remove(&pod);
                self.set_agent(&pod, None, effects);
                self.set_pod(pod, None, effects);
            }
            Kind::IpPool => effects.everyone |= self.pools.remove(&key.name).is_some(),
            Kind::IpamBlock => self.set_block(key.name.clone(), None, effects),
            Kind::BlockAffinity => self.set_affinity(key.name.clone(), None, effects),
            Kind::FelixConfiguration => {
                if self.felix.remove(&key.name).is_some() {
                    effects.configuration(&key.name);
                }
            }
            Kind::BgpConfiguration => {
                if self.bgp.remove(&key.name).is_some() {
                    effects.configuration(&key.name);
                }
            }
            Kind::ClusterInformation => effects.everyone |= self.information.take().is_some(),
            Kind::ConfigMap => {
                let held = self.config_maps.remove(&(key.namespace.clone(), key.name.clone()));
                effects.everyone |= held.is_some();
            }
            Kind::DaemonSet => {
                if key.name == CALICO_NODE {
                    effects.everyone |= self.daemon_sets.remove(&key.namespace).is_some();
                }
            }
        }
    }
}
