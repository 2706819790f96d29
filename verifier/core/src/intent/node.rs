//! Types of one node's intent. The computation is beside it; the judge reads only these.

use crate::{
    evidence::Gap,
    names::{Mac, NodeName, PodRef, UnixNs},
    verdict::CauseCode,
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::net::IpAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where a setting came from, strongest first (calico.md 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// `FELIX_*` of the calico-node container.
    Environment,
    /// FelixConfiguration `node.<name>`.
    NodeConfiguration,
    /// FelixConfiguration `default`.
    DefaultConfiguration,
    /// Calico's built-in default for this version.
    BuiltIn,
}

/// One setting with its provenance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Setting<T> {
    /// Known.
    Known {
        /// The value in force.
        value: T,
        /// Who set it.
        from: Provenance,
    },
    /// Set in a way that cannot be resolved (an environment variable from a Secret that cannot be read). Its checks are Unknown.
    Unresolved {
        /// Why.
        gap: Gap,
    },
}

impl<T> Setting<T> {
    /// The value, if known.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            Self::Unresolved { .. } => None,
        }
    }
}

/// Calico's dataplane on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dataplane {
    /// iptables (legacy or nft backend).
    Iptables,
    /// Native nftables.
    Nftables,
    /// eBPF. Recognised; much of it is Unknown to this program.
    Bpf,
}

/// Settings of one node that shape its dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Calico's version as `(major, minor, patch)`, from ClusterInformation or the calico-node image.
    pub calico_version: Option<(u16, u16, u16)>,
    /// Dataplane.
    pub dataplane: Setting<Dataplane>,
    /// `vxlanPort`.
    pub vxlan_port: Setting<u16>,
    /// `vxlanVNI`.
    pub vxlan_vni: Setting<u32>,
    /// MTU Felix gives the VXLAN device; none when it is derived from the host's and that is not known here.
    pub vxlan_mtu: Option<Setting<u32>>,
    /// `interfacePrefix`, every element.
    pub interface_prefixes: Setting<Vec<String>>,
    /// Route protocol of tunnel and pod routes (`deviceRouteProtocol`, 3 by default).
    pub device_route_protocol: Setting<u8>,
    /// `routeSyncDisabled`: Felix programs no routes at all.
    pub route_sync_disabled: Setting<bool>,
    /// `routeRefreshInterval` in seconds: how soon Felix repairs.
    pub route_refresh_seconds: Setting<u32>,
    /// `removeExternalRoutes`.
    pub remove_external_routes: Setting<bool>,
    /// Other settings as text, for reports: name to value.
    pub other: BTreeMap<String, Setting<String>>,
}

/// Who programs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// Felix.
    Felix,
    /// BIRD.
    Bird,
    /// The CNI plugin first, Felix afterwards.
    Cni,
}

/// How pod traffic travels between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// VXLAN.
    Vxlan,
    /// IP in IP.
    Ipip,
    /// None.
    None,
}

/// A tunnel device that must exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedTunnel {
    /// Device name: `vxlan.calico`, `vxlan-v6.calico`, `tunl0`.
    pub device: String,
    /// Encapsulation.
    pub encapsulation: Encapsulation,
    /// Link-layer address, derived or overridden; none for IPIP.
    pub mac: Option<Mac>,
    /// Its only address, `/32` or `/128`; none if the datastore has none for this node (that is a cause of its own).
    pub address: Option<IpAddr>,
    /// Outer source: the node's Calico address.
    pub local: Option<IpAddr>,
    /// VNI, VXLAN only; none if unresolved.
    pub vni: Option<u32>,
    /// UDP port, VXLAN only; none if unresolved.
    pub port: Option<u16>,
    /// MTU, if it can be known.
    pub mtu: Option<u32>,
    /// False where the datastore lacks what Felix needs to build it (no tunnel address for this node, a cause of its own): nothing about the
    /// device may then be demanded.
    pub required: bool,
}

