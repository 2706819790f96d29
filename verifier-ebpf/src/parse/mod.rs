//! Bounded parsing of Ethernet, IPv4 with options, UDP, TCP, ICMP, VXLAN and IPIP, down to a probe's header.
//!
//! Two parsers share the pieces of this file. [`triage()`] decides with as few reads as possible whether a packet needs a closer look;
//! it runs for every packet of every tapped interface. [`describe()`] takes a packet apart for a record; it runs for what triage let
//! through. Both say where and why they stopped. Both take frames, and bare packets as devices without a link-layer header carry them
//! (`tunl0`). IPv6 is not parsed yet: [`Why::Unsupported`].

mod describe;
mod triage;

pub use describe::{Found, describe};
pub use triage::{Encapsulated, Triage, triage};

use core::hint::black_box;

use crate::bytes::{Bytes, View};

/// Bytes of an Ethernet header; VLAN tags are taken out before a tap sees a frame, or make it [`Why::Unsupported`].
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of a UDP header.
pub const UDP_BYTES: usize = 8;
/// Bytes of a VXLAN header (RFC 7348).
pub const VXLAN_BYTES: usize = 8;
/// First word of a VXLAN header without extensions: the flag "VNI is valid" alone.
pub const VXLAN_FLAGS: u32 = 0x0800_0000;
/// The most a packet can hold in front of a probe's header, and the header: VXLAN, options everywhere, an ICMP error with its quote.
pub const WINDOW_BYTES: usize = 320;

const ETHERTYPE_IPV4: u16 = 0x0800;
/// IP in IP (RFC 2003).
pub(crate) const PROTOCOL_IPIP: u8 = 4;
pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const ICMP_ECHO_REPLY: u8 = 0;
pub(crate) const ICMP_UNREACHABLE: u8 = 3;
pub(crate) const ICMP_ECHO: u8 = 8;
pub(crate) const ICMP_TIME_EXCEEDED: u8 = 11;
pub(crate) const ICMP_PARAMETER: u8 = 12;

/// With which header the bytes start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Ethernet, as at most taps.
    Ethernet,
    /// IP, as at a device without a link-layer header, and in a dropped packet.
    Ip,
}

/// Part of a packet at which parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Layer {
    /// Outer or only Ethernet header.
    Ethernet = 0,
    /// Outer or only IP header.
    Ip = 1,
    /// Outer UDP header and VXLAN header.
    Tunnel = 2,
    /// Ethernet header inside the tunnel.
    InnerEthernet = 3,
    /// IP header inside the tunnel.
    InnerIp = 4,
    /// UDP, TCP or ICMP header of the innermost packet.
    Transport = 5,
    /// The packet that an ICMP error quotes.
    Quote = 6,
    /// The probe's header.
    Probe = 7,
}

/// Why parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Why {
    /// The bytes end here.
    Truncated = 0,
    /// A protocol that is not parsed.
    Unsupported = 1,
    /// A field that contradicts itself.
    Malformed = 2,
    /// A later fragment: it has no transport header.
    Fragment = 3,
    /// Parsed, and not a probe.
    NotProbe = 4,
}

/// Counters of stops: one for each layer and reason.
pub const STOPS: u32 = 8 * 5;

/// Where and why parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// At which layer.
    pub layer: Layer,
    /// Why there.
    pub why: Why,
}

impl Stop {
    #[inline(always)]
    pub(crate) const fn new(layer: Layer, why: Why) -> Self {
        Self { layer, why }
    }

    /// Place of its counter.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.layer as u32 * 5 + self.why as u32
    }

    /// Whether it is worth counting: the packet looked like ours and could not be read.
    #[inline(always)]
    pub const fn is_loss(self) -> bool {
        matches!(self.why, Why::Malformed | Why::Fragment)
    }
}

/// What is used of an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv4 {
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// Where the transport starts, from the start of the packet.
    pub(crate) payload_at: usize,
    /// Bytes from there to the end of the datagram.
    pub(crate) payload_length: u16,
}

/// Whether an Ethernet header announces IPv4.
#[inline(always)]
pub(crate) fn is_ipv4(ethernet: impl View) -> bool {
    ethernet.be16(12) == ETHERTYPE_IPV4
}

/// Reads the IPv4 header at `at`, options skipped.
#[inline(always)]
pub(crate) fn ipv4<B: Bytes + ?Sized>(bytes: &B, at: usize, layer: Layer) -> Result<Ipv4, Stop> {
    let Some(header) = bytes.view::<20>(at) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    if header.byte(0) >> 4 != 4 {
        return Err(Stop::new(layer, Why::Unsupported));
    }
    // At most 60 by its four bits, which also keeps every later offset small and known to the kernel's verifier. The compiler may not
    // take its mask from the comparison above: it then knows a smaller bound than an older verifier (6.1) sees, and leaves out checks.
    let header_bytes = usize::from(black_box(header.byte(0)) & 0x0f) * 4;
    let length = header.be16(2);
    if header_bytes < 20 || usize::from(length) < header_bytes {
        return Err(Stop::new(layer, Why::Malformed));
    }
    let fragment = header.be16(6);
    if fragment & 0x1fff != 0 {
        return Err(Stop::new(layer, Why::Fragment));
    }
    Ok(Ipv4 {
        source: header.copy(12),
        destination: header.copy(16),
        protocol: header.byte(9),
        ttl: header.byte(8),
        length,
        id: header.be16(4),
        dont_fragment: fragment & 0x4000 != 0,
        more_fragments: fragment & 0x2000 != 0,
        payload_at: at + header_bytes,
        payload_length: length - header_bytes as u16,
    })
}

/// An IPv4 address as sixteen bytes (RFC 4291, 2.5.5.2).
#[inline(always)]
pub const fn mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// Whether an ICMP type quotes the packet it complains about.
#[inline(always)]
pub(crate) const fn quotes(icmp_type: u8) -> bool {
    matches!(icmp_type, ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER)
}
