//! The addressing plan: from a [`FabricSpec`] follow all names and addresses, by Calico's own
//! derivations (Felix's `vtepMACForHost`, libcalico's `VethNameForWorkload`). Pure.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::Encapsulation;

/// The tunnel device of VXLAN pools (`dataplanedefs`).
pub const TUNNEL_DEVICE: &str = "vxlan.calico";
/// The tunnel device of IPIP pools (`dataplanedefs`).
pub const IPIP_DEVICE: &str = "tunl0";
/// The device that carries the underlay on every node.
pub const UNDERLAY_DEVICE: &str = "eth0";
/// A pod's device.
pub const POD_DEVICE: &str = "eth0";
/// The bridge of the first subnet in the switch namespace.
pub const BRIDGE: &str = "br0";
/// Prefix length of the underlay's subnets.
pub const UNDERLAY_PREFIX_LEN: u8 = 24;
/// The switch's own address in the first subnet, its nodes' default gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The pods' gateway, answered by proxy ARP.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The MAC that the CNI plugin gives the host's side of every workload veth.
pub const HOST_SIDE_MAC: [u8; 6] = [0xee; 6];
/// The IP pool.
pub const POOL: &str = "10.244.0.0/16";
/// Prefix length of a block.
pub const BLOCK_PREFIX_LEN: u8 = 26;
/// Namespace of the fabric's pods in the API.
pub const POD_NAMESPACE: &str = "default";

/// What a fabric should look like. The default is what the demo uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricSpec {
    /// first part of every namespace's name
    pub prefix: String,
    /// number of nodes, 2 to 26
    pub nodes: usize,
    /// pods on each node when the fabric comes up, 1 to 20
    pub pods_per_node: usize,
    /// how pod traffic travels between nodes
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// whether the second node's last pod has its address from the last node's second block
    #[serde(default)]
    pub borrows: bool,
    /// MTU of the underlay; the tunnel and the pods get what the encapsulation leaves of it
    pub underlay_mtu_bytes: u32,
    /// VXLAN network identifier
    pub vni: u32,
    /// UDP port of the tunnel
    pub port: u16,
    /// what ClusterInformation says, with the `v`
    pub calico_version: String,
}

impl Default for FabricSpec {
    fn default() -> Self {
        Self {
            prefix: "dpv".to_owned(),
            nodes: 3,
            pods_per_node: 2,
            encapsulation: Encapsulation::Vxlan,
            borrows: false,
            underlay_mtu_bytes: 1500,
            vni: 4096,
            port: 4789,
            calico_version: "v3.30.7".to_owned(),
        }
    }
}

impl FabricSpec {
    /// Refuses what cannot be built.
    pub fn check(&self) -> Result<()> {
        if !(2..=26).contains(&self.nodes) {
            bail!("a fabric has 2 to 26 nodes, not {}", self.nodes);
        }
        if !(1..=20).contains(&self.pods_per_node) {
            bail!("a node has 1 to 20 pods at first, not {}", self.pods_per_node);
        }
        Ok(())
    }

    /// A fabric of this encapsulation as the demonstration raises it. Other than plain VXLAN's it has a borrowed address, so that the route
    /// to one is among what can break.
    #[must_use]
    pub fn of(prefix: &str, encapsulation: Encapsulation) -> Self {
        Self {
            prefix: prefix.to_owned(),
            encapsulation,
            borrows: encapsulation != Encapsulation::Vxlan,
            ..Self::default()
        }
    }

    /// MTU of the tunnel device and the pods.
    #[must_use]
    pub fn pod_mtu_bytes(&self) -> u32 {
        self.underlay_mtu_bytes - self.encapsulation.overhead_bytes()
    }

    /// Subnets of the underlay.
    pub fn subnets(&self) -> impl Iterator<Item = u8> {
        0..if self.encapsulation.crosses_subnets() { 2 } else { 1 }
    }

