//! Types of a probe and its result. The judge reads only these.

use crate::names::{NodeName, PodRef, UnixNs};
use alloc::string::String;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// One end of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its node.
    pub node: NodeName,
    /// The pod, or none for the node itself.
    pub pod: Option<PodRef>,
    /// Address used.
    pub ip: IpAddr,
}

/// Transport of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// UDP, answered by the reflector at the destination's door.
    Udp,
    /// ICMP echo, answered by the pod's own stack.
    Icmp,
    /// TCP SYN to a closed port, answered by the pod's own stack (RST).
    Tcp,
}

/// Size of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// As small as it gets.
    Small,
    /// The largest packet that the intended MTU of the path allows, with DF.
    Mtu,
    /// An inner IP packet of this many bytes, with DF: a step of the search for the largest size that passes.
    Bytes(u32),
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairKind {
    /// Pod to a pod on another node.
    PodToRemotePod,
    /// Pod to a pod on the same node.
    PodToLocalPod,
    /// Host to a pod on the same node: the kubelet's path.
    HostToLocalPod,
    /// Host, with its tunnel address as source, to a pod on another node.
    HostToRemotePod,
}

/// One probe: one packet of one transport and size on one pair, from one source port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Probe {
    /// Identity; its low 32 bits are unique among the probes alive.
    pub id: u64,
    /// Sequence.
    pub seq: u32,
    /// From.
    pub from: Endpoint,
    /// To.
    pub to: Endpoint,
    /// What for.
    pub pair: PairKind,
    /// Transport.
    pub transport: Transport,
    /// Size.
    pub size: Size,
    /// Inner source port (identifier for ICMP).
    pub src_port: u16,
    /// Inner destination port (0 for ICMP).
    pub dst_port: u16,
    /// Length of the whole inner IP packet sent, header included, bytes.
    pub length_bytes: u32,
}

impl Probe {
    /// Whether it is of IPv6.
    pub const fn is_ipv6(&self) -> bool {
        self.to.ip.is_ipv6()
    }
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer came.
    Answered {
        /// Round trip in ns on the sender's clock.
        rtt_ns: u64,
        /// Address the answer came from, as the sender saw it.
        answered_by: IpAddr,
    },
    /// A port-unreachable from the pod's own address that quotes the probe: delivered, and nobody reflected it.
    Delivered {
        /// Round trip in ns on the sender's clock.
        rtt_ns: u64,
    },
    /// No answer within the deadline plus the time late neighbour failures need.
    Lost,
    /// An ICMP error came back.
    Rejected {
        /// ICMP type, of IPv6 that of ICMPv6 (RFC 4443): the numbers differ.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
        /// Who sent it.
        rejected_by: IpAddr,
        /// MTU of a fragmentation-needed, of IPv6 a packet-too-big.
        mtu: Option<u32>,
    },
    /// The far reflector refused it (stale, unknown key or version): says nothing about forwarding.
    Refused {
        /// Why.
        reason: String,
    },
    /// It could not be sent.
    NotSent {
        /// `errno`, if a system call failed.
        errno: Option<i32>,
        /// Why, for a person.
        why: String,
        /// Whether the failure speaks of the dataplane (EMSGSIZE, EHOSTUNREACH, ENETUNREACH, EINVAL of a route) or of the prober
        /// (namespace gone, no permission).
        of_dataplane: bool,
    },
}

impl Outcome {
    /// Whether it proves that the packet reached its destination and, except for `Delivered`, that an answer came back.
    pub const fn passed(&self) -> bool {
        matches!(self, Self::Answered { .. } | Self::Delivered { .. })
    }

    /// Whether it says nothing about forwarding.
    pub const fn inconclusive(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotSent { of_dataplane: false, .. })
    }
}

/// A probe with its result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The probe.
    #[serde(flatten)]
    pub probe: Probe,
    /// When it was sent.
    pub sent_at: UnixNs,
    /// When it was sent, on the sender's monotonic clock, ns since boot.
    pub sent_mono_ns: u64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether late evidence may still arrive.
    pub provisional: bool,
}
