//! Typed kernel state of one node. `verifier/src/programmed` fills it from netlink; nothing here knows netlink.
//!
//! Numbers keep the kernel's meaning (`include/uapi/linux/rtnetlink.h`, `neighbour.h`, `if_link.h`): route protocol, scope, table and
//! neighbour state are the raw values, so that something unknown is kept and not folded into a wrong name.

use crate::{
    evidence::Evidence,
    names::{Mac, PodRef, UnixNs},
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::net::IpAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The main routing table, `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// The local routing table, `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = 255;
/// The default routing table, `RT_TABLE_DEFAULT`.
pub const TABLE_DEFAULT: u32 = 253;

/// Everything the kernel of one node was told, as of `taken_at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// When the oldest of the looks was made.
    pub taken_at: UnixNs,
    /// Links of the node's namespace.
    pub links: Evidence<Vec<Link>>,
    /// Addresses of the node's links.
    pub addresses: Evidence<Vec<Address>>,
    /// Routes of every table, IPv4 and IPv6.
    pub routes: Evidence<Vec<Route>>,
    /// Policy rules in order of priority.
    pub rules: Evidence<Vec<Rule>>,
    /// ARP and NDP entries.
    pub neighbors: Evidence<Vec<Neighbor>>,
    /// Bridge forwarding entries (AF_BRIDGE), those of VXLAN devices among them.
    pub fdb: Evidence<Vec<FdbEntry>>,
    /// forwarding, rp_filter and proxy_arp per interface.
    pub netconf: Evidence<Vec<Netconf>>,
    /// Conntrack: fill and per-CPU loss counters, summed.
    pub conntrack: Evidence<ConntrackStats>,
    /// Rules of packet filters that have a counter and a verdict that can lose a packet or rewrite it.
    pub filters: Evidence<Vec<FilterRule>>,
    /// Base chains: where netfilter is entered, and by whom.
    pub base_chains: Evidence<Vec<BaseChain>>,
    /// Programs on devices that are not ours: TC (tcx, clsact) and XDP.
    pub hooks: Evidence<Vec<ForeignHook>>,
    /// Offloads of the devices that are no pod's; none if nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offloads: Option<Evidence<Offloads>>,
    /// The inside of the node's pods, as far as asked for.
    pub pods: BTreeMap<PodRef, Evidence<PodState>>,
    /// What changed lately, oldest first. Bounded.
    pub journal: Vec<Change>,
    /// Since when the journal lacks nothing that the verifier could see. At `taken_at` in a state that was looked at once.
    #[serde(default)]
    pub journal_from: UnixNs,
}

