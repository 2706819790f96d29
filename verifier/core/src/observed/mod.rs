//! The observed account: what packets did. Filled from tap and drop records by `verifier/src/observed`; the raw records and the
//! programs that write them are in crate `verifier-ebpf`.

use crate::{
    evidence::Evidence,
    names::{Mac, NodeName, PodRef, UnixNs},
    probe::{Probe, low},
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// What kind of interface a tap sits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapKind {
    /// Host side of a workload's veth.
    Workload,
    /// Tunnel device.
    Tunnel,
    /// The device that carries the node's address.
    Underlay,
}

/// Direction as TC names it, seen from the device: from a pod into the node is ingress of the workload's host-side veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Into the stack.
    Ingress,
    /// Out of the stack.
    Egress,
}

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leg {
    /// From the prober.
    Request,
    /// Back to the prober, by whoever answered.
    Reply,
    /// An ICMP error that quotes the request.
    Error,
}

/// What the tap found of the inner transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// Verified.
    Good,
    /// Left to the device (`CHECKSUM_PARTIAL`): the field holds the folded pseudo-header sum.
    Partial,
    /// Wrong.
    Bad,
    /// Not looked at (too long, absent, not a checksummed protocol).
    Unchecked,
}

/// Outer header of an encapsulated packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outer {
    /// Source Ethernet address.
    pub src_mac: Mac,
    /// Destination Ethernet address.
    pub dst_mac: Mac,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol: 17 for VXLAN, 4 for IPIP.
    pub protocol: u8,
    /// UDP source port, 0 without UDP.
    pub src_port: u16,
    /// UDP destination port, 0 without UDP.
    pub dst_port: u16,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// TTL.
    pub ttl: u8,
    /// IP total length in bytes.
    pub length_bytes: u32,
}

/// Inner header (of the pods' packet), or the only one of a bare packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inner {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol: 1 ICMP, 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Source port; the identifier of an ICMP echo.
    pub src_port: u16,
    /// Destination port; 0 for ICMP.
    pub dst_port: u16,
    /// TTL.
    pub ttl: u8,
    /// IP total length in bytes.
    pub length_bytes: u32,
    /// Whether fragmentation is forbidden.
    pub dont_fragment: bool,
}

/// A probe packet seen at a tap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// Node whose tap saw it.
    pub node: NodeName,
    /// Time on that node's monotonic clock, ns since boot. Comparable on one node only.
    pub at_ns: u64,
    /// Low 32 bits of the probe id (TCP carries no more).
    pub probe: u32,
    /// Sequence within the probe.
    pub seq: u32,
    /// Request, reply or an error about it.
    pub leg: Leg,
    /// Device name.
    pub device: String,
    /// Interface index.
    pub ifindex: u32,
    /// Direction.
    pub direction: Direction,
    /// Kind of interface.
    pub tap: TapKind,
    /// Outer header, if the packet was encapsulated at this tap.
    pub outer: Option<Outer>,
    /// Inner header.
    pub inner: Inner,
    /// Whether the inner transport checksum held.
    pub checksum: Checksum,
    /// `skb->mark`.
    pub mark: u32,
    /// CPU.
    pub cpu: u32,
    /// GSO segment size, 0 for none.
    pub gso_size: u32,
    /// GSO segments, 0 for none.
    pub gso_segs: u32,
}

impl Hop {
    /// Whether it is a record of this probe. It names the probe by half of its identity, which two of thousands may share: then the addresses
    /// tell them apart. One of the two may have been rewritten on the way.
    pub fn is_of(&self, probe: &Probe) -> bool {
        let (from, to) = (probe.from.ip, probe.to.ip);
        let of_its_ends = match self.leg {
            Leg::Request => self.inner.src == from || self.inner.dst == to,
            Leg::Reply => self.inner.src == to || self.inner.dst == from,
            // Whoever could not forward it may be anybody.
            Leg::Error => true,
        };
        self.probe == low(probe.id) && of_its_ends
    }
}