impl ExpectedTunnel {
    /// Whether its family is that of `ip`, as far as its addresses tell.
    pub fn may_carry(&self, ip: IpAddr) -> bool {
        self.address.or(self.local).is_none_or(|own| own.is_ipv4() == ip.is_ipv4())
    }
}

/// Through which device an [`ExpectedRoute`] must go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpectedDevice {
    /// A device of this name.
    Named(String),
    /// The link that carries the node's Calico address.
    Parent,
}

/// What an expected route is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "kebab-case")]
pub enum RouteClass {
    /// A block (or a single borrowed address, then /32 or /128) of another node.
    RemoteBlock {
        /// That node.
        peer: NodeName,
        /// How traffic to it travels.
        encapsulation: Encapsulation,
    },
    /// A peer's tunnel address that no block route covers.
    RemoteTunnelAddress {
        /// That node.
        peer: NodeName,
    },
    /// Blackhole of a block of this node.
    LocalBlock,
    /// A pod on this node.
    LocalPod {
        /// The pod.
        pod: PodRef,
    },
}

/// A route that must stand in the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedRoute {
    /// Destination.
    pub dst: IpNet,
    /// What it is for.
    #[serde(flatten)]
    pub class: RouteClass,
    /// Device; none for a blackhole.
    pub device: Option<ExpectedDevice>,
    /// Gateway, if it has one.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is onlink.
    pub onlink: bool,
    /// Route protocol.
    pub protocol: Option<u8>,
    /// Preferred source (`deviceRouteSourceAddress`), if one is configured.
    #[serde(default)]
    pub src: Option<IpAddr>,
    /// The `mtu` metric it carries (tunnel routes of Calico 3.31 and later), where the MTU can be known.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Who programs it.
    pub owner: Owner,
    /// False for routes that some versions leave behind: accepted, never required (calico.md 1.4).
    pub required: bool,
}

/// A permanent neighbour that must stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedNeighbor {
    /// Device.
    pub device: String,
    /// The peer's tunnel address.
    pub ip: IpAddr,
    /// The peer's VTEP MAC.
    pub mac: Mac,
    /// The peer.
    pub peer: NodeName,
}

/// A permanent forwarding entry that must stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedFdb {
    /// Device.
    pub device: String,
    /// The peer's VTEP MAC.
    pub mac: Mac,
    /// The peer's node address.
    pub dst: IpAddr,
    /// The peer.
    pub peer: NodeName,
}

/// An address set that Felix keeps (`all-vxlan-net`, `all-hosts-net`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedSet {
    /// Name without the `cali40` prefix.
    pub name: String,
    /// Members.
    pub members: Vec<IpNet>,
}

/// Phase of a pod, as the API claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodPhase {
    /// Pending.
    Pending,
    /// Running.
    Running,
    /// Succeeded or Failed.
    Finished,
    /// Anything else.
    Unknown,
}

/// Why a pod is left out of the pods that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOut {
    /// It uses its node's network.
    HostNetwork,
    /// It succeeded or failed, and its network is gone with it.
    Finished,
    /// No node runs it yet.
    NotScheduled,
    /// It mirrors a static pod.
    Static,
}

impl LeftOut {
    /// In words.
    pub const fn why(self) -> &'static str {
        match self {
            Self::HostNetwork => "it uses its node's network and has none of its own",
            Self::Finished => "it has completed, and its network is gone with it",
            Self::NotScheduled => "no node runs it yet",
            Self::Static => "it is a static pod: its manifest lies on the node, and deleting the object makes nothing anew",
        }
    }
}

/// A pod on the pod network of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectedWorkload {
    /// The pod.
    pub pod: PodRef,
    /// Its addresses, in Felix's order of sources (calico.md 3.6).
    pub addresses: Vec<IpAddr>,
    /// Host-side device name.
    pub device: String,
    /// Phase.
    pub phase: PodPhase,
    /// Whether it claims to be ready.
    pub ready: bool,
    /// Whether deletion has begun.
    pub terminating: bool,
    /// Whether its sandbox, and with it its network, is being made (anew) right now.
    #[serde(default)]
    pub sandbox_pending: bool,
    /// When it was created, if known.
    pub created: Option<UnixNs>,
    /// Fingerprint of its UID; 0 where the object has none.
    #[serde(default)]
    pub uid: u64,
    /// Since when the agent knows it as it is, if that is later than the agent's own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<UnixNs>,
    /// Controller as `Kind/name`; none for a bare pod.
    pub controller: Option<String>,
    /// Whether its controller will make a new one when it is deleted.
    pub safe_to_delete: bool,
}

