//! The addressing plan: from a [`FabricSpec`] follow all names and addresses, by Calico's own
//! derivations (Felix's `vtepMACForHost`, libcalico's `VethNameForWorkload`). Pure.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::{Encapsulation, encapsulation::OVERHEAD_V6_BYTES};

/// The tunnel device of VXLAN pools (`dataplanedefs`).
pub const TUNNEL_DEVICE: &str = "vxlan.calico";
/// The tunnel device of VXLAN pools of IPv6 (`dataplanedefs`).
pub const TUNNEL_DEVICE_V6: &str = "vxlan-v6.calico";
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
/// The switch's own address of IPv6, its nodes' default gateway.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1);
/// Prefix length of the underlay's network of IPv6.
pub const UNDERLAY_PREFIX_LEN_V6: u8 = 64;
/// The pods' gateway of IPv6: the address that the kernel derives from [`HOST_SIDE_MAC`] for the host's side of the veth, where the CNI plugin
/// reads it.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// The MAC that the CNI plugin gives the host's side of every workload veth.
pub const HOST_SIDE_MAC: [u8; 6] = [0xee; 6];
/// The IP pool.
pub const POOL: &str = "10.244.0.0/16";
/// The second IP pool of a fabric that has one without encapsulation.
pub const POOL_BARE: &str = "10.245.0.0/16";
/// Prefix length of a block.
pub const BLOCK_PREFIX_LEN: u8 = 26;
/// The IP pool of IPv6.
pub const POOL_V6: &str = "fd00:10:244::/64";
/// Prefix length of a block of IPv6.
pub const BLOCK_PREFIX_LEN_V6: u8 = 122;
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
            borrows: !matches!(encapsulation, Encapsulation::Vxlan | Encapsulation::VxlanAndNone),
            ..Self::default()
        }
    }

    /// MTU of the tunnel device of IPv4.
    #[must_use]
    pub fn tunnel_mtu_bytes(&self) -> u32 {
        self.underlay_mtu_bytes - self.encapsulation.overhead_bytes()
    }

    /// MTU of the tunnel device of IPv6.
    #[must_use]
    pub fn tunnel_mtu_v6_bytes(&self) -> u32 {
        self.underlay_mtu_bytes - OVERHEAD_V6_BYTES
    }

    /// MTU of the pods: what the largest encapsulation leaves (`determinePodMTU`).
    #[must_use]
    pub fn pod_mtu_bytes(&self) -> u32 {
        if self.encapsulation.device_v6().is_some() {
            self.tunnel_mtu_bytes().min(self.tunnel_mtu_v6_bytes())
        } else {
            self.tunnel_mtu_bytes()
        }
    }

    /// Subnets of the underlay.
    pub fn subnets(&self) -> impl Iterator<Item = u8> {
        0..if self.encapsulation.crosses_subnets() { 2 } else { 1 }
    }

    /// Borrowed addresses, each with the node that borrowed it.
    #[must_use]
    pub fn loans<'n>(&self, nodes: &'n [Node]) -> Vec<(IpNet, &'n Node)> {
        let mut loans = Vec::new();
        for pod in self.pod_plans(nodes) {
            let Some(node) = nodes.get(pod.node) else { continue };
            if !node.blocks.iter().any(|block| block.contains(&pod.ip)) {
                loans.push((IpNet::from(IpAddr::V4(pod.ip)), node));
            }
            if let (Some(v6), Some(ip)) = (&node.v6, pod.ip6)
                && !v6.blocks.iter().any(|block| block.contains(&ip))
            {
                loans.push((IpNet::from(IpAddr::V6(ip)), node));
            }
        }
        loans
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
                let borrows = self.borrows && node.index == 1 && number == self.pods_per_node;
                if let Some(lender) = nodes.last().filter(|_| borrows) {
                    if let Some(block) = lender.blocks.get(1) {
                        pod.ip = Ipv4Addr::from(u32::from(block.network()) + 40);
                    }
                    if let Some(block) = lender.v6.as_ref().and_then(|v6| v6.blocks.get(1)) {
                        pod.ip6 = Some(Ipv6Addr::from(u128::from(block.network()) + 40));
                    }
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
    /// the same of IPv6, where the fabric has it
    #[serde(default)]
    pub v6: Option<NodeV6>,
}

/// What a node has of IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeV6 {
    /// its address on the underlay
    pub host_ip: Ipv6Addr,
    /// address of its tunnel device: the first of its first block
    pub tunnel_ip: Ipv6Addr,
    /// MAC of its tunnel device
    pub vtep_mac: [u8; 6],
    /// blocks affine to it
    pub blocks: Vec<Ipv6Net>,
}

impl NodeV6 {
    fn plan(name: &str, offset: u8, blocks: Vec<Ipv6Net>) -> Result<Self> {
        let Some(first) = blocks.first() else {
            bail!("{name} has no block of IPv6");
        };
        Ok(Self {
            host_ip: Ipv6Addr::from(u128::from(GATEWAY_V6) + 1 + u128::from(offset)),
            tunnel_ip: first.network(),
            vtep_mac: vtep_mac_v6(name),
            blocks,
        })
    }

    /// The node's main block.
    #[must_use]
    pub fn block(&self) -> Ipv6Net {
        self.blocks[0]
    }
}

