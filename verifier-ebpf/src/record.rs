//! Records that cross the ring buffer.
//!
//! The first 32 bits of every record say which kind it is; [`Record::decode`] is the only reader. A record holds plain integers in host
//! order and byte arrays as they stood on the wire, no padding, no pointers.

use crate::address::Address6;
use crate::conformance::Conformance;
use crate::plain;
use crate::plain::SizeMismatch;
use crate::wire::HEADER_BYTES;

/// Direction as TC names it, seen from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// Into the stack.
    Ingress = 1,
    /// Out of the stack.
    Egress = 2,
}

impl Direction {
    /// 0 or 1, for arrays.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }

    /// The direction of a record's byte.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Ingress),
            2 => Some(Self::Egress),
            _ => None,
        }
    }
}

/// What kind of interface a tap sits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tap {
    /// Host side of a workload's veth.
    Workload = 1,
    /// Tunnel device.
    Tunnel = 2,
    /// The device that carries the node's address.
    Underlay = 3,
}

impl Tap {
    /// The tap of a record's byte.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Workload),
            2 => Some(Self::Tunnel),
            3 => Some(Self::Underlay),
            _ => None,
        }
    }
}

/// What makes a packet a probe packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Nothing: no probe.
    None = 0,
    /// UDP with a header, request or reply.
    Udp = 1,
    /// ICMP or ICMPv6 echo request with a header.
    EchoRequest = 2,
    /// ICMP or ICMPv6 echo reply with a header.
    EchoReply = 3,
    /// TCP SYN from a reserved port.
    TcpSyn = 4,
    /// TCP SYN-ACK back to it.
    TcpSynAck = 5,
    /// TCP RST back to it.
    TcpReset = 6,
    /// ICMP or ICMPv6 error that quotes any of these.
    IcmpError = 7,
    /// ARP, and neighbour discovery of IPv6, in drop records only: without it a cold neighbour hides the drop behind it.
    Arp = 8,
}

impl Class {
    /// The class of a record's byte.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Udp,
            2 => Self::EchoRequest,
            3 => Self::EchoReply,
            4 => Self::TcpSyn,
            5 => Self::TcpSynAck,
            6 => Self::TcpReset,
            7 => Self::IcmpError,
            8 => Self::Arp,
            _ => Self::None,
        }
    }
}

plain! {
    /// A probe packet as parsed. Addresses are sixteen bytes, IPv4 as `::ffff:a.b.c.d`, all zero when there is none.
    pub struct PacketRecord {
        /// The probe's header as found; all zero for TCP.
        pub probe: [u8; HEADER_BYTES],
        /// For TCP: low 32 bits of the probe id, from the sequence or acknowledgement number.
        pub tcp_id: u32,
        /// VXLAN network identifier.
        pub vni: u32,
        /// Inner source, or the only one.
        pub source: [u8; 16],
        /// Inner destination, or the only one.
        pub destination: [u8; 16],
        /// Outer source.
        pub outer_source: [u8; 16],
        /// Outer destination.
        pub outer_destination: [u8; 16],
        /// Source of the packet that an ICMP error quotes (the inner one, if it was encapsulated).
        pub quoted_source: [u8; 16],
        /// Its destination.
        pub quoted_destination: [u8; 16],
        /// Inner Ethernet destination, or the only one.
        pub destination_mac: [u8; 6],
        /// Inner Ethernet source, or the only one.
        pub source_mac: [u8; 6],
        /// Outer Ethernet destination.
        pub outer_destination_mac: [u8; 6],
        /// Outer Ethernet source.
        pub outer_source_mac: [u8; 6],
        /// Inner source port, or the identifier of an ICMP echo.
        pub source_port: u16,
        /// Inner destination port.
        pub destination_port: u16,
        /// Inner IP total length in bytes, of IPv6 its header and the payload length.
        pub length_bytes: u16,
        /// Inner IP identification, zero for IPv6.
        pub ip_id: u16,
        /// Outer UDP source port.
        pub outer_source_port: u16,
        /// Outer UDP destination port.
        pub outer_destination_port: u16,
        /// Outer IP total length in bytes.
        pub outer_length_bytes: u16,
        /// Quoted source port or echo identifier.
        pub quoted_source_port: u16,
        /// Quoted destination port.
        pub quoted_destination_port: u16,
        /// Next-hop MTU of an ICMP "fragmentation needed" or an ICMPv6 "packet too big", 65535 for one beyond.
        pub icmp_mtu_bytes: u16,
        /// [`Class`].
        pub class: u8,
        /// [`PacketRecord::BARE`] and the others.
        pub encapsulation: u8,
        /// Inner IP protocol, of IPv6 the last next-header.
        pub protocol: u8,
        /// Inner TTL, or hop limit.
        pub ttl: u8,
        /// Outer IP protocol.
        pub outer_protocol: u8,
        /// Outer TTL, or hop limit.
        pub outer_ttl: u8,
        /// [`PacketRecord::DONT_FRAGMENT`] and the other.
        pub flags: u8,
        /// ICMP type.
        pub icmp_type: u8,
        /// ICMP code.
        pub icmp_code: u8,
        /// TCP flags.
        pub tcp_flags: u8,
        /// Protocol of the quoted packet.
        pub quoted_protocol: u8,
        /// [`crate::checksum::ChecksumState`].
        pub checksum: u8,
        /// Zero.
        pub reserved: [u8; 4],
    }
}

