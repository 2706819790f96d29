//! A Calico-shaped cluster out of network namespaces, on the real kernel. By default its pool is VXLAN's:
//!
//! ```text
//!                    PREFIX-switch: bridge br0, 172.18.0.1 (the gateway that swallows)
//!                     |                 |                 |
//!   eth0 172.18.0.2   |       .3        |       .4        |
//!   PREFIX-node-a  ---+   PREFIX-node-b +   PREFIX-node-c +
//!   vxlan.calico, cali…       …                 …
//!     |        |
//!   PREFIX-pod-a1, PREFIX-pod-a2   (eth0 /32, gateway 169.254.1.1)
//! ```
//!
//! Other encapsulations have other tunnel devices, or none; where only traffic between subnets is encapsulated every third node is in a
//! second subnet (`br1`, 172.18.1.0/24), and the switch routes between the two.
//!
//! A fabric of both families ([`Encapsulation::is_dual_stack`]) has in addition `fd00:172:18::/64` as the underlay, `vxlan-v6.calico` with VXLAN, and
//! in each pod a `/128` with the gateway `fe80::ecee:eeff:feee:eeee`. In all others IPv6 is as the kernel has it by itself.
//!
//! [`Fabric::up`] builds it (and first removes whatever a crashed run left), [`Fabric::attach`]
//! finds one that is standing, [`Fabric::down`] removes every trace. What a fabric looks like, and
//! what the API would claim about it, is kept in a state file so that separate commands can work on
//! one fabric.

pub mod chains;
mod encapsulation;
pub mod node;
pub mod plan;
pub mod sysctl;
pub mod vtep;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use encapsulation::{Carrier, Encapsulation};
pub use plan::{FabricSpec, Node, Phase, Pod};

use crate::{
    faults::Undo,
    manifests,
    netns::{self, Netns},
    nl::{self, Rtnl},
    reach,
};

/// Where state files live unless the caller says otherwise.
const STATE_DIR: &str = "/run/verifier-fabric";

/// How often saving tries again when its directory vanishes.
const SAVE_ATTEMPTS: usize = 16;

/// How long an answer may take that only warms a table.
const WARM_TIMEOUT: Duration = Duration::from_millis(50);

/// What the API says and the kernel does not: set by faults in the datastore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// `status.podIP` of a pod (`namespace/name`)
    pub pod_ips: BTreeMap<String, Ipv4Addr>,
    /// the node in the BlockAffinity of a block
    pub affinity_nodes: BTreeMap<IpNet, String>,
    /// nodes without a tunnel address annotation
    pub without_tunnel_address: BTreeSet<String>,
    /// `programClusterRoutes` of FelixConfiguration and BGPConfiguration, which a Calico of [`Overrides::calico_version`] heeds
    #[serde(default)]
    pub program_cluster_routes: Option<(String, String)>,
    /// a node with a VNI of its own, by its FelixConfiguration
    #[serde(default)]
    pub vni_of: Option<(String, u32)>,
    /// another version of Calico than the fabric's
    #[serde(default)]
    pub calico_version: Option<String>,
}

/// Everything that separate commands must know about a standing fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// how it was built
    pub spec: FabricSpec,
    /// its nodes
    pub nodes: Vec<Node>,
    /// its pods, which may come and go
    pub pods: Vec<Pod>,
    /// how many came since it was raised
    #[serde(default)]
    pub pods_made: usize,
    /// where the API differs
    pub overrides: Overrides,
    /// where the manifests are written
    pub manifests: Option<PathBuf>,
    /// what takes out the fault that is in
    pub undo: Option<Undo>,
}

impl State {
    /// The version of Calico that the API tells.
    #[must_use]
    pub fn calico_version(&self) -> &str {
        self.overrides.calico_version.as_ref().unwrap_or(&self.spec.calico_version)
    }
}

/// A standing fabric. Dropping the value leaves it standing.
#[derive(Debug)]
pub struct Fabric {
    spec: FabricSpec,
    nodes: Vec<Node>,
    state: Mutex<State>,
    state_file: PathBuf,
    saving: Mutex<()>,
}