    /// Borrowed addresses, each with the node that borrowed it.
    #[must_use]
    pub fn loans<'n>(&self, nodes: &'n [Node]) -> Vec<(Ipv4Net, &'n Node)> {
        self.pod_plans(nodes)
            .into_iter()
            .filter_map(|pod| {
                let node = nodes.get(pod.node)?;
                let borrowed = !node.blocks.iter().any(|block| block.contains(&pod.ip));
                borrowed.then_some((Ipv4Net::from(pod.ip), node))
            })
            .collect()
    }

    /// Felix puts an `mtu` metric on tunnel routes from 3.31 on.
    #[must_use]
    pub fn routes_carry_mtu(&self) -> bool {
        let mut parts = self.calico_version.trim_start_matches('v').split('.');
        let number = |part: Option<&str>| part.and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
        let (major, minor) = (number(parts.next()), number(parts.next()));
        (major, minor) >= (3, 31)
    }

    /// Name of the switch's namespace.
    #[must_use]
    pub fn switch_netns(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// The nodes.
    pub fn node_plans(&self) -> Result<Vec<Node>> {
        (0..self.nodes).map(|index| Node::plan(self, index)).collect()
    }

    /// The pods a fabric starts with.
    pub fn pod_plans(&self, nodes: &[Node]) -> Vec<Pod> {
        let mut pods = Vec::new();
        for node in nodes {
            for number in 1..=self.pods_per_node {
                let mut pod = Pod::plan(self, node, number);
                let lender = nodes.last().and_then(|last| last.blocks.get(1));
                if let Some(block) = lender
                    && self.borrows
                    && node.index == 1
                    && number == self.pods_per_node
                {
                    pod.ip = Ipv4Addr::from(u32::from(block.network()) + 40);
                }
                pods.push(pod);
            }
        }
        pods
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// 0, 1, 2 …
    pub index: usize,
    /// `node-a` …
    pub name: String,
    /// `a` …
    pub letter: char,
    /// its subnet of the underlay: 0, or 1 for every third node where there are two
    #[serde(default)]
    pub subnet: u8,
    /// its namespace
    pub netns: String,
    /// its port on the switch
    pub switch_port: String,
    /// MAC of its underlay device
    pub underlay_mac: [u8; 6],
    /// its address on the underlay
    pub host_ip: Ipv4Addr,
    /// address of its tunnel device: the first of its first block
    pub tunnel_ip: Ipv4Addr,
    /// MAC of its tunnel device
    pub vtep_mac: [u8; 6],
    /// blocks affine to it
    pub blocks: Vec<Ipv4Net>,
}

impl Node {
    fn plan(spec: &FabricSpec, index: usize) -> Result<Self> {
        let offset = u8::try_from(index)?;
        let letter = char::from(b'a' + offset);
        let name = format!("node-{letter}");
        let subnet = u8::from(spec.encapsulation.crosses_subnets() && index % 3 == 2);
        let mut blocks = vec![block(7 + index * 75)?];
        // The last node owns a second block, without pods: routes and blackholes are per block.
        if index + 1 == spec.nodes {
            blocks.push(block(1003)?);
        }
        Ok(Self {
            index,
            subnet,
            netns: format!("{}-{name}", spec.prefix),
            switch_port: format!("sw-{name}"),
            underlay_mac: [0x02, 0x00, 172, 18, subnet, offset + 2],
            host_ip: Ipv4Addr::new(172, 18, subnet, offset + 2),
            tunnel_ip: blocks[0].network(),
            vtep_mac: vtep_mac(&name),
            blocks,
            letter,
            name,
        })
    }

    /// The node's default gateway.
    #[must_use]
    pub const fn gateway(&self) -> Ipv4Addr {
        gateway(self.subnet)
    }

    /// The node's main block.
    #[must_use]
    pub fn block(&self) -> Ipv4Net {
        self.blocks[0]
    }
}

/// The switch's own address in a subnet.
#[must_use]
pub const fn gateway(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, subnet, 1)
}

/// The bridge of a subnet in the switch namespace.
#[must_use]
pub fn bridge(subnet: u8) -> String {
    format!("br{subnet}")
}

/// The `number`th block of the pool. Block numbers are spread so that no code can get away with
/// deriving them from the node's position.
fn block(number: usize) -> Result<Ipv4Net> {
    let base = u32::from(Ipv4Addr::new(10, 244, 0, 0));
    let offset = u32::try_from(number % 1024)? << (32 - BLOCK_PREFIX_LEN);
    Ok(Ipv4Net::new(Ipv4Addr::from(base + offset), BLOCK_PREFIX_LEN)?)
}