impl PacketRecord {
    /// Not encapsulated.
    pub const BARE: u8 = 0;
    /// In VXLAN.
    pub const VXLAN: u8 = 1;
    /// In IP.
    pub const IPIP: u8 = 2;
    /// Flag: the inner header forbids fragmentation, as IPv6 always does.
    pub const DONT_FRAGMENT: u8 = 1;
    /// Flag: this is the first of several fragments.
    pub const MORE_FRAGMENTS: u8 = 2;
}

plain! {
    /// A probe packet at a tap.
    pub struct HopRecord {
        /// [`HopRecord::KIND`].
        pub kind: u32,
        /// Interface.
        pub ifindex: u32,
        /// `CLOCK_MONOTONIC`.
        pub time_ns: u64,
        /// CPU.
        pub cpu: u32,
        /// `skb->mark`.
        pub mark: u32,
        /// Length of the whole frame.
        pub frame_bytes: u32,
        /// Size of a GSO segment, 0 for none.
        pub gso_size: u32,
        /// GSO segments.
        pub gso_segs: u32,
        /// Interface it came in by, 0 for this host.
        pub ingress_ifindex: u32,
        /// [`Direction`].
        pub direction: u8,
        /// [`Tap`].
        pub tap: u8,
        /// Zero.
        pub reserved: [u8; 2],
        /// The packet.
        pub packet: PacketRecord,
    }
}

plain! {
    /// A probe packet, or a packet of ARP or neighbour discovery, that the kernel freed as dropped.
    pub struct DropRecord {
        /// [`DropRecord::KIND`].
        pub kind: u32,
        /// Interface of the packet, 0 for none.
        pub ifindex: u32,
        /// `CLOCK_MONOTONIC`.
        pub time_ns: u64,
        /// Address in the kernel's text that freed it.
        pub location: u64,
        /// Number of the reason in the running kernel's `enum skb_drop_reason`, or [`DropRecord::NO_REASON`].
        pub reason: u32,
        /// Inode number of the network namespace, 0 when it could not be told.
        pub netns: u32,
        /// `skb->skb_iif`.
        pub iif: u32,
        /// CPU.
        pub cpu: u32,
        /// `skb->mark`.
        pub mark: u32,
        /// `skb->protocol` in host order.
        pub protocol: u16,
        /// 1 when the packet had been routed.
        pub has_dst: u8,
        /// 1 when the namespace was found by the socket, not by the device.
        pub by_socket: u8,
        /// The packet.
        pub packet: PacketRecord,
        /// Zero.
        pub reserved: [u8; 4],
    }
}