/// Offloads by device, each on or off by the name that ethtool(8) prints.
pub type Offloads = BTreeMap<String, BTreeMap<String, bool>>;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address; absent for devices without one (`tunl0`).
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_UP`: an administrator switched it on.
    pub up: bool,
    /// `IFF_RUNNING`: it has a carrier.
    pub running: bool,
    /// Kind and what is particular to it.
    pub kind: LinkKind,
    /// Index of the bridge or bond that owns it.
    pub master: Option<u32>,
    /// `IFLA_LINK`: for a veth the peer's index in the peer's namespace, for a VXLAN device the lower device.
    pub link: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the peer's namespace in this namespace's numbering; absent when it is the same.
    pub link_netnsid: Option<i32>,
    /// XDP program id, if one is attached.
    pub xdp: Option<u32>,
    /// `rx_dropped`, `rx_errors`, `tx_dropped`, `tx_errors`, `rx_otherhost_dropped` and the like, by field name.
    pub counters: BTreeMap<String, u64>,
}

/// Kind of a [`Link`] (`IFLA_INFO_KIND`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LinkKind {
    /// VXLAN tunnel device.
    Vxlan {
        /// VXLAN network identifier, 24 bits.
        vni: u32,
        /// UDP destination port.
        port: u16,
        /// Outer source address.
        local: Option<IpAddr>,
        /// Index of the lower device.
        lower: Option<u32>,
        /// Whether source learning is on.
        learning: bool,
        /// `collect_metadata`: the flow-based device of Calico's eBPF mode.
        flow_based: bool,
    },
    /// One end of a veth pair.
    Veth,
    /// A bridge.
    Bridge,
    /// Loopback.
    Loopback,
    /// IP in IP tunnel.
    Ipip,
    /// No kind: a physical or unknown device.
    Plain,
    /// Any other kind, by the kernel's name.
    Other {
        /// `IFLA_INFO_KIND`.
        name: String,
    },
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// Address with prefix length.
    pub ip: IpNet,
    /// `rtm_scope`.
    pub scope: u8,
}

/// Type of a route (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// To a next hop or device.
    Unicast,
    /// To this host.
    Local,
    /// Broadcast.
    Broadcast,
    /// Anycast.
    Anycast,
    /// Multicast.
    Multicast,
    /// Drop silently.
    Blackhole,
    /// Drop, host unreachable.
    Unreachable,
    /// Drop, administratively prohibited.
    Prohibit,
    /// Go on with the next rule.
    Throw,
    /// Another type, by number.
    Other(u8),
}

/// One next hop of a [`Route`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NextHop {
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Output interface index.
    pub oif: Option<u32>,
    /// `RTNH_F_ONLINK`: the gateway is taken as reachable on the device.
    pub onlink: bool,
    /// `RTNH_F_DEAD`: the kernel passes it over. A link without a carrier (`RTNH_F_LINKDOWN`) is still used, unless
    /// `ignore_routes_with_linkdown` says otherwise, and then the kernel reports it as dead.
    pub dead: bool,
    /// Weight, 1 and up.
    pub weight: u16,
}

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Table.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Source prefix (IPv6 subtrees), rarely set.
    pub src: Option<IpNet>,
    /// Type of service selector.
    pub tos: u8,
    /// Priority (metric).
    pub priority: u32,
    /// Type.
    pub kind: RouteKind,
    /// Next hops; one for an ordinary route, none for a blackhole.
    pub next_hops: Vec<NextHop>,
    /// Preferred source.
    pub prefsrc: Option<IpAddr>,
    /// `rtm_protocol`: 3 boot, 4 static, 12 BIRD, 80 Felix.
    pub protocol: u8,
    /// `rtm_scope`.
    pub scope: u8,
    /// `RTAX_MTU`.
    pub mtu: Option<u32>,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Priority; lower first.
    pub priority: u32,
    /// Whether it is of IPv6.
    pub v6: bool,
    /// `FIB_RULE_INVERT`.
    pub invert: bool,
    /// Source selector.
    pub src: Option<IpNet>,
    /// Destination selector.
    pub dst: Option<IpNet>,
    /// Input interface selector.
    pub iif: Option<String>,
    /// Output interface selector.
    pub oif: Option<String>,
    /// Mark selector: value and mask.
    pub fwmark: Option<(u32, u32)>,
    /// Type of service selector; 0 is any.
    pub tos: u8,
    /// IP protocol selector.
    pub ip_protocol: Option<u8>,
    /// What it does.
    pub action: RuleAction,
    /// Routes with a prefix length of this or less are passed over.
    pub suppress_prefix_length: Option<u32>,
    /// Selectors that are not understood (ports, uid range, l3mdev …), by name. Such a rule may or may not match.
    pub unknown: Vec<String>,
}

/// What a [`Rule`] does (`FR_ACT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Look the destination up in a table.
    Table(u32),
    /// Go on at another priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Drop silently.
    Blackhole,
    /// Drop, network unreachable.
    Unreachable,
    /// Drop, prohibited.
    Prohibit,
    /// Another action, by number.
    Other(u8),
}

/// An ARP or NDP entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbor {
    /// Interface index.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// Link-layer address, absent while unresolved.
    pub mac: Option<Mac>,
    /// `NUD_*` bits: 0x01 incomplete, 0x02 reachable, 0x04 stale, 0x08 delay, 0x10 probe, 0x20 failed, 0x40 noarp, 0x80 permanent.
    pub state: u16,
}

/// `NUD_INCOMPLETE`.
pub const NUD_INCOMPLETE: u16 = 0x01;
/// `NUD_FAILED`.
pub const NUD_FAILED: u16 = 0x20;
/// `NUD_PERMANENT`.
pub const NUD_PERMANENT: u16 = 0x80;

/// A bridge forwarding entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Interface index.
    pub index: u32,
    /// Link-layer address it is for.
    pub mac: Mac,
    /// Remote VTEP (`NDA_DST`).
    pub dst: Option<IpAddr>,
    /// `NUD_*` bits.
    pub state: u16,
    /// `NTF_*` bits; 0x02 is self.
    pub flags: u8,
    /// VNI, if it differs from the device's.
    pub vni: Option<u32>,
    /// Port, if it differs from the device's.
    pub port: Option<u16>,
}

/// Whom a [`Netconf`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetconfScope {
    /// `conf/all`.
    All,
    /// `conf/default`.
    Default,
    /// One interface.
    Link(u32),
}

/// IPv4 configuration of an interface (`RTM_GETNETCONF`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Netconf {
    /// Whom it is for.
    pub scope: NetconfScope,
    /// Whether it is of IPv6.
    pub v6: bool,
    /// `forwarding`.
    pub forwarding: Option<bool>,
    /// `rp_filter`: 0 off, 1 strict, 2 loose. The effective value is the maximum of `all` and the interface's.
    pub rp_filter: Option<u8>,
    /// `proxy_arp` or `proxy_ndp`.
    pub proxy_neigh: Option<bool>,
}

/// Connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackStats {
    /// Entries now, if readable.
    pub entries: Option<u64>,
    /// The limit, if readable.
    pub entries_max: Option<u64>,
    /// Insertions that failed.
    pub insert_failed: u64,
    /// Packets dropped because a new entry could not be made.
    pub drop: u64,
    /// Entries evicted early because the table was full.
    pub early_drop: u64,
    /// Invalid packets.
    pub invalid: u64,
    /// Entries that concern probes or pods, bounded.
    pub flows: Vec<ConntrackFlow>,
}

/// One tracked flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConntrackFlow {
    /// IP protocol.
    pub protocol: u8,
    /// Original source, destination and their ports.
    pub original: (IpAddr, IpAddr, u16, u16),
    /// Reply source, destination and their ports: with NAT not the mirror of the original.
    pub reply: (IpAddr, IpAddr, u16, u16),
}

/// Who speaks to netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterBackend {
    /// nf_tables: nft or iptables-nft.
    Nftables,
    /// x_tables: iptables-legacy.
    Legacy,
}

/// What a filter rule does to a packet that matches, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterVerdict {
    /// Loses it.
    Drop,
    /// Loses it and tells the sender.
    Reject,
    /// Rewrites the source (MASQUERADE, SNAT).
    SourceNat,
    /// Rewrites the destination.
    DestinationNat,
    /// Lets it go on or away: accept, jump, return, none.
    Other,
}

/// A filter rule with its counter. A base chain's policy stands here too, with `handle` none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterRule {
    /// Backend.
    pub backend: FilterBackend,
    /// Family as nft prints it: `ip`, `ip6`, `inet`, `netdev`, `bridge`, `arp`.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Rule handle (nf_tables) or position (x_tables); none for the chain's policy.
    pub handle: Option<u64>,
    /// What it does.
    pub verdict: FilterVerdict,
    /// Packets counted; none if the rule has no counter.
    pub packets: Option<u64>,
    /// How far the counter rose during the window in which probes were lost; filled by the agent, none when not sampled.
    pub moved: Option<u64>,
    /// Comment, if it carries one.
    pub comment: Option<String>,
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaseChain {
    /// Backend.
    pub backend: FilterBackend,
    /// Family as nft prints it.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: String,
    /// Priority.
    pub priority: i32,
    /// Device, for netdev chains.
    pub device: Option<String>,
    /// Whether its policy is drop.
    pub policy_drop: bool,
}

/// Where a foreign program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookPoint {
    /// XDP.
    Xdp,
    /// tcx or clsact, ingress.
    TcIngress,
    /// tcx or clsact, egress.
    TcEgress,
}

/// A program on a device that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignHook {
    /// Device name.
    pub device: String,
    /// The pod it lies inside of, none for the node's namespace.
    pub pod: Option<PodRef>,
    /// Where on the device.
    pub point: HookPoint,
    /// Program name as loaded (15 characters at most), or the filter's kind.
    pub program: String,
    /// Program id.
    pub id: Option<u32>,
}

/// The inside of a pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Inode number of the namespace.
    pub netns_inum: u64,
    /// How it was found: path of a namespace file.
    pub netns_path: String,
    /// Name of the host-side veth its `eth0` is paired with, if that still stands in the node's namespace.
    pub host_veth: Option<String>,
    /// Links.
    pub links: Evidence<Vec<Link>>,
    /// Addresses.
    pub addresses: Evidence<Vec<Address>>,
    /// Routes.
    pub routes: Evidence<Vec<Route>>,
    /// Neighbours.
    pub neighbors: Evidence<Vec<Neighbor>>,
    /// `/proc/net/snmp` counters that tell an inside loss: `UdpInCsumErrors`, `TcpInCsumErrors`, `IcmpInCsumErrors`.
    pub counters: BTreeMap<String, u64>,
}

/// What a [`Change`] is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "kebab-case")]
pub enum ChangedObject {
    /// A link.
    Link(Link),
    /// An address.
    Address(Address),
    /// A route.
    Route(Route),
    /// A neighbour.
    Neighbor(Neighbor),
    /// A forwarding entry.
    Fdb(FdbEntry),
    /// Interface configuration.
    Netconf(Netconf),
    /// A policy rule.
    Rule(Rule),
}

/// Direction of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is gone.
    Removed,
}

/// One entry of the journal. A change in place is a removal and an addition of the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// Time of the event that led to the dump in which it was found.
    pub at: UnixNs,
    /// Added or removed.
    pub change: ChangeKind,
    /// What.
    #[serde(flatten)]
    pub what: ChangedObject,
}