/// Where a pod is in its life, as the API tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// scheduled, with an address in IPAM, and no network yet
    Pending,
    /// running
    #[default]
    Running,
    /// being deleted: still there in the API, its network going
    Terminating,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// namespace in the API
    pub namespace: String,
    /// `pod-a1` …
    pub name: String,
    /// index of its node
    pub node: usize,
    /// 1, 2 … on its node
    pub number: usize,
    /// its network namespace
    pub netns: String,
    /// its address
    pub ip: Ipv4Addr,
    /// the host's side of its veth
    pub host_device: String,
    /// the sandbox's id, which names the IPAM handle
    pub container_id: String,
    /// where it is in its life
    pub phase: Phase,
    /// how many pods the fabric had made when this one was made: another one under the same name is another object
    #[serde(default)]
    pub incarnation: usize,
}

impl Pod {
    /// The `number`th pod of a node (from 1). Addresses start in the middle of the block.
    #[must_use]
    pub fn plan(spec: &FabricSpec, node: &Node, number: usize) -> Self {
        let name = format!("pod-{}{number}", node.letter);
        let ordinal = 36 + u32::try_from(number % 27).unwrap_or(0);
        Self {
            netns: format!("{}-{name}", spec.prefix),
            ip: Ipv4Addr::from(u32::from(node.block().network()) + ordinal),
            host_device: host_device(POD_NAMESPACE, &name),
            container_id: hex(&Sha1::digest(format!("sandbox of {name}"))),
            phase: Phase::Running,
            incarnation: 0,
            namespace: POD_NAMESPACE.to_owned(),
            node: node.index,
            number,
            name,
        }
    }

    /// MAC of its own device. Calico leaves the choice to the kernel; here a pod whose network is made
    /// anew must look as it did.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.ip.octets();
        [0x0a, 0x58, a, b, c, d]
    }

    /// `default/pod-a1`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// `66:` and the first five bytes of SHA-1 of the node's name (`vtepMACForHost`).
#[must_use]
pub fn vtep_mac(node: &str) -> [u8; 6] {
    let digest = Sha1::digest(node.as_bytes());
    [0x66, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// `cali` and eleven hex digits of SHA-1 of `namespace.pod` (`VethNameForWorkload`).
#[must_use]
pub fn host_device(namespace: &str, pod: &str) -> String {
    let digest = hex(&Sha1::digest(format!("{namespace}.{pod}")));
    format!("cali{}", &digest[..11])
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `66:b3:…`.
#[must_use]
pub fn mac_text(mac: &[u8]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_macs_are_calicos() {
        // Vectors computed from Calico's own functions.
        assert_eq!(mac_text(&vtep_mac("node-1")), "66:b3:68:28:39:8e");
        assert_eq!(mac_text(&vtep_mac("kind-worker")), "66:46:b3:ce:05:5d");
        assert_eq!(host_device("default", "nginx"), "calic440f455693");
        assert_eq!(host_device("kube-system", "coredns-abc"), "cali3d5d6ab04b5");
    }

    #[test]
    fn addresses_are_unique_and_inside_their_blocks() {
        let spec = FabricSpec {
            nodes: 26,
            pods_per_node: 20,
            ..FabricSpec::default()
        };
        let nodes = spec.node_plans().unwrap();
        let pods = spec.pod_plans(&nodes);
        let mut blocks: Vec<_> = nodes.iter().flat_map(|n| n.blocks.clone()).collect();
        blocks.sort();
        blocks.dedup();
        assert_eq!(blocks.len(), 27);
        let mut ips: Vec<_> = pods.iter().map(|p| p.ip).collect();
        for pod in &pods {
            assert!(nodes[pod.node].block().contains(&pod.ip));
            assert_eq!(pod.host_device.len(), 15);
        }
        ips.extend(nodes.iter().map(|n| n.tunnel_ip));
        let all = ips.len();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), all);
    }

    #[test]
    fn mtu_on_routes_from_3_31() {
        let at = |version: &str| {
            FabricSpec {
                calico_version: version.to_owned(),
                ..FabricSpec::default()
            }
            .routes_carry_mtu()
        };
        assert!(!at("v3.30.7"));
        assert!(at("v3.31.0"));
        assert!(at("v3.32.1"));
    }
}