impl Fabric {
    /// Builds a fabric, replacing an older one with the same prefix, whole or in pieces.
    /// With `manifests`, that directory gets what `kubectl get` would print about it.
    pub fn up(spec: FabricSpec, manifests: Option<&Path>) -> Result<Self> {
        spec.check()?;
        require_root()?;
        Self::down(&spec.prefix)?;
        let fabric = Self::planned(spec)?;
        let pods = fabric.pods();
        fabric.lock().manifests = manifests.map(Path::to_owned);
        // First, so that a crash in the middle leaves something that says where manifests went.
        fabric.save()?;
        fabric.build(&pods)?;
        fabric.save()?;
        Ok(fabric)
    }

    /// The plan alone, for whoever wants to know what a fabric would be like. Nothing is built and nothing is written.
    ///
    /// # Errors
    /// There is no such fabric.
    pub fn planned(spec: FabricSpec) -> Result<Self> {
        spec.check()?;
        let nodes = spec.node_plans()?;
        let pods = spec.pod_plans(&nodes);
        Ok(Self {
            state: Mutex::new(State {
                spec: spec.clone(),
                nodes: nodes.clone(),
                pods,
                pods_made: 0,
                overrides: Overrides::default(),
                manifests: None,
                undo: None,
            }),
            state_file: state_file(&spec.prefix),
            spec,
            nodes,
            saving: Mutex::new(()),
        })
    }

    fn build(&self, pods: &[Pod]) -> Result<()> {
        self.build_switch()?;
        for node in &self.nodes {
            self.build_node(node).with_context(|| format!("build {}", node.name))?;
        }
        for node in &self.nodes {
            let netns = self.node_netns(node)?;
            netns.run(|| {
                node::program_tunnel(&self.spec, node, &self.nodes)?;
                chains::program(&self.spec, node, &self.nodes, pods)
            })?;
        }
        for pod in pods {
            self.build_pod(pod).with_context(|| format!("build {}", pod.key()))?;
        }
        Ok(())
    }

    fn build_switch(&self) -> Result<()> {
        let switch = Netns::create(&self.spec.switch_netns())?;
        switch.run(|| {
            // A gateway that swallows: it answers ARP and forwards nothing, or between the subnets only, which is all it has routes to.
            let forwards = if self.spec.encapsulation.crosses_subnets() { "1" } else { "0" };
            sysctl::set("net/ipv4/ip_forward", forwards)?;
            sysctl::set("net/ipv4/conf/all/rp_filter", "0")?;
            sysctl::set("net/ipv4/conf/default/rp_filter", "0")?;
            // The switch must switch: without this iptables would see bridged frames.
            sysctl::set_if_there("net/bridge/bridge-nf-call-iptables", "0")?;
            let dual_stack = self.spec.encapsulation.is_dual_stack();
            if dual_stack {
                sysctl::set("net/ipv6/conf/all/forwarding", "0")?;
                node::without_duplicate_detection()?;
            }
            let mut nl = Rtnl::open()?;
            nl.set_up("lo", true)?;
            for subnet in self.spec.subnets() {
                let bridge = plan::bridge(subnet);
                nl.add_bridge(&bridge, Some([0x02, 0x00, 172, 18, subnet, 1]))?;
                nl.add_address(&bridge, Ipv4Net::new(plan::gateway(subnet), plan::UNDERLAY_PREFIX_LEN)?)?;
                if dual_stack {
                    nl.add_address(&bridge, Ipv6Net::new(plan::GATEWAY_V6, plan::UNDERLAY_PREFIX_LEN_V6)?)?;
                }
                nl.set_up(&bridge, true)?;
            }
            Ok(())
        })
    }

    fn build_node(&self, node: &Node) -> Result<()> {
        let netns = Netns::create(&node.netns)?;
        netns.run(node::program_sysctls)?;
        if node.v6.is_some() {
            netns.run(node::program_sysctls_v6)?;
        }
        let file = netns.file()?;
        self.switch_netns()?.run(|| {
            let mut nl = Rtnl::open()?;
            nl.add_veth(
                (&node.switch_port, None),
                (plan::UNDERLAY_DEVICE, Some(node.underlay_mac)),
                Some(&file),
                self.spec.underlay_mtu_bytes,
            )?;
            nl.set_controller(&node.switch_port, &plan::bridge(node.subnet))?;
            nl.set_up(&node.switch_port, true)
        })?;
        netns.run(|| node::program_underlay(node))
    }