/// A pod on another node that may be probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemotePod {
    /// The pod.
    pub pod: PodRef,
    /// Its first address.
    pub ip: IpAddr,
    /// Its first address of the other family, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_ip: Option<IpAddr>,
    /// Phase.
    pub phase: PodPhase,
    /// Fingerprint of its UID; 0 where the object has none.
    #[serde(default)]
    pub uid: u64,
    /// Since when the agent knows it as it is, if that is later than the agent's own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<UnixNs>,
}

impl RemotePod {
    /// Its addresses, one of a family.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        core::iter::once(self.ip).chain(self.other_ip)
    }
}

/// What this node knows of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Its Calico address.
    pub host_ip: Option<IpAddr>,
    /// Its tunnel address.
    pub tunnel_ip: Option<IpAddr>,
    /// Its VTEP MAC.
    pub vtep_mac: Option<Mac>,
    /// Its IPv6 Calico address.
    #[serde(default)]
    pub host_ip6: Option<IpAddr>,
    /// Its IPv6 tunnel address.
    #[serde(default)]
    pub tunnel_ip6: Option<IpAddr>,
    /// MAC of its IPv6 VTEP.
    #[serde(default)]
    pub vtep_mac6: Option<Mac>,
    /// Blocks it owns, and addresses it borrowed (as /32 or /128), with the encapsulation towards it.
    pub prefixes: Vec<(IpNet, Encapsulation)>,
    /// How packets from it to addresses of each pool are meant to travel, where pools of one family travel in different ways. Empty where
    /// they do not: then packets come as they go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arriving: Vec<(IpNet, Encapsulation)>,
    /// Some of its running pods, in order of name.
    pub pods: Vec<RemotePod>,
    /// UDP port its agent serves on, if it differs from ours.
    pub agent_port: Option<u16>,
}

/// What the cluster claims about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// Condition Ready.
    pub ready: Option<bool>,
    /// Condition NetworkUnavailable.
    pub network_unavailable: Option<bool>,
    /// Its reason: `CalicoIsUp`, `CalicoIsDown`.
    pub network_reason: Option<String>,
    /// Phase of its calico-node pod as the API words it, with readiness: `Running`, `Running (not ready)`, none if there is no such pod.
    pub calico_node: Option<String>,
    /// Restarts of the calico-node container.
    pub restarts: Option<u32>,
    /// How that container ended the last time: reason, exit code, when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_termination: Option<String>,
    /// How often Ready changed within the last hour, as far as it was watched; none where nobody watches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_toggles: Option<u32>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Version of its kubelet, major and minor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<(u16, u16)>,
}

/// A contradiction of intent with itself: a datastore cause, independent of any kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Contradiction {
    /// Cause, one of class datastore.
    pub code: CauseCode,
    /// The node to blame, none if it is the cluster's.
    pub node: Option<NodeName>,
    /// The pods concerned.
    pub pods: Vec<PodRef>,
    /// What it is about: an address, a block, a node.
    pub subject: String,
    /// What contradicts what, naming the objects.
    pub evidence: String,
}