impl Node {
    fn plan(spec: &FabricSpec, index: usize) -> Result<Self> {
        let offset = u8::try_from(index)?;
        let letter = char::from(b'a' + offset);
        let name = format!("node-{letter}");
        let subnet = u8::from(spec.encapsulation.crosses_subnets() && index % 3 == 2);
        let mut numbers = vec![7 + index * 75];
        // The last node owns a second block, without pods: routes and blackholes are per block.
        if index + 1 == spec.nodes {
            numbers.push(1003);
        }
        let mut blocks = numbers.iter().map(|number| block(*number)).collect::<Result<Vec<_>>>()?;
        if spec.encapsulation.is_mixed() {
            blocks.push(block_bare(300 + index)?);
        }
        let v6 = spec.encapsulation.is_dual_stack().then(|| {
            let blocks = numbers.iter().map(|number| block_v6(*number)).collect::<Result<Vec<_>>>()?;
            NodeV6::plan(&name, offset, blocks)
        });
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
            v6: v6.transpose()?,
            letter,
            name,
        })
    }

    /// Its address on the underlay, of the family of `address`; none of a family that the fabric does not have.
    #[must_use]
    pub fn host_ip_of(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => Some(self.host_ip.into()),
            IpAddr::V6(_) => self.v6.as_ref().map(|v6| v6.host_ip.into()),
        }
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

    /// Its blocks of either family.
    #[must_use]
    pub fn all_blocks(&self) -> Vec<IpNet> {
        let v6 = self.v6.iter().flat_map(|v6| &v6.blocks);
        let v4 = self.blocks.iter().copied().map(IpNet::V4);
        v4.chain(v6.copied().map(IpNet::V6)).collect()
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
    block_of(Ipv4Addr::new(10, 244, 0, 0), number)
}

/// The `number`th block of the pool without encapsulation.
fn block_bare(number: usize) -> Result<Ipv4Net> {
    block_of(Ipv4Addr::new(10, 245, 0, 0), number)
}

fn block_of(pool: Ipv4Addr, number: usize) -> Result<Ipv4Net> {
    let base = u32::from(pool);
    let offset = u32::try_from(number % 1024)? << (32 - BLOCK_PREFIX_LEN);
    Ok(Ipv4Net::new(Ipv4Addr::from(base + offset), BLOCK_PREFIX_LEN)?)
}

/// The `number`th block of the pool of IPv6: other numbers than IPv4's, so that nothing can take the one for the other's.
fn block_v6(number: usize) -> Result<Ipv6Net> {
    let base = u128::from(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0));
    let offset = u128::try_from(5000 + number * 3)? << (128 - BLOCK_PREFIX_LEN_V6);
    Ok(Ipv6Net::new(Ipv6Addr::from(base + offset), BLOCK_PREFIX_LEN_V6)?)
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
    /// its address of IPv6, where the fabric has it
    #[serde(default)]
    pub ip6: Option<Ipv6Addr>,
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
        // In the second pool is every second pod.
        let second = node
            .blocks
            .last()
            .filter(|_| spec.encapsulation.is_mixed() && number.is_multiple_of(2));
        let block = second.copied().unwrap_or_else(|| node.block());
        let ip6 = |v6: &NodeV6| Ipv6Addr::from(u128::from(v6.block().network()) + u128::from(ordinal));
        Self {
            netns: format!("{}-{name}", spec.prefix),
            ip: Ipv4Addr::from(u32::from(block.network()) + ordinal),
            ip6: node.v6.as_ref().map(ip6),
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

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v6 = self.ip6.map(IpAddr::V6);
        iter::once(IpAddr::V4(self.ip)).chain(v6).collect()
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

/// `66:` and the first five bytes of SHA-1 of the node's name with `-v6` behind it (`vtepMACForHost`).
#[must_use]
pub fn vtep_mac_v6(node: &str) -> [u8; 6] {
    vtep_mac(&format!("{node}-v6"))
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
        assert_eq!(mac_text(&vtep_mac_v6("kind-worker")), "66:49:30:91:8e:81");
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
    fn both_families_of_a_dual_stack_fabric_are_planned_alike() {
        let spec = FabricSpec {
            nodes: 26,
            pods_per_node: 20,
            ..FabricSpec::of("t", Encapsulation::VxlanDualStack)
        };
        let nodes = spec.node_plans().unwrap();
        let pods = spec.pod_plans(&nodes);
        let pool: Ipv6Net = POOL_V6.parse().unwrap();
        let mut ips: Vec<Ipv6Addr> = pods.iter().map(|pod| pod.ip6.unwrap()).collect();
        for node in &nodes {
            let v6 = node.v6.as_ref().unwrap();
            assert_eq!(v6.blocks.len(), node.blocks.len());
            assert!(v6.blocks.iter().all(|block| pool.contains(block)));
            ips.push(v6.tunnel_ip);
        }
        let all = ips.len();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), all);
        assert_eq!(nodes[0].v6.as_ref().unwrap().host_ip.to_string(), "fd00:172:18::2");
        let loans: Vec<bool> = spec.loans(&nodes).iter().map(|(net, _)| net.addr().is_ipv6()).collect();
        assert_eq!(loans, [false, true]);
        assert_eq!(
            (spec.tunnel_mtu_bytes(), spec.tunnel_mtu_v6_bytes(), spec.pod_mtu_bytes()),
            (1450, 1430, 1430)
        );
        assert!(FabricSpec::default().node_plans().unwrap().iter().all(|node| node.v6.is_none()));
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