    fn build_pod(&self, pod: &Pod) -> Result<()> {
        Netns::create(&pod.netns)?;
        node::program_pod(&self.spec, &self.node_netns(&self.nodes[pod.node])?, pod)
    }

    /// Finds a fabric that is standing.
    pub fn attach(prefix: &str) -> Result<Self> {
        require_root()?;
        let state_file = state_file(prefix);
        let text = match fs::read_to_string(&state_file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no fabric with prefix {prefix:?} is standing")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", state_file.display()));
            }
        };
        let state: State = serde_json::from_str(&text).with_context(|| format!("understand {}", state_file.display()))?;
        Ok(Self {
            spec: state.spec.clone(),
            nodes: state.nodes.clone(),
            state: Mutex::new(state),
            state_file,
            saving: Mutex::new(()),
        })
    }

    /// Removes every trace of the fabric with that prefix, whole or in pieces. Nothing there is
    /// fine.
    pub fn down(prefix: &str) -> Result<()> {
        require_root()?;
        // Pods first, then nodes, then the switch: every veth goes with one of its ends.
        for kind in ["pod-", "node-", "switch"] {
            netns::delete_all(&format!("{prefix}-{kind}"))?;
        }
        let state_file = state_file(prefix);
        match fs::read_to_string(&state_file) {
            Ok(text) => {
                // A file cut short by a crash names no manifests to remove.
                if let Ok(state) = serde_json::from_str::<State>(&text)
                    && let Some(dir) = state.manifests
                {
                    manifests::remove(&dir)?;
                }
                fs::remove_file(&state_file).with_context(|| format!("remove {}", state_file.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", state_file.display()));
            }
        }
        // Goes only when no other fabric is standing.
        match fs::remove_dir(STATE_DIR) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove {STATE_DIR}")),
        }
    }

    /// How it was built.
    pub fn spec(&self) -> &FabricSpec {
        &self.spec
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| anyhow!("the fabric has no node {name}"))
    }

    /// The pods that exist now.
    pub fn pods(&self) -> Vec<Pod> {
        self.lock().pods.clone()
    }

    /// The pod of that name, in the default namespace.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pods()
            .into_iter()
            .find(|pod| pod.name == name)
            .ok_or_else(|| anyhow!("the fabric has no pod {name}"))
    }

    /// A copy of all that is known.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// The switch's namespace.
    pub fn switch_netns(&self) -> Result<Netns> {
        Netns::open(&self.spec.switch_netns())
    }

    /// A node's namespace.
    pub fn node_netns(&self, node: &Node) -> Result<Netns> {
        Netns::open(&node.netns)
    }

    /// A pod's namespace.
    pub fn pod_netns(&self, pod: &Pod) -> Result<Netns> {
        Netns::open(&pod.netns)
    }

    /// Changes what the API says, and rewrites the manifests.
    pub fn change_overrides(&self, change: impl FnOnce(&mut Overrides)) -> Result<()> {
        change(&mut self.lock().overrides);
        self.save()
    }

    /// Keeps what takes out a fault, for this or another process.
    pub fn remember(&self, undo: Option<Undo>) -> Result<()> {
        self.lock().undo = undo;
        self.save()
    }

    /// Adds one pod to a node, in the order in which a cluster does: the API knows it as pending
    /// and IPAM gives it an address, then the CNI plugin and Felix program it, then it runs.
    pub fn add_pod(&self, node: &Node) -> Result<Pod> {
        let pods = self.pods();
        let number = (1..=26)
            .find(|number| !pods.iter().any(|pod| pod.node == node.index && pod.number == *number))
            .ok_or_else(|| anyhow!("{} is full", node.name))?;
        let mut pod = Pod::plan(&self.spec, node, number);
        pod.phase = Phase::Pending;
        {
            let mut state = self.lock();
            // Another object each time, also under the same name.
            state.pods_made += 1;
            pod.incarnation = state.pods_made;
            state.pods.push(pod.clone());
        }
        self.save()?;
        let netns = self.node_netns(node)?;
        self.build_pod(&pod)?;
        netns.run(|| chains::add_endpoint(&pod))?;
        self.set_phase(&pod, Phase::Running)?;
        self.pod(&pod.name)
    }

    /// The API says that a pod is being deleted. Its network stays, as while the kubelet lets its containers end.
    pub fn terminate_pod(&self, pod: &Pod) -> Result<()> {
        self.set_phase(pod, Phase::Terminating)
    }

    /// Removes one pod, in the order in which a cluster does: the API says that it is being deleted,
    /// its network goes, the API forgets it.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.set_phase(pod, Phase::Terminating)?;
        let node = &self.nodes[pod.node];
        self.node_netns(node)?.run(|| {
            let mut nl = Rtnl::open()?;
            if nl.link(&pod.host_device)?.is_some() {
                nl.delete_link(&pod.host_device)?;
            }
            chains::remove_endpoint(pod)
        })?;
        netns::delete(&pod.netns)?;
        self.lock().pods.retain(|other| other.key() != pod.key());
        self.save()
    }

    fn set_phase(&self, pod: &Pod, phase: Phase) -> Result<()> {
        for known in &mut self.lock().pods {
            if known.key() == pod.key() {
                known.phase = phase;
            }
        }
        self.save()
    }

    /// Empties all dynamic neighbour tables of nodes, pods and the switch.
    pub fn cool_neighbours(&self) -> Result<()> {
        let mut names: Vec<String> = self.nodes.iter().map(|node| node.netns.clone()).collect();
        names.extend(self.pods().into_iter().map(|pod| pod.netns));
        names.push(self.spec.switch_netns());
        for name in names {
            Netns::open(&name)?.run(|| Rtnl::open()?.flush_dynamic_neighbours())?;
        }
        Ok(())
    }

    /// Fills the neighbour tables of every pod and node by a packet to every pod.
    pub fn warm_neighbours(&self) -> Result<()> {
        let pods = self.pods();
        let mut sources: Vec<Netns> = Vec::new();
        for node in &self.nodes {
            sources.push(self.node_netns(node)?);
        }
        for pod in &pods {
            sources.push(self.pod_netns(pod)?);
        }
        for source in &sources {
            for pod in &pods {
                // What does not answer does not matter: a fault may be in.
                for address in pod.addresses() {
                    reach::icmp(source, address, 8, WARM_TIMEOUT)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the state file, and the manifests that follow from it.
    fn save(&self) -> Result<()> {
        // One at a time: an older state must not overwrite a newer one.
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        if let Some(dir) = &state.manifests {
            manifests::write(&state, dir)?;
        }
        let text = serde_json::to_string_pretty(&state).context("encode the fabric's state")?;
        let mut attempts = 0;
        loop {
            fs::create_dir_all(STATE_DIR).with_context(|| format!("create {STATE_DIR}"))?;
            attempts += 1;
            match manifests::write_atomically(&self.state_file, &text) {
                // Another fabric that went down took the empty directory with it.
                Err(error) if nl::errno(&error) == Some(libc::ENOENT) && attempts < SAVE_ATTEMPTS => {}
                done => return done,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data that is replaced as a whole: a panic elsewhere cannot spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why this kernel cannot have a fabric of that kind, if it cannot. Tried in a namespace that is thrown away.
pub fn lacking(spec: &FabricSpec) -> Result<Option<String>> {
    require_root()?;
    let name = format!("{}-try", spec.prefix);
    let netns = Netns::create(&name)?;
    let lacks = netns.run(|| node::lacks(spec));
    netns::delete(&name)?;
    lacks
}

fn state_file(prefix: &str) -> PathBuf {
    Path::new(STATE_DIR).join(format!("{prefix}.json"))
}

/// Says in one line what is missing, before anything is half built.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        bail!("network namespaces need root: run this with sudo")
    }
}