/// One node's slice of intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIntent {
    /// The node.
    pub node: NodeName,
    /// Its Calico address (`projectcalico.org/IPv4Address`, without the mask).
    pub host_ip: Option<IpAddr>,
    /// Its IPv6 Calico address (`projectcalico.org/IPv6Address`, without the mask).
    #[serde(default)]
    pub host_ip6: Option<IpAddr>,
    /// Settings.
    pub settings: Settings,
    /// Pools: CIDR and encapsulation mode as written (`VXLAN Always`).
    pub pools: Vec<(IpNet, String)>,
    /// Blocks this node owns.
    pub blocks: Vec<IpNet>,
    /// Tunnel devices.
    pub tunnels: Vec<ExpectedTunnel>,
    /// Routes of the main table.
    pub routes: Vec<ExpectedRoute>,
    /// Neighbours.
    pub neighbors: Vec<ExpectedNeighbor>,
    /// Forwarding entries.
    pub fdb: Vec<ExpectedFdb>,
    /// Sets.
    pub sets: Vec<ExpectedSet>,
    /// Pods of this node on the pod network, not finished.
    pub workloads: BTreeMap<PodRef, ExpectedWorkload>,
    /// All other nodes, cordoned and NotReady included.
    pub peers: BTreeMap<NodeName, Peer>,
    /// What the cluster claims about this node.
    pub claim: Claim,
    /// Contradictions of the whole cluster's objects, the same on every node.
    pub contradictions: Vec<Contradiction>,
    /// What could not be read or resolved: its checks are Unknown.
    pub gaps: Vec<Gap>,
    /// Rises with every change of intent.
    pub generation: u64,
    /// When it was read.
    pub read_at: UnixNs,
}

impl Peer {
    /// Its Calico address of a family.
    pub fn host_ip_of(&self, v6: bool) -> Option<IpAddr> {
        of_family([self.host_ip, self.host_ip6], v6)
    }
}

impl NodeIntent {
    /// Its Calico address of a family.
    pub fn host_ip_of(&self, v6: bool) -> Option<IpAddr> {
        of_family([self.host_ip, self.host_ip6], v6)
    }

    /// Whether pods have addresses of a family: by the pools, and of IPv4 where no pool is known.
    pub fn has_pool_of(&self, v6: bool) -> bool {
        self.pools.iter().any(|(pool, _)| pool.addr().is_ipv6() == v6) || (!v6 && self.pools.is_empty())
    }

    /// How packets to an address of a pod on `peer` are meant to travel: by the longest of the peer's prefixes that holds it, else as the
    /// first tunnel of the address' family has it.
    pub fn encapsulation_to(&self, peer: &NodeName, to: IpAddr) -> Encapsulation {
        let prefixes = self.peers.get(peer).map_or(&[][..], |p| &p.prefixes);
        let holding = prefixes.iter().filter(|(prefix, _)| prefix.contains(&to));
        let by_prefix = holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, e)| *e);
        by_prefix
            .or_else(|| self.tunnels.iter().find(|t| t.may_carry(to)).map(|t| t.encapsulation))
            .unwrap_or(Encapsulation::None)
    }

    /// How the answer to a packet from `from` here to `to` on `peer` is meant to travel: the pool of its destination decides that too, and it
    /// may be another one.
    pub fn encapsulation_back(&self, peer: &NodeName, from: IpAddr, to: IpAddr) -> Encapsulation {
        let arriving = self.peers.get(peer).map_or(&[][..], |p| &p.arriving);
        if arriving.is_empty() {
            return self.encapsulation_to(peer, to);
        }
        let holding = arriving.iter().filter(|(pool, _)| pool.contains(&from));
        // A host's own address is in no pool.
        let by_pool = holding.max_by_key(|(pool, _)| pool.prefix_len()).map(|(_, e)| *e);
        by_pool.unwrap_or(Encapsulation::None)
    }

    /// The tunnel device of an encapsulation that carries packets to `to`.
    pub fn tunnel_to(&self, encapsulation: Encapsulation, to: IpAddr) -> Option<&ExpectedTunnel> {
        self.tunnels.iter().find(|t| t.encapsulation == encapsulation && t.may_carry(to))
    }
}

/// The first of the family.
fn of_family(addresses: [Option<IpAddr>; 2], v6: bool) -> Option<IpAddr> {
    addresses.into_iter().flatten().find(|ip| ip.is_ipv6() == v6)
}