/// In which namespace something happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// The node's.
    Node,
    /// A pod's.
    Pod(PodRef),
}

/// Which netfilter hook or stage an skb was at, read from the skb (`kernel.md`: no dst and an in-device is PREROUTING and so on).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropStage {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
    /// It cannot be told.
    Unknown,
}

/// A probe packet that the kernel freed as dropped. It corroborates; it counts only if the probe has no later hop and no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Drop {
    /// Node.
    pub node: NodeName,
    /// Namespace on that node.
    pub place: Where,
    /// Time on that node's monotonic clock, ns since boot.
    pub at_ns: u64,
    /// Low 32 bits of the probe id.
    pub probe: u32,
    /// Sequence within the probe.
    pub seq: u32,
    /// Request, reply or error.
    pub leg: Leg,
    /// Device of the skb, if it had one.
    pub device: Option<String>,
    /// Reason by the running kernel's name; none if not available.
    pub reason: Option<String>,
    /// Function that freed it; none if kallsyms cannot be read.
    pub location: Option<String>,
    /// Stage.
    pub stage: DropStage,
    /// Whether it was still (or already) encapsulated.
    pub encapsulated: bool,
}

/// What a tunnel packet did against intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConformanceKind {
    /// As intended.
    Conforming,
    /// Sent to a node that does not own the inner destination.
    WrongOwner,
    /// Sent or received with another VNI than intended.
    WrongVni,
    /// Received from a node that may not send the inner source.
    SpoofedSource,
    /// Pod traffic that should be encapsulated was seen bare.
    BareLeak,
    /// Pod traffic that should be bare was seen encapsulated.
    UnexpectedEncapsulation,
    /// Intent was not settled, or the block is unknown to it.
    Unjudged,
}

/// How often a [`ConformanceKind`] was counted in the window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConformanceCount {
    /// Kind.
    pub kind: ConformanceKind,
    /// Direction on the underlay.
    pub direction: Direction,
    /// The peer: by the outer address of the other end.
    pub peer: Option<NodeName>,
    /// Packets in the window.
    pub packets: u64,
    /// One sampled packet: outer source, outer destination, inner source, inner destination.
    pub sample: Option<(IpAddr, IpAddr, IpAddr, IpAddr)>,
}

/// What was lost on the way to the accounts. All zero on a quiet machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Loss {
    /// Records that did not fit into the ring buffer.
    pub ring_full: u64,
    /// Netlink sockets that overran (each led to a resync).
    pub netlink_overruns: u64,
    /// Messages that could not be decoded.
    pub decode_failures: u64,
    /// Evidence that arrived after its session was closed.
    pub late: u64,
    /// Drops of probes in namespaces that are neither the node's nor its pods'.
    pub unattributed_drops: u64,
}

impl Loss {
    /// Sum, to ask whether anything was lost at all.
    pub const fn total(&self) -> u64 {
        self.ring_full
            .saturating_add(self.netlink_overruns)
            .saturating_add(self.decode_failures)
            .saturating_add(self.late)
    }
}

/// Everything one node's taps saw in the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observations {
    /// Hops. Complete only if every tap was attached and nothing was lost in the window.
    pub hops: Evidence<Vec<Hop>>,
    /// Drops of probe packets.
    pub drops: Evidence<Vec<Drop>>,
    /// Conformance of all tunnel packets.
    pub conformance: Evidence<Vec<ConformanceCount>>,
    /// Taps in force: device name and kind. A tap that is not here cannot have seen anything.
    pub taps: BTreeMap<String, TapKind>,
    /// Since when each of them is; one that is not here always was.
    #[serde(default)]
    pub taps_since: BTreeMap<String, UnixNs>,
    /// Probes the reflector would not answer, by peer and reason: `stale`, `unknown-key`, `bad-tag`, `version`, `replayed`, `rate-limited`, `bad-checksum`.
    pub refusals: BTreeMap<String, u64>,
    /// Losses in the window.
    pub loss: Loss,
}