plain! {
    /// A packet on the underlay that deviates from intent.
    pub struct ConformanceSample {
        /// [`ConformanceSample::KIND`].
        pub kind: u32,
        /// Interface.
        pub ifindex: u32,
        /// `CLOCK_MONOTONIC`.
        pub time_ns: u64,
        /// Outer source, IPv4 mapped; for a bare packet the unspecified address of its family.
        pub outer_source: Address6,
        /// Outer destination.
        pub outer_destination: Address6,
        /// Inner source.
        pub source: Address6,
        /// Inner destination.
        pub destination: Address6,
        /// Network identifier, of VXLAN.
        pub vni: u32,
        /// Peer that the decisive address belongs to, 0 for unknown.
        pub peer: u32,
        /// [`Conformance`].
        pub conformance: u8,
        /// [`Direction`].
        pub direction: u8,
        /// Zero.
        pub reserved: [u8; 6],
    }
}

impl HopRecord {
    /// First word of the record.
    pub const KIND: u32 = 1;
}

impl DropRecord {
    /// First word of the record.
    pub const KIND: u32 = 2;
    /// The kernel did not say why.
    pub const NO_REASON: u32 = u32::MAX;
}

impl ConformanceSample {
    /// First word of the record.
    pub const KIND: u32 = 3;

    /// What the packet did; `None` for a number of another build.
    pub fn conformance(&self) -> Option<Conformance> {
        Conformance::ALL.get(usize::from(self.conformance)).copied()
    }
}

/// How many kinds of record there are, plus one: size of the map `LOST`, which is indexed by them.
pub const KINDS: u32 = 4;

/// Any record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A tap saw a probe.
    Hop(HopRecord),
    /// The kernel dropped a probe.
    Drop(DropRecord),
    /// A packet deviates from intent.
    Sample(ConformanceSample),
}

/// Bytes from the ring that are no record of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// Not even a kind.
    TooShort {
        /// What there was.
        got_bytes: usize,
    },
    /// A kind of another build.
    UnknownKind(u32),
    /// The size is not that of its kind.
    Size(SizeMismatch),
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooShort { got_bytes } => write!(f, "{got_bytes} bytes are no record"),
            Self::UnknownKind(kind) => write!(f, "record kind {kind} is unknown to this build"),
            Self::Size(_) => f.write_str("a record of the wrong size"),
        }
    }
}

impl core::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Size(mismatch) => Some(mismatch),
            Self::TooShort { .. } | Self::UnknownKind(_) => None,
        }
    }
}

impl Record {
    /// Reads one entry of the ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(kind) = bytes.first_chunk::<4>() else {
            return Err(RecordError::TooShort { got_bytes: bytes.len() });
        };
        match u32::from_ne_bytes(*kind) {
            HopRecord::KIND => HopRecord::from_bytes(bytes).map(Self::Hop),
            DropRecord::KIND => DropRecord::from_bytes(bytes).map(Self::Drop),
            ConformanceSample::KIND => ConformanceSample::from_bytes(bytes).map(Self::Sample),
            other => return Err(RecordError::UnknownKind(other)),
        }
        .map_err(RecordError::Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::Field as _;

    #[test]
    fn a_record_is_read_back_and_nothing_else_is() {
        let hop = HopRecord {
            kind: HopRecord::KIND,
            ifindex: 7,
            ..HopRecord::ZERO
        };
        assert_eq!(Record::decode(&hop.to_bytes()), Ok(Record::Hop(hop)));
        let drop = DropRecord {
            kind: DropRecord::KIND,
            reason: 2,
            ..DropRecord::ZERO
        };
        assert_eq!(Record::decode(&drop.to_bytes()), Ok(Record::Drop(drop)));
        assert!(matches!(Record::decode(&hop.to_bytes()[..20]), Err(RecordError::Size(_))));
        assert_eq!(
            Record::decode(&[9, 0, 0, 0].map(|b: u8| b)),
            Err(RecordError::UnknownKind(u32::from_ne_bytes([9, 0, 0, 0])))
        );
        assert_eq!(Record::decode(&[1]), Err(RecordError::TooShort { got_bytes: 1 }));
    }
}
